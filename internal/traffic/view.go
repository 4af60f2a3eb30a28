package traffic

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/amooglesoft/trafficmonitor/internal/vector"
)

// Options bound a View.
type Options struct {
	// MaxTargets is the largest number of targets kept. The last eighth is for targets that trigger, so that whoever
	// sends a packet to every address hides no attack.
	MaxTargets int
	// StaleAfter is the silence after which a sensor's share is held rather than fresh.
	StaleAfter time.Duration
	// ForgetAfter is the silence after which a sensor's share is dropped.
	ForgetAfter time.Duration
}

// View is the network-wide traffic, by target and vector. It is not safe for concurrent use.
type View struct {
	o       Options
	targets map[netip.Prefix]*target
	sensors map[string]*sensor
	refused uint64
}

type sensor struct {
	last    time.Time // when its newest report came
	stale   bool
	targets map[netip.Prefix]struct{} // targets it has a share in
}

// target holds the shares of each vector, sorted by sensor so that sums do not depend on arrival.
type target struct {
	vectors [vector.Count][]share
	shares  int
}

type share struct {
	sensor   string
	pps, bps float64
	cause    Cause     // of the report the rates are from
	end      time.Time // of its span
	held     bool
}

// NewView returns an empty view.
func NewView(o Options) *View {
	return &View{o: o, targets: map[netip.Prefix]*target{}, sensors: map[string]*sensor{}}
}

// shortest is the least span a rate is taken over, and the shortest hot interval there is: packets come in bursts, and
// over less a burst looks like a flood. A hot report of a shorter span is a lower bound, as a trigger's is.
const shortest = 20 * time.Millisecond

// clockSlack is how much later than an interval report a hot one may end that was made before it.
const clockSlack = time.Second

// Apply takes a report in and returns an observation for each target and vector that it changed, in order of target
// and vector. Now is when the report came.
func (v *View) Apply(now time.Time, r Report) []Observation {
	s := v.sensors[r.Sensor]
	if s == nil {
		s = &sensor{targets: map[netip.Prefix]struct{}{}}
		v.sensors[r.Sensor] = s
	}
	s.last = now
	if s.stale {
		s.stale = false
		v.mark(r.Sensor, s, false)
	}

	type key struct {
		t netip.Prefix
		v vector.ID
	}
	said := make(map[key]bool, len(r.Aggregates))
	saidTarget := make(map[netip.Prefix]bool, 1)
	var changed []key
	seconds := max(r.Span, shortest).Seconds()
	room := v.o.MaxTargets
	if r.Cause == Interval {
		room -= room / 8
	}
	if r.Cause == Hot && r.Span < shortest {
		r.Cause = Trigger
	}
	for _, a := range r.Aggregates {
		if a.Direction != vector.Inbound {
			continue // the view is of what targets receive
		}
		k := key{a.Target, a.Vector}
		said[k], saidTarget[a.Target] = true, true
		t := v.targets[a.Target]
		if t == nil {
			if len(v.targets) >= room {
				v.refused++
				continue
			}
			t = &target{}
			v.targets[a.Target] = t
		}
		n := share{
			sensor: r.Sensor, cause: r.Cause, end: r.Start.Add(r.Span),
			pps: float64(a.Packets) / seconds, bps: float64(a.Bytes) * 8 / seconds,
		}
		if t.put(a.Vector, n, r.Start) {
			s.targets[a.Target] = struct{}{}
		}
		changed = append(changed, k)
	}

	// What the report is silent about had no packets, as far as the report speaks at all.
	silent := func(p netip.Prefix) {
		t := v.targets[p]
		if t == nil {
			return
		}
		for id := range t.vectors {
			k := key{p, vector.ID(id)}
			if !said[k] && t.drop(k.v, r.Sensor) {
				changed = append(changed, k)
			}
		}
		if !t.has(r.Sensor) {
			delete(s.targets, p)
		}
	}
	switch r.Cause {
	case Interval:
		for p := range s.targets {
			silent(p)
		}
	case Hot:
		for p := range saidTarget {
			silent(p)
		}
	}

	slices.SortFunc(changed, func(a, b key) int { return cmp.Or(ComparePrefix(a.t, b.t), cmp.Compare(a.v, b.v)) })
	out := make([]Observation, 0, len(changed))
	for _, k := range slices.Compact(changed) {
		o := v.Observe(k.t, k.v)
		o.Start, o.Span = r.Start, r.Span
		out = append(out, o)
		v.collect(k.t)
	}
	return out
}

