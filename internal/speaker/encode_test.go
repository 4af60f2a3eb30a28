package speaker

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/amooglesoft/trafficmonitor/internal/compile"
	"github.com/amooglesoft/trafficmonitor/internal/route"
	"github.com/amooglesoft/trafficmonitor/internal/route/routetest"
	"github.com/amooglesoft/trafficmonitor/internal/safety"
)

// GoBGP's decoder and encoder against ours, over random rules: what we do not refuse leaves GoBGP as it went in. Rules
// without an offset are never refused.
func TestEncodeThroughGoBGP(t *testing.T) {
	rnd := rand.New(rand.NewPCG(5, 6))
	offsets, passed := 0, 0
	for range 5_000 {
		r := route.Route{Match: routetest.Random(rnd), Action: route.Action{Kind: route.Discard}}
		e, err := encodeRoute(r)
		if r.Match.DestinationOffset+r.Match.SourceOffset == 0 {
			if err != nil {
				t.Fatalf("%q: %v", r, err)
			}
			continue
		}
		offsets++
		if err != nil {
			continue
		}
		passed++
		if want, _ := route.AppendFlowSpec(nil, r.Match); !bytes.Equal(e.nlri, want) {
			t.Fatalf("%q is encoded %x, meant is %x", r, e.nlri, want)
		}
	}
	if passed == 0 || passed == offsets {
		t.Errorf("%d of %d rules with an offset passed: both should occur", passed, offsets)
	}
}

func TestEncodeOffsets(t *testing.T) {
	for text, want := range map[string]string{
		"destination 2001:db8::1 source ::1:1234:5678:9800:0/60-104 protocol udp then discard": "",
		"destination 2001:db8::1 source ::1/64-128 protocol udp source-port 53 then discard":   "",
		// GoBGP reads sixteen octets of pattern where there are eight, and takes what follows for more of it.
		"destination 2001:db8::1 source ::80/65-121 source-port 1-2,1000-2000,3000-4000,5000-6000 then discard": "GoBGP",
	} {
		if e, err := encodeRoute(parse(t, text)); (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %x, %v", text, e.nlri, err)
		}
	}
}

// What GoBGP takes for one route must not be announced as two: the second would replace the first inside GoBGP, and no
// withdrawal of the first would ever leave.
func TestKeysOfGoBGP(t *testing.T) {
	key := func(s string) string {
		e, err := encodeRoute(parse(t, s))
		if err != nil {
			t.Fatal(err)
		}
		return e.key
	}
	if a, b := key("destination 192.0.2.1 tcp-flags syn then discard"), key("destination 192.0.2.1 tcp-flags syn&ae then discard"); a != b {
		t.Fatal("GoBGP tells them apart now: the check in admit refuses what could be announced and can go, and so can this")
	}
	if key("destination 192.0.2.1 then discard") == key("destination 192.0.2.1 then blackhole") {
		t.Error("a rule and a blackhole share a key")
	}
	rnd := rand.New(rand.NewPCG(7, 8))
	seen := map[string]route.Match{}
	for range 5_000 {
		m := routetest.Random(rnd)
		for i := range m.TCPFlags {
			m.TCPFlags[i].Set, m.TCPFlags[i].Clear = m.TCPFlags[i].Set&0xff|1, m.TCPFlags[i].Clear&0xfe
		}
		r := route.Route{Match: m, Action: route.Action{Kind: route.Discard}}.Canonical()
		e, err := encodeRoute(r)
		if err != nil {
			continue
		}
		if other, ok := seen[e.key]; ok && !other.Equal(r.Match) {
			t.Fatalf("%q and %q share the key %q", r.Match, other, e.key)
		}
		seen[e.key] = r.Match
	}
}

