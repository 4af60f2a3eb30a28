package engine

import (
	"context"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/amooglesoft/trafficmonitor/internal/ingest"
	"github.com/amooglesoft/trafficmonitor/internal/traffic"
	"github.com/amooglesoft/trafficmonitor/internal/vector"
)

// answers are samples of DNS answers of one length, over a span that ends now.
func (b *bench) answers(n int, span time.Duration, length uint16) {
	b.t.Helper()
	now := time.Now()
	list := make([]traffic.Sample, n)
	for i := range list {
		list[i] = traffic.Sample{
			Time: now.Add(-span + span*time.Duration(i)/time.Duration(n)), Vector: vector.DNS, Weight: 1, Protocol: 17, TTL: 60, Length: length,
			Source: netip.AddrFrom4([4]byte{198, 51, byte(i >> 8), byte(i)}), Destination: victim.Addr(), HasPorts: true, SourcePort: 53, DestinationPort: uint16(20_000 + i*37%40_000),
		}
	}
	if !b.Deliver(ingest.Delivery{Samples: list, Received: now}) {
		b.t.Fatal("samples were dropped")
	}
	synctest.Wait()
}

// peace shows five minutes of a resolver's normal answers, of 120 octets.
func (b *bench) peace() {
	b.t.Helper()
	for range 10 {
		time.Sleep(30 * time.Second)
		b.answers(100, 30*time.Second, 120)
		b.report(traffic.Interval, time.Second, 10)
	}
}

// attack lets sensors see the trickle of an attack for a time, with samples of so many octets.
func (b *bench) attack(span time.Duration, length uint16) { b.t.Helper(); b.sees(span, length, 250) }

// sees lets sensors see so many packets a second for a time.
func (b *bench) sees(span time.Duration, length uint16, pps uint64) {
	b.t.Helper()
	for range span / time.Second {
		time.Sleep(time.Second)
		b.answers(60, time.Second, length)
		b.report(traffic.Hot, time.Second, pps)
	}
}

func TestRuleBecomesNarrowerWhereItHitsNormalTraffic(t *testing.T) {
	run(t, func(b *bench) {
		b.peace()
		b.report(traffic.Trigger, 33*time.Millisecond, 25_000)
		if got := b.announced(); len(got) != 1 || got[0] != dnsRule {
			t.Fatalf("announced %q", got)
		}
		var before time.Time
		for _, m := range b.term.rec {
			before = m.Deadline
		}
		b.attack(5*time.Second, 1400)
		got := b.announced()
		if len(got) != 1 || !strings.Contains(got[0], "length") || !strings.Contains(got[0], "source-port 53") {
			t.Fatalf("announced %q, want a rule that spares the answers of 120 octets", got)
		}
		if n := strings.Count(b.kinds(), "mitigation_changed"); n != 1 {
			t.Errorf("%d changes: %s", n, b.kinds())
		}
		for _, m := range b.term.rec {
			if !m.Deadline.Equal(before) || m.Evidence == "" {
				t.Errorf("%+v, the deadline was %s", m, before)
			}
		}

		// The attack goes on for longer than automation waits before it tries again: there is one rule.
		b.attack(25*time.Second, 1400)
		if again := b.announced(); len(again) != 1 || again[0] != got[0] {
			t.Errorf("announced %q", again)
		}
	})
}

func TestRuleFollowsAnAttackThatChanges(t *testing.T) {
	run(t, func(b *bench) {
		b.peace()
		b.report(traffic.Trigger, 33*time.Millisecond, 25_000)
		b.attack(5*time.Second, 1400)
		first := b.announced()
		b.sees(25*time.Second, 700, 25_000)
		got := b.announced()
		if len(got) != 1 || got[0] == first[0] {
			t.Fatalf("announced %q, and %q before the attack changed", got, first)
		}
		if !strings.Contains(b.kinds(), "mitigation_changed") {
			t.Errorf("events: %s", b.kinds())
		}
	})
}

// What a narrow rule lets pass is the target's own traffic, and no attack that slips past it: a rule that gave way to it
// would cut the target off again.
func TestRuleDoesNotFollowWhatItSpares(t *testing.T) {
	run(t, func(b *bench) {
		b.peace()
		b.report(traffic.Trigger, 33*time.Millisecond, 25_000)
		b.attack(5*time.Second, 1400)
		narrow := b.announced()
		if len(narrow) != 1 || narrow[0] == dnsRule {
			t.Fatalf("announced %q", narrow)
		}
		b.sees(60*time.Second, 120, 2000)
		if got := b.announced(); len(got) != 1 || got[0] != narrow[0] {
			t.Errorf("announced %q, before its own traffic came through again %q", got, narrow)
		}
	})
}

func TestRuleStaysWhereNothingIsKnown(t *testing.T) {
	for name, prepare := range map[string]func(b *bench){
		"no normal profile": func(*bench) {},
		"frozen": func(b *bench) {
			b.peace()
			b.report(traffic.Trigger, 33*time.Millisecond, 25_000)
			if _, err := b.SetFreeze(context.Background(), true, "anna", "test"); err != nil {
				b.t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			run(t, func(b *bench) {
				prepare(b)
				b.report(traffic.Trigger, 33*time.Millisecond, 25_000)
				b.attack(15*time.Second, 1400)
				if got := b.announced(); len(got) != 1 || got[0] != dnsRule {
					t.Errorf("announced %q", got)
				}
			})
		})
	}
}
