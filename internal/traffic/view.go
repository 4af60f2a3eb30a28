package traffic

import (
	"cmp"
	"maps"
	"math"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/amooglesoft/trafficmonitor/internal/vector"
)

// Options bound a View.
type Options struct {
	// MaxTargets is the largest number of targets kept. The last eighth is for targets that trigger, so that whoever
	// sends a packet to every address hides no attack. Of networks at most a quarter as many are kept.
	MaxTargets int
	// StaleAfter is the silence after which a sensor's share is held rather than fresh.
	StaleAfter time.Duration
	// ForgetAfter is the silence after which a sensor's share is dropped.
	ForgetAfter time.Duration
}

// View is the network-wide traffic, by target, direction and vector. It is not safe for concurrent use.
//
// Rates are summed as whole numbers, so that a sum does not depend on the order in which sensors report, and costs the
// same whether one sensor has a share in it or ten thousand. Take takes reports in, Collect says what they changed: what
// is decided on what Collect returns does not depend on the order of the reports taken in before.
type View struct {
	o        Options
	targets  map[netip.Prefix]*target
	networks map[netip.Prefix]*target
	sensors  map[string]*sensor
	names    []*sensor // by number; nil where free
	free     []uint32
	refused  uint64

	changed         []change // of targets
	changedNetworks []change
	collected       time.Time // when networks were
	sources         []sourceNews
	touched         []*link // by the report being taken in

	sums, shares, links int
}

type sensor struct {
	name     string
	number   uint32
	last     time.Time // when its newest report came
	from, to time.Time // what its newest report of an interval is about
	stale    bool
	outbound bool // it counts what leaves, too
	report   uint16
	targets  map[netip.Prefix]*link // those it has a share in
	networks map[netip.Prefix]*link
}

// link is what one sensor says of one target.
type link struct {
	t        *target
	profiled int64 // when its last profile came; 0 for never
	shares   uint16
	said     uint16 // shares that report speaks of
	report   uint16
	hot      bool // hot reports come
}

// target holds the shares of all sensors, sorted by column and then by the sensor's name.
type target struct {
	prefix  netip.Prefix
	network bool
	mark    uint32 // Rate.Mark
	sums    []sum  // sorted by column
	shares  []share
}

// column is a direction and a vector.
type column uint8

func columnOf(d vector.Direction, v vector.ID) column { return column(d)*vector.Count + column(v) }

func (c column) direction() vector.Direction { return vector.Direction(c / vector.Count) }
func (c column) vector() vector.ID           { return vector.ID(c % vector.Count) }

// sum is what all sensors say together of one column.
type sum struct {
	pps, bps, heldPPS, heldBPS int64
	first                      uint32 // of its shares
	change                     uint32 // 1 + index of what changed since the last look; 0 when nothing did
	column                     column
}

// share is what one sensor says of one column of a target. Packets are in thousandths a second, bits whole.
type share struct {
	pps, bps int64
	end      int64  // of the span the rates are from, by the sensor's clock, in nanoseconds
	sensor   uint32 // its number
	hosts    uint32 // of a network: active hosts. Of a host: packets since the last exact profile
	credit   uint32 // packets that a trigger counted which the next hot report counts again
	report   uint16 // number of the sensor's report that said it last
	cause    Cause  // of that the rates are from
	held     bool
}

// change is a column of which there is news.
type change struct {
	t              *target
	packets, bytes uint64
	start          time.Time
	span           time.Duration
	column         column
}

type sourceNews struct {
	t       *target
	column  column
	sources Sources
}

// NewView returns an empty view.
func NewView(o Options) *View {
	return &View{o: o, targets: map[netip.Prefix]*target{}, networks: map[netip.Prefix]*target{}, sensors: map[string]*sensor{}}
}

const (
	// shortest is the least span a rate is taken over, and the shortest hot interval there is: packets come in bursts, and
	// over less a burst looks like a flood. A hot report of a shorter span is a lower bound, as a trigger's is.
	shortest = 20 * time.Millisecond
	// clockSlack is how much later than an interval report a hot one may end that was made before it.
	clockSlack = time.Second
	// networkSpan is the time between two looks at networks. Their totals come once a second, from every sensor.
	networkSpan = 250 * time.Millisecond
	// profileSpan is the time between two profiles, where it is not known.
	profileSpan = time.Second
	// most is the largest rate of one sensor that is believed.
	most = 1e12
)

