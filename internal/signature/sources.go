package signature

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"

	"github.com/amooglesoft/trafficmonitor/internal/route"
	"github.com/amooglesoft/trafficmonitor/internal/traffic"
)

// What makes sources spoofed. A botnet large enough that hardly two samples share a source looks the same, and is
// treated the same: rules for sources help against neither.
const (
	leastForSpoofed = 64   // samples
	uniqueSources   = 0.9  // sources per sample
	manySources     = 0.5  // sources per sample, with one of the other signs
	bogonShare      = 0.05 // of samples from addresses nobody has in the Internet
	spreadMost      = 2.0  // chi-square of the sources in each /8 over degrees of freedom that is still uniform
	leastForSpread  = 500  // sources
	leastPerSource  = 4    // samples of a source whose TTLs are compared
	ttlsPerSample   = 0.5  // different TTLs of such a source per sample
	ttlShare        = 0.5  // of the samples of such sources
)

// bogons are sources nobody in the Internet has (RFC 6890); private networks are left out, for clouds use them inside.
var bogons = []netip.Prefix{
	netip.MustParsePrefix("0.0.0.0/8"), netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("169.254.0.0/16"),
	netip.MustParsePrefix("224.0.0.0/3"), netip.MustParsePrefix("::/8"), netip.MustParsePrefix("4000::/2"),
	netip.MustParsePrefix("8000::/1"),
}

// spoofed reports whether the sources of packets are forged, and why. Those of a reflection are not: the reflectors
// are real, however many they are.
func spoofed(samples []*traffic.Sample, reflection bool) (bool, string) {
	n := len(samples)
	if n < leastForSpoofed {
		return false, ""
	}
	sorted := slices.Clone(samples)
	slices.SortFunc(sorted, func(a, b *traffic.Sample) int { return cmp.Or(a.Source.Compare(b.Source), cmp.Compare(a.TTL, b.TTL)) })
	distinct, bogus, compared, varied := 0, 0, 0, 0
	var eights [256]int
	for i := 0; i < n; {
		src, ttls, from := sorted[i].Source, 0, i
		for ; i < n && sorted[i].Source == src; i++ {
			if i == from || sorted[i].TTL != sorted[i-1].TTL {
				ttls++
			}
		}
		distinct++
		if slices.ContainsFunc(bogons, func(p netip.Prefix) bool { return p.Contains(src) && !local(src) }) {
			bogus += i - from
		}
		if src.Is4() {
			eights[src.As4()[0]]++
		}
		if i-from >= leastPerSource {
			compared += i - from
			if float64(ttls) >= ttlsPerSample*float64(i-from) {
				varied += i - from
			}
		}
	}
	unique := float64(distinct) / float64(n)
	switch {
	case float64(bogus) >= bogonShare*float64(n) && unique >= manySources:
		return true, fmt.Sprintf("%d of %d samples come from addresses nobody has", bogus, n)
	case compared >= leastForSpoofed && float64(varied) >= ttlShare*float64(compared):
		return true, "the same sources come with ever different TTLs"
	case reflection:
		return false, ""
	case unique >= uniqueSources:
		return true, fmt.Sprintf("%d samples have %d sources", n, distinct)
	case distinct >= leastForSpread && unique >= manySources && uniform(eights[:]):
		return true, "the sources are spread evenly over the address space"
	}
	return false, ""
}

// local addresses of IPv6 are seen inside of networks.
func local(a netip.Addr) bool { return a.Is6() && (a.IsLinkLocalUnicast() || a.IsPrivate()) }

// uniform reports whether the counts of the unicast /8 networks are those of addresses drawn at random. Real clients
// gather in few of them.
func uniform(eights []int) bool {
	n, cells := 0, 0
	for i := 1; i < 224; i++ {
		if i != 10 && i != 127 {
			n += eights[i]
			cells++
		}
	}
	expected := float64(n) / float64(cells)
	if expected == 0 {
		return false
	}
	chi := 0.0
	for i := 1; i < 224; i++ {
		if i != 10 && i != 127 {
			d := float64(eights[i]) - expected
			chi += d * d / expected
		}
	}
	return chi/float64(cells-1) <= spreadMost
}

// Lengths of source prefixes that are tried; what lies inside may make one longer.
var (
	lengths4 = []int{32, 24, 20, 16, 12, 8}
	lengths6 = []int{128, 64, 56, 48, 40, 32}
)

// crowd is the attack samples of one network.
type crowd struct {
	prefix netip.Prefix // the longest that holds them
	mass   uint64
}

// crowds returns, for each length of prefixes, those with the most attack samples, at most n, the heaviest first.
func crowds(attack []*traffic.Sample, n int) [][]crowd {
	if len(attack) == 0 {
		return nil
	}
	sorted := slices.Clone(attack)
	slices.SortFunc(sorted, func(a, b *traffic.Sample) int { return a.Source.Compare(b.Source) })
	levels := lengths4
	if !sorted[0].Source.Is4() {
		levels = lengths6
	}
	var out [][]crowd
	for _, bits := range levels {
		var all []crowd
		for i := 0; i < len(sorted); {
			first := sorted[i].Source
			p, err := first.Prefix(bits)
			if err != nil {
				return out
			}
			c := crowd{}
			last := first
			for ; i < len(sorted) && p.Contains(sorted[i].Source); i++ {
				c.mass += weight(sorted[i])
				last = sorted[i].Source
			}
			c.prefix = common(first, last)
			// The n heaviest so far, in order.
			at, _ := slices.BinarySearchFunc(all, c, func(a, b crowd) int {
				return cmp.Or(cmp.Compare(b.mass, a.mass), traffic.ComparePrefix(a.prefix, b.prefix))
			})
			if all = slices.Insert(all, at, c); len(all) > n {
				all = all[:n]
			}
		}
		out = append(out, all)
	}
	return out
}

// common is the longest prefix that holds both addresses, which are of one family.
func common(a, b netip.Addr) netip.Prefix {
	x, y := a.AsSlice(), b.AsSlice()
	n := 0
	for n < len(x)*8 && (x[n/8]^y[n/8])&(0x80>>(n%8)) == 0 {
		n++
	}
	return netip.PrefixFrom(a, n).Masked()
}

// bySource is base once for each source prefix.
func bySource(base route.Match, of []crowd) []route.Match {
	var out []route.Match
	for _, c := range of {
		m := base
		m.Source = c.prefix
		out = append(out, m)
	}
	slices.SortFunc(out, func(a, b route.Match) int { return traffic.ComparePrefix(a.Source, b.Source) })
	return out
}
