package engine

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/amooglesoft/trafficmonitor/internal/audit"
	"github.com/amooglesoft/trafficmonitor/internal/breaker"
	"github.com/amooglesoft/trafficmonitor/internal/ingest"
	"github.com/amooglesoft/trafficmonitor/internal/mitigation"
	"github.com/amooglesoft/trafficmonitor/internal/traffic"
	"github.com/amooglesoft/trafficmonitor/internal/vector"
)

// circuitBench is a bench with a breaker that keeps its events.
type circuitBench struct {
	*bench
	opened []map[string]string // written by the loop, read when it waits
}

func runCircuit(t *testing.T, change func(*breaker.Options), fn func(b *circuitBench)) {
	t.Helper()
	c := &circuitBench{}
	runWith(t, func(o *Options) {
		o.Breaker = &breaker.Options{
			Span: time.Minute, Settle: 3 * time.Second, Agreement: 0.05, DisputedTargets: 5, OneSensorTargets: 30, OnDisagreement: breaker.Freeze,
			Before: 30 * time.Second, FallWithin: 30 * time.Second, FallFor: 10 * time.Second, TargetFall: 0.6, OnTargetFall: breaker.Hold,
			TotalFall: 0.4, TotalTargets: 2, OnTotalFall: breaker.Freeze, MaxTargets: 1000,
		}
		o.BreakerHold = 20 * time.Minute
		change(o.Breaker)
		emit := o.Emit
		o.Emit = func(kind audit.Kind, says string, about map[string]string) {
			emit(kind, says, about)
			if kind == audit.BreakerOpened {
				about["says"] = says
				c.opened = append(c.opened, about)
			}
		}
	}, func(b *bench) {
		c.bench = b
		fn(c)
	})
}

func victims(n int) (out []netip.Prefix) {
	for i := range n {
		out = append(out, netip.PrefixFrom(netip.AddrFrom4([4]byte{192, 0, 2, byte(i + 1)}), 32))
	}
	return out
}

// say delivers a report of a second, or of a trigger's window.
func (b *circuitBench) say(sensor string, cause traffic.Cause, as ...traffic.Aggregate) {
	span := time.Second
	if cause == traffic.Trigger {
		span = 100 * time.Millisecond
	}
	now := time.Now()
	b.Deliver(ingest.Delivery{Report: traffic.Report{Sensor: sensor, Cause: cause, Start: now.Add(-span), Span: span, Outbound: true, Aggregates: as}, Received: now})
	synctest.Wait()
}

// pass lets seconds pass in which targets send so many packets and the sensor rack reports.
func (b *circuitBench) pass(seconds int, pps uint64, targets ...netip.Prefix) {
	for range seconds {
		var as []traffic.Aggregate
		for _, p := range targets {
			as = append(as, traffic.Aggregate{Target: p, Direction: vector.Outbound, Vector: vector.Total, Packets: pps, Bytes: pps * 100})
		}
		b.say("rack", traffic.Interval, append(as, traffic.Aggregate{Target: victims(200)[199], Vector: vector.Total, Packets: 5, Bytes: 500})...)
		time.Sleep(time.Second)
	}
	synctest.Wait()
}

func (b *circuitBench) attack(sensor string, targets ...netip.Prefix) {
	for _, p := range targets {
		b.say(sensor, traffic.Trigger, traffic.Aggregate{Target: p, Vector: vector.DNS, Packets: 5000, Bytes: 2_500_000})
	}
}

func (b *circuitBench) held() (n int) {
	b.term.mu.Lock()
	defer b.term.mu.Unlock()
	return len(b.term.holds)
}

