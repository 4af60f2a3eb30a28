package policy

import (
	"math"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/amooglesoft/trafficmonitor/internal/vector"
)

func TestConditionOverEvidence(t *testing.T) {
	measured := Evidence{Measured: true, Before: 100_000, After: 60_000, Reduction: 0.4, PPS: 60_000, BPS: 5e8, Age: time.Minute, LegitimateDrop: 0.01, Installed: 1, Routers: 2}
	unmeasured := measured
	unmeasured.Measured = false
	for _, tc := range []struct {
		text                 string
		measured, unmeasured bool
	}{
		{"evidence.reduction < 0.9", true, false},
		{"evidence.reduction >= 0.9", false, false},
		{"!(evidence.reduction >= 0.9)", true, false},
		{"evidence.reduction < 1", true, false},
		{"evidence.measured", true, false},
		{"!evidence.measured", false, true},
		{"evidence.reduction < 0.9 || evidence.installed == 0", true, false},
		{"evidence.reduction < 0.9 || evidence.installed < evidence.routers", true, true},
		{"evidence.reduction < 0.9 && evidence.installed == evidence.routers", false, false},
		{"evidence.age >= duration(\"1m\")", true, true},
		{"evidence.after * 2.0 > evidence.before && evidence.pps > 50000 && evidence.bps > 1e6", true, false},
		{"evidence.legitimate_drop > 0.2 ? false : evidence.reduction < 0.5", true, false},
		{"true", true, true},
	} {
		c, err := ParseCondition(tc.text)
		if err != nil {
			t.Error(err)
			continue
		}
		for _, x := range []struct {
			e    Evidence
			want bool
		}{{measured, tc.measured}, {unmeasured, tc.unmeasured}} {
			if got, err := c.Eval(x.e); err != nil || got != x.want {
				t.Errorf("%s, measured %v: %v, %v; want %v", tc.text, x.e.Measured, got, err, x.want)
			}
		}
	}
	if holds, err := (*Condition)(nil).Eval(unmeasured); !holds || err != nil {
		t.Error("no condition does not hold")
	}
}

func TestConditionThatCannotBeComputed(t *testing.T) {
	e := Evidence{Measured: true, Reduction: 0.5}
	for _, text := range []string{"1 / evidence.installed == 1", "evidence.installed % evidence.routers == 0", "9223372036854775807 + evidence.installed + 1 > 0"} {
		c, err := ParseCondition(text)
		if err != nil {
			t.Fatal(err)
		}
		if holds, err := c.Eval(e); holds || err == nil || !strings.Contains(err.Error(), text) {
			t.Errorf("%s: %v, %v", text, holds, err)
		}
	}
	c, err := ParseCondition("evidence.age > duration(\"0s\")")
	if err != nil {
		t.Fatal(err)
	}
	e.Age, e.After = time.Second, math.NaN()
	if holds, err := c.Eval(e); holds || err == nil {
		t.Errorf("NaN: %v, %v", holds, err)
	}
	e.Measured = false // then it is not looked at
	if holds, err := c.Eval(e); !holds || err != nil {
		t.Errorf("%v, %v", holds, err)
	}
}

func TestWrongConditions(t *testing.T) {
	for _, tc := range []struct{ text, want string }{
		{"evidence.redution < 0.9", `evidence.redution is not known here; did you mean "evidence.reduction"?`},
		{"reduction < 0.9 && aeg > 1", "reduction is not known here"},
		{"reduction < 0.9 && aeg > 1", "aeg is not known here"},
		{"evidence.reduction", "is a number, but it must be true or false"},
		{"evidence.reduction < \"90%\"", "< does not go with a number and a text"},
		{"evidence.age > 60", "> does not go with a duration and a number"},
		{"evidence.reduction <", "character 21: "},
		{"evidence.reduction < 0.9 &", "character 26: "},
		{"now() > 1", "now is not a function here"},
		{"[1,2].all(x, x > 0)", "is not known here"},
		{"timestamp(\"2026-01-01T00:00:00Z\").getHours(\"Europe/Berlin\") > 1", "is not a function here"},
		{"\"aaaaaaaaaaaaaa\".matches(\"(a+)+b\")", "matches is not a function here"},
		{strings.Repeat("(", 60) + "true" + strings.Repeat(")", 60), "recursion"},
		{"true" + strings.Repeat(" || true", 100), "size"},
		{"", "character 1: "},
	} {
		c, err := ParseCondition(tc.text)
		if err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%.60q: %v, %v; want %q", tc.text, c, err, tc.want)
		}
	}
}

