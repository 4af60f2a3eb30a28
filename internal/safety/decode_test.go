package safety

import (
	"encoding/hex"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/amooglesoft/trafficmonitor/internal/route"
	"github.com/amooglesoft/trafficmonitor/internal/route/routetest"
)

// octets reads "01 18c000" as hexadecimal, and puts the length in front.
func octets(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	if err != nil {
		t.Fatal(err)
	}
	if len(b) >= 240 {
		return append([]byte{0xf0 | byte(len(b)>>8), byte(len(b))}, b...)
	}
	return append([]byte{byte(len(b))}, b...)
}

func match(t testing.TB, text string) route.Match {
	t.Helper()
	r, err := route.Parse(text + " then discard")
	if err != nil {
		t.Fatal(err)
	}
	return r.Match
}

func TestDecodeFlowSpec(t *testing.T) {
	const dst = "01 20c0000201 "
	const in = "destination 192.0.2.1/32 "
	for _, tc := range []struct{ name, octets, want string }{
		{"RFC 8955 section 4.3.1", "01 18c00002 03 8106 04 8119", "destination 192.0.2.0/24 protocol tcp port 25"},
		{"RFC 8955 section 4.3.2", "01 18c00002 02 18cb0071 04 0389 458b 911f90", "destination 192.0.2.0/24 source 203.0.113.0/24 port 137-139,8080"},
		{"RFC 8955 section 4.3.3", dst + "0c 8005", in + "fragment dont-fragment,first-fragment"},
		{"value in more octets than needed", dst + "06 910035", in + "source-port 53"},
		{"below", dst + "0a 8440", in + "length 0-63"},
		{"above", dst + "0a 9203e8", in + "length 1001-65535"},
		{"not equal", dst + "05 8650", in + "destination-port 0-79,81-65535"},
		{"true", dst + "05 8700", in + "destination-port 0-65535"},
		{"AND binds tighter than OR", dst + "05 0150 0350 455a 91ffff", in + "destination-port 80-90,65535"},
		{"a range with a hole", dst + "05 0350 455a c655", in + "destination-port 80-84,86-90"},
		{"alternatives that join", dst + "05 0150 0151 8352", in + "destination-port 80-65535"},
		{"an alternative nothing satisfies", dst + "05 0000 8150", in + "destination-port 80"},
		{"flags: all of", dst + "09 8112", in + "tcp-flags syn&ack"},
		{"flags: any of", dst + "09 8012", in + "tcp-flags syn,ack"},
		{"flags: none of", dst + "09 8212", in + "tcp-flags !syn&!ack"},
		{"flags: not all of", dst + "09 8312", in + "tcp-flags !syn,!ack"},
		{"flags: syn without ack", dst + "09 0102 c210", in + "tcp-flags syn&!ack"},
		{"flags: any of both, and", dst + "09 0003 c004", in + "tcp-flags fin&rst,syn&rst"},
		{"flags: contradiction beside a possible one", dst + "09 0102 4202 8101", in + "tcp-flags fin"},
		{"flags in two octets", dst + "09 910002", in + "tcp-flags syn"},
		{"flags beyond the octet", dst + "09 910102", in + "tcp-flags syn&ae"},
		{"all flags there are", dst + "09 920fff", in + "tcp-flags !fin&!syn&!rst&!psh&!ack&!urg&!ece&!cwr&!ae&!bit9&!bit10&!bit11"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, err := DecodeFlowSpec(route.IPv4, octets(t, tc.octets))
			if err != nil {
				t.Fatal(err)
			}
			if want := match(t, tc.want); !got.Equal(want) {
				t.Errorf("%s is %q, want %q", tc.octets, got, want)
			}
		})
	}
	t.Run("IPv6", func(t *testing.T) {
		got, err := DecodeFlowSpec(route.IPv6, octets(t, "01 20 00 20010db8 02 3f 00 20010db800000002 03 813a 07 8180"))
		if want := match(t, "destination 2001:db8::/32 source 2001:db8:0:2::/63 protocol icmpv6 icmp-type 128"); err != nil || !got.Equal(want) {
			t.Errorf("got %q, %v; want %q", got, err, want)
		}
		// RFC 8956, section 3.8.2, and the same on octets.
		got, err = DecodeFlowSpec(route.IPv6, octets(t, "01 20 00 20010db8 02 68 3c 112345678980 0d 0101 a1000fffff"))
		if want := match(t, "destination 2001:db8::/32 source ::1:1234:5678:9800:0/60-104 flow-label 1,1048575"); err != nil || !got.Equal(want) {
			t.Errorf("got %q, %v; want %q", got, err, want)
		}
		got, err = DecodeFlowSpec(route.IPv6, octets(t, "02 68 40 123456789a"))
		if want := match(t, "source ::1234:5678:9a00:0/64-104"); err != nil || !got.Equal(want) {
			t.Errorf("got %q, %v; want %q", got, err, want)
		}
	})
}

