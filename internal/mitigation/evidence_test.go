package mitigation

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/amooglesoft/trafficmonitor/internal/route"
	"github.com/amooglesoft/trafficmonitor/internal/traffic"
	"github.com/amooglesoft/trafficmonitor/internal/vector"
	"github.com/amooglesoft/trafficmonitor/policy"
)

// window is what sensors saw for a second, from so long after t0 on.
func window(from time.Duration, pps float64, sensors ...string) traffic.Observation {
	return traffic.Observation{
		Target: victim, Vector: vector.DNS, PPS: pps, BPS: pps * 4000, Sensors: sensors, SensorCount: len(sensors), Start: t0.Add(from), Span: time.Second,
	}
}

// answered returns a machine with one active mitigation of 1 Mbps against 30,000 packets per second, and its ID.
func answered(t *testing.T, change func(*Plan)) (*Machine, string) {
	t.Helper()
	m, p := New(Records{}), plan(t)
	p.PPS, p.BPS, p.Sensors = 30_000, 120e6, []string{"rack1"}
	if change != nil {
		change(&p)
	}
	x, err := m.Respond(t0, p)
	if err != nil {
		t.Fatal(err)
	}
	return m, x.ID
}

func (m *Machine) phaseAt(at time.Duration, id string) Phase {
	m.Tick(t0.Add(at), nil)
	return m.all[id].Phase
}

// Of several sensors one that is silent makes that nothing is measured, whatever the others see; what they saw meanwhile is no quiet.
func TestOneOfTwoSensorsIsSilent(t *testing.T) {
	m, id := answered(t, nil)
	m.Silent(victim, vector.DNS, true)
	for s := range 20 {
		m.Observe(window(time.Duration(s)*time.Second, 10, "rack2"), Usual{})
		if p := m.phaseAt(time.Duration(s+1)*time.Second, id); p != Announced {
			t.Fatalf("%s after %d s, while a sensor is silent", p, s+1)
		}
	}
	m.Silent(victim, vector.DNS, false)
	if q := m.quietFor(t0.Add(20*time.Second), m.all[id]); q != 0 {
		t.Errorf("quiet for %s, of which a sensor was silent all the time", q)
	}
	m.Observe(window(20*time.Second, 10, "rack2"), Usual{})
	if p := m.phaseAt(21*time.Second, id); p != Verified {
		t.Errorf("%s when all sensors report", p)
	}
	if q := m.quietFor(t0.Add(23*time.Second), m.all[id]); q != 2*time.Second {
		t.Errorf("quiet for %s, want 2s", q)
	}
}

func TestSensorsThatCount(t *testing.T) {
	m, id := answered(t, nil)
	m.Observe(window(0, 10, "rack2", "rack3"), Usual{})
	m.Observe(window(time.Second, 10, "rack3"), Usual{})
	if got := m.Sensors(victim, vector.DNS); !slices.Equal(got, []string{"rack1", "rack2", "rack3"}) {
		t.Errorf("%v", got)
	}
	if got := m.all[id].Effect.Sensors; !slices.Equal(got, []string{"rack1"}) {
		t.Errorf("the record's own became %v", got)
	}
	for i := range 100 {
		m.Observe(window(2*time.Second, 10, fmt.Sprintf("x%03d", i)), Usual{})
	}
	if got := m.Sensors(victim, vector.DNS); len(got) != traffic.MaxNames || !slices.IsSorted(got) {
		t.Errorf("%d names, sorted %v", len(got), slices.IsSorted(got))
	}
}

// What was seen in a window that began before the answer is what was before, where it says more; and never is it what came after.
func TestWindowsBeforeTheAnswer(t *testing.T) {
	m, id := answered(t, func(p *Plan) { p.PPS, p.BPS = 5_000, 20e6 })
	m.Observe(window(-500*time.Millisecond, 40_000, "rack1"), Usual{})
	if f := m.all[id].Effect; f.BeforePPS != 40_000 || f.BeforeBPS != 160e6 {
		t.Errorf("before: %+v", f)
	}
	if p := m.phaseAt(time.Second, id); p != Announced || !m.all[id].Effect.Measured.IsZero() {
		t.Errorf("%s by a window that began before", p)
	}
	m.Observe(window(-time.Second, 100, "rack1"), Usual{})
	m.Observe(window(time.Second, 90_000, "rack1"), Usual{})
	if f := m.all[id].Effect; f.BeforePPS != 40_000 {
		t.Errorf("before: %+v", f)
	}
}