// Apply takes a report in and returns what it changed. Now is when the report came.
func (v *View) Apply(now time.Time, r Report) []Observation {
	v.Take(now, r)
	return v.Collect(now, nil)
}

// Take takes a report in. Now is when it came.
func (v *View) Take(now time.Time, r Report) {
	s := v.sensors[r.Sensor]
	if s == nil {
		s = v.meet(r.Sensor)
	}
	s.last = now
	if r.Cause == Interval {
		s.from, s.to = r.Start, r.Start.Add(r.Span)
	}
	s.outbound = r.Outbound
	if s.stale {
		s.stale = false
		v.mark(s, false)
	}
	s.report++
	v.touched = v.touched[:0]
	cause, room := r.Cause, v.o.MaxTargets
	if cause == Interval {
		room -= room / 8
	}
	if cause == Hot && r.Span < shortest {
		cause = Trigger
	}
	n := counted{cause: cause, start: r.Start, span: r.Span, seconds: max(r.Span, shortest).Seconds(), end: r.Start.Add(r.Span).UnixNano(), short: cause != r.Cause}

	var l *link
	var last netip.Prefix
	for i := range r.Aggregates {
		a := &r.Aggregates[i]
		if l == nil || a.Target != last {
			last = a.Target
			if l = s.targets[last]; l == nil {
				l = v.link(s, last, false, room)
			}
			if l != nil {
				v.touch(s, l)
			}
		}
		if l == nil {
			v.refused++
			continue
		}
		v.put(s, l, columnOf(a.Direction, a.Vector), n, a.Packets, a.Bytes, 0)
	}
	for i := range r.Networks {
		a := &r.Networks[i]
		l := s.networks[a.Network]
		if l == nil {
			if l = v.link(s, a.Network, true, v.o.MaxTargets/4+1); l == nil {
				v.refused++
				continue
			}
		}
		v.touch(s, l)
		v.put(s, l, columnOf(a.Direction, a.Vector), n, a.Packets, a.Bytes, a.ActiveHosts)
	}

	// What the report is silent about had no packets, as far as the report speaks at all.
	switch r.Cause {
	case Interval:
		for p, l := range s.targets {
			v.silent(s, p, l, n)
		}
		for p, l := range s.networks {
			v.silent(s, p, l, n)
		}
	case Hot:
		for _, l := range v.touched {
			if !l.t.network {
				l.hot = true
				v.silent(s, l.t.prefix, l, n)
			}
		}
	case Trigger:
		for _, l := range v.touched {
			if l.shares == 0 {
				v.silent(s, l.t.prefix, l, n)
			}
		}
	}
	v.describe(now, s, r)
}

// counted is what the counts of one report have in common.
type counted struct {
	cause   Cause
	start   time.Time
	span    time.Duration
	seconds float64
	end     int64
	short   bool // a hot report taken for a trigger
}

func (v *View) meet(name string) *sensor {
	s := &sensor{name: name, targets: map[netip.Prefix]*link{}, networks: map[netip.Prefix]*link{}}
	if n := len(v.free); n > 0 {
		s.number = v.free[n-1]
		v.free = v.free[:n-1]
		v.names[s.number] = s
	} else {
		s.number = uint32(len(v.names))
		v.names = append(v.names, s)
	}
	v.sensors[name] = s
	return s
}

// link begins a sensor's shares in a target; nil when there is no room for the target.
func (v *View) link(s *sensor, p netip.Prefix, network bool, room int) *link {
	all, own := v.targets, s.targets
	if network {
		all, own = v.networks, s.networks
	}
	t := all[p]
	if t == nil {
		if len(all) >= room {
			return nil
		}
		t = &target{prefix: p, network: network}
		all[p] = t
	}
	l := &link{t: t, report: s.report - 1}
	own[p] = l
	v.links++
	return l
}

func (v *View) touch(s *sensor, l *link) {
	if l.report != s.report {
		l.report, l.said = s.report, 0
		v.touched = append(v.touched, l)
	}
}

