// Package baseline learns what traffic is normal for a target, by direction, vector and time of week. It is pure: the same
// observations give the same baseline and the same snapshot, octet for octet.
//
// What is learnt are the largest rates within grains of ten seconds in which there was traffic, packets and bits per second
// apart, so that neither the number of sensors nor that of their reports matters. They go into histograms with buckets a
// seventh of an octave wide: a rate read from one is within 5 % of the truth (DDSketch: Masson, Rim and Lee, "DDSketch: a
// fast and fully-mergeable quantile sketch with relative-error guarantees", VLDB 2019, section 2). A histogram holds the
// upper three octaves of what it was given and, like DDSketch, puts what is lower into its lowest bucket: the bound holds for
// quantiles of at least an eighth of the largest rate. Packets are told apart from 1/16 to 2^32 per second, bits from 2^6 to
// 2^42.
//
// The week is folded into 24 classes: weekdays and weekends, in steps of two hours. What was learnt loses half of its weight
// with every half-life that passes, whether anything is observed or not. A level that ended has less than one percent of the
// weight, and so is gone from the 99 % quantile, after 6.6 half-lives at the latest; a new one is in it when it was there for
// one percent of the time.
//
// An attack must not become normal. What is observed while one is on is not learnt, what was observed shortly before waits and
// is forgotten when one begins ([Learner.Discard]), and what is learnt of a class at most doubles within a day.
package baseline

import (
	"cmp"
	"fmt"
	"math"
	"net/netip"
	"time"

	"github.com/amooglesoft/trafficmonitor/internal/vector"
)

// Key is what a baseline is of.
type Key struct {
	Target    netip.Prefix // a host or a network
	Direction vector.Direction
	Vector    vector.ID
}

// Options of a Learner; what is zero becomes the default.
type Options struct {
	// MaxKeys bounds memory: a key that was seen in all classes takes 2.7 kB, one that is seen at some hours of weekdays
	// 0.4 kB and more. 50,000 by default.
	MaxKeys int
	// HalfLife is the time in which what was learnt loses half of its weight, 1 to 365 days; 14 days by default.
	HalfLife time.Duration
	// Delay is how long an observation waits before it is learnt, up to an hour; 10 minutes by default.
	Delay time.Duration
	// Quantile is the share of grains that Normal covers, 0.5 to 0.9999; 0.99 by default.
	Quantile float64
	// Ready is the span that must have been observed before Normal answers; 24 hours by default, none if negative. Until
	// then what is learnt rises freely.
	Ready time.Duration
	// FreePPS and FreeBPS are rates that no attack is worth the name below: what is learnt may rise as far within a day,
	// whatever it was, so that a host that was idle can begin to serve. 1000 packets and 10 Mbit/s by default.
	FreePPS, FreeBPS float64
	// Zone is where days and hours are told; UTC by default.
	Zone *time.Location
}

func (o Options) withDefaults() Options {
	o.MaxKeys = min(cmp.Or(max(o.MaxKeys, 0), 50_000), math.MaxInt32)
	o.HalfLife = min(max(cmp.Or(o.HalfLife, 14*day), day), 365*day)
	o.Delay = min(max(cmp.Or(o.Delay, 10*time.Minute), 0), time.Hour)
	if o.Quantile = cmp.Or(o.Quantile, 0.99); !(o.Quantile >= 0.5) { // NaN, too
		o.Quantile = 0.5
	}
	o.Quantile = min(o.Quantile, 0.9999)
	o.Ready = max(cmp.Or(o.Ready, day), 0)
	o.FreePPS, o.FreeBPS = cmp.Or(o.FreePPS, 1000), cmp.Or(o.FreeBPS, 10e6)
	o.Zone = cmp.Or(o.Zone, time.UTC)
	return o
}

const (
	day = 24 * time.Hour
	// grain is the time whose largest rate is learnt as one.
	grain        = 10 * time.Second
	grainSeconds = int64(grain / time.Second)
	// mature is how many grains make a histogram worth asking: ten minutes of traffic.
	mature = 60
	// slack is how far traffic may be from the hours it usually has.
	slack = 15 * time.Minute
	// probes is how many keys are compared when one must go.
	probes = 8
)

