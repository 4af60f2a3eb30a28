package probe

import (
	"strings"

	"github.com/amooglesoft/trafficmonitor/internal/route"
)

// readJunos reads "show firewall filter __flowspec_default_inet__": each rule is a counter, named by destination, source and
// components.
//
//	Filter: __flowspec_default_inet__
//	Counters:
//	Name                                                Bytes              Packets
//	203.0.113.7,*,proto=17,srcport=53                  395784                 6780
//	Policers:
//	Name                                                Bytes              Packets
//	1000K_203.0.113.8,*,proto=6                     100568357                94618
//
// A policer counts what exceeds its rate, so it says that a rule is there and not what it hit.
func readJunos(r *reader, f route.Family) {
	const (
		nothing = iota
		counters
		policers
	)
	seen := map[string]bool{}
	var later []Rule
	section := nothing
	for _, line := range r.lines {
		text := strings.TrimSpace(line)
		switch {
		case strings.HasPrefix(text, "Filter: "):
			section = nothing
			r.known = r.known || strings.HasPrefix(text, "Filter: __flowspec_")
			continue
		case text == "Counters:":
			section = counters
			continue
		case text == "Policers:":
			section = policers
			continue
		}
		words := strings.Fields(text)
		if !r.known || section == nothing || len(words) != 3 || words[0] == "Name" {
			continue
		}
		octets, ok1 := count(words[1])
		packets, ok2 := count(words[2])
		if !ok1 || !ok2 {
			continue
		}
		name := words[0]
		if section == policers {
			_, rest, ok := strings.Cut(name, "_")
			if !ok {
				continue
			}
			m, err := junosMatch(rest, f)
			if err != nil {
				r.add(Rule{}, name, err)
				continue
			}
			later = append(later, Rule{Match: m, State: Installed})
			continue
		}
		m, err := junosMatch(name, f)
		r.add(Rule{Match: m, State: Installed, Packets: packets, Octets: octets, HasPackets: true, HasOctets: true}, name, err)
		if n := len(r.out.Rules); err == nil && n > 0 {
			seen[r.out.Rules[n-1].Match.String()] = true
		}
	}
	for _, rule := range later {
		if !seen[(route.Route{Match: rule.Match}).Canonical().Match.String()] {
			r.add(rule, rule.Match.String(), nil)
		}
	}
}

// junosWords are the words of the components.
var junosWords = map[string]string{
	"proto": "protocol", "port": "port", "dstport": "destination-port", "srcport": "source-port",
	"icmp-type": "icmp-type", "icmp-code": "icmp-code", "len": "length", "dscp": "dscp",
}

// junosMatch reads "203.0.113.7,*,proto=17,dstport=40,=50,>=70&<=80". Its flags of TCP and fragments do not say how they are
// tested, so a rule with them is not read.
func junosMatch(s string, f route.Family) (m route.Match, err error) {
	parts := strings.Split(s, ",")
	if len(parts) < 2 {
		return m, errUnread
	}
	if m.Destination, err = prefix(parts[0], f); err != nil {
		return m, err
	}
	if m.Source, err = prefix(parts[1], f); err != nil {
		return m, err
	}
	for rest := parts[2:]; len(rest) > 0; {
		i := strings.IndexAny(rest[0], "<>=!")
		if i <= 0 {
			return m, errUnread
		}
		word, alternatives := rest[0][:i], []string{rest[0][i:]}
		for rest = rest[1:]; len(rest) > 0 && strings.IndexAny(rest[0], "<>=!") == 0; rest = rest[1:] {
			alternatives = append(alternatives, rest[0])
		}
		if err = set(&m, junosWords[word], alternatives, "&"); err != nil {
			return m, err
		}
	}
	return m, nil
}
