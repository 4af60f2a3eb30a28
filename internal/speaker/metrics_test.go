package speaker

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus/testutil"
)

// A router that never answered is the one to be told about: it has every series from the start, and its routes wait.
func TestARouterWithoutASessionIsInTheMetrics(t *testing.T) {
	t.Parallel()
	r := start(t, testOptions(t, Peer{Name: "edge1", Address: netip.MustParseAddr("127.0.0.1"), Port: 1, ASN: 65001}))
	r.set(1, 1, desired(t, "destination 192.0.2.1/32 protocol udp then discard"))
	want := `
# HELP trafficmonitor_speaker_peer_flaps_total Times an established session with the peer was lost.
# TYPE trafficmonitor_speaker_peer_flaps_total counter
trafficmonitor_speaker_peer_flaps_total{peer="edge1"} 0
# HELP trafficmonitor_speaker_routes_pending Routes that wait for the peer's session, for their turn or for its pace: the length of its queue.
# TYPE trafficmonitor_speaker_routes_pending gauge
trafficmonitor_speaker_routes_pending{peer="edge1"} 1
# HELP trafficmonitor_speaker_routes_sent Routes whose UPDATE was written to the peer's connection in this session. Not: installed in its hardware.
# TYPE trafficmonitor_speaker_routes_sent gauge
trafficmonitor_speaker_routes_sent{peer="edge1"} 0
`
	if err := testutil.GatherAndCompare(r.reg, strings.NewReader(want), "trafficmonitor_speaker_peer_flaps_total",
		"trafficmonitor_speaker_routes_pending", "trafficmonitor_speaker_routes_sent"); err != nil {
		t.Error(err)
	}
	if n := testutil.CollectAndCount(r.reg, "trafficmonitor_speaker_peer_state"); n != 1 {
		t.Errorf("%d series of session states, want one a router", n)
	}
}
