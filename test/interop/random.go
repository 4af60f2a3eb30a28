package main

import (
	"fmt"
	"math/rand/v2"
	"net/netip"

	"github.com/amooglesoft/trafficmonitor/internal/route"
	"github.com/amooglesoft/trafficmonitor/internal/route/routetest"
)

// randomCells are the first n rules of a seed, numbered from 0: each with a part of our networks to itself, as a cell has.
func randomCells(seed uint64, n int) []Cell {
	rnd := rand.New(rand.NewPCG(seed, 0))
	out := make([]Cell, 0, n)
	for len(out) < n {
		r := place(randomRoute(rnd), len(out)%mostCells)
		if r.Validate() == nil {
			out = append(out, randomCell(r, len(out)))
		}
	}
	return out
}

// mostCells is how many cells have room beside each other: behind them are the sentinels.
const mostCells = 8000

func randomCell(r route.Route, n int) Cell {
	return Cell{r.Family(), "random", fmt.Sprintf("rule %d", n), r.Action.String(), r, n % mostCells}
}

// randomRoute draws a route, which may be invalid.
func randomRoute(rnd *rand.Rand) route.Route {
	v6 := rnd.IntN(2) == 0
	seed := make([]byte, 200)
	for i := range seed {
		seed[i] = byte(rnd.Uint32())
	}
	m := routetest.Match(seed, v6)
	bits, least := 32, 22
	if v6 {
		bits, least = 128, 48
	}
	// The safety kernel lets no destination have an offset.
	m.Destination, m.DestinationOffset = netip.PrefixFrom(randomAddress(rnd, v6), bits), 0
	switch rnd.IntN(8) {
	case 0:
		if m.Source, m.SourceOffset = m.Destination, 0; rnd.IntN(2) == 0 {
			m.Source = netip.PrefixFrom(m.Source.Addr(), least+2+rnd.IntN(bits-least-1))
		}
		m.Destination = netip.Prefix{}
	case 1, 2, 3:
		m.Destination = netip.PrefixFrom(m.Destination.Addr(), least+rnd.IntN(bits-least+1))
	}
	// Rules of few components and of many, with values at the edges of what is one octet, two, or more.
	keep := []float64{0.15, 0.4, 0.8}[rnd.IntN(3)]
	for _, word := range []string{"protocol", "port", "destination-port", "source-port", "icmp-type", "icmp-code", "length", "dscp", "flow-label"} {
		ranges, most := m.Numeric(word)
		if rnd.Float64() > keep {
			*ranges = nil
		}
		for i := range *ranges {
			r := &(*ranges)[i]
			switch rnd.IntN(12) {
			case 0:
				r.Lo = 0
			case 1:
				r.Hi = most
			case 2:
				r.Lo, r.Hi = min(255, most), min(256, most)
			case 3:
				r.Lo, r.Hi = r.Lo&0xff&most, r.Lo&0xff&most
			case 4:
				r.Lo, r.Hi = most, most
			}
		}
	}
	if rnd.Float64() > keep {
		m.TCPFlags = nil
	}
	if rnd.Float64() > keep {
		m.Fragment = nil
	}
	if m.Destination.IsValid() && rnd.Float64() > keep {
		m.Source, m.SourceOffset = netip.Prefix{}, 0
	}
	r := route.Route{Match: m, Action: randomAction(rnd, v6)}
	if rnd.IntN(10) == 0 {
		r = randomBlackhole(rnd, m, v6)
	}
	return r.Canonical()
}

func randomAddress(rnd *rand.Rand, v6 bool) netip.Addr {
	b := make([]byte, 16)
	for i := range b {
		b[i] = byte(rnd.Uint32())
	}
	if v6 {
		return netip.AddrFrom16([16]byte(b))
	}
	return netip.AddrFrom4([4]byte(b[:4]))
}

// randomAction draws an action of a rule; where traffic may be sent is what the speaker is told.
func randomAction(rnd *rand.Rand, v6 bool) (a route.Action) {
	switch rnd.IntN(4) {
	case 0:
		a.Kind = route.Discard
	case 1:
		a.Kind, a.Rate = route.RateBytes, 1+rnd.Uint64N(route.MaxRate>>rnd.IntN(40))
	case 2:
		a.Kind, a.Rate = route.RatePackets, 1+rnd.Uint64N(1<<(1+rnd.IntN(30)))
	case 3:
		a.Kind = route.Accept
	}
	a.Sample, a.Continue = rnd.IntN(6) == 0, rnd.IntN(6) == 0
	if rnd.IntN(4) == 0 {
		a.Mark = route.Some(rnd.Uint32N(64))
	}
	switch hop := hop4; rnd.IntN(12) {
	case 0:
		a.Redirect.Target = route.RouteTarget{Form: route.TargetAS2, Global: 64500, Local: 100}
	case 1:
		a.Redirect.Target = route.RouteTarget{Form: route.TargetIPv4, Global: 0xc0000209, Local: 9}
	case 2:
		a.Redirect.Target = route.RouteTarget{Form: route.TargetAS4, Global: 4200000000, Local: 9}
	case 3:
		if v6 {
			hop = hop6
		}
		a.Redirect.Address, a.Redirect.Copy = hop, rnd.IntN(2) == 0
	}
	if rnd.IntN(4) == 0 {
		a.Attributes = randomAttributes(rnd)
	}
	return a
}

