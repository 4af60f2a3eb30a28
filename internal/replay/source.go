// Package replay runs packets offline through what the live system does with them (classification, view, detection,
// signature, policy, safety) and says what would have happened and when. Packets come from a Source, such as a capture, time
// from their stamps, and the same packets give the same result.
package replay

import "time"

// Labels of packets. An attack's packets carry its number, from 1 on.
const (
	Unlabelled = 0
	Benign     = -1
)

// Packet is one frame as it was captured, with an Ethernet header.
type Packet struct {
	Time  time.Time
	Data  []byte // valid until the next call of Next
	Wire  int    // the frame's length on the wire; 0 means that Data is all of it
	Label int
}

// Source gives packets in order of time.
type Source interface {
	// Next returns the next packet, or io.EOF.
	Next() (Packet, error)
}
