package vector

// Set is a set of vectors, one bit each.
type Set uint64

// SetOf returns the set of these vectors.
func SetOf(ids ...ID) (s Set) {
	for _, id := range ids {
		s |= 1 << id
	}
	return s
}

// Has tells whether id is in the set.
func (s Set) Has(id ID) bool { return id < Count && s&(1<<id) != 0 }

// Opposite says which packets that a target sends belong to the packets of a vector that it receives.
type Opposite struct {
	// Outbound are the vectors of the packets that belong to them; empty where nothing tells.
	Outbound Set
	// Asked is set where the target's packets come first: what it receives are answers, and without questions an attack.
	// Otherwise the target answers, as every host does that is there for such packets.
	Asked bool
	// Share is how much of the inbound rate the outbound one reaches at least, as long as all is well.
	Share float64
	// Small limits the test to packets that are small on average, for a stream of large ones, such as video or a backup,
	// may go one way only.
	Small bool
	// Completing are inbound vectors that follow in every exchange that comes about: a SYN whose ACK never comes was sent
	// in somebody's name.
	Completing Set
}

// share is the least share of packets that healthy traffic has an answer or a question to. A TCP stack acknowledges
// many segments at once where the network card merges them: shareACK is one in 200, where 45 are merged at most.
const (
	share    = 0.1
	shareACK = 0.005
)

// OppositeOf returns what belongs to an inbound vector. The table, with X any reflection vector:
//
//	received            sent by the target                                     order
//	X                   X, packets to a reflector's port                       asked
//	X that carries      X, reflector-answer: both ends use the port            answered
//	syn-ack             syn                                                    asked
//	rst                 syn, ack                                               asked
//	icmp-echo-reply     icmp-echo                                              asked
//	icmp-unreachable,   any UDP, syn, icmp-echo, fragments: what is sent       asked
//	icmp-time-exceeded  into the void; not the packets of open connections
//	icmp-echo           icmp-echo-reply                                        answered
//	dns-query, quic,    any UDP                                                answered
//	udp-other
//	ack                 ack                                                    answered
//	syn                 syn-ack, rst; completed by inbound ack                 for information
func OppositeOf(id ID) Opposite {
	if int(id) >= len(opposites) {
		return Opposite{}
	}
	return opposites[id]
}

var opposites = func() (t [Count]Opposite) {
	udp := SetOf(UDPOther, DNSQuery, QUIC, ReflectorAnswer)
	for _, v := range table {
		if v.Reflection() {
			udp |= SetOf(v.ID)
		}
	}
	for _, v := range table {
		switch {
		case v.Carries:
			t[v.ID] = Opposite{Outbound: SetOf(v.ID, ReflectorAnswer), Share: share, Small: true}
		case v.Reflection():
			t[v.ID] = Opposite{Outbound: SetOf(v.ID), Asked: true, Share: share}
		}
	}
	t[SYNACK] = Opposite{Outbound: SetOf(SYN), Asked: true, Share: share}
	t[RST] = Opposite{Outbound: SetOf(SYN, ACK), Asked: true, Share: share}
	t[ICMPEchoReply] = Opposite{Outbound: SetOf(ICMPEcho), Asked: true, Share: share}
	void := udp | SetOf(SYN, ICMPEcho, Fragment, FirstFragment)
	t[ICMPUnreachable] = Opposite{Outbound: void, Asked: true, Share: share}
	t[ICMPTimeExceeded] = Opposite{Outbound: void, Asked: true, Share: share}
	t[ICMPEcho] = Opposite{Outbound: SetOf(ICMPEchoReply), Share: share}
	for _, id := range []ID{UDPOther, DNSQuery, QUIC} {
		t[id] = Opposite{Outbound: udp, Share: share, Small: true}
	}
	t[ACK] = Opposite{Outbound: SetOf(ACK), Share: shareACK}
	t[SYN] = Opposite{Outbound: SetOf(SYNACK, RST), Completing: SetOf(ACK)}
	return t
}()