// put replaces the sensor's share. The rate of an unfinished window is a lower bound: it never lowers what the sensor
// said before. While hot reports come, they are finer than the interval reports whose span they lie in, and stand; but a
// hot report from the future is from before the sensor's clock was set.
func (v *View) put(s *sensor, l *link, c column, n counted, packets, bytes uint64, hosts uint32) {
	pps := int64(math.Round(min(float64(packets)/n.seconds, most) * 1000))
	bps := int64(math.Round(min(float64(bytes)*8/n.seconds, 1000*most)))
	t := l.t
	k, ok := t.column(c)
	i, found := 0, false
	if ok {
		i, found = v.find(t, k, s)
	}
	if !found {
		v.note(t, c, k, ok, n, packets, bytes)
		if packets == 0 && bytes == 0 {
			return
		}
		if !ok {
			first := uint32(len(t.shares))
			if k < len(t.sums) {
				first = t.sums[k].first
			}
			t.sums = slices.Insert(t.sums, k, sum{column: c, first: first})
			i = int(first)
			v.sums++
			v.relate(t, c, k)
		}
		x := share{pps: pps, bps: bps, end: n.end, sensor: s.number, hosts: hosts, report: s.report, cause: n.cause}
		switch {
		case t.network:
		case n.cause == Hot || n.short:
			x.hosts = clamp(packets)
		case n.cause == Trigger && l.hot:
			x.credit = clamp(packets)
		}
		t.shares = slices.Insert(t.shares, i, x)
		for j := k + 1; j < len(t.sums); j++ {
			t.sums[j].first++
		}
		t.sums[k].pps += pps
		t.sums[k].bps += bps
		l.shares++
		l.said++
		v.shares++
		return
	}
	x, total := &t.shares[i], &t.sums[k]
	if x.report != s.report {
		x.report = s.report
		l.said++
	}
	fresh := packets
	switch {
	case n.cause == Trigger:
		switch {
		case t.network:
		case n.short:
			x.hosts = add(x.hosts, packets)
		case l.hot:
			x.credit = add(x.credit, packets)
		}
		total.pps += max(pps-x.pps, 0)
		total.bps += max(bps-x.bps, 0)
		x.pps, x.bps = max(x.pps, pps), max(x.bps, bps)
		x.end = max(x.end, n.end)
		if x.cause == Interval {
			x.cause = Trigger
		}
		v.note(t, c, k, true, n, packets, bytes)
		return
	case n.cause == Interval && x.cause != Interval && x.end > n.start.UnixNano() && x.end <= n.end+int64(clockSlack):
		v.note(t, c, k, true, n, 0, 0)
		return
	case n.cause == Hot:
		fresh -= min(fresh, uint64(x.credit))
		x.credit = 0
		if !t.network {
			x.hosts = add(x.hosts, packets)
		}
	default:
		x.credit, x.hosts = 0, hosts
		l.hot = false
	}
	total.pps += pps - x.pps
	total.bps += bps - x.bps
	x.pps, x.bps, x.end, x.cause = pps, bps, n.end, n.cause
	if fresh != packets {
		bytes = uint64(float64(bytes) / float64(packets) * float64(fresh))
	}
	v.note(t, c, k, true, n, fresh, bytes)
}

// add adds, at most to the largest number there is.
func add(a uint32, b uint64) uint32 { return clamp(uint64(a) + min(b, math.MaxUint32)) }

func clamp(n uint64) uint32 { return uint32(min(n, math.MaxUint32)) }

// note remembers that there is news of a column; k is where its sum is, if ok.
func (v *View) note(t *target, c column, k int, ok bool, n counted, packets, bytes uint64) {
	list := &v.changed
	if t.network {
		list = &v.changedNetworks
	}
	if ok {
		if at := t.sums[k].change; at != 0 {
			x := &(*list)[at-1]
			x.packets += packets
			x.bytes += bytes
			x.span = max(x.span, n.span)
			if n.start.Before(x.start) {
				x.start = n.start
			}
			return
		}
	}
	*list = append(*list, change{t: t, column: c, packets: packets, bytes: bytes, start: n.start, span: n.span})
	if ok {
		t.sums[k].change = uint32(len(*list))
	}
}

