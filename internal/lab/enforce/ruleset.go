// Package enforce drops in the kernel what FlowSpec rules say should be dropped: it turns rules into an nftables table, in
// the order of RFC 8955, and keeps the table equal to what a router holds. It stands in for the data plane that the
// routers of the lab lack.
package enforce

import (
	"bytes"
	"fmt"
	"hash/fnv"
	"math/bits"
	"net/netip"
	"slices"
	"strings"

	"github.com/amooglesoft/trafficmonitor/internal/route"
)

// Table is the nftables table (family inet) that holds the rules.
const Table = "flowspec"

// chain is prerouting before connection tracking and defragmentation (−400): FlowSpec judges packets, fragments too.
const chain = "add table inet " + Table + "\n" +
	"add chain inet " + Table + " rules { type filter hook prerouting priority -450; policy accept; }\n" +
	"flush chain inet " + Table + " rules\n"

// Key identifies a rule among those of its table, stable over time: the same match has the same key. The action is not
// part of it, as it is not in BGP.
func Key(r route.Route) string {
	h := fnv.New64a()
	h.Write([]byte(r.ID()))
	return fmt.Sprintf("%s%016x", r.Family().String()[3:], h.Sum64())
}

// objects are the named parts of a rule in the table: a chain, a counter of what matched, a counter of what was dropped,
// and a limit.
type objects struct{ chain, matched, dropped, limit string }

func objectsOf(r route.Route) objects {
	k := Key(r)
	// A limit cannot change its rate in place: another rate is another limit.
	return objects{"r_" + k, "m_" + k, "d_" + k, fmt.Sprintf("l_%s_%d_%d", k, r.Action.Kind, r.Action.Rate)}
}

// Sort puts rules in the order in which a router applies them.
func Sort(rules []route.Route) {
	slices.SortStableFunc(rules, func(a, b route.Route) int { return route.Precedence(a.Match, b.Match) })
}

// Script returns the nftables commands that make the table hold exactly rules, which must be in order, when it holds
// what old says. Counters and limits of rules that stay are kept. All commands take effect together or not at all.
func Script(rules, old []route.Route) (string, error) {
	var b strings.Builder
	b.WriteString(chain)
	keep := map[string]bool{}
	for _, r := range rules {
		if err := validate(r); err != nil {
			return "", err
		}
		o := objectsOf(r)
		keep[o.chain], keep[o.limit] = true, true
		fmt.Fprintf(&b, "add counter inet %s %s\nadd counter inet %s %s\n", Table, o.matched, Table, o.dropped)
		fmt.Fprintf(&b, "add chain inet %s %s\nflush chain inet %s %s\n", Table, o.chain, Table, o.chain)
		verdict, err := verdict(r.Action, o)
		if err != nil {
			return "", fmt.Errorf("%s: %w", r, err)
		}
		b.WriteString(verdict)
		alternatives, err := conditions(r.Match, r.Family())
		if err != nil {
			return "", fmt.Errorf("%s: %w", r, err)
		}
		for _, c := range alternatives {
			fmt.Fprintf(&b, "add rule inet %s rules %s goto %s\n", Table, c, o.chain)
		}
	}
	for _, r := range old {
		o := objectsOf(r)
		if !keep[o.chain] {
			fmt.Fprintf(&b, "flush chain inet %s %s\ndelete chain inet %s %s\n", Table, o.chain, Table, o.chain)
			fmt.Fprintf(&b, "delete counter inet %s %s\ndelete counter inet %s %s\n", Table, o.matched, Table, o.dropped)
		}
		if !keep[o.limit] && limited(r.Action) {
			fmt.Fprintf(&b, "delete limit inet %s %s\n", Table, o.limit)
		}
	}
	return b.String(), nil
}

func limited(a route.Action) bool { return a.Kind == route.RateBytes || a.Kind == route.RatePackets }

