// Package app wires the daemons: it turns a configuration into adapters around the core and runs them until they are told
// to stop. It decides nothing itself.
package app

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"
)

// lifecycle runs loops together and stops what was opened, last opened first.
type lifecycle struct {
	tasks []task
	stops []stop
}

type task struct {
	name string
	run  func(context.Context) error
}

type stop struct {
	name string
	stop func(context.Context) error
}

// stopTimeout bounds all stops together.
const stopTimeout = 10 * time.Second

// loop adds a loop that must run as long as the process.
func (l *lifecycle) loop(name string, run func(context.Context) error) {
	l.tasks = append(l.tasks, task{name, run})
}

// onStop adds what is to be closed; call it on the line after the thing exists.
func (l *lifecycle) onStop(name string, fn func(context.Context) error) {
	l.stops = append(l.stops, stop{name, fn})
}

// run runs all loops until ctx ends or one of them does, then stops everything.
func (l *lifecycle) run(ctx context.Context) error {
	g, gctx := errgroup.WithContext(ctx)
	for _, t := range l.tasks {
		g.Go(func() error {
			if err := t.run(gctx); err != nil && gctx.Err() == nil {
				return fmt.Errorf("%s: %w", t.name, err)
			}
			if gctx.Err() == nil {
				return fmt.Errorf("%s: returned early", t.name)
			}
			return nil
		})
	}
	return errors.Join(g.Wait(), l.stop(context.WithoutCancel(ctx)))
}

func (l *lifecycle) stop(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, stopTimeout)
	defer cancel()
	var errs []error
	for _, s := range slices.Backward(l.stops) {
		if err := s.stop(ctx); err != nil {
			errs = append(errs, fmt.Errorf("stop %s: %w", s.name, err))
		}
	}
	l.stops = nil
	return errors.Join(errs...)
}
