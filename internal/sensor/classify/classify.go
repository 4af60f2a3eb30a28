// Package classify tells a frame's target and vector in Go, as the sensor's kernel program does in C.
//
// It is written from the same definitions, not from that program, so that a test can feed both the same packets; and
// it needs no kernel, so that a capture can be replayed anywhere.
package classify

import (
	"encoding/binary"
	"net/netip"

	"github.com/amooglesoft/trafficmonitor/internal/vector"
)

// Ports maps UDP source ports to reflection vectors.
type Ports map[uint16]vector.ID

// DefaultPorts returns the ports of the vector table.
func DefaultPorts() Ports {
	p := Ports{}
	for _, v := range vector.Reflections() {
		for _, port := range v.SourcePorts {
			p[port] = v.ID
		}
	}
	return p
}

// Frame is a packet as it was captured.
type Frame struct {
	// Data begins with the Ethernet header.
	Data []byte
	// Wire is the frame's length on the wire; 0 means that Data is all of it.
	Wire int
	// Merged is the payload of each packet that GRO merged into this one; 0 means that nothing was merged.
	Merged int
	// Segments is the number of packets that were merged; 0 means that it follows from Merged.
	Segments int
	// Cut is set for frames that may have been cut short before they were captured: their length fields are believed.
	Cut bool
}

// Result is what a frame is counted as.
type Result struct {
	// IP is false for frames that are neither IPv4 nor IPv6.
	IP bool
	// Target is the destination, or the zero Addr when the frame is too short to hold one.
	Target netip.Addr
	// Vector is the traffic class.
	Vector vector.ID
	// Length is the bytes from the IP header on, of all segments.
	Length int
	// Segments is the number of packets.
	Segments int
}

const maxExtensions = 8

// Classify returns what f is counted as.
func Classify(f Frame, ports Ports) Result {
	wire := f.Wire
	if wire == 0 {
		wire = len(f.Data)
	}
	r := Result{IP: true, Vector: vector.Malformed, Segments: 1}
	if f.Merged > 0 {
		r.Segments = max(1, f.Segments)
	}

	rest := f.Data
	if len(rest) < 14 {
		return r
	}
	kind := binary.BigEndian.Uint16(rest[12:])
	rest = rest[14:]
	for range 2 {
		if kind != 0x8100 && kind != 0x88a8 && kind != 0x9100 {
			break
		}
		if len(rest) < 4 {
			return r
		}
		kind = binary.BigEndian.Uint16(rest[2:])
		rest = rest[4:]
	}
	available := wire - (len(f.Data) - len(rest))
	r.Length = available
	d := dissector{result: &r, ports: ports, available: available, cut: f.Cut, merged: max(0, f.Merged)}
	switch kind {
	case 0x0800:
		d.ipv4(rest)
	case 0x86dd:
		d.ipv6(rest)
	default:
		r.IP = false
	}
	return r
}

// Packet classifies a packet that begins with its IP header, such as a sample.
func Packet(data []byte, length int, ports Ports) Result {
	r := Result{IP: true, Vector: vector.Malformed, Segments: 1, Length: length}
	if len(data) == 0 {
		return r
	}
	d := dissector{result: &r, ports: ports, available: length}
	switch data[0] >> 4 {
	case 4:
		d.ipv4(data)
	case 6:
		d.ipv6(data)
	}
	return r
}

type dissector struct {
	result    *Result
	ports     Ports
	available int
	cut       bool
	merged    int
}

func (d *dissector) ipv4(b []byte) {
	if len(b) < 20 {
		return
	}
	r := d.result
	r.Target = netip.AddrFrom4([4]byte(b[16:20]))
	header, total := int(b[0]&15)*4, int(binary.BigEndian.Uint16(b[2:]))
	if d.merged > 0 {
		total = d.available
	}
	if b[0]>>4 != 4 || header < 20 || total < header || total > d.available && !d.cut {
		return
	}
	r.Length = total
	flags := binary.BigEndian.Uint16(b[6:])
	if flags&0x1fff != 0 {
		r.Vector = vector.Fragment
		return
	}
	proto := b[9]
	if proto == 58 { // ICMPv6 is not a protocol of IPv4
		proto = 255
	}
	d.transport(tail(b, header), proto, total-header, header, flags&0x2000 != 0)
}

func (d *dissector) ipv6(b []byte) {
	if len(b) < 40 {
		return
	}
	r := d.result
	r.Target = netip.AddrFrom16([16]byte(b[24:40]))
	total := int(binary.BigEndian.Uint16(b[4:])) + 40
	if total == 40 || d.merged > 0 {
		total = d.available
	}
	if b[0]>>4 != 6 || total < 40 || total > d.available && !d.cut {
		return
	}
	r.Length = total
	proto, at, fragment := b[6], 40, false
	for n := 0; ; n++ {
		var size int
		x := tail(b, at)
		switch proto {
		case 0, 43, 60, 44, 51:
			if n == maxExtensions || total-at < 8 || len(x) < 8 {
				return
			}
		default:
			if proto == 1 { // ICMP is not a protocol of IPv6
				proto = 255
			}
			d.transport(x, proto, total-at, at, fragment)
			return
		}
		switch proto {
		case 44:
			if binary.BigEndian.Uint16(x[2:])>>3 != 0 {
				r.Vector = vector.Fragment
				return
			}
			size, fragment = 8, true
		case 51:
			size = (int(x[1]) + 2) * 4
		default:
			size = (int(x[1]) + 1) * 8
		}
		if size > total-at {
			return
		}
		proto, at = x[0], at+size
	}
}

// transport classifies by the header at b, to which rest octets belong according to the IP header.
func (d *dissector) transport(b []byte, proto uint8, rest, headers int, fragment bool) {
	r := d.result
	need := map[uint8]int{6: 20, 17: 8, 1: 4, 58: 4, 47: 4}[proto]
	if rest < need || len(b) < need {
		return
	}
	switch proto {
	case 6:
		if need = int(b[12]>>4) * 4; need < 20 || need > rest {
			return
		}
		r.Vector = tcp(b[13])
	case 17:
		length := int(binary.BigEndian.Uint16(b[4:]))
		if d.merged == 0 {
			jumbo := length == 0 && rest > 0xffff
			if length < 8 && !jumbo || length > rest && !fragment {
				return
			}
		}
		r.Vector = vector.UDPOther
		if v, ok := d.ports[binary.BigEndian.Uint16(b)]; ok {
			r.Vector = v
		}
	case 1, 58:
		r.Vector = vector.ICMP
		return
	case 47:
		r.Vector = vector.GRE
		return
	default:
		r.Vector = vector.OtherProto
		return
	}
	if d.merged == 0 {
		return
	}
	if r.Segments == 1 && rest > need {
		r.Segments = (rest - need + d.merged - 1) / d.merged
	}
	r.Length += (r.Segments - 1) * (headers + need)
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
	case ack && !fin:
		return vector.ACK
	}
	return vector.TCPOther
}

func tail(b []byte, at int) []byte {
	if at >= len(b) {
		return nil
	}
	return b[at:]
}
