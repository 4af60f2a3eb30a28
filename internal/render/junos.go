package render

import (
	"fmt"
	"math/bits"
	"strings"

	"github.com/amooglesoft/trafficmonitor/internal/route"
)

var junosFlags = []string{"fin", "syn", "rst", "push", "ack", "urgent"}

var junosFragments = map[uint16]string{
	route.DontFragment: "dont-fragment", route.IsFragment: "is-fragment", route.FirstFragment: "first-fragment", route.LastFragment: "last-fragment",
}

// junos writes "set" commands for a static flow route (statement "flow" of routing-options, and of rib inet6.0).
func junos(r route.Route) (string, error) {
	six := r.Family() == route.IPv6
	at := "routing-options "
	if six {
		at = "routing-options rib inet6.0 "
	}
	if r.IsBlackhole() {
		if err := attributes("Junos", r.Action); err != nil {
			return "", err
		}
		to := "discard"
		if r.Action.NextHop.IsValid() {
			to = "next-hop " + r.Action.NextHop.String()
		}
		where := fmt.Sprintf("%sstatic route %s", at, r.Prefix())
		return fmt.Sprintf("# %s\n%s# On this router only. To end it: delete %s\nset %s %s\n", r, uRPF(r, "#"), where, where, to), nil
	}
	at += "flow route " + name(r)
	var b strings.Builder
	fmt.Fprintf(&b, "# %s\n# Enforced here, and announced to neighbours with family flow. To end it: delete %s\n", r, at)
	set := func(format string, args ...any) { fmt.Fprintf(&b, "set %s %s\n", at, fmt.Sprintf(format, args...)) }

	m, ok := implied(r.Match)
	if !ok {
		return "", errNothing
	}
	if m.DestinationOffset+m.SourceOffset > 0 {
		return "", rest("Junos", m)
	}
	if m.Destination.IsValid() {
		set("match destination %s", m.Destination)
	}
	if m.Source.IsValid() {
		set("match source %s", m.Source)
	}
	icmp := "icmp-"
	if six {
		icmp = "icmp6-"
	}
	for _, c := range []struct {
		word   string
		ranges []route.Range
	}{
		{"protocol", m.Protocol},
		{"port", m.Port},
		{"destination-port", m.DestinationPort},
		{"source-port", m.SourcePort},
		{icmp + "type", m.ICMPType},
		{icmp + "code", m.ICMPCode},
		{"packet-length", m.Length},
		{"dscp", m.DSCP},
		{"flow-label", m.FlowLabel},
	} {
		switch len(c.ranges) {
		case 0:
		case 1:
			set("match %s %s", c.word, list(c.ranges))
		default:
			set("match %s [ %s ]", c.word, list(c.ranges))
		}
	}
	if len(m.Port) > 0 && len(m.DestinationPort)+len(m.SourcePort) > 0 {
		return "", cannot("Junos", "port beside source-port or destination-port")
	}
	if len(m.TCPFlags) > 0 {
		for _, t := range m.TCPFlags {
			if (t.Set|t.Clear)>>len(junosFlags) != 0 {
				return "", cannot("Junos", route.Match{TCPFlags: m.TCPFlags}.String())
			}
		}
		and, or := " & ", " | "
		if len(m.TCPFlags) > 1 {
			and, or = "&", ") | ("
		}
		expression := joinBits(m.TCPFlags, and, or, func(bit uint16, on bool) string {
			return map[bool]string{false: "!"}[on] + junosFlags[bits.TrailingZeros16(bit)]
		})
		if len(m.TCPFlags) > 1 {
			expression = "(" + strings.ReplaceAll(expression, "&", " & ") + ")"
		}
		set("match tcp-flags %q", expression)
	}
	for _, t := range m.Fragment {
		word, ok := junosFragments[t.Set]
		if !ok || t.Clear != 0 {
			return "", cannot("Junos", route.Match{Fragment: m.Fragment}.String())
		}
		set("match fragment %s", word)
	}

	a := r.Action
	switch {
	case a.Kind == route.RatePackets:
		return "", cannot("Junos", "a rate in packets")
	case a.Redirect.Address.IsValid():
		return "", cannot("Junos", a.Redirect.String())
	case a.Attributes != (route.Attributes{}):
		return "", cannot("Junos", "path attributes of a flow route")
	case a.Kind == route.Discard:
		set("then discard")
	case a.Kind == route.RateBytes:
		set("then rate-limit %d", a.Rate*8)
	case a.Kind == route.Accept && a.Redirect == (route.Redirect{}):
		set("then accept")
	}
	if a.Sample {
		set("then sample")
	}
	if a.Continue {
		set("then next-term")
	}
	if v, ok := a.Mark.Get(); ok {
		set("then mark %d", v)
	}
	if t := a.Redirect.Target; t.Form != 0 {
		target := t.String()
		if t.Form == route.TargetAS4 && !strings.Contains(target, "L") {
			target = strings.Replace(target, ":", "L:", 1) // how Junos tells the forms apart
		}
		set("then routing-instance target:%s", target)
	}
	return b.String(), nil
}
