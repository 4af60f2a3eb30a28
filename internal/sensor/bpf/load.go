//go:build linux

package bpf

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/amooglesoft/trafficmonitor/internal/sensor/classify"
	"github.com/amooglesoft/trafficmonitor/internal/vector"
)

// A window is as many ticks of the kernel's clock as fit this, a power of two of them: long enough to count a trigger's
// worth of packets in, short enough to see an attack's first packets as an attack.
const longestWindow = 40 * time.Millisecond

// windowOf returns the length of a window, and the power of two of ticks it is.
func windowOf(tick time.Duration) (window time.Duration, shift uint32) {
	for window = tick; window*2 <= longestWindow; window *= 2 {
		shift++
	}
	return window, shift
}

// Sizes fix the memory of the maps when they are made.
type Sizes struct {
	CPUs       int // rows of the per-CPU counters: one more than the highest CPU number
	Hosts      int // targets that can have counters of their own at the same time
	Prefixes   int // protected prefixes, IPv4 and IPv6 together
	Networks4  int // IPv4 /24 networks that protected prefixes touch
	Networks6  int // IPv6 /64 networks that can have counters of their own at the same time; 0: none has
	Blocks4    int // IPv4 /16 networks that protected prefixes touch
	Triggers   int // bytes of the triggers' ring buffer, a power of two
	Samples    int // bytes of the samples' ring buffer, a power of two
	CutMirrors bool
	// Decapsulate is the tunnels whose inner packets are counted instead of the outer ones.
	Decapsulate classify.Tunnels
	Outbound    bool // count what leaves, too: twice the records
}

// Slots is the number of rows that count: hosts first, prefixes after them, then IPv6 networks.
func (s Sizes) Slots() int { return s.FirstNetwork() + s.Networks6 }

// FirstNetwork is the slot of the first of the IPv6 networks, which are the last.
func (s Sizes) FirstNetwork() int { return s.Hosts + s.Prefixes }

// maxSlots is how many fit a cell's key.
const maxSlots = 1 << 24

// variables is the map that programs keep their variables in.
const variables = ".bss"

// blocks is the number of record blocks of a column.
func (s Sizes) blocks() int { return (s.Slots() + blockRecords - 1) / blockRecords }

// columns is the number of columns there is memory for.
func (s Sizes) columns() int {
	if s.Outbound {
		return Columns
	}
	return vector.Count
}

// Kernel is the sensor's programs and maps, loaded.
type Kernel struct {
	Sizes  Sizes
	Tick   time.Duration // of the kernel's clock
	Window time.Duration // that triggers are compared with

	// Began is when the counters began: before this process if it found them pinned.
	Began time.Time
	// Reused tells that the maps are those of an earlier process; Replaced why maps it left were not reused.
	Reused   bool
	Replaced string

	// Adopted are the slots that the maps of an earlier process gave to someone, see [Kernel.Holder], Unlinked those it
	// had unlinked and not given back: what they counted last may not be reported yet.
	Adopted, Unlinked []uint32

	objects   SensorObjects
	identity  identity // of the maps
	v4        table4
	seed6     [11]uint64
	free      freeSlots
	before    func() // a test dies here: see step
	settings  uint64 // bytes of the variables
	variables *ebpf.Map
	epoch6    int // offset in it
	nodesUsed int // of the IPv6 trie
	infos     *ebpf.Memory
	scanner   *scanner
}

// Load makes the maps, loads the programs and fills the list of free slots. All of it ends with this process, unless it
// is attached.
func Load(s Sizes) (*Kernel, error) { return loadOn(s, nil) }

// LoadPinned loads the programs on the maps an earlier process left in p, so that they go on counting where its
// programs did. Where there are none, or none that suit, it makes maps as Load does and leaves them there instead.
func LoadPinned(s Sizes, p *Pins) (*Kernel, error) { return loadOn(s, p) }

// spec is the compiled programs with maps of these sizes.
func (s Sizes) spec() (*ebpf.CollectionSpec, error) {
	spec, err := LoadSensor()
	if err != nil {
		return nil, fmt.Errorf("read the compiled programs: %w", err)
	}
	size := func(name string, entries int) { spec.Maps[name].MaxEntries = uint32(entries) }
	size("network_blocks", s.Blocks4+1)
	size("host_blocks", s.Networks4+1)
	size("targets6", s.buckets6())
	size("spills6", (s.buckets6()+spills6-1)/spills6)
	size("nodes6", 2*s.nodes6())
	size("free_hosts", s.Hosts)
	size("heavy_hosts", max(1, s.Hosts/2))
	size("free_networks", max(1, s.Networks6))
	size("heavy_networks", max(1, s.Networks6/2))
	size("slot_infos", s.Slots())
	size("checks6", s.Hosts)
	size("records", s.columns()*s.blocks())
	size("windows", s.columns()*s.blocks())
	size("dirty", s.columns()*s.blocks())
	size("lanes", s.CPUs)
	size("triggers", s.Triggers)
	size("samples", s.Samples)
	return spec, nil
}

