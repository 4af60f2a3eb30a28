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

// TestPortsOfTheDirective: a rule follows the ports under which sensors count, or it would miss the attack and hit others.
func TestPortsOfTheDirective(t *testing.T) {
	target := netip.MustParsePrefix("192.0.2.1/32")
	ports := Ports{4444: vector.OtherReflection, 99: vector.OtherReflection, 9999: vector.DNS, 500: vector.OpenVPN, 123: vector.NTP, 11211: vector.DNS}
	for _, tc := range []struct {
		v     vector.ID
		want  string
		broad bool
	}{
		{vector.OtherReflection, "destination 192.0.2.1/32 protocol udp source-port 99,4444", false},
		{vector.DNS, "destination 192.0.2.1/32 protocol udp source-port 53,9999,11211", false},
		{vector.IKE, "destination 192.0.2.1/32 protocol udp source-port 4500", true},
		{vector.OpenVPN, "destination 192.0.2.1/32 protocol udp source-port 500,1194", true},
		{vector.NTP, "destination 192.0.2.1/32 protocol udp source-port 123", false},
		{vector.SSDP, "destination 192.0.2.1/32 protocol udp source-port 1900", false},
		{vector.UDPOther, "destination 192.0.2.1/32 protocol udp", true},
		{vector.Memcached, "destination 192.0.2.1/32 protocol udp source-port 11211", false}, // told to be another's, and counted before
	} {
		if s := ports.For(target, tc.v); s.Match.String() != tc.want || s.Broad != tc.broad {
			t.Errorf("%s: %q broad=%v, want %q broad=%v", tc.v, s.Match, s.Broad, tc.want, tc.broad)
		}
	}
	if s := Ports(nil).For(target, vector.OtherReflection); s.Match.String() != "destination 192.0.2.1/32" || !s.Broad {
		t.Errorf("whose ports are no more: %q broad=%v, which must be no match of its own", s.Match, s.Broad)
	}
	p := Synthesize(Options{Ports: ports}, target, vector.Outbound, vector.OtherReflection, nil, nil)
	if got := p.Candidates[0].Match.String(); got != "source 192.0.2.1/32 protocol udp destination-port 99,4444" {
		t.Errorf("requests that leave: %s", got)
	}
}
