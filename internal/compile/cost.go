package compile

import (
	"math/bits"

	"github.com/amooglesoft/trafficmonitor/internal/route"
)

// Cost says how many entries of its hardware a router needs for a rule. The zero Cost counts one entry a rule.
//
// With Expand set it is a model of a ternary memory (TCAM), which compares a value under a mask: a range is split into blocks of a
// power of two, each at a multiple of its own size; the alternatives of a component add up, and components multiply.
type Cost struct {
	Expand bool
	// Each is how many entries one alternative of a component takes where it is not one, by word.
	Each map[string]int
}

// cost is the entries r takes; a blackhole is a route among many, not a rule.
func (p *Profile) cost(r route.Route) int {
	if r.IsBlackhole() {
		return 0
	}
	return p.Cost.Of(r.Match)
}

// maxEntries is the most Of returns.
const maxEntries = 1 << 30

// Of returns the entries for m, at least 1 and at most 1<<30.
func (c Cost) Of(m route.Match) int {
	if !c.Expand {
		return 1
	}
	cost := 1
	for _, x := range components {
		n := 0
		if x.bits != nil {
			n = len(*x.bits(&m))
		} else {
			for _, r := range *x.ranges(&m) {
				n += blocks(uint32(r.Lo), uint32(r.Hi))
			}
		}
		if n == 0 {
			continue
		}
		if each, ok := c.Each[x.word]; ok {
			n *= each
		}
		cost = min(cost*min(n, 1<<16), maxEntries)
	}
	return cost
}

// blocks is the number of aligned powers of two that make up the range from lo to hi; 0 when it is empty.
func blocks(lo, hi uint32) int {
	n := 0
	for at, end := uint64(lo), uint64(hi)+1; at < end; n++ {
		size := uint64(1) << 32
		if at != 0 {
			size = 1 << bits.TrailingZeros64(at)
		}
		for size > end-at {
			size >>= 1
		}
		at += size
	}
	return n
}
