package lab

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"github.com/amooglesoft/trafficmonitor/internal/route"
)

var frrNumeric = map[string]string{
	"IP Protocol": "protocol", "Port": "port", "Destination Port": "destination-port", "Source Port": "source-port",
	"ICMP Type": "icmp-type", "ICMP Code": "icmp-code", "Packet Length": "length", "DSCP field": "dscp", "Packet Flow Label": "flow-label",
}

// parseFRRFlow reads what "show bgp ipv4 flowspec detail" prints.
func parseFRRFlow(text string, f route.Family) ([]FlowRoute, error) {
	var out []FlowRoute
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, "\r\n")
		body, indented := strings.CutPrefix(line, "\t")
		switch {
		case line == "" || strings.HasPrefix(line, "Displayed ") || strings.HasPrefix(line, "No BGP prefixes displayed"):
			continue
		case strings.HasPrefix(line, "BGP flowspec entry:"):
			out = append(out, FlowRoute{Best: true, Raw: line})
			continue
		case !indented || len(out) == 0:
			return nil, fmt.Errorf("FRR printed %q, which is not understood", line)
		}
		fr := &out[len(out)-1]
		fr.Raw += "\n" + line
		if err := setFRR(&fr.Route, strings.TrimSpace(body), f); err != nil {
			return nil, fmt.Errorf("FRR printed %q: %w", line, err)
		}
	}
	for i := range out {
		out[i].Route = out[i].Route.Canonical()
	}
	return out, nil
}

// setFRR takes one line about a rule.
func setFRR(r *route.Route, line string, f route.Family) (err error) {
	m := &r.Match
	if rest, ok := strings.CutPrefix(line, "Destination Address "); ok {
		m.Destination, m.DestinationOffset, err = flowPrefix(rest, "/off ", f)
		return err
	}
	if rest, ok := strings.CutPrefix(line, "Source Address "); ok {
		m.Source, m.SourceOffset, err = flowPrefix(rest, "/off ", f)
		return err
	}
	if rest, ok := strings.CutPrefix(line, "TCP Flags "); ok {
		m.TCPFlags, err = parseFRRBits(rest)
		return err
	}
	if rest, ok := strings.CutPrefix(line, "Packet Fragment "); ok {
		m.Fragment, err = parseFRRBits(rest)
		return err
	}
	for name, kind := range frrNumeric {
		if rest, ok := strings.CutPrefix(line, name+" "); ok {
			to, largest := m.Numeric(kind)
			most := int(largest)
			items, err := parseFRRNumeric(rest, most)
			if err != nil {
				return err
			}
			*to, err = ranges(items, most)
			return err
		}
	}
	for _, p := range []string{"FS:", "NH:", "UNK:"} {
		if strings.HasPrefix(line, p) {
			return setFRRAction(&r.Action, line)
		}
	}
	for _, p := range []string{"received for ", "not installed in PBR", "installed in PBR", "NH ", "RT:"} {
		if strings.HasPrefix(line, p) {
			return nil
		}
	}
	return fmt.Errorf("not understood")
}

// setFRRAction reads "FS:rate 125000000.000000 FS:action eval stops FS:marking 8", "FS:redirect VRF RT:64500:100" or
// "NH:192.0.2.9:1", a redirect to an address whose last bit asks for a copy. What FRR prints of traffic-action is the same
// whatever its bits, and what it does not know shows as UNK: both are passed over.
func setFRRAction(a *route.Action, line string) error {
	line, _, _ = strings.Cut(" "+line, " UNK:")
	for i, part := range strings.Split(line, " FS:") {
		word, value, _ := strings.Cut(part, " ")
		var err error
		switch {
		case i == 0:
			err = setFRRNextHop(a, strings.TrimSpace(part))
		case word == "rate":
			var rate float64
			if rate, err = strconv.ParseFloat(strings.TrimSpace(value), 64); err == nil {
				var kind route.Action
				kind, err = rateAction(rate, route.RateBytes)
				a.Kind, a.Rate = kind.Kind, kind.Rate
			}
		case word == "marking":
			var v int
			v, err = parseUint(value, 63)
			a.Mark = route.Some(uint32(v))
		case word == "redirect":
			a.Redirect.Target, err = route.ParseRouteTarget(strings.TrimPrefix(strings.TrimSpace(value), "VRF RT:"))
		case word == "action":
		default:
			err = fmt.Errorf("%q is not known", part)
		}
		if err != nil {
			return err
		}
	}
	if *a != (route.Action{}) && a.Kind == 0 {
		a.Kind = route.Accept
	}
	return nil
}

func setFRRNextHop(a *route.Action, text string) error {
	rest, ok := strings.CutPrefix(text, "NH:")
	if !ok { // nothing
		return nil
	}
	i := strings.LastIndexByte(rest, ':')
	if i < 0 {
		return fmt.Errorf("%q is no next hop", text)
	}
	hop, err := netip.ParseAddr(rest[:i])
	if err != nil {
		return err
	}
	bit, err := parseUint(rest[i+1:], 1)
	a.Redirect = route.Redirect{Address: hop, Copy: bit == 1}
	return err
}

// parseFRRNumeric reads ">= 40 , <= 60 , = 1500". FRR prints AND and OR alike, as a comma, except that a comparison
// from above that follows one from below can only be the other end of a range.
func parseFRRNumeric(text string, most int) ([]comparison, error) {
	var out []comparison
	lower := false // the item before was >= or >, whose other end is due
	for part := range strings.SplitSeq(text, ",") {
		w := strings.Fields(part)
		if len(w) != 2 || !strings.Contains(" = != < <= > >= ", " "+w[0]+" ") {
			return nil, fmt.Errorf("%q is not a comparison", strings.TrimSpace(part))
		}
		v, err := parseUint(w[1], most)
		if err != nil {
			return nil, err
		}
		out = append(out, comparison{lower && w[0][0] == '<', w[0], v})
		lower = w[0][0] == '>'
	}
	return out, nil
}

// parseFRRBits reads "= 2,&∋ ! 16": the match bit shows as = and its absence as ∋, AND as &, OR as |, NOT as !.
func parseFRRBits(text string) ([]route.Bits, error) {
	var out []bitTest
	for part := range strings.SplitSeq(text, ",") {
		part = strings.TrimSpace(part)
		part, and := strings.CutPrefix(part, "&")
		part = strings.TrimPrefix(part, "|")
		part, anyOf := strings.CutPrefix(part, "∋")
		part = strings.TrimSpace(strings.TrimPrefix(part, "="))
		part, not := strings.CutPrefix(part, "!")
		v, err := parseUint(part, 0xfff)
		if err != nil {
			return nil, err
		}
		t := bitTest{and: and, not: not, value: uint16(v), mask: uint16(v)}
		if anyOf && not { // none of the bits: the negation of "any of them", however many
			t.not, t.value = false, 0
		} else if anyOf && v&(v-1) != 0 {
			return nil, fmt.Errorf("any of several bits (%s) is not understood", part)
		}
		out = append(out, t)
	}
	return flagBits(out)
}
