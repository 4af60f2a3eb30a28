// Package route holds the rules we announce as values: FlowSpec rules (RFC 8955, RFC 8956) and blackholes of
// destinations and sources (RFC 7999, RFC 5635), with one text form, one canonical form and one identity for each.
package route

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"slices"
)

// Route is one FlowSpec rule or one blackhole, told apart by its action. The zero Route is not valid.
//
// A Route is kept in canonical form: prefixes masked, ranges sorted and merged, so that two routes that match the same
// packets in the same terms have the same text and the same identity.
type Route struct {
	Match  Match
	Action Action
}

// Match is a conjunction: a packet matches when every component that is set matches it. An empty component matches
// everything. Items within a component are alternatives.
type Match struct {
	Destination netip.Prefix // RFC 8955 type 1; the zero Prefix matches every address
	Source      netip.Prefix // type 2
	// How many of the first bits of the address are not compared: IPv6 only (RFC 8956, section 3.1), less than the
	// prefix's length. The prefix holds zeros there.
	DestinationOffset, SourceOffset uint8

	Protocol        []Range // type 3: IP protocol, or the last next header of IPv6; 0–255
	Port            []Range // type 4: source or destination port; 0–65535
	DestinationPort []Range // type 5; 0–65535
	SourcePort      []Range // type 6; 0–65535
	ICMPType        []Range // type 7; 0–255
	ICMPCode        []Range // type 8; 0–255
	TCPFlags        []Bits  // type 9; the 12 bits of the TCP header between data offset and window
	Length          []Range // type 10: length of the IP packet without layer 2; 0–65535
	DSCP            []Range // type 11; 0–63
	Fragment        []Bits  // type 12; see the Fragment constants
	FlowLabel       []Range // type 13, IPv6 only (RFC 8956, section 3.7); 0–1048575
}

// Range is a closed interval of values.
type Range struct{ Lo, Hi uint32 }

// Bits tests a field of flags: every bit of Set must be set and every bit of Clear must be clear.
type Bits struct{ Set, Clear uint16 }

// Flags of the TCP header (RFC 9293, section 3.1; RFC 9768 for AE), as in component type 9. The three bits above AE are
// reserved.
const (
	FIN = 1 << iota
	SYN
	RST
	PSH
	ACK
	URG
	ECE
	CWR
	AE // once NS
)

// Bits of component type 12 (RFC 8955, section 4.2.2.12). DontFragment does not exist in IPv6.
const (
	DontFragment  = 1 << iota // DF
	IsFragment                // IsF: a fragment other than the first
	FirstFragment             // FF
	LastFragment              // LF
)

// MaxRate is the largest rate an action may carry: the wire holds a 32-bit float, exact for integers up to 2^24 and
// monotone beyond; 10 Tbit/s in octets is far above any interface.
const MaxRate uint64 = 1_250_000_000_000

// Family is the address family of a route.
type Family uint8

// The families.
const (
	IPv4 Family = 4
	IPv6 Family = 6
)

func (f Family) String() string {
	if f == IPv6 {
		return "ipv6"
	}
	return "ipv4"
}

// Family returns the family of the route's prefixes. A valid route has at least one.
func (r Route) Family() Family {
	p := r.Match.Destination
	if !p.IsValid() {
		p = r.Match.Source
	}
	if p.IsValid() && p.Addr().Is6() {
		return IPv6
	}
	return IPv4
}

// IsBlackhole reports whether the route is a blackhole, of a destination or a source, rather than a FlowSpec rule.
func (r Route) IsBlackhole() bool { return r.Action.IsBlackhole() }

// Prefix is what a blackhole is announced as: its destination, or its source.
func (r Route) Prefix() netip.Prefix {
	if r.Action.Kind == SourceBlackhole {
		return r.Match.Source
	}
	return r.Match.Destination
}

// ID identifies what a router tells routes apart by: the table and the match, not the action. Announcing another
// action under the same ID replaces the first one implicitly (RFC 4271, section 3.1). A prefix that is blackholed as
// destination and as source is one route: both have the same ID.
func (r Route) ID() string {
	if r.IsBlackhole() {
		return "blackhole " + r.Prefix().String()
	}
	return "flowspec " + r.Match.String()
}

// Compare orders routes by text, which is stable and unambiguous.
func Compare(a, b Route) int { return cmp.Compare(a.String(), b.String()) }

// Equal reports whether both are the same route with the same action, given both are canonical.
func (r Route) Equal(o Route) bool { return r.Action == o.Action && r.Match.Equal(o.Match) }

