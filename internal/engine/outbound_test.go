package engine

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/amooglesoft/trafficmonitor/internal/ingest"
	"github.com/amooglesoft/trafficmonitor/internal/traffic"
	"github.com/amooglesoft/trafficmonitor/internal/vector"
)

// A host of ours that floods others is an incident, and no rule is made that would hit what it receives.
func TestWhatLeavesIsOnlyObserved(t *testing.T) {
	run(t, func(b *bench) {
		for range 5 {
			time.Sleep(100 * time.Millisecond)
			now := time.Now()
			b.Deliver(ingest.Delivery{Received: now, Report: traffic.Report{
				Sensor: "rack1", Cause: traffic.Hot, Start: now.Add(-100 * time.Millisecond), Span: 100 * time.Millisecond, Outbound: true,
				Aggregates: []traffic.Aggregate{{Target: victim, Direction: vector.Outbound, Vector: vector.SYN, Packets: 10_000, Bytes: 600_000}},
			}})
			synctest.Wait()
		}
		inc, err := b.Incidents(b.t.Context(), false)
		if err != nil || len(inc) != 1 || inc[0].Direction != vector.Outbound || inc[0].Target != victim {
			t.Fatalf("incidents: %+v %v", inc, err)
		}
		if got := b.announced(); len(got) != 0 {
			t.Errorf("announced %q", got)
		}
		list, err := b.Explain(b.t.Context(), victim)
		if text := strings.Join(list, "\n"); err != nil || !strings.Contains(text, "What leaves is only observed.") || strings.Contains(text, "is answered with") {
			t.Errorf("explained as:\n%s", text)
		}
		if k := b.kinds(); strings.Count(k, "mitigation_observed") != 1 {
			t.Errorf("events: %s", k)
		}
	})
}

// Sensors are told what to report at once in both directions.
func TestTriggersOfBothDirections(t *testing.T) {
	run(t, func(b *bench) {
		found := map[vector.Direction]uint64{}
		for _, tr := range b.directives[len(b.directives)-1].Triggers {
			if tr.Vector == vector.SYN {
				found[tr.Direction] = tr.PPS
			}
		}
		if found[vector.Inbound] != 20_000 || found[vector.Outbound] != 10_000 {
			t.Errorf("triggers of syn: %v; questions are reported before their answers pass a limit", found)
		}
	})
}
