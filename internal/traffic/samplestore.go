package traffic

import (
	"cmp"
	"encoding/binary"
	"math"
	"net/netip"
	"slices"
	"time"

	"github.com/amooglesoft/trafficmonitor/internal/vector"
)

// SampleOptions bound a SampleStore. A field that is 0 has the value of DefaultSampleOptions.
type SampleOptions struct {
	// MaxBytes bounds the memory of all samples, with what is kept to find them.
	MaxBytes int64
	// MaxTargets is the largest number of targets with samples, each direction being one.
	MaxTargets int
	// Normal is how many samples show what a target normally receives, spread evenly over Span; Recent how many of the
	// last ones are kept, and Attack how many of a target under attack.
	Normal, Recent, Attack int
	// Span is how long a normal sample is kept: the profile shows the last Span of peace.
	Span time.Duration
	// Margin is how long a sample waits before it counts as normal for good: an attack begins before it is detected.
	Margin time.Duration
	// Seed chooses among samples. Controllers with the same seed keep the same ones.
	Seed uint64
}

// DefaultSampleOptions returns the options for a controller: at most 64 MB.
func DefaultSampleOptions() SampleOptions {
	return SampleOptions{MaxBytes: 64 << 20, MaxTargets: 4096, Normal: 512, Recent: 256, Attack: 2048, Span: time.Hour, Margin: 30 * time.Second}
}

const (
	// slots are the parts of Span, and waiting those of Margin, each with its own samples, so that no second is shown more
	// than another.
	slots   = 16
	waiting = 4

	packedBytes = 64   // a packed sample in memory
	targetBytes = 1024 // a target without samples, its entry of the map included
	// maxGathered bounds what Attack and Normal return for a prefix of many hosts.
	maxGathered = 4096
	// sweepEvery is how often room is made for new targets when there is none.
	sweepEvery = time.Second
)

// SampleStore keeps sampled packets of the targets with the most traffic: those of the last seconds, and a profile of
// what each normally receives. It is not safe for concurrent use.
//
// Which samples are kept of a target depends on the samples and the seed, not on the order in which they came, as long as
// they come within Margin of their time: each has a rank of its own, drawn from its content. Which targets are kept when
// there are too many does depend on the order of arrival, and so does which of the last samples is overwritten first.
type SampleStore struct {
	o       SampleOptions
	targets map[sampledKey]*sampled
	frozen  map[netip.Prefix]bool // targets under attack
	bytes   int64
	dropped uint64
	swept   time.Time
	want    float64 // the heaviest target that found no room since then
}

type sampledKey struct {
	addr      netip.Addr
	direction vector.Direction
}

// sampled is what is kept of one target and direction.
type sampled struct {
	recent  []packed // a ring once it is full
	next    int      // where the ring's next goes
	slots   [slots]reservoir
	waiting [waiting]reservoir
	frozen  bool
	thawed  int64 // nanoseconds: samples from before are of an attack, or of its last moments
	heavy   float64
	at      time.Time // when heavy was last brought up to date
}

// reservoir is a sample by weight of what came in one part of time.
type reservoir struct {
	part   int64 // number of the part since 1970; 0 before the first
	total  uint64
	sample []ranked
}

// ranked is a sample with its rank, drawn from an exponential distribution whose rate is the weight: the smallest
// ranks are a sample without replacement, by weight (Efraimidis and Spirakis, 2006).
type ranked struct {
	rank float64
	packed
}

// packed is a Sample without pointers and without what its target says.
type packed struct {
	time            int64 // nanoseconds since 1970
	peer            [16]byte
	weight          uint32
	flowLabel       uint32
	length          uint16
	sourcePort      uint16
	destinationPort uint16
	vector          vector.ID
	protocol        uint8
	ttl             uint8
	dscp            uint8
	bits            uint8 // fragment bits, then hasPorts, then hasICMP
	flags           uint8
	icmpType        uint8
	icmpCode        uint8
}

const (
	packedPorts = 1 << 4
	packedICMP  = 1 << 5
)

func pack(s *Sample) packed {
	p := packed{
		time: s.Time.UnixNano(), peer: s.Peer().As16(), weight: max(s.Weight, 1), flowLabel: s.FlowLabel, length: s.Length, sourcePort: s.SourcePort,
		destinationPort: s.DestinationPort, vector: s.Vector, protocol: s.Protocol, ttl: s.TTL, dscp: s.DSCP, bits: s.Fragment & 15, flags: s.TCPFlags,
		icmpType: s.ICMPType, icmpCode: s.ICMPCode,
	}
	if s.HasPorts {
		p.bits |= packedPorts
	}
	if s.HasICMP {
		p.bits |= packedICMP
	}
	return p
}

