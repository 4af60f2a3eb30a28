package speaker

import (
	"cmp"
	"slices"
	"time"

	"github.com/amooglesoft/trafficmonitor/internal/compile"
	"github.com/amooglesoft/trafficmonitor/internal/route"
	"github.com/amooglesoft/trafficmonitor/internal/safety"
)

// Desired is one route that is to be announced, with its end.
type Desired struct {
	Route    route.Route
	Deadline time.Time // when it ends, whoever is alive
	Created  time.Time // when it was first decided
	Owners   []string  // the mitigations that own it, sorted
	Answers  []string  // the policy's responses that asked for it, sorted
	Groups   []string  // the policy's groups its target is in, sorted
	Scope    []string  // the routers that are told, sorted; empty: all
	Approved bool      // an approver allowed what is refused to automation
	Manual   bool      // an engineer asked for it
}

// tells reports whether a router is told.
func (d Desired) tells(router string) bool {
	return len(d.Scope) == 0 || slices.Contains(d.Scope, router)
}

// Refused is a route the speaker did not announce.
type Refused struct {
	Route     string
	Invariant string // a small closed set: an invariant of the safety kernel, or one of the Refused constants
	Reason    string
}

// Why the speaker itself refuses a route; the safety kernel has its own names.
const (
	RefusedText      = "route_text" // the text is not a route
	RefusedDuplicate = "duplicate"  // a second action for one match
	RefusedDeadline  = "deadline"   // no deadline, or it has passed
	RefusedEncoding  = "encoding"   // the encoded bytes are not what was meant
)

// Result tells what a call of Set did.
type Result struct {
	Announced, Withdrawn int
	Refused              []Refused
	set                  uint64 // names the set for a change of it; 0: it cannot be changed, only replaced
}

// SessionState is the state of a BGP session (RFC 4271, section 8.2.2).
type SessionState int

// The states.
const (
	Idle SessionState = iota + 1
	Connect
	Active
	OpenSent
	OpenConfirm
	Established
)

func (s SessionState) String() string {
	switch s {
	case Idle:
		return "idle"
	case Connect:
		return "connect"
	case Active:
		return "active"
	case OpenSent:
		return "open-sent"
	case OpenConfirm:
		return "open-confirm"
	case Established:
		return "established"
	}
	return "unknown"
}

// RouteState is the state of a route at one router. Sent is not "installed in hardware".
type RouteState int

// The states.
const (
	Pending     RouteState = iota + 1 // it waits for the session, its turn or the router's pace
	Sent                              // its UPDATE was written to the router's connection in this session
	Unsupported                       // the router does not take the table or the shape
	NotPlaced                         // the router has no room for it
	Quarantined                       // the router resets the session upon it
	Failed                            // it cannot be made into an UPDATE for the router; it is tried again
)

// Status is the state of one speaker.
type Status struct {
	Version        string
	PID            int
	Start          time.Time
	ASN            uint32
	RouterID       string
	Peers          []PeerStatus  // sorted by name
	Routes         []RouteStatus // sorted by text
	Term, Revision uint64        // of the newest applied set
	WithdrawnAllBy string        // who pressed the red button and why; empty while it is released
	Asks           uint64        // number of the newest session that waits for Client.Confirm; 0 while none does
}

// PeerStatus is one router as the speaker sees it.
type PeerStatus struct {
	Name, Address string
	Group         string // of routers in the configuration; empty: none
	ASN           uint32
	State         SessionState
	Since         time.Time
	Families      []compile.Table    // both sides agreed on
	Missing       []compile.Table    // we offered and the router did not
	Desired       int                // routes the router is to have
	Routes        map[RouteState]int // of the whole set, by state
	Established   uint64             // times the session came up since the speaker's start
	LastError     string             // last NOTIFICATION or transport error in words, with what to do
	LastErrorTime time.Time

	Held []HeldFamily // what is kept from it as a whole, sorted by family

	StoreWait time.Time // until when nothing is announced to it unless Client.Confirm comes first; zero while it does not wait

	Stalled time.Time // since when it has acknowledged nothing of what it is sent, by TCP; zero while it does

	Profile string // what kind of router it is
	Cost    int    // entries of its hardware, as the profile counts
	Probed  Probed // what it said of its rules
}

// RouteStatus is one route in the speaker.
type RouteStatus struct {
	Desired
	Peers []PeerRoute // sorted by peer
}

// PeerRoute says what became of a route at one router.
type PeerRoute struct {
	Peer    string
	State   RouteState
	Reason  string
	Sent    time.Time
	Rules   []string // what the router gets for it, where that is not the route itself
	Widened string   // what these match that the route does not, in words
	Found   Found    // what the router said of it
}

// Button is the pressed red button: nothing is announced until it is released.
type Button struct {
	By     string    `json:"by"`
	Reason string    `json:"reason"`
	At     time.Time `json:"at"`
}

func (b *Button) String() string {
	if b == nil {
		return ""
	}
	return b.By + ": " + b.Reason
}

// item is a Desired with what is computed from its route once. Once it is admitted it is never changed: sets share it.
type item struct {
	Desired
	text string // Route.String()
	id   string // Route.ID()
	made *safety.Made
	enc  *encoded // nil until it is admitted
	line []byte   // of the journal; nil until it is written, guarded by speaker.writing
}

// entry is the item as the safety kernel judges it.
func (it *item) entry() safety.Entry {
	return safety.Entry{
		Route: it.Route, Owners: it.Owners, Answers: it.Answers, Groups: it.Groups,
		Created: it.Created, Deadline: it.Deadline, Manual: it.Manual, Approved: it.Approved, Made: it.made,
	}
}

func newItem(d Desired) *item {
	m := safety.Make(d.Route)
	return &item{Desired: d, text: m.Text(), id: m.ID(), made: m}
}

// same reports whether o, of the same route, says nothing else.
func (d *Desired) same(o Desired) bool {
	return d.Deadline.Equal(o.Deadline) && d.Created.Equal(o.Created) && d.Approved == o.Approved && d.Manual == o.Manual &&
		slices.Equal(d.Owners, o.Owners) && slices.Equal(d.Answers, o.Answers) && slices.Equal(d.Groups, o.Groups) &&
		slices.Equal(d.Scope, o.Scope)
}

// with is the same route with what d says of it.
func (it *item) with(d Desired) *item {
	c := *it
	c.Desired, c.line = d, nil
	return &c
}

func sortItems(items []*item) {
	slices.SortFunc(items, func(a, b *item) int { return cmp.Compare(a.text, b.text) })
}
