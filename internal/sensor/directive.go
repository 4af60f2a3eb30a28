package sensor

import (
	"errors"
	"fmt"
	"math"
	"math/bits"
	"net/netip"
	"time"

	pb "github.com/amooglesoft/trafficmonitor/api/trafficmonitor/v1"
	"github.com/amooglesoft/trafficmonitor/internal/sensor/bpf"
	"github.com/amooglesoft/trafficmonitor/internal/vector"
)

// Bounds of a directive, as sensor.proto says them.
const (
	minReportInterval = 100 * time.Millisecond
	maxReportInterval = time.Minute
	minHotInterval    = 20 * time.Millisecond
	maxHotInterval    = 10 * time.Second
	maxPrefixes       = 1 << 16
	maxProfiles       = 1024
	maxProblems       = 20
)

// version orders directives.
type version struct{ term, revision uint64 }

func (v version) newer(than version) bool {
	return v.term > than.term || v.term == than.term && v.revision > than.revision
}

func (v version) String() string { return fmt.Sprintf("%d.%d", v.term, v.revision) }

func (v version) proto() *pb.DirectiveVersion {
	if v == (version{}) {
		return nil
	}
	return &pb.DirectiveVersion{Term: v.term, Revision: v.revision}
}

// limit is a rate; zero means none.
type limit struct{ pps, bps uint64 }

// directive is what the sensor was told, checked.
type directive struct {
	version        version
	protected      []netip.Prefix
	limits         [bpf.Columns]limit
	ports          [65536]uint8
	sampleOneIn    uint32
	hotSampleOneIn uint32 // of hot targets; never samples less than sampleOneIn
	profiles       int
	report, hot    time.Duration
}

// parseDirective checks a directive as a whole and reports all that is wrong with it.
func parseDirective(p *pb.Directive) (*directive, error) {
	var problems []error
	bad := func(format string, args ...any) {
		if len(problems) < maxProblems {
			problems = append(problems, fmt.Errorf(format, args...))
		}
	}
	d := &directive{
		version:        version{p.GetVersion().GetTerm(), p.GetVersion().GetRevision()},
		sampleOneIn:    p.GetSampleOneIn(),
		hotSampleOneIn: more(p.GetHotSampleOneIn(), p.GetSampleOneIn()),
		profiles:       int(min(p.GetProfiles(), maxProfiles+1)),
		report:         p.GetReportInterval().AsDuration(),
		hot:            p.GetHotInterval().AsDuration(),
	}
	if d.version.revision == 0 {
		bad("version: is missing or has revision 0, which starts at 1")
	}
	if n := len(p.GetProtectedPrefixes()); n > maxPrefixes {
		return nil, fmt.Errorf("protected_prefixes: %d are more than %d", n, maxPrefixes)
	}
	seen := map[netip.Prefix]int{}
	for i, text := range p.GetProtectedPrefixes() {
		prefix, err := netip.ParsePrefix(text)
		switch {
		case err != nil:
			bad("protected_prefixes[%d]: %.64q is no prefix such as 203.0.113.0/24", i, text)
			continue
		case prefix.Addr().Is4In6():
			bad("protected_prefixes[%d]: %s is an IPv4 address written as IPv6: write it as IPv4", i, prefix)
			continue
		case prefix.Masked() != prefix:
			bad("protected_prefixes[%d]: %s has bits set behind its length: %s is meant", i, prefix, prefix.Masked())
			continue
		case prefix.Bits() == 0:
			bad("protected_prefixes[%d]: %s is the whole Internet", i, prefix)
			continue
		}
		if j, ok := seen[prefix]; ok {
			bad("protected_prefixes[%d]: %s is protected_prefixes[%d] already", i, prefix, j)
			continue
		}
		seen[prefix] = i
		d.protected = append(d.protected, prefix)
	}
	told := map[bpf.Column]int{}
	for i, t := range p.GetTriggers() {
		way, err := direction(t.GetDirection())
		if err != nil {
			bad("triggers[%d].direction: %w", i, err)
			continue
		}
		if t.GetVector() >= vector.Count {
			bad("triggers[%d].vector: %d is not below %d", i, t.GetVector(), vector.Count)
			continue
		}
		c := bpf.ColumnOf(way, vector.ID(t.GetVector()))
		if j, ok := told[c]; ok {
			bad("triggers[%d].vector: %s %s has triggers[%d] already", i, way, vector.ID(t.GetVector()), j)
			continue
		}
		told[c] = i
		d.limits[c] = limit{t.GetPacketsPerSecond(), t.GetBitsPerSecond()}
	}
	assigned := map[uint32]int{}
	for i, r := range p.GetReflectionPorts() {
		if r.GetPort() == 0 || r.GetPort() > 65535 {
			bad("reflection_ports[%d].port: %d is outside 1 to 65535", i, r.GetPort())
			continue
		}
		// A port may only lead to a class of answers: as SYN or as the total its packets would be counted wrongly.
		if v, ok := vector.Get(vector.ID(min(r.GetVector(), vector.Count))); !ok || !v.Reflection() {
			bad("reflection_ports[%d].vector: %d is not the number of a reflection vector", i, r.GetVector())
			continue
		}
		if j, ok := assigned[r.GetPort()]; ok {
			bad("reflection_ports[%d].port: %d belongs to reflection_ports[%d] already", i, r.GetPort(), j)
			continue
		}
		assigned[r.GetPort()] = i
		d.ports[r.GetPort()] = uint8(r.GetVector())
	}
	if d.profiles > maxProfiles {
		bad("profiles: %d are more than %d", p.GetProfiles(), maxProfiles)
	}
	if p.GetReportInterval().CheckValid() != nil || d.report < minReportInterval || d.report > maxReportInterval {
		bad("report_interval: %s is outside %s to %s", d.report, minReportInterval, maxReportInterval)
	}
	if p.GetHotInterval().CheckValid() != nil || d.hot < minHotInterval || d.hot > maxHotInterval {
		bad("hot_interval: %s is outside %s to %s", d.hot, minHotInterval, maxHotInterval)
	}
	if len(problems) > 0 {
		return nil, errors.Join(problems...)
	}
	return d, nil
}

// more returns the one of two sampling rates that samples more; 0 samples nothing.
func more(a, b uint32) uint32 {
	if a == 0 || b == 0 {
		return max(a, b)
	}
	return min(a, b)
}

// direction reads a direction; what is not said is inbound.
func direction(d pb.Direction) (vector.Direction, error) {
	switch d {
	case pb.Direction_DIRECTION_UNSPECIFIED, pb.Direction_DIRECTION_INBOUND:
		return vector.Inbound, nil
	case pb.Direction_DIRECTION_OUTBOUND:
		return vector.Outbound, nil
	}
	return 0, fmt.Errorf("%d is neither inbound (1) nor outbound (2)", d)
}

// directionProto writes a direction.
func directionProto(d vector.Direction) pb.Direction {
	if d == vector.Outbound {
		return pb.Direction_DIRECTION_OUTBOUND
	}
	return pb.Direction_DIRECTION_INBOUND
}

// per returns how many of rate per second fall into a window, rounded up; none if there is no limit.
func per(rate uint64, window time.Duration) uint64 {
	if rate == 0 {
		return 0
	}
	hi, lo := bits.Mul64(rate, uint64(window))
	lo, carry := bits.Add64(lo, uint64(time.Second)-1, 0)
	if hi += carry; hi >= uint64(time.Second) {
		return math.MaxUint64
	}
	n, _ := bits.Div64(hi, lo, uint64(time.Second))
	return max(1, n)
}
