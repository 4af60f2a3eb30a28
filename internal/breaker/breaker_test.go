package breaker

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/amooglesoft/trafficmonitor/internal/traffic"
	"github.com/amooglesoft/trafficmonitor/internal/vector"
)

var t0 = time.Date(2026, 11, 22, 18, 0, 0, 0, time.UTC)

func options() Options {
	return Options{
		Span: time.Minute, Settle: 3 * time.Second, Agreement: 0.05, DisputedTargets: 10, OneSensorTargets: 30, OnDisagreement: Freeze,
		Before: 30 * time.Second, FallWithin: 30 * time.Second, FallFor: 10 * time.Second,
		TargetFall: 0.6, OnTargetFall: Hold, TotalFall: 0.4, TotalTargets: 10, OnTotalFall: Freeze, MaxTargets: 1000,
	}
}

func host(n int) netip.Prefix {
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{192, 0, byte(n >> 8), byte(n)}), 32)
}

var quiet = Look{Attacked: func(netip.Prefix) bool { return false }, Misses: func(string) bool { return false }}

// says is a report of one sensor about one target.
func says(sensor string, target netip.Prefix, attack, other uint64) traffic.Report {
	r := traffic.Report{Sensor: sensor, Cause: traffic.Interval, Start: t0, Span: time.Second}
	if attack > 0 {
		r.Aggregates = append(r.Aggregates, traffic.Aggregate{Target: target, Vector: vector.DNS, Packets: attack})
	}
	if other > 0 {
		r.Aggregates = append(r.Aggregates, traffic.Aggregate{Target: target, Vector: vector.ACK, Packets: other})
	}
	if attack+other > 0 {
		r.Aggregates = append(r.Aggregates, traffic.Aggregate{Target: target, Vector: vector.Total, Packets: attack + other})
	}
	return r
}

// idle is a sensor that sees others' traffic.
func idle(sensor string) traffic.Report { return says(sensor, host(60_000), 0, 10) }