// Learner holds the baselines. It is not safe for concurrent use.
type Learner struct {
	o       Options
	index   map[packed]int32
	keys    pages[entry]
	lines   [][]uint8 // delay lines, beside the pages of keys
	hours   pages[class]
	free    []int32 // of hours
	hand    int32   // where to look for a key that can go
	evicted uint64

	line  int      // grains in a delay line
	tail  uint64   // share of the weight above the quantile, in 1/2^20
	decay []uint32 // weight left after so many days, in 1/2^16
	floor [measures]uint8
	slot  slot // the newest hour that was looked up
}

// entry is what is kept of a key. Times are in grains since 1970.
type entry struct {
	key         packed
	head        uint32          // newest grain of the delay line
	first, last uint32          // grains learnt from; 0 is none
	day         uint16          // when ref was taken
	ref         [measures]uint8 // largest quantile of all classes, at the beginning of day
	heavy       uint8           // largest rate observed, of packets, about since the beginning of day
	hours       [classes]int32  // places in Learner.hours, plus one
}

// Sizes in octets; a test compares them.
const (
	entrySize = 144
	classSize = 90
)

// Codes in a delay line.
const (
	none  = 0
	void  = 255 // there was an attack
	least = 1   // too small to be told apart
	most  = 253 // and all that is larger
)

// New returns a learner that knows nothing.
func New(o Options) *Learner {
	o = o.withDefaults()
	l := &Learner{o: o, index: map[packed]int32{}, line: int((o.Delay+grain-1)/grain) + 1}
	l.tail = uint64(math.Round((1 - o.Quantile) * (1 << 20)))
	l.floor = [measures]uint8{encode(pps, o.FreePPS), encode(bps, o.FreeBPS)}
	for d := 0; ; d++ {
		left := uint32(math.Round(math.Exp2(-float64(d)*day.Hours()/o.HalfLife.Hours()) * (1 << 16)))
		if left == 0 {
			break
		}
		l.decay = append(l.decay, left)
	}
	return l
}

// Observe takes in the rates of a key, in packets and bits per second. It may be called for every report: within ten
// seconds the largest rate counts. Attack says that an incident is on that the traffic may belong to, so of any vector of the
// target; then nothing of those ten seconds is learnt. What is not observed is not taken for zero.
func (l *Learner) Observe(now time.Time, k Key, packets, bits float64, attack bool) {
	key, ok := pack(k)
	if !ok {
		return
	}
	g := grainOf(now)
	codes := [measures]uint8{encode(pps, packets), encode(bps, bits)}
	i, ok := l.index[key]
	if !ok {
		if attack {
			return // there is nothing to keep clean
		}
		if i, ok = l.admit(key, g, codes[pps], worth(g, codes[pps])); !ok {
			return
		}
	}
	e, line := l.keys.at(i), l.lineOf(i)
	l.advance(e, line, g)
	at := int(g) % l.line * measures
	switch s := line[at : at+measures]; {
	case attack:
		s[pps], s[bps] = void, void
	case s[pps] != void:
		s[pps], s[bps] = max(s[pps], codes[pps]), max(s[bps], codes[bps])
		e.heavy = max(e.heavy, codes[pps])
	}
}

// Discard forgets what waits to be learnt of a target and of what lies inside it, from the delay before since on: an incident
// began there, and what led up to it may have been part of it.
func (l *Learner) Discard(now time.Time, target netip.Prefix, since time.Time) {
	target = target.Masked()
	from := grainOf(since.Add(-l.o.Delay))
	if target.IsSingleIP() {
		for d := range vector.Direction(vector.Directions) {
			for v := range vector.ID(vector.Count) {
				if key, ok := pack(Key{target, d, v}); ok {
					if i, ok := l.index[key]; ok {
						l.discard(i, now, from)
					}
				}
			}
		}
		return
	}
	for i := range l.keys.len() {
		if p := l.keys.at(i).key.unpack().Target; target.Bits() <= p.Bits() && target.Contains(p.Addr()) {
			l.discard(i, now, from)
		}
	}
}

func (l *Learner) discard(i int32, now time.Time, from uint32) {
	e, line := l.keys.at(i), l.lineOf(i)
	for n := range uint32(l.line) {
		if g := e.head - n; g >= from {
			at := int(g) % l.line * measures
			line[at], line[at+1] = none, none
		}
	}
	l.advance(e, line, grainOf(now))
}

