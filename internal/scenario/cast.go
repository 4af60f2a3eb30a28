package scenario

import (
	"math/rand/v2"
	"time"

	"github.com/amooglesoft/trafficmonitor/internal/replay"
)

// cast is everybody who sends in a scenario.
type cast struct {
	seed     uint64
	duration time.Duration
	label    int // of those that are added; 0 stands for benign
	groups   uint64
	actors   []*actor
}

// add adds a stream.
func (c *cast) add(t tempo, b builder) {
	c.groups++
	c.shifted(t, 0, b)
}

// shifted adds an actor who draws the same numbers as the last one that was added, and comes later.
func (c *cast) shifted(t tempo, by time.Duration, b builder) {
	label := c.label
	if label == 0 {
		label = replay.Benign
	}
	a := &actor{tempo: t, shift: by, label: label, build: b}
	a.PCG = *rand.NewPCG(c.seed, mix(c.groups))
	c.actors = append(c.actors, a)
}

// call is one conversation between a host of ours and a peer.
type call struct {
	us, peer         addr
	ourPort, herPort uint16
	h                uint64 // what else is random about it
}

// caller draws a conversation's parties.
type caller func(r *rng) call

// step is one packet of a conversation, so long after its beginning.
type step struct {
	after time.Duration
	out   bool // from us
	write func(f *frame, c *call, h *head)
}

// talk adds conversations of these steps; t says how many begin a second.
func (c *cast) talk(t tempo, who caller, steps ...step) {
	c.groups++
	for _, s := range steps {
		c.shifted(t, s.after, func(r *rng, f *frame, _ uint64) {
			f.call = who(r)
			f.head = f.call.head(s.out)
			s.write(f, &f.call, &f.head)
		})
	}
}

// ttl is what is left of a stack's on its way from the peer.
func ttl(peer addr) uint8 {
	h := mix(peer.lo)
	if h&3 == 0 {
		return 128 - uint8(5+h>>8&15)
	}
	return 64 - uint8(5+h>>8&15)
}

func (x *call) head(out bool) head {
	if out {
		return head{src: x.us, dst: x.peer, ttl: 63, id: uint16(x.h), df: true}
	}
	return head{src: x.peer, dst: x.us, ttl: ttl(x.peer), id: uint16(x.h >> 16), df: true}
}

// ports returns source and destination.
func (x *call) ports(out bool) (src, dst uint16) {
	if out {
		return x.ourPort, x.herPort
	}
	return x.herPort, x.ourPort
}

// datagram is a step of UDP with a payload of lo to hi octets.
func datagram(after time.Duration, out bool, lo, hi int) step {
	return step{after, out, func(f *frame, x *call, h *head) {
		src, dst := x.ports(out)
		h.df = false
		f.udp(h, src, dst, lo+int(mix(x.h^uint64(after))%uint64(hi-lo+1)))
	}}
}

// tcpStep is a step of TCP.
func tcpStep(after time.Duration, out bool, flags uint8, options string, payload int) step {
	return step{after, out, func(f *frame, x *call, h *head) {
		src, dst := x.ports(out)
		s := segment{src: src, dst: dst, flags: flags, options: options, payload: payload, window: 501, seq: uint32(x.h)}
		if flags&ack != 0 {
			s.ack = uint32(x.h >> 32)
		}
		if flags&syn != 0 {
			s.window = 64240
		}
		f.tcp(h, &s)
	}}
}

// visits draws a peer of the pool who comes from any port to one of ours.
func visits(us addr, ourPort uint16, peers *pool) caller {
	return func(r *rng) call {
		h := r.Uint64()
		return call{us, peers.some(r), ourPort, 1024 + uint16(h%64000), h}
	}
}

// asks draws a server of the pool that we ask at its port, from any of ours.
func asks(us addr, peers *pool, herPort uint16) caller {
	return func(r *rng) call {
		h := r.Uint64()
		return call{us, peers.some(r), 32768 + uint16(h%28000), herPort, h}
	}
}
