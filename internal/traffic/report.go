// Package traffic holds the network-wide view: what each target receives per vector, merged over all sensors. It is
// pure: time is an argument, and the same reports give the same view whatever the order of sensors.
package traffic

import (
	"net/netip"
	"time"

	"github.com/amooglesoft/trafficmonitor/internal/sketch"
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
	// Outbound says that the sensor counts what leaves, too, on all of its interfaces: silence about it then means that
	// nothing left.
	Outbound bool
}

// Aggregate counts the packets of one vector to one target, or from it. Bytes are counted from the IP header on.
type Aggregate struct {
	Target    netip.Prefix
	Direction vector.Direction
	Vector    vector.ID
	Packets   uint64
	Bytes     uint64
}

// Observation is what all sensors together say of one vector at one target, in one direction. Rates are per second.
type Observation struct {
	Target netip.Prefix
	// Network is set for the exact total of a network, hosts included; otherwise a prefix that is no host stands for what
	// was not told apart.
	Network   bool
	Direction vector.Direction
	Vector    vector.ID
	// PPS and BPS sum the sensors that report in time.
	PPS, BPS float64
	// HeldPPS and HeldBPS sum the last word of sensors that went silent: missing, not zero.
	HeldPPS, HeldBPS float64
	// AllPPS is the rate of all vectors together, of inbound traffic of a target: [vector.Total] as it was told last, or the sum of
	// what is newer.
	AllPPS float64
	// Packets and Bytes are what was counted since the observation before, each packet once, though hot and interval
	// reports overlap.
	Packets, Bytes uint64
	// TwoWay says that the other direction is watched, too; AnswersPPS is then the rate of what the target sends that
	// belongs to it, see [vector.OppositeOf]. Of inbound traffic only.
	TwoWay     bool
	AnswersPPS float64
	// ActiveHosts is, of a network, in how many hosts the packets were counted: summed over sensors, so that a host that
	// several sensors see counts for each.
	ActiveHosts int
	// Start is the earliest begin of the reports that made the observation, Span the longest of their spans.
	Start time.Time
	Span  time.Duration
	// Sensors names those that see packets of the vector now, sorted; Missing those that did and went silent. Of many only
	// the first [MaxNames] are named; SensorCount and MissingCount count all.
	Sensors, Missing          []string
	SensorCount, MissingCount int
}

// MaxNames is how many sensors an observation names.
const MaxNames = 64

// Rate is an observation in short.
type Rate struct {
	Target    netip.Prefix
	Network   bool
	Direction vector.Direction
	Vector    vector.ID
	PPS, BPS  float64 // those of silent sensors not included
	Held      bool    // a sensor that saw some is silent
	// Mark is a number that the view keeps with the target for the one caller that wants it, 0 at first and again whenever the
	// target came anew; nil where there is none. It tells where something else about the target is, without a look-up.
	Mark *uint32
}

// Sources says from how many sources the packets of one vector at one target came, as told by the profiles that all
// sensors sent since the last look.
type Sources struct {
	Target    netip.Prefix
	Direction vector.Direction
	Vector    vector.ID
	// Packets are those whose sources Distinct holds: all of the vector where Exact, else samples. Others are packets of
	// other vectors of which Distinct holds the sources, too.
	Packets, Others uint64
	Distinct        sketch.HyperLogLog
	Exact           bool
	// Start and Span are the time they were counted in.
	Start time.Time
	Span  time.Duration
	// PPS is the vector's rate, AnswersPPS as in Observation; CompletingPPS that of the inbound packets which follow where
	// an exchange comes about.
	PPS, AnswersPPS, CompletingPPS float64
	TwoWay                         bool
	Sensors                        []string // sorted
}

// Completes tells whether other packets follow where an exchange comes about that begins with those of the vector.
func (s *Sources) Completes() bool { return vector.OppositeOf(s.Vector).Completing != 0 }
