package route

import (
	"errors"
	"fmt"
	"math"
	"net/netip"
	"strconv"
	"strings"
)

// The text form of a route is a list of components, each a word and a value, then "then" and an action:
//
//	destination 192.0.2.1/32 protocol udp source-port 53 then rate-limit 1Mbps
//	destination 2001:db8::1/128 protocol tcp tcp-flags syn&!ack then discard
//	destination 192.0.2.1/32 source-port 53,123,1900-1910 length 1000-1500 then discard
//	destination 192.0.2.1/32 protocol udp then rate-limit 1Mbps sample redirect 64500:100
//	destination 192.0.2.1/32 then blackhole
//	source 198.51.100.7/32 then source-blackhole communities 64500:666,no-export
//
// Alternatives are separated by commas, ranges are written LO-HI, flags are joined by & and negated by !. Rates are
// bits per second (bps, kbps, Mbps, Gbps, powers of ten) or packets per second (pps, kpps, Mpps). Words are written
// once, in any order; String writes them in order of their component type, and those of the action in a fixed order. A host may be written without its length.

var tcpFlagWords = []string{"fin", "syn", "rst", "psh", "ack", "urg", "ece", "cwr", "ae", "bit9", "bit10", "bit11"}

var fragmentWords = []string{"dont-fragment", "is-fragment", "first-fragment", "last-fragment"}

// Protocol numbers with a word of their own (IANA protocol numbers).
var protocolWords = map[string]uint32{
	"icmp": 1, "igmp": 2, "ipip": 4, "tcp": 6, "udp": 17, "ipv6": 41, "gre": 47, "esp": 50, "ah": 51, "icmpv6": 58, "sctp": 132,
}

func formatRate(v uint64, unit string) string {
	for _, s := range []struct {
		prefix string
		n      uint64
	}{{"G", 1e9}, {"M", 1e6}, {"k", 1e3}} {
		if v != 0 && v%s.n == 0 {
			return strconv.FormatUint(v/s.n, 10) + s.prefix + unit
		}
	}
	return strconv.FormatUint(v, 10) + unit
}

// String returns the route in text form; Parse reads it back.
func (r Route) String() string { return r.Match.String() + " then " + r.Action.String() }

// TextAndID returns what String and ID do, for less.
func (r Route) TextAndID() (text, id string) {
	m := r.Match.String()
	text = m + " then " + r.Action.String()
	if r.IsBlackhole() {
		return text, r.ID()
	}
	return text, "flowspec " + m
}

// String returns the match in text form.
func (m Match) String() string {
	var b strings.Builder
	word := func(w, v string) {
		if b.Len() > 0 {
			b.WriteByte(' ')
		}
		b.WriteString(w)
		b.WriteByte(' ')
		b.WriteString(v)
	}
	if m.Destination.IsValid() {
		word("destination", formatPrefix(m.Destination, m.DestinationOffset))
	}
	if m.Source.IsValid() {
		word("source", formatPrefix(m.Source, m.SourceOffset))
	}
	for _, p := range m.parts() {
		switch c, f := p.component, p.flags; {
		case c.ranges != nil && len(*c.ranges) > 0:
			word(c.word, formatRanges(c.word, *c.ranges))
		case f.bits != nil && len(*f.bits) > 0:
			word(f.word, formatBitsList(*f.bits, f.words))
		}
	}
	return b.String()
}

func formatPrefix(p netip.Prefix, offset uint8) string {
	if offset == 0 {
		return p.String()
	}
	return fmt.Sprintf("%s/%d-%d", p.Addr(), offset, p.Bits())
}

func formatRanges(word string, rs []Range) string {
	parts := make([]string, len(rs))
	for i, r := range rs {
		switch {
		case r.Lo != r.Hi:
			parts[i] = fmt.Sprintf("%d-%d", r.Lo, r.Hi)
		case word == "protocol":
			parts[i] = protocolWord(r.Lo)
		default:
			parts[i] = strconv.Itoa(int(r.Lo))
		}
	}
	return strings.Join(parts, ",")
}

func protocolWord(n uint32) string {
	for w, p := range protocolWords {
		if p == n {
			return w
		}
	}
	return strconv.Itoa(int(n))
}

func formatBitsList(bs []Bits, words []string) string {
	parts := make([]string, len(bs))
	for i, b := range bs {
		parts[i] = formatBits(b, words)
	}
	return strings.Join(parts, ",")
}

