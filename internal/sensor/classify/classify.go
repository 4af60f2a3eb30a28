// Package classify tells a frame's target and vector in Go, as the sensor's kernel program does in C.
//
// It is written from the same definitions, not from that program, so that a test can feed both the same packets; and
// it needs no kernel, so that a capture can be replayed anywhere.
package classify

import (
	"encoding/binary"
	"net/netip"

	"github.com/amooglesoft/trafficmonitor/internal/traffic"
	"github.com/amooglesoft/trafficmonitor/internal/vector"
)

// Ports maps UDP ports to vectors.
type Ports map[uint16]vector.ID

// DefaultPorts returns the source ports of the vector table's reflection vectors.
func DefaultPorts() Ports {
	p := Ports{}
	for _, v := range vector.Reflections() {
		for _, port := range v.SourcePorts {
			p[port] = v.ID
		}
	}
	return p
}

// Services returns the destination ports of the vector table.
func Services() Ports {
	p := Ports{}
	for _, v := range vector.All() {
		for _, port := range v.DestinationPorts {
			p[port] = v.ID
		}
	}
	return p
}

// ICMPTypes returns the vector of every type of ICMP and of ICMPv6.
func ICMPTypes() (v4, v6 [256]vector.ID) {
	for i := range v4 {
		v4[i], v6[i] = vector.ICMP, vector.ICMP
	}
	for _, v := range vector.All() {
		for _, n := range v.ICMPTypes {
			v4[n] = v.ID
		}
		for _, n := range v.ICMPv6Types {
			v6[n] = v.ID
		}
	}
	return v4, v6
}

var (
	services     = Services()
	icmp4, icmp6 = ICMPTypes()
)

// Frame is a packet as it was captured.
type Frame struct {
	// Data begins with the Ethernet header.
	Data []byte
	// Wire is the frame's length on the wire; 0 means that Data is all of it.
	Wire int
	// Direction says whose address the target is: the destination's of an inbound packet, else the source's.
	Direction vector.Direction
	// Merged is the payload of each packet that GRO merged into this one; 0 means that nothing was merged.
	Merged int
	// Segments is the number of packets that were merged; 0 means that it follows from Merged.
	Segments int
	// Cut is set for frames that may have been cut short before they were captured: their length fields are believed.
	Cut bool
	// Decapsulate is the tunnels whose inner packet is counted instead of the outer one.
	Decapsulate Tunnels
}

// Reason says why a packet is malformed.
type Reason uint8

// The reasons; their order is that of the programs' counters.
const (
	// Short is a frame, or what was captured of it, that ends inside of a header.
	Short Reason = iota
	// IPHeader is a wrong version or header length.
	IPHeader
	// IPLength is an IP length that contradicts the header's or the frame's.
	IPLength
	// Extensions is more IPv6 extension headers than we follow, or one that ends behind the packet.
	Extensions
	// Transport is a TCP, UDP, ICMP or other header that does not fit, or contradicts the IP length.
	Transport
	// Tunnel is a tunnel to be decapsulated that carries no sound IP packet.
	Tunnel
	// Reasons is how many there are.
	Reasons = 6
)

// String returns the reason's name, as in metrics.
func (r Reason) String() string {
	names := [Reasons]string{"short", "ip-header", "ip-length", "extensions", "transport", "tunnel"}
	if int(r) < len(names) {
		return names[r]
	}
	return "unknown"
}

