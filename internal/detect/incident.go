// Package detect turns rates into incidents. It is pure: the same observations at the same times give the same
// incidents, and each says why in numbers.
package detect

import (
	"net/netip"
	"time"

	"github.com/amooglesoft/trafficmonitor/internal/vector"
)

// Incident is one attack on one target, from onset to end.
type Incident struct {
	ID        string
	Target    netip.Prefix
	Direction vector.Direction
	Group     string        // policy group of the target
	Vectors   []Measurement // sorted by vector
	Onset     time.Time     // begin of the window in which the first limit was passed
	Decided   time.Time
	Ended     time.Time // zero while the attack goes on
	Reason    string
	Sensors   []string // sorted
}

// Active reports whether the attack goes on.
func (i Incident) Active() bool { return i.Ended.IsZero() }

// Measurement is one vector of an incident against its limits. Rates are per second; a limit of 0 is none.
type Measurement struct {
	Vector             vector.ID
	PPS, BPS           float64
	PeakPPS, PeakBPS   float64
	LimitPPS, LimitBPS float64
}
