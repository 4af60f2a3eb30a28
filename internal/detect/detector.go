package detect

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/amooglesoft/trafficmonitor/internal/sketch"
	"github.com/amooglesoft/trafficmonitor/internal/traffic"
	"github.com/amooglesoft/trafficmonitor/internal/vector"
)

// Detector turns observations into incidents. It is not safe for concurrent use.
type Detector struct {
	rules    Rules
	normal   Normal // or nil
	sites    map[Site]*state
	networks map[Site]*state       // those of sites that are networks
	masked   map[netip.Prefix]bool // mitigated targets; whether an attack is seen there or not
	past     map[Site]past         // incidents that ended lately
	found    []finding             // reused
}

// state is what is known of one site; kept while any vector is over its limit or in an incident.
type state struct {
	incident *Incident
	held     int  // how many incidents of a row there were before this one
	masked   bool // as in Detector
	vectors  map[vector.ID]*vectorState
}

type vectorState struct {
	pps       float64 // as last seen
	stretches [tests]stretch
	sources   *sources // of the stretch in which nearly every packet has a source of its own; or nil
	calm      bool
	calmSince time.Time // when calm and not masked
	confirmed bool      // part of the incident
	passed    [tests]Limits
	ends      Limits // of calmSince
}

// stretch is an unbroken time over a limit, and what was counted in it.
type stretch struct {
	from    time.Time // by the sensor's clock; zero when there is none
	since   time.Time // by ours
	packets float64
	bits    float64
}

// past is an incident that ended.
type past struct {
	id     string
	ended  time.Time
	held   int
	calmed time.Duration // EndAfter it ended by
}

const (
	// flapping is for how many times the span that ended it an incident's end is remembered, and mostHeld how often that
	// span may double.
	flapping = 10
	mostHeld = 4
	// maxPast bounds what is remembered.
	maxPast = 4096
)

// New returns a detector without incidents. Normal may be nil.
func New(rules Rules, normal Normal) *Detector {
	return &Detector{
		rules: rules, normal: normal, sites: map[Site]*state{}, networks: map[Site]*state{}, masked: map[netip.Prefix]bool{}, past: map[Site]past{},
	}
}

// SetRules replaces the rules. Incidents go on and are judged by the new limits from the next observation on.
func (d *Detector) SetRules(rules Rules) { d.rules = rules }

// Wants tells whether an observation with such rates could change anything, so that others need not be made.
func (d *Detector) Wants(r traffic.Rate) bool {
	s := Site{r.Target, r.Direction, r.Network}
	if d.sites[s] != nil {
		return true
	}
	l := d.rules.Limits(s, r.Vector)
	if exceeds(r.PPS, l.PPS) || exceeds(r.BPS, l.BPS) || exceeds(r.PPS, l.Unanswered) || l.Share > 0 && r.PPS >= l.ShareFrom {
		return true
	}
	b := d.rules.Baseline()
	return b.Factor > 0 && (exceeds(r.PPS, b.Floor*l.PPS) || exceeds(r.BPS, b.Floor*l.BPS))
}

// Observe takes in what is seen now and returns what follows from it.
func (d *Detector) Observe(now time.Time, o traffic.Observation) []Event {
	site := Site{o.Target, o.Direction, o.Network}
	l := d.rules.Limits(site, o.Vector)
	d.found = d.judge(now, o, l, d.found[:0])
	s := d.sites[site]
	if s == nil && len(d.found) == 0 {
		return nil
	}
	if len(d.found) > 0 && d.elsewhere(site, o, l, s) {
		d.found = d.found[:0]
	}
	s, vs := d.at(site, o.Vector, len(d.found) > 0)
	if vs == nil {
		return nil
	}
	vs.pps = o.PPS
	for test := range vs.stretches {
		if !slices.ContainsFunc(d.found, func(f finding) bool { return f.test == Test(test) }) {
			vs.stretches[test] = stretch{}
		}
	}
	if len(d.found) == 0 {
		return d.rests(now, site, s, vs, o, l)
	}

	vs.setCalm(now, false, s.masked)
	var kind Kind
	for _, f := range d.found {
		x := &vs.stretches[f.test]
		if x.from.IsZero() {
			x.from, x.since = o.Start, now.Add(-o.Span)
		}
		x.packets += float64(o.Packets)
		x.bits += 8 * float64(o.Bytes)
		if vs.confirmed || x.suffices(f) && (f.test != Share || now.Sub(x.since) >= shareSpan) {
			// By our clock: the reports that make up the stretch may come from sensors whose clocks are minutes apart.
			covered := max(now.Sub(x.since), o.Span)
			kind = max(kind, d.confirm(now, site, s, vs, o.Vector, f.test, f.ends(l), x.from, func() string { return reason(o, f, covered) }))
		}
	}
	if !vs.confirmed {
		return nil
	}
	s.measure(o, d.found[0])
	if kind == 0 {
		kind = Continues
	}
	return []Event{{Kind: kind, Incident: s.snapshot(), Vectors: []vector.ID{o.Vector}}}
}

