package mitigation

import (
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/amooglesoft/trafficmonitor/internal/route"
	"github.com/amooglesoft/trafficmonitor/internal/traffic"
	"github.com/amooglesoft/trafficmonitor/internal/vector"
)

// An engineer withdrew one of two rules of a target: automation keeps its hands off the other one too, and does not
// extend it while the hold lasts.
func TestHoldStopsExtensions(t *testing.T) {
	m := New(Records{})
	dns, _ := m.Respond(t0, plan(t))
	other := plan(t)
	other.Vector = vector.NTP
	other.Route.Match.SourcePort = []route.Range{{Lo: 123, Hi: 123}}
	ntp, err := m.Respond(t0.Add(time.Millisecond), other)
	if err != nil {
		t.Fatal(err)
	}
	m.Withdraw(t0, func(y Mitigation) bool { return y.ID == dns.ID }, time.Hour, "ann", "customer asked")
	o := sees(900_000)
	o.Vector = vector.NTP
	m.Observe(o, Usual{})
	if c := m.Tick(ntp.Deadline.Add(-time.Second), nil); len(c.Put) != 1 || c.Put[0].Phase != OnHold || !c.Put[0].Deadline.Equal(ntp.Deadline) {
		t.Errorf("automation extended a rule of a target it is held off: %+v", c)
	}
	if at := m.Deadline(); !at.Equal(ntp.Deadline) {
		t.Errorf("the machine wants a tick at %s, want %s", at, ntp.Deadline)
	}
	if c := m.Tick(ntp.Deadline, nil); len(c.Put) != 1 || c.Put[0].State != Ended {
		t.Errorf("at the deadline: %+v", c)
	}
}

// A rule for a network reaches each of its hosts, so a hold of one host holds it up.
func TestHoldOfAHostHoldsItsNetwork(t *testing.T) {
	m := New(Records{Holds: []Hold{{Target: victim, Until: t0.Add(time.Hour), Requester: "ann", Reason: "customer asked"}}})
	p := plan(t)
	p.Target = netip.MustParsePrefix("192.0.2.0/24")
	p.Route.Match.Destination = p.Target
	if _, err := m.Respond(t0, p); !errors.Is(err, ErrHeld) {
		t.Errorf("automation announced a rule that reaches a held host: %v", err)
	}
}

// What was refused is asked again, not taken for done.
func TestRefusedRequestMayBeRepeated(t *testing.T) {
	m := New(Records{})
	req := Request{Route: plan(t).Route, TTL: time.Minute, Requester: "ann", Reason: "test", RequestID: "ticket-1"}
	x, _ := m.Announce(t0, req)
	m.Refuse(t0, x.ID, "quota")
	y, repeated := m.Announce(t0.Add(time.Minute), req)
	if repeated || y.State != Active {
		t.Errorf("the second attempt returned the refused one: %+v", y)
	}
}

// Speakers and other controllers know only the wall clock, so an end must not follow this process's own clock.
func TestTimesAreOfTheWallClock(t *testing.T) {
	m := New(Records{})
	now := time.Now()
	x, _ := m.Respond(now, plan(t))
	y, _ := m.Announce(now, Request{Route: plan(t).Route, TTL: time.Minute, Requester: "ann"})
	for _, at := range []time.Time{x.Created, x.Deadline, x.MaxDeadline, y.Created, y.Deadline} {
		if strings.Contains(at.String(), "m=") {
			t.Errorf("%s has a monotonic reading", at)
		}
	}
}

// The trickle went through a rack whose sensor went silent; what another rack sees besides is not the whole.
func TestHeldTrickleIsStillEvidence(t *testing.T) {
	m := New(Records{})
	x, _ := m.Respond(t0, plan(t))
	m.Observe(traffic.Observation{
		Target: victim, Vector: vector.DNS, BPS: 10, HeldBPS: 900_000, Sensors: []string{"rack2"}, Missing: []string{"rack1"},
	}, Usual{})
	if c := m.Tick(x.Deadline.Add(-5*time.Second), nil); len(c.Put) != 1 || c.Put[0].Extensions != 1 {
		t.Errorf("the silence of a sensor was taken for the end of the attack: %+v", c)
	}
}

