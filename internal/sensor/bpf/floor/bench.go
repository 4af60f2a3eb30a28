//go:build linux

package floor

import (
	"errors"
	"fmt"
	"io"
	"runtime"
	"slices"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/amooglesoft/trafficmonitor/internal/sensor/bpf"
	"github.com/amooglesoft/trafficmonitor/internal/vector"
)

// Bench holds the loaded floor, and one sensor at a time.
type Bench struct {
	floor  *floorObjects
	kernel *bpf.Kernel
	scene  scene
}

// Open loads the floor.
func Open() (*Bench, error) {
	f, err := openFloor()
	return &Bench{floor: f}, err
}

// Close unloads everything.
func (b *Bench) Close() error {
	err := b.floor.Close()
	if b.kernel != nil {
		err = errors.Join(err, b.kernel.Close())
	}
	return err
}

// Sensor loads the sensor's programs for so many host slots and tells them to protect what the floor does. Triggers are
// the controller's default, 20,000 packets a second, and passed in every window.
func Sensor(hosts int) (*bpf.Kernel, error) {
	cpus, err := ebpf.PossibleCPU()
	if err != nil {
		return nil, fmt.Errorf("count the processors: %w", err)
	}
	k, err := bpf.Load(bpf.Sizes{CPUs: cpus, Hosts: hosts, Prefixes: 512, Networks4: 4096, Networks6: 1024, Blocks4: 256, Triggers: 1 << 16, Samples: 1 << 18, Outbound: true})
	if err != nil {
		return nil, err
	}
	ports := [65536]uint8{}
	for _, v := range vector.Reflections() {
		for _, port := range v.SourcePorts {
			ports[port] = uint8(v.ID)
		}
	}
	var levels [bpf.Columns]bpf.Level
	for v := range levels {
		levels[v] = bpf.Level{Packets: 20_000 * uint64(k.Window) / uint64(time.Second)}
	}
	err = errors.Join(
		k.SetTargets(bpf.Table{own4: uint32(hosts), own6: uint32(hosts) + 1}),
		k.SetPorts(&ports), k.SetLevels(levels), k.SetSampling(1024),
	)
	if err != nil {
		return nil, errors.Join(err, k.Close())
	}
	return k, nil
}

// heat marks the targets as one marks those that passed a trigger.
func heat(k *bpf.Kernel) error {
	for _, kind := range Kinds() {
		if kind.scene != hot {
			continue
		}
		p := k.Ingress()
		if slices.Contains(kind.Doors, Egress) {
			p = k.Egress()
		}
		if _, _, err := p.Benchmark(kind.frame, 1, nil); err != nil { // the first packet takes the slot
			return fmt.Errorf("run %s: %w", p, err)
		}
	}
	if err := k.SetWatchedSampling(64); err != nil {
		return err
	}
	marked := 0
	for slot := range uint32(k.Sizes.Hosts) {
		h, err := k.Holder(slot)
		if err != nil {
			return err
		}
		if a := h.Network.Addr(); !h.Network.IsValid() || !h.Network.IsSingleIP() || a != host4 && a != host6 {
			continue
		}
		for d := range vector.Direction(vector.Directions) {
			err = errors.Join(err, k.SetSketch(slot, d, 2*marked+int(d)))
		}
		err = errors.Join(err, k.SetFlag(slot, 1<<24, true), k.SetHot(slot, [vector.Directions]uint64{^uint64(0), ^uint64(0)}))
		if err != nil {
			return err
		}
		marked++
	}
	if marked != 2 {
		return fmt.Errorf("%d of 2 targets have a slot", marked)
	}
	return nil
}

// Case is one kind of packet at one door, ready to be measured.
type Case struct {
	programs [3]*ebpf.Program // floor, empty, the sensor's
	frame    []byte
	close    []io.Closer
}

// Prepare loads what a kind needs at a door.
func (b *Bench) Prepare(k Kind, d Door) (*Case, error) {
	if b.kernel == nil || b.scene != k.scene {
		if b.kernel != nil {
			if err := b.kernel.Close(); err != nil {
				return nil, err
			}
			b.kernel = nil
		}
		hosts := 4096
		if k.scene == roomy4 || k.scene == roomy6 {
			hosts = 2 * Rotating // half of them are for all, the others for the heavy
		}
		sensor, err := Sensor(hosts)
		if err != nil {
			return nil, err
		}
		b.kernel, b.scene = sensor, k.scene
		if k.scene == hot {
			if err := heat(sensor); err != nil {
				return nil, err
			}
		}
	}
	c := &Case{frame: k.frame}
	switch d {
	case Ingress:
		c.programs = [3]*ebpf.Program{b.floor.FloorIngress, b.floor.EmptyTc, b.kernel.Ingress()}
	case XDP:
		c.programs = [3]*ebpf.Program{b.floor.FloorXdp, b.floor.EmptyXdp, b.kernel.XDP()}
	case Egress:
		c.programs = [3]*ebpf.Program{b.floor.FloorEgress, b.floor.EmptyTc, b.kernel.Egress()}
	}
	if k.at == 0 {
		return c, nil
	}
	for i, p := range c.programs {
		o, err := openDrive(p, k.at, 0)
		if err != nil {
			return nil, errors.Join(err, c.Close())
		}
		c.close = append(c.close, o)
		c.programs[i] = o.RotateTc
		if d == XDP {
			c.programs[i] = o.RotateXdp
		}
		// The sensor gives slots in the order in which targets appear. Were that the order of the measurement, too, its
		// memory would be walked through from one end to the other, as no traffic does.
		if err := o.order(1, 1); err != nil {
			return nil, errors.Join(err, c.Close())
		}
		if _, _, err := c.programs[i].Benchmark(c.frame, Rotating, nil); err != nil {
			return nil, errors.Join(fmt.Errorf("visit every target once: %w", err), c.Close())
		}
		if err := o.order(scattered, scatteredStep); err != nil {
			return nil, errors.Join(err, c.Close())
		}
	}
	return c, nil
}

