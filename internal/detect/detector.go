package detect

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/amooglesoft/trafficmonitor/internal/traffic"
	"github.com/amooglesoft/trafficmonitor/internal/vector"
)

// Window is the span in which the sensors' kernel programs compare counters with triggers, on kernels with a tick of 1 or 4 ms.
const Window = 32 * time.Millisecond

// Limits say when the traffic of one vector at one target is an attack, and when it is over.
type Limits struct {
	PPS, BPS float64       // per second; 0 is no limit
	Windows  int           // over the limit for so many windows on end; at least 1
	EndBelow float64       // fraction of the limit below which traffic counts as calm, 0 to 1
	EndAfter time.Duration // calm for so long ends it
}

// Rules give the limits that hold for a target.
type Rules interface {
	Limits(target netip.Prefix, v vector.ID) Limits
	Group(target netip.Prefix) string
}

// Kind says what happened to an incident.
type Kind uint8

// The kinds.
const (
	Onset       Kind = iota + 1 // a new incident
	VectorAdded                 // a further vector of an incident passed its limit
	End                         // the attack is over
	Continues                   // a vector of an incident is still over its limit
)

func (k Kind) String() string {
	switch k {
	case Onset:
		return "incident_onset"
	case VectorAdded:
		return "incident_vector_added"
	case End:
		return "incident_end"
	case Continues:
		return "incident_continues"
	}
	return "unknown"
}

// Event is a change of an incident.
type Event struct {
	Kind     Kind
	Incident Incident    // as it is after the change
	Vectors  []vector.ID // those that the event is about
}

// Detector turns observations into incidents. It is not safe for concurrent use.
type Detector struct {
	rules   Rules
	targets map[netip.Prefix]*state
	masked  map[netip.Prefix]bool // mitigated targets; whether an attack is seen there or not
}

// state is what is known of one target; kept while any vector is over its limit or in an incident.
type state struct {
	incident *Incident
	masked   bool // as in Detector
	vectors  map[vector.ID]*vectorState
}

type vectorState struct {
	overFrom  time.Time // begin of the stretch over the limit by the sensor's clock; zero when it is not
	overSince time.Time // the same by ours
	calm      bool
	calmSince time.Time // when calm and not masked
	confirmed bool      // part of the incident
	calmLimit Limits
}

// New returns a detector without incidents.
func New(rules Rules) *Detector {
	return &Detector{rules: rules, targets: map[netip.Prefix]*state{}, masked: map[netip.Prefix]bool{}}
}

// SetRules replaces the rules. Incidents go on and are judged by the new limits from the next observation on.
func (d *Detector) SetRules(rules Rules) { d.rules = rules }

// Observe takes in what is seen now and returns what follows from it.
func (d *Detector) Observe(now time.Time, o traffic.Observation) []Event {
	if o.Direction != vector.Inbound || o.Network {
		return nil
	}
	limits := d.rules.Limits(o.Target, o.Vector)
	s := d.targets[o.Target]
	over := exceeds(o.PPS, limits.PPS) || exceeds(o.BPS, limits.BPS)
	if s == nil {
		if !over {
			return nil
		}
		s = &state{masked: d.hidden(o.Target), vectors: map[vector.ID]*vectorState{}}
		d.targets[o.Target] = s
	}
	vs := s.vectors[o.Vector]
	if vs == nil {
		if !over {
			return nil
		}
		vs = &vectorState{}
		s.vectors[o.Vector] = vs
	}

	if !over {
		vs.overFrom = time.Time{}
		if !vs.confirmed {
			delete(s.vectors, o.Vector)
			d.collect(o.Target, s)
			return nil
		}
		s.measure(o, limits)
		vs.calmLimit = limits
		vs.setCalm(now, calm(o, limits), s.masked)
		return d.end(now, o.Target, s)
	}

	vs.setCalm(now, false, s.masked)
	vs.calmLimit = limits
	if vs.overFrom.IsZero() {
		vs.overFrom, vs.overSince = o.Start, now.Add(-o.Span)
	}
	if vs.confirmed {
		s.measure(o, limits)
		return []Event{{Kind: Continues, Incident: s.snapshot(), Vectors: []vector.ID{o.Vector}}}
	}
	// By our clock: the reports that make up the stretch may come from sensors whose clocks are minutes apart.
	covered := max(now.Sub(vs.overSince), o.Span)
	if need := time.Duration(max(limits.Windows, 1)) * Window; max(limits.Windows, 1) > 1 && covered < need {
		return nil
	}
	vs.confirmed = true
	kind := VectorAdded
	if s.incident == nil {
		kind = Onset
		s.incident = &Incident{
			ID: incidentID(o.Target, vs.overFrom), Target: o.Target, Group: d.rules.Group(o.Target),
			Onset: vs.overFrom, Decided: now, Reason: reason(o, limits, covered),
		}
	}
	s.measure(o, limits)
	return []Event{{Kind: kind, Incident: s.snapshot(), Vectors: []vector.ID{o.Vector}}}
}

