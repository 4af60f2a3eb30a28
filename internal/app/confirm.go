package app

import (
	"context"
	"errors"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/amooglesoft/trafficmonitor/internal/speaker"
)

// confirmer tells the speaker, when it asks for a session, that its routes are those of the store.
type confirmer struct {
	store   currentStore
	speaker confirmed
	log     *slog.Logger
	wake    chan struct{}
	asked   atomic.Uint64 // number of the newest session that waits; 0: none does
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
	return &confirmer{store: st, speaker: sp, log: log, wake: make(chan struct{}, 1)}
}

const (
	confirmTimeout = 2 * time.Second
	confirmPause   = 50 * time.Millisecond
)

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
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-f.wake:
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

// confirm reads how far the store is now, which is after the session came up. The announcer hands the set of then over.
func (f *confirmer) confirm(ctx context.Context, session uint64) error {
	ctx, cancel := context.WithTimeout(ctx, confirmTimeout)
	defer cancel()
	term, revision, err := f.store.Current(ctx)
	if err != nil {
		return err
	}
	return f.speaker.Confirm(ctx, term, uint64(revision), session)
}
