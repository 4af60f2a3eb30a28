package scenario

import "time"

// resolver is one of our hosts that asks the world's name servers for its own clients: one in twenty answers comes in two
// fragments, one in seven is large.
func (c *cast) resolver(t tempo, x family, us addr) {
	qps := t.pps
	who := func(n uint32, salt uint64) caller { return asks(us, x.servers(n, salt), 53) }
	t.pps = qps * 0.8
	c.talk(t, who(2000, 20), datagram(0, true, 30, 70), datagram(18*ms, false, 90, 320))
	t.pps = qps * 0.15
	c.talk(t, who(600, 21), datagram(0, true, 30, 70), datagram(24*ms, false, 900, 1232))
	t.pps = qps * 0.05
	c.talk(t, who(200, 22), datagram(0, true, 30, 70), fragments(30*ms, false, 0, 1800), fragments(30*ms+2*µs, false, 1, 1800))
	// Its clients.
	t.pps = qps * 1.2
	c.talk(t, visits(us, 53, x.clients(20000, 23)), datagram(0, false, 30, 70), datagram(300*µs, true, 90, 400))
}

// fragments is the first (0) or second (1) fragment of a datagram of so many octets.
func fragments(after time.Duration, out bool, which, size int) step {
	return step{after, out, func(f *frame, x *call, h *head) {
		src, dst := x.ports(out)
		h.df = false
		f.piece(h, which, uint32(x.h), src, dst, size)
	}}
}

// nameServer is one of our hosts that answers for its zones, to resolvers from any port.
func (c *cast) nameServer(t tempo, x family, us addr) {
	c.talk(t, visits(us, 53, x.servers(30000, 24)), datagram(0, false, 30, 60), datagram(80*µs, true, 80, 500))
	t.pps *= 0.01 // over TCP
	c.talk(t, visits(us, 53, x.servers(3000, 25)),
		tcpStep(0, false, syn, synLinux, 0), tcpStep(80*µs, true, syn|ack, synLinux, 0), tcpStep(12*ms, false, ack, timestamps, 0),
		tcpStep(12100*µs, false, ack|psh, timestamps, 50), tcpStep(12200*µs, true, ack|psh, timestamps, 1400),
		tcpStep(24*ms, false, fin|ack, timestamps, 0), tcpStep(24100*µs, true, fin|ack, timestamps, 0), tcpStep(36*ms, false, ack, timestamps, 0))
}

// timeServer is one of our hosts that tells the time; three of ten ask from port 123.
func (c *cast) timeServer(t tempo, x family, us addr) {
	pps := t.pps
	ask := []step{datagram(0, false, 48, 48), datagram(60*µs, true, 48, 48)}
	t.pps = pps * 0.7
	c.talk(t, visits(us, 123, x.clients(50000, 26)), ask...)
	t.pps = pps * 0.3
	peers := x.clients(20000, 27)
	c.talk(t, func(r *rng) call { return call{us, peers.some(r), 123, 123, r.Uint64()} }, ask...)
}
