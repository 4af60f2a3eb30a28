package mitigation

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/amooglesoft/trafficmonitor/internal/route"
	"github.com/amooglesoft/trafficmonitor/internal/vector"
	"github.com/amooglesoft/trafficmonitor/policy"
)

// Ladder names the ladder of a response by what its steps say, so that a mitigation knows its own again after the policy was
// read anew; empty where there is nothing to climb or to come down.
func Ladder(r policy.Response) string {
	s := r.Steps[0]
	if len(r.Steps) == 1 && s.DownAfter == 0 && s.After == 0 && s.Approvals == 0 && s.MaxCollateral < 0 {
		return ""
	}
	h := sha256.New()
	for _, s := range r.Steps {
		fmt.Fprintln(h, s)
	}
	return hex.EncodeToString(h.Sum(nil)[:8])
}

// Facts are what a step of a ladder depends on that the machine does not know.
type Facts struct {
	Live       bool          // the incident goes on
	Duration   time.Duration // of the incident
	Collateral float64       // share of the target's normal traffic that the match would hit, 0 to 1; negative: not known
	Installed  int           // how many routers are known to have the routes installed
	Routers    int           // of how many
	Mark       route.Match   // the vector's own match, where the present one was a blackhole's
	Unmarked   bool          // it tells the vector from nothing else, so that only a blackhole says openly what it does
	MaxAge     time.Duration // no announcement gets older
}

// mostWaits is how often at most the wait before easing doubles.
const mostWaits = 6

// Advance does what the ladder that the policy now answers with asks for about a live mitigation of automation: it climbs,
// asks persons, eases or ends. It takes no two steps within three seconds, but that one eased in vain is taken back at once.
// Moved is false when nothing changes; before is for Restore. The error says what could not be computed.
func (m *Machine) Advance(now time.Time, id string, r policy.Response, f Facts) (before Mitigation, c Change, moved bool, err error) {
	now = now.Round(0)
	x := m.all[id]
	if x == nil || x.Manual() || (x.State != Active && x.State != Pending) || m.handsOff(now, x.Target) != "" || x.Phase == OnHold {
		return Mitigation{}, Change{}, false, nil
	}
	if now.Before(m.waits[id]) {
		return Mitigation{}, Change{}, false, nil
	}
	before, m.undo = *x, undo{}
	why := ""
	at, ok := x.place(r)
	if !ok && x.Phase == Easing && f.Live && r.Announces() {
		// The ladder that it came down is no more: it is judged again as it is, and ends in time if nothing asks for it.
		x.enter(now, Announced)
		x.Rung.From, x.Rung.Eased = 0, 0
		if at, ok = x.place(r); !ok {
			x.Extend, x.Rung.Ladder = 0, ""
		}
		why = "the policy has another ladder now"
	}
	if !ok && why == "" {
		return before, Change{}, false, nil
	}
	if ok {
		x.Rung.Ladder, x.Rung.Step, x.Rung.Steps = Ladder(r), at, len(r.Steps)
		if at >= 0 {
			x.Rung.Name, x.Rung.DownAfter = r.Steps[at].Name, r.Steps[at].DownAfter
		}
	}
	switch {
	case why != "":
	case x.State == Active && now.Sub(x.tookEffect()) < settle && x.Phase != Easing:
	case x.Phase == Easing && m.stillAttacked(x):
		to := x.Rung.From
		why = fmt.Sprintf("the attack goes on, so %s is taken again", r.Steps[to].Name)
		eased := x.Rung.Eased + 1
		m.take(now, x, r, to, f)
		x.Rung.Eased = eased
	default:
		if why = m.down(now, x, r, f); why == "" {
			why, err = m.up(now, x, r, f)
		}
	}
	if why == "" {
		return before, Change{}, false, err
	}
	if x.State == Active || x.State == Pending {
		x.Evidence = why
	}
	c.move(x, before.Phase, why)
	return before, c, true, err
}

