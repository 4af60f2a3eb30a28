// Package mitigation decides what is announced, for whom, and until when. It is a pure state machine: events in, records
// to persist out; it reads no clock and starts nothing.
package mitigation

import (
	"net/netip"
	"time"

	"github.com/amooglesoft/trafficmonitor/internal/route"
	"github.com/amooglesoft/trafficmonitor/internal/vector"
)

// State of a mitigation.
type State string

// The states. A refused mitigation never announced anything.
const (
	Active  State = "active"
	Ended   State = "ended"
	Refused State = "refused"
)

// Automation is the requester of a mitigation nobody asked for by hand.
const Automation = "automation"

// Why a mitigation ended or was not made: a small closed set, used as audit entry, log field and metric label.
const (
	EndDeadline   = "deadline"          // its deadline passed and no evidence asked for more
	EndMaxAge     = "max_age"           // it reached the age none may exceed
	EndWithdrawn  = "withdrawn_by_hand" // an engineer withdrew it
	EndReplaced   = "replaced"          // another mitigation took over its routes
	EndUnsafe     = "refused_by_safety" // the safety kernel refused it
	EndNoPolicy   = "policy_no_longer"  // a new policy no longer asks for it
	EndRolledBack = "rolled_back"       // the circuit breaker withdrew it, for it did harm
)

// Mitigation is our answer to an incident or to an engineer, as it is stored. It owns its routes until Deadline.
type Mitigation struct {
	ID        string        `json:"id"`
	Target    netip.Prefix  `json:"target"`
	State     State         `json:"state"`
	Incident  string        `json:"incident,omitempty"` // empty for a manual one
	Vectors   []vector.ID   `json:"vectors,omitempty"`  // sorted
	Answer    string        `json:"answer,omitempty"`   // path of the policy's response that asked for it; empty for a manual one
	Groups    []string      `json:"groups,omitempty"`   // of the policy, that the target was in when it was made, but for the default one
	Routes    []route.Route `json:"routes"`             // sorted by text; a stored mitigation has at least one
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
}

// Manual reports whether an engineer asked for the mitigation.
func (m Mitigation) Manual() bool { return m.Requester != Automation }

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
