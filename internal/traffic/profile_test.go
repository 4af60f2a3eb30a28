package traffic

import (
	"testing"
	"time"

	"github.com/amooglesoft/trafficmonitor/internal/vector"
)

func TestOutboundIsNotReceived(t *testing.T) {
	v := NewView(options())
	v.Apply(t0, report("a", Interval, time.Second, Aggregate{victim, vector.Inbound, vector.DNS, 10, 1000}, Aggregate{victim, vector.Outbound, vector.DNS, 1_000_000, 1}))
	if got := v.Observe(victim, vector.Inbound, vector.DNS); got.PPS != 10 {
		t.Errorf("observed %v packets per second inbound, want 10", got.PPS)
	}
	if got := v.Observe(victim, vector.Outbound, vector.DNS); got.PPS != 1_000_000 || got.Direction != vector.Outbound {
		t.Errorf("observed %+v outbound, want 1000000", got)
	}
}

func TestClassesOfAProfile(t *testing.T) {
	for length, want := range map[int]int{0: 0, 64: 0, 65: 1, 128: 1, 256: 2, 512: 3, 1024: 4, 1025: 5, 1280: 5, 1281: 6, 1500: 6, 1501: 7, 70_000: 7} {
		if got := LengthClass(length); got != want {
			t.Errorf("length %d is of class %d, want %d", length, got, want)
		}
	}
	for ttl, want := range map[uint8]int{0: 0, 31: 0, 32: 1, 64: 2, 128: 4, 255: 7} {
		if got := TTLClass(ttl); got != want {
			t.Errorf("TTL %d is of class %d, want %d", ttl, got, want)
		}
	}
}

func TestPast(t *testing.T) {
	for _, tc := range []struct {
		merged int
		span   time.Duration
		want   bool
	}{{0, time.Minute, false}, {1, time.Minute, false}, {2, 2 * time.Second, false}, {2, 4 * time.Second, true}} {
		if got := (Report{Merged: tc.merged, Span: tc.span}).Past(3 * time.Second); got != tc.want {
			t.Errorf("%d reports in %s: %v", tc.merged, tc.span, got)
		}
	}
}
