package sensor

import (
	"context"
	"errors"
	"slices"
	"sync"

	pb "github.com/amooglesoft/trafficmonitor/api/trafficmonitor/v1"
)

// What a message is worth when there is no room: the least first to go. Interval reports do not go, they are merged.
type worth int

const (
	worthSamples worth = iota
	worthInterval
	worthHot
	worthTrigger
	worthLevels
)

// maxEntries bounds what a backlog holds, in aggregates of about 100 bytes each; there is room for two
// interval reports in any case, whose size the number of slots bounds.
const maxEntries = 1 << 16

// A profile, and a sample, take as much room as so many aggregates.
const profileEntries, sampleEntries = 16, 4

// message is one thing to send; report and samples are shared with other backlogs and never written.
type message struct {
	worth   worth
	report  *pb.Report
	samples *pb.SampleBatch
	order   uint64
	ktime   int64 // of a trigger, in ns since the epoch; 0 otherwise
	sent    bool  // once, without a receipt: merged with another it could not be told from a new one
	again   bool  // and then once more
}

func (m *message) entries() int {
	r := m.report
	return len(r.GetAggregates()) + len(r.GetNetworks()) + profileEntries*len(r.GetProfiles()) + sampleEntries*len(m.samples.GetSamples()) + 1
}

// backlog keeps what a controller has not taken yet. When it is full the oldest sample batches go first, then interval
// reports are merged, the older the more, so that what they counted still arrives; then hot reports go, and triggers last.
type backlog struct {
	max  int
	wake chan struct{}
	over chan struct{} // closed when nothing more will be put in

	mu      sync.Mutex
	queues  [worthLevels][]message // guarded by mu; each oldest first
	length  int                    // guarded by mu
	entries int                    // guarded by mu
	room    int                    // guarded by mu; how many entries may be
	order   uint64                 // guarded by mu
	dropped [worthLevels]uint64    // guarded by mu
	merged  uint64                 // guarded by mu; reports that became part of another
}

func newBacklog(messages int) *backlog {
	return &backlog{max: messages, room: maxEntries, wake: make(chan struct{}, 1), over: make(chan struct{})}
}

// put takes a message in; never blocks.
func (b *backlog) put(m message) {
	b.mu.Lock()
	b.order++
	m.order = b.order
	b.queues[m.worth] = append(b.queues[m.worth], m)
	b.length++
	b.entries += m.entries()
	if m.worth == worthInterval {
		b.room = max(maxEntries, 2*m.entries())
	}
	for b.full() && b.shrink() {
	}
	b.mu.Unlock()
	select {
	case b.wake <- struct{}{}:
	default:
	}
}

func (b *backlog) full() bool { return b.length > b.max || b.entries > b.room }

// shrink makes room, and reports whether it could.
func (b *backlog) shrink() bool {
	if len(b.queues[worthSamples]) > 0 {
		b.drop(worthSamples)
		return true
	}
	if b.mergeOldest(false) || b.mergeOldest(true) || b.entries > b.room && b.coarsenOldest() {
		return true
	}
	interval := 0 // one at most is left
	for _, m := range b.queues[worthInterval] {
		interval = m.entries()
	}
	if b.length <= b.max && b.entries-interval <= maxEntries {
		return false // to drop more would make no difference
	}
	for _, w := range []worth{worthHot, worthTrigger} {
		if len(b.queues[w]) > 0 && b.length > 1 {
			b.drop(w)
			return true
		}
	}
	return false
}

func (b *backlog) drop(w worth) {
	b.pop(w)
	b.dropped[w]++
}

// mergeOldest merges the older half of the interval reports in pairs: a report is merged as often as the logarithm of
// its age, so that a long outage costs little, and what is recent keeps its resolution. Those sent once stay as they are
// unless nothing else is left.
func (b *backlog) mergeOldest(sent bool) bool {
	q := b.queues[worthInterval]
	first := 0
	for !sent && first < len(q) && q[first].sent {
		first++
	}
	half := first + max(2, (len(q)-first)/2)
	if half > len(q) {
		return false
	}
	next := append(make([]message, 0, len(q)), q[:first]...)
	for i := first; i < len(q); i++ {
		if i+1 >= half {
			next = append(next, q[i])
			continue
		}
		m := message{worth: worthInterval, report: merge(q[i].report, q[i+1].report), order: q[i].order}
		b.entries += m.entries() - q[i].entries() - q[i+1].entries()
		b.length--
		b.merged++
		next = append(next, m)
		i++
	}
	b.queues[worthInterval] = next
	return true
}

// coarsenOldest counts the targets of the only interval report for their networks, if that makes it smaller.
func (b *backlog) coarsenOldest() bool {
	q := b.queues[worthInterval]
	if len(q) != 1 {
		return false
	}
	for _, outermost := range []bool{false, true} {
		m := message{worth: worthInterval, report: coarsen(q[0].report, outermost), order: q[0].order}
		if less := q[0].entries() - m.entries(); less > 0 {
			b.entries -= less
			q[0] = m
			return true
		}
	}
	return false
}

// giveUp counts a report that cannot be delivered as dropped.
func (b *backlog) giveUp(m message) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.dropped[m.worth]++
}

// back puts messages of one worth, the oldest first, where they were.
func (b *backlog) back(list ...message) {
	if len(list) == 0 {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	w := list[0].worth
	b.queues[w] = append(slices.Clone(list), b.queues[w]...)
	b.length += len(list)
	for _, m := range list {
		b.entries += m.entries()
	}
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

// errDrained says that a backlog is empty and will stay so.
var errDrained = errors.New("all is sent, and nothing more will come")

// finish says that nothing more will be put in.
func (b *backlog) finish() { close(b.over) }

// finished tells whether nothing more will be put in.
func (b *backlog) finished() bool {
	select {
	case <-b.over:
		return true
	default:
		return false
	}
}

// take returns the oldest message, waiting for one; errDrained when there will be none.
func (b *backlog) take(ctx context.Context) (message, error) {
	for {
		last := b.finished() // asked first, or a message put in before would be overlooked
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
		if last {
			return message{}, errDrained
		}
		select {
		case <-b.wake:
		case <-b.over:
		case <-ctx.Done():
			return message{}, context.Cause(ctx)
		}
	}
}

// losses says what a backlog could not keep as it was.
type losses struct {
	reports uint64 // hot and trigger reports dropped, and interval reports the controller refused
	samples uint64 // sample batches dropped
	merged  uint64 // interval reports that became part of another
	waiting int    // messages that wait
}

func (b *backlog) losses() losses {
	b.mu.Lock()
	defer b.mu.Unlock()
	l := losses{samples: b.dropped[worthSamples], merged: b.merged, waiting: b.length}
	for _, n := range b.dropped[worthInterval:] {
		l.reports += n
	}
	return l
}
