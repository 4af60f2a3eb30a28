// Package routetest helps tests to go through everything a route can say.
package routetest

import (
	"math/rand/v2"
	"net/netip"
	"reflect"
	"testing"

	"github.com/amooglesoft/trafficmonitor/internal/route"
)

// Components calls f with a match for each field of route.Match, in which that field alone says something besides the
// destination. A field that is added to Match is found here.
func Components(t testing.TB, f func(field string, m route.Match)) {
	for i := range reflect.TypeFor[route.Match]().NumField() {
		field := reflect.TypeFor[route.Match]().Field(i)
		m := route.Match{Destination: netip.MustParsePrefix("2001:db8::1/128")}
		switch v := reflect.ValueOf(&m).Elem().Field(i); v.Interface().(type) {
		case netip.Prefix:
			v.Set(reflect.ValueOf(netip.MustParsePrefix("2001:db8:1::/48")))
		case uint8:
			m.Destination, m.Source = netip.MustParsePrefix("::1/128"), netip.MustParsePrefix("::2/128")
			v.SetUint(64)
		case []route.Range:
			v.Set(reflect.ValueOf([]route.Range{{Lo: 2, Hi: 3}, {Lo: 5, Hi: 5}}))
		case []route.Bits:
			v.Set(reflect.ValueOf([]route.Bits{{Set: route.IsFragment, Clear: route.FirstFragment}, {Set: route.LastFragment}}))
		default:
			t.Fatalf("%s is of a type this test does not know", field.Name)
		}
		f(field.Name, m)
	}
}

// Random draws a valid match in canonical form.
func Random(rnd *rand.Rand) route.Match {
	for {
		seed := make([]byte, 20+rnd.IntN(100))
		for i := range seed {
			seed[i] = byte(rnd.Uint32())
		}
		r := route.Route{Match: Match(seed, rnd.IntN(2) == 0), Action: route.Action{Kind: route.Discard}}.Canonical()
		if r.Validate() == nil {
			return r.Match
		}
	}
}

// Match reads seed as a recipe; most of what comes out is valid.
func Match(seed []byte, v6 bool) route.Match {
	next := func() byte {
		if len(seed) == 0 {
			return 0
		}
		b := seed[0]
		seed = seed[1:]
		return b
	}
	prefix := func() netip.Prefix {
		n := next()
		if n < 40 {
			return netip.Prefix{}
		}
		if v6 {
			a := [16]byte{0x20, 0x01, 0x0d, 0xb8, next(), next(), 0, next(), 15: next()}
			return netip.PrefixFrom(netip.AddrFrom16(a), int(n)%129)
		}
		return netip.PrefixFrom(netip.AddrFrom4([4]byte{192, next(), next(), next()}), int(n)%33)
	}
	ranges := func(top int) []route.Range {
		var rs []route.Range
		for range max(0, int(next()%8)-3) {
			lo := (int(next())<<8 | int(next())) % (top + 1)
			hi := lo
			if next()%2 == 0 {
				hi = min(top, lo+int(next()))
			}
			rs = append(rs, route.Range{Lo: uint32(lo), Hi: uint32(hi)})
		}
		return rs
	}
	bits := func(mask uint16) []route.Bits {
		var bs []route.Bits
		some := func() uint16 {
			v := uint16(next())
			if v%8 == 0 {
				v |= uint16(next()) << 8
			}
			return v & mask
		}
		for range max(0, int(next()%8)-4) {
			set := some()
			bs = append(bs, route.Bits{Set: set, Clear: some() &^ set})
		}
		return bs
	}
	fragments := uint16(0x0f)
	if v6 {
		fragments = 0x0e
	}
	m := route.Match{
		Destination: prefix(), Source: prefix(), Protocol: ranges(255), Port: ranges(65535), DestinationPort: ranges(65535),
		SourcePort: ranges(65535), ICMPType: ranges(255), ICMPCode: ranges(255), TCPFlags: bits(0xfff), Length: ranges(65535),
		DSCP: ranges(63), Fragment: bits(fragments),
	}
	if v6 {
		for _, x := range ranges(65535) {
			m.FlowLabel = append(m.FlowLabel, route.Range{Lo: x.Lo << 4, Hi: x.Hi<<4 | 9})
		}
		offset := func(p netip.Prefix) uint8 {
			if n := next(); p.IsValid() && n%4 == 0 && p.Bits() > 0 {
				return uint8(int(n/4) * 2 % p.Bits())
			}
			return 0
		}
		m.DestinationOffset, m.SourceOffset = offset(m.Destination), offset(m.Source)
	}
	return m
}
