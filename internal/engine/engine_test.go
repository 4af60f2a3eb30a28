package engine

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/amooglesoft/trafficmonitor/internal/audit"
	"github.com/amooglesoft/trafficmonitor/internal/ingest"
	"github.com/amooglesoft/trafficmonitor/internal/mitigation"
	"github.com/amooglesoft/trafficmonitor/internal/route"
	"github.com/amooglesoft/trafficmonitor/internal/safety"
	"github.com/amooglesoft/trafficmonitor/internal/speaker"
	"github.com/amooglesoft/trafficmonitor/internal/store"
	"github.com/amooglesoft/trafficmonitor/internal/traffic"
	"github.com/amooglesoft/trafficmonitor/internal/vector"
	"github.com/amooglesoft/trafficmonitor/policy"
)

var victim = netip.MustParsePrefix("192.0.2.1/32")

// term keeps what is committed, as the store would, and shows it to whoever follows.
type term struct {
	number uint64
	mu     sync.Mutex
	rec    map[string]mitigation.Mitigation // guarded by mu
	holds  map[netip.Prefix]mitigation.Hold // guarded by mu
	freeze *mitigation.Freeze               // guarded by mu
	frozen map[string]mitigation.Freeze     // guarded by mu
	rev    int64                            // guarded by mu
	err    error                            // guarded by mu; what Commit answers
	many   error                            // guarded by mu; what it answers to more than one record
	alone  bool                             // of what is stored together, more than one record is never taken
	made   int                              // guarded by mu; commits
	follow func(store.Snapshot)
}

func newTerm() *term {
	return &term{number: 1, rec: map[string]mitigation.Mitigation{}, holds: map[netip.Prefix]mitigation.Hold{}, frozen: map[string]mitigation.Freeze{}, follow: func(store.Snapshot) {}}
}

func (t *term) Number() uint64 { return t.number }

func (t *term) Load(context.Context) (mitigation.Records, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.records(), nil
}

func (t *term) records() mitigation.Records {
	r := mitigation.Records{Freeze: t.freeze}
	for _, m := range t.rec {
		r.Mitigations = append(r.Mitigations, m)
	}
	for _, h := range t.holds {
		r.Holds = append(r.Holds, h)
	}
	for _, f := range t.frozen {
		r.Frozen = append(r.Frozen, f)
	}
	return r
}

func (t *term) Commit(_ context.Context, c store.Change) (int64, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.err != nil {
		return 0, t.err
	}
	if len(c.Put) > 1 && t.alone && within("(*Engine).store") {
		return 0, store.ErrInvalid
	}
	if len(c.Put) > 1 && t.many != nil {
		return 0, t.many
	}
	t.made++
	for _, m := range c.Put {
		t.rec[m.ID] = m
	}
	for _, h := range c.Holds {
		t.holds[h.Target] = h
	}
	for _, p := range c.DeleteHolds {
		delete(t.holds, p)
	}
	if c.SetFreeze {
		t.freeze = c.Freeze
	}
	for _, f := range c.Freezes {
		t.frozen[f.Group] = f
	}
	for _, g := range c.Unfreeze {
		delete(t.frozen, g)
	}
	t.rev++
	t.follow(store.Snapshot{Revision: t.rev, Term: t.number, Records: t.records()})
	return t.rev, nil
}

func (t *term) commits() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.made
}

// within tells whether a function called this one, by however many others.
func within(function string) bool {
	pcs := make([]uintptr, 32)
	frames := runtime.CallersFrames(pcs[:runtime.Callers(2, pcs)])
	for {
		f, more := frames.Next()
		if strings.HasSuffix(f.Function, function) {
			return true
		}
		if !more {
			return false
		}
	}
}

func (t *term) fail(err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.err = err
}

// bench is an engine with everything around it faked but the core.
type bench struct {
	*Engine
	t          *testing.T
	term       *term
	reg        *prometheus.Registry
	mu         sync.Mutex
	events     []string            // guarded by mu
	directives []*ingest.Directive // guarded by mu
	sets       [][]string          // guarded by mu; routes handed to the speaker
	lead       func() error
}