func (p *packed) unpack(k sampledKey, weight uint32) Sample {
	s := Sample{
		Time: time.Unix(0, p.time).UTC(), Direction: k.direction, Vector: p.vector, Weight: weight, Length: p.length, Protocol: p.protocol, TTL: p.ttl,
		DSCP: p.dscp, FlowLabel: p.flowLabel, Fragment: p.bits & 15, HasPorts: p.bits&packedPorts != 0, HasICMP: p.bits&packedICMP != 0,
		SourcePort: p.sourcePort, DestinationPort: p.destinationPort, TCPFlags: p.flags, ICMPType: p.icmpType, ICMPCode: p.icmpCode,
	}
	peer := netip.AddrFrom16(p.peer)
	if k.addr.Is4() {
		peer = peer.Unmap()
	}
	s.Source, s.Destination = peer, k.addr
	if k.direction == vector.Outbound {
		s.Source, s.Destination = k.addr, peer
	}
	return s
}

// rank draws the sample's rank from its content.
func (p *packed) rank(seed uint64) float64 {
	mix := func(h uint64) uint64 { // SplitMix64
		h += 0x9e3779b97f4a7c15
		h = (h ^ h>>30) * 0xbf58476d1ce4e5b9
		h = (h ^ h>>27) * 0x94d049bb133111eb
		return h ^ h>>31
	}
	h := mix(seed ^ uint64(p.time))
	h = mix(h ^ binary.BigEndian.Uint64(p.peer[:]))
	h = mix(h ^ binary.BigEndian.Uint64(p.peer[8:]))
	h = mix(h ^ uint64(p.length)<<48 ^ uint64(p.sourcePort)<<32 ^ uint64(p.destinationPort)<<16 ^ uint64(p.vector)<<8 ^ uint64(p.protocol))
	h = mix(h ^ uint64(p.flowLabel)<<32 ^ uint64(p.flags)<<24 ^ uint64(p.ttl)<<16 ^ uint64(p.icmpType)<<8 ^ uint64(p.icmpCode))
	u := (float64(h>>11) + 0.5) / (1 << 53)
	return -math.Log(u) / float64(p.weight)
}

// NewSampleStore returns an empty store.
func NewSampleStore(o SampleOptions) *SampleStore {
	d := DefaultSampleOptions()
	o.MaxBytes, o.MaxTargets = cmp.Or(o.MaxBytes, d.MaxBytes), cmp.Or(o.MaxTargets, d.MaxTargets)
	o.Normal, o.Recent, o.Attack = cmp.Or(o.Normal, d.Normal), cmp.Or(o.Recent, d.Recent), cmp.Or(o.Attack, d.Attack)
	o.Span, o.Margin = cmp.Or(o.Span, d.Span), cmp.Or(o.Margin, d.Margin)
	return &SampleStore{o: o, targets: map[sampledKey]*sampled{}, frozen: map[netip.Prefix]bool{}}
}

// Add takes a sample in; now is when it came. One from the future is from now, one older than Span is dropped.
func (s *SampleStore) Add(now time.Time, x Sample) {
	target, peer := x.Target(), x.Peer()
	if !target.IsValid() || !peer.IsValid() || target.Is4() != peer.Is4() || x.Direction >= vector.Directions || now.Sub(x.Time) > s.o.Span {
		s.dropped++
		return
	}
	if x.Time.After(now) {
		x.Time = now
	}
	s.sweep(now)
	k := sampledKey{target, x.Direction}
	t := s.targets[k]
	if t == nil {
		if t = s.admit(now, k, float64(max(x.Weight, 1))); t == nil {
			s.dropped++
			return
		}
	}
	t.heat(now)
	t.heavy += float64(max(x.Weight, 1))
	p := pack(&x)
	s.keep(t, p)
	if t.frozen || p.time < t.thawed {
		return
	}
	s.settle(now, t)
	// What waits is normal once Margin has passed without an attack; what comes later than that is at once.
	if part := s.waitingPart(p.time); part > s.waitingPart(now.UnixNano())-waiting {
		s.offer(t, &t.waiting[part%waiting], part, s.o.Normal/slots, p)
	} else {
		s.offer(t, &t.slots[s.slotPart(p.time)%slots], s.slotPart(p.time), s.slotSize(), p)
		s.level(t)
	}
}

// slotSize is how many samples one part of Span may hold while the others are empty, as after a start.
func (s *SampleStore) slotSize() int { return max(s.o.Normal/4, 1) }

