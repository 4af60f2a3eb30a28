package e2e

import (
	"strings"
	"testing"
	"time"

	"github.com/amooglesoft/trafficmonitor/internal/lab"
)

// What the safety section allows reaches the routers as it was typed, and what it does not allow goes no further than the
// kernel, however an approver asks for it.
func TestActions(t *testing.T) {
	t.Parallel()
	s := newSystem(t, "actions", lab.SiteOptions{NoEnforce: true}, settings{
		Safety: "redirect_targets: [64500:100]\n  redirect_addresses: [198.51.100.9]\n  allow_source_blackhole: true",
	})
	texts := []string{
		"destination 203.0.113.12/32 protocol udp then rate-limit 1Mbps mark 8 redirect 64500:100",
		"destination 2001:db8:113::12/128 protocol udp then mark 8 redirect 64500:100",
		"source 198.51.100.7/32 then source-blackhole",
	}
	for _, text := range texts {
		s.announce(text, 10*time.Minute)
	}
	s.hold(texts...)
	s.sent(texts...)
	for text, want := range map[string]string{
		"destination 203.0.113.13 protocol udp then redirect 64500:101":      "redirect_target",
		"destination 203.0.113.13 protocol udp then copy 198.51.100.10":      "redirect_target",
		"destination 203.0.113.13 then blackhole next-hop 198.51.100.10":     "redirect_target",
		"source 203.0.113.13 then source-blackhole":                          "source_blackhole",
		"destination ::13/64-128 source 2001:db8:1::1 then discard":          "outside_own_prefixes",
		"destination 203.0.113.12 protocol udp then discard communities 1:1": "conflict",
	} {
		if r := s.tmctl("announce", text, "--ttl", "10m", "--reason", "e2e"); r.code == 0 || !strings.Contains(r.err().Error(), want) {
			t.Errorf("%q was not refused for %s: %v", text, want, r.err())
		}
	}
	s.must("withdraw", "--all", "--reason", "e2e", "--hold", "0")
	s.hold()
}
