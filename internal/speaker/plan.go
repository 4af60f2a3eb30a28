package speaker

import (
	"time"
)

// plan is what must be done to get from the routes that are announced to those that are wanted.
type plan struct {
	set      []*item   // announced afterwards, sorted by text
	announce []*item   // new, or with another action than before
	withdraw []*item   // announced now and not wanted, or past their deadline
	expired  []*item   // of withdraw: those whose own deadline passed
	next     time.Time // when the next deadline passes; zero when nothing is announced
}

// makePlan compares what is announced with what is wanted at the time now. A wanted route whose deadline has passed is
// not wanted. It is pure; want holds each ID once and is sorted by text.
func makePlan(have map[string]*item, want []*item, now time.Time) plan {
	p := plan{set: make([]*item, 0, len(want))}
	keep := make(map[string]bool, len(want))
	for _, w := range want {
		if !w.Deadline.After(now) {
			continue
		}
		keep[w.id] = true
		p.set = append(p.set, w)
		if h, ok := have[w.id]; !ok || h.Route.Action != w.Route.Action {
			p.announce = append(p.announce, w)
		}
		if p.next.IsZero() || w.Deadline.Before(p.next) {
			p.next = w.Deadline
		}
	}
	for id, h := range have {
		if keep[id] {
			continue
		}
		p.withdraw = append(p.withdraw, h)
		if !h.Deadline.After(now) {
			p.expired = append(p.expired, h)
		}
	}
	sortItems(p.withdraw)
	sortItems(p.expired)
	return p
}

// stale reports whether (term, revision) is older than what was applied already.
func stale(appliedTerm, appliedRevision, term, revision uint64) bool {
	return term < appliedTerm || term == appliedTerm && revision < appliedRevision
}
