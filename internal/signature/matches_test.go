package signature

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"slices"
	"testing"

	"github.com/amooglesoft/trafficmonitor/internal/profile"
	"github.com/amooglesoft/trafficmonitor/internal/route"
	"github.com/amooglesoft/trafficmonitor/internal/route/routetest"
	"github.com/amooglesoft/trafficmonitor/internal/traffic"
)

func match(t testing.TB, text string) route.Match {
	t.Helper()
	r, err := route.Parse(text + " then discard")
	if err != nil {
		t.Fatal(err)
	}
	return r.Match
}

func TestMatches(t *testing.T) {
	tcp := traffic.Sample{
		Source: netip.MustParseAddr("198.51.100.7"), Destination: netip.MustParseAddr("192.0.2.1"), Protocol: 6, Length: 60, DSCP: 10,
		HasPorts: true, SourcePort: 4000, DestinationPort: 443, TCPFlags: route.SYN | route.ECE, Fragment: traffic.DontFragment,
	}
	change := func(s traffic.Sample, f func(*traffic.Sample)) traffic.Sample { f(&s); return s }
	later := change(tcp, func(s *traffic.Sample) {
		s.HasPorts, s.SourcePort, s.DestinationPort, s.TCPFlags, s.Fragment = false, 0, 0, 0, traffic.IsFragment|traffic.LastFragment
	})
	udp := change(tcp, func(s *traffic.Sample) { s.Protocol, s.TCPFlags = 17, 0 })
	icmp := change(tcp, func(s *traffic.Sample) {
		s.Protocol, s.HasPorts, s.SourcePort, s.DestinationPort, s.TCPFlags = 1, false, 0, 0, 0
		s.HasICMP, s.ICMPType, s.ICMPCode = true, 3, 4
	})
	tcp6 := change(tcp, func(s *traffic.Sample) {
		s.Source, s.Destination, s.Fragment = netip.MustParseAddr("2001:db8:1::7"), netip.MustParseAddr("2001:db8::1"), 0
	})
	for _, tc := range []struct {
		match  string
		sample traffic.Sample
		want   bool
	}{
		{"destination 192.0.2.1/32", tcp, true},
		{"destination 192.0.2.0/31", tcp, true},
		{"destination 192.0.2.2/32", tcp, false},
		{"destination 2001:db8::/32", tcp, false},
		{"destination 2001:db8::/32", tcp6, true},
		{"source 2001:db8:1::/48", tcp6, true},
		{"source 198.51.100.0/24", tcp, true},
		{"source 198.51.101.0/24", tcp, false},
		{"destination 192.0.2.1/32 protocol tcp", tcp, true},
		{"destination 192.0.2.1/32 protocol udp,icmp", tcp, false},
		{"destination 192.0.2.1/32 port 443", tcp, true},
		{"destination 192.0.2.1/32 port 4000", tcp, true},
		{"destination 192.0.2.1/32 port 1-10", tcp, false},
		{"destination 192.0.2.1/32 source-port 443", tcp, false},
		{"destination 192.0.2.1/32 source-port 1,3999-4001", tcp, true},
		{"destination 192.0.2.1/32 destination-port 443", udp, true},
		{"destination 192.0.2.1/32 destination-port 0-65535", later, false}, // no ports there
		{"destination 192.0.2.1/32 source-port 0-65535", later, false},
		{"destination 192.0.2.1/32 port 0-65535", icmp, false},
		{"destination 192.0.2.1/32 tcp-flags !ack", later, false},
		{"destination 192.0.2.1/32 tcp-flags !ack", udp, false},
		{"destination 192.0.2.1/32 tcp-flags syn&!ack", tcp, true},
		{"destination 192.0.2.1/32 tcp-flags syn&ack", tcp, false},
		{"destination 192.0.2.1/32 tcp-flags ack,ece", tcp, true},
		{"destination 192.0.2.1/32 icmp-type 0-255", tcp, false},
		{"destination 192.0.2.1/32 icmp-code 0-255", tcp, false},
		{"destination 192.0.2.1/32 icmp-type 3 icmp-code 4", icmp, true},
		{"destination 192.0.2.1/32 icmp-type 3 icmp-code 3", icmp, false},
		{"destination 192.0.2.1/32 length 60", tcp, true},
		{"destination 192.0.2.1/32 length 61-65535", tcp, false},
		{"destination 192.0.2.1/32 dscp 10", tcp, true},
		{"destination 192.0.2.1/32 dscp 0", tcp, false},
		{"destination 192.0.2.1/32 fragment is-fragment", later, true},
		{"destination 192.0.2.1/32 fragment is-fragment&!last-fragment", later, false},
		{"destination 192.0.2.1/32 fragment !is-fragment", tcp, true},
		{"destination 192.0.2.1/32 fragment dont-fragment", tcp, true},
		{"destination 192.0.2.1/32 fragment first-fragment,last-fragment", later, true},
		{"destination 2001:db8::1/128 fragment !is-fragment", tcp6, true},
		{"source ::7/64-128", tcp6, true},
		{"source ::8/64-128", tcp6, false},
		{"destination ::1/96-128", tcp6, true},
		{"destination 2001:db8::1/128 flow-label 0-1048575", tcp6, false}, // a sample does not say
		{"destination 192.0.2.1/32 tcp-flags ae", tcp, false},
		{"destination 192.0.2.1/32 tcp-flags syn&!ae", tcp, true},
		{"destination 192.0.2.1/32 protocol tcp source-port 4000 destination-port 443 tcp-flags syn length 40-64 dscp 10", tcp, true},
		{"destination 192.0.2.1/32 protocol tcp source-port 4000 destination-port 80 tcp-flags syn length 40-64 dscp 10", tcp, false},
	} {
		if got := Matches(match(t, tc.match), &tc.sample); got != tc.want {
			t.Errorf("%q on %+v: %v", tc.match, tc.sample, got)
		}
	}
	if !Matches(route.Match{}, &traffic.Sample{}) || Matches(match(t, "destination 192.0.2.1/32"), &traffic.Sample{}) {
		t.Error("a packet without addresses")
	}
}