func (b *bench) Set(_ context.Context, _, _ uint64, routes []speaker.Desired) (speaker.Result, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	var set []string
	for _, d := range routes {
		set = append(set, d.Route.String())
	}
	b.sets = append(b.sets, set)
	return speaker.Result{Announced: len(set)}, nil
}

func (b *bench) announced() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.sets) == 0 {
		return nil
	}
	return b.sets[len(b.sets)-1]
}

func (b *bench) kinds() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return strings.Join(b.events, " ")
}

// run builds a bench in a bubble, leads, and calls fn.
func run(t *testing.T, fn func(b *bench)) {
	t.Helper()
	runWith(t, func(*Options) {}, fn)
}

// runWith is run with other options.
func runWith(t *testing.T, change func(*Options), fn func(b *bench)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		limits := safety.Defaults()
		limits.Own = []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}
		b := &bench{t: t, term: newTerm(), reg: prometheus.NewRegistry()}
		o := Options{
			Own: limits.Own, Safety: limits, Policy: policy.Default(),
			Traffic:     traffic.Options{MaxTargets: 1000, StaleAfter: 3 * time.Second, ForgetAfter: 10 * time.Minute},
			DefaultHold: 30 * time.Minute, Keep: time.Hour, CommitTimeout: time.Second, RetryAfter: 10 * time.Second,
			Watch: ingest.Watch{SampleOneIn: 1024, ReportInterval: time.Second, HotInterval: 100 * time.Millisecond},
			Direct: func(d *ingest.Directive) {
				b.mu.Lock()
				defer b.mu.Unlock()
				b.directives = append(b.directives, d)
			},
			Emit: func(kind audit.Kind, _ string, _ map[string]string) {
				b.mu.Lock()
				defer b.mu.Unlock()
				b.events = append(b.events, string(kind))
			},
			Log: slog.New(slog.DiscardHandler), Registerer: b.reg,
		}
		change(&o)
		b.Engine = New(o)
		a := b.Announcer(b)
		b.term.follow = func(s store.Snapshot) { b.Follow(s); a.Follow(s) }
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		go func() { _ = b.Run(ctx) }()
		go func() { _ = a.Run(ctx) }()
		b.lead = func() error { return b.Lead(ctx, b.term) }
		go func() { _ = b.lead() }()
		synctest.Wait()
		fn(b)
	})
}

func (b *bench) report(cause traffic.Cause, span time.Duration, pps uint64) {
	b.t.Helper()
	now := time.Now()
	var as []traffic.Aggregate
	if pps > 0 {
		n := uint64(float64(pps) * span.Seconds())
		as = []traffic.Aggregate{{Target: victim, Vector: vector.DNS, Packets: n, Bytes: n * 500}}
	}
	if !b.Deliver(ingest.Delivery{Report: traffic.Report{Sensor: "rack1", Cause: cause, Start: now.Add(-span), Span: span, Aggregates: as}, Triggered: now, Received: now}) {
		b.t.Fatal("the report was dropped")
	}
	synctest.Wait()
}

const dnsRule = "destination 192.0.2.1/32 protocol udp source-port 53 then rate-limit 1Mbps"

