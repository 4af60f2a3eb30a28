// Package render writes a route in other words than its text form: as JSON, as the octets of the wire, and as what an engineer
// would type into a router where BGP is not to be had.
//
// Configuration is written only where the platform can say just what the route says. What it cannot say is an error that
// names it: a rule that is a little wider than was meant is an outage we caused. Only BIRD's and nftables' forms are tried
// on the real thing by tests of ours; the others follow the vendors' documentation.
package render

import (
	"errors"
	"fmt"
	"hash/fnv"
	"net/netip"
	"slices"
	"strings"

	"github.com/amooglesoft/trafficmonitor/internal/route"
)

var formats = []struct {
	name, what string
	write      func(route.Route) (string, error)
}{
	{"text", "the text form", func(r route.Route) (string, error) { return r.String() + "\n", nil }},
	{"json", "the JSON form", func(r route.Route) (string, error) { return string(r.JSON()) + "\n", nil }},
	{"hex", "the octets of the NLRI and of the communities that say what is done", octets},
	{"frr", "FRR: a static route for a blackhole; FRR has no configuration for rules, so nftables for its host", frr},
	{"bird", "BIRD: a static protocol, which announces the route and enforces nothing", bird},
	{"junos", "Junos: a static flow route, which enforces the rule and announces it", junos},
	{"iosxr", "IOS XR: a class and a policy for its flowspec client", iosxr},
	{"eos", "Arista EOS: an access list; it has no static rules", eos},
	{"sros", "Nokia SR OS: a filter, MD-CLI; it has no static rules", sros},
}

// Formats returns the names of the formats.
func Formats() []string {
	var out []string
	for _, f := range formats {
		out = append(out, f.name)
	}
	return out
}

// Describe returns a line about each format, for help texts.
func Describe() string {
	var b strings.Builder
	for _, f := range formats {
		fmt.Fprintf(&b, "  %-6s %s\n", f.name, f.what)
	}
	return b.String()
}

// As writes a valid route in the format, or says what of it the format cannot say.
func As(format string, r route.Route) (string, error) {
	for _, f := range formats {
		if f.name != format {
			continue
		}
		out, err := f.write(r)
		if err != nil {
			return "", fmt.Errorf("%q as %s: %w", r, format, err)
		}
		return out, nil
	}
	return "", fmt.Errorf("format %q is not one of %s", format, strings.Join(Formats(), ", "))
}

func octets(r route.Route) (string, error) {
	var b strings.Builder
	nlri := append([]byte{byte(r.Prefix().Bits())}, r.Prefix().Addr().AsSlice()...)
	if r.IsBlackhole() {
		nlri = nlri[:1+(r.Prefix().Bits()+7)/8]
	} else {
		var err error
		if nlri, err = route.AppendFlowSpec(nil, r.Match); err != nil {
			return "", err
		}
	}
	fmt.Fprintf(&b, "nlri %x\n", nlri)
	ec, ec6 := r.Action.ExtendedCommunities()
	for c := range slices.Chunk(ec, 8) {
		fmt.Fprintf(&b, "extended-community %x\n", c)
	}
	for c := range slices.Chunk(ec6, 20) {
		fmt.Fprintf(&b, "ipv6-extended-community %x\n", c)
	}
	return b.String(), nil
}

// name of the route in a configuration: the same match has the same name.
func name(r route.Route) string {
	h := fnv.New32a()
	h.Write([]byte(r.ID()))
	return fmt.Sprintf("tm-%08x", h.Sum32())
}

// cannot is what a platform has no words for.
func cannot(platform, what string) error {
	return fmt.Errorf("%s has no words here for %s: say it in another way, or take the platform's own documentation", platform, what)
}

// rest says which components of m are left when those that were written are taken out.
func rest(platform string, m route.Match) error {
	if m.Equal(route.Match{}) {
		return nil
	}
	if m.DestinationOffset+m.SourceOffset > 0 {
		return cannot(platform, "a prefix with an offset")
	}
	return cannot(platform, m.String())
}

// eitherPort says "source or destination port" without the component port, in matches of which any may hold.
func eitherPort(m route.Match) []route.Match {
	if len(m.Port) == 0 {
		return []route.Match{m}
	}
	a, b := m, m
	a.Port, b.Port = nil, nil
	a.SourcePort, b.DestinationPort = common(m.Port, m.SourcePort), common(m.Port, m.DestinationPort)
	return slices.DeleteFunc([]route.Match{a, b}, func(x route.Match) bool { return len(x.SourcePort)+len(x.DestinationPort) == 0 })
}

// implied makes the protocol say what other components imply, for platforms that would compare their octets in packets of any
// protocol: only TCP and UDP have ports, only TCP has flags, only ICMP has types and codes (RFC 8955, sections 4.2.2.4 to
// 4.2.2.9). ok is false where no packet is left.
func implied(m route.Match) (_ route.Match, ok bool) {
	only := func(protocols ...uint32) {
		var rs []route.Range
		for _, p := range protocols {
			rs = append(rs, route.Range{Lo: p, Hi: p})
		}
		m.Protocol = common(rs, m.Protocol)
		ok = ok && len(m.Protocol) > 0
	}
	ok = true
	if len(m.Port)+len(m.DestinationPort)+len(m.SourcePort) > 0 {
		only(6, 17)
	}
	if len(m.TCPFlags) > 0 && ok {
		only(6)
	}
	if len(m.ICMPType)+len(m.ICMPCode) > 0 && ok {
		only(map[route.Family]uint32{route.IPv4: 1, route.IPv6: 58}[route.Route{Match: m}.Family()])
	}
	return m, ok
}

var errNothing = errors.New("it matches no packet: no protocol it names has what else it names")

// common returns the values of a that b lets match; an empty b lets everything.
func common(a, b []route.Range) []route.Range {
	if len(b) == 0 {
		return a
	}
	var out []route.Range
	for _, x := range a {
		for _, y := range b {
			if r := (route.Range{Lo: max(x.Lo, y.Lo), Hi: min(x.Hi, y.Hi)}); r.Lo <= r.Hi {
				out = append(out, r)
			}
		}
	}
	return out
}

// list writes ranges as LO-HI, separated by blanks.
func list(rs []route.Range) string {
	parts := make([]string, len(rs))
	for i, r := range rs {
		parts[i] = fmt.Sprintf("%d-%d", r.Lo, r.Hi)
		if r.Lo == r.Hi {
			parts[i] = fmt.Sprint(r.Lo)
		}
	}
	return strings.Join(parts, " ")
}

// attributes complains about attributes of a route that a static route does not have.
func attributes(platform string, a route.Action) error {
	a.NextHop = netip.Addr{}
	if a.Attributes != (route.Attributes{}) {
		return cannot(platform, "communities, local-pref and med of a static route")
	}
	return nil
}
