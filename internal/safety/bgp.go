package safety

import "github.com/amooglesoft/trafficmonitor/internal/route"

const (
	tcp     = 6
	bgpPort = 179
)

// sessionPorts are the ports the other end of a BGP session may have: 179 itself, or one a stack picks by itself. Stacks
// pick from 1024 upwards.
var sessionPorts = []route.Range{{Lo: bgpPort, Hi: bgpPort}, {Lo: 1024, Hi: 65535}}

// cutsBGP is the one invariant no approval lifts; the package's comment says what it asks and why.
func cutsBGP(k *kernel, e *entry) string {
	m := e.Route.Match
	if !allows(m.Protocol, tcp) {
		return ""
	}
	for _, p := range []struct {
		name   string
		ranges []route.Range
	}{{"port", m.Port}, {"destination-port", m.DestinationPort}, {"source-port", m.SourcePort}} {
		if len(p.ranges) > 0 && allows(p.ranges, bgpPort) {
			return p.name + " includes TCP port 179 (BGP): leave 179 out, for example 1-178,180-65535, or limit the rule to another protocol"
		}
	}
	if !matchesSession(m) {
		return ""
	}
	const advice = "limit it to another protocol, or to TCP with both a source-port and a destination-port list without 179"
	if p, what, ok := k.reachesNever(e); ok {
		return what + " overlaps " + p.String() + " on the never list and the rule could cut its BGP sessions: " + advice
	}
	if !narrow(e.destination()) && e.Route.Action.Kind != route.SourceBlackhole {
		return "without a destination it reaches every router and could cut BGP sessions: " + advice
	}
	return ""
}

// matchesSession reports whether the ports of a TCP rule let a packet of a BGP session match.
func matchesSession(m route.Match) bool {
	// A packet from the other end to port 179, or from port 179 to the other end.
	return portsMatch(m, sessionPorts, bgp) || portsMatch(m, bgp, sessionPorts)
}

var bgp = []route.Range{{Lo: bgpPort, Hi: bgpPort}}

// portsMatch reports whether a packet whose source port is in from and destination port in to can match.
func portsMatch(m route.Match, from, to []route.Range) bool {
	source, destination := common(from, m.SourcePort), common(to, m.DestinationPort)
	if len(source) == 0 || len(destination) == 0 {
		return false
	}
	return len(m.Port) == 0 || len(common(source, m.Port)) > 0 || len(common(destination, m.Port)) > 0
}

// allows reports whether a component lets v match; an empty one lets everything.
func allows(component []route.Range, v uint32) bool {
	return len(common([]route.Range{{Lo: v, Hi: v}}, component)) > 0
}

// common returns the values of a that a component lets match; an empty component lets everything.
func common(a, component []route.Range) []route.Range {
	if len(component) == 0 {
		return a
	}
	var out []route.Range
	for _, x := range a {
		for _, y := range component {
			if r := (route.Range{Lo: max(x.Lo, y.Lo), Hi: min(x.Hi, y.Hi)}); r.Lo <= r.Hi {
				out = append(out, r)
			}
		}
	}
	return out
}
