// Package traffic holds the network-wide view: what each target receives per vector, merged over all sensors. It is
// pure: time is an argument, and the same reports give the same view whatever the order of sensors.
package traffic

import (
	"net/netip"
	"time"

	"github.com/amooglesoft/trafficmonitor/internal/vector"
)

// Cause says why a sensor sent a report, and so what the absence of a target in it means.
type Cause uint8

// The causes.
const (
	// Interval reports hold every target that had traffic: what is absent had none.
	Interval Cause = iota + 1
	// Trigger reports hold one target in a window that is not over: rates are lower bounds.
	Trigger
	// Hot reports hold one target in full: a vector that is absent had no packets.
	Hot
)

func (c Cause) String() string {
	switch c {
	case Interval:
		return "interval"
	case Trigger:
		return "trigger"
	case Hot:
		return "hot"
	}
	return "unknown"
}

// Report is what one sensor counted in one span of time.
type Report struct {
	Sensor     string
	Cause      Cause
	Start      time.Time     // by the sensor's clock
	Span       time.Duration // greater than zero
	Aggregates []Aggregate
	// Networks are exact totals and Profiles describe what there was most of; of interval and hot reports.
	Networks []NetworkTotal
	Profiles []Profile
	// Merged is how many reports this one holds, if more than one.
	Merged int
}

// Aggregate counts the packets of one vector to one target, or from it. Bytes are counted from the IP header on.
type Aggregate struct {
	Target    netip.Prefix
	Direction vector.Direction
	Vector    vector.ID
	Packets   uint64
	Bytes     uint64
}

// Observation is what all sensors together say of one vector at one target. Rates are per second.
type Observation struct {
	Target netip.Prefix
	Vector vector.ID
	// PPS and BPS sum the sensors that report in time.
	PPS, BPS float64
	// HeldPPS and HeldBPS sum the last word of sensors that went silent: missing, not zero.
	HeldPPS, HeldBPS float64
	// Start and Span are those of the report that made the observation.
	Start time.Time
	Span  time.Duration
	// Sensors names those that see packets of the vector now, sorted; Missing those that did and went silent.
	Sensors, Missing []string
}
