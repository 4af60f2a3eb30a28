package scenario

// pings is a flood of ICMP or ICMPv6.
func pings(from, to source, kind, code uint8, payload int) builder {
	return func(r *rng, f *frame, n uint64) {
		h := arriving(r, from(r, n), to(r, n))
		f.icmp(&h, kind, code, payload)
	}
}

// pieces is a flood of fragments of UDP: later ones, or else first ones between unnamed ports.
func pieces(from, to source, later bool) builder {
	return func(r *rng, f *frame, n uint64) {
		h := arriving(r, from(r, n), to(r, n))
		bits := r.Uint64()
		if later {
			offset := 8 * (1 + int(bits%180))
			f.fragment(&h, protoUDP, uint32(bits>>32), offset, bits>>20&1 == 0, 600+8*int(bits>>24%100))
			return
		}
		b := f.fragment(&h, protoUDP, uint32(bits>>32), 0, true, 1400)
		udpHeader(b, unnamed(port(0, bits)), unnamed(port(0, bits>>16)), 2800)
	}
}

// carried is a flood of another protocol than TCP, UDP and ICMP.
func carried(from, to source, proto uint8, payload int) builder {
	return func(r *rng, f *frame, n uint64) {
		h := arriving(r, from(r, n), to(r, n))
		b := f.ip(&h, proto, payload)
		switch proto {
		case protoGRE:
			b[2] = 8 // IPv4 inside
			inside(f, 4, &h, protoUDP, payload-4)
		case protoIPIP:
			inside(f, 0, &h, protoUDP, payload)
		case protoIP6:
			x := h
			x.src, x.dst = addr{0x3fff<<48 | h.src.lo, 1}, addr{0x3fff<<48 | h.dst.lo, 2}
			inside(f, 0, &x, protoUDP, payload)
		case protoESP:
			bits := r.Uint64()
			for i := range 8 {
				b[i] = byte(bits >> (8 * i))
			}
		}
	}
}

// inside writes the header of a packet in a tunnel, of size octets, so far behind the tunnel's own header.
func inside(f *frame, behind int, h *head, proto uint8, size int) {
	end := f.n
	x := *h
	header := 20
	if behind > 0 && h.src.v6() { // IPv4 inside of GRE
		x.src, x.dst = addr{lo: h.src.lo & 0x7fffffff}, addr{lo: h.dst.lo & 0x7fffffff}
	}
	if x.src.v6() {
		header = 40
	}
	f.n = f.l4 + behind
	b := f.inner(&x, proto, size-header)
	udpHeader(b, 4000, 4001, size-header)
	f.n = end
}

// malformed is a flood of packets whose headers contradict themselves, of several kinds in turn.
func malformed(from, to source) builder {
	return func(r *rng, f *frame, n uint64) {
		h := arriving(r, from(r, n), to(r, n))
		switch n % 4 {
		case 0: // UDP longer than its packet
			b := f.ip(&h, protoUDP, 26)
			udpHeader(b, 4000, 80, 600)
		case 1: // TCP whose header is shorter than one
			b := f.ip(&h, protoTCP, 20)
			b[3], b[12], b[13] = 80, 2<<4, syn
		case 2: // TCP whose header ends behind the packet
			b := f.ip(&h, protoTCP, 20)
			b[3], b[12], b[13] = 80, 15<<4, ack
		default: // UDP shorter than its header
			b := f.ip(&h, protoUDP, 26)
			udpHeader(b, 4000, 80, 4)
		}
	}
}
