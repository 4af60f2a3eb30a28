package render

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/amooglesoft/trafficmonitor/internal/route"
)

func bird(r route.Route) (string, error) {
	line, err := BIRDRoute(r)
	if err != nil {
		return "", err
	}
	channel := r.Family().String()
	if !r.IsBlackhole() {
		channel = fmt.Sprintf("flow%d { table flowtab%d; }", r.Family(), r.Family())
	}
	id := strings.ReplaceAll(name(r), "-", "_")
	return fmt.Sprintf(`# %s
# BIRD announces this to its neighbours and enforces nothing. Name your own table. To end it, delete the protocol.
protocol static %s {
  %s;
  %s
}
`, r, id, channel, line), nil
}

// BIRDRoute writes a route as a line of a static protocol of BIRD 2.
func BIRDRoute(r route.Route) (string, error) {
	a := r.Action
	var set []string
	ec, ec6 := a.ExtendedCommunities()
	if len(ec6) > 0 {
		return "", cannot("BIRD", "a redirect to an IPv6 address")
	}
	if r.IsBlackhole() {
		set = append(set, "bgp_community.add((65535,666));")
	}
	for c := range slices.Chunk(ec, 8) {
		set = append(set, fmt.Sprintf("bgp_ext_community.add((generic, 0x%08x, 0x%08x));", binary.BigEndian.Uint32(c), binary.BigEndian.Uint32(c[4:])))
	}
	if a.NextHop.IsValid() {
		set = append(set, fmt.Sprintf("bgp_next_hop = %s;", a.NextHop))
	}
	for _, c := range a.Communities.All() {
		set = append(set, fmt.Sprintf("bgp_community.add((%d,%d));", c>>16, c&0xffff))
	}
	for _, c := range a.Large.All() {
		set = append(set, fmt.Sprintf("bgp_large_community.add((%d,%d,%d));", c[0], c[1], c[2]))
	}
	if v, ok := a.LocalPref.Get(); ok {
		set = append(set, fmt.Sprintf("bgp_local_pref = %d;", v))
	}
	if v, ok := a.MED.Get(); ok {
		set = append(set, fmt.Sprintf("bgp_med = %d;", v))
	}
	attrs := ";"
	if len(set) > 0 {
		attrs = " { " + strings.Join(set, " ") + " };"
	}
	// BIRD 2.0 announces another rule without a word: the offset begins with the octet it lies in, and of a flow label in its
	// configuration it keeps 16 bits.
	m := r.Match
	if m.DestinationOffset%8 != 0 || m.SourceOffset%8 != 0 {
		return "", cannot("BIRD", "an offset within an octet, which it would announce as another")
	}
	for _, x := range m.FlowLabel {
		if x.Hi > 0xffff {
			return "", cannot("BIRD", fmt.Sprintf("a flow label above 65535 (%d), which it would announce as another", x.Hi))
		}
	}
	if r.IsBlackhole() {
		return fmt.Sprintf("route %s blackhole%s", r.Prefix(), attrs), nil
	}
	return fmt.Sprintf("route flow%d { %s}%s", r.Family(), BIRDMatch(m), attrs), nil
}

// BIRDMatch writes a match in BIRD's configuration language.
func BIRDMatch(m route.Match) string {
	var b strings.Builder
	part := func(word, value string) {
		if value != "" {
			fmt.Fprintf(&b, "%s %s; ", word, value)
		}
	}
	prefix := func(word string, p netip.Prefix, offset uint8) {
		switch {
		case !p.IsValid():
		case offset == 0:
			part(word, p.String())
		default:
			part(word, fmt.Sprintf("%s offset %d", p, offset))
		}
	}
	numbers := func(rs []route.Range) string {
		return strings.ReplaceAll(strings.ReplaceAll(list(rs), " ", ", "), "-", "..")
	}
	prefix("dst", m.Destination, m.DestinationOffset)
	prefix("src", m.Source, m.SourceOffset)
	protocol := "proto"
	if (route.Route{Match: m}).Family() == route.IPv6 {
		protocol = "next header"
	}
	part(protocol, numbers(m.Protocol))
	part("port", numbers(m.Port))
	part("dport", numbers(m.DestinationPort))
	part("sport", numbers(m.SourcePort))
	part("icmp type", numbers(m.ICMPType))
	part("icmp code", numbers(m.ICMPCode))
	part("tcp flags", joinBits(m.TCPFlags, " && ", " || ", func(bit uint16, set bool) string {
		return fmt.Sprintf("0x%x/0x%x", map[bool]uint16{true: bit}[set], bit)
	}))
	part("length", numbers(m.Length))
	part("dscp", numbers(m.DSCP))
	part("fragment", joinBits(m.Fragment, " && ", " || ", func(bit uint16, set bool) string {
		return map[bool]string{false: "!"}[set] + map[uint16]string{
			route.DontFragment: "dont_fragment", route.IsFragment: "is_fragment", route.FirstFragment: "first_fragment", route.LastFragment: "last_fragment",
		}[bit]
	}))
	part("label", numbers(m.FlowLabel))
	return b.String()
}

// joinBits writes tests of flags, bit by bit.
func joinBits(bs []route.Bits, and, or string, one func(bit uint16, set bool) string) string {
	alternatives := make([]string, len(bs))
	for i, b := range bs {
		var tests []string
		for bit := uint16(1); bit != 0; bit <<= 1 {
			if (b.Set|b.Clear)&bit != 0 {
				tests = append(tests, one(bit, b.Set&bit != 0))
			}
		}
		alternatives[i] = strings.Join(tests, and)
	}
	return strings.Join(alternatives, or)
}
