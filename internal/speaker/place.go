package speaker

import (
	"fmt"
	"strings"
	"time"

	"github.com/amooglesoft/trafficmonitor/internal/compile"
	"github.com/amooglesoft/trafficmonitor/internal/safety"
)

// placement is a set of routes as one router gets it.
type placement struct {
	rules   []*item             // most valuable first, each once
	refused map[string]unplaced // by ID of a route: why the router does not get it
	of      map[string][]*item  // by ID of a route that is said in other rules: these
	widened map[string]string   // by ID of a route: what its rules match besides, in words
	cost    int                 // entries of the router's hardware, as its profile counts
}

// unplaced says why a route is not for a router.
type unplaced struct {
	outcome compile.Outcome
	reason  string
}

// placeSet compiles a set for the router with profile p. Rules that are not a route of the set, because the router needs other
// or wider ones, are judged as the routes were: by the safety kernel, together with all the router is to get, and by
// their encoded octets. A route of which one rule fails is not placed at all.
//
// It is pure but for encoded, which holds the octets of rules made before, by text, and is replaced by those of this set.
func placeSet(now time.Time, set []*item, p compile.Profile, limits safety.Limits, encodedRules *map[string]*encoded) placement {
	res := compile.Compile(compileEntries(set), p)
	out := placement{
		refused: map[string]unplaced{}, of: map[string][]*item{}, widened: map[string]string{},
		cost: res.IPv4Cost + res.IPv6Cost,
	}
	for i, d := range res.Decisions {
		if d.Outcome != compile.Placed {
			out.refused[set[i].id] = unplaced{d.Outcome, d.Reason}
		}
	}

	derived := false
	var rules []*item // with the route each belongs to
	var owners []string
	for _, i := range res.Accepted {
		it, d := set[i], res.Decisions[i]
		if d.Rules == nil {
			rules, owners = append(rules, it), append(owners, it.id)
			continue
		}
		derived = true
		out.widened[it.id] = strings.Join(d.Widened, "; ")
		for _, r := range d.Rules {
			own := it.Desired
			own.Route = r
			rule := newItem(own)
			rules, owners = append(rules, rule), append(owners, it.id)
		}
	}
	if !derived {
		*encodedRules = nil
		out.rules = rules
		return out
	}

	seen := map[string]bool{} // two routes may share a rule
	once := make([]safety.Entry, 0, len(rules))
	ids := make([]string, 0, len(rules))
	for _, rule := range rules {
		if !seen[rule.id] {
			seen[rule.id] = true
			once, ids = append(once, rule.entry()), append(ids, rule.id)
		}
	}
	bad := map[string]string{} // by ID of a rule
	for _, v := range safety.Check(now, limits, once) {
		if _, known := bad[ids[v.Index]]; !known {
			bad[ids[v.Index]] = fmt.Sprintf("\"%s\", which the router would get for it, breaks %s: %s", v.Route, v.Invariant, v.Reason)
		}
	}
	fresh := map[string]*encoded{}
	anywhere := anyRouter()
	for _, rule := range rules {
		if rule.enc != nil || bad[rule.id] != "" {
			continue
		}
		e := (*encodedRules)[rule.text]
		if e == nil {
			made, err := encode(rule.made, anywhere)
			if err != nil {
				bad[rule.id] = fmt.Sprintf("\"%s\", which the router would get for it, cannot be sent: %v", rule.text, err)
				continue
			}
			e = &made
		}
		rule.enc, fresh[rule.text] = e, e
	}
	*encodedRules = fresh
	for i, rule := range rules {
		if why := bad[rule.id]; why != "" {
			out.refused[owners[i]] = unplaced{compile.Refused, why}
		}
	}
	clear(seen)
	for i, rule := range rules {
		if _, refused := out.refused[owners[i]]; refused {
			delete(out.widened, owners[i])
			continue
		}
		if rule.id != owners[i] {
			out.of[owners[i]] = append(out.of[owners[i]], rule)
		}
		if !seen[rule.id] {
			seen[rule.id] = true
			out.rules = append(out.rules, rule)
		}
	}
	return out
}

func compileEntries(set []*item) []compile.Entry {
	entries := make([]compile.Entry, len(set))
	for i, it := range set {
		entries[i] = compileEntry(it)
	}
	return entries
}

func compileEntry(it *item) compile.Entry {
	return compile.Entry{Route: it.Route, Manual: it.Manual, Created: it.Created}
}
