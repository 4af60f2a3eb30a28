package engine

import (
	"errors"
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
)

const ladderHead = "version: 1\nthresholds: [{vectors: all-reflection, pps: 20 kpps}]\n"

// climbs is a ladder that goes on to a discard where a rate limit takes too little.
const climbs = ladderHead + "responses: [{vectors: all-reflection, ladder: [{action: rate-limit 1 Mbps}, {action: discard, after: 5s, if: evidence.reduction < 0.9}]}]\n"

// seconds reports the same rate every second.
func (b *bench) seconds(pps uint64, seconds int) {
	b.t.Helper()
	for range seconds {
		time.Sleep(time.Second)
		b.report(traffic.Interval, time.Second, pps)
	}
	synctest.Wait()
}

func (b *bench) one(phase mitigation.Phase) mitigation.Mitigation {
	b.t.Helper()
	b.term.mu.Lock()
	defer b.term.mu.Unlock()
	var found []mitigation.Mitigation
	for _, m := range b.term.rec {
		if m.Phase == phase {
			found = append(found, m)
		}
	}
	if len(found) != 1 {
		b.t.Fatalf("%d mitigations are %s; %s", len(found), phase, b.kinds())
	}
	return found[0]
}

// The ladder climbs and comes down on what sensors measure, and what is announced is what is stored.
func TestLadder(t *testing.T) {
	runWith(t, func(o *Options) {
		o.Policy = parsed(t, ladderHead+"responses: [{vectors: all-reflection, ladder: [{action: rate-limit 1 Mbps, down_after: 10s}, {action: discard, after: 5s, if: evidence.reduction < 0.9, down_after: 10s}]}]\n")
	}, func(b *bench) {
		b.report(traffic.Trigger, 33*time.Millisecond, 25_000)
		if got := b.announced(); len(got) != 1 || got[0] != dnsRule {
			t.Fatalf("announced %q", got)
		}
		b.seconds(24_000, 4)
		b.seconds(24_000, 3)
		discard := strings.Replace(dnsRule, "rate-limit 1Mbps", "discard", 1)
		if got := b.announced(); len(got) != 1 || got[0] != discard {
			t.Fatalf("announced %q; %s", got, b.kinds())
		}
		m := b.one(mitigation.Escalated)
		if m.Effect.BeforePPS < 20_000 || m.Rung.Step != 1 || m.Rung.Steps != 2 {
			t.Errorf("%+v", m)
		}
		b.seconds(0, 5)
		m = b.one(mitigation.Verified)
		if m.Effect.Reduction < 0.99 || m.Effect.Verified.IsZero() {
			t.Errorf("%+v", m.Effect)
		}
		b.seconds(0, 6)
		if got := b.announced(); len(got) != 1 || got[0] != dnsRule {
			t.Fatalf("eased to %q; %s", got, b.kinds())
		}
		b.seconds(250, 3) // the trickle
		if got := b.announced(); len(got) != 1 || got[0] != discard {
			t.Fatalf("back to %q; %s", got, b.kinds())
		}
		b.seconds(0, 65)
		if got := b.announced(); len(got) != 0 {
			t.Fatalf("over, and announced %q; %s", got, b.kinds())
		}
		if m := b.one(mitigation.Expired); m.EndReason != mitigation.EndOver {
			t.Errorf("it ended because of %s", m.EndReason)
		}
		want := []audit.Kind{audit.MitigationCreated, audit.MitigationIneffective, audit.MitigationEscalated, audit.MitigationVerified, audit.MitigationEased, audit.MitigationEscalated, audit.MitigationVerified, audit.MitigationEased, audit.MitigationEnded}
		at := 0
		for _, k := range strings.Fields(b.kinds()) {
			if at < len(want) && k == string(want[at]) {
				at++
			}
		}
		if at < len(want) {
			t.Errorf("the events %s lack %s", b.kinds(), want[at])
		}
	})
}

