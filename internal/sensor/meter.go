package sensor

import (
	"errors"
	"net/netip"
	"slices"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	pb "github.com/amooglesoft/trafficmonitor/api/trafficmonitor/v1"
	"github.com/amooglesoft/trafficmonitor/internal/sensor/bpf"
	"github.com/amooglesoft/trafficmonitor/internal/vector"
)

// kernel is what the meter needs of [bpf.Kernel].
type kernel interface {
	Scan(each func(slot uint32, c bpf.Column, n bpf.Count)) error
	ScanSlots(slots []uint32, each func(slot uint32, c bpf.Column, n bpf.Count)) error
	Present(slot, window uint32) (bpf.Row, error)
	Holder(slot uint32) (bpf.Holder, error)
	SetParent(slot, parent uint32) error
	Stats() (bpf.Stats, error)
	SetFlag(slot uint32, f bpf.Flag, on bool) error
	SetSketch(slot uint32, d vector.Direction, sketch int) error
	ReadSketch(sketch int) (bpf.Sketch, error)
	ClearSketch(sketch int) error
	SetHot(slot uint32, vectors [vector.Directions]uint64) error
	Unlink(slot uint32, h bpf.Holder, protected bool) error
	PushFree(slot uint32) error
	ClearExhausted() error
	SetTargets(t bpf.Table) error
	SetLevels(levels [bpf.Columns]bpf.Level) error
	SetPorts(ports *[65536]uint8) error
	SetSampling(oneIn uint32) error
	SetWatchedSampling(oneIn uint32) error
}

// meter turns the kernel's counters into reports. It has no goroutine and no clock, and is used by one goroutine.
type meter struct {
	k      kernel
	sizes  bpf.Sizes
	window time.Duration
	tick   time.Duration
	idle   time.Duration

	now      *directive // nil until the first
	table    bpf.Table
	deep     map[netip.Prefix]bool // IPv6 /64 networks in which a longer prefix is protected
	slots    []slot
	hosts    pool
	networks pool     // IPv6 /64
	children []int    // by network: hosts that belong to it
	limbo    []uint32 // slots unlinked since the scan before; given back at the next
	hot      map[uint32]*hotTarget
	since    time.Time // begin of the present interval
	profiles *profiler
	// unprofiled counts vectors of hot targets that no profile was free for, at each hot report.
	unprofiled uint64
	sketches   []int  // of the kernel, that are free
	unsketched uint64 // hot targets no sketch was free for
	tree       tree   // of the protected prefixes
	treeOf     *directive
	directErr  string
}

// slot is one target.
type slot struct {
	holder  netip.Prefix // a host has its full length; invalid while nobody holds the slot
	parent  uint32       // slot of what it belongs to, or bpf.NoSlot
	span    span         // since the last interval report
	changed time.Time
	leaving bool // in limbo
}

// hotTarget is a target that triggered and has not calmed down yet.
type hotTarget struct {
	target  netip.Prefix
	vectors [vector.Directions]uint64 // those that triggered, one bit each
	watched bool                      // by the kernel's mark
	sketch  [vector.Directions]int    // number of the kernel's sketch, from 1; 0 for none
	span    span                      // since the last hot report
	since   time.Time                 // begin of span
	below   time.Time                 // since when it has been below half of its triggers; zero when it is not
}

// calmAfter is how long a hot target must stay below half its trigger to be hot no more.
const calmAfter = 2 * time.Second

func newMeter(k kernel, sizes bpf.Sizes, window, tick, idle time.Duration, now time.Time) *meter {
	return &meter{
		k: k, sizes: sizes, window: window, tick: tick, idle: idle, since: now,
		slots: make([]slot, sizes.Slots()), children: make([]int, sizes.Networks6),
		hosts: pool{end: uint32(sizes.Hosts)}, networks: pool{first: uint32(sizes.FirstNetwork()), end: uint32(sizes.Slots())},
		hot: map[uint32]*hotTarget{}, profiles: newProfiler(), sketches: freeSketches(),
	}
}

// target returns what slot n counts.
func (m *meter) target(n uint32) (netip.Prefix, bool) {
	p := m.slots[n].holder
	return p, p.IsValid()
}

