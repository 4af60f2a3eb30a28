package speaker

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/osrg/gobgp/v3/pkg/packet/bgp"

	"github.com/amooglesoft/trafficmonitor/internal/compile"
	"github.com/amooglesoft/trafficmonitor/internal/route"
	"github.com/amooglesoft/trafficmonitor/internal/route/routetest"
	"github.com/amooglesoft/trafficmonitor/internal/safety"
)

// GoBGP's codec takes our UPDATEs, over random rules and all actions, and writes them as they were; what they mean the
// kernel's decoder reads. Rules with an offset are left out, of which GoBGP reads some wrong.
func TestUpdatesThroughGoBGP(t *testing.T) {
	rnd := rand.New(rand.NewPCG(5, 6))
	try := func(r route.Route, a attributes, two bool) {
		e, err := encodeRoute(r)
		if err != nil {
			t.Fatalf("%q: %v", r, err)
		}
		ours, err := a.announcement(nil, e, r.Action, two)
		if err != nil {
			t.Fatalf("%q: %v", r, err)
		}
		m, err := bgp.ParseBGPMessage(ours)
		if err != nil {
			t.Fatalf("%q: %x: %v", r, ours, err)
		}
		theirs, err := m.Serialize()
		if err != nil || !bytes.Equal(theirs, ours) {
			t.Fatalf("%q: GoBGP writes %x for %x, %v", r, theirs, ours, err)
		}
	}
	n := 0
	for range 5_000 {
		r := route.Route{Match: routetest.Random(rnd), Action: route.Action{Kind: route.Discard}}
		if r.Match.DestinationOffset+r.Match.SourceOffset == 0 {
			try(r, peerAttributes[n%len(peerAttributes)], n%2 == 0)
			n++
		}
	}
	if n < 1000 {
		t.Errorf("only %d rules were tried", n)
	}
	for _, text := range actions {
		for _, a := range peerAttributes {
			try(parse(t, text), a, false)
			try(parse(t, text), a, true)
		}
	}
}

// peerAttributes are those of a router of another AS, of one that is far away, and of one of ours.
var peerAttributes = []attributes{
	{nextHop4: netip.MustParseAddr("192.0.2.1"), nextHop6: netip.MustParseAddr("100::1"), asn: 64500, communities: []uint32{communityBlackhole, communityNoExport}},
	{nextHop4: netip.MustParseAddr("192.0.2.1"), nextHop6: netip.MustParseAddr("100::1"), asn: 4200000000},
	{nextHop4: netip.MustParseAddr("192.0.2.1"), nextHop6: netip.MustParseAddr("100::1"), asn: 64500, internal: true},
}

// UPDATEs written by hand, octet by octet.
func TestAnnouncement(t *testing.T) {
	near, far, own := peerAttributes[0], peerAttributes[1], peerAttributes[2]
	for _, tc := range []struct {
		route string
		a     attributes
		two   bool
		body  string
	}{
		{"destination 192.0.2.1 then discard", near, false, "0000 0027 800e0c 0001850000 060120c0000201 40010100 400206 02010000fbf4 c01008 8006000000000000"},
		{"destination 192.0.2.1 then discard", near, true, "0000 0025 800e0c 0001850000 060120c0000201 40010100 400204 0201fbf4 c01008 8006000000000000"},
		{"destination 192.0.2.1 then discard", far, true, "0000 002e 800e0c 0001850000 060120c0000201 40010100 400204 02015ba0 c01008 8006000000000000 c01106 0201fa56ea00"},
		{"destination 192.0.2.1 then discard", own, false, "0000 0028 800e0c 0001850000 060120c0000201 40010100 400200 40050400000064 c01008 8006000000000000"},
		{"destination 192.0.2.1 then blackhole", near, false, "0000 001f 40010100 400206 02010000fbf4 400304c0000201 c00808 ffff029affffff01 20c0000201"},
		{"destination 2001:db8::1 then blackhole local-pref 7", own, false, "0000 0037 800e26 0002011001000000000000000000000000000001 00 8020010db8000000000000000000000001 40010100 400200 40050400000007"},
	} {
		r := parse(t, tc.route)
		e, err := encodeRoute(r)
		if err != nil {
			t.Fatal(err)
		}
		body, err := hex.DecodeString(strings.ReplaceAll(tc.body, " ", ""))
		if err != nil {
			t.Fatal(err)
		}
		want := appendMessage([]byte("before"), msgUpdate, body)
		if got, err := tc.a.announcement([]byte("before"), e, r.Action, tc.two); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%q: %x, %v; want\n%x", tc.route, got, err, want)
		}
	}
}

