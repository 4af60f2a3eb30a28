package policy

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/amooglesoft/trafficmonitor/internal/document"
	"github.com/amooglesoft/trafficmonitor/internal/route"
	"github.com/amooglesoft/trafficmonitor/internal/vector"
)

// check reports what is well written and makes no sense.
func (f *file) check(r *document.Report) {
	f.languages = map[string]*language{}
	f.conditions, f.whens = map[string]*Condition{}, map[string]*predicate{}
	if f.defaults.ttl > f.defaults.maxAge {
		r.Add("defaults.ttl", "%s is longer than max_age, which is %s", document.FormatDuration(f.defaults.ttl), document.FormatDuration(f.defaults.maxAge))
	}
	f.attacks.check(r, "")
	f.checkResponses(r, "responses", f.responses)
	f.checkGroups(r)
	for i, e := range f.exceptions {
		f.compileWhen(r, fmt.Sprintf("exceptions[%d]", i), e.when)
		at := fmt.Sprintf("exceptions[%d].prefixes", i)
		if len(e.prefixes) == 0 {
			r.Add(at, "holds no prefix: name at least one, or remove the exception")
		}
		for j, p := range e.prefixes {
			if p.Bits() == 0 && e.when == nil {
				r.Add(fmt.Sprintf("%s[%d]", at, j), "%s is every address: to only observe everywhere, write one response with vectors: all and action: observe", p)
			}
		}
	}
}

func (f *file) checkGroups(r *document.Report) {
	owner := map[netip.Prefix]string{}
	for _, g := range f.groups {
		at := "groups." + g.name
		if g.name == DefaultGroup {
			r.Add(at, "is the name of the group of all other targets: choose another, or write to thresholds and responses at the top of the file")
		}
		if len(g.prefixes) == 0 {
			r.Add(at+".prefixes", "holds no prefix: name at least one, or remove the group")
		}
		for i, p := range g.prefixes {
			pat := fmt.Sprintf("%s.prefixes[%d]", at, i)
			switch other, ok := owner[p]; {
			case !p.IsValid(): // reported when it was read
			case p.Bits() == 0:
				r.Add(pat, "%s is every address: write to thresholds and responses at the top of the file", p)
			case ok && other == g.name:
				r.Add(pat, "%s stands twice in this group: keep one of them", p)
			case ok:
				r.Add(pat, "%s belongs to the group %s already: a prefix has one group", p, strings.TrimPrefix(r.Name("groups."+other), "groups."))
			default:
				owner[p] = g.name
			}
		}
		g.attacks.check(r, at+".")
		f.checkResponses(r, at+".responses", g.responses)
	}
}

func (a attacks) check(r *document.Report, at string) {
	checkThresholds(r, at+"thresholds", "pps, bps, unanswered, spoofed, share", a.thresholds)
	checkThresholds(r, at+"networks", "pps, bps, hosts", a.networks)
	checkThresholds(r, at+"outbound", "pps, bps", a.outbound)
	for i, t := range a.thresholds {
		for _, s := range t.vectors {
			for _, v := range s.ids {
				o := vector.OppositeOf(v)
				here := fmt.Sprintf("%sthresholds[%d]", at, i)
				if len(s.ids) == 1 && t.unanswered != nil && *t.unanswered > 0 && o.Share == 0 {
					r.Add(here+".unanswered", "means nothing for %s: no packets of the target belong to it", s.word)
				}
				if len(s.ids) == 1 && v == vector.Total && t.share != nil && *t.share > 0 {
					r.Add(here+".share", "means nothing for total, which is always all of it")
				}
				if len(s.ids) == 1 && t.spoofed != nil && *t.spoofed > 0 && o.Outbound == 0 {
					r.Add(here+".spoofed", "means nothing for %s: no packets of the target belong to it, so who calls in vain cannot be told", s.word)
				}
			}
		}
	}
}

