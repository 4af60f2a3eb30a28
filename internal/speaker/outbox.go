package speaker

import (
	"maps"
	"slices"
	"time"

	"github.com/amooglesoft/trafficmonitor/internal/compile"
)

// outbox decides what goes to one router next. It holds what the router is to have and what the present session has
// been handed, and is asked for one step after the other:
//
//   - withdrawals go before additions, so that a limit of the router is not passed on the way;
//   - an engineer's routes go first, then those that are new since the session came up, then the rest, most valuable
//     first, so that what is urgent does not wait for what is announced again;
//   - additions keep to the router's rate; withdrawals go at once, for they are the safe side;
//   - only a window of UPDATEs is under way at a time: what is written can be overtaken no more;
//   - suspects go last, a few at a time (suspicion).
//
// It is pure: no I/O, no lock, no clock.
type outbox struct {
	maxRules int                               // routes the router holds at most; 0 means no limit
	maxOf    map[compile.Table]compile.Maximum // the same by table; the key "" is for all
	interval time.Duration                     // between two additions; 0 means no pace

	order    []*item               // what the router is to have, most valuable first
	wanted   map[string]bool       // IDs of order
	held     map[string]*held      // queued for the present session and not withdrawn, by ID
	keys     map[string]*held      // the same by key
	heldOf   map[compile.Table]int // how many they are
	stale    map[string]encoded    // by key: sent in an earlier session and not yet in this one; the router may have kept it
	leaving  map[string]encoded    // by key: withdrawn, and the UPDATE of that was not written yet
	airborne map[string]int        // by key: UPDATEs under way
	fresh    map[string]time.Time  // by ID: since when it is wanted, if the session was up before
	failed   map[string]*failure   // by ID: it cannot be sent
	blame    *suspicion

	up       bool
	tables   []compile.Table // of the last session; nil before the first
	began    time.Time       // when the session came up
	until    time.Time       // nothing is added before, nor said to be complete; zero: it goes on (currency)
	since    time.Time       // when the session came up, or when the last suspects went out
	flying   int             // routes queued whose UPDATE was not written to the router's connection yet
	moved    time.Time       // when one last was
	paceAt   time.Time       // when the next addition may go
	complete bool            // all but suspects was written once in this session
	left     int             // of the present group of suspects
	grouped  bool            // a group went out, and a span must pass
	// How many suspects go out at once in this session: of those in focus, and of the others.
	focusGroup, otherGroup int

	drop []*held // to be withdrawn
	add  []*item // to be added, in this order
	last []*item // suspects to be added after that
	solo int     // how many of them go alone, first: one of each doubted table
}

// held is a route the present session was handed.
type held struct {
	*item
	key     string
	since   time.Time // when it was wanted; zero when that was before the session
	written time.Time // when its UPDATE was written to the router's connection; zero before
	// repeated says that it was written and is under way once more.
	repeated bool
}

type failure struct {
	err   string
	retry time.Time
}

const (
	sendWindow = 512                   // UPDATEs under way at a time
	paceBurst  = 20 * time.Millisecond // what a pace may catch up after it was late
	retryAfter = 5 * time.Second       // a route that could not be sent
)

func newOutbox(maxRules, rate int, b *suspicion) *outbox {
	o := &outbox{
		maxRules: maxRules, wanted: map[string]bool{}, held: map[string]*held{}, keys: map[string]*held{}, heldOf: map[compile.Table]int{},
		stale: map[string]encoded{}, leaving: map[string]encoded{}, airborne: map[string]int{}, fresh: map[string]time.Time{}, failed: map[string]*failure{}, blame: b,
	}
	if rate > 0 {
		o.interval = time.Second / time.Duration(rate)
	}
	return o
}

// set makes order what the router is to have, most valuable first. It returns what the router may have kept from an
// earlier session and must not keep.
func (o *outbox) set(now time.Time, order []*item) (withdraw []encoded) {
	for t, n := range o.heldOf {
		if n > 0 && !o.blame.doubt.taken[t] {
			o.blame.survivors(now, o.held) // before what lived is withdrawn and forgotten
			break
		}
	}
	wanted := make(map[string]bool, len(order))
	fresh := map[string]time.Time{}
	for _, it := range order {
		wanted[it.id] = true
		if !o.up || o.held[it.id] != nil {
			continue
		}
		if since, ok := o.fresh[it.id]; ok {
			fresh[it.id] = since
		} else if !o.wanted[it.id] && now.After(o.began) {
			fresh[it.id] = now
		}
	}
	o.order, o.wanted, o.fresh = order, wanted, fresh
	o.blame.doubt.order = order
	for id := range o.failed {
		if !wanted[id] {
			delete(o.failed, id)
		}
	}
	o.rebuild()
	return o.unstale(now)
}

// unstale returns what the router may have kept and is not to have: its withdrawal is under way. What this session was
// given leaves like all else.
func (o *outbox) unstale(now time.Time) (withdraw []encoded) {
	if !o.up || len(o.stale) == 0 {
		return nil
	}
	keep := make(map[string]bool, len(o.order))
	for _, it := range o.order {
		keep[routeKey(it.enc.table, it.enc.nlri)] = true
	}
	for key, e := range o.stale {
		if keep[key] || o.keys[key] != nil {
			continue
		}
		delete(o.stale, key)
		if slices.Contains(o.tables, e.table) {
			withdraw = append(withdraw, e)
			o.leaving[key] = e
			o.fly(now, key)
		}
	}
	return withdraw
}

