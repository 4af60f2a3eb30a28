package render

import (
	"fmt"
	"net"
	"net/netip"
	"strings"

	"github.com/amooglesoft/trafficmonitor/internal/route"
)

// iosxr writes a traffic class and a policy of type pbr, which the flowspec client takes.
func iosxr(r route.Route) (string, error) {
	if r.IsBlackhole() {
		if err := attributes("IOS XR", r.Action); err != nil {
			return "", err
		}
		to := "Null0"
		if r.Action.NextHop.IsValid() {
			to = r.Action.NextHop.String()
		}
		return fmt.Sprintf("! %s\n%s! On this router only. To end it, put \"no\" before the last line.\nrouter static\n address-family %s unicast\n  %s %s\n", r, uRPF(r, "!"), r.Family(), r.Prefix(), to), nil
	}
	id := name(r)
	a := r.Action
	var does []string
	switch {
	case a.Kind == route.RatePackets:
		return "", cannot("IOS XR", "a rate in packets")
	case a.Sample || a.Continue:
		return "", cannot("IOS XR", "sample and continue")
	case a.Redirect.Address.IsValid() || a.Redirect.Target.Form > route.TargetAS2:
		return "", cannot("IOS XR", a.Redirect.String())
	case a.Attributes != (route.Attributes{}):
		return "", cannot("IOS XR", "path attributes of a rule")
	case a.Kind == route.Discard:
		does = append(does, "drop")
	case a.Kind == route.RateBytes:
		does = append(does, fmt.Sprintf("police rate %d bps", a.Rate*8))
	}
	if v, ok := a.Mark.Get(); ok {
		if r.Family() == route.IPv6 {
			return "", cannot("IOS XR", "a mark of IPv6")
		}
		does = append(does, fmt.Sprintf("set dscp %d", v))
	}
	if a.Redirect.Target.Form != 0 {
		does = append(does, "redirect nexthop route-target "+a.Redirect.Target.String())
	}
	if len(does) == 0 {
		does = append(does, "transmit")
	}

	var b strings.Builder
	fmt.Fprintf(&b, "! %s\n! For the flowspec client, which needs \"flowspec address-family %s local-install\". Where a policy is attached already, put\n! the classes into that. To end it, put \"no\" before the service-policy, the policy-map and the class-map.\n", r, r.Family())
	matches := eitherPort(r.Match)
	if len(matches) == 0 {
		return "", errNothing
	}
	var classes []string
	for i, m := range matches {
		class := id
		if len(matches) > 1 {
			class = fmt.Sprintf("%s-%d", id, i+1)
		}
		classes = append(classes, class)
		m, ok := implied(m)
		if !ok {
			return "", errNothing
		}
		lines, err := xrClass(m)
		if err != nil {
			return "", err
		}
		fmt.Fprintf(&b, "class-map type traffic match-all %s\n%s end-class-map\n!\n", class, lines)
	}
	fmt.Fprintf(&b, "policy-map type pbr %s\n", id)
	for _, c := range classes {
		fmt.Fprintf(&b, " class type traffic %s\n  %s\n !\n", c, strings.Join(does, "\n  "))
	}
	fmt.Fprintf(&b, " class type traffic class-default\n !\n end-policy-map\n!\nflowspec\n address-family %s\n  service-policy type pbr %s\n", r.Family(), id)
	if len(classes) > 1 && a.Kind == route.RateBytes {
		return "", cannot("IOS XR", "a rate limit on either port: each class would have the whole rate")
	}
	return b.String(), nil
}

func xrClass(m route.Match) (string, error) {
	var b strings.Builder
	six := (route.Route{Match: m}).Family() == route.IPv6
	if m.DestinationOffset+m.SourceOffset > 0 {
		return "", rest("IOS XR", m)
	}
	address := func(what string, p *netip.Prefix) {
		switch {
		case !p.IsValid():
		case six:
			fmt.Fprintf(&b, " match %s-address ipv6 %s\n", what, p)
		default:
			fmt.Fprintf(&b, " match %s-address ipv4 %s %s\n", what, p.Addr(), net.IP(net.CIDRMask(p.Bits(), 32)))
		}
		*p = netip.Prefix{}
	}
	address("destination", &m.Destination)
	address("source", &m.Source)
	numbers := func(words string, rs *[]route.Range) {
		if len(*rs) > 0 {
			fmt.Fprintf(&b, " match %s %s\n", words, list(*rs))
		}
		*rs = nil
	}
	numbers("protocol", &m.Protocol)
	numbers("source-port", &m.SourcePort)
	numbers("destination-port", &m.DestinationPort)
	icmp := "ipv4"
	if six {
		icmp = "ipv6"
	}
	numbers(icmp+" icmp-type", &m.ICMPType)
	numbers(icmp+" icmp-code", &m.ICMPCode)
	numbers("packet length", &m.Length)
	if !six {
		numbers("dscp", &m.DSCP)
	}
	if len(m.Fragment) == 1 && m.Fragment[0] == (route.Bits{Set: route.IsFragment}) && !six {
		b.WriteString(" match fragment-type is-fragment\n")
		m.Fragment = nil
	}
	return b.String(), rest("IOS XR", m)
}