// suffices tells whether enough was counted to be sure.
func (x *stretch) suffices(f finding) bool {
	span := float64(max(f.windows, 1)) * Window.Seconds()
	const rounding = 1 - 1e-9
	if f.pps > 0 {
		return x.packets >= rounding*float64(int64(f.pps*span))
	}
	return x.bits >= rounding*f.bps*span
}

// ends are the limits by which what was found is over: the one that was passed, and the policy's other one.
func (f finding) ends(l Limits) Limits {
	if f.test == Static || f.test == Unusual {
		return Limits{PPS: cmp.Or(f.pps, l.PPS), BPS: cmp.Or(f.bps, l.BPS), EndBelow: l.EndBelow, EndAfter: l.EndAfter}
	}
	return Limits{PPS: f.pps, EndBelow: l.EndBelow, EndAfter: l.EndAfter}
}

// rests is Observe of traffic that passes no test.
func (d *Detector) rests(now time.Time, site Site, s *state, vs *vectorState, o traffic.Observation, l Limits) []Event {
	if !vs.confirmed {
		if vs.sources == nil {
			delete(s.vectors, o.Vector)
			d.collect(site, s)
		}
		return nil
	}
	s.measure(o, finding{})
	// What was asked for or is normal now is no attack now, whatever limit the attack passed; and a limit that the policy
	// has taken away since ends nothing and holds nothing.
	pps, bps, _ := d.allowed(now, o, l)
	calm := true
	for test, ends := range vs.passed {
		switch {
		case ends.EndAfter == 0 && ends.PPS == 0 && ends.BPS == 0:
		case Test(test) == Static || Test(test) == Unusual:
			calm = calm && below(o, Limits{PPS: today(ends.PPS, pps), BPS: today(ends.BPS, bps), EndBelow: l.EndBelow})
		case Test(test) == Share:
			normal, _, known := d.normally(now, o)
			ends.PPS, ends.EndBelow = today(ends.PPS, d.shareLimit(o, l, normal, known, d.rules.Baseline())), l.EndBelow
			calm = calm && below(o, ends)
		default: // a target that answers again is well, however much it is
			ends.PPS, ends.EndBelow = today(ends.PPS, limitOf(Test(test), l)), l.EndBelow
			calm = calm && (below(o, ends) || o.TwoWay && answered(o))
		}
	}
	vs.ends = l
	vs.setCalm(now, calm, s.masked)
	return d.end(now, site, s)
}

// today is the limit that was passed, or the policy's of now where that is higher or none any more.
func today(passed, limit float64) float64 {
	if limit == 0 {
		return 0
	}
	return max(passed, limit)
}

// limitOf is the policy's limit of a test for what nobody asked for.
func limitOf(test Test, l Limits) float64 {
	if test == Spoofed {
		return l.Spoofed
	}
	return l.Unanswered
}

// confirm makes a vector part of the site's incident, and begins one where there is none.
func (d *Detector) confirm(now time.Time, site Site, s *state, vs *vectorState, v vector.ID, test Test, ends Limits, onset time.Time, why func() string) Kind {
	vs.passed[test], vs.ends = ends, ends
	if vs.confirmed {
		return 0
	}
	vs.confirmed = true
	if s.incident != nil {
		return VectorAdded
	}
	s.incident = &Incident{
		ID: incidentID(site, onset), Target: site.Target, Direction: site.Direction, Network: site.Network, Group: d.rules.Group(site.Target),
		Test: test, Onset: onset, Decided: now, Reason: why(),
	}
	if p, ok := d.past[site]; ok && now.Sub(p.ended) < flapping*p.calmed {
		s.incident.Previous, s.held = p.id, min(p.held+1, mostHeld)
	}
	delete(d.past, site)
	return Onset
}

// at returns the state of a site and vector, made where there is none and it is wanted.
func (d *Detector) at(site Site, v vector.ID, wanted bool) (*state, *vectorState) {
	s := d.sites[site]
	if s == nil {
		if !wanted {
			return nil, nil
		}
		s = &state{masked: d.hidden(site), vectors: map[vector.ID]*vectorState{}}
		d.sites[site] = s
		if site.Network {
			d.networks[site] = s
		}
	}
	vs := s.vectors[v]
	if vs == nil && wanted {
		vs = &vectorState{}
		s.vectors[v] = vs
	}
	return s, vs
}

