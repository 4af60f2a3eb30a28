package engine

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/amooglesoft/trafficmonitor/internal/audit"
	"github.com/amooglesoft/trafficmonitor/internal/detect"
	"github.com/amooglesoft/trafficmonitor/internal/mitigation"
	"github.com/amooglesoft/trafficmonitor/internal/safety"
	"github.com/amooglesoft/trafficmonitor/internal/store"
	"github.com/amooglesoft/trafficmonitor/internal/vector"
	"github.com/amooglesoft/trafficmonitor/policy"
)

// ErrNotLeading says that only the leader can do this.
var ErrNotLeading = errNotLeading

// RefusedError says what the safety kernel has against a request; nothing was announced.
type RefusedError struct{ Violations []safety.Violation }

func (e *RefusedError) Error() string {
	return fmt.Sprintf("refused by the safety kernel: %s: %s", e.Violations[0].Invariant, e.Violations[0].Reason)
}

// StoreError says that a decision could not be stored, or that it is not known whether it was.
type StoreError struct{ Err error }

func (e *StoreError) Error() string {
	if errors.Is(e.Err, store.ErrUnavailable) {
		return fmt.Sprintf("the store did not answer, so it is not known whether the decision was made: see what is active before you repeat it (under the same request id it is made once): %v", e.Err)
	}
	return fmt.Sprintf("the decision could not be stored, so it was not made: %v", e.Err)
}

func (e *StoreError) Unwrap() error { return e.Err }

// Announce follows an engineer's request. With validateOnly nothing is stored or announced.
func (e *Engine) Announce(ctx context.Context, r mitigation.Request, validateOnly bool) (m mitigation.Mitigation, err error) {
	err = e.do(ctx, func(now time.Time) error {
		if e.machine == nil {
			return ErrNotLeading
		}
		if validateOnly {
			real := e.machine
			defer func() { e.machine = real }()
			e.machine = e.newMachine(real.Records())
		}
		var repeated bool
		if m, repeated = e.machine.Announce(now, r); repeated {
			return nil
		}
		vs := e.check(now, m.ID)
		if r.Ask = e.needs(now, r, vs); r.Ask != nil {
			// A person is asked only for what the kernel then lets pass.
			e.machine.Drop(m.ID)
			asked := r
			asked.Ask, asked.Approved = nil, true
			m, _ = e.machine.Announce(now, asked)
			if vs = e.check(now, m.ID); len(vs) == 0 {
				e.machine.Drop(m.ID)
				m, _ = e.machine.Announce(now, r)
			}
		}
		if len(vs) > 0 {
			if !validateOnly {
				e.refuse(now, m, vs, nil)
			}
			return &RefusedError{vs}
		}
		if validateOnly {
			return nil
		}
		if _, err := e.commit(mitigation.Change{Put: []mitigation.Mitigation{m}}); err != nil {
			return &StoreError{err}
		}
		if m.Ask != nil {
			e.log.Info("mitigation awaits approval", "mitigation", m.ID, "rule", r.Route, "requester", m.Requester, "reason", m.Reason, "asked", m.Ask.Why)
			about := e.about(m)
			about["requester"], about["reason"] = m.Requester, m.Reason
			e.o.Emit(audit.ApprovalAsked, fmt.Sprintf("%s asks for the approval of %s: %s; %s", m.Requester, r.Route, m.Ask.Why, m.Reason), about)
			return nil
		}
		e.log.Info("mitigation announced", "mitigation", m.ID, "rule", r.Route, "requester", m.Requester, "reason", m.Reason, "expires", m.Deadline)
		e.o.Emit(audit.ManualAnnounce, fmt.Sprintf("%s by %s until %s: %s", r.Route, m.Requester, m.Deadline.UTC().Format(time.TimeOnly), m.Reason), map[string]string{
			"mitigation": m.ID, "target": m.Target.String(), "route": r.Route.String(), "requester": m.Requester, "reason": m.Reason,
			"deadline": m.Deadline.UTC().Format(time.RFC3339Nano),
		})
		return nil
	})
	return m, err
}

// needs says what persons are asked before an engineer's request is announced; nil when nobody is.
func (e *Engine) needs(now time.Time, r mitigation.Request, vs []safety.Violation) *mitigation.Ask {
	most := e.o.Safety.SecondPersonAbove
	if reach := safety.Reach(e.o.Safety.Own, r.Route); most > 0 && reach > most {
		return &mitigation.Ask{Needs: 1, Since: now, Why: fmt.Sprintf("it reaches %d of our hosts, more than %d (safety.second_person_above)", reach, most)}
	}
	if len(vs) > 0 && r.AskApproval && !r.Approved {
		return &mitigation.Ask{Needs: 1, Since: now, Why: fmt.Sprintf("%s: %s", vs[0].Invariant, vs[0].Reason)}
	}
	return nil
}

