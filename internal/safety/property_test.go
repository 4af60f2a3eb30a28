package safety

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/amooglesoft/trafficmonitor/internal/route"
)

// TestWhatPassesIsSafe draws random sets, dangerous ones more often than not, and asks of what passes every invariant
// again, in other words and by brute force. It also asks that the verdict does not depend on the order of the set.
func TestWhatPassesIsSafe(t *testing.T) {
	rnd := rand.New(rand.NewPCG(3, 4))
	passed := 0
	var memo Memo
	for round := range 400 {
		l := limits()
		l.MaxRules, l.MaxNewPerMinute = 5+rnd.IntN(20), 1+rnd.IntN(10)
		l.MaxRulesPerTarget, l.MaxRulesPerOwner = 1+rnd.IntN(3), 1+rnd.IntN(6)
		l.MaxRulesPerResponse, l.MaxRulesPerGroup = 2+rnd.IntN(8), 2+rnd.IntN(8)
		l.Own = prefixes("192.0.2.0/24 203.0.113.0/24 2001:db8::/32")
		l.MaxOwnShare = []float64{0.001, 0.01, 0.1, 0.25}[rnd.IntN(4)]
		set := make([]Entry, rnd.IntN(60))
		for i := range set {
			set[i] = randomEntry(rnd)
		}
		safe := pass(l, set)
		passed += len(safe)
		if err := restate(l, safe); err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
		if v := Check(now, l, safe); len(v) > 0 {
			t.Fatalf("round %d: what passed does not pass again alone: %v", round, v[0])
		}
		made := slices.Clone(set) // what was made before saves work and changes nothing, whatever route it is of
		for i := range made {
			made[i].Made = Make(set[[]int{i, rnd.IntN(len(set))}[rnd.IntN(2)]].Route)
		}
		if a, b := Check(now, l, set), Check(now, l, made); !slices.Equal(a, b) {
			t.Fatalf("round %d: made before:\n%v\n%v", round, a, b)
		}
		memo.Fill(made)
		if a, b := Check(now, l, set), Check(now, l, made); !slices.Equal(a, b) || len(memo.made) > len(set) {
			t.Fatalf("round %d: from memory, of %d routes:\n%v\n%v", round, len(memo.made), a, b)
		}
		shuffled := slices.Clone(set)
		rnd.Shuffle(len(shuffled), func(i, j int) { shuffled[i], shuffled[j] = shuffled[j], shuffled[i] })
		if a, b := texts(safe), texts(pass(l, shuffled)); !slices.Equal(a, b) {
			t.Fatalf("round %d: the order of the set decides:\n%v\n%v", round, a, b)
		}
	}
	if passed < 400 {
		t.Errorf("only %d entries passed in all: the sets show nothing", passed)
	}
}

func pass(l Limits, set []Entry) []Entry {
	refused := map[int]bool{}
	for _, v := range Check(now, l, set) {
		refused[v.Index] = true
	}
	var out []Entry
	for i, e := range set {
		if !refused[i] {
			out = append(out, e)
		}
	}
	return out
}

func texts(set []Entry) []string {
	var out []string
	for _, e := range set {
		out = append(out, fmt.Sprint(e))
	}
	slices.Sort(out)
	return out
}

func choose[T any](rnd *rand.Rand, from ...T) T { return from[rnd.IntN(len(from))] }

