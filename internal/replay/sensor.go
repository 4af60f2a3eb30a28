package replay

import (
	"cmp"
	"net/netip"
	"slices"
	"time"

	"github.com/amooglesoft/trafficmonitor/internal/detect"
	"github.com/amooglesoft/trafficmonitor/internal/sensor/classify"
	"github.com/amooglesoft/trafficmonitor/internal/sketch"
	"github.com/amooglesoft/trafficmonitor/internal/traffic"
	"github.com/amooglesoft/trafficmonitor/internal/vector"
)

// What a sensor does when a controller has its default configuration.
const (
	reportInterval = time.Second
	hotInterval    = 100 * time.Millisecond
	quickReports   = 3
	quickInterval  = detect.Window * 7 / 8
	calmAfter      = 2 * time.Second // below half of every trigger for so long: hot no more
	sensorName     = "replay"
)

// leastProfiled is the number of packets from which on a target's vector is described in an interval report.
const leastProfiled = 64

// level is a trigger as the kernel has it: counts inside of one window.
type level struct{ packets, bytes uint64 }

func (l level) passed(t tally) bool {
	return l.packets != 0 && t.packets >= l.packets || l.bytes != 0 && t.bytes >= l.bytes
}

type tally struct{ packets, bytes uint64 }

func (t *tally) add(packets, bytes uint64) { t.packets, t.bytes = t.packets+packets, t.bytes+bytes }

// counter counts one vector of one target and direction.
type counter struct {
	direction     vector.Direction
	vector        vector.ID
	window        tally
	number        int64 // of the window
	hot, interval tally // since the last report of the kind
	sources       sketch.HyperLogLog
}

// target is one host of ours.
type target struct {
	address   netip.Addr
	counters  []counter // in order of their first packet
	hot       bool
	hotSince  time.Time // begin of the span of the next hot report
	below     time.Time // since when it has been below half of its triggers
	triggered [vector.Directions]uint64
}

func (t *target) counter(d vector.Direction, v vector.ID) *counter {
	for i := range t.counters {
		if c := &t.counters[i]; c.vector == v && c.direction == d {
			return c
		}
	}
	t.counters = append(t.counters, counter{direction: d, vector: v, number: -1})
	return &t.counters[len(t.counters)-1]
}

func (t *target) prefix() netip.Prefix { return netip.PrefixFrom(t.address, t.address.BitLen()) }

// network is the exact total of a protected prefix or an IPv6 /64 since the last interval report.
type network struct {
	counts map[networkKey]*networkCount
}

type networkKey struct {
	direction vector.Direction
	vector    vector.ID
}

type networkCount struct {
	tally
	hosts uint32 // that were counted one by one
}

func (n *network) at(d vector.Direction, v vector.ID) *networkCount {
	k := networkKey{d, v}
	c := n.counts[k]
	if c == nil {
		c = &networkCount{}
		n.counts[k] = c
	}
	return c
}

// sensor counts as a sensor does and reports when a sensor would. Time is that of the packets.
type sensor struct {
	protected  []netip.Prefix // none: every address
	maxTargets int
	levels     [vector.Directions][vector.Count]level
	emit       func(now time.Time, r traffic.Report)

	targets  map[netip.Addr]*target
	networks map[netip.Prefix]*network
	hot      []*target // in order of address
	start    time.Time // of the first window
	interval time.Time // begin of the present interval
	nextHot  time.Time // when a hot report is due; zero when nobody is hot
	quick    int       // how many of the next hot reports come window by window
	refused  uint64
}

func newSensor(protected []netip.Prefix, maxTargets int, levels [vector.Directions][vector.Count]level, emit func(time.Time, traffic.Report)) *sensor {
	return &sensor{protected: protected, maxTargets: maxTargets, levels: levels, emit: emit, targets: map[netip.Addr]*target{}, networks: map[netip.Prefix]*network{}}
}

// levelOf turns rates per second into counts inside of a window, never less than one.
func levelOf(pps, bps float64) level {
	in := func(rate float64) uint64 {
		if rate <= 0 {
			return 0
		}
		return max(1, uint64(rate*detect.Window.Seconds()))
	}
	return level{in(pps), in(bps / 8)}
}

func (s *sensor) protects(a netip.Addr) bool {
	return len(s.protected) == 0 || slices.ContainsFunc(s.protected, func(p netip.Prefix) bool { return p.Contains(a) })
}

// begin sets the clock before the first packet.
func (s *sensor) begin(at time.Time) { s.start, s.interval = at, at }

