package journal

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"
	"net/netip"
	"time"

	"github.com/amooglesoft/trafficmonitor/internal/sketch"
	"github.com/amooglesoft/trafficmonitor/internal/traffic"
	"github.com/amooglesoft/trafficmonitor/internal/vector"
)

// Kinds of records.
const (
	kindReport  = 1
	kindSamples = 2
)

// Bits of what stands before a place: a target, a direction and a vector.
const (
	placeSame = 1 << iota // the target of the place before
	placeIPv6
	placeOutbound     //
	placeHost         // the length is that of the address
	placeNone         // no target
	placeShared   = 5 // shift of how many octets are those of the address before; of IPv6 the half of it
)

// Bits of what stands before a sample.
const (
	sampleOutbound = 1 << iota
	samplePorts
	sampleICMP
)

// Bits of a profile.
const (
	profileSketch = 1 << iota
	profileExact
	profileSparse // of the sketch, only registers that are not 0
)

// memory is what both sides of the codec remember within a block.
type memory struct {
	seconds int64 // of the record before
	sample  int64 // of the sample before
	target  netip.Prefix
	addr    [2]netip.Addr // the last addresses: targets and destinations, sources
}

// encoder writes the records of a block. Packets and octets of aggregates and networks are most of it and as good as random.
// Apart from the rest they do not keep that from being compressed: their lengths in bits, the second as the difference to the
// first, are in columns of octets, what is below their highest bit is packed as it is.
type encoder struct {
	memory
	b       []byte
	lengths [2][]byte
	bits    []byte
	acc     uint64 // bits not in bits yet, the lowest first
	n       uint   // how many
	sensors map[string]uint64
	names   uint64
}

func (e *encoder) reset() {
	e.memory, e.b, e.names = memory{}, e.b[:0], 0
	e.lengths[0], e.lengths[1], e.bits, e.acc, e.n = e.lengths[0][:0], e.lengths[1][:0], e.bits[:0], 0, 0
	clear(e.sensors)
}

func (e *encoder) uint(v uint64) { e.b = binary.AppendUvarint(e.b, v) }
func (e *encoder) int(v int64)   { e.b = binary.AppendVarint(e.b, v) }

// size is that of all columns.
func (e *encoder) size() int { return len(e.b) + 2*len(e.lengths[0]) + len(e.bits) + 8 }

// columns returns what decodes to the records: the lengths of the first two columns, of which the third is as long as the
// second, and the four.
func (e *encoder) columns() [][]byte {
	head := binary.AppendUvarint(binary.AppendUvarint(nil, uint64(len(e.b))), uint64(len(e.lengths[0])))
	rest := binary.LittleEndian.AppendUint64(nil, e.acc)[:(e.n+7)/8]
	return [][]byte{head, e.b, e.lengths[0], e.lengths[1], e.bits, rest}
}

func (e *encoder) traffic(packets, octets uint64) {
	p, o := bits.Len64(packets), bits.Len64(octets)
	e.lengths[0] = append(e.lengths[0], byte(p))
	e.lengths[1] = append(e.lengths[1], byte(o-p))
	e.pack(packets, p-1)
	e.pack(octets, o-1)
}

// pack writes the lowest n bits of v, n ≤ 63.
func (e *encoder) pack(v uint64, n int) {
	for n > 0 {
		k := min(n, 32)
		e.acc |= v & (1<<k - 1) << e.n
		e.n += uint(k)
		for e.n >= 8 {
			e.bits = append(e.bits, byte(e.acc))
			e.acc >>= 8
			e.n -= 8
		}
		v >>= k
		n -= k
	}
}

// time writes a time as the difference in seconds to another and nanoseconds.
func (e *encoder) time(t time.Time, base int64) {
	e.int(t.Unix() - base)
	e.uint(uint64(t.Nanosecond()))
}

