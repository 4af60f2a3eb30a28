package engine

import (
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/amooglesoft/trafficmonitor/internal/audit"
	"github.com/amooglesoft/trafficmonitor/internal/ingest"
	"github.com/amooglesoft/trafficmonitor/internal/mitigation"
	"github.com/amooglesoft/trafficmonitor/internal/safety"
	"github.com/amooglesoft/trafficmonitor/internal/traffic"
	"github.com/amooglesoft/trafficmonitor/internal/vector"
	"github.com/amooglesoft/trafficmonitor/policy"
)

// limit changes the limits under a running engine, which nothing but a test does.
func (b *bench) limit(change func(*safety.Limits)) {
	_ = b.do(b.t.Context(), func(time.Time) error { change(&b.o.Safety); b.judged = judgement{}; return nil })
}

// refuse all of automation's rules: the target is one that no rule may touch.
func protect(b *bench) { b.limit(func(l *safety.Limits) { l.Never = append(l.Never, victim) }) }

// An attack on a target that no rule may touch lasts for hours: it is tried again and again, but the store, the audit
// record and the log are told once.
func TestRefusalIsStoredOnce(t *testing.T) {
	run(t, func(b *bench) {
		protect(b)
		for range 600 {
			b.report(traffic.Hot, 100*time.Millisecond, 25_000)
			time.Sleep(500 * time.Millisecond)
		}
		if n := len(b.term.records().Mitigations); n != 1 {
			t.Errorf("%d records of one refusal", n)
		}
		if n := strings.Count(b.kinds(), string(audit.MitigationRefused)); n != 1 {
			t.Errorf("%d events of one refusal", n)
		}
		kept := 0
		_ = b.do(b.t.Context(), func(time.Time) error { kept = len(b.machine.Records().Mitigations); return nil })
		if kept != 1 {
			t.Errorf("%d mitigations kept in memory", kept)
		}
		// What stood against it is gone: the next attempt succeeds.
		b.limit(func(l *safety.Limits) { l.Never = nil })
		time.Sleep(10 * time.Second)
		b.report(traffic.Hot, 100*time.Millisecond, 25_000)
		if got := b.announced(); len(got) != 1 {
			t.Errorf("announced %q", got)
		}
	})
}

// The same holds for what is withheld and what is only observed.
func TestWithheldIsSaidOnce(t *testing.T) {
	run(t, func(b *bench) {
		if _, err := b.SetFreeze(b.t.Context(), true, "ann", "maintenance"); err != nil {
			t.Fatal(err)
		}
		for range 100 {
			b.report(traffic.Hot, 100*time.Millisecond, 25_000)
			time.Sleep(500 * time.Millisecond)
		}
		if n := strings.Count(b.kinds(), string(audit.MitigationRefused)); n != 1 {
			t.Errorf("%d events of one freeze", n)
		}
		if _, err := b.SetFreeze(b.t.Context(), false, "ann", "done"); err != nil {
			t.Fatal(err)
		}
		b.report(traffic.Hot, 100*time.Millisecond, 25_000)
		if got := b.announced(); len(got) != 1 {
			t.Errorf("after the freeze: %q", got)
		}
	})
}

// Answers to two vectors of one report are of one instant: at the quota's edge the one that was there first stays.
func TestQuotaTakesFromTheNewcomer(t *testing.T) {
	run(t, func(b *bench) {
		b.limit(func(l *safety.Limits) { l.MaxRules = 1 })
		now := time.Now()
		var as []traffic.Aggregate
		for _, v := range []vector.ID{vector.NTP, vector.DNS, vector.CLDAP, vector.SSDP} {
			as = append(as, traffic.Aggregate{Target: victim, Vector: v, Packets: 2500, Bytes: 2500 * 100})
		}
		b.Deliver(ingest.Delivery{Report: traffic.Report{Sensor: "rack1", Cause: traffic.Hot, Start: now, Span: 100 * time.Millisecond, Aggregates: as}, Received: now})
		synctest.Wait()
		first := b.announced()
		time.Sleep(5 * time.Second)
		synctest.Wait()
		if got := b.announced(); len(first) != 1 || len(got) != 1 || got[0] != first[0] {
			t.Errorf("announced %q, later %q", first, got)
		}
		for _, m := range b.term.records().Mitigations {
			if m.State == mitigation.Ended {
				t.Errorf("%s was announced and taken back: %s", m.Routes[0], m.EndDetail)
			}
		}
	})
}

// No match tells malformed packets, or "any other protocol", from the rest: a rule would take all traffic of the target.
func TestNoRuleForWhatNoMatchTells(t *testing.T) {
	run(t, func(b *bench) {
		p, err := policy.Parse("t.yaml", []byte("version: 1\nthresholds:\n  - vectors: malformed\n    pps: 1 kpps\nresponses:\n  - vectors: malformed\n    action: discard\n"))
		if err != nil {
			t.Fatal(err)
		}
		if err := b.SetPolicy(b.t.Context(), p); err != nil {
			t.Fatal(err)
		}
		now := time.Now()
		b.Deliver(ingest.Delivery{Report: traffic.Report{Sensor: "rack1", Cause: traffic.Hot, Start: now, Span: 100 * time.Millisecond, Aggregates: []traffic.Aggregate{{Target: victim, Vector: vector.Malformed, Packets: 2500, Bytes: 2500}}}, Received: now})
		synctest.Wait()
		if got := b.announced(); len(got) != 0 {
			t.Errorf("announced %q against malformed packets", got)
		}
		if !strings.Contains(b.kinds(), string(audit.MitigationObserved)) {
			t.Errorf("nobody was told: %s", b.kinds())
		}
	})
}

// Thousands of targets attacked at once must not make thousands of records.
func TestStoredRefusalsAreBounded(t *testing.T) {
	run(t, func(b *bench) {
		b.limit(func(l *safety.Limits) { l.Never = l.Own })
		now := time.Now()
		var as []traffic.Aggregate
		for i := range byte(200) {
			as = append(as, traffic.Aggregate{Target: netip.PrefixFrom(netip.AddrFrom4([4]byte{192, 0, 2, i}), 32), Vector: vector.DNS, Packets: 2500, Bytes: 2500})
		}
		b.Deliver(ingest.Delivery{Report: traffic.Report{Sensor: "rack1", Cause: traffic.Hot, Start: now, Span: 100 * time.Millisecond, Aggregates: as}, Received: now})
		synctest.Wait()
		if n := len(b.term.records().Mitigations); n != maxRefusals {
			t.Errorf("%d records of 200 refusals, want %d", n, maxRefusals)
		}
		if n := strings.Count(b.kinds(), string(audit.MitigationRefused)); n != 200 {
			t.Errorf("%d events of 200 refusals", n)
		}
	})
}
