package sensor

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime/debug"
	"sync/atomic"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/ringbuf"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/types/known/timestamppb"

	pb "github.com/amooglesoft/trafficmonitor/api/trafficmonitor/v1"
	"github.com/amooglesoft/trafficmonitor/internal/sensor/bpf"
	"github.com/amooglesoft/trafficmonitor/internal/vector"
)

const (
	triggerRing = 64 << 10
	sampleRing  = 128 << 10
	blocks4     = 256 // /16 networks of IPv4 targets

	// scanAtLeast is how often counters are read even if reports are rarer: see bpf.Count.
	scanAtLeast = time.Second
	// retryInterface is how often a missing optional interface is looked for.
	retryInterface = 5 * time.Second
	// batch is the number of samples in one message.
	batch = 512
)

// Run counts, reports and follows directives until ctx ends. The interfaces are those of the calling thread's network
// namespace.
func Run(ctx context.Context, o Options) error {
	if err := o.check(); err != nil {
		return err
	}
	a, err := newAgent(o)
	if err != nil {
		return err
	}
	defer a.close()
	if err := a.attachAll(); err != nil {
		return err
	}
	debug.FreeOSMemory() // loading the programs needs a few megabytes that are never needed again
	return a.run(ctx)
}

// agent is a running sensor.
type agent struct {
	o        Options
	kernel   *bpf.Kernel
	meter    *meter
	metrics  *metrics
	backlogs map[string]*backlog
	mapBytes uint64
	started  time.Time
	follows  atomic.Pointer[version]

	attached map[string]*attachment
	triggers *ringbuf.Reader
	samples  *ringbuf.Reader
	sequence uint64
	broken   bool // the last work on the maps went wrong, and was logged
}

func newAgent(o Options) (_ *agent, err error) {
	cpus, err := ebpf.PossibleCPU()
	if err != nil {
		return nil, fmt.Errorf("count the CPUs: %w", err)
	}
	sizes := bpf.Sizes{
		CPUs: cpus, Hosts: o.Slots, Prefixes: o.Prefixes, Networks4: o.Networks4, Blocks4: blocks4,
		Triggers: triggerRing, Samples: sampleRing, CutMirrors: o.CutMirrors,
	}
	a := &agent{o: o, backlogs: map[string]*backlog{}, started: time.Now(), attached: map[string]*attachment{}}
	defer func() {
		if err != nil {
			a.close()
		}
	}()
	if a.kernel, err = bpf.Load(sizes); err != nil {
		return nil, err
	}
	for _, c := range o.Controllers {
		a.backlogs[c.Address] = newBacklog(o.Backlog)
	}
	a.metrics = newMetrics(o.Registerer, a.backlogs)
	a.meter = newMeter(a.kernel, sizes, a.kernel.Window, a.kernel.Tick, o.IdleAfter, a.started)
	if a.triggers, err = a.kernel.TriggerReader(); err != nil {
		return nil, fmt.Errorf("open the triggers' ring buffer: %w", err)
	}
	if a.samples, err = a.kernel.SampleReader(); err != nil {
		return nil, fmt.Errorf("open the samples' ring buffer: %w", err)
	}
	a.samples.SetDeadline(time.Unix(1, 0)) // never wait: they are drained on the tick
	memory, err := a.kernel.Memory()
	if err != nil {
		return nil, err
	}
	for _, m := range memory {
		a.mapBytes += m.Bytes
		a.metrics.mapBytes.WithLabelValues(m.Name).Set(float64(m.Bytes))
	}
	o.Log.Info("programs loaded", "map_bytes", a.mapBytes, "slots", o.Slots, "prefixes", o.Prefixes, "cpus", cpus, "window", a.kernel.Window)
	a.restore()
	return a, a.count()
}

// close undoes what newAgent and attachAll did.
func (a *agent) close() {
	for _, x := range a.attached {
		x.Close()
	}
	if a.triggers != nil {
		a.triggers.Close()
	}
	if a.samples != nil {
		a.samples.Close()
	}
	if a.kernel != nil {
		a.kernel.Close()
	}
}

// restore follows the directive an earlier run kept.
func (a *agent) restore() {
	d, err := loadState(a.o.StateFile)
	if err == nil && d == nil {
		a.o.Ready("directive", "no controller has said yet what to watch")
		return
	}
	if err == nil {
		err = a.follow(d)
	}
	if err != nil {
		a.meter.directErr = ""
		a.o.Log.Warn("the directive kept by an earlier run is not followed", "err", err)
		a.o.Ready("directive", "no controller has said yet what to watch")
	}
}

