package engine

import (
	"time"

	"github.com/amooglesoft/trafficmonitor/internal/mitigation"
	"github.com/amooglesoft/trafficmonitor/internal/safety"
)

// judgement is what the safety kernel said of the whole set when it was asked last. While nothing else has changed, one rule more, or
// another rule in the place of one, is judged by it as if with the whole set, of which there may be ten thousand.
type judgement struct {
	judge   *safety.Judge
	machine *mitigation.Machine // whose set it was
	edition uint64              // of that set
	from    time.Time
	until   time.Time // a deadline passes then; zero: never
	whole   bool      // the whole set is asked about each time: for a test that nothing differs
}

// known tells whether the judgement is of the set that there is now. It is asked before the machine makes the change to be judged.
func (e *Engine) known(now time.Time) bool {
	v := &e.judged
	return v.judge != nil && !v.whole && v.machine == e.machine && v.edition == e.machine.Edition() &&
		!now.Before(v.from) && (v.until.IsZero() || now.Before(v.until))
}

// unchanged says that the change was taken back, so that what was known before it is known again.
func (e *Engine) unchanged(now time.Time, known bool) {
	switch {
	case !known || e.machine == nil:
	case e.judged.judge == nil:
		e.judge(now)
	default:
		e.judged.edition = e.machine.Edition()
	}
}

// left says that the change took something out of the set, or did not touch it.
func (e *Engine) left(known bool) {
	if known && e.judged.edition != e.machine.Edition() {
		e.judged.judge.Left()
		e.judged.edition = e.machine.Edition()
	}
}

// passed says that the change is in the judgement.
func (e *Engine) passed(m mitigation.Mitigation) {
	v := &e.judged
	v.edition = e.machine.Edition()
	if v.until.IsZero() || m.Deadline.Before(v.until) {
		v.until = m.Deadline
	}
}

// judge asks the safety kernel about the whole set; the owners are of each of its entries.
func (e *Engine) judge(now time.Time) (out []safety.Violation, owners [][]string) {
	set, owners, until := e.entries(now)
	v := &e.judged
	v.judge, v.machine, v.edition, v.from, v.until = safety.NewJudge(e.o.Safety), e.machine, e.machine.Edition(), now, until
	return v.judge.Check(now, set), owners
}

// check asks the safety kernel about the whole set and returns what it says against one mitigation.
func (e *Engine) check(now time.Time, id string) []safety.Violation {
	var out []safety.Violation
	vs, owners := e.judge(now)
	for _, v := range vs {
		for _, o := range owners[v.Index] {
			if o == id {
				out = append(out, v)
			}
		}
	}
	return out
}

// checkStart is check for one that the machine has just made, younger than all; known is from before.
func (e *Engine) checkStart(now time.Time, known bool, m mitigation.Mitigation) []safety.Violation {
	if entry, ok := entryOf(now, m); ok && known {
		if broken, ok := e.judged.judge.Add(now, entry); ok {
			if len(broken) == 0 {
				e.passed(m)
			}
			return broken
		}
	}
	broken := e.check(now, m.ID)
	if len(broken) > 0 {
		e.judged.judge = nil // the next refusal will be told without the others again: see unchanged
	}
	return broken
}

// checkStep asks the safety kernel about the whole set after a step: of one that was announced before, it may say that a younger one,
// of another target, has to give way. Known is from before the step.
func (e *Engine) checkStep(now time.Time, known bool, before, after mitigation.Mitigation) []safety.Violation {
	next, ok := entryOf(now, after)
	switch old, was := entryOf(now, before); {
	case !known || !ok:
	case before.State != mitigation.Active:
		if broken, ok := e.judged.judge.Add(now, next); ok {
			if len(broken) == 0 {
				e.passed(after)
			}
			return broken
		}
	case was && e.judged.judge.Swap(now, old, next):
		e.passed(after)
		return nil
	}
	kept := e.judged
	vs, _ := e.judge(now)
	if known && len(vs) > 0 {
		e.judged = kept // the step will be taken back
	}
	return vs
}

// entryOf is what an active mitigation is to the kernel where nobody else wants its route; ok is false where that is not one entry.
func entryOf(now time.Time, m mitigation.Mitigation) (entry safety.Entry, ok bool) {
	routes := mitigation.Records{Mitigations: []mitigation.Mitigation{m}}.Routes(now)
	if len(routes) != 1 {
		return safety.Entry{}, false
	}
	return entryFor(routes[0]), true
}

func entryFor(d mitigation.Desired) safety.Entry {
	return safety.Entry{Route: d.Route, Owners: d.Owners, Answers: d.Answers, Groups: d.Groups, Created: d.Created, Deadline: d.Deadline, Manual: d.Manual, Approved: d.Approved}
}

// entries is the whole set as the kernel judges it: each mitigation with its own routes, so that two that want
// different things for one match are seen. It is that until the first deadline, zero where there is none.
func (e *Engine) entries(now time.Time) (set []safety.Entry, owners [][]string, until time.Time) {
	rec := mitigation.Records{Mitigations: e.machine.Active()}
	for _, d := range rec.Routes(now) {
		set = append(set, entryFor(d))
		owners = append(owners, d.Owners)
	}
	// What Routes left out for an older one with another action is offered to the kernel too, which refuses it.
	placed := map[string]bool{}
	for _, os := range owners {
		for _, o := range os {
			placed[o] = true
		}
	}
	for _, m := range rec.Mitigations {
		if m.State != mitigation.Active || !now.Before(m.Deadline) {
			continue
		}
		if until.IsZero() || m.Deadline.Before(until) {
			until = m.Deadline
		}
		if placed[m.ID] {
			continue
		}
		for _, r := range m.Routes {
			entry := safety.Entry{Route: r, Owners: []string{m.ID}, Groups: m.Groups, Created: m.Created, Deadline: m.Deadline, Manual: m.Manual(), Approved: m.Approved}
			if m.Answer != "" {
				entry.Answers = []string{m.Answer}
			}
			set = append(set, entry)
			owners = append(owners, []string{m.ID})
		}
	}
	e.made.Fill(set)
	return set, owners, until
}