// Each router lets a limit's worth pass.
func TestLimitOfSeveralRouters(t *testing.T) {
	for routers, want := range map[int]Phase{0: Ineffective, 1: Ineffective, 2: Verified} {
		m, id := answered(t, func(p *Plan) { p.PPS, p.BPS = 1000, 4e6 })
		m.SetReach(func(Mitigation) int { return routers })
		var got Phase
		for s := range 6 {
			m.Observe(window(time.Duration(s)*time.Second, 500, "rack1"), Usual{}) // 2 Mbps
			got = m.phaseAt(time.Duration(s+1)*time.Second, id)
		}
		if got != want {
			t.Errorf("2 Mbps through %d routers with 1 Mbps each: %s, want %s", routers, got, want)
		}
	}
}

// What the view has forgotten of a silent sensor is no evidence that the attack is over: the last word counts, and the rule goes on.
func TestForgottenSensorKeepsTheRule(t *testing.T) {
	m, id := answered(t, nil)
	m.Observe(window(0, 250, "rack1"), Usual{})
	o := window(time.Second, 0)
	o.MissingCount, o.HeldPPS = 1, 250
	m.Observe(o, Usual{})
	m.Observe(window(2*time.Second, 0), Usual{})
	x := m.all[id]
	if c := m.Tick(x.Deadline.Add(-time.Second), nil); len(c.Put) != 1 || c.Put[0].Extensions != 1 {
		t.Errorf("%+v", c)
	}
}

func ladder(t *testing.T, steps string) policy.Response {
	t.Helper()
	p, err := policy.Parse("ladder.yaml", []byte("version: 1\nthresholds: [{vectors: all, pps: 20 kpps}]\nresponses: [{vectors: all, ladder: ["+steps+"]}]\n"))
	if err != nil {
		t.Fatal(err)
	}
	return p.Answer(policy.Incident{Target: victim, Vector: vector.DNS, Measured: true, PPS: 30_000, PeakPPS: 30_000, Collateral: -1}, t0)
}

func facts() Facts {
	return Facts{Live: true, Duration: time.Minute, Collateral: -1, MaxAge: 24 * time.Hour, Mark: route.Match{Destination: victim}}
}

func onLadder(r policy.Response) func(*Plan) {
	return func(p *Plan) {
		p.Rung = Rung{Ladder: Ladder(r), Steps: len(r.Steps), DownAfter: r.Steps[0].DownAfter}
	}
}

// A step that is taken back leaves what was seen as it was, and none is tried for a while.
func TestStepTakenBack(t *testing.T) {
	r := ladder(t, "{action: rate-limit 1 Mbps}, {action: discard, after: 1s, if: evidence.reduction < 0.9}")
	m, id := answered(t, onLadder(r))
	m.Observe(window(0, 29_000, "rack1"), Usual{})
	m.Observe(window(4*time.Second, 29_000, "rack1"), Usual{})
	m.Tick(t0.Add(5*time.Second), nil)
	doubted := m.doubts[id]
	before, _, moved, err := m.Advance(t0.Add(5*time.Second), id, r, facts())
	if err != nil || !moved || m.all[id].Routes[0].Action.Kind != route.Discard {
		t.Fatalf("%v %v %+v", err, moved, m.all[id])
	}
	if l := m.looks[sight{victim, vector.DNS}]; l.goesOn {
		t.Error("what was seen under the step before is evidence of this one")
	}
	m.Restore(t0.Add(5*time.Second), before)
	if l := m.looks[sight{victim, vector.DNS}]; !l.goesOn || !m.doubts[id].Equal(doubted) || doubted.IsZero() {
		t.Errorf("evidence is gone: %+v, doubted since %s, before %s", l, m.doubts[id], doubted)
	}
	if x := m.all[id]; x.Rung.Step != 0 || x.Routes[0].Action.Kind != route.RateBytes {
		t.Errorf("%+v", x)
	}
	m.Observe(window(13*time.Second, 29_000, "rack1"), Usual{})
	if _, _, moved, _ := m.Advance(t0.Add(14*time.Second), id, r, facts()); moved {
		t.Error("tried again after 9s")
	}
	if _, _, moved, _ := m.Advance(t0.Add(15*time.Second), id, r, facts()); !moved {
		t.Error("not tried again after 10s")
	}
}

// Whatever a step's after says, three seconds lie between two.
func TestStepsLieApart(t *testing.T) {
	r := ladder(t, "{action: rate-limit 1 Mbps}, {action: discard, after: 1s, if: evidence.reduction < 0.9}")
	m, id := answered(t, onLadder(r))
	for s := 1; ; s++ {
		m.Observe(window(time.Duration(s-1)*time.Second, 29_000, "rack1"), Usual{})
		at := time.Duration(s) * time.Second
		if _, _, moved, _ := m.Advance(t0.Add(at), id, r, facts()); moved || s > 10 {
			if at != settle {
				t.Errorf("the next step came after %s", at)
			}
			return
		}
	}
}

