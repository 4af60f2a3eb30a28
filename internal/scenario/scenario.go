// Package scenario generates labelled traffic: attacks of every kind mixed into what their targets normally receive and
// send, and busy days that are no attacks. It does no I/O and reads no clock: a scenario's seed decides every octet.
package scenario

import (
	"net/netip"
	"time"

	"github.com/amooglesoft/trafficmonitor/internal/replay"
	"github.com/amooglesoft/trafficmonitor/internal/vector"
)

// Epoch is the time of every scenario's beginning.
var Epoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// Scenario is some seconds of traffic, with what is to be found in it.
type Scenario struct {
	Name, Says string
	Seed       uint64
	Duration   time.Duration
	// Targets are the protected prefixes.
	Targets []netip.Prefix
	// Attacks are in order of their ID, from 1 on; none makes the scenario benign.
	Attacks []Attack
	// Long is set when it has so many packets that it is not run by default.
	Long bool

	benign func(*cast)
}

// Attack is what a detector is expected to find.
type Attack struct {
	// ID is the label of the attack's packets.
	ID     int
	Target netip.Prefix
	// Direction is outbound when a host of ours attacks others; the target is then that host.
	Direction vector.Direction
	// Vectors are those that pass their limits, Beside those that may be named, too: they ride along.
	Vectors, Beside []vector.ID
	// Start and End are since the scenario's beginning.
	Start, End time.Duration
	// PPS is the rate at its highest.
	PPS float64
	// Separable is set when some FlowSpec match tells the attack from nearly all of its target's other traffic.
	Separable bool
	// Small is set when the attack is below the size from which on it has to be found.
	Small bool

	parts []part
}

// part is one stream of an attack.
type part struct {
	tempo
	build builder
}

// Source returns the scenario's packets from the first on. Each call gives the same.
func (s Scenario) Source() replay.Source {
	c := &cast{seed: s.Seed, duration: s.Duration}
	if s.benign != nil {
		s.benign(c)
	}
	for _, a := range s.Attacks {
		for _, p := range a.parts {
			c.label = a.ID
			c.add(p.tempo, p.build)
		}
	}
	return newMerge(c.actors, s.Duration)
}
