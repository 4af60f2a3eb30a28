package mitigation

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/amooglesoft/trafficmonitor/internal/route"
	"github.com/amooglesoft/trafficmonitor/internal/traffic"
	"github.com/amooglesoft/trafficmonitor/internal/vector"
)

// Machine is the lifecycle of all mitigations. Each method takes the time, changes the machine and returns the records
// to store; nothing may be announced before they are. It is not safe for concurrent use.
type Machine struct {
	all     map[string]*Mitigation
	holds   map[netip.Prefix]Hold
	freeze  *Freeze
	frozen  map[string]Freeze           // by group
	groups  func(netip.Prefix) []string // of a target; nil: of none
	noGroup string                      // what a target is said to be in that is in none
	seen    map[sight]bool              // newest evidence of each mitigated vector: does its traffic go on?
	denied  map[string]time.Time        // by mitigation, when an extension was last denied
	latest  time.Time                   // Created of the youngest made here
	live    []*Mitigation               // the active ones, oldest first; nil when they changed
}

type sight struct {
	target netip.Prefix
	vector vector.ID
}

// Change is what a step wants stored. The zero Change is nothing.
type Change struct {
	Put         []Mitigation
	Holds       []Hold
	DeleteHolds []netip.Prefix
	SetFreeze   bool
	Freeze      *Freeze  // with SetFreeze; nil lifts it
	Freezes     []Freeze // of groups
	Unfreeze    []string // groups whose freeze is lifted
}

// Empty reports whether nothing is to be stored.
func (c Change) Empty() bool {
	return len(c.Put) == 0 && len(c.Holds) == 0 && len(c.DeleteHolds) == 0 && !c.SetFreeze && len(c.Freezes) == 0 && len(c.Unfreeze) == 0
}

// Plan is what policy and signature want done about one vector at one target.
type Plan struct {
	Target   netip.Prefix
	Vector   vector.ID
	Incident string
	Answer   string // path of the policy's response
	Route    route.Route
	TTL      time.Duration
	Extend   time.Duration
	MaxAge   time.Duration
	Reason   string
}

// Why a plan was not followed.
var (
	ErrFrozen  = errors.New("automation is frozen")
	ErrHeld    = errors.New("automation is held off the target")
	ErrCovered = errors.New("an active mitigation covers it")
)

// ErrNotFound says that no such mitigation or hold exists.
var ErrNotFound = errors.New("not found")

// New returns a machine that goes on from what is stored.
func New(r Records) *Machine {
	m := &Machine{all: map[string]*Mitigation{}, holds: map[netip.Prefix]Hold{}, freeze: r.Freeze, frozen: map[string]Freeze{}, seen: map[sight]bool{}, denied: map[string]time.Time{}}
	for _, x := range r.Mitigations {
		m.all[x.ID] = &x
	}
	for _, f := range r.Frozen {
		m.frozen[f.Group] = f
	}
	for _, h := range r.Holds {
		m.holds[h.Target] = h
	}
	// Evidence is not stored: what was mitigated when we took over must be seen again before it is extended.
	for _, x := range m.active() {
		for _, v := range x.Vectors {
			m.seen[sight{x.Target, v}] = false
		}
	}
	return m
}

