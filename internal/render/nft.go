package render

import (
	"bytes"
	"fmt"
	"math/bits"
	"net/netip"
	"strings"

	"github.com/amooglesoft/trafficmonitor/internal/route"
)

// NFT writes a match as nftables expressions, of which any may be true, for a chain at prerouting before connection
// tracking and defragmentation (priority -450): FlowSpec judges packets, fragments too.
func NFT(m route.Match) ([]string, error) {
	f := route.Route{Match: m}.Family()
	ip := "ip"
	if f == route.IPv6 {
		ip = "ip6"
	}
	all := []string{""}
	and := func(expressions ...string) { // each of all, with each of the expressions
		var out []string
		for _, a := range all {
			for _, e := range expressions {
				out = append(out, strings.TrimSpace(a+" "+e))
			}
		}
		all = out
	}
	and("meta nfproto ipv" + fmt.Sprint(uint8(f)))
	if m.Destination.IsValid() && m.Destination.Bits() > 0 {
		and(ip + " daddr " + address(m.Destination, m.DestinationOffset))
	}
	if m.Source.IsValid() && m.Source.Bits() > 0 {
		and(ip + " saddr " + address(m.Source, m.SourceOffset))
	}
	if len(m.FlowLabel) > 0 {
		and("ip6 flowlabel " + set(m.FlowLabel))
	}
	if len(m.Protocol) > 0 {
		and("meta l4proto " + set(m.Protocol))
	}
	// Only the first fragment has a transport header; what stands in its place in the others is payload.
	if len(m.Port)+len(m.DestinationPort)+len(m.SourcePort)+len(m.ICMPType)+len(m.ICMPCode)+len(m.TCPFlags) > 0 {
		if f == route.IPv6 {
			and("exthdr frag missing", "frag frag-off 0")
		} else {
			and("ip frag-off & 0x1fff == 0")
		}
	}
	// Ports are those of TCP and UDP (RFC 8955, sections 4.2.2.4 to 6).
	if len(m.Port)+len(m.DestinationPort)+len(m.SourcePort) > 0 {
		and("meta l4proto { 6, 17 }")
	}
	if len(m.Port) > 0 {
		and("th sport "+set(m.Port), "th dport "+set(m.Port))
	}
	if len(m.DestinationPort) > 0 {
		and("th dport " + set(m.DestinationPort))
	}
	if len(m.SourcePort) > 0 {
		and("th sport " + set(m.SourcePort))
	}
	icmp, number := "icmp", 1
	if f == route.IPv6 {
		icmp, number = "icmpv6", 58
	}
	if len(m.ICMPType)+len(m.ICMPCode) > 0 {
		and(fmt.Sprintf("meta l4proto %d", number))
	}
	if len(m.ICMPType) > 0 {
		and(icmp + " type " + set(m.ICMPType))
	}
	if len(m.ICMPCode) > 0 {
		and(icmp + " code " + set(m.ICMPCode))
	}
	if len(m.TCPFlags) > 0 {
		and("meta l4proto 6")
		var tests []string
		for _, t := range m.TCPFlags {
			// The flags octet of the TCP header, or the two octets it is in; "tcp flags" itself refuses to stand beside "th sport".
			at := "104,8"
			if t.Set|t.Clear > 0xff {
				at = "96,16"
			}
			tests = append(tests, fmt.Sprintf("@th,%s & 0x%02x == 0x%02x", at, t.Set|t.Clear, t.Set))
		}
		and(tests...)
	}
	if len(m.Length) > 0 {
		and("meta length " + set(m.Length))
	}
	if len(m.DSCP) > 0 {
		and(ip + " dscp " + set(m.DSCP))
	}
	if len(m.Fragment) > 0 {
		var tests []string
		for _, t := range m.Fragment {
			x, err := fragment(t, f)
			if err != nil {
				return nil, err
			}
			tests = append(tests, x...)
		}
		and(tests...)
	}
	return all, nil
}

// address writes a prefix, of which the bits before offset are not compared.
func address(p netip.Prefix, offset uint8) string {
	if offset == 0 {
		return p.String()
	}
	ones := netip.AddrFrom16([16]byte(bytes.Repeat([]byte{0xff}, 16)))
	mask := netip.PrefixFrom(ones, p.Bits()).Masked().Addr().As16()
	for bit := range offset {
		mask[bit/8] &^= 0x80 >> (bit % 8)
	}
	return fmt.Sprintf("& %s == %s", netip.AddrFrom16(mask), p.Addr())
}

// set writes ranges as an nftables set.
func set(rs []route.Range) string {
	parts := make([]string, len(rs))
	for i, r := range rs {
		parts[i] = fmt.Sprintf("%d-%d", r.Lo, r.Hi)
		if r.Lo == r.Hi {
			parts[i] = fmt.Sprint(r.Lo)
		}
	}
	if len(parts) == 1 {
		return parts[0]
	}
	return "{ " + strings.Join(parts, ", ") + " }"
}

// Fragment tests. IPv4's word holds DF 0x4000, MF 0x2000 and the offset; IPv6 has a header of its own, or none.
var fragment4 = map[uint16][2]string{ // set, clear
	route.DontFragment:  {"ip frag-off & 0x4000 != 0", "ip frag-off & 0x4000 == 0"},
	route.IsFragment:    {"ip frag-off & 0x1fff != 0", "ip frag-off & 0x1fff == 0"},
	route.FirstFragment: {"ip frag-off & 0x3fff == 0x2000", "ip frag-off & 0x3fff != 0x2000"},
	route.LastFragment:  {"ip frag-off & 0x3fff 1-8191", "ip frag-off & 0x3fff != 1-8191"},
}

var fragment6 = map[uint16][2][]string{ // set; clear: any of
	route.IsFragment:    {{"frag frag-off != 0"}, {"exthdr frag missing", "frag frag-off 0"}},
	route.FirstFragment: {{"frag frag-off 0 frag more-fragments 1"}, {"exthdr frag missing", "frag frag-off != 0", "frag more-fragments 0"}},
	route.LastFragment:  {{"frag frag-off != 0 frag more-fragments 0"}, {"exthdr frag missing", "frag frag-off 0", "frag more-fragments 1"}},
}

func fragment(t route.Bits, f route.Family) ([]string, error) {
	out := []string{""}
	for bit := uint16(1); bit != 0; bit <<= 1 {
		if (t.Set|t.Clear)&bit == 0 {
			continue
		}
		which := bits.OnesCount16(t.Clear & bit)
		var tests []string
		if f == route.IPv6 {
			tests = fragment6[bit][which]
		} else if x := fragment4[bit][which]; x != "" {
			tests = []string{x}
		}
		if len(tests) == 0 {
			return nil, fmt.Errorf("fragment bit 0x%x does not exist in %s", bit, f)
		}
		var next []string
		for _, o := range out {
			for _, x := range tests {
				next = append(next, strings.TrimSpace(o+" "+x))
			}
		}
		out = next
	}
	return out, nil
}
