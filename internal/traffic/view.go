package traffic

import (
	"cmp"
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

func (c column) vector() vector.ID { return vector.ID(c % vector.Count) }

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

// Tick is Expire and then Collect of everything.
func (v *View) Tick(now time.Time) []Observation {
	v.Expire(now)
	return v.Collect(now, nil)
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
