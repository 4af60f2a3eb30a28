package engine

import (
	"context"
	"testing"
	"time"

	"github.com/amooglesoft/trafficmonitor/internal/baseline"
	"github.com/amooglesoft/trafficmonitor/internal/traffic"
	"github.com/amooglesoft/trafficmonitor/internal/vector"
)

// busy shows a target that receives so much for a span, a report every ten seconds.
func (b *bench) busy(span time.Duration, pps uint64) {
	b.t.Helper()
	for range span / (10 * time.Second) {
		time.Sleep(10 * time.Second)
		b.report(traffic.Interval, time.Second, pps)
	}
}

func learning(o *Options) {
	o.Baseline = baseline.New(baseline.Options{MaxKeys: 100, Ready: time.Hour})
	o.Traffic.StaleAfter = 30 * time.Second
}

// A target whose normal is known may pass the limit, up to twice its normal; and what is learnt is kept.
func TestLearntTargetIsNotAttacked(t *testing.T) {
	runWith(t, learning, func(b *bench) {
		b.busy(3*time.Hour, 15_000)
		b.report(traffic.Interval, time.Second, 28_000)
		if got := b.announced(); len(got) != 0 {
			t.Fatalf("less than twice what is normal is answered: %q", got)
		}
		snapshot, err := b.Baseline(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		again := baseline.New(baseline.Options{MaxKeys: 100, Ready: time.Hour})
		if err := again.Load(snapshot); err != nil {
			t.Fatal(err)
		}
		if pps, _, ok := again.Normal(time.Now(), victim, vector.Inbound, vector.DNS); !ok || pps < 14_000 || pps > 16_000 {
			t.Errorf("after a restart %.0f packets/s are normal, known %v", pps, ok)
		}
		b.report(traffic.Interval, time.Second, 35_000)
		if got := b.announced(); len(got) != 1 {
			t.Errorf("more than twice what is normal: announced %q", got)
		}
	})
}

func TestUnknownTargetIsHeldToTheLimit(t *testing.T) {
	runWith(t, learning, func(b *bench) {
		b.report(traffic.Interval, time.Second, 28_000)
		if got := b.announced(); len(got) != 1 {
			t.Errorf("announced %q", got)
		}
	})
}

// An attack, also what comes through behind its mitigation, is not learnt from.
func TestAttackIsNotLearnt(t *testing.T) {
	runWith(t, learning, func(b *bench) {
		b.busy(3*time.Hour, 1000)
		b.report(traffic.Trigger, 33*time.Millisecond, 25_000)
		b.busy(2*time.Hour, 19_000)
		pps := 0.0
		_ = b.do(context.Background(), func(now time.Time) error {
			pps, _, _ = b.o.Baseline.Normal(now, victim, vector.Inbound, vector.DNS)
			return nil
		})
		if pps > 1100 {
			t.Errorf("two hours of an attack make %.0f packets/s normal", pps)
		}
	})
}
