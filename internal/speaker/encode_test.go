package speaker

import (
	"bytes"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/amooglesoft/trafficmonitor/internal/compile"
	"github.com/amooglesoft/trafficmonitor/internal/route"
	"github.com/amooglesoft/trafficmonitor/internal/route/routetest"
)

// GoBGP's decoder and encoder against ours, over random rules: what we do not refuse leaves GoBGP as it went in. Rules
// without an offset are never refused.
func TestEncodeThroughGoBGP(t *testing.T) {
	rnd := rand.New(rand.NewPCG(5, 6))
	offsets, passed := 0, 0
	for range 20_000 {
		r := route.Route{Match: routetest.Random(rnd), Action: route.Action{Kind: route.Discard}}
		e, err := encode(r)
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
		if e, err := encode(parse(t, text)); (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %x, %v", text, e.nlri, err)
		}
	}
}

// What GoBGP takes for one route must not be announced as two: the second would replace the first inside GoBGP, and no
// withdrawal of the first would ever leave.
func TestKeysOfGoBGP(t *testing.T) {
	key := func(s string) string {
		e, err := encode(parse(t, s))
		if err != nil {
			t.Fatal(err)
		}
		return e.key
	}
	if a, b := key("destination 192.0.2.1 tcp-flags syn then discard"), key("destination 192.0.2.1 tcp-flags syn&ae then discard"); a != b {
		t.Skip("GoBGP tells them apart now: the check in admit can go")
	}
	if key("destination 192.0.2.1 then discard") == key("destination 192.0.2.1 then blackhole") {
		t.Error("a rule and a blackhole share a key")
	}
	rnd := rand.New(rand.NewPCG(7, 8))
	seen := map[string]route.Match{}
	for range 20_000 {
		m := routetest.Random(rnd)
		for i := range m.TCPFlags {
			m.TCPFlags[i].Set, m.TCPFlags[i].Clear = m.TCPFlags[i].Set&0xff|1, m.TCPFlags[i].Clear&0xfe
		}
		r := route.Route{Match: m, Action: route.Action{Kind: route.Discard}}.Canonical()
		e, err := encode(r)
		if err != nil {
			continue
		}
		if other, ok := seen[e.key]; ok && !other.Equal(r.Match) {
			t.Fatalf("%q and %q share the key %q", r.Match, other, e.key)
		}
		seen[e.key] = r.Match
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
		e, err := encode(r)
		if err != nil {
			return
		}
		theirs, _, err := throughGoBGP(table, e.nlri)
		if r.Family() == route.IPv6 == v6 && (err != nil || !bytes.Equal(theirs, e.nlri)) {
			t.Fatalf("%q: GoBGP writes %x for %x, %v", r, theirs, e.nlri, err)
		}
	})
}
