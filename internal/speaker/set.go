package speaker

import (
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	pb "github.com/amooglesoft/trafficmonitor/api/trafficmonitor/v1"
	"github.com/amooglesoft/trafficmonitor/internal/route"
	"github.com/amooglesoft/trafficmonitor/internal/safety"
)

// asked is the set as it was asked for last, with the routes that were refused: a change is a change of it.
type asked struct {
	id    uint64  // names the set; another one for each, and from start to start
	whole bool    // the set was taken, and items is all of it
	items []*item // sorted by text
}

// errBase says that a change is not one of the set that was asked for last.
var errBase = errors.New("the change is not one of the set that was asked for last: hand over the whole set")

// order is a set that is asked for.
type order struct {
	items   []*item
	fresh   []*item   // what makes items of the set asked for last, where all that stays as it was
	refused []Refused // what could not be read
}

// setRoutes makes the routes of specs the only ones.
func (s *speaker) setRoutes(term, revision uint64, specs []*pb.RouteSpec) (Result, error) {
	return s.take(term, revision, func() (order, error) {
		items, refused := s.read(specs)
		sortItems(items)
		return order{items: items, refused: refused}, nil
	})
}

// changeRoutes makes the set that was asked for last, with those of specs in it and those of removed out of it, the only
// routes. The whole is judged as if it had been handed over. It returns errBase, and does nothing, unless base is that
// set and count routes come of it.
func (s *speaker) changeRoutes(term, revision, base uint64, specs []*pb.RouteSpec, removed []string, count int) (Result, error) {
	return s.take(term, revision, func() (order, error) {
		if s.asked.whole && s.asked.id == base {
			changed, refused := s.read(specs)
			items, added, ok := merge(s.asked.items, changed, removed)
			if ok && len(items)+len(refused) == count {
				o := order{items: items, refused: refused}
				if added == len(changed) && len(removed)+len(refused) == 0 {
					o.fresh = changed
				}
				return o, nil
			}
		}
		s.metrics.sets.WithLabelValues("base").Inc()
		return order{}, errBase
	})
}

// take makes the set that is read the only routes.
func (s *speaker) take(term, revision uint64, read func() (order, error)) (Result, error) {
	begin := time.Now()
	s.writing.Lock()
	defer s.writing.Unlock()
	if err := s.acceptable(term, revision); err != nil {
		return Result{}, err
	}
	o, err := read()
	if err != nil {
		return Result{}, err
	}
	p, refused, err := s.grow(term, revision, o)
	if errors.Is(err, errNotGrown) {
		p, refused, err = s.replace(term, revision, o)
	}
	if err != nil {
		s.asked.whole = false
		return Result{}, err
	}
	s.asked = asked{s.asked.id + 1, len(o.refused) == 0, o.items}
	s.tell("announced", p.announce)
	s.tell("withdrawn", p.withdraw)
	s.metrics.announced.Add(float64(len(p.announce)))
	s.metrics.withdrawn.Add(float64(len(p.withdraw)))
	s.metrics.setSeconds.Observe(time.Since(begin).Seconds())
	s.metrics.sets.WithLabelValues("ok").Inc()
	res := Result{Announced: len(p.announce), Withdrawn: len(p.withdraw), Refused: refused}
	if s.asked.whole {
		res.set = s.asked.id
	}
	return res, nil
}

// merge returns base with those of changed in it, in place of those with the same text, and without those of removed; and
// how many of changed are in place of none. It is sorted by text, as base is, and sorts the others; false says that one
// that is to go is not there.
func merge(base, changed []*item, removed []string) (out []*item, added int, ok bool) {
	slices.Sort(removed)
	sortItems(changed)
	out = make([]*item, 0, len(base)+len(changed))
	for _, it := range base {
		for len(changed) > 0 && changed[0].text < it.text {
			out, changed = append(out, changed[0]), changed[1:]
			added++
		}
		switch {
		case len(changed) > 0 && changed[0].text == it.text:
			out, changed = append(out, changed[0]), changed[1:]
		case len(removed) > 0 && removed[0] == it.text:
			removed = removed[1:]
		default:
			out = append(out, it)
		}
	}
	return append(out, changed...), added + len(changed), len(removed) == 0
}

// read parses the specs. What was asked for before is neither parsed nor proven again. The caller holds writing.
func (s *speaker) read(specs []*pb.RouteSpec) (items []*item, refused []Refused) {
	all, errs := make([]*item, len(specs)), make([]error, len(specs))
	inParallel(len(specs), func(i int) {
		spec := specs[i]
		var it *item
		if at, ok := slices.BinarySearchFunc(s.asked.items, spec.GetRoute(), func(it *item, text string) int { return strings.Compare(it.text, text) }); ok {
			it = s.asked.items[at]
		} else {
			r, err := route.Parse(spec.GetRoute())
			if err != nil {
				errs[i] = err
				return
			}
			it = newItem(Desired{Route: r})
		}
		d := Desired{
			Route: it.Route, Deadline: fromTime(spec.GetDeadline()), Created: fromTime(spec.GetCreateTime()),
			Owners: spec.GetOwners(), Answers: spec.GetAnswers(), Groups: spec.GetGroups(), Scope: spec.GetScope(),
			Approved: spec.GetApproved(), Manual: spec.GetManual(),
		}
		if !it.same(d) {
			it = it.with(d)
		}
		all[i] = it
	})
	for i, err := range errs {
		if err != nil {
			s.metrics.refused.WithLabelValues(RefusedText).Inc()
			refused = append(refused, Refused{specs[i].GetRoute(), RefusedText, fmt.Sprintf("routes[%d]: %v", i, err)})
		}
	}
	items = slices.DeleteFunc(all, func(it *item) bool { return it == nil })
	return items, refused
}

