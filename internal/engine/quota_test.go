package engine

import (
	"net/netip"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/amooglesoft/trafficmonitor/internal/audit"
	"github.com/amooglesoft/trafficmonitor/internal/ingest"
	"github.com/amooglesoft/trafficmonitor/internal/safety"
	"github.com/amooglesoft/trafficmonitor/internal/traffic"
	"github.com/amooglesoft/trafficmonitor/internal/vector"
	"github.com/amooglesoft/trafficmonitor/policy"
)

// One response of the policy, or one group of it, does not use up what is there for all.
func TestQuotasOfThePolicy(t *testing.T) {
	p, err := policy.Parse("quotas", []byte(`
version: 1
thresholds: [{vectors: [all-reflection], pps: 20 kpps}]
responses:
  - {vectors: [dns-amplification], action: rate-limit 1 Mbps}
  - {vectors: [ntp-amplification], action: rate-limit 1 Mbps}
groups:
  web: {prefixes: [192.0.2.0/28]}
`))
	if err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		limit   func(*safety.Limits)
		refused []string // invariants, with their targets
		routes  int
	}{
		"response": {func(l *safety.Limits) { l.MaxRulesPerResponse = 2 }, []string{"quota_per_response 192.0.2.3/32"}, 4},
		"group":    {func(l *safety.Limits) { l.MaxRulesPerGroup = 3 }, []string{"quota_per_group 192.0.2.2/32"}, 4},
		"neither":  {func(*safety.Limits) {}, nil, 5},
	} {
		t.Run(name, func(t *testing.T) {
			var refused []string // written by the loop, read when it waits
			runWith(t, func(o *Options) {
				tc.limit(&o.Safety)
				o.Policy = p
				o.Emit = func(kind audit.Kind, _ string, about map[string]string) {
					if kind == audit.MitigationRefused {
						refused = append(refused, about["invariant"]+" "+about["target"])
					}
				}
			}, func(b *bench) {
				for _, x := range []struct {
					last byte
					v    vector.ID
				}{{1, vector.DNS}, {2, vector.DNS}, {1, vector.NTP}, {2, vector.NTP}, {3, vector.DNS}} {
					if name == "group" && x.last == 3 {
						x.last = 100 // in no group
					}
					now := time.Now()
					b.Deliver(ingest.Delivery{Report: traffic.Report{
						Sensor: "rack1", Cause: traffic.Trigger, Start: now.Add(-100 * time.Millisecond), Span: 100 * time.Millisecond,
						Aggregates: []traffic.Aggregate{{Target: netip.PrefixFrom(netip.AddrFrom4([4]byte{192, 0, 2, x.last}), 32), Vector: x.v, Packets: 5000, Bytes: 2_500_000}},
					}, Triggered: now, Received: now})
					synctest.Wait()
					time.Sleep(time.Second)
				}
				if !slices.Equal(refused, tc.refused) || len(b.announced()) != tc.routes {
					t.Errorf("refused %q, want %q; announced %q", refused, tc.refused, b.announced())
				}
			})
		})
	}
}
