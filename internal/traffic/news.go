package traffic

import (
	"cmp"
	"net/netip"
	"slices"
	"time"
)

// change is a column of which there is news.
type change struct {
	t              *target
	packets, bytes uint64
	start          time.Time
	span           time.Duration
	column         column
}

// note remembers that there is news of a column; k is where its sum is, if ok.
func (v *View) note(t *target, c column, k int, ok bool, n counted, packets, bytes uint64) {
	list := &v.changed
	if t.network {
		list = &v.changedNetworks
	}
	if ok {
		if at := t.sums[k].change; at != 0 {
			x := &(*list)[at-1]
			x.packets += packets
			x.bytes += bytes
			x.span = max(x.span, n.span)
			if n.start.Before(x.start) {
				x.start = n.start
			}
			return
		}
	}
	*list = append(*list, change{t: t, column: c, packets: packets, bytes: bytes, start: n.start, span: n.span})
	if ok {
		t.sums[k].change = uint32(len(*list))
	}
}

// relate lets the sum of a column that is new know of the change noted last.
func (v *View) relate(t *target, c column, k int) {
	list := v.changed
	if t.network {
		list = v.changedNetworks
	}
	if n := len(list); n > 0 && list[n-1].t == t && list[n-1].column == c {
		t.sums[k].change = uint32(n)
	}
}

// Collect returns an observation for each column of which there is news since the last call, or of which there was news
// of a network a quarter of a second ago: first of targets, in order of target, direction and vector, then of networks,
// the longest first. Want, if it is not nil, says of which; those not wanted cost little.
func (v *View) Collect(now time.Time, want func(Rate) bool) []Observation {
	out := v.collect(nil, v.changed, want, v.targets)
	v.changed = v.changed[:0]
	if since := now.Sub(v.collected); len(v.changedNetworks) > 0 && (since >= networkSpan || since < 0) {
		v.collected = now
		out = v.collect(out, v.changedNetworks, want, v.networks)
		v.changedNetworks = v.changedNetworks[:0]
	}
	return out
}

func (v *View) collect(out []Observation, list []change, want func(Rate) bool, all map[netip.Prefix]*target) []Observation {
	wanted := make([]change, 0, 16)
	for i := range list {
		c := &list[i]
		r := Rate{Target: c.t.prefix, Network: c.t.network, Direction: c.column.direction(), Vector: c.column.vector(), Mark: &c.t.mark}
		if k, ok := c.t.column(c.column); ok {
			x := &c.t.sums[k]
			r.PPS, r.BPS, r.Held = float64(x.pps)/1000, float64(x.bps), x.heldPPS != 0
			x.change = 0
		} else if len(c.t.shares) == 0 && all[c.t.prefix] == c.t {
			delete(all, c.t.prefix)
		}
		if want == nil || want(r) {
			wanted = append(wanted, *c)
		}
	}
	if len(wanted) == 0 {
		return out
	}
	slices.SortStableFunc(wanted, func(a, b change) int {
		if a.t.network {
			if d := cmp.Compare(b.t.prefix.Bits(), a.t.prefix.Bits()); d != 0 {
				return d
			}
		}
		return cmp.Or(ComparePrefix(a.t.prefix, b.t.prefix), cmp.Compare(a.column, b.column))
	})
	for i := 0; i < len(wanted); i++ {
		c := wanted[i]
		for i+1 < len(wanted) && wanted[i+1].t.prefix == c.t.prefix && wanted[i+1].column == c.column {
			i++
			n := wanted[i]
			c.packets, c.bytes, c.span = c.packets+n.packets, c.bytes+n.bytes, max(c.span, n.span)
			if n.start.Before(c.start) {
				c.start = n.start
			}
		}
		o := v.observe(c.t, c.column)
		o.Packets, o.Bytes, o.Start, o.Span = c.packets, c.bytes, c.start, c.span
		out = append(out, o)
	}
	return out
}