// Result is what a frame is counted as.
type Result struct {
	// IP is false for frames that are neither IPv4 nor IPv6.
	IP bool
	// Target is the destination, or the source of an outbound frame; the zero Addr when the frame is too short to hold one.
	Target netip.Addr
	// Vector is the traffic class.
	Vector vector.ID
	// Reason says why the vector is Malformed.
	Reason Reason
	// Length is the bytes from the IP header on, of all segments.
	Length int
	// Segments is the number of packets.
	Segments int

	// What follows is not counted, but good to know.

	// L3 is the offset of the IP header that counts.
	L3 int
	// Tunnel is the tunnel the packet was taken out of, or 0.
	Tunnel Tunnels
	// Source and Destination are those of the IP header.
	Source, Destination netip.Addr
	// TTL is the time to live or the hop limit.
	TTL uint8
	// Protocol is that of the header behind the IP header and its extensions.
	Protocol uint8
	// Ports tells whether SourcePort and DestinationPort are known: TCP or UDP, and no later fragment.
	Ports                       bool
	SourcePort, DestinationPort uint16
	// Flags are those of TCP.
	Flags uint8
	// Type and Code are those of ICMP, where ICMP says that there is such a header.
	ICMP       bool
	Type, Code uint8
	// Fragment tells whether the packet is a fragment, the first one included; Bits are those of traffic.Sample.
	Fragment bool
	Bits     uint8
	// DSCP and, of IPv6, the flow label.
	DSCP      uint8
	FlowLabel uint32
}

const maxExtensions = 8

// EtherTypes.
const (
	ethernetIPv4        = 0x0800
	ethernetIPv6        = 0x86dd
	transparentEthernet = 0x6558
)

// isTag tells whether the EtherType is that of a VLAN tag; 0x9100 is 802.1ad before it was a standard.
func isTag(kind uint16) bool { return kind == 0x8100 || kind == 0x88a8 || kind == 0x9100 }

// Classify returns what f is counted as; ports are the source ports of reflection vectors.
func Classify(f Frame, ports Ports) Result {
	wire := f.Wire
	if wire == 0 {
		wire = len(f.Data)
	}
	d := dissector{frame: f, ports: ports, cut: f.Cut, merged: max(0, f.Merged)}
	d.result = Result{IP: true, Vector: vector.Malformed, Reason: Short, Segments: 1}
	if f.Merged > 0 {
		d.result.Segments = max(1, f.Segments)
	}
	d.segments = d.result.Segments
	kind, rest, ok := ethernet(f.Data)
	if !ok {
		return d.result
	}
	d.result.L3 = len(f.Data) - len(rest)
	d.available = wire - d.result.L3
	d.result.Length = d.available
	switch kind {
	case ethernetIPv4:
		d.ipv4(rest)
	case ethernetIPv6:
		d.ipv6(rest)
	default:
		d.result.IP = false
	}
	d.open()
	return d.result
}

// Packet classifies an inbound packet that begins with its IP header, such as a sample.
func Packet(data []byte, length int, ports Ports) Result {
	return PacketOf(vector.Inbound, data, length, ports)
}

// PacketOf classifies a packet that begins with its IP header; length is its own, data what there is of it.
func PacketOf(direction vector.Direction, data []byte, length int, ports Ports) Result {
	d := dissector{frame: Frame{Direction: direction}, ports: ports, available: length, segments: 1}
	d.result = Result{IP: true, Vector: vector.Malformed, Reason: Short, Segments: 1, Length: length}
	if len(data) == 0 {
		return d.result
	}
	switch data[0] >> 4 {
	case 4:
		d.ipv4(data)
	case 6:
		d.ipv6(data)
	default:
		d.result.Reason = IPHeader
	}
	return d.result
}

// ethernet steps over the header and up to two VLAN tags; ok is false when b ends before.
func ethernet(b []byte) (kind uint16, rest []byte, ok bool) {
	if len(b) < 14 {
		return 0, nil, false
	}
	kind, rest = binary.BigEndian.Uint16(b[12:]), b[14:]
	for range 2 {
		if !isTag(kind) {
			break
		}
		if len(rest) < 4 {
			return 0, nil, false
		}
		kind, rest = binary.BigEndian.Uint16(rest[2:]), rest[4:]
	}
	return kind, rest, true
}

type dissector struct {
	result    Result
	frame     Frame
	ports     Ports
	available int // octets from the IP header on, as the layer below says
	cut       bool
	merged    int
	segments  int  // as the frame says
	sound     bool // the last IP header is
	inside    bool // of a tunnel
	inner     tunnel
}

