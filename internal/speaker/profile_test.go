package speaker

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/amooglesoft/trafficmonitor/internal/compile"
)

// stateAt returns what became of a route at a router.
func (r *running) stateAt(t testing.TB, peer, text string) PeerRoute {
	t.Helper()
	for _, rs := range r.status().Routes {
		if rs.Route.String() != text {
			continue
		}
		for _, p := range rs.Peers {
			if p.Peer == peer {
				return p
			}
		}
	}
	t.Fatalf("nothing is known of %q at %s", text, peer)
	return PeerRoute{}
}

// One router of two needs a route in two rules: it gets both, and loses both when the route goes. The route is one, there
// and in the journal.
func TestARouteIsSeveralRulesAtOneRouter(t *testing.T) {
	t.Parallel()
	plain, split := newFakeRouter(t).serve(), newFakeRouter(t).serve()
	p := split.peer("split")
	p.Profile = compile.Profile{Name: "x", Split: 4, Unmixed: true}
	o := testOptions(t, plain.peer("plain"), p)
	s := start(t, o)
	const both, other = "destination 192.0.2.1/32 protocol udp source-port 53,100-200 then discard", "destination 192.0.2.2/32 protocol udp then discard"
	s.set(1, 1, desired(t, both, other))
	plain.await(t, 2)
	split.await(t, 3)
	st := s.stateAt(t, "split", both)
	want := []string{"destination 192.0.2.1/32 protocol udp source-port 53 then discard", "destination 192.0.2.1/32 protocol udp source-port 100-200 then discard"}
	if st.State != Sent || !slices.Equal(st.Rules, want) || st.Sent.IsZero() {
		t.Errorf("%+v", st)
	}
	if st := s.stateAt(t, "plain", both); st.State != Sent || st.Rules != nil {
		t.Errorf("%+v", st)
	}
	if n := len(s.status().Routes); n != 2 {
		t.Errorf("%d routes, two are wanted", n)
	}

	// Another action replaces both, at both.
	before := split.routes()
	s.set(1, 2, desired(t, strings.Replace(both, "discard", "rate-limit 8Mbps", 1), other))
	waitFor(t, "the new action", func() bool {
		n := 0
		for match, action := range split.routes() {
			if action != before[match] {
				n++
			}
		}
		return n == 2
	})

	s.stop()
	s = start(t, o) // from the journal
	split.await(t, 3)
	s.set(1, 3, desired(t, other))
	plain.await(t, 1)
	split.await(t, 1)
	s.stop()
}

// Room for 100 and 500 wanted: the most valuable are at the router, the others tell why not, and the session stays.
func TestARouterWithRoomForSome(t *testing.T) {
	t.Parallel()
	small, large := newFakeRouter(t).serve(), newFakeRouter(t).serve()
	p := small.peer("small")
	p.Profile = compile.Profile{Name: "small", Cost: compile.Cost{Expand: true}, Budget: compile.Budget{Shared: 100}}
	s := start(t, testOptions(t, p, large.peer("large")))
	var texts []string
	for i := range 500 {
		texts = append(texts, fmt.Sprintf("destination 10.0.%d.%d/32 protocol udp then discard", i/250, i%250))
	}
	set := desired(t, texts...)
	for i := range set {
		set[i].Manual = i%5 == 4 // the hundred of an engineer
	}
	s.set(1, 1, set)
	large.await(t, 500)
	small.await(t, 100)
	sent := 0
	for _, rs := range s.status().Routes {
		for _, pr := range rs.Peers {
			switch {
			case pr.Peer == "small" && rs.Manual:
				if pr.State == Sent {
					sent++
				}
			case pr.Peer == "small":
				if pr.State != NotPlaced || !strings.Contains(pr.Reason, "the router has 100 entries for rules") {
					t.Fatalf("%s: %+v", rs.Route, pr)
				}
			}
		}
	}
	if sent != 100 {
		t.Errorf("%d of an engineer's 100 routes are sent", sent)
	}
	if small.sessions() != 1 || large.sessions() != 1 {
		t.Errorf("%d and %d sessions", small.sessions(), large.sessions())
	}
	for _, ps := range s.status().Peers {
		if ps.Name == "small" && ps.Routes[NotPlaced] != 400 {
			t.Errorf("%+v", ps.Routes)
		}
	}

	// What was placed goes, and others get its room.
	s.set(1, 2, slices.DeleteFunc(set, func(d Desired) bool { return d.Manual }))
	large.await(t, 400)
	waitFor(t, "the room is used again", func() bool { return small.count() == 100 && s.status().Routes[0].Peers[1].State == Sent })
}

// A limit of routes does not cut one in two.
func TestMaxRulesKeepsRoutesWhole(t *testing.T) {
	t.Parallel()
	f := newFakeRouter(t).serve()
	p := f.peer("r")
	p.Profile, p.MaxRules = compile.Profile{Name: "x", Split: 4, Unmixed: true}, 2
	s := start(t, testOptions(t, p))
	const one, two = "destination 192.0.2.1/32 then blackhole", "destination 192.0.2.2/32 protocol udp source-port 53,100-200 then discard"
	s.set(1, 1, desired(t, one, two))
	f.await(t, 1)
	waitFor(t, "both are decided", func() bool { return s.stateAt(t, "r", one).State == Sent })
	if st := s.stateAt(t, "r", two); st.State != NotPlaced || !strings.Contains(st.Reason, "at most 2 routes") {
		t.Errorf("%+v", st)
	}
	if f.count() != 1 {
		t.Errorf("%v", f.routes())
	}
}

// A rule in quarantine takes its whole route with it, and the room goes to others.
func TestAQuarantinedRuleTakesItsRoute(t *testing.T) {
	const two, other = "destination 192.0.2.1/32 protocol udp source-port 53,100-200 then discard", "destination 192.0.2.2/32 protocol udp then discard"
	set := admitted(t, testLimits(), nil, two, other)
	jailed := newItem(Desired{Route: parse(t, "destination 192.0.2.1/32 protocol udp source-port 53 then discard")})
	r := &router{
		peer: Peer{Name: "r", MaxRules: 2, Profile: compile.Profile{Name: "x", Split: 4, Unmixed: true}}, limits: testLimits(), set: set,
		out: newOutbox(2, 0, newSuspicion(blameSpan, nil, nil)),
	}
	r.place(placeNow)
	if len(r.out.order) != 2 || r.not[set[1].id].state != NotPlaced || len(r.placed.of[set[0].id]) != 2 {
		t.Fatalf("%+v, %+v", r.out.order, r.not)
	}
	r.out.blame.records[jailed.id] = &Quarantine{Route: jailed.text, Until: placeNow.Add(time.Hour), Times: 1, Why: "it resets"}
	r.place(placeNow)
	if len(r.out.order) != 1 || r.out.order[0].text != other || r.not[set[0].id].state != Quarantined || !strings.Contains(r.not[set[0].id].reason, "it resets") {
		t.Errorf("%+v, %+v", r.out.order, r.not)
	}
}
