package engine

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/amooglesoft/trafficmonitor/internal/ingest"
	"github.com/amooglesoft/trafficmonitor/internal/traffic"
	"github.com/amooglesoft/trafficmonitor/internal/vector"
	"github.com/amooglesoft/trafficmonitor/policy"
)

func parsed(t *testing.T, text string) *policy.Policy {
	t.Helper()
	p, err := policy.Parse("policy.yaml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// A response asks about the incident as it is, again and again while the attack goes on.
func TestWhenIsAskedAboutTheIncident(t *testing.T) {
	runWith(t, func(o *Options) {
		o.Policy = parsed(t, `version: 1
thresholds: [{vectors: all-reflection, pps: 20 kpps}]
responses:
  - {vectors: all-reflection, when: 'incident.duration > duration("15s") && incident.pps > 20e3 && incident.sensors == 1', action: rate-limit 1 Mbps}
`)
	}, func(b *bench) {
		attack := func(span time.Duration) {
			for end := time.Now().Add(span); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
				b.report(traffic.Hot, 100*time.Millisecond, 25_000)
			}
		}
		attack(14 * time.Second)
		if got := b.announced(); len(got) != 0 {
			t.Fatalf("announced too early: %q", got)
		}
		attack(12 * time.Second)
		if got := b.announced(); len(got) != 1 || got[0] != dnsRule {
			t.Fatalf("announced %q, want %q", got, dnsRule)
		}
	})
}

// A policy is put in force again while its answer works: the rates are low because of it, and it goes on.
func TestReloadUnderAttackWithConditions(t *testing.T) {
	const text = `version: 1
thresholds: [{vectors: all-reflection, pps: 20 kpps}]
responses: [{vectors: all-reflection, when: incident.pps > 20e3, action: rate-limit 1 Mbps, ttl: 30s, extend: 30s}]
`
	runWith(t, func(o *Options) { o.Policy = parsed(t, text) }, func(b *bench) {
		b.report(traffic.Trigger, 33*time.Millisecond, 25_000)
		for i := range 900 {
			b.report(traffic.Hot, 100*time.Millisecond, 250) // 1 Mbps: what the router lets through
			if time.Sleep(100 * time.Millisecond); i%100 == 50 {
				if err := b.SetPolicy(b.t.Context(), parsed(t, text)); err != nil {
					t.Fatal(err)
				}
			}
			if got := b.announced(); len(got) != 1 || got[0] != dnsRule {
				t.Fatalf("after %d reports: %q", i, got)
			}
		}
		// A policy that would not answer it lets it end.
		if err := b.SetPolicy(b.t.Context(), parsed(t, strings.Replace(text, "20e3,", "200e3,", 1))); err != nil {
			t.Fatal(err)
		}
		for range 700 {
			b.report(traffic.Hot, 100*time.Millisecond, 250)
			time.Sleep(100 * time.Millisecond)
		}
		if got := b.announced(); len(got) != 0 {
			t.Errorf("goes on: %q", got)
		}
	})
}

// web shows five minutes of a web server's normal traffic, n samples of it.
func (b *bench) web(n int) {
	b.t.Helper()
	for range 10 {
		time.Sleep(30 * time.Second)
		list := make([]traffic.Sample, n/10)
		for i := range list {
			list[i] = traffic.Sample{
				Time: time.Now(), Vector: vector.ACK, Weight: 1, Protocol: 6, TTL: 60, Length: 60, TCPFlags: 0x10, HasPorts: true,
				Source: netip.AddrFrom4([4]byte{198, 51, 100, byte(i)}), Destination: victim.Addr(), SourcePort: uint16(20_000 + i), DestinationPort: 443,
			}
		}
		if len(list) > 0 && !b.Deliver(ingest.Delivery{Samples: list, Received: time.Now()}) {
			b.t.Fatal("samples were dropped")
		}
		b.report(traffic.Interval, time.Second, 10)
	}
}

// A cap on collateral, and a condition on it, are held against what is known of the target's normal traffic.
func TestCollateralIsAsked(t *testing.T) {
	const head = "version: 1\nthresholds: [{vectors: all-reflection, pps: 20 kpps}]\n"
	for _, text := range []string{
		head + "responses: [{vectors: all-reflection, ladder: [{action: rate-limit 1 Mbps, max_collateral: 5%}]}]\n",
		head + "responses: [{vectors: all-reflection, when: incident.collateral <= 0.05, action: rate-limit 1 Mbps}]\n",
	} {
		for _, tc := range []struct {
			says   string
			normal func(b *bench)
			rules  int
		}{
			{"none of the normal traffic", func(b *bench) { b.web(500) }, 1},
			{"too few samples to say so", func(b *bench) { b.web(30) }, 0},
			{"no samples", func(b *bench) { b.web(0) }, 0},
			{"all of the normal traffic", func(b *bench) { b.peace() }, 0},
		} {
			runWith(t, func(o *Options) { o.Policy = parsed(t, text) }, func(b *bench) {
				tc.normal(b)
				b.report(traffic.Trigger, 33*time.Millisecond, 25_000)
				if got := b.announced(); len(got) != tc.rules {
					t.Errorf("%s: %q, want %d rules; %s", tc.says, got, tc.rules, b.kinds())
				}
			})
		}
	}
}

// A step that is for later waits, one that needs approval is not taken without.
func TestFirstStep(t *testing.T) {
	for step, after := range map[string]time.Duration{
		"{action: rate-limit 1 Mbps, after: 15s}":        15 * time.Second,
		"{action: rate-limit 1 Mbps}":                    time.Millisecond,
		"{action: rate-limit 1 Mbps, approval: 1}":       0,
		"{action: rate-limit 1 Mbps, scope: edge-1}":     time.Millisecond,
		"{action: notify}, {action: discard, after: 2s}": 2 * time.Second,
	} {
		runWith(t, func(o *Options) {
			o.Policy = parsed(t, "version: 1\nthresholds: [{vectors: all-reflection, pps: 20 kpps}]\nresponses: [{vectors: all-reflection, ladder: ["+step+"]}]\n")
		}, func(b *bench) {
			begin := time.Now()
			for time.Since(begin) < 40*time.Second && len(b.announced()) == 0 {
				b.report(traffic.Hot, 100*time.Millisecond, 25_000)
				time.Sleep(100 * time.Millisecond)
			}
			if took := time.Since(begin); (len(b.announced()) > 0) != (after > 0) || after > 0 && (took < after || took > after+11*time.Second) {
				t.Errorf("%s: announced %q after %s", step, b.announced(), took)
			}
		})
	}
}

// A person is asked once about a vector of an incident, and again about the next incident.
func TestNotify(t *testing.T) {
	runWith(t, func(o *Options) {
		o.Policy = parsed(t, `version: 1
thresholds: [{vectors: all-reflection, pps: 20 kpps, end_after: 1s}]
responses: [{vectors: all-reflection, action: notify}]
`)
	}, func(b *bench) {
		for n := 1; n <= 2; n++ {
			for range 300 {
				b.report(traffic.Hot, 100*time.Millisecond, 25_000)
				time.Sleep(100 * time.Millisecond)
			}
			if asked := strings.Count(b.kinds(), "policy_notify"); asked != n || testutil.ToFloat64(b.metrics.notified) != float64(n) || len(b.announced()) > 0 {
				t.Errorf("attack %d: asked %d times, announced %q: %s", n, asked, b.announced(), b.kinds())
			}
			for range 300 {
				b.report(traffic.Interval, time.Second, 0)
				time.Sleep(time.Second)
			}
		}
	})
}

// A condition that cannot be computed makes no answer; that is counted each time and told once.
func TestConditionThatCannotBeComputed(t *testing.T) {
	runWith(t, func(o *Options) {
		o.Policy = parsed(t, `version: 1
thresholds: [{vectors: all-reflection, pps: 20 kpps}]
responses: [{vectors: all-reflection, when: 1 / (incident.sensors - 1) == 1, action: discard}]
`)
	}, func(b *bench) {
		for range 250 {
			b.report(traffic.Hot, 100*time.Millisecond, 25_000)
			time.Sleep(100 * time.Millisecond)
		}
		if got := b.announced(); len(got) != 0 {
			t.Errorf("announced %q", got)
		}
		if n := testutil.ToFloat64(b.metrics.uncomputed); n < 2 {
			t.Errorf("counted %v times", n)
		}
		if n := strings.Count(b.kinds(), "policy_problem"); n != 1 {
			t.Errorf("told %d times: %s", n, b.kinds())
		}
	})
}
