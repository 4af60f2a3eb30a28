package safety

import (
	"bytes"
	"encoding/hex"
	"net/netip"
	"strings"
	"testing"

	"github.com/amooglesoft/trafficmonitor/internal/route"
)

func action(t testing.TB, text string) route.Action {
	t.Helper()
	a, err := route.ParseAction(text)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// What stands in the RFCs, octet by octet.
func TestDecodeAction(t *testing.T) {
	for _, tc := range []struct{ ec, ec6, want string }{
		{"", "", "accept"},
		{"8006 0000 00000000", "", "discard"},
		{"8006 0000 47f42400", "", "rate-limit 1Mbps"}, // 125,000
		{"800c 0000 43fa0000", "", "rate-limit 500pps"},
		{"8007 000000000002", "", "sample"},
		{"8007 000000000001 8009 00000000000a", "", "continue mark 10"}, // the bit named "terminal" means go on
		{"8009 00000000003f", "", "mark 63"},
		{"8008 fbf4 00000064", "", "redirect 64500:100"},
		{"8108 c0000209 0064", "", "redirect 192.0.2.9:100"},
		{"8208 fa56ea00 0064", "", "redirect 4200000000:100"},
		{"8208 0000fbf4 0064", "", "redirect 64500L:100"},
		{"010c c0000209 0000", "", "redirect 192.0.2.9"},
		{"010c c0000209 0001", "", "copy 192.0.2.9"},
		{"", "000c 20010db8000000000000000000000009 0000", "redirect 2001:db8::9"},
		{"8006 0000 47f42400", "000c 20010db8000000000000000000000009 0001", "rate-limit 1Mbps copy 2001:db8::9"},
	} {
		ec, ec6 := unhex(t, tc.ec), unhex(t, tc.ec6)
		if got, err := DecodeAction(ec, ec6); err != nil || got != action(t, tc.want) {
			t.Errorf("%s %s is %q, %v; want %q", tc.ec, tc.ec6, got, err, tc.want)
		}
		ours, ours6 := action(t, tc.want).ExtendedCommunities()
		if !bytes.Equal(ours, ec) || !bytes.Equal(ours6, ec6) {
			t.Errorf("%q is encoded %x %x, want %s %s", tc.want, ours, ours6, tc.ec, tc.ec6)
		}
	}
}

func TestDecodeActionRefuses(t *testing.T) {
	for _, tc := range []struct{ name, ec, ec6, want string }{
		{"half a community", "8006 0000", "", "no whole"},
		{"half an IPv6 community", "", "000c 20010db8", "no whole"},
		{"unknown", "8005 000000000001", "", "unknown"},
		{"a route target that is no action", "0002 fbf4 00000064", "", "unknown"},
		{"the old redirect to the next hop", "0800 000000000000", "", "unknown"},
		{"rate with an AS", "8006 fbf4 00000000", "", "with an AS"},
		{"NaN", "8006 0000 7fc00000", "", "no rate of ours"},
		{"infinity", "8006 0000 7f800000", "", "no rate of ours"},
		{"negative", "8006 0000 c7f42400", "", "no rate of ours"},
		{"negative zero", "8006 0000 80000000", "", "no rate of ours"},
		{"half a byte", "8006 0000 3f000000", "", "no rate of ours"},
		{"more than any interface", "8006 0000 5f800000", "", "no rate of ours"},
		{"discard in packets", "800c 0000 00000000", "", "discard in packets"},
		{"two rates", "8006 0000 47f42400 800c 0000 43fa0000", "", "a second rate"},
		{"two discards", "8006 0000 00000000 8006 0000 00000000", "", "a second rate"},
		{"reserved traffic-action bit", "8007 000000000004", "", "reserved"},
		{"traffic-action of nothing", "8007 000000000000", "", "reserved"},
		{"reserved octet", "8007 010000000002", "", "reserved"},
		{"sample twice", "8007 000000000002 8007 000000000002", "", "second of its kind"},
		{"mark 64", "8009 000000000040", "", "reserved"},
		{"two marks", "8009 000000000001 8009 000000000002", "", "second of its kind"},
		{"two redirects", "8008 fbf4 00000064 8108 c0000209 0064", "", "second"},
		{"VRF and address", "8008 fbf4 00000064 010c c0000209 0000", "", "second redirect"},
		{"two addresses", "010c c0000209 0000", "000c 20010db8000000000000000000000009 0000", "second redirect"},
		{"reserved copy bits", "010c c0000209 0002", "", "reserved bits"},
		{"IPv6 route target", "", "0002 20010db8000000000000000000000009 0000", "unknown"},
		{"IPv4-mapped", "", "000c 00000000000000000000ffffc0000209 0000", "IPv4-mapped"},
	} {
		if got, err := DecodeAction(unhex(t, tc.ec), unhex(t, tc.ec6)); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %q, %v; want an error with %q", tc.name, got, err, tc.want)
		}
	}
}