// Respond follows a plan of automation. The error says why it does not: ErrFrozen, ErrHeld or ErrCovered.
func (m *Machine) Respond(now time.Time, p Plan) (Mitigation, error) {
	now = now.Round(0) // ends are kept by the wall clock, which is all that others know
	if f, ok := m.FrozenFor(p.Target); ok {
		return Mitigation{}, fmt.Errorf("%w%s since %s by %s: %s", ErrFrozen, f.where(), f.Since.UTC().Format(time.RFC3339), f.Requester, f.Reason)
	}
	if h, ok := m.Held(now, p.Target); ok {
		return Mitigation{}, fmt.Errorf("%w %s until %s by %s: %s", ErrHeld, h.Target, h.Until.UTC().Format(time.RFC3339), h.Requester, h.Reason)
	}
	for _, x := range m.active() {
		covered := x.Refined && x.Target == p.Target && slices.Contains(x.Vectors, p.Vector) && x.Routes[0].Action == p.Route.Action
		for _, r := range x.Routes {
			covered = covered || r.ID() == p.Route.ID()
		}
		if covered {
			return Mitigation{}, fmt.Errorf("%w: %s by %s", ErrCovered, x.ID, x.Requester)
		}
	}
	x := &Mitigation{
		Target: p.Target, State: Active, Incident: p.Incident, Vectors: []vector.ID{p.Vector}, Routes: []route.Route{p.Route},
		Answer: p.Answer, Groups: m.groupsOf(p.Target),
		Requester: Automation, Reason: p.Reason, Created: m.created(now), Deadline: now.Add(min(p.TTL, p.MaxAge)),
		MaxDeadline: now.Add(p.MaxAge), Extend: p.Extend,
	}
	x.ID = m.newID(now, p.Route.ID())
	m.all[x.ID], m.live = x, nil
	m.seen[sight{p.Target, p.Vector}] = true
	return *x, nil
}

// Refine gives an active mitigation of automation another route, because more is known of the attack; its deadlines stay.
// It returns the mitigation as it was and as it is; ok is false when automation may not touch it now.
func (m *Machine) Refine(now time.Time, id string, r route.Route, why string) (before, after Mitigation, ok bool) {
	x := m.all[id]
	if x == nil || x.State != Active || x.Manual() {
		return Mitigation{}, Mitigation{}, false
	}
	if _, frozen := m.FrozenFor(x.Target); frozen {
		return Mitigation{}, Mitigation{}, false
	}
	if _, held := m.Held(now, x.Target); held {
		return Mitigation{}, Mitigation{}, false
	}
	before = *x
	x.Routes, x.Evidence, x.Refined = []route.Route{r}, why, true
	return before, *x, true
}

// Unrefine takes a Refine back that was never stored.
func (m *Machine) Unrefine(before Mitigation) {
	if x := m.all[before.ID]; x != nil {
		x.Routes, x.Evidence, x.Refined = before.Routes, before.Evidence, before.Refined
	}
}

// Request is an engineer's announcement.
type Request struct {
	Route     route.Route
	TTL       time.Duration
	Requester string
	Reason    string
	RequestID string
	Approved  bool
}

// Announce follows an engineer's request. A request that was made before under the same id returns what it made then;
// one that was refused is made anew, for what stood against it may be gone.
func (m *Machine) Announce(now time.Time, r Request) (x Mitigation, repeated bool) {
	now = now.Round(0)
	if r.RequestID != "" {
		for _, id := range slices.Sorted(maps.Keys(m.all)) {
			if old := m.all[id]; old.RequestID == r.RequestID && old.State != Refused {
				return *old, true
			}
		}
	}
	target := r.Route.Match.Destination
	if !target.IsValid() {
		target = r.Route.Match.Source
	}
	n := &Mitigation{
		Target: target, State: Active, Routes: []route.Route{r.Route}, Requester: r.Requester, Reason: r.Reason,
		RequestID: r.RequestID, Approved: r.Approved, Groups: m.groupsOf(target), Created: m.created(now), Deadline: now.Add(r.TTL), MaxDeadline: now.Add(r.TTL),
	}
	n.ID = m.newID(now, r.Route.ID())
	m.all[n.ID], m.live = n, nil
	return *n, false
}

// Refuse takes a mitigation back that the safety kernel did not let pass, before it was ever stored as active.
func (m *Machine) Refuse(now time.Time, id, detail string) Mitigation {
	x := m.all[id]
	x.State, x.Ended, x.EndReason, x.EndDetail = Refused, now, EndUnsafe, detail
	m.live = nil
	m.unwatch(x)
	return *x
}

