package safety

import (
	"net/netip"
	"testing"

	"github.com/amooglesoft/trafficmonitor/internal/route"
)

func TestReach(t *testing.T) {
	own := []netip.Prefix{
		netip.MustParsePrefix("192.0.2.0/24"), netip.MustParsePrefix("192.0.2.128/25"), netip.MustParsePrefix("198.51.100.0/23"), netip.MustParsePrefix("2001:db8::/48"),
	}
	for text, want := range map[string]uint64{
		"destination 192.0.2.1 then discard":                   1,
		"destination 192.0.2.0/24 protocol udp then discard":   256,
		"destination 2001:db8::1 then blackhole":               1,
		"destination 2001:db8::/64 then discard":               1,
		"destination 2001:db8::/56 protocol udp then discard":  256,
		"source 203.0.113.0/24 protocol udp then discard":      256 + 512,
		"source 2001:db8:ffff::/48 protocol udp then discard":  1 << 16,
		"destination 0.0.0.0/0 protocol udp then discard":      1 << 32,
		"destination ::/0 protocol udp then rate-limit 1 Mbps": ^uint64(0),
	} {
		r, err := route.Parse(text)
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		if got := Reach(own, r); got != want {
			t.Errorf("%s reaches %d hosts, want %d", text, got, want)
		}
	}
}
