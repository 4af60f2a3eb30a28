package main

import (
	"context"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/amooglesoft/trafficmonitor/internal/replay"
	"github.com/amooglesoft/trafficmonitor/internal/scenario"
	"github.com/amooglesoft/trafficmonitor/policy"
)

var (
	example = regexp.MustCompile("(?s)```yaml\n(# scenario: .*?)```")
	word    = regexp.MustCompile(`(\w+): (\S+)`)
)

// Every example of docs/tuning.md is run: the page may not say what is not so.
func TestTuningExamples(t *testing.T) {
	text, err := os.ReadFile("../../docs/tuning.md")
	if err != nil {
		t.Fatal(err)
	}
	found := example.FindAllStringSubmatch(string(text), -1)
	if len(found) < 15 || len(found) != strings.Count(string(text), "```yaml") {
		t.Fatalf("%d examples of %d say which scenario they are for", len(found), strings.Count(string(text), "```yaml"))
	}
	for i, m := range found {
		head, _, _ := strings.Cut(m[1], "\n")
		says := map[string]string{}
		for _, w := range word.FindAllStringSubmatch(head, -1) {
			says[w[1]] = w[2]
		}
		t.Run(strconv.Itoa(i+1)+" "+says["scenario"], func(t *testing.T) {
			all := scenario.All()
			at := slices.IndexFunc(all, func(s scenario.Scenario) bool { return s.Name == says["scenario"] })
			if at < 0 {
				t.Fatalf("no scenario is called %s", says["scenario"])
			}
			s := all[at]
			p, err := policy.Parse("docs/tuning.md", []byte(m[1]))
			if err != nil {
				t.Fatal(err)
			}
			r, err := replay.Run(context.Background(), replay.Options{Policy: p, Targets: s.Targets}, func() (replay.Source, error) { return s.Source(), nil })
			if err != nil {
				t.Fatal(err)
			}
			var vectors []string
			for _, inc := range r.Incidents {
				for _, v := range inc.Vectors {
					if !slices.Contains(vectors, v.Vector.String()) {
						vectors = append(vectors, v.Vector.String())
					}
				}
			}
			if want := says["expect"]; want == "nothing" && len(vectors) > 0 || want != "nothing" && !slices.Equal(vectors, []string{want}) {
				t.Fatalf("found %v, the page says %s", vectors, want)
			}
			if n, ok := says["incidents"]; ok {
				least, most, spread := strings.Cut(n, "..")
				a, _ := strconv.Atoi(least)
				b := a
				if spread {
					b, _ = strconv.Atoi(most)
				}
				if len(r.Incidents) < a || len(r.Incidents) > b {
					t.Errorf("%d incidents, the page says %s", len(r.Incidents), n)
				}
			}
			if text, ok := says["within"]; ok {
				d, err := time.ParseDuration(text)
				if err != nil {
					t.Fatal(err)
				}
				if took := r.Incidents[0].Decided.Sub(scenario.Epoch.Add(s.Attacks[0].Start)); took > d {
					t.Errorf("certain after %s, the page says %s", took, d)
				}
			}
		})
	}
}
