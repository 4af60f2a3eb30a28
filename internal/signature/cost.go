package signature

import (
	"math/bits"

	"github.com/amooglesoft/trafficmonitor/internal/route"
)

// fragmentCost is the TCAM entries of one item of the fragment component.
const fragmentCost = 2

// Cost estimates the TCAM entries a router needs for m. A TCAM compares a value under a mask, so a range is split into
// blocks of a power of two, each at a multiple of its own size; the alternatives of a component add up and components
// multiply. An item of flags is one mask and value, but for the fragment component, where it takes two. The either-port
// component is written once for each port.
//
// It agrees with what is known of the NCS 5500:
//
//	one port              1    length 256-65535     8
//	two ports             2    length 257-65535    15
//	tcp-flags syn         1    length 400-65535    10
//	is-fragment           2    length 768-65535     7
//
// The result is at most 1<<30.
func Cost(m route.Match) int {
	const most = 1 << 30
	cost := 1
	times := func(n int) {
		if n > 1 {
			cost = min(cost*min(n, 1<<16), most)
		}
	}
	for _, rs := range [][]route.Range{m.Protocol, m.DestinationPort, m.SourcePort, m.ICMPType, m.ICMPCode, m.Length, m.DSCP, m.FlowLabel} {
		times(rangesCost(rs))
	}
	times(2 * rangesCost(m.Port))
	times(len(m.TCPFlags))
	times(fragmentCost * len(m.Fragment))
	return cost
}

// rangesCost is the number of blocks a list of ranges is split into; 0 for an empty list.
func rangesCost(rs []route.Range) int {
	n := 0
	for _, r := range rs {
		n += blocks(r)
	}
	return n
}

// blocks is the number of aligned powers of two that make up a range; 0 when it is empty.
func blocks(r route.Range) int {
	n := 0
	for lo, end := uint32(r.Lo), uint32(r.Hi)+1; lo < end; n++ {
		size := uint32(1) << 20
		if lo != 0 {
			size = 1 << bits.TrailingZeros32(lo)
		}
		for size > end-lo {
			size >>= 1
		}
		lo += size
	}
	return n
}
