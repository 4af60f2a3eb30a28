// Package audit keeps an append-only record of what was decided, by whom and why: a file of JSON lines, a tail in
// memory, and a feed for whoever watches. Recording never waits for a disk or a reader.
package audit

import (
	"maps"
	"slices"
	"strings"
	"time"
	"unicode/utf8"
)

// Kind says what happened. The set is closed: it is a metric label, and a filter in the console.
type Kind string

// The kinds.
const (
	IncidentOnset Kind = "incident_onset" // an attack was recognised
	IncidentGrown Kind = "incident_grown" // another vector joined it
	IncidentEnded Kind = "incident_ended"

	MitigationCreated  Kind = "mitigation_created"
	MitigationExtended Kind = "mitigation_extended"
	MitigationChanged  Kind = "mitigation_changed" // its routes or its step of the ladder
	MitigationEnded    Kind = "mitigation_ended"
	MitigationRefused  Kind = "mitigation_refused"  // by the safety kernel, a quota or a hold
	MitigationObserved Kind = "mitigation_observed" // policy says to watch only

	MitigationProposed    Kind = "mitigation_proposed"    // nothing is announced: its ladder waits
	MitigationVerified    Kind = "mitigation_verified"    // sensors show that it works
	MitigationIneffective Kind = "mitigation_ineffective" // sensors show that it does not
	MitigationEscalated   Kind = "mitigation_escalated"   // a further step of its ladder was taken
	MitigationEased       Kind = "mitigation_eased"       // a milder one, to see whether the attack is over
	MitigationHeld        Kind = "mitigation_held"        // a freeze or hold keeps automation off it

	ApprovalAsked    Kind = "approval_asked" // of persons, before something is announced
	ApprovalGiven    Kind = "approval_given"
	ApprovalRejected Kind = "approval_rejected"
	ManualExtend     Kind = "manual_extend" // an engineer wants it to stay longer

	RouteSent      Kind = "route_sent" // to a peer
	RouteWithdrawn Kind = "route_withdrawn"
	RouteRefused   Kind = "route_refused" // by the speaker's own check of the encoded bytes

	ManualAnnounce    Kind = "manual_announce" // asked for by an engineer
	ManualWithdraw    Kind = "manual_withdraw"
	RequestRefused    Kind = "request_refused" // of an engineer: invalid, or the role does not allow it
	HoldSet           Kind = "hold_set"
	HoldLifted        Kind = "hold_lifted"
	FreezeSet         Kind = "freeze_set"
	FreezeLifted      Kind = "freeze_lifted"
	GroupFreezeSet    Kind = "group_freeze_set" // for the targets of a group of the policy
	GroupFreezeLifted Kind = "group_freeze_lifted"
	// A speaker keeps a route from a router that resets the session upon it, and tries it again.
	Quarantined      Kind = "quarantined"
	QuarantineLifted Kind = "quarantine_lifted"
	RedButton        Kind = "red_button"     // everything withdrawn at a speaker
	BreakerOpened    Kind = "breaker_opened" // automation did harm, and was stopped

	Started       Kind = "started"
	Stopped       Kind = "stopped"
	ConfigLoaded  Kind = "config_loaded"
	ConfigRefused Kind = "config_refused"
	PolicyLoaded  Kind = "policy_loaded"
	PolicyRefused Kind = "policy_refused"
	PolicyProblem Kind = "policy_problem" // a condition of the policy in force cannot be computed
	PolicyNotify  Kind = "policy_notify"  // the policy asks a person to look at an attack
	ShadowDiffers Kind = "shadow_differs" // the shadow policy would have answered an attack otherwise
	LeaderElected Kind = "leader_elected"
	LeaderLost    Kind = "leader_lost"
	StoreLost     Kind = "store_lost"
	StoreBack     Kind = "store_back"
	RecordDamaged Kind = "record_damaged" // a stored record that cannot be read
	SensorSeen    Kind = "sensor_seen"
	SensorLost    Kind = "sensor_lost"
	PeerUp        Kind = "peer_up"
	PeerDown      Kind = "peer_down"
	SpeakerUp     Kind = "speaker_up"
	SpeakerDown   Kind = "speaker_down"
	EventsLost    Kind = "events_lost" // of this record, because the disk was too slow or failed
)

var kinds = []Kind{
	IncidentOnset, IncidentGrown, IncidentEnded,
	MitigationCreated, MitigationExtended, MitigationChanged, MitigationEnded, MitigationRefused, MitigationObserved,
	MitigationProposed, MitigationVerified, MitigationIneffective, MitigationEscalated, MitigationEased, MitigationHeld,
	ApprovalAsked, ApprovalGiven, ApprovalRejected, ManualExtend,
	RouteSent, RouteWithdrawn, RouteRefused,
	ManualAnnounce, ManualWithdraw, RequestRefused, HoldSet, HoldLifted, FreezeSet, FreezeLifted, GroupFreezeSet, GroupFreezeLifted, Quarantined, QuarantineLifted, RedButton, BreakerOpened,
	Started, Stopped, ConfigLoaded, ConfigRefused, PolicyLoaded, PolicyRefused, PolicyProblem, PolicyNotify, ShadowDiffers, LeaderElected, LeaderLost, StoreLost, StoreBack,
	RecordDamaged, SensorSeen, SensorLost, PeerUp, PeerDown, SpeakerUp, SpeakerDown, EventsLost,
}

// Kinds returns all kinds in order of the constants.
func Kinds() []Kind { return slices.Clone(kinds) }

// Known reports whether k is one of the constants.
func (k Kind) Known() bool { return slices.Contains(kinds, k) }

// Event is something that happened.
type Event struct {
	Time       time.Time         `json:"time"`
	Kind       Kind              `json:"kind"`
	Message    string            `json:"message"`              // in a sentence
	Attributes map[string]string `json:"attributes,omitempty"` // identifiers and values: incident, mitigation, target, requester, reason…
	Controller string            `json:"controller,omitempty"` // that recorded it
}

// Bounds of an event, so that no text from outside fills the disk with one line.
const (
	maxText       = 4096
	maxAttributes = 64
)

// bounded returns e with its own copy of the attributes, cut to the bounds, in UTC and without the monotonic clock.
func (e Event) bounded() Event {
	e.Time = e.Time.UTC().Round(0)
	e.Message = cut(e.Message)
	if e.Attributes == nil {
		return e
	}
	if len(e.Attributes) <= maxAttributes {
		e.Attributes = maps.Clone(e.Attributes)
	} else {
		all := e.Attributes
		e.Attributes = make(map[string]string, maxAttributes)
		for _, k := range slices.Sorted(maps.Keys(all))[:maxAttributes] {
			e.Attributes[k] = all[k]
		}
	}
	for k, v := range e.Attributes {
		if len(k) > maxText {
			delete(e.Attributes, k)
			continue
		}
		e.Attributes[k] = cut(v)
	}
	return e
}

// cut shortens s to the bound without breaking a character, and replaces what is not UTF-8.
func cut(s string) string {
	if len(s) > maxText {
		n := maxText
		for n > 0 && !utf8.RuneStart(s[n]) {
			n--
		}
		s = s[:n] + "…"
	}
	return strings.ToValidUTF8(s, "�")
}