// What differs from what was meant is found, also where both are actions.
func TestCheckAction(t *testing.T) {
	texts := []string{
		"discard", "rate-limit 1Mbps", "rate-limit 125000pps", "accept", "sample", "mark 0", "mark 1", "sample continue", "redirect 64500:100", "redirect 64500L:100",
		"redirect 0.0.251.244:100", "redirect 192.0.2.9", "copy 192.0.2.9", "rate-limit 123456784bps", "rate-limit 123456792bps", "rate-limit 134217816bps", "rate-limit 134217856bps",
	}
	for _, a := range texts {
		ec, ec6 := action(t, a).ExtendedCommunities()
		for _, b := range texts {
			if err := CheckAction(action(t, b), ec, ec6); (err == nil) != (a == b) {
				t.Errorf("%q is sent where %q is meant: %v", a, b, err)
			}
		}
	}
	for _, rate := range []uint64{1, 1<<24 - 1, 1<<24 + 1, 1<<24 + 2, 33554435, 999_999_999_999, route.MaxRate} { // beyond 2^24, rounded
		for _, kind := range []route.ActionKind{route.RateBytes, route.RatePackets} {
			a := route.Action{Kind: kind, Rate: rate}
			ec, ec6 := a.ExtendedCommunities()
			if err := CheckAction(a, ec, ec6); err != nil {
				t.Errorf("%s: %v", a, err)
			}
		}
	}
}

