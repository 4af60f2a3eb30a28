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
	frozen  map[string]Freeze              // by group
	groups  func(netip.Prefix) []string    // of a target; nil: of none
	noGroup string                         // what a target is said to be in that is in none
	looks   map[sight]*look                // newest evidence of each vector that a live mitigation answers
	denied  map[string]time.Time           // by mitigation, when an extension was last denied
	doubts  map[string]time.Time           // by mitigation, since when it was measured not to work
	latest  time.Time                      // Created of the youngest made here
	live    []*Mitigation                  // the pending and active ones, oldest first; nil when they changed
	acting  []*Mitigation                  // the active ones among them
	at      map[netip.Prefix][]*Mitigation // the active ones, by target
	edition uint64                         // see Edition
	undo    undo                           // of the last Advance
	waits   map[string]time.Time           // by mitigation, until when no step is tried, for the last one was taken back
	reach   func(Mitigation) int           // how many routers are told of a mitigation; nil: not known
}

// Change is what a step wants stored. The zero Change is nothing.
type Change struct {
	Put         []Mitigation
	Moves       []Move // of those in Put that moved
	Holds       []Hold
	DeleteHolds []netip.Prefix
	SetFreeze   bool
	Freeze      *Freeze  // with SetFreeze; nil lifts it
	Freezes     []Freeze // of groups
	Unfreeze    []string // groups whose freeze is lifted
}

// Move is that a mitigation entered another phase, or took a step in the same.
type Move struct {
	ID       string
	From, To Phase
	Why      string
}

// add takes in a mitigation as it is now.
func (c *Change) add(x *Mitigation, from Phase, why string) {
	if from != x.Phase {
		c.move(x, from, why)
		return
	}
	c.Put = append(c.Put, *x)
}

// move is add of one that a step was taken with, be it in the same phase.
func (c *Change) move(x *Mitigation, from Phase, why string) {
	c.Put = append(c.Put, *x)
	c.Moves = append(c.Moves, Move{ID: x.ID, From: from, To: x.Phase, Why: why})
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

	Scope []string // the routers that are told; empty: all
	Rung  Rung     // where it stands on its ladder; Since is set by Respond
	// Proposed means that nothing is announced yet: the ladder waits for its time or condition, or for what Ask asks.
	Proposed bool
	Ask      *Ask
	// What sensors see of the vector, per second, and of the target's other traffic, before anything is done.
	PPS, BPS, Other float64
	Sensors         []string // that see it
}

// Why a plan was not followed.
var (
	ErrFrozen  = errors.New("automation is frozen")
	ErrHeld    = errors.New("automation is held off the target")
	ErrCovered = errors.New("a live mitigation covers it")
	ErrFull    = errors.New("too many mitigations wait already")
	ErrRefused = errors.New("a person said no to it")
)

// ErrNotFound says that no such mitigation or hold exists.
var ErrNotFound = errors.New("not found")