// relate lets the sum of a column that is new know of the change noted last.
func (v *View) relate(t *target, c column, k int) {
	list := v.changed
	if t.network {
		list = v.changedNetworks
	}
	if n := len(list); n > 0 && list[n-1].t == t && list[n-1].column == c {
		t.sums[k].change = uint32(n)
	}
}

// silent drops the shares of a target that a report does not speak of.
func (v *View) silent(s *sensor, p netip.Prefix, l *link, n counted) {
	if l.report != s.report {
		l.report, l.said = s.report, 0
	}
	if l.said < l.shares {
		v.drop(s, l, n, func(x *share) bool { return x.report != s.report })
	}
	if l.shares == 0 {
		if l.t.network {
			delete(s.networks, p)
		} else {
			delete(s.targets, p)
		}
		v.links--
	}
}

// drop takes shares of a sensor out of a target.
func (v *View) drop(s *sensor, l *link, n counted, pick func(*share) bool) {
	t := l.t
	for k := 0; k < len(t.sums); k++ {
		i, ok := v.find(t, k, s)
		if !ok || !pick(&t.shares[i]) {
			continue
		}
		x, total := t.shares[i], &t.sums[k]
		v.note(t, total.column, k, true, n, 0, 0)
		if x.held {
			total.heldPPS -= x.pps
			total.heldBPS -= x.bps
		} else {
			total.pps -= x.pps
			total.bps -= x.bps
		}
		t.shares = slices.Delete(t.shares, i, i+1)
		for j := k + 1; j < len(t.sums); j++ {
			t.sums[j].first--
		}
		if t.end(k) == int(total.first) {
			t.sums = slices.Delete(t.sums, k, k+1)
			v.sums--
			k--
		}
		l.shares--
		v.shares--
	}
}

// describe takes the sources of a report's profiles in.
func (v *View) describe(now time.Time, s *sensor, r Report) {
	for i := range r.Profiles {
		p := &r.Profiles[i]
		l := s.targets[p.Target]
		if p.DistinctSources == nil || l == nil {
			continue
		}
		c := columnOf(p.Direction, p.Vector)
		x := Sources{
			Target: p.Target, Direction: p.Direction, Vector: p.Vector, Packets: uint64(p.Samples), Distinct: *p.DistinctSources,
			Exact: p.DistinctExact, Start: r.Start, Span: max(r.Span, profileSpan), Sensors: []string{s.name},
		}
		if since := now.UnixNano() - l.profiled; l.profiled != 0 && since > 0 && since < int64(5*profileSpan) {
			x.Span = max(time.Duration(since), r.Span)
		}
		if p.DistinctExact {
			x.Packets = uint64(v.sketched(l.t, c, s))
			x.Others = uint64(v.sketched(l.t, columnOf(p.Direction, vector.Total), s))
			x.Others -= min(x.Others, x.Packets)
		}
		v.sources = append(v.sources, sourceNews{l.t, c, x})
	}
	for i := range r.Profiles {
		p := &r.Profiles[i]
		l := s.targets[p.Target]
		if p.DistinctSources == nil || l == nil {
			continue
		}
		l.profiled = now.UnixNano()
		if p.DistinctExact { // the sketch is of all vectors, and begins anew
			for k := range l.t.sums {
				if at, ok := v.find(l.t, k, s); ok && l.t.sums[k].column.direction() == p.Direction {
					l.t.shares[at].hosts = 0
				}
			}
		}
	}
}

// sketched returns how many packets of a column a sensor counted since the last exact profile.
func (v *View) sketched(t *target, c column, s *sensor) uint32 {
	if k, ok := t.column(c); ok {
		if i, ok := v.find(t, k, s); ok {
			return t.shares[i].hosts
		}
	}
	return 0
}

// Collect returns an observation for each column of which there is news since the last call, or of which there was news
// of a network a quarter of a second ago: first of targets, in order of target, direction and vector, then of networks,
// the longest first. Want, if it is not nil, says of which; those not wanted cost little.
func (v *View) Collect(now time.Time, want func(Rate) bool) []Observation {
	out := v.collect(nil, v.changed, want, v.targets)
	v.changed = v.changed[:0]
	if since := now.Sub(v.collected); len(v.changedNetworks) > 0 && (since >= networkSpan || since < 0) {
		v.collected = now
		out = v.collect(out, v.changedNetworks, want, v.networks)
		v.changedNetworks = v.changedNetworks[:0]
	}
	return out
}

