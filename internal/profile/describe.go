package profile

import (
	"fmt"
	"slices"
	"strings"

	"github.com/amooglesoft/trafficmonitor/internal/compile"
)

// Line is what a profile says of one key, for people.
type Line struct{ Key, Value string }

// Describe lists what the profile sets, in the order of its keys, and nothing else.
func (p Profile) Describe() []Line {
	var out []Line
	add := func(key, value string) {
		if value != "" {
			out = append(out, Line{key, value})
		}
	}
	number := func(key string, n int) {
		if n > 0 {
			add(key, fmt.Sprint(n))
		}
	}
	r := p.Router
	add("families", words(r.Carries))
	add("match.components", words(r.Components))
	add("match.prefix_offset", string(r.Offsets))
	number("match.max_items", r.MaxItems)
	add("match.max_items_of", counts(r.ItemsOf))
	if r.Unmixed {
		add("match.separate_ranges", "true")
	}
	var pairs []string
	for _, x := range r.Exclusive {
		pairs = append(pairs, pairCodec().Format(x))
	}
	add("match.exclusive", words(pairs))
	if r.PortsNeedProtocol {
		add("match.ports_need_protocol", "true")
	}
	add("match.tcp_flags", bitWords(tcpFlagWords, func(w string) bool { b := flags("tcp-flags", []string{w}); return r.TCPFlags&b != 0 }))
	add("match.fragment", bitWords(fragmentWords, func(w string) bool { b := flags("fragment", []string{w}); return r.Fragment&b != 0 }))
	add("actions", words(r.Actions))
	add("redirect_targets", words(r.Targets))
	if r.Split > 1 {
		number("split", r.Split)
	}
	if r.Cost.Expand {
		add("cost.model", tcam)
	}
	add("cost.each", counts(r.Cost.Each))
	number("room.entries", r.Budget.Shared)
	number("room.entries_v4", r.Budget.IPv4)
	number("room.entries_v6", r.Budget.IPv6)
	number("room.rules", r.MaxRules)
	number("programming_rate", r.ProgrammingRate)
	add("over_limit", string(p.OverLimit))
	add("probe.parser", p.Probe.Parser)
	add("probe.ipv4", p.Probe.IPv4)
	add("probe.ipv6", p.Probe.IPv6)
	add("probe.counters", p.Probe.Counters)
	add("probe.snmp", p.Probe.SNMP)
	add("probe.gnmi", p.Probe.GNMI)
	return out
}

func words[T ~string](list []T) string {
	out := make([]string, len(list))
	for i, w := range list {
		out[i] = string(w)
	}
	return strings.Join(out, ", ")
}

func counts(m map[string]int) string {
	var out []string
	for _, w := range compile.Components() {
		if n, ok := m[w]; ok {
			out = append(out, fmt.Sprintf("%s %d", w, n))
		}
	}
	return strings.Join(out, ", ")
}

func bitWords(all []string, has func(string) bool) string {
	return strings.Join(slices.DeleteFunc(slices.Clone(all), func(w string) bool { return !has(w) }), ", ")
}
