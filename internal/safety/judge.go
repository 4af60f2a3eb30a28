package safety

import (
	"slices"
	"time"
)

// Judge is Check for a set that changes little. A set is sound where each of its entries is, no two conflict, and what is counted
// stays within its limits; so of a sound set with another entry only that one and the counts need be looked at. It is not safe for
// concurrent use.
type Judge struct {
	limits   Limits
	tally    *tally // of the set judged last; nil when that is not known to be sound
	youngest entry  // of all that were in it
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

// Change returns what stands against the set judged last with out taken from it and in put into it, which it is from now on
// where that is nothing; otherwise it stays as it was. Ok is false where that cannot be told without the others: the set judged last
// was not sound, or the routes of out are not in it, or not wanted by one entry each, or one of in would be wanted by two. Check finds
// something in the whole if and only if Change does. Where it is not the same, Change blames what comes, however old it says it is: a
// violation's index is one of in. Deadlines that passed since are the caller's to see, as with Grow.
func (j *Judge) Change(now time.Time, out, in []Entry) (broken []Violation, ok bool) {
	t := j.tally
	if t == nil {
		return nil, false
	}
	t.now = now
	var gone, come []*entry
	for i := range in {
		e := newEntry(&in[i], i)
		come, broken = append(come, e), append(broken, brokenBy(t.kernel, e)...)
	}
	if len(broken) > 0 {
		return broken, true
	}
	undo := func(come []*entry) {
		for _, e := range come {
			t.remove(e)
		}
		for _, e := range gone {
			t.add(e)
		}
	}
	for i := range out {
		e := newEntry(&out[i], 0)
		if !t.has(e) || t.twice[e.id] {
			undo(nil)
			return nil, false
		}
		t.remove(e)
		gone = append(gone, e)
	}
	for i, e := range come {
		if t.has(e) || slices.ContainsFunc(come[:i], func(o *entry) bool { return o.text == e.text }) {
			undo(nil)
			return nil, false
		}
	}
	for i, e := range come {
		if broken = brokenIn(t, e); len(broken) > 0 {
			undo(come[:i])
			return broken, true
		}
		t.add(e)
	}
	for _, e := range come {
		if j.youngest.Entry == nil || byAge(&j.youngest, e) < 0 {
			j.remember(e)
		}
	}
	return nil, true
}

// remember copies what it keeps: the set is the caller's.
func (j *Judge) remember(e *entry) {
	if e != nil {
		own := *e.Entry
		j.youngest = entry{Entry: &own, Made: e.Made}
	}
}
