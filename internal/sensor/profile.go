package sensor

import (
	"cmp"
	"math"
	"net/netip"
	"slices"
	"time"

	pb "github.com/amooglesoft/trafficmonitor/api/trafficmonitor/v1"
	"github.com/amooglesoft/trafficmonitor/internal/sensor/bpf"
	"github.com/amooglesoft/trafficmonitor/internal/sensor/classify"
	"github.com/amooglesoft/trafficmonitor/internal/sketch"
	"github.com/amooglesoft/trafficmonitor/internal/traffic"
	"github.com/amooglesoft/trafficmonitor/internal/vector"
)

const (
	// hotProfiles is how many vectors of hot targets are described at once, whatever the directive says of others.
	hotProfiles = 256
	// profileInterval is the time between two profiles of a hot target.
	profileInterval = time.Second
	// topSources and topPorts are the counters of a profile's distributions: what makes up more than a thirty-second and
	// a sixteenth of the samples is found.
	topSources, topPorts = 32, 16
)

// profileKey is what one profile describes.
type profileKey struct {
	target netip.Prefix
	column bpf.Column
}

// profile describes samples, in memory that is fixed and used again.
type profile struct {
	key                           profileKey
	hot                           bool
	since                         time.Time
	samples, fragments            uint32
	packets                       uint64
	lengths                       [traffic.LengthClasses]uint32
	ttls                          [traffic.TTLClasses]uint32
	flags                         [64]uint32
	sourcePorts, destinationPorts sketch.Top[uint16]
	sources                       sketch.Top[uint64] // the first 64 bits of a /24 or /48
	distinct                      sketch.HyperLogLog
}

// profiler describes what the packets of hot targets are like, and those of the busiest. How many there are at once is
// fixed, so that neither spoofed sources nor a sweep over our addresses need memory.
type profiler struct {
	busiest int // how many of those that are not hot
	spare   []*profile
	of      map[profileKey]*profile
	hot     map[netip.Prefix][]*profile // those of of that are hot, by target
	heated  int                         // how many those are
	lengths map[bool][]int              // of targets described, by whether they are IPv4
}

func newProfiler() *profiler {
	return &profiler{of: map[profileKey]*profile{}, hot: map[netip.Prefix][]*profile{}, lengths: map[bool][]int{}}
}

// limit says how many of the busiest are described from now on.
func (p *profiler) limit(busiest int) { p.busiest = min(busiest, maxProfiles) }

// heat describes a vector of a hot target from now on; false says that there is no room for more.
func (p *profiler) heat(k profileKey, now time.Time) bool {
	x := p.of[k]
	if x != nil && x.hot || k.column.Vector() == vector.Total {
		return true
	}
	if p.heated == hotProfiles {
		return false
	}
	p.heated++
	if x == nil {
		x = p.begin(k)
	}
	x.hot, x.since = true, now
	p.hot[k.target] = append(p.hot[k.target], x)
	return true
}

// cool says that a target is not hot any more: what was gathered belongs to the next interval report.
func (p *profiler) cool(target netip.Prefix) {
	for _, x := range p.hot[target] {
		x.hot = false
		p.heated--
	}
	delete(p.hot, target)
}

// choose takes the busiest of what was reported, to be described until the next report, and lets go of those that are
// not among them any more. What goes on keeps what it gathered; call rest before.
func (p *profiler) choose(aggregates []*pb.Aggregate) {
	busy := make([]*pb.Aggregate, 0, p.busiest+1)
	for _, a := range aggregates {
		if p.busiest == 0 || vector.ID(a.Vector) == vector.Total || a.Packets == 0 || len(busy) == p.busiest && !busier(a, busy[len(busy)-1]) {
			continue
		}
		i, _ := slices.BinarySearchFunc(busy, a, func(a, b *pb.Aggregate) int {
			if busier(a, b) {
				return -1
			}
			return 1
		})
		busy = slices.Insert(busy, i, a)
		busy = busy[:min(len(busy), p.busiest)]
	}
	wanted := make(map[profileKey]bool, len(busy))
	for _, a := range busy {
		way, _ := direction(a.Direction)
		wanted[profileKey{prefixOf(a.Target, a.PrefixLength), bpf.ColumnOf(way, vector.ID(a.Vector))}] = true
	}
	for k, x := range p.of {
		if !x.hot && !wanted[k] {
			p.end(x)
		}
	}
	for k := range wanted {
		if p.of[k] == nil {
			p.begin(k)
		}
	}
	clear(p.lengths)
	for k := range p.of {
		p.know(k.target)
	}
}

// busier orders by packets; among equals what comes first in a report goes first.
func busier(a, b *pb.Aggregate) bool {
	return cmp.Or(cmp.Compare(b.Packets, a.Packets), compareAggregates(a, b)) < 0
}

func (p *profiler) begin(k profileKey) *profile {
	var x *profile
	if n := len(p.spare); n > 0 {
		x, p.spare = p.spare[n-1], p.spare[:n-1]
	} else {
		x = &profile{
			sourcePorts: sketch.NewTop[uint16](topPorts), destinationPorts: sketch.NewTop[uint16](topPorts),
			sources: sketch.NewTop[uint64](topSources),
		}
	}
	x.key = k
	p.of[k] = x
	p.know(k.target)
	return x
}

func (p *profiler) know(target netip.Prefix) {
	if four := target.Addr().Is4(); !slices.Contains(p.lengths[four], target.Bits()) {
		p.lengths[four] = append(p.lengths[four], target.Bits())
	}
}

// end keeps a profile for another use, but not more of them than may be needed.
func (p *profiler) end(x *profile) {
	delete(p.of, x.key)
	if len(p.spare)+len(p.of) < p.busiest+hotProfiles {
		x.reset()
		p.spare = append(p.spare, x)
	}
}

