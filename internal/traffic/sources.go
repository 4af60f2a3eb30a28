package traffic

import (
	"cmp"
	"slices"
	"time"

	"github.com/amooglesoft/trafficmonitor/internal/vector"
)

type sourceNews struct {
	t       *target
	column  column
	sources Sources
}

// describe takes the sources of a report's profiles in.
func (v *View) describe(now time.Time, s *sensor, r Report) {
	for i := range r.Profiles {
		p := &r.Profiles[i]
		l := s.targets[p.Target]
		if p.DistinctSources == nil || l == nil {
			continue
		}
		c := columnOf(p.Direction, p.Vector)
		x := Sources{
			Target: p.Target, Direction: p.Direction, Vector: p.Vector, Packets: uint64(p.Samples), Distinct: *p.DistinctSources,
			Exact: p.DistinctExact, Start: r.Start, Span: max(r.Span, profileSpan), Sensors: []string{s.name},
		}
		if since := now.UnixNano() - l.profiled; l.profiled != 0 && since > 0 && since < int64(5*profileSpan) {
			x.Span = max(time.Duration(since), r.Span)
		}
		if p.DistinctExact {
			x.Packets = uint64(v.sketched(l.t, c, s))
			x.Others = uint64(v.sketched(l.t, columnOf(p.Direction, vector.Total), s))
			x.Others -= min(x.Others, x.Packets)
		}
		v.sources = append(v.sources, sourceNews{l.t, c, x})
	}
	for i := range r.Profiles {
		p := &r.Profiles[i]
		l := s.targets[p.Target]
		if p.DistinctSources == nil || l == nil {
			continue
		}
		l.profiled = now.UnixNano()
		if p.DistinctExact { // the sketch is of all vectors, and begins anew
			for k := range l.t.sums {
				if at, ok := v.find(l.t, k, s); ok && l.t.sums[k].column.direction() == p.Direction {
					l.t.shares[at].hosts = 0
				}
			}
		}
	}
}

// sketched returns how many packets of a column a sensor counted since the last exact profile.
func (v *View) sketched(t *target, c column, s *sensor) uint32 {
	if k, ok := t.column(c); ok {
		if i, ok := v.find(t, k, s); ok {
			return t.shares[i].hosts
		}
	}
	return 0
}

// CollectSources returns what the profiles said that came since the last call, in order of target, direction and vector.
func (v *View) CollectSources() []Sources {
	if len(v.sources) == 0 {
		return nil
	}
	slices.SortStableFunc(v.sources, func(a, b sourceNews) int {
		return cmp.Or(ComparePrefix(a.t.prefix, b.t.prefix), cmp.Compare(a.column, b.column), cmp.Compare(a.sources.Sensors[0], b.sources.Sensors[0]), a.sources.Start.Compare(b.sources.Start))
	})
	var out []Sources
	var last *target
	var of column
	for _, n := range v.sources {
		if last != nil && last.prefix == n.t.prefix && of == n.column {
			x := &out[len(out)-1]
			x.Packets += n.sources.Packets
			x.Others += n.sources.Others
			x.Distinct.Merge(&n.sources.Distinct)
			x.Exact = x.Exact && n.sources.Exact
			x.Span = max(x.Span, n.sources.Span)
			if n.sources.Start.Before(x.Start) {
				x.Start = n.sources.Start
			}
			if name := n.sources.Sensors[0]; x.Sensors[len(x.Sensors)-1] != name {
				x.Sensors = append(x.Sensors, name)
			}
			continue
		}
		last, of = n.t, n.column
		x := n.sources
		if k, ok := n.t.column(n.column); ok {
			x.PPS = float64(n.t.sums[k].pps) / 1000
			x.TwoWay, x.AnswersPPS = v.answers(n.t, k)
			if n.column.direction() == vector.Inbound {
				x.CompletingPPS = n.t.rate(vector.Inbound, vector.OppositeOf(n.column.vector()).Completing)
			}
		}
		out = append(out, x)
	}
	clear(v.sources)
	v.sources = v.sources[:0]
	return out
}