func loadOn(s Sizes, pins *Pins) (_ *Kernel, err error) {
	if s.CPUs < 1 || s.Hosts < 1 || s.Prefixes < 1 || s.Networks4 < 1 || s.Blocks4 < 1 {
		return nil, fmt.Errorf("sizes of the kernel's maps must be positive, but are %+v", s)
	}
	if s.Networks6 < 0 || s.Slots() >= maxSlots {
		return nil, fmt.Errorf("%d hosts, %d prefixes and %d IPv6 networks: together they must be fewer than %d", s.Hosts, s.Prefixes, s.Networks6, maxSlots)
	}
	spec, err := s.spec()
	if err != nil {
		return nil, err
	}
	var resolution unix.Timespec
	if err := unix.ClockGetres(unix.CLOCK_MONOTONIC_COARSE, &resolution); err != nil {
		return nil, fmt.Errorf("ask for the length of the kernel's clock tick: %w", err)
	}
	tick := time.Duration(resolution.Nano())
	window, shift := windowOf(tick)

	cut := uint32(0)
	if s.CutMirrors {
		cut = 1
	}
	for name, value := range map[string]uint32{
		"slots": uint32(s.Slots()), "row_blocks": uint32(s.blocks()), "window_shift": shift, "truncated_mirror": cut,
		"decapsulate":   tunnelBits(s.Decapsulate),
		"network_slots": uint32(s.Networks6), "targets6_buckets": uint32(s.buckets6()),
	} {
		if err := spec.Variables[name].Set(value); err != nil {
			return nil, fmt.Errorf("set constant %s: %w", name, err)
		}
	}

	if err := setVectors(spec); err != nil {
		return nil, err
	}

	k := &Kernel{Sizes: s, Tick: tick, Window: window, Began: time.Now(), v4: newTable4(s)}
	for _, v := range spec.Variables {
		if v.SectionName == variables {
			k.settings += uint64(v.Size())
		}
	}
	made, identity, err := k.create(spec, pins)
	if err != nil {
		return nil, err
	}
	defer made.Close()
	k.identity = identity
	all := maps.Clone(made.Maps) // Assign takes them out
	if err := made.Assign(&k.objects); err != nil {
		return nil, fmt.Errorf("find the programs: %w", err)
	}
	defer func() {
		if err != nil {
			k.Close()
		}
	}()
	if k.variables, err = all[variables].Clone(); err != nil {
		return nil, fmt.Errorf("keep the map of the variables: %w", err)
	}
	k.epoch6 = int(spec.Variables["epoch6"].Offset)
	if k.infos, err = k.objects.SlotInfos.Memory(); err != nil {
		return nil, fmt.Errorf("map the holders of slots into memory: %w", err)
	}
	if k.scanner, err = newScanner(s, k.objects.Records, k.objects.Windows, k.objects.Dirty, k.objects.Lanes); err != nil {
		return nil, err
	}
	k.free.queues = [slotKinds][freeQueues]*ebpf.Map{
		{k.objects.FreeHosts, k.objects.HeavyHosts}, {k.objects.FreeNetworks, k.objects.HeavyNetworks},
	}
	k.free.kept = [slotKinds]uint64{uint64(s.Hosts / 2), uint64(s.Networks6 / 2)}
	if k.Reused {
		return k, errors.Join(k.skip(), k.adopt(), k.calm())
	}
	if err := k.begin(); err != nil {
		return nil, err
	}
	if pins != nil {
		if err := pins.keep(all, identity); err != nil {
			return nil, err
		}
	}
	return k, nil
}

