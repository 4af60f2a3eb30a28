package detect

import (
	"fmt"
	"time"

	"github.com/amooglesoft/trafficmonitor/internal/traffic"
	"github.com/amooglesoft/trafficmonitor/internal/vector"
)

const (
	// ownSource is the least share of packets that must come from a source of their own; an estimate of sources is off by
	// some hundredths.
	ownSource = 0.7
	// enoughSources makes certain, and they must come within sourcesSpan.
	enoughSources = 1000
	sourcesSpan   = 30 * time.Second
	// sourcesGap without news ends a stretch.
	sourcesGap = 5 * time.Second
	// leastIdle is the least share of all sources that must complete nothing: four times the standard error of the
	// difference of two sketches of 256 registers, 0.065 of each.
	leastIdle = 0.37
	// leastReports is how many reports a stretch must span, so that what is spread over a network is told of the network.
	leastReports = 2
	// uncompleted is the share of packets that something came of, below which nothing came of them.
	uncompleted = 0.1
)

// ObserveSources takes in from how many sources the packets of vectors came, and returns what follows from it. It finds
// floods that no rate tells, because forged sources give themselves away: each packet has one of its own, and nothing
// comes of it. What one report of a sensor says is to be told in one call.
func (d *Detector) ObserveSources(now time.Time, list []traffic.Sources) (out []Event) {
	lonely := make([]bool, len(list))
	for i := range list {
		lonely[i] = d.gather(now, &list[i])
	}
	for i := range list {
		d.complete(&list[i])
	}
	for i := range list {
		if lonely[i] {
			out = append(out, d.judgeSources(now, &list[i])...)
		}
	}
	return out
}

// gather adds to the stretch of a vector, and reports whether nearly every packet came from a source of its own.
func (d *Detector) gather(now time.Time, x *traffic.Sources) bool {
	site := Site{x.Target, x.Direction, false}
	l := d.rules.Limits(site, x.Vector)
	lonely := l.Spoofed > 0 && x.Direction == vector.Inbound && x.TwoWay && x.Packets > 0 && (x.Completes() || !comesAbout(x)) &&
		x.Distinct.Estimate() >= ownSource*float64(x.Packets+x.Others) &&
		!d.elsewhere(site, traffic.Observation{Target: x.Target, Direction: x.Direction, Vector: x.Vector, PPS: x.PPS}, l, d.sites[site])
	// What could not bring enough sources in time begins no stretch: a scan sends a few packets to every address.
	fast := x.PPS*sourcesSpan.Seconds() >= enoughSources
	s, vs := d.at(site, x.Vector, lonely && fast)
	if vs == nil {
		return false
	}
	from := vs.sources
	begin := from == nil || now.Sub(from.since) > sourcesSpan || now.Sub(from.last) > sourcesGap
	if !lonely || begin && !fast {
		vs.sources = nil
		if !vs.confirmed && !vs.over() {
			delete(s.vectors, x.Vector)
			d.collect(site, s)
		}
		return false
	}
	if begin {
		from = &sources{from: x.Start, since: now.Add(-x.Span)}
		vs.sources = from
	}
	from.distinct.Merge(&x.Distinct)
	from.exact = from.exact || x.Exact
	from.packets += x.Packets + x.Others
	from.counted += x.Span
	from.reports++
	from.last = now
	return true
}

// judgeSources says what follows from a vector's stretch.
func (d *Detector) judgeSources(now time.Time, x *traffic.Sources) []Event {
	site := Site{x.Target, x.Direction, false}
	l := d.rules.Limits(site, x.Vector)
	s := d.sites[site]
	vs := s.vectors[x.Vector]
	from := vs.sources
	n := from.distinct.Estimate()
	share := min(1, n/float64(from.packets))
	if share < ownSource || from.reports < leastReports {
		return nil
	}
	if n, share = from.idle(n, share, x); n < enoughSources || share*x.PPS < l.Spoofed {
		return nil
	}
	kind := d.confirm(now, site, s, vs, x.Vector, Spoofed, Limits{PPS: l.Spoofed, EndBelow: l.EndBelow, EndAfter: l.EndAfter}, from.from, func() string {
		return fmt.Sprintf("%s at %s: about %.0f different sources/s, limit %.0f, nearly every packet of %.0f/s from a source of its own (about %.0f in %.1f s of which nothing comes): the target sent %.0f packets/s that belong to them; seen by %s",
			x.Vector, x.Target, share*x.PPS, l.Spoofed, x.PPS, n, from.counted.Seconds(), x.AnswersPPS, seenBy(len(x.Sensors), x.Sensors))
	})
	vs.setCalm(now, false, s.masked)
	m := s.measurement(x.Vector)
	m.PPS = x.PPS
	m.PeakPPS = max(m.PeakPPS, x.PPS)
	if kind != 0 {
		m.Test, m.LimitPPS = Spoofed, l.Spoofed
	} else {
		kind = Continues
	}
	s.seenBy(x.Sensors)
	return []Event{{Kind: kind, Incident: s.snapshot(), Vectors: []vector.ID{x.Vector}}}
}

// complete notes from which sources the packets came that follow where an exchange comes about.
func (d *Detector) complete(x *traffic.Sources) {
	s := d.sites[Site{x.Target, x.Direction, false}]
	if s == nil || x.Exact {
		return
	}
	for v, vs := range s.vectors {
		if vs.sources != nil && vector.OppositeOf(v).Completing.Has(x.Vector) {
			vs.sources.completing.Merge(&x.Distinct)
			vs.sources.completed = true
		}
	}
}

// idle is how many of n sources nothing comes of, and their share of the packets. Where sketches tell which sources go on
// to complete what they began, these are those that do not; else all of them or, when what completes is frequent, none.
func (f *sources) idle(n, share float64, x *traffic.Sources) (float64, float64) {
	if !x.Completes() {
		return n, share
	}
	if !f.completed || f.exact {
		if comesAbout(x) {
			return 0, 0
		}
		return n, share
	}
	union := f.completing
	union.Merge(&f.distinct)
	all := union.Estimate()
	only := all - f.completing.Estimate()
	if only < leastIdle*all {
		return 0, 0
	}
	return min(only, n), share * min(1, only/n)
}

// comesAbout tells whether something comes of the packets: the target answers them, or asked for them, or connections are
// made of them.
func comesAbout(x *traffic.Sources) bool {
	op := vector.OppositeOf(x.Vector)
	if op.Completing != 0 {
		return x.CompletingPPS >= uncompleted*x.PPS
	}
	return op.Outbound == 0 || x.AnswersPPS >= uncompleted*x.PPS
}
