package policy

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/amooglesoft/trafficmonitor/internal/document"
	"github.com/amooglesoft/trafficmonitor/internal/vector"
)

// Explanation is what a policy makes of one vector of an incident, and where that stands.
type Explanation struct {
	Group string
	// Limits are the values in force, in the order of the documentation. A key that has no value is left out.
	Limits []Origin
	Response
	// Place is where the response or exception stands, as file:line; empty where none answers.
	Place string
}

// Origin is a value and where it comes from.
type Origin struct {
	Key, Value string
	// Path names the key in the policy, Place is its file:line. Of a default that stands nowhere Place is empty.
	Path, Place string
}

// Why explains what the policy makes of a vector of an incident. It reads the text of the policy again.
func (p *Policy) Why(inc Incident, now time.Time) Explanation {
	f, report := readFiles(p.source, p.files)
	x := Explanation{Group: p.Group(inc.Target), Response: p.Answer(inc, now)}
	if x.Path != "" {
		x.Place = report.Place(x.Path)
	}
	from := map[string]string{} // the path of the value in force, by key
	for _, key := range []string{"windows", "unanswered_windows", "share_from", "hosts", "end_below", "end_after"} {
		from[key] = "defaults." + key
	}
	list := "thresholds"
	switch {
	case inc.Direction == vector.Outbound:
		list = "outbound"
	case !inc.Target.IsSingleIP():
		list = "networks"
	}
	for _, a := range f.chain(inc.Target) {
		ts := map[string][]threshold{"thresholds": a.thresholds, "outbound": a.outbound, "networks": a.networks}[list]
		for _, e := range byBreadth(ts) {
			if slices.Contains(e.ids, inc.Vector) {
				for _, key := range e.t.keys() {
					from[key] = fmt.Sprintf("%s%s[%d].%s", a.at, list, e.i, key)
				}
			}
		}
	}
	for _, o := range p.limitsOf(inc).values() {
		o.Path = from[o.Key]
		if report.Has(o.Path) {
			o.Place = report.Place(o.Path)
		}
		x.Limits = append(x.Limits, o)
	}
	return x
}

// place is attacks with the path of what holds them.
type place struct {
	attacks
	at string
}

// chain lists what says limits for a target, the broadest first.
func (f *file) chain(target netip.Prefix) []place {
	type held struct {
		bits int
		g    *group
	}
	var hs []held
	for i := range f.groups {
		for _, p := range f.groups[i].prefixes {
			if p.Bits() <= target.Bits() && p.Contains(target.Addr()) {
				hs = append(hs, held{p.Bits(), &f.groups[i]})
			}
		}
	}
	slices.SortStableFunc(hs, func(a, b held) int { return a.bits - b.bits })
	out := []place{{f.attacks, ""}}
	for _, h := range hs {
		out = append(out, place{h.g.attacks, "groups." + h.g.name + "."})
	}
	return out
}

// keys are those a threshold says.
func (t *threshold) keys() (keys []string) {
	for key, says := range map[string]bool{
		"pps": t.pps != nil, "bps": t.bps != nil, "windows": t.windows != nil, "unanswered": t.unanswered != nil,
		"unanswered_windows": t.unansweredWindows != nil, "spoofed": t.spoofed != nil, "share": t.share != nil, "share_from": t.shareFrom != nil, "hosts": t.hosts != nil,
		"end_below": t.endBelow != nil, "end_after": t.endAfter != nil,
	} {
		if says {
			keys = append(keys, key)
		}
	}
	slices.Sort(keys)
	return keys
}

// values lists the limits by key. Where there is no limit there is nothing else either.
func (l Limits) values() (out []Origin) {
	if l.None() {
		return nil
	}
	add := func(key, value string, there bool) {
		if there {
			out = append(out, Origin{Key: key, Value: value})
		}
	}
	add("pps", document.PPS().Format(l.PPS), l.PPS > 0)
	add("bps", document.BPS().Format(l.BPS), l.BPS > 0)
	add("windows", fmt.Sprint(l.Windows), l.PPS > 0 || l.BPS > 0 || l.Share > 0)
	add("unanswered", document.PPS().Format(l.Unanswered), l.Unanswered > 0)
	add("unanswered_windows", fmt.Sprint(l.UnansweredWindows), l.Unanswered > 0)
	add("spoofed", spoofed().Format(l.Spoofed), l.Spoofed > 0)
	add("share", shares.Format(l.Share), l.Share > 0)
	add("share_from", document.PPS().Format(l.ShareFrom), l.Share > 0)
	add("hosts", fmt.Sprint(l.Hosts), l.Hosts > 0)
	add("end_below", endBelow.Format(l.EndBelow), true)
	add("end_after", document.FormatDuration(l.EndAfter), true)
	return out
}
