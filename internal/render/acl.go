package render

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/amooglesoft/trafficmonitor/internal/route"
)

// entry is one line of an access list.
type entry struct {
	protocol                    uint32 // 256 means any
	destination, source         netip.Prefix
	destinationPort, sourcePort *route.Range
	icmpType, icmpCode          *route.Range
}

const anyProtocol = 256

// mostEntries bounds the lines of one access list.
const mostEntries = 64

// entries writes a match as lines of which any may hold. Ports need a protocol that has them, so do types and codes.
func entries(platform string, m route.Match) ([]entry, error) {
	var out []entry
	for _, x := range eitherPort(m) {
		x, ok := implied(x)
		if !ok {
			continue
		}
		var protocols []uint32
		for _, r := range x.Protocol {
			for p := r.Lo; p <= r.Hi; p++ {
				protocols = append(protocols, p)
			}
		}
		if len(protocols) == 0 {
			protocols = []uint32{anyProtocol}
		}
		left := x
		left.Destination, left.Source, left.Protocol = netip.Prefix{}, netip.Prefix{}, nil
		left.DestinationPort, left.SourcePort, left.ICMPType, left.ICMPCode = nil, nil, nil, nil
		if err := rest(platform, left); err != nil {
			return nil, err
		}
		for _, p := range protocols {
			for _, dp := range each(x.DestinationPort) {
				for _, sp := range each(x.SourcePort) {
					for _, t := range each(x.ICMPType) {
						for _, c := range each(x.ICMPCode) {
							out = append(out, entry{p, x.Destination, x.Source, dp, sp, t, c})
							if len(out) > mostEntries {
								return nil, fmt.Errorf("it takes more than %d entries: say it with fewer, wider ranges", mostEntries)
							}
						}
					}
				}
			}
		}
	}
	if len(out) == 0 {
		return nil, errNothing
	}
	return out, nil
}

// each returns the ranges, or one nil where there is none.
func each(rs []route.Range) []*route.Range {
	if len(rs) == 0 {
		return []*route.Range{nil}
	}
	var out []*route.Range
	for i := range rs {
		out = append(out, &rs[i])
	}
	return out
}

// eos writes an access list: EOS takes rules over BGP only.
func eos(r route.Route) (string, error) {
	ip := "ip"
	if r.Family() == route.IPv6 {
		ip = "ipv6"
	}
	if r.IsBlackhole() {
		if err := attributes("EOS", r.Action); err != nil {
			return "", err
		}
		to := "Null0"
		if r.Action.NextHop.IsValid() {
			to = r.Action.NextHop.String()
		}
		line := fmt.Sprintf("%s route %s %s", ip, r.Prefix(), to)
		return fmt.Sprintf("! %s\n%s! On this router only. To end it: no %s\n%s\n", r, uRPF(r, "!"), line, line), nil
	}
	verdict := map[route.Action]string{{Kind: route.Discard}: "deny", {Kind: route.Accept}: "permit"}[r.Action]
	if verdict == "" {
		return "", cannot("EOS", r.Action.String()+" in an access list")
	}
	es, err := entries("EOS", r.Match)
	if err != nil {
		return "", err
	}
	id := name(r)
	var b strings.Builder
	fmt.Fprintf(&b, "! %s\n! EOS takes FlowSpec rules over BGP only. This is an access list for the interfaces the traffic comes in by (%s access-group\n! %s in); where one is applied already, put the lines before its own. To end it, take it from the interfaces.\n%s access-list %s\n", r, ip, id, ip, id)
	for i, e := range es {
		protocol := fmt.Sprint(e.protocol)
		switch e.protocol {
		case anyProtocol:
			protocol = ip
		case 6:
			protocol = "tcp"
		case 17:
			protocol = "udp"
		case 1:
			protocol = "icmp"
		}
		line := fmt.Sprintf("%s %s %s%s %s%s", verdict, protocol, acl(e.source), aclPort(e.sourcePort), acl(e.destination), aclPort(e.destinationPort))
		if e.icmpType != nil || e.icmpCode != nil {
			if ip == "ipv6" || e.icmpType == nil || e.icmpType.Lo != e.icmpType.Hi || e.icmpCode != nil && e.icmpCode.Lo != e.icmpCode.Hi {
				return "", cannot("EOS", route.Match{ICMPType: r.Match.ICMPType, ICMPCode: r.Match.ICMPCode}.String())
			}
			line += fmt.Sprintf(" %d", e.icmpType.Lo)
			if e.icmpCode != nil {
				line += fmt.Sprintf(" %d", e.icmpCode.Lo)
			}
		}
		fmt.Fprintf(&b, "   %d %s\n", 10*(i+1), line)
	}
	fmt.Fprintf(&b, "   %d permit %s any any\n", 10*(len(es)+1), ip)
	return b.String(), nil
}

