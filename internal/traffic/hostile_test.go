package traffic

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/amooglesoft/trafficmonitor/internal/vector"
)

// Whoever touches every address of ours must not blind us to the attack that follows.
func TestSweepLeavesRoomForAttacks(t *testing.T) {
	o := options()
	v := NewView(o)
	var as []Aggregate
	for i := range 2 * o.MaxTargets {
		as = append(as, Aggregate{netip.MustParsePrefix(fmt.Sprintf("198.51.%d.%d/32", i/250, i%250)), vector.Inbound, vector.SYN, 1, 60})
	}
	v.Apply(t0, report("a", Interval, time.Second, as...))
	got := v.Apply(t0, report("a", Trigger, 32*time.Millisecond, Aggregate{victim, vector.Inbound, vector.DNS, 10_000, 1}))
	if len(got) != 1 || got[0].PPS < 100_000 {
		t.Errorf("the attack is not taken in: %+v", got)
	}
	if n, _ := v.Targets(); n > o.MaxTargets {
		t.Errorf("%d targets are kept, at most %d may be", n, o.MaxTargets)
	}
}

// A sensor's clock that was ahead is set right, or its machine boots with another time: what it says now counts.
func TestSensorsClockGoesBack(t *testing.T) {
	v := NewView(options())
	hot := report("a", Hot, 100*time.Millisecond, Aggregate{victim, vector.Inbound, vector.DNS, 10_000, 1})
	hot.Start = t0.Add(5 * time.Minute)
	v.Apply(t0, hot)
	v.Apply(t0.Add(time.Second), report("a", Interval, time.Second, Aggregate{victim, vector.Inbound, vector.DNS, 5, 1}))
	if got := v.Observe(victim, vector.Inbound, vector.DNS).PPS; got != 5 {
		t.Errorf("the rate from before the clock was set stands: %v", got)
	}
}

// Packets come in bursts: a network card hands over 64 at once. The first hot report follows a trigger after any time
// between nothing and the hot interval, and must not make a flood of one burst.
func TestBurstInAShortSpanIsNoRate(t *testing.T) {
	v := NewView(options())
	v.Apply(t0, report("a", Trigger, 32*time.Millisecond, Aggregate{victim, vector.Inbound, vector.SYN, 1000, 60_000}))
	v.Apply(t0, report("a", Hot, 1500*time.Microsecond, Aggregate{victim, vector.Inbound, vector.Total, 64, 96_000}, Aggregate{victim, vector.Inbound, vector.DNS, 64, 96_000}, Aggregate{victim, vector.Inbound, vector.SYN, 0, 0}))
	if got := v.Observe(victim, vector.Inbound, vector.DNS); got.PPS > 4000 || got.BPS > 40e6 {
		t.Errorf("64 packets in 1.5 ms are %v packets/s, %v bit/s", got.PPS, got.BPS)
	}
	if got := v.Observe(victim, vector.Inbound, vector.SYN).PPS; got < 30_000 {
		t.Errorf("a gap of 1.5 ms in a flood lowered its rate to %v", got)
	}
	v.Apply(t0, report("a", Hot, 100*time.Millisecond, Aggregate{victim, vector.Inbound, vector.Total, 10, 600}, Aggregate{victim, vector.Inbound, vector.SYN, 10, 600}))
	if got := v.Observe(victim, vector.Inbound, vector.SYN).PPS; got != 100 {
		t.Errorf("the next hot report: %v packets/s", got)
	}
	if got := v.Observe(victim, vector.Inbound, vector.DNS).PPS; got != 0 {
		t.Errorf("the next hot report: %v packets/s of a vector it does not name", got)
	}
}
