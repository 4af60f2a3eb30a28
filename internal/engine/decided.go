package engine

import (
	"errors"

	"github.com/amooglesoft/trafficmonitor/internal/mitigation"
	"github.com/amooglesoft/trafficmonitor/internal/store"
)

// steps are what was decided about several mitigations, in order: what to store, and what is done, or said, after that.
type steps []struct {
	store mitigation.Change // may be empty
	then  func()            // may be nil
}

func (s *steps) put(c mitigation.Change, then func()) { *s = append(*s, steps{{c, then}}...) }

func (s *steps) then(f func()) { *s = append(*s, steps{{then: f}}...) }

// store stores steps at once, for the loop takes in nothing while it waits for the store; false says that the term was given up.
// What the store finds no fault with must not wait for what it does: where it says that nothing was written, they go one by one.
func (e *Engine) store(all steps) bool {
	var c mitigation.Change
	for _, s := range all {
		c.Put, c.Moves = append(c.Put, s.store.Put...), append(c.Moves, s.store.Moves...)
	}
	together := len(c.Put) > 1
	if together {
		_, err := e.write(c)
		if together = err == nil; err != nil && !errors.Is(err, store.ErrInvalid) && !errors.Is(err, store.ErrTooLarge) {
			e.giveUp(err)
		}
	}
	for _, s := range all {
		if !s.store.Empty() && !together {
			if _, err := e.commit(s.store); err != nil {
				return false
			}
		}
		if s.then != nil {
			s.then()
		}
	}
	return true
}

// flush stores what was decided, all at once.
func (e *Engine) flush() {
	all := e.decided
	if e.decided = nil; e.store(all) {
		return
	}
	for _, s := range all {
		for _, m := range s.store.Put {
			e.pending.take(m.ID)
		}
	}
}
