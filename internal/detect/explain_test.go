package detect

import (
	"strings"
	"testing"
	"time"

	"github.com/amooglesoft/trafficmonitor/internal/traffic"
	"github.com/amooglesoft/trafficmonitor/internal/vector"
)

func TestExplain(t *testing.T) {
	for name, tc := range map[string]struct {
		before []traffic.Observation
		o      traffic.Observation
		says   []string
	}{
		"below its limit": {nil, seen(vector.DNS, 7200, 400, sends(6900)), []string{
			"dns-amplification: 7200 packets/s", "asked with 6900 packets/s", "4 % of the limit 200000 packets/s, ten times as much", "no incident: it passes no test",
		}},
		"not watched": {nil, seen(vector.DNS, 7200, 400), []string{"the other direction is not watched", "36 % of the limit 20000", "no incident"}},
		"unanswered":  {nil, seen(vector.UDPOther, 10e3, 100, sends(3)), []string{"sent 3 packets/s that belong to it", "50 % of the limit 20000 packets/s unanswered"}},
		"an incident": {[]traffic.Observation{seen(vector.DNS, 30e3, 400)}, seen(vector.DNS, 30e3, 400), []string{"150 % of the limit 20000", "part of incident i-"}},
		"calm":        {[]traffic.Observation{seen(vector.DNS, 30e3, 400), seen(vector.DNS, 0, 0)}, seen(vector.DNS, 0, 0), []string{"part of incident i-", "calm since 00:00:00"}},
		"not certain": {[]traffic.Observation{seen(vector.UDPOther, 250e3, 100, sends(250e3))}, seen(vector.UDPOther, 250e3, 100, sends(250e3)), []string{"not certain yet: 25000 of 96000 packets"}},
		"a network":   {[]traffic.Observation{network(300e3, 200)}, seen(vector.DNS, 30e3, 400), []string{"no incident of its own: it is told of the network"}},
		"few hosts":   {nil, network(300e3, 3), []string{"in 3 hosts", "too few hosts"}},
		"no limit":    {nil, seen(vector.NTP, 1, 1), []string{"no limit applies", "no incident"}},
	} {
		t.Run(name, func(t *testing.T) {
			d := New(fullRules, nil)
			for _, o := range tc.before {
				d.Observe(t0, o)
			}
			got := d.Explain(t0, tc.o)
			for _, want := range tc.says {
				if !strings.Contains(got, want) {
					t.Errorf("%q is not in %q", want, got)
				}
			}
		})
	}
}

// What Explain says and what Observe does are the same.
func TestExplainDoesNotLie(t *testing.T) {
	for _, v := range []vector.ID{vector.DNS, vector.SYN, vector.SYNACK, vector.UDPOther, vector.ACK, vector.NTP} {
		for _, pps := range []float64{0, 1e3, 4.9e3, 5e3, 19e3, 20e3, 2e5, 2e6} {
			for _, answers := range []float64{0, 0.05, 0.5, 2} {
				d := New(fullRules, nil)
				o := seen(v, pps, 100, sends(answers*pps))
				d.Observe(t0, o)
				got := d.Explain(t0.Add(time.Second), o)
				if incident := len(d.Incidents()) == 1; incident != strings.Contains(got, "part of incident") {
					t.Errorf("an incident: %v, and yet: %s", incident, got)
				}
				if noted := len(d.sites) > 0; noted == strings.Contains(got, "it passes no test") {
					t.Errorf("noted: %v, and yet: %s", noted, got)
				}
			}
		}
	}
}

func TestExplainSources(t *testing.T) {
	d := New(fullRules, nil)
	o := seen(vector.UDPOther, 216, 100, sends(0))
	for i, want := range []string{"not certain yet: nearly every packet has a source of its own", 10: "part of incident i-"} {
		now := t0.Add(time.Duration(i+1) * time.Second)
		d.ObserveSources(now, []traffic.Sources{forged(0, vector.UDPOther, 1000*i, 216)})
		if got := d.Explain(now, o); !strings.Contains(got, want) {
			t.Errorf("second %d: %q is not in %q", i, want, got)
		}
	}
}

// Nor do they differ about what leaves and about networks, and an incident that is hidden, or below its limit but not calm, is
// told as such.
func TestExplainDoesNotLieElsewhere(t *testing.T) {
	agree := func(t *testing.T, o traffic.Observation) {
		t.Helper()
		d := New(fullRules, nil)
		for i := range 3 {
			d.Observe(t0.Add(time.Duration(i)*100*time.Millisecond), o)
		}
		got := d.Explain(t0.Add(time.Second), o)
		if incident := len(d.Incidents()) == 1; incident != strings.Contains(got, "part of incident") {
			t.Errorf("an incident: %v, and yet: %s", incident, got)
		}
		if noted := len(d.sites) > 0; noted && strings.Contains(got, "no incident") {
			t.Errorf("it is noted, and yet: %s", got)
		}
	}
	for _, pps := range []float64{0, 1e3, 19e3, 20e3, 79e3, 80e3, 2e6} {
		o := seen(vector.SYN, pps, 60)
		o.Direction = vector.Outbound
		agree(t, o)
		for _, hosts := range []int{1, 15, 16, 200} {
			agree(t, network(pps, hosts))
		}
	}

	begun := func() *Detector {
		d := New(fullRules, nil)
		d.Observe(t0, seen(vector.DNS, 30e3, 400))
		return d
	}
	d, below := begun(), seen(vector.DNS, 15e3, 400)
	d.Observe(t0.Add(time.Second), below)
	if got := d.Explain(t0.Add(time.Second), below); !strings.HasSuffix(got, "below its limit but not calm") {
		t.Errorf("between the end's share of the limit and the limit: %s", got)
	}
	d, calm := begun(), seen(vector.DNS, 10, 400)
	d.Mask(t0, victim, true)
	d.Observe(t0.Add(time.Second), calm)
	if got := d.Explain(t0.Add(time.Second), calm); !strings.Contains(got, "a mitigation hides") || strings.Contains(got, "calm since") {
		t.Errorf("hidden by a mitigation: %s", got)
	}
	d.Mask(t0.Add(2*time.Second), victim, false)
	if got := d.Explain(t0.Add(2*time.Second), calm); !strings.Contains(got, "calm since 00:00:02") {
		t.Errorf("hidden no more: %s", got)
	}
}
