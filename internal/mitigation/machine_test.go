package mitigation

import (
	"errors"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/amooglesoft/trafficmonitor/internal/route"
	"github.com/amooglesoft/trafficmonitor/internal/traffic"
	"github.com/amooglesoft/trafficmonitor/internal/vector"
)

var (
	t0     = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	victim = netip.MustParsePrefix("192.0.2.1/32")
)

func plan(t testing.TB) Plan {
	t.Helper()
	r, err := route.Parse("destination 192.0.2.1/32 protocol udp source-port 53 then rate-limit 1Mbps")
	if err != nil {
		t.Fatal(err)
	}
	return Plan{
		Target: victim, Vector: vector.DNS, Incident: "i-1", Route: r,
		TTL: 10 * time.Minute, Extend: 5 * time.Minute, MaxAge: time.Hour, Reason: "test",
	}
}

func sees(bps float64) traffic.Observation {
	return traffic.Observation{Target: victim, Vector: vector.DNS, BPS: bps, Sensors: []string{"rack1"}}
}

func TestEndsAtDeadlineWithoutEvidence(t *testing.T) {
	m := New(Records{})
	x, err := m.Respond(t0, plan(t))
	if err != nil {
		t.Fatal(err)
	}
	m.Observe(sees(1000), Usual{}) // far below half of 1 Mbps
	if c := m.Tick(x.Deadline.Add(-time.Nanosecond), nil); !c.Empty() {
		t.Errorf("before the deadline: %+v", c)
	}
	if at := m.Deadline(); !at.Equal(x.Deadline) {
		t.Errorf("the machine wants a tick at %s, want %s", at, x.Deadline)
	}
	c := m.Tick(x.Deadline, nil)
	if len(c.Put) != 1 || c.Put[0].State != Ended || c.Put[0].EndReason != EndDeadline {
		t.Errorf("at the deadline: %+v", c)
	}
	if got := m.Records().Routes(x.Deadline); len(got) != 0 {
		t.Errorf("routes after the end: %v", got)
	}
}

func TestExtendsWhileTheTrickleFlowsUpToTheMaximum(t *testing.T) {
	m := New(Records{})
	x, _ := m.Respond(t0, plan(t))
	extensions := 0
	for {
		m.Observe(sees(900_000), Usual{})
		now := m.Deadline()
		c := m.Tick(now, nil)
		if len(c.Put) != 1 {
			t.Fatalf("at %s: %+v", now, c)
		}
		if c.Put[0].State == Ended {
			if c.Put[0].EndReason != EndMaxAge || !now.Equal(x.MaxDeadline) {
				t.Errorf("ended at %s because of %s, want %s at %s", now, c.Put[0].EndReason, EndMaxAge, x.MaxDeadline)
			}
			break
		}
		if !now.Before(x.Deadline) {
			t.Fatal("extended after the deadline: the routers saw a gap")
		}
		x = c.Put[0]
		extensions++
	}
	if extensions != 10 {
		t.Errorf("%d extensions of 5 minutes between 10 and 60 minutes, want 10", extensions)
	}
}

func TestSilentSensorsAreNoEvidence(t *testing.T) {
	m := New(Records{})
	x, _ := m.Respond(t0, plan(t))
	m.Observe(sees(900_000), Usual{})
	m.Observe(traffic.Observation{Target: victim, Vector: vector.DNS, HeldBPS: 900_000, Missing: []string{"rack1"}}, Usual{})
	if c := m.Tick(x.Deadline.Add(-5*time.Second), nil); len(c.Put) != 1 || c.Put[0].Extensions != 1 {
		t.Errorf("the silence of the only sensor was taken for the end of the attack: %+v", c)
	}
}

func TestWithdrawHoldsAutomationOff(t *testing.T) {
	m := New(Records{})
	x, _ := m.Respond(t0, plan(t))
	c := m.Withdraw(t0, func(y Mitigation) bool { return y.ID == x.ID }, time.Hour, "ann", "customer asked")
	if len(c.Put) != 1 || c.Put[0].EndReason != EndWithdrawn || len(c.Holds) != 1 {
		t.Fatalf("withdraw: %+v", c)
	}
	if _, err := m.Respond(t0.Add(59*time.Minute), plan(t)); !errors.Is(err, ErrHeld) {
		t.Errorf("during the hold: %v", err)
	}
	if c := m.Tick(t0.Add(time.Hour), nil); len(c.DeleteHolds) != 1 {
		t.Errorf("the hold did not end: %+v", c)
	}
	if _, err := m.Respond(t0.Add(time.Hour), plan(t)); err != nil {
		t.Errorf("after the hold: %v", err)
	}
}

func TestFreeze(t *testing.T) {
	m := New(Records{})
	x, _ := m.Respond(t0, plan(t))
	m.SetFreeze(&Freeze{Since: t0, Requester: "ann", Reason: "maintenance"})
	other := plan(t)
	other.Route.Match.SourcePort = []route.Range{{Lo: 123, Hi: 123}}
	if _, err := m.Respond(t0, other); !errors.Is(err, ErrFrozen) {
		t.Errorf("frozen automation answered %v", err)
	}
	m.Observe(sees(900_000), Usual{})
	if c := m.Tick(x.Deadline.Add(-time.Second), nil); len(c.Put) != 1 || c.Put[0].Phase != OnHold || !c.Put[0].Deadline.Equal(x.Deadline) {
		t.Errorf("frozen automation extended: %+v", c)
	}
	if c := m.Tick(x.Deadline, nil); len(c.Put) != 1 || c.Put[0].State != Ended {
		t.Errorf("a freeze must not keep a route past its deadline: %+v", c)
	}
	m.SetFreeze(nil)
	if _, err := m.Respond(x.Deadline, plan(t)); err != nil {
		t.Errorf("after the freeze: %v", err)
	}
}

