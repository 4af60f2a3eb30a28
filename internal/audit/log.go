package audit

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"path/filepath"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Sync says when what was recorded is forced to disk.
type Sync string

// The policies. Between two times a crash of the machine loses what was not forced; a crash of the process loses
// nothing that was written.
const (
	SyncInterval Sync = "interval" // every Options.SyncEvery; the default, which leaves the disk to the store
	SyncAlways   Sync = "always"   // after every write; what comes at once is written at once
	SyncNever    Sync = "never"    // when the system likes
)

// FileName is the record's name in the data directory; full files become FileName.1, .2 and so on, oldest last.
const FileName = "audit.jsonl"

// Options of a Log.
type Options struct {
	Dir       string // created if absent
	Name      string // of this controller, written with each event
	MaxBytes  int64  // of one file; 64 MiB when 0
	MaxFiles  int    // full files kept beside the current one; 8 when 0
	Sync      Sync
	SyncEvery time.Duration // 1 s when 0
	Tail      int           // events kept in memory; 1000 when 0
	Queue     int           // events that may wait for the disk; 8192 when 0

	Log        *slog.Logger
	Registerer prometheus.Registerer
}

func (o Options) withDefaults() (Options, error) {
	var errs []error
	if o.Dir == "" {
		errs = append(errs, errors.New("no directory"))
	}
	if o.MaxBytes < 0 || o.MaxFiles < 0 || o.SyncEvery < 0 || o.Tail < 0 || o.Queue < 0 {
		errs = append(errs, errors.New("a limit is negative"))
	}
	switch o.Sync {
	case SyncInterval, SyncAlways, SyncNever:
	case "":
		o.Sync = SyncInterval
	default:
		errs = append(errs, fmt.Errorf("sync %q is not known: use interval, always or never", o.Sync))
	}
	if o.MaxBytes == 0 {
		o.MaxBytes = 64 << 20
	}
	if o.MaxFiles == 0 {
		o.MaxFiles = 8
	}
	if o.SyncEvery == 0 {
		o.SyncEvery = time.Second
	}
	if o.Tail == 0 {
		o.Tail = 1000
	}
	if o.Queue == 0 {
		o.Queue = 8192
	}
	if o.Log == nil {
		o.Log = slog.New(slog.NewTextHandler(io.Discard, nil))
	}
	o.Log = o.Log.With("component", "audit")
	return o, errors.Join(errs...)
}

// Delivery is an event as a subscriber gets it.
type Delivery struct {
	Event
	Lost uint64 // events lost before this one because the subscriber was too slow
}

// Log is the record. Its methods may be called concurrently.
type Log struct {
	m     *metrics
	path  string // of the current file
	name  string
	log   *slog.Logger
	queue chan entry
	done  chan struct{} // closed when the writer has ended

	mu     sync.Mutex
	tail   ring                     // guarded by mu
	subs   map[*subscriber]struct{} // guarded by mu
	lost   uint64                   // guarded by mu; events the file will not have, not yet told
	closed bool                     // guarded by mu; then queue is closed
}

// entry is an event for the file, or a question when what came before is on disk.
type entry struct {
	event  Event
	synced chan error
}

type subscriber struct {
	ch   chan Delivery
	lost uint64 // guarded by Log.mu
}

// Open opens the record in o.Dir and goes on where it ended.
func Open(o Options) (*Log, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, fmt.Errorf("audit: %w", err)
	}
	l := &Log{name: o.Name, log: o.Log, path: filepath.Join(o.Dir, FileName), queue: make(chan entry, o.Queue), done: make(chan struct{}), subs: map[*subscriber]struct{}{}, tail: newRing(o.Tail)}
	if l.m, err = newMetrics(o.Registerer, l); err != nil {
		return nil, fmt.Errorf("audit: register metrics: %w", err)
	}
	f, err := openFile(l.path, o, l.m)
	if err != nil {
		return nil, fmt.Errorf("audit: %w", err)
	}
	if err := f.readTail(func(e Event) { l.tail.add(e) }); err != nil {
		return nil, fmt.Errorf("audit: read the end of %s: %w", f.path, errors.Join(err, f.close()))
	}
	go l.write(f, o)
	return l, nil
}

// Record takes e in. It does not wait: when the disk cannot keep up, the file lacks events and says how many. A zero
// Time becomes now.
func (l *Log) Record(e Event) {
	if e.Time.IsZero() {
		e.Time = time.Now()
	}
	if e.Controller == "" {
		e.Controller = l.name
	}
	e = e.bounded()
	l.m.recorded(e.Kind)

	l.mu.Lock()
	defer l.mu.Unlock()
	l.tail.add(e)
	for s := range l.subs {
		select {
		case s.ch <- Delivery{Event: e, Lost: s.lost}:
			s.lost = 0
		default:
			s.lost++
			l.m.lost.WithLabelValues(lostSubscriber).Inc()
		}
	}
	if l.closed {
		l.m.lost.WithLabelValues(lostFile).Inc()
		return
	}
	// What the file lacks is told in the file, where it is missing.
	if l.lost > 0 && !l.enqueue(Event{
		Time: e.Time, Kind: EventsLost, Message: fmt.Sprintf("%d events are missing here: the disk was too slow for them, or failed", l.lost),
	}) || !l.enqueue(e) {
		l.lost++
		l.m.lost.WithLabelValues(lostFile).Inc()
	}
}

// enqueue hands e to the writer if there is room. Call with mu held.
func (l *Log) enqueue(e Event) bool {
	select {
	case l.queue <- entry{event: e}:
		if e.Kind == EventsLost {
			l.lost = 0
		}
		return true
	default:
		return false
	}
}

// Tail returns the latest n events in memory, oldest first; all of them when n is 0.
func (l *Log) Tail(n int) []Event {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.tail.last(n)
}

// Subscribe delivers every event from now on. At most queue of them wait; what comes on top is lost and counted in the
// next Delivery. cancel ends it and closes the channel.
func (l *Log) Subscribe(queue int) (events <-chan Delivery, cancel func()) {
	s := &subscriber{ch: make(chan Delivery, max(queue, 1))}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		close(s.ch)
		return s.ch, func() {}
	}
	l.subs[s] = struct{}{}
	return s.ch, func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		if _, ok := l.subs[s]; ok {
			delete(l.subs, s)
			close(s.ch)
		}
	}
}

// Flush waits until everything recorded before is on disk.
func (l *Log) Flush() error {
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return errors.New("audit: record is closed")
	}
	synced := make(chan error, 1)
	l.mu.Unlock()
	select {
	case l.queue <- entry{synced: synced}:
	case <-l.done:
		return errors.New("audit: record is closed")
	}
	select {
	case err := <-synced:
		return err
	case <-l.done:
		return errors.New("audit: record is closed")
	}
}

// Close writes what waits, forces it to disk and ends every subscription. Events recorded later reach the tail only.
func (l *Log) Close() error {
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		<-l.done
		return nil
	}
	l.closed = true
	for s := range l.subs {
		delete(l.subs, s)
		close(s.ch)
	}
	l.mu.Unlock()
	// The writer ends at the mark, so that queue need not be closed under a Flush.
	end := make(chan error, 1)
	l.queue <- entry{synced: end, event: Event{Kind: Stopped}}
	err := <-end
	<-l.done
	return err
}
