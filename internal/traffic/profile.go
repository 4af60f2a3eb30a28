package traffic

import (
	"net/netip"
	"time"

	"github.com/amooglesoft/trafficmonitor/internal/sketch"
	"github.com/amooglesoft/trafficmonitor/internal/vector"
)

// NetworkTotal counts all packets of one vector of a network, those of hosts that were counted one by one included.
type NetworkTotal struct {
	Network   netip.Prefix
	Direction vector.Direction
	Vector    vector.ID
	Packets   uint64
	Bytes     uint64
	// ActiveHosts is how many hosts were counted one by one and had such packets: those of a carpet bombing.
	ActiveHosts uint32
}

// Sizes of a Profile's distributions.
const (
	LengthClasses = 8 // up to 64, 128, 256, 512, 1024, 1280, 1500 octets, and more
	TTLClasses    = 8 // in steps of 32
)

// Profile says what the packets of one target and vector were like. But for DistinctSources, where DistinctExact is
// set, it describes samples.
type Profile struct {
	Target    netip.Prefix
	Direction vector.Direction
	Vector    vector.ID
	// Samples is the number of packets looked at, Packets how many they stand for.
	Samples uint32
	Packets uint64
	// Lengths and TTLs count samples by class, Fragments those that were fragments.
	Lengths   [LengthClasses]uint32
	TTLs      [TTLClasses]uint32
	Fragments uint32
	// TCPFlags, SourcePorts and DestinationPorts are the most frequent values, most first.
	TCPFlags, SourcePorts, DestinationPorts []Count
	// Sources are the most frequent source networks, /24 or /48, most first; of outbound packets the destinations.
	Sources []SourceCount
	// DistinctSources estimates how many sources there were; nil when nothing was sketched. With DistinctExact it saw every
	// packet of the target, whatever its vector, otherwise the samples only.
	DistinctSources *sketch.HyperLogLog
	DistinctExact   bool
}

// Count is a value and how often it was seen: at most Count, at least Count-Error times.
type Count struct {
	Value        uint16
	Count, Error uint32
}

// SourceCount is a network and how often it was seen: at most Count, at least Count-Error times.
type SourceCount struct {
	Network      netip.Prefix
	Count, Error uint32
}

// lengthBounds are the largest lengths of the classes but the last.
var lengthBounds = [LengthClasses - 1]int{64, 128, 256, 512, 1024, 1280, 1500}

// LengthClass returns the class of a packet's length from the IP header on.
func LengthClass(length int) int {
	for i, bound := range lengthBounds {
		if length <= bound {
			return i
		}
	}
	return LengthClasses - 1
}

// TTLClass returns the class of a TTL or hop limit.
func TTLClass(ttl uint8) int { return int(ttl) / 32 }

// Past tells that a report speaks of a time too long to take its mean for a rate of now: reports were merged, because
// nobody took them, into one of a span longer than longest.
func (r Report) Past(longest time.Duration) bool { return r.Merged > 1 && r.Span > longest }
