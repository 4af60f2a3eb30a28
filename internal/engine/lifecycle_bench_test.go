package engine

import (
	"fmt"
	"log/slog"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/amooglesoft/trafficmonitor/internal/audit"
	"github.com/amooglesoft/trafficmonitor/internal/ingest"
	"github.com/amooglesoft/trafficmonitor/internal/mitigation"
	"github.com/amooglesoft/trafficmonitor/internal/route"
	"github.com/amooglesoft/trafficmonitor/internal/safety"
	"github.com/amooglesoft/trafficmonitor/internal/signature"
	"github.com/amooglesoft/trafficmonitor/internal/traffic"
	"github.com/amooglesoft/trafficmonitor/internal/vector"
	"github.com/amooglesoft/trafficmonitor/policy"
)

// BenchmarkManyMitigations lets so many mitigations be active, so many more start one after the other, and then the ladders of these be
// due at once. It measures each start, each look, and how many looks pass until the last step was taken; a look comes a second after the
// one before where nothing else is due. Where they are refused, each step is, and a further start after each one. What is stored is kept
// in memory.
func BenchmarkManyMitigations(b *testing.B) {
	for _, size := range []struct {
		active, starting int
		refused          bool
	}{{1000, 100, false}, {10_000, 100, false}, {1000, 100, true}, {10_000, 100, true}} {
		b.Run(fmt.Sprintf("active=%d/starting=%d/refused=%v", size.active, size.starting, size.refused), func(b *testing.B) {
			var starts, looks []time.Duration
			taken := 0
			var heap uint64
			for b.Loop() {
				e, steps := crowd(b, size.active, size.refused)
				now := time.Now()
				start := func(p netip.Prefix) {
					began := time.Now()
					e.report(ingest.Delivery{Received: began, Triggered: began, Report: traffic.Report{
						Sensor: "rack1", Cause: traffic.Trigger, Start: began.Add(-33 * time.Millisecond), Span: 33 * time.Millisecond,
						Aggregates: []traffic.Aggregate{{Target: p, Vector: vector.DNS, Packets: 25_000, Bytes: 25_000 * 500}},
					}})
					starts = append(starts, time.Since(began))
				}
				for i := range size.starting {
					start(netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 200, byte(i >> 8), byte(i)}), 32))
					if size.refused {
						start(netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 201, byte(i >> 8), byte(i)}), 32))
					}
				}
				if n := len(e.machine.Active()); n != size.active+size.starting {
					b.Fatalf("%d are active, want %d", n, size.active+size.starting)
				}
				now = now.Add(time.Since(now) + 6*time.Second)
				again := traffic.Report{Sensor: "rack1", Cause: traffic.Interval, Start: now.Add(-time.Second), Span: time.Second}
				for i := range size.starting {
					p := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 200, byte(i >> 8), byte(i)}), 32)
					again.Aggregates = append(again.Aggregates, traffic.Aggregate{Target: p, Vector: vector.DNS, Packets: 750_000, Bytes: 750_000 * 500})
				}
				for range 2 { // two whole windows say that the answer does not help
					e.view.Take(now, again)
					e.observe(now, origin{})
					now = now.Add(time.Second)
					again.Start = again.Start.Add(time.Second)
				}
				taken = 0
				for *steps < size.starting {
					if taken++; taken > size.starting {
						b.Fatalf("%d of %d steps in %d looks", *steps, size.starting, taken)
					}
					began := time.Now()
					e.tick(now)
					looks = append(looks, time.Since(began))
					now = now.Add(10 * time.Millisecond)
				}
				runtime.GC()
				var mem runtime.MemStats
				runtime.ReadMemStats(&mem)
				heap = mem.HeapAlloc
				runtime.KeepAlive(e)
			}
			slices.Sort(starts)
			slices.Sort(looks)
			ms := func(of []time.Duration, q float64) float64 {
				return of[int(q*float64(len(of)-1))].Seconds() * 1000
			}
			b.ReportMetric(ms(starts, 0.5), "start-p50-ms")
			b.ReportMetric(ms(starts, 1), "start-max-ms")
			b.ReportMetric(ms(looks, 0.5), "look-p50-ms")
			b.ReportMetric(ms(looks, 1), "look-max-ms")
			b.ReportMetric(float64(taken), "looks")
			b.ReportMetric(float64(heap)/1e6, "heap-MB")
		})
	}
}

// crowd is an engine that leads with so many active mitigations of single-step responses, under a policy whose second step is due after
// five seconds. Steps counts those taken or, where they and starts in 10.201.0.0/16 are to be refused, those that are.
func crowd(b *testing.B, active int, refused bool) (e *Engine, steps *int) {
	second := "discard"
	if refused {
		second = "blackhole"
	}
	pol, err := policy.Parse("bench.yaml", []byte("version: 1\nthresholds: [{vectors: all-reflection, pps: 20 kpps}]\nresponses: [{vectors: all-reflection, ladder: [{action: rate-limit 1 Mbps}, {action: "+second+", after: 5s, if: evidence.reduction < 0.9}]}]\n"))
	if err != nil {
		b.Fatal(err)
	}
	limits := safety.Defaults()
	limits.Own = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}
	limits.MaxRules, limits.MaxNewPerMinute, limits.MaxRulesPerOwner, limits.MaxRulesPerResponse, limits.MaxRulesPerGroup = 100_000, 100_000, 100_000, 100_000, 100_000
	if refused {
		limits.Never, limits.MaxOwnShare = append(limits.Never, netip.MustParsePrefix("10.201.0.0/16")), 1e-9
	}
	steps = new(int)
	e = New(Options{
		Own: limits.Own, Safety: limits, Policy: pol,
		Traffic: traffic.Options{MaxTargets: 200_000, StaleAfter: 3 * time.Second, ForgetAfter: 10 * time.Minute},
		Keep:    time.Hour, CommitTimeout: time.Second, RetryAfter: 10 * time.Second, Direct: func(*ingest.Directive) {},
		Emit: func(kind audit.Kind, text string, _ map[string]string) {
			switch {
			case kind == audit.MitigationEscalated, refused && strings.Contains(text, string(safety.QuotaOwnShare)):
				*steps++
			case refused && strings.Contains(text, string(safety.Protected)):
			case kind == audit.MitigationRefused && !strings.Contains(text, "withheld"):
				b.Fatal(text)
			}
		},
		Log: slog.New(slog.DiscardHandler), Registerer: prometheus.NewRegistry(),
	})
	now := time.Now()
	var rec mitigation.Records
	for i := range active {
		p := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}), 32)
		rec.Mitigations = append(rec.Mitigations, mitigation.Mitigation{
			ID: fmt.Sprintf("m-%d", i), Target: p, State: mitigation.Active, Phase: mitigation.Announced, Vectors: []vector.ID{vector.NTP}, Requester: mitigation.Automation,
			Routes:  []route.Route{{Match: signature.For(p, vector.NTP).Match, Action: route.Action{Kind: route.RateBytes, Rate: 125_000}}},
			Created: now.Add(-time.Hour), Deadline: now.Add(20 * time.Hour), MaxDeadline: now.Add(22 * time.Hour), Extend: time.Minute,
		})
	}
	e.lead = &leadership{Term: newTerm(), ctx: b.Context(), records: rec, failed: make(chan error, 1)}
	e.machine = e.newMachine(rec)
	e.mask(now)
	e.tick(now) // as who begins to lead does
	return e, steps
}
