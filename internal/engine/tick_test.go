package engine

import (
	"slices"
	"testing"
	"time"

	"github.com/amooglesoft/trafficmonitor/internal/ingest"
	"github.com/amooglesoft/trafficmonitor/internal/traffic"
	"github.com/amooglesoft/trafficmonitor/internal/vector"
)

// The loop must look at the time though reports never cease: two sensors a second are enough to keep it awake for ever.
func TestReportsDoNotKeepTheClockFromTheLoop(t *testing.T) {
	run(t, func(b *bench) {
		now := time.Now()
		b.Deliver(ingest.Delivery{Received: now, Report: traffic.Report{
			Sensor: "rack2", Cause: traffic.Interval, Start: now.Add(-time.Second), Span: time.Second,
			Aggregates: []traffic.Aggregate{{Target: victim, Vector: vector.DNS, Packets: 10, Bytes: 1000}},
		}})
		for range 10 { // of rack1, while rack2 is silent
			time.Sleep(500 * time.Millisecond)
			b.report(traffic.Interval, 500*time.Millisecond, 10)
		}
		var stale []string
		_ = b.do(b.t.Context(), func(time.Time) error { stale = b.view.Stale(); return nil })
		if !slices.Equal(stale, []string{"rack2"}) {
			t.Errorf("stale are %q after 5 s of silence of rack2", stale)
		}
	})
}