func formatBits(b Bits, words []string) string {
	var parts []string
	for i := range 16 {
		name := fmt.Sprintf("bit%d", i)
		if i < len(words) {
			name = words[i]
		}
		if b.Set&(1<<i) != 0 {
			parts = append(parts, name)
		}
		if b.Clear&(1<<i) != 0 {
			parts = append(parts, "!"+name)
		}
	}
	return strings.Join(parts, "&")
}

// MaxText is the longest text Parse reads, in octets.
const MaxText = 4096

// Parse reads a route from its text form, in canonical form and valid. The error names each word it could not read.
func Parse(s string) (Route, error) {
	if len(s) > MaxText {
		return Route{}, fmt.Errorf("route of %d octets: at most %d are read", len(s), MaxText)
	}
	match, action, ok := strings.Cut(" "+s+" ", " then ")
	if !ok {
		return Route{}, fmt.Errorf("route %q has no action: end it with \"then discard\", \"then rate-limit 1Mbps\" or \"then blackhole\"", s)
	}
	var r Route
	var errs []error
	if err := parseMatch(&r.Match, match); err != nil {
		errs = append(errs, err)
	}
	a, err := ParseAction(action)
	if err != nil {
		errs = append(errs, err)
	}
	r.Action = a
	if len(errs) == 0 {
		r = r.Canonical()
		if err := r.Validate(); err != nil {
			errs = append(errs, err)
		}
	}
	if len(errs) > 0 {
		return Route{}, fmt.Errorf("route %q: %w", strings.TrimSpace(s), errors.Join(errs...))
	}
	return r, nil
}

func parseRate(s string) (Action, error) {
	num, kind, div := s, ActionKind(0), uint64(1)
	switch {
	case strings.HasSuffix(s, "bps"):
		num, kind, div = strings.TrimSuffix(s, "bps"), RateBytes, 8
	case strings.HasSuffix(s, "pps"):
		num, kind = strings.TrimSuffix(s, "pps"), RatePackets
	default:
		return Action{}, fmt.Errorf("rate %q has no unit: use bps, kbps, Mbps, Gbps, pps, kpps or Mpps", s)
	}
	scale := uint64(1)
	if n := len(num); n > 0 {
		switch num[n-1] {
		case 'k':
			scale, num = 1e3, num[:n-1]
		case 'M':
			scale, num = 1e6, num[:n-1]
		case 'G':
			scale, num = 1e9, num[:n-1]
		}
	}
	v, err := strconv.ParseUint(num, 10, 64)
	if err != nil {
		return Action{}, fmt.Errorf("rate %q: %q is not a whole number", s, num)
	}
	if v > math.MaxUint64/scale || v*scale/div > MaxRate {
		return Action{}, fmt.Errorf("rate %q is above %s", s, formatRate(MaxRate*8, "bps"))
	}
	if v*scale%div != 0 {
		return Action{}, fmt.Errorf("rate %q is not a whole number of octets per second: the wire carries octets (RFC 8955, section 7.1)", s)
	}
	if v == 0 {
		return Action{}, fmt.Errorf("rate %q: use discard to let nothing pass", s)
	}
	return Action{Kind: kind, Rate: v * scale / div}, nil
}