// verdict writes the rule's own chain.
func verdict(a route.Action, o objects) (string, error) {
	add := "add rule inet " + Table + " " + o.chain + " counter name " + o.matched
	switch {
	case a.Continue || a.Mark > 0 || a.Redirect != (route.Redirect{}):
		return "", fmt.Errorf("action %s is more than the lab enforces", a)
	case a.Kind == 0 || a.Kind == route.Accept: // without an action a rule lets through, and ends the search (RFC 8955, section 7)
		return add + " accept\n", nil
	case a.Kind == route.Discard:
		return add + " counter name " + o.dropped + " drop\n", nil
	case limited(a) && a.Rate > 0:
		// The kernel adds a second's worth of bytes to the burst: it is let through at once, after that the rate holds.
		unit, burst := "bytes/second", "3000 bytes"
		if a.Kind == route.RatePackets {
			unit, burst = "/second", fmt.Sprintf("%d packets", max(a.Rate/10, 2))
		}
		rate := fmt.Sprintf("%d %s", a.Rate, unit)
		if a.Kind == route.RatePackets {
			rate = fmt.Sprintf("%d%s", a.Rate, unit)
		}
		return fmt.Sprintf("add limit inet %s %s { rate over %s burst %s; }\n", Table, o.limit, rate, burst) +
			add + " limit name " + o.limit + " counter name " + o.dropped + " drop\n" +
			"add rule inet " + Table + " " + o.chain + " accept\n", nil
	}
	return "", fmt.Errorf("action %s is not one of FlowSpec", a)
}

// conditions writes a match as nftables expressions, of which any may be true.
func conditions(m route.Match, f route.Family) ([]string, error) {
	ip := "ip"
	if f == route.IPv6 {
		ip = "ip6"
	}
	all := []string{""}
	and := func(expressions ...string) { // each of all, with each of the expressions
		var out []string
		for _, a := range all {
			for _, e := range expressions {
				out = append(out, strings.TrimSpace(a+" "+e))
			}
		}
		all = out
	}
	and("meta nfproto ipv" + fmt.Sprint(uint8(f)))
	if m.Destination.IsValid() && m.Destination.Bits() > 0 {
		and(ip + " daddr " + address(m.Destination, m.DestinationOffset))
	}
	if m.Source.IsValid() && m.Source.Bits() > 0 {
		and(ip + " saddr " + address(m.Source, m.SourceOffset))
	}
	if len(m.FlowLabel) > 0 {
		and("ip6 flowlabel " + set(m.FlowLabel))
	}
	if len(m.Protocol) > 0 {
		and("meta l4proto " + set(m.Protocol))
	}
	// Only the first fragment has a transport header; what stands in its place in the others is payload.
	if len(m.Port)+len(m.DestinationPort)+len(m.SourcePort)+len(m.ICMPType)+len(m.ICMPCode)+len(m.TCPFlags) > 0 {
		if f == route.IPv6 {
			and("exthdr frag missing", "frag frag-off 0")
		} else {
			and("ip frag-off & 0x1fff == 0")
		}
	}
	// Ports are those of TCP and UDP (RFC 8955, sections 4.2.2.4 to 6).
	if len(m.Port)+len(m.DestinationPort)+len(m.SourcePort) > 0 {
		and("meta l4proto { 6, 17 }")
	}
	if len(m.Port) > 0 {
		and("th sport "+set(m.Port), "th dport "+set(m.Port))
	}
	if len(m.DestinationPort) > 0 {
		and("th dport " + set(m.DestinationPort))
	}
	if len(m.SourcePort) > 0 {
		and("th sport " + set(m.SourcePort))
	}
	icmp, number := "icmp", 1
	if f == route.IPv6 {
		icmp, number = "icmpv6", 58
	}
	if len(m.ICMPType)+len(m.ICMPCode) > 0 {
		and(fmt.Sprintf("meta l4proto %d", number))
	}
	if len(m.ICMPType) > 0 {
		and(icmp + " type " + set(m.ICMPType))
	}
	if len(m.ICMPCode) > 0 {
		and(icmp + " code " + set(m.ICMPCode))
	}
	if len(m.TCPFlags) > 0 {
		and("meta l4proto 6")
		var tests []string
		for _, t := range m.TCPFlags {
			// The flags octet of the TCP header, or the two octets it is in; "tcp flags" itself refuses to stand beside "th sport".
			at := "104,8"
			if t.Set|t.Clear > 0xff {
				at = "96,16"
			}
			tests = append(tests, fmt.Sprintf("@th,%s & 0x%02x == 0x%02x", at, t.Set|t.Clear, t.Set))
		}
		and(tests...)
	}
	if len(m.Length) > 0 {
		and("meta length " + set(m.Length))
	}
	if len(m.DSCP) > 0 {
		and(ip + " dscp " + set(m.DSCP))
	}
	if len(m.Fragment) > 0 {
		var tests []string
		for _, t := range m.Fragment {
			x, err := fragment(t, f)
			if err != nil {
				return nil, err
			}
			tests = append(tests, x...)
		}
		and(tests...)
	}
	return all, nil
}

