package probe

import (
	"net/netip"
	"slices"
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
//
// and, behind it, "show pbr ipset", which has the counters: see frrSets.
func readFRR(r *reader, f route.Family) {
	var rule Rule
	var err error
	var raw string
	var uses []string
	sets := frrSets{hits: map[string]*Rule{}, users: map[string][]int{}}
	open := false
	flush := func() {
		if open {
			n := len(r.out.Rules)
			if r.add(rule, raw, err); len(r.out.Rules) > n {
				for _, set := range uses {
					sets.users[set] = append(sets.users[set], n)
				}
			} else {
				for _, set := range uses {
					sets.users[set] = append(sets.users[set], -1) // by a rule that could not be read
				}
			}
		}
		rule, err, raw, open, uses = Rule{Why: "FRR does not say whether it is installed in PBR"}, nil, "", false, nil
	}
	flush()
	for _, line := range r.lines {
		text := strings.TrimSpace(line)
		switch {
		case r.known && sets.line(text):
			flush()
		case strings.HasPrefix(text, "BGP flowspec entry:"):
			flush()
			open = true
		case strings.HasPrefix(text, "Displayed ") || strings.HasPrefix(text, "No BGP prefixes displayed"):
			r.known = true
		case open && text != "":
			if raw == "" {
				raw = text
			}
			if in, ok := strings.CutPrefix(text, "installed in PBR ("); ok {
				uses = strings.Split(strings.TrimSuffix(in, ")"), ", ")
			}
			if e := frrLine(&rule, text, f); e != nil && err == nil {
				err, raw = e, text
			}
		}
	}
	flush()
	sets.count(r.out.Rules)
}

// frrSets are the sets of addresses and ports that zebra keeps for rules, with what each entry hit, if it hit something and
// what fills the sets counts:
//
//	IPset match0x271ce00 type net,port family IPv4
//	:proto 17:53	to 192.0.2.1 (1)
//		 pkts 5, bytes 500
//
// Rules of one shape and action share a set, and it does not say which entry is whose: only a set of one rule counts for it.
type frrSets struct {
	in    string           // the set whose entries come; empty before the first
	hits  map[string]*Rule // by name of the set
	users map[string][]int // rules by name of the set, by their place
}

// line takes a line that is about sets.
func (s *frrSets) line(text string) bool {
	w := strings.Fields(text)
	switch {
	case len(w) >= 4 && w[0] == "IPset" && w[2] == "type":
		s.in = w[1]
		return true
	case s.in == "":
		return false
	case len(w) == 4 && w[0] == "pkts" && w[2] == "bytes":
		packets, ok1 := count(strings.TrimSuffix(w[1], ","))
		octets, ok2 := count(w[3])
		if ok1 && ok2 {
			h := s.hits[s.in]
			if h == nil {
				h = &Rule{}
				s.hits[s.in] = h
			}
			h.Packets, h.Octets = h.Packets+packets, h.Octets+octets
		}
	}
	return true
}

// count gives rules the hits of the sets that are theirs alone. A rule that came from two neighbours is one.
func (s *frrSets) count(rules []Rule) {
	shared := map[int]bool{}
	for set, users := range s.users {
		_, hit := s.hits[set]
		for _, n := range users {
			if n >= 0 && (!hit || slices.ContainsFunc(users, func(m int) bool { return m < 0 || rules[m].Match.String() != rules[n].Match.String() })) {
				shared[n] = true
			}
		}
	}
	for set, users := range s.users {
		for _, n := range slices.Compact(users) {
			if h := s.hits[set]; n >= 0 && !shared[n] && h != nil {
				rule := &rules[n]
				rule.Packets, rule.Octets, rule.HasPackets, rule.HasOctets = rule.Packets+h.Packets, rule.Octets+h.Octets, true, true
			}
		}
	}
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
		rule.State, rule.Why = NotInstalled, "FRR says that it is not installed in PBR: it needs a module that fills ipset and iptables, and some rules it cannot install (docs/profiles.md)"
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
