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
func readJunos(r *reader, f route.Family) {
	const (
		nothing = iota
		counters
		policers
	)
	j := junosRules{r: r, f: f, seen: map[string]bool{}}
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
		if section == policers {
			j.policer(words[0])
		} else {
			j.counter(words[0], packets, true, octets, true)
		}
	}
	j.end()
}

// junosRules gathers the rules of a filter. A policer counts what exceeds its rate, so it says that a rule is there and not
// what it hit.
type junosRules struct {
	r     *reader
	f     route.Family
	seen  map[string]bool // rules that have a counter, by the text of the match
	later []Rule          // of policers
}

func (j *junosRules) counter(name string, packets uint64, hasPackets bool, octets uint64, hasOctets bool) {
	m, err := junosMatch(name, j.f)
	j.r.add(Rule{Match: m, State: Installed, Packets: packets, Octets: octets, HasPackets: hasPackets, HasOctets: hasOctets}, name, err)
	if n := len(j.r.out.Rules); err == nil && n > 0 {
		j.seen[j.r.out.Rules[n-1].Match.String()] = true
	}
}

// policer takes the name of a policer, which has its rate before that of the rule. Others have no rate and are no rules.
func (j *junosRules) policer(name string) {
	_, rest, ok := strings.Cut(name, "_")
	if !ok {
		return
	}
	m, err := junosMatch(rest, j.f)
	if err != nil {
		j.r.add(Rule{}, name, err)
		return
	}
	j.later = append(j.later, Rule{Match: m, State: Installed})
}

// end adds the rules that have a policer only.
func (j *junosRules) end() {
	for _, rule := range j.later {
		if !j.seen[(route.Route{Match: rule.Match}).Canonical().Match.String()] {
			j.r.add(rule, rule.Match.String(), nil)
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
