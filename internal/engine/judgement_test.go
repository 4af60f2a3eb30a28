package engine

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
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
	"github.com/amooglesoft/trafficmonitor/internal/signature"
	"github.com/amooglesoft/trafficmonitor/internal/store"
	"github.com/amooglesoft/trafficmonitor/internal/traffic"
	"github.com/amooglesoft/trafficmonitor/internal/vector"
	"github.com/amooglesoft/trafficmonitor/policy"
)

const crowded = `version: 1
thresholds: [{vectors: all, pps: 20 kpps}]
responses:
  - vectors: dns-amplification
    ladder:
      - {action: rate-limit 1 Mbps, ttl: 30s, extend: 30s, max_age: 3m, down_after: 5s}
      - {action: discard, after: 4s, if: evidence.reduction < 0.9, ttl: 30s, extend: 30s, max_age: 3m, down_after: 5s}
      - {action: blackhole, after: 4s, if: evidence.reduction < 0.95, ttl: 30s, max_age: 3m, down_after: 10s}
  - vectors: ntp-amplification
    ladder:
      - {action: notify}
      - {action: discard, after: 3s, ttl: 30s, max_age: 3m, down_after: 5s}
      - {action: blackhole, after: 8s, if: 'evidence.age > duration("8s")', ttl: 30s, max_age: 3m, down_after: 10s}
  - vectors: cldap-amplification
    action: rate-limit 2 Mbps
    ttl: 20s
    extend: 20s
    max_age: 1m
groups:
  web: {prefixes: [192.0.2.0/30]}
`

// A random life under tight limits is the same in every word, record and set handed to the speaker, whether steps are stored one by one
// or at once; and what is said to be announced, or refused, is what the safety kernel says of the whole set.
func TestRandomLivesAreJudgedAndStored(t *testing.T) {
	pol, err := policy.Parse("crowded.yaml", []byte(crowded))
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]int{}
	known, saved := 0, 0
	for seed := range uint64(8) {
		live := func(alone bool) []string {
			var w words
			var l *bench
			runWith(t, func(o *Options) {
				rng := rand.New(rand.NewPCG(seed, 5))
				o.Policy, o.RetryAfter = pol, 2*time.Second
				o.Safety.MaxRules, o.Safety.MaxNewPerMinute = 3+rng.IntN(6), 4+rng.IntN(20)
				o.Safety.MaxRulesPerTarget, o.Safety.MaxRulesPerGroup, o.Safety.MaxRulesPerResponse = 1+rng.IntN(3), 2+rng.IntN(4), 2+rng.IntN(4)
				o.Safety.MaxOwnShare, o.Safety.MaxAge = []float64{0.001, 0.005, 0.01, 0.5}[rng.IntN(4)], 10*time.Minute
				o.Emit = func(kind audit.Kind, text string, about map[string]string) {
					w.add("%s %s %v", kind, text, about)
					switch kind {
					case audit.MitigationRefused, audit.MitigationCreated, audit.MitigationEscalated, audit.MitigationEased:
						if m, ok := l.machine.Find(about["mitigation"]); ok && m.State == mitigation.Active && m.Routes[0].String() == about["route"] {
							set, owners, _ := entries(time.Now(), l.machine.Active())
							broken := slices.ContainsFunc(safety.Check(time.Now(), l.o.Safety, set), func(v safety.Violation) bool { return slices.Contains(owners[v.Index], m.ID) })
							if refused := kind == audit.MitigationRefused && m.Rung.Step == 0 && strings.HasPrefix(text, about["route"]+": "); broken != refused {
								t.Errorf("%s %s: of the whole set it is broken: %v", kind, text, broken)
							}
						}
					}
				}
			}, func(b *bench) {
				l = b
				b.term.alone = alone
				known += b.randomLife(rand.New(rand.NewPCG(seed, 6)), &w)
				if alone {
					saved += b.term.made
				} else {
					saved -= b.term.made
				}
			})
			return w.said
		}
		want, got := live(true), live(false)
		for i := range max(len(got), len(want)) {
			if get(got, i) != get(want, i) {
				t.Fatalf("seed %d: word %d is\n%s\nand where each is stored alone\n%s", seed, i, get(got, i), get(want, i))
			}
		}
		for _, said := range got {
			seen[strings.Fields(said)[0]]++
		}
	}
	for _, kind := range []audit.Kind{audit.MitigationRefused, audit.MitigationCreated, audit.MitigationEscalated, audit.MitigationEased, audit.MitigationEnded, audit.MitigationProposed, audit.ManualAnnounce, audit.LeaderLost} {
		if seen[string(kind)] < 5 {
			t.Errorf("%d times %s: too few to show anything", seen[string(kind)], kind)
		}
	}
	if known < 300 || saved < 10 {
		t.Errorf("%d times what was judged was known, and %d commits were saved: too few to show anything", known, saved)
	}
}

