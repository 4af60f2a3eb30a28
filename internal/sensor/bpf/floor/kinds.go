package floor

import (
	"encoding/binary"
	"net/netip"
	"slices"
)

// Door is where a program meets the packet.
type Door string

// The doors.
const (
	Ingress Door = "tcx"    // of a host interface
	Egress  Door = "egress" // tcx, too
	XDP     Door = "xdp"    // of a mirror port
)

// Kind is one kind of packet.
type Kind struct {
	Name  string
	Doors []Door
	Says  string

	frame []byte
	scene scene
	// at is where in the frame the 16 bits lie that change from packet to packet; 0: every packet is the same.
	at int
}

// scene says how the sensor is set up for a kind.
type scene int

const (
	plain  scene = iota // default sizes, one target
	roomy4              // a slot for each of the rotating IPv4 targets
	roomy6              // and IPv6
	scarce              // default sizes, so rotating targets find no slot
	hot                 // default sizes, and the targets are watched closely: sketched, sampled more, no triggers
)

// Offsets of what rotates, in an untagged frame.
const (
	lowSource4, lowTarget4 = 14 + 14, 14 + 18
	lowSource6, lowTarget6 = 14 + 22, 14 + 38
)

var (
	stranger4 = netip.MustParseAddr("198.51.100.7")
	stranger6 = netip.MustParseAddr("2001:db9:ffff::1")
	other4    = netip.MustParseAddr("203.0.113.9")
	other6    = netip.MustParseAddr("2001:db9::9")
)

// Kinds lists the kinds of packets a sensor meets, IPv4 first.
func Kinds() []Kind {
	in, out := []Door{Ingress, XDP}, []Door{Egress}
	big := make([]byte, 100)
	var list []Kind
	for _, f := range []struct {
		suffix                      string
		ip                          func(source, target netip.Addr, protocol uint8, l4 []byte) []byte
		stranger, host, other       netip.Addr
		icmp                        uint8
		ether                       uint16
		lowSource, lowTarget        int
		room                        scene
		fragment, malformed, longer func(packet []byte) []byte
		longerName, longerSays      string
	}{
		{
			"4", ipv4, stranger4, host4, other4, 1, 0x0800, lowSource4, lowTarget4, roomy4,
			laterFragment4, func(p []byte) []byte { p[2] = 0x40; return p }, options4, "options", "40 octets of options",
		},
		{
			"6", ipv6, stranger6, host6, other6, 58, 0x86dd, lowSource6, lowTarget6, roomy6,
			laterFragment6, func(p []byte) []byte { p[4] = 0x40; return p }, extensions6, "extensions", "hop-by-hop and destination options, 8 octets each",
		},
	} {
		add := func(name, says string, doors []Door, s scene, at int, frame []byte) {
			list = append(list, Kind{name + f.suffix, doors, says, frame, s, at})
		}
		ether := func(packet []byte) []byte { return ethernet(f.ether, packet) }
		dns := f.ip(f.stranger, f.host, 17, udp(53, 4444, big))
		add("syn", "TCP SYN", in, plain, 0, ether(f.ip(f.stranger, f.host, 6, tcp(2))))
		add("ack", "TCP ACK", in, plain, 0, ether(f.ip(f.stranger, f.host, 6, tcp(16))))
		add("udp", "UDP from a port without meaning", in, plain, 0, ether(f.ip(f.stranger, f.host, 17, udp(9999, 4444, big))))
		add("dns", "UDP from port 53", in, plain, 0, ether(dns))
		add("icmp", "echo request", in, plain, 0, ether(f.ip(f.stranger, f.host, f.icmp, append([]byte{map[uint8]byte{1: 8, 58: 128}[f.icmp]}, big...))))
		add("fragment", "later fragment", in, plain, 0, ether(f.fragment(slices.Clone(dns))))
		add("vlan", "UDP from port 53 behind one tag", in, plain, 0, ethernet(0x8100, tag(f.ether, dns)))
		add("qinq", "the same behind two tags", in, plain, 0, ethernet(0x88a8, tag(0x8100, tag(f.ether, dns))))
		add(f.longerName, "UDP from port 53, "+f.longerSays, in, plain, 0, ether(f.longer(slices.Clone(dns))))
		add("malformed", "length beyond the frame's end", in, plain, 0, ether(f.malformed(slices.Clone(dns))))
		add("unprotected", "to nobody we protect", in, plain, 0, ether(f.ip(f.stranger, f.other, 17, udp(53, 4444, big))))
		add("rotating", "UDP from port 53 to 65,536 targets by turns, each with a slot", in, f.room, f.lowTarget, ether(dns))
		add("scan", "the same, with 4,096 slots", in, scarce, f.lowTarget, ether(dns))
		add("hot", "UDP from port 53 and 65,536 sources by turns, to a target that is watched closely", in, hot, f.lowSource, ether(dns))
		add("out-ack", "TCP ACK that leaves", out, plain, 0, ether(f.ip(f.host, f.stranger, 6, tcp(16))))
		add("out-udp", "UDP that leaves", out, plain, 0, ether(f.ip(f.host, f.stranger, 17, udp(9999, 4444, big))))
		add("out-request", "UDP to port 53 that leaves", out, plain, 0, ether(f.ip(f.host, f.stranger, 17, udp(4444, 53, big))))
		add("out-foreign", "leaves, from an address that is not ours", out, plain, 0, ether(f.ip(f.stranger, f.other, 17, udp(9999, 4444, big))))
		add("out-hot", "UDP to 65,536 addresses by turns, from a target that is watched closely", out, hot, f.lowTarget, ether(f.ip(f.host, f.stranger, 17, udp(9999, 4444, big))))
		add("out-rotating", "UDP that leaves from 65,536 targets by turns, each with a slot", out, f.room, f.lowSource, ether(f.ip(f.host, f.stranger, 17, udp(9999, 4444, big))))
	}
	list = append(list, Kind{"arp", in, "neither IPv4 nor IPv6", ethernet(0x0806, make([]byte, 46)), plain, 0})
	return list
}

