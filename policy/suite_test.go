package policy

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/amooglesoft/trafficmonitor/internal/vector"
)

// Every test of testdata/ladder_test.yaml is about testdata/ladder.yaml; those whose names begin with "fails" must fail.
func TestSuite(t *testing.T) {
	p, err := Load("testdata/ladder.yaml")
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile("testdata/ladder_test.yaml")
	if err != nil {
		t.Fatal(err)
	}
	s, err := ParseSuite("ladder_test.yaml", text)
	if err != nil {
		t.Fatal(err)
	}
	var got strings.Builder
	for _, r := range s.Run(p) {
		if strings.HasPrefix(r.Name, "fails") != (len(r.Failures) > 0) {
			t.Errorf("%s: %s: %q", r.Place, r.Name, r.Failures)
		}
		fmt.Fprintf(&got, "%s: %s\n", r.Place, r.Name)
		for _, f := range r.Failures {
			fmt.Fprintf(&got, "    %s\n", f)
		}
	}
	golden(t, "testdata/ladder_test.golden", got.String())
}

func TestWrongSuite(t *testing.T) {
	_, err := ParseSuite("x_test.yaml", []byte(`version: 1
tests:
  - {name: a, given: {target: 192.0.2.1, vector: all-tcp}, expect: {action: drop}}
  - {name: b, given: {target: 192.0.2.1, vector: syn}, expect: {}}
  - {given: {vector: syn, step: 1, pss: 3}, expect: {attack: true}}
  - {name: d, given: {target: 192.0.2.1, vector: syn, step: 2, evidence: {reduction: 0.5}}, expect: {steps: 3}}
  - {name: e, given: {target: 192.0.2.1, vector: syn, step: 2}, expect: {step: 3}}
  - {name: f, given: {target: 192.0.2.1, vector: syn, pps: 2 kpps, total_pps: 5 kpps}, expect: {attack: true}}
  - {name: g, given: {target: 192.0.2.1, vector: syn, pps: 2 kpps, total_pps: 1 kpps, test: share}, expect: {attack: true}}
  - {name: h, given: {target: 192.0.2.1, vector: syn, bps: 2 Mbps, total_pps: 1 kpps, test: share}, expect: {attack: true}}
`))
	if err == nil {
		t.Fatal("is read")
	}
	golden(t, "testdata/wrong_suite.golden", err.Error()+"\n")
	if _, err := ParseSuite("x", []byte("version: 1\ntests: []\n")); err == nil {
		t.Error("no test is a suite")
	}
}

// A share is told of what the target receives in all, as the detector tells it.
func TestSuiteOfShares(t *testing.T) {
	p, err := Parse("p.yaml", []byte("version: 1\nthresholds: [{vectors: all, share: 30%, share_from: 2 kpps}, {vectors: ack, share: none}]\nnetworks: [{vectors: udp-other, pps: 1 Mpps}]\nresponses: [{vectors: all, action: observe}]\n"))
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		given  string
		attack bool
	}{
		{"target: 192.0.2.1, vector: udp-other, pps: 14 kpps, total_pps: 50 kpps, test: share", false},
		{"target: 192.0.2.1, vector: udp-other, pps: 15 kpps, total_pps: 50 kpps, test: share", true},
		{"target: 192.0.2.1, vector: udp-other, pps: 1900 pps, total_pps: 2 kpps, test: share", false}, // below share_from
		{"target: 192.0.2.1, vector: udp-other, pps: 2 kpps, total_pps: 2 kpps, test: share", true},
		{"target: 192.0.2.1, vector: udp-other, pps: 15 kpps, test: share", true}, // it is all
		{"target: 192.0.2.1, vector: udp-other, pps: 15 kpps", false},
		{"target: 192.0.2.0/24, vector: udp-other, pps: 15 kpps, total_pps: 15 kpps, test: share", false},
		{"target: 192.0.2.1, vector: total, pps: 15 kpps, test: share", false},
		{"target: 192.0.2.1, vector: udp-other, direction: outbound, pps: 15 kpps, test: share", false},
		{"target: 192.0.2.1, vector: ack, pps: 15 kpps, total_pps: 15 kpps, test: share", false}, // has no share
	} {
		s, err := ParseSuite("x_test.yaml", fmt.Appendf(nil, "version: 1\ntests: [{name: x, given: {%s}, expect: {attack: %v}}]\n", tc.given, tc.attack))
		if err != nil {
			t.Fatal(err)
		}
		if f := s.Run(p)[0].Failures; len(f) > 0 {
			t.Errorf("%s: %q", tc.given, f)
		}
	}
}