// due is when the sensor has to report next.
func (s *sensor) due() time.Time {
	at := s.interval.Add(reportInterval)
	if !s.nextHot.IsZero() && s.nextHot.Before(at) {
		return s.nextHot
	}
	return at
}

// report sends what is due at a time that due returned.
func (s *sensor) report(at time.Time) {
	if !s.nextHot.IsZero() && !at.Before(s.nextHot) {
		s.reportHot(at)
	}
	if !at.Before(s.interval.Add(reportInterval)) {
		s.reportInterval(at)
	}
}

// idle tells whether nothing was counted since the last interval report and nobody is hot.
func (s *sensor) idle() bool { return len(s.targets) == 0 && len(s.hot) == 0 }

// skip moves the clock over a span without packets; only when idle.
func (s *sensor) skip(at time.Time) {
	s.interval = s.interval.Add(at.Sub(s.interval).Truncate(reportInterval))
}

// count takes a packet in; false says that it belongs to nobody we protect, or that there was no room.
func (s *sensor) count(at time.Time, d vector.Direction, r *classify.Result) bool {
	if !s.protects(r.Target) {
		return false
	}
	around, n := s.networksOf(r.Target)
	for _, p := range around[:n] {
		x := s.networks[p]
		if x == nil {
			x = &network{counts: map[networkKey]*networkCount{}}
			s.networks[p] = x
		}
		x.at(d, r.Vector).add(uint64(r.Segments), uint64(r.Length))
	}
	t := s.targets[r.Target]
	if t == nil {
		if len(s.targets) >= s.maxTargets {
			s.refused++
			return false
		}
		t = &target{address: r.Target}
		s.targets[r.Target] = t
	}
	c := t.counter(d, r.Vector)
	number := int64(at.Sub(s.start) / detect.Window)
	packets, bytes := uint64(r.Segments), uint64(r.Length)
	s.add(at, t, d, c, number, packets, bytes)
	peer := r.Source
	if d == vector.Outbound {
		peer = r.Destination
	}
	sixteen := peer.As16()
	c.sources.Add(sketch.Mix(be64(sixteen[:8]), be64(sixteen[8:])))
	s.add(at, t, d, t.counter(d, vector.Total), number, packets, bytes)
	return true
}

func be64(b []byte) (n uint64) {
	for _, x := range b {
		n = n<<8 | uint64(x)
	}
	return n
}

func (s *sensor) add(at time.Time, t *target, d vector.Direction, c *counter, number int64, packets, bytes uint64) {
	if c.number != number {
		c.number, c.window = number, tally{}
	}
	level := s.levels[d][c.vector]
	before := level.passed(c.window)
	c.window.add(packets, bytes)
	c.interval.add(packets, bytes)
	if t.hot {
		c.hot.add(packets, bytes)
	}
	if before || !level.passed(c.window) || t.triggered[d]&(1<<c.vector) != 0 {
		return
	}
	start := s.start.Add(time.Duration(number) * detect.Window)
	s.emit(at, traffic.Report{Sensor: sensorName, Outbound: true, Cause: traffic.Trigger, Start: start, Span: detect.Window, Aggregates: []traffic.Aggregate{
		{Target: t.prefix(), Direction: d, Vector: c.vector, Packets: c.window.packets, Bytes: c.window.bytes},
	}})
	t.triggered[d] |= 1 << c.vector
	t.below = time.Time{}
	s.quick = quickReports
	if next := at.Add(quickInterval); s.nextHot.IsZero() || next.Before(s.nextHot) {
		s.nextHot = next
	}
	if t.hot {
		return
	}
	t.hot, t.hotSince = true, at
	for i := range t.counters {
		t.counters[i].hot = tally{}
	}
	i, _ := slices.BinarySearchFunc(s.hot, t, func(a, b *target) int { return a.address.Compare(b.address) })
	s.hot = slices.Insert(s.hot, i, t)
}

func aggregateOf(t *target, c *counter, n tally) traffic.Aggregate {
	return traffic.Aggregate{Target: t.prefix(), Direction: c.direction, Vector: c.vector, Packets: n.packets, Bytes: n.bytes}
}

func byKey(a, b traffic.Aggregate) int {
	return cmp.Or(traffic.ComparePrefix(a.Target, b.Target), cmp.Compare(a.Direction, b.Direction), cmp.Compare(a.Vector, b.Vector))
}

