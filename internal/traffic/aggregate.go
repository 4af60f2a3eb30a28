// Package traffic holds the network-wide view: what each target receives per vector, merged over all sensors.
package traffic

import (
	"net/netip"
	"time"

	"github.com/amooglesoft/trafficmonitor/internal/vector"
)

// Aggregate counts the packets of one vector to one target at one sensor in one span of time. Bytes are counted from
// the IP header on.
type Aggregate struct {
	Sensor  string
	Target  netip.Prefix
	Vector  vector.ID
	Start   time.Time
	Span    time.Duration
	Packets uint64
	Bytes   uint64
	// Partial is set when the span is not over yet (a triggered window): the rate is then a lower bound.
	Partial bool
}

// Sample is the head of one sampled packet, from the IP header on.
type Sample struct {
	Sensor string
	Time   time.Time
	Weight uint32 // packets it stands for
	Vector vector.ID
	Length uint32 // octets of the whole packet from the IP header on
	Header []byte
}
