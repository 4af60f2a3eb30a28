package probe

import (
	"strings"

	"github.com/amooglesoft/trafficmonitor/internal/route"
)

// readSROS reads "show filter ip fSpec-0" of Nokia SR OS: entries of lines "key : value", and below them the lists of ports
// they name. An entry stands there while the filter is embedded nowhere, so only a counter that moved shows that it works.
func readSROS(r *reader, f route.Family) {
	lists := srosPorts(r.lines)
	var entry map[string]string
	flush := func() {
		if entry == nil {
			return
		}
		rule := Rule{Why: "it stands in fSpec-0, and SR OS does not say whether an interface's filter embeds it; it has hit nothing yet"}
		var err error
		rule.Match, err = srosMatch(entry, lists, f)
		if w := strings.Fields(entry["Ing. Matches"]); len(w) >= 2 && w[1] == "pkts" {
			if rule.Packets, rule.HasPackets = count(w[0]); rule.HasPackets && rule.Packets > 0 {
				rule.State, rule.Why = Installed, ""
			}
			if len(w) == 4 && w[3] == "bytes)" {
				rule.Octets, rule.HasOctets = count(strings.TrimPrefix(w[2], "("))
			}
		}
		r.add(rule, "entry "+entry["Entry"], err)
		entry = nil
	}
	for _, line := range r.lines {
		for _, pair := range srosPairs(line) {
			key, value := pair[0], pair[1]
			switch {
			case key == "Filter Id":
				r.known = r.known || strings.HasPrefix(value, "fSpec-")
			case key == "Entry":
				flush()
				entry = map[string]string{key: value}
			case entry != nil:
				entry[key] = value
			}
		}
		if strings.HasPrefix(strings.TrimSpace(line), "Filter Match ") && !strings.Contains(line, "Criteria") {
			flush() // the lists begin
		}
	}
	flush()
}

// srosPairs splits "ICMP Type : Undefined    ICMP Code : Undefined".
func srosPairs(line string) (out [][2]string) {
	key, rest, ok := strings.Cut(line, " : ")
	for ok {
		// The second key of a line stands behind at least two blanks.
		value, next, more := rest, "", false
		if i := strings.Index(rest, "  "); i >= 0 && strings.Contains(rest[i:], ":") {
			value, next, more = rest[:i], strings.TrimSpace(rest[i:]), true
		}
		out = append(out, [2]string{strings.TrimSpace(key), strings.TrimSpace(value)})
		if !more {
			break
		}
		key, rest, ok = strings.Cut(next, ":")
	}
	return out
}

// srosPorts reads the lists of ports at the end.
func srosPorts(lines []string) map[string][]string {
	out := map[string][]string{}
	name := ""
	for _, line := range lines {
		text := strings.TrimSpace(line)
		if rest, ok := strings.CutPrefix(text, `Port list "`); ok {
			name, _, _ = strings.Cut(rest, `"`)
			continue
		}
		if name == "" {
			continue
		}
		if strings.HasPrefix(text, "NUM ") || text == "" {
			name = ""
			continue
		}
		for _, w := range strings.Fields(text) {
			lo, hi, isRange := strings.Cut(w, "-")
			if isRange {
				out[name] = append(out[name], ">="+lo+"&<="+hi)
			} else {
				out[name] = append(out[name], "="+lo)
			}
		}
	}
	return out
}

func srosMatch(e map[string]string, lists map[string][]string, f route.Family) (m route.Match, err error) {
	if m.Destination, err = prefix(e["Dest. IP"], f); err != nil {
		return m, err
	}
	if m.Source, err = prefix(e["Src. IP"], f); err != nil {
		return m, err
	}
	for _, x := range [][2]string{{"Dest. Port", "destination-port"}, {"Src. Port", "source-port"}} {
		v := e[x[0]]
		if v == "" || v == "n/a" {
			continue
		}
		op, number, _ := strings.Cut(v, " ")
		sign := map[string]string{"eq": "=", "gt": ">", "lt": "<"}[op]
		alternatives := []string{sign + number}
		switch {
		case op == "port-list":
			alternatives = lists[strings.Trim(number, `"`)]
		case sign == "":
			return m, errUnread
		}
		if err = set(&m, x[1], alternatives, "&"); err != nil {
			return m, err
		}
	}
	for _, x := range [][2]string{{"Protocol", "protocol"}, {"Next Header", "protocol"}, {"ICMP Type", "icmp-type"}, {"ICMP Code", "icmp-code"}} {
		if v := e[x[0]]; v != "" && v != "Undefined" {
			if err = set(&m, x[1], []string{v}, "&"); err != nil {
				return m, err
			}
		}
	}
	for key, none := range map[string]string{"Dscp": "Undefined", "Fragment": "Off", "Tcp-flag": "(Not Specified)"} {
		if v := e[key]; v != "" && v != none {
			return m, errUnread
		}
	}
	return m, nil
}