func (v *View) collect(out []Observation, list []change, want func(Rate) bool, all map[netip.Prefix]*target) []Observation {
	wanted := make([]change, 0, 16)
	for i := range list {
		c := &list[i]
		r := Rate{Target: c.t.prefix, Network: c.t.network, Direction: c.column.direction(), Vector: c.column.vector(), Mark: &c.t.mark}
		if k, ok := c.t.column(c.column); ok {
			x := &c.t.sums[k]
			r.PPS, r.BPS, r.Held = float64(x.pps)/1000, float64(x.bps), x.heldPPS != 0
			x.change = 0
		} else if len(c.t.shares) == 0 && all[c.t.prefix] == c.t {
			delete(all, c.t.prefix)
		}
		if want == nil || want(r) {
			wanted = append(wanted, *c)
		}
	}
	if len(wanted) == 0 {
		return out
	}
	slices.SortStableFunc(wanted, func(a, b change) int {
		if a.t.network {
			if d := cmp.Compare(b.t.prefix.Bits(), a.t.prefix.Bits()); d != 0 {
				return d
			}
		}
		return cmp.Or(ComparePrefix(a.t.prefix, b.t.prefix), cmp.Compare(a.column, b.column))
	})
	for i := 0; i < len(wanted); i++ {
		c := wanted[i]
		for i+1 < len(wanted) && wanted[i+1].t.prefix == c.t.prefix && wanted[i+1].column == c.column {
			i++
			n := wanted[i]
			c.packets, c.bytes, c.span = c.packets+n.packets, c.bytes+n.bytes, max(c.span, n.span)
			if n.start.Before(c.start) {
				c.start = n.start
			}
		}
		o := v.observe(c.t, c.column)
		o.Packets, o.Bytes, o.Start, o.Span = c.packets, c.bytes, c.start, c.span
		out = append(out, o)
	}
	return out
}

// CollectSources returns what the profiles said that came since the last call, in order of target, direction and vector.
func (v *View) CollectSources() []Sources {
	if len(v.sources) == 0 {
		return nil
	}
	slices.SortStableFunc(v.sources, func(a, b sourceNews) int {
		return cmp.Or(ComparePrefix(a.t.prefix, b.t.prefix), cmp.Compare(a.column, b.column), cmp.Compare(a.sources.Sensors[0], b.sources.Sensors[0]), a.sources.Start.Compare(b.sources.Start))
	})
	var out []Sources
	var last *target
	var of column
	for _, n := range v.sources {
		if last != nil && last.prefix == n.t.prefix && of == n.column {
			x := &out[len(out)-1]
			x.Packets += n.sources.Packets
			x.Others += n.sources.Others
			x.Distinct.Merge(&n.sources.Distinct)
			x.Exact = x.Exact && n.sources.Exact
			x.Span = max(x.Span, n.sources.Span)
			if n.sources.Start.Before(x.Start) {
				x.Start = n.sources.Start
			}
			if name := n.sources.Sensors[0]; x.Sensors[len(x.Sensors)-1] != name {
				x.Sensors = append(x.Sensors, name)
			}
			continue
		}
		last, of = n.t, n.column
		x := n.sources
		if k, ok := n.t.column(n.column); ok {
			x.PPS = float64(n.t.sums[k].pps) / 1000
			x.TwoWay, x.AnswersPPS = v.answers(n.t, k)
			if n.column.direction() == vector.Inbound {
				x.CompletingPPS = n.t.rate(vector.Inbound, vector.OppositeOf(n.column.vector()).Completing)
			}
		}
		out = append(out, x)
	}
	clear(v.sources)
	v.sources = v.sources[:0]
	return out
}

// Tick is Expire and then Collect of everything.
func (v *View) Tick(now time.Time) []Observation {
	v.Expire(now)
	return v.Collect(now, nil)
}

