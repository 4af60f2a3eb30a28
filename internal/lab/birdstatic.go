package lab

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/amooglesoft/trafficmonitor/internal/route"
)

// birdStatic writes routes as static protocols of a BIRD configuration.
func birdStatic(routes []route.Route) (string, error) {
	text := map[string]*strings.Builder{}
	kinds := []string{"ipv4", "ipv6", "flow4", "flow6"}
	for _, k := range kinds {
		text[k] = &strings.Builder{}
	}
	for _, r := range routes {
		if err := r.Validate(); err != nil {
			return "", fmt.Errorf("announce %q: %w", r, err)
		}
		r = r.Canonical()
		if r.IsBlackhole() {
			fmt.Fprintf(text[r.Family().String()], "  route %s blackhole { bgp_community.add((65535,666)); };\n", r.Prefix())
			continue
		}
		kind := fmt.Sprintf("flow%d", r.Family())
		ec, ec6 := r.Action.ExtendedCommunities()
		if len(ec6) > 0 {
			return "", fmt.Errorf("announce %q: BIRD's configuration has no IPv6 address specific extended communities", r)
		}
		fmt.Fprintf(text[kind], "  route %s { %s} {", kind, birdMatch(r.Match, r.Family()))
		for c := range slices.Chunk(ec, 8) {
			fmt.Fprintf(text[kind], " bgp_ext_community.add((generic, 0x%08x, 0x%08x));", binary.BigEndian.Uint32(c), binary.BigEndian.Uint32(c[4:]))
		}
		text[kind].WriteString(" };\n")
	}
	var out strings.Builder
	for _, k := range kinds {
		channel := k + ";"
		if strings.HasPrefix(k, "flow") {
			channel = fmt.Sprintf("%s { table flowtab%s; };", k, k[4:])
		}
		fmt.Fprintf(&out, "protocol static announce_%s {\n  %s\n%s}\n", k, channel, text[k])
	}
	return out.String(), nil
}

// birdMatch writes a match in BIRD's configuration language.
func birdMatch(m route.Match, f route.Family) string {
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
	prefix("dst", m.Destination, m.DestinationOffset)
	prefix("src", m.Source, m.SourceOffset)
	protocol := "proto"
	if f == route.IPv6 {
		protocol = "next header"
	}
	part(protocol, birdRanges(m.Protocol))
	part("port", birdRanges(m.Port))
	part("dport", birdRanges(m.DestinationPort))
	part("sport", birdRanges(m.SourcePort))
	part("icmp type", birdRanges(m.ICMPType))
	part("icmp code", birdRanges(m.ICMPCode))
	part("tcp flags", joinBits(m.TCPFlags, func(bit uint16, set bool) string {
		return fmt.Sprintf("0x%x/0x%x", map[bool]uint16{true: bit}[set], bit)
	}))
	part("length", birdRanges(m.Length))
	part("dscp", birdRanges(m.DSCP))
	part("label", birdRanges(m.FlowLabel))
	part("fragment", joinBits(m.Fragment, func(bit uint16, set bool) string {
		for word, v := range birdFragment {
			if v == bit {
				return map[bool]string{false: "!"}[set] + word
			}
		}
		return ""
	}))
	return b.String()
}

func birdRanges(rs []route.Range) string {
	parts := make([]string, len(rs))
	for i, r := range rs {
		parts[i] = fmt.Sprintf("%d..%d", r.Lo, r.Hi)
		if r.Lo == r.Hi {
			parts[i] = fmt.Sprint(r.Lo)
		}
	}
	return strings.Join(parts, ", ")
}

func joinBits(bs []route.Bits, one func(bit uint16, set bool) string) string {
	alternatives := make([]string, len(bs))
	for i, b := range bs {
		var tests []string
		for bit := uint16(1); bit != 0; bit <<= 1 {
			if (b.Set|b.Clear)&bit != 0 {
				tests = append(tests, one(bit, b.Set&bit != 0))
			}
		}
		alternatives[i] = strings.Join(tests, " && ")
	}
	return strings.Join(alternatives, " || ")
}
