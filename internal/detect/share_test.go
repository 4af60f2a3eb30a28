package detect

import (
	"strings"
	"testing"
	"time"

	"github.com/amooglesoft/trafficmonitor/internal/traffic"
	"github.com/amooglesoft/trafficmonitor/internal/vector"
)

func of(all float64) func(*traffic.Observation) {
	return func(o *traffic.Observation) { o.AllPPS = all }
}

// TestShare: half of what the target receives, from 2,000 packets a second on, for a second.
func TestShare(t *testing.T) {
	solicited := full{limits: map[vector.ID]Limits{vector.DNS: {Share: 0.5, ShareFrom: 2e3, Windows: 1, EndBelow: 0.7, EndAfter: calmFor}}}
	for _, c := range []struct {
		name   string
		rules  Rules
		normal Normal
		o      traffic.Observation
		want   bool
	}{
		{"more than half", fullRules, nil, seen(vector.ESP, 5000, 100, of(8000)), true},
		{"exactly half", fullRules, nil, seen(vector.ESP, 5000, 100, of(10000)), true},
		{"less than half", fullRules, nil, seen(vector.ESP, 5000, 100, of(10100)), false},
		{"all of it, but little", fullRules, nil, seen(vector.ESP, 1900, 100, of(1900)), false},
		{"the whole is older than the part", fullRules, nil, seen(vector.ESP, 5000, 100, of(100)), true},
		{"nobody asked", solicited, nil, seen(vector.DNS, 5000, 100, of(8000), sends(10)), true},
		{"the target asked", solicited, nil, seen(vector.DNS, 5000, 100, of(8000), sends(4000)), false},
		{"twice that is normal", full{limits: fullRules.limits, baseline: Baseline{Above: 2, Cap: 10}}, normal{3000, 0}, seen(vector.ESP, 5000, 100, of(8000)), false},
		{"more than twice what is normal", full{limits: fullRules.limits, baseline: Baseline{Above: 2, Cap: 10}}, normal{2000, 0}, seen(vector.ESP, 5000, 100, of(8000)), true},
		{"no limit for it", fullRules, nil, seen(vector.GRE, 5000, 100, of(5000)), false},
	} {
		d := New(c.rules, c.normal)
		var got []Event
		for i := range 30 { // three seconds
			o := c.o
			o.Start = t0.Add(time.Duration(i) * o.Span)
			got = append(got, d.Observe(o.Start.Add(o.Span), o)...)
			if i < 9 && len(got) > 0 {
				t.Errorf("%s: certain after %v", c.name, time.Duration(i+1)*o.Span)
			}
		}
		if (len(got) > 0) != c.want {
			t.Errorf("%s: %d events, want some %v: %s", c.name, len(got), c.want, d.Explain(t0, c.o))
		}
		if c.want && (got[0].Incident.Test != Share || !strings.Contains(got[0].Incident.Reason, "for more than 50 % of the")) {
			t.Errorf("%s: by test %s because %s", c.name, got[0].Incident.Test, got[0].Incident.Reason)
		}
	}
}

// TestShareEnds: when less of it comes, when the policy takes the share away;
// and when so much more comes of something else that it is no large share any more.
func TestShareEnds(t *testing.T) {
	without := full{limits: map[vector.ID]Limits{vector.ESP: {PPS: 1e6, Windows: 1, EndBelow: 0.7, EndAfter: calmFor}}}
	for name, c := range map[string]struct {
		rules Rules
		later traffic.Observation
		ends  bool
	}{
		"it goes on":                         {fullRules, seen(vector.ESP, 5000, 100, of(6000)), false},
		"a flash crowd beside it":            {fullRules, seen(vector.ESP, 5000, 100, of(60000)), true},
		"the share is raised":                {full{limits: map[vector.ID]Limits{vector.ESP: {Share: 0.5, ShareFrom: 50e3, Windows: 1, EndBelow: 0.7, EndAfter: calmFor}}}, seen(vector.ESP, 5000, 100, of(6000)), true},
		"it falls below 70 % of what it was": {fullRules, seen(vector.ESP, 1700, 100, of(4000)), true},
		"the policy has no share any more":   {without, seen(vector.ESP, 5000, 100, of(6000)), true},
	} {
		d := New(fullRules, nil)
		observe := func(from, to int, o traffic.Observation) (last Kind) {
			for i := from; i < to; i++ {
				o.Start = t0.Add(time.Duration(i) * o.Span)
				for _, e := range d.Observe(o.Start.Add(o.Span), o) {
					last = e.Kind
				}
			}
			return last
		}
		if observe(0, 30, seen(vector.ESP, 5000, 100, of(6000))) == 0 {
			t.Fatal("no incident")
		}
		d.SetRules(c.rules)
		if got := observe(30, 160, c.later) == End; got != c.ends {
			t.Errorf("%s: ended %v, want %v", name, got, c.ends)
		}
	}
}