// Close unloads what was loaded for the case.
func (c *Case) Close() error {
	var errs []error
	for _, o := range c.close {
		errs = append(errs, o.Close())
	}
	return errors.Join(errs...)
}

// openDrive loads the programs that drive p.
func openDrive(p *ebpf.Program, at, iface int) (*driveObjects, error) {
	spec, err := loadDrive()
	if err != nil {
		return nil, err
	}
	if err := errors.Join(spec.Variables["at"].Set(uint32(at)), spec.Variables["interface"].Set(uint32(iface))); err != nil {
		return nil, err
	}
	var o driveObjects
	if err := spec.LoadAndAssign(&o, nil); err != nil {
		return nil, fmt.Errorf("load the driving programs: %+v", err)
	}
	if p != nil {
		next := o.NextTc
		if p.Type() == ebpf.XDP {
			next = o.NextXdp
		}
		if err := next.Put(uint32(0), p); err != nil {
			return nil, errors.Join(fmt.Errorf("put the program under test behind the rotating one: %w", err), o.Close())
		}
	}
	return &o, nil
}

// An order in which targets follow one another that no prefetcher sees through.
const scattered, scatteredStep = 24781, 13849

// order sets how targets follow one another.
func (o *driveObjects) order(factor, step uint32) error {
	return errors.Join(o.Factor.Set(factor), o.Step.Set(step))
}

// Cost is what one packet takes, in nanoseconds: in one round, or the median of several.
type Cost struct{ Ours, Floor, Empty float64 }

// Ratio is how many times the floor's cost ours is, the cost of running any program included.
func (c Cost) Ratio() float64 { return c.Ours / c.Floor }

// Net is the same without the cost of running an empty program.
func (c Cost) Net() float64 { return (c.Ours - c.Empty) / (c.Floor - c.Empty) }

// Round is how often a program runs in one round: a few milliseconds' worth.
const Round = 1 << 16

// Round runs the floor, the empty program and the sensor's, one after the other.
func (c *Case) Round() (Cost, error) {
	var ns [3]float64
	for i, p := range c.programs {
		var err error
		if ns[i], err = cost(p, c.frame); err != nil {
			return Cost{}, err
		}
	}
	return Cost{Floor: ns[0], Empty: ns[1], Ours: ns[2]}, nil
}

// cost runs the program on the frame. BPF_PROG_RUN itself reports whole nanoseconds, too coarse for programs of 25; so
// the processor time of this thread is taken, which leaves out what the machine did meanwhile.
func cost(p *ebpf.Program, frame []byte) (float64, error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	begin := threadTime()
	if _, _, err := p.Benchmark(frame, Round, func() { begin = threadTime() }); err != nil {
		return 0, fmt.Errorf("run %s: %w", p, err)
	}
	return float64(threadTime()-begin) / Round, nil
}

// ColdRounds is how many first packets [Case.Cold] takes the median of.
const ColdRounds = 41

// Cold returns what a packet costs that comes after the processor has read 64 MiB of other things: nothing of the
// program, its maps and the packet is left in the caches of this core. Medians, in nanoseconds as BPF_PROG_RUN gives
// them; its own clock is part of it, and the empty program says how much that is.
func (c *Case) Cold(other []byte) (Cost, error) {
	var ns [3][]float64
	for range ColdRounds {
		for i, p := range c.programs {
			for at := 0; at < len(other); at += 64 {
				other[at]++
			}
			_, d, err := p.Benchmark(c.frame, 1, nil)
			if err != nil {
				return Cost{}, fmt.Errorf("run %s: %w", p, err)
			}
			ns[i] = append(ns[i], float64(d.Nanoseconds()))
		}
	}
	return Cost{Floor: Median(ns[0]), Empty: Median(ns[1]), Ours: Median(ns[2])}, nil
}

func threadTime() time.Duration {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &t); err != nil {
		panic(err) // the kernel has had it since 2.6.12
	}
	return time.Duration(t.Nano())
}

// Median returns the middle of the values; of an even number of them the upper one.
func Median(values []float64) float64 {
	return slices.Sorted(slices.Values(values))[len(values)/2]
}
