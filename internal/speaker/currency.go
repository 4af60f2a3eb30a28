package speaker

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"time"
)

// A speaker that comes up with a router cannot know whether its set is still the one the controllers want: it may have been
// cut off from them, or off, while a route was withdrawn. Announced once more, that is a route nobody wants. So a new session
// asks the controller, which reads the store and confirms the set, and announces nothing before. Where nobody answers within
// Options.StoreWait it announces what it has, for it must also protect alone. No End-of-RIB is sent meanwhile, so that a
// router that keeps what it had by graceful restart keeps it until then.

// numbers are those of the sessions that ask, so that an answer is to a question of before it.
type numbers struct {
	base uint64
	last *atomic.Uint64
}

// newNumbers begins at random: an answer to a speaker before this one is no answer.
func newNumbers() numbers {
	n := numbers{base: rand.Uint64() >> 1, last: &atomic.Uint64{}}
	n.last.Store(n.base)
	return n
}

// How a wait ends: values of a metric label.
const (
	currentWait    = "current"
	unansweredWait = "unanswered"
)

var errNoSession = errors.New("no session of this speaker has that number")

// ask numbers a new session; 0 means that it need not wait.
func (s *speaker) ask() uint64 {
	if s.shown.Load().button != nil {
		return 0 // nothing is announced, and the router must not keep anything
	}
	return s.asks.last.Add(1)
}

// confirm notes that the set is that of the store, and lets the session with this number, and those before it, announce it; 0 is
// no session.
func (s *speaker) confirm(term, revision, number uint64) error {
	if number != 0 && (number <= s.asks.base || number > s.asks.last.Load()) {
		return fmt.Errorf("session %d: %w: the speaker was started since", number, errNoSession)
	}
	s.mu.Lock()
	st := s.state
	s.mu.Unlock()
	if stale(term, revision, st.term, st.revision) {
		return fmt.Errorf("%w: term %d revision %d is applied, term %d revision %d was confirmed", ErrBehind, st.term, st.revision, term, revision)
	}
	now := time.Now()
	s.known.Store(&now)
	if number == 0 {
		return nil
	}
	for _, r := range s.routers {
		r.answered(number, currentWait)
	}
	return nil
}

// unconfirmedTold is for how long nobody confirms the set before a person is told.
const unconfirmedTold = 30 * time.Second

// unconfirmed is for how long no controller has said that the set is that of the store; 0 while the red button is pressed, for
// then nothing is announced.
func (s *speaker) unconfirmed(now time.Time) time.Duration {
	if s.shown.Load().button != nil {
		return 0
	}
	return max(now.Sub(*s.known.Load()), 0)
}

// tellUnconfirmed logs when the set begins to be one of which nobody says that it is that of the store, and when that ends. was
// is what it returned before.
func (s *speaker) tellUnconfirmed(now time.Time, was bool) (is bool) {
	is = s.unconfirmed(now) >= unconfirmedTold
	switch {
	case is && !was:
		s.log.Error("no controller says that the routes are those of the store: they stay as they are until their deadlines, and what was withdrawn elsewhere meanwhile is still announced here",
			"since", s.known.Load().UTC(), "routes", len(s.shown.Load().items), "action", "look at the controller beside this speaker and at its way to etcd: tmctl status")
	case was && !is:
		s.log.Info("the routes are known to be those of the store again, or the red button is pressed")
	}
	return is
}

// beginWait makes the session wait that came up now. The caller holds mu.
func (r *router) beginWait(now time.Time) (waits bool) {
	r.asked = 0
	if r.patience > 0 && r.ask != nil {
		r.asked = r.ask()
	}
	if r.asked == 0 {
		return false
	}
	r.out.until = now.Add(r.patience)
	return true
}

// answered ends the wait of the session if it has this number or a lower one.
func (r *router) answered(number uint64, result string) {
	r.mu.Lock()
	over := r.asked != 0 && r.asked <= number
	if over {
		r.asked = 0
		r.out.release(time.Now())
	}
	r.mu.Unlock()
	if over {
		r.goesOn(result)
		r.poke()
	}
}

// unanswered ends a wait that has lasted long enough, or returns how long it still lasts. The caller holds mu.
func (r *router) unanswered(now time.Time) (over bool, wait time.Duration) {
	if r.asked == 0 {
		return false, 0
	}
	if wait = r.out.until.Sub(now); wait > 0 {
		return false, wait
	}
	r.asked = 0
	r.out.release(now)
	return true, 0
}

// goesOn tells how a wait ended. The caller does not hold mu.
func (r *router) goesOn(result string) {
	if result != "" {
		r.m.storeWaits.WithLabelValues(r.peer.Name, result).Inc()
	}
	if result == unansweredWait {
		r.log.Warn("the controller did not say in time whether the routes are those of the store: what was announced last is announced, and may hold a route that was withdrawn since",
			"waited", r.patience, "action", "look at the controller beside this speaker and at trafficmonitor_store_up; tmctl status")
	}
	r.watch.changed()
}

// waiting returns the number of the session that waits, and until when; 0 and the zero time when it does not.
func (r *router) waiting() (number uint64, until time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.asked, r.out.until
}

// waitReason says in words why nothing is announced. The caller holds mu.
func (r *router) waitReason() string {
	return fmt.Sprintf("the session came up and the controller has not said yet that the routes are those of the store: it is sent then, or at %s at the latest (speaker.store_wait)",
		r.out.until.UTC().Format(time.RFC3339))
}
