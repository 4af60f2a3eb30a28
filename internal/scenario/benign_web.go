package scenario

import (
	"slices"
	"time"
)

const (
	µs = time.Microsecond
	ms = time.Millisecond
)

// stack is how a client's TCP looks.
type stack struct{ syn, options string }

var stacks = []stack{{synLinux, timestamps}, {synWindows, ""}}

// tlsSession is a visit over TLS: handshakes, one request, an answer of parts segments, and the end.
func tlsSession(s stack, rtt time.Duration, parts int, out bool) []step {
	t := func(after time.Duration, back bool, flags uint8, size int) step {
		return tcpStep(after, back != out, flags, s.options, size)
	}
	steps := []step{
		tcpStep(0, out, syn, s.syn, 0),
		tcpStep(rtt/2, !out, syn|ack, s.syn, 0),
		t(rtt, false, ack, 0),
		t(rtt+100*µs, false, ack|psh, 517), // the client's hello
		t(rtt+200*µs, true, ack, 0),
		t(rtt+500*µs, true, ack, 1440),
		t(rtt+512*µs, true, ack, 1440),
		t(rtt+524*µs, true, ack|psh, 900),
		t(2*rtt+500*µs, false, ack, 0),
		t(2*rtt+700*µs, false, ack|psh, 64+420),
		t(2*rtt+900*µs, true, ack, 0),
	}
	at := 2*rtt + 4*ms
	for i := range parts {
		steps = append(steps, t(at+time.Duration(i)*12*µs, true, ack, 1440))
		if i%2 == 1 {
			steps = append(steps, t(at+rtt+time.Duration(i)*12*µs, false, ack, 0))
		}
	}
	return append(steps,
		t(at+3*rtt, false, fin|ack, 0),
		t(at+3*rtt+100*µs, true, fin|ack, 0),
		t(at+4*rtt, false, ack, 0),
	)
}

// web is visitors of a web server over TLS, half of them with Windows, and some over QUIC; a few break off.
func (c *cast) web(t tempo, x family, server addr, visitors uint32) {
	pps := t.pps
	for i, s := range stacks {
		t.pps = pps * 0.45
		who := visits(server, 443, x.clients(visitors/2, uint64(i)+1))
		c.talk(t, who, tlsSession(s, time.Duration(14+22*i)*ms, 10, false)...)
	}
	t.pps = pps * 0.1
	c.quic(t, x, visits(server, 443, x.clients(visitors/10, 3)))
	t.pps = pps * 0.01
	c.talk(t, visits(server, 443, x.clients(visitors, 4)), tcpStep(0, false, rst, "", 0))
}

// quic is short visits over QUIC.
func (c *cast) quic(t tempo, _ family, who caller) {
	steps := []step{
		datagram(0, false, 1200, 1200), datagram(1*ms, true, 1200, 1200), datagram(1100*µs, true, 1200, 1252),
		datagram(16*ms, false, 80, 120), datagram(17*ms, false, 200, 500),
	}
	for i := range 6 {
		steps = append(steps, datagram(20*ms+time.Duration(i)*14*µs, true, 1200, 1252))
	}
	for i := range 3 {
		steps = append(steps, datagram(36*ms+time.Duration(i)*30*µs, false, 31, 40))
	}
	c.talk(t, who, steps...)
}

// lookups is one of our hosts that asks resolvers.
func (c *cast) lookups(t tempo, x family, us addr, resolvers uint32) {
	c.talk(t, asks(us, x.servers(resolvers, 53), 53), datagram(0, true, 30, 60), datagram(9*ms, false, 60, 420))
}

// clock is one of our hosts that asks time servers.
func (c *cast) clock(t tempo, x family, us addr) {
	c.talk(t, asks(us, x.servers(8, 123), 123), datagram(0, true, 48, 48), datagram(11*ms, false, 48, 48))
}

// watched is monitoring that pings a host.
func (c *cast) watched(t tempo, x family, us addr, from uint32) {
	request, reply := uint8(8), uint8(0)
	if x.six {
		request, reply = 128, 129
	}
	c.talk(t, visits(us, 0, x.servers(from, 7)), icmpStep(0, false, request, 0, 56), icmpStep(100*µs, true, reply, 0, 56))
}

func icmpStep(after time.Duration, out bool, kind, code uint8, payload int) step {
	return step{after, out, func(f *frame, _ *call, h *head) { f.icmp(h, kind, code, payload) }}
}

// radiation is what reaches every prefix: scans, backscatter, misdirected datagrams. Nobody answers.
func (c *cast) radiation(t tempo, x family) {
	pps := t.pps
	peers := from(x.clients(3000, 99))
	to := x.across()
	share := func(part float64, b builder) {
		t.pps = pps * part
		c.add(t, b)
	}
	share(0.6, segments{from: peers, to: to, flags: syn, window: 1024, options: synPlain}.builder())
	share(0.05, segments{from: peers, to: to, src: 80, flags: syn | ack, options: synPlain}.builder())
	share(0.1, segments{from: peers, to: to, src: 443, flags: rst | ack}.builder())
	share(0.2, messages{from: peers, to: to, payload: 12, most: 200}.builder())
	if x.six {
		share(0.05, pings(peers, to, 128, 0, 8))
	} else {
		share(0.05, pings(peers, to, 8, 0, 8))
	}
}

// site is what a web server normally receives and sends; every attack on a host is mixed into it. About 14,000 packets a
// second.
func (c *cast) site(x family, us addr) {
	c.web(c.always(300), x, us, 4000)
	c.bulk(c.always(2500).row(8), flow{us: us, peers: x.clients(20, 11), ourPort: 443, size: 1428, out: true})
	c.lookups(c.always(40), x, us, 3)
	c.clock(c.always(2), x, us)
	c.watched(c.always(5), x, us, 4)
	c.radiation(c.always(50), x)
}

// plus runs one after the other.
func plus(all ...func(*cast)) func(*cast) {
	all = slices.Clone(all)
	return func(c *cast) {
		for _, f := range all {
			f(c)
		}
	}
}
