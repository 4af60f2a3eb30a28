package mitigation

import (
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/amooglesoft/trafficmonitor/internal/route"
	"github.com/amooglesoft/trafficmonitor/internal/safety"
	"github.com/amooglesoft/trafficmonitor/internal/traffic"
	"github.com/amooglesoft/trafficmonitor/internal/vector"
	"github.com/amooglesoft/trafficmonitor/policy"
)

var seeds = flag.Uint64("seeds", 24, "random lives to try")

const eventful = `version: 1
thresholds: [{vectors: all, pps: 20 kpps}]
responses:
  - vectors: dns-amplification
    ladder:
      - {action: notify}
      - {action: rate-limit 4 Mbps, after: 2s, ttl: 60s, extend: 30s, max_age: 10m, down_after: 5s}
      - {action: discard, after: 4s, if: evidence.reduction < 0.9, ttl: 60s, max_age: 10m, down_after: 8s}
      - {action: blackhole, after: 4s, if: evidence.reduction < 0.5, approval: 1, ttl: 60s, max_age: 10m, down_after: 8s}
  - vectors: ntp-amplification
    ladder:
      - {action: discard, approval: 2, ttl: 60s, max_age: 10m, down_after: 8s}
  - vectors: cldap-amplification
    action: rate-limit 2 Mbps
    ttl: 60s
    extend: 30s
    max_age: 10m
`

// life drives a machine as the engine does: each set is asked of the safety kernel before it counts as stored.
type life struct {
	t      *testing.T
	seed   uint64
	m      *Machine
	now    time.Time
	limits safety.Limits
	since  map[string]time.Time // when automation last changed what a mitigation announces
	judged struct {
		m       *Machine
		edition uint64
		said    []string
	}
}

func (l *life) fatal(format string, args ...any) {
	l.t.Helper()
	l.t.Fatalf("seed %d at %s: %s", l.seed, l.now.Sub(t0), fmt.Sprintf(format, args...))
}

func (l *life) check() []safety.Violation {
	var set []safety.Entry
	for _, d := range l.m.Records().Routes(l.now) {
		set = append(set, safety.Entry{Route: d.Route, Owners: d.Owners, Created: d.Created, Deadline: d.Deadline, Manual: d.Manual, Approved: d.Approved})
	}
	return safety.Check(l.now, l.limits, set)
}

func (l *life) announced() map[string]string {
	out := map[string]string{}
	for _, x := range l.m.Records().Mitigations {
		if x.State == Active {
			out[x.ID] = x.Routes[0].String()
		}
	}
	return out
}

// kept fails when what the machine remembers of who lives is not what it would find by looking, or when something else is announced
// and the edition is the same.
func (l *life) kept(what string) {
	l.t.Helper()
	if l.seed%3 > 0 { // it takes as long as all else
		return
	}
	var said []string
	for _, x := range l.m.Active() {
		said = append(said, fmt.Sprint(x.ID, x.Routes, x.Scope, x.Created, x.Deadline, x.Groups, x.Approved, x.Answer))
	}
	slices.Sort(said)
	if l.m == l.judged.m && l.m.Edition() == l.judged.edition && !slices.Equal(said, l.judged.said) {
		l.fatal("after %s the edition is the same, and announced is\n%q\nnot\n%q", what, said, l.judged.said)
	}
	l.judged.m, l.judged.edition, l.judged.said = l.m, l.m.Edition(), said
	if l.m.live == nil {
		return
	}
	live, acting, at, looks := l.m.live, l.m.acting, l.m.at, maps.Clone(l.m.looks)
	l.m.live = nil
	l.m.alive()
	if !slices.Equal(live, l.m.live) || !slices.Equal(acting, l.m.acting) || !maps.EqualFunc(at, l.m.at, slices.Equal) || !maps.Equal(looks, l.m.looks) {
		l.fatal("after %s the machine remembers %d living, %d active, %d targets, %d looks, not %d, %d, %d, %d, or others",
			what, len(live), len(acting), len(at), len(looks), len(l.m.live), len(l.m.acting), len(l.m.at), len(l.m.looks))
	}
	l.m.live, l.m.acting, l.m.at = live, acting, at // so that what was kept is built on
}

