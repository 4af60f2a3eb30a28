package engine

import (
	"slices"
	"time"

	"github.com/amooglesoft/trafficmonitor/internal/mitigation"
	"github.com/amooglesoft/trafficmonitor/internal/safety"
)

// judgement is what the safety kernel said of the whole set when it was asked last. While nothing else has changed, what changes of one
// mitigation is judged by it as if with the whole set, of which there may be ten thousand.
type judgement struct {
	judge   *safety.Judge
	machine *mitigation.Machine // whose set it was
	edition uint64              // of that set
	from    time.Time
	until   time.Time // a deadline passes then; zero: never
}

// What the kernel was asked about, as the metric's label has it.
const (
	judgedSet    = "set"
	judgedChange = "change"
)

// known tells whether the judgement is of the set that there is now. It is asked before the machine makes the change to be judged.
func (e *Engine) known(now time.Time) bool {
	v := &e.judged
	return v.judge != nil && v.machine == e.machine && v.edition == e.machine.Edition() &&
		!now.Before(v.from) && (v.until.IsZero() || now.Before(v.until))
}

// unchanged says that the change judged last was refused and taken back.
func (e *Engine) unchanged() {
	if e.machine != nil && e.judged.machine == e.machine {
		e.judged.edition = e.machine.Edition()
	}
}

// judgeChange returns what the safety kernel has against a change that the machine just made of one mitigation; before is the zero
// value where it is a new one, and known is from before the change. Where there is something, what is announced is judged to be as it
// was: the caller takes the change back and says so by unchanged.
func (e *Engine) judgeChange(now time.Time, known bool, before, after mitigation.Mitigation) []safety.Violation {
	instead := func(all []mitigation.Mitigation) []mitigation.Mitigation {
		all = slices.DeleteFunc(all, func(m mitigation.Mitigation) bool { return m.ID == after.ID })
		if before.State == mitigation.Active {
			all = append(all, before)
		}
		return all
	}
	if !known {
		e.judge(now, instead(e.machine.Active()))
		e.judged.edition-- // of before
	}
	// Who wants the same match is of the same target.
	here := e.machine.ActiveAt(after.Target)
	is, _, _ := entries(now, here)
	was, _, _ := entries(now, instead(here))
	broken, ok := e.judged.judge.Change(now, without(was, is), without(is, was))
	e.metrics.judgements.WithLabelValues(judgedChange).Inc()
	if !ok { // the set before is not sound: who is no more at the next look still counts
		e.judged.judge = nil
		broken = e.check(now, after.ID)
		e.judged.judge = nil
		return broken
	}
	if len(broken) > 0 {
		return broken
	}
	v := &e.judged
	v.edition = e.machine.Edition()
	if after.State == mitigation.Active && (v.until.IsZero() || after.Deadline.Before(v.until)) {
		v.until = after.Deadline
	}
	return nil
}

// left takes one that announces nothing any more, or nothing yet, out of what is judged.
func (e *Engine) left(now time.Time, known bool, before, after mitigation.Mitigation) {
	if known && len(e.judgeChange(now, known, before, after)) > 0 {
		e.judged.judge = nil // what stays leaned on it: the next look finds that
	}
}

// judge asks the safety kernel about a whole set of mitigations; the owners are of each of its entries.
func (e *Engine) judge(now time.Time, all []mitigation.Mitigation) (out []safety.Violation, owners [][]string) {
	set, owners, until := entries(now, all)
	e.made.Fill(set)
	v := &e.judged
	v.judge, v.machine, v.edition, v.from, v.until = safety.NewJudge(e.o.Safety), e.machine, e.machine.Edition(), now, until
	e.metrics.judgements.WithLabelValues(judgedSet).Inc()
	return v.judge.Check(now, set), owners
}

// check asks the safety kernel about the whole set and returns what it says against one mitigation.
func (e *Engine) check(now time.Time, id string) []safety.Violation {
	var out []safety.Violation
	vs, owners := e.judge(now, e.machine.Active())
	for _, v := range vs {
		for _, o := range owners[v.Index] {
			if o == id {
				out = append(out, v)
			}
		}
	}
	return out
}

// without returns the entries that are not, all alike, among others.
func without(all, others []safety.Entry) []safety.Entry {
	return slices.DeleteFunc(slices.Clone(all), func(x safety.Entry) bool {
		return slices.ContainsFunc(others, func(o safety.Entry) bool {
			return x.Route.Equal(o.Route) && x.Created.Equal(o.Created) && x.Deadline.Equal(o.Deadline) && x.Manual == o.Manual && x.Approved == o.Approved &&
				slices.Equal(x.Owners, o.Owners) && slices.Equal(x.Answers, o.Answers) && slices.Equal(x.Groups, o.Groups)
		})
	})
}

// entries are active mitigations as the kernel judges them: each with its own routes, so that two that want different things for
// one match are seen. They are that until the first deadline, zero where there is none.
func entries(now time.Time, all []mitigation.Mitigation) (set []safety.Entry, owners [][]string, until time.Time) {
	for _, d := range (mitigation.Records{Mitigations: all}).Routes(now) {
		set = append(set, safety.Entry{Route: d.Route, Owners: d.Owners, Answers: d.Answers, Groups: d.Groups, Created: d.Created, Deadline: d.Deadline, Manual: d.Manual, Approved: d.Approved})
		owners = append(owners, d.Owners)
	}
	// What Routes left out for an older one with another action is offered to the kernel too, which refuses it.
	placed := map[string]bool{}
	for _, os := range owners {
		for _, o := range os {
			placed[o] = true
		}
	}
	for _, m := range all {
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
	return set, owners, until
}
