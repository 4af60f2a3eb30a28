package main

import (
	"bytes"
	"context"
	"encoding/json"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/amooglesoft/trafficmonitor/internal/route"
	"github.com/amooglesoft/trafficmonitor/internal/scenario"
	"github.com/amooglesoft/trafficmonitor/internal/traffic"
	"github.com/amooglesoft/trafficmonitor/internal/vector"
	"github.com/amooglesoft/trafficmonitor/policy"
)

// perfect finds every attack 40 ms after its beginning, and its rules match the attack's vectors. What change does to
// the incidents of a scenario is the mistake under test.
func perfect(change func(s scenario.Scenario, found []incident) []incident) func(*policy.Policy) runner {
	return func(*policy.Policy) runner {
		return runner{
			run: func(_ context.Context, s scenario.Scenario) (found []incident, _ error) {
				for _, a := range s.Attacks {
					begin := scenario.Epoch.Add(a.Start)
					found = append(found, incident{
						target: a.Target, direction: a.Direction, vectors: a.Vectors, onset: begin, decided: begin.Add(40 * time.Millisecond),
						rules: []route.Match{{Destination: a.Target, SourcePort: []route.Range{{Lo: 123, Hi: 123}}}}, says: "from port 123",
					})
				}
				if change != nil {
					found = change(s, found)
				}
				return found, nil
			},
			matches: func(m route.Match, s *traffic.Sample) bool {
				return m.Destination.Contains(s.Destination) && s.HasPorts && uint32(s.SourcePort) == m.SourcePort[0].Lo
			},
		}
	}
}

// evaluate runs the command over two attacks and a busy day, and returns its card.
func evaluate(t *testing.T, engineOf func(*policy.Policy) runner, args ...string) (card, int, string) {
	t.Helper()
	out := filepath.Join(t.TempDir(), "eval.json")
	var stdout, stderr bytes.Buffer
	code := run(t.Context(), append([]string{
		"-run", "^(flood-ntp-amplification-3x-v4|burst-v6|below-limit-v4|benign-rtp-v4)$", "-json", out, "-floor", "floor.json",
	}, args...), &stdout, &stderr, engineOf)
	var c card
	if b, err := os.ReadFile(out); err == nil {
		if err := json.Unmarshal(b, &c); err != nil {
			t.Fatal(err)
		}
	}
	return c, code, stdout.String() + stderr.String()
}

func TestPerfect(t *testing.T) {
	c, code, text := evaluate(t, perfect(nil))
	o := c.Overall
	if code != 0 || o.Scenarios != 4 || o.Attacks != 2 || o.Recall != 1 || o.Precision != 1 || o.VectorAccuracy != 1 || o.Covered != 1 || o.False+o.More != 0 {
		t.Fatalf("exit code %d: %+v\n%s", code, o, text)
	}
	for _, s := range c.Scenarios {
		for _, a := range s.Attacks {
			// The target asks time servers itself, twice a second.
			if a.Coverage != 1 || a.Collateral > 0.001 || a.DelayMS < 39 || a.DelayMS > 41 || a.Windows != 2 || a.Judged == 0 || a.Benign == 0 || a.Judged >= a.Packets {
				t.Errorf("%s: %+v", s.Scenario, a)
			}
		}
	}
	if !strings.Contains(text, "recall: 1.0000") {
		t.Error(text)
	}
}

func TestMistakes(t *testing.T) {
	each := func(change func(*incident)) func(scenario.Scenario, []incident) []incident {
		return func(_ scenario.Scenario, found []incident) []incident {
			for i := range found {
				change(&found[i])
			}
			return found
		}
	}
	for name, tc := range map[string]struct {
		change func(scenario.Scenario, []incident) []incident
		right  func(overall) bool
	}{
		"nothing found": {
			func(scenario.Scenario, []incident) []incident { return nil },
			func(o overall) bool { return o.Recall == 0 && o.Precision == 1 },
		},
		"another target": {
			each(func(i *incident) { i.target = netip.MustParsePrefix("203.0.113.99/32") }),
			func(o overall) bool { return o.Recall == 0 && o.Precision == 0 && o.False == 3 && o.BenignFalse == 0 },
		},
		"the other direction": {
			each(func(i *incident) { i.direction = vector.Outbound }),
			func(o overall) bool { return o.Recall == 0 && o.False == 3 },
		},
		"long before": {
			each(func(i *incident) {
				i.onset, i.decided, i.ended = scenario.Epoch, scenario.Epoch.Add(window), scenario.Epoch.Add(2*window)
			}),
			func(o overall) bool { return o.Recall == 0 && o.False == 3 },
		},
		"a vector too many": {
			each(func(i *incident) { i.vectors = append(slices.Clone(i.vectors), vector.GRE) }),
			func(o overall) bool { return o.Recall == 1 && o.VectorAccuracy == 0 },
		},
		"only everything together": {
			each(func(i *incident) { i.vectors = []vector.ID{vector.Total} }),
			func(o overall) bool { return o.Recall == 1 && o.VectorAccuracy == 0 },
		},
		"twice": {
			func(_ scenario.Scenario, found []incident) []incident { return append(found, found...) },
			func(o overall) bool { return o.Recall == 1 && o.Precision == 1 && o.More == 3 },
		},
		"a signature of something else": {
			each(func(i *incident) {
				i.rules = []route.Match{{Destination: i.target, SourcePort: []route.Range{{Lo: 53, Hi: 53}}}}
			}),
			func(o overall) bool { return o.Recall == 1 && o.Covered == 0 },
		},
		"no signature": {
			each(func(i *incident) { i.rules = nil }),
			func(o overall) bool { return o.Recall == 1 && o.Covered == 0 },
		},
		"an attack on a busy day": {
			func(s scenario.Scenario, found []incident) []incident {
				if len(s.Attacks) > 0 {
					return found
				}
				return []incident{{target: netip.MustParsePrefix("203.0.113.10/32"), onset: scenario.Epoch, decided: scenario.Epoch, vectors: []vector.ID{vector.SYN}}}
			},
			func(o overall) bool {
				return o.Recall == 1 && o.False == 1 && o.BenignFalse == 1 && o.Precision == 0.75
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			if c, _, text := evaluate(t, perfect(tc.change)); !tc.right(c.Overall) {
				t.Errorf("%+v\n%s", c.Overall, text)
			}
		})
	}
}