// Expire holds the shares of sensors that went silent and drops those silent for too long: Collect tells of what lost a
// share for good.
func (v *View) Expire(now time.Time) {
	for _, name := range slices.Sorted(maps.Keys(v.sensors)) {
		s := v.sensors[name]
		switch silence := now.Sub(s.last); {
		case silence >= v.o.ForgetAfter:
			n := counted{start: now}
			for _, links := range []map[netip.Prefix]*link{s.targets, s.networks} {
				for _, l := range links {
					v.drop(s, l, n, func(*share) bool { return true })
					v.links--
				}
			}
			delete(v.sensors, name)
			v.names[s.number] = nil
			v.free = append(v.free, s.number)
		case silence >= v.o.StaleAfter && !s.stale:
			s.stale = true
			v.mark(s, true)
		}
	}
}

// Whole returns a span of which all sensors named have told all they saw, the newest there is: what none of them reports was
// not there. Ok is false when one is silent, or has not reported an interval yet.
func (v *View) Whole(names []string) (from, to time.Time, ok bool) {
	for i, name := range names {
		s := v.sensors[name]
		if s == nil || s.stale || s.to.IsZero() {
			return time.Time{}, time.Time{}, false
		}
		if i == 0 || s.from.Before(from) {
			from = s.from
		}
		if i == 0 || s.to.Before(to) {
			to = s.to
		}
	}
	return from, to, len(names) > 0
}

// Observe sums what all sensors say of one vector at one target.
func (v *View) Observe(p netip.Prefix, d vector.Direction, id vector.ID) Observation {
	if t := v.targets[p]; t != nil {
		return v.observe(t, columnOf(d, id))
	}
	return Observation{Target: p, Direction: d, Vector: id}
}

// Share is what one sensor says of one vector at one target.
type Share struct {
	Sensor string
	PPS    float64
}

// Shares tells the sensors that see packets of a vector at a target apart, sorted by name. Silent ones are left out.
func (v *View) Shares(p netip.Prefix, d vector.Direction, id vector.ID) (out []Share) {
	t := v.targets[p]
	if t == nil {
		return nil
	}
	k, ok := t.column(columnOf(d, id))
	if !ok {
		return nil
	}
	for i := int(t.sums[k].first); i < t.end(k); i++ {
		if sh := &t.shares[i]; !sh.held {
			out = append(out, Share{v.names[sh.sensor].name, float64(sh.pps) / 1000})
		}
	}
	return out
}

// ObserveNetwork is Observe of the total of a network.
func (v *View) ObserveNetwork(p netip.Prefix, d vector.Direction, id vector.ID) Observation {
	if t := v.networks[p]; t != nil {
		return v.observe(t, columnOf(d, id))
	}
	return Observation{Target: p, Network: true, Direction: d, Vector: id}
}

func (v *View) observe(t *target, c column) Observation {
	o := Observation{Target: t.prefix, Network: t.network, Direction: c.direction(), Vector: c.vector()}
	k, ok := t.column(c)
	if !ok {
		return o
	}
	x := &t.sums[k]
	o.PPS, o.BPS = float64(x.pps)/1000, float64(x.bps)
	o.HeldPPS, o.HeldBPS = float64(x.heldPPS)/1000, float64(x.heldBPS)
	o.TwoWay, o.AnswersPPS = v.answers(t, k)
	if !t.network && c.direction() == vector.Inbound {
		all := vector.SetOf(vector.Total)
		o.AllPPS = max(t.rate(vector.Inbound, all), t.rate(vector.Inbound, ^all))
	}
	for i := int(x.first); i < t.end(k); i++ {
		sh := &t.shares[i]
		name := v.names[sh.sensor].name
		if t.network {
			o.ActiveHosts += int(sh.hosts)
		}
		if sh.held {
			if o.MissingCount++; o.MissingCount <= MaxNames {
				o.Missing = append(o.Missing, name)
			}
		} else {
			if o.SensorCount++; o.SensorCount <= MaxNames {
				o.Sensors = append(o.Sensors, name)
			}
		}
	}
	return o
}