// New returns a machine that goes on from what is stored.
func New(r Records) *Machine {
	m := &Machine{all: map[string]*Mitigation{}, holds: map[netip.Prefix]Hold{}, freeze: r.Freeze, frozen: map[string]Freeze{}, looks: map[sight]*look{}, denied: map[string]time.Time{}, doubts: map[string]time.Time{}, waits: map[string]time.Time{}}
	for _, x := range r.Mitigations {
		x.Complete()
		m.all[x.ID] = &x
	}
	for _, f := range r.Frozen {
		m.frozen[f.Group] = f
	}
	for _, h := range r.Holds {
		m.holds[h.Target] = h
	}
	// Evidence is not stored: what was mitigated when we took over must be seen again before it is extended.
	for _, x := range m.alive() {
		m.watch(x)
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
	for _, x := range m.all {
		if x.EndReason == EndRejected && x.Incident == p.Incident && p.Incident != "" && slices.Contains(x.Vectors, p.Vector) {
			return Mitigation{}, fmt.Errorf("%w: %s by %s", ErrRefused, x.ID, x.EndDetail)
		}
	}
	pending, id := 0, p.Route.ID()
	for _, x := range m.alive() {
		covered := x.Target == p.Target && slices.Contains(x.Vectors, p.Vector) && !x.Manual() &&
			(x.Rung.Ladder != "" || x.State == Pending || x.Refined && x.Routes[0].Action == p.Route.Action)
		if x.State == Pending {
			pending++
		} else {
			for _, r := range x.Routes {
				covered = covered || !p.Proposed && r.Match.Destination == p.Route.Match.Destination && r.ID() == id
			}
		}
		if covered {
			return Mitigation{}, fmt.Errorf("%w: %s by %s", ErrCovered, x.ID, x.Requester)
		}
	}
	if p.Proposed && pending >= maxPending {
		return Mitigation{}, fmt.Errorf("%w: %d", ErrFull, pending)
	}
	x := &Mitigation{
		Target: p.Target, Incident: p.Incident, Vectors: []vector.ID{p.Vector}, Routes: []route.Route{p.Route}, Scope: p.Scope,
		Answer: p.Answer, Groups: m.groupsOf(p.Target),
		Requester: Automation, Reason: p.Reason, Created: m.created(now), Rung: p.Rung, Ask: p.Ask,
		Effect: Effect{BeforePPS: p.PPS, BeforeBPS: p.BPS, BeforeOther: p.Other, Sensors: p.Sensors},
	}
	x.Rung.Since = x.Created
	switch {
	case p.Ask != nil:
		x.enter(x.Created, AwaitingApproval)
	case p.Proposed:
		x.enter(x.Created, Proposed)
	default:
		x.enter(x.Created, Announced)
	}
	ttl := p.TTL
	if x.State == Active {
		x.Flaps = m.flaps(now, x, p.TTL)
		ttl <<= min(x.Flaps, mostDoubled)
	}
	x.Deadline, x.MaxDeadline, x.Extend = now.Add(min(ttl, p.MaxAge)), now.Add(p.MaxAge), p.Extend
	x.ID = m.newID(now, id)
	m.all[x.ID] = x
	m.admit(x)
	m.watch(x)
	return *x, nil
}

const (
	maxPending = 1000 // whoever attacks chooses the targets
	// An attack that comes again within its ttl after its answer ended is answered for twice as long, each time, up to
	// sixteen times.
	mostDoubled = 4
)

// flaps counts how often in a row the same attack was answered and came again soon after.
func (m *Machine) flaps(now time.Time, p *Mitigation, ttl time.Duration) uint32 {
	var last *Mitigation
	for _, x := range m.all {
		if x.Phase == Expired && !x.Told.IsZero() && !x.Manual() && x.Target == p.Target && slices.Equal(x.Vectors, p.Vectors) && (last == nil || x.Ended.After(last.Ended)) {
			last = x
		}
	}
	if last == nil || now.Sub(last.Ended) > ttl {
		return 0
	}
	return last.Flaps + 1
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
	m.edition++
	return before, *x, true
}

// Unrefine takes a Refine back that was never stored.
func (m *Machine) Unrefine(before Mitigation) {
	if x := m.all[before.ID]; x != nil {
		x.Routes, x.Evidence, x.Refined = before.Routes, before.Evidence, before.Refined
		m.edition++
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
	Ask       *Ask // who must approve it before it is announced; nil: nobody
	// AskApproval asks an approver where only one may announce it, instead of refusing it.
	AskApproval bool
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
		Target: target, Routes: []route.Route{r.Route}, Requester: r.Requester, Reason: r.Reason,
		RequestID: r.RequestID, Approved: r.Approved, Groups: m.groupsOf(target), Created: m.created(now), Deadline: now.Add(r.TTL), MaxDeadline: now.Add(r.TTL),
	}
	n.enter(n.Created, Announced)
	if r.Ask != nil {
		n.Ask = r.Ask
		n.enter(n.Created, AwaitingApproval)
	}
	n.ID = m.newID(now, r.Route.ID())
	m.all[n.ID] = n
	m.admit(n)
	return *n, false
}

// Refuse takes a mitigation back that the safety kernel did not let pass, before it was ever stored as active.
func (m *Machine) Refuse(now time.Time, id, detail string) Mitigation {
	x := m.all[id]
	m.conclude(x, now, Rejected, EndUnsafe, detail)
	m.release(x)
	return *x
}

// Drop forgets a mitigation that was never stored.
func (m *Machine) Drop(id string) {
	if x := m.all[id]; x != nil {
		delete(m.all, id)
		m.release(x)
	}
}

// Withdraw ends the live mitigations that pick selects and holds automation off their targets for hold; a hold of
// zero sets none.
func (m *Machine) Withdraw(now time.Time, pick func(Mitigation) bool, hold time.Duration, requester, reason string) Change {
	var c Change
	held := map[netip.Prefix]bool{}
	for _, x := range m.alive() {
		if !pick(*x) {
			continue
		}
		from := x.Phase
		m.finish(x, now, Withdrawn, EndWithdrawn, fmt.Sprintf("%s: %s", requester, reason))
		c.add(x, from, reason)
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

// askAgain is how long after a denied extension it is asked for again.
const askAgain = time.Second

// Tick ends what is due, extends what evidence asks for, shortly before its deadline so that the routers see no gap, and
// says what was measured. Nil may allows every extension; one that it denies is asked for again a second later, until the
// deadline.
func (m *Machine) Tick(now time.Time, may func(Mitigation) bool) Change {
	var c Change
	for _, x := range m.alive() {
		from := x.Phase
		switch {
		case !now.Before(x.Deadline):
			why := EndDeadline
			if !x.Manual() && x.State == Active && !x.Deadline.Before(x.MaxDeadline) {
				why = EndMaxAge
			}
			m.finish(x, now, ended(why), why, "")
			c.add(x, from, why)
		case m.mayExtend(x) && !now.Before(m.extendAt(x)) && may != nil && !may(*x):
			m.denied[x.ID] = now
		case m.mayExtend(x) && !now.Before(m.extendAt(x)):
			m.measure(x)
			x.Deadline = earliest(x.Deadline.Add(x.Extend), x.MaxDeadline)
			x.Extensions++
			m.edition++
			x.Evidence = fmt.Sprintf("the traffic goes on: extended to %s (%d times so far)", x.Deadline.UTC().Format(time.RFC3339), x.Extensions)
			c.add(x, from, x.Evidence)
		default:
			if why := m.judge(now, x); why != "" {
				c.add(x, from, why)
			}
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
	for _, x := range m.alive() {
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
	if x.State != Active || x.Manual() || x.Extend <= 0 || !x.Deadline.Before(x.MaxDeadline) {
		return false
	}
	if _, frozen := m.FrozenFor(x.Target); frozen {
		return false
	}
	return slices.ContainsFunc(x.Vectors, func(v vector.ID) bool {
		l := m.looks[sight{x.Target, v}]
		return l != nil && l.goesOn
	})
}

// covers reports whether the hold keeps automation off a target: one inside it, and one around it, for a rule for a
// network reaches each of its hosts.
func (h Hold) covers(target netip.Prefix) bool { return h.Target.Overlaps(target) }

// Held returns the hold that keeps automation off a target.
func (m *Machine) Held(now time.Time, target netip.Prefix) (Hold, bool) {
	var first Hold
	for p, h := range m.holds { // it is asked for each mitigation at each look
		if now.Before(h.Until) && h.covers(target) && (!first.Target.IsValid() || traffic.ComparePrefix(p, first.Target) < 0) {
			first = h
		}
	}
	return first, first.Target.IsValid()
}

// Mitigated reports whether an active mitigation of an incident hides the target's traffic from the sensors.
func (m *Machine) Mitigated(target netip.Prefix) bool {
	return len(m.activeAt(target)) > 0
}

// Active returns the active mitigations, oldest first.
func (m *Machine) Active() []Mitigation {
	out := make([]Mitigation, 0, len(m.active()))
	for _, x := range m.active() {
		out = append(out, *x)
	}
	return out
}

// ActiveAt returns the active mitigations of exactly this target, oldest first.
func (m *Machine) ActiveAt(target netip.Prefix) (out []Mitigation) {
	for _, x := range m.activeAt(target) {
		out = append(out, *x)
	}
	return out
}

// Find returns a mitigation by its ID.
func (m *Machine) Find(id string) (Mitigation, bool) {
	if x := m.all[id]; x != nil {
		return *x, true
	}
	return Mitigation{}, false
}

// Live returns the pending and active mitigations, oldest first.
func (m *Machine) Live() []Mitigation {
	out := make([]Mitigation, 0, len(m.alive()))
	for _, x := range m.alive() {
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
		if (x.State == Ended || x.State == Refused) && x.Ended.Before(t) {
			delete(m.all, id)
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	return ids
}

// finish ends a mitigation. Thousands may end at once, so what alive returns is made anew once, and not for each.
func (m *Machine) finish(x *Mitigation, now time.Time, p Phase, why, detail string) {
	m.conclude(x, now, p, why, detail)
	m.changed()
}

// conclude is finish but for what alive returns.
func (m *Machine) conclude(x *Mitigation, now time.Time, p Phase, why, detail string) {
	x.enter(now, p)
	x.Ended, x.EndReason, x.EndDetail = now, why, detail
	delete(m.denied, x.ID)
	delete(m.doubts, x.ID)
	delete(m.waits, x.ID)
}

// alive returns the pending and active mitigations, oldest first. It is asked with every report, so the answer is kept; the
// slice is never changed, so that what ends while one goes through it does no harm.
func (m *Machine) alive() []*Mitigation {
	if m.live == nil {
		m.live, m.acting = make([]*Mitigation, 0, 8), make([]*Mitigation, 0, 8)
		for _, x := range m.all {
			if x.State == Active || x.State == Pending {
				m.live = append(m.live, x)
			}
		}
		slices.SortFunc(m.live, byAge)
		answered := map[sight]bool{}
		for _, x := range m.live {
			for _, v := range x.Vectors {
				answered[sight{x.Target, v}] = true
			}
		}
		maps.DeleteFunc(m.looks, func(k sight, _ *look) bool { return !answered[k] }) // nobody lives on it any more
		m.at = map[netip.Prefix][]*Mitigation{}
		for _, x := range m.live {
			if x.State == Active {
				m.acting = append(m.acting, x)
				m.at[x.Target] = append(m.at[x.Target], x)
			}
		}
	}
	return m.live
}

// changed makes alive look at all again.
func (m *Machine) changed() {
	m.live = nil
	m.edition++
}

// Edition is another number after each change of what is active, or of what that announces, for whom and until when. It may be
// another one after no change, too.
func (m *Machine) Edition() uint64 { return m.edition }

// byAge orders mitigations as alive returns them.
func byAge(a, b *Mitigation) int {
	return cmp.Or(a.Created.Compare(b.Created), cmp.Compare(a.ID, b.ID))
}

// admit takes one that lives into what alive returns.
func (m *Machine) admit(x *Mitigation) {
	m.edition++
	if m.live == nil {
		return
	}
	with := func(all []*Mitigation) []*Mitigation {
		if n := len(all); n == 0 || byAge(all[n-1], x) < 0 {
			return append(all, x)
		}
		i, _ := slices.BinarySearchFunc(all, x, byAge)
		return append(append(append(make([]*Mitigation, 0, len(all)+8), all[:i]...), x), all[i:]...) // a new slice: see alive
	}
	m.live = with(m.live)
	if x.State == Active {
		m.acting, m.at[x.Target] = with(m.acting), with(m.at[x.Target])
	}
}

// unlist takes one out of what alive returns.
func (m *Machine) unlist(x *Mitigation) {
	m.edition++
	if m.live == nil {
		return
	}
	without := func(all []*Mitigation) []*Mitigation { // a new slice: see alive
		i := slices.Index(all, x)
		if i < 0 {
			return all
		}
		return append(append(make([]*Mitigation, 0, len(all)+8), all[:i]...), all[i+1:]...)
	}
	m.live, m.acting = without(m.live), without(m.acting)
	if m.at[x.Target] = without(m.at[x.Target]); len(m.at[x.Target]) == 0 {
		delete(m.at, x.Target)
	}
}

// release is unlist of one that does not live any more.
func (m *Machine) release(x *Mitigation) {
	m.unlist(x)
	if m.live == nil {
		return
	}
	for _, v := range x.Vectors {
		if !slices.ContainsFunc(m.live, func(o *Mitigation) bool { return o.Target == x.Target && slices.Contains(o.Vectors, v) }) {
			delete(m.looks, sight{x.Target, v})
		}
	}
}

// active returns those of alive that are announced.
func (m *Machine) active() []*Mitigation {
	m.alive()
	return m.acting
}

// activeAt returns the active mitigations of exactly this target, oldest first.
func (m *Machine) activeAt(target netip.Prefix) []*Mitigation {
	m.alive()
	return m.at[target]
}

// SetReach tells the machine how many routers are told of a mitigation: each lets pass what a rate limit says.
func (m *Machine) SetReach(reach func(Mitigation) int) { m.reach = reach }

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
			c.add(x, x.Phase, x.Evidence)
		}
	}
	return c
}

// EndUnsafe ends active mitigations that the safety kernel does not let pass any more; detail says why, by id.
func (m *Machine) EndUnsafe(now time.Time, detail map[string]string) Change {
	var c Change
	for _, x := range m.active() {
		if why, ok := detail[x.ID]; ok {
			from := x.Phase
			m.finish(x, now, Failed, EndUnsafe, why)
			c.add(x, from, why)
		}
	}
	return c
}

// Over ends what waits for an answer to what is over at a target.
func (m *Machine) Over(now time.Time, target netip.Prefix, vectors []vector.ID) Change {
	var c Change
	for _, x := range m.alive() {
		if x.State == Pending && !x.Manual() && x.Target == target && slices.ContainsFunc(x.Vectors, func(v vector.ID) bool { return slices.Contains(vectors, v) }) {
			from := x.Phase
			m.finish(x, now, Expired, EndOver, "the attack was over before anything was announced")
			c.add(x, from, x.EndDetail)
		}
	}
	return c
}