// A step that the safety kernel refuses leaves things as they are, and is told once.
func TestLadderAsksTheKernel(t *testing.T) {
	runWith(t, func(o *Options) {
		o.Policy = parsed(t, ladderHead+"responses: [{vectors: all-reflection, ladder: [{action: rate-limit 1 Mbps}, {action: blackhole, after: 3s, if: evidence.reduction < 0.9}]}]\n")
		o.Safety.MaxOwnShare = 0.001 // less than one host of the /24
	}, func(b *bench) {
		b.report(traffic.Trigger, 33*time.Millisecond, 25_000)
		b.seconds(24_000, 12)
		if got := b.announced(); len(got) != 1 || got[0] != dnsRule {
			t.Errorf("announced %q", got)
		}
		if n := strings.Count(b.kinds(), string(audit.MitigationRefused)); n != 1 {
			t.Errorf("told %d times: %s", n, b.kinds())
		}
	})
}

// A step that asks persons waits for them, across a change of the leader, and is taken when they said yes.
func TestStepAsksPersons(t *testing.T) {
	runWith(t, func(o *Options) {
		o.Policy = parsed(t, ladderHead+"responses: [{vectors: all-reflection, ladder: [{action: rate-limit 1 Mbps, approval: 2}]}]\n")
	}, func(b *bench) {
		b.report(traffic.Trigger, 33*time.Millisecond, 25_000)
		b.seconds(25_000, 2)
		m := b.one(mitigation.AwaitingApproval)
		if len(b.announced()) != 0 {
			t.Fatalf("announced %q without approval", b.announced())
		}
		ctx := b.t.Context()
		if _, err := b.Approve(ctx, Answer{m.ID, "ann", "seen"}); err != nil {
			t.Fatal(err)
		}
		if _, err := b.Approve(ctx, Answer{m.ID, "ann", "again"}); !errors.Is(err, mitigation.ErrSamePerson) {
			t.Errorf("the same person again: %v", err)
		}
		b.term.fail(errors.New("lost"))
		b.seconds(25_000, 1)
		if _, err := b.Approve(ctx, Answer{m.ID, "eva", "not stored"}); err == nil {
			t.Error("an approval that could not be stored succeeded")
		}
		b.term.fail(nil)
		go func() { _ = b.lead() }()
		b.seconds(25_000, 1)
		after, err := b.Approve(ctx, Answer{m.ID, "bob", "seen"})
		synctest.Wait()
		if err != nil || after.Phase != mitigation.Announced || len(b.announced()) != 1 {
			t.Errorf("%v: %+v, announced %q", err, after, b.announced())
		}
		if _, err := b.Approve(ctx, Answer{m.ID, "eva", "late"}); !errors.Is(err, mitigation.ErrNotAsked) {
			t.Errorf("late: %v", err)
		}
		if k := b.kinds(); strings.Count(k, "approval_asked") != 1 || strings.Count(k, "approval_given") != 2 {
			t.Errorf("events %s", k)
		}
	})
}

