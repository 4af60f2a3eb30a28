package engine

import (
	"fmt"
	"log/slog"
	"net/netip"
	"testing"
	"time"

	"github.com/amooglesoft/trafficmonitor/internal/audit"
	"github.com/amooglesoft/trafficmonitor/internal/ingest"
	"github.com/amooglesoft/trafficmonitor/internal/mitigation"
	"github.com/amooglesoft/trafficmonitor/internal/route"
	"github.com/amooglesoft/trafficmonitor/internal/safety"
	"github.com/amooglesoft/trafficmonitor/internal/signature"
	"github.com/amooglesoft/trafficmonitor/internal/traffic"
	"github.com/amooglesoft/trafficmonitor/internal/vector"
	"github.com/amooglesoft/trafficmonitor/policy"
	"github.com/prometheus/client_golang/prometheus"
)

func loaded(b *testing.B, n, ended int) *Engine {
	limits := safety.Defaults()
	limits.Own = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}
	e := New(Options{
		Own: limits.Own, Safety: limits, Policy: policy.Default(),
		Traffic: traffic.Options{MaxTargets: 200_000, StaleAfter: 3 * time.Second, ForgetAfter: 10 * time.Minute},
		Keep:    time.Hour, CommitTimeout: time.Second, RetryAfter: 10 * time.Second,
		Direct: func(d *ingest.Directive) {}, Emit: func(kind audit.Kind, _ string, _ map[string]string) {},
		Log: slog.New(slog.DiscardHandler), Registerer: prometheus.NewRegistry(),
	})
	var rec mitigation.Records
	now := time.Now()
	for i := range n + ended {
		p := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}), 32)
		m := mitigation.Mitigation{
			ID: fmt.Sprintf("m-%d", i), Target: p, State: mitigation.Active, Vectors: []vector.ID{vector.DNS}, Requester: mitigation.Automation,
			Routes:  []route.Route{{Match: signature.For(p, vector.DNS).Match, Action: route.Action{Kind: route.RateBytes, Rate: 125000}}},
			Created: now.Add(-time.Duration(i) * time.Second), Deadline: now.Add(20 * time.Hour), MaxDeadline: now.Add(23 * time.Hour), Extend: time.Minute,
		}
		if i >= n {
			m.State = mitigation.Ended
		}
		rec.Mitigations = append(rec.Mitigations, m)
	}
	e.machine = mitigation.New(rec)
	return e
}

func BenchmarkLoop(b *testing.B) {
	e := loaded(b, 1000, 10000)
	now := time.Now()
	p := netip.MustParsePrefix("10.0.0.1/32")
	d := ingest.Delivery{Report: traffic.Report{Sensor: "a", Cause: traffic.Hot, Start: now, Span: 100 * time.Millisecond, Aggregates: []traffic.Aggregate{{Target: p, Vector: vector.DNS, Packets: 20, Bytes: 10000}}}, Received: now}
	b.Run("report", func(b *testing.B) {
		for b.Loop() {
			e.report(d)
		}
	})
	b.Run("untilNext", func(b *testing.B) {
		for b.Loop() {
			e.untilNext(now)
		}
	})
	b.Run("check", func(b *testing.B) {
		for b.Loop() {
			e.check(now, "m-1")
		}
	})
	b.Run("enforce", func(b *testing.B) {
		for b.Loop() {
			e.enforceSafety(now)
		}
	})
	b.Run("mask", func(b *testing.B) {
		for b.Loop() {
			e.mask(now)
		}
	})
	b.Run("machineTick", func(b *testing.B) {
		for b.Loop() {
			e.machine.Tick(now, nil)
		}
	})
}

// Two thousand reports a second and more must not keep the loop from a deadline.
func TestDeadlineUnderLoad(t *testing.T) {
	run(t, func(b *bench) {
		p, err := policy.Parse("t.yaml", []byte("version: 1\nthresholds:\n  - vectors: all-reflection\n    pps: 1 kpps\nresponses:\n  - vectors: all\n    action: rate-limit 1 Mbps\n    ttl: 10s\n    extend: 0s\n"))
		if err != nil {
			t.Fatal(err)
		}
		if err := b.SetPolicy(b.t.Context(), p); err != nil {
			t.Fatal(err)
		}
		b.report(traffic.Trigger, 33*time.Millisecond, 25_000)
		began := time.Now()
		for len(b.announced()) > 0 && time.Since(began) < 20*time.Second {
			b.report(traffic.Interval, time.Second, 10)
			time.Sleep(400 * time.Microsecond)
		}
		if d := time.Since(began); d < 10*time.Second || d > 10*time.Second+10*time.Millisecond {
			t.Errorf("the rule of 10s ended after %s", d)
		}
	})
}