func TestCheckPathRefuses(t *testing.T) {
	origin, path := unhex(t, "400101 00"), unhex(t, "400200")
	rule, rule6, hop := unhex(t, "800e05 0001850000"), unhex(t, "800e05 0002850000"), unhex(t, "400304 c0000201")
	discard := unhex(t, "c01008 8006000000000000")
	const v4, v6, v4Hole, v6Hole = "destination 192.0.2.7 then discard", "destination 2001:db8::7 then discard", "destination 192.0.2.7 then blackhole", "destination 2001:db8::7 then blackhole"
	for _, tc := range []struct {
		name, route string
		attrs       [][]byte
		want        string
	}{
		{"good", v4, [][]byte{rule, origin, path, discard}, ""},
		{"good, IPv6", v6, [][]byte{rule6, origin, path, discard}, ""},
		{"no origin", v4, [][]byte{rule, path, discard}, "no ORIGIN"},
		{"incomplete origin", v4, [][]byte{rule, unhex(t, "400101 02"), path, discard}, "not IGP"},
		{"no AS path", v4, [][]byte{rule, origin, discard}, "no AS_PATH"},
		{"an AS path within our AS", v4, [][]byte{rule, origin, unhex(t, "400206 02010000fbf4"), discard}, "not empty"},
		{"AS4_PATH", v4, [][]byte{rule, origin, path, discard, unhex(t, "c01100")}, "AS4_PATH true"},
		{"a rule with a next hop", v4, [][]byte{rule, origin, path, hop, discard}, "next hop"},
		{"a rule without MP_REACH", v4, [][]byte{origin, path, discard}, "MP_REACH_NLRI false"},
		{"a rule with a next hop in MP_REACH", v4, [][]byte{unhex(t, "800e09 000185 04 c0000201 00"), origin, path, discard}, "with a next hop"},
		{"a rule of the other family", v4, [][]byte{rule6, origin, path, discard}, "family 2/133, not 1/133"},
		{"no action", v4, [][]byte{rule, origin, path}, "accept"},
		{"atomic aggregate", v4, [][]byte{rule, origin, path, discard, unhex(t, "400600")}, "unknown"},
		{"cut short", v4, [][]byte{rule, origin, path, discard, {0xc0}}, "cut short"},
		{"extended length", v4, [][]byte{rule, origin, path, unhex(t, "d0100008 8006000000000000")}, "flags"},
		{"an action nobody knows", v4, [][]byte{rule, origin, path, unhex(t, "c01008 8005000000000000")}, "unknown"},
		{"communities nobody asked for", v4, [][]byte{rule, origin, path, discard, unhex(t, "c00804 ffffff01")}, "communities"},
		{"an action at a blackhole", v4Hole, [][]byte{origin, path, hop, discard}, "at a blackhole"},
		{"a blackhole without its next hop", v4Hole, [][]byte{origin, path}, "next hop"},
		{"MP_REACH at an IPv4 blackhole", v4Hole, [][]byte{unhex(t, "800e09 000101 04 c0000201 00"), origin, path}, "none here"},
		{"an IPv4 next hop for IPv6", v6Hole, [][]byte{origin, path, hop}, "IPv4 next hop"},
		{"an IPv6 blackhole without MP_REACH", v6Hole, [][]byte{origin, path}, "MP_REACH_NLRI false"},
		{"MP_REACH of a blackhole at a rule", v6, [][]byte{unhex(t, "800e15 0002011020010db800000000000000000000000100"), origin, path, discard}, "family 2/1, not 2/133"},
		{"MP_REACH cut short", v6Hole, [][]byte{unhex(t, "800e04 00020110"), origin, path}, "cut short"},
		{"MP_REACH of another family", v6Hole, [][]byte{unhex(t, "800e15 0002851020010db800000000000000000000000100"), origin, path}, "not 2/1"},
		{"MP_REACH with two next hops", v6Hole, [][]byte{append(unhex(t, "800e25 00020120"), make([]byte, 33)...), origin, path}, "next hop of 32"},
	} {
		r := parseEntry(t, tc.route).Route
		want := Path{Action: r.Action}
		if r.IsBlackhole() {
			if want.NextHop = netip.MustParseAddr("192.0.2.1"); r.Family() == route.IPv6 {
				want.NextHop = netip.MustParseAddr("2001:db8::1")
			}
		}
		err := CheckPath(r.Family(), want, tc.attrs)
		if (err == nil) != (tc.want == "") || err != nil && !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v; want an error with %q", tc.name, err, tc.want)
		}
	}
}

