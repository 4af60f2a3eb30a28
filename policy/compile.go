package policy

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/amooglesoft/trafficmonitor/internal/route"
	"github.com/amooglesoft/trafficmonitor/internal/vector"
)

// compile resolves every inheritance once, so that an answer is one look-up. The file has been checked.
func (f *file) compile() *Policy {
	p := &Policy{exceptions: f.exceptions, scopes: map[netip.Prefix]*scope{}}
	for i := range p.exceptions {
		p.exceptions[i].path = fmt.Sprintf("exceptions[%d]", i)
		p.exceptions[i].holdsWhen = f.whens[p.exceptions[i].path]
	}
	p.conditional = len(f.whens) > 0
	for _, w := range f.whens {
		p.collateral = p.collateral || strings.Contains(w.text, "incident.collateral")
	}
	p.base = &scope{group: DefaultGroup, observe: f.mode == look}
	p.baseline = f.baseline
	for v := range vector.Count {
		l := Limits{Windows: f.defaults.windows, EndBelow: f.defaults.endBelow, EndAfter: f.defaults.endAfter}
		p.base.limits.outbound[v] = l
		p.base.limits.networks[v] = l
		p.base.limits.networks[v].Hosts = f.defaults.hosts
		l.UnansweredWindows, l.ShareFrom = f.defaults.unansweredWindows, f.defaults.shareFrom
		p.base.limits.inbound[v] = l
	}
	p.base.limits.overlay(f.attacks)
	p.base.responses = f.replies("responses", f.responses)

	type place struct {
		prefix netip.Prefix
		group  *group
	}
	var places []place
	for i := range f.groups {
		for _, prefix := range f.groups[i].prefixes {
			places = append(places, place{prefix, &f.groups[i]})
		}
	}
	// Broad prefixes first, so that a narrower one finds what it inherits.
	slices.SortStableFunc(places, func(a, b place) int { return cmp.Compare(a.prefix.Bits(), b.prefix.Bits()) })
	type origin struct {
		parent *scope
		group  *group
	}
	scopes := []*scope{p.base}
	made := map[origin]*scope{} // prefixes of one group in one broader scope share theirs
	replies := map[*group][]reply{}
	for i := range f.groups {
		g := &f.groups[i]
		replies[g] = f.replies("groups."+g.name+".responses", g.responses)
	}
	for _, pl := range places {
		parent := p.scope(pl.prefix)
		s := made[origin{parent, pl.group}]
		if parent.group == pl.group.name { // a prefix inside another of the same group adds nothing
			s = parent
		}
		if s == nil {
			s = &scope{group: pl.group.name, observe: parent.observe, limits: parent.limits, responses: replies[pl.group], parent: parent}
			if m := pl.group.mode; m != nil {
				s.observe = *m == look
			}
			s.limits.overlay(pl.group.attacks)
			made[origin{parent, pl.group}] = s
			scopes = append(scopes, s)
		}
		p.add(pl.prefix, s)
	}
	p.collateral = p.collateral || f.collateral
	p.triggers[vector.Inbound] = lowestOf(scopes, func(s *limitSet) *[vector.Count]Limits { return &s.inbound })
	p.triggers[vector.Outbound] = lowestOf(scopes, func(s *limitSet) *[vector.Count]Limits { return &s.outbound })
	p.askFirst()
	return p
}

// askFirst makes sensors report questions before the answers pass a limit that one window is enough for: or else a
// resolver that begins to ask would be taken for the target of a flood.
func (p *Policy) askFirst() {
	for v, in := range p.triggers[vector.Inbound] {
		op := vector.OppositeOf(v)
		if !op.Asked || in.Windows > 1 || in.PPS == 0 {
			continue
		}
		for _, q := range vector.All() {
			if op.Outbound != vector.SetOf(q.ID) { // only where one vector asks
				continue
			}
			out := p.triggers[vector.Outbound][q.ID]
			out.PPS = lowestLimit(out.PPS, in.PPS/2)
			p.triggers[vector.Outbound][q.ID] = out
		}
	}
}

// lowestOf takes the lowest limits of each vector that has any in packets or bits.
func lowestOf(scopes []*scope, of func(*limitSet) *[vector.Count]Limits) map[vector.ID]Limits {
	triggers := map[vector.ID]Limits{}
	for _, v := range vector.All() {
		for _, s := range scopes {
			l := of(&s.limits)[v.ID]
			if l.PPS == 0 || l.Windows > 1 { // where one window is enough, a trigger before it would only delay the one that counts
				l.PPS = lowestLimit(l.PPS, l.Unanswered)
				if l.Share > 0 {
					l.PPS = lowestLimit(l.PPS, l.ShareFrom)
				}
			}
			if l.PPS == 0 && l.BPS == 0 {
				continue
			}
			if low, ok := triggers[v.ID]; ok {
				l = lowest(low, l)
			}
			triggers[v.ID] = l
		}
	}
	return triggers
}

