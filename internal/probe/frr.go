package probe

import (
	"net/netip"
	"strconv"
	"strings"

	"github.com/amooglesoft/trafficmonitor/internal/route"
)

// readFRR reads "show bgp ipv4 flowspec detail" of FRR 8 and later:
//
//	BGP flowspec entry: (flags 0x418)
//		Destination Address 203.0.113.10/32
//		IP Protocol = 6
//		TCP Flags = 2,&∋ ! 16
//		FS:rate 0.000000
//		received for 00:03:04
//		not installed in PBR
func readFRR(r *reader, f route.Family) {
	var rule Rule
	var err error
	var raw string
	open := false
	flush := func() {
		if open {
			r.add(rule, raw, err)
		}
		rule, err, raw, open = Rule{Why: "FRR does not say whether it is installed in PBR"}, nil, "", false
	}
	flush()
	for _, line := range r.lines {
		text := strings.TrimSpace(line)
		switch {
		case strings.HasPrefix(text, "BGP flowspec entry:"):
			flush()
			open = true
		case strings.HasPrefix(text, "Displayed ") || strings.HasPrefix(text, "No BGP prefixes displayed"):
			r.known = true
		case open && text != "":
			if raw == "" {
				raw = text
			}
			if e := frrLine(&rule, text, f); e != nil && err == nil {
				err, raw = e, text
			}
		}
	}
	flush()
}

// frrWords are the words of the numeric components.
var frrWords = [][2]string{
	{"IP Protocol ", "protocol"},
	{"Port ", "port"},
	{"Destination Port ", "destination-port"},
	{"Source Port ", "source-port"},
	{"ICMP Type ", "icmp-type"},
	{"ICMP Code ", "icmp-code"},
	{"Packet Length ", "length"},
	{"DSCP field ", "dscp"},
	{"Packet Flow Label ", "flow-label"},
}

func frrLine(rule *Rule, text string, f route.Family) (err error) {
	m := &rule.Match
	if rest, ok := strings.CutPrefix(text, "Destination Address "); ok {
		m.Destination, m.DestinationOffset, err = frrPrefix(rest, f)
		return err
	}
	if rest, ok := strings.CutPrefix(text, "Source Address "); ok {
		m.Source, m.SourceOffset, err = frrPrefix(rest, f)
		return err
	}
	if rest, ok := strings.CutPrefix(text, "TCP Flags "); ok {
		m.TCPFlags, err = frrBits(rest)
		return err
	}
	if rest, ok := strings.CutPrefix(text, "Packet Fragment "); ok {
		m.Fragment, err = frrBits(rest)
		return err
	}
	for _, w := range frrWords {
		if rest, ok := strings.CutPrefix(text, w[0]); ok {
			return set(m, w[1], frrAlternatives(rest), "&")
		}
	}
	switch {
	case strings.HasPrefix(text, "installed in PBR"):
		rule.State, rule.Why = Installed, ""
	case strings.HasPrefix(text, "not installed in PBR"):
		rule.State, rule.Why = NotInstalled, "FRR says that it is not installed in PBR: it needs ipset and iptables, and some rules it cannot install (docs/profiles.md)"
	default: // actions and times: another line is none of the match
		for _, p := range []string{"FS:", "received for ", "up for ", "NH", "RT:", "UNK:", "Extended", "Community"} {
			if strings.HasPrefix(text, p) {
				return nil
			}
		}
		return errUnread
	}
	return nil
}

// frrPrefix reads a prefix; that of IPv6 has an offset behind it.
func frrPrefix(s string, f route.Family) (p netip.Prefix, offset uint8, err error) {
	s, off, ok := strings.Cut(s, "/off ")
	if ok {
		n, err := strconv.ParseUint(strings.TrimSpace(off), 10, 7)
		if err != nil {
			return p, 0, errUnread
		}
		offset = uint8(n)
	}
	p, err = prefix(strings.TrimSpace(s), f)
	return p, offset, err
}

// frrAlternatives reads ">= 40 , <= 60 , = 1500". FRR prints AND and OR alike; a comparison from above that follows one
// from below is the other end of a range, for nothing else is announced.
func frrAlternatives(s string) []string {
	var out []string
	lower := false
	for part := range strings.SplitSeq(s, ",") {
		part = strings.TrimSpace(part)
		if lower && strings.HasPrefix(part, "<") {
			out[len(out)-1] += "&" + part
			lower = false
			continue
		}
		out = append(out, part)
		lower = strings.HasPrefix(part, ">")
	}
	return out
}

// frrBits reads "= 2,&∋ ! 16,|= 4": the match bit shows as = and its absence as ∋, AND as &, OR as |, NOT as !.
func frrBits(s string) ([]route.Bits, error) {
	var out []route.Bits
	for i, part := range strings.Split(s, ",") {
		part = strings.TrimSpace(part)
		part, and := strings.CutPrefix(part, "&")
		part = strings.TrimPrefix(part, "|")
		part, anyOf := strings.CutPrefix(part, "∋")
		part = strings.TrimSpace(strings.TrimPrefix(part, "="))
		part, not := strings.CutPrefix(part, "!")
		n, err := strconv.ParseUint(strings.TrimSpace(part), 0, 12)
		v := uint16(n)
		if one := v&(v-1) == 0; err != nil || v == 0 || anyOf && !not && !one || !anyOf && not && !one {
			return nil, errUnread // any of several bits, or not all of them: no rule of ours says that
		}
		if !and || i == 0 {
			out = append(out, route.Bits{})
		}
		b := &out[len(out)-1]
		if not {
			b.Clear |= v
		} else {
			b.Set |= v
		}
	}
	return out, nil
}