func TestSensorsThatDoNotAgree(t *testing.T) {
	type told struct{ attack, other uint64 } // packets, of each target
	for name, tc := range map[string]struct {
		targets int
		agreed  int // of them all sensors see
		sensors map[string]told
		idle    int // further sensors
		change  func(*Options)
		want    Reason
		sensor  string
		found   Verdict // of each target
	}{
		"all see it":                         {targets: 100, sensors: map[string]told{"a": {1000, 10}, "b": {900, 10}, "c": {60, 10}}},
		"another sees a twentieth":           {targets: 100, sensors: map[string]told{"a": {1000, 0}, "b": {50, 100}}, idle: 5},
		"one lies about others' hosts":       {targets: 10, sensors: map[string]told{"liar": {1000, 0}, "home": {0, 100}}, want: Disputed, sensor: "liar"},
		"it names some of their packets too": {targets: 10, sensors: map[string]told{"liar": {1000, 24}, "home": {49, 100}}, want: Disputed, sensor: "liar"},
		"of many that all see it":            {targets: 31, agreed: 21, sensors: map[string]told{"liar": {1000, 0}, "home": {0, 100}}, idle: 5, change: func(o *Options) { o.OneSensorTargets = 9 }},
		"fewer than are asked for":           {targets: 9, sensors: map[string]told{"liar": {1000, 0}, "home": {0, 100}}},
		"a rack is carpet bombed":            {targets: 29, sensors: map[string]told{"rack": {1000, 100}}, idle: 5},
		"a very large one":                   {targets: 30, sensors: map[string]told{"rack": {1000, 100}}, idle: 5, want: OneSensor, sensor: "rack"},
		"and nobody else reports":            {targets: 100, sensors: map[string]told{"rack": {1000, 100}}, found: Unconfirmed},
		"and one other reports":              {targets: 100, sensors: map[string]told{"rack": {1000, 100}}, idle: 1, found: Alone},
		"it carries a part of their traffic": {targets: 29, sensors: map[string]told{"edge": {1000, 25}, "home": {0, 100}}, idle: 5},
		"others see too little of them":      {targets: 29, sensors: map[string]told{"edge": {1000, 0}, "home": {0, 19}}, idle: 5},
		"both tests are off": {
			targets: 200, sensors: map[string]told{"liar": {1000, 0}, "home": {0, 100}}, idle: 5,
			change: func(o *Options) { o.DisputedTargets, o.OneSensorTargets = 0, 0 },
		},
		"only that of one sensor is on": {
			targets: 30, sensors: map[string]told{"liar": {1000, 0}, "home": {0, 100}}, idle: 5,
			change: func(o *Options) { o.DisputedTargets = 0 }, want: OneSensor, sensor: "liar",
		},
		"nothing of it is reported since": {targets: 100, sensors: map[string]told{"a": {0, 10}, "b": {0, 100}}},
	} {
		t.Run(name, func(t *testing.T) {
			o := options()
			if tc.change != nil {
				tc.change(&o)
			}
			b := New(o)
			for i := range tc.targets {
				b.Announced(Announcement{ID: fmt.Sprintf("m-%03d", i), Target: host(i), Vector: vector.DNS, At: t0})
			}
			now := t0.Add(time.Second)
			for i := range tc.targets {
				for s, x := range tc.sensors {
					if i < tc.agreed {
						x.attack = 1000
					}
					b.Report(now, says(s, host(i), x.attack, x.other))
				}
			}
			for i := range tc.idle {
				b.Report(now, idle(fmt.Sprintf("idle-%d", i)))
			}
			if trips := b.Tick(t0.Add(o.Settle-1), quiet); len(trips) > 0 {
				t.Fatalf("before sensors could speak: %+v", trips)
			}
			trips := b.Tick(t0.Add(o.Settle), quiet)
			if tc.want == "" {
				if len(trips) > 0 {
					t.Fatalf("opened: %+v", trips)
				}
				if f := b.Found(); tc.found != "" && f[tc.found] != tc.targets {
					t.Errorf("found %v, want %s", f, tc.found)
				}
				return
			}
			if len(trips) != 1 || trips[0].Reason != tc.want || trips[0].Sensor != tc.sensor || trips[0].Then != Freeze || len(trips[0].Mitigations) != tc.targets || len(trips[0].Targets) != tc.targets {
				t.Fatalf("want %s by %s: %+v", tc.want, tc.sensor, trips)
			}
			if !strings.Contains(trips[0].Says, tc.sensor) || !strings.Contains(trips[0].Says, fmt.Sprint(tc.targets)) {
				t.Errorf("says %q", trips[0].Says)
			}
			if again := b.Tick(t0.Add(o.Settle+time.Second), quiet); len(again) > 0 {
				t.Errorf("opened again on the same evidence: %+v", again)
			}
		})
	}
}

// A sensor that says so once, and then nothing more, is not believed for that.
func TestWhatLedToTheAnswerCounts(t *testing.T) {
	o := options()
	for name, seen := range map[string][]traffic.Share{
		"disputed": {{Sensor: "liar", PPS: 50_000}, {Sensor: "home", PPS: 100}},
		"agreed":   {{Sensor: "liar", PPS: 50_000}, {Sensor: "home", PPS: 5000}},
	} {
		b := New(o)
		for i := range 10 {
			b.Announced(Announcement{ID: fmt.Sprint(i), Target: host(i), Vector: vector.DNS, At: t0, Seen: seen})
			b.Report(t0.Add(time.Second), says("home", host(i), 0, 100))
			b.Report(t0.Add(time.Second), idle("liar"))
		}
		if trips := b.Tick(t0.Add(3*time.Second), quiet); (len(trips) == 1) != (name == "disputed") {
			t.Errorf("%s: %+v", name, trips)
		}
	}
}

// What sensors agree on stays, what was not judged yet goes.
func TestWhatIsRolledBack(t *testing.T) {
	b := New(options())
	announce := func(n int, at time.Time) {
		b.Announced(Announcement{ID: fmt.Sprintf("m-%03d", n), Target: host(n), Vector: vector.DNS, At: at})
	}
	for i := range 13 {
		announce(i, t0)
	}
	announce(900, t0.Add(2*time.Second)) // not judged when it opens
	for i := range 13 {
		b.Report(t0.Add(time.Second), says("a", host(i), 1000, 0))
		if i >= 10 {
			b.Report(t0.Add(time.Second), says("b", host(i), 1000, 100))
		} else {
			b.Report(t0.Add(time.Second), says("b", host(i), 0, 100))
		}
	}
	trips := b.Tick(t0.Add(3*time.Second), quiet)
	if len(trips) != 1 || len(trips[0].Mitigations) != 11 || slices.Contains(trips[0].Mitigations, "m-012") || !slices.Contains(trips[0].Mitigations, "m-900") {
		t.Errorf("%+v", trips)
	}
	if f := b.Found(); f[Agreed] != 3 || f[Contested] != 10 {
		t.Errorf("found %v", f)
	}
}

