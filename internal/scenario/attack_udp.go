package scenario

// messages is a flood of UDP datagrams. Ports of 0 are random, unless zero says that they are meant.
type messages struct {
	from, to source
	src, dst uint16
	zero     bool
	payload  int
	most     int // largest payload, when it varies
}

func (x messages) builder() builder {
	return func(r *rng, f *frame, n uint64) {
		h := arriving(r, x.from(r, n), x.to(r, n))
		bits := r.Uint64()
		size := x.payload
		if x.most > size {
			size = r.between(size, x.most)
		}
		src, dst := x.src, x.dst
		if !x.zero {
			src, dst = port(src, bits), port(dst, bits>>16)
			if x.src == 0 {
				src = unnamed(src)
			}
			if x.dst == 0 {
				dst = unnamed(dst)
			}
		}
		f.udp(&h, src, dst, size)
	}
}

// unnamed steps past the ports that make a random datagram look like another vector's.
func unnamed(p uint16) uint16 {
	for named[p>>6]&(1<<(p&63)) != 0 {
		p += 7
	}
	return p
}

// named are the ports of the vector table, a bit for each.
var named = namedPorts()
