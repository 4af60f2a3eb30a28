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
	noted   int      // so often it was told without a session; guarded by mu
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
	if session == 0 {
		a.noted++
		return nil
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
			if n := int(time.Minute / confirmEvery); a.noted < n-1 || a.noted > n+1 {
				t.Errorf("the speaker was told %d times within a minute", a.noted)
			}
			a.away, a.reads, a.noted = true, 0, 0
		})
		if since := f.unconfirmed(time.Now()); !since.IsZero() {
			t.Errorf("the speaker was told, and it is said that it was not since %s", since)
		}
		began := time.Now()
		f.asks(9)
		time.Sleep(time.Second)
		f.asks(0) // it waits no more
		time.Sleep(time.Second)
		a.do(func() { a.reads = 0 })
		time.Sleep(time.Minute)
		a.do(func() {
			if a.reads > int(time.Minute/confirmEvery)+1 || len(a.answers) > 1 || a.noted > 0 {
				t.Errorf("nobody waits: the store was asked %d times, confirmed %v", a.reads, a.answers)
			}
		})
		if since := f.unconfirmed(time.Now()); since.IsZero() || since.After(began) || began.Sub(since) > confirmEvery {
			t.Errorf("away since %s: the speaker was not told since %s", began, since)
		}
		a.do(func() { a.away, a.behind = false, 0 })
		time.Sleep(2 * confirmEvery)
		if since := f.unconfirmed(time.Now()); !since.IsZero() {
			t.Errorf("the store is back: not told since %s", since)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// rushing is a store in which something is decided every 10 ms, and a speaker that has it 100 ms later.
type rushing struct{ began time.Time }

func (r rushing) Current(context.Context) (uint64, int64, error) {
	return 1, int64(time.Since(r.began) / (10 * time.Millisecond)), nil
}

func (r rushing) Confirm(_ context.Context, _, revision, _ uint64) error {
	if applied := (time.Since(r.began) - 100*time.Millisecond) / (10 * time.Millisecond); int64(revision) > int64(applied) {
		return speaker.ErrBehind
	}
	return nil
}

func TestConfirmerKeepsUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := rushing{time.Now()}
		f := newConfirmer(r, r, slog.New(slog.NewTextHandler(t.Output(), nil)))
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- f.run(ctx) }()
		f.asks(3)
		time.Sleep(time.Second)
		if f.asked.Load() != 0 {
			t.Error("the session waits still")
		}
		time.Sleep(time.Minute)
		if since := f.unconfirmed(time.Now()); !since.IsZero() {
			t.Errorf("not told since %s", since)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}
