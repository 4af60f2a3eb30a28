package scenario

import "time"

// flow is a lasting conversation: one of a few, told by its number.
type flow struct {
	us      addr
	peers   *pool
	ourPort uint16 // 0 is a port of its own for each
	herPort uint16
	size    int // largest payload
	least   int // smallest, if not size
	out     bool
	plain   bool // without timestamps
}

func (w *flow) call(i uint32) call {
	h := mix(w.peers.salt ^ uint64(i))
	x := call{w.us, w.peers.at(i), w.ourPort, w.herPort, h}
	if x.ourPort == 0 {
		x.ourPort = 32768 + uint16(h%28000)
	}
	if x.herPort == 0 {
		x.herPort = 1024 + uint16(h>>20%64000)
	}
	return x
}

func (w *flow) payload(r *rng) int {
	if w.least == 0 {
		return w.size
	}
	return r.between(w.least, w.size)
}

// datagrams is UDP in one direction.
func (c *cast) datagrams(t tempo, w flow) {
	burst := uint64(max(t.burst, 1))
	c.add(t, func(r *rng, f *frame, n uint64) {
		x := w.call(uint32(mix(n/burst) % uint64(w.peers.n)))
		h := x.head(w.out)
		src, dst := x.ports(w.out)
		f.udp(&h, src, dst, w.payload(r))
	})
}

// both is UDP in both directions at the same rate.
func (c *cast) both(t tempo, w flow) {
	c.datagrams(t, w)
	w.out = !w.out
	c.datagrams(t, w)
}

// bulk is TCP in one direction, with an acknowledgement back for every second segment.
func (c *cast) bulk(t tempo, w flow) {
	t.burst = max(t.burst, 1)
	options := timestamps
	if w.plain {
		options = ""
	}
	carry := func(w flow, flags uint8) builder {
		burst := uint64(t.burst)
		return func(r *rng, f *frame, n uint64) {
			x := w.call(uint32(mix(n/burst) % uint64(w.peers.n)))
			h := x.head(w.out)
			src, dst := x.ports(w.out)
			s := segment{src: src, dst: dst, flags: flags, options: options, window: 2048, seq: uint32(n) * uint32(w.size), ack: uint32(x.h)}
			if w.size > 0 {
				s.payload = w.payload(r)
			}
			f.tcp(&h, &s)
		}
	}
	c.add(t, carry(w, ack))
	back := t
	back.pps, back.burst, back.gap = t.pps/2, 1, 0
	w.out, w.size, w.least = !w.out, 0, 0
	c.add(back, carry(w, ack))
}

// row is bursts at about line rate.
func (t tempo) row(burst int) tempo {
	t.burst, t.gap = burst, 1200*time.Nanosecond
	return t
}