// Targets count as long as they are news.
func TestAgreedOnesOfATargetStay(t *testing.T) {
	o := options()
	o.DisputedTargets = 1
	b := New(o)
	b.Announced(Announcement{ID: "ntp", Target: host(1), Vector: vector.NTP, At: t0})
	b.Announced(Announcement{ID: "dns", Target: host(1), Vector: vector.DNS, At: t0})
	ntp := traffic.Report{Aggregates: []traffic.Aggregate{{Target: host(1), Vector: vector.NTP, Packets: 500}}}
	for _, s := range []string{"a", "b"} {
		ntp.Sensor = s
		b.Report(t0.Add(time.Second), ntp)
	}
	b.Report(t0.Add(time.Second), says("c", host(1), 1000, 0)) // alone with it
	trips := b.Tick(t0.Add(3*time.Second), quiet)
	if len(trips) != 1 || !slices.Equal(trips[0].Mitigations, []string{"dns"}) {
		t.Errorf("%+v", trips)
	}
}

func TestOldAnswersDoNotCount(t *testing.T) {
	b := New(options())
	now := t0
	for i := range 40 {
		b.Announced(Announcement{ID: fmt.Sprint(i), Target: host(i), Vector: vector.DNS, At: now})
		b.Report(now, says("liar", host(i), 1000, 0))
		b.Report(now, says("home", host(i), 0, 100))
		now = now.Add(8 * time.Second) // so seven or eight a minute
		if trips := b.Tick(now, quiet); len(trips) > 0 {
			t.Fatalf("after %d: %+v", i, trips)
		}
	}
}

// sender drives a breaker second by second.
type sender struct {
	*Breaker
	now   time.Time
	look  Look
	trips []Trip
}

func newSender(o Options) *sender { return &sender{Breaker: New(o), now: t0, look: quiet} }

// pass lets seconds pass in which some targets send and rack reports.
func (s *sender) pass(seconds int, pps map[netip.Prefix]float64) {
	for range seconds {
		s.now = s.now.Add(time.Second)
		if pps != nil {
			s.Report(s.now, idle("rack"))
		}
		for p, x := range pps {
			s.Rate(s.now, traffic.Rate{Target: p, Direction: vector.Outbound, Vector: vector.Total, PPS: x})
		}
		s.trips = append(s.trips, s.Tick(s.now, s.look)...)
	}
}

func (s *sender) announce(id string, target netip.Prefix) {
	s.Announced(Announcement{ID: id, Target: target, Vector: vector.DNS, At: s.now, Spares: true, Carriers: []string{"rack"}})
}