// What changes of one mitigation passes where the whole set with it does, and only there: starts, other rules, and those that end, in
// any order, with refusals that are taken back between them. After each the judgement is known still, and the whole set was not asked.
func TestJudgedByWhatChangedIsJudgedByAll(t *testing.T) {
	seen := map[string]int{}
	for seed := range uint64(60) {
		rng := rand.New(rand.NewPCG(seed, 9))
		limits := safety.Defaults()
		limits.Own = []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}
		limits.Never = []netip.Prefix{netip.MustParsePrefix("192.0.2.5/32")}
		limits.MaxRules, limits.MaxNewPerMinute = 3+rng.IntN(12), 4+rng.IntN(20)
		limits.MaxRulesPerTarget, limits.MaxRulesPerGroup, limits.MaxRulesPerResponse = 1+rng.IntN(4), 3+rng.IntN(8), 3+rng.IntN(8)
		limits.MaxOwnShare = []float64{0.005, 0.01, 0.02, 0.5}[rng.IntN(4)]
		e := New(Options{
			Own: limits.Own, Safety: limits, Policy: policy.Default(), Keep: time.Hour, Direct: func(*ingest.Directive) {},
			Emit: func(audit.Kind, string, map[string]string) {}, Log: slog.New(slog.DiscardHandler), Registerer: prometheus.NewRegistry(),
		})
		e.machine = e.newMachine(mitigation.Records{})
		asked := func() float64 { return testutil.ToFloat64(e.metrics.judgements.WithLabelValues(judgedSet)) }
		now := time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
		actions := []route.Action{{Kind: route.Discard}, {Kind: route.RateBytes, Rate: 125_000}, {Kind: route.Blackhole}}
		wants := func(target netip.Prefix, v vector.ID) route.Route {
			a := actions[rng.IntN(3)]
			if a.Kind == route.Blackhole {
				return route.Route{Match: route.Match{Destination: target}, Action: a}
			}
			return route.Route{Match: signature.For(target, v).Match, Action: a}
		}
		for range 120 {
			now = now.Add(time.Duration(rng.IntN(8)) * time.Second)
			what, before := "", mitigation.Mitigation{}
			var after mitigation.Mitigation
			var undo func()
			known, sets := e.known(now), asked()
			sound := len(safety.Check(now, limits, first(entries(now, e.machine.Active())))) == 0
			active := slices.DeleteFunc(e.machine.Active(), func(m mitigation.Mitigation) bool { return !now.Before(m.Deadline) })
			target := netip.PrefixFrom(netip.AddrFrom4([4]byte{192, 0, 2, byte(1 + rng.IntN(6))}), 32)
			v := []vector.ID{vector.DNS, vector.NTP, vector.CLDAP}[rng.IntN(3)]
			switch n := rng.IntN(8); {
			case n < 3 || len(active) == 0:
				var err error
				after, err = e.machine.Respond(now, mitigation.Plan{
					Target: target, Vector: v, Route: wants(target, v), TTL: time.Duration(1+rng.IntN(120)) * time.Second, MaxAge: time.Hour, Answer: []string{"a", "b"}[rng.IntN(2)],
				})
				if err != nil {
					continue
				}
				what, undo = "start", func() {
					if rng.IntN(2) == 0 {
						e.machine.Drop(after.ID)
					} else {
						e.machine.Refuse(now, after.ID, "r")
					}
				}
			case n < 6:
				m := active[rng.IntN(len(active))]
				var ok bool
				if before, after, ok = e.machine.Refine(now, m.ID, wants(m.Target, m.Vectors[0]), "r"); !ok {
					t.Fatal("not refined")
				}
				what, undo = "rule", func() {
					if rng.IntN(2) == 0 {
						e.machine.Unrefine(before)
					} else {
						e.machine.Restore(now, before)
					}
				}
			case n == 6:
				before = active[rng.IntN(len(active))]
				e.left(now, known, before, e.machine.Withdraw(now, func(m mitigation.Mitigation) bool { return m.ID == before.ID }, 0, "ann", "r").Put[0])
				if e.known(now) != known {
					t.Fatalf("seed %d: after one left it is known: %v", seed, !known)
				}
				seen["left"]++
				continue
			default: // what nobody judges
				e.machine.Tick(now, nil)
				if rng.IntN(3) == 0 {
					e.enforceSafety(now)
				}
				continue
			}
			set, owners, _ := entries(now, e.machine.Active())
			broken := false
			for _, v := range safety.Check(now, limits, set) {
				broken = broken || sound || slices.Contains(owners[v.Index], after.ID)
			}
			refusals := e.judgeChange(now, known, before, after)
			if broken != (len(refusals) > 0) {
				t.Fatalf("seed %d: %s to %s: refused for %v, and of the whole set for something: %v", seed, what, after.Routes[0], refusals, broken)
			}
			if broken {
				if e.known(now) {
					t.Fatalf("seed %d: %s to %s is refused and not taken back, and all is taken for known", seed, what, after.Routes[0])
				}
				undo()
				e.unchanged()
				what += " refused"
				seen[string(refusals[0].Invariant)]++
			}
			if sound && !e.known(now) {
				t.Fatalf("seed %d: %s to %s, and the judgement is not known", seed, what, after.Routes[0])
			}
			if asked() != sets {
				seen["the whole set asked"]++
				if known {
					t.Fatalf("seed %d: %s to %s: the whole set was asked about again", seed, what, after.Routes[0])
				}
			}
			seen[what]++
			for _, m := range e.machine.ActiveAt(after.Target) {
				if m.ID != after.ID && m.Routes[0].Equal(after.Routes[0]) {
					seen[what+" of two"]++
				}
			}
		}
	}
	for _, what := range []string{"start", "start refused", "rule", "rule refused", "left", "the whole set asked", "rule of two"} {
		if seen[what] < 30 {
			t.Errorf("%d times %s: too few to show anything: %v", seen[what], what, seen)
		}
	}
}

