package policy

import (
	"net/netip"

	"github.com/amooglesoft/trafficmonitor/internal/detect"
	"github.com/amooglesoft/trafficmonitor/internal/vector"
)

// Rules is what the policy tells a detector.
func (p *Policy) Rules() detect.Rules { return rules{p} }

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
		Hosts: l.Hosts, EndBelow: l.EndBelow, EndAfter: l.EndAfter,
	}
}

func (r rules) Baseline() detect.Baseline {
	b := r.p.Baseline()
	return detect.Baseline{Above: b.Above, Cap: b.Cap, Factor: b.Factor, Floor: b.Floor}
}

func (r rules) Group(target netip.Prefix) string { return r.p.Group(target) }