// Equal reports whether both match the same packets in the same terms, given both are canonical.
func (m Match) Equal(o Match) bool {
	return m.Destination == o.Destination && m.Source == o.Source &&
		m.DestinationOffset == o.DestinationOffset && m.SourceOffset == o.SourceOffset &&
		slices.Equal(m.Protocol, o.Protocol) && slices.Equal(m.Port, o.Port) &&
		slices.Equal(m.DestinationPort, o.DestinationPort) && slices.Equal(m.SourcePort, o.SourcePort) &&
		slices.Equal(m.ICMPType, o.ICMPType) && slices.Equal(m.ICMPCode, o.ICMPCode) &&
		slices.Equal(m.TCPFlags, o.TCPFlags) && slices.Equal(m.Length, o.Length) &&
		slices.Equal(m.DSCP, o.DSCP) && slices.Equal(m.Fragment, o.Fragment) && slices.Equal(m.FlowLabel, o.FlowLabel)
}

// skip returns p with zeros in its first offset bits.
func skip(p netip.Prefix, offset uint8) netip.Prefix {
	if offset == 0 || !p.IsValid() || !p.Addr().Is6() {
		return p
	}
	a := p.Addr().As16()
	for i := range a {
		switch begin := i * 8; {
		case begin+8 <= int(offset):
			a[i] = 0
		case begin < int(offset):
			a[i] &= 0xff >> (int(offset) - begin)
		}
	}
	return netip.PrefixFrom(netip.AddrFrom16(a), p.Bits())
}

// Within reports whether a is one of the addresses that p compared from offset on lets match; the zero Prefix lets all.
func Within(p netip.Prefix, offset uint8, a netip.Addr) bool {
	switch {
	case !p.IsValid():
		return true
	case offset == 0:
		return p.Contains(a)
	case a.Is4() != p.Addr().Is4() || a.Is4():
		return false
	}
	return skip(netip.PrefixFrom(a, p.Bits()).Masked(), offset) == skip(p.Masked(), offset)
}

// Canonical returns r in canonical form. It changes no meaning: what is invalid stays invalid.
func (r Route) Canonical() Route {
	m := r.Match
	if m.Destination.IsValid() {
		m.Destination = skip(m.Destination.Masked(), m.DestinationOffset)
	}
	if m.Source.IsValid() {
		m.Source = skip(m.Source.Masked(), m.SourceOffset)
	}
	for _, c := range m.numeric() {
		*c.ranges = mergeRanges(*c.ranges)
	}
	for _, f := range m.flagged() {
		*f.bits = sortBits(*f.bits)
	}
	r.Match = m
	return r
}

// component is one numeric component of a match with what bounds it.
type component struct {
	kind   uint8 // RFC 8955 component type
	word   string
	max    uint32
	ranges *[]Range
}

// numeric lists the numeric components in order of their type.
func (m *Match) numeric() [9]component {
	return [...]component{
		{3, "protocol", 255, &m.Protocol},
		{4, "port", 65535, &m.Port},
		{5, "destination-port", 65535, &m.DestinationPort},
		{6, "source-port", 65535, &m.SourcePort},
		{7, "icmp-type", 255, &m.ICMPType},
		{8, "icmp-code", 255, &m.ICMPCode},
		{10, "length", 65535, &m.Length},
		{11, "dscp", 63, &m.DSCP},
		{13, "flow-label", 1<<20 - 1, &m.FlowLabel},
	}
}

// Numeric returns where the ranges of the numeric component of this word are, such as "source-port", and the largest value it may
// hold; nil when there is no such component.
func (m *Match) Numeric(word string) (ranges *[]Range, most uint32) {
	for _, c := range m.numeric() {
		if c.word == word {
			return c.ranges, c.max
		}
	}
	return nil, 0
}

// flags is one component of flags.
type flags struct {
	kind  uint8
	word  string
	words []string // the names of the bits, the lowest first
	bits  *[]Bits
}

// flagged lists the components of flags in order of their type.
func (m *Match) flagged() [2]flags {
	return [...]flags{
		{9, "tcp-flags", tcpFlagWords, &m.TCPFlags},
		{12, "fragment", fragmentWords, &m.Fragment},
	}
}

// either is a component of numbers or of flags, whichever has values to point to.
type either struct {
	component component
	flags     flags
}