// A trickle that a window shows which began before the easing says nothing of it.
func TestOldWindowDuringEasing(t *testing.T) {
	r := ladder(t, "{action: rate-limit 1 Mbps, down_after: 10s}, {action: discard, after: 1s, if: evidence.reduction < 0.9, down_after: 5s}")
	m, id := answered(t, onLadder(r))
	m.Observe(window(2*time.Second, 29_000, "rack1"), Usual{})
	step := func(at time.Duration) bool {
		t.Helper()
		_, _, moved, err := m.Advance(t0.Add(at), id, r, facts())
		if err != nil {
			t.Fatal(err)
		}
		return moved
	}
	if !step(3*time.Second) || !step(8*time.Second) || m.all[id].Phase != Easing {
		t.Fatalf("%+v", m.all[id])
	}
	m.Observe(window(7500*time.Millisecond, 250, "rack1"), Usual{})
	if step(9 * time.Second) {
		t.Errorf("taken back by a window that began before: %+v", m.all[id])
	}
	m.Observe(window(8500*time.Millisecond, 250, "rack1"), Usual{})
	if !step(10*time.Second) || m.all[id].Phase != Escalated {
		t.Errorf("not taken back: %+v", m.all[id])
	}
}

// Behind a discard that lives shorter than its patience the probe comes in time.
func TestProbeComesBeforeTheEnd(t *testing.T) {
	r := ladder(t, "{action: discard, ttl: 20s, down_after: 1m}")
	m, id := answered(t, func(p *Plan) {
		onLadder(r)(p)
		p.Route.Action, p.TTL = route.Action{Kind: route.Discard}, 20*time.Second
	})
	if _, _, moved, _ := m.Advance(t0.Add(14*time.Second), id, r, facts()); moved {
		t.Error("eased after 14s")
	}
	if _, _, moved, _ := m.Advance(t0.Add(15*time.Second), id, r, facts()); !moved {
		t.Error("not eased after 15s of 20")
	}
	if m.all[id].Phase != Easing {
		t.Errorf("%+v", m.all[id])
	}
}

// What no match tells from other traffic is discarded by no step; a blackhole says openly what it does.
func TestUnmarkedStep(t *testing.T) {
	for action, want := range map[string]bool{"discard": false, "blackhole": true} {
		for _, approval := range []string{"", ", approval: 1"} {
			r := ladder(t, "{action: notify}, {action: "+action+", after: 1s"+approval+"}")
			m, id := answered(t, func(p *Plan) {
				onLadder(r)(p)
				p.Proposed, p.Rung.Step = true, 0
			})
			f := facts()
			f.Unmarked = true
			if _, _, moved, _ := m.Advance(t0.Add(time.Minute), id, r, f); moved != want {
				t.Errorf("%s%s: moved %v", action, approval, moved)
			}
		}
	}
}

// What was proposed begins when it is announced: the safety kernel keeps what is older, and that is what was announced before.
func TestProposedBeginsWhenAnnounced(t *testing.T) {
	r := ladder(t, "{action: notify}, {action: discard, after: 1s}")
	m, id := answered(t, func(p *Plan) {
		onLadder(r)(p)
		p.Proposed, p.Rung.Step = true, 0
	})
	if !m.all[id].Told.IsZero() {
		t.Error("told before it is announced")
	}
	at := t0.Add(time.Minute)
	if _, _, moved, _ := m.Advance(at, id, r, facts()); !moved {
		t.Fatal("not announced")
	}
	if x := m.all[id]; x.Created.Before(at) || !x.Told.Equal(at) || !x.Deadline.Equal(at.Add(10*time.Minute)) {
		t.Errorf("%+v", x)
	}
}

func TestNoMoreThanSoManyWait(t *testing.T) {
	m := New(Records{})
	for i := range maxPending + 1 {
		p := plan(t)
		p.Target = netip.PrefixFrom(netip.AddrFrom4([4]byte{198, 18, byte(i >> 8), byte(i)}), 32)
		p.Route.Match.Destination, p.Proposed = p.Target, true
		if _, err := m.Respond(t0, p); (err != nil) != (i == maxPending) || err != nil && !errors.Is(err, ErrFull) {
			t.Fatalf("%d wait: %v", i, err)
		}
	}
	if _, err := m.Respond(t0, plan(t)); err != nil {
		t.Errorf("what is announced at once: %v", err)
	}
}

// What was never announced cannot have done harm.
func TestRollBackOfWhatWaits(t *testing.T) {
	m, id := answered(t, func(p *Plan) { p.Proposed = true })
	if c := m.RollBack(t0, []string{id}, time.Minute, "harm"); !c.Empty() || m.all[id].Phase != Proposed {
		t.Errorf("%+v", c)
	}
}
