package console

import (
	"fmt"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/status"

	tmv1 "github.com/amooglesoft/trafficmonitor/api/trafficmonitor/v1"
)

// eventQueue is how many events wait for one reader; more are lost, and the reader is told how many.
const eventQueue = 256

// KindEventsLost is the kind of the event that only says how many were lost.
const KindEventsLost = "events_lost"

// queued is an event and how many were lost between the one before and it.
type queued struct {
	event Event
	lost  uint64
}

// queue holds the events that wait for one reader. Pushing never blocks.
type queue struct {
	ready chan struct{} // holds a token while there may be something to take

	mu     sync.Mutex
	events []queued // guarded by mu
	lost   uint64   // guarded by mu; since the newest event in events
}

func newQueue() *queue { return &queue{ready: make(chan struct{}, 1)} }

// push adds an event, or counts it as lost.
func (q *queue) push(e Event) (kept bool) {
	q.mu.Lock()
	if kept = len(q.events) < eventQueue; kept {
		q.events = append(q.events, queued{e, q.lost})
		q.lost = 0
	} else {
		q.lost++
	}
	q.mu.Unlock()
	select {
	case q.ready <- struct{}{}:
	default:
	}
	return kept
}

// take returns everything that waits. What was lost after the last event is told by an event of its own, so that the
// reader learns of it without waiting for the next.
func (q *queue) take(now time.Time) []queued {
	q.mu.Lock()
	defer q.mu.Unlock()
	out := q.events
	if q.lost > 0 {
		out = append(out, queued{Event{
			Time: now, Kind: KindEventsLost,
			Message: fmt.Sprintf("%d events were not sent because this reader was too slow: list what is active now", q.lost),
		}, q.lost})
	}
	q.events, q.lost = nil, 0
	return out
}

// WatchEvents sends every event from now on. The header is sent at once: once a client has it, no later event is missed.
func (s *service) WatchEvents(_ *tmv1.WatchEventsRequest, out grpc.ServerStreamingServer[tmv1.WatchEventsResponse]) error {
	q := newQueue()
	cancel := s.system.Subscribe(func(e Event) {
		if !q.push(e) {
			s.metrics.eventsLost.Inc()
		}
	})
	defer cancel()
	s.metrics.watchers.Inc()
	defer s.metrics.watchers.Dec()
	if err := out.SendHeader(nil); err != nil {
		return err
	}
	ctx := out.Context()
	for {
		select {
		case <-ctx.Done():
			return status.FromContextError(ctx.Err()).Err()
		case <-q.ready:
			for _, e := range q.take(time.Now()) {
				if err := out.Send(eventProto(e)); err != nil {
					return err
				}
			}
		}
	}
}
