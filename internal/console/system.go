// Package console serves the ConsoleService to engineers: it checks who asks and what, converts to the core's types, calls
// the system and converts back.
package console

import (
	"context"
	"net/netip"
	"time"

	"github.com/amooglesoft/trafficmonitor/internal/detect"
	"github.com/amooglesoft/trafficmonitor/internal/mitigation"
	"github.com/amooglesoft/trafficmonitor/internal/route"
)

// System is what the console shows and steers. Reading answers on every controller; what changes something returns
// [ErrNotLeader] where this one does not lead. Errors are the types of errors.go; any other is shown as internal.
//
// Lists may come in any order: the console sorts them.
type System interface {
	// Status returns the state of the whole system as this controller sees it.
	Status(ctx context.Context) (Status, error)
	// Sensors returns every sensor heard of.
	Sensors(ctx context.Context) ([]Sensor, error)
	// Peers returns the routers of this controller's speaker. speakerError says why the speaker cannot be asked; what
	// is returned then is what was known last.
	Peers(ctx context.Context) (peers []Peer, speakerError string, err error)
	// Incidents returns the active incidents and, when ended is set, also those that ended lately.
	Incidents(ctx context.Context, ended bool) ([]detect.Incident, error)
	// Explain says in sentences what is seen of a target, and why there is, or is no, incident.
	Explain(ctx context.Context, target netip.Prefix) ([]string, error)
	// Mitigations returns the pending and active mitigations and, when ended is set, also those that ended lately or were refused.
	Mitigations(ctx context.Context, ended bool) ([]mitigation.Mitigation, error)
	// Holds returns the targets automation keeps its hands off.
	Holds(ctx context.Context) ([]mitigation.Hold, error)
	// Routes returns the desired routes and what the speaker announces.
	Routes(ctx context.Context) (Routes, error)
	// Announce makes a manual mitigation. With the RequestID of an earlier call it returns that call's mitigation.
	Announce(ctx context.Context, a Announce) (mitigation.Mitigation, error)
	// Preview says what a route would hit and what routers would get for it, were it announced.
	Preview(ctx context.Context, r route.Route) (Preview, error)
	// Approve, Reject and Extend are a person's word about a mitigation; [ErrNotFound] when there is no such one, [ErrConflict]
	// when nothing awaits that word, or not of this person.
	Approve(ctx context.Context, a Answer) (mitigation.Mitigation, error)
	Reject(ctx context.Context, a Answer) (mitigation.Mitigation, error)
	Extend(ctx context.Context, a Answer, by time.Duration) (mitigation.Mitigation, error)
	// Withdraw ends mitigations and sets holds.
	Withdraw(ctx context.Context, w Withdraw) (Withdrawn, error)
	// DeleteHold ends the hold on exactly this target; [ErrNotFound] when there is none.
	DeleteHold(ctx context.Context, d DeleteHold) error
	// SetFreeze stops or resumes automation, or that of a group, and returns the freeze, nil when it was lifted;
	// [ErrNotFound] when a group that is not frozen is resumed.
	SetFreeze(ctx context.Context, f SetFreeze) (*mitigation.Freeze, error)
	// ReleaseQuarantine lets this controller's speaker try routes again that it keeps from a router, and returns them;
	// [ErrNotFound] when there is none. It does not ask who leads: every speaker has sessions, and a quarantine, of its own.
	ReleaseQuarantine(ctx context.Context, q ReleaseQuarantine) ([]string, error)
	// Policy returns the policy in force.
	Policy(ctx context.Context) (Policy, error)
	// Events returns what was recorded, newest first: see [EventQuery].
	Events(ctx context.Context, q EventQuery) (Events, error)
	// Subscribe calls fn with every event from now on until cancel is called. fn does not block.
	Subscribe(fn func(Event)) (cancel func())
}

// Status is the state of the system as one controller sees it.
type Status struct {
	Controller, Version string
	Started             time.Time
	Leader              string // empty when there is none
	Term                uint64
	IsLeader            bool
	NotReady            []string           // reasons; empty when ready
	Freeze              *mitigation.Freeze // of all automation
	Frozen              []GroupFreeze      // of groups
	Breaker             Breaker

	SensorsKnown, SensorsStale         int
	PeersConfigured, PeersEstablished  int
	PeersWaiting                       int       // established, and nothing is announced before the routes are confirmed
	PeersStalled                       int       // established, and acknowledge nothing of what they are sent
	Unconfirmed                        time.Time // since when the speaker was not told that its routes are the store's; zero where that is not long
	HeldFamilies                       []string  // router and family, with a space between
	IncidentsActive, MitigationsActive int
	RoutesDesired                      int
	RoutesSent                         int // summed over routers
	PolicyHash, PolicySource           string
	PolicyError                        string  // why the newest policy was refused
	Shadow                             *Shadow // nil without one
}