func TestALyingSensorIsStopped(t *testing.T) {
	for _, then := range []breaker.Then{breaker.Freeze, breaker.Hold, breaker.Tell} {
		t.Run(string(then), func(t *testing.T) {
			runCircuit(t, func(o *breaker.Options) { o.OnDisagreement = then }, func(b *circuitBench) {
				at := victims(8)
				if _, err := b.Announce(b.t.Context(), manual(t, "destination 192.0.2.99/32 protocol udp source-port 53 then discard"), false); err != nil {
					t.Fatal(err)
				}
				b.attack("liar", at...)
				if got := len(b.announced()); got != 9 {
					t.Fatalf("%d routes announced, want 9", got)
				}
				for _, p := range at {
					b.say("home", traffic.Interval, traffic.Aggregate{Target: p, Vector: vector.ACK, Packets: 100, Bytes: 50_000})
				}
				time.Sleep(4 * time.Second)
				synctest.Wait()
				if len(b.opened) != 1 || b.opened[0]["reason"] != "disputed" || b.opened[0]["sensor"] != "liar" {
					t.Fatalf("opened: %v", b.opened)
				}
				left, holds, frozen := 1, 8, false
				switch then {
				case breaker.Freeze:
					frozen = true
				case breaker.Tell:
					left, holds = 9, 0
				}
				if got := len(b.announced()); got != left || b.held() != holds || (b.term.records().Freeze != nil) != frozen {
					t.Errorf("%d routes, %d holds, freeze %+v; want %d, %d, %v", got, b.held(), b.term.records().Freeze, left, holds, frozen)
				}
				if frozen && b.term.records().Freeze.Requester != mitigation.Breaker {
					t.Errorf("freeze: %+v", b.term.records().Freeze)
				}
				for _, m := range b.term.records().Mitigations {
					if m.State == mitigation.Ended && (m.EndReason != mitigation.EndRolledBack || !strings.Contains(m.EndDetail, "liar reports 8")) {
						t.Errorf("%s ended: %s: %s", m.ID, m.EndReason, m.EndDetail)
					}
				}
				// It goes on lying: nothing comes back while the freeze or the holds last.
				if then == breaker.Tell {
					return
				}
				for range 20 {
					b.attack("liar", at...)
					time.Sleep(time.Second)
				}
				synctest.Wait()
				if got := len(b.announced()); got != left || len(b.opened) != 1 {
					t.Errorf("%d routes, opened %v", got, b.opened)
				}
			})
		})
	}
}

func TestSensorsThatAgreeOpenNothing(t *testing.T) {
	runCircuit(t, func(*breaker.Options) {}, func(b *circuitBench) {
		for _, p := range victims(20) {
			b.attack("a", p)
			b.say("b", traffic.Interval, traffic.Aggregate{Target: p, Vector: vector.DNS, Packets: 600, Bytes: 300_000})
		}
		time.Sleep(10 * time.Second)
		synctest.Wait()
		if len(b.opened) != 0 || len(b.announced()) != 20 {
			t.Errorf("opened %v, announced %d", b.opened, len(b.announced()))
		}
	})
}

func TestARuleThatHurtsItsTargetIsRolledBack(t *testing.T) {
	runCircuit(t, func(*breaker.Options) {}, func(b *circuitBench) {
		b.pass(35, 2000, victim)
		b.attack("rack", victim)
		if len(b.announced()) != 1 {
			t.Fatal("not answered")
		}
		b.pass(12, 100, victim)
		if len(b.opened) != 1 || b.opened[0]["reason"] != "target_fell" || b.opened[0]["target"] != victim.String() || b.opened[0]["withdrawn"] != "1" {
			t.Fatalf("opened: %v", b.opened)
		}
		if got := b.announced(); len(got) != 0 || b.held() != 1 || b.term.records().Freeze != nil {
			t.Errorf("announced %q, %d holds, freeze %+v", got, b.held(), b.term.records().Freeze)
		}
		if !strings.Contains(b.kinds(), "breaker_opened mitigation_ended hold_set") {
			t.Errorf("events: %s", b.kinds())
		}
	})
}

func TestWhatIsNotRolledBack(t *testing.T) {
	for name, fn := range map[string]func(b *circuitBench){
		"a target that goes on": func(b *circuitBench) {
			b.pass(35, 2000, victim)
			b.attack("rack", victim)
			b.pass(45, 1900, victim)
		},
		"a sensor that goes silent": func(b *circuitBench) {
			b.pass(35, 2000, victim)
			b.attack("rack", victim)
			time.Sleep(45 * time.Second)
		},
		"a sensor that sees nobody any more": func(b *circuitBench) {
			b.pass(35, 2000, victim)
			b.attack("rack", victim)
			for range 45 {
				b.say("rack", traffic.Interval)
				time.Sleep(time.Second)
			}
		},
		"an attack that goes on": func(b *circuitBench) {
			b.pass(35, 2000, victim)
			b.attack("rack", victim)
			for range 45 {
				b.say("rack", traffic.Interval,
					traffic.Aggregate{Target: victim, Vector: vector.DNS, Packets: 50_000, Bytes: 25_000_000},
					traffic.Aggregate{Target: victim, Direction: vector.Outbound, Vector: vector.Total, Packets: 10, Bytes: 1000})
				time.Sleep(time.Second)
			}
		},
		"what an engineer announced": func(b *circuitBench) {
			b.pass(35, 2000, victim)
			if _, err := b.Announce(b.t.Context(), manual(b.t, dnsRule), false); err != nil {
				b.t.Fatal(err)
			}
			b.pass(20, 10, victim)
		},
	} {
		t.Run(name, func(t *testing.T) {
			runCircuit(t, func(*breaker.Options) {}, func(b *circuitBench) {
				fn(b)
				synctest.Wait()
				if len(b.opened) != 0 || len(b.announced()) != 1 {
					t.Errorf("opened %v, announced %q", b.opened, b.announced())
				}
			})
		})
	}
}