// elsewhere tells whether traffic over a limit belongs to an incident that is told elsewhere: that of a host to the network
// around it which is attacked as a whole, as long as it is no more than half of it; and that of a network to the host, or
// the narrower network, that receives more than half of it. What is part of an incident already stays so.
func (d *Detector) elsewhere(site Site, o traffic.Observation, l Limits, s *state) bool {
	if s != nil && s.vectors[o.Vector] != nil && s.vectors[o.Vector].confirmed {
		return false
	}
	if site.Network {
		if o.ActiveHosts < l.Hosts {
			return true
		}
		for inner, x := range d.sites {
			vs := x.vectors[o.Vector]
			if vs != nil && inner != site && inner.Direction == site.Direction && contains(site.Target, inner.Target) && vs.pps > o.PPS/2 {
				return true
			}
		}
		return false
	}
	for outer, x := range d.networks {
		vs := x.vectors[o.Vector]
		if vs != nil && vs.confirmed && outer.Direction == site.Direction && contains(outer.Target, site.Target) && o.PPS <= vs.pps/2 {
			return true
		}
	}
	return false
}

// Tick ends the incidents that have been calm for long enough.
func (d *Detector) Tick(now time.Time) []Event {
	var out []Event
	for _, site := range d.sorted() {
		s := d.sites[site]
		for _, v := range slices.Sorted(maps.Keys(s.vectors)) {
			if vs := s.vectors[v]; vs.sources != nil && now.Sub(vs.sources.last) > sourcesGap {
				vs.sources = nil
				if !vs.confirmed && !vs.over() {
					delete(s.vectors, v)
				}
			}
		}
		out = append(out, d.end(now, site, s)...)
		d.collect(site, s)
	}
	maps.DeleteFunc(d.past, func(_ Site, p past) bool { return now.Sub(p.ended) >= flapping*p.calmed })
	return out
}

// over tells whether a stretch over a limit is under way.
func (vs *vectorState) over() bool {
	return slices.ContainsFunc(vs.stretches[:], func(x stretch) bool { return !x.from.IsZero() })
}

func (d *Detector) sorted() []Site {
	return slices.SortedFunc(maps.Keys(d.sites), func(a, b Site) int {
		byKind := 0
		if a.Network != b.Network {
			byKind = 1
			if b.Network {
				byKind = -1
			}
		}
		return cmp.Or(traffic.ComparePrefix(a.Target, b.Target), cmp.Compare(a.Direction, b.Direction), byKind)
	})
}

// Deadline returns when Tick next has something to do; zero means never.
func (d *Detector) Deadline() time.Time {
	var first time.Time
	for _, s := range d.sites {
		if at, ok := s.endsAt(); ok && (first.IsZero() || at.Before(first)) {
			first = at
		}
	}
	return first
}

// Attacked tells whether an incident is about a vector of a target's traffic now, or might soon be: nothing normal is learnt
// from it.
func (d *Detector) Attacked(target netip.Prefix, dir vector.Direction, v vector.ID) bool {
	involved := func(s *state) bool {
		return s != nil && (s.vectors[v] != nil || s.incident != nil && v == vector.Total)
	}
	if involved(d.sites[Site{target, dir, false}]) {
		return true
	}
	for site, s := range d.networks { // a host of a network that is attacked as a whole has no state of its own
		if site.Direction == dir && contains(site.Target, target) && involved(s) {
			return true
		}
	}
	return false
}

// Mask tells whether a mitigation hides the target's traffic from the sensors. What is hidden is not taken for the end
// of the attack: calm is measured from the end of the mask on. It may be told before the attack is seen.
func (d *Detector) Mask(now time.Time, target netip.Prefix, masked bool) {
	if d.masked[target] == masked {
		return
	}
	if masked {
		d.masked[target] = true
	} else {
		delete(d.masked, target)
	}
	for site, s := range d.sites {
		if !contains(target, site.Target) || s.masked == d.hidden(site) {
			continue
		}
		s.masked = !s.masked
		for _, vs := range s.vectors {
			vs.calmSince = time.Time{}
			if vs.calm && !s.masked {
				vs.calmSince = now
			}
		}
	}
}

// hidden reports whether a mitigation hides what a site receives: its own, or one of a network around it.
func (d *Detector) hidden(site Site) bool {
	if site.Direction != vector.Inbound {
		return false
	}
	if d.masked[site.Target] {
		return true
	}
	for q := range d.masked {
		if contains(q, site.Target) {
			return true
		}
	}
	return false
}

func contains(outer, inner netip.Prefix) bool {
	return outer.Bits() <= inner.Bits() && outer.Contains(inner.Addr())
}

