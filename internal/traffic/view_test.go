package traffic

import (
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/amooglesoft/trafficmonitor/internal/vector"
)

var (
	t0     = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	victim = netip.MustParsePrefix("192.0.2.1/32")
	other  = netip.MustParsePrefix("2001:db8::1/128")
	cmpNet = cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })
)

func options() Options {
	return Options{MaxTargets: 100, StaleAfter: 3 * time.Second, ForgetAfter: time.Minute}
}

func report(sensor string, c Cause, span time.Duration, as ...Aggregate) Report {
	return Report{Sensor: sensor, Cause: c, Start: t0, Span: span, Aggregates: as}
}

func TestRatesAddUpOverSensors(t *testing.T) {
	v := NewView(options())
	v.Apply(t0, report("a", Interval, time.Second, Aggregate{victim, vector.Inbound, vector.DNS, 1000, 500_000}))
	got := v.Apply(t0, report("b", Interval, 2*time.Second, Aggregate{victim, vector.Inbound, vector.DNS, 4000, 100_000}))
	want := []Observation{{
		Target: victim, Vector: vector.DNS, PPS: 3000, BPS: 4.4e6, AllPPS: 3000, Packets: 4000, Bytes: 100_000,
		Start: t0, Span: 2 * time.Second, Sensors: []string{"a", "b"}, SensorCount: 2,
	}}
	if diff := cmp.Diff(want, got, cmpNet); diff != "" {
		t.Error(diff)
	}
}

// TestAllPPS: what all vectors are together is the total that was told last, or their sum where that is newer; of what
// leaves it is not told.
func TestAllPPS(t *testing.T) {
	v := NewView(options())
	v.Apply(t0, report("a", Interval, time.Second, Aggregate{victim, vector.Inbound, vector.DNS, 1000, 500_000}, Aggregate{victim, vector.Inbound, vector.Total, 6000, 500_000},
		Aggregate{victim, vector.Outbound, vector.ACK, 9000, 500_000}, Aggregate{victim, vector.Outbound, vector.Total, 9000, 500_000}))
	if o := v.Observe(victim, vector.Inbound, vector.DNS); o.AllPPS != 6000 {
		t.Errorf("%v packets/s of all vectors, want 6000", o.AllPPS)
	}
	v.Apply(t0, report("a", Hot, 100*time.Millisecond, Aggregate{victim, vector.Inbound, vector.DNS, 900, 500_000}))
	if o := v.Observe(victim, vector.Inbound, vector.DNS); o.AllPPS != 9000 {
		t.Errorf("%v packets/s of all vectors with 9000 of one, want 9000", o.AllPPS)
	}
	if o := v.Observe(victim, vector.Outbound, vector.ACK); o.AllPPS != 0 {
		t.Errorf("%v packets/s are told of what leaves", o.AllPPS)
	}
}

func TestAbsenceInIntervalReportIsZero(t *testing.T) {
	v := NewView(options())
	v.Apply(t0, report("a", Interval, time.Second, Aggregate{victim, vector.Inbound, vector.DNS, 10, 10}, Aggregate{other, vector.Inbound, vector.SYN, 7, 7}))
	got := v.Apply(t0, report("a", Interval, time.Second, Aggregate{victim, vector.Inbound, vector.DNS, 10, 10}))
	if len(got) != 2 || got[1].Target != other || got[1].PPS != 0 {
		t.Errorf("the target that vanished from the interval report is not seen as silent: %+v", got)
	}
	if n, _ := v.Targets(); n != 1 {
		t.Errorf("%d targets are kept, want 1", n)
	}
}

func TestHotReportSpeaksOfItsTargetOnly(t *testing.T) {
	v := NewView(options())
	v.Apply(t0, report("a", Interval, time.Second, Aggregate{victim, vector.Inbound, vector.DNS, 10, 10}, Aggregate{victim, vector.Inbound, vector.NTP, 5, 5}, Aggregate{other, vector.Inbound, vector.SYN, 7, 7}))
	v.Apply(t0, report("a", Hot, time.Second, Aggregate{victim, vector.Inbound, vector.DNS, 20, 20}))
	for _, tc := range []struct {
		p    netip.Prefix
		v    vector.ID
		want float64
	}{{victim, vector.DNS, 20}, {victim, vector.NTP, 0}, {other, vector.SYN, 7}} {
		if got := v.Observe(tc.p, vector.Inbound, tc.v).PPS; got != tc.want {
			t.Errorf("%s %s = %v pps, want %v", tc.p, tc.v, got, tc.want)
		}
	}
}

