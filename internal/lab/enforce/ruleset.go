// Package enforce drops in the kernel what FlowSpec rules say should be dropped: it turns rules into an nftables table, in
// the order of RFC 8955, and keeps the table equal to what a router holds. It stands in for the data plane that the
// routers of the lab lack.
package enforce

import (
	"fmt"
	"hash/fnv"
	"slices"
	"strings"

	"github.com/amooglesoft/trafficmonitor/internal/render"
	"github.com/amooglesoft/trafficmonitor/internal/route"
)

// Table is the nftables table (family inet) that holds the rules.
const Table = "flowspec"

// chain is prerouting before connection tracking and defragmentation (−400): FlowSpec judges packets, fragments too.
const chain = "add table inet " + Table + "\n" +
	"add chain inet " + Table + " rules { type filter hook prerouting priority -450; policy accept; }\n" +
	"flush chain inet " + Table + " rules\n"

// Key identifies a rule among those of its table, stable over time: the same match has the same key. The action is not
// part of it, as it is not in BGP.
func Key(r route.Route) string {
	h := fnv.New64a()
	h.Write([]byte(r.ID()))
	return fmt.Sprintf("%s%016x", r.Family().String()[3:], h.Sum64())
}

// objects are the named parts of a rule in the table: a chain, a counter of what matched, a counter of what was dropped,
// and a limit.
type objects struct{ chain, matched, dropped, limit string }

func objectsOf(r route.Route) objects {
	k := Key(r)
	// A limit cannot change its rate in place: another rate is another limit.
	return objects{"r_" + k, "m_" + k, "d_" + k, fmt.Sprintf("l_%s_%d_%d", k, r.Action.Kind, r.Action.Rate)}
}

// Sort puts rules in the order in which a router applies them.
func Sort(rules []route.Route) {
	slices.SortStableFunc(rules, func(a, b route.Route) int { return route.Precedence(a.Match, b.Match) })
}

// Script returns the nftables commands that make the table hold exactly rules, which must be in order, when it holds
// what old says. Counters and limits of rules that stay are kept. All commands take effect together or not at all.
func Script(rules, old []route.Route) (string, error) {
	var b strings.Builder
	b.WriteString(chain)
	keep := map[string]bool{}
	for _, r := range rules {
		if err := validate(r); err != nil {
			return "", err
		}
		o := objectsOf(r)
		keep[o.chain], keep[o.limit] = true, true
		fmt.Fprintf(&b, "add counter inet %s %s\nadd counter inet %s %s\n", Table, o.matched, Table, o.dropped)
		fmt.Fprintf(&b, "add chain inet %s %s\nflush chain inet %s %s\n", Table, o.chain, Table, o.chain)
		verdict, err := verdict(r.Action, o)
		if err != nil {
			return "", fmt.Errorf("%s: %w", r, err)
		}
		b.WriteString(verdict)
		alternatives, err := render.NFT(r.Match)
		if err != nil {
			return "", fmt.Errorf("%s: %w", r, err)
		}
		for _, c := range alternatives {
			fmt.Fprintf(&b, "add rule inet %s rules %s goto %s\n", Table, c, o.chain)
		}
	}
	for _, r := range old {
		o := objectsOf(r)
		if !keep[o.chain] {
			fmt.Fprintf(&b, "flush chain inet %s %s\ndelete chain inet %s %s\n", Table, o.chain, Table, o.chain)
			fmt.Fprintf(&b, "delete counter inet %s %s\ndelete counter inet %s %s\n", Table, o.matched, Table, o.dropped)
		}
		if !keep[o.limit] && limited(r.Action) {
			fmt.Fprintf(&b, "delete limit inet %s %s\n", Table, o.limit)
		}
	}
	return b.String(), nil
}

func limited(a route.Action) bool { return a.Kind == route.RateBytes || a.Kind == route.RatePackets }

// verdict writes the rule's own chain.
func verdict(a route.Action, o objects) (string, error) {
	add := "add rule inet " + Table + " " + o.chain + " counter name " + o.matched
	switch {
	case a.Continue || a.Mark > 0 || a.Redirect != (route.Redirect{}):
		return "", fmt.Errorf("action %s is more than the lab enforces", a)
	case a.Kind == 0 || a.Kind == route.Accept: // without an action a rule lets through, and ends the search (RFC 8955, section 7)
		return add + " accept\n", nil
	case a.Kind == route.Discard:
		return add + " counter name " + o.dropped + " drop\n", nil
	case limited(a) && a.Rate > 0:
		// The kernel adds a second's worth of bytes to the burst: it is let through at once, after that the rate holds.
		unit, burst := "bytes/second", "3000 bytes"
		if a.Kind == route.RatePackets {
			unit, burst = "/second", fmt.Sprintf("%d packets", max(a.Rate/10, 2))
		}
		rate := fmt.Sprintf("%d %s", a.Rate, unit)
		if a.Kind == route.RatePackets {
			rate = fmt.Sprintf("%d%s", a.Rate, unit)
		}
		return fmt.Sprintf("add limit inet %s %s { rate over %s burst %s; }\n", Table, o.limit, rate, burst) +
			add + " limit name " + o.limit + " counter name " + o.dropped + " drop\n" +
			"add rule inet " + Table + " " + o.chain + " accept\n", nil
	}
	return "", fmt.Errorf("action %s is not one of FlowSpec", a)
}

// validate refuses what could not have come over BGP.
func validate(r route.Route) error {
	if r.Action.Kind == 0 { // valid here: it lets through
		r.Action.Kind = route.Discard
	}
	if r.IsBlackhole() {
		return fmt.Errorf("%s: a blackhole is the kernel's to enforce", r)
	}
	return r.Validate()
}