// level takes the last by rank of the fullest parts of Span while there are more than Normal samples in all.
func (s *SampleStore) level(t *sampled) {
	n := 0
	for i := range t.slots {
		n += len(t.slots[i].sample)
	}
	for ; n > s.o.Normal; n-- {
		full := &t.slots[0]
		for i := range t.slots {
			if r := &t.slots[i]; len(r.sample) > len(full.sample) || len(r.sample) == len(full.sample) && r.part < full.part {
				full = r
			}
		}
		full.sample = full.sample[:len(full.sample)-1]
		if n := len(full.sample); n >= 4 && cap(full.sample) >= 2*n { // give back what the others filled up since
			s.bytes -= int64(cap(full.sample)-n) * packedBytes
			full.sample = append(make([]ranked, 0, n), full.sample...)
		}
	}
}

// heat lets what a target weighs fall by half each minute.
func (t *sampled) heat(now time.Time) {
	if past := now.Sub(t.at); past > 0 {
		t.heavy *= math.Exp2(-past.Minutes())
		t.at = now
	}
}

func (s *SampleStore) slotPart(t int64) int64    { return t / max(int64(s.o.Span/slots), 1) }
func (s *SampleStore) waitingPart(t int64) int64 { return t / max(int64(s.o.Margin/waiting), 1) }

// admit takes a target in, or returns nil when there is no room.
func (s *SampleStore) admit(now time.Time, k sampledKey, heavy float64) *sampled {
	t := &sampled{at: now}
	for p := range s.frozen {
		t.frozen = t.frozen || p.Contains(k.addr)
	}
	if len(s.targets) >= s.o.MaxTargets || s.bytes+targetBytes > s.o.MaxBytes {
		t.heavy = heavy
		s.deny(t)
		return nil
	}
	s.targets[k] = t
	s.bytes += targetBytes
	return t
}

// deny remembers that there was no room for a target.
func (s *SampleStore) deny(t *sampled) {
	if t.frozen {
		s.want = math.Inf(1)
	}
	s.want = max(s.want, t.heavy)
}

// sweep makes room where there was none: it forgets targets that are not under attack and less than half as heavy as the
// heaviest that found no room, the lightest first, at most an eighth of all and once a second.
func (s *SampleStore) sweep(now time.Time) {
	if d := now.Sub(s.swept); s.want == 0 || d >= 0 && d < sweepEvery {
		return
	}
	type light struct {
		k sampledKey
		h float64
	}
	var all []light
	for k, t := range s.targets {
		if t.heat(now); !t.frozen && t.heavy < s.want/2 {
			all = append(all, light{k, t.heavy})
		}
	}
	slices.SortFunc(all, func(a, b light) int { return cmp.Or(cmp.Compare(a.h, b.h), compareSampled(a.k, b.k)) })
	for _, l := range all[:min(len(all), (len(s.targets)+7)/8)] {
		s.bytes -= s.targets[l.k].bytes()
		delete(s.targets, l.k)
	}
	s.swept, s.want = now, 0
}

func compareSampled(a, b sampledKey) int {
	return cmp.Or(a.addr.Compare(b.addr), cmp.Compare(a.direction, b.direction))
}

// inside returns the targets with samples inside of a prefix, in order.
func (s *SampleStore) inside(p netip.Prefix) []sampledKey {
	var out []sampledKey
	for k := range s.targets {
		if p.Contains(k.addr) {
			out = append(out, k)
		}
	}
	slices.SortFunc(out, compareSampled)
	return out
}

func (t *sampled) bytes() int64 {
	n := cap(t.recent)
	for i := range t.slots {
		n += cap(t.slots[i].sample)
	}
	for i := range t.waiting {
		n += cap(t.waiting[i].sample)
	}
	return int64(n)*packedBytes + targetBytes
}

// afford reports whether n more samples of a target fit.
func (s *SampleStore) afford(t *sampled, n int) bool {
	if s.bytes+int64(n)*packedBytes <= s.o.MaxBytes {
		return true
	}
	s.deny(t)
	return false
}

// keep puts a sample into the ring of the last ones.
func (s *SampleStore) keep(t *sampled, p packed) {
	size := s.o.Recent
	if t.frozen {
		size = max(s.o.Attack, size)
	}
	if len(t.recent) < size && (len(t.recent) < cap(t.recent) || s.afford(t, max(cap(t.recent), 16))) {
		if t.next != 0 { // a ring that grows is put into order first
			slices.Reverse(t.recent[:t.next])
			slices.Reverse(t.recent[t.next:])
			slices.Reverse(t.recent)
			t.next = 0
		}
		if len(t.recent) == cap(t.recent) {
			grown := make([]packed, len(t.recent), min(max(2*cap(t.recent), 16), size))
			copy(grown, t.recent)
			s.bytes += int64(cap(grown)-cap(t.recent)) * packedBytes
			t.recent = grown
		}
		t.recent = append(t.recent, p)
		return
	}
	if len(t.recent) == 0 {
		s.dropped++
		return
	}
	t.recent[t.next%len(t.recent)] = p
	t.next = (t.next + 1) % len(t.recent)
}