// What does not fit into a message, or not into an attribute, is refused and leaves what was there before.
func TestAnnouncementTooLong(t *testing.T) {
	r := parse(t, "destination 192.0.2.1 then discard")
	a := peerAttributes[0]
	long := make([]byte, 250)
	if got, err := a.announcement([]byte("before"), encoded{compile.IPv4FlowSpec, long}, r.Action, false); err != nil || len(got) < 250 {
		t.Errorf("250 octets: %x, %v", got, err)
	}
	if got, err := a.announcement([]byte("before"), encoded{compile.IPv4FlowSpec, append(long, 0)}, r.Action, false); err == nil || string(got) != "before" {
		t.Errorf("251 octets: %x, %v", got, err)
	}
	a.proofs = &proofs{} // also where the attributes are known
	if _, err := a.announcement(nil, encoded{compile.IPv4FlowSpec, long}, r.Action, false); err != nil {
		t.Fatal(err)
	}
	if got, err := a.announcement([]byte("before"), encoded{compile.IPv4FlowSpec, append(long, 0)}, r.Action, false); err == nil || string(got) != "before" {
		t.Errorf("251 octets, known: %x, %v", got, err)
	}
	hole := parse(t, "destination 192.0.2.1 then blackhole")
	for i := range 70 {
		a.communities = append(a.communities, uint32(i))
	}
	if got, err := a.announcement([]byte("before"), encoded{compile.IPv4Unicast, []byte{32, 192, 0, 2, 1}}, hole.Action, false); err == nil || string(got) != "before" {
		t.Errorf("70 communities: %x, %v", got, err)
	}
}

