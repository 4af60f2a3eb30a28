//go:build !race

// It replays thousands of packets a line, which the race detector makes minutes of; make test runs it without.

package tmctl

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/amooglesoft/trafficmonitor/internal/detect"
	"github.com/amooglesoft/trafficmonitor/internal/scenario"
	"github.com/amooglesoft/trafficmonitor/internal/traffic"
	"github.com/amooglesoft/trafficmonitor/internal/vector"
	"github.com/amooglesoft/trafficmonitor/policy"
)

const tuning = "../../docs/tuning.md"

// block is what stands between three backquotes.
var block = regexp.MustCompile("(?ms)^```(yaml|replay|judged)\n(.*?)^```$")

// TestTuningIsTrue runs the examples of docs/tuning.md: each "replay" block is what tmctl replay says of scenarios under the
// policy above it, each "judged" block what the detector says of a target whose normal traffic is known. A yaml block's sections take the place
// of the default policy's.
func TestTuningIsTrue(t *testing.T) {
	b, err := os.ReadFile(tuning)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	captures := map[string]string{}
	file, ran := "", 0
	for _, m := range block.FindAllStringSubmatch(string(b), -1) {
		kind, text := m[1], m[2]
		if kind == "yaml" {
			file = filepath.Join(dir, "policy.yaml")
			if err := os.WriteFile(file, []byte(overlaid(t, text)), 0o600); err != nil {
				t.Fatal(err)
			}
			continue
		}
		for line := range strings.Lines(text) {
			line = strings.TrimSpace(line)
			name, _, ok := strings.Cut(line, ": ")
			if !ok {
				t.Fatalf("%q is no example", line)
			}
			ran++
			got := ""
			if kind == "judged" {
				got = judged(t, file, name)
			} else {
				if captures[name] == "" {
					captures[name] = capture(t, dir, name)
				}
				got = told(t, captures[name], file)
			}
			if want := name + ": " + got; line != want {
				t.Errorf("docs/tuning.md says\n\t%s\nbut it is\n\t%s", line, want)
			}
		}
		file = ""
	}
	if ran < 15 {
		t.Errorf("only %d examples found", ran)
	}
}

// overlaid is the default policy with the sections of text instead of its own.
func overlaid(t *testing.T, text string) string {
	t.Helper()
	b, err := os.ReadFile("../../policy/default.yaml")
	if err != nil {
		t.Fatal(err)
	}
	base := string(b)
	begins := regexp.MustCompile(`(?m)^(\w+):`)
	at := begins.FindAllStringSubmatchIndex(text, -1)
	for i, m := range at {
		end := len(text)
		if i+1 < len(at) {
			end = at[i+1][0]
		}
		old := regexp.MustCompile(`(?m)^` + text[m[2]:m[3]] + `:.*\n(?:[ #].*\n|\n)*`)
		if !old.MatchString(base) {
			t.Fatalf("the default policy has no %s", text[m[2]:m[3]])
		}
		base = old.ReplaceAllLiteralString(base, text[m[0]:end])
	}
	return base
}

// capture writes a scenario as a capture.
func capture(t *testing.T, dir, name string) string {
	t.Helper()
	for _, s := range scenario.Find(name) {
		if s.Name != name {
			continue
		}
		var b bytes.Buffer
		_ = binary.Write(&b, binary.LittleEndian, []uint32{0xa1b23c4d, 4<<16 | 2, 0, 0, 65535, 1})
		for src := s.Source(); ; {
			p, err := src.Next()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			wire := max(p.Wire, len(p.Data))
			_ = binary.Write(&b, binary.LittleEndian, []uint32{uint32(p.Time.Unix()), uint32(p.Time.Nanosecond()), uint32(len(p.Data)), uint32(wire)})
			b.Write(p.Data)
		}
		file := filepath.Join(dir, name+".pcap")
		if err := os.WriteFile(file, b.Bytes(), 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}
	t.Fatalf("there is no scenario %q", name)
	return ""
}

// told is what tmctl replay says of a capture, in a line.
func told(t *testing.T, file, policy string) string {
	t.Helper()
	args := []string{file, "--json", "--targets", "203.0.113.0/24,2001:db8:100::/48"}
	if s := scenario.Find(strings.TrimSuffix(filepath.Base(file), ".pcap")); len(s) > 0 {
		var all []string
		for _, p := range s[0].Targets {
			all = append(all, p.String())
		}
		args[3] = strings.Join(all, ",")
	}
	if policy != "" {
		args = append(args, "--policy", policy)
	}
	stdout, stderr, code := replayRun(t, args...)
	if code != ExitOK {
		t.Fatalf("exit code %d: %s", code, stderr)
	}
	var r replayed
	if err := json.Unmarshal([]byte(stdout), &r); err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, i := range r.Incidents {
		way := "at"
		if i.Direction == "outbound" {
			way = "sent by"
		}
		out = append(out, fmt.Sprintf("%s %s %s after %.0f ms, %s", strings.Join(i.Vectors, " "), way, i.Target, 1000*(i.DecidedS-i.OnsetS), i.Action))
	}
	if len(out) == 0 {
		return "nothing"
	}
	return strings.Join(out, "; ")
}

type knownNormal struct{ pps, bps float64 }

func (n knownNormal) Normal(time.Time, netip.Prefix, vector.Direction, vector.ID) (pps, bps float64, ok bool) {
	return n.pps, n.bps, true
}

// judged is what the detector says of a second of a rate, as in "ntp-amplification at 25 kpps, normal 15 kpps".
func judged(t *testing.T, file, what string) string {
	t.Helper()
	p := policy.Default()
	if file != "" {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if p, err = policy.Parse(file, b); err != nil {
			t.Fatal(err)
		}
	}
	m := regexp.MustCompile(`^(\S+) at (.+), normal (.+)$`).FindStringSubmatch(what)
	if m == nil {
		t.Fatalf("%q is no rate beside a normal one", what)
	}
	v, err := vector.Parse(m[1])
	if err != nil {
		t.Fatal(err)
	}
	rate := func(s string) float64 {
		var n float64
		if _, err := fmt.Sscanf(s, "%f kpps", &n); err != nil {
			t.Fatalf("%q: %v", s, err)
		}
		return 1000 * n
	}
	pps, normal := rate(m[2]), rate(m[3])
	d := detect.New(p.Rules(), knownNormal{pps: normal, bps: 1600 * normal})
	for i := range 10 {
		o := traffic.Observation{
			Target: netip.MustParsePrefix("203.0.113.10/32"), Vector: v, PPS: pps, BPS: 1600 * pps, Packets: uint64(pps / 10), Bytes: uint64(20 * pps),
			Start: scenario.Epoch.Add(time.Duration(i) * 100 * time.Millisecond), Span: 100 * time.Millisecond, Sensors: []string{"rack1"}, SensorCount: 1,
		}
		for _, ev := range d.Observe(o.Start.Add(o.Span), o) {
			return fmt.Sprintf("an attack, limit %.0f packets/s", ev.Incident.Vectors[0].LimitPPS)
		}
	}
	return "nothing"
}