func TestTriggerNeverLowersARate(t *testing.T) {
	v := NewView(options())
	v.Apply(t0, report("a", Hot, time.Second, Aggregate{victim, vector.Inbound, vector.DNS, 1000, 1000}))
	v.Apply(t0, report("a", Trigger, 100*time.Millisecond, Aggregate{victim, vector.Inbound, vector.DNS, 50, 50}))
	if got := v.Observe(victim, vector.Inbound, vector.DNS).PPS; got != 1000 {
		t.Errorf("an unfinished window lowered the rate to %v", got)
	}
	v.Apply(t0, report("a", Trigger, 100*time.Millisecond, Aggregate{victim, vector.Inbound, vector.DNS, 500, 500}))
	if got := v.Observe(victim, vector.Inbound, vector.DNS).PPS; got != 5000 {
		t.Errorf("rate = %v, want 5000", got)
	}
}

func TestIntervalReportDoesNotBlurAHotOne(t *testing.T) {
	v := NewView(options())
	hot := report("a", Hot, 100*time.Millisecond, Aggregate{victim, vector.Inbound, vector.DNS, 10_000, 1})
	hot.Start = t0.Add(900 * time.Millisecond)
	v.Apply(t0, hot)
	v.Apply(t0, report("a", Interval, time.Second, Aggregate{victim, vector.Inbound, vector.DNS, 20_000, 1}))
	if got := v.Observe(victim, vector.Inbound, vector.DNS).PPS; got != 100_000 {
		t.Errorf("the average of the interval replaced the newer rate: %v", got)
	}
	next := report("a", Interval, time.Second, Aggregate{victim, vector.Inbound, vector.DNS, 5, 1})
	next.Start = t0.Add(time.Second)
	v.Apply(t0, next)
	if got := v.Observe(victim, vector.Inbound, vector.DNS).PPS; got != 5 {
		t.Errorf("the next interval did not replace the hot rate: %v", got)
	}
}

func TestSilentSensorIsMissingNotZero(t *testing.T) {
	v := NewView(options())
	v.Apply(t0, report("a", Interval, time.Second, Aggregate{victim, vector.Inbound, vector.DNS, 100, 100}))
	v.Apply(t0, report("b", Interval, time.Second, Aggregate{victim, vector.Inbound, vector.DNS, 10, 10}))
	v.Apply(t0.Add(3*time.Second), report("b", Interval, time.Second, Aggregate{victim, vector.Inbound, vector.DNS, 10, 10}))
	if got := v.Tick(t0.Add(3 * time.Second)); got != nil {
		t.Errorf("going stale made observations: %+v", got)
	}
	o := v.Observe(victim, vector.Inbound, vector.DNS)
	if o.PPS != 10 || o.HeldPPS != 100 || len(o.Missing) != 1 || o.Missing[0] != "a" {
		t.Errorf("the share of the silent sensor is not held: %+v", o)
	}
	// It comes back with less: what it says now counts.
	v.Apply(t0.Add(4*time.Second), report("a", Interval, time.Second, Aggregate{victim, vector.Inbound, vector.DNS, 1, 1}))
	if o := v.Observe(victim, vector.Inbound, vector.DNS); o.PPS != 11 || o.HeldPPS != 0 {
		t.Errorf("after its return: %+v", o)
	}
	// It never comes back: forgotten in the end, and that is an observation.
	v.Apply(t0.Add(2*time.Minute), report("b", Interval, time.Second, Aggregate{victim, vector.Inbound, vector.DNS, 10, 10}))
	if got := v.Tick(t0.Add(2 * time.Minute)); len(got) != 1 || got[0].PPS != 10 || got[0].HeldPPS != 0 {
		t.Errorf("after it was forgotten: %+v", got)
	}
}

func TestTargetsAreBounded(t *testing.T) {
	o := options()
	o.MaxTargets = 1
	v := NewView(o)
	v.Apply(t0, report("a", Interval, time.Second, Aggregate{victim, vector.Inbound, vector.DNS, 1, 1}, Aggregate{other, vector.Inbound, vector.SYN, 1, 1}))
	if n, refused := v.Targets(); n != 1 || refused != 1 {
		t.Errorf("targets = %d, refused = %d; want 1 and 1", n, refused)
	}
}