func first[A, B, C any](a A, _ B, _ C) A { return a }

// What was judged is known until something else changes, a deadline passes, the clock goes back or another machine decides.
func TestWhatWasJudgedIsKnownForAWhile(t *testing.T) {
	run(t, func(b *bench) {
		b.report(traffic.Trigger, 33*time.Millisecond, 25_000)
		look := func(does string, want bool, known func(now time.Time, m mitigation.Mitigation) bool) {
			b.t.Helper()
			time.Sleep(1100 * time.Millisecond)
			synctest.Wait()
			_ = b.do(b.t.Context(), func(now time.Time) error {
				all := b.machine.Active()
				if len(all) != 1 {
					b.t.Errorf("%d are active", len(all))
				} else if got := known(now, all[0]); got != want {
					b.t.Errorf("%s: known is %v", does, got)
				}
				return nil
			})
		}
		look("a moment later", true, func(now time.Time, _ mitigation.Mitigation) bool { return b.known(now) })
		look("just before the deadline", true, func(_ time.Time, m mitigation.Mitigation) bool { return b.known(m.Deadline.Add(-1)) })
		look("at the deadline", false, func(_ time.Time, m mitigation.Mitigation) bool { return b.known(m.Deadline) })
		look("before it was judged", false, func(now time.Time, _ mitigation.Mitigation) bool { return b.known(now.Add(-time.Minute)) })
		look("after a change", false, func(now time.Time, m mitigation.Mitigation) bool {
			before, _, _ := b.machine.Refine(now, m.ID, route.Route{Match: route.Match{Destination: victim}, Action: m.Routes[0].Action}, "r")
			defer b.machine.Unrefine(before)
			return b.known(now)
		})
		look("on a copy of the machine", false, func(now time.Time, _ mitigation.Mitigation) bool {
			real := b.machine
			defer func() { b.machine = real }()
			b.machine = b.newMachine(real.Records())
			b.judged.edition = b.machine.Edition()
			return b.known(now)
		})
	})
}

