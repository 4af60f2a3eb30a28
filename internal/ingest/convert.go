package ingest

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"net/netip"
	"slices"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	pb "github.com/amooglesoft/trafficmonitor/api/trafficmonitor/v1"
	"github.com/amooglesoft/trafficmonitor/internal/sensor/classify"
	"github.com/amooglesoft/trafficmonitor/internal/sketch"
	"github.com/amooglesoft/trafficmonitor/internal/traffic"
	"github.com/amooglesoft/trafficmonitor/internal/vector"
)

// Bounds of what a sensor may send.
const (
	maxAggregates = 1 << 20
	maxNetworks   = 1 << 20
	maxProfiles   = 1 << 15
	maxTop        = 256 // values and networks of a distribution
	minSpan       = time.Millisecond
	maxSpan       = 5 * time.Minute
	maxMergedSpan = 366 * 24 * time.Hour // of what sensors merged while no controller listened
	maxSamples    = 1 << 16
	maxDelivered  = 1 << 10 // samples in one delivery
	maxHeader     = 128
	maxName       = 128
)

// Watch is how closely sensors look, whatever the policy says.
type Watch struct {
	// SampleOneIn and HotSampleOneIn: one packet in so many is sampled, and of targets that triggered. 0 samples none,
	// and of targets that triggered as of others.
	SampleOneIn, HotSampleOneIn uint32
	// Profiles is how many of its busiest targets each sensor describes at the report interval, at most 1024.
	Profiles int
	// ReportInterval is 100 ms to 60 s, HotInterval 20 ms to 10 s.
	ReportInterval, HotInterval time.Duration
	// ReflectionPorts are UDP source ports beside those of the vector table, and may move ports of that table to another
	// reflection vector.
	ReflectionPorts map[uint16]vector.ID
}

// Directive is what sensors are told to watch, in our own types.
type Directive struct {
	Term, Revision uint64
	Protected      []netip.Prefix
	Triggers       []Trigger
	Watch
}

// Trigger is the rate from which on a sensor reports at once; 0 is no limit.
type Trigger struct {
	Vector    vector.ID
	Direction vector.Direction
	PPS       uint64
	BPS       uint64
}

func (d *Directive) proto() *pb.Directive {
	out := &pb.Directive{
		Version:        &pb.DirectiveVersion{Term: d.Term, Revision: d.Revision},
		SampleOneIn:    d.SampleOneIn,
		HotSampleOneIn: d.HotSampleOneIn,
		Profiles:       uint32(d.Profiles),
		ReportInterval: durationpb.New(d.ReportInterval),
		HotInterval:    durationpb.New(d.HotInterval),
	}
	for _, p := range d.Protected {
		out.ProtectedPrefixes = append(out.ProtectedPrefixes, p.String())
	}
	for _, t := range d.Triggers {
		out.Triggers = append(out.Triggers, &pb.Trigger{
			Vector: uint32(t.Vector), PacketsPerSecond: t.PPS, BitsPerSecond: t.BPS, Direction: directionProto(t.Direction),
		})
	}
	ports := map[uint16]vector.ID{}
	for _, v := range vector.Reflections() {
		for _, port := range v.SourcePorts {
			ports[port] = v.ID
		}
	}
	maps.Copy(ports, d.ReflectionPorts)
	for _, port := range slices.Sorted(maps.Keys(ports)) {
		out.ReflectionPorts = append(out.ReflectionPorts, &pb.ReflectionPort{Port: uint32(port), Vector: uint32(ports[port])})
	}
	return out
}

func directionProto(d vector.Direction) pb.Direction {
	if d == vector.Outbound {
		return pb.Direction_DIRECTION_OUTBOUND
	}
	return pb.Direction_DIRECTION_INBOUND
}

