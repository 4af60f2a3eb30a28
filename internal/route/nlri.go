package route

import (
	"errors"
	"fmt"
	"net/netip"
)

// MaxNLRI is the longest FlowSpec NLRI we encode, in octets after the length octet. RFC 8955, section 4.1 allows 4095,
// but implementations have made a wreck of 240 and more, which has a length of two octets: GoBGP v3.37 (osrg/gobgp#3596), and a
// router read it as match-everything.
const MaxNLRI = 238

// ErrTooLong is what AppendFlowSpec returns, wrapped, for a match that needs more than MaxNLRI octets.
var ErrTooLong = errors.New("the rule does not fit a FlowSpec NLRI we can send")

// Operator octets of RFC 8955, section 4.2.1. The first three are shared by numeric and bitmask operators.
const (
	opEnd   = 0x80 // last item of the component
	opAnd   = 0x40 // joined to the item before by AND
	opTwo   = 0x10 // the value takes two octets
	opFour  = 0x20 // four
	opLess  = 0x04
	opMore  = 0x02
	opEqual = 0x01
	opNot   = 0x02 // bitmask: negate
	opMatch = 0x01 // bitmask: all bits of the value, not just any
)

// AppendFlowSpec appends the FlowSpec NLRI of m (RFC 8955, section 4; RFC 8956 for IPv6) to dst, its length octet first.
// There is exactly one encoding of what a match means: routers tell rules apart by these octets.
//
// A single value is written "== v", a range ">= lo AND <= hi", in as few octets as the value fits. Flags that must be set
// are written with the match bit (all of them), flags that must be clear as NOT without it (none of them).
func AppendFlowSpec(dst []byte, m Match) ([]byte, error) {
	r := Route{Match: m, Action: Action{Kind: Discard}}.Canonical()
	if err := r.Validate(); err != nil {
		return dst, fmt.Errorf("encode %q: %w", m, err)
	}
	m = r.Match

	start := len(dst)
	b := append(dst, 0) // the length, known below
	b = appendPrefix(b, 1, m.Destination, m.DestinationOffset)
	b = appendPrefix(b, 2, m.Source, m.SourceOffset)
	b = appendParts(b, m)

	n := len(b) - start - 1
	if n > MaxNLRI {
		return dst, fmt.Errorf("%w: %d octets, %d are possible: use ranges for lists of values, or split the rule", ErrTooLong, n, MaxNLRI)
	}
	b[start] = byte(n)
	return b, nil
}

// appendParts appends the components behind the prefixes.
func appendParts(b []byte, m Match) []byte {
	for _, p := range m.parts() {
		if c := p.component; c.ranges != nil {
			b = appendRanges(b, c.kind, *c.ranges)
		} else {
			b = appendBits(b, p.flags.kind, *p.flags.bits)
		}
	}
	return b
}

// appendPrefix writes a prefix. In IPv6 the offset stands behind the length, and the bits between the two follow, moved
// to the front (RFC 8956, section 3.1).
func appendPrefix(b []byte, kind uint8, p netip.Prefix, offset uint8) []byte {
	if !p.IsValid() {
		return b
	}
	b = append(b, kind, byte(p.Bits()))
	if p.Addr().Is4() {
		return append(b, p.Addr().AsSlice()[:(p.Bits()+7)/8]...)
	}
	b = append(b, offset)
	raw := p.Addr().As16()
	octets, shift := int(offset)/8, offset%8
	for i := range (p.Bits() - int(offset) + 7) / 8 {
		v := raw[octets+i] << shift
		if next := octets + i + 1; shift > 0 && next < len(raw) {
			v |= raw[next] >> (8 - shift)
		}
		b = append(b, v)
	}
	return b
}

func appendRanges(b []byte, kind uint8, rs []Range) []byte {
	if len(rs) == 0 {
		return b
	}
	b = append(b, kind)
	last := len(b)
	for _, r := range rs {
		if r.Lo == r.Hi {
			last = len(b)
			b = appendValue(b, opEqual, r.Lo)
			continue
		}
		b = appendValue(b, opMore|opEqual, r.Lo)
		last = len(b)
		b = appendValue(b, opAnd|opLess|opEqual, r.Hi)
	}
	b[last] |= opEnd
	return b
}

func appendValue(b []byte, op byte, v uint32) []byte {
	switch {
	case v <= 0xff:
		return append(b, op, byte(v))
	case v <= 0xffff:
		return append(b, op|opTwo, byte(v>>8), byte(v))
	}
	return append(b, op|opFour, byte(v>>24), byte(v>>16), byte(v>>8), byte(v))
}

func appendBits(b []byte, kind uint8, bs []Bits) []byte {
	if len(bs) == 0 {
		return b
	}
	b = append(b, kind)
	last := len(b)
	for _, x := range bs {
		and := byte(0)
		if x.Set != 0 {
			last = len(b)
			b = appendValue(b, opMatch, uint32(x.Set))
			and = opAnd
		}
		if x.Clear != 0 {
			last = len(b)
			b = appendValue(b, and|opNot, uint32(x.Clear))
		}
	}
	b[last] |= opEnd
	return b
}