// FuzzCondition: no text makes the compiler or a program panic, and what it accepts is computed within its bounds.
func FuzzCondition(f *testing.F) {
	for _, s := range []string{"evidence.reduction < 0.9", "evidence.age > duration(\"5m\") && !evidence.measured", "size(\"a\" + \"b\") in [1, 2]", "1 / 0 == 1", "{1: 2}", "a.b.c(d)[e]"} {
		f.Add(s, 0.5, true)
	}
	l := newLanguage(evidenceNames)
	f.Fuzz(func(t *testing.T, text string, x float64, measured bool) {
		c, err := l.condition(text)
		if err != nil {
			if err.Error() == "" {
				t.Fatal("an error that says nothing")
			}
			return
		}
		e := Evidence{Measured: measured, Before: x, After: x, Reduction: x, PPS: x, BPS: x, Age: time.Duration(len(text)), LegitimateDrop: x, Installed: 1, Routers: 2}
		holds, err := c.Eval(e)
		if holds && err != nil {
			t.Fatalf("%q holds and is wrong: %v", text, err)
		}
		if again, _ := c.Eval(e); again != holds {
			t.Fatalf("%q: %v, then %v", text, holds, again)
		}
	})
}

func BenchmarkCondition(b *testing.B) {
	c, err := ParseCondition("evidence.reduction < 0.9 && evidence.age > duration(\"30s\") && evidence.installed == evidence.routers")
	if err != nil {
		b.Fatal(err)
	}
	e := Evidence{Measured: true, Reduction: 0.5, Age: time.Minute, Installed: 2, Routers: 2}
	b.ReportAllocs()
	for b.Loop() {
		if holds, err := c.Eval(e); !holds || err != nil {
			b.Fatal(holds, err)
		}
	}
}

func TestSteeringActions(t *testing.T) {
	text := func(action, more string) string {
		return "version: 1\nthresholds: [{vectors: syn, pps: 20 kpps}]\nresponses: [{vectors: syn, ladder: [{action: " + action + more + "}]}]\n"
	}
	for action, want := range map[string]string{
		"redirect 64500:100": "redirect 64500:100", "redirect 192.0.2.9": "redirect 192.0.2.9", "mark 8": "mark 8",
	} {
		p, err := Parse("p.yaml", []byte(text(action, "")))
		if err != nil {
			t.Errorf("%s: %v", action, err)
			continue
		}
		r := p.Answer(Incident{Target: netip.MustParsePrefix("192.0.2.1/32"), Vector: vector.SYN}, time.Time{})
		if r.Observe || r.Steps[0].Does() != want || !r.Steps[0].Announces() {
			t.Errorf("%s: %+v", action, r)
		}
	}
	for action, want := range map[string]string{
		"mark 64":                  "63",
		"redirect nowhere":         "redirect",
		"mark 8 sample":            "says no more",
		"redirect 64500:100 med 5": "says no more",
		"redirct 64500:100":        "redirect 64500:100",
		"rate-limit 1 Mbps, probe: 1 Mbps, down_after: 1m": "probe",
		"redirect 64500:100, down_after: 1m":               "ends with its ttl",
		"discard, probe: 1 Mbps":                           "probe",
	} {
		if _, err := Parse("p.yaml", []byte(text(action, ""))); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", action, err, want)
		}
	}
}