// replace makes the routes of the order the only ones. The caller holds writing.
func (s *speaker) replace(term, revision uint64, o order) (plan, []Refused, error) {
	now := time.Now()
	want, refused := s.admit(o.items, now)
	refused = slices.Concat(o.refused, refused)
	for _, r := range refused {
		s.log.Warn("route refused", "route", r.Route, "invariant", r.Invariant, "reason", r.Reason)
	}
	saveErr := s.save(state{term: term, revision: revision, items: want})

	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.pressed(); err != nil { // while the journal was written; the button writes its own after us
		return plan{}, nil, err
	}
	p := makePlan(s.have, want, time.Now())
	if saveErr != nil {
		// What is not journaled is not announced; what is no longer wanted goes all the same, for that is the safe side.
		s.metrics.sets.WithLabelValues("journal_error").Inc()
		s.state.items = s.keepOnly(p.set)
		s.apply()
		return plan{}, nil, fmt.Errorf("nothing new is announced: %w", saveErr)
	}
	s.state = state{term: term, revision: revision, items: p.set}
	s.apply()
	return p, refused, nil
}

// justEnded is how long after its deadline a route of a set is over, and nobody's mistake.
const justEnded = time.Minute

// admit returns the items that may be announced, encoded, and those that may not.
func (s *speaker) admit(items []*item, now time.Time) (ok []*item, refused []Refused) {
	refuse := func(it *item, invariant, reason string) {
		refused = append(refused, Refused{it.text, invariant, reason})
		s.metrics.refused.WithLabelValues(invariant).Inc()
	}
	due := make([]*item, 0, len(items))
	entries := make([]safety.Entry, 0, len(items))
	seen := make(map[string]bool, len(items))
	for _, it := range items {
		switch {
		case seen[it.id]:
			refuse(it, RefusedDuplicate, "another route of the set has the same match: a router holds one action per match")
		case it.Deadline.IsZero():
			refuse(it, RefusedDeadline, "the route has no deadline")
		case !it.Deadline.After(now) && now.Sub(it.Deadline) < justEnded: // it ended on its way here
		case !it.Deadline.After(now):
			refuse(it, RefusedDeadline, fmt.Sprintf("the deadline %s has passed", it.Deadline.UTC().Format(time.RFC3339)))
		default:
			due = append(due, it)
			entries = append(entries, it.entry())
		}
		seen[it.id] = true
	}
	why := map[int]safety.Violation{}
	for _, v := range s.judge.Check(now, entries) {
		if _, ok := why[v.Index]; !ok {
			why[v.Index] = v
		}
	}
	unproven := make([]error, len(due))
	inParallel(len(due), func(i int) {
		if _, bad := why[i]; bad || due[i].enc != nil {
			return
		}
		e, err := encode(due[i].made, s.anywhere)
		if err != nil {
			unproven[i] = err
			return
		}
		due[i].enc = &e
	})
	ok = make([]*item, 0, len(due))
	for i, it := range due {
		if v, bad := why[i]; bad {
			refuse(it, string(v.Invariant), v.Reason)
			continue
		}
		if err := unproven[i]; err != nil {
			refuse(it, RefusedEncoding, err.Error())
			continue
		}
		ok = append(ok, it)
	}
	return ok, refused
}

// acceptable says why a set of this term and revision is not taken.
func (s *speaker) acceptable(term, revision uint64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.pressed(); err != nil {
		return err
	}
	if stale(s.state.term, s.state.revision, term, revision) {
		s.metrics.sets.WithLabelValues("stale").Inc()
		return fmt.Errorf("%w: term %d revision %d is older than the applied term %d revision %d; if the store was rebuilt from nothing, stop the speaker, remove its journal and start it again",
			ErrStale, term, revision, s.state.term, s.state.revision)
	}
	return nil
}

// inParallel calls do for each number below n, on as many processors as there are where that is worth it.
func inParallel(n int, do func(i int)) {
	const share = 64
	workers := min(runtime.GOMAXPROCS(0), n/share)
	if workers < 2 {
		for i := range n {
			do(i)
		}
		return
	}
	var next atomic.Int64
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			for {
				to := int(next.Add(share))
				from := to - share
				if from >= n {
					return
				}
				for i := from; i < min(to, n); i++ {
					do(i)
				}
			}
		})
	}
	wg.Wait()
}