func (d *dissector) malformed(why Reason) { d.result.Vector, d.result.Reason = vector.Malformed, why }

func (d *dissector) addresses(source, destination netip.Addr) {
	r := &d.result
	r.Source, r.Destination, r.Target = source, destination, destination
	if d.frame.Direction == vector.Outbound {
		r.Target = source
	}
}

func (d *dissector) ipv4(b []byte) {
	if len(b) < 20 {
		return
	}
	r := &d.result
	d.addresses(netip.AddrFrom4([4]byte(b[12:16])), netip.AddrFrom4([4]byte(b[16:20])))
	header, total := int(b[0]&15)*4, int(binary.BigEndian.Uint16(b[2:]))
	if d.merged > 0 {
		total = d.available
	}
	if b[0]>>4 != 4 || header < 20 {
		d.malformed(IPHeader)
		return
	}
	if total < header || total > d.available && !d.cut {
		d.malformed(IPLength)
		return
	}
	d.sound = true
	r.Length, r.TTL, r.Protocol = total, b[8], b[9]
	flags := binary.BigEndian.Uint16(b[6:])
	r.Fragment = flags&0x3fff != 0
	r.DSCP, r.Bits = b[1]>>2, fragmentBits(flags&0x1fff != 0, flags&0x2000 != 0)
	if flags&0x4000 != 0 {
		r.Bits |= traffic.DontFragment
	}
	if flags&0x1fff != 0 {
		r.Vector = vector.Fragment
		return
	}
	proto := b[9]
	if proto == 58 { // ICMPv6 is not a protocol of IPv4
		proto = 255
	}
	d.transport(tail(b, header), proto, total-header, header)
}

func (d *dissector) ipv6(b []byte) {
	if len(b) < 40 {
		return
	}
	r := &d.result
	d.addresses(netip.AddrFrom16([16]byte(b[8:24])), netip.AddrFrom16([16]byte(b[24:40])))
	total := int(binary.BigEndian.Uint16(b[4:])) + 40
	if total == 40 || d.merged > 0 { // RFC 2675
		total = d.available
	}
	if b[0]>>4 != 6 {
		d.malformed(IPHeader)
		return
	}
	if total < 40 || total > d.available && !d.cut {
		d.malformed(IPLength)
		return
	}
	d.sound = true
	r.Length, r.TTL = total, b[7]
	r.DSCP, r.FlowLabel = b[0]<<2&0x3c|b[1]>>6, binary.BigEndian.Uint32(b)&0xfffff
	proto, at := b[6], 40
	for n := 0; ; n++ {
		var size int
		r.Protocol = proto
		x := tail(b, at)
		switch proto {
		case 0, 43, 60, 44, 51:
		default:
			if proto == 1 { // ICMP is not a protocol of IPv6
				proto = 255
			}
			d.transport(x, proto, total-at, at)
			return
		}
		if n == maxExtensions || total-at < 8 {
			d.malformed(Extensions)
			return
		}
		if len(x) < 8 {
			d.malformed(Short)
			return
		}
		switch proto {
		case 44:
			word := binary.BigEndian.Uint16(x[2:])
			if word&0xfff9 != 0 { // not an atomic one, RFC 6946
				r.Fragment = true
				r.Bits = fragmentBits(word>>3 != 0, word&1 != 0)
			}
			if word>>3 != 0 {
				r.Protocol, r.Vector = x[0], vector.Fragment
				return
			}
			size = 8
		case 51:
			size = (int(x[1]) + 2) * 4
		default:
			size = (int(x[1]) + 1) * 8
		}
		if size > total-at {
			d.malformed(Extensions)
			return
		}
		proto, at = x[0], at+size
	}
}