func checkThresholds(r *document.Report, at, limits string, ts []threshold) {
	by := map[string]int{}
	for i, t := range ts {
		here := fmt.Sprintf("%s[%d]", at, i)
		if len(t.vectors) == 0 {
			r.Add(here+".vectors", "names no vector: name at least one, or remove the threshold")
		}
		for _, s := range t.vectors {
			if first, ok := by[s.word]; ok && s.word != "" {
				r.Add(here+".vectors", "names %s, which %s names already: join the two", s.word, r.Name(fmt.Sprintf("%s[%d]", at, first)))
				continue
			}
			by[s.word] = i
		}
		if t.pps == nil && t.bps == nil && t.windows == nil && t.endBelow == nil && t.endAfter == nil &&
			t.unanswered == nil && t.unansweredWindows == nil && t.spoofed == nil && t.share == nil && t.shareFrom == nil && t.hosts == nil && !r.Bad(here) {
			r.Add(here, "says nothing: write %s, windows, end_below or end_after", limits)
		}
	}
}

func (f *file) checkResponses(r *document.Report, at string, rs []response) {
	answered := [vector.Count]int{}
	for i, resp := range rs {
		here := fmt.Sprintf("%s[%d]", at, i)
		if len(resp.vectors) == 0 {
			r.Add(here+".vectors", "names no vector: name at least one, or remove the response")
			continue
		}
		f.compileWhen(r, here, resp.when)
		useful, before := false, 0
		for _, s := range resp.vectors {
			if s.word == "" {
				useful = true // reported when it was read
			}
			for _, v := range s.ids {
				if answered[v] == 0 {
					useful = true
					if resp.when == nil { // else a later one may be asked
						answered[v] = i + 1
					}
				} else {
					before = answered[v] - 1
				}
			}
		}
		if !useful {
			r.Add(here+".vectors", "is never reached: %s and those before it answer all of its vectors; the first that names a vector is taken", r.Name(fmt.Sprintf("%s[%d]", at, before)))
		}
		f.checkSteps(r, here, resp)
	}
}

// maxSteps is more than anybody has actions for.
const maxSteps = 10

func (f *file) checkSteps(r *document.Report, here string, resp response) {
	switch {
	case resp.action != nil && len(resp.ladder) > 0:
		r.Add(here+".ladder", "stands beside action: write the action as its first step")
		return
	case r.Has(here+".ladder") && len(resp.ladder) == 0:
		r.Add(here+".ladder", "holds no step: write one, or an action instead")
		return
	case len(resp.ladder) > maxSteps:
		r.Add(here+".ladder", "holds %d steps; at most %d are climbed", len(resp.ladder), maxSteps)
		return
	case len(resp.ladder) > 0:
		f.checkLadder(r, here, resp)
	case resp.action != nil:
		f.checkSpans(r, here, *resp.action, resp.span, span{})
	case r.Has(here + ".action"): // reported when it was read
		f.checkSpans(r, here, action{Action: route.Action{Kind: route.Discard}}, resp.span, span{})
	default:
		r.Add(here+".action", "is missing: what is done, or a ladder of steps")
	}
}

func (f *file) checkLadder(r *document.Report, here string, resp response) {
	names := map[string]int{}
	for i, g := range resp.ladder {
		at := fmt.Sprintf("%s.ladder[%d]", here, i)
		announces := g.action.Kind != 0
		if r.Bad(at + ".action") {
			announces = true // what it should be is not known
		}
		if g.name != nil {
			if first, ok := names[*g.name]; ok {
				r.Add(at+".name", "%s is the name of ladder[%d] already", *g.name, first)
			}
			names[*g.name] = i
		}
		switch before := i > 0 && resp.ladder[i-1].action.Kind != 0; {
		case i == 0 && g.cond != nil:
			r.Add(at+".if", "means nothing in the first step: nothing was done yet that could be measured")
		case before && !announces:
			r.Add(at+".action", "would withdraw by climbing what the step before announced: leave the step out, or ask a person by approval in the next")
		case before && g.cond == nil && !r.Bad(at+".if"):
			r.Suggest(at+".if", "evidence.reduction < 0.9", "is missing: a ladder climbs on what was measured of the step before, not on time alone")
		case i > 0 && !before && g.after == nil && g.cond == nil && !r.Bad(at):
			r.Add(at+".after", "is missing: at once, there is no reason for the step before")
		}
		if i > 0 && g.action == resp.ladder[i-1].action && slices.Equal(g.scope, resp.ladder[i-1].scope) && !r.Bad(at) {
			r.Add(at+".action", "%s is what the step before does: change the action or the scope", formatAction(g.action))
		}
		if !announces {
			for _, key := range []string{"scope", "max_collateral", "approval", "down_after"} {
				if r.Has(at + "." + key) {
					r.Add(at+"."+key, "means nothing here: %s announces nothing", formatAction(g.action))
				}
			}
		}
		if g.action.Kind == route.Accept && g.downAfter != nil && !slices.ContainsFunc(resp.ladder[:i], func(g rung) bool { return g.action.Kind != 0 }) {
			r.Add(at+".down_after", "means nothing here: there is no milder step to come down to, and what is marked or redirected is not probed; it ends with its ttl")
		}
		if g.probe != nil && (g.downAfter == nil || g.action.Kind != route.Discard && g.action.Kind != route.Blackhole) {
			r.Add(at+".probe", "means nothing here: a discard or a blackhole is probed, after its down_after")
		}
		if g.action.Kind == route.Blackhole && g.maxCollateral != nil {
			r.Add(at+".max_collateral", "means nothing here: a blackhole drops everything to the target")
		}
		f.compileCondition(r, at, g)
		f.checkSpans(r, at, g.action, g.span, resp.span)
	}
	if !slices.ContainsFunc(resp.ladder, func(g rung) bool { return g.action.Kind != 0 }) {
		for _, key := range []string{"ttl", "extend", "max_age"} {
			if r.Has(here + "." + key) {
				r.Add(here+"."+key, "means nothing here: no step announces anything")
			}
		}
	}
}