// answers tells whether the other direction of an inbound column is watched, and the rate of what belongs to it there. It
// is watched where the target is seen to send anything, or where the sensors that see at least half of the column say that
// they would see it. A silent sensor counts with its last word.
func (v *View) answers(t *target, k int) (twoWay bool, pps float64) {
	x := &t.sums[k]
	if x.column.direction() != vector.Inbound {
		return false, 0
	}
	o := vector.OppositeOf(x.column.vector())
	if o.Outbound == 0 {
		return false, 0
	}
	var both int64
	for i := int(x.first); i < t.end(k); i++ {
		if sh := &t.shares[i]; !sh.held && v.names[sh.sensor].outbound {
			both += sh.pps
		}
	}
	twoWay = both > 0 && 2*both >= x.pps || t.sums[len(t.sums)-1].column.direction() == vector.Outbound
	return twoWay, t.rate(vector.Outbound, o.Outbound)
}

// rate sums the vectors of a set in one direction.
func (t *target) rate(d vector.Direction, set vector.Set) float64 {
	var n int64
	for i := range t.sums {
		if x := &t.sums[i]; x.column.direction() == d && set.Has(x.column.vector()) {
			n += x.pps + x.heldPPS
		}
	}
	return float64(n) / 1000
}

// Each calls fn for every column of every target, in order of target, direction and vector.
func (v *View) Each(fn func(Rate)) {
	for _, p := range slices.SortedFunc(maps.Keys(v.targets), ComparePrefix) {
		for _, x := range v.targets[p].sums {
			fn(Rate{
				Target: p, Direction: x.column.direction(), Vector: x.column.vector(),
				PPS: float64(x.pps) / 1000, BPS: float64(x.bps), Held: x.heldPPS != 0,
			})
		}
	}
}

// Targets returns how many targets are in view, and how often one was refused because there were too many.
func (v *View) Targets() (inView int, refused uint64) { return len(v.targets), v.refused }

// Bytes estimates the memory that targets, networks and what sensors say of them take.
func (v *View) Bytes() int {
	return (len(v.targets)+len(v.networks))*(bytesSlot+bytesTarget) + v.links*(bytesSlot+bytesLink) +
		(v.sums*bytesSum+v.shares*bytesShare)*5/4 // slices grow in steps
}

// What Go allocates; a test compares. A slot of a map holds a prefix and a pointer, and a third of them is empty.
const bytesTarget, bytesLink, bytesSum, bytesShare, bytesSlot = 88, 24, 48, 40, 40 * 3 / 2

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

// mark moves a sensor's shares to what is held, or back.
func (v *View) mark(s *sensor, held bool) {
	for _, links := range []map[netip.Prefix]*link{s.targets, s.networks} {
		for _, l := range links {
			for k := range l.t.sums {
				i, ok := v.find(l.t, k, s)
				if !ok || l.t.shares[i].held == held {
					continue
				}
				x, total, sign := &l.t.shares[i], &l.t.sums[k], int64(1)
				if !held {
					sign = -1
					x.cause = Interval // what it says from now on counts
				}
				x.held = held
				total.pps -= sign * x.pps
				total.bps -= sign * x.bps
				total.heldPPS += sign * x.pps
				total.heldBPS += sign * x.bps
			}
		}
	}
}

// column finds the sum of a column.
func (t *target) column(c column) (int, bool) {
	for i := range t.sums { // there are few
		if t.sums[i].column >= c {
			return i, t.sums[i].column == c
		}
	}
	return len(t.sums), false
}

// end is the index behind the shares of sums[k].
func (t *target) end(k int) int {
	if k+1 < len(t.sums) {
		return int(t.sums[k+1].first)
	}
	return len(t.shares)
}

// find finds a sensor's share in sums[k], or where it belongs.
func (v *View) find(t *target, k int, s *sensor) (int, bool) {
	lo, hi := int(t.sums[k].first), t.end(k)
	for lo < hi {
		mid := int(uint(lo+hi) >> 1)
		n := t.shares[mid].sensor
		if n == s.number {
			return mid, true
		}
		if strings.Compare(v.names[n].name, s.name) < 0 {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	return lo, false
}

// ComparePrefix orders prefixes by address, then length.
func ComparePrefix(a, b netip.Prefix) int {
	return cmp.Or(a.Addr().Compare(b.Addr()), cmp.Compare(a.Bits(), b.Bits()))
}
