package probe

import (
	"fmt"

	"github.com/amooglesoft/trafficmonitor/internal/route"
)

// Index finds rules in a reading.
type Index struct {
	rules  map[string]Rule // by the text of the match
	unread int
	first  string
	hides  func(route.Match) bool
}

// Index makes the rules of a reading findable. A router shows a rule once for each neighbour it has it from, and installs
// it once: one that is installed anywhere is installed.
func (r Reading) Index() Index {
	x := Index{rules: make(map[string]Rule, len(r.Rules)), unread: r.Unread, first: r.First, hides: r.hides}
	for _, rule := range r.Rules {
		text := rule.Match.String()
		if old, ok := x.rules[text]; !ok || old.State != Installed && (rule.State == Installed || old.State == NotInstalled) {
			x.rules[text] = rule
		}
	}
	return x
}

// Find says what the router says of the rule with this canonical match. That it shows no such rule means that it has
// none only if everything it shows could be read.
func (x Index) Find(m route.Match) Rule {
	rule, ok := x.rules[m.String()]
	switch {
	case ok:
		return rule
	case x.unread > 0:
		return Rule{Match: m, Why: fmt.Sprintf("the router shows %d rules that could not be read for certain, and this may be one of them; the first: %s", x.unread, x.first)}
	case x.hides != nil && x.hides(m):
		return Rule{Match: m, Why: "its name at the router is too long for this way of asking: ask for it there by hand"}
	}
	return Rule{Match: m, State: NotInstalled, Why: "the router does not show it"}
}
