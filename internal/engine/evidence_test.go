package engine

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/amooglesoft/trafficmonitor/internal/audit"
	"github.com/amooglesoft/trafficmonitor/internal/detect"
	"github.com/amooglesoft/trafficmonitor/internal/mitigation"
	"github.com/amooglesoft/trafficmonitor/internal/route"
	"github.com/amooglesoft/trafficmonitor/internal/store"
	"github.com/amooglesoft/trafficmonitor/internal/traffic"
	"github.com/amooglesoft/trafficmonitor/internal/vector"
	"github.com/amooglesoft/trafficmonitor/policy"
)

// The only sensor that saw the trickle is gone for good. Its last word is held for a while, not for a day.
func TestEvidenceOfAForgottenSensorEnds(t *testing.T) {
	run(t, func(b *bench) {
		b.report(traffic.Trigger, 33*time.Millisecond, 25_000)
		b.report(traffic.Hot, 100*time.Millisecond, 250) // the trickle
		time.Sleep(16 * time.Minute)
		synctest.Wait()
		if got := b.announced(); len(got) != 0 {
			t.Errorf("after 16 minutes without a word of any sensor still announced: %q, events %s", got, b.kinds())
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		if k := b.kinds(); !strings.HasSuffix(k, string(audit.IncidentEnded)) {
			t.Errorf("the incident does not end: %s", k)
		}
	})
}

// A manual rule against something else must not hold up the answer once automation may act.
func TestAnswerAfterTheFreezeBesideAManualRule(t *testing.T) {
	run(t, func(b *bench) {
		if _, err := b.SetFreeze(b.t.Context(), true, "ann", "maintenance"); err != nil {
			t.Fatal(err)
		}
		if _, err := b.Announce(b.t.Context(), manual(t, strings.Replace(dnsRule, "source-port 53", "source-port 123", 1)), false); err != nil {
			t.Fatal(err)
		}
		b.report(traffic.Trigger, 33*time.Millisecond, 25_000)
		if _, err := b.SetFreeze(b.t.Context(), false, "ann", "done"); err != nil {
			t.Fatal(err)
		}
		b.report(traffic.Hot, 100*time.Millisecond, 25_000)
		if got := b.announced(); len(got) != 2 {
			t.Errorf("announced %q", got)
		}
	})
}

// A new leader takes over an attack it watched and the old one did not answer, and extends nothing on old evidence.
func TestTakeover(t *testing.T) {
	run(t, func(b *bench) {
		b.term.fail(errors.New("deposed"))
		b.report(traffic.Trigger, 33*time.Millisecond, 25_000)
		b.report(traffic.Hot, 100*time.Millisecond, 25_000)
		if got := b.announced(); len(got) != 0 {
			t.Fatalf("announced %q", got)
		}
		b.term.fail(nil)
		b.term.number = 2
		old := mitigation.Mitigation{
			ID: "m-old", Target: victim, State: mitigation.Active, Routes: []route.Route{manual(t, strings.Replace(dnsRule, "53", "123", 1)).Route},
			Requester: mitigation.Automation, Created: time.Now().Add(-time.Minute), Deadline: time.Now().Add(time.Minute),
			MaxDeadline: time.Now().Add(time.Hour), Extend: time.Minute,
		}
		b.term.rec[old.ID] = old
		go func() { _ = b.lead() }()
		synctest.Wait()
		b.report(traffic.Hot, 100*time.Millisecond, 25_000)
		if got := b.announced(); len(got) != 2 {
			t.Errorf("announced %q, events %s", got, b.kinds())
		}
		time.Sleep(time.Minute + time.Millisecond)
		synctest.Wait()
		if got := b.announced(); len(got) != 1 || got[0] != dnsRule {
			t.Errorf("announced %q", got)
		}
	})
}

// The store does not answer in time, but has written: nobody may be told that nothing was done.
func TestUnknownOutcomeIsSaid(t *testing.T) {
	run(t, func(b *bench) {
		b.term.fail(fmt.Errorf("commit: %w", store.ErrUnavailable))
		_, err := b.Announce(b.t.Context(), manual(t, dnsRule), false)
		if err == nil || !strings.Contains(err.Error(), "not known whether") || strings.Contains(err.Error(), "was not made") {
			t.Errorf("the engineer is told %v", err)
		}
	})
}

// An exception that begins by the clock stops the extensions of a rule that is announced already.
func TestExceptionByTheClockEndsExtensions(t *testing.T) {
	p, err := policy.Parse("t.yaml", []byte(`version: 1
thresholds: [{vectors: all-reflection, pps: 20 kpps}]
exceptions: [{prefixes: 192.0.2.1, when: now.hour >= 1, reason: nightly transfer}]
responses: [{vectors: all, action: rate-limit 1 Mbps, ttl: 10m, extend: 5m}]
`))
	if err != nil {
		t.Fatal(err)
	}
	runWith(t, func(o *Options) { o.Policy = p }, func(b *bench) {
		time.Sleep(40 * time.Minute) // it is midnight
		b.report(traffic.Trigger, 33*time.Millisecond, 25_000)
		for range 75 {
			b.report(traffic.Hot, 100*time.Millisecond, 250)
			time.Sleep(10 * time.Second)
		}
		if got := b.announced(); len(got) != 1 || !strings.Contains(b.kinds(), string(audit.MitigationExtended)) {
			t.Fatalf("before the exception announced %q, %s", got, b.kinds())
		}
		for range 120 {
			b.report(traffic.Hot, 100*time.Millisecond, 250)
			time.Sleep(10 * time.Second)
		}
		if got := b.announced(); len(got) != 0 {
			t.Errorf("12 minutes into the exception still announced: %q, %s", got, b.kinds())
		}
	})
}

// What is not known of an attack denies no extension: neither its collateral, nor, after a change of the leader, its rates.
func TestUnknownDeniesNoExtension(t *testing.T) {
	const reflection = "version: 1\nthresholds: [{vectors: all-reflection, pps: 20 kpps}]\n"
	for name, c := range map[string]struct {
		rest    string
		restart bool
	}{
		"a response on collateral":              {"responses: [{vectors: all, when: incident.collateral <= 1.0, action: rate-limit 1 Mbps, ttl: 30s, extend: 30s}]", false},
		"a response on rates, a new leader":     {"responses: [{vectors: all, when: incident.pps > 20e3, action: rate-limit 1 Mbps, ttl: 30s, extend: 30s}]", true},
		"an exception on rates, a new leader":   {"exceptions: [{prefixes: 192.0.2.1, when: incident.pps < 1e3, reason: small}]\nresponses: [{vectors: all, action: rate-limit 1 Mbps, ttl: 30s, extend: 30s}]", true},
		"a response without conditions, a load": {"responses: [{vectors: all, action: rate-limit 1 Mbps, ttl: 30s, extend: 30s}]", true},
	} {
		t.Run(name, func(t *testing.T) {
			p, err := policy.Parse("t.yaml", []byte(reflection+c.rest))
			if err != nil {
				t.Fatal(err)
			}
			runWith(t, func(o *Options) { o.Policy = p }, func(b *bench) {
				b.peace()
				b.report(traffic.Trigger, 33*time.Millisecond, 25_000)
				for range 5 {
					time.Sleep(time.Second)
					b.report(traffic.Trigger, 33*time.Millisecond, 25_000)
				}
				if got := b.announced(); len(got) != 1 {
					t.Fatalf("announced %q", got)
				}
				if c.restart {
					forget := func(time.Time) error { b.detector = detect.New(p.Rules(), nil); return nil }
					if err := errors.Join(b.do(b.t.Context(), forget), b.SetPolicy(b.t.Context(), p)); err != nil {
						t.Fatal(err)
					}
				}
				for range 900 {
					b.report(traffic.Hot, 100*time.Millisecond, 250)
					time.Sleep(100 * time.Millisecond)
				}
				if got := b.announced(); len(got) != 1 || strings.Contains(b.kinds(), string(audit.MitigationEnded)) {
					t.Errorf("after a minute and a half of evidence announced %q, %s", got, b.kinds())
				}
			})
		})
	}
}

func TestLimitOfSourcesIsNoRate(t *testing.T) {
	m := detect.Measurement{Vector: vector.SYN, Test: detect.Spoofed, PPS: 150, LimitPPS: 100}
	if goesOn(detect.Incident{Vectors: []detect.Measurement{m}}, vector.SYN) {
		t.Error("150 packets a second pass a limit of 100 sources a second")
	}
	m.Test = detect.Static
	if !goesOn(detect.Incident{Vectors: []detect.Measurement{m}}, vector.SYN) {
		t.Error("150 packets a second do not pass a limit of 100")
	}
}
