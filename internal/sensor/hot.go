package sensor

import (
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
	vector         vector.ID
	addr           netip.Addr // of a host; invalid for a prefix
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
	if int(t.slot) < m.sizes.Hosts {
		if s.addr.IsValid() && s.addr != t.addr || s.leaving {
			return nil, nil // the slot has another holder by now
		}
		if err := m.meet(t.slot, now); err != nil {
			return nil, err
		}
	}
	target, ok := m.target(t.slot)
	if !ok || s.leaving {
		return nil, nil
	}
	bit := uint64(1) << t.vector
	h := m.hot[t.slot]
	if h != nil && h.vectors&bit != 0 {
		return nil, nil
	}

	counts, err := m.k.Present(t.slot, t.window, &m.buffer)
	if err != nil {
		return nil, err
	}
	// The window may be over by now: what the event says stands in any case.
	atLeast(&counts[t.vector], t.packets, t.bytes)
	atLeast(&counts[vector.Total], t.packets, t.bytes)

	if h == nil {
		h = &hotTarget{since: now}
		if h.counts, err = m.readHot(t.slot); err != nil {
			return nil, err
		}
		m.hot[t.slot] = h
	}
	h.below = time.Time{}
	h.vectors |= bit
	// One flood passes more than one trigger, that of its vector and that of the total: say it once.
	for v, c := range counts {
		l := m.now.limits[v]
		if passes(l, c.Packets(), c.Bytes(), m.window) {
			h.vectors |= 1 << v
		}
	}
	if err := m.k.SetHot(t.slot, h.vectors); err != nil {
		return nil, err
	}
	r := m.report(pb.Report_CAUSE_TRIGGER, t.start, m.window)
	r.TriggerTime = timestamppb.New(t.raised)
	for v, c := range counts {
		if c != 0 {
			r.Aggregates = append(r.Aggregates, aggregate(target, vector.ID(v), tally{c.Packets(), c.Bytes()}))
		}
	}
	return r, nil
}

func atLeast(c *bpf.Count, packets, bytes uint64) {
	*c = bpf.CountOf(max(c.Packets(), packets), max(c.Bytes(), bytes))
}

// passes tells whether counts of a span reach the limit.
func passes(l limit, packets, bytes uint64, span time.Duration) bool {
	return l.pps > 0 && packets >= per(l.pps, span) || l.bps > 0 && bytes >= (per(l.bps, span)+7)/8
}

func (m *meter) readHot(n uint32) (counts [vector.Count]bpf.Count, err error) {
	if counts, err = m.k.Vectors(n, &m.buffer); err != nil {
		return counts, err
	}
	counts[vector.Total], err = m.k.Total(n)
	return counts, err
}

// hotReports reports what every hot target received since its last hot report, and lets those go that calmed down.
// Targets whose spans are the same share a report.
func (m *meter) hotReports(now time.Time) ([]*pb.Report, error) {
	reports := map[time.Time]*pb.Report{}
	var order []*pb.Report
	for n, h := range m.hot {
		counts, err := m.readHot(n)
		if err != nil {
			return nil, err
		}
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
		target, _ := m.target(n)
		quiet := true
		for v := range counts {
			delta := counts[v] - h.counts[v]
			t := tally{delta.Packets(), delta.Bytes()}
			// The total and what triggered are said also when nothing came: that is the news then.
			if delta != 0 || vector.ID(v) == vector.Total || h.vectors&(1<<v) != 0 {
				r.Aggregates = append(r.Aggregates, aggregate(target, vector.ID(v), t))
			}
			l := m.now.limits[v]
			if h.vectors&(1<<v) != 0 && passes(limit{(l.pps + 1) / 2, (l.bps + 1) / 2}, t.packets, t.bytes, span) {
				quiet = false
			}
		}
		h.counts, h.since = counts, now
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
	}
	slices.SortFunc(order, func(a, b *pb.Report) int { return a.StartTime.AsTime().Compare(b.StartTime.AsTime()) })
	return order, nil
}

// calm ends a target's being hot: it may trigger again.
func (m *meter) calm(n uint32) error {
	delete(m.hot, n)
	return m.k.SetHot(n, 0)
}
