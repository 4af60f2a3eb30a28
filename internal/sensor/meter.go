package sensor

import (
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
	Totals(into []bpf.Count, buffer *[]byte) error
	Total(slot uint32) (bpf.Count, error)
	Vectors(slot uint32, buffer *[]byte) ([vector.Count]bpf.Count, error)
	Present(slot, window uint32, buffer *[]byte) ([vector.Count]bpf.Count, error)
	Holder(slot uint32) (netip.Addr, uint32, error)
	Stats() (bpf.Stats, error)
	SetHot(slot uint32, vectors uint64) error
	FreeHost(addr netip.Addr, slot, prefix uint32, protected bool) error
	PushFree(slot uint32) error
	ClearExhausted() error
	SetTargets(t bpf.Table) error
	SetLevels(levels [vector.Count]bpf.Level) error
	SetPorts(ports *[65536]uint8) error
	SetSampling(oneIn uint32) error
}

// meter turns the kernel's counters into reports. It has no goroutine and no clock, and is used by one goroutine.
type meter struct {
	k      kernel
	sizes  bpf.Sizes
	window time.Duration
	tick   time.Duration
	idle   time.Duration

	now       *directive // nil until the first
	table     bpf.Table
	prefixOf  []netip.Prefix // by slot minus sizes.Hosts; zero when unused
	slots     []slot
	used      int
	limbo     []uint32 // host slots unlinked since the scan before; given back at the next
	hot       map[uint32]*hotTarget
	totals    []bpf.Count
	buffer    []byte
	rows      []byte
	since     time.Time // begin of the present interval
	counted   tally     // all packets in slots since the start
	directErr string
}

type tally struct{ packets, bytes uint64 }

func (t *tally) add(c bpf.Count) {
	t.packets += c.Packets()
	t.bytes += c.Bytes()
}

// slot is one target.
type slot struct {
	addr    netip.Addr // of a host; invalid while the slot is free
	prefix  uint32
	total   bpf.Count                // at the last scan
	vectors *[vector.Count]bpf.Count // at the last scan; nil before the first packet
	span    *[vector.Count]tally     // since the last interval report; nil when nothing came
	changed time.Time
	leaving bool // in limbo
}

// hotTarget is a target that triggered and has not calmed down yet.
type hotTarget struct {
	vectors uint64 // those that triggered, one bit each
	counts  [vector.Count]bpf.Count
	since   time.Time // when counts were read
	below   time.Time // since when it has been below half of its triggers; zero when it is not
}

// calmAfter is how long a hot target must stay below half its trigger to be hot no more.
const calmAfter = 2 * time.Second

func newMeter(k kernel, sizes bpf.Sizes, window, tick, idle time.Duration, now time.Time) *meter {
	return &meter{
		k: k, sizes: sizes, window: window, tick: tick, idle: idle, since: now,
		prefixOf: make([]netip.Prefix, sizes.Prefixes), slots: make([]slot, sizes.Slots()),
		hot: map[uint32]*hotTarget{}, totals: make([]bpf.Count, sizes.Slots()),
	}
}

// target returns what slot n counts.
func (m *meter) target(n uint32) (netip.Prefix, bool) {
	if int(n) >= m.sizes.Hosts {
		p := m.prefixOf[int(n)-m.sizes.Hosts]
		return p, p.IsValid()
	}
	addr := m.slots[n].addr
	return netip.PrefixFrom(addr, addr.BitLen()), addr.IsValid()
}

// scan reads what was counted since the scan before. It must be called at least once a second: see [bpf.Count].
func (m *meter) scan(now time.Time) error {
	if err := m.k.Totals(m.totals, &m.rows); err != nil {
		return err
	}
	for n := range m.slots {
		if m.totals[n] != m.slots[n].total {
			if err := m.take(uint32(n), now); err != nil {
				return err
			}
		}
	}
	return m.recycle(now)
}

// take adds what a slot counted since the last scan to its span.
func (m *meter) take(n uint32, now time.Time) error {
	s := &m.slots[n]
	if err := m.meet(n, now); err != nil {
		return err
	}
	vectors, err := m.k.Vectors(n, &m.buffer)
	if err != nil {
		return err
	}
	vectors[vector.Total] = m.totals[n]
	if s.vectors == nil {
		s.vectors = new([vector.Count]bpf.Count)
	}
	if s.span == nil {
		s.span = new([vector.Count]tally)
	}
	for v := range vectors {
		if delta := vectors[v] - s.vectors[v]; delta != 0 {
			s.span[v].add(delta)
			if vector.ID(v) == vector.Total {
				m.counted.add(delta)
			}
		}
	}
	*s.vectors = vectors
	s.total, s.changed = m.totals[n], now
	return nil
}

// interval ends the present span and reports every target that had traffic in it.
func (m *meter) interval(now time.Time) *pb.Report {
	r := m.report(pb.Report_CAUSE_INTERVAL, m.since, now.Sub(m.since))
	for n := range m.slots {
		span := m.slots[n].span
		if span == nil {
			continue
		}
		m.slots[n].span = nil
		if p, ok := m.target(uint32(n)); ok {
			for v, t := range span {
				if t.packets != 0 {
					r.Aggregates = append(r.Aggregates, aggregate(p, vector.ID(v), t))
				}
			}
		}
	}
	sortAggregates(r.Aggregates)
	m.since = now
	return r
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

func aggregate(p netip.Prefix, v vector.ID, t tally) *pb.Aggregate {
	return &pb.Aggregate{Target: p.Addr().AsSlice(), PrefixLength: uint32(p.Bits()), Vector: uint32(v), Packets: t.packets, Bytes: t.bytes}
}

func sortAggregates(list []*pb.Aggregate) { slices.SortFunc(list, compareAggregates) }

// counters fills in the sensor's own losses and sizes.
func (m *meter) counters() (*pb.SensorCounters, bpf.Stats, error) {
	st, err := m.k.Stats()
	if err != nil {
		return nil, st, err
	}
	return &pb.SensorCounters{
		Packets:              m.counted.packets + st.UnprotectedPackets + st.HeadlessPackets + st.NonIpPackets,
		Bytes:                m.counted.bytes + st.UnprotectedBytes + st.HeadlessBytes + st.NonIpBytes,
		UnprotectedPackets:   st.UnprotectedPackets,
		MalformedPackets:     st.MalformedPackets,
		NonIpPackets:         st.NonIpPackets,
		SlotExhaustedPackets: st.SlotExhausted,
		LostTriggers:         st.LostTriggers,
		LostSamples:          st.LostSamples,
		SlotsUsed:            uint64(m.used),
		SlotsTotal:           uint64(m.sizes.Hosts),
	}, st, nil
}