func TestSecondPerson(t *testing.T) {
	runWith(t, func(o *Options) {
		o.Safety.SecondPersonAbove, o.Safety.BlackholeMinLength4, o.Safety.AllowWideBlackhole = 16, 24, true
		o.Safety.MaxOwnShare = 0.25
	}, func(b *bench) {
		ctx := b.t.Context()
		wide := manual(t, "destination 192.0.2.0/27 protocol udp source-port 53 then discard")
		wide.Approved = true
		dry, err := b.Announce(ctx, wide, true)
		if err != nil || dry.Phase != mitigation.AwaitingApproval {
			t.Errorf("dry run: %v %+v", err, dry)
		}
		m, err := b.Announce(ctx, wide, false)
		synctest.Wait()
		if err != nil || m.Phase != mitigation.AwaitingApproval || len(b.announced()) != 0 || !strings.Contains(m.Ask.Why, "reaches 32 of our hosts, more than 16") {
			t.Fatalf("%v: %+v, announced %q", err, m, b.announced())
		}
		if _, err := b.Approve(ctx, Answer{m.ID, wide.Requester, "I am sure"}); !errors.Is(err, mitigation.ErrSamePerson) {
			t.Errorf("approved by who asked: %v", err)
		}
		if m, err = b.Approve(ctx, Answer{m.ID, "bob", "seen"}); err != nil || m.Phase != mitigation.Announced || !m.Approved {
			t.Errorf("%v: %+v", err, m)
		}
		synctest.Wait()
		if len(b.announced()) != 1 {
			t.Errorf("announced %q", b.announced())
		}
		before := m.Deadline
		if m, err = b.Extend(ctx, Answer{m.ID, "bob", "not over"}, time.Minute); err != nil || m.Deadline.Sub(before) != time.Minute {
			t.Errorf("%v: until %s, before %s", err, m.Deadline, before)
		}
		if _, err = b.Extend(ctx, Answer{m.ID, "bob", "not over"}, 1000*time.Hour); !errors.Is(err, mitigation.ErrTooLong) {
			t.Errorf("too long: %v", err)
		}
		// What only an approver may announce is refused to others, or asked of an approver when they want that.
		hole := manual(t, "destination 192.0.2.64/28 then blackhole")
		var refused *RefusedError
		if _, err := b.Announce(ctx, hole, false); !errors.As(err, &refused) {
			t.Errorf("a wide blackhole: %v", err)
		}
		hole.AskApproval = true
		m, err = b.Announce(ctx, hole, false)
		if err != nil || m.Phase != mitigation.AwaitingApproval {
			t.Fatalf("%v: %+v", err, m)
		}
		if m, err = b.Reject(ctx, Answer{m.ID, "bob", "no"}); err != nil || m.Phase != mitigation.Rejected {
			t.Errorf("%v: %+v", err, m)
		}
		// What no approver may either is not asked.
		never := manual(t, "destination 198.51.100.0/24 then blackhole")
		never.AskApproval = true
		if _, err := b.Announce(ctx, never, false); !errors.As(err, &refused) {
			t.Errorf("not ours: %v", err)
		}
	})
}

// A step that would push out another target's rule, because it is younger, is refused: that one stays.
func TestStepPushesNobodyOut(t *testing.T) {
	runWith(t, func(o *Options) {
		o.Policy = parsed(t, ladderHead+"responses: [{vectors: all-reflection, ladder: [{action: rate-limit 1 Mbps}, {action: blackhole, after: 5s, if: evidence.reduction < 0.9}]}]\n")
		o.Safety.MaxOwnShare = 0.005 // one host of the /24
	}, func(b *bench) {
		b.report(traffic.Trigger, 33*time.Millisecond, 25_000)
		b.seconds(24_000, 1)
		hole := manual(t, "destination 192.0.2.9 then blackhole")
		hole.TTL = time.Hour
		m, err := b.Announce(b.t.Context(), hole, false)
		if err != nil {
			t.Fatal(err)
		}
		b.seconds(24_000, 10)
		if got := b.announced(); len(got) != 2 {
			t.Errorf("announced %q; %s", got, b.kinds())
		}
		if b.one(mitigation.Announced).ID != m.ID || b.one(mitigation.Ineffective).Rung.Step != 0 {
			t.Errorf("events %s", b.kinds())
		}
	})
}

