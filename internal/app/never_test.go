package app

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/amooglesoft/trafficmonitor/internal/config"
)

// No rule may hit a router, our end of its session, or where it is asked what it installed, whatever the configuration
// protects besides.
func TestRoutersAreNeverTouched(t *testing.T) {
	var c config.Controller
	c.Network.Never = []netip.Prefix{netip.MustParsePrefix("203.0.113.0/24")}
	c.Speaker.Peers = []config.Peer{{
		Address: netip.MustParseAddr("192.0.2.1"), LocalAddress: netip.MustParseAddr("fe80::1%eth0"),
		Probe: config.Probe{Address: netip.MustParseAddr("198.51.100.7")},
	}, {Address: netip.MustParseAddr("2001:db8::2")}}
	got := safetyLimits(c).Never
	for _, want := range []string{"203.0.113.0/24", "192.0.2.1/32", "fe80::1/128", "198.51.100.7/32", "2001:db8::2/128"} {
		if !slices.Contains(got, netip.MustParsePrefix(want)) {
			t.Errorf("%s is not protected: %v", want, got)
		}
	}
	if len(got) != 5 {
		t.Errorf("%v", got)
	}
}
