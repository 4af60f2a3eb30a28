package sensor

import (
	"errors"
	"fmt"
	"math"
	"math/bits"
	"net/netip"
	"time"

	pb "github.com/amooglesoft/trafficmonitor/api/trafficmonitor/v1"
	"github.com/amooglesoft/trafficmonitor/internal/vector"
)

// Bounds of a directive, as sensor.proto says them.
const (
	minReportInterval = 100 * time.Millisecond
	maxReportInterval = time.Minute
	minHotInterval    = 20 * time.Millisecond
	maxHotInterval    = 10 * time.Second
	maxPrefixes       = 1 << 16
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
	version     version
	protected   []netip.Prefix
	limits      [vector.Count]limit
	ports       [65536]uint8
	sampleOneIn uint32
	report, hot time.Duration
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
		version:     version{p.GetVersion().GetTerm(), p.GetVersion().GetRevision()},
		sampleOneIn: p.GetSampleOneIn(),
		report:      p.GetReportInterval().AsDuration(),
		hot:         p.GetHotInterval().AsDuration(),
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
	told := map[uint32]int{}
	for i, t := range p.GetTriggers() {
		if t.GetVector() >= vector.Count {
			bad("triggers[%d].vector: %d is not below %d", i, t.GetVector(), vector.Count)
			continue
		}
		if j, ok := told[t.GetVector()]; ok {
			bad("triggers[%d].vector: %s has triggers[%d] already", i, vector.ID(t.GetVector()), j)
			continue
		}
		told[t.GetVector()] = i
		d.limits[t.GetVector()] = limit{t.GetPacketsPerSecond(), t.GetBitsPerSecond()}
	}
	assigned := map[uint32]int{}
	for i, r := range p.GetReflectionPorts() {
		if r.GetPort() == 0 || r.GetPort() > 65535 {
			bad("reflection_ports[%d].port: %d is outside 1 to 65535", i, r.GetPort())
			continue
		}
		if r.GetVector() == 0 || r.GetVector() >= vector.Count {
			bad("reflection_ports[%d].vector: %d is outside 1 to %d", i, r.GetVector(), vector.Count-1)
			continue
		}
		if j, ok := assigned[r.GetPort()]; ok {
			bad("reflection_ports[%d].port: %d belongs to reflection_ports[%d] already", i, r.GetPort(), j)
			continue
		}
		assigned[r.GetPort()] = i
		d.ports[r.GetPort()] = uint8(r.GetVector())
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
