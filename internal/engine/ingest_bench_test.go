package engine

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/amooglesoft/trafficmonitor/internal/audit"
	"github.com/amooglesoft/trafficmonitor/internal/baseline"
	"github.com/amooglesoft/trafficmonitor/internal/breaker"
	"github.com/amooglesoft/trafficmonitor/internal/ingest"
	"github.com/amooglesoft/trafficmonitor/internal/safety"
	"github.com/amooglesoft/trafficmonitor/internal/traffic"
	"github.com/amooglesoft/trafficmonitor/internal/vector"
	"github.com/amooglesoft/trafficmonitor/policy"
)

// fleet is the interval reports of n sensors: so many targets each, with four vectors and the total in each direction.
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
				n := 4 * uint64(100+k%900)
				r.Aggregates = append(r.Aggregates, traffic.Aggregate{Target: p, Direction: d, Vector: vector.Total, Packets: n, Bytes: n * 700})
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

// production is the breaker as the configuration sets it by default, but that the targets' rates are known after 2 s instead of half
// a minute, so that what all send together is judged, too, in a short run; and that it only tells, for each trigger is one sensor's.
func production() *breaker.Options {
	return &breaker.Options{
		Span: time.Minute, Settle: 3 * time.Second, Agreement: 0.05, DisputedTargets: 10, OneSensorTargets: 30, OnDisagreement: breaker.Tell,
		Before: 2 * time.Second, FallWithin: 30 * time.Second, FallFor: 10 * time.Second,
		TargetFall: 0.6, OnTargetFall: breaker.Tell, TotalFall: 0.4, TotalTargets: 10, OnTotalFall: breaker.Tell, MaxTargets: 200_000,
	}
}

const benchSensors, benchTargets, benchSeconds, benchTurns = 10_000, 15, 9, 5

// BenchmarkIngest10kSensors runs the real loop, leading, while 10,000 sensors report 15 targets a second each, and measures from a
// trigger handed to the queue to the incident: with the breaker and without it by turns, each turn with an engine of its own. It
// reports the median of the turns, and logs each. A time is no test: see docs/scaling.md.
func BenchmarkIngest10kSensors(b *testing.B) {
	reports := fleet(benchSensors, benchTargets)
	for b.Loop() {
		turns := map[string][]map[string]float64{}
		for i := range benchTurns {
			for _, name := range []string{"on", "off"} {
				o := production()
				if name == "off" {
					o = nil
				}
				figures := ingestTurn(b, reports, o)
				turns[name] = append(turns[name], figures)
				b.Logf("turn %d, breaker %-3s: %s", i+1, name, figuresOf(figures))
				runtime.GC()
			}
		}
		for name, of := range turns {
			for unit := range of[0] {
				var all []float64
				for _, f := range of {
					all = append(all, f[unit])
				}
				slices.Sort(all)
				b.ReportMetric(all[len(all)/2], name+"/"+unit)
			}
		}
	}
}

func figuresOf(figures map[string]float64) string {
	var out []string
	for _, unit := range slices.Sorted(maps.Keys(figures)) {
		out = append(out, fmt.Sprintf("%.4g %s", figures[unit], unit))
	}
	return strings.Join(out, ", ")
}

// ingestTurn is one engine's figures, after three seconds in which its view fills.
func ingestTurn(b *testing.B, reports []traffic.Report, breaks *breaker.Options) map[string]float64 {
	limits := safety.Defaults()
	limits.Own = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}
	var mu sync.Mutex
	decided := map[string]time.Time{}
	e := New(Options{
		Own: limits.Own, Safety: limits, Policy: policy.Default(), Baseline: baseline.New(baseline.Options{MaxKeys: 10_000}),
		Traffic: traffic.Options{MaxTargets: 200_000, StaleAfter: 3 * time.Second, ForgetAfter: 10 * time.Minute},
		Keep:    time.Hour, CommitTimeout: time.Second, RetryAfter: 10 * time.Second, Breaker: breaks, BreakerHold: time.Minute,
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
	var tasks sync.WaitGroup
	tasks.Go(func() { _ = e.Run(ctx) })
	tasks.Go(func() { _ = e.Lead(ctx, newTerm()) })
	defer tasks.Wait()
	defer cancel()
	round := func(second int, handed map[string]time.Time) (dropped int) {
		began := time.Now()
		for i := range reports {
			if ahead := time.Duration(i)*time.Second/benchSensors - time.Since(began); ahead > time.Millisecond {
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
	for range 3 {
		round(0, nil)
	}
	handed := map[string]time.Time{}
	before, began, dropped := processorTime(), time.Now(), 0
	for s := range benchSeconds {
		dropped += round(s, handed)
	}
	took := time.Since(began).Seconds()
	cpu := (processorTime() - before).Seconds()
	_ = e.do(ctx, func(time.Time) error { return nil })
	var waits []time.Duration
	mu.Lock()
	defer mu.Unlock()
	for target, at := range handed {
		if t, ok := decided[target]; ok {
			waits = append(waits, t.Sub(at))
		}
	}
	slices.Sort(waits)
	if len(waits) == 0 {
		b.Fatal("no trigger was decided")
	}
	ms := func(q float64) float64 { return waits[int(q*float64(len(waits)-1))].Seconds() * 1000 }
	flows := 0.0
	if breaks != nil {
		_ = e.do(ctx, func(time.Time) error { flows = float64(e.breaker.Flows()); return nil })
	}
	return map[string]float64{
		"reports/s": benchSensors * benchSeconds / took, "cores": cpu / took, "dropped": float64(dropped), "undecided": float64(len(handed) - len(waits)),
		"p50-ms": ms(0.5), "p99-ms": ms(0.99), "max-ms": ms(1), "B/target": float64(e.view.Bytes()) / (benchSensors * benchTargets), "flows": flows,
	}
}