// parts lists all components but the prefixes, in order of their type.
func (m *Match) parts() (out [11]either) {
	fs, at, f := m.flagged(), 0, 0
	for _, c := range m.numeric() {
		for ; f < len(fs) && fs[f].kind < c.kind; f++ {
			out[at].flags = fs[f]
			at++
		}
		out[at].component = c
		at++
	}
	for ; f < len(fs); f++ {
		out[at].flags = fs[f]
		at++
	}
	return out
}

func mergeRanges(in []Range) []Range {
	if len(in) < 2 {
		return in
	}
	rs := slices.Clone(in)
	slices.SortFunc(rs, func(a, b Range) int { return cmp.Or(cmp.Compare(a.Lo, b.Lo), cmp.Compare(a.Hi, b.Hi)) })
	out := rs[:1]
	for _, r := range rs[1:] {
		last := &out[len(out)-1]
		if r.Lo <= r.Hi && last.Lo <= last.Hi && uint64(r.Lo) <= uint64(last.Hi)+1 {
			last.Hi = max(last.Hi, r.Hi)
			continue
		}
		out = append(out, r)
	}
	return out
}

func sortBits(in []Bits) []Bits {
	if len(in) < 2 {
		return in
	}
	bs := slices.Clone(in)
	slices.SortFunc(bs, func(a, b Bits) int { return cmp.Or(cmp.Compare(a.Set, b.Set), cmp.Compare(a.Clear, b.Clear)) })
	return slices.Compact(bs)
}

// Validate reports everything that makes the route meaningless or impossible to encode. What is meaningful but
// dangerous is the safety kernel's to refuse.
func (r Route) Validate() error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }

	r.Action.validate(r.Family(), bad)

	m := r.Match
	dst, src := m.Destination, m.Source
	if !dst.IsValid() && !src.IsValid() {
		bad("no destination and no source: a route names at least one prefix")
	}
	for _, p := range []netip.Prefix{dst, src} {
		if p.IsValid() && (p.Addr().Is4In6() || p.Addr().Zone() != "") {
			bad("prefix %s: an IPv4-mapped or zoned address cannot be announced", p)
		}
	}
	for _, p := range []struct {
		word   string
		prefix netip.Prefix
		offset uint8
	}{{"destination", dst, m.DestinationOffset}, {"source", src, m.SourceOffset}} {
		switch {
		case p.offset == 0:
		case !p.prefix.IsValid() || p.prefix.Addr().Is4():
			bad("%s offset %d: an offset stands with an IPv6 prefix only (RFC 8956, section 3.1)", p.word, p.offset)
		case int(p.offset) >= p.prefix.Bits():
			bad("%s offset %d is not below the length %d: nothing would be compared", p.word, p.offset, p.prefix.Bits())
		}
	}
	if dst.IsValid() && src.IsValid() && dst.Addr().Is4() != src.Addr().Is4() {
		bad("destination %s and source %s are of different families", dst, src)
	}
	for _, c := range m.numeric() {
		for _, x := range *c.ranges {
			if x.Lo > x.Hi {
				bad("%s %d-%d: the range ends before it begins", c.word, x.Lo, x.Hi)
			} else if x.Hi > c.max {
				bad("%s %d is above %d", c.word, x.Hi, c.max)
			}
		}
	}
	for _, f := range m.flagged() {
		most := uint16(1)<<len(f.words) - 1
		for _, b := range *f.bits {
			switch {
			case b.Set&b.Clear != 0 || b == (Bits{}):
				bad("%s %s tests nothing or asks one bit to be set and clear", f.word, formatBits(b, f.words))
			case (b.Set|b.Clear)&^most != 0:
				bad("%s bits 0x%x are outside 0x%x", f.word, b.Set|b.Clear, most)
			case f.kind == 12 && r.Family() == IPv6 && (b.Set|b.Clear)&DontFragment != 0:
				bad("fragment dont-fragment does not exist in IPv6 (RFC 8956, section 3.3)")
			}
		}
	}
	if len(m.FlowLabel) > 0 && r.Family() != IPv6 {
		bad("flow-label exists in IPv6 only (RFC 8956, section 3.7)")
	}
	switch r.Action.Kind {
	case Blackhole:
		if !dst.IsValid() {
			bad("a blackhole needs a destination")
		}
		if !m.Equal(Match{Destination: dst}) {
			bad("a blackhole matches a destination only: drop the other components or use discard")
		}
	case SourceBlackhole:
		if !src.IsValid() {
			bad("a source blackhole needs a source")
		}
		if !m.Equal(Match{Source: src}) {
			bad("a source blackhole matches a source only: drop the other components or use discard")
		}
	}
	return errors.Join(errs...)
}
