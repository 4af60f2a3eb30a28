package engine

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/amooglesoft/trafficmonitor/internal/audit"
	"github.com/amooglesoft/trafficmonitor/internal/traffic"
	"github.com/amooglesoft/trafficmonitor/policy"
)

const underShadow = `version: 1
thresholds: [{vectors: all-reflection, pps: 20 kpps}]
responses: [{vectors: all, action: rate-limit 1 Mbps, ttl: 10s, extend: 0s}]
`

// The shadow is told where it differs, and obeyed never.
func TestShadow(t *testing.T) {
	for _, tc := range []struct {
		says, shadow string
		pps          uint64
		outcome      string
		announced    int
		told         string
	}{
		{"the same", underShadow, 25_000, shadowSame, 1, ""},
		{"another action", strings.Replace(underShadow, "rate-limit 1 Mbps", "discard", 1), 25_000, shadowAction, 1, "in force: rate-limit 1 Mbps ("},
		{"only observed", strings.Replace(underShadow, "version: 1", "version: 1\nmode: observe", 1), 25_000, shadowAction, 1, "; shadow: observe ("},
		{"a lower limit", strings.Replace(underShadow, "20 kpps", "5 kpps", 1), 10_000, shadowMore, 0, "in force: no incident; shadow: rate-limit 1 Mbps ("},
		{"a higher limit", strings.Replace(underShadow, "20 kpps", "90 kpps", 1), 25_000, shadowLess, 1, "; shadow: no incident"},
		{"a condition on the duration", strings.Replace(underShadow, "{vectors: all,", `{vectors: all, when: 'incident.duration > duration("11s")',`, 1), 25_000, shadowSame, 1, ""},
	} {
		t.Run(tc.says, func(t *testing.T) {
			var told []string
			runWith(t, func(o *Options) {
				o.Policy, o.Shadow = parsed(t, underShadow), parsed(t, tc.shadow)
				emit := o.Emit
				o.Emit = func(kind audit.Kind, message string, about map[string]string) {
					if kind == audit.ShadowDiffers {
						told = append(told, message+" "+about["outcome"])
					}
					emit(kind, message, about)
				}
			}, func(b *bench) {
				most := 0
				for range 250 {
					b.report(traffic.Hot, 100*time.Millisecond, tc.pps)
					most = max(most, len(b.announced()))
					time.Sleep(100 * time.Millisecond)
				}
				for range 600 {
					b.report(traffic.Interval, time.Second, 0)
					time.Sleep(time.Second)
				}
				synctest.Wait()
				if most != tc.announced {
					t.Errorf("%d rules were announced, not %d", most, tc.announced)
				}
				for _, outcome := range []string{shadowSame, shadowAction, shadowMore, shadowLess} {
					want := 0.0
					if outcome == tc.outcome {
						want = 1
					}
					if n := testutil.ToFloat64(b.metrics.shadowed.WithLabelValues(outcome)); n != want {
						t.Errorf("outcome %s is counted %v times, not %v", outcome, n, want)
					}
				}
				switch {
				case tc.told == "" && len(told) > 0, tc.told != "" && (len(told) != 1 || !strings.Contains(told[0], tc.told) || !strings.HasSuffix(told[0], tc.outcome)):
					t.Errorf("told %q, want %q once", told, tc.told)
				}
				differs := uint64(0)
				if tc.outcome != shadowSame {
					differs = 1
				}
				if judged, n, err := b.Shadowed(b.t.Context()); err != nil || judged != 1 || n != differs {
					t.Errorf("of %d vectors %d differ, want %d of 1; %v", judged, n, differs, err)
				}
				if len(b.shadow.cases) > 0 {
					t.Errorf("cases stay: %v", b.shadow.cases)
				}
			})
		})
	}
}

// A shadow can be changed and taken away while an attack goes on.
func TestSetShadow(t *testing.T) {
	run(t, func(b *bench) {
		b.report(traffic.Trigger, 33*time.Millisecond, 25_000)
		for _, p := range []*policy.Policy{parsed(t, underShadow), policy.Default(), nil, nil, parsed(t, underShadow)} {
			if err := b.SetShadow(b.t.Context(), p); err != nil {
				t.Fatal(err)
			}
			for range 5 {
				b.report(traffic.Hot, 100*time.Millisecond, 25_000)
				time.Sleep(100 * time.Millisecond)
			}
			if got := b.announced(); len(got) != 1 || got[0] != dnsRule {
				t.Fatalf("announced %q", got)
			}
		}
	})
}