// An engineer's freeze stops the breaker's hand, too: it only tells.
func TestAFreezeStopsTheBreaker(t *testing.T) {
	runCircuit(t, func(*breaker.Options) {}, func(b *circuitBench) {
		b.pass(35, 2000, victim)
		b.attack("rack", victim)
		if _, err := b.SetFreeze(b.t.Context(), true, "ann", "maintenance"); err != nil {
			t.Fatal(err)
		}
		b.pass(12, 100, victim)
		if len(b.opened) != 1 || !strings.Contains(b.opened[0]["says"], "nothing is withdrawn, for automation is frozen there") {
			t.Errorf("opened: %v", b.opened)
		}
		if len(b.announced()) != 1 || b.held() != 0 {
			t.Errorf("announced %q, %d holds", b.announced(), b.held())
		}
	})
}

// All targets stop sending after answers to a few: those go, and automation stands still.
func TestAFallOfAllFreezes(t *testing.T) {
	runCircuit(t, func(o *breaker.Options) { o.TargetFall = 0 }, func(b *circuitBench) {
		all := victims(20)
		b.pass(35, 2000, all...)
		b.attack("rack", all[0], all[1])
		b.pass(12, 100, all...)
		if len(b.opened) != 1 || b.opened[0]["reason"] != "total_fell" || b.opened[0]["withdrawn"] != "2" {
			t.Fatalf("opened: %v", b.opened)
		}
		if f := b.term.records().Freeze; len(b.announced()) != 0 || f == nil || f.Requester != mitigation.Breaker {
			t.Errorf("announced %q, freeze %+v", b.announced(), f)
		}
		// An engineer lifts it.
		if _, err := b.SetFreeze(b.t.Context(), false, "ann", "looked into it"); err != nil {
			t.Fatal(err)
		}
		other := all[5]
		b.attack("rack", other)
		if got := b.announced(); len(got) != 1 || !strings.Contains(got[0], other.Addr().String()) {
			t.Errorf("after the freeze: %q", got)
		}
	})
}

// A new leader judges what the one before it announced: it has seen the traffic all the while.
func TestANewLeaderJudgesWhatItFinds(t *testing.T) {
	runCircuit(t, func(*breaker.Options) {}, func(b *circuitBench) {
		b.pass(35, 2000, victim)
		b.attack("rack", victim)
		b.pass(3, 100, victim)
		b.term.fail(ErrNotLeading) // the term ends at the next commit
		if _, err := b.Announce(b.t.Context(), manual(t, "destination 192.0.2.50/32 protocol udp source-port 53 then discard"), false); err == nil {
			t.Fatal("the term did not end")
		}
		b.term.fail(nil)
		b.term.number = 2
		go func() { _ = b.lead() }()
		synctest.Wait()
		b.pass(12, 100, victim)
		if len(b.opened) != 1 || len(b.announced()) != 0 {
			t.Errorf("opened %v, announced %q", b.opened, b.announced())
		}
	})
}

func TestRoutesThatTakeAllAreNotJudgedByTheirTarget(t *testing.T) {
	var got []bool
	for _, text := range []string{
		"destination 192.0.2.1/32 then blackhole", "destination 192.0.2.1/32 then discard",
		"destination 192.0.2.1/32 protocol udp then discard", "destination 192.0.2.1/32 source 198.51.100.0/24 then discard",
	} {
		got = append(got, takesAll(manual(t, text).Route))
	}
	if !slices.Equal(got, []bool{true, true, false, false}) {
		t.Errorf("%v", got)
	}
}
