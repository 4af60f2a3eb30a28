package sensor

import (
	"cmp"
	"net/netip"
	"slices"

	"google.golang.org/protobuf/types/known/durationpb"

	pb "github.com/amooglesoft/trafficmonitor/api/trafficmonitor/v1"
)

// merge returns one interval report that says what two said, old being the one before. No packet is lost, only when in
// the span it came; profiles are, for they are of use while they are fresh. Neither report is written, for other
// backlogs share them.
func merge(old, new *pb.Report) *pb.Report {
	start, end := old.GetStartTime().AsTime(), new.GetStartTime().AsTime().Add(new.GetSpan().AsDuration())
	if o := old.GetStartTime().AsTime().Add(old.GetSpan().AsDuration()); o.After(end) {
		end = o // the clock was set back meanwhile
	}
	return &pb.Report{
		Sequence: old.Sequence, Cause: old.Cause, StartTime: old.StartTime, Span: durationpb.New(end.Sub(start)),
		Aggregates: combine(old.Aggregates, new.Aggregates, compareAggregates, func(a, b *pb.Aggregate) *pb.Aggregate {
			return &pb.Aggregate{
				Target: a.Target, PrefixLength: a.PrefixLength, Direction: a.Direction, Vector: a.Vector,
				Packets: a.Packets + b.Packets, Bytes: a.Bytes + b.Bytes,
			}
		}),
		Networks: combine(old.Networks, new.Networks, compareNetworks, func(a, b *pb.NetworkTotal) *pb.NetworkTotal {
			return &pb.NetworkTotal{
				Network: a.Network, PrefixLength: a.PrefixLength, Direction: a.Direction, Vector: a.Vector,
				Packets: a.Packets + b.Packets, Bytes: a.Bytes + b.Bytes,
				ActiveHosts: max(a.ActiveHosts, b.ActiveHosts), // at least; which they were is not told
			}
		}),
		Counters: new.Counters, Directive: new.Directive, DirectiveError: new.DirectiveError,
		Merged: holds(old) + holds(new),
	}
}

// holds is the number of reports that r was made of.
func holds(r *pb.Report) uint32 { return max(1, r.GetMerged()) }

// combine merges two sorted lists, joining what compares equal.
func combine[T any](a, b []*T, compare func(a, b *T) int, join func(a, b *T) *T) []*T {
	out := make([]*T, 0, max(len(a), len(b)))
	for len(a) > 0 && len(b) > 0 {
		switch c := compare(a[0], b[0]); {
		case c < 0:
			out, a = append(out, a[0]), a[1:]
		case c > 0:
			out, b = append(out, b[0]), b[1:]
		default:
			out, a, b = append(out, join(a[0], b[0])), a[1:], b[1:]
		}
	}
	return append(append(out, a...), b...)
}

func compareAggregates(a, b *pb.Aggregate) int {
	return cmp.Or(cmp.Compare(len(a.Target), len(b.Target)), slices.Compare(a.Target, b.Target), cmp.Compare(a.PrefixLength, b.PrefixLength),
		cmp.Compare(a.Direction, b.Direction), cmp.Compare(a.Vector, b.Vector))
}

func compareNetworks(a, b *pb.NetworkTotal) int {
	return cmp.Or(cmp.Compare(len(a.Network), len(b.Network)), slices.Compare(a.Network, b.Network), cmp.Compare(a.PrefixLength, b.PrefixLength),
		cmp.Compare(a.Direction, b.Direction), cmp.Compare(a.Vector, b.Vector))
}

// coarsen returns r with every target counted for its network: the longest one that r has a total of or, with outermost
// set, the shortest, and then no totals of networks inside of others. What lies in none of them stays as it is.
func coarsen(r *pb.Report, outermost bool) *pb.Report {
	list := make([]netip.Prefix, 0, len(r.Networks))
	for _, n := range r.Networks {
		list = append(list, prefixOf(n.Network, n.PrefixLength))
	}
	networks := newTree(list)
	out := &pb.Report{
		Sequence: r.Sequence, Cause: r.Cause, StartTime: r.StartTime, Span: r.Span, Networks: r.Networks,
		Counters: r.Counters, Directive: r.Directive, DirectiveError: r.DirectiveError, Merged: r.Merged,
	}
	type key struct {
		target    netip.Prefix
		direction pb.Direction
		vector    uint32
	}
	sums := map[key]*pb.Aggregate{}
	for _, a := range r.Aggregates {
		k := key{networks.over(prefixOf(a.Target, a.PrefixLength), outermost), a.Direction, a.Vector}
		s := sums[k]
		if s == nil {
			s = &pb.Aggregate{
				Target: k.target.Addr().AsSlice(), PrefixLength: uint32(k.target.Bits()), Direction: a.Direction, Vector: a.Vector,
			}
			sums[k] = s
			out.Aggregates = append(out.Aggregates, s)
		}
		s.Packets += a.Packets
		s.Bytes += a.Bytes
	}
	sortAggregates(out.Aggregates)
	if outermost {
		out.Networks = slices.DeleteFunc(slices.Clone(r.Networks), func(n *pb.NetworkTotal) bool {
			p := prefixOf(n.Network, n.PrefixLength)
			return networks.over(p, true) != p
		})
	}
	return out
}
