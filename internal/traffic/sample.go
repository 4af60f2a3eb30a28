package traffic

import (
	"net/netip"
	"time"

	"github.com/amooglesoft/trafficmonitor/internal/vector"
)

// Fragment bits of a Sample; their values are those of FlowSpec's fragment component (RFC 8955, section 4.2.2.12).
const (
	DontFragment  uint8 = 1 << iota // DF; never in IPv6
	IsFragment                      // a fragment other than the first
	FirstFragment                   // the first of several
	LastFragment                    // the last of several
)

// Sample is one packet as far as a FlowSpec rule can tell packets apart.
type Sample struct {
	Time      time.Time
	Direction vector.Direction
	Vector    vector.ID
	// Weight is how many packets the sample stands for; at least 1.
	Weight uint32

	Source, Destination netip.Addr
	// Length is the IP packet's, 0–65535.
	Length uint16
	// Protocol is that of IPv4, or the last next header of IPv6.
	Protocol uint8
	TTL      uint8
	DSCP     uint8 // 0–63
	// FlowLabel is that of IPv6, 0–1048575.
	FlowLabel uint32
	// Fragment holds the bits above.
	Fragment uint8
	// HasPorts is set for TCP and UDP whose header is there, so never for later fragments; so is HasICMP for ICMP and ICMPv6.
	HasPorts, HasICMP           bool
	SourcePort, DestinationPort uint16
	TCPFlags                    uint8 // of TCP with HasPorts
	ICMPType, ICMPCode          uint8 // with HasICMP
}

// Target is the address of ours: the destination of an inbound packet, the source of an outbound one.
func (s *Sample) Target() netip.Addr {
	if s.Direction == vector.Outbound {
		return s.Source
	}
	return s.Destination
}

// Peer is the other address.
func (s *Sample) Peer() netip.Addr {
	if s.Direction == vector.Outbound {
		return s.Destination
	}
	return s.Source
}
