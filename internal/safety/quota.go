package safety

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/amooglesoft/trafficmonitor/internal/route"
)

// setChecks lists the invariants over the set, asked for one entry after the other in order of age.
var setChecks = []struct {
	invariant Invariant
	broken    func(*tally, *entry) (reason string)
}{
	{Conflict, conflict},
	{QuotaRules, quotaRules},
	{QuotaNew, quotaNew},
	{QuotaTarget, quotaTarget},
	{QuotaOwner, quotaOwner},
	{QuotaAnswer, quotaAnswer},
	{QuotaGroup, quotaGroup},
	{QuotaOwnShare, quotaOwnShare},
}

// byAge orders entries so that those that should stay come first. It is total but for entries that are alike in all
// that the kernel looks at.
func byAge(a, b *entry) int {
	return cmp.Or(a.Created.Compare(b.Created), cmp.Compare(a.text, b.text),
		slices.Compare(a.Owners, b.Owners), a.Deadline.Compare(b.Deadline), slices.Compare(a.Answers, b.Answers), slices.Compare(a.Groups, b.Groups))
}

// tally counts the entries accepted so far.
type tally struct {
	*kernel
	action  map[string]route.Action // by identity
	twice   map[string]bool         // identities that more than one entry was counted of
	created []time.Time             // of each route, in order
	targets map[netip.Prefix]int
	owners  map[string]int
	answers map[string]int // by response
	groups  map[string]int
	cut     map[route.Family]*area // own space that is cut off
	own     map[route.Family]float64
}

func newTally(k *kernel, n int) *tally {
	return &tally{
		kernel:  k,
		action:  make(map[string]route.Action, n),
		created: make([]time.Time, 0, n),
		twice:   map[string]bool{},
		targets: make(map[netip.Prefix]int, n),
		owners:  make(map[string]int, n),
		answers: map[string]int{},
		groups:  map[string]int{},
		cut:     map[route.Family]*area{route.IPv4: newArea(), route.IPv6: newArea()},
		own:     map[route.Family]float64{route.IPv4: k.own.space(false), route.IPv6: k.own.space(true)},
	}
}

// add counts an accepted entry. The same route wanted twice is one route.
func (t *tally) add(e *entry) {
	for _, o := range owners(e) {
		t.owners[o]++
	}
	if t.has(e) {
		t.twice[e.id] = true
		return
	}
	t.action[e.id] = e.Route.Action
	t.created = slices.Insert(t.created, t.after(e.Created), e.Created)
	t.targets[target(e)]++
	for _, a := range answers(e) {
		t.answers[a]++
	}
	for _, g := range once(e.Groups) {
		t.groups[g]++
	}
	if cutsOff(e) {
		t.cut[e.Route.Family()].add(e.destination())
	}
}

// remove takes back the add of an entry of which there is no twice.
func (t *tally) remove(e *entry) {
	less := func(of map[string]int, names []string) {
		for _, n := range names {
			if of[n]--; of[n] <= 0 {
				delete(of, n)
			}
		}
	}
	less(t.owners, owners(e))
	less(t.answers, answers(e))
	less(t.groups, once(e.Groups))
	delete(t.action, e.id)
	if i := t.after(e.Created) - 1; i >= 0 && t.created[i].Equal(e.Created) {
		t.created = slices.Delete(t.created, i, i+1)
	}
	if t.targets[target(e)]--; t.targets[target(e)] <= 0 {
		delete(t.targets, target(e))
	}
	if cutsOff(e) {
		t.cut[e.Route.Family()].remove(e.destination())
	}
}

// after is the index of the first route that was created after a time.
func (t *tally) after(at time.Time) int {
	n := len(t.created)
	if n == 0 || !t.created[n-1].After(at) {
		return n
	}
	i, _ := slices.BinarySearchFunc(t.created, at, func(c, at time.Time) int {
		if c.After(at) {
			return 1
		}
		return -1
	})
	return i
}

// has reports whether the very route is accepted already.
func (t *tally) has(e *entry) bool {
	a, ok := t.action[e.id]
	return ok && a == e.Route.Action
}

func conflict(t *tally, e *entry) string {
	a, ok := t.action[e.id]
	if !ok || a == e.Route.Action {
		return ""
	}
	return fmt.Sprintf("another route with the same match says %q: a router would keep only one; withdraw that first", a)
}

func quotaRules(t *tally, e *entry) string {
	if t.has(e) || len(t.action) < t.limits.MaxRules {
		return ""
	}
	return fmt.Sprintf("%d routes are the most allowed: withdraw some, merge targets into prefixes, or raise max rules", t.limits.MaxRules)
}

