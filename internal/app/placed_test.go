package app

import (
	"testing"
	"time"

	"github.com/amooglesoft/trafficmonitor/internal/mitigation"
	"github.com/amooglesoft/trafficmonitor/internal/probe"
	"github.com/amooglesoft/trafficmonitor/internal/route"
	"github.com/amooglesoft/trafficmonitor/internal/speaker"
)

func TestAnswersOfRouters(t *testing.T) {
	r, err := route.Parse("destination 192.0.2.1/32 then discard")
	if err != nil {
		t.Fatal(err)
	}
	asked := func(s probe.State) speaker.Found { return speaker.Found{State: s, At: time.Unix(1, 0)} }
	w := &speakerWatch{placed: placedOf(speaker.Status{Routes: []speaker.RouteStatus{{
		Desired: speaker.Desired{Route: r},
		Peers: []speaker.PeerRoute{
			{Peer: "a", State: speaker.Sent},
			{Peer: "b", State: speaker.Sent, Found: asked(probe.Installed)},
			{Peer: "c", State: speaker.Sent, Found: asked(probe.NotInstalled)},
			{Peer: "d", State: speaker.Pending},
		},
	}}})}
	m := mitigation.Mitigation{Routes: []route.Route{r}}
	if installed, routers := w.answers(m); installed != 2 || routers != 4 {
		t.Errorf("%d of %d, want 2 of 4", installed, routers)
	}
	other := r
	other.Action = route.Action{Kind: route.Blackhole}
	m.Routes = append(m.Routes, other) // not known there
	if installed, _ := w.answers(m); installed != 0 {
		t.Errorf("%d have a route that nobody has", installed)
	}
	w.err = "gone"
	if installed, routers := w.answers(m); installed != 0 || routers != 0 {
		t.Errorf("%d of %d without a speaker", installed, routers)
	}
}
