package app

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/amooglesoft/trafficmonitor/internal/compile"
	"github.com/amooglesoft/trafficmonitor/internal/route"
	"github.com/amooglesoft/trafficmonitor/internal/speaker"
)

// A family that is kept from a router is one event, however many routes it has, and one more when it is kept again; a route
// of another family that is kept besides is one of its own.
func TestAHeldFamilyIsOneEvent(t *testing.T) {
	dir := t.TempDir()
	r := start(t, dir)
	w := &speakerWatch{c: r.Controller, peers: map[string]speaker.SessionState{}, sent: map[string]bool{}}
	status := func(held bool, texts ...string) speaker.Status {
		s := speaker.Status{Peers: []speaker.PeerStatus{{Name: "edge1", State: speaker.Established}}}
		if held {
			s.Peers[0].Held = []speaker.HeldFamily{{Table: compile.IPv6FlowSpec, Until: time.Now().Add(time.Hour), Reason: "all ipv6-flowspec routes are kept"}}
		}
		for _, text := range texts {
			x, err := route.Parse(text)
			if err != nil {
				t.Fatal(err)
			}
			s.Routes = append(s.Routes, speaker.RouteStatus{
				Desired: speaker.Desired{Route: x}, Peers: []speaker.PeerRoute{{Peer: "edge1", State: speaker.Quarantined, Reason: "kept"}},
			})
		}
		return s
	}
	const a, b, four = "destination 2001:db8::1 then discard", "destination 2001:db8::2 then discard", "destination 192.0.2.1 then discard"
	w.take(status(true, a, b, four))
	w.take(status(true, a, b, four))
	w.take(status(false))
	w.take(status(true, a))
	eventually(t, "the events", func() bool {
		text, err := os.ReadFile(filepath.Join(dir, "data", "audit.jsonl"))
		if err != nil {
			return false
		}
		got := string(text)
		if strings.Contains(got, "2001:db8::1") {
			t.Fatalf("a route of the family has an event of its own:\n%s", got)
		}
		return strings.Count(got, `edge1: all ipv6-flowspec routes are kept`) == 2 && strings.Count(got, `192.0.2.1/32 then discard is kept from edge1`) == 1
	})
}
