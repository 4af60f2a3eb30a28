package app

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/amooglesoft/trafficmonitor/internal/speaker"
)

// asked plays the store and the speaker of a confirmer.
type asked struct {
	mu      sync.Mutex
	away    bool     // the store does not answer; guarded by mu
	behind  int      // so often the speaker has an older set; guarded by mu
	reads   int      // guarded by mu
	answers []uint64 // sessions that were confirmed; guarded by mu
}

func (a *asked) Current(context.Context) (uint64, int64, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.reads++
	if a.away {
		return 0, 0, errors.New("away")
	}
	return 2, 9, nil
}

func (a *asked) Confirm(_ context.Context, term, revision, session uint64) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if term != 2 || revision != 9 {
		return errors.New("not what the store said")
	}
	if a.behind > 0 {
		a.behind--
		return speaker.ErrBehind
	}
	a.answers = append(a.answers, session)
	return nil
}

func (a *asked) do(fn func()) {
	a.mu.Lock()
	defer a.mu.Unlock()
	fn()
}

func TestConfirmer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := &asked{away: true, behind: 3}
		f := newConfirmer(a, a, slog.New(slog.NewTextHandler(t.Output(), nil)))
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- f.run(ctx) }()

		f.asks(7)
		time.Sleep(time.Minute)
		a.do(func() {
			if a.reads < 10 || len(a.answers) > 0 {
				t.Errorf("the store is away: asked %d times, confirmed %v", a.reads, a.answers)
			}
			a.away = false
		})
		f.asks(8) // another session came up meanwhile
		time.Sleep(time.Minute)
		a.do(func() {
			if !slices.Equal(a.answers, []uint64{8}) {
				t.Errorf("confirmed %v, want the newest, once", a.answers)
			}
			a.away, a.reads = true, 0
		})
		f.asks(9)
		time.Sleep(time.Second)
		f.asks(0) // it waits no more
		time.Sleep(time.Second)
		a.do(func() { a.reads = 0 })
		time.Sleep(time.Minute)
		a.do(func() {
			if a.reads > 0 || len(a.answers) > 1 {
				t.Errorf("nobody waits: the store was asked %d times, confirmed %v", a.reads, a.answers)
			}
		})
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}