func acl(p netip.Prefix) string {
	switch {
	case !p.IsValid() || p.Bits() == 0:
		return "any"
	case p.IsSingleIP():
		return "host " + p.Addr().String()
	}
	return p.String()
}

func aclPort(r *route.Range) string {
	switch {
	case r == nil:
		return ""
	case r.Lo == r.Hi:
		return fmt.Sprintf(" eq %d", r.Lo)
	}
	return fmt.Sprintf(" range %d %d", r.Lo, r.Hi)
}

// sros writes a filter in the flat form of the MD-CLI: SR OS takes rules over BGP only.
func sros(r route.Route) (string, error) {
	if r.IsBlackhole() {
		if err := attributes("SR OS", r.Action); err != nil {
			return "", err
		}
		if r.Action.NextHop.IsValid() {
			return "", cannot("SR OS", "a next hop of a blackhole")
		}
		where := fmt.Sprintf("/configure router \"Base\" static-routes route %s route-type unicast", r.Prefix())
		return fmt.Sprintf("# %s\n%s# On this router only. To end it: delete %s\n%s blackhole admin-state enable\n", r, uRPF(r, "#"), where, where), nil
	}
	a := r.Action
	action := ""
	switch {
	case a == route.Action{Kind: route.Discard}:
		action = "drop"
	case a == route.Action{Kind: route.Accept}:
		action = "accept"
	case a == route.Action{Kind: route.RateBytes, Rate: a.Rate} && a.Rate*8%1000 == 0:
		action = fmt.Sprintf("rate-limit pir %d", a.Rate*8/1000)
	default:
		return "", cannot("SR OS", a.String())
	}
	es, err := entries("SR OS", r.Match)
	if err != nil {
		return "", err
	}
	if len(es) > 1 && a.Kind == route.RateBytes {
		return "", cannot("SR OS", "a rate limit over several entries: each would have the whole rate")
	}
	filter, protocol := "ip-filter", "protocol"
	if r.Family() == route.IPv6 {
		filter, protocol = "ipv6-filter", "next-header"
	}
	id := name(r)
	var b strings.Builder
	fmt.Fprintf(&b, "# %s\n# SR OS takes FlowSpec rules over BGP only. This is a filter for the interfaces the traffic comes in by; where one is applied\n# already, put the entries before its own. To end it, take it from the interfaces.\n/configure filter %s %q default-action accept\n", r, filter, id)
	for i, e := range es {
		at := fmt.Sprintf("/configure filter %s %q entry %d", filter, id, 10*(i+1))
		if e.protocol != anyProtocol {
			fmt.Fprintf(&b, "%s match %s %d\n", at, protocol, e.protocol)
		}
		if e.destination.IsValid() {
			fmt.Fprintf(&b, "%s match dst-ip address %s\n", at, e.destination)
		}
		if e.source.IsValid() {
			fmt.Fprintf(&b, "%s match src-ip address %s\n", at, e.source)
		}
		for _, p := range []struct {
			word string
			r    *route.Range
		}{{"dst-port", e.destinationPort}, {"src-port", e.sourcePort}} {
			switch {
			case p.r == nil:
			case p.r.Lo == p.r.Hi:
				fmt.Fprintf(&b, "%s match %s eq %d\n", at, p.word, p.r.Lo)
			default:
				fmt.Fprintf(&b, "%s match %s range start %d end %d\n", at, p.word, p.r.Lo, p.r.Hi)
			}
		}
		for _, c := range []struct {
			word string
			r    *route.Range
		}{{"type", e.icmpType}, {"code", e.icmpCode}} {
			switch {
			case c.r == nil:
			case c.r.Lo == c.r.Hi:
				fmt.Fprintf(&b, "%s match icmp %s %d\n", at, c.word, c.r.Lo)
			default:
				return "", cannot("SR OS", route.Match{ICMPType: r.Match.ICMPType, ICMPCode: r.Match.ICMPCode}.String())
			}
		}
		fmt.Fprintf(&b, "%s action %s\n", at, action)
	}
	return b.String(), nil
}
