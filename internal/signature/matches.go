package signature

import (
	"net/netip"

	"github.com/amooglesoft/trafficmonitor/internal/route"
	"github.com/amooglesoft/trafficmonitor/internal/traffic"
)

// Protocol numbers this package decides by.
const (
	protoTCP = 6
	protoUDP = 17
)

// Matches reports whether a router that follows RFC 8955 and RFC 8956 to the letter takes the packet for one of m. A
// component whose field the packet does not have is false: ports of anything but TCP and UDP and of later fragments
// (RFC 8955, sections 4.2.2.4 to 4.2.2.6), flags of anything but TCP (4.2.2.9), type and code of anything but ICMP. What
// a sample does not hold counts as not there: flow labels, and TCP flags beyond the octet of flags.
func Matches(m route.Match, s *traffic.Sample) bool {
	if !route.Within(m.Destination, m.DestinationOffset, s.Destination) || !route.Within(m.Source, m.SourceOffset, s.Source) {
		return false
	}
	if !inRanges(m.Protocol, uint32(s.Protocol)) || !inRanges(m.Length, uint32(s.Length)) || !inRanges(m.DSCP, uint32(s.DSCP)) {
		return false
	}
	if len(m.FlowLabel) > 0 {
		return false
	}
	if len(m.Port)+len(m.DestinationPort)+len(m.SourcePort) > 0 {
		if !s.HasPorts || !inRanges(m.DestinationPort, uint32(s.DestinationPort)) || !inRanges(m.SourcePort, uint32(s.SourcePort)) ||
			!inRanges(m.Port, uint32(s.SourcePort)) && !inRanges(m.Port, uint32(s.DestinationPort)) {
			return false
		}
	}
	if len(m.ICMPType)+len(m.ICMPCode) > 0 {
		if !s.HasICMP || !inRanges(m.ICMPType, uint32(s.ICMPType)) || !inRanges(m.ICMPCode, uint32(s.ICMPCode)) {
			return false
		}
	}
	if len(m.TCPFlags) > 0 && (!s.HasPorts || s.Protocol != protoTCP || !inBits(m.TCPFlags, uint16(s.TCPFlags))) {
		return false
	}
	return inBits(m.Fragment, uint16(s.Fragment))
}

// inRanges reports whether a component lets v match; an empty one lets everything.
func inRanges(rs []route.Range, v uint32) bool {
	for _, r := range rs {
		if r.Lo <= v && v <= r.Hi {
			return true
		}
	}
	return len(rs) == 0
}

// inBits reports whether a component of flags lets v match; an empty one lets everything.
func inBits(bs []route.Bits, v uint16) bool {
	for _, b := range bs {
		if v&b.Set == b.Set && v&b.Clear == 0 {
			return true
		}
	}
	return len(bs) == 0
}

// field is one field of a packet that a component compares.
type field uint8

// The fields, in the order they are tried.
const (
	protocol field = iota
	sourcePort
	destinationPort
	tcpFlags
	icmpType
	icmpCode
	length
	fragment
	dscp
	source
	fields // how many there are
)

// value returns a field that is a number; ok is false where the packet does not have it.
func (f field) value(s *traffic.Sample) (v uint32, ok bool) {
	switch f {
	case protocol:
		return uint32(s.Protocol), true
	case sourcePort:
		return uint32(s.SourcePort), s.HasPorts
	case destinationPort:
		return uint32(s.DestinationPort), s.HasPorts
	case tcpFlags:
		return uint32(s.TCPFlags), s.HasPorts && s.Protocol == protoTCP
	case icmpType:
		return uint32(s.ICMPType), s.HasICMP
	case icmpCode:
		return uint32(s.ICMPCode), s.HasICMP
	case length:
		return uint32(s.Length), true
	case fragment:
		return uint32(s.Fragment), true
	case dscp:
		return uint32(s.DSCP), true
	}
	return 0, false
}

// top is the largest value of a field.
func (f field) top() uint32 {
	switch f {
	case protocol, icmpType, icmpCode, tcpFlags:
		return 0xff
	case dscp:
		return 0x3f
	case fragment:
		return 0x0f
	}
	return 0xffff
}

// ranges returns the component of m that compares a field of numbers, or nil for another field.
func (f field) ranges(m *route.Match) *[]route.Range {
	switch f {
	case protocol:
		return &m.Protocol
	case sourcePort:
		return &m.SourcePort
	case destinationPort:
		return &m.DestinationPort
	case icmpType:
		return &m.ICMPType
	case icmpCode:
		return &m.ICMPCode
	case length:
		return &m.Length
	case dscp:
		return &m.DSCP
	}
	return nil
}

// bits returns the component of m that compares a field of flags, or nil for another field.
func (f field) bits(m *route.Match) *[]route.Bits {
	switch f {
	case tcpFlags:
		return &m.TCPFlags
	case fragment:
		return &m.Fragment
	}
	return nil
}

// test is what one component asks of a packet.
type test struct {
	field  field
	ranges []route.Range
	bits   []route.Bits
	prefix netip.Prefix // of the source
}

// holds reports whether a packet passes the test.
func (t *test) holds(s *traffic.Sample) bool {
	if t.field == source {
		return t.prefix.Contains(s.Source)
	}
	v, ok := t.field.value(s)
	if !ok {
		return false
	}
	if t.field == tcpFlags || t.field == fragment {
		return inBits(t.bits, uint16(v))
	}
	return inRanges(t.ranges, v)
}

// into makes the test a component of m in place of the one there was.
func (t *test) into(m *route.Match) {
	switch t.field {
	case source:
		m.Source = t.prefix
	case tcpFlags, fragment:
		*t.field.bits(m) = t.bits
	default:
		*t.field.ranges(m) = t.ranges
	}
}