// No component that a rule may have is forgotten.
func TestEveryComponentIsMatchedAndCosts(t *testing.T) {
	var packets []traffic.Sample
	for _, src := range []string{"2001:db8:2::2", "2001:db8:1::2", "::2"} {
		for _, dst := range []string{"2001:db8::1", "::1"} {
			packets = append(packets, traffic.Sample{Source: netip.MustParseAddr(src), Destination: netip.MustParseAddr(dst), Protocol: 17, Length: 60})
		}
	}
	routetest.Components(t, func(field string, m route.Match) {
		plain := route.Match{Destination: m.Destination}
		switch field {
		case "Destination":
			plain.Destination = netip.MustParsePrefix("2001:db8::1/128")
		case "SourceOffset", "DestinationOffset":
			plain.Source = m.Source
		}
		if !slices.ContainsFunc(packets, func(s traffic.Sample) bool { return Matches(m, &s) != Matches(plain, &s) }) {
			t.Errorf("%s: %q matches all that %q does", field, m, plain)
		}
		v := reflect.ValueOf(m).FieldByName(field)
		if v.Kind() == reflect.Slice && Cost(m) < 2 {
			t.Errorf("%s: two alternatives cost %d", field, Cost(m))
		}
	})
}

// Each test of a search, put into a match, hits what Matches says it hits.
func TestTestsAreWhatMatches(t *testing.T) {
	w := newWorld(false, 9)
	packets := append(w.web(300), w.game(100)...)
	packets = append(packets, many(50, func(i int) traffic.Sample { return scenarios[5].attack(w, i) })...)
	for i := range packets {
		packets[i].DSCP = uint8(i % 64)
	}
	for f := range fields {
		for range 20 {
			x := test{field: f, prefix: netip.PrefixFrom(w.inside(100, 200, 50), 8).Masked(), bits: []route.Bits{{Set: 1 << w.IntN(4)}, {Clear: 1 << w.IntN(4)}}}
			lo := uint32(w.IntN(int(f.top())))
			x.ranges = []route.Range{{Lo: lo, Hi: lo + uint32(w.IntN(int(f.top()-lo)+1))}}
			var m route.Match
			x.into(&m)
			for i := range packets {
				if got, want := x.holds(&packets[i]), Matches(m, &packets[i]); got != want {
					t.Fatalf("field %d, %q on %+v: %v, Matches %v", f, m, packets[i], got, want)
				}
			}
		}
	}
}

