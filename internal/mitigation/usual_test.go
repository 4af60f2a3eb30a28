package mitigation

import (
	"math/rand/v2"
	"testing"
	"time"
)

// TestOwnTrafficIsNoEvidence: what a busy target receives anyway must not keep a rule up, and an attack beside it must.
// The limit is 1 Mbps.
func TestOwnTrafficIsNoEvidence(t *testing.T) {
	const kbps = 1e3
	for _, c := range []struct {
		name           string
		usual, sees    float64
		refined, until bool
	}{
		{"nothing is known, and the limit is half full", 0, 500 * kbps, false, true},
		{"nothing is known, and it is not", 0, 499 * kbps, false, false},
		{"only what is usual", 600 * kbps, 600 * kbps, false, false},
		{"a little more than usual", 600 * kbps, 650 * kbps, false, false},
		{"the limit is full", 600 * kbps, 1000 * kbps, false, true},
		{"what is usual fills the limit: nothing can be told", 5000 * kbps, 1000 * kbps, false, false},
		{"refined: what is usual passes beside the limit", 5000 * kbps, 5000 * kbps, true, false},
		{"refined: and varies", 5000 * kbps, 5400 * kbps, true, false},
		{"refined: and the attack fills the limit beside it", 5000 * kbps, 6000 * kbps, true, true},
	} {
		m := New(Records{})
		x, err := m.Respond(t0, plan(t))
		if err != nil {
			t.Fatal(err)
		}
		if c.refined {
			if _, _, ok := m.Refine(t0, x.ID, x.Routes[0], "test"); !ok {
				t.Fatal("not refined")
			}
		}
		m.Observe(sees(c.sees), Usual{BPS: c.usual})
		got := len(m.Tick(x.Deadline.Add(-time.Second), nil).Put) == 1
		if got != c.until {
			t.Errorf("%s: extended %v, want %v", c.name, got, c.until)
		}
	}
}

// TestFills: more traffic is never less evidence, more that is usual never more, and a full limit is evidence as long as
// what is usual leaves room in it.
func TestFills(t *testing.T) {
	r := rand.New(rand.NewPCG(7, 8))
	for range 100_000 {
		limit, usual, passes, refined := r.Float64()*1e6, r.Float64()*1e6, r.Float64()*3e6, r.IntN(2) == 0
		more := r.Float64() * 1e6
		if fills(passes, limit, usual, refined) && !fills(passes+more, limit, usual, refined) {
			t.Fatalf("%v of %v, %v usual, is evidence, and %v more is not", passes, limit, usual, more)
		}
		if !fills(passes, limit, usual, refined) && fills(passes, limit, usual+more, refined) {
			t.Fatalf("%v of %v is evidence beside %v, and not beside less", passes, limit, usual+more)
		}
		if !refined && usual < 0.8*limit && !fills(limit, limit, usual, refined) {
			t.Fatalf("a full limit of %v, %v usual, is no evidence", limit, usual)
		}
		if fills(usual, limit, usual, refined) {
			t.Fatalf("what is usual, %v, is evidence against a limit of %v", usual, limit)
		}
	}
}

// TestHeldUsualIsNoEvidence: the last word of a silent sensor counts with what is usual, too.
func TestHeldUsualIsNoEvidence(t *testing.T) {
	m := New(Records{})
	x, _ := m.Respond(t0, plan(t))
	o := sees(100e3)
	o.HeldBPS, o.Missing = 600e3, []string{"rack2"}
	m.Observe(o, Usual{BPS: 700e3})
	if c := m.Tick(x.Deadline.Add(-time.Second), nil); !c.Empty() {
		t.Errorf("extended by what is usual: %+v", c)
	}
}
