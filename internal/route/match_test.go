package route_test

import (
	"net/netip"
	"slices"
	"testing"

	. "github.com/amooglesoft/trafficmonitor/internal/route"
	"github.com/amooglesoft/trafficmonitor/internal/route/routetest"
)

// No component is forgotten by what goes through all of them by hand.
func TestEveryComponentCounts(t *testing.T) {
	routetest.Components(t, func(field string, m Match) {
		plain := Match{Destination: m.Destination}
		if field == "Destination" {
			plain = Match{Destination: netip.MustParsePrefix("2001:db8::/32")}
		}
		if field == "SourceOffset" || field == "DestinationOffset" {
			plain.Source = m.Source
		}
		r := Route{Match: m, Action: Action{Kind: Discard}}
		if err := r.Validate(); err != nil {
			t.Errorf("%s: %v", field, err)
		}
		if m.Equal(plain) || m.String() == plain.String() || Precedence(m, plain) == 0 || Precedence(m, plain) != -Precedence(plain, m) {
			t.Errorf("%s: %q is not told from %q", field, m, plain)
		}
		x, err := AppendFlowSpec(nil, m)
		y, err2 := AppendFlowSpec(nil, plain)
		if err != nil || err2 != nil || slices.Equal(x, y) {
			t.Errorf("%s: %q and %q are both encoded %x (%v, %v)", field, m, plain, x, err, err2)
		}
		if again, err := Parse(r.String()); err != nil || !again.Equal(r) {
			t.Errorf("%s: %q is read as %q, %v", field, r, again, err)
		}
	})
}

func TestWithin(t *testing.T) {
	for _, tc := range []struct {
		prefix string
		offset uint8
		addr   string
		want   bool
	}{
		{"192.0.2.0/24", 0, "192.0.2.9", true},
		{"192.0.2.0/24", 0, "192.0.3.9", false},
		{"192.0.2.0/24", 0, "2001:db8::1", false},
		{"::1/128", 64, "2001:db8::1", true},
		{"::1/128", 64, "2001:db8::1:0:0:1", false},
		{"::1/128", 64, "192.0.2.1", false},
		{"::1:1234:5678:9800:0/104", 60, "2001:db8:0:fff1:1234:5678:98ff:ffff", true},
		{"::1:1234:5678:9800:0/104", 60, "2001:db8:0:fff2:1234:5678:98ff:ffff", false},
	} {
		if got := Within(netip.MustParsePrefix(tc.prefix), tc.offset, netip.MustParseAddr(tc.addr)); got != tc.want {
			t.Errorf("%s in %s from %d: %v", tc.addr, tc.prefix, tc.offset, got)
		}
	}
	if !Within(netip.Prefix{}, 0, netip.MustParseAddr("192.0.2.1")) {
		t.Error("no prefix lets not everything match")
	}
}

// RFC 8956, section 4: the lower offset first, then as without one.
func TestPrecedenceOfOffsets(t *testing.T) {
	var want []Match
	for _, s := range []string{
		"source 2001:db8::/32", "source ::/8-64", "source ::1/16-128", "source ::/16-64", "source ::1:0:0:0:0/16-64", "source ::1/17-128", "source ::2/17-128",
	} {
		r, err := Parse("destination 2001:db8::1 " + s + " then discard")
		if err != nil {
			t.Fatal(err)
		}
		want = append(want, r.Match)
	}
	for i, a := range want {
		for j, b := range want {
			if got := Precedence(a, b); (got < 0) != (i < j) || (got == 0) != (i == j) {
				t.Errorf("%q and %q: %d", a, b, got)
			}
		}
	}
}