// Answer is a person's word about a mitigation.
type Answer struct{ ID, Requester, Reason string }

// Approve is a person's yes to what awaits approval. What was asked for is done with the last one that is needed.
func (e *Engine) Approve(ctx context.Context, a Answer) (m mitigation.Mitigation, err error) {
	err = e.do(ctx, func(now time.Time) error {
		if e.machine == nil {
			return ErrNotLeading
		}
		before, c, err := e.machine.Approve(now, a.ID, a.Requester, a.Reason)
		if err != nil {
			return err
		}
		m = c.Put[0]
		if m.State == mitigation.Active && before.State != mitigation.Active {
			if vs := e.check(now, m.ID); len(vs) > 0 {
				e.machine.Restore(now, before)
				return &RefusedError{vs}
			}
		}
		if _, err := e.commit(c); err != nil {
			return &StoreError{err}
		}
		e.answered(audit.ApprovalGiven, "approves", m, a)
		if m.Phase != before.Phase {
			e.tell(c)
		}
		if !m.Manual() && !m.Ask.Open() {
			e.advance(now, m)
			if e.machine != nil {
				if after, ok := e.machine.Find(m.ID); ok {
					m = after
				}
			}
		}
		return nil
	})
	return m, err
}

// Reject is a person's no to what awaits approval.
func (e *Engine) Reject(ctx context.Context, a Answer) (m mitigation.Mitigation, err error) {
	err = e.do(ctx, func(now time.Time) error {
		if e.machine == nil {
			return ErrNotLeading
		}
		_, c, err := e.machine.Reject(now, a.ID, a.Requester, a.Reason)
		if err != nil {
			return err
		}
		m = c.Put[0]
		if _, err := e.commit(c); err != nil {
			return &StoreError{err}
		}
		e.answered(audit.ApprovalRejected, "rejects", m, a)
		if m.State == mitigation.Refused {
			e.metrics.ended.WithLabelValues(m.EndReason).Inc()
		}
		return nil
	})
	return m, err
}

// Extend is an engineer's word that an announced mitigation stays longer.
func (e *Engine) Extend(ctx context.Context, a Answer, by time.Duration) (m mitigation.Mitigation, err error) {
	err = e.do(ctx, func(now time.Time) error {
		if e.machine == nil {
			return ErrNotLeading
		}
		before, c, err := e.machine.Extend(a.ID, by, e.o.Safety.MaxAge, a.Requester, a.Reason)
		if err != nil {
			return err
		}
		if vs := e.check(now, a.ID); len(vs) > 0 {
			e.machine.Restore(now, before)
			return &RefusedError{vs}
		}
		m = c.Put[0]
		if _, err := e.commit(c); err != nil {
			return &StoreError{err}
		}
		e.answered(audit.ManualExtend, fmt.Sprintf("extends to %s", m.Deadline.UTC().Format(time.RFC3339)), m, a)
		return nil
	})
	return m, err
}

func (e *Engine) answered(kind audit.Kind, does string, m mitigation.Mitigation, a Answer) {
	about := e.about(m)
	about["requester"], about["reason"] = a.Requester, a.Reason
	e.log.Info("mitigation", "mitigation", m.ID, "event", kind, "rule", m.Routes[0], "requester", a.Requester, "reason", a.Reason)
	e.o.Emit(kind, fmt.Sprintf("%s %s %s: %s", a.Requester, does, m.Routes[0], a.Reason), about)
}

// Withdrawal selects mitigations to end by hand.
type Withdrawal struct {
	Pick      func(mitigation.Mitigation) bool
	Hold      *time.Duration // nil means the default, zero none
	Requester string
	Reason    string
}

// Withdraw ends mitigations and holds automation off their targets.
func (e *Engine) Withdraw(ctx context.Context, w Withdrawal) (c mitigation.Change, err error) {
	err = e.do(ctx, func(now time.Time) error {
		if e.machine == nil {
			return ErrNotLeading
		}
		hold := e.o.DefaultHold
		if w.Hold != nil {
			hold = *w.Hold
		}
		c = e.machine.Withdraw(now, w.Pick, hold, w.Requester, w.Reason)
		if len(c.Put) == 0 {
			return mitigation.ErrNotFound
		}
		if _, err := e.commit(c); err != nil {
			return &StoreError{err}
		}
		for _, m := range c.Put {
			e.announceChange(m)
		}
		for _, h := range c.Holds {
			e.o.Emit(audit.HoldSet, fmt.Sprintf("%s holds automation off %s until %s: %s", h.Requester, h.Target, h.Until.UTC().Format(time.RFC3339), h.Reason),
				map[string]string{"target": h.Target.String(), "requester": h.Requester, "reason": h.Reason})
		}
		return nil
	})
	return c, err
}

