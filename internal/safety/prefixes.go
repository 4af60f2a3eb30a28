package safety

import (
	"math"
	"net/netip"
	"slices"
)

// prefixSet holds prefixes of both families, masked and disjoint, sorted by family and address.
type prefixSet []netip.Prefix

func newPrefixSet(in []netip.Prefix) prefixSet {
	all := make([]netip.Prefix, 0, len(in))
	for _, p := range in {
		if p.IsValid() {
			all = append(all, p.Masked())
		}
	}
	slices.SortFunc(all, comparePrefix)
	out := all[:0]
	for _, p := range all {
		// Sorted by address, shorter first: what covers p stands right before it.
		if n := len(out); n > 0 && covers(out[n-1], p) {
			continue
		}
		out = append(out, p)
	}
	return out
}

func comparePrefix(a, b netip.Prefix) int {
	if c := a.Addr().Compare(b.Addr()); c != 0 { // IPv4 before IPv6
		return c
	}
	return a.Bits() - b.Bits()
}

// covers reports whether every address of inner is in outer.
func covers(outer, inner netip.Prefix) bool {
	return outer.Bits() <= inner.Bits() && outer.Contains(inner.Addr())
}

// covering returns the prefix of the set that covers all of p.
func (s prefixSet) covering(p netip.Prefix) (netip.Prefix, bool) {
	i, found := slices.BinarySearchFunc(s, p, comparePrefix)
	if found {
		return s[i], true
	}
	if i > 0 && covers(s[i-1], p) {
		return s[i-1], true
	}
	return netip.Prefix{}, false
}

// overlapping returns a prefix of the set that shares an address with p: the first one in order.
func (s prefixSet) overlapping(p netip.Prefix) (netip.Prefix, bool) {
	if q, ok := s.covering(p); ok {
		return q, true
	}
	i, _ := slices.BinarySearchFunc(s, p, comparePrefix)
	if i < len(s) && covers(p, s[i]) {
		return s[i], true
	}
	return netip.Prefix{}, false
}

// alike returns a prefix of the set with an address that has the bits of p from offset on: the first one in order.
func (s prefixSet) alike(p netip.Prefix, offset int) (netip.Prefix, bool) {
	want := p.Addr().As16()
	for _, q := range s {
		if !q.Addr().Is6() {
			continue
		}
		have, same := q.Addr().As16(), true
		for bit := offset; bit < min(p.Bits(), q.Bits()) && same; bit++ {
			same = (want[bit/8]^have[bit/8])&(0x80>>(bit%8)) == 0
		}
		if same {
			return q, true
		}
	}
	return netip.Prefix{}, false
}

// space returns the part of one family's address space the set takes, 0 to 1.
func (s prefixSet) space(v6 bool) float64 {
	sum := 0.0
	for _, p := range s {
		if p.Addr().Is6() == v6 {
			sum += space(p)
		}
	}
	return sum
}

func space(p netip.Prefix) float64 { return math.Ldexp(1, -p.Bits()) }

// area is what prefixes of one family cover together, and how much space that takes.
type area struct {
	count map[netip.Prefix]int // how often each was added
	set   prefixSet
	space float64
}

func newArea() *area { return &area{count: map[netip.Prefix]int{}} }

// inside returns the bounds of the members that p covers.
func (a *area) inside(p netip.Prefix) (from, to int) {
	from, _ = slices.BinarySearchFunc(a.set, p, comparePrefix)
	for to = from; to < len(a.set) && covers(p, a.set[to]); to++ {
	}
	return from, to
}

// gain returns how much space p would add.
func (a *area) gain(p netip.Prefix) float64 {
	if _, ok := a.set.covering(p); ok {
		return 0
	}
	g := space(p)
	from, to := a.inside(p)
	for _, q := range a.set[from:to] {
		g -= space(q)
	}
	return g
}

func (a *area) add(p netip.Prefix) {
	a.count[p]++
	a.cover(p)
}

// cover makes p covered.
func (a *area) cover(p netip.Prefix) {
	g := a.gain(p)
	if _, ok := a.set.covering(p); ok {
		return
	}
	from, to := a.inside(p)
	a.set = slices.Replace(a.set, from, to, p)
	a.space += g
}

// remove takes one add of p back.
func (a *area) remove(p netip.Prefix) {
	if a.count[p]--; a.count[p] > 0 {
		return
	}
	delete(a.count, p)
	i, found := slices.BinarySearchFunc(a.set, p, comparePrefix)
	if !found { // a wider one covers it
		return
	}
	a.set = slices.Delete(a.set, i, i+1)
	a.space -= space(p)
	if p.IsSingleIP() {
		return
	}
	var under []netip.Prefix
	for q := range a.count {
		if covers(p, q) {
			under = append(under, q)
		}
	}
	slices.SortFunc(under, comparePrefix)
	for _, q := range under {
		a.cover(q)
	}
}