// TestRandomEvents finds, whatever happens: every route has an owner and an end, each set passes the safety kernel, automation
// does nothing for what is frozen or held but let it end, phases follow each other as drawn, and no mitigation changes its
// rule more often than every three seconds, but to take one back that was eased in vain.
func TestRandomEvents(t *testing.T) {
	p, err := policy.Parse("random.yaml", []byte(eventful))
	if err != nil {
		t.Fatal(err)
	}
	vectors := []vector.ID{vector.DNS, vector.NTP, vector.CLDAP}
	ports := map[vector.ID]uint32{vector.DNS: 53, vector.NTP: 123, vector.CLDAP: 389}
	targets := []netip.Prefix{victim, netip.MustParsePrefix("192.0.2.2/32"), netip.MustParsePrefix("2001:db8::1/128")}
	persons := []string{"ann", "bob", "eva"}
	ways := Transitions()
	reached := map[Phase]int{}
	for seed := range *seeds {
		rng := rand.New(rand.NewPCG(seed, 11))
		limits := safety.Defaults()
		limits.Own = []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24"), netip.MustParsePrefix("2001:db8::/32")}
		limits.MaxRules, limits.MaxAge = 4, 10*time.Minute
		l := &life{t: t, seed: seed, m: New(Records{}), now: t0, limits: limits, since: map[string]time.Time{}}
		onset := map[sight]time.Time{}
		pps := map[sight]float64{}
		mark := func(target netip.Prefix, v vector.ID) route.Match {
			return route.Match{Destination: target, Protocol: []route.Range{{Lo: 17, Hi: 17}}, SourcePort: []route.Range{{Lo: ports[v], Hi: ports[v]}}}
		}
		ask := func(k sight) (policy.Response, Facts) {
			at, live := onset[k]
			f := Facts{Live: live, Duration: l.now.Sub(at), Collateral: -1, Mark: mark(k.target, k.vector), MaxAge: l.limits.MaxAge}
			return p.Answer(policy.Incident{
				Target: k.target, Vector: k.vector, Measured: true, PPS: 30000, PeakPPS: 30000, Duration: f.Duration, Test: "limit", Sensors: 1, Hosts: 1, Collateral: -1,
			}, l.now), f
		}
		phases := map[string]Phase{}
		follow := func(what string) {
			l.kept(what)
			for _, x := range l.m.Records().Mitigations {
				was, known := phases[x.ID]
				if x.Phase.State() != x.State {
					l.fatal("after %s %s is %s and %s", what, x.ID, x.State, x.Phase)
				}
				if known && was != x.Phase && !slices.Contains(ways[was], x.Phase) {
					l.fatal("after %s %s went from %s to %s", what, x.ID, was, x.Phase)
				}
				phases[x.ID] = x.Phase
				reached[x.Phase]++
			}
		}
		for range 400 {
			l.now = l.now.Add(time.Duration(1+rng.IntN(2)) * time.Second)
			k := sight{targets[rng.IntN(len(targets))], vectors[rng.IntN(len(vectors))]}
			live := l.m.Live()
			pick := func() string {
				if len(live) == 0 {
					return "m-none"
				}
				return live[rng.IntN(len(live))].ID
			}
			what := ""
			switch n := rng.IntN(40); {
			case n < 6:
				what = "attack"
				if _, on := onset[k]; !on {
					onset[k] = l.now
				}
				pps[k] = 30000
				r, f := ask(k)
				i := slices.IndexFunc(r.Steps, policy.Step.Announces)
				s := r.Steps[i]
				plan := Plan{
					Target: k.target, Vector: k.vector, Incident: "i-" + k.target.String(), Route: route.Route{Match: f.Mark, Action: s.Action}, TTL: s.TTL, Extend: s.Extend,
					MaxAge: min(s.MaxAge, f.MaxAge), Reason: r.Reason, Rung: Rung{Ladder: Ladder(r), Steps: len(r.Steps)}, PPS: 30000, BPS: 120e6, Proposed: r.Observe,
				}
				if r.Observe {
					plan.Rung.Step = -1
				}
				off := l.m.handsOff(l.now, k.target)
				x, err := l.m.Respond(l.now, plan)
				if err == nil && off != "" {
					l.fatal("automation answered while %s", off)
				}
				if err == nil {
					if bad := len(l.check()) > 0; bad && x.ID[2]%2 == 0 {
						l.m.Drop(x.ID)
					} else if bad {
						l.m.Refuse(l.now, x.ID, "refused")
					} else if x.State == Active {
						l.since[x.ID] = l.now
					}
				}
			case n < 8:
				what = "over"
				delete(onset, k)
				pps[k] = float64(rng.IntN(20))
				l.m.Over(l.now, k.target, []vector.ID{k.vector})
			case n < 24:
				what = "observation"
				if rng.IntN(3) == 0 {
					pps[k] = []float64{0, 100, 900, 5000, 29000}[rng.IntN(5)]
				}
				o := traffic.Observation{Target: k.target, Vector: k.vector, PPS: pps[k], BPS: pps[k] * 4000, AllPPS: pps[k] + 500, Start: l.now.Add(-time.Second), Span: time.Second, SensorCount: 1}
				switch rng.IntN(8) {
				case 0:
					o.MissingCount, o.SensorCount = 1, 0
				case 1:
					o.SensorCount = 0
				}
				l.m.Observe(o, Usual{})
			case n == 24:
				what = "freeze"
				l.m.SetFreeze(&Freeze{Since: l.now, Requester: "ann", Reason: "r"})
			case n < 28:
				what = "unfreeze"
				l.m.SetFreeze(nil)
			case n < 30:
				what = "withdraw"
				id := pick()
				l.m.Withdraw(l.now, func(x Mitigation) bool { return x.ID == id }, time.Duration(rng.IntN(2))*20*time.Second, "ann", "r")
			case n < 34:
				what = "approve"
				before, c, err := l.m.Approve(l.now, pick(), persons[rng.IntN(3)], "r")
				if err == nil && len(l.check()) > 0 {
					l.m.Restore(l.now, before)
				} else if err == nil {
					for _, a := range c.Put[0].Ask.By {
						if a.Who == c.Put[0].Requester {
							l.fatal("%s approved its own request", a.Who)
						}
					}
				}
			case n == 34:
				what = "reject"
				_, _, _ = l.m.Reject(l.now, pick(), persons[rng.IntN(3)], "r")
			case n == 35:
				what = "extend"
				before, _, err := l.m.Extend(pick(), time.Duration(rng.IntN(300))*time.Second, l.limits.MaxAge, "ann", "r")
				if err == nil && len(l.check()) > 0 {
					l.m.Restore(l.now, before)
				}
			case n == 36:
				what = "announce"
				r := Request{Route: route.Route{Match: mark(k.target, k.vector), Action: route.Action{Kind: route.Discard}}, TTL: time.Minute, Requester: "eva", Reason: "r"}
				if rng.IntN(2) == 0 {
					r.Ask = &Ask{Needs: 1 + rng.IntN(2), Why: "wide", Since: l.now}
				}
				x, _ := l.m.Announce(l.now, r)
				if len(l.check()) > 0 {
					l.m.Refuse(l.now, x.ID, "refused")
				}
			case n == 37:
				what = "another leader"
				l.m = New(l.m.Records())
			case n == 38:
				what = "refine"
				r := route.Route{Match: mark(k.target, k.vector), Action: route.Action{Kind: route.RateBytes, Rate: 500_000}}
				r.Match.Length = []route.Range{{Lo: uint32(400 + rng.IntN(3)), Hi: 1500}}
				if before, _, ok := l.m.Refine(l.now, pick(), r, "narrower"); ok && (before.Target != k.target || len(l.check()) > 0) {
					l.kept("a rule refined in vain")
					l.m.Unrefine(before)
				}
			default:
				what = "nothing"
			}
			l.m.Forget(l.now.Add(-3 * time.Minute))
			follow(what)

			before, held := l.announced(), map[string]bool{}
			for _, x := range l.m.Live() {
				held[x.ID] = !x.Manual() && l.m.handsOff(l.now, x.Target) != ""
			}
			l.m.Tick(l.now, nil)
			follow("tick")
			for _, x := range l.m.Live() {
				if x.Manual() {
					continue
				}
				r, f := ask(sight{x.Target, x.Vectors[0]})
				was, c, moved, err := l.m.Advance(l.now, x.ID, r, f)
				if err != nil {
					l.fatal("%v", err)
				}
				if !moved {
					continue
				}
				if len(l.check()) > 0 {
					l.m.Restore(l.now, was)
					l.kept("a step taken back")
					continue
				}
				follow("advance")
				y := c.Put[0]
				if y.State != Active || was.State == Active && y.Routes[0].Equal(was.Routes[0]) {
					continue
				}
				last, changed := l.since[x.ID]
				if back := was.Phase == Easing && y.Phase == Escalated; changed && !back && l.now.Sub(last) < settle {
					l.fatal("%s changed its rule after %s: %s", x.ID, l.now.Sub(last), c.Moves[0].Why)
				}
				l.since[x.ID] = l.now
			}
			for id, rule := range l.announced() {
				if held[id] && before[id] != rule {
					l.fatal("automation changed %s from %q to %q while it is held off", id, before[id], rule)
				}
			}
			if vs := l.check(); len(vs) > 0 {
				l.fatal("after %s the set is unsafe: %+v", what, vs)
			}
			all := l.m.Records()
			for _, d := range all.Routes(l.now) {
				if !l.now.Before(d.Deadline) || d.Deadline.Sub(d.Created) > l.limits.MaxAge {
					l.fatal("%s has no proper end: %s", d.Route, d.Deadline)
				}
				for _, o := range d.Owners {
					if !slices.ContainsFunc(all.Mitigations, func(x Mitigation) bool { return x.ID == o && x.State == Active }) {
						l.fatal("%s is owned by %s, which announces nothing", d.Route, o)
					}
				}
			}
		}
		l.now = l.now.Add(l.limits.MaxAge)
		l.m.Tick(l.now, nil)
		if live := l.m.Live(); len(live) != 0 {
			l.fatal("%v lives still after the longest age", live)
		}
	}
	for _, ph := range Phases() {
		if ph != Failed && reached[ph] == 0 {
			t.Errorf("no random life reached %s: the test says less than it should", ph)
		}
	}
}