// However many starts and steps are refused, the whole set is asked about once a look and not for each.
func TestRefusalsAreJudgedByWhatChanges(t *testing.T) {
	const n = 20
	pol, err := policy.Parse("p.yaml", []byte("version: 1\nthresholds: [{vectors: all-reflection, pps: 20 kpps}]\nresponses: [{vectors: all-reflection, ladder: [{action: rate-limit 1 Mbps}, {action: blackhole, after: 5s, if: evidence.reduction < 0.9}]}]\n"))
	if err != nil {
		t.Fatal(err)
	}
	runWith(t, func(o *Options) { o.Policy, o.Safety.MaxOwnShare = pol, 0.001 }, func(b *bench) {
		b.limit(func(l *safety.Limits) { l.Never = []netip.Prefix{netip.MustParsePrefix("192.0.2.128/25")} })
		refused := func(i safety.Invariant) int {
			return int(testutil.ToFloat64(b.metrics.refused.WithLabelValues(string(i))))
		}
		asked := func(about string) int { return int(testutil.ToFloat64(b.metrics.judgements.WithLabelValues(about))) }
		began, sets, changes := time.Now(), asked(judgedSet), asked(judgedChange)
		for refused(safety.QuotaOwnShare) < n && time.Since(began) < time.Minute {
			now := time.Now()
			r := traffic.Report{Sensor: "rack1", Cause: traffic.Interval, Start: now.Add(-time.Second), Span: time.Second}
			for i := range n {
				for _, host := range []byte{byte(i), 128 + byte(i)} {
					r.Aggregates = append(r.Aggregates, traffic.Aggregate{Target: netip.PrefixFrom(netip.AddrFrom4([4]byte{192, 0, 2, host}), 32), Vector: vector.DNS, Packets: 50_000, Bytes: 25_000_000})
				}
			}
			b.Deliver(ingest.Delivery{Report: r, Received: now})
			time.Sleep(time.Second)
			synctest.Wait()
		}
		if refused(safety.Protected) < n || refused(safety.QuotaOwnShare) < n {
			t.Fatalf("%d starts and %d steps were refused, of %d each", refused(safety.Protected), refused(safety.QuotaOwnShare), n)
		}
		looks := int(time.Since(began)/time.Second) + 2
		if got := asked(judgedSet) - sets; got > 2*looks {
			t.Errorf("the whole set was asked about %d times in about %d looks", got, looks)
		}
		if got := asked(judgedChange) - changes; got < 3*n {
			t.Errorf("%d changes were asked about, of %d starts and %d steps", got, 2*n, n)
		}
	})
}

// words is what a life said.
type words struct {
	mu   sync.Mutex
	said []string // guarded by mu
}

func (w *words) add(format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.said = append(w.said, fmt.Sprintf(format, args...))
}