func randomAttributes(rnd *rand.Rand) (a route.Attributes) {
	var cs []uint32
	for range rnd.IntN(4) {
		cs = append(cs, 64500<<16|rnd.Uint32N(1<<16))
	}
	var large [][3]uint32
	for range rnd.IntN(4) {
		large = append(large, [3]uint32{64500 + rnd.Uint32N(10), rnd.Uint32(), rnd.Uint32()})
	}
	a.Communities, a.Large = route.CommunitiesOf(cs...), route.LargeCommunitiesOf(large...)
	if rnd.IntN(3) == 0 {
		a.MED = route.Some(1 + rnd.Uint32N(1<<31)) // lab.Path says nothing of a MED of 0
	}
	return a
}

func randomBlackhole(rnd *rand.Rand, m route.Match, v6 bool) route.Route {
	a := route.Action{Kind: route.Blackhole, Attributes: randomAttributes(rnd)}
	if rnd.IntN(3) == 0 {
		if a.NextHop = hop4; v6 {
			a.NextHop = hop6
		}
	}
	if !m.Destination.IsValid() {
		a.Kind = route.SourceBlackhole
		return route.Route{Match: route.Match{Source: netip.PrefixFrom(m.Source.Addr(), m.Source.Addr().BitLen())}, Action: a}
	}
	p := m.Destination
	if least := map[bool]int{false: 24, true: 48}[v6]; p.Bits() < least {
		p = netip.PrefixFrom(p.Addr(), least)
	}
	return route.Route{Match: route.Match{Destination: p}, Action: a}
}

// place moves a route into the n-th part of our networks, or of those of sources where that is all it names.
func place(r route.Route, n int) route.Route {
	own, source := part(own4, 22, n), part(source4, 24, n)
	if r.Family() == route.IPv6 {
		own, source = part(own6, 48, n), part(source6, 48, n)
	}
	move := func(p, into netip.Prefix) netip.Prefix {
		have, want := p.Addr().AsSlice(), into.Addr().AsSlice()
		for i := range have {
			mask := byte(0xff)
			if begin := i * 8; begin+8 <= into.Bits() {
				mask = 0
			} else if begin < into.Bits() {
				mask >>= into.Bits() - begin
			}
			have[i] = have[i]&mask | want[i]
		}
		a, _ := netip.AddrFromSlice(have)
		return netip.PrefixFrom(a, max(p.Bits(), into.Bits()))
	}
	if m := &r.Match; m.Destination.IsValid() {
		m.Destination = move(m.Destination, own)
	} else {
		m.Source = move(m.Source, source)
	}
	return r.Canonical()
}

// smaller are routes that say less than r, the boldest first: without a component, an item or a part of the action, or
// with one value in place of a range.
func smaller(r route.Route) (out []route.Route) {
	seen := map[string]bool{r.String(): true}
	add := func(change func(*route.Route)) {
		s := r
		change(&s)
		if s = s.Canonical(); s.Validate() == nil && !seen[s.String()] {
			seen[s.String()] = true
			out = append(out, s)
		}
	}
	words := []string{"protocol", "port", "destination-port", "source-port", "icmp-type", "icmp-code", "length", "dscp", "flow-label"}
	flags := func(s *route.Route) []*[]route.Bits { return []*[]route.Bits{&s.Match.TCPFlags, &s.Match.Fragment} }
	if !r.IsBlackhole() {
		add(func(s *route.Route) { s.Action = route.Action{Kind: route.Discard} })
	}
	for _, word := range words {
		add(func(s *route.Route) { ranges, _ := s.Match.Numeric(word); *ranges = nil })
	}
	for i := range flags(&r) {
		add(func(s *route.Route) { *flags(s)[i] = nil })
	}
	if r.Match.Destination.IsValid() && !r.IsBlackhole() {
		add(func(s *route.Route) { s.Match.Source, s.Match.SourceOffset = netip.Prefix{}, 0 })
	}
	add(func(s *route.Route) { s.Action.Attributes = route.Attributes{} })
	add(func(s *route.Route) { s.Action.Redirect = route.Redirect{} })
	add(func(s *route.Route) { s.Action.Mark = 0 })
	add(func(s *route.Route) { s.Action.Sample = false })
	add(func(s *route.Route) { s.Action.Continue = false })
	for _, change := range []func(*route.Attributes){
		func(a *route.Attributes) { a.NextHop = netip.Addr{} }, func(a *route.Attributes) { a.Communities = "" },
		func(a *route.Attributes) { a.Large = "" }, func(a *route.Attributes) { a.MED = 0 },
	} {
		add(func(s *route.Route) { change(&s.Action.Attributes) })
	}
	without := func(n, i int) []int {
		var keep []int
		for k := range n {
			if k != i {
				keep = append(keep, k)
			}
		}
		return keep
	}
	for _, word := range words {
		ranges, _ := r.Match.Numeric(word)
		had := *ranges
		for i, x := range had {
			add(func(s *route.Route) {
				to, _ := s.Match.Numeric(word)
				*to = pick(had, without(len(had), i))
			})
			for _, v := range []uint32{x.Lo, x.Hi} {
				add(func(s *route.Route) {
					to, _ := s.Match.Numeric(word)
					*to = append(pick(had, without(len(had), i)), route.Range{Lo: v, Hi: v})
				})
			}
		}
	}
	for k, bits := range flags(&r) {
		had := *bits
		for i, x := range had {
			add(func(s *route.Route) { *flags(s)[k] = pick(had, without(len(had), i)) })
			for bit := uint16(1); bit != 0; bit <<= 1 {
				if (x.Set|x.Clear)&bit != 0 {
					add(func(s *route.Route) {
						*flags(s)[k] = append(pick(had, without(len(had), i)), route.Bits{Set: x.Set &^ bit, Clear: x.Clear &^ bit})
					})
				}
			}
		}
	}
	return out
}

func pick[T any](from []T, which []int) (out []T) {
	for _, i := range which {
		out = append(out, from[i])
	}
	return out
}
