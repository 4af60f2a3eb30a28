package engine

import (
	"context"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/amooglesoft/trafficmonitor/internal/mitigation"
	"github.com/amooglesoft/trafficmonitor/internal/traffic"
)

func TestExplain(t *testing.T) {
	run(t, func(b *bench) {
		says := func(target netip.Prefix, want ...string) {
			t.Helper()
			list, err := b.Explain(context.Background(), target)
			if err != nil {
				t.Fatal(err)
			}
			text := strings.Join(list, "\n")
			for _, w := range want {
				if !strings.Contains(text, w) {
					t.Errorf("%q is not said:\n%s", w, text)
				}
			}
		}
		says(victim, "192.0.2.1/32 is protected, in group default", "No sensor reports traffic of it now.", "There is no incident.")
		says(netip.MustParsePrefix("198.51.100.1/32"), "is not protected")
		b.report(traffic.Interval, time.Second, 10_000)
		says(victim, "dns-amplification: 10000 packets/s", "50 % of the limit 20000 packets/s", "no incident: it passes no test", "There is no incident.")
		b.report(traffic.Trigger, 33*time.Millisecond, 25_000)
		says(victim, "part of incident i-", "Incident i-", "About dns-amplification the policy says: group default", "Mitigation m-", "of automation until", "cannot be seen from behind")
		if _, err := b.SetFreeze(context.Background(), true, "anna", "maintenance"); err != nil {
			t.Fatal(err)
		}
		says(victim, "All automation is frozen since", "maintenance")
		if _, err := b.Withdraw(context.Background(), Withdrawal{Pick: func(mitigation.Mitigation) bool { return true }, Requester: "anna", Reason: "wrong"}); err != nil {
			t.Fatal(err)
		}
		says(victim, "Automation keeps its hands off 192.0.2.1/32", "wrong by anna")
	})
}