// offer puts a sample into a reservoir of so many, if it belongs there.
func (s *SampleStore) offer(t *sampled, r *reservoir, part int64, size int, p packed) {
	if r.part != part {
		if part < r.part {
			return // its part of time has been given up
		}
		r.part, r.total, r.sample = part, 0, r.sample[:0]
	}
	r.total += uint64(p.weight)
	s.place(t, r, max(size, 1), ranked{p.rank(s.o.Seed), p})
}

// place keeps the sample if it is among the size first by rank.
func (s *SampleStore) place(t *sampled, r *reservoir, size int, x ranked) {
	i, _ := slices.BinarySearchFunc(r.sample, x, byRank)
	if len(r.sample) < size && (len(r.sample) < cap(r.sample) || s.afford(t, max(cap(r.sample), 4))) {
		if len(r.sample) == cap(r.sample) {
			grown := make([]ranked, len(r.sample), min(max(2*cap(r.sample), 4), size))
			copy(grown, r.sample)
			s.bytes += int64(cap(grown)-cap(r.sample)) * packedBytes
			r.sample = grown
		}
		r.sample = slices.Insert(r.sample, i, x)
		return
	}
	if i < len(r.sample) {
		copy(r.sample[i+1:], r.sample[i:])
		r.sample[i] = x
	}
}

// byRank orders samples by rank, and those alike in all but what the rank is drawn from in any order.
func byRank(a, b ranked) int {
	return cmp.Or(cmp.Compare(a.rank, b.rank), cmp.Compare(a.weight, b.weight))
}

// settle makes normal what has waited long enough.
func (s *SampleStore) settle(now time.Time, t *sampled) {
	s.settleUntil(t, s.waitingPart(now.UnixNano())-waiting+1)
}

// settleUntil makes normal what waits and is from before a part of time.
func (s *SampleStore) settleUntil(t *sampled, end int64) {
	for i := range t.waiting {
		w := &t.waiting[i]
		if len(w.sample) == 0 || w.part >= end {
			continue
		}
		part := s.slotPart(w.sample[0].time)
		for j := range w.sample { // of two slots, all go to the earlier: the order of ranks must not decide
			part = min(part, s.slotPart(w.sample[j].time))
		}
		r := &t.slots[part%slots]
		if r.part < part {
			r.part, r.total, r.sample = part, 0, r.sample[:0]
		}
		if r.part == part {
			r.total += w.total
			for _, x := range w.sample {
				s.place(t, r, s.slotSize(), x)
			}
		}
		w.total, w.sample = 0, w.sample[:0]
		s.level(t)
	}
}

// Freeze keeps what target, a host or a prefix, normally receives as it was before the attack that began at onset, until
// Thaw: what came within a quarter of Margin before the onset, or later, never becomes normal. More samples of the attack
// are kept meanwhile. Freezing again changes nothing.
func (s *SampleStore) Freeze(target netip.Prefix, onset time.Time) {
	if s.frozen[target] {
		return
	}
	s.frozen[target] = true
	for _, k := range s.inside(target) {
		t := s.targets[k]
		if t.frozen {
			continue
		}
		s.settleUntil(t, s.waitingPart(onset.Add(-s.o.Margin/waiting).UnixNano()))
		t.frozen = true
		for i := range t.waiting {
			t.waiting[i].total, t.waiting[i].sample = 0, t.waiting[i].sample[:0]
		}
	}
}

// Thaw ends what Freeze began: what comes from now on may become normal.
func (s *SampleStore) Thaw(now time.Time, target netip.Prefix) {
	if !s.frozen[target] {
		return
	}
	delete(s.frozen, target)
	for _, k := range s.inside(target) {
		t := s.targets[k]
		t.frozen = false
		for p := range s.frozen {
			t.frozen = t.frozen || p.Contains(k.addr)
		}
		if t.frozen {
			continue
		}
		t.thawed = now.UnixNano()
		if n := s.o.Recent; len(t.recent) > n { // the newest stay
			last := slices.Clone(t.recent)
			slices.SortFunc(last, comparePacked)
			s.bytes -= int64(cap(t.recent)-n) * packedBytes
			t.recent, t.next = append(make([]packed, 0, n), last[len(last)-n:]...), 0
		}
	}
}