// address writes a prefix, of which the bits before offset are not compared.
func address(p netip.Prefix, offset uint8) string {
	if offset == 0 {
		return p.String()
	}
	ones := netip.AddrFrom16([16]byte(bytes.Repeat([]byte{0xff}, 16)))
	mask := netip.PrefixFrom(ones, p.Bits()).Masked().Addr().As16()
	for bit := range offset {
		mask[bit/8] &^= 0x80 >> (bit % 8)
	}
	return fmt.Sprintf("& %s == %s", netip.AddrFrom16(mask), p.Addr())
}

// set writes ranges as an nftables set.
func set(rs []route.Range) string {
	parts := make([]string, len(rs))
	for i, r := range rs {
		parts[i] = fmt.Sprintf("%d-%d", r.Lo, r.Hi)
		if r.Lo == r.Hi {
			parts[i] = fmt.Sprint(r.Lo)
		}
	}
	if len(parts) == 1 {
		return parts[0]
	}
	return "{ " + strings.Join(parts, ", ") + " }"
}

// Fragment tests. IPv4's word holds DF 0x4000, MF 0x2000 and the offset; IPv6 has a header of its own, or none.
var fragment4 = map[uint16][2]string{ // set, clear
	route.DontFragment:  {"ip frag-off & 0x4000 != 0", "ip frag-off & 0x4000 == 0"},
	route.IsFragment:    {"ip frag-off & 0x1fff != 0", "ip frag-off & 0x1fff == 0"},
	route.FirstFragment: {"ip frag-off & 0x3fff == 0x2000", "ip frag-off & 0x3fff != 0x2000"},
	route.LastFragment:  {"ip frag-off & 0x3fff 1-8191", "ip frag-off & 0x3fff != 1-8191"},
}

var fragment6 = map[uint16][2][]string{ // set; clear: any of
	route.IsFragment:    {{"frag frag-off != 0"}, {"exthdr frag missing", "frag frag-off 0"}},
	route.FirstFragment: {{"frag frag-off 0 frag more-fragments 1"}, {"exthdr frag missing", "frag frag-off != 0", "frag more-fragments 0"}},
	route.LastFragment:  {{"frag frag-off != 0 frag more-fragments 0"}, {"exthdr frag missing", "frag frag-off 0", "frag more-fragments 1"}},
}

func fragment(t route.Bits, f route.Family) ([]string, error) {
	out := []string{""}
	for bit := uint16(1); bit != 0; bit <<= 1 {
		if (t.Set|t.Clear)&bit == 0 {
			continue
		}
		which := bits.OnesCount16(t.Clear & bit)
		var tests []string
		if f == route.IPv6 {
			tests = fragment6[bit][which]
		} else if x := fragment4[bit][which]; x != "" {
			tests = []string{x}
		}
		if len(tests) == 0 {
			return nil, fmt.Errorf("fragment bit 0x%x does not exist in %s", bit, f)
		}
		var next []string
		for _, o := range out {
			for _, x := range tests {
				next = append(next, strings.TrimSpace(o+" "+x))
			}
		}
		out = next
	}
	return out, nil
}

// validate refuses what could not have come over BGP.
func validate(r route.Route) error {
	if r.Action.Kind == 0 { // valid here: it lets through
		r.Action.Kind = route.Discard
	}
	if r.IsBlackhole() {
		return fmt.Errorf("%s: a blackhole is the kernel's to enforce", r)
	}
	return r.Validate()
}
