package detect

import (
	"fmt"
	"strings"
	"time"

	"github.com/amooglesoft/trafficmonitor/internal/traffic"
	"github.com/amooglesoft/trafficmonitor/internal/vector"
)

// Explain says in a sentence what the detector makes of an observation, by the very tests that it applies, and why it makes an
// incident or none.
func (d *Detector) Explain(now time.Time, o traffic.Observation) string {
	site := Site{o.Target, o.Direction, o.Network}
	l := d.rules.Limits(site, o.Vector)
	var b strings.Builder
	sent := ""
	if o.Direction == vector.Outbound {
		sent = " sent"
	}
	fmt.Fprintf(&b, "%s%s: %.0f packets/s, %.0f bit/s", o.Vector, sent, o.PPS, o.BPS)
	if o.Network {
		fmt.Fprintf(&b, " in %s", count(o.ActiveHosts, "host"))
	}
	if o.MissingCount > 0 {
		fmt.Fprintf(&b, ", and %.0f packets/s by the last word of %s that went silent", o.HeldPPS, count(o.MissingCount, "sensor"))
	}
	op := vector.OppositeOf(o.Vector)
	switch {
	case o.Network || o.Direction == vector.Outbound || op.Outbound == 0:
	case !o.TwoWay:
		b.WriteString("; the other direction is not watched, so nobody can tell what was asked for or answered")
	case op.Asked:
		fmt.Fprintf(&b, "; the target asked with %.0f packets/s", o.AnswersPPS)
	default:
		fmt.Fprintf(&b, "; the target sent %.0f packets/s that belong to it", o.AnswersPPS)
	}
	pps, bps, why := d.allowed(now, o, l)
	var limits []string
	add := func(rate, limit float64, what string) {
		if limit > 0 {
			limits = append(limits, fmt.Sprintf("%.0f %% of the limit %.0f %s", 100*rate/limit, limit, what))
		}
	}
	add(o.PPS, pps, "packets/s"+why)
	add(o.BPS, bps, "bit/s"+why)
	normal, _, known := d.normally(now, o)
	add(o.PPS, d.unansweredLimit(o, l, normal, known, d.rules.Baseline()), "packets/s unanswered")
	add(o.PPS, d.shareLimit(o, l, normal, known, d.rules.Baseline()), fmt.Sprintf("packets/s, a share of the %.0f it receives", max(o.AllPPS, o.PPS)))
	if len(limits) == 0 {
		limits = append(limits, "no limit applies")
	}
	b.WriteString("; " + strings.Join(limits, ", "))
	b.WriteString("; " + d.verdict(now, site, o, l))
	return b.String()
}

// verdict says whether it makes an incident.
func (d *Detector) verdict(now time.Time, site Site, o traffic.Observation, l Limits) string {
	s := d.sites[site]
	var vs *vectorState
	if s != nil {
		vs = s.vectors[o.Vector]
	}
	found := d.judge(now, o, l, nil)
	switch {
	case vs != nil && vs.confirmed && len(found) > 0:
		return "part of incident " + s.incident.ID
	case vs != nil && vs.confirmed && s.masked:
		return fmt.Sprintf("part of incident %s; a mitigation hides what is in front of the router, so calm says nothing", s.incident.ID)
	case vs != nil && vs.confirmed && vs.calm:
		return fmt.Sprintf("part of incident %s, calm since %s", s.incident.ID, vs.calmSince.UTC().Format(time.TimeOnly))
	case vs != nil && vs.confirmed && vs.sources != nil:
		return fmt.Sprintf("part of incident %s, by its sources: the limit is %.0f different ones a second", s.incident.ID, l.Spoofed)
	case vs != nil && vs.confirmed:
		return fmt.Sprintf("part of incident %s, below its limit but not calm", s.incident.ID)
	case len(found) == 0 && vs != nil && vs.sources != nil:
		return fmt.Sprintf("not certain yet: nearly every packet has a source of its own, about %.0f of %d different ones so far", vs.sources.distinct.Estimate(), enoughSources)
	case len(found) == 0:
		return "no incident: it passes no test"
	case d.elsewhere(site, o, l, s):
		if site.Network {
			return "no incident of its own: too few hosts, or one of them receives most of it"
		}
		return "no incident of its own: it is told of the network around it"
	case vs == nil:
		return "it has just passed a limit"
	}
	f := found[0]
	x := vs.stretches[f.test]
	have, want, what := x.packets, f.pps*float64(max(f.windows, 1))*Window.Seconds(), "packets"
	if f.pps == 0 {
		have, want, what = x.bits, f.bps*float64(max(f.windows, 1))*Window.Seconds(), "bits"
	}
	return fmt.Sprintf("not certain yet: %.0f of %.0f %s over the limit in a row", have, want, what)
}