// add describes a sample wherever its target, or a network around it, is described.
func (p *profiler) add(s bpf.Sample) {
	if len(p.of) == 0 {
		return
	}
	r := classify.PacketOf(s.Direction, s.Header, int(s.Length), nil)
	if !r.Target.IsValid() {
		return
	}
	other := r.Source
	if s.Direction == vector.Outbound {
		other = r.Destination
	}
	for _, bits := range p.lengths[r.Target.Is4()] {
		k := profileKey{netip.PrefixFrom(r.Target, bits).Masked(), bpf.ColumnOf(s.Direction, s.Vector)}
		if x := p.of[k]; x != nil {
			x.add(s, r, other)
		}
	}
}

func (x *profile) add(s bpf.Sample, r classify.Result, other netip.Addr) {
	x.samples++
	x.packets += uint64(s.Weight)
	x.lengths[traffic.LengthClass(int(s.Length))]++
	x.ttls[traffic.TTLClass(r.TTL)]++
	if r.Fragment {
		x.fragments++
	}
	if r.Ports {
		x.sourcePorts.Add(r.SourcePort, 1)
		x.destinationPorts.Add(r.DestinationPort, 1)
		if r.Protocol == 6 {
			x.flags[r.Flags&63]++
		}
	}
	high, low := halves(other)
	x.sources.Add(high&sourceMask(other), 1)
	x.distinct.Add(sketch.Mix(high, low))
}

func (x *profile) reset() {
	*x = profile{
		key: x.key, hot: x.hot, since: x.since, sourcePorts: x.sourcePorts, destinationPorts: x.destinationPorts, sources: x.sources,
	}
	x.sourcePorts.Reset()
	x.destinationPorts.Reset()
	x.sources.Reset()
}

// sourceBits are the lengths of the networks sources are summed for.
const sourceBits4, sourceBits6 = 24, 48

func sourceMask(a netip.Addr) uint64 {
	bits := sourceBits6
	if a.Is4() {
		bits = sourceBits4
	}
	return ^uint64(0) << (64 - bits)
}

// halves returns the first and the last 64 bits of an address; IPv4 stands in the first ones.
func halves(a netip.Addr) (high, low uint64) {
	var b [16]byte
	if a.Is4() {
		b4 := a.As4()
		copy(b[:], b4[:])
	} else {
		b = a.As16()
	}
	for i := range 8 {
		high, low = high<<8|uint64(b[i]), low<<8|uint64(b[8+i])
	}
	return high, low
}

// ofHot returns the profiles of a hot target that are due, and begins them anew.
func (p *profiler) ofHot(target netip.Prefix, now time.Time) (out []*pb.Profile) {
	for _, x := range p.hot[target] {
		if now.Sub(x.since) >= profileInterval {
			x.since = now
			out = x.take(out)
		}
	}
	return out
}

// rest returns the profiles of what is not hot, and begins them anew.
func (p *profiler) rest() (out []*pb.Profile) {
	for _, x := range p.of {
		if !x.hot {
			out = x.take(out)
		}
	}
	sortProfiles(out)
	return out
}

func (x *profile) take(list []*pb.Profile) []*pb.Profile {
	if x.samples == 0 {
		return list
	}
	list = append(list, x.proto())
	x.reset()
	return list
}

func sortProfiles(list []*pb.Profile) {
	slices.SortFunc(list, func(a, b *pb.Profile) int {
		return cmp.Or(cmp.Compare(len(a.Target), len(b.Target)), slices.Compare(a.Target, b.Target), cmp.Compare(a.PrefixLength, b.PrefixLength),
			cmp.Compare(a.Direction, b.Direction), cmp.Compare(a.Vector, b.Vector))
	})
}

func (x *profile) proto() *pb.Profile {
	t := x.key.target
	out := &pb.Profile{
		Target: t.Addr().AsSlice(), PrefixLength: uint32(t.Bits()), Direction: directionProto(x.key.column.Direction()), Vector: uint32(x.key.column.Vector()),
		Samples: x.samples, Packets: x.packets, Lengths: slices.Clone(x.lengths[:]), Ttls: slices.Clone(x.ttls[:]), Fragments: x.fragments,
		SourcePorts: counts(&x.sourcePorts), DestinationPorts: counts(&x.destinationPorts), DistinctSources: slices.Clone(x.distinct[:]),
	}
	for flags, n := range x.flags {
		if n > 0 {
			out.TcpFlags = append(out.TcpFlags, &pb.Count{Value: uint32(flags), Count: n})
		}
	}
	slices.SortStableFunc(out.TcpFlags, func(a, b *pb.Count) int { return cmp.Compare(b.Count, a.Count) })
	for _, c := range x.sources.Sorted() {
		network := make([]byte, 0, 16)
		for i := 7; i >= 0; i-- {
			network = append(network, byte(c.Value>>(8*i)))
		}
		bits := sourceBits4
		if t.Addr().Is6() {
			network, bits = network[:16], sourceBits6
		} else {
			network = network[:4]
		}
		out.Sources = append(out.Sources, &pb.SourceCount{Network: network, PrefixLength: uint32(bits), Count: narrow(c.Count), Error: narrow(c.Error)})
	}
	return out
}

func counts(t *sketch.Top[uint16]) []*pb.Count {
	var out []*pb.Count
	for _, c := range t.Sorted() {
		out = append(out, &pb.Count{Value: uint32(c.Value), Count: narrow(c.Count), Error: narrow(c.Error)})
	}
	return out
}

func narrow(n uint64) uint32 { return uint32(min(n, math.MaxUint32)) }