// report converts a report and says what is wrong with it. Nothing of a wrong report is used.
func report(sensor string, r *pb.Report) (traffic.Report, error) {
	out := traffic.Report{Sensor: sensor}
	switch r.GetCause() {
	case pb.Report_CAUSE_INTERVAL:
		out.Cause = traffic.Interval
	case pb.Report_CAUSE_TRIGGER:
		out.Cause = traffic.Trigger
	case pb.Report_CAUSE_HOT:
		out.Cause = traffic.Hot
	default:
		return out, fmt.Errorf("cause %d is not known", r.GetCause())
	}
	if r.GetStartTime().CheckValid() != nil {
		return out, errors.New("start_time is missing or out of range")
	}
	out.Start = r.GetStartTime().AsTime()
	out.Span = r.GetSpan().AsDuration()
	out.Merged = int(r.GetMerged())
	longest := maxSpan
	if out.Merged > 1 {
		longest = maxMergedSpan
		if out.Cause != traffic.Interval {
			return out, fmt.Errorf("merged is %d, but only interval reports are merged", out.Merged)
		}
	}
	if r.GetSpan().CheckValid() != nil || out.Span < minSpan || out.Span > longest {
		return out, fmt.Errorf("span %s is outside %s to %s", out.Span, minSpan, longest)
	}
	if n := len(r.GetAggregates()); n > maxAggregates {
		return out, fmt.Errorf("%d aggregates are more than %d", n, maxAggregates)
	}
	if n := len(r.GetNetworks()); n > maxNetworks {
		return out, fmt.Errorf("%d networks are more than %d", n, maxNetworks)
	}
	if n := len(r.GetProfiles()); n > maxProfiles {
		return out, fmt.Errorf("%d profiles are more than %d", n, maxProfiles)
	}
	out.Aggregates = make([]traffic.Aggregate, 0, len(r.GetAggregates()))
	for i, a := range r.GetAggregates() {
		k, err := placeOf("target", a)
		if err != nil {
			return out, fmt.Errorf("aggregates[%d]%w", i, err)
		}
		out.Aggregates = append(out.Aggregates, traffic.Aggregate{
			Target: k.target, Direction: k.direction, Vector: k.vector, Packets: a.GetPackets(), Bytes: a.GetBytes(),
		})
	}
	for i, n := range r.GetNetworks() {
		k, err := placeOf("network", network{n})
		if err != nil {
			return out, fmt.Errorf("networks[%d]%w", i, err)
		}
		out.Networks = append(out.Networks, traffic.NetworkTotal{
			Network: k.target, Direction: k.direction, Vector: k.vector, Packets: n.GetPackets(), Bytes: n.GetBytes(), ActiveHosts: n.GetActiveHosts(),
		})
	}
	for i, p := range r.GetProfiles() {
		x, err := profile(p)
		if err != nil {
			return out, fmt.Errorf("profiles[%d]%w", i, err)
		}
		out.Profiles = append(out.Profiles, x)
	}
	return out, nil
}

// place is what aggregates, totals and profiles are of.
type place struct {
	target    netip.Prefix
	direction vector.Direction
	vector    vector.ID
}

type placed interface {
	GetTarget() []byte
	GetPrefixLength() uint32
	GetDirection() pb.Direction
	GetVector() uint32
}

// network calls a network a target.
type network struct{ *pb.NetworkTotal }

func (n network) GetTarget() []byte { return n.GetNetwork() }

// placeOf reads what m is of; its address stands in field. Its error begins with the field.
func placeOf(field string, m placed) (k place, err error) {
	if k.target, err = prefix(field, m.GetTarget(), m.GetPrefixLength()); err != nil {
		return k, err
	}
	if m.GetVector() >= vector.Count {
		return k, fmt.Errorf(".vector: %d is not below %d", m.GetVector(), vector.Count)
	}
	k.vector = vector.ID(m.GetVector())
	switch m.GetDirection() {
	case pb.Direction_DIRECTION_UNSPECIFIED, pb.Direction_DIRECTION_INBOUND:
		k.direction = vector.Inbound
	case pb.Direction_DIRECTION_OUTBOUND:
		k.direction = vector.Outbound
	default:
		return k, fmt.Errorf(".direction: %d is neither inbound (1) nor outbound (2)", m.GetDirection())
	}
	return k, nil
}

func prefix(field string, address []byte, bits uint32) (netip.Prefix, error) {
	addr, ok := netip.AddrFromSlice(address)
	if !ok || addr.Is4In6() {
		return netip.Prefix{}, fmt.Errorf(".%s: %.40x is no address of 4 or 16 octets", field, address)
	}
	p, err := addr.Prefix(int(min(bits, 255)))
	if err != nil || p.Addr() != addr {
		return netip.Prefix{}, fmt.Errorf(": %s/%d is no prefix", addr, bits)
	}
	return p, nil
}