// actions are every action there is, and combinations.
var actions = []string{
	"destination 192.0.2.1 then discard", "destination 192.0.2.1 then discard sample",
	"destination 192.0.2.1 then rate-limit 1Mbps", "destination 192.0.2.1 then rate-limit 123456784bps sample continue mark 63 redirect 64500:4294967295",
	"destination 192.0.2.1 then rate-limit 1000000001pps redirect 192.0.2.9", "destination 192.0.2.1 then rate-limit 7pps copy 192.0.2.9",
	"destination 192.0.2.1 then accept", "destination 192.0.2.1 then sample", "destination 192.0.2.1 then mark 0",
	"destination 192.0.2.1 then redirect 192.0.2.9:65535", "destination 192.0.2.1 then redirect 4200000000:1", "destination 192.0.2.1 then redirect 64500L:1",
	"destination 192.0.2.1 then discard communities 64500:1,no-export large-communities 4200000000:1:2 local-pref 0 med 4294967295",
	"destination 2001:db8::1 then redirect 2001:db8::9 continue", "destination 2001:db8::1 then rate-limit 1Gbps copy 2001:db8::9 mark 8",
	"destination 2001:db8::1 then redirect 64500:1 sample",
	"destination 192.0.2.1 then blackhole", "destination 2001:db8::1 then blackhole next-hop 100::2",
	"destination 192.0.2.1 then blackhole next-hop 192.0.2.9 communities 64500:666,64500:1,no-advertise large-communities 64500:1:2,64500:1:3 local-pref 200 med 0",
	"source 198.51.100.7 then source-blackhole", "source 2001:db8:1::7 then source-blackhole med 5",
}

// Every action passes GoBGP and is read back as what was meant.
func TestEncodeActions(t *testing.T) {
	for _, a := range []attributes{
		{nextHop4: netip.MustParseAddr("192.0.2.1"), nextHop6: netip.MustParseAddr("100::1"), communities: []uint32{communityBlackhole, communityNoExport}},
		{nextHop4: netip.MustParseAddr("192.0.2.1"), nextHop6: netip.MustParseAddr("100::1"), internal: true},
	} {
		for _, text := range actions {
			r := parse(t, text)
			e, err := encodeRoute(r)
			if err != nil {
				t.Errorf("%q: %v", text, err)
				continue
			}
			p, err := a.path(e, r.Action, false)
			if err != nil {
				t.Errorf("%q: %v", text, err)
				continue
			}
			if got := bytes.Contains(bytes.Join(p.PattrsBinary, nil), []byte{0x40, 5, 4}); got != (a.internal && strings.Contains(text, "local-pref")) {
				t.Errorf("%q: local preference sent: %v, to a router of our own AS: %v", text, got, a.internal)
			}
		}
	}
}

// What the octets say is compared: no bit of any attribute can flip unnoticed but the length of an attribute GoBGP
// cannot read at all.
func TestEveryBitOfTheAttributesCounts(t *testing.T) {
	a := attributes{nextHop4: netip.MustParseAddr("192.0.2.1"), nextHop6: netip.MustParseAddr("100::1"), communities: []uint32{communityBlackhole}, internal: true}
	for _, text := range actions {
		r := parse(t, text)
		e, err := encodeRoute(r)
		if err != nil {
			t.Fatal(err)
		}
		p, err := a.path(e, r.Action, false)
		if err != nil {
			t.Fatal(err)
		}
		want := safety.Path{Action: r.Action, Communities: r.Action.Communities.All(), Large: r.Action.Large.All()}
		if r.IsBlackhole() {
			want.Communities = append(want.Communities, a.communities...)
			if want.NextHop = pick(r.Action.NextHop, a.nextHop4); r.Family() == route.IPv6 {
				want.NextHop = pick(r.Action.NextHop, a.nextHop6)
			}
		}
		if err := safety.CheckPath(r.Family(), want, p.PattrsBinary); err != nil {
			t.Fatalf("%q: %v", text, err)
		}
		for i, attr := range p.PattrsBinary {
			end := len(attr)
			if attr[1] == 14 {
				end = 7 + 16 // the NLRI behind the next hop is proven apart, and so GoBGP writes it
			}
			for bit := range end * 8 {
				attr[bit/8] ^= 1 << (bit % 8)
				if err := safety.CheckPath(r.Family(), want, p.PattrsBinary); err == nil {
					t.Errorf("%q: bit %d of attribute %d flipped and not noticed: %x", text, bit, i, attr)
				}
				attr[bit/8] ^= 1 << (bit % 8)
			}
			without := slices.Delete(slices.Clone(p.PattrsBinary), i, i+1)
			if err := safety.CheckPath(r.Family(), want, without); err == nil {
				t.Errorf("%q: attribute %x is missing and nobody noticed", text, attr)
			}
			if err := safety.CheckPath(r.Family(), want, append(slices.Clone(p.PattrsBinary), attr)); err == nil {
				t.Errorf("%q: attribute %x stands twice and nobody noticed", text, attr)
			}
		}
	}
}