// compileCondition keeps the condition of a step under its path.
func (f *file) compileCondition(r *document.Report, at string, g rung) {
	if g.cond == nil {
		return
	}
	c, err := f.language(evidenceNames).condition(*g.cond)
	if err != nil {
		r.Wrong(at+".if", err)
		return
	}
	f.conditions[at] = c
}

// compileWhen keeps the condition of a response or an exception under its path.
func (f *file) compileWhen(r *document.Report, at string, when *string) {
	if when == nil {
		return
	}
	p, err := f.language(incidentNames).predicate(*when)
	if err != nil {
		r.Wrong(at+".when", err)
		return
	}
	f.whens[at] = p
}

// language is made for the first expression that needs it.
func (f *file) language(names []name) *language {
	of := names[0].name
	if f.languages[of] == nil {
		f.languages[of] = newLanguage(names, f.constants...)
	}
	return f.languages[of]
}

// checkSpans judges what a response, or a step within the span of its response, says of its span.
func (f *file) checkSpans(r *document.Report, here string, a action, own, of span) {
	if a.Kind == 0 {
		for _, key := range []string{"ttl", "extend", "max_age"} {
			if r.Has(here+"."+key) && !r.Bad(here+".action") {
				r.Add(here+"."+key, "means nothing here: %s announces nothing", formatAction(a))
			}
		}
		return
	}
	ttl, ext, maximum := f.spans(of, own)
	switch {
	case (own.ttl != nil || own.maxAge != nil) && ttl > maximum && (own.ttl != nil || own.maxAge == nil):
		r.Add(here+".ttl", "%s is longer than max_age, which is %s", document.FormatDuration(ttl), document.FormatDuration(maximum))
	case (own.ttl != nil || own.maxAge != nil) && ttl > maximum:
		r.Add(here+".max_age", "%s is shorter than ttl, which is %s%s", document.FormatDuration(maximum), document.FormatDuration(ttl), from(of.ttl))
	case own.extend != nil && ext > maximum:
		r.Add(here+".extend", "%s is longer than max_age, which is %s", document.FormatDuration(ext), document.FormatDuration(maximum))
	case of != (span{}) && (ttl > maximum || ext > maximum):
		r.Add(here, "lives longer than max_age, which is %s, by the ttl or extend of its response", document.FormatDuration(maximum))
	}
}

func from(ofResponse *time.Duration) string {
	if ofResponse == nil {
		return " from defaults"
	}
	return " from the response"
}

// spans are the lengths of time a response works with, the broadest first.
func (f *file) spans(of ...span) (ttl, extend, maxAge time.Duration) {
	ttl, extend, maxAge = f.defaults.ttl, f.defaults.extend, f.defaults.maxAge
	for _, s := range of {
		set(&ttl, s.ttl)
		set(&extend, s.extend)
		set(&maxAge, s.maxAge)
	}
	return ttl, extend, maxAge
}
