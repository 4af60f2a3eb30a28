package safety

import (
	"math/bits"
	"net/netip"

	"github.com/amooglesoft/trafficmonitor/internal/route"
)

// Reach is how many of our own hosts a route's traffic may belong to: IPv4 addresses, or IPv6 networks of 64 bits, each
// begun one counting whole; of a route without a destination, all of its family.
func Reach(own []netip.Prefix, r route.Route) uint64 {
	family, dst := r.Family(), r.Match.Destination
	if dst.IsValid() {
		return hosts(dst)
	}
	var sum uint64
	for _, p := range newPrefixSet(own) {
		if p.Addr().Is4() != (family == route.IPv4) {
			continue
		}
		n, carry := bits.Add64(sum, hosts(p), 0)
		if carry > 0 {
			return ^uint64(0)
		}
		sum = n
	}
	return sum
}

func hosts(p netip.Prefix) uint64 {
	width := min(p.Addr().BitLen(), 64)
	if n := width - min(p.Bits(), width); n < 64 {
		return 1 << n
	}
	return ^uint64(0)
}