// Shadow is the state of the shadow policy: of Judged vectors it would have acted otherwise at Differs.
type Shadow struct {
	Source, Hash    string
	Loaded          time.Time
	Error           string
	Judged, Differs uint64
}

// Breaker is the state of the circuit breaker.
type Breaker struct {
	Off         bool
	Opened      time.Time // zero while it is closed
	Reason      string
	HeldTargets int
}

// GroupFreeze is the freeze of a group; Unknown says that the policy in force has no such group.
type GroupFreeze struct {
	mitigation.Freeze
	Unknown bool
}

// Sensor is one sensor as this controller sees it.
type Sensor struct {
	Name, Version  string
	Started        time.Time
	Interfaces     []SensorInterface
	MapBytes       uint64
	Connected      bool
	Stale          bool // has not reported for three report intervals
	LastReport     time.Time
	Address        string
	Counters       SensorCounters
	Reports        uint64
	MissingReports uint64
	ClockSkew      time.Duration
	Clock          *SensorClock     // nil while it is not known
	Directive      DirectiveVersion // the one it follows
	DirectiveError string           // why it refused the newest
	Rates          SensorRates
	SampleOneIn    uint32   // as it is told to sample; 0 samples none
	Problems       []string // what is wrong with it, the worst first
}

// SensorInterface is one door through which a sensor sees packets; Mirror tells a mirror port from a host interface.
type SensorInterface struct {
	Name       string
	Mirror     bool
	Attachment string // "tcx", "clsact", "xdp-native", "xdp-generic"; empty when it is not attached, or does not say
	Outbound   bool
	Down       bool // it is there, and down or without a carrier
}

// SensorClock is a sensor's clock minus ours, wrong by half the delay there and back at most.
type SensorClock struct{ Offset, Delay time.Duration }

// SensorRates are what changed between a sensor's last two interval reports, per second; CPU is a share of one core.
type SensorRates struct{ Packets, Bits, Outbound, CPU float64 }

// DirectiveVersion is the place of a directive in the order of directives.
type DirectiveVersion struct{ Term, Revision uint64 }

// SensorCounters are a sensor's running totals since they began, and its sizes.
type SensorCounters struct {
	Packets, Bytes, OutboundPackets                                 uint64
	UnprotectedPackets, MalformedPackets, NonIPPackets              uint64
	ForeignSourcePackets                                            uint64
	SlotExhaustedPackets, LostTriggers, LostSamples, DroppedReports uint64
	MergedReports                                                   uint64
	SlotsUsed, SlotsTotal                                           uint64
	SampleOneIn                                                     uint32 // as it really samples
	CPU                                                             time.Duration
	ResidentBytes                                                   uint64
	Maps                                                            []SensorMap
}

// SensorMap is one of the kernel's maps at a sensor. Total is 0 where entries are not counted.
type SensorMap struct {
	Name                     string
	Bytes, Used, Total, Lost uint64
}

// SessionState is the state of a BGP session (RFC 4271, section 8.2.2).
type SessionState string

// The session states.
const (
	SessionIdle        SessionState = "idle"
	SessionConnect     SessionState = "connect"
	SessionActive      SessionState = "active"
	SessionOpenSent    SessionState = "open-sent"
	SessionOpenConfirm SessionState = "open-confirm"
	SessionEstablished SessionState = "established"
)

// Peer is one router as the speaker sees it.
type Peer struct {
	Name             string
	Group            string // of routers in the configuration; empty when it is in none
	Address          string
	ASN              uint32
	State            SessionState
	Since            time.Time
	Families         []string // both sides agreed on
	MissingFamilies  []string // offered by us and not by the router
	DesiredRoutes    int      // the router is to have
	SentRoutes       int
	EstablishedCount uint64
	LastError        string
	LastErrorTime    time.Time

	// Of all desired routes, how many are in each other state.
	PendingRoutes, UnsupportedRoutes, NotPlacedRoutes, QuarantinedRoutes, FailedRoutes int

	HeldFamilies []HeldFamily // of which it takes nothing, so that nothing of them is sent to it

	StoreWait time.Time // until when nothing is announced to it unless the routes are confirmed before; zero while it does not wait
	Stalled   time.Time // since when it has acknowledged nothing of what it is sent; zero while it does

	Profile         string // what kind of router it is
	HardwareEntries int    // the rules it is to have take, as the profile counts

	// What it said of its rules when it was last asked. ProbeTime is zero when it never answered.
	InstalledRules, NotInstalledRules int
	HitPackets                        uint64
	ProbeTime                         time.Time
	ProbeError                        string
}

// HeldFamily is a family that is kept from a router as a whole.
type HeldFamily struct {
	Family string
	Until  time.Time
	Reason string // in words, with what to do
}