// FuzzGoBGP holds GoBGP's decoder against the kernel's on any octets: what both read, GoBGP writes as it was, or encode
// refuses it.
func FuzzGoBGP(f *testing.F) {
	f.Add([]byte{0x0b, 0x01, 0x18, 0xc0, 0x00, 0x02, 0x03, 0x81, 0x06, 0x04, 0x81, 0x19}, false)
	f.Add([]byte{0x08, 0x02, 0x68, 0x40, 0x12, 0x34, 0x56, 0x78, 0x9a}, true)
	f.Fuzz(func(t *testing.T, nlri []byte, v6 bool) {
		table := compile.IPv4FlowSpec
		if v6 {
			table = compile.IPv6FlowSpec
		}
		_, _, _ = throughGoBGP(table, nlri) // never a panic
		r := route.Route{Match: routetest.Match(nlri, v6), Action: route.Action{Kind: route.Discard}}.Canonical()
		if r.Validate() != nil {
			return
		}
		e, err := encodeRoute(r)
		if err != nil {
			return
		}
		theirs, _, err := throughGoBGP(table, e.nlri)
		if r.Family() == route.IPv6 == v6 && (err != nil || !bytes.Equal(theirs, e.nlri)) {
			t.Fatalf("%q: GoBGP writes %x for %x, %v", r, theirs, e.nlri, err)
		}
	})
}

// What is remembered of one route is what another one with the same action would be given, announced or withdrawn, in
// whatever order; also when more actions come than are remembered.
func TestProofsAreOfTheAction(t *testing.T) {
	fresh := attributes{nextHop4: netip.MustParseAddr("192.0.2.1"), nextHop6: netip.MustParseAddr("100::1"), communities: []uint32{communityBlackhole}, internal: true}
	remembering := fresh
	remembering.proofs = &proofs{}
	rnd := rand.New(rand.NewPCG(9, 9))
	try := func(text string, withdraw bool) {
		r := parse(t, text)
		e, err := encodeRoute(r)
		if err != nil {
			t.Fatal(err)
		}
		want, err := fresh.path(e, r.Action, withdraw)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := remembering.path(e, r.Action, withdraw); err != nil || !proto.Equal(got, want) {
			t.Fatalf("%q, withdrawn %v: %v, %v, not %v", text, withdraw, got, err, want)
		}
	}
	all := append(slices.Clone(actions), "destination 192.0.2.2 then discard", "destination 192.0.2.9 then blackhole", "destination 2001:db8::9 then blackhole", "destination 2001:db8::7 then blackhole")
	for range 20 * len(all) {
		try(all[rnd.IntN(len(all))], rnd.IntN(2) == 0)
	}
	for i := range maxProofs + 10 {
		try(fmt.Sprintf("destination 192.0.2.1 then rate-limit %dkbps", 8*(i+1)), false)
	}
	if n := len(remembering.proofs.known); n == 0 || n > maxProofs {
		t.Errorf("%d are remembered, at most %d should be", n, maxProofs)
	}
}
