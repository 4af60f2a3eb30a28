package bpf

import (
	"encoding/binary"
	"net/netip"
	"slices"

	"github.com/amooglesoft/trafficmonitor/internal/vector"
)

// layer is a header and how it tells the one after it.
type layer func(payload []byte) []byte

// frame stacks layers, the outermost first.
func frame(layers ...layer) []byte {
	var b []byte
	for _, l := range slices.Backward(layers) {
		b = l(b)
	}
	return b
}

func payload(n int) layer { return func([]byte) []byte { return make([]byte, n) } }

func raw(b ...byte) layer { return func(p []byte) []byte { return append(slices.Clone(b), p...) } }

func eth(kind uint16) layer {
	return func(p []byte) []byte {
		b := []byte{2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, byte(kind >> 8), byte(kind)}
		return append(b, p...)
	}
}

func tag(id, next uint16) layer {
	return func(p []byte) []byte {
		return append(binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(nil, id), next), p...)
	}
}

type header4 struct {
	dst      string
	proto    uint8
	options  int // octets
	fragment uint16
	total    int // instead of the true length
	first    byte
}

func v4(h header4) layer {
	return func(p []byte) []byte {
		b := make([]byte, 20+h.options)
		b[0] = byte(0x40 | len(b)/4)
		if h.first != 0 {
			b[0] = h.first
		}
		total := len(b) + len(p)
		if h.total != 0 {
			total = h.total
		}
		binary.BigEndian.PutUint16(b[2:], uint16(total))
		binary.BigEndian.PutUint16(b[6:], h.fragment)
		b[8], b[9] = 64, h.proto
		copy(b[12:], []byte{198, 51, 100, 7})
		copy(b[16:], netip.MustParseAddr(h.dst).AsSlice())
		for i := 20; i < len(b); i++ {
			b[i] = 1
		}
		return append(b, p...)
	}
}

type header6 struct {
	dst   string
	next  uint8
	total int // instead of the true payload length
	zero  bool
}

func v6(h header6) layer {
	return func(p []byte) []byte {
		b := make([]byte, 40)
		b[0], b[6], b[7] = 0x60, h.next, 64
		total := len(p)
		if h.total != 0 {
			total = h.total
		}
		if !h.zero {
			binary.BigEndian.PutUint16(b[4:], uint16(total))
		}
		copy(b[8:], netip.MustParseAddr("2001:db8:ffff::1").AsSlice())
		copy(b[24:], netip.MustParseAddr(h.dst).AsSlice())
		return append(b, p...)
	}
}

// ext is an IPv6 extension header of (units+1)*8 octets.
func ext(next, units uint8) layer {
	return func(p []byte) []byte {
		b := make([]byte, (int(units)+1)*8)
		b[0], b[1] = next, units
		return append(b, p...)
	}
}

func frag6(next uint8, offset uint16) layer {
	return func(p []byte) []byte {
		b := make([]byte, 8)
		b[0] = next
		binary.BigEndian.PutUint16(b[2:], offset)
		return append(b, p...)
	}
}

func udp(source uint16) layer { return udpLength(source, 0) }

func udpLength(source uint16, length int) layer { return udpHeader(source, 4444, length) }

func udpPorts(source, destination uint16) layer { return udpHeader(source, destination, 0) }

func udpHeader(source, destination uint16, length int) layer {
	return func(p []byte) []byte {
		b := make([]byte, 8)
		binary.BigEndian.PutUint16(b, source)
		binary.BigEndian.PutUint16(b[2:], destination)
		says := length
		if says == 0 {
			says = 8 + len(p)
		}
		binary.BigEndian.PutUint16(b[4:], uint16(says))
		return append(b, p...)
	}
}

func tcp(flags uint8) layer { return tcpOffset(flags, 5) }

func tcpOffset(flags, words uint8) layer {
	return func(p []byte) []byte {
		b := make([]byte, 20)
		binary.BigEndian.PutUint16(b, 443)
		b[12], b[13] = words<<4, flags
		return append(b, p...)
	}
}

const (
	ip4, ip6, vlan, qinq = 0x0800, 0x86dd, 0x8100, 0x88a8
	host4, host6         = "192.0.2.7", "2001:db8::7"
	fin, syn, rst, ack   = 1, 2, 4, 16
)