func TestWhatATargetSendsFalls(t *testing.T) {
	victim := host(1)
	at := func(pps float64) map[netip.Prefix]float64 { return map[netip.Prefix]float64{victim: pps} }
	for name, tc := range map[string]struct {
		change func(*Options)
		run    func(*sender)
		trips  int
		found  Verdict
	}{
		"falls": {run: func(s *sender) {
			s.pass(31, at(400))
			s.announce("m-1", victim)
			s.pass(2, at(400))
			s.pass(12, at(100))
		}, trips: 1, found: Fell},
		"falls too little": {run: func(s *sender) { s.pass(31, at(400)); s.announce("m-1", victim); s.pass(32, at(161)) }, found: Serves},
		"falls for a moment": {run: func(s *sender) {
			s.pass(31, at(400))
			s.announce("m-1", victim)
			for range 4 {
				s.pass(9, at(10))
				s.pass(1, at(400))
			}
		}, found: Serves},
		"falls long after": {run: func(s *sender) {
			s.pass(31, at(400))
			s.announce("m-1", victim)
			s.pass(31, at(400))
			s.pass(20, at(10))
		}, found: Serves},
		"was known too short": {run: func(s *sender) { s.pass(20, at(400)); s.announce("m-1", victim); s.pass(40, at(10)) }, found: Unseen},
		"was lower lately": {run: func(s *sender) {
			s.pass(31, at(400))
			s.pass(1, at(100))
			s.pass(10, at(400))
			s.announce("m-1", victim)
			s.pass(40, at(100))
		}, found: Serves},
		"sends hardly anything": {run: func(s *sender) { s.pass(31, at(49)); s.announce("m-1", victim); s.pass(40, at(0)) }, found: Unseen},
		"the attack does it": {run: func(s *sender) {
			s.look.Attacked = func(p netip.Prefix) bool { return p == victim }
			s.pass(31, at(400))
			s.announce("m-1", victim)
			s.pass(40, at(10))
		}, found: Serves},
		"the rule misses its traffic": {run: func(s *sender) {
			s.look.Misses = func(id string) bool { return id == "m-1" }
			s.pass(31, at(400))
			s.announce("m-1", victim)
			s.pass(40, at(10))
		}, found: Misses},
		"a blackhole is meant to": {run: func(s *sender) {
			s.pass(31, at(400))
			s.Announced(Announcement{ID: "m-1", Target: victim, At: s.now, Carriers: []string{"rack"}})
			s.pass(40, at(0))
		}},
		"the sensor goes silent": {run: func(s *sender) {
			s.pass(31, at(400))
			s.announce("m-1", victim)
			s.pass(3, nil)
			s.Rate(s.now, traffic.Rate{Target: victim, Direction: vector.Outbound, Vector: vector.Total, Held: true})
			s.pass(40, nil)
		}, found: Unseen},
		"the sensor goes silent and is forgotten": {run: func(s *sender) {
			s.pass(31, at(400))
			s.announce("m-1", victim)
			s.Rate(s.now, traffic.Rate{Target: victim, Direction: vector.Outbound, Vector: vector.Total, Held: true})
			s.Rate(s.now, traffic.Rate{Target: victim, Direction: vector.Outbound, Vector: vector.Total})
			s.pass(40, nil)
		}, found: Unseen},
		"the sensor is blind": {run: func(s *sender) {
			s.pass(31, at(400))
			s.announce("m-1", victim)
			s.Rate(s.now, traffic.Rate{Target: victim, Direction: vector.Outbound, Vector: vector.Total})
			s.pass(40, nil) // it reports, and has seen no packet
		}, found: Unseen},
		"the sensor was silent once": {run: func(s *sender) {
			s.pass(31, at(400))
			s.Rate(s.now, traffic.Rate{Target: victim, Direction: vector.Outbound, Vector: vector.Total, Held: true})
			s.pass(31, at(400))
			s.announce("m-1", victim)
			s.pass(12, at(100))
		}, trips: 1, found: Fell},
		"it ended meanwhile": {run: func(s *sender) {
			s.pass(31, at(400))
			s.announce("m-1", victim)
			s.Ended("m-1")
			s.pass(40, at(10))
		}},
		"the test is off": {change: func(o *Options) { o.TargetFall = 0 }, run: func(s *sender) { s.pass(31, at(400)); s.announce("m-1", victim); s.pass(40, at(10)) }},
		"no sensor is known to carry it": {run: func(s *sender) {
			s.pass(31, at(400))
			s.Announced(Announcement{ID: "m-1", Target: victim, At: s.now, Spares: true})
			s.pass(40, at(10))
		}, found: Unseen},
	} {
		t.Run(name, func(t *testing.T) {
			o := options()
			o.TotalFall = 0
			if tc.change != nil {
				tc.change(&o)
			}
			s := newSender(o)
			tc.run(s)
			if len(s.trips) != tc.trips {
				t.Fatalf("trips %+v, want %d", s.trips, tc.trips)
			}
			found := s.Found()
			delete(found, Unconfirmed)
			if tc.found == "" && len(found) > 0 || tc.found != "" && (found[tc.found] != 1 || len(found) != 1) {
				t.Errorf("found %v, want one %s", found, tc.found)
			}
			for _, x := range s.trips {
				if x.Reason != TargetFell || x.Then != Hold || !slices.Equal(x.Mitigations, []string{"m-1"}) || !slices.Equal(x.Targets, []netip.Prefix{victim}) ||
					!strings.Contains(x.Says, "sends 100 packets a second and sent no less than 400") || !strings.Contains(x.Says, "75 % less, for 10s") {
					t.Errorf("%+v", x)
				}
			}
		})
	}
}

