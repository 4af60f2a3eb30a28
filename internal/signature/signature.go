// Package signature says what packets of an attack have in common, as a FlowSpec match: each vector's own mark, and from
// samples of the attack and of what the target normally receives the match that hits most of the one and least of the
// other. It is pure.
package signature

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/amooglesoft/trafficmonitor/internal/route"
	"github.com/amooglesoft/trafficmonitor/internal/vector"
)

// Signature is a match with what is to be known about it.
type Signature struct {
	Match route.Match
	// Broad is set when the match also covers traffic that servers normally receive, so that anything but a blackhole
	// or a generous rate hurts the target itself.
	Broad bool
	Says  string // the match in words
}

// Ports are the UDP source ports that sensors are told to count under another reflection vector than the vector table
// says, or that it does not know; nil is none.
type Ports map[uint16]vector.ID

// of returns the source ports whose packets count under a vector, sorted. Of one that has none left they are those of the vector table:
// whoever still counts under it was told so before, and a rule without a port would hit all UDP.
func (p Ports) of(v vector.Vector) []uint16 {
	ports := slices.DeleteFunc(slices.Clone(v.SourcePorts), func(n uint16) bool { _, told := p[n]; return told })
	for n, to := range p {
		if to == v.ID {
			ports = append(ports, n)
		}
	}
	if len(ports) == 0 {
		return v.SourcePorts
	}
	slices.Sort(ports)
	return ports
}

// For returns the narrowest match this package knows for a vector at a target, where sensors follow the vector table.
func For(target netip.Prefix, v vector.ID) Signature { return Ports(nil).For(target, v) }

// For returns the narrowest match this package knows for a vector at a target.
func (p Ports) For(target netip.Prefix, v vector.ID) Signature {
	m := route.Match{Destination: target}
	info, known := vector.Get(v)
	if !known {
		return Signature{Match: m, Broad: true, Says: "all packets to " + target.String()}
	}
	only := func(n uint32) []route.Range { return []route.Range{{Lo: n, Hi: n}} }
	if info.Protocol >= 0 {
		m.Protocol = only(uint32(info.Protocol))
	}
	broad := false
	switch v {
	case vector.SYN:
		m.TCPFlags = []route.Bits{{Set: route.SYN, Clear: route.ACK}}
	case vector.SYNACK:
		m.TCPFlags = []route.Bits{{Set: route.SYN | route.ACK}}
	case vector.RST:
		m.TCPFlags = []route.Bits{{Set: route.RST}}
	case vector.TCPInvalid:
		m.TCPFlags = []route.Bits{
			{Clear: route.FIN | route.SYN | route.RST | route.ACK},
			{Set: route.FIN, Clear: route.ACK},
			{Set: route.FIN | route.SYN},
			{Set: route.SYN | route.RST},
		}
	case vector.FIN:
		m.TCPFlags, broad = []route.Bits{{Set: route.FIN | route.ACK}}, true
	case vector.Fragment:
		m.Fragment = []route.Bits{{Set: route.IsFragment}}
	case vector.FirstFragment:
		m.Fragment = []route.Bits{{Set: route.FirstFragment}}
	case vector.GRE, vector.ESP:
	case vector.IPIP:
		m.Protocol = append(only(4), only(41)...)
	default:
		broad = true
		if info.ICMP() {
			types := info.ICMPTypes
			m.Protocol, broad = only(1), false
			if target.Addr().Is6() {
				m.Protocol, types = only(58), info.ICMPv6Types
			}
			for _, n := range types {
				m.ICMPType = append(m.ICMPType, only(uint32(n))...)
			}
		}
		for _, n := range p.of(info) {
			m.SourcePort, broad = append(m.SourcePort, only(uint32(n))...), info.Carries
		}
		if info.Reflection() && len(m.SourcePort) == 0 {
			m.Protocol = nil // nothing tells it from other traffic any more: its ports were taken out of the directive
		}
		for _, n := range info.DestinationPorts {
			m.DestinationPort = append(m.DestinationPort, only(uint32(n))...)
		}
	}
	s := Signature{Match: route.Route{Match: m}.Canonical().Match, Broad: broad}
	if broad {
		s.Says = fmt.Sprintf("%s to %s; nothing separates the attack from other traffic of this kind", info.Says, target)
	} else {
		s.Says = fmt.Sprintf("%s to %s", info.Says, target)
	}
	return s
}