// scan reads what was counted since the scan before. It must be called at least once a second: see [bpf.Kernel.Scan].
func (m *meter) scan(now time.Time) error {
	if err := m.read(now, m.k.Scan); err != nil {
		return err
	}
	return m.recycle(now)
}

// read adds what a scan tells to the spans.
func (m *meter) read(now time.Time, scan func(each func(slot uint32, c bpf.Column, n bpf.Count)) error) error {
	var failed error
	err := scan(func(n uint32, c bpf.Column, count bpf.Count) {
		s := &m.slots[n]
		// Told once, so counted whatever happens.
		s.span.add(c, count)
		s.changed = now
		if h := m.hot[n]; h != nil {
			h.span.add(c, count)
		}
		if !s.holder.IsValid() {
			failed = errors.Join(failed, m.meet(n, now))
		}
	})
	return errors.Join(err, failed)
}

// interval ends the present span and reports every target that had traffic in it.
func (m *meter) interval(now time.Time) *pb.Report {
	r := m.report(pb.Report_CAUSE_INTERVAL, m.since, now.Sub(m.since))
	for n := range m.slots {
		s := &m.slots[n]
		if len(s.span) == 0 {
			continue
		}
		p, ok := m.target(uint32(n))
		if !ok && m.poolOf(uint32(n)) != nil {
			continue // who holds the slot could not be read; the next report has it
		}
		if ok {
			r.Aggregates = s.span.aggregates(r.Aggregates, p)
		}
		s.span.reset()
	}
	sortAggregates(r.Aggregates)
	r.Aggregates = unite(r.Aggregates)
	r.Networks = networkTotals(m.protected(), r.Aggregates)
	r.Profiles = m.profiles.rest()
	m.profiles.choose(r.Aggregates)
	m.since = now
	return r
}

// protected returns the protected prefixes, to find those that hold a target.
func (m *meter) protected() tree {
	if m.now != m.treeOf {
		m.tree, m.treeOf = newTree(m.now.protected), m.now
	}
	return m.tree
}

func (m *meter) report(cause pb.Report_Cause, start time.Time, span time.Duration) *pb.Report {
	r := &pb.Report{
		Cause: cause, StartTime: timestamppb.New(start), Span: durationpb.New(max(span, time.Millisecond)),
		DirectiveError: m.directErr,
	}
	if m.now != nil {
		r.Directive = m.now.version.proto()
	}
	return r
}

// unite sums what stands side by side and is of one target, direction and vector: a host may have left a slot and taken
// another since the last report.
func unite(sorted []*pb.Aggregate) []*pb.Aggregate {
	out := sorted[:0]
	for _, a := range sorted {
		if n := len(out); n > 0 && compareAggregates(out[n-1], a) == 0 {
			out[n-1].Packets += a.Packets
			out[n-1].Bytes += a.Bytes
			continue
		}
		out = append(out, a)
	}
	return out
}

func sortAggregates(list []*pb.Aggregate) { slices.SortFunc(list, compareAggregates) }

// counters fills in the sensor's own losses and sizes.
func (m *meter) counters() (*pb.SensorCounters, bpf.Stats, error) {
	st, err := m.k.Stats()
	if err != nil {
		return nil, st, err
	}
	const in, out = vector.Inbound, vector.Outbound
	return &pb.SensorCounters{
		Packets:              st.Packets[in] + st.Packets[out],
		Bytes:                st.Bytes[in] + st.Bytes[out],
		OutboundPackets:      st.Packets[out],
		UnprotectedPackets:   st.UnprotectedPackets[in],
		ForeignSourcePackets: st.UnprotectedPackets[out],
		MalformedPackets:     st.MalformedPackets,
		NonIpPackets:         st.NonIpPackets,
		SlotExhaustedPackets: st.SlotExhausted,
		LostTriggers:         st.LostTriggers,
		LostSamples:          st.LostSamples,
		SlotsUsed:            uint64(m.hosts.used),
		SlotsTotal:           uint64(m.sizes.Hosts),
	}, st, nil
}