// Routes are the desired routes and what became of them.
type Routes struct {
	Desired      []Route
	Unexpected   []Route // announced by the speaker though not desired
	SpeakerError string  // why the speaker cannot be asked
}

// Route is one route and its state at each router.
type Route struct {
	Route    route.Route
	Deadline time.Time
	Created  time.Time
	Owners   []string // identifiers of mitigations
	Approved bool
	Peers    []PeerRoute
}

// RouteState is what became of a route at one router. Sent is not "installed in hardware".
type RouteState string

// The route states.
const (
	RoutePending     RouteState = "pending"     // it waits for the session, its turn or the router's pace
	RouteSent        RouteState = "sent"        // written to the router's connection in this session
	RouteUnsupported RouteState = "unsupported" // the router does not take its family or shape
	RouteNotPlaced   RouteState = "not-placed"  // the router has no room for it
	RouteQuarantined RouteState = "quarantined" // the router resets the session upon it
	RouteFailed      RouteState = "failed"      // BGP did not take it; it is tried again
)

// PeerRoute is the state of a route at one router.
type PeerRoute struct {
	Peer    string
	State   RouteState
	Reason  string
	Sent    time.Time
	Rules   []string // what the router gets for it, where that is not the route itself
	Widened string   // what these match that the route does not
	Probe   *RouteProbe
}

// Installed is what a router's own tool says of a route.
type Installed string

// What it may say.
const (
	InstalledYes     Installed = "yes"
	InstalledNo      Installed = "no"
	InstalledUnknown Installed = "unknown"
)

// RouteProbe is what a router said of a route it was sent.
type RouteProbe struct {
	Installed       Installed
	Reason          string
	Packets, Octets *uint64 // it hit; nil where the router does not count
	Time            time.Time
}

// Announce asks for a manual mitigation of one route.
type Announce struct {
	Route        route.Route // canonical and valid
	TTL          time.Duration
	Reason       string
	RequestID    string // may be empty
	Requester    string
	Approved     bool // the requester may do what safety reserves for approvers
	ValidateOnly bool // check only; the answer is the mitigation as it would be
	AskApproval  bool // ask an approver where only one may announce it
}

// Preview is what a route would hit, and what each router would get for it.
type Preview struct {
	Samples    int     // of the destination's normal traffic; 0: nothing is known of the collateral
	Collateral float64 // the share of it, 0 to 1, that the route matches at most
	Peers      []PeerPreview
}

// PeerPreview is what one router would get, were this the only route.
type PeerPreview struct {
	Peer, Profile string
	Rules         []string // in text form; none where it would get none
	Cost          int      // entries of its hardware
	Widened       []string // what the rules match that the route does not, in words
	Reason        string   // why it would get none
}

// Answer is a person's word about a mitigation.
type Answer struct{ ID, Reason, Requester string }

// Withdraw selects mitigations to end: exactly one of ID, Target and All is set.
type Withdraw struct {
	ID        string
	Target    netip.Prefix // every mitigation whose target lies inside
	All       bool
	Reason    string
	Hold      *time.Duration // nil means the configured default, zero none
	Requester string
}

// Withdrawn is what a [Withdraw] ended and which holds it set.
type Withdrawn struct {
	Mitigations []mitigation.Mitigation
	Holds       []mitigation.Hold
}

// DeleteHold names the target of a hold to end.
type DeleteHold struct {
	Target    netip.Prefix
	Reason    string
	Requester string
}

// ReleaseQuarantine names a router and, if there is one, the one route or family of its quarantine to try again.
type ReleaseQuarantine struct {
	Peer      string
	Route     *route.Route
	Family    string // empty where a route is named, or all is meant
	Reason    string
	Requester string
}

// SetFreeze stops automation (Frozen) or resumes it: of Group, or all when that is empty.
type SetFreeze struct {
	Frozen    bool
	Group     string
	Reason    string
	Requester string
}

// Policy is the policy in force.
type Policy struct {
	Source, Hash, Text string
	Loaded             time.Time
	Error              string // why the newest one was refused
}

// Event is something that happened. Kind is one of a small closed set, such as "incident_onset" or "route_sent".
type Event struct {
	Controller string // that recorded it
	Time       time.Time
	Kind       string
	Message    string
	Attributes map[string]string
}

// EventQuery selects events; empty members select all.
type EventQuery struct {
	Since, Until time.Time // from Since on, before Until
	About        []string  // identifiers, addresses, prefixes: any of them
	Related      bool      // also what events about these name: the incident's mitigations, their routes
	Kinds        []string
	Requester    string // a part of the name
	Limit        int
}

// Events are what was found, newest first.
type Events struct {
	Events     []Event
	Incomplete string // why others may be missing; empty when none are
}