func (e *encoder) record(r Record) {
	if e.sensors == nil {
		e.sensors = map[string]uint64{}
	}
	kind, sensor := byte(kindReport), r.Report.Sensor
	if r.Samples != nil {
		kind, sensor = kindSamples, r.Sensor
	}
	e.b = append(e.b, kind)
	e.time(r.Time, e.seconds)
	e.seconds = r.Time.Unix()
	if i, ok := e.sensors[sensor]; ok {
		e.uint(i)
	} else {
		e.names++
		e.sensors[sensor] = e.names
		e.uint(0)
		e.uint(uint64(len(sensor)))
		e.b = append(e.b, sensor...)
	}
	if kind == kindSamples {
		e.uint(uint64(len(r.Samples)))
		for i := range r.Samples {
			e.oneSample(&r.Samples[i])
		}
		return
	}
	e.report(&r.Report)
}

func (e *encoder) report(r *traffic.Report) {
	cause := byte(r.Cause) &^ causeOutbound
	if r.Outbound {
		cause |= causeOutbound
	}
	e.b = append(e.b, cause)
	e.time(r.Start, e.seconds)
	e.int(int64(r.Span))
	e.int(int64(r.Merged))
	e.uint(uint64(len(r.Aggregates)))
	for _, a := range r.Aggregates {
		e.place(a.Target, a.Direction, a.Vector)
		e.traffic(a.Packets, a.Bytes)
	}
	e.uint(uint64(len(r.Networks)))
	for _, n := range r.Networks {
		e.place(n.Network, n.Direction, n.Vector)
		e.traffic(n.Packets, n.Bytes)
		e.uint(uint64(n.ActiveHosts))
	}
	e.uint(uint64(len(r.Profiles)))
	for i := range r.Profiles {
		e.profile(&r.Profiles[i])
	}
}

func (e *encoder) profile(p *traffic.Profile) {
	e.place(p.Target, p.Direction, p.Vector)
	e.uint(uint64(p.Samples))
	e.uint(p.Packets)
	for _, n := range p.Lengths {
		e.uint(uint64(n))
	}
	for _, n := range p.TTLs {
		e.uint(uint64(n))
	}
	e.uint(uint64(p.Fragments))
	for _, list := range [...][]traffic.Count{p.TCPFlags, p.SourcePorts, p.DestinationPorts} {
		e.uint(uint64(len(list)))
		for _, c := range list {
			e.uint(uint64(c.Value))
			e.uint(uint64(c.Count))
			e.uint(uint64(c.Error))
		}
	}
	e.uint(uint64(len(p.Sources)))
	for _, s := range p.Sources {
		e.prefix(s.Network, 1, 0)
		e.uint(uint64(s.Count))
		e.uint(uint64(s.Error))
	}
	var flags byte
	if p.DistinctExact {
		flags |= profileExact
	}
	h := p.DistinctSources
	if h == nil {
		e.b = append(e.b, flags)
		return
	}
	used := 0
	for _, r := range h {
		if r > 0 {
			used++
		}
	}
	if flags |= profileSketch; used >= sketch.Registers/3 {
		e.b = append(append(e.b, flags), h[:]...)
		return
	}
	e.b = append(e.b, flags|profileSparse, byte(used))
	for i, r := range h {
		if r > 0 {
			e.b = append(e.b, byte(i), r)
		}
	}
}

func (e *encoder) place(p netip.Prefix, d vector.Direction, v vector.ID) {
	var flags byte
	if d == vector.Outbound {
		flags = placeOutbound
	}
	if p == e.target && p.IsValid() {
		e.b = append(e.b, flags|placeSame)
	} else {
		e.prefix(p, 0, flags)
		e.target = p
	}
	e.b = append(e.b, byte(v))
}