// A new leader's own incident has another name; what was proposed before is told by it, goes on, and ends with it.
func TestLadderUnderAnotherLeader(t *testing.T) {
	runWith(t, func(o *Options) {
		o.Policy = parsed(t, climbs)
	}, func(b *bench) {
		b.report(traffic.Trigger, 33*time.Millisecond, 25_000)
		b.term.mu.Lock()
		for id, m := range b.term.rec {
			m.Incident = "i-of-another"
			b.term.rec[id] = m
		}
		b.term.mu.Unlock()
		b.term.fail(errors.New("lost"))
		b.seconds(24_000, 5) // its next commit fails, and the term with it
		if _, err := b.Announce(b.t.Context(), manual(t, "destination 192.0.2.9 then blackhole"), false); err == nil {
			t.Fatal("stored what could not be")
		}
		b.term.fail(nil)
		go func() { _ = b.lead() }()
		b.seconds(24_000, 8)
		discard := strings.Replace(dnsRule, "rate-limit 1Mbps", "discard", 1)
		if got := b.announced(); len(got) != 1 || got[0] != discard {
			t.Errorf("announced %q; %s", got, b.kinds())
		}
	})
}

// A sensor whose clock is ahead does not make what it saw before a step count as after it.
func TestBegan(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	for ahead, want := range map[time.Duration]time.Duration{0: -time.Second, time.Hour: -time.Second, -time.Hour: -time.Hour - time.Second} {
		o := began(now, traffic.Observation{Start: now.Add(ahead - time.Second), Span: time.Second})
		if got := o.Start.Sub(now); got != want {
			t.Errorf("%s ahead: the window began at %s, want %s", ahead, got, want)
		}
	}
}

// What a route by hand would hit is told from the target's normal traffic, and nothing where nothing is known.
func TestCollateralOfARoute(t *testing.T) {
	run(t, func(b *bench) {
		ask := func(text string) (float64, int) {
			t.Helper()
			share, n, err := b.Collateral(b.t.Context(), manual(t, text).Route)
			if err != nil {
				t.Fatal(err)
			}
			return share, n
		}
		if _, n := ask("destination 192.0.2.1 then discard"); n != 0 {
			t.Errorf("%d samples before any", n)
		}
		b.web(500)
		if share, n := ask("destination 192.0.2.1 protocol udp source-port 53 then discard"); n < 100 || share > 0.1 {
			t.Errorf("DNS hits %g of %d samples of TCP", share, n)
		}
		if share, n := ask("destination 192.0.2.1 protocol tcp then discard"); n < 100 || share != 1 {
			t.Errorf("TCP hits %g of %d samples of TCP", share, n)
		}
		if _, n := ask("source 198.51.100.0/24 then discard"); n != 0 {
			t.Errorf("%d samples without a destination", n)
		}
	})
}

// reportBoth is a second of reports by two sensors of which each sees half; zero is no word of the target.
func (b *bench) reportBoth(first, second uint64, silent bool) {
	b.t.Helper()
	time.Sleep(time.Second)
	now := time.Now()
	for name, pps := range map[string]uint64{"rack1": first, "rack2": second} {
		if name == "rack2" && silent {
			continue
		}
		r := traffic.Report{Sensor: name, Cause: traffic.Interval, Start: now.Add(-time.Second), Span: time.Second}
		if pps > 0 {
			r.Aggregates = []traffic.Aggregate{{Target: victim, Vector: vector.DNS, Packets: pps, Bytes: pps * 500}}
		}
		b.Deliver(ingest.Delivery{Report: r, Received: now})
	}
	synctest.Wait()
}

// Nothing is verified while one of the sensors that saw the attack is silent, though what it said last was that it sees nothing.
func TestSilentSensorVerifiesNothing(t *testing.T) {
	runWith(t, func(o *Options) {
		o.Policy = parsed(t, ladderHead+"responses: [{vectors: all-reflection, action: discard}]\n")
	}, func(b *bench) {
		b.reportBoth(24_000, 24_000, false)
		for range 3 {
			b.reportBoth(0, 0, false)
		}
		b.one(mitigation.Verified)
		b.reportBoth(24_000, 0, false)
		for range 6 {
			b.reportBoth(24_000, 0, false)
		}
		b.one(mitigation.Ineffective)
		for range 5 {
			b.reportBoth(24_000, 0, true) // until it counts as silent
		}
		for range 5 {
			b.reportBoth(0, 0, true)
		}
		b.one(mitigation.Ineffective)
		for range 3 {
			b.reportBoth(0, 0, false)
		}
		b.one(mitigation.Verified)
	})
}