// reportHot reports every hot target, and lets go of those that are calm.
func (s *sensor) reportHot(at time.Time) {
	still := s.hot[:0]
	for _, t := range slices.Clone(s.hot) {
		r := traffic.Report{Sensor: sensorName, Outbound: true, Cause: traffic.Hot, Start: t.hotSince, Span: at.Sub(t.hotSince)}
		calm := true
		windows := max(float64(r.Span)/float64(detect.Window), 1)
		for i := range t.counters {
			c := &t.counters[i]
			if l := s.levels[c.direction][c.vector]; t.triggered[c.direction]&(1<<c.vector) != 0 &&
				(level{l.packets / 2, l.bytes / 2}).passed(tally{uint64(float64(c.hot.packets) / windows), uint64(float64(c.hot.bytes) / windows)}) {
				calm = false
			}
			r.Aggregates = append(r.Aggregates, aggregateOf(t, c, c.hot))
			c.hot = tally{}
		}
		slices.SortFunc(r.Aggregates, byKey)
		t.hotSince = at
		switch {
		case !calm:
			t.below = time.Time{}
		case t.below.IsZero():
			t.below = at
		}
		if r.Span > 0 {
			s.emit(at, r)
		}
		if calm && at.Sub(t.below) >= calmAfter {
			t.hot, t.triggered = false, [vector.Directions]uint64{}
			continue
		}
		still = append(still, t)
	}
	s.hot = still
	s.nextHot = time.Time{}
	if s.quick--; len(still) > 0 {
		s.nextHot = at.Add(hotInterval)
		if s.quick > 0 {
			s.nextHot = at.Add(quickInterval)
		}
	}
}

// networkOf is the network whose total a sensor would count: the protected prefix or the IPv6 /64 of an address.
func (s *sensor) networksOf(a netip.Addr) (out [2]netip.Prefix, n int) {
	add := func(bits int) {
		p := netip.PrefixFrom(a, bits).Masked()
		if n == 0 || out[0] != p {
			out[n] = p
			n++
		}
	}
	if len(s.protected) == 0 {
		if a.Is4() {
			add(24)
		} else {
			add(64)
		}
		return out, n
	}
	longest := -1
	for _, p := range s.protected {
		if p.Contains(a) {
			longest = max(longest, p.Bits())
		}
	}
	if longest >= 0 && longest < a.BitLen() {
		add(longest)
		if a.Is6() && longest < 64 {
			add(64)
		}
	}
	return out, n
}

// reportInterval reports what every target received, and forgets those without traffic.
func (s *sensor) reportInterval(at time.Time) {
	span := at.Sub(s.interval)
	r := traffic.Report{Sensor: sensorName, Outbound: true, Cause: traffic.Interval, Start: s.interval, Span: span}
	for a, t := range s.targets {
		seen := false
		around, n := s.networksOf(a)
		for i := range t.counters {
			c := &t.counters[i]
			if c.interval.packets == 0 {
				continue
			}
			seen = true
			r.Aggregates = append(r.Aggregates, aggregateOf(t, c, c.interval))
			for _, p := range around[:n] {
				if x := s.networks[p]; x != nil {
					x.at(c.direction, c.vector).hosts++
				}
			}
			if c.interval.packets >= leastProfiled && c.vector != vector.Total {
				h := c.sources
				r.Profiles = append(r.Profiles, traffic.Profile{
					Target: t.prefix(), Direction: c.direction, Vector: c.vector,
					Samples: uint32(min(c.interval.packets, 1<<31)), Packets: c.interval.packets, DistinctSources: &h,
				})
			}
			c.interval, c.sources = tally{}, sketch.HyperLogLog{}
		}
		if !seen && !t.hot {
			delete(s.targets, a)
		}
	}
	for p, x := range s.networks {
		for k, c := range x.counts {
			if c.packets > 0 {
				r.Networks = append(r.Networks, traffic.NetworkTotal{
					Network: p, Direction: k.direction, Vector: k.vector, Packets: c.packets, Bytes: c.bytes, ActiveHosts: c.hosts,
				})
			}
		}
	}
	clear(s.networks)
	slices.SortFunc(r.Aggregates, byKey)
	slices.SortFunc(r.Networks, func(a, b traffic.NetworkTotal) int {
		return cmp.Or(traffic.ComparePrefix(a.Network, b.Network), cmp.Compare(a.Direction, b.Direction), cmp.Compare(a.Vector, b.Vector))
	})
	slices.SortFunc(r.Profiles, func(a, b traffic.Profile) int {
		return cmp.Or(traffic.ComparePrefix(a.Target, b.Target), cmp.Compare(a.Direction, b.Direction), cmp.Compare(a.Vector, b.Vector))
	})
	s.interval = at
	s.emit(at, r)
}
