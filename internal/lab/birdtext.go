package lab

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"regexp"
	"strconv"
	"strings"

	"github.com/amooglesoft/trafficmonitor/internal/route"
	"github.com/amooglesoft/trafficmonitor/internal/safety"
)

// birdRoute matches what follows the net of a route: "unreachable [spk 17:47:54.048 from 10.66.0.1] * (100) [AS65000i]".
var birdRoute = regexp.MustCompile(`^\s*(unreachable |prohibited |blackhole )?\[(\S+) \S+(?: \S+)?(?: from ([0-9a-fA-F.:]+))?\] (\* )?\(`)

var birdCommunity = regexp.MustCompile(`^\(generic, 0x([0-9a-f]+), 0x([0-9a-f]+)\)$`)

// parseBIRDFlow reads the answer to "show route table X all" for a table of FlowSpec rules.
func parseBIRDFlow(text string, f route.Family) ([]FlowRoute, error) {
	var out []FlowRoute
	var last *FlowRoute // the path whose attributes follow
	var match *route.Match
	head := "flow4 {"
	if f == route.IPv6 {
		head = "flow6 {"
	}
	fail := func(line string, err error) ([]FlowRoute, error) {
		return nil, fmt.Errorf("BIRD printed %q: %w", strings.TrimSpace(line), err)
	}
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, "\r\n")
		switch {
		case strings.TrimSpace(line) == "" || strings.HasPrefix(line, "Table "):
			last = nil
		case strings.HasPrefix(line, head):
			body, rest, ok := strings.Cut(line[len(head):], "}")
			if !ok {
				return fail(line, fmt.Errorf("no closing brace"))
			}
			m, err := parseBIRDMatch(body, f)
			if err != nil {
				return fail(line, err)
			}
			match = &m
			if last, err = appendBIRDPath(&out, m, rest); err != nil {
				return fail(line, err)
			}
			last.Raw = line
		case strings.HasPrefix(line, "\t"):
			key, value, ok := strings.Cut(strings.TrimSpace(line), ":") // an empty AS path has nothing after it
			if !ok || last == nil {
				return fail(line, fmt.Errorf("an attribute without a route"))
			}
			last.Raw += "\n" + line
			if key == "BGP.ext_community" {
				action, err := parseBIRDAction(value)
				if err != nil {
					return fail(line, err)
				}
				last.Route.Action = action
			}
		case strings.HasPrefix(line, " ") && match != nil: // one more path of the same rule
			var err error
			if last, err = appendBIRDPath(&out, *match, line); err != nil {
				return fail(line, err)
			}
			last.Raw = line
		default:
			return fail(line, fmt.Errorf("not understood"))
		}
	}
	return out, nil
}

func appendBIRDPath(out *[]FlowRoute, m route.Match, rest string) (*FlowRoute, error) {
	g := birdRoute.FindStringSubmatch(rest)
	if g == nil {
		return nil, fmt.Errorf("%q is not a route's state", rest)
	}
	fr := FlowRoute{Route: route.Route{Match: m}, Unreachable: g[1] != "", Best: g[4] != ""}
	if g[3] != "" {
		var err error
		if fr.From, err = netip.ParseAddr(g[3]); err != nil {
			return nil, err
		}
	}
	*out = append(*out, fr)
	return &(*out)[len(*out)-1], nil
}

// parseBIRDMatch reads "dst 203.0.113.10/32; proto 17; sport 53;".
func parseBIRDMatch(body string, f route.Family) (route.Match, error) {
	var m route.Match
	for part := range strings.SplitSeq(body, ";") {
		part = strings.TrimSpace(part)
		if part == "" {
			continue
		}
		word, value, _ := strings.Cut(part, " ")
		if word == "next" || word == "icmp" || word == "tcp" {
			second, rest, _ := strings.Cut(value, " ")
			word, value = word+" "+second, rest
		}
		if err := setBIRD(&m, word, value, f); err != nil {
			return m, fmt.Errorf("%s: %w", part, err)
		}
	}
	return route.Route{Match: m}.Canonical().Match, nil
}

var birdNumeric = map[string]string{
	"proto": "protocol", "next header": "protocol", "port": "port", "dport": "destination-port", "sport": "source-port",
	"icmp type": "icmp-type", "icmp code": "icmp-code", "length": "length", "dscp": "dscp", "label": "flow-label",
}

