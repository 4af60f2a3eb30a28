// Package detect turns rates into incidents. It is pure: the same observations at the same times give the same
// incidents, and each says why in numbers.
package detect

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/netip"
	"time"

	"github.com/amooglesoft/trafficmonitor/internal/vector"
)

// Incident is one attack on one target, from onset to end.
type Incident struct {
	ID string
	// Target is who is attacked; of an outbound attack, who attacks.
	Target    netip.Prefix
	Direction vector.Direction
	// Network is set when a network is attacked as a whole, its hosts together; ActiveHosts is then in how many of them.
	Network     bool
	ActiveHosts int
	Group       string        // policy group of the target
	Test        Test          // what its first vector passed
	Vectors     []Measurement // sorted by vector
	Onset       time.Time     // begin of the window in which the first limit was passed
	Decided     time.Time
	Ended       time.Time // zero while the attack goes on
	Reason      string
	Sensors     []string // sorted
	// Previous is the incident that ended shortly before at the same site: the attack flaps. Each one of a row is held twice
	// as long.
	Previous string
}

// Active reports whether the attack goes on.
func (i Incident) Active() bool { return i.Ended.IsZero() }

// Site is where it is seen.
func (i Incident) Site() Site { return Site{i.Target, i.Direction, i.Network} }

// Measurement is one vector of an incident against its limits. Rates are per second; a limit of 0 is none.
type Measurement struct {
	Vector             vector.ID
	Test               Test
	PPS, BPS           float64
	PeakPPS, PeakBPS   float64
	LimitPPS, LimitBPS float64
}

// Kind says what happened to an incident.
type Kind uint8

// The kinds.
const (
	Onset       Kind = iota + 1 // a new incident
	VectorAdded                 // a further vector of an incident passed its limit
	End                         // the attack is over
	Continues                   // a vector of an incident is still over its limit
)

func (k Kind) String() string {
	switch k {
	case Onset:
		return "incident_onset"
	case VectorAdded:
		return "incident_vector_added"
	case End:
		return "incident_end"
	case Continues:
		return "incident_continues"
	}
	return "unknown"
}

// Event is a change of an incident.
type Event struct {
	Kind     Kind
	Incident Incident    // as it is after the change
	Vectors  []vector.ID // those that the event is about
}

// incidentID depends on what the incident is, not on who asks, so that every replica gives it the same name.
func incidentID(s Site, onset time.Time) string {
	text := fmt.Sprintf("%s %d", s.Target, onset.UnixNano())
	if s.Direction != vector.Inbound || s.Network {
		text = fmt.Sprintf("%s %s %v", text, s.Direction, s.Network)
	}
	sum := sha256.Sum256([]byte(text))
	return "i-" + hex.EncodeToString(sum[:5])
}
