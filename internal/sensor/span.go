package sensor

import (
	"net/netip"

	pb "github.com/amooglesoft/trafficmonitor/api/trafficmonitor/v1"
	"github.com/amooglesoft/trafficmonitor/internal/sensor/bpf"
	"github.com/amooglesoft/trafficmonitor/internal/vector"
)

// tally is a number of packets and bytes that does not wrap.
type tally struct{ packets, bytes uint64 }

func (t *tally) add(c bpf.Count) {
	t.packets += c.Packets()
	t.bytes += c.Bytes()
}

// span is what one target received in some time, by column. Most targets see few of the columns, so it is a list.
type span []entry

type entry struct {
	column bpf.Column
	tally
}

// at returns the tally of a column, a new one if there is none.
func (s *span) at(c bpf.Column) *tally {
	for i := range *s {
		if (*s)[i].column == c {
			return &(*s)[i].tally
		}
	}
	*s = append(*s, entry{column: c})
	return &(*s)[len(*s)-1].tally
}

func (s *span) add(c bpf.Column, n bpf.Count) { s.at(c).add(n) }

// reset begins anew, in the memory there is.
func (s *span) reset() { *s = (*s)[:0] }

// sums returns the span with the totals of both directions in it, so far as they have packets.
func (s span) sums() span {
	var totals [vector.Directions]tally
	for _, e := range s {
		t := &totals[e.column.Direction()]
		t.packets += e.packets
		t.bytes += e.bytes
	}
	out := make(span, 0, len(s)+len(totals))
	for d, t := range totals {
		if t.packets != 0 {
			out = append(out, entry{bpf.ColumnOf(vector.Direction(d), vector.Total), t})
		}
	}
	return append(out, s...)
}

// aggregates appends what p received, totals included.
func (s span) aggregates(list []*pb.Aggregate, p netip.Prefix) []*pb.Aggregate {
	for _, e := range s.sums() {
		list = append(list, aggregate(p, e.column, e.tally))
	}
	return list
}

func aggregate(p netip.Prefix, c bpf.Column, t tally) *pb.Aggregate {
	return &pb.Aggregate{
		Target: p.Addr().AsSlice(), PrefixLength: uint32(p.Bits()), Vector: uint32(c.Vector()), Direction: directionProto(c.Direction()),
		Packets: t.packets, Bytes: t.bytes,
	}
}