func (p *Policy) add(prefix netip.Prefix, s *scope) {
	p.scopes[prefix] = s
	lengths := &p.lengths4
	if prefix.Addr().Is6() {
		lengths = &p.lengths6
	}
	if !slices.Contains(*lengths, prefix.Bits()) {
		*lengths = append(*lengths, prefix.Bits())
		slices.SortFunc(*lengths, func(a, b int) int { return cmp.Compare(b, a) })
	}
}

func (l *limitSet) overlay(a attacks) {
	overlay(&l.inbound, a.thresholds)
	overlay(&l.outbound, a.outbound)
	overlay(&l.networks, a.networks)
}

// entry is a threshold for one of the words it names.
type entry struct {
	ids []vector.ID
	t   *threshold
	i   int // of the threshold in its list
}

// byBreadth lists the words of thresholds, those that name many vectors first.
func byBreadth(ts []threshold) (entries []entry) {
	for i := range ts {
		for _, s := range ts[i].vectors {
			entries = append(entries, entry{s.ids, &ts[i], i})
		}
	}
	slices.SortStableFunc(entries, func(a, b entry) int { return cmp.Compare(len(b.ids), len(a.ids)) })
	return entries
}

// overlay applies thresholds to limits: those that name many vectors first, so that one that names a vector by itself
// has the last word.
func overlay(limits *[vector.Count]Limits, ts []threshold) {
	for _, e := range byBreadth(ts) {
		for _, v := range e.ids {
			l := &limits[v]
			set(&l.PPS, e.t.pps)
			set(&l.BPS, e.t.bps)
			set(&l.Windows, e.t.windows)
			set(&l.Unanswered, e.t.unanswered)
			set(&l.UnansweredWindows, e.t.unansweredWindows)
			set(&l.Spoofed, e.t.spoofed)
			if v != vector.Total { // which is always all of it
				set(&l.Share, e.t.share)
			}
			set(&l.ShareFrom, e.t.shareFrom)
			set(&l.Hosts, e.t.hosts)
			set(&l.EndBelow, e.t.endBelow)
			set(&l.EndAfter, e.t.endAfter)
		}
	}
}

func set[T any](dst, v *T) {
	if v != nil {
		*dst = *v
	}
}

func (f *file) replies(path string, rs []response) []reply {
	replies := make([]reply, len(rs))
	for i, r := range rs {
		p := &replies[i]
		for _, sel := range r.vectors {
			for _, v := range sel.ids {
				p.vectors[v] = true
			}
		}
		p.answer = f.ladder(fmt.Sprintf("%s[%d]", path, i), r)
		p.when = f.whens[p.answer.Path]
	}
	return replies
}

// ladder makes the steps of a response; an action alone is one step.
func (f *file) ladder(path string, r response) Response {
	answer := Response{Path: path}
	if r.action != nil {
		answer.Steps = []Step{f.step(path, rung{action: *r.action}, r.span)}
	}
	for i, g := range r.ladder {
		answer.Steps = append(answer.Steps, f.step(fmt.Sprintf("%s.ladder[%d]", path, i), g, r.span))
	}
	return answer
}

// defaultProbe is 1 Mbps.
const defaultProbe = 125_000

func (f *file) step(path string, g rung, of span) Step {
	s := Step{
		Name: formatAction(g.action), Path: path, Observe: g.action.Kind == 0 && !g.action.notify, Notify: g.action.notify, Action: g.action.Action,
		Scope: g.scope, MaxCollateral: -1, If: f.conditions[path],
	}
	set(&s.Name, g.name)
	set(&s.After, g.after)
	set(&s.MaxCollateral, g.maxCollateral)
	f.collateral = f.collateral || g.maxCollateral != nil
	set(&s.Approvals, g.approval)
	set(&s.DownAfter, g.downAfter)
	switch {
	case g.probe != nil:
		s.Probe = uint64(max(*g.probe/8, 1))
	case s.DownAfter > 0 && (s.Action.Kind == route.Discard || s.Action.Kind == route.Blackhole):
		s.Probe = defaultProbe
	}
	if s.Announces() {
		s.TTL, s.Extend, s.MaxAge = f.spans(of, g.span)
	}
	return s
}

// lowest takes the lowest of each value; no limit is higher than any limit.
func lowest(a, b Limits) Limits {
	return Limits{
		PPS: lowestLimit(a.PPS, b.PPS), BPS: lowestLimit(a.BPS, b.BPS), Windows: min(a.Windows, b.Windows),
		Unanswered: lowestLimit(a.Unanswered, b.Unanswered), UnansweredWindows: min(a.UnansweredWindows, b.UnansweredWindows),
		Spoofed: lowestLimit(a.Spoofed, b.Spoofed), Share: lowestLimit(a.Share, b.Share), ShareFrom: min(a.ShareFrom, b.ShareFrom), Hosts: min(a.Hosts, b.Hosts),
		EndBelow: min(a.EndBelow, b.EndBelow), EndAfter: min(a.EndAfter, b.EndAfter),
	}
}

func lowestLimit(x, y float64) float64 {
	if x == 0 || y == 0 {
		return max(x, y)
	}
	return min(x, y)
}
