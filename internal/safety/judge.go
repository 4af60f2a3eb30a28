package safety

import (
	"slices"
	"time"
)

// Judge is Check for a set that grows. What is older decides about what is younger and never the other way round, so
// routes younger than all of a sound set need only be looked at themselves. It is not safe for concurrent use.
type Judge struct {
	limits   Limits
	tally    *tally // of the set judged last; nil when that is not known to be sound
	youngest entry
}

// NewJudge returns a judge by these limits.
func NewJudge(l Limits) *Judge { return &Judge{limits: l} }

// Check is Check, and remembers the set.
func (j *Judge) Check(now time.Time, set []Entry) []Violation {
	out, t, youngest := check(now, j.limits, set)
	j.tally, j.youngest = nil, entry{}
	if len(out) == 0 {
		j.tally = t
		j.remember(youngest)
	}
	return out
}

// Grow reports that Check would find no violation in the set judged last with more in it; false says that it may find some:
// that set must be judged then. Whether deadlines of the set judged last have passed since is for the caller to see.
func (j *Judge) Grow(now time.Time, more []Entry) bool {
	t := j.tally
	j.tally = nil // until all are found sound
	if t == nil {
		return false
	}
	t.now = now
	fresh := make([]*entry, len(more))
	for i := range more {
		e := newEntry(&more[i], i)
		if len(brokenBy(t.kernel, e)) > 0 {
			return false
		}
		fresh[i] = e
	}
	slices.SortStableFunc(fresh, byAge)
	for _, e := range fresh {
		if j.youngest.Entry != nil && byAge(&j.youngest, e) >= 0 || len(brokenIn(t, e)) > 0 {
			return false
		}
		t.add(e)
		j.remember(e)
	}
	j.tally = t
	return true
}

// remember copies what it keeps: the set is the caller's.
func (j *Judge) remember(e *entry) {
	if e != nil {
		own := *e.Entry
		j.youngest = entry{Entry: &own, Made: e.Made}
	}
}