// What is known of a router, and that blocks cover a range exactly.
func TestCost(t *testing.T) {
	profiles, err := profile.Load("")
	if err != nil {
		t.Fatal(err)
	}
	ncs5500, ok := profiles.Get("ios-xr-ncs5500")
	if !ok {
		t.Fatal("no profile of the router these costs are of")
	}
	for _, tc := range []struct {
		match string
		want  int
	}{
		{"destination 192.0.2.1/32", 1},
		{"destination 192.0.2.1/32 protocol udp source-port 53", 1},
		{"destination 192.0.2.1/32 protocol udp source-port 53,123", 2},
		{"destination 192.0.2.1/32 protocol tcp tcp-flags syn", 1},
		{"destination 192.0.2.1/32 fragment is-fragment", 2},
		{"destination 192.0.2.1/32 length 768-65535", 7},
		{"destination 192.0.2.1/32 length 256-65535", 8},
		{"destination 192.0.2.1/32 length 257-65535", 15},
		{"destination 192.0.2.1/32 length 400-65535", 10},
		{"destination 192.0.2.1/32 length 0-65535", 1},
		{"destination 192.0.2.1/32 length 448-511", 1},
		{"destination 192.0.2.1/32 length 1-65534", 30},
		{"destination 192.0.2.1/32 port 53", 2},
		{"destination 192.0.2.1/32 protocol udp source-port 53,123 length 257-65535 fragment is-fragment", 60},
	} {
		if got := Cost(match(t, tc.match)); got != tc.want {
			t.Errorf("%q costs %d, want %d", tc.match, got, tc.want)
		}
		if got := ncs5500.Router.Cost.Of(match(t, tc.match)); got != tc.want {
			t.Errorf("%q costs %d by the router's profile, want %d", tc.match, got, tc.want)
		}
	}
	rnd := rand.New(rand.NewPCG(1, 2))
	for range 2000 { // the fewest blocks, by another way: from the bits of both ends
		lo := rnd.IntN(1 << 16)
		hi := lo + rnd.IntN(1<<16-lo)
		if got, want := blocks(route.Range{Lo: uint32(lo), Hi: uint32(hi)}), cover(lo, hi+1, 0, 1<<16); got != want {
			t.Fatalf("%d-%d: %d blocks, want %d", lo, hi, got, want)
		}
	}
	all := []route.Range{}
	for i := range 40 {
		all = append(all, route.Range{Lo: uint32(i*1000 + 1), Hi: uint32(i*1000 + 998)})
	}
	if got := Cost(route.Match{SourcePort: all, DestinationPort: all, Port: all, Length: all, DSCP: all}); got != 1<<30 {
		t.Errorf("the most a match costs is %d", got)
	}
}

// cover is the number of nodes of a binary tree over [from, to) that make up [lo, end).
func cover(lo, end, from, to int) int {
	switch {
	case lo >= to || end <= from:
		return 0
	case lo <= from && to <= end:
		return 1
	}
	mid := (from + to) / 2
	return cover(lo, end, from, mid) + cover(lo, end, mid, to)
}

// More normal packets that a match does not hit change nothing of what it hits.
func TestNormalPacketsOutsideAMatchChangeNothing(t *testing.T) {
	w := newWorld(false, 2)
	normal := w.web(1000)
	before := Synthesize(Options{}, w.target, 0, scenarios[0].vector, nil, normal).Candidates[0]
	more := append(normal, many(1000, func(int) traffic.Sample { return scenarios[3].attack(w, 0) })...)
	after := Synthesize(Options{}, w.target, 0, scenarios[0].vector, nil, more).Candidates[0]
	if got, want := fmt.Sprintf("%.6f", after.Collateral*2), fmt.Sprintf("%.6f", before.Collateral); got != want || !after.Match.Equal(before.Match) {
		t.Errorf("twice the packets: collateral %s, was %s", got, want)
	}
}

func TestSpoofed(t *testing.T) {
	for _, v6 := range []bool{false, true} {
		w := newWorld(v6, 8)
		from := func(n int, src func(i int) netip.Addr, ttl func(i int) uint8) []*traffic.Sample {
			var out []*traffic.Sample
			for i := range n {
				out = append(out, &traffic.Sample{Source: src(i), TTL: ttl(i)})
			}
			return out
		}
		steady := func(int) uint8 { return 50 }
		any := func(int) netip.Addr { return w.forged() }
		few := func(int) netip.Addr { return w.inside(1, 20, 10) }
		for _, tc := range []struct {
			name       string
			samples    []*traffic.Sample
			reflection bool
			want       bool
		}{
			{"any address", from(300, any, steady), false, true},
			{"any address, few samples", from(50, any, steady), false, false},
			{"real sources", from(300, few, steady), false, false},
			{"reflectors, each seen once", from(300, any, steady), true, false},
			{"few sources with TTLs at random", from(3000, few, func(int) uint8 { return uint8(w.IntN(256)) }), false, true},
			{"two TTLs behind one address", from(3000, few, func(i int) uint8 { return uint8(50 + 64*(i%2)) }), false, false},
			{"addresses nobody has", from(300, func(i int) netip.Addr {
				switch {
				case i%4 > 0:
					return w.inside(1, 4000, 10)
				case v6:
					return netip.MustParseAddr(fmt.Sprintf("f000::%x", i))
				}
				return netip.AddrFrom4([4]byte{240, 0, byte(i), 1})
			}, steady), true, true},
		} {
			if got, why := spoofed(tc.samples, tc.reflection); got != tc.want || got != (why != "") {
				t.Errorf("%s, v6 %v: %v %q", tc.name, v6, got, why)
			}
		}
	}
	// Each of many addresses twice, drawn evenly: no client population is so even.
	w := newWorld(false, 8)
	var samples []*traffic.Sample
	for range 1000 {
		a := w.forged()
		for a.As4()[0] == 10 || a.As4()[0] == 127 {
			a = w.forged()
		}
		samples = append(samples, &traffic.Sample{Source: a}, &traffic.Sample{Source: a})
	}
	if got, _ := spoofed(samples, false); !got {
		t.Error("addresses drawn evenly are not recognised")
	}
}