// begin gives new maps the contents the programs expect.
func (k *Kernel) begin() error {
	if err := k.clearHosts(); err != nil {
		return err
	}
	if err := k.SetLevels([Columns]Level{}); err != nil {
		return err
	}
	for i := range k.seed6 {
		k.seed6[i] = rand.Uint64()
	}
	if err := k.objects.Seed6.Set(k.seed6); err != nil {
		return fmt.Errorf("set the seed of the IPv6 table: %w", err)
	}
	if err := k.forgetNetworks6(); err != nil {
		return err
	}
	for _, pool := range [][2]int{{0, k.Sizes.Hosts}, {k.Sizes.FirstNetwork(), k.Sizes.Slots()}} {
		first, n := pool[0], pool[1]-pool[0]
		// The upper half is for the heavy, so that in a calm network the slots in use are the first, side by side.
		for i := range n {
			if err := k.PushFree(uint32(first + (i+n-n/2)%n)); err != nil {
				return err
			}
		}
	}
	return k.ClearExhausted()
}

// memoryOf is about how many octets of the kernel's memory the maps take.
func memoryOf(spec *ebpf.CollectionSpec) (octets uint64) {
	for _, m := range spec.Maps {
		octets += uint64(m.MaxEntries) * uint64((m.ValueSize+7)/8*8) // a ring has no values, and octets for entries
		if m.Type == ebpf.RingBuf {
			octets += uint64(m.MaxEntries)
		}
	}
	return octets
}

// explain says what an operator can do about maps and programs that do not load, and prints a verifier's complaint in full.
func explain(err error, s Sizes, octets uint64) error {
	var verifier *ebpf.VerifierError
	switch {
	case errors.As(err, &verifier):
		return fmt.Errorf("the kernel refused a program; this is a bug, please report all of it: %+v", verifier)
	case errors.Is(err, ebpf.ErrNotSupported):
		return fmt.Errorf("this kernel lacks what the sensor needs; Linux 6.1 or newer has all of it: %w", err)
	case errors.Is(err, unix.ENOMEM):
		return fmt.Errorf("make the maps: the kernel has no room for %d MB, for %d slots, %d IPv6 networks, %d IPv4 networks and %d CPUs; lower slots, networks6 or networks4 in the configuration, or give the machine more memory: %w",
			(octets+1e6-1)/1e6, s.Hosts, s.Networks6, s.Networks4, s.CPUs, err)
	case strings.Contains(err.Error(), "operation not permitted"):
		return fmt.Errorf("load the programs: %w (run as root or with CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON)", err)
	}
	return fmt.Errorf("load the programs: %w", err)
}

// Close unloads everything. Attached links keep their programs alive until they are closed too.
func (k *Kernel) Close() error {
	var err error
	if k.scanner != nil {
		err = k.scanner.close()
	}
	return errors.Join(err, k.variables.Close(), k.objects.Close())
}

// Ingress is the program for what arrives at a host interface: it counts by destination and lets every packet pass.
func (k *Kernel) Ingress() *ebpf.Program { return k.objects.SensorIngress }

// Egress is the program for what leaves by a host interface: it counts by source and lets every packet pass. Without
// [Sizes.Outbound] it only counts how much there was.
func (k *Kernel) Egress() *ebpf.Program { return k.objects.SensorEgress }

// XDP is the program for a mirror port: it counts and drops every packet.
func (k *Kernel) XDP() *ebpf.Program { return k.objects.SensorXdp }

// MapMemory is one map and the kernel memory it takes.
type MapMemory struct {
	Name  string
	Bytes uint64
}

// Memory lists what each map takes. None of them grows.
func (k *Kernel) Memory() ([]MapMemory, error) {
	o := &k.objects
	var list []MapMemory
	for _, m := range []struct {
		name string
		of   *ebpf.Map
	}{
		{"network_blocks", o.NetworkBlocks},
		{"host_blocks", o.HostBlocks},
		{"targets6", o.Targets6},
		{"spills6", o.Spills6},
		{"nodes6", o.Nodes6},
		{"free_hosts", o.FreeHosts},
		{"heavy_hosts", o.HeavyHosts},
		{"free_networks", o.FreeNetworks},
		{"heavy_networks", o.HeavyNetworks},
		{"slot_infos", o.SlotInfos},
		{"checks6", o.Checks6},
		{"records", o.Records},
		{"windows", o.Windows},
		{"dirty", o.Dirty},
		{"lanes", o.Lanes},
		{"sketches", o.Sketches},
		{"triggers", o.Triggers},
		{"samples", o.Samples},
	} {
		info, err := m.of.Info()
		if err != nil {
			return nil, fmt.Errorf("ask the kernel about map %s: %w", m.name, err)
		}
		bytes, _ := info.Memlock()
		list = append(list, MapMemory{m.name, bytes})
	}
	list = append(list, MapMemory{"settings", k.settings})
	return list, nil
}
