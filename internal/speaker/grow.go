package speaker

import (
	"cmp"
	"errors"
	"slices"
	"time"

	"github.com/amooglesoft/trafficmonitor/internal/compile"
	"github.com/amooglesoft/trafficmonitor/internal/safety"
)

// A set that is the one before with more in it, all of it younger, is taken without looking at the rest again: so an urgent
// rule does not wait for ten thousand others. Each step below does what its long form does (replace, place, outbox.set), or
// says that it cannot tell, and the long form is taken.

// errNotGrown says that a set must be taken as a whole.
var errNotGrown = errors.New("not the set before with more in it")

// grow takes an order that only adds to what is announced. The caller holds writing.
func (s *speaker) grow(term, revision uint64, o order) (plan, []Refused, error) {
	now := time.Now()
	s.mu.Lock()
	adds := s.adds(o.fresh)
	s.mu.Unlock()
	if len(o.fresh) == 0 || !adds || slices.ContainsFunc(o.items, func(it *item) bool { return !it.Deadline.After(now) }) {
		return plan{}, nil, errNotGrown
	}
	entries := make([]safety.Entry, len(o.fresh))
	for i, it := range o.fresh {
		entries[i] = it.entry()
	}
	if !s.judge.Grow(now, entries) {
		return plan{}, nil, errNotGrown
	}
	for _, it := range o.fresh {
		if it.enc == nil {
			e, err := encode(it.made, s.anywhere)
			if err != nil {
				return plan{}, nil, errNotGrown
			}
			it.enc = &e
		}
	}
	if err := s.save(state{term: term, revision: revision, items: o.items}); err != nil {
		return plan{}, nil, errNotGrown
	}

	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.pressed(); err != nil { // while the journal was written; the button writes its own after us
		return plan{}, nil, err
	}
	if !s.adds(o.fresh) { // a deadline passed meanwhile
		return plan{}, nil, errNotGrown
	}
	s.state = state{term: term, revision: revision, items: o.items}
	for _, it := range o.fresh {
		s.have[it.id] = it
	}
	s.eachRouter(func(r *router) { r.grow(o.fresh) })
	s.publish()
	return plan{set: o.items, announce: o.fresh}, nil, nil
}

// adds reports whether all that was asked for last is announced, and none of fresh. The caller holds mu and writing.
func (s *speaker) adds(fresh []*item) bool {
	return slices.Equal(s.state.items, s.asked.items) &&
		!slices.ContainsFunc(fresh, func(it *item) bool { return s.have[it.id] != nil })
}

// grow adds to what this router is to get, and begins to send it.
func (r *router) grow(fresh []*item) {
	now := time.Now()
	r.mu.Lock()
	told := slices.DeleteFunc(slices.Clone(fresh), func(it *item) bool { return !it.tells(r.peer.Name) })
	for _, it := range told {
		r.set = insert(r.set, it, func(a, b *item) int { return cmp.Compare(a.text, b.text) })
	}
	if !r.placeMore(now, told) {
		r.place(now)
	}
	r.step(now)
	r.mu.Unlock()
	r.poke()
}

// placeMore is place for routes that came to the set; false says that they are not all sent as they are, or that room is
// short. The caller holds mu.
func (r *router) placeMore(now time.Time, fresh []*item) bool {
	profile := r.profile()
	rules, cost := len(r.placed.rules)+len(fresh), r.placed.cost
	if len(r.placed.of) > 0 || len(profile.MaxOf) > 0 || profile.MaxRules > 0 && rules > profile.MaxRules || r.notPlaced() {
		return false
	}
	for _, it := range fresh {
		if _, not := r.unfit(it); not {
			return false
		}
		d := compile.Compile([]compile.Entry{compileEntry(it)}, profile).Decisions[0]
		if d.Outcome != compile.Placed || d.Rules != nil {
			return false
		}
		cost += d.Cost
	}
	if profile.Budget != (compile.Budget{}) && cost > profile.Budget.Least() {
		return false
	}
	for _, it := range fresh {
		r.placed.rules = insert(r.placed.rules, it, byValue)
	}
	r.placed.cost = cost
	return r.out.grow(now, r.placed.rules, fresh)
}

// notPlaced reports whether there was no room for a route. The caller holds mu.
func (r *router) notPlaced() bool {
	for _, u := range r.placed.refused {
		if u.outcome == compile.NotPlaced {
			return true
		}
	}
	return false
}

// grow is set for an order that is the one before with fresh in it; false says that it did nothing, for one of these has
// been with the router before, or the router is under suspicion.
func (o *outbox) grow(now time.Time, order, fresh []*item) bool {
	if o.blame.careful || len(o.blame.doubt.tables) > 0 {
		return false
	}
	for _, it := range fresh {
		if o.held[it.id] != nil || o.failed[it.id] != nil {
			return false
		}
	}
	o.order, o.blame.doubt.order = order, order
	for _, it := range fresh {
		o.wanted[it.id] = true
		if !o.up {
			continue
		}
		if now.After(o.began) {
			o.fresh[it.id] = now
		}
		o.add = insert(o.add, it, func(a, b *item) int { return cmp.Or(cmp.Compare(o.turn(a), o.turn(b)), byValue(a, b)) })
	}
	return true
}

// turn says which of rebuild's heaps a route is in.
func (o *outbox) turn(it *item) int {
	switch {
	case it.Manual:
		return 0
	case !o.fresh[it.id].IsZero():
		return 1
	}
	return 2
}

// byValue is the order in which routes are placed.
func byValue(a, b *item) int {
	return cmp.Or(compile.Compare(compileEntry(a), compileEntry(b)), cmp.Compare(a.text, b.text))
}

func insert(in []*item, it *item, by func(a, b *item) int) []*item {
	at, _ := slices.BinarySearchFunc(in, it, by)
	return slices.Insert(in, at, it)
}
