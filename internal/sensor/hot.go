package sensor

import (
	"errors"
	"maps"
	"net/netip"
	"slices"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	pb "github.com/amooglesoft/trafficmonitor/api/trafficmonitor/v1"
	"github.com/amooglesoft/trafficmonitor/internal/sensor/bpf"
	"github.com/amooglesoft/trafficmonitor/internal/vector"
)

// trigger is what the kernel raised, in wall-clock time.
type trigger struct {
	slot, window   uint32
	column         bpf.Column
	addr           netip.Addr // of the target
	packets, bytes uint64
	raised         time.Time
	start          time.Time // of the window
}

// trigger answers an event: the target's window is reported at once, and from now on the target is hot. It returns nil
// when the event says nothing new.
func (m *meter) trigger(t trigger, now time.Time) (*pb.Report, error) {
	if int(t.slot) >= len(m.slots) || m.now == nil {
		return nil, nil
	}
	s := &m.slots[t.slot]
	if err := m.meet(t.slot, now); err != nil {
		return nil, err
	}
	target, ok := m.target(t.slot)
	if !ok || s.leaving || target.Addr() != t.addr {
		return nil, nil // the slot has another holder by now
	}
	h := m.hot[t.slot]
	if h != nil && h.has(t.column) {
		return nil, nil
	}

	counts, err := m.k.Present(t.slot, t.window)
	if err != nil {
		return nil, err
	}
	// The window may be over by now: what the event says stands in any case.
	atLeast(&counts[t.column], t.packets, t.bytes)
	atLeast(&counts[bpf.ColumnOf(t.column.Direction(), vector.Total)], t.packets, t.bytes)

	if h == nil {
		// What came before belongs to no hot report.
		if err := m.read(now, func(each func(uint32, bpf.Column, bpf.Count)) error {
			return m.k.ScanSlots([]uint32{t.slot}, each)
		}); err != nil {
			return nil, err
		}
		h = &hotTarget{target: target, since: now}
		m.hot[t.slot] = h
	}
	h.below = time.Time{}
	h.add(t.column)
	// One flood passes more than one trigger, that of its vector and that of the total: say it once.
	for c, n := range counts {
		if passes(m.now.limits[c], n.Packets(), n.Bytes(), m.window) {
			h.add(bpf.Column(c))
		}
	}
	if err := errors.Join(m.k.SetHot(t.slot, h.vectors), m.watch(t.slot, h, t.column.Direction())); err != nil {
		return nil, err
	}
	r := m.report(pb.Report_CAUSE_TRIGGER, t.start, m.window)
	r.TriggerTime = timestamppb.New(t.raised)
	for c, n := range counts {
		if n != 0 {
			r.Aggregates = append(r.Aggregates, aggregate(target, bpf.Column(c), tally{n.Packets(), n.Bytes()}))
			m.heat(h, target, bpf.Column(c), n.Packets(), counts[bpf.ColumnOf(bpf.Column(c).Direction(), vector.Total)].Packets(), now)
		}
	}
	return r, nil
}

// heat has a column of a hot target described that triggered or makes up a good part of what the target receives.
func (m *meter) heat(h *hotTarget, target netip.Prefix, c bpf.Column, packets, total uint64, now time.Time) {
	if (h.has(c) || packets > 0 && packets >= total/16) && !m.profiles.heat(profileKey{target, c}, now) {
		m.unprofiled++
	}
}

// has tells whether a column triggered.
func (h *hotTarget) has(c bpf.Column) bool { return h.vectors[c.Direction()]&(1<<c.Vector()) != 0 }

func (h *hotTarget) add(c bpf.Column) { h.vectors[c.Direction()] |= 1 << c.Vector() }

func atLeast(c *bpf.Count, packets, bytes uint64) {
	*c = bpf.CountOf(max(c.Packets(), packets), max(c.Bytes(), bytes))
}

// passes tells whether counts of a span reach the limit.
func passes(l limit, packets, bytes uint64, span time.Duration) bool {
	return l.pps > 0 && packets >= per(l.pps, span) || l.bps > 0 && bytes >= (per(l.bps, span)+7)/8
}

// hotReports reports what every hot target received since its last hot report, and lets those go that calmed down.
// Targets whose spans are the same share a report.
func (m *meter) hotReports(now time.Time) ([]*pb.Report, error) {
	hot := slices.Sorted(maps.Keys(m.hot))
	if err := m.read(now, func(each func(uint32, bpf.Column, bpf.Count)) error {
		return m.k.ScanSlots(hot, each)
	}); err != nil {
		return nil, err
	}
	reports := map[time.Time]*pb.Report{}
	var order []*pb.Report
	for _, n := range hot {
		h := m.hot[n]
		span := now.Sub(h.since)
		if span < time.Millisecond {
			continue // it triggered just now
		}
		r := reports[h.since]
		if r == nil {
			r = m.report(pb.Report_CAUSE_HOT, h.since, span)
			reports[h.since] = r
			order = append(order, r)
		}
		// What triggered, and its total, is said also when nothing came: that is the news then.
		counts := h.span.sums()
		for c := range bpf.Column(bpf.Columns) {
			if h.has(c) {
				counts.at(c)
				counts.at(bpf.ColumnOf(c.Direction(), vector.Total))
			}
		}
		target, _ := m.target(n)
		quiet := true
		totals := [vector.Directions]uint64{}
		for _, e := range counts {
			if e.column.Vector() == vector.Total {
				totals[e.column.Direction()] = e.packets
			}
		}
		for _, e := range counts {
			m.heat(h, target, e.column, e.packets, totals[e.column.Direction()], now)
			r.Aggregates = append(r.Aggregates, aggregate(target, e.column, e.tally))
			l := m.now.limits[e.column]
			if h.has(e.column) && passes(limit{(l.pps + 1) / 2, (l.bps + 1) / 2}, e.packets, e.bytes, span) {
				quiet = false
			}
		}
		profiles := m.profiles.ofHot(target, now)
		if err := m.distinct(h, profiles); err != nil {
			return nil, err
		}
		r.Profiles = append(r.Profiles, profiles...)
		h.span.reset()
		h.since = now
		switch {
		case !quiet:
			h.below = time.Time{}
		case h.below.IsZero():
			h.below = now
		case now.Sub(h.below) >= calmAfter:
			if err := m.calm(n); err != nil {
				return nil, err
			}
		}
	}
	for _, r := range order {
		sortAggregates(r.Aggregates)
		sortProfiles(r.Profiles)
	}
	slices.SortFunc(order, func(a, b *pb.Report) int { return a.StartTime.AsTime().Compare(b.StartTime.AsTime()) })
	return order, nil
}

// calm ends a target's being hot: it may trigger again.
func (m *meter) calm(n uint32) error {
	h := m.hot[n]
	if h == nil {
		return nil
	}
	m.profiles.cool(h.target)
	delete(m.hot, n)
	return errors.Join(m.unwatch(n, h), m.k.SetHot(n, [vector.Directions]uint64{}))
}