func TestAttackToAnnouncementToEnd(t *testing.T) {
	run(t, func(b *bench) {
		if d := b.directives[len(b.directives)-1]; d == nil || d.Term != 1 || len(d.Triggers) == 0 || d.Protected[0] != b.o.Own[0] {
			t.Fatalf("the sensors were told %+v", d)
		}
		b.report(traffic.Trigger, 33*time.Millisecond, 25_000)
		if got := b.announced(); len(got) != 1 || got[0] != dnsRule {
			t.Fatalf("announced %q, want %q", got, dnsRule)
		}
		if k := b.kinds(); !strings.Contains(k, "leader_elected incident_onset mitigation_created") {
			t.Errorf("events: %s", k)
		}
		// The router cuts it: a trickle of 1 Mbps for a while, then nothing, until the deadline.
		for range 30 {
			b.report(traffic.Hot, 100*time.Millisecond, 250)
			time.Sleep(100 * time.Millisecond)
		}
		b.report(traffic.Interval, time.Second, 0)
		time.Sleep(10*time.Minute - 4*time.Second)
		synctest.Wait()
		if len(b.announced()) != 1 {
			t.Fatal("withdrawn before the deadline")
		}
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if got := b.announced(); len(got) != 0 {
			t.Fatalf("after the deadline still announced: %q", got)
		}
		time.Sleep(11 * time.Second)
		synctest.Wait()
		if k := b.kinds(); !strings.HasSuffix(k, "mitigation_ended incident_ended") {
			t.Errorf("events: %s", k)
		}
		inc, err := b.Incidents(b.t.Context(), true)
		if err != nil || len(inc) != 1 || inc[0].Active() {
			t.Errorf("incidents: %+v %v", inc, err)
		}
		if problems, err := testutil.GatherAndLint(b.reg); err != nil || len(problems) > 0 {
			t.Errorf("metrics: %v %v", problems, err)
		}
	})
}

func TestReattackIsAnsweredAtOnce(t *testing.T) {
	run(t, func(b *bench) {
		b.report(traffic.Trigger, 33*time.Millisecond, 25_000)
		b.report(traffic.Interval, time.Second, 0)
		time.Sleep(10*time.Minute + time.Second)
		synctest.Wait()
		if len(b.announced()) != 0 {
			t.Fatal("still announced")
		}
		b.report(traffic.Trigger, 33*time.Millisecond, 25_000)
		if got := b.announced(); len(got) != 1 {
			t.Errorf("the second attack is not answered: %q, events %s", got, b.kinds())
		}
	})
}

func TestWithdrawnByHandStaysWithdrawn(t *testing.T) {
	run(t, func(b *bench) {
		b.report(traffic.Trigger, 33*time.Millisecond, 25_000)
		all := func(mitigation.Mitigation) bool { return true }
		c, err := b.Withdraw(b.t.Context(), Withdrawal{Pick: all, Requester: "ann", Reason: "customer asked"})
		if err != nil || len(c.Put) != 1 || len(c.Holds) != 1 {
			t.Fatalf("withdraw: %+v %v", c, err)
		}
		b.report(traffic.Trigger, 33*time.Millisecond, 25_000)
		if got := b.announced(); len(got) != 0 {
			t.Errorf("automation overrode the engineer: %q", got)
		}
		if !strings.Contains(b.kinds(), string(audit.MitigationRefused)) {
			t.Errorf("nobody was told that automation is held off: %s", b.kinds())
		}
		if err := b.DeleteHold(b.t.Context(), victim, "ann", "done"); err != nil {
			t.Fatal(err)
		}
		b.report(traffic.Trigger, 33*time.Millisecond, 25_000)
		if got := b.announced(); len(got) != 1 {
			t.Errorf("after the hold: %q", got)
		}
		if _, err := b.Withdraw(b.t.Context(), Withdrawal{Pick: func(mitigation.Mitigation) bool { return false }}); !errors.Is(err, mitigation.ErrNotFound) {
			t.Errorf("withdraw of nothing: %v", err)
		}
	})
}

func TestFreezeStopsAutomationOnly(t *testing.T) {
	run(t, func(b *bench) {
		if _, err := b.SetFreeze(b.t.Context(), true, "ann", "maintenance"); err != nil {
			t.Fatal(err)
		}
		b.report(traffic.Trigger, 33*time.Millisecond, 25_000)
		if got := b.announced(); len(got) != 0 {
			t.Errorf("frozen automation announced %q", got)
		}
		if _, err := b.Announce(b.t.Context(), manual(t, dnsRule), false); err != nil {
			t.Errorf("an engineer is frozen too: %v", err)
		}
		synctest.Wait()
		if got := b.announced(); len(got) != 1 {
			t.Errorf("announced %q", got)
		}
	})
}

