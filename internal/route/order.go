package route

import (
	"cmp"
	"net/netip"
	"slices"
)

// Precedence orders FlowSpec rules as a router applies them, the first that matches first (RFC 8955, section 5.1; RFC 8956,
// section 4). IPv4 goes before IPv6, which no router compares. Both must be valid and canonical.
func Precedence(a, b Match) int {
	if c := cmp.Compare(Route{Match: a}.Family(), Route{Match: b}.Family()); c != 0 {
		return c
	}
	for _, p := range []struct {
		a, b             netip.Prefix
		offsetA, offsetB uint8
	}{
		{a.Destination, b.Destination, a.DestinationOffset, b.DestinationOffset},
		{a.Source, b.Source, a.SourceOffset, b.SourceOffset},
	} {
		if c := cmp.Or(has(p.b)-has(p.a), cmp.Compare(p.offsetA, p.offsetB), comparePrefix(p.a, p.b)); c != 0 {
			return c
		}
	}
	// Behind equal prefixes, the octets: each component begins with its type, and none is the beginning of another, for
	// its last item says so. When one rule is the beginning of the other, the one with more components goes first.
	x, y := appendParts(nil, a), appendParts(nil, b)
	n := min(len(x), len(y))
	return cmp.Or(slices.Compare(x[:n], y[:n]), cmp.Compare(len(y), len(x)))
}

func has(p netip.Prefix) int {
	if p.IsValid() {
		return 1
	}
	return 0
}

// comparePrefix puts the longer of two that overlap first, else the lower address.
func comparePrefix(a, b netip.Prefix) int {
	if !a.IsValid() || !b.IsValid() {
		return 0
	}
	shared := min(a.Bits(), b.Bits())
	x, y := netip.PrefixFrom(a.Addr(), shared).Masked(), netip.PrefixFrom(b.Addr(), shared).Masked()
	return cmp.Or(x.Addr().Compare(y.Addr()), cmp.Compare(b.Bits(), a.Bits()))
}