func TestDecodeFlowSpecRefuses(t *testing.T) {
	const dst = "01 20c0000201 "
	for _, tc := range []struct{ name, octets, want string }{
		{"nothing", "", "no component"},
		{"G2 of field.md", "03b106", "cut short"},
		{"prefix cut short", "01 20c00002", "cut short"},
		{"prefix length missing", "01", "cut short"},
		{"operator missing", dst + "04", "cut short"},
		{"value missing", dst + "04 81", "cut short"},
		{"value half missing", dst + "04 9101", "cut short"},
		{"no end of list", dst + "04 0101", "cut short"},
		{"type stands twice", dst + "04 8101 04 8102", "twice"},
		{"types out of order", dst + "05 8101 04 8102", "must increase"},
		{"type 0", "00 " + dst, "type 0"},
		{"unknown type", dst + "0e 8101", "unknown"},
		{"flow label in IPv4", dst + "0d 8101", "does not exist in IPv4"},
		{"prefix length 33", "01 21c000020100", "above 32"},
		{"bits beyond the length", "01 18c00002 02 17cb0071", "beyond its length"},
		{"AND on the first item", dst + "04 c101", "AND to nothing"},
		{"AND on the first flags", dst + "09 c101", "AND to nothing"},
		{"reserved numeric bit", dst + "04 8901", "reserved"},
		{"reserved bitmask bits", dst + "09 8501", "reserved"},
		{"port 99971", dst + "04 a100018683", "above 65535"},
		{"length 99971", dst + "0a a100018683", "above 65535"},
		{"protocol 256", dst + "03 910100", "above 255"},
		{"dscp 64", dst + "0b 8140", "above 63"},
		{"port in four octets", dst + "04 a100000050", "longer than the field"},
		{"protocol in two octets", dst + "03 910006", "longer than the field"},
		{"no value satisfies", dst + "04 0250 c450", "no value satisfies"},
		{"false", dst + "04 8050", "no value satisfies"},
		{"flags contradict", dst + "09 0102 c202", "no packet satisfies"},
		{"any of no flags", dst + "09 8000", "no packet satisfies"},
		{"all of no flags", dst + "09 8100", "every packet satisfies"},
		{"flags beyond the twelve", dst + "09 911002", "outside"},
		{"flags in four octets", dst + "09 a100000002", "at most 2"},
		{"fragment in two octets", dst + "0c 910002", "at most 1"},
		{"fragment bit 4", dst + "0c 8110", "outside"},
		{"IPv6: dont-fragment", "6 0c 8101", "outside"},
		{"IPv6: offset as long as the prefix", "6 02 40 40 03 8106", "not below the length"},
		{"IPv6: offset beyond the prefix", "6 02 40 48 03 8106", "not below the length"},
		{"IPv6: offset without a prefix", "6 02 00 01 03 8106", "not below the length"},
		{"IPv6: bits beyond the length behind an offset", "6 02 68 3c 112345678981", "beyond its length"},
		{"IPv6: pattern cut short", "6 02 68 3c 11234567", "cut short"},
		{"IPv6: prefix length 129", "6 01 81 00 20010db800000000000000000000000100", "above 128"},
		{"IPv6: mapped", "6 01 80 00 00000000000000000000ffffc0000201", "IPv4-mapped"},
		{"IPv6: flow label of 21 bits", "6 0d a100100000", "above 1048575"},
		{"IPv6: flow label in eight octets", "6 0d b10000000000000001", "longer than the field"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			family, text := route.IPv4, tc.octets
			if six, ok := strings.CutPrefix(text, "6 "); ok {
				family, text = route.IPv6, six
			}
			if m, err := DecodeFlowSpec(family, octets(t, text)); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("%s is %q, %v; want an error with %q", tc.octets, m, err, tc.want)
			}
		})
	}
	for name, raw := range map[string][]byte{
		"empty":                          {},
		"half a length":                  {0xf1},
		"two octets for a short length":  {0xf0, 0x03, 0x03, 0x81, 0x06},
		"length above what is there":     {0x04, 0x03, 0x81, 0x06},
		"length below what is there":     {0x02, 0x03, 0x81, 0x06},
		"G1: length 0000 and its remain": append([]byte{0, 0}, octets(t, dst)[1:]...),
	} {
		if m, err := DecodeFlowSpec(route.IPv4, raw); err == nil {
			t.Errorf("%s: %x is %q", name, raw, m)
		}
	}
	if _, err := DecodeFlowSpec(0, octets(t, dst)); err == nil {
		t.Error("decoded an NLRI of no family")
	}
}

func TestDecodeLongNLRI(t *testing.T) {
	// RFC 8955 allows 4095 octets; the decoder reads them, CheckWire lets none leave.
	text := "01 20c0000201 04 " + strings.Repeat("110400", 1361-4) + "910400"
	nlri := octets(t, text)
	m, err := DecodeFlowSpec(route.IPv4, nlri)
	if err != nil || !m.Equal(match(t, "destination 192.0.2.1 port 1024")) {
		t.Fatalf("%d octets: %q, %v", len(nlri), m, err)
	}
	if err := CheckWire(route.IPv4, m, nlri); err == nil || !strings.Contains(err.Error(), "at most 238") {
		t.Errorf("CheckWire: %v", err)
	}
}

