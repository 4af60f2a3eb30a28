package policy

import (
	"net/netip"
	"time"

	"github.com/amooglesoft/trafficmonitor/internal/detect"
	"github.com/amooglesoft/trafficmonitor/internal/vector"
)

// Rules is what the policy tells a detector.
func (p *Policy) Rules() detect.Rules { return rules{p} }

// Observed is what a detector knows of one vector of an incident. The collateral is not known.
func Observed(inc detect.Incident, v vector.ID, now time.Time) Incident {
	out := Incident{
		Target: inc.Target, Vector: v, Direction: inc.Direction, Duration: now.Sub(inc.Onset), Sensors: len(inc.Sensors), Hosts: max(inc.ActiveHosts, 1),
		Flaps: inc.Previous != "", Collateral: -1,
	}
	for _, m := range inc.Vectors {
		if m.Vector == v {
			out.Measured, out.Test = true, m.Test.String()
			out.PPS, out.BPS, out.PeakPPS, out.PeakBPS = m.PPS, m.BPS, m.PeakPPS, m.PeakBPS
		}
	}
	return out
}

type rules struct{ p *Policy }

func (r rules) Limits(s detect.Site, v vector.ID) detect.Limits {
	l := r.p.Limits(s.Target, v)
	switch {
	case s.Network && s.Direction == vector.Outbound:
		return detect.Limits{}
	case s.Network:
		l = r.p.Networks(s.Target, v)
	case s.Direction == vector.Outbound:
		l = r.p.Outbound(s.Target, v)
	}
	return detect.Limits{
		PPS: l.PPS, BPS: l.BPS, Windows: l.Windows, Unanswered: l.Unanswered, UnansweredWindows: l.UnansweredWindows, Spoofed: l.Spoofed,
		Share: l.Share, ShareFrom: l.ShareFrom,
		Hosts: l.Hosts, EndBelow: l.EndBelow, EndAfter: l.EndAfter,
	}
}

func (r rules) Baseline() detect.Baseline {
	b := r.p.Baseline()
	return detect.Baseline{Above: b.Above, Cap: b.Cap, Factor: b.Factor, Floor: b.Floor}
}

func (r rules) Group(target netip.Prefix) string { return r.p.Group(target) }