// pathAttributes are those of an UPDATE, each by itself.
func pathAttributes(t *testing.T, update []byte) (out [][]byte) {
	t.Helper()
	n := int(binary.BigEndian.Uint16(update[headerLen+2:]))
	for b := update[headerLen+4 : headerLen+4+n]; len(b) > 0; {
		end := 3 + int(b[2])
		out, b = append(out, b[:end:end]), b[end:]
	}
	return out
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

// Local preferences go to routers of our own AS, always, and to no other.
func TestLocalPreference(t *testing.T) {
	for _, a := range peerAttributes {
		for _, text := range actions {
			r := parse(t, text)
			e, err := encodeRoute(r)
			if err != nil {
				t.Fatalf("%q: %v", text, err)
			}
			update, err := a.announcement(nil, e, r.Action, false)
			if err != nil {
				t.Fatalf("%q: %v", text, err)
			}
			if got := bytes.Contains(update, []byte{0x40, 5, 4}); got != a.internal {
				t.Errorf("%q: local preference sent: %v, to a router of our own AS: %v", text, got, a.internal)
			}
		}
	}
}

// What the octets say is compared: no bit of any attribute can flip unnoticed.
func TestEveryBitOfTheAttributesCounts(t *testing.T) {
	a := attributes{nextHop4: netip.MustParseAddr("192.0.2.1"), nextHop6: netip.MustParseAddr("100::1"), communities: []uint32{communityBlackhole}, internal: true}
	for _, text := range actions {
		r := parse(t, text)
		e, err := encodeRoute(r)
		if err != nil {
			t.Fatal(err)
		}
		update, err := a.announcement(nil, e, r.Action, false)
		if err != nil {
			t.Fatal(err)
		}
		attrs := pathAttributes(t, update)
		want := safety.Path{Action: r.Action, Communities: r.Action.Communities.All(), Large: r.Action.Large.All()}
		if r.IsBlackhole() {
			want.Communities = append(want.Communities, a.communities...)
			if want.NextHop = pick(r.Action.NextHop, a.nextHop4); r.Family() == route.IPv6 {
				want.NextHop = pick(r.Action.NextHop, a.nextHop6)
			}
		}
		if _, ok := r.Action.LocalPref.Get(); !ok {
			want.Action.LocalPref = route.Some(defaultLocalPref)
		}
		if err := safety.CheckPath(r.Family(), want, attrs); err != nil {
			t.Fatalf("%q: %v", text, err)
		}
		for i, attr := range attrs {
			end := len(attr)
			if attr[1] == 14 {
				end = 8 + int(attr[6]) // the NLRI is proven apart
			}
			for bit := range end * 8 {
				attr[bit/8] ^= 1 << (bit % 8)
				if err := safety.CheckPath(r.Family(), want, attrs); err == nil {
					t.Errorf("%q: bit %d of attribute %d flipped and not noticed: %x", text, bit, i, attr)
				}
				attr[bit/8] ^= 1 << (bit % 8)
			}
			without := slices.Delete(slices.Clone(attrs), i, i+1)
			if err := safety.CheckPath(r.Family(), want, without); err == nil {
				t.Errorf("%q: attribute %x is missing and nobody noticed", text, attr)
			}
			if err := safety.CheckPath(r.Family(), want, append(slices.Clone(attrs), attr)); err == nil {
				t.Errorf("%q: attribute %x stands twice and nobody noticed", text, attr)
			}
		}
	}
}

// throughGoBGP reads the NLRI with GoBGP's decoder and writes it with its encoder.
func throughGoBGP(t compile.Table, nlri []byte) (out []byte, err error) {
	afi, safi := afiOf(t)
	n, err := bgp.NewPrefixFromRouteFamily(afi, safi)
	if err == nil {
		err = n.DecodeFromBytes(nlri)
	}
	if err != nil {
		return nil, err
	}
	return n.Serialize()
}

// FuzzGoBGP holds GoBGP's decoder against the kernel's on any octets: what we encode, GoBGP reads and writes as it was.
// Rules with an offset are left out, of which it reads some wrong.
func FuzzGoBGP(f *testing.F) {
	f.Add([]byte{0x0b, 0x01, 0x18, 0xc0, 0x00, 0x02, 0x03, 0x81, 0x06, 0x04, 0x81, 0x19}, false)
	f.Add([]byte{0x08, 0x02, 0x68, 0x40, 0x12, 0x34, 0x56, 0x78, 0x9a}, true)
	f.Fuzz(func(t *testing.T, nlri []byte, v6 bool) {
		table := compile.IPv4FlowSpec
		if v6 {
			table = compile.IPv6FlowSpec
		}
		r := route.Route{Match: routetest.Match(nlri, v6), Action: route.Action{Kind: route.Discard}}.Canonical()
		if r.Validate() != nil || r.Match.DestinationOffset+r.Match.SourceOffset > 0 {
			return
		}
		e, err := encodeRoute(r)
		if err != nil {
			return
		}
		theirs, err := throughGoBGP(table, e.nlri)
		if r.Family() == route.IPv6 == v6 && (err != nil || !bytes.Equal(theirs, e.nlri)) {
			t.Fatalf("%q: GoBGP writes %x for %x, %v", r, theirs, e.nlri, err)
		}
	})
}

// What is remembered of one route is what another one with the same action would be given, with whatever AS
// numbers, in any order; also when more actions come than are remembered.
func TestProofsAreOfTheAction(t *testing.T) {
	fresh := peerAttributes[1]
	remembering := fresh
	remembering.proofs = &proofs{}
	rnd := rand.New(rand.NewPCG(9, 9))
	try := func(text string, two bool) {
		r := parse(t, text)
		e, err := encodeRoute(r)
		if err != nil {
			t.Fatal(err)
		}
		want, err := fresh.announcement(nil, e, r.Action, two)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := remembering.announcement(nil, e, r.Action, two); err != nil || !bytes.Equal(got, want) {
			t.Fatalf("%q, two octets %v: %x, %v, not %x", text, two, got, err, want)
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
