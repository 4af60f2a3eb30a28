package compile

import (
	"fmt"
	"slices"

	"github.com/amooglesoft/trafficmonitor/internal/route"
)

// Profile is what one router takes and holds. The zero Profile is that of a router of which nothing is known: everything
// the wire can say, unaltered, five items in a component.
type Profile struct {
	Name       string   // for messages
	Tables     []Table  // what its session is configured to carry; empty means all
	Carries    []Table  // what such a router carries at all; empty means all
	Components []string // what it matches by, as words of the text form; empty means all
	Actions    []Action // what it does; empty means all
	Targets    []Target // the forms of route targets it redirects to; empty means all
	// Offsets says which IPv6 prefixes with an offset it compares (RFC 8956, section 3.1).
	Offsets Offsets

	// MaxItems bounds the operator-value pairs in one component; a range counts two. 0 means DefaultMaxItems. ItemsOf
	// replaces it for single components.
	MaxItems int
	ItemsOf  map[string]int
	// Unmixed says that a list holds single values or ranges, not both.
	Unmixed bool
	// Exclusive lists pairs of components that do not work in one rule.
	Exclusive [][2]string
	// PortsNeedProtocol says that ports work only beside a protocol that is TCP, UDP or both.
	PortsNeedProtocol bool
	// TCPFlags and Fragment are the bits it can test; 0 means all.
	TCPFlags, Fragment uint16

	// Split bounds the rules one route may become where it cannot be said in one; below 2 none is split.
	Split int
	// Widen names the components that may be widened, or left out, where the router cannot match them. The destination is
	// never one of them.
	Widen []string

	// MaxRules bounds the routes the router gets, so that the router never has to enforce its own limit by resetting
	// the session. 0 means no limit.
	MaxRules int
	// MaxOf are maxima besides, by the table they count; the key "" is for all tables together.
	MaxOf map[Table]Maximum
	// Budget is the room for FlowSpec rules, counted as Cost says.
	Budget Budget
	Cost   Cost
	// ProgrammingRate is how many rules a second the router writes to its hardware; 0 means that it is not known.
	ProgrammingRate int
}

// Maximum bounds the routes of a table.
type Maximum struct {
	Routes int
	Why    string // how it is known and how long it holds, as the end of a sentence
}

// Offsets are the offsets of a prefix that a router compares right.
type Offsets string

// What it may compare.
const (
	AnyOffset    Offsets = ""
	OctetOffsets Offsets = "octets" // those that are a multiple of eight
	NoOffsets    Offsets = "none"
)

// Budget is room in entries of hardware; 0 means no limit.
type Budget struct {
	Shared     int // both families together
	IPv4, IPv6 int
}

// Action is a word for a kind of action a router does or does not do.
type Action string

// The actions a profile tells apart. A route may need several.
const (
	Discard         Action = "discard"
	RateBytes       Action = "rate-limit-bytes"
	RatePackets     Action = "rate-limit-packets"
	Accept          Action = "accept"
	Sample          Action = "sample"
	Continue        Action = "continue"
	Mark            Action = "mark"
	RedirectTarget  Action = "redirect-target"  // into a VRF, by its route target
	RedirectAddress Action = "redirect-address" // to a next hop
	Copy            Action = "copy"
	Blackhole       Action = "blackhole"
	SourceBlackhole Action = "source-blackhole"
)

// Actions returns every action, in a fixed order.
func Actions() []Action {
	return []Action{Discard, RateBytes, RatePackets, Accept, Sample, Continue, Mark, RedirectTarget, RedirectAddress, Copy, Blackhole, SourceBlackhole}
}

// Target is a form of route target (RFC 8955, section 7.4): routers tell them apart, though the numbers may be the same.
type Target string

// The forms.
const (
	AS2Target  Target = "as2"  // a 2-octet AS and a number
	IPv4Target Target = "ipv4" // an address and a number
	AS4Target  Target = "as4"  // a 4-octet AS and a number
)

// Targets returns every form of route target, in a fixed order.
func Targets() []Target { return []Target{AS2Target, IPv4Target, AS4Target} }

var targets = map[route.TargetForm]Target{route.TargetAS2: AS2Target, route.TargetIPv4: IPv4Target, route.TargetAS4: AS4Target}

var kinds = map[route.ActionKind]Action{
	route.Discard: Discard, route.RateBytes: RateBytes, route.RatePackets: RatePackets, route.Accept: Accept,
	route.Blackhole: Blackhole, route.SourceBlackhole: SourceBlackhole,
}

// ActionsOf returns the words for everything an action does. What this package does not know is "", which no profile allows.
func ActionsOf(a route.Action) []Action {
	out := []Action{kinds[a.Kind]}
	for _, x := range []struct {
		does bool
		word Action
	}{
		{a.Sample, Sample},
		{a.Continue, Continue},
		{a.Mark > 0, Mark},
		{a.Redirect.Target.Form != 0, RedirectTarget},
		{a.Redirect.Address.IsValid() && !a.Redirect.Copy, RedirectAddress},
		{a.Redirect.Copy, Copy},
	} {
		if x.does {
			out = append(out, x.word)
		}
	}
	return out
}

// maxItems returns how many items the component takes.
func (p *Profile) maxItems(word string) int {
	if n, ok := p.ItemsOf[word]; ok {
		return n
	}
	if p.MaxItems > 0 {
		return p.MaxItems
	}
	return DefaultMaxItems
}

// takes reports whether the router matches by the component.
func (p *Profile) takes(word string) bool {
	return len(p.Components) == 0 || slices.Contains(p.Components, word)
}

// unknownOffset reports whether m has a prefix with an offset that the router cannot compare.
func (p *Profile) unknownOffset(m *route.Match) bool {
	for _, o := range []uint8{m.DestinationOffset, m.SourceOffset} {
		if o > 0 && (p.Offsets == NoOffsets || p.Offsets == OctetOffsets && o%8 != 0) {
			return true
		}
	}
	return false
}

// Check reports everything in the profile that makes no sense.
func (p *Profile) Check() []error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	known := Components()
	if len(p.Components) > 0 && !slices.Contains(p.Components, "destination") {
		bad("components: destination is missing: no rule is sent without it")
	}
	for _, w := range p.Components {
		if !slices.Contains(known, w) {
			bad("components: %q is not a component", w)
		}
	}
	for _, x := range p.Exclusive {
		for _, w := range x {
			if !slices.Contains(known, w) {
				bad("exclusive: %q is not a component", w)
			}
		}
		if x[0] == x[1] {
			bad("exclusive: %s stands with itself: such a component is one the router does not match by", x[0])
		}
		if slices.Contains(x[:], "destination") {
			bad("exclusive: destination cannot be left out for %s", x[1])
		}
	}
	for _, w := range p.Widen {
		switch {
		case w == "destination":
			bad("widen: the destination is never widened")
		case w == "source":
			bad("widen: the source is never widened: the rule would hit everybody")
		case !slices.Contains(known, w):
			bad("widen: %q is not a component", w)
		}
	}
	return errs
}