// What rides along with an outbound attack is neither found nor false.
func TestBeside(t *testing.T) {
	s := scenario.Find("outbound-reflector-v4")[0]
	a := s.Attacks[0]
	x := incident{target: a.Target, direction: vector.Inbound, vectors: a.Beside, onset: scenario.Epoch.Add(a.Start), decided: scenario.Epoch.Add(a.Start)}
	if of := assign(s, []incident{x}); len(of.none) != 0 || len(of.attacks[0]) != 0 {
		t.Errorf("questions to a reflector: %+v", of)
	}
	x.vectors = append(slices.Clone(x.vectors), vector.SYN)
	if of := assign(s, []incident{x}); len(of.none) != 1 {
		t.Errorf("another attack: %+v", of)
	}
}

func TestFloor(t *testing.T) {
	good := card{
		Overall:   overall{Recall: 1, Precision: 1, VectorAccuracy: 1, Covered: 1, MedianCollateral: 0.001},
		Scenarios: []score{{Scenario: "a", Attacks: []found{{Detected: true}}}, {Scenario: "b", Attacks: []found{{Small: true}}}},
	}
	f := good.floor()
	if len(f.Detected) != 1 || !f.Detected["a"] || len(f.worse(good, true)) != 0 {
		t.Fatalf("%+v: %v", f, f.worse(good, true))
	}
	for name, spoil := range map[string]func(*card){
		"recall":    func(c *card) { c.Overall.Recall = 0.99 },
		"precision": func(c *card) { c.Overall.Precision = 0.99 },
		"accuracy":  func(c *card) { c.Overall.VectorAccuracy = 0.99 },
		"covered":   func(c *card) { c.Overall.Covered = 0.99 },
		"median":    func(c *card) { c.Overall.MedianCollateral = 0.002 },
		"benign":    func(c *card) { c.Overall.BenignFalse = 1 },
		"no longer": func(c *card) { c.Scenarios = []score{{Scenario: "a", Attacks: []found{{Detected: true}, {}}}} },
		"is gone":   func(c *card) { c.Scenarios = nil },
	} {
		bad := good
		spoil(&bad)
		if w := f.worse(bad, true); len(w) != 1 || !strings.Contains(w[0], name) {
			t.Errorf("%s: %q", name, w)
		}
	}
	if w := f.worse(card{}, false); len(w) != 0 {
		t.Errorf("only some were run: %q", w)
	}
}

func TestExitCodes(t *testing.T) {
	floorFile := filepath.Join(t.TempDir(), "floor.json")
	if err := os.WriteFile(floorFile, []byte(`{"detected": {"burst-v6": true}}`), 0o644); err != nil {
		t.Fatal(err)
	}
	none := perfect(func(scenario.Scenario, []incident) []incident { return nil })
	for _, tc := range []struct {
		args []string
		says string
		code int
	}{
		{[]string{"-floor", floorFile}, "burst-v6 is no longer found", 1},
		{[]string{"-floor", floorFile + "x"}, "-update writes one", 2},
		{[]string{"-run", "("}, "-run", 2},
		{[]string{"-run", "no such"}, "-list", 2},
		{[]string{"-update"}, "leave -run", 2},
		{[]string{"-policy", "nowhere.yaml"}, "nowhere.yaml", 2},
		{[]string{"-list"}, "RTP", 0},
	} {
		if _, code, text := evaluate(t, none, tc.args...); code != tc.code || !strings.Contains(text, tc.says) {
			t.Errorf("%v: exit code %d, want %d and %q:\n%s", tc.args, code, tc.code, tc.says, text)
		}
	}
}

func TestDocs(t *testing.T) {
	path := filepath.Join(t.TempDir(), "eval.md")
	if err := os.WriteFile(path, []byte("before\n"+beginMark+"\nold\n"+endMark+"\nafter\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, code, text := evaluate(t, perfect(nil), "-docs", path); code != 0 {
		t.Fatal(text)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	text := string(b)
	if !strings.HasPrefix(text, "before\n"+beginMark) || !strings.HasSuffix(text, endMark+"\nafter\n") || strings.Contains(text, "old") ||
		!strings.Contains(text, "| burst-v6 | 200000 | yes |") {
		t.Error(text)
	}
	shipped, err := os.ReadFile("../../docs/eval.md")
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Contains(shipped, []byte(beginMark)) || !bytes.Contains(shipped, []byte(endMark)) {
		t.Error("docs/eval.md has no place for the table")
	}
}
