package policy

import (
	"net/netip"
	"strings"
	"time"

	"github.com/google/cel-go/cel"
	"github.com/google/cel-go/common/types"

	"github.com/amooglesoft/trafficmonitor/internal/vector"
)

// Incident is what a policy is asked about: one vector of an attack on one target.
type Incident struct {
	Target    netip.Prefix
	Vector    vector.ID
	Direction vector.Direction

	// Measured means that what follows is known; where it is false, nothing that a policy says about it holds.
	Measured bool
	// PPS and BPS are the rates of the vector now, per second and counted from the IP header on, and the Peaks the highest.
	PPS, BPS         float64
	PeakPPS, PeakBPS float64
	// Duration is how long the incident lasts.
	Duration time.Duration
	// Test is what the vector passed: limit, unanswered, spoofed, unusual or share.
	Test string
	// Sensors is how many see it, Hosts in how many hosts of a network it arrives (1 of a host).
	Sensors, Hosts int
	// Flaps means that another incident ended shortly before at the same target.
	Flaps bool
	// Collateral is the share, 0 to 1, of the target's normal traffic that the match is predicted to hit; negative: not
	// known.
	Collateral float64
}

// question is an incident with what the policy knows itself.
type question struct {
	Incident
	group string
	now   time.Time
}

var incidentNames = []name{
	{"incident.vector", cel.StringType, "the vector, such as \"syn\""},
	{"incident.direction", cel.StringType, "\"inbound\" or \"outbound\""},
	{"incident.target", cel.StringType, "the target's prefix, such as \"203.0.113.5/32\""},
	{"incident.network", cel.BoolType, "whether the target is a network, not a host"},
	{"incident.pps", cel.DoubleType, "packets per second of the vector now"},
	{"incident.bps", cel.DoubleType, "bits per second of the vector now"},
	{"incident.peak_pps", cel.DoubleType, "the highest packets per second so far"},
	{"incident.peak_bps", cel.DoubleType, "the highest bits per second so far"},
	{"incident.duration", cel.DurationType, "how long the incident lasts"},
	{"incident.test", cel.StringType, "what was passed: \"limit\", \"unanswered\", \"spoofed\", \"unusual\" or \"share\""},
	{"incident.spoofed", cel.BoolType, "whether nearly every packet has a source of its own"},
	{"incident.sensors", cel.IntType, "how many sensors see it"},
	{"incident.hosts", cel.IntType, "in how many hosts of a network it arrives; 1 of a host"},
	{"incident.flaps", cel.BoolType, "whether another incident ended shortly before at the target"},
	{"incident.collateral", cel.DoubleType, "the share of normal traffic, 0.0 to 1.0, that the match is predicted to hit; not known before samples were seen"},
	{"target.group", cel.StringType, "the group of the target; \"default\" where no other holds it"},
	{"now.hour", cel.IntType, "the hour in UTC, 0 to 23"},
	{"now.minute", cel.IntType, "the minute, 0 to 59"},
	{"now.weekday", cel.StringType, "the day in UTC: \"monday\" to \"sunday\""},
}

func (q *question) variable(name string) (any, bool) {
	switch name {
	case "incident.vector":
		return types.String(q.Vector.String()), true
	case "incident.direction":
		return types.String(q.Direction.String()), true
	case "incident.target":
		return types.String(q.Target.String()), true
	case "incident.network":
		return types.Bool(!q.Target.IsSingleIP()), true
	case "target.group":
		return types.String(q.group), true
	case "now.hour":
		return types.Int(q.now.UTC().Hour()), true
	case "now.minute":
		return types.Int(q.now.UTC().Minute()), true
	case "now.weekday":
		return types.String(strings.ToLower(q.now.UTC().Weekday().String())), true
	}
	if !q.Measured || name == "incident.collateral" && q.Collateral < 0 {
		return notKnown(name), true
	}
	switch name {
	case "incident.pps":
		return types.Double(q.PPS), true
	case "incident.bps":
		return types.Double(q.BPS), true
	case "incident.peak_pps":
		return types.Double(q.PeakPPS), true
	case "incident.peak_bps":
		return types.Double(q.PeakBPS), true
	case "incident.duration":
		return types.Duration{Duration: q.Duration}, true
	case "incident.test":
		return types.String(q.Test), true
	case "incident.spoofed":
		return types.Bool(q.Test == "spoofed"), true
	case "incident.sensors":
		return types.Int(q.Sensors), true
	case "incident.hosts":
		return types.Int(q.Hosts), true
	case "incident.flaps":
		return types.Bool(q.Flaps), true
	case "incident.collateral":
		return types.Double(q.Collateral), true
	}
	return nil, false
}

// holds reports whether a condition of the policy holds; nil does.
func (q *question) holds(p *predicate) (holds, known bool, err error) {
	if p == nil {
		return true, true, nil
	}
	if q.Measured {
		if err := finite(q.PPS, q.BPS, q.PeakPPS, q.PeakBPS, q.Collateral); err != nil {
			return false, false, err
		}
	}
	return p.eval(q.variable)
}