// randomLife lets attacks come and go, engineers act and the store fail, and says what came of it; known is how often a decision could
// have been judged by what changes.
func (b *bench) randomLife(rng *rand.Rand, w *words) (known int) {
	type attack struct {
		target netip.Prefix
		vector vector.ID
	}
	vectors := []vector.ID{vector.DNS, vector.NTP, vector.CLDAP}
	host := func() netip.Prefix {
		return netip.PrefixFrom(netip.AddrFrom4([4]byte{192, 0, 2, byte(1 + rng.IntN(6))}), 32)
	}
	pps := map[attack]uint64{}
	ctx := b.t.Context()
	for range 160 {
		for range rng.IntN(5) {
			pps[attack{host(), vectors[rng.IntN(3)]}] = []uint64{0, 20, 250, 25_000, 40_000}[rng.IntN(5)]
		}
		var as []traffic.Aggregate
		for k, n := range pps {
			as = append(as, traffic.Aggregate{Target: k.target, Vector: k.vector, Packets: n, Bytes: n * 500})
		}
		slices.SortFunc(as, func(x, y traffic.Aggregate) int {
			return cmp.Or(x.Target.Compare(y.Target), cmp.Compare(x.Vector, y.Vector))
		})
		now := time.Now()
		b.Deliver(ingest.Delivery{Report: traffic.Report{Sensor: "rack1", Cause: traffic.Interval, Start: now.Add(-time.Second), Span: time.Second, Aggregates: as}, Received: now})
		synctest.Wait()
		var err error
		switch rng.IntN(24) {
		case 0:
			target := host()
			if rng.IntN(3) == 0 {
				target = netip.PrefixFrom(target.Addr(), 30).Masked()
			}
			_, err = b.Announce(ctx, manual(b.t, fmt.Sprintf("destination %s protocol udp source-port %d then discard", target, []int{53, 123, 19}[rng.IntN(3)])), rng.IntN(3) == 0)
		case 1:
			p := host()
			_, err = b.Withdraw(ctx, Withdrawal{Pick: func(m mitigation.Mitigation) bool { return m.Target.Overlaps(p) }, Requester: "ann", Reason: "r"})
		case 2:
			err = b.DeleteHold(ctx, host(), "ann", "r")
		case 3, 4:
			_, err = b.SetFreeze(ctx, rng.IntN(3) == 0, "ann", "r")
		case 5:
			if rng.IntN(3) > 0 {
				break
			}
			b.term.fail(errors.New("etcd lost its leader"))
			pps[attack{host(), vector.DNS}] = 50_000
			now := time.Now()
			b.Deliver(ingest.Delivery{Report: traffic.Report{Sensor: "rack1", Cause: traffic.Hot, Start: now.Add(-100 * time.Millisecond), Span: 100 * time.Millisecond, Aggregates: as}, Received: now})
			time.Sleep(time.Duration(rng.IntN(6)) * time.Second)
			synctest.Wait()
			b.term.fail(nil)
		case 6, 7:
			b.term.mu.Lock()
			b.term.many = []error{nil, fmt.Errorf("%w: a record", store.ErrInvalid), fmt.Errorf("%w: a record", store.ErrTooLarge)}[rng.IntN(3)]
			b.term.mu.Unlock()
		}
		synctest.Wait()
		leads := false
		_ = b.do(ctx, func(time.Time) error { leads = b.machine != nil; return nil })
		if !leads {
			go func() { _ = b.lead() }()
			synctest.Wait()
		}
		synctest.Wait() // it may have looked after the command
		w.add("answer %v", err)
		_ = b.do(ctx, func(now time.Time) error {
			if b.machine == nil {
				return nil
			}
			if b.known(now) {
				known++
			}
			masked, wide := map[netip.Prefix]bool{}, 0
			for _, m := range b.machine.Active() {
				if !masked[m.Target] && !m.Target.IsSingleIP() {
					wide++
				}
				masked[m.Target] = true
			}
			if !maps.Equal(masked, b.mitigated) || wide != len(b.wide) {
				b.t.Errorf("%v are taken for mitigated, %v of them networks, and active are %v", b.mitigated, b.wide, masked)
			}
			return nil
		})
		// The engine looks once a second, and never at the moment at which the test does something.
		time.Sleep([]time.Duration{0, 20 * time.Millisecond, time.Second, time.Second}[rng.IntN(4)] + time.Duration(1+rng.IntN(900_000)))
		synctest.Wait()
		w.add("announced %q", b.announced())
	}
	rec, _ := b.term.Load(ctx)
	slices.SortFunc(rec.Mitigations, func(x, y mitigation.Mitigation) int { return cmp.Compare(x.ID, y.ID) })
	for _, m := range rec.Mitigations {
		w.add("stored %+v", m)
	}
	return known
}

func get(all []string, i int) string {
	if i < len(all) {
		return all[i]
	}
	return "nothing"
}
