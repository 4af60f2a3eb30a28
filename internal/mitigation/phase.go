package mitigation

import "time"

// Phase is where in its life a mitigation is.
type Phase string

// The phases. docs/lifecycle.md draws what leads from one to the other.
const (
	// Nothing is announced.
	Proposed         Phase = "proposed"          // its ladder waits: the step that announces may not be taken yet
	AwaitingApproval Phase = "awaiting_approval" // persons must approve it first

	// Its routes are announced.
	Announced   Phase = "announced"   // nothing is measured yet
	Verified    Phase = "verified"    // sensors show that it works
	Ineffective Phase = "ineffective" // sensors show that it does not
	Escalated   Phase = "escalated"   // announced, after a step that was not enough; nothing is measured yet
	Easing      Phase = "easing"      // a milder step, to see whether the attack is over
	OnHold      Phase = "held"        // a freeze or a hold keeps automation off it: it stays as it is until its deadline

	// It is over.
	Withdrawn Phase = "withdrawn" // an engineer withdrew it
	Expired   Phase = "expired"   // its time was up, or the attack was over
	Failed    Phase = "failed"    // the safety kernel let it pass no more, or the circuit breaker took it back
	Rejected  Phase = "rejected"  // it was never announced: the safety kernel, or a person, said no
)

// Phases returns every phase, in the order of a life.
func Phases() []Phase {
	return []Phase{Proposed, AwaitingApproval, Announced, Verified, Ineffective, Escalated, Easing, OnHold, Withdrawn, Expired, Failed, Rejected}
}

// State returns what a mitigation in the phase is to the routers; empty when there is no such phase.
func (p Phase) State() State {
	switch p {
	case Proposed, AwaitingApproval:
		return Pending
	case Announced, Verified, Ineffective, Escalated, Easing, OnHold:
		return Active
	case Withdrawn, Expired, Failed:
		return Ended
	case Rejected:
		return Refused
	}
	return ""
}

// enter moves a mitigation into a phase.
func (m *Mitigation) enter(now time.Time, p Phase) {
	m.State, m.Phase, m.Since = p.State(), p, now
	if m.State == Active && m.Told.IsZero() {
		m.Told = now
	}
}

// Complete gives a record that was stored before there were phases the one it must have been in.
func (m *Mitigation) Complete() {
	if m.Phase != "" {
		return
	}
	m.Since = m.Created
	if m.State == Active || m.State == Ended {
		m.Told = m.Created
	}
	switch m.State {
	case Active:
		m.Phase = Announced
	case Refused:
		m.Phase = Rejected
	case Ended:
		m.Since = m.Ended
		m.Phase = ended(m.EndReason)
	case Pending:
		m.Phase = Proposed
	}
}

// ended returns the phase of one that was announced and ended for a reason.
func ended(why string) Phase {
	switch why {
	case EndWithdrawn:
		return Withdrawn
	case EndUnsafe, EndRolledBack:
		return Failed
	}
	return Expired
}

// Transitions returns each way a mitigation goes from one phase to another; those under the empty phase are the ones it
// begins in. A step taken in the same phase is none.
func Transitions() map[Phase][]Phase {
	over := []Phase{Withdrawn, Expired, Failed}
	with := func(more ...Phase) []Phase { return append(more, over...) }
	return map[Phase][]Phase{
		"":               {Proposed, AwaitingApproval, Announced},
		Proposed:         {AwaitingApproval, Announced, Withdrawn, Expired},
		AwaitingApproval: {Announced, Rejected, Withdrawn, Expired},
		Announced:        with(Verified, Ineffective, Escalated, Easing, OnHold, Rejected),
		Verified:         with(Ineffective, Escalated, Easing, OnHold),
		Ineffective:      with(Verified, Escalated, OnHold),
		Escalated:        with(Verified, Ineffective, Easing, OnHold),
		Easing:           with(Announced, Escalated),
		OnHold:           with(Announced),
	}
}