func TestReattackWorksAtOnce(t *testing.T) {
	m := New(Records{})
	x, _ := m.Respond(t0, plan(t))
	if _, err := m.Respond(t0, plan(t)); !errors.Is(err, ErrCovered) {
		t.Errorf("a second answer to the same: %v", err)
	}
	m.Observe(sees(0), Usual{})
	m.Tick(x.Deadline, nil)
	y, err := m.Respond(x.Deadline, plan(t))
	if err != nil || y.ID == x.ID {
		t.Errorf("re-attack: %v %v", y.ID, err)
	}
}

func TestManualRequestIsRepeatable(t *testing.T) {
	m := New(Records{})
	req := Request{Route: plan(t).Route, TTL: time.Minute, Requester: "ann", Reason: "r", RequestID: "42"}
	a, again := m.Announce(t0, req)
	b, repeated := m.Announce(t0.Add(time.Second), req)
	if again || !repeated || a.ID != b.ID {
		t.Errorf("first %s %v, second %s %v", a.ID, again, b.ID, repeated)
	}
}

func TestSharedRouteEndsWithItsLastOwner(t *testing.T) {
	m := New(Records{})
	a, _ := m.Respond(t0, plan(t))
	b, _ := m.Announce(t0, Request{Route: plan(t).Route, TTL: 20 * time.Minute, Requester: "ann", Reason: "r"})
	got := m.Records().Routes(t0)
	if len(got) != 1 || len(got[0].Owners) != 2 || !got[0].Deadline.Equal(b.Deadline) || !got[0].Manual {
		t.Fatalf("shared route: %+v", got)
	}
	m.Withdraw(t0, func(x Mitigation) bool { return x.ID == a.ID }, 0, "ann", "r")
	if got := m.Records().Routes(t0); len(got) != 1 {
		t.Errorf("the route went with its first owner: %+v", got)
	}
	if got := m.Records().Routes(b.Deadline); len(got) != 0 {
		t.Errorf("the route outlived its last owner: %+v", got)
	}
}

// Whatever happens: every route has an end within the maximum age of its owner, no route is without an active owner,
// automation makes nothing while frozen or held, and a machine restored from its records behaves the same.
func TestInvariants(t *testing.T) {
	ports := []uint16{53, 123, 389}
	vectors := []vector.ID{vector.DNS, vector.NTP, vector.CLDAP}
	for seed := range uint64(400) {
		rng := rand.New(rand.NewPCG(seed, 7))
		m := New(Records{})
		m.SetGroups(inDNS, "default")
		now := t0
		for range 120 {
			now = now.Add(time.Duration(rng.Int64N(int64(4 * time.Minute))))
			m.Tick(now, nil)
			i := rng.IntN(3)
			p := plan(t)
			p.Vector = vectors[i]
			p.Route.Match.SourcePort = []route.Range{{Lo: uint32(ports[i]), Hi: uint32(ports[i])}}
			switch rng.IntN(9) {
			case 0:
				m.Withdraw(now, func(x Mitigation) bool { return rng.IntN(2) == 0 }, time.Duration(rng.IntN(3))*time.Minute, "ann", "r")
			case 1:
				m.SetFreeze(&Freeze{Since: now, Requester: "ann", Reason: "r"})
			case 2:
				m.SetFreeze(nil)
				_, _ = m.UnfreezeGroup("dns")
			case 3:
				m.Announce(now, Request{Route: p.Route, TTL: time.Duration(1+rng.IntN(60)) * time.Minute, Requester: "ann", Reason: "r"})
			case 4:
				m = New(m.Records())
				m.SetGroups(inDNS, "default")
			case 5:
				m.Observe(traffic.Observation{Target: victim, Vector: p.Vector, BPS: float64(rng.IntN(2)) * 1e6, Sensors: []string{"a"}}, Usual{})
			case 6:
				m.FreezeGroup(Freeze{Group: "dns", Since: now, Requester: "ann", Reason: "r"})
			default:
				_, held := m.Held(now, victim)
				frozen := m.freeze != nil || len(m.frozen) > 0
				if _, err := m.Respond(now, p); err == nil && (held || frozen) {
					t.Fatalf("seed %d: automation acted while held=%v frozen=%v", seed, held, frozen)
				}
			}
			r := m.Records()
			for _, x := range r.Mitigations {
				if x.State == Active && (!now.Before(x.Deadline) || x.Deadline.After(x.MaxDeadline) || x.MaxDeadline.Sub(x.Created) > time.Hour) {
					t.Fatalf("seed %d: at %s without a proper end: %+v", seed, now, x)
				}
			}
			for _, d := range r.Routes(now) {
				for _, o := range d.Owners {
					if !slices.ContainsFunc(r.Mitigations, func(x Mitigation) bool { return x.ID == o && x.State == Active }) {
						t.Fatalf("seed %d: route %s is owned by %s, which is not active", seed, d.Route, o)
					}
				}
			}
		}
		now = now.Add(2 * time.Hour)
		m.Tick(now, nil)
		if got := m.Records().Routes(now); len(got) != 0 {
			t.Fatalf("seed %d: two hours after the last event %v is still announced", seed, got)
		}
	}
}