func randomEntry(rnd *rand.Rand) Entry {
	prefix := func() netip.Prefix {
		switch rnd.IntN(12) {
		case 0:
			return netip.Prefix{}
		case 1:
			return choose(rnd, prefixes("0.0.0.0/0 ::/0 198.51.100.1/32 198.51.0.0/16 2001:db8:ffff::/48 192.0.2.1/32 192.0.0.0/16")...)
		case 2:
			return netip.PrefixFrom(netip.AddrFrom16([16]byte{0x20, 1, 0xd, 0xb8, byte(rnd.IntN(2)), 15: byte(rnd.IntN(9))}), choose(rnd, 32, 46, 48, 64, 128)).Masked()
		}
		return netip.PrefixFrom(netip.AddrFrom4([4]byte{192, 0, 2, byte(rnd.IntN(256))}), choose(rnd, 24, 26, 29, 31, 32, 32, 32)).Masked()
	}
	ports := func() []route.Range {
		switch rnd.IntN(6) {
		case 0:
			return []route.Range{{Lo: uint32(rnd.IntN(400)), Hi: uint32(rnd.IntN(65536))}}
		case 1:
			return []route.Range{{Lo: 53, Hi: 53}, {Lo: 179, Hi: 179}}
		case 2:
			return []route.Range{{Lo: 0, Hi: 178}, {Lo: 180, Hi: 65535}}
		}
		return nil
	}
	e := Entry{
		Owners:   []string{fmt.Sprint("m-", rnd.IntN(6))},
		Created:  now.Add(-time.Duration(rnd.IntN(200)) * time.Second),
		Deadline: now.Add(choose(rnd, time.Hour, time.Hour, time.Hour, -time.Second, 25*time.Hour)),
		Manual:   rnd.IntN(2) == 0, Approved: rnd.IntN(4) == 0,
	}
	if !e.Manual {
		e.Answers = []string{choose(rnd, "a", "b")}
	}
	e.Groups = choose(rnd, nil, []string{"x"}, []string{"y", "x"})
	if rnd.IntN(20) == 0 {
		e.Deadline = time.Time{}
	}
	if rnd.IntN(20) == 0 {
		e.Created = time.Time{}
	}
	d := prefix()
	if rnd.IntN(3) == 0 {
		e.Route = route.Route{Match: route.Match{Destination: d}, Action: route.Action{Kind: route.Blackhole}}
		return e
	}
	e.Route.Match = route.Match{Destination: d, Port: ports(), DestinationPort: ports(), SourcePort: ports()}
	if rnd.IntN(3) == 0 {
		e.Route.Match.Source = prefix()
	}
	if p := choose(rnd, 0, 6, 17, 17, 17, 300); p > 0 {
		e.Route.Match.Protocol = []route.Range{{Lo: uint32(p), Hi: uint32(p)}}
	}
	if rnd.IntN(8) == 0 {
		e.Route.Match.DSCP = []route.Range{{Lo: uint32(rnd.IntN(70)), Hi: uint32(rnd.IntN(70))}}
	}
	e.Route.Action = choose(rnd, route.Action{Kind: route.Discard}, route.Action{Kind: route.RateBytes, Rate: 1000}, route.Action{Kind: route.RateBytes, Rate: 1e9})
	if rnd.IntN(8) > 0 {
		e.Route = e.Route.Canonical()
	}
	return e
}