// The length takes two octets from 240 on (RFC 8955, section 4.1).
func TestDecodeLengthOctets(t *testing.T) {
	for _, n := range []int{232, 238, 239, 240, 241, 255, 256, 257} {
		items := n - 7 // destination and type
		text := "01 20c0000201 04 "
		if items%2 == 1 {
			text, items = text+"110400", items-3
		}
		nlri := octets(t, text+strings.Repeat("0150", items/2-1)+"8150")
		if got, want := len(nlri) > n+1, n >= 240; got != want {
			t.Fatalf("the test writes %d octets for %d", len(nlri), n)
		}
		m, err := DecodeFlowSpec(route.IPv4, nlri)
		if err != nil {
			t.Errorf("%d octets: %v", n, err)
			continue
		}
		if err := CheckWire(route.IPv4, m, nlri); (err != nil) != (n > 238) {
			t.Errorf("%d octets may leave: %v", n, err)
		}
	}
}

func TestCheckWire(t *testing.T) {
	want := match(t, "destination 192.0.2.1 protocol udp source-port 53")
	good := octets(t, "01 20c0000201 03 8111 06 8135")
	if err := CheckWire(route.IPv4, want, good); err != nil {
		t.Fatal(err)
	}
	for i := range good {
		for bit := range 8 {
			bad := append([]byte(nil), good...)
			bad[i] ^= 1 << bit
			if err := CheckWire(route.IPv4, want, bad); err == nil {
				t.Errorf("bit %d of octet %d flipped and not noticed: %x", bit, i, bad)
			}
		}
	}
	if err := CheckWire(route.IPv6, want, good); err == nil {
		t.Error("an IPv4 rule passed as IPv6")
	}
	if maxWire != route.MaxNLRI {
		t.Errorf("the kernel lets %d octets leave, the encoder writes %d", maxWire, route.MaxNLRI)
	}
}

// The encoder and the decoder were written apart; over random rules they must agree.
func TestEncodeDecode(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	for range 20_000 {
		m := routetest.Random(rnd)
		f := route.Route{Match: m}.Family()
		nlri, err := route.AppendFlowSpec(nil, m)
		if err != nil {
			t.Fatalf("%q: %v", m, err)
		}
		if err := CheckWire(f, m, nlri); err != nil {
			t.Fatalf("%q is encoded %x: %v", m, nlri, err)
		}
	}
}

// FuzzEncode reads the fuzzer's octets as a rule of any shape.
func FuzzEncode(f *testing.F) {
	f.Add([]byte("a rule of some kind"), true)
	f.Add([]byte{1, 32, 192, 0, 2, 1, 255, 255, 255, 3, 7, 9, 11, 0, 4, 200}, false)
	f.Fuzz(func(t *testing.T, seed []byte, v6 bool) {
		m := route.Route{Match: routetest.Match(seed, v6)}.Canonical().Match
		nlri, err := route.AppendFlowSpec(nil, m)
		if err != nil {
			return
		}
		if err := CheckWire(route.Route{Match: m}.Family(), m, nlri); err != nil {
			t.Fatalf("%q is encoded %x: %v", m, nlri, err)
		}
	})
}

// FuzzDecode reads any octets: never a panic, and what is accepted means one thing.
func FuzzDecode(f *testing.F) {
	for _, s := range []string{
		"01 18c00002 03 8106 04 8119", "01 18c00002 02 18cb0071 04 0389 458b 911f90", "01 20c0000201 0c 8005",
		"03b106", "01 20c0000201 09 0003 c004", "01 20c0000201 05 0350 455a c655",
	} {
		f.Add(octets(f, s), false)
	}
	f.Add(octets(f, "02 68 40 123456789a 03 8106"), true)
	f.Add(octets(f, "01 20 00 20010db8 03 813a 07 8180"), true)
	f.Fuzz(func(t *testing.T, nlri []byte, v6 bool) {
		family := route.IPv4
		if v6 {
			family = route.IPv6
		}
		m, err := DecodeFlowSpec(family, nlri)
		if err != nil {
			return
		}
		r := route.Route{Match: m, Action: route.Action{Kind: route.Discard}}
		if !r.Canonical().Match.Equal(m) {
			t.Fatalf("%x is %q, which is not canonical", nlri, m)
		}
		if !m.Destination.IsValid() && !m.Source.IsValid() {
			return // nothing we would send
		}
		if err := r.Validate(); err != nil {
			t.Fatalf("%x is %q, which is not valid: %v", nlri, m, err)
		}
		if r.Family() != family {
			t.Fatalf("%x of %s is %q", nlri, family, m)
		}
		again, err := route.AppendFlowSpec(nil, m)
		if err != nil {
			return // too long to send
		}
		if err := CheckWire(family, m, again); err != nil {
			t.Fatalf("%x is %q, encoded %x: %v", nlri, m, again, err)
		}
	})
}