// Normal returns the rates that the quantile of the grains at this time of the week did not pass. Within a quarter of an hour
// of another class it is the larger of both; where a class was hardly seen yet, the other kind of day or the whole week
// stands in. It is false until the key was observed for long enough.
func (l *Learner) Normal(now time.Time, target netip.Prefix, d vector.Direction, v vector.ID) (packets, bits float64, ok bool) {
	n, ok := l.normal(now, Key{target, d, v})
	if !ok {
		return 0, 0, false
	}
	return decode(pps, n.codes[pps]), decode(bps, n.codes[bps]), true
}

// normal is what Normal says and where it has it from.
type normal struct {
	codes  [measures]uint8
	from   source
	weight uint64 // in grains
}

type source uint8

const (
	thisClass source = iota
	otherDay
	wholeWeek
)

func (l *Learner) normal(now time.Time, k Key) (n normal, ok bool) {
	e, ok := l.find(now, k)
	if !ok || !l.ready(e) {
		return n, false
	}
	at := unixOf(now)
	s := l.when(at)
	if l.ask(e, s.class, s.day, &n) {
		for _, near := range [2]int64{at - int64(slack/time.Second), at + int64(slack/time.Second)} {
			if c := l.when(near).class; c != s.class {
				l.ask(e, c, s.day, &n)
			}
		}
		return n, true
	}
	if n.from = otherDay; l.ask(e, (s.class+classes/2)%classes, s.day, &n) {
		return n, true
	}
	n.from = wholeWeek
	var sum histogram
	for _, place := range e.hours {
		if place > 0 {
			c := l.hours.at(place - 1)
			sum.add(c, l.left(s.day, c.day))
		}
	}
	if n.weight = sum.weight() / unit; n.weight < mature {
		return n, false
	}
	n.codes = sum.quantile(l.tail)
	return n, true
}

// ask raises n to what a class says, if that was seen enough.
func (l *Learner) ask(e *entry, class int, today uint16, n *normal) bool {
	place := e.hours[class]
	if place == 0 {
		return false
	}
	c := l.hours.at(place - 1)
	weight := c.weight() * uint64(l.left(today, c.day)) >> 16 / unit
	if weight < mature {
		return false
	}
	n.weight += weight
	for m := range n.codes {
		n.codes[m] = max(n.codes[m], c.quantile(m, l.tail))
	}
	return true
}

// Explain says in one sentence what is known of a key.
func (l *Learner) Explain(now time.Time, k Key) string {
	what := fmt.Sprintf("%s %s at %s", k.Direction, k.Vector, k.Target)
	e, ok := l.find(now, k)
	if !ok {
		return what + ": nothing is known, for it was not observed or had to make room"
	}
	span := l.span(e)
	n, ok := l.normal(now, k)
	switch {
	case ok:
	case !l.ready(e):
		return fmt.Sprintf("%s: not known yet, for %s of %s are observed", what, span, l.o.Ready)
	default:
		return fmt.Sprintf("%s: not known, for %d s of traffic with weight are fewer than %d s", what, n.weight*uint64(grainSeconds), mature*grainSeconds)
	}
	s := l.when(unixOf(now))
	class := s.class
	if n.from == otherDay {
		class = (class + classes/2) % classes
	}
	days, hour := "weekdays", class%(classes/2)*2
	if class >= classes/2 {
		days = "weekends"
	}
	where := fmt.Sprintf("on %s from %d to %d h %s", days, hour, hour+2, l.o.Zone)
	switch n.from {
	case otherDay:
		where += " (there is not enough of today's kind yet)"
	case wholeWeek:
		where = "in the whole week (there is not enough of these hours yet)"
	}
	return fmt.Sprintf("%s: at most %s packets/s and %s bit/s in %.4g %% of the grains of %d s with traffic %s; learnt over %s, half-life %.4g days, from %d grains by weight",
		what, figure(decode(pps, n.codes[pps])), figure(decode(bps, n.codes[bps])), l.o.Quantile*100, grainSeconds, where, span, l.o.HalfLife.Hours()/24, n.weight)
}

func figure(rate float64) string {
	if rate < 10 {
		return fmt.Sprintf("%.2g", rate)
	}
	return fmt.Sprintf("%.0f", rate)
}

// Keys returns how many keys are kept, and how many had to go or found no room.
func (l *Learner) Keys() (kept int, evicted uint64) { return int(l.keys.len()), l.evicted }

