package detect

import (
	"net/netip"
	"testing"
	"time"

	"github.com/amooglesoft/trafficmonitor/internal/vector"
)

// A mitigation answers one vector. Another one that goes on beside it, because its own answer was refused, held or
// frozen, must be offered again.
func TestVectorBesideAMitigatedOneContinues(t *testing.T) {
	d := New(testRules, nil)
	d.Observe(t0, obs(0, vector.DNS, 30_000))
	d.Mask(t0, victim, true)
	d.Observe(t0, obs(0, vector.SYN, 30_000))
	if evs := d.Observe(t0, obs(time.Second, vector.SYN, 30_000)); len(evs) != 1 || evs[0].Kind != Continues || evs[0].Vectors[0] != vector.SYN {
		t.Errorf("an unanswered vector beside a mitigated one says %v", evs)
	}
}

// A standby may hear of the mitigation before it sees the attack, and an engineer may be faster than both.
func TestMaskComesBeforeTheAttack(t *testing.T) {
	d := New(testRules, nil)
	d.Mask(t0, victim, true)
	d.Observe(t0, obs(0, vector.DNS, 30_000))
	d.Observe(t0.Add(time.Second), obs(time.Second, vector.DNS, 0))
	if evs := d.Tick(t0.Add(time.Minute)); len(evs) != 0 {
		t.Errorf("what a mitigation hides was taken for calm: %v", evs)
	}
	d.Mask(t0.Add(time.Minute), victim, false)
	if evs := d.Tick(t0.Add(70 * time.Second)); len(evs) != 1 || evs[0].Kind != End {
		t.Errorf("after the mask: %v", evs)
	}
	if len(d.masked) != 0 || len(d.sites) != 0 {
		t.Errorf("kept: %v %v", d.masked, d.sites)
	}
}

// What was counted is what makes certain: the clocks of two sensors may be minutes apart.
func TestClocksOfSensorsDiffer(t *testing.T) {
	for _, wrong := range []time.Duration{-5 * time.Minute, 0, 5 * time.Minute} {
		d := New(testRules, nil)
		if evs := d.Observe(t0, obs(wrong, vector.UDPOther, 300_000)); len(evs) != 0 {
			t.Errorf("%s: after 120 Mbit of 192: %v", wrong, evs)
		}
		if evs := d.Observe(t0.Add(50*time.Millisecond), obs(50*time.Millisecond, vector.UDPOther, 300_000)); len(evs) != 1 {
			t.Errorf("%s: after 240 Mbit: %v", wrong, evs)
		}
	}
}

// An engineer's rule for a network hides the traffic of its hosts.
func TestMaskOfANetworkHidesItsHosts(t *testing.T) {
	d := New(testRules, nil)
	d.Observe(t0, obs(0, vector.DNS, 30_000))
	wide := netip.MustParsePrefix("192.0.2.0/24")
	d.Mask(t0, wide, true)
	d.Mask(t0, victim, true)
	d.Observe(t0.Add(time.Second), obs(time.Second, vector.DNS, 0))
	d.Mask(t0.Add(2*time.Second), victim, false)
	if evs := d.Tick(t0.Add(time.Minute)); len(evs) != 0 {
		t.Errorf("what a rule for the network hides was taken for calm: %v", evs)
	}
	d.Mask(t0.Add(time.Minute), wide, false)
	if evs := d.Tick(t0.Add(70 * time.Second)); len(evs) != 1 || evs[0].Kind != End {
		t.Errorf("after the mask: %v", evs)
	}
}
