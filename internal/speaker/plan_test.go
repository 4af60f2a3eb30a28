package speaker

import (
	"fmt"
	"math/rand/v2"
	"reflect"
	"testing"
	"time"

	"github.com/amooglesoft/trafficmonitor/internal/route"
)

func planItem(t testing.TB, n int, action string, deadline time.Time) *item {
	return newItem(Desired{Route: parse(t, fmt.Sprintf("destination 192.0.2.%d/32 protocol udp then %s", n, action)), Deadline: deadline})
}

func TestPlan(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	later, past := now.Add(time.Minute), now.Add(-time.Nanosecond)
	have := map[string]*item{}
	for _, it := range []*item{planItem(t, 1, "discard", later), planItem(t, 2, "discard", later), planItem(t, 3, "discard", now), planItem(t, 4, "discard", later)} {
		have[it.id] = it
	}
	want := []*item{
		planItem(t, 1, "discard", later.Add(time.Hour)), // extended: nothing to send
		planItem(t, 2, "rate-limit 8Mbps", later),       // another action: sent again
		planItem(t, 3, "discard", now),                  // its deadline is now: gone
		planItem(t, 5, "discard", past),                 // past before it came: never sent
		planItem(t, 6, "discard", later),                // new
	}
	p := makePlan(have, want, now)
	if got := ids(p.announce); got != "[2 6]" {
		t.Errorf("announce %s", got)
	}
	if got := ids(p.withdraw); got != "[3 4]" {
		t.Errorf("withdraw %s", got)
	}
	if got := ids(p.expired); got != "[3]" {
		t.Errorf("expired %s", got)
	}
	if got := ids(p.set); got != "[1 2 6]" {
		t.Errorf("set %s", got)
	}
	if !p.next.Equal(later) {
		t.Errorf("next deadline %s", p.next)
	}
}

func ids(items []*item) string {
	out := []byte{}
	for _, it := range items {
		out = append(out, fmt.Sprintf("%d ", it.Route.Match.Destination.Addr().As4()[3])...)
	}
	if len(out) > 0 {
		out = out[:len(out)-1]
	}
	return "[" + string(out) + "]"
}

// A router that is told every plan holds, at any time, exactly the wanted routes that are due, each with its action; it
// is told nothing twice, and after the last deadline it holds nothing.
func TestPlanProperty(t *testing.T) {
	actions := []string{"discard", "rate-limit 8Mbps", "rate-limit 1kpps"}
	for seed := range uint64(200) {
		rnd := rand.New(rand.NewPCG(seed, 7))
		now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
		have := map[string]*item{}    // what the planner is told it announced
		router := map[string]string{} // what a router holds: ID -> action
		due := map[string]time.Time{} // what is wanted
		action := map[string]string{} // ...
		var want []*item
		for range 60 {
			now = now.Add(time.Duration(rnd.IntN(20)) * time.Second)
			if rnd.IntN(3) > 0 { // a new set
				want = nil
				clear(due)
				clear(action)
				for n := range 12 {
					if rnd.IntN(2) == 0 {
						continue
					}
					it := planItem(t, n, actions[rnd.IntN(3)], now.Add(time.Duration(rnd.IntN(60)-5)*time.Second))
					want = append(want, it)
					due[it.id], action[it.id] = it.Deadline, it.Route.Action.String()
				}
			}
			p := makePlan(have, want, now)
			for _, it := range p.withdraw {
				if _, ok := router[it.id]; !ok {
					t.Fatalf("seed %d: withdraws %s, which is not announced", seed, it.id)
				}
				delete(router, it.id)
			}
			for _, it := range p.announce {
				if router[it.id] == it.Route.Action.String() {
					t.Fatalf("seed %d: announces %s twice", seed, it.text)
				}
				router[it.id] = it.Route.Action.String()
			}
			have = map[string]*item{}
			for _, it := range p.set {
				have[it.id] = it
			}
			n := 0
			for id, d := range due {
				if !d.After(now) {
					continue
				}
				n++
				if router[id] != action[id] {
					t.Fatalf("seed %d: router has %q for %s, want %q", seed, router[id], id, action[id])
				}
				if p.next.IsZero() || p.next.After(d) {
					t.Fatalf("seed %d: next deadline %s is after %s", seed, p.next, d)
				}
			}
			if n != len(router) {
				t.Fatalf("seed %d: router has %d routes, %d are due", seed, len(router), n)
			}
		}
		if p := makePlan(have, want, now.Add(time.Hour)); len(p.set) != 0 || len(p.withdraw) != len(router) || !p.next.IsZero() {
			t.Fatalf("seed %d: after the last deadline %+v", seed, p)
		}
	}
}

// An item that is taken over from the set before says all that the new set says.
func TestItemSame(t *testing.T) {
	base := Desired{Route: parse(t, "destination 192.0.2.1/32 then discard"), Deadline: time.Unix(100, 0), Created: time.Unix(50, 0)}
	it := newItem(base)
	if !it.same(base) {
		t.Error("not the same as itself")
	}
	for f := range reflect.TypeFor[Desired]().Fields() {
		d := base
		switch v := reflect.ValueOf(&d).Elem().FieldByIndex(f.Index); v.Interface().(type) {
		case route.Route:
			continue // same is asked about items of one route
		case time.Time:
			v.Set(reflect.ValueOf(time.Unix(7, 0)))
		case []string:
			v.Set(reflect.ValueOf([]string{"other"}))
		case bool:
			v.SetBool(true)
		default:
			t.Fatalf("%s has a type this test does not know", f.Name)
		}
		if it.same(d) {
			t.Errorf("another %s passes for the same", f.Name)
		}
		if c := it.with(d); !c.same(d) || c.text != it.text || !it.same(base) {
			t.Errorf("with another %s: %+v", f.Name, c)
		}
	}
}

func TestStale(t *testing.T) {
	for _, c := range []struct {
		at, ar, term, rev uint64
		want              bool
	}{{0, 0, 0, 0, false}, {3, 10, 3, 10, false}, {3, 10, 3, 9, true}, {3, 10, 2, 11, true}, {3, 10, 4, 1, false}} {
		if got := stale(c.at, c.ar, c.term, c.rev); got != c.want {
			t.Errorf("%+v: %v", c, got)
		}
	}
}
