package detect

import (
	"maps"
	"net/netip"
	"testing"
	"time"

	"github.com/amooglesoft/trafficmonitor/internal/traffic"
	"github.com/amooglesoft/trafficmonitor/internal/vector"
)

// after observes an attack for half a second, then, under other rules if there are any, what comes behind it once a
// second, and returns how many incidents are left half a minute later.
func after(t *testing.T, learnt Normal, attack, behind traffic.Observation, rules Rules) int {
	t.Helper()
	d := New(fullRules, learnt)
	for i := range 5 {
		at := time.Duration(i) * 100 * time.Millisecond
		attack.Start = t0.Add(at)
		d.Observe(t0.Add(at+attack.Span), attack)
	}
	if len(d.Incidents()) != 1 {
		t.Fatalf("%d incidents during the attack", len(d.Incidents()))
	}
	if rules != nil {
		d.SetRules(rules)
	}
	for i := 1; i <= 30; i++ {
		behind.Start = t0.Add(time.Duration(i) * time.Second)
		d.Observe(behind.Start.Add(time.Second), behind)
	}
	return len(d.Incidents())
}

func TestIncidentEndsInNormalTraffic(t *testing.T) {
	changed := fullRules
	changed.limits = maps.Clone(fullRules.limits)
	for v, l := range changed.limits {
		l.Unanswered = 0
		changed.limits[v] = l
	}
	for _, tc := range []struct {
		name           string
		learnt         Normal
		attack, behind traffic.Observation
		rules          Rules
		left           int
	}{
		{"a resolver's own answers go on", nil, seen(vector.DNS, 300e3, 400, sends(50e3)), seen(vector.DNS, 50e3, 400, sends(50e3)), nil, 0},
		{"answers nobody asked for go on", nil, seen(vector.DNS, 300e3, 400, sends(0)), seen(vector.DNS, 18e3, 400), nil, 1},
		{"the target's normal rate is over the limit", normal{pps: 30e3, bps: 96e6}, seen(vector.DNS, 300e3, 400), seen(vector.DNS, 30e3, 400), nil, 0},
		{"a limit in bits was passed, the normal rate is over that in packets", normal{pps: 300e3, bps: 9.6e8}, seen(vector.UDPOther, 350e3, 1400), seen(vector.UDPOther, 300e3, 400), nil, 0},
		{"the policy does not ask for answers any more", nil, seen(vector.UDPOther, 60e3, 100, sends(0)), seen(vector.UDPOther, 60e3, 100, sends(0)), changed, 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			rules := tc.rules
			base := fullRules
			if tc.learnt != nil {
				base.baseline = Baseline{Above: 2, Cap: 4}
				rules = base
			}
			if left := after(t, tc.learnt, tc.attack, tc.behind, rules); left != tc.left {
				t.Errorf("%d incidents are left, want %d", left, tc.left)
			}
		})
	}
}

// A scan sends a few packets to every address, each from a source of its own; what can never be certain is not kept.
func TestScanKeepsNoState(t *testing.T) {
	d := New(fullRules, nil)
	for second := range 5 {
		now := t0.Add(time.Duration(second+1) * time.Second)
		for host := range 200 {
			x := forged(0, vector.SYN, 1000*second+host, 10)
			x.Target = netip.PrefixFrom(netip.AddrFrom4([4]byte{192, 0, 2, byte(host)}), 32)
			if evs := d.ObserveSources(now, []traffic.Sources{x}); len(evs) != 0 {
				t.Fatalf("%v", evs)
			}
		}
		d.Tick(now)
		if len(d.sites) != 0 {
			t.Fatalf("%d sites are kept", len(d.sites))
		}
	}
}
