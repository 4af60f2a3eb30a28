package signature

import (
	"net/netip"
	"testing"

	"github.com/amooglesoft/trafficmonitor/internal/route"
	"github.com/amooglesoft/trafficmonitor/internal/vector"
)

func TestEveryVectorHasAnAnnounceableMatch(t *testing.T) {
	for _, target := range []string{"192.0.2.1/32", "2001:db8::1/128"} {
		p := netip.MustParsePrefix(target)
		for _, v := range vector.All() {
			s := For(p, v.ID)
			r := route.Route{Match: s.Match, Action: route.Action{Kind: route.Discard}}
			if err := r.Validate(); err != nil {
				t.Errorf("%s at %s: %s: %v", v.Name, p, r, err)
			}
			if !r.Canonical().Equal(r) {
				t.Errorf("%s at %s: %s is not canonical", v.Name, p, r)
			}
			if s.Match.Destination != p || s.Says == "" {
				t.Errorf("%s: %+v", v.Name, s)
			}
			if len(v.SourcePorts) > 0 && s.Broad != v.Carries {
				t.Errorf("%s is told by its source port, and broad is %v", v.Name, s.Broad)
			}
		}
	}
}

func TestTexts(t *testing.T) {
	for _, tc := range []struct {
		target string
		v      vector.ID
		want   string
		broad  bool
	}{
		{"192.0.2.1/32", vector.DNS, "destination 192.0.2.1/32 protocol udp source-port 53", false},
		{"2001:db8::1/128", vector.SYN, "destination 2001:db8::1/128 protocol tcp tcp-flags syn&!ack", false},
		{"2001:db8::1/128", vector.ICMP, "destination 2001:db8::1/128 protocol icmpv6", false},
		{"2001:db8::1/128", vector.ICMPEcho, "destination 2001:db8::1/128 protocol icmpv6 icmp-type 128", false},
		{"192.0.2.1/32", vector.ICMPUnreachable, "destination 192.0.2.1/32 protocol icmp icmp-type 3", false},
		{"192.0.2.1/32", vector.FirstFragment, "destination 192.0.2.1/32 fragment first-fragment", false},
		{"192.0.2.1/32", vector.DNSQuery, "destination 192.0.2.1/32 protocol udp destination-port 53", true},
		{"192.0.2.1/32", vector.IKE, "destination 192.0.2.1/32 protocol udp source-port 500,4500", true},
		{"192.0.2.1/32", vector.Fragment, "destination 192.0.2.1/32 fragment is-fragment", false},
		{"192.0.2.1/32", vector.UDPOther, "destination 192.0.2.1/32 protocol udp", true},
		{"192.0.2.1/32", vector.Total, "destination 192.0.2.1/32", true},
	} {
		s := For(netip.MustParsePrefix(tc.target), tc.v)
		if got := s.Match.String(); got != tc.want || s.Broad != tc.broad {
			t.Errorf("For(%s, %s) = %q broad=%v, want %q broad=%v", tc.target, tc.v, got, s.Broad, tc.want, tc.broad)
		}
	}
}
