package scenario

import (
	"github.com/amooglesoft/trafficmonitor/internal/vector"
)

// flood is the plainest flood of a vector; salt chooses the reflectors.
func (x family) flood(v vector.ID, from, to source, salt uint64) builder {
	tcp := func(flags uint8, others ...uint8) builder {
		return segments{from: from, to: to, dst: 443, flags: flags, others: others}.builder()
	}
	icmp := func(v4, v6 uint8) builder {
		if x.six {
			v4 = v6
		}
		return pings(from, to, v4, 0, 56)
	}
	switch v {
	case vector.SYN:
		return tcp(syn)
	case vector.SYNACK:
		return segments{from: x.reflectors(4000, salt), to: to, src: 443, flags: syn | ack, options: synPlain, window: 65535}.builder()
	case vector.ACK:
		return tcp(ack)
	case vector.RST:
		return tcp(rst, rst|ack)
	case vector.TCPInvalid:
		return tcp(0, fin|psh|urg, syn|fin, syn|rst, fin)
	case vector.TCPOther:
		return tcp(psh, urg)
	case vector.FIN:
		return tcp(fin | ack)
	case vector.UDPOther:
		return messages{from: from, to: to, payload: 100, most: 1400}.builder()
	case vector.DNSQuery:
		return messages{from: from, to: to, dst: 53, payload: 32, most: 48}.builder()
	case vector.QUIC:
		return messages{from: from, to: to, dst: 443, payload: 1200, most: 1250}.builder()
	case vector.ICMP:
		return icmp(13, 2)
	case vector.ICMPEcho:
		return icmp(8, 128)
	case vector.ICMPEchoReply:
		return icmp(0, 129)
	case vector.ICMPUnreachable:
		return icmp(3, 1)
	case vector.ICMPTimeExceeded:
		return icmp(11, 3)
	case vector.ICMPNeighbour:
		return icmp(5, 136)
	case vector.Fragment:
		return pieces(from, to, true)
	case vector.FirstFragment:
		return pieces(from, to, false)
	case vector.GRE:
		return carried(from, to, protoGRE, 512)
	case vector.ESP:
		return carried(from, to, protoESP, 512)
	case vector.IPIP:
		if x.six {
			return carried(from, to, protoIP6, 512)
		}
		return carried(from, to, protoIPIP, 512)
	case vector.OtherProto:
		return carried(from, to, 253, 512)
	case vector.Malformed:
		return malformed(from, to)
	}
	if info, _ := vector.Get(v); len(info.SourcePorts) > 0 {
		return reflected(v, x.servers(700, salt), to)
	}
	return nil
}

// reflectors are servers that answer what an attacker asks in the target's name.
func (x family) reflectors(n uint32, salt uint64) source { return from(x.servers(n, salt)) }
