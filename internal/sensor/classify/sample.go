package classify

import (
	"math"
	"time"

	"github.com/amooglesoft/trafficmonitor/internal/traffic"
	"github.com/amooglesoft/trafficmonitor/internal/vector"
)

// Sample returns what a FlowSpec rule sees of the packet; at is when it came and weight how many packets it stands for.
func (r *Result) Sample(at time.Time, direction vector.Direction, weight uint32) traffic.Sample {
	return traffic.Sample{
		Time: at, Direction: direction, Vector: r.Vector, Weight: max(weight, 1),
		Source: r.Source, Destination: r.Destination,
		Length: uint16(min(max(r.Length, 0), math.MaxUint16)), Protocol: r.Protocol, TTL: r.TTL, DSCP: r.DSCP,
		FlowLabel: r.FlowLabel, Fragment: r.Bits,
		HasPorts: r.Ports, SourcePort: r.SourcePort, DestinationPort: r.DestinationPort, TCPFlags: r.Flags,
		HasICMP: r.ICMP, ICMPType: r.Type, ICMPCode: r.Code,
	}
}