// Of several answers for one target all go, but for those whose rule is known to miss its traffic.
func TestAllAnswersOfATargetGo(t *testing.T) {
	s := newSender(options())
	s.look.Misses = func(id string) bool { return id == "m-2" }
	victim := host(1)
	s.pass(31, map[netip.Prefix]float64{victim: 400})
	for _, id := range []string{"m-3", "m-1", "m-2"} {
		s.announce(id, victim)
	}
	s.pass(12, map[netip.Prefix]float64{victim: 1})
	if len(s.trips) != 1 || !slices.Equal(s.trips[0].Mitigations, []string{"m-1", "m-3"}) {
		t.Errorf("%+v", s.trips)
	}
}

func TestWhatAllTargetsSendFalls(t *testing.T) {
	all := func(n int, pps, fallen float64, of int) map[netip.Prefix]float64 {
		m := map[netip.Prefix]float64{}
		for i := range n {
			if m[host(i)] = pps; i < of {
				m[host(i)] = fallen
			}
		}
		return m
	}
	for name, tc := range map[string]struct {
		after map[netip.Prefix]float64
		trips int
	}{
		"half of them are gone":             {all(40, 1000, 0, 20), 1},
		"a third of them is":                {all(40, 1000, 0, 14), 0},
		"all send a little less":            {all(40, 650, 0, 0), 0},
		"all send half as much":             {all(40, 500, 0, 0), 0}, // nobody fell by 60 %: a busy hour ends
		"all send a third":                  {all(40, 333, 0, 0), 1},
		"others begin to send when they go": {all(80, 1000, 0, 20), 1},
	} {
		t.Run(name, func(t *testing.T) {
			o := options()
			o.DisputedTargets, o.OneSensorTargets = 0, 0
			s := newSender(o)
			s.pass(31, all(40, 1000, 0, 0))
			s.Announced(Announcement{ID: "m-1", Target: host(500), At: s.now}) // a blackhole, of whom ever
			s.pass(45, tc.after)
			if len(s.trips) != tc.trips {
				t.Fatalf("%+v", s.trips)
			}
			for _, x := range s.trips {
				if x.Reason != TotalFell || x.Then != Freeze || !slices.Equal(x.Mitigations, []string{"m-1"}) || len(x.Targets) < 20 {
					t.Errorf("%+v", x)
				}
			}
		})
	}

	t.Run("one large sender ends", func(t *testing.T) {
		s := newSender(options())
		with := all(40, 1000, 0, 0)
		with[host(99)] = 1e6
		s.pass(31, with)
		s.Announced(Announcement{ID: "m-1", Target: host(500), At: s.now})
		with[host(99)] = 0
		if s.pass(45, with); len(s.trips) > 0 {
			t.Errorf("%+v", s.trips)
		}
	})
	t.Run("their sensor is blind", func(t *testing.T) {
		s := newSender(options())
		s.pass(31, all(40, 1000, 0, 0))
		s.Announced(Announcement{ID: "m-1", Target: host(500), At: s.now})
		for i := range 30 {
			s.Rate(s.now, traffic.Rate{Target: host(i), Direction: vector.Outbound, Vector: vector.Total})
		}
		if s.pass(45, nil); len(s.trips) > 0 {
			t.Errorf("%+v", s.trips)
		}
	})
}

// What fell to nothing is not forgotten while it is judged, and of very many targets some stand for all.
func TestAFallOfVeryMany(t *testing.T) {
	o := options()
	o.Before, o.MaxTargets, o.DisputedTargets, o.OneSensorTargets = 2*time.Second, 30_000, 0, 0
	s := newSender(o)
	many := map[netip.Prefix]float64{}
	for i := range 20_000 {
		many[host(i)] = 100
	}
	s.pass(3, many)
	s.Announced(Announcement{ID: "m-1", Target: host(50_000), At: s.now})
	for p := range many {
		many[p] = 0
	}
	s.pass(1, many)
	s.pass(12, map[netip.Prefix]float64{}) // the sensor goes on
	if len(s.trips) != 1 || s.trips[0].Reason != TotalFell || len(s.trips[0].Targets) < 5000 || len(s.trips[0].Targets) > mostAsked {
		t.Errorf("%d trips: %.300v", len(s.trips), s.trips)
	}
}