func comparePacked(a, b packed) int {
	return cmp.Or(
		cmp.Compare(a.time, b.time), slices.Compare(a.peer[:], b.peer[:]), cmp.Compare(a.vector, b.vector), cmp.Compare(a.length, b.length),
		cmp.Compare(a.protocol, b.protocol), cmp.Compare(a.sourcePort, b.sourcePort), cmp.Compare(a.destinationPort, b.destinationPort),
		cmp.Compare(a.weight, b.weight), cmp.Compare(a.flags, b.flags), cmp.Compare(a.bits, b.bits), cmp.Compare(a.ttl, b.ttl), cmp.Compare(a.dscp, b.dscp),
		cmp.Compare(a.flowLabel, b.flowLabel), cmp.Compare(a.icmpType, b.icmpType), cmp.Compare(a.icmpCode, b.icmpCode),
	)
}

// gathered is a sample of a prefix's hosts.
type gathered struct {
	k sampledKey
	packed
}

// Attack returns the last samples of a vector at target, a host or a prefix of many, that are from since or later, oldest
// first. Of vector.Total it returns those of all vectors.
func (s *SampleStore) Attack(target netip.Prefix, direction vector.Direction, v vector.ID, since time.Time) []Sample {
	var all []gathered
	s.each(target, direction, func(k sampledKey, t *sampled) {
		for _, p := range t.recent {
			if p.time >= since.UnixNano() && (v == vector.Total || p.vector == v) {
				all = append(all, gathered{k, p})
			}
		}
	})
	return s.chosen(all)
}

// Normal returns what target, a host or a prefix of many, normally receives, of all vectors, as far as it is from before,
// oldest first. The weight of each sample is such that hosts and times count by their packets.
func (s *SampleStore) Normal(target netip.Prefix, direction vector.Direction, before time.Time) []Sample {
	var all []gathered
	s.each(target, direction, func(k sampledKey, t *sampled) {
		take := func(r *reservoir) {
			if len(r.sample) == 0 {
				return
			}
			each := uint32(min(max(r.total/uint64(len(r.sample)), 1), math.MaxUint32))
			for _, x := range r.sample {
				if x.time < before.UnixNano() {
					x.weight = each
					all = append(all, gathered{k, x.packed})
				}
			}
		}
		for i := range t.slots {
			if (t.slots[i].part+1)*max(int64(s.o.Span/slots), 1) > before.Add(-s.o.Span).UnixNano() || t.frozen {
				take(&t.slots[i])
			}
		}
		for i := range t.waiting {
			take(&t.waiting[i])
		}
	})
	return s.chosen(all)
}

// each calls f for every target inside of a prefix.
func (s *SampleStore) each(target netip.Prefix, direction vector.Direction, f func(sampledKey, *sampled)) {
	if target.IsSingleIP() {
		k := sampledKey{target.Addr(), direction}
		if t := s.targets[k]; t != nil {
			f(k, t)
		}
		return
	}
	for k, t := range s.targets {
		if k.direction == direction && target.Contains(k.addr) {
			f(k, t)
		}
	}
}

// chosen puts samples in order. Of more than are wanted it chooses by weight, and lets those chosen stand for all.
func (s *SampleStore) chosen(all []gathered) []Sample {
	total := uint64(0)
	for i := range all {
		total += uint64(all[i].weight)
	}
	order := func(a, b gathered) int { return cmp.Or(comparePacked(a.packed, b.packed), a.k.addr.Compare(b.k.addr)) }
	each := uint32(0)
	if len(all) > maxGathered {
		slices.SortFunc(all, func(a, b gathered) int { return cmp.Or(cmp.Compare(a.rank(s.o.Seed), b.rank(s.o.Seed)), order(a, b)) })
		all = all[:maxGathered]
		each = uint32(min(max(total/maxGathered, 1), math.MaxUint32))
	}
	slices.SortFunc(all, order)
	out := make([]Sample, len(all))
	for i := range all {
		out[i] = all[i].unpack(all[i].k, cmp.Or(each, all[i].weight))
	}
	return out
}

// Bytes is the memory the samples take, never more than MaxBytes.
func (s *SampleStore) Bytes() int64 { return s.bytes }

// Targets is how many targets have samples, and how often a sample was dropped because there was no room or it made no
// sense.
func (s *SampleStore) Targets() (kept int, dropped uint64) { return len(s.targets), s.dropped }
