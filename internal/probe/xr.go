package probe

import (
	"strconv"
	"strings"

	"github.com/amooglesoft/trafficmonitor/internal/route"
)

// readXR reads "show flowspec ipv4 detail" of IOS XR:
//
//	AFI: IPv4
//	  Flow           :Dest:203.0.113.7/32,Proto:=17,SPort:=53|=123
//	    Actions      :Traffic-rate: 0 bps  (bgp.1)
//	    Statistics                        (packets/bytes)
//	      Matched             :                1376/63296
//	      Dropped             :                1376/63296
//
// It is the flow manager's table: a rule that hardware refused stands there as well. Only a counter that moved shows more.
func readXR(r *reader, f route.Family) {
	var rule Rule
	var err error
	var raw string
	flush := func() {
		if raw == "" {
			return
		}
		r.add(xrRule(rule.Match, rule.Packets, rule.HasPackets, rule.Octets, rule.HasOctets), raw, err)
		raw = ""
	}
	for _, line := range r.lines {
		text := strings.TrimSpace(line)
		key, value, ok := strings.Cut(text, ":")
		if !ok {
			continue
		}
		switch strings.TrimSpace(key) {
		case "AFI":
			r.known = true
		case "Flow":
			flush()
			rule = Rule{}
			raw = strings.TrimSpace(value)
			rule.Match, err = xrMatch(raw, f)
		case "Matched":
			packets, octets, ok := strings.Cut(strings.TrimSpace(value), "/")
			p, ok1 := count(packets)
			o, ok2 := count(octets)
			if ok && ok1 && ok2 {
				rule.Packets, rule.Octets, rule.HasPackets, rule.HasOctets = p, o, true, true
			}
		}
	}
	flush()
}

// xrRule is a rule of the flow manager's table, which is known to work when it has hit something.
func xrRule(m route.Match, packets uint64, hasPackets bool, octets uint64, hasOctets bool) Rule {
	rule := Rule{Match: m, Packets: packets, Octets: octets, HasPackets: hasPackets, HasOctets: hasOctets}
	if hasPackets && packets > 0 {
		rule.State = Installed
	} else {
		rule.Why = "IOS XR shows it and does not say whether hardware took it; it has hit nothing yet"
	}
	return rule
}

var xrWords = map[string]string{
	"Proto": "protocol", "Port": "port", "DPort": "destination-port", "SPort": "source-port",
	"ICMPType": "icmp-type", "ICMPCode": "icmp-code", "Length": "length", "DSCP": "dscp",
}

// xrMatch reads "Dest:203.0.113.7/32,Proto:=6,DPort:=80|=81,SPort:>=442&<=445,TCPFlags:=0x02".
func xrMatch(s string, f route.Family) (m route.Match, err error) {
	for part := range strings.SplitSeq(s, ",") {
		word, value, ok := strings.Cut(part, ":")
		if !ok {
			return m, errUnread
		}
		switch word {
		case "Dest":
			m.Destination, err = prefix(value, f)
		case "Source":
			m.Source, err = prefix(value, f)
		case "TCPFlags":
			m.TCPFlags, err = xrFlags(value)
		default:
			err = set(&m, xrWords[word], strings.Split(value, "|"), "&")
		}
		if err != nil {
			return m, err
		}
	}
	return m, nil
}

// xrFlags reads "=0x02", all of these flags, and "~0x02" of one flag, any of these. It reads no negation.
func xrFlags(s string) ([]route.Bits, error) {
	var out []route.Bits
	for part := range strings.SplitSeq(s, "|") {
		text, all := strings.CutPrefix(part, "=")
		if !all {
			var anyOf bool
			if text, anyOf = strings.CutPrefix(part, "~"); !anyOf {
				return nil, errUnread
			}
		}
		v, err := strconv.ParseUint(text, 0, 12)
		if err != nil || v == 0 || !all && v&(v-1) != 0 {
			return nil, errUnread
		}
		out = append(out, route.Bits{Set: uint16(v)})
	}
	return out, nil
}