// prefix writes a prefix without the octets it shares with the address before of the same kind.
func (e *encoder) prefix(p netip.Prefix, which int, flags byte) {
	addr := p.Addr()
	if !p.IsValid() {
		e.b = append(e.b, flags|placeNone)
		return
	}
	if p.Bits() == addr.BitLen() {
		flags |= placeHost
	}
	var buf [16]byte
	b, unit := buf[:4], 1
	if addr.Is4() {
		a := addr.As4()
		copy(b, a[:])
	} else {
		b, unit, buf = buf[:], 2, addr.As16()
		flags |= placeIPv6
	}
	shared := 0
	if last := e.addr[which]; last.IsValid() && last.BitLen() == addr.BitLen() {
		l := last.AsSlice()
		for shared < min(7*unit, len(b)) && l[shared] == b[shared] {
			shared++
		}
		shared /= unit
	}
	e.b = append(e.b, flags|byte(shared)<<placeShared)
	if flags&placeHost == 0 {
		e.b = append(e.b, byte(p.Bits()))
	}
	e.b = append(e.b, b[shared*unit:]...)
	e.addr[which] = addr
}

func (e *encoder) address(a netip.Addr, which int) {
	a = a.WithZone("")
	e.prefix(netip.PrefixFrom(a, a.BitLen()), which, 0)
}

func (e *encoder) oneSample(s *traffic.Sample) {
	var flags byte
	if s.Direction == vector.Outbound {
		flags |= sampleOutbound
	}
	if s.HasPorts {
		flags |= samplePorts
	}
	if s.HasICMP {
		flags |= sampleICMP
	}
	e.b = append(e.b, flags, byte(s.Vector), s.Protocol, s.TTL, s.DSCP, s.Fragment, s.TCPFlags, s.ICMPType, s.ICMPCode)
	e.time(s.Time, e.sample)
	e.sample = s.Time.Unix()
	e.uint(uint64(s.Weight))
	e.address(s.Source, 1)
	e.address(s.Destination, 0)
	e.uint(uint64(s.Length))
	e.uint(uint64(s.FlowLabel))
	e.uint(uint64(s.SourcePort))
	e.uint(uint64(s.DestinationPort))
}

// causeOutbound in the octet of a report's cause says that its sensor counts what leaves, too.
const causeOutbound = 0x80

// decoder reads the records of a block. Once it has an error it gives zeros.
type decoder struct {
	memory
	b       []byte
	lengths [2][]byte
	bits    []byte
	at      uint // the first bit of bits that was not read
	sensors []string
	err     error
}

// newDecoder takes the columns apart.
func newDecoder(raw []byte) *decoder {
	d := &decoder{b: raw}
	main, lengths := d.uint(uint64(len(raw))), d.uint(uint64(len(raw)))
	if uint64(len(d.b)) < main+2*lengths {
		d.fail(errCut)
		return d
	}
	rest := d.b[main:]
	d.b = d.b[:main]
	d.lengths, d.bits = [2][]byte{rest[:lengths], rest[lengths : 2*lengths]}, rest[2*lengths:]
	return d
}

// done tells whether all columns are read to their ends.
func (d *decoder) done() bool {
	return d.err == nil && len(d.b)+len(d.lengths[0]) == 0 && (d.at+7)/8 == uint(len(d.bits))
}

func (d *decoder) traffic() (packets, octets uint64) {
	if len(d.lengths[0]) == 0 {
		d.fail(errCut)
		return 0, 0
	}
	p := d.lengths[0][0]
	o := p + d.lengths[1][0]
	d.lengths[0], d.lengths[1] = d.lengths[0][1:], d.lengths[1][1:]
	if p > 64 || o > 64 {
		d.fail(errors.New("a number has more than 64 bits"))
		return 0, 0
	}
	return d.unpack(p), d.unpack(o)
}

// unpack reads a number of n bits, the highest of which is not written.
func (d *decoder) unpack(n byte) uint64 {
	if n == 0 {
		return 0
	}
	low := uint(n) - 1
	if d.at+low > 8*uint(len(d.bits)) {
		d.fail(errCut)
		return 0
	}
	v := uint64(1) << low
	for i := uint(0); i < low; {
		k := min(8-d.at%8, low-i)
		v |= uint64(d.bits[d.at/8]>>(d.at%8)&(1<<k-1)) << i
		i += k
		d.at += k
	}
	return v
}