// profile reads a profile. Its error begins with the field.
func profile(p *pb.Profile) (out traffic.Profile, err error) {
	k, err := placeOf("target", p)
	if err != nil {
		return out, err
	}
	out = traffic.Profile{
		Target: k.target, Direction: k.direction, Vector: k.vector, Samples: p.GetSamples(), Packets: p.GetPackets(), Fragments: p.GetFragments(),
	}
	for _, d := range []struct {
		name string
		from []uint32
		to   []uint32
	}{{"lengths", p.GetLengths(), out.Lengths[:]}, {"ttls", p.GetTtls(), out.TTLs[:]}} {
		if len(d.from) > len(d.to) {
			return out, fmt.Errorf(".%s: %d classes are more than %d", d.name, len(d.from), len(d.to))
		}
		copy(d.to, d.from)
	}
	for _, d := range []struct {
		name  string
		from  []*pb.Count
		to    *[]traffic.Count
		limit uint32
	}{
		{"tcp_flags", p.GetTcpFlags(), &out.TCPFlags, 1<<6 - 1},
		{"source_ports", p.GetSourcePorts(), &out.SourcePorts, 1<<16 - 1},
		{"destination_ports", p.GetDestinationPorts(), &out.DestinationPorts, 1<<16 - 1},
	} {
		if len(d.from) > maxTop {
			return out, fmt.Errorf(".%s: %d values are more than %d", d.name, len(d.from), maxTop)
		}
		for i, c := range d.from {
			if c.GetValue() > d.limit || c.GetError() > c.GetCount() {
				return out, fmt.Errorf(".%s[%d]: value %d (at most %d), count %d, error %d", d.name, i, c.GetValue(), d.limit, c.GetCount(), c.GetError())
			}
			*d.to = append(*d.to, traffic.Count{Value: uint16(c.GetValue()), Count: c.GetCount(), Error: c.GetError()})
		}
	}
	if len(p.GetSources()) > maxTop {
		return out, fmt.Errorf(".sources: %d networks are more than %d", len(p.GetSources()), maxTop)
	}
	for i, c := range p.GetSources() {
		n, err := prefix("network", c.GetNetwork(), c.GetPrefixLength())
		if err != nil {
			return out, fmt.Errorf(".sources[%d]%w", i, err)
		}
		if c.GetError() > c.GetCount() {
			return out, fmt.Errorf(".sources[%d]: count %d, error %d", i, c.GetCount(), c.GetError())
		}
		out.Sources = append(out.Sources, traffic.SourceCount{Network: n, Count: c.GetCount(), Error: c.GetError()})
	}
	if len(p.GetDistinctSources()) > 0 {
		if out.DistinctSources, err = sketch.Parse(p.GetDistinctSources()); err != nil {
			return out, fmt.Errorf(".distinct_sources: %w", err)
		}
		out.DistinctExact = p.GetDistinctExact()
	}
	return out, nil
}

// checkSamples says what is wrong with samples.
func checkSamples(b *pb.SampleBatch) error {
	if n := len(b.GetSamples()); n > maxSamples {
		return fmt.Errorf("%d samples in a batch are more than %d", n, maxSamples)
	}
	for i, x := range b.GetSamples() {
		if x.GetVector() >= vector.Count {
			return fmt.Errorf("samples[%d].vector: %d is not below %d", i, x.GetVector(), vector.Count)
		}
		if d := x.GetDirection(); d < pb.Direction_DIRECTION_UNSPECIFIED || d > pb.Direction_DIRECTION_OUTBOUND {
			return fmt.Errorf("samples[%d].direction: %d is neither inbound (1) nor outbound (2)", i, d)
		}
		if n := len(x.GetHeader()); n > maxHeader {
			return fmt.Errorf("samples[%d].header: %d octets are more than %d", i, n, maxHeader)
		}
	}
	return nil
}

// sampleOf reads the head of a packet; ahead is how much the sensor's clock is before ours. It is false for a header that
// contradicts itself though the sensor's own counting took it for sound, and for one without addresses.
func sampleOf(now time.Time, ahead time.Duration, x *pb.Sample) (traffic.Sample, bool) {
	direction := vector.Inbound
	if x.GetDirection() == pb.Direction_DIRECTION_OUTBOUND {
		direction = vector.Outbound
	}
	at := now
	if t := x.GetTime(); t != nil && t.CheckValid() == nil {
		if at = t.AsTime().Add(-ahead); at.After(now) {
			at = now
		}
	}
	octets := int(min(x.GetLength(), math.MaxInt32))
	r := classify.PacketOf(direction, x.GetHeader(), octets, nil) // the vector is known
	id := vector.ID(x.GetVector())
	if !r.Source.IsValid() || r.Source.Is4In6() || r.Destination.Is4In6() || r.Vector == vector.Malformed && id != vector.Malformed {
		return traffic.Sample{}, false
	}
	r.Vector = id
	r.Length = segment(&r, x.GetHeader(), octets)
	return r.Sample(at, direction, x.GetWeight()), true
}

// segment is the length of a packet on the wire. Where the sensor's host merged packets (GRO), the header says the
// length of what was merged without the headers left out, octets with them: from the two follows how many there were,
// and so their mean length.
func segment(r *classify.Result, header []byte, octets int) int {
	left := octets - r.Length
	if left <= 0 || !r.Ports || len(header) < 20 {
		return r.Length
	}
	at := int(header[0]&15) * 4
	if header[0]>>4 == 6 {
		if at = 40; len(header) < 40 || header[6] != r.Protocol {
			return r.Length // extension headers: nobody merges those
		}
	}
	headers := at + 8
	if r.Protocol == 6 {
		if len(header) < at+13 {
			return r.Length
		}
		headers = at + int(header[at+12]>>4)*4
	}
	if left%headers != 0 {
		return r.Length
	}
	n := 1 + left/headers
	return (octets + n - 1) / n
}

func validName(s string) bool {
	if s == "" || len(s) > maxName {
		return false
	}
	for _, c := range []byte(s) {
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '.', c == '_', c == '-':
		default:
			return false
		}
	}
	return true
}
