package main

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"strings"

	"github.com/amooglesoft/trafficmonitor/internal/lab"
	"github.com/amooglesoft/trafficmonitor/internal/route"
)

// Our networks in the suite, and those that sources lie in. Each cell has a part of both to itself, so that a router's
// account of it is found whatever the router made of the rest.
var (
	own4    = netip.MustParsePrefix("10.128.0.0/9")
	own6    = netip.MustParsePrefix("2001:db8::/32")
	source4 = netip.MustParsePrefix("100.64.0.0/10")
	source6 = netip.MustParsePrefix("3fff::/20")
	hop4    = netip.MustParseAddr("192.0.2.9") // where traffic is redirected to
	hop6    = netip.MustParseAddr("3fff:f000::9")
)

// shape is one way to use one component.
type shape struct {
	// Component is the component under test, by its word in a route's text.
	Component string
	// Operator says how it is used.
	Operator string
	// Match is the text, with {host}, {net}, {source} and {sources} for the cell's own addresses.
	Match string
	// Only is the one family it exists in; 0 means both.
	Only route.Family
}

// numeric are the shapes of a numeric component: what to put around it, and values of one and of two octets that the
// safety kernel lets pass.
func numeric(component, with string, one, other, lo, hi, most int) []shape {
	text := func(value string, args ...any) string {
		return "destination {host} " + with + component + " " + fmt.Sprintf(value, args...)
	}
	return []shape{
		{component, "=", text("%d", one), 0},
		{component, "= (largest)", text("%d", most), 0},
		{component, "list", text("%d,%d", one, other), 0},
		{component, "range", text("%d-%d", lo, hi), 0},
		{component, ">=", text("%d-%d", hi, most), 0},
		{component, "<=", text("0-%d", lo), 0},
		{component, "!=", text("0-%d,%d-%d", lo-1, lo+1, most), 0},
		{component, "list and range", text("%d,%d-%d,%d", one, lo, hi, other), 0},
	}
}

// shapes are all ways to use all components.
var shapes = concat(
	[]shape{
		{"destination", "host", "destination {host}", 0},
		{"destination", "prefix", "destination {net}", 0},
		{"source", "host", "destination {host} source {source}", 0},
		{"source", "prefix", "destination {host} source {sources}", 0},
		{"source", "alone", "source {source} protocol udp", 0},
		// The safety kernel lets no destination have an offset.
		{"source", "offset of octets", "destination {host} source ::1234:0:0:0/64-80", route.IPv6},
		{"source", "offset of bits", "destination {host} source ::1234:5600:0:0/61-90", route.IPv6},
		{"source", "offset, to the last bit", "destination {host} source ::1/100-128", route.IPv6},
	},
	numeric("protocol", "", 17, 132, 47, 50, 255),
	numeric("port", "protocol udp ", 53, 11211, 1000, 2000, 65535),
	numeric("destination-port", "protocol udp ", 80, 27015, 5000, 5999, 65535),
	numeric("source-port", "protocol udp ", 53, 27005, 1900, 1910, 65535),
	numeric("icmp-type", "protocol {icmp} ", 8, 0, 10, 12, 255),
	numeric("icmp-code", "protocol {icmp} ", 0, 9, 2, 4, 255),
	[]shape{
		{"tcp-flags", "one set", flags("syn"), 0},
		{"tcp-flags", "one clear", flags("!ack"), 0},
		{"tcp-flags", "all set (AND)", flags("syn&ack"), 0},
		{"tcp-flags", "none set (NOT)", flags("!syn&!ack"), 0},
		{"tcp-flags", "set and clear", flags("syn&!ack"), 0},
		{"tcp-flags", "several of both", flags("fin&psh&urg&!syn&!rst&!ack"), 0},
		{"tcp-flags", "either (OR)", flags("syn,rst"), 0},
		{"tcp-flags", "either of pairs", flags("syn&!ack,rst&ack"), 0},
		{"tcp-flags", "congestion bits", flags("ece&cwr"), 0},
		{"tcp-flags", "two octets", flags("ae"), 0},
		{"tcp-flags", "two octets, set and clear", flags("syn&!ae"), 0},
		{"tcp-flags", "reserved bits clear", flags("!bit9&!bit10&!bit11"), 0},
	},
	numeric("length", "", 64, 1500, 1000, 1399, 65535),
	numeric("dscp", "", 46, 34, 8, 16, 63),
	[]shape{
		{"fragment", "dont-fragment", fragment("dont-fragment"), route.IPv4},
		{"fragment", "not dont-fragment", fragment("!dont-fragment"), route.IPv4},
		{"fragment", "is-fragment", fragment("is-fragment"), 0},
		{"fragment", "first-fragment", fragment("first-fragment"), 0},
		{"fragment", "last-fragment", fragment("last-fragment"), 0},
		{"fragment", "one clear", fragment("!is-fragment"), 0},
		{"fragment", "either (OR)", fragment("is-fragment,first-fragment"), 0},
		{"fragment", "set and clear", fragment("is-fragment&!last-fragment"), 0},
		{"fragment", "none set (NOT)", fragment("!is-fragment&!first-fragment"), 0},
	},
	only(route.IPv6, numeric("flow-label", "", 0xbeef, 5, 0x300, 0x12345, 0xfffff)),
	[]shape{
		{"destination-port", "list of six", "destination {host} protocol udp destination-port 80,443,5060,8080,27015,30120", 0},
		{"destination-port", "three ranges", "destination {host} protocol udp destination-port 80-90,443-500,5060-5070", 0},
		{"destination-port", "three ranges and one", "destination {host} protocol udp destination-port 80-90,443-500,5060-5070,8080", 0},
		{"destination-port", "list of seven", "destination {host} protocol udp destination-port 80,443,5060,8080,11211,27015,30120", 0},
		{"tcp-flags", "list of six", flags("fin,syn,rst,psh,ack,urg"), 0},
	},
	[]shape{
		{
			"all", "together",
			"destination {net} source {sources} protocol tcp destination-port 80,443 source-port 1024-65535 tcp-flags syn&!ack length 40-60 dscp 0 fragment !is-fragment", 0,
		},
		{
			"all", "at length",
			"destination {net} source {sources} protocol 17,132,136 port 10021,20032,30043,40054,50065 destination-port 10001,20002,30003,40004,50005 source-port 10011,20022,30033,40044,50055 length 10101,20202,30303,40404,50505 dscp 11,22,33,44,55 fragment is-fragment,first-fragment&!last-fragment", 0,
		},
	},
)