// counted reads the length of a list whose elements have traffic.
func (d *decoder) counted(octets int) int {
	n := d.many(octets)
	if n > len(d.lengths[0]) {
		d.fail(errCut)
		return 0
	}
	return n
}

var errCut = errors.New("a record is cut short")

func (d *decoder) fail(err error) {
	if d.err == nil {
		d.err = err
	}
	d.b = nil
}

func (d *decoder) uint(most uint64) uint64 {
	v, n := binary.Uvarint(d.b)
	if n <= 0 {
		d.fail(errCut)
		return 0
	}
	if v > most {
		d.fail(fmt.Errorf("a number is %d, at most %d", v, most))
		return 0
	}
	d.b = d.b[n:]
	return v
}

func (d *decoder) uint32() uint32 { return uint32(d.uint(1<<32 - 1)) }
func (d *decoder) uint16() uint16 { return uint16(d.uint(1<<16 - 1)) }

func (d *decoder) int() int64 {
	v, n := binary.Varint(d.b)
	if n <= 0 {
		d.fail(errCut)
		return 0
	}
	d.b = d.b[n:]
	return v
}

func (d *decoder) octets(n int) []byte {
	if len(d.b) < n {
		d.fail(errCut)
		return make([]byte, n)
	}
	b := d.b[:n]
	d.b = d.b[n:]
	return b
}

func (d *decoder) octet() byte { return d.octets(1)[0] }

// many reads the length of a list whose elements take at least so many octets, so that no list is larger than what holds it.
func (d *decoder) many(octets int) int { return int(d.uint(uint64(len(d.b) / octets))) }

func (d *decoder) time(base int64) time.Time {
	s := d.int()
	n := d.uint(1e9 - 1)
	if d.err != nil {
		return time.Time{}
	}
	return time.Unix(base+s, int64(n)).UTC()
}

func list[T any](n int) []T {
	if n == 0 {
		return nil
	}
	return make([]T, 0, n)
}

func (d *decoder) record() (r Record, err error) {
	kind := d.octet()
	r.Time = d.time(d.seconds)
	d.seconds = r.Time.Unix()
	var sensor string
	if i := d.uint(uint64(len(d.sensors))); i > 0 {
		sensor = d.sensors[i-1]
	} else {
		sensor = string(d.octets(d.many(1)))
		d.sensors = append(d.sensors, sensor)
	}
	r.Sensor = sensor
	switch kind {
	case kindReport:
		r.Report.Sensor = sensor
		d.report(&r.Report)
	case kindSamples:
		n := d.many(15)
		r.Samples = make([]traffic.Sample, n)
		for i := range r.Samples {
			d.oneSample(&r.Samples[i])
		}
	default:
		d.fail(fmt.Errorf("a record has kind %d, which this program does not know", kind))
	}
	return r, d.err
}

func (d *decoder) report(r *traffic.Report) {
	cause := d.octet()
	r.Cause, r.Outbound = traffic.Cause(cause&^causeOutbound), cause&causeOutbound != 0
	r.Start = d.time(d.seconds)
	r.Span = time.Duration(d.int())
	r.Merged = int(d.int())
	n := d.counted(2)
	r.Aggregates = list[traffic.Aggregate](n)
	for range n {
		var a traffic.Aggregate
		a.Target, a.Direction, a.Vector = d.place()
		a.Packets, a.Bytes = d.traffic()
		r.Aggregates = append(r.Aggregates, a)
	}
	n = d.counted(3)
	r.Networks = list[traffic.NetworkTotal](n)
	for range n {
		var t traffic.NetworkTotal
		t.Network, t.Direction, t.Vector = d.place()
		t.Packets, t.Bytes = d.traffic()
		t.ActiveHosts = d.uint32()
		r.Networks = append(r.Networks, t)
	}
	n = d.many(26)
	r.Profiles = list[traffic.Profile](n)
	for range n {
		r.Profiles = append(r.Profiles, d.profile())
	}
}

