package engine

import (
	"context"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/amooglesoft/trafficmonitor/internal/ingest"
	"github.com/amooglesoft/trafficmonitor/internal/traffic"
	"github.com/amooglesoft/trafficmonitor/internal/vector"
)

func TestSamplesAreKept(t *testing.T) {
	run(t, func(b *bench) {
		now := time.Now()
		sample := traffic.Sample{Time: now, Vector: vector.DNS, Weight: 64, Source: netip.MustParseAddr("198.51.100.7"), Destination: victim.Addr(), Length: 500, Protocol: 17}
		nowhere := sample
		nowhere.Source = netip.Addr{}
		if !b.Deliver(ingest.Delivery{Samples: []traffic.Sample{sample, nowhere}, Received: now}) {
			t.Fatal("dropped")
		}
		synctest.Wait()
		var kept []traffic.Sample
		_ = b.do(context.Background(), func(time.Time) error {
			kept = b.samples.Attack(victim, vector.Inbound, vector.DNS, now)
			return nil
		})
		if len(kept) != 1 || kept[0].Source != sample.Source {
			t.Errorf("kept %+v", kept)
		}
		if err := testutil.GatherAndCompare(b.reg, strings.NewReader(`
# HELP trafficmonitor_sample_store_dropped_total Sampled packets not kept: no room for a target as light, or too old.
# TYPE trafficmonitor_sample_store_dropped_total counter
trafficmonitor_sample_store_dropped_total 1
# HELP trafficmonitor_sample_store_targets Targets, each direction being one, whose sampled packets are kept.
# TYPE trafficmonitor_sample_store_targets gauge
trafficmonitor_sample_store_targets 1
`), "trafficmonitor_sample_store_targets", "trafficmonitor_sample_store_dropped_total"); err != nil {
			t.Error(err)
		}
	})
}

// More samples than can be taken in take no room from reports.
func TestSamplesNeverCrowdOutReports(t *testing.T) {
	b := &Engine{reports: make(chan ingest.Delivery, 1), sampled: make(chan ingest.Delivery, sampleQueue)}
	for i := range sampleQueue + 1 {
		if took := b.Deliver(ingest.Delivery{Samples: make([]traffic.Sample, 1)}); took != (i < sampleQueue) {
			t.Fatalf("delivery %d: taken %v", i, took)
		}
	}
	if !b.Deliver(ingest.Delivery{}) {
		t.Error("a report is dropped for samples")
	}
}
