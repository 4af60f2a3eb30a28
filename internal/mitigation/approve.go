package mitigation

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Why an engineer's word about a mitigation is not followed.
var (
	ErrNotAsked   = errors.New("nothing awaits approval")
	ErrSamePerson = errors.New("two persons are asked, and this is one of them already")
	ErrTooLong    = errors.New("longer than any announcement may live")
	ErrHandsOff   = errors.New("automation may not act on it now")
)

// Approve is a person's yes to what a mitigation asks. Who asked for it may not approve it, and nobody twice. With the last
// one an engineer's request is announced at once; a step of a ladder is taken by the next Advance. Before is for Restore.
func (m *Machine) Approve(now time.Time, id, who, reason string) (before Mitigation, c Change, err error) {
	now = now.Round(0)
	x, err := m.asked(id)
	if err != nil {
		return Mitigation{}, Change{}, err
	}
	if why := m.handsOff(now, x.Target); why != "" && !x.Manual() {
		return Mitigation{}, Change{}, fmt.Errorf("%w: %s: approve it when that has ended", ErrHandsOff, why)
	}
	if same(who, x.Requester) {
		return Mitigation{}, Change{}, fmt.Errorf("%w: %s asked for it: another approver must look at it", ErrSamePerson, who)
	}
	if slices.ContainsFunc(x.Ask.By, func(a Approval) bool { return same(a.Who, who) }) {
		return Mitigation{}, Change{}, fmt.Errorf("%w: %s approved it before", ErrSamePerson, who)
	}
	before, m.undo = *x, undo{}
	a := *x.Ask
	a.By = append(slices.Clone(a.By), Approval{Who: who, When: now, Reason: reason})
	x.Ask = &a
	if x.Manual() && !a.Open() {
		life := x.Deadline.Sub(x.Created)
		x.Created = m.created(now) // it begins now, behind all that is announced
		x.Deadline = now.Add(life)
		x.MaxDeadline, x.Approved = x.Deadline, true
		x.enter(now, Announced)
		m.changed()
	}
	c.move(x, before.Phase, fmt.Sprintf("approved by %s: %s", a.names(), reason))
	return before, c, nil
}

// same tells whether two requesters may be one person. Of who came over a unix socket only what the kernel says counts,
// the "(unix uid N)" behind the name that the caller chose.
func same(a, b string) bool {
	return a == b || uid(a) != "" && uid(a) == uid(b)
}

func uid(who string) string {
	i := strings.LastIndex(who, " (unix uid ")
	if i < 0 || !strings.HasSuffix(who, ")") {
		return ""
	}
	return who[i:]
}

// Reject is a person's no: what was never announced is over, and a step that was asked for is not asked for again.
func (m *Machine) Reject(now time.Time, id, who, reason string) (before Mitigation, c Change, err error) {
	now = now.Round(0)
	x, err := m.asked(id)
	if err != nil {
		return Mitigation{}, Change{}, err
	}
	before = *x
	a := *x.Ask
	a.Rejected = &Approval{Who: who, When: now, Reason: reason}
	x.Ask = &a
	if x.State == Pending {
		m.finish(x, now, Rejected, EndRejected, fmt.Sprintf("%s: %s", who, reason))
	}
	c.move(x, before.Phase, fmt.Sprintf("rejected by %s: %s", who, reason))
	return before, c, nil
}

func (m *Machine) asked(id string) (*Mitigation, error) {
	x := m.all[id]
	switch {
	case x == nil:
		return nil, fmt.Errorf("mitigation %s: %w", id, ErrNotFound)
	case !x.Ask.Open() || x.State != Pending && x.State != Active:
		return nil, fmt.Errorf("mitigation %s is %s: %w", id, x.Phase, ErrNotAsked)
	}
	return x, nil
}

// Extend is an engineer's word that an announced mitigation stays longer, by so much; most is what no announcement may
// exceed in age.
func (m *Machine) Extend(id string, by, most time.Duration, who, reason string) (before Mitigation, c Change, err error) {
	x := m.all[id]
	if x == nil || x.State != Active {
		return Mitigation{}, Change{}, fmt.Errorf("announced mitigation %s: %w", id, ErrNotFound)
	}
	until := x.Deadline.Add(by)
	if limit := x.Created.Add(most); until.After(limit) {
		return Mitigation{}, Change{}, fmt.Errorf("%w: until %s, the limit (safety.max_age) is %s: extend by less, or announce it anew", ErrTooLong, until.UTC().Format(time.RFC3339), limit.UTC().Format(time.RFC3339))
	}
	before, m.undo = *x, undo{}
	x.Deadline = until
	m.edition++
	if x.MaxDeadline.Before(until) {
		x.MaxDeadline = until
	}
	x.Evidence = fmt.Sprintf("extended by %s to %s: %s", who, until.UTC().Format(time.RFC3339), reason)
	c.add(x, x.Phase, x.Evidence)
	return before, c, nil
}
