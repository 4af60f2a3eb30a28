package audit

import (
	"context"
	"encoding/json"
	"time"
)

// Shared is a record that all controllers write to and read, so that each can tell what any of them did.
type Shared interface {
	// AppendLog adds lines, each at its time.
	AppendLog(ctx context.Context, at []time.Time, lines [][]byte) error
	// ReadLog calls each with the lines from since on and before until, newest first, until it returns false. A zero time is no bound.
	ReadLog(ctx context.Context, since, until time.Time, each func(line []byte) bool) error
}

// shared reports whether the kind belongs into the shared record. Ten thousand sensors that come and go do not.
func (k Kind) shared() bool { return k != SensorSeen && k != SensorLost }

// Bounds of what waits for the shared record: after an outage the newest are told, and how many are not.
const (
	sharedEvery = time.Second
	sharedQueue = 4096
	sharedFlush = 2 * time.Second // at the end
)

// Share copies every event from now on into the shared record until ctx ends: once a second, so that it costs one write
// to its disk a second at most. While the record cannot be written the newest events wait.
func (l *Log) Share(ctx context.Context, s Shared) error {
	events, cancel := l.Subscribe(sharedQueue)
	defer cancel()
	return l.share(ctx, s, events)
}

func (l *Log) share(ctx context.Context, s Shared, events <-chan Delivery) error {
	tick := time.NewTicker(sharedEvery)
	defer tick.Stop()
	var wait []Event
	failing := false
	flush := func(ctx context.Context) {
		if len(wait) == 0 {
			return
		}
		at, lines := make([]time.Time, 0, len(wait)), make([][]byte, 0, len(wait))
		for _, e := range wait {
			if b, err := json.Marshal(e); err == nil { // the file's writer says what cannot be written
				at, lines = append(at, e.Time), append(lines, b)
			}
		}
		err := s.AppendLog(ctx, at, lines)
		if was := failing; was != (err != nil) {
			failing = !was
			if failing {
				l.log.Warn("the audit record that controllers share cannot be written: the file goes on, and the newest events wait", "err", err, "waiting", len(wait))
			} else {
				l.log.Info("the audit record that controllers share is written again", "waited", len(wait))
			}
		}
		if err == nil {
			wait = wait[:0]
		}
	}
	keep := func(d Delivery) {
		l.m.lost.WithLabelValues(lostShared).Add(float64(d.Lost))
		if !d.Kind.shared() {
			return
		}
		if len(wait) == sharedQueue {
			wait = wait[1:]
			l.m.lost.WithLabelValues(lostShared).Inc()
		}
		wait = append(wait, d.Event)
	}
	last := func() error {
		end, cancel := context.WithTimeout(context.WithoutCancel(ctx), sharedFlush)
		defer cancel()
		flush(end)
		return nil
	}
	for {
		select {
		case d, ok := <-events:
			if !ok {
				return last()
			}
			keep(d)
		case <-tick.C:
			flush(ctx)
		case <-ctx.Done():
			for len(events) > 0 {
				keep(<-events)
			}
			return last()
		}
	}
}
