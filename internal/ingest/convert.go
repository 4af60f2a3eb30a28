package ingest

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	pb "github.com/amooglesoft/trafficmonitor/api/trafficmonitor/v1"
	"github.com/amooglesoft/trafficmonitor/internal/traffic"
	"github.com/amooglesoft/trafficmonitor/internal/vector"
)

// Bounds of what a sensor may send.
const (
	maxAggregates = 1 << 20
	minSpan       = time.Millisecond
	maxSpan       = 5 * time.Minute
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
	if r.GetSpan().CheckValid() != nil || out.Span < minSpan || out.Span > maxSpan {
		return out, fmt.Errorf("span %s is outside %s to %s", out.Span, minSpan, maxSpan)
	}
	if n := len(r.GetAggregates()); n > maxAggregates {
		return out, fmt.Errorf("%d aggregates are more than %d", n, maxAggregates)
	}
	out.Aggregates = make([]traffic.Aggregate, 0, len(r.GetAggregates()))
	for i, a := range r.GetAggregates() {
		addr, ok := netip.AddrFromSlice(a.GetTarget())
		if !ok || addr.Is4In6() {
			return out, fmt.Errorf("aggregates[%d].target: %x is no address of 4 or 16 octets", i, a.GetTarget())
		}
		p, err := addr.Prefix(int(min(a.GetPrefixLength(), 255)))
		if err != nil || p.Addr() != addr {
			return out, fmt.Errorf("aggregates[%d]: %s/%d is no prefix", i, addr, a.GetPrefixLength())
		}
		if a.GetVector() >= vector.Count {
			return out, fmt.Errorf("aggregates[%d].vector: %d is not below %d", i, a.GetVector(), vector.Count)
		}
		out.Aggregates = append(out.Aggregates, traffic.Aggregate{Target: p, Vector: vector.ID(a.GetVector()), Packets: a.GetPackets(), Bytes: a.GetBytes()})
	}
	return out, nil
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