// place finds the step of a ladder that a mitigation is at: the one it took, or the highest one that does the same.
func (m *Mitigation) place(r policy.Response) (step int, ok bool) {
	if !r.Announces() {
		return 0, false
	}
	if m.Rung.Ladder == Ladder(r) && m.Rung.Step < len(r.Steps) {
		return m.Rung.Step, m.Rung.Ladder != ""
	}
	if m.State == Pending {
		return -1, true
	}
	if m.Phase == Easing {
		return 0, false // it came from a step that is no more
	}
	for i := len(r.Steps) - 1; i >= 0; i-- {
		if r.Steps[i].Action == m.Routes[0].Action {
			return i, true
		}
	}
	return 0, false
}

// up takes the next step when its time has come and its conditions hold, or asks for it.
func (m *Machine) up(now time.Time, x *Mitigation, r policy.Response, f Facts) (string, error) {
	if !f.Live || x.Phase == Easing {
		return "", nil
	}
	e := m.evidence(now, x, f.Installed, f.Routers)
	if x.Rung.Step < 0 {
		e.Age = f.Duration
	}
	next, err := r.Climb(x.Rung.Step, e, f.Collateral)
	if !next.Climbs {
		return "", err
	}
	if next.Approvals > 0 {
		a := x.Ask
		asked := a != nil && a.Ladder == x.Rung.Ladder && a.Step == next.Step
		switch unmarked := f.Unmarked && r.Steps[next.Step].Action.Kind != route.Blackhole; {
		case asked && (a.Open() || a.Rejected != nil), unmarked:
			return "", err
		case asked:
			m.take(now, x, r, next.Step, f)
			return fmt.Sprintf("%s; approved by %s", next.Why, a.names()), err
		}
		x.Ask = &Ask{Ladder: x.Rung.Ladder, Step: next.Step, Needs: next.Approvals, Why: next.Why, Since: now}
		if x.State == Pending {
			x.enter(now, AwaitingApproval)
		}
		return fmt.Sprintf("%s asks for the approval of %d: %s", r.Steps[next.Step].Name, next.Approvals, next.Why), err
	}
	if s := r.Steps[next.Step]; f.Unmarked && s.Announces() && s.Action.Kind != route.Blackhole {
		return "", err
	}
	m.take(now, x, r, next.Step, f)
	return next.Why, err
}

// down takes a milder step, or ends the mitigation, when the attack is measured to be over. Behind a step that lets nothing
// through nothing can be measured: it is eased after down_after, and after a vain attempt not before twice as long.
func (m *Machine) down(now time.Time, x *Mitigation, r policy.Response, f Facts) string {
	if x.State != Active || x.Rung.DownAfter <= 0 {
		return ""
	}
	// Longer after each vain attempt, and for an attack that came again soon after its answer had ended.
	patience := x.Rung.DownAfter << min(x.Rung.Eased+x.Flaps, mostWaits)
	lower := -1
	for i := range x.Rung.Step {
		if r.Steps[i].Announces() {
			lower = i
		}
	}
	probing := x.Phase == Easing && x.Rung.From == x.Rung.Step
	if x.blocks() {
		if x.Phase == Ineffective || m.blind(x) { // the attack goes on, or nobody would see whether it does
			return ""
		}
		wait := min(patience, 3*x.Deadline.Sub(x.Rung.Since)/4)
		if now.Sub(x.Rung.Since) < wait {
			return ""
		}
		from := x.Rung.Step
		if x.Phase == Easing {
			from = x.Rung.From
		}
		if lower < 0 && x.diverts() {
			return ""
		}
		if lower < 0 {
			m.probe(now, x, r.Steps[x.Rung.Step].Probe, f)
			return fmt.Sprintf("after %s a little is let through, to see whether the attack is over", wait)
		}
		m.ease(now, x, r, lower, from, f)
		return fmt.Sprintf("after %s %s is tried, to see whether the attack is over", wait, r.Steps[lower].Name)
	}
	if q := m.quietFor(now, x); q < patience {
		return ""
	}
	over := fmt.Sprintf("the attack was over for %s", patience)
	if lower < 0 || probing {
		m.conclude(x, now, Expired, EndOver, over)
		m.release(x)
		return over
	}
	from := x.Rung.Step
	if x.Phase == Easing {
		from = x.Rung.From
	}
	m.ease(now, x, r, lower, from, f)
	return over
}

