package lab

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// GiveUp marks an error that waiting cannot cure: Until returns it at once.
func GiveUp(err error) error { return &gaveUp{err} }

type gaveUp struct{ err error }

func (g *gaveUp) Error() string { return g.err.Error() }
func (g *gaveUp) Unwrap() error { return g.err }

// Until calls check until it returns nil, and returns check's last error when ctx ends first. ctx should have a
// deadline.
func Until(ctx context.Context, what string, check func(context.Context) error) error {
	const most = 50 * time.Millisecond
	pause := 2 * time.Millisecond
	began := time.Now()
	for {
		err := check(ctx)
		if err == nil {
			return nil
		}
		var g *gaveUp
		if errors.As(err, &g) {
			return fmt.Errorf("waited for %s: %w", what, g.err)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waited %v for %s: %w", time.Since(began).Round(time.Millisecond), what, err)
		case <-time.After(pause):
		}
		pause = min(2*pause, most)
	}
}

// afterGrace fires when output that a program's descendants hold open has had its time.
func afterGrace() <-chan time.Time { return time.After(time.Second) }
