package sensor

import (
	"net/netip"
	"slices"

	pb "github.com/amooglesoft/trafficmonitor/api/trafficmonitor/v1"
	"github.com/amooglesoft/trafficmonitor/internal/vector"
)

// networkTotals sums aggregates for each protected prefix and each IPv6 /64 inside of one. It is exact because every
// packet of a protected address is in one aggregate, that of its host or, where the host has no slot, of its network or
// prefix; also when a slot changed hands meanwhile. The aggregates must be sorted.
func networkTotals(protected tree, aggregates []*pb.Aggregate) []*pb.NetworkTotal {
	sums := map[netip.Prefix]*[vector.Directions][vector.Count]*pb.NetworkTotal{}
	var networks []netip.Prefix // of the target
	var last netip.Prefix
	for _, a := range aggregates {
		target := prefixOf(a.Target, a.PrefixLength)
		if target != last {
			last = target
			networks = protected.all(networks[:0], target)
			if n, ok := subnet(target, networks); ok {
				networks = append(networks, n)
			}
		}
		for _, n := range networks {
			columns := sums[n]
			if columns == nil {
				columns = new([vector.Directions][vector.Count]*pb.NetworkTotal)
				sums[n] = columns
			}
			way := vector.Inbound
			if a.Direction == pb.Direction_DIRECTION_OUTBOUND {
				way = vector.Outbound
			}
			t := columns[way][a.Vector]
			if t == nil {
				t = &pb.NetworkTotal{Network: n.Addr().AsSlice(), PrefixLength: uint32(n.Bits()), Direction: a.Direction, Vector: a.Vector}
				columns[way][a.Vector] = t
			}
			t.Packets += a.Packets
			t.Bytes += a.Bytes
			if target.IsSingleIP() && a.Packets > 0 {
				t.ActiveHosts++
			}
		}
	}
	out := make([]*pb.NetworkTotal, 0, 4*len(sums))
	for _, columns := range sums {
		for way := range columns {
			for _, t := range columns[way] {
				if t != nil {
					out = append(out, t)
				}
			}
		}
	}
	slices.SortFunc(out, compareNetworks)
	return out
}

// subnet returns the IPv6 /64 of a target that lies in these protected prefixes, unless it is one of them or holds one.
func subnet(target netip.Prefix, networks []netip.Prefix) (netip.Prefix, bool) {
	const bits = 64
	if !target.Addr().Is6() || target.Bits() < bits || len(networks) == 0 {
		return netip.Prefix{}, false
	}
	if shortest := networks[len(networks)-1]; shortest.Bits() >= bits {
		return netip.Prefix{}, false
	}
	n := netip.PrefixFrom(target.Addr(), bits).Masked()
	return n, !slices.Contains(networks, n)
}

// tree finds the networks of a set that hold a prefix.
type tree struct {
	networks map[netip.Prefix]bool
	lengths  map[bool][]int // by whether it is IPv4; the longest first
}

func newTree(networks []netip.Prefix) tree {
	t := tree{make(map[netip.Prefix]bool, len(networks)), map[bool][]int{}}
	for _, p := range networks {
		t.networks[p] = true
		if four := p.Addr().Is4(); !slices.Contains(t.lengths[four], p.Bits()) {
			t.lengths[four] = append(t.lengths[four], p.Bits())
		}
	}
	for _, l := range t.lengths {
		slices.SortFunc(l, func(a, b int) int { return b - a })
	}
	return t
}

// all appends the networks that hold p, the longest first.
func (t tree) all(list []netip.Prefix, p netip.Prefix) []netip.Prefix {
	for _, bits := range t.lengths[p.Addr().Is4()] {
		if bits > p.Bits() {
			continue
		}
		if n := netip.PrefixFrom(p.Addr(), bits).Masked(); t.networks[n] {
			list = append(list, n)
		}
	}
	return list
}

// over returns the longest or the shortest network that holds p, p itself if there is none.
func (t tree) over(p netip.Prefix, shortest bool) netip.Prefix {
	var room [8]netip.Prefix
	all := t.all(room[:0], p)
	switch {
	case len(all) == 0:
		return p
	case shortest:
		return all[len(all)-1]
	}
	return all[0]
}

func prefixOf(address []byte, bits uint32) netip.Prefix {
	a, _ := netip.AddrFromSlice(address)
	return netip.PrefixFrom(a, int(bits))
}