func (m *Machine) ease(now time.Time, x *Mitigation, r policy.Response, to, from int, f Facts) {
	eased, before, ask := x.Rung.Eased, x.Effect, x.Ask
	m.take(now, x, r, to, f)
	x.Rung.From, x.Rung.Eased = from, eased
	x.Effect, x.Ask = before, ask
	x.drop()
	x.enter(now, Easing)
}

// drop takes back what persons are asked; a no stays.
func (m *Mitigation) drop() {
	if m.Ask != nil && m.Ask.Rejected == nil {
		m.Ask = nil
	}
}

// probe lets a little through of what is discarded; the step stays.
func (m *Machine) probe(now time.Time, x *Mitigation, octets uint64, f Facts) {
	m.remember(x)
	match := x.Routes[0].Match
	if x.Routes[0].IsBlackhole() {
		match = f.Mark
	}
	x.Routes = []route.Route{{Match: match, Action: route.Action{Kind: route.RateBytes, Rate: octets}}}
	x.Rung.Since, x.Rung.From = now, x.Rung.Step
	m.edition++
	x.enter(now, Easing)
	m.forgetLooks(x)
}

// take puts a step into effect. One that announces nothing leaves in place what is announced.
func (m *Machine) take(now time.Time, x *Mitigation, r policy.Response, i int, f Facts) {
	s := r.Steps[i]
	measured := x.State == Active && m.measure(x)
	m.remember(x)
	x.Rung.Step, x.Rung.Name, x.Rung.Since, x.Rung.DownAfter, x.Rung.From, x.Rung.Eased = i, s.Name, now, s.DownAfter, 0, 0
	x.Ask = nil
	if !s.Announces() {
		if x.State == Pending {
			x.enter(now, Proposed)
		}
		return
	}
	match := x.Routes[0].Match
	switch {
	case s.Action.Kind == route.Blackhole:
		match = route.Match{Destination: x.Target}
	case x.Routes[0].IsBlackhole():
		match, x.Refined = f.Mark, false
	}
	x.Routes, x.Scope = []route.Route{{Match: match, Action: s.Action}}, slices.Sorted(slices.Values(s.Scope))
	ttl := s.TTL
	if x.State == Pending { // it begins now, behind all that is announced
		x.Created = m.created(now)
		x.Flaps = m.flaps(now, x, s.TTL)
		ttl <<= min(x.Flaps, mostDoubled)
	}
	x.MaxDeadline = earliest(now.Add(s.MaxAge), x.Created.Add(f.MaxAge))
	x.Deadline, x.Extend = earliest(now.Add(ttl), x.MaxDeadline), s.Extend
	e := &x.Effect
	switch {
	case measured:
		e.BeforePPS, e.BeforeBPS, e.BeforeOther = e.PPS, e.BPS, e.Other
	case x.State == Pending:
		m.sawBefore(x)
	}
	e.PPS, e.BPS, e.Other, e.Reduction, e.Measured = 0, 0, 0, 0, time.Time{}
	m.edition++
	if x.State == Pending {
		x.enter(now, Announced)
		m.unlist(x) // it is the youngest now
		m.admit(x)
	} else {
		x.enter(now, Escalated)
	}
	delete(m.doubts, x.ID)
	delete(m.denied, x.ID)
	m.forgetLooks(x)
}

// sawBefore takes what is seen now, while nothing is announced, for what was before.
func (m *Machine) sawBefore(x *Mitigation) {
	e := &x.Effect
	e.BeforePPS, e.BeforeBPS = 0, 0
	for _, v := range x.Vectors {
		if l := m.looks[sight{x.Target, v}]; l != nil && l.known {
			e.BeforePPS, e.BeforeBPS, e.BeforeOther, e.Sensors = e.BeforePPS+l.pps, e.BeforeBPS+l.bps, l.other, l.sensors
		}
	}
}