// attachAll attaches to every interface there is.
func (a *agent) attachAll() error {
	for _, i := range a.o.Interfaces {
		if a.attached[i.Name] != nil {
			continue
		}
		x, err := attach(a.kernel, i, a.o.Log)
		if i.Optional && errors.Is(err, errNoInterface) {
			a.metrics.attached.WithLabelValues(i.Name, string(i.Mode)).Set(0)
			a.o.Ready("interface "+i.Name, errNoInterface.Error())
			continue
		}
		if err != nil {
			return err
		}
		a.attached[i.Name] = x
		a.metrics.attached.WithLabelValues(i.Name, string(i.Mode)).Set(1)
		a.o.Ready("interface "+i.Name, "")
		a.o.Log.Info("interface watched", "interface", i.Name, "mode", i.Mode)
	}
	return nil
}

func (a *agent) hello() *pb.Hello {
	h := &pb.Hello{Sensor: a.o.Name, Version: a.o.Version, StartTime: timestamppb.New(a.started), MapBytes: a.mapBytes}
	for _, i := range a.o.Interfaces {
		mode := pb.Interface_MODE_HOST
		if i.Mode == Mirror {
			mode = pb.Interface_MODE_MIRROR
		}
		h.Interfaces = append(h.Interfaces, &pb.Interface{Name: i.Name, Mode: mode})
	}
	if v := a.follows.Load(); v != nil {
		h.Directive = v.proto()
	}
	return h
}

func (a *agent) run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	directives := make(chan *pb.Directive)
	events := make(chan trigger, 64)
	for _, c := range a.o.Controllers {
		s := &stream{
			controller: c, backlog: a.backlogs[c.Address], hello: a.hello, directives: directives, metrics: a.metrics,
			ready: a.o.Ready, log: a.o.Log.With("controller", c.Address),
		}
		g.Go(func() error { return s.run(ctx) })
	}
	g.Go(func() error { return a.readTriggers(ctx, events) })
	g.Go(func() error {
		<-ctx.Done()
		return a.triggers.Close() // ends readTriggers
	})
	err := a.loop(ctx, directives, events)
	return errors.Join(err, g.Wait())
}

// loop owns the meter. It runs in the goroutine of Run, so that interfaces that appear later are looked for in the
// same network namespace.
func (a *agent) loop(ctx context.Context, directives <-chan *pb.Directive, events <-chan trigger) error {
	now := time.Now()
	nextScan, nextReport, nextHot := now, now.Add(a.reportInterval()), now
	nextLook := now
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case d := <-directives:
			a.directive(d)
			nextReport = earlier(nextReport, time.Now().Add(a.reportInterval()))
		case t := <-events:
			a.metrics.raised.Inc()
			now := time.Now()
			r, err := a.meter.trigger(t, now)
			a.note(err)
			if r != nil {
				if len(a.meter.hot) == 1 {
					nextHot = now.Add(a.meter.now.hot)
				}
				a.send(r, worthTrigger, t.raised.UnixNano())
			}
			a.metrics.hot.Set(float64(len(a.meter.hot)))
		case <-timer.C:
		}
		now := time.Now()
		if len(a.meter.hot) > 0 && !now.Before(nextHot) {
			reports, err := a.meter.hotReports(now)
			a.note(err)
			for _, r := range reports {
				a.send(r, worthHot, 0)
			}
			a.drain()
			a.metrics.hot.Set(float64(len(a.meter.hot)))
			nextHot = now.Add(a.meter.now.hot)
		}
		due := !now.Before(nextReport)
		if due || !now.Before(nextScan) {
			if err := a.meter.scan(now); err != nil {
				a.note(err)
			} else if a.broken {
				a.broken = false
				a.o.Ready("maps", "")
			}
			a.metrics.scan.Observe(time.Since(now).Seconds())
			a.note(a.count())
			a.drain()
			nextScan = now.Add(min(scanAtLeast, a.reportInterval()))
		}
		if due {
			r := a.meter.interval(now)
			r.Counters = a.metrics.counters.Load()
			a.send(r, worthInterval, 0)
			nextReport = now.Add(a.reportInterval())
			nextScan = earlier(nextScan, nextReport)
		}
		wake := earlier(nextScan, nextReport)
		if len(a.meter.hot) > 0 {
			wake = earlier(wake, nextHot)
		}
		if len(a.attached) < len(a.o.Interfaces) {
			if !now.Before(nextLook) {
				if err := a.attachAll(); err != nil {
					return err
				}
				nextLook = now.Add(retryInterface)
			}
			wake = earlier(wake, nextLook)
		}
		timer.Reset(time.Until(wake))
	}
}

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

func (a *agent) reportInterval() time.Duration {
	if a.meter.now == nil {
		return time.Second
	}
	return a.meter.now.report
}