func ethernet(protocol uint16, packet []byte) []byte {
	b := []byte{2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1}
	return append(binary.BigEndian.AppendUint16(b, protocol), packet...)
}

func tag(protocol uint16, packet []byte) []byte {
	return append(binary.BigEndian.AppendUint16([]byte{0, 7}, protocol), packet...)
}

func ipv4(source, target netip.Addr, protocol uint8, l4 []byte) []byte {
	b := make([]byte, 20, 20+len(l4))
	b[0], b[8], b[9] = 0x45, 64, protocol
	binary.BigEndian.PutUint16(b[2:], uint16(20+len(l4)))
	copy(b[12:], source.AsSlice())
	copy(b[16:], target.AsSlice())
	return append(b, l4...)
}

func laterFragment4(p []byte) []byte {
	binary.BigEndian.PutUint16(p[6:], 185)
	return p
}

func options4(p []byte) []byte {
	const octets = 40
	p = slices.Insert(p, 20, slices.Repeat([]byte{1}, octets)...)
	p[0] += octets / 4
	binary.BigEndian.PutUint16(p[2:], uint16(len(p)))
	return p
}

func ipv6(source, target netip.Addr, protocol uint8, l4 []byte) []byte {
	b := make([]byte, 40, 40+len(l4))
	b[0], b[6], b[7] = 0x60, protocol, 64
	binary.BigEndian.PutUint16(b[4:], uint16(len(l4)))
	copy(b[8:], source.AsSlice())
	copy(b[24:], target.AsSlice())
	return append(b, l4...)
}

// before6 puts an extension header of 8 octets before what is there.
func before6(p []byte, kind uint8, third uint16) []byte {
	extension := []byte{p[6], 0, byte(third >> 8), byte(third), 0, 0, 0, 0}
	p[6] = kind
	p = slices.Insert(p, 40, extension...)
	binary.BigEndian.PutUint16(p[4:], uint16(len(p)-40))
	return p
}

func laterFragment6(p []byte) []byte { return before6(p, 44, 185<<3) }

func extensions6(p []byte) []byte { return before6(before6(p, 60, 0), 0, 0) }

func udp(source, destination uint16, payload []byte) []byte {
	b := binary.BigEndian.AppendUint16(nil, source)
	b = binary.BigEndian.AppendUint16(b, destination)
	b = binary.BigEndian.AppendUint16(b, uint16(8+len(payload)))
	return append(append(b, 0, 0), payload...)
}

func tcp(flags uint8) []byte {
	b := make([]byte, 20)
	binary.BigEndian.PutUint16(b, 443)
	b[12], b[13] = 5<<4, flags
	return b
}

// Cold tells whether the kind is worth measuring with cold caches, which takes long: one for each family and direction is.
func (k Kind) Cold() bool {
	return slices.Contains([]string{"dns4", "dns6", "out-udp4", "out-udp6"}, k.Name)
}