// Tick holds the shares of sensors that went silent and drops those silent for too long. It returns an observation for
// each target and vector that lost a share for good.
func (v *View) Tick(now time.Time) []Observation {
	var out []Observation
	for _, name := range slices.Sorted(maps.Keys(v.sensors)) {
		s := v.sensors[name]
		switch silence := now.Sub(s.last); {
		case silence >= v.o.ForgetAfter:
			for _, p := range slices.SortedFunc(maps.Keys(s.targets), ComparePrefix) {
				t := v.targets[p]
				for id := range t.vectors {
					if t.drop(vector.ID(id), name) {
						o := v.Observe(p, vector.ID(id))
						o.Start = now
						out = append(out, o)
					}
				}
				v.collect(p)
			}
			delete(v.sensors, name)
		case silence >= v.o.StaleAfter && !s.stale:
			s.stale = true
			v.mark(name, s, true)
		}
	}
	return out
}

// Observe sums what all sensors say of one vector at one target.
func (v *View) Observe(p netip.Prefix, id vector.ID) Observation {
	o := Observation{Target: p, Vector: id}
	t := v.targets[p]
	if t == nil {
		return o
	}
	for _, sh := range t.vectors[id] {
		if sh.held {
			o.HeldPPS += sh.pps
			o.HeldBPS += sh.bps
			o.Missing = append(o.Missing, sh.sensor)
			continue
		}
		o.PPS += sh.pps
		o.BPS += sh.bps
		o.Sensors = append(o.Sensors, sh.sensor)
	}
	return o
}

// Targets returns how many targets are in view, and how often one was refused because there were too many.
func (v *View) Targets() (inView int, refused uint64) { return len(v.targets), v.refused }

// Stale returns the sensors whose share is held, sorted.
func (v *View) Stale() []string {
	var out []string
	for name, s := range v.sensors {
		if s.stale {
			out = append(out, name)
		}
	}
	slices.Sort(out)
	return out
}

func (v *View) mark(name string, s *sensor, held bool) {
	for p := range s.targets {
		t := v.targets[p]
		for id := range t.vectors {
			if i, ok := t.find(vector.ID(id), name); ok {
				t.vectors[id][i].held = held
			}
		}
	}
}

// collect forgets a target without shares.
func (v *View) collect(p netip.Prefix) {
	if t := v.targets[p]; t != nil && t.shares == 0 {
		delete(v.targets, p)
	}
}

func (t *target) find(id vector.ID, name string) (int, bool) {
	return slices.BinarySearchFunc(t.vectors[id], name, func(s share, n string) int { return cmp.Compare(s.sensor, n) })
}

// put replaces the sensor's share and reports whether it is there afterwards. The rate of an unfinished window is a
// lower bound: it never lowers what the sensor said before. While hot reports come, they are finer than the interval
// reports whose span they lie in, and stand; but a hot report from the future is from before the sensor's clock was set.
func (t *target) put(id vector.ID, n share, start time.Time) bool {
	i, ok := t.find(id, n.sensor)
	if !ok {
		if n.pps == 0 && n.bps == 0 {
			return false
		}
		t.vectors[id] = slices.Insert(t.vectors[id], i, n)
		t.shares++
		return true
	}
	old := &t.vectors[id][i]
	switch {
	case old.held:
		*old = n
	case n.cause == Trigger:
		old.pps, old.bps = max(old.pps, n.pps), max(old.bps, n.bps)
	case n.cause == Interval && old.cause == Hot && old.end.After(start) && !old.end.After(n.end.Add(clockSlack)):
	default:
		*old = n
	}
	return true
}

func (t *target) drop(id vector.ID, name string) bool {
	i, ok := t.find(id, name)
	if ok {
		t.vectors[id] = slices.Delete(t.vectors[id], i, i+1)
		t.shares--
	}
	return ok
}

func (t *target) has(name string) bool {
	for id := range t.vectors {
		if _, ok := t.find(vector.ID(id), name); ok {
			return true
		}
	}
	return false
}

// ComparePrefix orders prefixes by address, then length.
func ComparePrefix(a, b netip.Prefix) int {
	return cmp.Or(a.Addr().Compare(b.Addr()), cmp.Compare(a.Bits(), b.Bits()))
}