// note logs an error of the kernel's maps when it begins, and counts each.
func (a *agent) note(err error) {
	if err == nil {
		return
	}
	a.metrics.errors.Inc()
	if !a.broken {
		a.broken = true
		a.o.Log.Error("counters cannot be read or written; the rest goes on", "err", err)
		a.o.Ready("maps", err.Error())
	}
}

func (a *agent) count() error {
	c, st, err := a.meter.counters()
	if err != nil {
		return err
	}
	a.metrics.counters.Store(c)
	a.metrics.stats.Store(&st)
	return nil
}

// send gives a report to every controller's backlog.
func (a *agent) send(r *pb.Report, w worth, raised int64) {
	a.sequence++
	r.Sequence = a.sequence
	a.metrics.reported.WithLabelValues(map[worth]string{worthTrigger: "trigger", worthHot: "hot", worthInterval: "interval"}[w]).Inc()
	for _, b := range a.backlogs {
		b.put(message{worth: w, report: r, ktime: raised})
	}
}

// directive follows a directive that is newer than the one followed, from whichever controller.
func (a *agent) directive(d *pb.Directive) {
	if err := a.follow(d); err != nil {
		a.metrics.refused.Inc()
		a.o.Log.Error("directive refused; the one before stays", "version", version{d.GetVersion().GetTerm(), d.GetVersion().GetRevision()}, "err", err)
		return
	}
}

func (a *agent) follow(p *pb.Directive) error {
	v := version{p.GetVersion().GetTerm(), p.GetVersion().GetRevision()}
	if now := a.meter.now; now != nil && !v.newer(now.version) {
		a.metrics.ignored.Inc()
		return nil
	}
	d, err := parseDirective(p)
	if err == nil {
		err = a.meter.direct(d)
	}
	if err != nil {
		a.meter.directErr = fmt.Sprintf("directive %s: %v", v, err)
		return err
	}
	a.meter.directErr = ""
	a.follows.Store(&v)
	a.metrics.term.Set(float64(v.term))
	a.metrics.revision.Set(float64(v.revision))
	a.o.Ready("directive", "")
	a.o.Log.Info("directive followed", "version", v, "prefixes", len(d.protected), "sample_one_in", d.sampleOneIn,
		"report_interval", d.report, "hot_interval", d.hot)
	if err := saveState(a.o.StateFile, p); err != nil {
		a.o.Log.Warn("a restarted sensor will have to wait for a controller", "err", err)
	}
	return nil
}

// readTriggers hands on what the kernel raises.
func (a *agent) readTriggers(ctx context.Context, events chan<- trigger) error {
	var record ringbuf.Record
	for {
		if err := a.triggers.ReadInto(&record); err != nil {
			if errors.Is(err, os.ErrClosed) {
				return nil
			}
			return fmt.Errorf("read triggers: %w", err)
		}
		e, err := bpf.DecodeTrigger(record.RawSample)
		if err != nil {
			return err
		}
		raised := wall(e.Ktime)
		t := trigger{
			slot: e.Slot, window: e.Window, vector: vector.ID(e.Vector), packets: uint64(e.Packets), bytes: e.Bytes,
			addr: bpf.Address(uint32(e.Family), e.Address), raised: raised,
			start: raised.Add(-time.Duration(e.Age) * a.kernel.Tick),
		}
		select {
		case events <- t:
		case <-ctx.Done():
			return nil
		}
	}
}

// drain sends the packets sampled since the last time.
func (a *agent) drain() {
	if a.samples.AvailableBytes() == 0 {
		return
	}
	var record ringbuf.Record
	var b *pb.SampleBatch
	flush := func() {
		if b != nil {
			for _, q := range a.backlogs {
				q.put(message{worth: worthSamples, samples: b})
			}
			b = nil
		}
	}
	offset := monotonicOffset()
	// Bounded: under a flood the ring fills as fast as it is read.
	for range sampleRing / 128 {
		if err := a.samples.ReadInto(&record); err != nil {
			break
		}
		s, err := bpf.DecodeSample(record.RawSample)
		if err != nil {
			a.note(err)
			continue
		}
		if b == nil {
			b = &pb.SampleBatch{}
		}
		b.Samples = append(b.Samples, &pb.Sample{
			Time: timestamppb.New(time.Unix(0, int64(s.Ktime)+offset)), Weight: s.Weight, Vector: uint32(s.Vector),
			Length: s.Length, Header: append([]byte(nil), s.Header...),
		})
		if len(b.Samples) == batch {
			flush()
		}
	}
	flush()
}

// wall turns the kernel's monotonic time into wall-clock time.
func wall(ktime uint64) time.Time { return time.Unix(0, int64(ktime)+monotonicOffset()) }

func monotonicOffset() int64 {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
		return 0 // cannot fail for this clock
	}
	return time.Now().UnixNano() - ts.Nano()
}