// least is the smallest header of a protocol.
func least(proto uint8) int {
	switch proto {
	case 6, 4:
		return 20
	case 41:
		return 40
	case 17, 50:
		return 8
	case 1, 58, 47:
		return 4
	}
	return 0
}

// transport classifies by the header at b, to which rest octets belong according to the IP header.
func (d *dissector) transport(b []byte, proto uint8, rest, headers int) {
	r := &d.result
	need := least(proto)
	if rest < need {
		d.malformed(Transport)
		return
	}
	read := min(need, 4)
	if proto == 6 || proto == 17 {
		read = need
	}
	if len(b) < read {
		d.malformed(Short)
		return
	}
	switch proto {
	case 6:
		if need = int(b[12]>>4) * 4; need < 20 || need > rest {
			d.malformed(Transport)
			return
		}
		r.Flags = b[13]
		r.Vector = tcp(b[13])
	case 17:
		length := int(binary.BigEndian.Uint16(b[4:]))
		if d.merged == 0 {
			jumbo := length == 0 && rest > 0xffff
			if length < 8 && !jumbo || length > rest && !r.Fragment {
				d.malformed(Transport)
				return
			}
		}
		r.Vector = d.udp(binary.BigEndian.Uint16(b), binary.BigEndian.Uint16(b[2:]))
	case 1:
		r.ICMP, r.Type, r.Code, r.Vector = true, b[0], b[1], icmp4[b[0]]
	case 58:
		r.ICMP, r.Type, r.Code, r.Vector = true, b[0], b[1], icmp6[b[0]]
	case 47:
		r.Vector = vector.GRE
	case 50:
		r.Vector = vector.ESP
	case 4, 41:
		r.Vector = vector.IPIP
	default:
		r.Vector = vector.OtherProto
	}
	ported := proto == 6 || proto == 17
	if ported {
		r.Ports, r.SourcePort, r.DestinationPort = true, binary.BigEndian.Uint16(b), binary.BigEndian.Uint16(b[2:])
	}
	if r.Fragment && (proto != 17 || r.Vector == vector.UDPOther) {
		r.Vector = vector.FirstFragment
	}
	if !r.Fragment && !d.inside {
		d.tunnel(b, proto, rest)
	}
	if d.merged == 0 || !ported {
		return
	}
	if r.Segments == 1 && rest > need {
		r.Segments = (rest - need + d.merged - 1) / d.merged
	}
	r.Length += (r.Segments - 1) * (headers + need)
}

// udp returns the vector of a datagram by its ports. An outbound one to a reflector is a request, one from a reflector's
// port an answer.
func (d *dissector) udp(source, destination uint16) vector.ID {
	if d.frame.Direction == vector.Outbound {
		if v, ok := d.ports[destination]; ok {
			return v
		}
		if _, ok := d.ports[source]; ok {
			return vector.ReflectorAnswer
		}
	} else if v, ok := d.ports[source]; ok {
		return v
	}
	if v, ok := services[destination]; ok {
		return v
	}
	return vector.UDPOther
}

func tcp(flags uint8) vector.ID {
	fin, syn, rst, ack := flags&1 != 0, flags&2 != 0, flags&4 != 0, flags&16 != 0
	switch {
	case flags&0x3f == 0, syn && fin, syn && rst, fin && !ack:
		return vector.TCPInvalid
	case syn && ack:
		return vector.SYNACK
	case syn:
		return vector.SYN
	case rst:
		return vector.RST
	case fin:
		return vector.FIN
	case ack:
		return vector.ACK
	}
	return vector.TCPOther
}

// fragmentBits are those of a packet by its offset and whether more follow; none when it is no fragment.
func fragmentBits(later, more bool) (bits uint8) {
	switch {
	case later && more:
		return traffic.IsFragment
	case later:
		return traffic.IsFragment | traffic.LastFragment
	case more:
		return traffic.FirstFragment
	}
	return 0
}

func tail(b []byte, at int) []byte {
	if at >= len(b) {
		return nil
	}
	return b[at:]
}