// A plain rule of before is on the ladder that the policy has now, also under a new leader.
func TestAdoptedByALadder(t *testing.T) {
	runWith(t, func(o *Options) {
		o.Policy = parsed(t, climbs)
	}, func(b *bench) {
		b.report(traffic.Trigger, 33*time.Millisecond, 25_000)
		b.term.mu.Lock()
		for id, m := range b.term.rec {
			m.Rung = mitigation.Rung{}
			b.term.rec[id] = m
		}
		b.term.mu.Unlock()
		b.term.fail(errors.New("lost"))
		if _, err := b.Announce(b.t.Context(), manual(t, "destination 192.0.2.9 then blackhole"), false); err == nil {
			t.Fatal("stored what could not be")
		}
		b.term.fail(nil)
		go func() { _ = b.lead() }()
		b.seconds(24_000, 9)
		if m := b.one(mitigation.Escalated); m.Rung.Step != 1 {
			t.Errorf("%+v", m.Rung)
		}
	})
}

// Of many that are due at once so many take their step at a look, and the others soon after.
func TestStepsAtALook(t *testing.T) {
	const targets = 40
	runWith(t, func(o *Options) {
		o.Policy = parsed(t, climbs)
	}, func(b *bench) {
		all := func(cause traffic.Cause, span time.Duration) {
			now := time.Now()
			r := traffic.Report{Sensor: "rack1", Cause: cause, Start: now.Add(-span), Span: span}
			for i := range targets {
				n := uint64(25_000 * span.Seconds())
				r.Aggregates = append(r.Aggregates, traffic.Aggregate{Target: netip.PrefixFrom(netip.AddrFrom4([4]byte{192, 0, 2, byte(i + 1)}), 32), Vector: vector.DNS, Packets: n, Bytes: n * 500})
			}
			b.Deliver(ingest.Delivery{Report: r, Triggered: now, Received: now})
			synctest.Wait()
		}
		stepped := func() (n int) {
			b.term.mu.Lock()
			defer b.term.mu.Unlock()
			for _, m := range b.term.rec {
				if m.Rung.Step == 1 {
					n++
				}
			}
			return n
		}
		all(traffic.Trigger, 33*time.Millisecond)
		time.Sleep(7 * time.Second) // all are due, and nothing is measured yet
		var seen []int
		for i := range 50 {
			time.Sleep(100 * time.Millisecond)
			if i%10 == 9 {
				all(traffic.Interval, time.Second)
			}
			if n := stepped(); n > 0 && (len(seen) == 0 || seen[len(seen)-1] != n) {
				seen = append(seen, n)
			}
		}
		if len(seen) < 2 || seen[0] > maxSteps || seen[len(seen)-1] != targets {
			t.Errorf("steps taken, look by look: %v of %d", seen, targets)
		}
	})
}

// A dry run is judged by all that a real one is, the groups of the policy included.
func TestDryRunKnowsTheGroups(t *testing.T) {
	runWith(t, func(o *Options) {
		o.Policy = parsed(t, ladderHead+"responses: [{vectors: all-reflection, action: discard}]\ngroups: {web: {prefixes: 192.0.2.0/28}}\n")
		o.Safety.MaxRulesPerGroup = 1
	}, func(b *bench) {
		ctx := b.t.Context()
		if _, err := b.Announce(ctx, manual(t, "destination 192.0.2.1 then discard"), false); err != nil {
			t.Fatal(err)
		}
		for _, dry := range []bool{true, false} {
			var refused *RefusedError
			if _, err := b.Announce(ctx, manual(t, "destination 192.0.2.2 then discard"), dry); !errors.As(err, &refused) || refused.Violations[0].Invariant != safety.QuotaGroup {
				t.Errorf("dry run %v: %v", dry, err)
			}
		}
	})
}