// Incidents returns the active incidents, sorted by target.
func (d *Detector) Incidents() []Incident {
	var out []Incident
	for _, site := range d.sorted() {
		if s := d.sites[site]; s.incident != nil {
			out = append(out, s.snapshot())
		}
	}
	return out
}

// Incident returns the active incident at a site.
func (d *Detector) Incident(site Site) (inc Incident, ok bool) {
	if s := d.sites[site]; s != nil && s.incident != nil {
		return s.snapshot(), true
	}
	return Incident{}, false
}

// below counts the share of silent sensors at its last word: silence is no evidence.
func below(o traffic.Observation, l Limits) bool {
	return (l.PPS == 0 || o.PPS+o.HeldPPS < l.PPS*l.EndBelow) && (l.BPS == 0 || o.BPS+o.HeldBPS < l.BPS*l.EndBelow)
}

func (vs *vectorState) setCalm(now time.Time, calm, masked bool) {
	switch {
	case !calm:
		vs.calmSince = time.Time{}
	case vs.calmSince.IsZero() && !masked:
		vs.calmSince = now
	}
	vs.calm = calm
}

// calmed is how long the site must be calm.
func (s *state) calmed(vs *vectorState) time.Duration { return vs.ends.EndAfter << s.held }

func (s *state) endsAt() (time.Time, bool) {
	if s.incident == nil || s.masked {
		return time.Time{}, false
	}
	var last time.Time
	for _, vs := range s.vectors {
		if !vs.confirmed {
			continue
		}
		if vs.calmSince.IsZero() {
			return time.Time{}, false
		}
		if at := vs.calmSince.Add(s.calmed(vs)); at.After(last) {
			last = at
		}
	}
	return last, !last.IsZero()
}

func (d *Detector) end(now time.Time, site Site, s *state) []Event {
	at, ok := s.endsAt()
	if !ok || now.Before(at) {
		return nil
	}
	s.incident.Ended = now
	inc := s.snapshot()
	p := past{id: inc.ID, ended: now, held: s.held}
	var vs []vector.ID
	for _, m := range inc.Vectors {
		vs = append(vs, m.Vector)
		p.calmed = max(p.calmed, s.vectors[m.Vector].ends.EndAfter)
		delete(s.vectors, m.Vector)
	}
	if len(d.past) < maxPast {
		d.past[site] = p
	}
	s.incident, s.held = nil, 0
	d.collect(site, s)
	return []Event{{Kind: End, Incident: inc, Vectors: vs}}
}

func (d *Detector) collect(site Site, s *state) {
	if s.incident == nil && len(s.vectors) == 0 {
		delete(d.sites, site)
		delete(d.networks, site)
	}
}

// measure puts what is seen into the incident; f is what it passed, if anything.
func (s *state) measure(o traffic.Observation, f finding) {
	m := s.measurement(o.Vector)
	m.PPS, m.BPS = o.PPS, o.BPS
	m.PeakPPS, m.PeakBPS = max(m.PeakPPS, o.PPS), max(m.PeakBPS, o.BPS)
	if f.test != 0 {
		m.Test, m.LimitPPS, m.LimitBPS = f.test, f.pps, f.bps
	}
	s.incident.ActiveHosts = max(s.incident.ActiveHosts, o.ActiveHosts)
	s.seenBy(o.Sensors)
}

func (s *state) measurement(v vector.ID) *Measurement {
	i, ok := slices.BinarySearchFunc(s.incident.Vectors, v, func(m Measurement, v vector.ID) int { return cmp.Compare(m.Vector, v) })
	if !ok {
		s.incident.Vectors = slices.Insert(s.incident.Vectors, i, Measurement{Vector: v})
	}
	return &s.incident.Vectors[i]
}

func (s *state) seenBy(sensors []string) {
	for _, name := range sensors {
		if j, ok := slices.BinarySearch(s.incident.Sensors, name); !ok && len(s.incident.Sensors) < traffic.MaxNames {
			s.incident.Sensors = slices.Insert(s.incident.Sensors, j, name)
		}
	}
}

func (s *state) snapshot() Incident {
	inc := *s.incident
	inc.Vectors = slices.Clone(inc.Vectors)
	inc.Sensors = slices.Clone(inc.Sensors)
	return inc
}

// sources is a stretch in which nearly every packet came from a source of its own.
type sources struct {
	distinct          sketch.HyperLogLog
	completing        sketch.HyperLogLog // of the packets that follow where an exchange comes about
	completed, exact  bool               // completing is known; distinct holds sources of other vectors, too
	packets           uint64
	from, since, last time.Time // by the sensor's clock, by ours, and when it was last added to
	counted           time.Duration
	reports           int
}