func only(f route.Family, shapes []shape) []shape {
	for i := range shapes {
		shapes[i].Only = f
	}
	return shapes
}

func flags(value string) string    { return "destination {host} protocol tcp tcp-flags " + value }
func fragment(value string) string { return "destination {host} fragment " + value }

func concat(lists ...[]shape) (out []shape) {
	for _, l := range lists {
		out = append(out, l...)
	}
	return out
}

// deed is something to do with a packet.
type deed struct {
	// Text with {hop} for an address of the family.
	Text string
	Only route.Family
	// Few tries it with one shape of each component only: what is done does not depend on how a component is written.
	Few bool
}

// deeds are all things to do with a packet of a rule.
var deeds = []deed{
	{"discard", 0, false},
	{"rate-limit 8Mbps", 0, false},
	{"rate-limit 1kpps", 0, false},
	{"accept", 0, false},
	{"rate-limit 100Gbps", 0, true},
	{"discard sample", 0, true},
	{"sample", 0, true},
	{"rate-limit 8Mbps continue", 0, true},
	{"mark 46", 0, true},
	{"redirect 64500:100", 0, true},
	{"redirect 192.0.2.9:9", 0, true},
	{"redirect 4200000000:9", 0, true},
	{"redirect {hop}", 0, true},
	{"copy {hop}", 0, true},
	{"rate-limit 1Gbps sample mark 8", 0, true},
	{"discard communities 64500:667,no-export", 0, true},
	{"discard large-communities 64500:1:2,64500:3:4", 0, true},
	{"discard med 10", 0, true},
	{"discard local-pref 200", 0, true}, // over iBGP
}

// blackholes are the shapes of blackholes, each with what may be said of one.
var blackholes = []shape{
	{"blackhole", "host", "destination {host} then blackhole", 0},
	{"blackhole", "prefix", "destination {blackhole} then blackhole", 0},
	{"blackhole", "next hop", "destination {host} then blackhole next-hop {hop}", 0},
	{"blackhole", "communities", "destination {host} then blackhole communities 64500:667,graceful-shutdown", 0},
	{"blackhole", "large communities", "destination {host} then blackhole large-communities 64500:1:2,64500:3:4", 0},
	{"blackhole", "MED", "destination {host} then blackhole med 10", 0},
	{"blackhole", "local preference", "destination {host} then blackhole local-pref 200", 0},
	{"source-blackhole", "host", "source {source} then source-blackhole", 0},
}

// Cell is one rule for every router.
type Cell struct {
	Family    route.Family
	Component string
	Operator  string
	Action    string
	Route     route.Route
	number    int
}

// Name tells a cell from all others; what a table of deviations refers to.
func (c Cell) Name() string {
	return fmt.Sprintf("%s %s %s, %s", c.Family, c.Component, c.Operator, c.Action)
}

// Internal reports whether the cell needs an iBGP session: a local preference reaches our own AS only (RFC 4271, section
// 5.1.5).
func (c Cell) Internal() bool { return c.Route.Action.LocalPref != 0 }

// Table is the BGP table the cell's route travels in.
func (c Cell) Table() lab.AddressFamily {
	switch {
	case c.Route.IsBlackhole() && c.Family == route.IPv6:
		return lab.Unicast6
	case c.Route.IsBlackhole():
		return lab.Unicast4
	case c.Family == route.IPv6:
		return lab.FlowSpec6
	}
	return lab.FlowSpec4
}

