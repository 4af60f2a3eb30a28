package mitigation

import (
	"slices"
	"time"
)

// Breaker is the requester of what the circuit breaker does.
const Breaker = "breaker"

// RollBack ends mitigations of automation because they do harm, and holds automation off their targets. Where an engineer has
// frozen automation it ends nothing.
func (m *Machine) RollBack(now time.Time, ids []string, hold time.Duration, why string) Change {
	c := m.Withdraw(now, func(x Mitigation) bool {
		_, frozen := m.FrozenFor(x.Target)
		return x.State == Active && !x.Manual() && !frozen && slices.Contains(ids, x.ID)
	}, hold, Breaker, why)
	for i := range c.Put {
		x := m.all[c.Put[i].ID]
		x.enter(now, ended(EndRolledBack))
		x.EndReason, x.EndDetail = EndRolledBack, why
		c.Put[i], c.Moves[i].To, c.Moves[i].Why = *x, x.Phase, why
	}
	return c
}
