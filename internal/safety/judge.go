package safety

import (
	"slices"
	"time"
)

// Judge is Check for a set that changes little. What is older decides about what is younger and never the other way round, so
// routes younger than all of a sound set need only be looked at themselves; and a set that is sound stays so when something
// leaves it. It is not safe for concurrent use.
type Judge struct {
	limits   Limits
	tally    *tally // of the set judged last; nil when that is not known to be sound
	youngest entry
	over     bool // the tally counts what is no more
}

// NewJudge returns a judge by these limits.
func NewJudge(l Limits) *Judge { return &Judge{limits: l} }

// Check is Check, and remembers the set.
func (j *Judge) Check(now time.Time, set []Entry) []Violation {
	out, t, youngest := check(now, j.limits, set)
	j.tally, j.youngest, j.over = nil, entry{}, false
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

// Add returns what Check would find of one entry more beside the set judged last, and of no other; where that is nothing the
// entry is in the set from now on. Ok is false where it cannot be told without the others: that set must be judged then.
// Deadlines that passed since are the caller's to see, as with Grow.
func (j *Judge) Add(now time.Time, more Entry) (broken []Violation, ok bool) {
	t := j.tally
	if t == nil {
		return nil, false
	}
	t.now = now
	e := newEntry(&more, 0)
	if j.youngest.Entry != nil && byAge(&j.youngest, e) >= 0 || t.has(e) {
		return nil, false
	}
	if broken = brokenBy(t.kernel, e); len(broken) == 0 {
		broken = brokenIn(t, e)
	}
	switch {
	case len(broken) > 0 && j.over:
		return nil, false
	case len(broken) > 0:
		return broken, true
	}
	t.add(e)
	j.remember(e)
	return nil, true
}

// Swap reports that Check would find no violation in the set judged last with next in the place of old, which it is from now on;
// false says that it may find some, and changes nothing. Both must be of one owner, age and target, for then no quota but that of
// our own space is touched. Deadlines that passed since are the caller's to see, as with Grow.
func (j *Judge) Swap(now time.Time, old, next Entry) bool {
	t := j.tally
	if t == nil {
		return false
	}
	was, e := newEntry(&old, 0), newEntry(&next, 0)
	_, taken := t.action[e.id]
	alike := was.Created.Equal(e.Created) && target(was) == target(e) && was.Manual == e.Manual &&
		slices.Equal(was.Owners, e.Owners) && slices.Equal(was.Answers, e.Answers) && slices.Equal(was.Groups, e.Groups)
	if !alike || !t.has(was) || t.shared[was.id] || taken && e.id != was.id {
		return false
	}
	t.now = now
	if len(brokenBy(t.kernel, e)) > 0 || quotaOwnShare(t, e) != "" {
		return false
	}
	if cutsOff(e) && !t.has(e) {
		t.cut[e.Route.Family()].add(e.destination())
	}
	j.over = j.over || cutsOff(was) && !(cutsOff(e) && was.destination() == e.destination()) // its space cannot be taken out
	delete(t.action, was.id)
	t.action[e.id] = e.Route.Action
	if j.youngest.Entry != nil && byAge(&j.youngest, e) < 0 {
		j.remember(e)
	}
	return true
}

// Left says that something left the set judged last. It is counted on, so Add and Swap cannot tell a little more often.
func (j *Judge) Left() { j.over = true }

// remember copies what it keeps: the set is the caller's.
func (j *Judge) remember(e *entry) {
	if e != nil {
		own := *e.Entry
		j.youngest = entry{Entry: &own, Made: e.Made}
	}
}
