package probe

import (
	"strings"

	"github.com/amooglesoft/trafficmonitor/internal/route"
)

// readEOS reads "show flow-spec ipv4" of Arista EOS:
//
//	Flow specification rules for VRF default
//	  Flow-spec rule: 203.0.113.7/32;*;IP:=17;SP:=53;
//	    Status:
//	      Installed: yes
//	      Counter: 100 packets, 230 bytes
func readEOS(r *reader, f route.Family) {
	var rule Rule
	var err error
	var raw string
	flush := func() {
		if raw != "" {
			r.add(rule, raw, err)
		}
		raw = ""
	}
	for _, line := range r.lines {
		text := strings.TrimSpace(line)
		if strings.HasPrefix(text, "Flow specification rules") {
			r.known = true
		}
		if rest, ok := strings.CutPrefix(text, "Flow-spec rule: "); ok {
			flush()
			rule = Rule{Why: "EOS does not say whether it is installed"}
			raw = rest
			rule.Match, err = eosMatch(rest, f)
		}
		if rest, ok := strings.CutPrefix(text, "Installed: "); ok {
			switch rest {
			case "yes":
				rule.State, rule.Why = Installed, ""
			default:
				rule.State, rule.Why = NotInstalled, "EOS says Installed: "+quote(rest)
			}
		}
		if rest, ok := strings.CutPrefix(text, "Counter: "); ok {
			w := strings.Fields(strings.ReplaceAll(rest, ",", ""))
			if len(w) == 4 && w[1] == "packets" && w[3] == "bytes" {
				p, ok1 := count(w[0])
				o, ok2 := count(w[2])
				if ok1 && ok2 {
					rule.Packets, rule.Octets, rule.HasPackets, rule.HasOctets = p, o, true, true
				}
			}
		}
	}
	flush()
}

var eosWords = map[string]string{"IP": "protocol", "DP": "destination-port", "SP": "source-port"}

// eosMatch reads "203.0.113.7/32;*;IP:=17;DP:=743;". Only single values and ranges of these components are known to look so;
// a rule with others is not read.
func eosMatch(s string, f route.Family) (m route.Match, err error) {
	parts := strings.Split(strings.TrimSuffix(s, ";"), ";")
	if len(parts) < 2 {
		return m, errUnread
	}
	if m.Destination, err = prefix(parts[0], f); err != nil {
		return m, err
	}
	if m.Source, err = prefix(parts[1], f); err != nil {
		return m, err
	}
	for _, p := range parts[2:] {
		word, value, ok := strings.Cut(p, ":")
		if !ok {
			return m, errUnread
		}
		if err = set(&m, eosWords[word], []string{value}, "&"); err != nil {
			return m, err
		}
	}
	return m, nil
}
