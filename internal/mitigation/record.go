// Package mitigation decides what is announced, for whom, and until when. It is a pure state machine: events in, records
// to persist out; it reads no clock and starts nothing.
package mitigation

import (
	"net/netip"
	"time"

	"github.com/amooglesoft/trafficmonitor/internal/route"
	"github.com/amooglesoft/trafficmonitor/internal/vector"
)

// State says what a mitigation is to the routers.
type State string

// The states.
const (
	Pending State = "pending" // nothing was announced yet
	Active  State = "active"  // its routes are announced
	Ended   State = "ended"   // they are no more
	Refused State = "refused" // they may not be
)

// Automation is the requester of a mitigation nobody asked for by hand.
const Automation = "automation"

// Why a mitigation ended or was not made: a small closed set, used as audit entry, log field and metric label.
const (
	EndDeadline   = "deadline"          // its deadline passed and no evidence asked for more
	EndMaxAge     = "max_age"           // it reached the age none may exceed
	EndWithdrawn  = "withdrawn_by_hand" // an engineer withdrew it
	EndUnsafe     = "refused_by_safety" // the safety kernel refused it
	EndRolledBack = "rolled_back"       // the circuit breaker withdrew it, for it did harm
	EndOver       = "over"              // the attack was measured to be over
	EndRejected   = "rejected_by_hand"  // an approver said no
)

// Mitigation is our answer to an incident or to an engineer, as it is stored. It owns its routes until Deadline.
type Mitigation struct {
	ID        string        `json:"id"`
	Target    netip.Prefix  `json:"target"`
	State     State         `json:"state"`
	Phase     Phase         `json:"phase,omitempty"`    // where in its life it is; never empty in what a Machine returns
	Since     time.Time     `json:"since,omitzero"`     // when it entered the phase
	Incident  string        `json:"incident,omitempty"` // empty for a manual one
	Vectors   []vector.ID   `json:"vectors,omitempty"`  // sorted
	Answer    string        `json:"answer,omitempty"`   // path of the policy's response that asked for it; empty for a manual one
	Groups    []string      `json:"groups,omitempty"`   // of the policy, that the target was in when it was made, but for the default one
	Routes    []route.Route `json:"routes"`             // sorted by text; at least one: of a pending one what it would announce
	Scope     []string      `json:"scope,omitempty"`    // the routers that are told, sorted; empty: all
	Requester string        `json:"requester"`          // Automation, or who asked for it
	Reason    string        `json:"reason"`
	RequestID string        `json:"request_id,omitempty"` // makes a manual request repeatable
	Refined   bool          `json:"refined,omitempty"`    // its route is not the one it began with
	Approved  bool          `json:"approved,omitempty"`   // an approver allowed what automation may not do

	Created     time.Time     `json:"created"`
	Deadline    time.Time     `json:"deadline"`
	MaxDeadline time.Time     `json:"max_deadline"` // no extension goes beyond
	Extend      time.Duration `json:"extend"`       // what one extension adds, nanoseconds; 0 never extends
	Extensions  uint32        `json:"extensions,omitempty"`

	Ended     time.Time `json:"ended,omitzero"`
	EndReason string    `json:"end_reason,omitempty"` // one of the End constants
	EndDetail string    `json:"end_detail,omitempty"` // who and why, in words
	Evidence  string    `json:"evidence,omitempty"`   // what the sensors show of its effect, in words

	Rung   Rung      `json:"rung,omitzero"`   // where it stands on its policy's ladder
	Ask    *Ask      `json:"ask,omitempty"`   // what persons are asked to approve; never changed in place
	Effect Effect    `json:"effect,omitzero"` // what was measured of it, as of the last change
	Told   time.Time `json:"told,omitzero"`   // when routers were first told; zero: never
	Flaps  uint32    `json:"flaps,omitempty"` // how many before it ended shortly before the attack came again
}

// Manual reports whether an engineer asked for the mitigation.
func (m Mitigation) Manual() bool { return m.Requester != Automation }

// Rung is where a mitigation of automation stands on the ladder of its policy.
type Rung struct {
	Ladder    string        `json:"ladder,omitempty"` // which ladder: see Ladder
	Step      int           `json:"step"`             // its index; -1 before the first
	Steps     int           `json:"steps,omitempty"`  // how many the ladder has
	Name      string        `json:"name,omitempty"`   // of the step
	Since     time.Time     `json:"since,omitzero"`   // when it was taken
	DownAfter time.Duration `json:"down_after,omitempty"`
	// While it eases: the step it came from, and of both how often easing was in vain, which makes the next wait longer.
	From  int    `json:"from,omitempty"`
	Eased uint32 `json:"eased,omitempty"`
}

// Ask is a question to persons: may the step be taken?
type Ask struct {
	Ladder   string     `json:"ladder,omitempty"` // of the step; empty of an engineer's request
	Step     int        `json:"step"`             // index on the ladder
	Needs    int        `json:"needs"`            // how many persons must approve
	Why      string     `json:"why"`
	Since    time.Time  `json:"since"`
	By       []Approval `json:"by,omitempty"`
	Rejected *Approval  `json:"rejected,omitempty"` // who said no; it is not asked again
}

// Open reports whether an answer is awaited.
func (a *Ask) Open() bool { return a != nil && a.Rejected == nil && len(a.By) < a.Needs }

// Approval is one person's answer.
type Approval struct {
	Who    string    `json:"who"`
	When   time.Time `json:"when"`
	Reason string    `json:"reason"`
}

// Effect is what sensors measured of a mitigation's vector, per second: before its step took effect, and since. Rates beside
// what is usual for the target; Other is of its other traffic.
type Effect struct {
	BeforePPS   float64   `json:"before_pps,omitempty"`
	BeforeBPS   float64   `json:"before_bps,omitempty"`
	BeforeOther float64   `json:"before_other_pps,omitempty"`
	PPS         float64   `json:"pps,omitempty"`
	BPS         float64   `json:"bps,omitempty"`
	Other       float64   `json:"other_pps,omitempty"`
	Reduction   float64   `json:"reduction,omitempty"` // by how much the packets fell, 0 to 1
	Measured    time.Time `json:"measured,omitzero"`   // until when; zero: nothing was measured
	Verified    time.Time `json:"verified,omitzero"`   // when the effect was first shown
	Sensors     []string  `json:"sensors,omitempty"`   // those that saw the attack before, without which nothing is measured; at most 64
}

// Hold keeps automation off a prefix until it ends: off every target inside it, and off networks that contain it.
type Hold struct {
	Target    netip.Prefix `json:"target"`
	Until     time.Time    `json:"until"`
	Requester string       `json:"requester"`
	Reason    string       `json:"reason"`
}

// Freeze stops automation until it is lifted: all of it, or that for the targets of a group of the policy.
type Freeze struct {
	Group     string    `json:"group,omitempty"` // empty: all automation
	Since     time.Time `json:"since"`
	Requester string    `json:"requester"`
	Reason    string    `json:"reason"`
}

// Records is all that is stored: enough to go on after a restart or on another controller.
type Records struct {
	Mitigations []Mitigation // active ones and those that ended lately, sorted by ID
	Holds       []Hold       // sorted by Target
	Freeze      *Freeze      // of all automation; nil while it runs
	Frozen      []Freeze     // of groups, sorted by Group
}
