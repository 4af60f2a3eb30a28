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

// queue holds the events that wait for one reader. Pushing never blocks.
type queue struct {
	ready chan struct{} // holds a token while there may be something to take

	mu     sync.Mutex
	events []Event // guarded by mu
	lost   uint64  // guarded by mu; since events became full
}

func newQueue() *queue { return &queue{ready: make(chan struct{}, 1)} }

// push adds an event, or counts it as lost.
func (q *queue) push(e Event) (kept bool) {
	q.mu.Lock()
	if kept = len(q.events) < eventQueue; kept {
		q.events = append(q.events, e)
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

// take returns everything that waits, and how many were lost after it.
func (q *queue) take() (events []Event, lost uint64) {
	q.mu.Lock()
	defer q.mu.Unlock()
	events, lost = q.events, q.lost
	q.events, q.lost = nil, 0
	return events, lost
}

// lostEvent tells a reader what it lost, without waiting for the next thing to happen.
func lostEvent(n uint64) *tmv1.WatchEventsResponse {
	return &tmv1.WatchEventsResponse{
		Time: timeProto(time.Now()), Kind: KindEventsLost, Lost: n,
		Message: fmt.Sprintf("%d events were not sent because this reader was too slow: list what is active now", n),
	}
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
			events, lost := q.take()
			for _, e := range events {
				if err := out.Send(eventProto(e)); err != nil {
					return err
				}
			}
			if lost > 0 {
				if err := out.Send(lostEvent(lost)); err != nil {
					return err
				}
			}
		}
	}
}
