// Package journal keeps what sensors reported on disk, bounded in size and age, so that an incident of last night can be
// replayed. The writer never blocks who hands it reports; what it cannot keep it counts.
package journal

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/amooglesoft/trafficmonitor/internal/traffic"
)

// Record is one thing that a controller received: a report, or samples of a sensor where there are any.
type Record struct {
	Time    time.Time // when it was taken in, by the controller's clock
	Sensor  string
	Report  traffic.Report
	Samples []traffic.Sample // nil in the record of a report
}

// Options of a Writer; what is zero becomes the default.
type Options struct {
	Dir  string        // created when it is needed
	Size int64         // of all segments; at least 1 MiB, 1 GiB by default
	Age  time.Duration // after which a segment goes; 7 days by default
	// SegmentBytes is the size of a segment, at most an eighth of Size; 16 MiB by default.
	SegmentBytes int64
	// Flush is how long records wait for others to be compressed with them: what a kill -9 loses. 1 s by default.
	Flush time.Duration
	// Queue and QueueBytes bound what waits for the disk: 8192 records, 64 MiB by default.
	Queue      int
	QueueBytes int64
	// MinFree is what is left free of the file system, which others need more; 256 MiB by default.
	MinFree uint64

	Log        *slog.Logger
	Registerer prometheus.Registerer

	disk disk // the real one when nil
}

func (o Options) withDefaults() (Options, error) {
	if o.Dir == "" {
		return o, errors.New("no directory")
	}
	if o.Size < 0 || o.Age < 0 || o.SegmentBytes < 0 || o.Flush < 0 || o.Queue < 0 || o.QueueBytes < 0 {
		return o, errors.New("a limit is negative")
	}
	or := func(v *int64, standard int64) {
		if *v == 0 {
			*v = standard
		}
	}
	or(&o.Size, 1<<30)
	o.Size = max(o.Size, 1<<20)
	or((*int64)(&o.Age), int64(7*24*time.Hour))
	or(&o.SegmentBytes, 16<<20)
	o.SegmentBytes = min(o.SegmentBytes, o.Size/8)
	or((*int64)(&o.Flush), int64(time.Second))
	or(&o.QueueBytes, 64<<20)
	if o.Queue == 0 {
		o.Queue = 8192
	}
	if o.MinFree == 0 {
		o.MinFree = 256 << 20
	}
	if o.Log == nil {
		o.Log = slog.New(slog.NewTextHandler(io.Discard, nil))
	}
	o.Log = o.Log.With("component", "journal")
	if o.disk == nil {
		o.disk = system{}
	}
	return o, nil
}

// Writer appends to a journal. Its methods may be called concurrently.
type Writer struct {
	o       Options
	m       *metrics
	queue   chan item
	waiting atomic.Int64 // octets in the queue, about
	done    chan struct{}

	mu     sync.RWMutex // held for reading while something is put into the queue
	closed bool         // guarded by mu
}

// item is a record, or a question when what came before is written.
type item struct {
	record Record
	size   int64
	answer chan error
	end    bool
}

// New begins a segment after those that are there. A disk that cannot be written is no error: it is tried again, said and
// counted, for a controller must defend the network without a journal, too.
func New(o Options) (*Writer, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, fmt.Errorf("journal: %w", err)
	}
	w := &Writer{o: o, queue: make(chan item, o.Queue), done: make(chan struct{})}
	if w.m, err = newMetrics(o.Registerer, w); err != nil {
		return nil, fmt.Errorf("journal: register metrics: %w", err)
	}
	f := &store{o: o, m: w.m}
	f.begin()
	go w.run(f)
	return w, nil
}

// Report takes in a report and when it was received. The report must not be changed any more. It does not block: what finds
// no room is dropped and counted.
func (w *Writer) Report(now time.Time, r traffic.Report) {
	size := int64(256 + 56*len(r.Aggregates) + 64*len(r.Networks))
	for i := range r.Profiles {
		p := &r.Profiles[i]
		size += int64(512 + 12*(len(p.TCPFlags)+len(p.SourcePorts)+len(p.DestinationPorts)) + 40*len(p.Sources))
	}
	w.put(item{record: Record{Time: now, Sensor: r.Sensor, Report: r}, size: size})
}

// Samples takes in samples of a sensor, as Report does.
func (w *Writer) Samples(now time.Time, sensor string, s []traffic.Sample) {
	if len(s) > 0 {
		w.put(item{record: Record{Time: now, Sensor: sensor, Samples: s}, size: int64(256 + 128*len(s))})
	}
}

func (w *Writer) put(it item) {
	w.mu.RLock()
	defer w.mu.RUnlock()
	if n := w.waiting.Add(it.size); !w.closed && n <= w.o.QueueBytes {
		select {
		case w.queue <- it:
			return
		default:
		}
	}
	w.waiting.Add(-it.size)
	w.m.dropped.WithLabelValues(droppedQueue).Inc()
}

var errClosed = errors.New("journal: it is closed")

// Flush waits until what was handed over is written, and says whether it could be.
func (w *Writer) Flush() error { return w.ask(false) }

// Close writes what waits and ends the writer.
func (w *Writer) Close() error {
	w.mu.Lock()
	was := w.closed
	w.closed = true
	w.mu.Unlock()
	if was {
		<-w.done
		return nil
	}
	err := w.ask(true)
	<-w.done
	return err
}

func (w *Writer) ask(end bool) error {
	answer := make(chan error, 1)
	select {
	case w.queue <- item{answer: answer, end: end}:
	case <-w.done:
		return errClosed
	}
	select {
	case err := <-answer:
		return err
	case <-w.done:
		select {
		case err := <-answer:
			return err
		default:
			return errClosed
		}
	}
}

// blockBytes is the size, before compression, at which a block is written though others could still come.
const blockBytes = 256 << 10

// run is the goroutine that owns the files.
func (w *Writer) run(f *store) {
	defer close(w.done)
	flush, look := time.NewTicker(w.o.Flush), time.NewTicker(lookEvery)
	defer flush.Stop()
	defer look.Stop()
	var k block
	write := func() error {
		if k.records == 0 {
			return f.failing
		}
		err := f.write(&k)
		k.clear()
		return err
	}
	for {
		select {
		case it := <-w.queue:
			if it.answer == nil {
				w.waiting.Add(-it.size)
				k.add(it.record)
				if k.size() >= blockBytes {
					_ = write() // it is told in f
				}
				continue
			}
			err := write()
			if it.end {
				err = errors.Join(err, f.close())
			}
			it.answer <- err
			if it.end {
				return
			}
		case <-flush.C:
			_ = write()
		case <-look.C:
			f.expire(time.Now())
		}
	}
}
