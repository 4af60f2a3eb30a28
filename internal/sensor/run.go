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
	if o.DropCapabilities {
		if err := a.dropCapabilities(); err != nil {
			return err
		}
	}
	if err := o.Watching(); err != nil {
		return err
	}
	a.sayMemory()
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

	attached  map[string]*attachment
	triggers  *ringbuf.Reader
	samples   *ringbuf.Reader
	sequence  uint64
	restraint restraint
	wanting   *wanting
	broken    bool // the last work on the maps went wrong, and was logged
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
	wanting := newWanting(o.Ready)
	o.Ready = wanting.set
	a := &agent{o: o, wanting: wanting, backlogs: map[string]*backlog{}, started: time.Now(), attached: map[string]*attachment{}}
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
	a.restraint = newRestraint(o.Budget, o.Registerer)
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