// Drop forgets a mitigation that was never stored.
func (m *Machine) Drop(id string) {
	if x := m.all[id]; x != nil {
		delete(m.all, id)
		m.live = nil
		m.unwatch(x)
	}
}

// Withdraw ends the active mitigations that pick selects and holds automation off their targets for hold; a hold of
// zero sets none.
func (m *Machine) Withdraw(now time.Time, pick func(Mitigation) bool, hold time.Duration, requester, reason string) Change {
	var c Change
	held := map[netip.Prefix]bool{}
	for _, x := range m.active() {
		if !pick(*x) {
			continue
		}
		m.finish(x, now, EndWithdrawn, fmt.Sprintf("%s: %s", requester, reason))
		c.Put = append(c.Put, *x)
		if hold > 0 && !held[x.Target] {
			held[x.Target] = true
			h := Hold{Target: x.Target, Until: now.Add(hold), Requester: requester, Reason: reason}
			m.holds[h.Target] = h
			c.Holds = append(c.Holds, h)
		}
	}
	return c
}

// DeleteHold lets automation act on a target again.
func (m *Machine) DeleteHold(target netip.Prefix) (Change, error) {
	if _, ok := m.holds[target]; !ok {
		return Change{}, fmt.Errorf("hold on %s: %w", target, ErrNotFound)
	}
	delete(m.holds, target)
	return Change{DeleteHolds: []netip.Prefix{target}}, nil
}

// Watches tells whether an active mitigation lives on what is seen of a vector at a target.
func (m *Machine) Watches(target netip.Prefix, v vector.ID) bool {
	_, ok := m.seen[sight{target, v}]
	return ok
}

// Usual is what a target normally receives of a vector, in packets and bits per second; zero where it is not known.
type Usual struct{ PPS, BPS float64 }

// Observe takes in what the sensors see of a mitigated vector: its traffic goes on when the trickle that the router
// lets pass is there, beside what is usual. A vector that is not observed keeps its last evidence, and a sensor that went
// silent counts with its last word, for silence is no evidence.
func (m *Machine) Observe(o traffic.Observation, usual Usual) {
	k := sight{o.Target, o.Vector}
	if _, ok := m.seen[k]; !ok {
		return
	}
	if len(o.Missing) > 0 && len(o.Sensors) == 0 {
		return
	}
	m.seen[k] = m.goesOn(o, usual)
}

// trickle is the share of a rate limit that must come through to count as evidence, and unsteady the share by which what is
// usual may be exceeded without being any.
const (
	trickle  = 0.5
	unsteady = 0.1
)

// fills tells whether what comes through fills so much of a limit as an attack does, beside what is usual. A rule that was
// refined lets what is usual pass beside its limit, any other one holds it to the limit, too. Where what is usual hides the
// trickle, that is no evidence: the rule ends in time, and if the attack goes on it is recognised again within moments.
func fills(passes, limit, usual float64, refined bool) bool {
	if !refined {
		limit -= usual
	}
	return passes-usual*(1+unsteady) >= trickle*max(limit, 0)
}

func (m *Machine) goesOn(o traffic.Observation, usual Usual) bool {
	for _, x := range m.active() {
		if x.Target != o.Target || !slices.Contains(x.Vectors, o.Vector) {
			continue
		}
		for _, r := range x.Routes {
			switch r.Action.Kind {
			case route.RateBytes:
				if fills(o.BPS+o.HeldBPS, float64(r.Action.Rate)*8, usual.BPS, x.Refined) {
					return true
				}
			case route.RatePackets:
				if fills(o.PPS+o.HeldPPS, float64(r.Action.Rate), usual.PPS, x.Refined) {
					return true
				}
			}
		}
	}
	return false
}

// askAgain is how long after a denied extension it is asked for again.
const askAgain = time.Second