func (d *decoder) profile() (p traffic.Profile) {
	p.Target, p.Direction, p.Vector = d.place()
	p.Samples, p.Packets = d.uint32(), d.uint(1<<64-1)
	for i := range p.Lengths {
		p.Lengths[i] = d.uint32()
	}
	for i := range p.TTLs {
		p.TTLs[i] = d.uint32()
	}
	p.Fragments = d.uint32()
	for _, to := range [...]*[]traffic.Count{&p.TCPFlags, &p.SourcePorts, &p.DestinationPorts} {
		n := d.many(3)
		*to = list[traffic.Count](n)
		for range n {
			*to = append(*to, traffic.Count{Value: d.uint16(), Count: d.uint32(), Error: d.uint32()})
		}
	}
	n := d.many(3)
	p.Sources = list[traffic.SourceCount](n)
	for range n {
		network, _ := d.prefix(1)
		p.Sources = append(p.Sources, traffic.SourceCount{Network: network, Count: d.uint32(), Error: d.uint32()})
	}
	flags := d.octet()
	p.DistinctExact = flags&profileExact != 0
	if flags&profileSketch == 0 {
		return p
	}
	p.DistinctSources = new(sketch.HyperLogLog)
	if flags&profileSparse == 0 {
		copy(p.DistinctSources[:], d.octets(sketch.Registers))
		return p
	}
	for range int(d.octet()) {
		o := d.octets(2)
		p.DistinctSources[o[0]] = o[1]
	}
	return p
}

func (d *decoder) place() (p netip.Prefix, dir vector.Direction, v vector.ID) {
	if len(d.b) > 0 && d.b[0]&placeSame != 0 {
		p = d.target
		if d.octet()&placeOutbound != 0 {
			dir = vector.Outbound
		}
	} else {
		var flags byte
		p, flags = d.prefix(0)
		if flags&placeOutbound != 0 {
			dir = vector.Outbound
		}
		d.target = p
	}
	return p, dir, vector.ID(d.octet())
}

func (d *decoder) prefix(which int) (netip.Prefix, byte) {
	flags := d.octet()
	if flags&placeNone != 0 || d.err != nil {
		return netip.Prefix{}, flags
	}
	size, unit := 4, 1
	if flags&placeIPv6 != 0 {
		size, unit = 16, 2
	}
	length := size * 8
	if flags&placeHost == 0 {
		length = int(d.octet())
	}
	shared := int(flags>>placeShared) * unit
	last := d.addr[which]
	if length > size*8 || shared > size || shared > 0 && last.BitLen() != size*8 {
		d.fail(errors.New("an address is none"))
		return netip.Prefix{}, flags
	}
	var b [16]byte
	if shared > 0 {
		copy(b[:], last.AsSlice()[:shared])
	}
	copy(b[shared:size], d.octets(size-shared))
	addr, _ := netip.AddrFromSlice(b[:size])
	d.addr[which] = addr
	return netip.PrefixFrom(addr, length), flags
}

func (d *decoder) address(which int) netip.Addr {
	p, _ := d.prefix(which)
	return p.Addr()
}

func (d *decoder) oneSample(s *traffic.Sample) {
	o := d.octets(9)
	if o[0]&sampleOutbound != 0 {
		s.Direction = vector.Outbound
	}
	s.HasPorts, s.HasICMP = o[0]&samplePorts != 0, o[0]&sampleICMP != 0
	s.Vector, s.Protocol, s.TTL, s.DSCP, s.Fragment = vector.ID(o[1]), o[2], o[3], o[4], o[5]
	s.TCPFlags, s.ICMPType, s.ICMPCode = o[6], o[7], o[8]
	s.Time = d.time(d.sample)
	d.sample = s.Time.Unix()
	s.Weight = d.uint32()
	s.Source, s.Destination = d.address(1), d.address(0)
	s.Length, s.FlowLabel = d.uint16(), d.uint32()
	s.SourcePort, s.DestinationPort = d.uint16(), d.uint16()
}