// Two made at the same instant are still ordered, the later one being younger: the safety kernel takes from the youngest.
func TestCreatedOrdersMitigations(t *testing.T) {
	m := New(Records{})
	x, _ := m.Respond(t0, plan(t))
	y, _ := m.Announce(t0, Request{Route: plan(t).Route, TTL: time.Minute, Requester: "ann"})
	if !y.Created.After(x.Created) {
		t.Errorf("created %s and %s", x.Created, y.Created)
	}
}

// Two rules answer one vector, of the policy before and after a reload: the end of one is not the end of the evidence
// for the other.
func TestEvidenceOutlivesOneOfTwo(t *testing.T) {
	m := New(Records{})
	x, _ := m.Respond(t0, plan(t))
	other := plan(t)
	other.Route.Match.Protocol = nil
	other.Route.Match.SourcePort = nil
	y, err := m.Respond(t0, other)
	if err != nil {
		t.Fatal(err)
	}
	m.EndUnsafe(t0, map[string]string{x.ID: "test"})
	m.Observe(sees(900_000), Usual{})
	if c := m.Tick(y.Deadline.Add(-time.Second), nil); len(c.Put) != 1 || c.Put[0].Extensions != 1 {
		t.Errorf("not extended: %+v", c)
	}
	m.Refuse(t0, y.ID, "test")
	if m.Watches(victim, y.Vectors[0]) || len(m.looks) != 0 {
		t.Errorf("evidence of nothing is kept: %v", m.looks)
	}
}

// A rule of a few seconds is not extended the moment it is made, before anything can have been seen.
func TestShortRuleIsExtendedNearItsEnd(t *testing.T) {
	m := New(Records{})
	p := plan(t)
	p.TTL, p.Extend = 4*time.Second, time.Minute
	x, _ := m.Respond(t0, p)
	if c := m.Tick(t0.Add(time.Millisecond), nil); !c.Empty() {
		t.Errorf("extended at once: %+v", c)
	}
	m.Observe(sees(900_000), Usual{})
	if c := m.Tick(x.Deadline.Add(-time.Second), nil); len(c.Put) != 1 || c.Put[0].Extensions != 1 {
		t.Errorf("not extended near its end: %+v", c)
	}
}

// TestDeniedExtension: what is denied is asked for again each second, ends at its deadline if it stays denied, and is extended
// when it is allowed in time.
func TestDeniedExtension(t *testing.T) {
	for _, allowed := range []int{-1, 3} {
		m := New(Records{})
		x, err := m.Respond(t0, plan(t))
		if err != nil {
			t.Fatal(err)
		}
		m.Observe(sees(900_000), Usual{})
		asked := 0
		may := func(Mitigation) bool { asked++; return asked == allowed }
		var last Change
		for at := m.Deadline(); at.Before(x.Deadline.Add(time.Second)) && last.Empty(); at = m.Deadline() {
			last = m.Tick(at, may)
			if next := m.Deadline(); last.Empty() && !next.After(at) {
				t.Fatalf("denied at %s, the machine wants to be asked at %s", at, next)
			}
		}
		switch {
		case len(last.Put) != 1:
			t.Errorf("allowed at %d: nothing came of it: %+v", allowed, last)
		case allowed < 0 && (last.Put[0].EndReason != EndDeadline || asked < 4 || asked > 6):
			t.Errorf("denied %d times, and then %+v", asked, last.Put[0])
		case allowed > 0 && (last.Put[0].Extensions != 1 || asked != allowed):
			t.Errorf("asked %d times, and then %+v", asked, last.Put[0])
		}
	}
}

// Of several holds on a target it is always the same that is named.
func TestHeldNamesOne(t *testing.T) {
	for range 20 {
		m := New(Records{Holds: []Hold{
			{Target: netip.MustParsePrefix("192.0.2.0/24"), Until: t0.Add(time.Hour), Reason: "net"},
			{Target: victim, Until: t0.Add(time.Hour), Reason: "host"},
			{Target: netip.MustParsePrefix("192.0.0.0/16"), Until: t0, Reason: "ended"},
			{Target: netip.MustParsePrefix("10.0.0.0/8"), Until: t0.Add(time.Hour), Reason: "elsewhere"},
		}})
		if h, ok := m.Held(t0, victim); !ok || h.Reason != "net" {
			t.Fatalf("%v %+v", ok, h)
		}
	}
	if h, ok := New(Records{}).Held(t0, victim); ok || h != (Hold{}) {
		t.Errorf("%+v", h)
	}
}