// quotaNew looks at the minute that ends with the entry's creation, not at the present one. So the verdict stays the same
// however often it is asked: what came in a storm is not let through a minute later. Where younger ones are counted already, it looks
// at the minutes that end with them, too.
func quotaNew(t *tally, e *entry) string {
	if t.has(e) {
		return ""
	}
	from, to := t.after(e.Created.Add(-time.Minute)), t.after(e.Created)
	most := to - from
	for end := to; end < len(t.created) && t.created[end].Before(e.Created.Add(time.Minute)); end++ {
		for !t.created[from].After(t.created[end].Add(-time.Minute)) {
			from++
		}
		most = max(most, end+1-from)
	}
	if most < t.limits.MaxNewPerMinute {
		return ""
	}
	return fmt.Sprintf("%d new routes a minute are the most allowed: find out what asks for so many, or raise max new rules per minute", t.limits.MaxNewPerMinute)
}

// target is what a route is for.
func target(e *entry) netip.Prefix {
	if e.destination().IsValid() {
		return e.destination()
	}
	return e.source()
}

func quotaTarget(t *tally, e *entry) string {
	if t.has(e) || t.targets[target(e)] < t.limits.MaxRulesPerTarget {
		return ""
	}
	return fmt.Sprintf("%s has %d routes, the most allowed for one target: use a wider match or a blackhole, or raise max rules per target",
		target(e), t.limits.MaxRulesPerTarget)
}

// owners returns who wants an entry, each once; nobody is one, so that a route without an owner escapes no quota.
func owners(e *entry) []string {
	if len(e.Owners) == 0 {
		return []string{""}
	}
	return once(e.Owners)
}

func once(names []string) []string {
	if len(names) < 2 {
		return names
	}
	return slices.Compact(slices.Sorted(slices.Values(names)))
}

func quotaOwner(t *tally, e *entry) string {
	for _, o := range owners(e) {
		if t.owners[o] >= t.limits.MaxRulesPerOwner {
			return fmt.Sprintf("%q owns %d routes, the most allowed: split the mitigation, use a wider match, or raise max rules per owner", o, t.limits.MaxRulesPerOwner)
		}
	}
	return ""
}

// answers returns the responses of the policy that want an entry, each once; what automation wants without one counts for
// a response without a name.
func answers(e *entry) []string {
	if len(e.Answers) == 0 && !e.Manual {
		return []string{""}
	}
	return once(e.Answers)
}

// quotaAnswer bounds what one line of the policy may do: a limit set too low answers everybody.
func quotaAnswer(t *tally, e *entry) string {
	if t.has(e) {
		return ""
	}
	for _, a := range answers(e) {
		if t.answers[a] >= t.limits.MaxRulesPerResponse {
			return fmt.Sprintf("the policy's response %q has %d routes, the most allowed for one response: see whether it answers what is no attack, or raise max rules per response",
				a, t.limits.MaxRulesPerResponse)
		}
	}
	return ""
}

func quotaGroup(t *tally, e *entry) string {
	if t.has(e) {
		return ""
	}
	for _, g := range once(e.Groups) {
		if t.groups[g] >= t.limits.MaxRulesPerGroup {
			return fmt.Sprintf("group %q has %d routes, the most allowed for one group: withdraw some, use wider matches, or raise max rules per group", g, t.limits.MaxRulesPerGroup)
		}
	}
	return ""
}

// A rate limit below these is a discard in all but name, and wider than a host certainly.
const (
	trickleBytes   = 1_250_000 // per second: 10 Mbit/s
	tricklePackets = 1000
)

// cutsOff reports whether a route takes all traffic, or all of a protocol, from its destination.
func cutsOff(e *entry) bool {
	a, m := e.Route.Action, e.Route.Match
	switch {
	case a.Kind == route.Blackhole:
		return true
	case a.Kind == route.SourceBlackhole:
		return false
	case !m.Destination.IsValid(),
		len(m.Port)+len(m.DestinationPort)+len(m.SourcePort)+len(m.ICMPType)+len(m.ICMPCode)+
			len(m.TCPFlags)+len(m.Length)+len(m.DSCP)+len(m.Fragment)+len(m.FlowLabel) > 0:
		return false
	}
	if a.Redirect != (route.Redirect{}) && !a.Redirect.Copy {
		return true
	}
	return a.Kind == route.Discard || a.Kind == route.RateBytes && a.Rate < trickleBytes ||
		a.Kind == route.RatePackets && a.Rate < tricklePackets
}

func quotaOwnShare(t *tally, e *entry) string {
	if !cutsOff(e) || t.has(e) {
		return ""
	}
	f := e.Route.Family()
	d := e.destination()
	gain := t.cut[f].gain(d)
	if gain == 0 {
		return "" // cut off already
	}
	share := (t.cut[f].space + gain) / t.own[f]
	if share <= t.limits.MaxOwnShare {
		return ""
	}
	return fmt.Sprintf("with %s, %.2g%% of our own %s space would be cut off, at most %.2g%% may be: match ports or use a rate limit, or raise max own share",
		d, share*100, f, t.limits.MaxOwnShare*100)
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }
