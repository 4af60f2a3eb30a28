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

// Entry is a route with what decides its value.
type Entry struct {
	Route   route.Route
	Manual  bool // an engineer asked for it
	Created time.Time
}

// Outcome is what became of an entry at a router.
type Outcome uint8

// The outcomes.
const (
	Placed    Outcome = iota + 1 // the router gets it, as the rules say
	Refused                      // the router cannot hold such a route
	NotPlaced                    // the router has no room for it: more valuable routes have it
)

// Decision says what became of one entry.
type Decision struct {
	Outcome Outcome
	Rules   []route.Route // what the router gets for it; nil where that is the route itself
	Widened []string      // what the rules match that the route does not, in words; usually nothing
	Cost    int           // entries of hardware the rules take, as the profile counts; 0 for a blackhole
	Reason  string        // why it is not placed
}

// Refusal names an entry the router does not get.
type Refusal struct {
	Index  int // in the set given to Compile
	Reason string
}

// Result is what one router gets.
type Result struct {
	Decisions []Decision // one for each entry
	Accepted  []int      // indexes of those that are placed, most valuable first
	Refused   []Refusal  // of those that are not, by index
	Rules     int        // of all placed entries, each counted once
	IPv4Cost  int        // of them
	IPv6Cost  int
}

// Compile decides how a router with profile p gets the entries of the set. Where there is room for some only, an
// engineer's come first, then blackholes, then discards, then rate limits, and the older before the newer, so that a
// flood of new routes displaces none that is at work. The set holds each match once. An entry is placed whole or not at all. The order of the set decides
// nothing but the indexes.
func Compile(set []Entry, p Profile) Result {
	c := &compiler{set: set, p: &p, wantedOf: map[Table]int{}, placedOf: map[Table]int{}, Result: Result{Decisions: make([]Decision, len(set))}}
	order := make([]int, 0, len(set))
	rules, cost, derived := 0, 0, false
	for i, e := range set {
		d := &c.Decisions[i]
		s, err := p.shape(e.Route)
		if err != nil {
			d.Outcome, d.Reason = Refused, err.Error()
			continue
		}
		d.Rules, d.Widened = s.rules, s.widened
		d.Cost = p.cost(e.Route)
		if s.rules != nil {
			derived = true
			d.Cost = 0
			for _, r := range s.rules {
				d.Cost += p.cost(r)
			}
		}
		rules += max(len(s.rules), 1)
		c.wantedOf[TableOf(e.Route)] += max(len(s.rules), 1)
		cost += d.Cost
		order = append(order, i)
	}
	var texts []string
	c.wantedOf[""] = rules
	tight := p.MaxRules > 0 && rules > p.MaxRules
	for t, m := range p.MaxOf {
		tight = tight || c.wantedOf[t] > m.Routes
	}
	if tight = tight || p.Budget != (Budget{}) && cost > p.Budget.Least(); tight || derived {
		texts = make([]string, len(set)) // what decides between equals
		for _, i := range order {
			texts[i] = set[i].Route.String()
		}
	}
	slices.SortStableFunc(order, func(a, b int) int {
		by := compare(&set[a], &set[b])
		if by == 0 && texts != nil {
			by = cmp.Compare(texts[a], texts[b])
		}
		return by
	})
	if derived {
		c.owner = make(map[string]int, rules)
	}
	for _, i := range order {
		c.place(i)
	}
	for i, d := range c.Decisions {
		if d.Outcome != Placed {
			c.Refused = append(c.Refused, Refusal{i, d.Reason})
		}
	}
	return c.Result
}

// compiler places entries, the most valuable first.
type compiler struct {
	Result
	set []Entry
	p   *Profile
	// Rules by table, the key "" for all: of all entries that could be placed, and of those that are.
	wantedOf, placedOf map[Table]int
	owner              map[string]int // the entry whose rule has this identity; nil where each has its own
}

// place gives the entry its room, or says why there is none.
func (c *compiler) place(i int) {
	d := &c.Decisions[i]
	refuse := func(o Outcome, format string, args ...any) {
		d.Outcome, d.Reason = o, fmt.Sprintf(format, args...)
		d.Rules, d.Widened = nil, nil
	}
	fresh, cost := 1, d.Cost
	rules := d.Rules
	if c.owner != nil {
		if rules == nil {
			rules = []route.Route{c.set[i].Route}
		}
		fresh, cost = 0, 0
		for _, r := range rules {
			j, taken := c.owner[r.ID()]
			switch {
			case taken && c.set[j].Route.Action != r.Action:
				refuse(Refused, "the router would hold the same match for it as for \"%s\", and takes one action for a match", c.set[j].Route)
				return
			case !taken:
				fresh++
				cost += c.p.cost(r)
			}
		}
	}
	if most := c.p.MaxRules; most > 0 && c.Rules+fresh > most {
		refuse(NotPlaced, "the router takes at most %d routes (max_rules) and %d are wanted: this one is among the least valuable; raise max_rules if the router holds more", most, c.wantedOf[""])
		return
	}
	table := TableOf(c.set[i].Route)
	for _, t := range []Table{table, ""} {
		if m, ok := c.p.MaxOf[t]; ok && c.placedOf[t]+fresh > m.Routes {
			refuse(NotPlaced, "the router takes at most %s, %s; %d are wanted, and this one is among the least valuable", routes(m.Routes, t), m.Why, c.wantedOf[t])
			return
		}
	}
	used := &c.IPv4Cost
	own := c.p.Budget.IPv4
	family := c.set[i].Route.Family()
	if family == route.IPv6 {
		used, own = &c.IPv6Cost, c.p.Budget.IPv6
	}
	if own > 0 && *used+cost > own {
		refuse(NotPlaced, "the router has %d entries for %s rules (profile %s), %d are taken by more valuable ones, and this one needs %d", own, family, c.p.Name, *used, cost)
		return
	}
	if shared := c.p.Budget.Shared; shared > 0 && c.IPv4Cost+c.IPv6Cost+cost > shared {
		refuse(NotPlaced, "the router has %d entries for rules (max_cost), %d are taken by more valuable ones, and this one needs %d", shared, c.IPv4Cost+c.IPv6Cost, cost)
		return
	}
	if c.owner != nil {
		for _, r := range rules {
			if _, taken := c.owner[r.ID()]; !taken {
				c.owner[r.ID()] = i
			}
		}
	}
	c.Rules += fresh
	c.placedOf[table] += fresh
	c.placedOf[""] += fresh
	*used += cost
	d.Outcome = Placed
	c.Accepted = append(c.Accepted, i)
}

// routes counts routes of a table in words; of all when it has no name.
func routes(n int, t Table) string {
	what := "routes"
	if n == 1 {
		what = "route"
	}
	if t != "" {
		what = string(t) + " " + what
	}
	return fmt.Sprintf("%d %s", n, what)
}

// Least is the smallest limit there is.
func (b Budget) Least() int {
	n := maxEntries
	for _, x := range []int{b.Shared, b.IPv4, b.IPv6} {
		if x > 0 {
			n = min(n, x)
		}
	}
	return n
}

// Compare orders entries as Compile places them, the more valuable first; 0 means that their texts decide.
func Compare(a, b Entry) int { return compare(&a, &b) }

func compare(a, b *Entry) int {
	return cmp.Or(cmp.Compare(value(a), value(b)), a.Created.Compare(b.Created))
}

// value orders entries: the lower, the more valuable.
func value(e *Entry) int {
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
