package sensor

import (
	"context"
	"sync"

	pb "github.com/amooglesoft/trafficmonitor/api/trafficmonitor/v1"
)

// What a message is worth when there is no room: the least first to go.
type worth int

const (
	worthSamples worth = iota
	worthInterval
	worthHot
	worthTrigger
	worthLevels
)

// maxEntries bounds the aggregates and samples a backlog holds: about 100 bytes each.
const maxEntries = 1 << 16

// message is one thing to send; report and samples are shared with other backlogs and never written.
type message struct {
	worth   worth
	report  *pb.Report
	samples *pb.SampleBatch
	order   uint64
	ktime   int64 // of a trigger, in ns since the epoch; 0 otherwise
}

func (m *message) entries() int {
	return len(m.report.GetAggregates()) + len(m.samples.GetSamples()) + 1
}

// backlog keeps what a controller has not taken yet. When it is full the oldest of the least worth goes.
type backlog struct {
	max  int
	wake chan struct{}

	mu      sync.Mutex
	queues  [worthLevels][]message // guarded by mu; each oldest first
	length  int                    // guarded by mu
	entries int                    // guarded by mu
	order   uint64                 // guarded by mu
	dropped [worthLevels]uint64    // guarded by mu
}

func newBacklog(messages int) *backlog {
	return &backlog{max: messages, wake: make(chan struct{}, 1)}
}

// put takes a message in; never blocks.
func (b *backlog) put(m message) {
	b.mu.Lock()
	b.order++
	m.order = b.order
	b.queues[m.worth] = append(b.queues[m.worth], m)
	b.length++
	b.entries += m.entries()
	for b.length > b.max || b.entries > maxEntries && b.length > 1 {
		for w := range b.queues {
			if len(b.queues[w]) > 0 {
				b.pop(worth(w))
				b.dropped[w]++
				break
			}
		}
	}
	b.mu.Unlock()
	select {
	case b.wake <- struct{}{}:
	default:
	}
}

// back puts a message that could not be sent where it was.
func (b *backlog) back(m message) {
	b.mu.Lock()
	b.queues[m.worth] = append([]message{m}, b.queues[m.worth]...)
	b.length++
	b.entries += m.entries()
	b.mu.Unlock()
}

func (b *backlog) pop(w worth) message {
	q := b.queues[w]
	m := q[0]
	q[0] = message{}
	b.queues[w] = q[1:]
	b.length--
	b.entries -= m.entries()
	return m
}

// take returns the oldest message, waiting for one.
func (b *backlog) take(ctx context.Context) (message, error) {
	for {
		b.mu.Lock()
		oldest, found := worth(0), false
		for w := range b.queues {
			if q := b.queues[w]; len(q) > 0 && (!found || q[0].order < b.queues[oldest][0].order) {
				oldest, found = worth(w), true
			}
		}
		if found {
			m := b.pop(oldest)
			b.mu.Unlock()
			return m, nil
		}
		b.mu.Unlock()
		select {
		case <-b.wake:
		case <-ctx.Done():
			return message{}, context.Cause(ctx)
		}
	}
}

// losses returns how many reports and how many sample batches were dropped, and how many messages wait.
func (b *backlog) losses() (reports, samples uint64, waiting int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for w, n := range b.dropped {
		if worth(w) == worthSamples {
			samples += n
		} else {
			reports += n
		}
	}
	return reports, samples, b.length
}
