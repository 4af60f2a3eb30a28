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

// What a busy target receives anyway fills the rule's limit, and must not keep it up for a day.
func TestOwnTrafficKeepsNoRule(t *testing.T) {
	runWith(t, learning, func(b *bench) {
		b.busy(3*time.Hour, 1200) // 4.8 Mbps
		b.report(traffic.Trigger, 33*time.Millisecond, 25_000)
		if got := b.announced(); len(got) != 1 {
			t.Fatalf("announced %q", got)
		}
		b.busy(15*time.Minute, 250) // all that the rule lets through: 1 Mbps
		if got := b.announced(); len(got) != 0 {
			t.Errorf("after 15 minutes of nothing but its own traffic still announced: %q", got)
		}
		b.busy(time.Minute, 1200)
		if got := b.announced(); len(got) != 0 {
			t.Errorf("its own traffic is answered: %q", got)
		}
	})
}

// The attack goes on when the rule ends in doubt: it is answered again within moments.
func TestAttackBehindOwnTrafficIsAnsweredAgain(t *testing.T) {
	runWith(t, learning, func(b *bench) {
		b.busy(3*time.Hour, 1200)
		b.report(traffic.Trigger, 33*time.Millisecond, 25_000)
		b.busy(10*time.Minute, 250)
		time.Sleep(time.Second)
		if got := b.announced(); len(got) != 0 {
			t.Fatalf("announced %q", got)
		}
		b.report(traffic.Trigger, 33*time.Millisecond, 25_000)
		if got := b.announced(); len(got) != 1 {
			t.Errorf("the attack goes on, announced %q", got)
		}
	})
}
