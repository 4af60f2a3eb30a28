package policy

import (
	"fmt"
	"net/netip"
	"time"

	"github.com/amooglesoft/trafficmonitor/internal/document"
	"github.com/amooglesoft/trafficmonitor/internal/vector"
)

// check reports what is well written and makes no sense.
func (f *file) check(r *document.Report) {
	if f.defaults.ttl > f.defaults.maxAge {
		r.Add("defaults.ttl", "%s is longer than max_age, which is %s", document.FormatDuration(f.defaults.ttl), document.FormatDuration(f.defaults.maxAge))
	}
	f.attacks.check(r, "")
	f.checkResponses(r, "responses", f.responses)
	f.checkGroups(r)
	for i, e := range f.exceptions {
		at := fmt.Sprintf("exceptions[%d].prefixes", i)
		if len(e.prefixes) == 0 {
			r.Add(at, "holds no prefix: name at least one, or remove the exception")
		}
		for j, p := range e.prefixes {
			if p.Bits() == 0 {
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
				r.Add(pat, "%s belongs to the group %s already: a prefix has one group", p, other)
			default:
				owner[p] = g.name
			}
		}
		g.attacks.check(r, at+".")
		f.checkResponses(r, at+".responses", g.responses)
	}
}

func (a attacks) check(r *document.Report, at string) {
	checkThresholds(r, at+"thresholds", "pps, bps, unanswered, spoofed", a.thresholds)
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
				r.Add(here+".vectors", "names %s, which %s[%d] names already: join the two", s.word, at, first)
				continue
			}
			by[s.word] = i
		}
		if t.pps == nil && t.bps == nil && t.windows == nil && t.endBelow == nil && t.endAfter == nil &&
			t.unanswered == nil && t.unansweredWindows == nil && t.spoofed == nil && t.hosts == nil && !r.Bad(here) {
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
		useful, before := false, 0
		for _, s := range resp.vectors {
			if s.word == "" {
				useful = true // reported when it was read
			}
			for _, v := range s.ids {
				if answered[v] == 0 {
					answered[v] = i + 1
					useful = true
				} else {
					before = answered[v] - 1
				}
			}
		}
		if !useful {
			r.Add(here+".vectors", "is never reached: %s[%d] and those before it answer all of its vectors; the first that names a vector is taken", at, before)
		}
		f.checkSpans(r, here, resp)
	}
}

func (f *file) checkSpans(r *document.Report, here string, resp response) {
	if resp.action.Kind == 0 && !r.Bad(here+".action") && r.Has(here+".action") {
		for _, key := range []string{"ttl", "extend", "max_age"} {
			if r.Has(here + "." + key) {
				r.Add(here+"."+key, "means nothing here: observe announces nothing")
			}
		}
		return
	}
	ttl, ext, maximum := f.spans(resp)
	key := ".ttl"
	if resp.ttl == nil && resp.maxAge != nil {
		key = ".max_age"
	}
	switch {
	case (resp.ttl != nil || resp.maxAge != nil) && ttl > maximum && key == ".ttl":
		r.Add(here+key, "%s is longer than max_age, which is %s", document.FormatDuration(ttl), document.FormatDuration(maximum))
	case (resp.ttl != nil || resp.maxAge != nil) && ttl > maximum:
		r.Add(here+key, "%s is shorter than ttl, which is %s from defaults", document.FormatDuration(maximum), document.FormatDuration(ttl))
	case resp.extend != nil && ext > maximum:
		r.Add(here+".extend", "%s is longer than max_age, which is %s", document.FormatDuration(ext), document.FormatDuration(maximum))
	}
}

// spans are the lengths of time a response works with.
func (f *file) spans(r response) (ttl, extend, maxAge time.Duration) {
	ttl, extend, maxAge = f.defaults.ttl, f.defaults.extend, f.defaults.maxAge
	set(&ttl, r.ttl)
	set(&extend, r.extend)
	set(&maxAge, r.maxAge)
	return ttl, extend, maxAge
}
