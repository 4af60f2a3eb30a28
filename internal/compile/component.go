package compile

import (
	"slices"

	"github.com/amooglesoft/trafficmonitor/internal/route"
)

// component is one list of a match: alternatives of numbers, or of flags.
type component struct {
	word   string
	ranges func(*route.Match) *[]route.Range
	bits   func(*route.Match) *[]route.Bits
}

// components lists those of a match beside the prefixes, in the order of their types (RFC 8955, section 4.2.2).
var components = []component{
	{word: "protocol", ranges: func(m *route.Match) *[]route.Range { return &m.Protocol }},
	{word: "port", ranges: func(m *route.Match) *[]route.Range { return &m.Port }},
	{word: "destination-port", ranges: func(m *route.Match) *[]route.Range { return &m.DestinationPort }},
	{word: "source-port", ranges: func(m *route.Match) *[]route.Range { return &m.SourcePort }},
	{word: "icmp-type", ranges: func(m *route.Match) *[]route.Range { return &m.ICMPType }},
	{word: "icmp-code", ranges: func(m *route.Match) *[]route.Range { return &m.ICMPCode }},
	{word: "tcp-flags", bits: func(m *route.Match) *[]route.Bits { return &m.TCPFlags }},
	{word: "length", ranges: func(m *route.Match) *[]route.Range { return &m.Length }},
	{word: "dscp", ranges: func(m *route.Match) *[]route.Range { return &m.DSCP }},
	{word: "fragment", bits: func(m *route.Match) *[]route.Bits { return &m.Fragment }},
	{word: "flow-label", ranges: func(m *route.Match) *[]route.Range { return &m.FlowLabel }},
}

// Components returns the words of every component, in the order of their types.
func Components() []string {
	words := []string{"destination", "source"}
	for _, c := range components {
		words = append(words, c.word)
	}
	return words
}

// has reports whether the component of this word is set.
func has(m *route.Match, word string) bool {
	switch word {
	case "destination":
		return m.Destination.IsValid()
	case "source":
		return m.Source.IsValid()
	}
	for _, c := range components {
		if c.word == word {
			return c.alternatives(m) > 0
		}
	}
	return false
}

// alternatives counts the ranges or tests of the component.
func (c component) alternatives(m *route.Match) int {
	if c.bits != nil {
		return len(*c.bits(m))
	}
	return len(*c.ranges(m))
}

// items counts the operator-value pairs the component is encoded as.
func (c component) items(m *route.Match) int {
	n := 0
	for i := range c.alternatives(m) {
		n += c.itemsOf(m, i)
	}
	return n
}

// itemsOf counts those of one alternative: a range takes two, and so does a test for set and clear bits at once (RFC 8955,
// section 4.2.1.2).
func (c component) itemsOf(m *route.Match, i int) int {
	if c.bits != nil {
		b := (*c.bits(m))[i]
		if b.Set != 0 && b.Clear != 0 {
			return 2
		}
		return 1
	}
	if r := (*c.ranges(m))[i]; r.Lo != r.Hi {
		return 2
	}
	return 1
}

// octets is the most an item takes on the wire.
func (c component) octets() int {
	if c.word == "flow-label" {
		return 5
	}
	return 3
}

// part returns m with the alternatives from lo to hi of the component only.
func (c component) part(m route.Match, lo, hi int) route.Match {
	if c.bits != nil {
		*c.bits(&m) = slices.Clone((*c.bits(&m))[lo:hi])
		return m
	}
	*c.ranges(&m) = slices.Clone((*c.ranges(&m))[lo:hi])
	return m
}

// without returns m without the component.
func (c component) without(m route.Match) route.Match {
	if c.bits != nil {
		*c.bits(&m) = nil
		return m
	}
	*c.ranges(&m) = nil
	return m
}