// Tick ends what is due and extends what evidence asks for, shortly before its deadline so that the routers see no gap. Nil
// may allows every extension; one that it denies is asked for again a second later, until the deadline.
func (m *Machine) Tick(now time.Time, may func(Mitigation) bool) Change {
	var c Change
	for _, x := range m.active() {
		switch {
		case !now.Before(x.Deadline):
			why := EndDeadline
			if !x.Manual() && !x.Deadline.Before(x.MaxDeadline) {
				why = EndMaxAge
			}
			m.finish(x, now, why, "")
			c.Put = append(c.Put, *x)
		case m.mayExtend(x) && !now.Before(m.extendAt(x)) && may != nil && !may(*x):
			m.denied[x.ID] = now
		case m.mayExtend(x) && !now.Before(m.extendAt(x)):
			x.Deadline = earliest(x.Deadline.Add(x.Extend), x.MaxDeadline)
			x.Extensions++
			x.Evidence = fmt.Sprintf("the traffic goes on: extended to %s (%d times so far)", x.Deadline.UTC().Format(time.RFC3339), x.Extensions)
			c.Put = append(c.Put, *x)
		}
	}
	for _, p := range slices.SortedFunc(maps.Keys(m.holds), traffic.ComparePrefix) {
		if !now.Before(m.holds[p].Until) {
			delete(m.holds, p)
			c.DeleteHolds = append(c.DeleteHolds, p)
		}
	}
	return c
}

// Deadline returns when Tick next has something to do; zero means never.
func (m *Machine) Deadline() time.Time {
	var first time.Time
	add := func(at time.Time) {
		if first.IsZero() || at.Before(first) {
			first = at
		}
	}
	for _, x := range m.active() {
		if m.mayExtend(x) {
			add(m.extendAt(x)) // the end of a hold, or the deadline, may be earlier
		}
		add(x.Deadline)
	}
	for _, h := range m.holds {
		add(h.Until)
	}
	return first
}

// extendAt leaves a quarter of the extension, or of the whole life when that is shorter, at most five seconds, for the
// decision to reach every speaker. While automation is held off the target nothing is extended.
func (m *Machine) extendAt(x *Mitigation) time.Time {
	at := x.Deadline.Add(-min(x.Extend/4, x.Deadline.Sub(x.Created)/4, 5*time.Second))
	for _, h := range m.holds {
		if h.covers(x.Target) && h.Until.After(at) {
			at = h.Until
		}
	}
	if denied, ok := m.denied[x.ID]; ok && denied.Add(askAgain).After(at) {
		at = denied.Add(askAgain)
	}
	return at
}

func (m *Machine) mayExtend(x *Mitigation) bool {
	if x.Manual() || x.Extend <= 0 || !x.Deadline.Before(x.MaxDeadline) {
		return false
	}
	if _, frozen := m.FrozenFor(x.Target); frozen {
		return false
	}
	return slices.ContainsFunc(x.Vectors, func(v vector.ID) bool { return m.seen[sight{x.Target, v}] })
}

// covers reports whether the hold keeps automation off a target: one inside it, and one around it, for a rule for a
// network reaches each of its hosts.
func (h Hold) covers(target netip.Prefix) bool { return h.Target.Overlaps(target) }

// Held returns the hold that keeps automation off a target.
func (m *Machine) Held(now time.Time, target netip.Prefix) (Hold, bool) {
	for _, p := range slices.SortedFunc(maps.Keys(m.holds), traffic.ComparePrefix) {
		h := m.holds[p]
		if now.Before(h.Until) && h.covers(target) {
			return h, true
		}
	}
	return Hold{}, false
}

// Mitigated reports whether an active mitigation of an incident hides the target's traffic from the sensors.
func (m *Machine) Mitigated(target netip.Prefix) bool {
	for _, x := range m.active() {
		if x.Target == target {
			return true
		}
	}
	return false
}

// Active returns the active mitigations, oldest first.
func (m *Machine) Active() []Mitigation {
	out := make([]Mitigation, 0, len(m.active()))
	for _, x := range m.active() {
		out = append(out, *x)
	}
	return out
}

