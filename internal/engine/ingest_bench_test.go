package engine

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/amooglesoft/trafficmonitor/internal/audit"
	"github.com/amooglesoft/trafficmonitor/internal/baseline"
	"github.com/amooglesoft/trafficmonitor/internal/ingest"
	"github.com/amooglesoft/trafficmonitor/internal/safety"
	"github.com/amooglesoft/trafficmonitor/internal/traffic"
	"github.com/amooglesoft/trafficmonitor/internal/vector"
	"github.com/amooglesoft/trafficmonitor/policy"
)

// fleet is the interval reports of n sensors: so many targets each, with four vectors in each direction.
func fleet(n, targets int) []traffic.Report {
	in := []vector.ID{vector.ACK, vector.SYN, vector.UDPOther, vector.DNS}
	out := make([]traffic.Report, n)
	for i := range out {
		r := traffic.Report{Sensor: fmt.Sprintf("rack%d", i), Cause: traffic.Interval, Span: time.Second, Outbound: true}
		for j := range targets {
			k := i*targets + j
			p := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(k >> 16), byte(k >> 8), byte(k)}), 32)
			for _, d := range []vector.Direction{vector.Inbound, vector.Outbound} {
				for _, v := range in {
					r.Aggregates = append(r.Aggregates, traffic.Aggregate{Target: p, Direction: d, Vector: v, Packets: uint64(100 + k%900), Bytes: uint64(100+k%900) * 700})
				}
			}
		}
		out[i] = r
	}
	return out
}

func processorTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkIngest10kSensors runs the real loop while 10,000 sensors report 15 targets a second each, and measures from a trigger
// handed to the queue to the incident. A time is no test: see docs/scaling.md.
func BenchmarkIngest10kSensors(b *testing.B) {
	const sensors, targets, seconds = 10_000, 15, 15
	limits := safety.Defaults()
	limits.Own = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}
	var mu sync.Mutex
	decided := map[string]time.Time{}
	e := New(Options{
		Own: limits.Own, Safety: limits, Policy: policy.Default(), Baseline: baseline.New(baseline.Options{MaxKeys: 10_000}),
		Traffic: traffic.Options{MaxTargets: 200_000, StaleAfter: 3 * time.Second, ForgetAfter: 10 * time.Minute},
		Keep:    time.Hour, CommitTimeout: time.Second, RetryAfter: 10 * time.Second,
		Direct: func(*ingest.Directive) {},
		Emit: func(kind audit.Kind, _ string, about map[string]string) {
			if kind == audit.IncidentOnset {
				mu.Lock()
				defer mu.Unlock()
				decided[about["target"]] = time.Now()
			}
		},
		Log: slog.New(slog.DiscardHandler), Registerer: prometheus.NewRegistry(),
	})
	ctx, cancel := context.WithCancel(b.Context())
	done := make(chan struct{})
	go func() { defer close(done); _ = e.Run(ctx) }()
	reports := fleet(sensors, targets)
	round := func(second int, handed map[string]time.Time) (dropped int) {
		began := time.Now()
		for i := range reports {
			if ahead := time.Duration(i)*time.Second/sensors - time.Since(began); ahead > time.Millisecond {
				time.Sleep(ahead)
			}
			now := time.Now()
			reports[i].Start = now.Add(-time.Second)
			if !e.Deliver(ingest.Delivery{Report: reports[i], Received: now}) {
				dropped++
			}
			if handed != nil && i%500 == 250 {
				p := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 200, byte(second), byte(i / 500)}), 32)
				handed[p.String()] = now
				e.Deliver(ingest.Delivery{Received: now, Triggered: now, Report: traffic.Report{
					Sensor: reports[i].Sensor, Cause: traffic.Trigger, Start: now.Add(-7 * time.Millisecond), Span: 32 * time.Millisecond, Outbound: true,
					Aggregates: []traffic.Aggregate{{Target: p, Vector: vector.NTP, Packets: 640, Bytes: 640 * 468}},
				}})
			}
		}
		return dropped
	}
	round(0, nil) // the view is full, as after a second
	for b.Loop() {
		handed := map[string]time.Time{}
		before, began, dropped := processorTime(), time.Now(), 0
		for s := range seconds {
			dropped += round(s, handed)
		}
		took := time.Since(began).Seconds()
		cpu := (processorTime() - before).Seconds()
		_ = e.do(ctx, func(time.Time) error { return nil })
		var waits []time.Duration
		mu.Lock()
		for target, at := range handed {
			if t, ok := decided[target]; ok {
				waits = append(waits, t.Sub(at))
			}
		}
		mu.Unlock()
		slices.Sort(waits)
		if len(waits) == 0 {
			b.Fatal("no trigger was decided")
		}
		ms := func(q float64) float64 { return waits[int(q*float64(len(waits)-1))].Seconds() * 1000 }
		b.ReportMetric(sensors*seconds/took, "reports/s")
		b.ReportMetric(cpu/took, "cores")
		b.ReportMetric(float64(dropped), "dropped")
		b.ReportMetric(float64(len(handed)-len(waits)), "undecided")
		b.ReportMetric(ms(0.5), "p50-ms")
		b.ReportMetric(ms(0.99), "p99-ms")
		b.ReportMetric(ms(1), "max-ms")
		b.ReportMetric(float64(e.view.Bytes())/float64(sensors*targets), "B/target")
	}
	cancel()
	<-done
}