// Cells are every shape with every action in every family, see deed for an exception, and the blackholes.
func Cells() ([]Cell, error) {
	var out []Cell
	add := func(f route.Family, s shape, text, action string) error {
		n := len(out)
		r, err := route.Parse(fill(text, f, n))
		if err != nil {
			return fmt.Errorf("cell %s %s %s: %w", f, s.Component, s.Operator, err)
		}
		out = append(out, Cell{f, s.Component, s.Operator, action, r, n})
		return nil
	}
	for _, f := range []route.Family{route.IPv4, route.IPv6} {
		first := map[string]bool{}
		for _, s := range shapes {
			if s.Only != 0 && s.Only != f {
				continue
			}
			for _, d := range deeds {
				if d.Only != 0 && d.Only != f || d.Few && first[s.Component] {
					continue
				}
				if err := add(f, s, s.Match+" then "+d.Text, fill(d.Text, f, 0)); err != nil {
					return nil, err
				}
			}
			first[s.Component] = true
		}
		for _, s := range blackholes {
			_, action, _ := strings.Cut(s.Match, " then ")
			if err := add(f, s, s.Match, fill(action, f, 0)); err != nil {
				return nil, err
			}
		}
	}
	return out, nil
}

// fill puts the addresses of cell n into a text.
func fill(text string, f route.Family, n int) string {
	if f == route.IPv6 {
		own, source := part(own6, 48, n), part(source6, 48, n)
		return strings.NewReplacer(
			"{host}", prefix(own, 1, 128), "{net}", prefix(own, 0, 57), "{blackhole}", prefix(own, 0, 48),
			"{source}", prefix(source, 1, 128), "{sources}", prefix(source, 0, 61), "{icmp}", "icmpv6", "{hop}", hop6.String(),
		).Replace(text)
	}
	own, source := part(own4, 22, n), part(source4, 24, n)
	return strings.NewReplacer(
		"{host}", prefix(own, 1, 32), "{net}", prefix(own, 0, 23), "{blackhole}", prefix(own, 0, 24),
		"{source}", prefix(source, 1, 32), "{sources}", prefix(source, 0, 27), "{icmp}", "icmp", "{hop}", hop4.String(),
	).Replace(text)
}

// part returns the n-th prefix of a length inside p.
func part(p netip.Prefix, bits, n int) netip.Prefix {
	if n >= 1<<(bits-p.Bits()) {
		panic(fmt.Sprintf("%s has no part %d of /%d", p, n, bits))
	}
	b := p.Addr().AsSlice()
	head := binary.BigEndian.Uint32(b) // the lengths here are below 32, or the part ends with the third group
	if p.Addr().Is4() {
		binary.BigEndian.PutUint32(b, head|uint32(n)<<(32-bits))
	} else {
		high := binary.BigEndian.Uint64(b) | uint64(n)<<(64-bits)
		binary.BigEndian.PutUint64(b, high)
	}
	a, _ := netip.AddrFromSlice(b)
	return netip.PrefixFrom(a, bits)
}

// prefix returns the prefix of a length that holds the host-th address of p.
func prefix(p netip.Prefix, host byte, bits int) string {
	b := p.Addr().AsSlice()
	b[len(b)-1] |= host
	a, _ := netip.AddrFromSlice(b)
	return netip.PrefixFrom(a, bits).String()
}

// holds reports whether an account of a router is about this cell.
func (c Cell) holds(r lab.Received) bool {
	own, source := part(own4, 22, c.number), part(source4, 24, c.number)
	if c.Family == route.IPv6 {
		own, source = part(own6, 48, c.number), part(source6, 48, c.number)
	}
	if c.Route.Action.Kind == route.SourceBlackhole {
		own = source // it is announced like any other prefix
	}
	for _, x := range []struct{ in, have netip.Prefix }{{own, r.Match.Destination}, {source, r.Match.Source}} {
		if x.have.IsValid() {
			return x.in.Overlaps(x.have) && x.in.Bits() <= x.have.Bits()
		}
	}
	// Not understood: it is about the cell whose first address stands in it.
	m := c.Route.Match
	key := m.Destination
	if !key.IsValid() {
		key = m.Source
	}
	return r.Err != nil && containsAddress(r.Raw, key.Addr().String())
}

// containsAddress reports whether a text holds an address that is not a part of another.
func containsAddress(text, address string) bool {
	for rest := text; ; {
		i := strings.Index(rest, address)
		if i < 0 {
			return false
		}
		after := rest[i+len(address):]
		before := byte(' ')
		if i > 0 {
			before = rest[i-1]
		}
		inside := func(b byte) bool { return strings.IndexByte("0123456789abcdefABCDEF.:", b) >= 0 }
		if !inside(before) && (after == "" || !inside(after[0])) {
			return true
		}
		rest = rest[i+1:]
	}
}
