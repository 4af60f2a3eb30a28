// Package compile turns the set of routes into the routes one router gets: what its profile allows, in order of value, and
// for each route that it does not get, why. It is pure.
package compile

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/amooglesoft/trafficmonitor/internal/route"
)

// Table is the BGP table (address family and subsequent family) a route travels in.
type Table string

// The tables.
const (
	IPv4Unicast  Table = "ipv4-unicast"
	IPv6Unicast  Table = "ipv6-unicast"
	IPv4FlowSpec Table = "ipv4-flowspec"
	IPv6FlowSpec Table = "ipv6-flowspec"
)

// Tables returns every table, in a fixed order.
func Tables() []Table { return []Table{IPv4Unicast, IPv6Unicast, IPv4FlowSpec, IPv6FlowSpec} }

// TableOf returns the table r travels in: blackholes are unicast routes, all others FlowSpec rules.
func TableOf(r route.Route) Table {
	switch {
	case r.IsBlackhole() && r.Family() == route.IPv6:
		return IPv6Unicast
	case r.IsBlackhole():
		return IPv4Unicast
	case r.Family() == route.IPv6:
		return IPv6FlowSpec
	}
	return IPv4FlowSpec
}

// ParseTable reads the name of a table.
func ParseTable(s string) (Table, error) {
	if t := Table(s); slices.Contains(Tables(), t) {
		return t, nil
	}
	return "", fmt.Errorf("family %q is not known: use ipv4-unicast, ipv6-unicast, ipv4-flowspec or ipv6-flowspec", s)
}

// DefaultMaxItems is what every router we tested takes in one component: FRR 8.4 resets the session above five items,
// and a range counts as two.
const DefaultMaxItems = 5

// Profile is what one router takes.
type Profile struct {
	Tables []Table // what it is configured to carry; empty means all
	// MaxItems bounds the operator-value pairs in one component; a range counts two. 0 means DefaultMaxItems.
	MaxItems int
	// MaxRules bounds the routes the router gets, so that the router never has to enforce its own limit by resetting
	// the session. 0 means no limit.
	MaxRules int
}

// Entry is a route with what decides its value.
type Entry struct {
	Route   route.Route
	Manual  bool // an engineer asked for it
	Created time.Time
}

// Refusal names an entry the router does not get.
type Refusal struct {
	Index  int // in the set given to Compile
	Reason string
}

// Result is what one router gets.
type Result struct {
	Accepted []int // indexes into the set, most valuable first
	Refused  []Refusal
}

// Compile decides which entries of the set a router with profile p gets. Where there is room for some only, an
// engineer's come first, then blackholes, then discards, then rate limits, and the older before the newer, so that a
// flood of new rules displaces none that is at work.
func Compile(set []Entry, p Profile) Result {
	maxItems := cmp.Or(p.MaxItems, DefaultMaxItems)
	var res Result
	for i, e := range set {
		if why := unsupported(e.Route, p.Tables, maxItems); why != "" {
			res.Refused = append(res.Refused, Refusal{i, why})
			continue
		}
		res.Accepted = append(res.Accepted, i)
	}
	texts := make(map[int]string, len(res.Accepted))
	if p.MaxRules > 0 && len(res.Accepted) > p.MaxRules {
		for _, i := range res.Accepted {
			texts[i] = set[i].Route.String()
		}
	}
	slices.SortStableFunc(res.Accepted, func(a, b int) int {
		x, y := set[a], set[b]
		return cmp.Or(
			cmp.Compare(value(x), value(y)),
			x.Created.Compare(y.Created),
			cmp.Compare(texts[a], texts[b]),
		)
	})
	if p.MaxRules > 0 && len(res.Accepted) > p.MaxRules {
		total := len(res.Accepted)
		for _, i := range res.Accepted[p.MaxRules:] {
			res.Refused = append(res.Refused, Refusal{i, fmt.Sprintf(
				"the router takes at most %d routes (max_rules) and %d are wanted: this one is among the least valuable; raise max_rules if the router holds more", p.MaxRules, total)})
		}
		res.Accepted = res.Accepted[:p.MaxRules:p.MaxRules]
		slices.SortFunc(res.Refused, func(a, b Refusal) int { return cmp.Compare(a.Index, b.Index) })
	}
	return res
}

// value orders entries: the lower, the more valuable.
func value(e Entry) int {
	v := 0
	switch e.Route.Action.Kind {
	case route.Blackhole:
	case route.Discard:
		v = 1
	default:
		v = 2
	}
	if !e.Manual {
		v += 3
	}
	return v
}

// unsupported says in words why a router does not take r, or returns "".
func unsupported(r route.Route, tables []Table, maxItems int) string {
	if t := TableOf(r); len(tables) > 0 && !slices.Contains(tables, t) {
		return fmt.Sprintf("the router is not configured for %s: add it to the peer's families if the router carries it", t)
	}
	for _, c := range components(r.Match) {
		if c.items > maxItems {
			return fmt.Sprintf("%s has %d items (a range counts two) and the router takes at most %d in one component: split the rule or use fewer, wider ranges", c.word, c.items, maxItems)
		}
	}
	return ""
}

type component struct {
	word  string
	items int
}

// components lists the operator-value pairs each component is encoded as.
func components(m route.Match) []component {
	return []component{
		{"protocol", rangeItems(m.Protocol)},
		{"port", rangeItems(m.Port)},
		{"destination-port", rangeItems(m.DestinationPort)},
		{"source-port", rangeItems(m.SourcePort)},
		{"icmp-type", rangeItems(m.ICMPType)},
		{"icmp-code", rangeItems(m.ICMPCode)},
		{"tcp-flags", bitItems(m.TCPFlags)},
		{"length", rangeItems(m.Length)},
		{"dscp", rangeItems(m.DSCP)},
		{"fragment", bitItems(m.Fragment)},
	}
}

func rangeItems(rs []route.Range) int {
	n := 0
	for _, r := range rs {
		n++
		if r.Lo != r.Hi {
			n++
		}
	}
	return n
}

// A test for set and clear bits at once is two items joined by AND (RFC 8955, section 4.2.1.2).
func bitItems(bs []route.Bits) int {
	n := 0
	for _, b := range bs {
		if b.Set != 0 {
			n++
		}
		if b.Clear != 0 {
			n++
		}
	}
	return n
}