// forgetLooks makes what was seen under another answer no evidence of this one.
func (m *Machine) forgetLooks(x *Mitigation) {
	for _, v := range x.Vectors {
		if l := m.looks[sight{x.Target, v}]; l != nil {
			l.goesOn, l.quiet = false, time.Time{}
		}
	}
}

// stillAttacked tells whether a whole window since the step was taken shows that the attack goes on.
func (m *Machine) stillAttacked(x *Mitigation) bool {
	return slices.ContainsFunc(x.Vectors, func(v vector.ID) bool {
		l := m.looks[sight{x.Target, v}]
		return l != nil && l.known && l.goesOn && !l.start.Before(x.Rung.Since)
	})
}

// quietFor is how long all of a mitigation's vectors have been measured to be over.
func (m *Machine) quietFor(now time.Time, x *Mitigation) time.Duration {
	since := x.tookEffect()
	for _, v := range x.Vectors {
		l := m.looks[sight{x.Target, v}]
		if l == nil || !l.known || l.lost || l.silent || l.quiet.IsZero() {
			return 0
		}
		if l.quiet.After(since) {
			since = l.quiet
		}
	}
	return now.Sub(since)
}

// blind tells whether a sensor that saw the attack is silent.
func (m *Machine) blind(x *Mitigation) bool {
	return slices.ContainsFunc(x.Vectors, func(v vector.ID) bool {
		l := m.looks[sight{x.Target, v}]
		return l != nil && (l.lost || l.silent)
	})
}

// blocks tells whether a mitigation lets nothing through, so that sensors behind the routers see nothing of the attack.
func (m *Mitigation) blocks() bool {
	switch a := m.Routes[0].Action; a.Kind {
	case route.RateBytes, route.RatePackets:
		return a.Rate == 0
	case route.Discard, route.Blackhole:
		return true
	}
	return m.diverts()
}

// diverts tells whether a mitigation sends the traffic somewhere else: whether any of it comes back is that place's affair.
func (m *Mitigation) diverts() bool {
	r := m.Routes[0].Action.Redirect
	return r != (route.Redirect{}) && !r.Copy
}

// undo is what the machine knew before the last Advance.
type undo struct {
	id            string
	looks         map[sight]look
	denied, doubt time.Time
}

func (m *Machine) remember(x *Mitigation) {
	m.undo = undo{id: x.ID, looks: map[sight]look{}, denied: m.denied[x.ID], doubt: m.doubts[x.ID]}
	for _, v := range x.Vectors {
		k := sight{x.Target, v}
		if l := m.looks[k]; l != nil {
			m.undo.looks[k] = *l
		}
	}
}

// tryAgain is how long after a step was taken back none is tried.
const tryAgain = 10 * time.Second

// Restore takes an Advance, Approve or Extend back that was never stored. What was seen before still counts, and for a while no
// other step is tried.
func (m *Machine) Restore(now time.Time, before Mitigation) {
	x := m.all[before.ID]
	if x == nil {
		return
	}
	m.unlist(x)
	*x = before
	m.admit(x)
	m.watch(x)
	if m.undo.id != x.ID {
		return
	}
	for k, l := range m.undo.looks {
		if have := m.looks[k]; have != nil {
			*have = l
		}
	}
	if !m.undo.denied.IsZero() {
		m.denied[x.ID] = m.undo.denied
	}
	if !m.undo.doubt.IsZero() {
		m.doubts[x.ID] = m.undo.doubt
	}
	m.waits[x.ID], m.undo = now.Add(tryAgain), undo{}
}

func (a *Ask) names() string {
	names := make([]string, len(a.By))
	for i, b := range a.By {
		names[i] = b.Who
	}
	return strings.Join(names, " and ")
}