func TestFlowsAreBoundedAndForgotten(t *testing.T) {
	o := options()
	o.MaxTargets = 100
	s := newSender(o)
	many := map[netip.Prefix]float64{}
	for i := range 1000 {
		many[host(i)] = 100
	}
	s.pass(2, many)
	if s.Flows() != 100 {
		t.Errorf("%d flows, want 100", s.Flows())
	}
	for p := range many {
		many[p] = 0
	}
	s.pass(1, many)
	s.pass(130, map[netip.Prefix]float64{})
	if s.Flows() != 0 {
		t.Errorf("%d flows of what sends nothing", s.Flows())
	}
}

// Random scripts of traffic that stays as it is, with sensors that fall silent, are forgotten, come back and go blind, never
// open the breaker; and the same script opens it in the same way however sensors take turns.
func TestSilenceNeverOpensIt(t *testing.T) {
	for seed := range uint64(300) {
		rnd := rand.New(rand.NewPCG(seed, 11))
		o := options()
		o.DisputedTargets, o.OneSensorTargets = 0, 0
		o.TotalTargets = 1
		s := newSender(o)
		const targets, sensors = 12, 4
		state := make([]int, sensors) // 0 sees, 1 silent, 2 forgotten, 3 blind
		name := func(i int) string { return fmt.Sprintf("rack-%d", i) }
		for range 200 {
			s.now = s.now.Add(time.Second)
			if rnd.IntN(8) == 0 {
				state[rnd.IntN(sensors)] = rnd.IntN(4)
			}
			for i := range sensors {
				if state[i] == 0 {
					s.Report(s.now, idle(name(i)))
				}
			}
			for i := range targets {
				// Each is carried by one sensor.
				r := traffic.Rate{Target: host(i), Direction: vector.Outbound, Vector: vector.Total}
				switch state[i%sensors] {
				case 0:
					r.PPS = float64(400 + rnd.IntN(100))
				case 1:
					r.Held = true
				case 2: // the view says held before it says nothing
					r.Held = true
					s.Rate(s.now, r)
					r.Held = false
				}
				s.Rate(s.now, r)
			}
			if rnd.IntN(5) == 0 {
				n := rnd.IntN(targets)
				s.Announced(Announcement{ID: fmt.Sprint(s.now.Unix()), Target: host(n), At: s.now, Spares: true, Carriers: []string{name(n % sensors)}})
			}
			if trips := s.Tick(s.now, quiet); len(trips) > 0 {
				t.Fatalf("seed %d: %+v", seed, trips)
			}
		}
	}
}

func TestTheOrderOfSensorsDecidesNothing(t *testing.T) {
	opened := 0
	for seed := range uint64(600) {
		rnd := rand.New(rand.NewPCG(seed, 12))
		o := options()
		o.DisputedTargets, o.OneSensorTargets = 1+rnd.IntN(3), 1+rnd.IntN(4)
		var reports []traffic.Report
		var announced []string
		one, two := New(o), New(o)
		for i := range 1 + rnd.IntN(12) {
			a := Announcement{ID: fmt.Sprintf("m-%02d", i), Target: host(rnd.IntN(8)), Vector: vector.DNS, At: t0}
			announced = append(announced, a.ID)
			one.Announced(a)
			two.Announced(a)
		}
		for range 40 {
			reports = append(reports, says(fmt.Sprintf("s%d", rnd.IntN(4)), host(rnd.IntN(8)), uint64(max(rnd.IntN(6)-4, 0)*1000), uint64(rnd.IntN(3)*100)))
		}
		for _, r := range reports {
			one.Report(t0.Add(time.Second), r)
		}
		rnd.Shuffle(len(reports), func(i, j int) { reports[i], reports[j] = reports[j], reports[i] })
		for _, r := range reports {
			two.Report(t0.Add(time.Second), r)
		}
		x, y := one.Tick(t0.Add(3*time.Second), quiet), two.Tick(t0.Add(3*time.Second), quiet)
		if fmt.Sprint(x) != fmt.Sprint(y) {
			t.Fatalf("seed %d:\n%+v\n%+v", seed, x, y)
		}
		opened += len(x)
		for _, trip := range x {
			if len(trip.Mitigations) == 0 || trip.Says == "" || !slices.IsSorted(trip.Mitigations) {
				t.Fatalf("seed %d: %+v", seed, trip)
			}
			for _, id := range trip.Mitigations {
				if !slices.Contains(announced, id) {
					t.Fatalf("seed %d: %s was never announced", seed, id)
				}
			}
		}
	}
	if opened < 20 {
		t.Errorf("only %d opened it: the scripts show nothing", opened)
	}
}