func manual(t *testing.T, text string) mitigation.Request {
	t.Helper()
	r, err := route.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	return mitigation.Request{Route: r, TTL: time.Minute, Requester: "ann", Reason: "test"}
}

func TestSafetyRefuses(t *testing.T) {
	run(t, func(b *bench) {
		for _, text := range []string{
			"destination 198.51.100.1/32 then discard",                                // not ours
			"destination 192.0.2.0/24 then blackhole",                                 // wider than a host
			"destination 192.0.2.1/32 protocol tcp destination-port 179 then discard", // BGP
			"source 198.51.100.1/32 then discard",                                     // no destination
			"destination 0.0.0.0/0 then discard",                                      // match-all
		} {
			m, err := b.Announce(b.t.Context(), manual(t, text), false)
			var refused *RefusedError
			if !errors.As(err, &refused) || m.State == mitigation.Ended {
				t.Errorf("%s: %+v %v", text, m, err)
			}
		}
		if got := b.announced(); len(got) != 0 {
			t.Errorf("announced %q", got)
		}
		if _, err := b.Announce(b.t.Context(), manual(t, dnsRule), true); err != nil {
			t.Errorf("validate only: %v", err)
		}
		if got := b.announced(); len(got) != 0 {
			t.Errorf("validate only announced %q", got)
		}
		// The same match with another action is a conflict, whoever came first stands.
		b.report(traffic.Trigger, 33*time.Millisecond, 25_000)
		time.Sleep(time.Millisecond)
		if _, err := b.Announce(b.t.Context(), manual(t, strings.Replace(dnsRule, "rate-limit 1Mbps", "discard", 1)), false); err == nil {
			t.Error("two actions for one match")
		}
		if got := b.announced(); len(got) != 1 || got[0] != dnsRule {
			t.Errorf("announced %q", got)
		}
	})
}

func TestWhatCannotBeStoredIsNotAnnounced(t *testing.T) {
	run(t, func(b *bench) {
		b.term.fail(fmt.Errorf("etcd is gone"))
		b.report(traffic.Trigger, 33*time.Millisecond, 25_000)
		if got := b.announced(); len(got) != 0 {
			t.Fatalf("announced %q", got)
		}
		if _, err := b.Announce(b.t.Context(), manual(t, dnsRule), false); !errors.Is(err, ErrNotLeading) {
			t.Errorf("after the term was given up: %v", err)
		}
		if d := b.directives[len(b.directives)-1]; d != nil {
			t.Error("a controller that does not lead directs sensors")
		}
		// etcd is back, the next term begins from what is stored, and the attack goes on.
		b.term.fail(nil)
		b.term.number = 2
		go func() { _ = b.lead() }()
		synctest.Wait()
		b.report(traffic.Trigger, 33*time.Millisecond, 25_000)
		if got := b.announced(); len(got) != 1 {
			t.Errorf("announced %q, events %s", got, b.kinds())
		}
	})
}

func TestStandbySeesButDoesNotAct(t *testing.T) {
	run(t, func(b *bench) {
		b.term.fail(errors.New("deposed"))
		b.report(traffic.Trigger, 33*time.Millisecond, 25_000)
		inc, err := b.Incidents(b.t.Context(), false)
		if err != nil || len(inc) != 1 {
			t.Fatalf("a standby does not see the incident: %v %v", inc, err)
		}
		// The leader elsewhere mitigated it: what is hidden is not calm, so a takeover finds the incident.
		m := mitigation.Mitigation{ID: "m-1", Target: victim, State: mitigation.Active, Routes: []route.Route{manual(t, dnsRule).Route}, Requester: mitigation.Automation, Deadline: time.Now().Add(time.Hour)}
		b.Follow(store.Snapshot{Revision: 9, Term: 2, Records: mitigation.Records{Mitigations: []mitigation.Mitigation{m}}})
		b.report(traffic.Interval, time.Second, 0)
		time.Sleep(time.Minute)
		if inc, _ := b.Incidents(b.t.Context(), false); len(inc) != 1 {
			t.Error("the incident ended though its traffic is hidden")
		}
	})
}