func parseMatch(m *Match, s string) error {
	f := strings.Fields(s)
	seen := map[string]bool{}
	var errs []error
	for i := 0; i < len(f); i += 2 {
		word := f[i]
		if i+1 == len(f) {
			errs = append(errs, fmt.Errorf("%q stands without a value", word))
			break
		}
		if seen[word] {
			errs = append(errs, fmt.Errorf("%q stands twice: join its values with commas", word))
			continue
		}
		seen[word] = true
		if err := parseComponent(m, word, f[i+1]); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

func parseComponent(m *Match, word, value string) (err error) {
	switch word {
	case "destination":
		m.Destination, m.DestinationOffset, err = parseOffsetPrefix(value)
	case "source":
		m.Source, m.SourceOffset, err = parseOffsetPrefix(value)
	default:
		for _, f := range m.flagged() {
			if f.word == word {
				*f.bits, err = parseBits(value, f.words)
				return wrap(word, err)
			}
		}
		for _, c := range m.numeric() {
			if c.word == word {
				*c.ranges, err = parseRanges(value, c)
				return wrap(word, err)
			}
		}
		return fmt.Errorf("%q is not a component: use destination, source, protocol, port, destination-port, source-port, icmp-type, icmp-code, tcp-flags, length, dscp, fragment or flow-label", word)
	}
	return wrap(word, err)
}

func wrap(word string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", word, err)
}

// ParsePrefix reads a prefix; an address alone is its host prefix. Bits beyond the length must be zero, for a typing
// error there would widen the match.
func ParsePrefix(s string) (netip.Prefix, error) {
	p, err := netip.ParsePrefix(s)
	if err != nil {
		a, aerr := netip.ParseAddr(s)
		if aerr != nil {
			return netip.Prefix{}, fmt.Errorf("%q is not a prefix such as 192.0.2.0/24 or 2001:db8::/32", s)
		}
		if a.Zone() != "" {
			return netip.Prefix{}, fmt.Errorf("%q has a zone, which cannot be announced", s)
		}
		p = netip.PrefixFrom(a, a.BitLen())
	}
	if p.Addr().Is4In6() {
		return netip.Prefix{}, fmt.Errorf("%q is an IPv4-mapped address: write it as IPv4", s)
	}
	if p != p.Masked() {
		return netip.Prefix{}, fmt.Errorf("%q has bits beyond its length: meant is %s or a longer prefix", s, p.Masked())
	}
	return p, nil
}

// parseOffsetPrefix reads a prefix, or ADDR/OFFSET-LENGTH of IPv6 (RFC 8956, section 3.1).
func parseOffsetPrefix(s string) (netip.Prefix, uint8, error) {
	addr, length, ok := strings.Cut(s, "/")
	from, to, isOffset := strings.Cut(length, "-")
	if !ok || !isOffset {
		p, err := ParsePrefix(s)
		return p, 0, err
	}
	offset, err := strconv.ParseUint(from, 10, 8)
	if err != nil || offset == 0 {
		return netip.Prefix{}, 0, fmt.Errorf("%q: the offset %q is not a number from 1 to 127", s, from)
	}
	p, err := ParsePrefix(addr + "/" + to)
	switch {
	case err != nil:
		return netip.Prefix{}, 0, err
	case !p.Addr().Is6():
		return netip.Prefix{}, 0, fmt.Errorf("%q: an offset stands with an IPv6 prefix only", s)
	case int(offset) >= p.Bits():
		return netip.Prefix{}, 0, fmt.Errorf("%q: the offset is not below the length", s)
	case skip(p, uint8(offset)) != p:
		return netip.Prefix{}, 0, fmt.Errorf("%q has bits before its offset, which are not compared: meant is %s/%s", s, skip(p, uint8(offset)).Addr(), length)
	}
	return p, uint8(offset), nil
}

func parseRanges(value string, c component) ([]Range, error) {
	var out []Range
	for item := range strings.SplitSeq(value, ",") {
		lo, hi, isRange := strings.Cut(item, "-")
		if !isRange {
			hi = lo
		}
		l, err := parseNumber(lo, c)
		if err != nil {
			return nil, err
		}
		h, err := parseNumber(hi, c)
		if err != nil {
			return nil, err
		}
		if l > h {
			return nil, fmt.Errorf("%q ends before it begins", item)
		}
		out = append(out, Range{l, h})
	}
	return out, nil
}

func parseNumber(s string, c component) (uint32, error) {
	if c.word == "protocol" {
		if p, ok := protocolWords[s]; ok {
			return p, nil
		}
	}
	v, err := strconv.ParseUint(s, 10, 32)
	if err != nil {
		return 0, fmt.Errorf("%q is not a number from 0 to %d", s, c.max)
	}
	if v > uint64(c.max) {
		return 0, fmt.Errorf("%s is above %d", s, c.max)
	}
	return uint32(v), nil
}

func parseBits(value string, words []string) ([]Bits, error) {
	var out []Bits
	for item := range strings.SplitSeq(value, ",") {
		var b Bits
		for w := range strings.SplitSeq(item, "&") {
			name, negated := strings.CutPrefix(w, "!")
			bit := -1
			for i, known := range words {
				if known == name {
					bit = i
				}
			}
			if bit < 0 {
				return nil, fmt.Errorf("%q is not one of %s", name, strings.Join(words, ", "))
			}
			if negated {
				b.Clear |= 1 << bit
			} else {
				b.Set |= 1 << bit
			}
		}
		out = append(out, b)
	}
	return out, nil
}

// MarshalText writes the text form.
func (r Route) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

// UnmarshalText reads the text form.
func (r *Route) UnmarshalText(b []byte) error {
	p, err := Parse(string(b))
	if err != nil {
		return err
	}
	*r = p
	return nil
}
