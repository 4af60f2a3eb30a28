package sensor

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/ringbuf"
	"golang.org/x/sync/errgroup"
	"google.golang.org/protobuf/types/known/timestamppb"

	pb "github.com/amooglesoft/trafficmonitor/api/trafficmonitor/v1"
	"github.com/amooglesoft/trafficmonitor/internal/sensor/bpf"
)

const (
	triggerRing = 64 << 10
	sampleRing  = 128 << 10
	blocks4     = 256 // /16 networks of IPv4 targets

	// scanAtLeast is how often counters are read even if reports are rarer: see bpf.Count.
	scanAtLeast = time.Second
	// lastWords is how long a sensor that ends waits for controllers to take its last report.
	lastWords = time.Second
	// batch is the number of samples in one message: what they take fits a buffer of 32 KiB, and a trigger does not wait
	// long behind it.
	batch = 128
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
	if err := a.doors.open(time.Now()); err != nil {
		return err
	}
	if o.DropCapabilities {
		if err := a.dropCapabilities(); err != nil {
			return err
		}
	}
	if err := o.Watching(); err != nil {
		return err
	}
	a.sayMemory()
	a.sayUnsupported()
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
	memory   []bpf.MapMemory
	started  time.Time
	born     uint64 // the same in the kernel's time
	follows  atomic.Pointer[version]

	pins       pins
	doors      *doors
	checkpoint checkpoint
	triggers   *ringbuf.Reader
	samples    *ringbuf.Reader
	sequence   uint64
	restraint  restraint
	wanting    *wanting
	broken     bool // the last work on the maps went wrong, and was logged
}

func newAgent(o Options) (_ *agent, err error) {
	cpus, err := ebpf.PossibleCPU()
	if err != nil {
		return nil, fmt.Errorf("count the CPUs: %w", err)
	}
	sizes := bpf.Sizes{
		CPUs: cpus, Hosts: o.Slots, Prefixes: o.Prefixes, Networks4: o.Networks4, Networks6: o.Networks6, Blocks4: blocks4,
		Triggers: triggerRing, Samples: sampleRing, CutMirrors: o.CutMirrors, Decapsulate: o.Decapsulate, Outbound: outbound(o.Interfaces),
	}
	wanting := newWanting(o.Ready)
	o.Ready = wanting.set
	a := &agent{o: o, wanting: wanting, backlogs: map[string]*backlog{}, started: time.Now(), born: ktime()}
	defer func() {
		if err != nil {
			a.close()
		}
	}()
	if a.pins, err = openPins(o); err != nil {
		return nil, err
	}
	netns, err := thisNetns()
	if err != nil {
		return nil, err
	}
	at := &attacher{pins: a.pins, netns: netns, filter: filterPrefix + o.Name, log: o.Log}
	// Loading takes a quarter of a second of CPU time, and a service manager tries again each second.
	for _, i := range o.Interfaces {
		if _, err := at.suits(i); err != nil && !(i.Optional && errors.Is(err, errNoInterface)) {
			return nil, whichThereAre(err)
		}
	}
	if a.kernel, err = loadOn(a.pins, sizes, o.Log); err != nil {
		return nil, err
	}
	for _, c := range o.Controllers {
		a.backlogs[c.Address] = newBacklog(o.Backlog)
	}
	a.metrics = newMetrics(o.Registerer, a.backlogs)
	a.restraint = newRestraint(o.Budget, o.Registerer)
	a.meter = newMeter(a.kernel, sizes, a.kernel.Window, a.kernel.Tick, o.IdleAfter, a.started)
	if err := a.meter.adopt(a.kernel.Adopted, a.kernel.Unlinked, a.started); err != nil {
		return nil, err
	}
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
	a.memory = memory
	o.Log.Info("programs loaded", "map_bytes", a.mapBytes, "slots", o.Slots, "prefixes", o.Prefixes, "cpus", cpus, "window", a.kernel.Window)
	at.programs = programs{ingress: a.kernel.Ingress(), egress: a.kernel.Egress(), xdp: a.kernel.XDP()}
	at.tcx = haveTCX(a.kernel.Ingress())
	a.doors = newDoors(at, o.Interfaces, o.Registerer, o.Ready, o.Log)
	newPinMetrics(o.Registerer).set(a.pins, a.kernel)
	a.checkpoint.path = o.Checkpoint
	a.resume()
	a.restore() // may read counters, so what was reported must be known
	return a, a.count()
}

// close undoes what newAgent and attachAll did.
func (a *agent) close() {
	if a.doors != nil {
		if err := a.doors.close(a.o.OnExit != Detach); err != nil {
			a.o.Log.Warn("not everything at the interfaces was left as it should be", "err", err)
		}
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
	if a.pins.Pins != nil {
		if a.o.OnExit == Detach {
			if err := a.pins.Remove(); err != nil {
				a.o.Log.Warn("pinned maps are left behind", "err", err)
			}
		}
		a.pins.Close()
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

func (a *agent) hello() *pb.Hello {
	h := &pb.Hello{
		Sensor: a.o.Name, Version: a.o.Version, StartTime: timestamppb.New(a.started), MapBytes: a.mapBytes,
		CountersStartTime: timestamppb.New(a.kernel.Began),
	}
	h.Interfaces = a.doors.interfaces()
	if v := a.follows.Load(); v != nil {
		h.Directive = v.proto()
	}
	return h
}

func (a *agent) run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	directives := make(chan *pb.Directive)
	events := make(chan trigger, 64)
	// Streams live a little longer than the loop, to carry its last report.
	streaming, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	for _, c := range a.o.Controllers {
		s := &stream{
			controller: c, backlog: a.backlogs[c.Address], hello: a.hello, directives: directives, metrics: a.metrics,
			ready: a.o.Ready, log: a.o.Log.With("controller", c.Address),
		}
		g.Go(func() error { return s.run(streaming) })
	}
	g.Go(func() error { return a.readTriggers(ctx, events) })
	g.Go(func() error {
		<-ctx.Done()
		return a.triggers.Close() // ends readTriggers
	})
	err := a.loop(ctx, directives, events)
	for _, b := range a.backlogs {
		b.finish()
	}
	defer time.AfterFunc(lastWords, stop).Stop()
	return errors.Join(err, g.Wait())
}