func TestPolicyReload(t *testing.T) {
	run(t, func(b *bench) {
		p, err := policy.Parse("t.yaml", []byte("version: 1\nthresholds:\n  - vectors: all-reflection\n    pps: 1 kpps\nresponses:\n  - vectors: all\n    action: discard\n    ttl: 1m\n"))
		if err != nil {
			t.Fatal(err)
		}
		if err := b.SetPolicy(b.t.Context(), p); err != nil {
			t.Fatal(err)
		}
		if d := b.directives[len(b.directives)-1]; d == nil || d.Revision != 2 || d.Triggers[0].PPS != 1000 {
			t.Errorf("the sensors were told %+v", d)
		}
		b.report(traffic.Trigger, 33*time.Millisecond, 2_000)
		if got := b.announced(); len(got) != 1 || !strings.HasSuffix(got[0], "then discard") {
			t.Errorf("announced %q", got)
		}
	})
}

// A policy that no longer asks for a rule takes it back from nobody at once, but it is not kept alive either.
func TestWhatThePolicyAsksForNoLongerEnds(t *testing.T) {
	run(t, func(b *bench) {
		b.report(traffic.Trigger, 33*time.Millisecond, 25_000)
		b.report(traffic.Hot, 100*time.Millisecond, 250)
		p, err := policy.Parse("t.yaml", []byte("version: 1\nthresholds: [{vectors: all-reflection, pps: 20 kpps}]\nresponses: [{vectors: all, action: observe}]\n"))
		if err != nil {
			t.Fatal(err)
		}
		if err := b.SetPolicy(b.t.Context(), p); err != nil {
			t.Fatal(err)
		}
		for range 10*60 + 5 { // the trickle goes on beyond the rule's ten minutes
			b.report(traffic.Interval, time.Second, 250)
			time.Sleep(time.Second)
		}
		synctest.Wait()
		if got := b.announced(); len(got) != 0 {
			t.Errorf("still announced: %q", got)
		}
		if k := b.kinds(); !strings.Contains(k, "mitigation_changed mitigation_verified mitigation_ended") || strings.Contains(k, "mitigation_extended") {
			t.Errorf("events: %s", k)
		}
	})
}

// When host slots run out sensors count whole prefixes. What comes together there may be no attack on anyone.
func TestANetworkIsOnlyObserved(t *testing.T) {
	run(t, func(b *bench) {
		now := time.Now()
		b.Deliver(ingest.Delivery{Received: now, Triggered: now, Report: traffic.Report{
			Sensor: "rack1", Cause: traffic.Trigger, Start: now.Add(-32 * time.Millisecond), Span: 32 * time.Millisecond,
			Aggregates: []traffic.Aggregate{{Target: netip.MustParsePrefix("192.0.2.0/24"), Vector: vector.DNS, Packets: 5000, Bytes: 500_000}},
		}})
		synctest.Wait()
		if got := b.announced(); len(got) != 0 {
			t.Errorf("announced %q", got)
		}
		if k := b.kinds(); !strings.Contains(k, "incident_onset mitigation_observed") {
			t.Errorf("events: %s", k)
		}
	})
}

// TestRuleFollowsThePortsSensorsAreTold: what they count for a vector is what its rule has to match.
func TestRuleFollowsThePortsSensorsAreTold(t *testing.T) {
	told := func(o *Options) {
		o.Watch.ReflectionPorts = map[uint16]vector.ID{53: vector.OtherReflection, 9999: vector.DNS}
	}
	runWith(t, told, func(b *bench) {
		b.report(traffic.Trigger, 33*time.Millisecond, 25_000)
		want := strings.Replace(dnsRule, "source-port 53", "source-port 9999", 1)
		if got := b.announced(); len(got) != 1 || got[0] != want {
			t.Errorf("announced %q, want %q", got, want)
		}
	})
}
