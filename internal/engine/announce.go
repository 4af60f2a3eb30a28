package engine

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/amooglesoft/trafficmonitor/internal/audit"
	"github.com/amooglesoft/trafficmonitor/internal/mitigation"
	"github.com/amooglesoft/trafficmonitor/internal/speaker"
	"github.com/amooglesoft/trafficmonitor/internal/store"
)

// Speaker takes the whole set.
type Speaker interface {
	Set(ctx context.Context, term, revision uint64, routes []speaker.Desired) (speaker.Result, error)
}

// Announcer keeps one speaker at the newest set, on every controller, whoever leads. It hands over sets, not changes,
// so that nothing drifts: after an error or a restart of the speaker the same set is handed over again.
type Announcer struct {
	e       *Engine
	speaker Speaker
	wake    chan struct{}

	mu     sync.Mutex
	newest store.Snapshot // guarded by mu
	have   bool           // guarded by mu

	refused map[string]string // reasons by route; owned by Run
}

// Announcer returns the announcer of this engine's speaker.
func (e *Engine) Announcer(s Speaker) *Announcer {
	return &Announcer{e: e, speaker: s, wake: make(chan struct{}, 1), refused: map[string]string{}}
}

// Follow takes what is to be announced.
func (a *Announcer) Follow(s store.Snapshot) {
	a.mu.Lock()
	a.newest, a.have = s, true
	a.mu.Unlock()
	a.poke()
}

// Again hands the set over once more, for the speaker may have lost it.
func (a *Announcer) Again() { a.poke() }

// Desired returns the set that is to be announced now; ok is false before the store was read.
func (a *Announcer) Desired(now time.Time) (routes []mitigation.Desired, s store.Snapshot, ok bool) {
	a.mu.Lock()
	s, ok = a.newest, a.have
	a.mu.Unlock()
	return s.Records.Routes(now), s, ok
}

func (a *Announcer) poke() {
	select {
	case a.wake <- struct{}{}:
	default:
	}
}

const (
	setTimeout   = 5 * time.Second
	retryAtFirst = 50 * time.Millisecond
	retryAtMost  = 2 * time.Second
)

// Run hands sets over until ctx ends. The first one may only follow the first snapshot: an empty set before that would
// withdraw everything.
func (a *Announcer) Run(ctx context.Context) error {
	retry := time.NewTimer(0)
	retry.Stop()
	defer retry.Stop()
	wait := retryAtFirst
	var behind time.Time
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-a.wake:
		case <-retry.C:
		}
		a.mu.Lock()
		s, have := a.newest, a.have
		a.mu.Unlock()
		if !have {
			continue
		}
		err := a.set(ctx, s)
		if err == nil {
			wait, behind = retryAtFirst, time.Time{}
			a.e.metrics.lag.Set(0)
			continue
		}
		if ctx.Err() != nil {
			return nil
		}
		if behind.IsZero() {
			behind = time.Now()
			a.e.log.Error("the speaker does not take the routes: trying again", "err", err)
		}
		a.e.metrics.lag.Set(time.Since(behind).Seconds())
		retry.Reset(wait)
		wait = min(wait*2, retryAtMost)
	}
}

func (a *Announcer) set(ctx context.Context, s store.Snapshot) error {
	routes := s.Records.Routes(time.Now())
	out := make([]speaker.Desired, len(routes))
	for i, d := range routes {
		out[i] = speaker.Desired{Route: d.Route, Deadline: d.Deadline, Created: d.Created, Owners: d.Owners, Answers: d.Answers, Groups: d.Groups, Scope: d.Scope, Approved: d.Approved, Manual: d.Manual}
	}
	ctx, cancel := context.WithTimeout(ctx, setTimeout)
	defer cancel()
	res, err := a.speaker.Set(ctx, s.Term, uint64(s.Revision), out)
	if err != nil {
		a.e.metrics.speakerSets.WithLabelValues("error").Inc()
		return err
	}
	now := time.Now()
	a.e.metrics.speakerSets.WithLabelValues("ok").Inc()
	refused := map[string]string{}
	for _, r := range res.Refused {
		refused[r.Route] = r.Reason
		if a.refused[r.Route] == r.Reason {
			continue
		}
		a.e.log.Error("the speaker refused a route", "rule", r.Route, "reason", r.Reason, "invariant", r.Invariant)
		a.e.o.Emit(audit.RouteRefused, fmt.Sprintf("the speaker refused %s: %s", r.Route, r.Reason), map[string]string{"route": r.Route, "invariant": r.Invariant})
	}
	a.refused = refused
	for _, d := range routes {
		for _, id := range d.Owners {
			if from, ok := a.e.pending.take(id); ok && refused[d.Route.String()] == "" {
				a.e.metrics.stage(stageSpeaker, now.Sub(d.Created))
				if !from.triggered.IsZero() {
					a.e.metrics.stage(stageTotal, now.Sub(from.triggered))
				}
			}
		}
	}
	return nil
}
