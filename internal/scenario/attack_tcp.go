package scenario

// segments is a flood of TCP segments. Ports of 0 are random, and so is a window of 0.
type segments struct {
	from, to source
	src, dst uint16
	flags    uint8
	others   []uint8 // further flag sets, taken in turn
	options  string
	window   uint16
	payload  int
	most     int // largest payload, when it varies
}

func (x segments) builder() builder {
	sets := append([]uint8{x.flags}, x.others...)
	return func(r *rng, f *frame, n uint64) {
		h := arriving(r, x.from(r, n), x.to(r, n))
		bits := r.Uint64()
		s := segment{
			src: port(x.src, bits), dst: port(x.dst, bits>>16), window: x.window, options: x.options,
			flags: sets[n%uint64(len(sets))], payload: x.payload, seq: uint32(bits >> 32),
		}
		if s.window == 0 {
			s.window = uint16(bits >> 8)
		}
		if s.flags&ack != 0 {
			s.ack = uint32(bits)
		}
		if x.most > x.payload {
			s.payload = r.between(x.payload, x.most)
		}
		f.tcp(&h, &s)
	}
}

// port is the one that is wanted, or a random one from 1024 on.
func port(want uint16, bits uint64) uint16 {
	if want != 0 {
		return want
	}
	return uint16(1024 + bits&0xffff*64512>>16)
}

// arriving is the IP header of a flood's packet.
func arriving(r *rng, src, dst addr) head {
	bits := r.Uint64()
	return head{src: src, dst: dst, ttl: uint8(40 + bits&15), id: uint16(bits >> 16)}
}
