package capture

import (
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
)

// LinkType is the header packets begin with in a capture, by its number in the registry of link types
// (draft-ietf-opsawg-pcaplinktype).
type LinkType uint32

// The link types that are read.
const (
	Null        LinkType = 0 // BSD loopback, byte order of the machine
	Ethernet    LinkType = 1
	PPP         LinkType = 9
	FDDI        LinkType = 10
	Raw12       LinkType = 12 // Raw as some systems number it
	Raw14       LinkType = 14
	PPPSerial   LinkType = 50
	Raw         LinkType = 101 // IPv4 or IPv6
	CiscoHDLC   LinkType = 104
	WiFi        LinkType = 105 // IEEE 802.11
	Loop        LinkType = 108 // OpenBSD loopback, network byte order
	LinuxCooked LinkType = 113
	Radiotap    LinkType = 127 // before IEEE 802.11
	PPI         LinkType = 192 // before another link type, mostly IEEE 802.11
	IPv4        LinkType = 228
	IPv6        LinkType = 229
	NFLOG       LinkType = 239 // what Linux' packet filter logs
	LinuxSLL2   LinkType = 276
)

var linkNames = map[LinkType]string{
	Null: "BSD loopback", Ethernet: "Ethernet", PPP: "PPP", Raw12: "raw IP", Raw14: "raw IP", PPPSerial: "PPP", Raw: "raw IP",
	CiscoHDLC: "Cisco HDLC", Loop: "OpenBSD loopback", LinuxCooked: "Linux cooked v1", IPv4: "raw IPv4", IPv6: "raw IPv6",
	LinuxSLL2: "Linux cooked v2", FDDI: "FDDI", WiFi: "802.11", Radiotap: "802.11 (radiotap)", PPI: "PPI", NFLOG: "NFLOG",
	// Not read, but known by name.
	6: "Token Ring", 119: "802.11 (Prism)", 163: "802.11 (AVS)", 195: "802.15.4", 220: "USB", 253: "netlink",
}

// String returns the name and the number.
func (l LinkType) String() string {
	if name, ok := linkNames[l]; ok {
		return fmt.Sprintf("%s (%d)", name, l)
	}
	return fmt.Sprint(uint32(l))
}

func readable() string {
	var names []string
	for l, name := range linkNames {
		if _, _, ok := l.kind(make([]byte, 64)); ok && !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return strings.Join(names, ", ")
}

// EtherTypes.
const (
	typeIPv4 = 0x0800
	typeIPv6 = 0x86dd
	typeNone = 0xffff // reserved: what is inside is not IP
)

// kind returns the EtherType of what follows the link's header, and how long that is; ok is false for a link type that is
// not read. Of a packet cut inside of the header all is header.
func (l LinkType) kind(b []byte) (kind uint16, header int, ok bool) {
	switch l {
	case FDDI, WiFi, Radiotap, PPI, NFLOG:
		kind, header = l.nested(b)
		return kind, header, true
	}
	need := map[LinkType]int{Null: 4, Loop: 4, PPP: 2, PPPSerial: 4, CiscoHDLC: 4, LinuxCooked: 16, LinuxSLL2: 20}[l]
	if len(b) < need {
		return typeNone, len(b), true
	}
	switch l {
	case Null, Loop:
		family := binary.LittleEndian.Uint32(b)
		if l == Loop || family > 0xffff { // of a machine of the other byte order
			family = binary.BigEndian.Uint32(b)
		}
		switch family {
		case 2:
			kind = typeIPv4
		case 10, 23, 24, 28, 30: // Linux, Windows, the BSDs and macOS
			kind = typeIPv6
		default:
			kind = typeNone
		}
	case Raw, Raw12, Raw14:
		kind = typeIPv4
		if len(b) > 0 && b[0]>>4 == 6 {
			kind = typeIPv6
		}
	case IPv4:
		kind = typeIPv4
	case IPv6:
		kind = typeIPv6
	case PPP, PPPSerial:
		if b[0] == 0x0f || b[0] == 0x8f { // Cisco HDLC on a serial line
			return CiscoHDLC.kind(b)
		}
		if b[0] == 0xff && len(b) >= 4 { // RFC 1662: address and control
			need = 4
		} else {
			need = 2
		}
		kind = typeNone
		switch binary.BigEndian.Uint16(b[need-2:]) {
		case 0x0021:
			kind = typeIPv4
		case 0x0057:
			kind = typeIPv6
		}
	case CiscoHDLC:
		kind = binary.BigEndian.Uint16(b[2:])
	case LinuxCooked:
		kind = binary.BigEndian.Uint16(b[14:])
	case LinuxSLL2:
		kind = binary.BigEndian.Uint16(b)
	default:
		return 0, 0, false
	}
	return kind, need, true
}

// frame makes an Ethernet frame of a packet in buffer, and says how many octets of the packet were the link's header.
func (l LinkType) frame(buffer, packet []byte) (frame []byte, header int, ok bool) {
	if l == Ethernet {
		return packet, 0, true
	}
	kind, header, ok := l.kind(packet)
	if !ok {
		return nil, 0, false
	}
	// The packet lies in the same memory as the buffer, further behind: copying forwards is safe.
	frame = append(buffer, make([]byte, 12)...)
	frame = binary.BigEndian.AppendUint16(frame, kind)
	return append(frame, packet[header:]...), header, true
}