// Bytes is the memory the learner takes, about.
func (l *Learner) Bytes() int {
	const mapped = 2 * (24 + 8) // a map is at least half full
	n := len(l.index)*mapped + len(l.keys.all)*pageSize*entrySize + len(l.hours.all)*pageSize*classSize + cap(l.free)*4 + cap(l.decay)*4
	for _, p := range l.lines {
		n += cap(p)
	}
	return n
}

// find returns a key after what waited for long enough has been learnt.
func (l *Learner) find(now time.Time, k Key) (*entry, bool) {
	key, ok := pack(k)
	if !ok {
		return nil, false
	}
	i, ok := l.index[key]
	if !ok {
		return nil, false
	}
	e := l.keys.at(i)
	if g := grainOf(now); g > e.head {
		l.advance(e, l.lineOf(i), g)
	}
	return e, true
}

func (l *Learner) span(e *entry) time.Duration { return time.Duration(e.last-e.first) * grain }

func (l *Learner) ready(e *entry) bool { return e.first > 0 && l.span(e) >= l.o.Ready }

func (l *Learner) lineOf(i int32) []uint8 {
	n := l.line * measures
	at := int(i%pageSize) * n
	return l.lines[i/pageSize][at : at+n : at+n]
}

// advance makes g the newest grain of the line and learns what leaves it.
func (l *Learner) advance(e *entry, line []uint8, g uint32) {
	n := uint32(l.line)
	if g+n <= e.head { // the clock was set back
		clear(line)
		e.head = g
		e.first, e.last = min(e.first, g), min(e.last, g)
		return
	}
	if g <= e.head {
		return
	}
	for i := range min(g-e.head, n) {
		leaves := e.head + 1 + i - n
		s := line[int(leaves%n)*measures:][:measures]
		if s[pps] != none && s[pps] != void {
			l.learn(e, leaves, [measures]uint8(s))
		}
		s[pps], s[bps] = none, none
	}
	e.head = g
}

// learn takes in the largest rates of a grain.
func (l *Learner) learn(e *entry, g uint32, codes [measures]uint8) {
	if e.first == 0 {
		e.first = g
	}
	e.last = max(e.last, g)
	s := l.when(int64(g) * grainSeconds)
	place := e.hours[s.class]
	if place == 0 {
		place = l.newClass(s.day) + 1
		e.hours[s.class] = place
	}
	c := l.hours.at(place - 1)
	if c.day != s.day {
		c.fade(l.left(s.day, c.day))
		c.day = s.day
		c.ref = [measures]uint8{}
		if c.weight() >= mature*unit {
			c.ref = [measures]uint8{c.quantile(pps, l.tail), c.quantile(bps, l.tail)}
		}
	}
	if e.day != s.day {
		l.refer(e, s.day)
	}
	for m := range codes {
		// A class that is too young to have a limit of its own has that of the busiest.
		if ref := cmp.Or(c.ref[m], e.ref[m]); ref > 0 && l.ready(e) {
			codes[m] = min(codes[m], max(double(ref), l.floor[m]))
		}
		c.add(m, codes[m])
	}
}

// refer takes the largest quantile of all classes.
func (l *Learner) refer(e *entry, today uint16) {
	e.day, e.ref = today, [measures]uint8{}
	for _, place := range e.hours {
		if place == 0 {
			continue
		}
		if c := l.hours.at(place - 1); c.weight()*uint64(l.left(today, c.day))>>16 >= mature*unit {
			for m := range e.ref {
				e.ref[m] = max(e.ref[m], c.quantile(m, l.tail))
			}
		}
	}
	e.heavy = e.ref[pps]
}

// left is what is left today of the weight something had on a day, in 1/2^16.
func (l *Learner) left(today, then uint16) uint32 {
	d := max(int(today)-int(then), 0) // the clock may have been set back
	if d >= len(l.decay) {
		return 0
	}
	return l.decay[d]
}

func (l *Learner) newClass(today uint16) int32 {
	if n := len(l.free); n > 0 {
		i := l.free[n-1]
		l.free = l.free[:n-1]
		*l.hours.at(i) = class{day: today}
		return i
	}
	i := l.hours.grow()
	l.hours.at(i).day = today
	return i
}

