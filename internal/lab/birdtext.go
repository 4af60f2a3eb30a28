package lab

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"strconv"
	"strings"

	"github.com/amooglesoft/trafficmonitor/internal/route"
)

// birdRoute matches what follows the net of a route: "unreachable [spk 17:47:54.048 from 10.66.0.1] * (100) [AS65000i]".
var birdRoute = regexp.MustCompile(`^\s*(unreachable |prohibited |blackhole )?\[(\S+) \S+(?: \S+)?(?: from ([0-9a-fA-F.:]+))?\] (\* )?\(`)

var birdCommunity = regexp.MustCompile(`^\(generic, 0x([0-9a-f]+), 0x([0-9a-f]+)\)$`)

// parseBIRDFlow reads the answer to "show route table X all" for a table of FlowSpec rules.
func parseBIRDFlow(text string, f route.Family) ([]FlowRoute, error) {
	var out []FlowRoute
	var last *FlowRoute // the path whose attributes follow
	var match *route.Match
	var ec, ec6 []byte // of last
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
			match, ec, ec6 = &m, nil, nil
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
			var err error
			switch {
			case key == "BGP.ext_community":
				ec, err = parseBIRDCommunities(value)
			case strings.HasPrefix(key, "BGP.19 "): // IPv6 address specific ones (RFC 5701), shown as octets
				ec6, err = hex.DecodeString(strings.ReplaceAll(value, " ", ""))
			default:
				continue
			}
			if err == nil {
				last.Route.Action, err = actionOf(ec, ec6)
			}
			if err != nil {
				return fail(line, err)
			}
		case strings.HasPrefix(line, " ") && match != nil: // one more path of the same rule
			var err error
			ec, ec6 = nil, nil
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
		m.TCPFlags, err = parseBIRDBits(value, birdMasked)
	case "fragment":
		m.Fragment, err = parseBIRDBits(value, func(s string) (uint16, uint16, error) {
			if b, ok := birdFragment[s]; ok {
				return b, b, nil
			}
			return birdMasked(s) // several bits in one test
		})
	default:
		kind, ok := birdNumeric[word]
		if !ok {
			return fmt.Errorf("component %q is not known", word)
		}
		to, largest := m.Numeric(kind)
		most := int(largest)
		var items []comparison
		if items, err = parseBIRDNumeric(value, most); err == nil {
			*to, err = ranges(items, most)
		}
	}
	return err
}

// birdMasked reads a value with its mask, such as "0x2/0x12".
func birdMasked(s string) (value, mask uint16, err error) {
	val, mas, ok := strings.Cut(s, "/")
	if !ok {
		return 0, 0, fmt.Errorf("%q is not known", s)
	}
	v, err := parseUint(val, 0xfff)
	if err != nil {
		return 0, 0, err
	}
	k, err := parseUint(mas, 0xfff)
	return uint16(v), uint16(k), err
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

// birdOther matches the redirect to an IPv4 address, which BIRD has no word for: "(unknown 0x10c, 192.0.2.9, 1)".
var birdOther = regexp.MustCompile(`^\(unknown 0x([0-9a-f]+), ([0-9.]+), ([0-9]+)\)$`)

// parseBIRDCommunities reads extended communities: "(generic, 0x80060000, 0x48f42400) (rt, 1, 2)". BIRD shows those of
// FlowSpec as generic ones; others are left out.
func parseBIRDCommunities(text string) (ec []byte, err error) {
	for c := range strings.SplitAfterSeq(text, ")") {
		c = strings.TrimSpace(c)
		if g := birdCommunity.FindStringSubmatch(c); g != nil {
			for _, half := range g[1:] {
				v, err := strconv.ParseUint(half, 16, 32)
				if err != nil {
					return nil, err
				}
				ec = binary.BigEndian.AppendUint32(ec, uint32(v))
			}
		} else if g := birdOther.FindStringSubmatch(c); g != nil {
			kind, err1 := strconv.ParseUint(g[1], 16, 16)
			a, err2 := netip.ParseAddr(g[2])
			n, err3 := strconv.ParseUint(g[3], 10, 16)
			if err := errors.Join(err1, err2, err3); err != nil {
				return nil, err
			}
			ec = binary.BigEndian.AppendUint16(ec, uint16(kind))
			ec = binary.BigEndian.AppendUint16(append(ec, a.AsSlice()...), uint16(n))
		}
	}
	return ec, nil
}
