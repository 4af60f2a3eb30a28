package speaker

import "github.com/amooglesoft/trafficmonitor/internal/route"

// shape is what a router's parser sees of a route besides values: the components that are set and what its action does.
type shape uint32

func shapeOf(r route.Route) shape {
	m, a := &r.Match, &r.Action
	out := shape(a.Kind) << 24
	for i, set := range [...]bool{
		m.Destination.IsValid(), m.Source.IsValid(), m.DestinationOffset > 0, m.SourceOffset > 0,
		len(m.Protocol) > 0, len(m.Port) > 0, len(m.DestinationPort) > 0, len(m.SourcePort) > 0, len(m.ICMPType) > 0, len(m.ICMPCode) > 0,
		len(m.TCPFlags) > 0, len(m.Length) > 0, len(m.DSCP) > 0, len(m.Fragment) > 0, len(m.FlowLabel) > 0,
		a.Sample, a.Continue, a.Mark > 0, a.Redirect.Target.Form != 0, a.Redirect.Address.IsValid(), a.Redirect.Copy,
	} {
		if set {
			out |= 1 << i
		}
	}
	return out
}