// rebuild finds what is to do.
func (o *outbox) rebuild() {
	o.drop, o.add, o.last = o.drop[:0], nil, nil
	if !o.up {
		return
	}
	for id, h := range o.held {
		if !o.wanted[id] {
			o.drop = append(o.drop, h)
		}
	}
	var solo, focus, last, manual, fresh, rest []*item
	alone := o.tryAlone()
	for _, it := range o.order {
		h := o.held[it.id]
		switch {
		case h != nil && h.Route.Action == it.Route.Action, o.failed[it.id] != nil:
		case alone[it.enc.table] == it:
			solo = append(solo, it)
		case o.blame.careful && o.blame.focus[it.id]:
			focus = append(focus, it)
		case o.blame.suspect(it):
			last = append(last, it)
		case it.Manual:
			manual = append(manual, it)
		case !o.fresh[it.id].IsZero():
			fresh = append(fresh, it)
		default:
			rest = append(rest, it)
		}
	}
	o.add = slices.Concat(manual, fresh, rest)
	o.last, o.solo = slices.Concat(solo, focus, last), len(solo)
}

// tryAlone chooses the route that tells most of each doubted table, upon which the router did not reset the session: of the
// shape that was struck least recently, not in focus if it can be, the most valuable.
func (o *outbox) tryAlone() map[compile.Table]*item {
	if len(o.blame.doubt.tables) == 0 {
		return nil
	}
	type choice struct {
		told  int
		focus bool
	}
	out, best := map[compile.Table]*item{}, map[compile.Table]choice{}
	for _, it := range o.order {
		t := it.enc.table
		if s := o.blame.doubt.strikes[t]; !o.blame.doubt.tables[t] || s != nil && s.routes[it.id] {
			continue
		}
		c := choice{o.blame.doubt.told(it), o.blame.focus[it.id]}
		if h := o.held[it.id]; h != nil {
			it, c = h.item, choice{told: -1} // it is there already
		} else if o.failed[it.id] != nil {
			continue
		}
		was, ok := best[t]
		if !ok || c.told < was.told || c.told == was.told && was.focus && !c.focus {
			out[t], best[t] = it, c
		}
	}
	return out
}

// begin is a new session that carries these tables; set must follow. keeps says that the router
// may have kept routes of an earlier session.
func (o *outbox) begin(now time.Time, tables []compile.Table, keeps bool) {
	o.up, o.tables, o.complete = true, tables, false
	o.began, o.since, o.moved, o.paceAt = now, now, now, now
	o.until = time.Time{}
	o.flying = 0
	o.left, o.grouped = 0, false
	focus := len(o.blame.focus)
	o.focusGroup, o.otherGroup = group(focus), group(len(o.blame.suspects)-focus)
	clear(o.failed)
	if !keeps {
		clear(o.stale)
	}
}

// end is the end of the session.
func (o *outbox) end() {
	for key, h := range o.keys {
		if !h.written.IsZero() {
			o.stale[key] = *h.enc
		}
	}
	maps.Copy(o.stale, o.leaving)
	clear(o.leaving)
	clear(o.airborne)
	clear(o.held)
	clear(o.keys)
	clear(o.heldOf)
	clear(o.fresh)
	o.up, o.flying, o.until = false, 0, time.Time{}
	o.rebuild()
}

// release ends the wait for until.
func (o *outbox) release(now time.Time) { o.until, o.since = time.Time{}, now }

// nextDrop returns a route to withdraw.
func (o *outbox) nextDrop() *held {
	if !o.up || o.flying >= sendWindow || len(o.drop) == 0 {
		return nil
	}
	h := o.drop[0]
	o.drop = o.drop[1:]
	return h
}

// dropped notes that the withdrawal is queued.
func (o *outbox) dropped(now time.Time, h *held) {
	delete(o.failed, h.id)
	delete(o.held, h.id)
	delete(o.keys, h.key)
	o.heldOf[h.enc.table]--
	o.leaving[h.key] = *h.enc
	o.fly(now, h.key)
}

// nextAdd returns a route to announce, or how long there is nothing to do; 0 means until something happens.
func (o *outbox) nextAdd(now time.Time) (it *item, wait time.Duration, ok bool) {
	if !o.up || !o.until.IsZero() || o.flying >= sendWindow {
		return nil, 0, false
	}
	from := &o.add
	if len(o.add) == 0 {
		if len(o.last) == 0 || !o.complete {
			return nil, 0, false
		}
		if o.left == 0 {
			if o.flying > 0 {
				return nil, 0, false
			}
			if o.grouped {
				o.since, o.grouped = o.moved, false
			}
			if wait := o.since.Add(o.blame.span).Sub(now); wait > 0 {
				return nil, wait, false
			}
			if o.blame.survivors(now, o.held) {
				o.rebuild()
				o.grouped = true // what is free now goes at once, and the next group must not come on its heels
				return o.nextAdd(now)
			}
			o.left = o.nextGroup()
		}
		from = &o.last
	}
	if wait := o.pause(now); wait > 0 {
		return nil, wait, false
	}
	it = (*from)[0]
	if o.held[it.id] == nil && o.full(it.enc.table) {
		return nil, 0, false // until a withdrawal makes room
	}
	if from == &o.last {
		o.left--
		o.solo = max(o.solo-1, 0)
		o.grouped = true
	}
	*from = (*from)[1:]
	return it, 0, true
}