// What an explanation says of limits is what is in force, and each place holds the value.
func TestWhyNamesTheLines(t *testing.T) {
	p, err := Parse("nested.yaml", []byte(nested))
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(nested, "\n")
	for _, target := range []string{"192.0.2.1", "10.1.9.1", "10.1.2.1", "2001:db8:1:2::1", "10.9.9.9", "10.1.2.0/25"} {
		for _, v := range vector.All() {
			inc := Incident{Target: pfx(target), Vector: v.ID}
			x := p.Why(inc, now)
			if x.Group != p.Group(pfx(target)) || x.Reason != p.Answer(inc, now).Reason {
				t.Fatalf("%s %s: %+v", target, v.Name, x)
			}
			var n int
			for _, o := range x.Limits {
				if o.Place == "" {
					if !strings.HasPrefix(o.Path, "defaults.") {
						t.Errorf("%s %s: %+v stands nowhere", target, v.Name, o)
					}
					continue
				}
				if _, err := fmt.Sscanf(o.Place, "nested.yaml:%d", &n); err != nil || !strings.Contains(lines[n-1], o.Key+": "+o.Value) {
					t.Errorf("%s %s: %+v: the line is %q", target, v.Name, o, lines[n-1])
				}
			}
			if x.Path != "" {
				if _, err := fmt.Sscanf(x.Place, "nested.yaml:%d", &n); err != nil || !strings.Contains(lines[n-1], "vectors") && !strings.Contains(lines[n-1], "reason") {
					t.Errorf("%s %s: %s is not at %s", target, v.Name, x.Path, x.Place)
				}
			}
		}
	}
	if x := p.Why(Incident{Target: pfx("10.1.2.1"), Vector: vector.SYN}, now); len(x.Limits) != 4 || x.Limits[0].Place != "nested.yaml:20" || x.Limits[1].Place != "nested.yaml:13" {
		t.Errorf("%+v", x.Limits)
	}
}

func TestClimb(t *testing.T) {
	p, err := Load("testdata/ladder.yaml")
	if err != nil {
		t.Fatal(err)
	}
	r := p.Answer(Incident{Target: pfx("192.0.2.1"), Vector: vector.SYN}, now)
	effective := Evidence{Measured: true, Reduction: 0.95, Age: 3600e9}
	useless := Evidence{Measured: true, Reduction: 0.1, Age: 3600e9}
	blind := Evidence{Age: 3600e9}
	for _, tc := range []struct {
		says       string
		at         int
		e          Evidence
		collateral float64
		step       int
		approvals  int
	}{
		{"the first at once", -1, Evidence{}, -1, 0, 0},
		{"not before its time", 0, Evidence{Age: 29e9}, 0, 0, 0},
		{"in time and within the cap", 0, Evidence{Age: 30e9}, 0.05, 1, 0},
		{"above the cap", 0, blind, 0.06, 0, 0},
		{"not known whether", 0, blind, -1, 0, 0},
		{"it works", 1, effective, 0, 1, 0},
		{"it does not", 1, useless, 0, 2, 0},
		{"nothing is measured", 1, blind, 0, 1, 0},
		{"two persons", 2, useless, 1, 3, 2},
		{"the last", 3, useless, 0, 3, 0},
	} {
		next, err := r.Climb(tc.at, tc.e, tc.collateral)
		if err != nil || next.Step != tc.step || next.Climbs != (tc.step != tc.at) || next.Approvals != tc.approvals || next.Why == "" {
			t.Errorf("%s: %+v %v", tc.says, next, err)
		}
	}
}

// FuzzSuite: no tests make the reader or a run panic, and every result has a name and a place.
func FuzzSuite(f *testing.F) {
	for _, file := range []string{"testdata/ladder_test.yaml", "default_test.yaml"} {
		text, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text)
	}
	p, err := Load("testdata/ladder.yaml")
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		s, err := ParseSuite("x_test.yaml", text)
		if err != nil {
			return
		}
		for _, policy := range []*Policy{p, Default()} {
			for _, r := range s.Run(policy) {
				if r.Name == "" || !strings.HasPrefix(r.Place, "x_test.yaml:") {
					t.Fatalf("%+v", r)
				}
			}
		}
	})
}