// admit makes room for a key, if it is worth more than one of those it is compared with.
func (l *Learner) admit(key packed, g uint32, heavy uint8, worth uint64) (int32, bool) {
	i := l.keys.len()
	if int(i) < l.o.MaxKeys {
		if i%pageSize == 0 {
			l.lines = append(l.lines, make([]uint8, pageSize*l.line*measures))
		}
		l.keys.grow()
	} else {
		l.evicted++
		i = l.hand
		least := uint64(math.MaxUint64)
		for range min(probes, l.keys.len()) {
			if w := l.worth(l.keys.at(l.hand)); w < least {
				i, least = l.hand, w
			}
			l.hand = (l.hand + 1) % l.keys.len()
		}
		if least >= worth {
			return 0, false
		}
		e := l.keys.at(i)
		delete(l.index, e.key)
		for _, place := range e.hours {
			if place > 0 {
				l.free = append(l.free, place-1)
			}
		}
		clear(l.lineOf(i))
	}
	*l.keys.at(i) = entry{key: key, head: g, heavy: heavy}
	l.index[key] = i
	return i, true
}

// worth compares keys that could go: the time they were last seen, an octave of the rate being worth an hour, and a baseline
// that is ready a day.
func (l *Learner) worth(e *entry) uint64 {
	w := worth(e.head, e.heavy)
	if l.ready(e) {
		w += uint64(day / grain)
	}
	return w
}

func worth(g uint32, heavy uint8) uint64 {
	return uint64(g) + uint64(heavy)*uint64(time.Hour/grain)/perOctave
}

// packed is a Key that is quick to hash and in order: family, address, length, direction, vector.
type packed struct {
	high, low uint64 // the address, IPv4 in the lowest bits
	rest      uint64 // family, length, direction, vector, an octet each
}

func (p packed) compare(q packed) int {
	return cmp.Or(cmp.Compare(p.rest>>24, q.rest>>24), cmp.Compare(p.high, q.high), cmp.Compare(p.low, q.low), cmp.Compare(p.rest, q.rest))
}

func pack(k Key) (packed, bool) {
	if !k.Target.IsValid() || k.Direction >= vector.Directions || k.Vector >= vector.Count {
		return packed{}, false
	}
	addr, family := k.Target.Addr(), uint64(6)
	if addr.Is4() {
		family = 4
	}
	var p packed
	if family == 4 {
		b := addr.As4()
		p.low = uint64(b[0])<<24 | uint64(b[1])<<16 | uint64(b[2])<<8 | uint64(b[3])
	} else {
		b := addr.As16()
		for i := range 8 {
			p.high = p.high<<8 | uint64(b[i])
			p.low = p.low<<8 | uint64(b[8+i])
		}
	}
	p.rest = family<<24 | uint64(k.Target.Bits())<<16 | uint64(k.Direction)<<8 | uint64(k.Vector)
	return p, true
}

func (p packed) unpack() Key {
	var b [16]byte
	for i := range 8 {
		b[i], b[8+i] = byte(p.high>>(56-8*i)), byte(p.low>>(56-8*i))
	}
	addr := netip.AddrFrom16(b)
	if p.rest>>24 == 4 {
		addr = netip.AddrFrom4([4]byte(b[12:]))
	}
	return Key{netip.PrefixFrom(addr, int(p.rest>>16&255)), vector.Direction(p.rest >> 8 & 255), vector.ID(p.rest & 255)}
}

// slot is an hour of a week.
type slot struct {
	from, to int64 // seconds since 1970
	day      uint16
	class    int
}

// when tells the local day and the class of a time.
func (l *Learner) when(at int64) slot {
	if l.slot.from <= at && at < l.slot.to {
		return l.slot
	}
	t := time.Unix(at, 0).In(l.o.Zone)
	_, offset := t.Zone()
	local := at + int64(offset)
	// Where clocks are set, they are at a quarter of an hour.
	const step = 900
	from := at - local%step
	s := slot{from: from, to: from + step, day: uint16(min(max(local/86400, 0), math.MaxUint16)), class: t.Hour() / 2}
	if wd := t.Weekday(); wd == time.Saturday || wd == time.Sunday {
		s.class += classes / 2
	}
	l.slot = s
	return s
}

// unixOf clamps to what grains can be counted in.
func unixOf(t time.Time) int64 {
	return min(max(t.Unix(), 3600+grainSeconds), (math.MaxUint32-3600)*grainSeconds)
}

func grainOf(t time.Time) uint32 { return uint32(unixOf(t) / grainSeconds) }