// A breaker that finds a target's flow by the mark in the view decides what one decides that looks each up: on random traffic of a
// real view, whose targets come and go, and whose places are given to others.
func TestMarksDecideNothing(t *testing.T) {
	trips, admitted, refused := 0, 0, 0
	for seed := range uint64(60) {
		rnd := rand.New(rand.NewPCG(seed, 23))
		o := options()
		o.Before, o.FallFor, o.MaxTargets, o.TotalTargets = 3*time.Second, 2*time.Second, 12, 2
		o.DisputedTargets = 0
		marks, looks := New(o), New(o)
		v := traffic.NewView(traffic.Options{MaxTargets: 20, StaleAfter: 2 * time.Second, ForgetAfter: 5 * time.Second})
		now := t0
		base, silent := make([]uint64, 24), make([]bool, 3)
		for step := range 150 {
			now = now.Add(time.Second)
			if rnd.IntN(12) == 0 {
				silent[rnd.IntN(3)] = rnd.IntN(2) == 0
			}
			for i := range base {
				switch rnd.IntN(25) {
				case 0:
					base[i] = 0
				case 1:
					base[i] = uint64(rnd.IntN(200))
				case 2:
					base[i] = 1000
				}
			}
			for s := range silent {
				if silent[s] {
					continue
				}
				r := traffic.Report{Sensor: fmt.Sprint("rack-", s), Cause: traffic.Interval, Start: now.Add(-time.Second), Span: time.Second, Outbound: true}
				for i, n := range base {
					if i%3 == s && n > 0 {
						r.Aggregates = append(r.Aggregates,
							traffic.Aggregate{Target: host(i), Vector: vector.ACK, Packets: 10},
							traffic.Aggregate{Target: host(i), Direction: vector.Outbound, Vector: vector.Total, Packets: n})
					}
				}
				v.Take(now, r)
				marks.Report(now, r)
				looks.Report(now, r)
			}
			v.Expire(now)
			v.Collect(now, func(r traffic.Rate) bool {
				if r.Mark == nil {
					t.Fatal("the view gives no mark")
				}
				marks.Rate(now, r)
				r.Mark = nil
				looks.Rate(now, r)
				return false
			})
			if rnd.IntN(3) == 0 {
				i := rnd.IntN(len(base))
				a := Announcement{ID: fmt.Sprint("m-", step), Target: host(i), Vector: vector.ACK, At: now, Spares: true, Carriers: []string{fmt.Sprint("rack-", i%3)}}
				marks.Announced(a)
				looks.Announced(a)
			}
			got, want := marks.Tick(now, quiet), looks.Tick(now, quiet)
			trips += len(want)
			if fmt.Sprintf("%+v", got) != fmt.Sprintf("%+v", want) {
				t.Fatalf("seed %d, step %d: by marks %+v, by looking up %+v", seed, step, got, want)
			}
			if fmt.Sprint(marks.flows, marks.free) != fmt.Sprint(looks.flows, looks.free) || !maps.Equal(marks.index, looks.index) || !maps.Equal(marks.Found(), looks.Found()) {
				t.Fatalf("seed %d, step %d: the flows differ", seed, step)
			}
			admitted += len(marks.index)
			if len(marks.index) == o.MaxTargets {
				refused++
			}
		}
	}
	if trips < 20 || admitted == 0 || refused == 0 {
		t.Errorf("%d trips, %d flows, %d times full: the traffic tests nothing", trips, admitted, refused)
	}
}

// BenchmarkRate is a second of the totals of 150,000 sending targets, found by their mark and looked up.
func BenchmarkRate(b *testing.B) {
	const targets = 150_000
	for _, by := range []string{"mark", "index"} {
		b.Run("by="+by, func(b *testing.B) {
			o := options()
			o.MaxTargets = targets
			k := New(o)
			marks, rates := make([]uint32, targets), make([]traffic.Rate, targets)
			for i := range rates {
				p := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}), 32)
				rates[i] = traffic.Rate{Target: p, Direction: vector.Outbound, Vector: vector.Total, PPS: 500}
				if by == "mark" {
					rates[i].Mark = &marks[i]
				}
				k.Rate(t0, rates[i])
			}
			for b.Loop() {
				for i := range rates {
					k.Rate(t0, rates[i])
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/targets, "ns/target")
		})
	}
}