// Records returns all that is known, sorted.
func (m *Machine) Records() Records {
	r := Records{Freeze: m.freeze}
	for _, id := range slices.Sorted(maps.Keys(m.all)) {
		r.Mitigations = append(r.Mitigations, *m.all[id])
	}
	for _, p := range slices.SortedFunc(maps.Keys(m.holds), traffic.ComparePrefix) {
		r.Holds = append(r.Holds, m.holds[p])
	}
	for _, g := range slices.Sorted(maps.Keys(m.frozen)) {
		r.Frozen = append(r.Frozen, m.frozen[g])
	}
	return r
}

// Forget drops mitigations that ended before t.
func (m *Machine) Forget(t time.Time) (ids []string) {
	for id, x := range m.all {
		if x.State != Active && x.Ended.Before(t) {
			delete(m.all, id)
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	return ids
}

func (m *Machine) finish(x *Mitigation, now time.Time, why, detail string) {
	x.State, x.Ended, x.EndReason, x.EndDetail = Ended, now, why, detail
	m.live = nil
	delete(m.denied, x.ID)
	m.unwatch(x)
}

// unwatch drops the evidence of a mitigation that is active no more, unless another one lives on it.
func (m *Machine) unwatch(x *Mitigation) {
	for _, v := range x.Vectors {
		shared := slices.ContainsFunc(m.active(), func(y *Mitigation) bool {
			return y.Target == x.Target && slices.Contains(y.Vectors, v)
		})
		if !shared {
			delete(m.seen, sight{x.Target, v})
		}
	}
}

// active returns the active mitigations, oldest first. It is asked with every report, so the answer is kept; the slice
// is never changed, so that what ends while one goes through it does no harm.
func (m *Machine) active() []*Mitigation {
	if m.live == nil {
		m.live = make([]*Mitigation, 0, 8)
		for _, x := range m.all {
			if x.State == Active {
				m.live = append(m.live, x)
			}
		}
		slices.SortFunc(m.live, func(a, b *Mitigation) int { return cmp.Or(a.Created.Compare(b.Created), cmp.Compare(a.ID, b.ID)) })
	}
	return m.live
}

// created makes the times of creation differ, so that the safety kernel, which keeps what is older, keeps what was there.
func (m *Machine) created(now time.Time) time.Time {
	if ahead := m.latest.Sub(now); 0 <= ahead && ahead < time.Second {
		now = m.latest.Add(1)
	}
	m.latest = now
	return now
}

// newID names a mitigation after what it is and when it was made.
func (m *Machine) newID(now time.Time, routeID string) string {
	for n := 0; ; n++ {
		sum := sha256.Sum256(fmt.Appendf(nil, "%s %d %d", routeID, now.UnixNano(), n))
		id := "m-" + hex.EncodeToString(sum[:5])
		if _, taken := m.all[id]; !taken {
			return id
		}
	}
}

func earliest(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

// LetEnd makes the active mitigations of automation that pick selects end at their present deadline: the policy asks
// for them no longer. It ends nothing at once, for a policy that was just loaded may be mended in the next minute.
func (m *Machine) LetEnd(pick func(Mitigation) bool) Change {
	var c Change
	for _, x := range m.active() {
		if !x.Manual() && x.Extend > 0 && pick(*x) {
			x.Extend = 0
			x.Evidence = "the policy asks for it no longer: it ends at its deadline"
			c.Put = append(c.Put, *x)
		}
	}
	return c
}

// EndUnsafe ends active mitigations that the safety kernel does not let pass any more; detail says why, by id.
func (m *Machine) EndUnsafe(now time.Time, detail map[string]string) Change {
	var c Change
	for _, x := range m.active() {
		if why, ok := detail[x.ID]; ok {
			m.finish(x, now, EndUnsafe, why)
			c.Put = append(c.Put, *x)
		}
	}
	return c
}
