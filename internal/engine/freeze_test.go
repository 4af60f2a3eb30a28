package engine

import (
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/amooglesoft/trafficmonitor/internal/mitigation"
	"github.com/amooglesoft/trafficmonitor/internal/traffic"
	"github.com/amooglesoft/trafficmonitor/policy"
)

func TestFreezeOfAGroupStopsAutomationThere(t *testing.T) {
	run(t, func(b *bench) {
		ctx := b.t.Context()
		parse := func(groups string) *policy.Policy {
			p, err := policy.Parse("groups", []byte("version: 1\nthresholds:\n  - {vectors: [all-reflection], pps: 20 kpps}\nresponses:\n  - {vectors: [all-reflection], action: rate-limit 1 Mbps}\n"+groups))
			if err != nil {
				t.Fatal(err)
			}
			return p
		}
		if err := b.SetPolicy(ctx, parse("groups:\n  web: {prefixes: [192.0.2.1/32]}\n")); err != nil {
			t.Fatal(err)
		}
		var unknown *NoGroupError
		if _, err := b.FreezeGroup(ctx, "wep", "ann", "test"); !errors.As(err, &unknown) || !strings.Contains(err.Error(), "did you mean web?") {
			t.Errorf("freeze of a group that there is not: %v", err)
		}
		if _, err := b.FreezeGroup(ctx, "web", "ann", "test"); err != nil {
			t.Fatal(err)
		}
		b.report(traffic.Trigger, 33*time.Millisecond, 25_000)
		if got := b.announced(); len(got) != 0 {
			t.Errorf("frozen automation announced %q", got)
		}
		said, err := b.Explain(ctx, victim)
		if all := strings.Join(said, "\n"); err != nil || !strings.Contains(all, "Automation is frozen in group web since") || !strings.Contains(all, "frozen in group web since 20") {
			t.Errorf("explain: %v\n%s", err, all)
		}

		// A policy without the group leaves nothing frozen, and the freeze can still be lifted.
		if err := b.SetPolicy(ctx, parse("")); err != nil {
			t.Fatal(err)
		}
		b.report(traffic.Trigger, 33*time.Millisecond, 25_000)
		synctest.Wait()
		if got := b.announced(); len(got) != 1 {
			t.Errorf("announced %q", got)
		}
		if err := b.UnfreezeGroup(ctx, "web", "ann", "done"); err != nil {
			t.Error(err)
		}
		if err := b.UnfreezeGroup(ctx, "web", "ann", "done"); !errors.Is(err, mitigation.ErrNotFound) {
			t.Errorf("lifted twice: %v", err)
		}
		if !strings.Contains(b.kinds(), "group_freeze_set") || !strings.Contains(b.kinds(), "group_freeze_lifted") {
			t.Errorf("events: %s", b.kinds())
		}
	})
}
