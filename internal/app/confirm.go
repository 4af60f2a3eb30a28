package app

import (
	"context"
	"errors"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/amooglesoft/trafficmonitor/internal/speaker"
)

// confirmer tells the speaker that its routes are those of the store: when it asks for a session, and now and then, so that it can
// say how old is what it knows.
type confirmer struct {
	store   currentStore
	speaker confirmed
	log     *slog.Logger
	wake    chan struct{}
	asked   atomic.Uint64             // number of the newest session that waits; 0: none does
	known   atomic.Pointer[time.Time] // when the speaker was last told; at first when this began
}

// currentStore is store.Store, as far as it says how far it is.
type currentStore interface {
	Current(ctx context.Context) (term uint64, revision int64, err error)
}

// confirmed is speaker.Client, as far as it is told.
type confirmed interface {
	Confirm(ctx context.Context, term, revision, session uint64) error
}

func newConfirmer(st currentStore, sp confirmed, log *slog.Logger) *confirmer {
	f := &confirmer{store: st, speaker: sp, log: log, wake: make(chan struct{}, 1)}
	now := time.Now()
	f.known.Store(&now)
	return f
}

const (
	confirmTimeout = 2 * time.Second
	confirmPause   = 50 * time.Millisecond
	confirmEvery   = 5 * time.Second
	// unconfirmedAfter is how long the speaker may not have been told before an engineer is.
	unconfirmedAfter = 30 * time.Second
)

// unconfirmed returns since when the speaker was not told that its routes are those of the store, where that is long; else the
// zero time.
func (f *confirmer) unconfirmed(now time.Time) time.Time {
	if last := *f.known.Load(); now.Sub(last) >= unconfirmedAfter {
		return last
	}
	return time.Time{}
}

// asks takes the number of the newest session that waits, or 0.
func (f *confirmer) asks(session uint64) {
	f.asked.Store(session)
	select {
	case f.wake <- struct{}{}:
	default:
	}
}

// run answers until ctx ends. As long as it cannot, it tries again until nobody waits any more.
func (f *confirmer) run(ctx context.Context) error {
	var told uint64
	tick := time.NewTicker(confirmEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-f.wake:
		case <-tick.C:
			if f.asked.Load() == 0 {
				_ = f.confirm(ctx, 0) // unconfirmed tells
			}
		}
		for session := f.asked.Load(); session != 0 && ctx.Err() == nil; session = f.asked.Load() {
			err := f.confirm(ctx, session)
			if err == nil {
				f.asked.CompareAndSwap(session, 0)
				continue
			}
			if told != session && ctx.Err() == nil && !errors.Is(err, speaker.ErrBehind) {
				told = session
				f.log.Warn("the speaker asks whether its routes are those of the store, and that cannot be told: it waits, for speaker.store_wait at most", "err", err)
			}
			select {
			case <-ctx.Done():
			case <-time.After(confirmPause):
			}
		}
	}
}

// confirm reads how far the store is now, which is after the session came up. The announcer hands the set of then over; until it has, the
// same is said again and not read anew, for where much is decided the speaker is always a little behind.
func (f *confirmer) confirm(ctx context.Context, session uint64) error {
	ctx, cancel := context.WithTimeout(ctx, confirmTimeout)
	defer cancel()
	began := time.Now()
	term, revision, err := f.store.Current(ctx)
	if err != nil {
		return err
	}
	for {
		if err = f.speaker.Confirm(ctx, term, uint64(revision), session); err == nil {
			f.known.Store(&began)
			return nil
		}
		if !errors.Is(err, speaker.ErrBehind) || f.asked.Load() != session {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(confirmPause):
		}
	}
}
