package scenario

import "encoding/binary"

// scan is SYNs from one source to the ports of hosts of ours, most of them answered with a reset.
func (c *cast) scan(t tempo, x family, to source, answered bool) {
	peer := x.clients(1, 31).at(0)
	who := func(r *rng) call {
		h := r.Uint64()
		return call{to(r, 0), peer, uint16(1 + h%10000), 40000 + uint16(h>>32%8), h}
	}
	steps := []step{tcpStep(0, false, syn, synPlain, 0)}
	if answered {
		steps = append(steps, tcpStep(60*µs, true, rst|ack, "", 0))
	}
	c.talk(t, who, steps...)
}

// scanner is one of our hosts that looks for others: SYNs out, and what comes back.
func (c *cast) scanner(t tempo, x family, us addr) {
	pps := t.pps
	for i, s := range [][]step{
		{},
		{tcpStep(30*ms, false, rst|ack, "", 0)},
		{tcpStep(30*ms, false, syn|ack, synPlain, 0), tcpStep(30100*µs, true, rst, "", 0)},
	} {
		t.pps = pps * []float64{0.5, 0.35, 0.15}[i]
		peers := x.clients(4000000, uint64(32+i))
		c.talk(t, func(r *rng) call {
			h := r.Uint64()
			return call{us, peers.some(r), 61000, uint16([4]int{22, 80, 443, 8080}[h&3]), h}
		}, append([]step{tcpStep(0, true, syn, synPlain, 0)}, s...)...)
	}
}

// noise is what a segment hears besides: ARP, neighbour discovery, discovery by multicast and broadcast.
func (c *cast) noise(t tempo) {
	c.add(t, func(_ *rng, f *frame, _ uint64) {
		f.fresh(0x0806)
		copy(f.buf[14:], "\x00\x01\x08\x00\x06\x04\x00\x01")
		f.n = 60
	})
	gateway, all, groupSSDP := four.host(1), four.host(255), addrOf("239.255.255.250")
	group4, group6 := addrOf("224.0.0.251"), addrOf("ff02::fb")
	c.add(t, func(_ *rng, f *frame, _ uint64) {
		h := head{src: gateway, dst: group4, ttl: 255}
		f.udp(&h, 5353, 5353, 180)
	})
	c.add(t, func(_ *rng, f *frame, _ uint64) {
		h := head{src: gateway, dst: all, ttl: 64}
		f.udp(&h, 137, 137, 50)
	})
	c.add(t, func(_ *rng, f *frame, _ uint64) {
		h := head{src: six.host(1), dst: group6, ttl: 255}
		f.udp(&h, 5353, 5353, 180)
	})
	c.add(t, func(r *rng, f *frame, _ uint64) {
		h := head{src: six.host(1), dst: six.host(uint8(r.n(64))), ttl: 255}
		f.icmp(&h, 135, 0, 24)
	})
	c.add(t, func(_ *rng, f *frame, _ uint64) {
		h := head{src: four.host(2), dst: groupSSDP, ttl: 4}
		f.udp(&h, 1900, 1900, 320)
	})
}

// tunnel is a tunnel of a protocol in both directions.
func (c *cast) tunnel(t tempo, us, peer addr, proto uint8, size int) {
	c.add(t, func(r *rng, f *frame, _ uint64) { carriedOne(f, &head{src: peer, dst: us, ttl: 57}, proto, size, r) })
	c.add(t, func(r *rng, f *frame, _ uint64) { carriedOne(f, &head{src: us, dst: peer, ttl: 63}, proto, size, r) })
}

func carriedOne(f *frame, h *head, proto uint8, size int, r *rng) {
	h.id = uint16(r.Uint64())
	b := f.ip(h, proto, size)
	switch proto {
	case protoGRE:
		b[2] = 8
		inside(f, 4, h, protoUDP, size-4)
	case protoIP6:
		x := *h
		x.src, x.dst = addr{0x3fff<<48 | h.src.lo, 1}, addr{0x3fff<<48 | h.dst.lo, 2}
		inside(f, 0, &x, protoUDP, size)
	case protoIPIP:
		inside(f, 0, h, protoUDP, size)
	default:
		binary.BigEndian.PutUint64(b, r.Uint64())
	}
}

// files is NFS over UDP: reads of 8 kB that come in six fragments.
func (c *cast) files(t tempo, x family, us addr) {
	servers := x.servers(4, 40)
	last := 1480 // what a fragment carries; in IPv6 less
	if x.six {
		last = 1448
	}
	const size = 8200
	t = t.row(6)
	c.add(t, func(r *rng, f *frame, n uint64) {
		read := n / 6
		h := head{src: servers.at(uint32(read % 4)), dst: us, ttl: 62}
		offset := int(n%6) * last
		rest := min(last, size-offset)
		b := f.fragment(&h, protoUDP, uint32(read), offset, offset+rest < size, rest)
		if offset == 0 {
			udpHeader(b, 2049, 900, size)
		}
	})
	t.burst, t.pps = 1, t.pps/6
	c.datagrams(t, flow{us: us, peers: servers, ourPort: 900, herPort: 2049, size: 120, out: true})
}