// restate asks every invariant of a set again. It uses nothing of the kernel.
func restate(l Limits, set []Entry) error {
	answers, groups := map[string]int{}, map[string]int{}
	owners, targets, routes := map[string]int{}, map[netip.Prefix]int{}, map[string]route.Action{}
	var created []time.Time
	cut := map[netip.Addr]bool{}     // IPv4 addresses that are cut off
	cut6 := map[string]bool{}        // and IPv6 /64s that are cut off entirely
	var own4 float64 = 512           // addresses in Own
	own6 := float64(uint64(1) << 32) // /64s in Own
	overlaps := func(p netip.Prefix) bool {
		return p.IsValid() && slices.ContainsFunc(l.Never, p.Overlaps)
	}
	// A route that is wanted twice counts once, as the older of the two wants it.
	set = slices.SortedStableFunc(slices.Values(set), func(a, b Entry) int { return a.Created.Compare(b.Created) })
	for _, e := range set {
		r, m, approved := e.Route, e.Route.Match, e.Approved && e.Manual
		d, s := m.Destination, m.Source
		fail := func(what string) error { return fmt.Errorf("%s (approved %v): %s", r, approved, what) }

		if parsed, err := route.Parse(r.String()); err != nil || !parsed.Equal(r) {
			return fail("is not what it reads")
		}
		switch {
		case !d.IsValid() && !approved:
			return fail("no destination")
		case !d.IsValid() && (!s.IsValid() || s.Addr().Is4() && s.Bits() < 24 || s.Addr().Is6() && s.Bits() < 48):
			return fail("a wide source alone")
		case d.IsValid() && !slices.ContainsFunc(l.Own, func(p netip.Prefix) bool { return p.Overlaps(d) && p.Bits() <= d.Bits() }):
			return fail("not ours")
		case !e.Manual && d.IsValid() && d.Bits() < d.Addr().BitLen():
			return fail("a network, and nobody asked for it")
		case !approved && (overlaps(d) || overlaps(s)):
			return fail("protected")
		}
		for _, rs := range [][]route.Range{m.Protocol, m.Port, m.DestinationPort, m.SourcePort, m.DSCP} {
			for _, x := range rs {
				if x.Lo > x.Hi {
					return fail("an empty range")
				}
			}
		}
		if len(m.Protocol) > 0 && m.Protocol[0].Hi > 255 || len(m.DSCP) > 0 && m.DSCP[0].Hi > 63 {
			return fail("a value out of range")
		}

		if has(m.Protocol, 6, true) {
			if has(m.Port, 179, false) || has(m.DestinationPort, 179, false) || has(m.SourcePort, 179, false) {
				return fail("names BGP's port")
			}
			if overlaps(d) || overlaps(s) || !d.IsValid() {
				for other := 1024; other < 65536; other++ {
					if packet(m, uint32(other), 179) || packet(m, 179, uint32(other)) {
						return fail("cuts a BGP session")
					}
				}
			}
		}
		if r.IsBlackhole() {
			switch host := d.Bits() == d.Addr().BitLen(); {
			case !host && !approved, !host && d.Addr().Is4() && d.Bits() < 24, !host && d.Addr().Is6() && d.Bits() < 48:
				return fail("a wide blackhole")
			}
		}
		if !e.Deadline.After(now) || e.Created.IsZero() || e.Created.Add(l.MaxAge).Before(e.Deadline) {
			return fail("no sane end")
		}

		owners[e.Owners[0]]++
		if a, ok := routes[r.ID()]; ok {
			if a != r.Action {
				return fail("two actions for one match")
			}
			continue
		}
		routes[r.ID()] = r.Action
		created = append(created, e.Created)
		for _, a := range e.Answers {
			answers[a]++
		}
		for _, g := range e.Groups {
			groups[g]++
		}
		if t := d; t.IsValid() {
			targets[t]++
		} else {
			targets[s]++
		}
		if r.IsBlackhole() || (r.Action.Kind == route.Discard || r.Action.Rate == 1000) && d.IsValid() && len(m.Port)+len(m.DestinationPort)+len(m.SourcePort)+len(m.DSCP) == 0 {
			if d.Addr().Is4() {
				for a := d.Addr(); d.Contains(a); a = a.Next() {
					cut[a] = true
				}
			} else if d.Bits() <= 64 {
				cut6[d.String()] = true
			}
		}
	}

	if len(routes) > l.MaxRules {
		return fmt.Errorf("%d routes", len(routes))
	}
	for o, n := range owners {
		if n > l.MaxRulesPerOwner {
			return fmt.Errorf("%d of %s", n, o)
		}
	}
	for a, n := range answers {
		if n > l.MaxRulesPerResponse {
			return fmt.Errorf("%d of response %s", n, a)
		}
	}
	for g, n := range groups {
		if n > l.MaxRulesPerGroup {
			return fmt.Errorf("%d of group %s", n, g)
		}
	}
	for p, n := range targets {
		if n > l.MaxRulesPerTarget {
			return fmt.Errorf("%d for %s", n, p)
		}
	}
	for _, end := range created {
		n := 0
		for _, c := range created {
			if c.After(end.Add(-time.Minute)) && !c.After(end) {
				n++
			}
		}
		if n > l.MaxNewPerMinute {
			return fmt.Errorf("%d new in the minute before %s", n, end)
		}
	}
	if share := float64(len(cut)) / own4; share > l.MaxOwnShare {
		return fmt.Errorf("%g of our IPv4 space cut off", share)
	}
	widest := 0.0
	for text := range cut6 {
		widest = max(widest, float64(uint64(1)<<(64-netip.MustParsePrefix(text).Bits())))
	}
	if widest/own6 > l.MaxOwnShare {
		return fmt.Errorf("%g of our IPv6 space cut off", widest/own6)
	}
	return nil
}

// has reports whether v is in rs; empty answers for no list at all.
func has(rs []route.Range, v uint32, empty bool) bool {
	if len(rs) == 0 {
		return empty
	}
	return slices.ContainsFunc(rs, func(r route.Range) bool { return r.Lo <= v && v <= r.Hi })
}

// packet reports whether a rule matches a TCP packet by its ports.
func packet(m route.Match, from, to uint32) bool {
	return has(m.SourcePort, from, true) && has(m.DestinationPort, to, true) && (has(m.Port, from, true) || has(m.Port, to, true))
}