var birdFragment = map[string]uint16{
	"dont_fragment": route.DontFragment, "is_fragment": route.IsFragment,
	"first_fragment": route.FirstFragment, "last_fragment": route.LastFragment,
}

func setBIRD(m *route.Match, word, value string, f route.Family) (err error) {
	switch word {
	case "dst":
		m.Destination, m.DestinationOffset, err = flowPrefix(value, " offset ", f)
	case "src":
		m.Source, m.SourceOffset, err = flowPrefix(value, " offset ", f)
	case "tcp flags":
		m.TCPFlags, err = parseBIRDBits(value, func(s string) (uint16, uint16, error) {
			val, mask, ok := strings.Cut(s, "/")
			if !ok {
				return 0, 0, fmt.Errorf("%q has no mask", s)
			}
			v, err := parseUint(val, 0xfff)
			if err != nil {
				return 0, 0, err
			}
			k, err := parseUint(mask, 0xfff)
			return uint16(v), uint16(k), err
		})
	case "fragment":
		m.Fragment, err = parseBIRDBits(value, func(s string) (uint16, uint16, error) {
			b, ok := birdFragment[s]
			if !ok {
				return 0, 0, fmt.Errorf("%q is not known", s)
			}
			return b, b, nil
		})
	default:
		kind, ok := birdNumeric[word]
		if !ok {
			return fmt.Errorf("component %q is not known", word)
		}
		to, most := numericOf(m, kind)
		var items []comparison
		if items, err = parseBIRDNumeric(value, most); err == nil {
			*to, err = ranges(items, most)
		}
	}
	return err
}

// parseBIRDNumeric reads "6,17", "1..65,80", "> 1000 && < 2000", "= 6 || = 17".
func parseBIRDNumeric(text string, most int) ([]comparison, error) {
	var out []comparison
	for or := range strings.SplitSeq(strings.ReplaceAll(text, "||", ","), ",") {
		for i, and := range strings.Split(or, "&&") {
			and = strings.TrimSpace(and)
			if lo, hi, ok := strings.Cut(and, ".."); ok {
				a, err := parseUint(lo, most)
				if err != nil {
					return nil, err
				}
				b, err := parseUint(hi, most)
				if err != nil {
					return nil, err
				}
				out = append(out, comparison{i > 0, ">=", a}, comparison{true, "<=", b})
				continue
			}
			if and == "true" {
				out = append(out, comparison{i > 0, ">=", 0})
				continue
			}
			op := "="
			for _, o := range []string{"!=", "<=", ">=", "<", ">", "="} {
				if rest, ok := strings.CutPrefix(and, o); ok {
					op, and = o, rest
					break
				}
			}
			v, err := parseUint(and, most)
			if err != nil {
				return nil, err
			}
			out = append(out, comparison{i > 0, op, v})
		}
	}
	return out, nil
}

// parseBIRDBits reads "0x2/0x2 && 0x0/0x10 || !0x10/0x10" and "is_fragment || !last_fragment", whose items one reads.
func parseBIRDBits(text string, one func(string) (value, mask uint16, err error)) ([]route.Bits, error) {
	var out []bitTest
	for or := range strings.SplitSeq(strings.ReplaceAll(text, "||", ","), ",") {
		for i, and := range strings.Split(or, "&&") {
			s, not := strings.CutPrefix(strings.TrimSpace(and), "!")
			v, k, err := one(s)
			if err != nil {
				return nil, err
			}
			out = append(out, bitTest{and: i > 0, not: not, value: v, mask: k})
		}
	}
	return flagBits(out)
}

// parseBIRDAction reads extended communities: "(generic, 0x80060000, 0x48f42400) (rt, 1, 2)". BIRD shows those of FlowSpec
// as generic ones; others are left out.
func parseBIRDAction(text string) (route.Action, error) {
	var ec []byte
	for c := range strings.SplitAfterSeq(text, ")") {
		g := birdCommunity.FindStringSubmatch(strings.TrimSpace(c))
		if g == nil {
			continue
		}
		for _, half := range g[1:] {
			v, err := strconv.ParseUint(half, 16, 32)
			if err != nil {
				return route.Action{}, err
			}
			ec = binary.BigEndian.AppendUint32(ec, uint32(v))
		}
	}
	if len(ec) == 0 {
		return route.Action{}, nil
	}
	return safety.DecodeAction(ec, nil)
}