// full reports whether the router has no room for one more route of the table.
func (o *outbox) full(t compile.Table) bool {
	if o.maxRules > 0 && len(o.held) >= o.maxRules {
		return true
	}
	of, limited := o.maxOf[t]
	all, together := o.maxOf[""]
	return limited && o.heldOf[t] >= of.Routes || together && len(o.held) >= all.Routes
}

// group is how many of n suspects go out at once.
func group(n int) int { return max(1, (n+groups-1)/groups) }

// nextGroup is the size of the next group of suspects: those in focus come first and do not mix with others.
func (o *outbox) nextGroup() int {
	if o.solo > 0 {
		return 1
	}
	n := 0
	for n < len(o.last) && n < o.focusGroup && o.blame.focus[o.last[n].id] {
		n++
	}
	if n == 0 {
		n = min(o.otherGroup, len(o.last))
	}
	return n
}

// added notes that the announcement is queued, or cannot be.
func (o *outbox) added(now time.Time, it *item, err error) {
	o.pace(now)
	if err != nil {
		o.failed[it.id] = &failure{"it cannot be sent to this router: " + err.Error(), now.Add(retryAfter)}
		return
	}
	h := &held{item: it, key: routeKey(it.enc.table, it.enc.nlri), since: o.fresh[it.id]}
	delete(o.failed, it.id)
	delete(o.fresh, it.id)
	if o.held[it.id] != nil { // with another action, which the router has until this UPDATE
		o.leaving[h.key] = *it.enc
	} else {
		o.heldOf[it.enc.table]++
	}
	o.held[it.id], o.keys[h.key] = h, h
	o.fly(now, h.key)
}

// pause returns how long the router's pace asks to wait.
func (o *outbox) pause(now time.Time) time.Duration {
	if o.interval == 0 {
		return 0
	}
	return max(o.paceAt.Sub(now), 0)
}

// pace notes that something was announced.
func (o *outbox) pace(now time.Time) {
	if o.interval == 0 {
		return
	}
	if late := now.Add(-paceBurst); o.paceAt.Before(late) {
		o.paceAt = late
	}
	o.paceAt = o.paceAt.Add(o.interval)
}

func (o *outbox) fly(now time.Time, key string) {
	if o.flying == 0 {
		o.moved = now
	}
	o.flying++
	o.airborne[key]++
}

// wrote notes that the route's UPDATE was written to the router's connection. It returns the route when it was announced.
func (o *outbox) wrote(now time.Time, key string) *held {
	o.flying = max(o.flying-1, 0)
	o.moved = now
	delete(o.stale, key)
	if n := o.airborne[key]; n > 1 { // a later UPDATE about it is still under way
		o.airborne[key] = n - 1
		return nil
	}
	delete(o.airborne, key)
	delete(o.leaving, key)
	h := o.keys[key]
	switch {
	case h == nil:
		return nil
	case h.repeated: // it may be what a router resets the session upon
		h.written, h.repeated = now, false
		return nil
	case !h.written.IsZero():
		return nil
	}
	h.written = now
	return h
}

// interrupted notes that the session ends while UPDATEs about these routes are being written: the router may have what was
// announced, and may not have heard of what was withdrawn.
func (o *outbox) interrupted(now time.Time, keys []string) {
	for _, key := range keys {
		if h := o.keys[key]; h != nil && (h.written.IsZero() || h.repeated) {
			h.written, h.repeated = now, false
		}
	}
}

// tick does what time asks for and returns when to come again; 0 means never.
func (o *outbox) tick(now time.Time) (wait time.Duration) {
	if !o.up {
		return 0
	}
	again := false
	for id, f := range o.failed {
		if left := f.retry.Sub(now); left > 0 {
			wait = sooner(wait, left)
			continue
		}
		delete(o.failed, id)
		again = true
	}
	if again {
		o.rebuild()
	}
	return wait
}

// justComplete reports, once a session, that all but suspects was written, or that patience is over.
func (o *outbox) justComplete(now time.Time, patience time.Duration) bool {
	if !o.up || o.complete || !o.until.IsZero() {
		return false
	}
	idle := len(o.add) == 0 && len(o.drop) == 0 && o.flying == 0
	if !idle && now.Sub(o.since) < patience {
		return false
	}
	o.complete, o.since = true, now
	clear(o.stale)
	return true
}

// sooner returns the shorter of two waits, of which 0 means for ever.
func sooner(a, b time.Duration) time.Duration {
	if a == 0 || b > 0 && b < a {
		return b
	}
	return a
}