// named is a packet and what it is counted as. A target of "" means none, "-" not IP.
type named struct {
	name   string
	frame  []byte
	target string
	vector vector.ID
	length int // 0: the frame's length minus 14
}

func packets() []named {
	v4udp := header4{dst: host4, proto: 17}
	v4tcp := header4{dst: host4, proto: 6}
	v6udp := header6{dst: host6, next: 17}
	list := []named{
		{"udp", frame(eth(ip4), v4(v4udp), udp(9999), payload(100)), host4, vector.UDPOther, 0},
		{"padded", frame(eth(ip4), v4(header4{dst: host4, proto: 17, total: 30}), udpLength(9999, 10), payload(18)), host4, vector.UDPOther, 30},
		{"options", frame(eth(ip4), v4(header4{dst: host4, proto: 17, options: 40}), udp(53), payload(9)), host4, vector.DNS, 0},
		{"vlan", frame(eth(vlan), tag(7, ip4), v4(v4udp), udp(123), payload(9)), host4, vector.NTP, 37},
		{"qinq", frame(eth(qinq), tag(7, vlan), tag(8, ip6), v6(v6udp), udp(123), payload(9)), host6, vector.NTP, 57},
		{"old qinq", frame(eth(0x9100), tag(7, vlan), tag(8, ip4), v4(v4udp), udp(123)), host4, vector.NTP, 28},
		{"three tags", frame(eth(qinq), tag(7, vlan), tag(8, vlan), tag(9, ip4), v4(v4udp), udp(123)), "-", 0, 0},
		{"arp", frame(eth(0x0806), payload(46)), "-", 0, 0},
		{"first fragment", frame(eth(ip4), v4(header4{dst: host4, proto: 17, fragment: 0x2000}), udpLength(53, 3000), payload(1400)), host4, vector.DNS, 0},
		{"later fragment", frame(eth(ip4), v4(header4{dst: host4, proto: 17, fragment: 0x00b9}), payload(1000)), host4, vector.Fragment, 0},
		{"tiny fragment", frame(eth(ip4), v4(header4{dst: host4, proto: 6, fragment: 0x2000}), payload(8)), host4, vector.Malformed, 0},
		{"icmp", frame(eth(ip4), v4(header4{dst: host4, proto: 1}), raw(13), payload(63)), host4, vector.ICMP, 0},
		{"icmp cut short", frame(eth(ip4), v4(header4{dst: host4, proto: 1}), payload(3)), host4, vector.Malformed, 0},
		{"icmpv6 in ipv4", frame(eth(ip4), v4(header4{dst: host4, proto: 58}), payload(64)), host4, vector.OtherProto, 0},
		{"gre", frame(eth(ip4), v4(header4{dst: host4, proto: 47}), payload(64)), host4, vector.GRE, 0},
		{"esp", frame(eth(ip4), v4(header4{dst: host4, proto: 50}), payload(64)), host4, vector.ESP, 0},
		{"esp cut short", frame(eth(ip4), v4(header4{dst: host4, proto: 50}), payload(7)), host4, vector.Malformed, 0},
		{"esp over ipv6", frame(eth(ip6), v6(header6{dst: host6, next: 50}), payload(64)), host6, vector.ESP, 0},
		{"ipip", frame(eth(ip4), v4(header4{dst: host4, proto: 4}), v4(header4{dst: host4, proto: 17}), udp(53)), host4, vector.IPIP, 0},
		{"ipip cut short", frame(eth(ip4), v4(header4{dst: host4, proto: 4}), payload(19)), host4, vector.Malformed, 0},
		{"6in4", frame(eth(ip4), v4(header4{dst: host4, proto: 41}), v6(header6{dst: host6, next: 59})), host4, vector.IPIP, 0},
		{"4in6", frame(eth(ip6), v6(header6{dst: host6, next: 4}), v4(header4{dst: host4, proto: 17}), udp(53)), host6, vector.IPIP, 0},
		{"ospf", frame(eth(ip4), v4(header4{dst: host4, proto: 89}), payload(24)), host4, vector.OtherProto, 0},
		{"bare ip", frame(eth(ip4), v4(header4{dst: host4, proto: 89})), host4, vector.OtherProto, 0},
		{"dns query", frame(eth(ip4), v4(v4udp), udpPorts(9999, 53), payload(30)), host4, vector.DNSQuery, 0},
		{"dns between resolvers", frame(eth(ip4), v4(v4udp), udpPorts(53, 53), payload(30)), host4, vector.DNS, 0},
		{"quic", frame(eth(ip6), v6(v6udp), udpPorts(9999, 443), payload(1200)), host6, vector.QUIC, 0},
		{"first fragment of udp", frame(eth(ip4), v4(header4{dst: host4, proto: 17, fragment: 0x2000}), udpLength(9999, 3000), payload(1400)), host4, vector.FirstFragment, 0},
		{"first fragment of tcp", frame(eth(ip4), v4(header4{dst: host4, proto: 6, fragment: 0x2000}), tcp(syn), payload(20)), host4, vector.FirstFragment, 0},
		{"first fragment of icmp", frame(eth(ip4), v4(header4{dst: host4, proto: 1, fragment: 0x2000}), raw(8), payload(1400)), host4, vector.FirstFragment, 0},
		{"first fragment of what has no ports", frame(eth(ip6), v6(header6{dst: host6, next: 44}), frag6(89, 1), payload(64)), host6, vector.FirstFragment, 0},
		{"atomic fragment", frame(eth(ip6), v6(header6{dst: host6, next: 44}), frag6(6, 0), tcp(syn)), host6, vector.SYN, 0},
		{"atomic fragment with a wrong length", frame(eth(ip6), v6(header6{dst: host6, next: 44}), frag6(17, 0), udpLength(53, 4000), payload(100)), host6, vector.Malformed, 0},
		{"version 5", frame(eth(ip4), v4(header4{dst: host4, proto: 17, first: 0x55}), udp(1), payload(30)), host4, vector.Malformed, 0},
		{"short header length", frame(eth(ip4), v4(header4{dst: host4, proto: 17, first: 0x44}), udp(1), payload(30)), host4, vector.Malformed, 0},
		{"total length too long", frame(eth(ip4), v4(header4{dst: host4, proto: 17, total: 1500}), udp(1), payload(30)), host4, vector.Malformed, 0},
		{"total length too short", frame(eth(ip4), v4(header4{dst: host4, proto: 17, total: 19}), udp(1), payload(30)), host4, vector.Malformed, 0},
		{"udp length too long", frame(eth(ip4), v4(v4udp), udpLength(1, 400), payload(30)), host4, vector.Malformed, 0},
		{"udp length too short", frame(eth(ip4), v4(v4udp), udpLength(1, 7), payload(30)), host4, vector.Malformed, 0},
		{"tcp offset too short", frame(eth(ip4), v4(v4tcp), tcpOffset(syn, 4), payload(30)), host4, vector.Malformed, 0},
		{"tcp offset too long", frame(eth(ip4), v4(v4tcp), tcpOffset(syn, 15), payload(30)), host4, vector.Malformed, 0},
		{"udp over ipv6", frame(eth(ip6), v6(v6udp), udp(9999), payload(100)), host6, vector.UDPOther, 0},
		{"syn over ipv6", frame(eth(ip6), v6(header6{dst: host6, next: 6}), tcp(syn)), host6, vector.SYN, 0},
		{"icmpv6", frame(eth(ip6), v6(header6{dst: host6, next: 58}), raw(2), payload(63)), host6, vector.ICMP, 0},
		{"icmp in ipv6", frame(eth(ip6), v6(header6{dst: host6, next: 1}), payload(64)), host6, vector.OtherProto, 0},
		{"no next header", frame(eth(ip6), v6(header6{dst: host6, next: 59}), payload(4)), host6, vector.OtherProto, 0},
		{"extensions", frame(eth(ip6), v6(header6{dst: host6, next: 0}), ext(43, 0), ext(60, 2), ext(17, 5), udp(53), payload(5)), host6, vector.DNS, 0},
		{"authentication header", frame(eth(ip6), v6(header6{dst: host6, next: 51}), raw(append([]byte{6, 4}, make([]byte, 22)...)...), tcp(ack)), host6, vector.ACK, 0},
		{"eight extensions", frame(eth(ip6), v6(header6{dst: host6, next: 60}), ext(60, 0), ext(60, 0), ext(60, 0), ext(60, 0), ext(60, 0), ext(60, 0), ext(60, 0), ext(17, 0), udp(53)), host6, vector.DNS, 0},
		{"nine extensions", frame(eth(ip6), v6(header6{dst: host6, next: 60}), ext(60, 0), ext(60, 0), ext(60, 0), ext(60, 0), ext(60, 0), ext(60, 0), ext(60, 0), ext(60, 0), ext(17, 0), udp(53)), host6, vector.Malformed, 0},
		{"long extensions", frame(eth(ip6), v6(header6{dst: host6, next: 60}), ext(60, 90), ext(17, 80), udp(53)), host6, vector.DNS, 0},
		{"extension beyond the end", frame(eth(ip6), v6(header6{dst: host6, next: 60}), raw(17, 9, 0, 0, 0, 0, 0, 0), udp(53)), host6, vector.Malformed, 0},
		{"first fragment ipv6", frame(eth(ip6), v6(header6{dst: host6, next: 44}), frag6(17, 1), udpLength(53, 4000), payload(1000)), host6, vector.DNS, 0},
		{"later fragment ipv6", frame(eth(ip6), v6(header6{dst: host6, next: 44}), frag6(17, 0x100), payload(1000)), host6, vector.Fragment, 0},
		{"payload length too long", frame(eth(ip6), v6(header6{dst: host6, next: 17, total: 900}), udp(53)), host6, vector.Malformed, 0},
		{"payload length 0", frame(eth(ip6), v6(header6{dst: host6, next: 17, zero: true}), udp(53), payload(70)), host6, vector.DNS, 0},
		{"no header", frame(eth(ip4), payload(10)), "", vector.Malformed, 0},
		{"half a header", frame(eth(ip6), v6(v6udp))[:40], "", vector.Malformed, 0},
		{"half a tag", frame(eth(vlan), payload(2)), "", vector.Malformed, 0},
	}
	for _, v := range vector.Reflections() {
		for _, port := range v.SourcePorts {
			list = append(
				list,
				named{v.Name, frame(eth(ip4), v4(v4udp), udp(port), payload(400)), host4, v.ID, 0},
				named{v.Name + " ipv6", frame(eth(ip6), v6(v6udp), udp(port), payload(400)), host6, v.ID, 0},
			)
		}
	}
	for _, v := range vector.All() {
		for _, n := range v.ICMPTypes {
			list = append(list, named{v.Name, frame(eth(ip4), v4(header4{dst: host4, proto: 1}), raw(n), payload(30)), host4, v.ID, 0})
		}
		for _, n := range v.ICMPv6Types {
			list = append(list, named{v.Name + " ipv6", frame(eth(ip6), v6(header6{dst: host6, next: 58}), raw(n), payload(30)), host6, v.ID, 0})
		}
	}
	for name, c := range map[string]struct {
		flags  uint8
		vector vector.ID
	}{
		"none": {0, vector.TCPInvalid}, "syn": {syn, vector.SYN}, "syn ack": {syn | ack, vector.SYNACK},
		"ack": {ack, vector.ACK}, "psh ack": {8 | ack, vector.ACK}, "rst": {rst, vector.RST}, "rst ack": {rst | ack, vector.RST},
		"fin": {fin, vector.TCPInvalid}, "fin ack": {fin | ack, vector.FIN}, "syn fin": {syn | fin, vector.TCPInvalid},
		"syn rst": {syn | rst, vector.TCPInvalid}, "xmas": {fin | 8 | 32, vector.TCPInvalid}, "ece": {0x40, vector.TCPInvalid},
		"psh": {8, vector.TCPOther}, "syn ecn": {syn | 0xc0, vector.SYN}, "fin rst ack": {fin | rst | ack, vector.RST},
	} {
		list = append(list, named{"tcp " + name, frame(eth(ip4), v4(v4tcp), tcpOffset(c.flags, 6), payload(24)), host4, c.vector, 0})
	}
	return list
}