// DeleteHold lets automation act on a target again.
func (e *Engine) DeleteHold(ctx context.Context, target netip.Prefix, requester, reason string) error {
	return e.do(ctx, func(time.Time) error {
		if e.machine == nil {
			return ErrNotLeading
		}
		c, err := e.machine.DeleteHold(target)
		if err != nil {
			return err
		}
		if _, err := e.commit(c); err != nil {
			return &StoreError{err}
		}
		clear(e.retry)
		e.o.Emit(audit.HoldLifted, fmt.Sprintf("%s lifts the hold on %s: %s", requester, target, reason), map[string]string{"target": target.String(), "requester": requester, "reason": reason})
		return nil
	})
}

// SetFreeze stops automation, or resumes it when frozen is false, and returns the freeze in force.
func (e *Engine) SetFreeze(ctx context.Context, frozen bool, requester, reason string) (f *mitigation.Freeze, err error) {
	err = e.do(ctx, func(now time.Time) error {
		if e.machine == nil {
			return ErrNotLeading
		}
		kind, verb := audit.FreezeLifted, "resumes"
		if frozen {
			f = &mitigation.Freeze{Since: now, Requester: requester, Reason: reason}
			kind, verb = audit.FreezeSet, "stops"
		}
		if _, err := e.commit(e.machine.SetFreeze(f)); err != nil {
			return &StoreError{err}
		}
		clear(e.retry)
		e.log.Info("automation", "state", kind, "requester", requester, "reason", reason)
		e.o.Emit(kind, fmt.Sprintf("%s %s all automation: %s", requester, verb, reason), map[string]string{"requester": requester, "reason": reason})
		return nil
	})
	return f, err
}

// SetPolicy puts a policy in force.
func (e *Engine) SetPolicy(ctx context.Context, p *policy.Policy) error {
	return e.do(ctx, func(now time.Time) error {
		e.policy, e.adopt = p, true
		e.detector.SetRules(p.Rules())
		if e.machine != nil {
			e.machine.SetGroups(p.Groups, policy.DefaultGroup)
		}
		clear(e.retry)
		clear(e.said)
		clear(e.problems)
		e.direct()
		e.log.Info("policy loaded", "source", p.Source(), "hash", p.Hash())
		e.o.Emit(audit.PolicyLoaded, fmt.Sprintf("policy %s is in force, hash %.12s", p.Source(), p.Hash()), map[string]string{"source": p.Source(), "hash": p.Hash()})
		e.followPolicy(now)
		return nil
	})
}

// followPolicy lets mitigations end that the policy in force would not make: they are extended no more.
func (e *Engine) followPolicy(now time.Time) {
	if e.machine == nil {
		return
	}
	c := e.machine.LetEnd(func(m mitigation.Mitigation) bool { return !e.wanted(m, now) })
	if c.Empty() {
		return
	}
	if _, err := e.commit(c); err != nil {
		return
	}
	for _, m := range c.Put {
		e.announceChange(m)
	}
}

// wanted tells whether the policy would answer now what a mitigation is for. What is not known denies nothing: a rule must not
// lapse during an attack because a new leader has not seen its beginning, or nothing is known of its collateral.
func (e *Engine) wanted(m mitigation.Mitigation, now time.Time) bool {
	inc, seen := e.attack(m)
	return slices.ContainsFunc(m.Vectors, func(v vector.ID) bool {
		if !seen {
			return e.policy.Conditional() || e.policy.Answer(policy.Incident{Target: m.Target, Vector: v}, now).Announces()
		}
		// With its peaks for its rates, for the answer itself lowers what sensors see.
		x := policy.Observed(inc, v, now)
		x.PPS, x.BPS = x.PeakPPS, x.PeakBPS
		if e.policy.AsksCollateral() {
			if x.Collateral = e.collateral(inc, v); x.Collateral < 0 {
				return true
			}
		}
		return e.policy.Answer(x, now).Announces()
	})
}

// Incidents returns the active incidents and, when ended is set, those that ended lately; newest first.
func (e *Engine) Incidents(ctx context.Context, ended bool) (out []detect.Incident, err error) {
	err = e.do(ctx, func(time.Time) error {
		out = e.detector.Incidents()
		if ended {
			out = append(out, e.ended...)
		}
		return nil
	})
	slices.SortStableFunc(out, func(a, b detect.Incident) int { return b.Onset.Compare(a.Onset) })
	return out, err
}