// Tick ends the incidents that have been calm for long enough.
func (d *Detector) Tick(now time.Time) []Event {
	var out []Event
	for _, p := range slices.SortedFunc(maps.Keys(d.targets), traffic.ComparePrefix) {
		out = append(out, d.end(now, p, d.targets[p])...)
	}
	return out
}

// Deadline returns when Tick next has something to do; zero means never.
func (d *Detector) Deadline() time.Time {
	var first time.Time
	for _, s := range d.targets {
		if at, ok := s.endsAt(); ok && (first.IsZero() || at.Before(first)) {
			first = at
		}
	}
	return first
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
	for p, s := range d.targets {
		if !contains(target, p) || s.masked == d.hidden(p) {
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

// hidden reports whether a mitigation hides the target's traffic: its own, or one of a network around it.
func (d *Detector) hidden(p netip.Prefix) bool {
	if d.masked[p] {
		return true
	}
	for q := range d.masked {
		if contains(q, p) {
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
	for _, p := range slices.SortedFunc(maps.Keys(d.targets), traffic.ComparePrefix) {
		if s := d.targets[p]; s.incident != nil {
			out = append(out, s.snapshot())
		}
	}
	return out
}

func exceeds(rate, limit float64) bool { return limit > 0 && rate >= limit }

// calm counts the share of silent sensors at its last word: silence is no evidence.
func calm(o traffic.Observation, l Limits) bool {
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
		if at := vs.calmSince.Add(vs.calmLimit.EndAfter); at.After(last) {
			last = at
		}
	}
	return last, !last.IsZero()
}

func (d *Detector) end(now time.Time, p netip.Prefix, s *state) []Event {
	at, ok := s.endsAt()
	if !ok || now.Before(at) {
		return nil
	}
	s.incident.Ended = now
	inc := s.snapshot()
	var vs []vector.ID
	for _, m := range inc.Vectors {
		vs = append(vs, m.Vector)
		delete(s.vectors, m.Vector)
	}
	s.incident = nil
	d.collect(p, s)
	return []Event{{Kind: End, Incident: inc, Vectors: vs}}
}

func (d *Detector) collect(p netip.Prefix, s *state) {
	if s.incident == nil && len(s.vectors) == 0 {
		delete(d.targets, p)
	}
}

func (s *state) measure(o traffic.Observation, l Limits) {
	i, ok := slices.BinarySearchFunc(s.incident.Vectors, o.Vector, func(m Measurement, v vector.ID) int { return cmp.Compare(m.Vector, v) })
	if !ok {
		s.incident.Vectors = slices.Insert(s.incident.Vectors, i, Measurement{Vector: o.Vector})
	}
	m := &s.incident.Vectors[i]
	m.PPS, m.BPS = o.PPS, o.BPS
	m.PeakPPS, m.PeakBPS = max(m.PeakPPS, o.PPS), max(m.PeakBPS, o.BPS)
	m.LimitPPS, m.LimitBPS = l.PPS, l.BPS
	for _, name := range o.Sensors {
		if j, ok := slices.BinarySearch(s.incident.Sensors, name); !ok {
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

// incidentID depends on what the incident is, not on who asks, so that every replica gives it the same name.
func incidentID(p netip.Prefix, onset time.Time) string {
	sum := sha256.Sum256(fmt.Appendf(nil, "%s %d", p, onset.UnixNano()))
	return "i-" + hex.EncodeToString(sum[:5])
}

func reason(o traffic.Observation, l Limits, covered time.Duration) string {
	what, rate, limit := "packets/s", o.PPS, l.PPS
	if !exceeds(o.PPS, l.PPS) {
		what, rate, limit = "bit/s", o.BPS, l.BPS
	}
	windows := max(int((covered+Window/2)/Window), 1)
	plural := ""
	if windows > 1 {
		plural = "s"
	}
	return fmt.Sprintf("%s at %s: at least %.0f %s, limit %.0f, over %d window%s of %d ms, seen by %d sensor(s)",
		o.Vector, o.Target, rate, what, limit, windows, plural, Window.Milliseconds(), len(o.Sensors))
}