// Octets written by hand. No bit of them can flip, no octet be missing or too many, without being noticed.
func TestCheckPathNoticesEveryBit(t *testing.T) {
	const rule, mpReach = "800e0c 0001850000 060120c0000207", "800e26 0002011020010db800000000000000000000000900 80"
	for _, tc := range []struct {
		route string
		as    uint32
		two   bool
		attrs []string
	}{
		{"destination 192.0.2.7 then accept", 0, false, []string{rule, "400101 00", "400200"}},
		{"destination 192.0.2.7 then accept", 64500, false, []string{rule, "400101 00", "400206 02010000fbf4"}},
		{"destination 192.0.2.7 then accept", 64500, true, []string{rule, "400101 00", "400204 0201fbf4"}},
		{"destination 192.0.2.7 then accept", 4200000000, false, []string{rule, "400101 00", "400206 0201fa56ea00"}},
		{"destination 192.0.2.7 then accept", 4200000000, true, []string{rule, "400101 00", "400204 02015ba0", "c01106 0201fa56ea00"}},
		{
			"destination 192.0.2.7 then rate-limit 1Mbps sample mark 10 redirect 64500:100 communities 64500:1,no-export large-communities 1:2:3,1:2:4 local-pref 0 med 5", 0, false,
			[]string{
				rule, "400101 00", "400200", "800404 00000005", "400504 00000000", "c00808 fbf40001 ffffff01",
				"c01020 8006000047f42400 8007000000000002 800900000000000a 8008fbf400000064", "c02018 000000010000000200000003 000000010000000200000004",
			},
		},
		{"destination 2001:db8::7 then rate-limit 500pps copy 2001:db8::9", 0, false, []string{"800e19 0002850000 1301800020010db8000000000000000000000007", "400101 00", "400200", "c01008 800c000043fa0000", "c01914 000c 20010db8000000000000000000000009 0001"}},
		{"destination 192.0.2.7 then blackhole communities 64500:1 med 0", 64500, false, []string{"400101 00", "400206 02010000fbf4", "400304 c0000209", "800404 00000000", "c00808 fbf40001 ffff029a"}},
		{"destination 2001:db8::7 then blackhole", 0, false, []string{mpReach + "20010db8000000000000000000000007", "400101 00", "400200", "c00804 ffff029a"}},
	} {
		r := parseEntry(t, tc.route).Route
		want := Path{Action: r.Action, Communities: r.Action.Communities.All(), Large: r.Action.Large.All(), AS: tc.as, TwoOctets: tc.two}
		if r.IsBlackhole() {
			want.Communities = append(want.Communities, 0xffff029a) // the configured one
			if want.NextHop = netip.MustParseAddr("192.0.2.9"); r.Family() == route.IPv6 {
				want.NextHop = netip.MustParseAddr("2001:db8::9")
			}
		}
		var attrs [][]byte
		for _, a := range tc.attrs {
			attrs = append(attrs, unhex(t, a))
		}
		if err := CheckPath(r.Family(), want, attrs); err != nil {
			t.Fatalf("%s: %v", tc.route, err)
		}
		try := func(i int, changed []byte, what string) {
			t.Helper()
			was := attrs[i]
			attrs[i] = changed
			if err := CheckPath(r.Family(), want, attrs); err == nil {
				t.Errorf("%s: %s and not noticed: %x was %x", tc.route, what, changed, was)
			}
			attrs[i] = was
		}
		for i, a := range attrs {
			end := len(a)
			if a[1] == 14 {
				end = 8 + int(a[6]) // the NLRI is proven apart
			}
			for bit := range end * 8 {
				b := bytes.Clone(a)
				b[bit/8] ^= 1 << (bit % 8)
				try(i, b, "a bit flipped")
			}
			for n := 3; n < end; n++ { // cut, with a length that agrees
				b := bytes.Clone(a[:n])
				b[2] = byte(n - 3)
				try(i, b, "octets cut off")
			}
			if a[1] != 14 {
				b := append(bytes.Clone(a), 0)
				b[2]++
				try(i, b, "an octet added")
			}
		}
	}
}

// FuzzDecodeAction reads any octets: never a panic, and what is accepted is an action that is written in the same octets
// but for their order.
func FuzzDecodeAction(f *testing.F) {
	f.Add(unhex(f, "8006 0000 47f42400 8007 000000000003 8009 00000000000a 8008 fbf4 00000064"), []byte(nil))
	f.Add(unhex(f, "010c c0000209 0001"), []byte(nil))
	f.Add([]byte(nil), unhex(f, "000c 20010db8000000000000000000000009 0001"))
	f.Fuzz(func(t *testing.T, ec, ec6 []byte) {
		a, err := DecodeAction(ec, ec6)
		if err != nil {
			return
		}
		again, again6 := a.ExtendedCommunities()
		if len(again) != len(ec) || !bytes.Equal(again6, ec6) {
			t.Fatalf("%x %x is %q, written %x %x", ec, ec6, a, again, again6)
		}
		if err := CheckAction(a, again, again6); err != nil {
			t.Fatalf("%q, written %x %x: %v", a, again, again6, err)
		}
	})
}

func TestCheckPrefix(t *testing.T) {
	for _, c := range []struct {
		prefix, octets string
		good           bool
	}{
		{"192.0.2.7/32", "20c0000207", true},
		{"192.0.2.0/23", "17c00002", true},
		{"0.0.0.0/0", "00", true},
		{"2001:db8::/33", "2120010db800", true},
		{"192.0.2.7/32", "", false},
		{"192.0.2.7/32", "20c00002", false},
		{"192.0.2.7/32", "20c000020700", false},
		{"192.0.2.7/32", "20c0000208", false},
		{"192.0.2.7/32", "1fc0000207", false},
		{"192.0.2.0/23", "17c00003", false}, // a bit behind the length
		{"192.0.2.7/32", "21c000020700", false},
		{"2001:db8::/32", "2020010db9", false},
		{"2001:db8::/32", "2020010db800", false},
	} {
		if err := CheckPrefix(netip.MustParsePrefix(c.prefix), unhex(t, c.octets)); (err == nil) != c.good {
			t.Errorf("%s, %s: %v", c.prefix, c.octets, err)
		}
	}
}
