package ingest

import (
	"errors"
	"fmt"
	"net/netip"
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

// Directive is what sensors are told to watch, in our own types.
type Directive struct {
	Term, Revision uint64
	Protected      []netip.Prefix
	Triggers       []Trigger
	SampleOneIn    uint32
	ReportInterval time.Duration
	HotInterval    time.Duration
}

// Trigger is the rate from which on a sensor reports at once; 0 is no limit.
type Trigger struct {
	Vector vector.ID
	PPS    uint64
	BPS    uint64
}

func (d *Directive) proto() *pb.Directive {
	out := &pb.Directive{
		Version:        &pb.DirectiveVersion{Term: d.Term, Revision: d.Revision},
		SampleOneIn:    d.SampleOneIn,
		ReportInterval: durationpb.New(d.ReportInterval),
		HotInterval:    durationpb.New(d.HotInterval),
	}
	for _, p := range d.Protected {
		out.ProtectedPrefixes = append(out.ProtectedPrefixes, p.String())
	}
	for _, t := range d.Triggers {
		out.Triggers = append(out.Triggers, &pb.Trigger{Vector: uint32(t.Vector), PacketsPerSecond: t.PPS, BitsPerSecond: t.BPS})
	}
	for _, v := range vector.Reflections() {
		for _, port := range v.SourcePorts {
			out.ReflectionPorts = append(out.ReflectionPorts, &pb.ReflectionPort{Port: uint32(port), Vector: uint32(v.ID)})
		}
	}
	return out
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
