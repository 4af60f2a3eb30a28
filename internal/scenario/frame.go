package scenario

import "encoding/binary"

// dirty is how much of a frame headers may fill; what lies behind is zero and stays so.
const dirty = 192

// frame is the buffer every packet is made in.
type frame struct {
	buf [14 + 65535 + 1]byte
	n   int // its length
	l4  int // where the last header began

	// What a step of a conversation is made from; here because it would else be allocated for each.
	call call
	head head
}

// head is what the IP header says.
type head struct {
	src, dst addr
	ttl, tos uint8
	id       uint16
	df       bool
}

// Protocols.
const (
	protoICMP   = 1
	protoIPIP   = 4
	protoTCP    = 6
	protoUDP    = 17
	protoIP6    = 41
	protoGRE    = 47
	protoESP    = 50
	protoICMPv6 = 58
)

// fresh begins a frame of an EtherType.
func (f *frame) fresh(kind uint16) {
	clear(f.buf[:dirty])
	copy(f.buf[:12], "\x02\x00\x00\x00\x00\x01\x02\x00\x00\x00\x00\x02")
	binary.BigEndian.PutUint16(f.buf[12:], kind)
	f.n, f.l4 = 14, 14
}

// ip begins a packet whose header is followed by rest octets of proto, and returns those, as far as headers reach.
func (f *frame) ip(h *head, proto uint8, rest int) []byte {
	if h.src.v6() {
		f.fresh(0x86dd)
	} else {
		f.fresh(0x0800)
	}
	return f.inner(h, proto, rest)
}

// inner writes an IP header at the end of the frame.
func (f *frame) inner(h *head, proto uint8, rest int) []byte {
	b := f.buf[f.n:]
	if h.src.v6() {
		binary.BigEndian.PutUint32(b, 6<<28|uint32(h.tos)<<20|uint32(mix(h.src.lo^h.dst.lo)&0xfffff))
		binary.BigEndian.PutUint16(b[4:], uint16(rest))
		b[6], b[7] = proto, h.ttl
		binary.BigEndian.PutUint64(b[8:], h.src.hi)
		binary.BigEndian.PutUint64(b[16:], h.src.lo)
		binary.BigEndian.PutUint64(b[24:], h.dst.hi)
		binary.BigEndian.PutUint64(b[32:], h.dst.lo)
		f.l4 = f.n + 40
	} else {
		b[0], b[1] = 0x45, h.tos
		binary.BigEndian.PutUint16(b[2:], uint16(20+rest))
		binary.BigEndian.PutUint16(b[4:], h.id)
		if h.df {
			b[6] = 0x40
		}
		b[8], b[9] = h.ttl, proto
		binary.BigEndian.PutUint32(b[12:], uint32(h.src.lo))
		binary.BigEndian.PutUint32(b[16:], uint32(h.dst.lo))
		f.l4 = f.n + 20
	}
	f.n = f.l4 + rest
	return f.buf[f.l4:f.n]
}

// segment is a TCP header with its payload.
type segment struct {
	src, dst uint16
	flags    uint8
	window   uint16
	seq, ack uint32
	options  string
	payload  int
}

// Flags of TCP.
const (
	fin = 1 << iota
	syn
	rst
	psh
	ack
	urg
)

// Options of TCP as stacks send them.
const (
	synLinux   = "\x02\x04\x05\xb4\x04\x02\x08\x0a\x00\x01\x02\x03\x00\x00\x00\x00\x01\x03\x03\x07"
	synWindows = "\x02\x04\x05\xb4\x01\x03\x03\x08\x01\x01\x04\x02"
	synPlain   = "\x02\x04\x05\xb4"
	timestamps = "\x01\x01\x08\x0a\x00\x01\x02\x03\x00\x01\x02\x02"
)

func (f *frame) tcp(h *head, s *segment) {
	size := 20 + len(s.options)
	b := f.ip(h, protoTCP, size+s.payload)
	binary.BigEndian.PutUint16(b, s.src)
	binary.BigEndian.PutUint16(b[2:], s.dst)
	binary.BigEndian.PutUint32(b[4:], s.seq)
	binary.BigEndian.PutUint32(b[8:], s.ack)
	b[12], b[13] = uint8(size/4)<<4, s.flags
	binary.BigEndian.PutUint16(b[14:], s.window)
	copy(b[20:], s.options)
}

func (f *frame) udp(h *head, src, dst uint16, payload int) {
	b := f.ip(h, protoUDP, 8+payload)
	udpHeader(b, src, dst, 8+payload)
}

func udpHeader(b []byte, src, dst uint16, length int) {
	binary.BigEndian.PutUint16(b, src)
	binary.BigEndian.PutUint16(b[2:], dst)
	binary.BigEndian.PutUint16(b[4:], uint16(length))
}

func (f *frame) icmp(h *head, kind, code uint8, payload int) {
	proto := uint8(protoICMP)
	if h.src.v6() {
		proto = protoICMPv6
	}
	b := f.ip(h, proto, 8+payload)
	b[0], b[1] = kind, code
}

// fragment makes a fragment of proto at an offset, a multiple of 8, and returns what it holds.
func (f *frame) fragment(h *head, proto uint8, id uint32, offset int, more bool, rest int) []byte {
	if h.src.v6() {
		b := f.ip(h, 44, 8+rest)
		b[0] = proto
		word := uint16(offset)
		if more {
			word |= 1
		}
		binary.BigEndian.PutUint16(b[2:], word)
		binary.BigEndian.PutUint32(b[4:], id)
		return b[8:]
	}
	b := f.ip(h, proto, rest)
	word := uint16(offset / 8)
	if more {
		word |= 0x2000
	}
	binary.BigEndian.PutUint16(f.buf[18:], uint16(id))
	binary.BigEndian.PutUint16(f.buf[20:], word)
	return b
}

// piece makes the first (0) or the second (1) fragment of a UDP datagram of size octets from its header on, as an MTU of
// 1,500 cuts it.
func (f *frame) piece(h *head, which int, id uint32, src, dst uint16, size int) {
	first := 1480
	if h.src.v6() {
		first = 1448
	}
	if which == 0 {
		udpHeader(f.fragment(h, protoUDP, id, 0, true, first), src, dst, size)
		return
	}
	f.fragment(h, protoUDP, id, first, false, size-first)
}
