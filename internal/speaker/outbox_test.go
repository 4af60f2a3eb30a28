package speaker

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/amooglesoft/trafficmonitor/internal/compile"
	"github.com/amooglesoft/trafficmonitor/internal/route"
)

var outboxNow = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func upOutbox(maxRules, rate int) *outbox {
	o := newOutbox(maxRules, rate, newSuspicion(blameSpan, nil, nil))
	o.begin(outboxNow, compile.Tables(), true)
	return o
}

func (o *outbox) write(now time.Time, it *item) {
	o.wrote(now, routeKey(it.enc.table, it.enc.nlri))
}

// An engineer's route and what is new go before a backlog that is announced again, most valuable first.
func TestOutboxOrder(t *testing.T) {
	items := encodedItems(t, 6)
	o := newOutbox(0, 0, newSuspicion(blameSpan, nil, nil))
	o.set(outboxNow, items[:4])
	o.begin(outboxNow, compile.Tables(), true)
	o.set(outboxNow, items[:4])
	take := func() string {
		it, _, ok := o.nextAdd(outboxNow)
		if !ok {
			return ""
		}
		o.added(outboxNow, it, nil)
		return it.text
	}
	if got := take(); got != items[0].text {
		t.Errorf("first %q", got)
	}
	d := items[5].Desired
	d.Manual = true
	manual := items[5].with(d)
	o.set(outboxNow.Add(time.Second), slices.Concat([]*item{manual}, items[:5])) // items[4] is new, and worth least
	for i, want := range []*item{manual, items[4], items[1], items[2], items[3]} {
		if got := take(); got != want.text {
			t.Errorf("%d: %q, want %q", i, got, want.text)
		}
	}
	if got := take(); got != "" {
		t.Errorf("then %q", got)
	}
}

// The pace holds over any second, and withdrawals do not wait for it.
func TestOutboxPace(t *testing.T) {
	items := encodedItems(t, 500)
	o := upOutbox(0, 100)
	o.set(outboxNow, items)
	var sent []time.Time
	now := outboxNow
	for len(sent) < len(items) {
		it, wait, ok := o.nextAdd(now)
		if !ok {
			if wait <= 0 {
				t.Fatal("nothing to do and nothing to wait for")
			}
			now = now.Add(wait)
			if len(sent) == 250 {
				now = now.Add(3 * time.Second) // a machine that stood still does not make up for it
			}
			continue
		}
		o.added(now, it, nil)
		o.write(now, it)
		sent = append(sent, now)
	}
	for i := range sent {
		if j := i + 103; j < len(sent) && sent[j].Sub(sent[i]) < time.Second {
			t.Fatalf("104 rules in %s", sent[j].Sub(sent[i]))
		}
	}
	if took := now.Sub(outboxNow); took < 7900*time.Millisecond || took > 8100*time.Millisecond {
		t.Errorf("500 rules at 100 a second, with a pause of 3 s, took %s", took)
	}
	o.set(now, nil)
	for i := range items {
		if h := o.nextDrop(); h == nil {
			t.Fatalf("withdrawal %d waits", i)
		} else {
			o.dropped(now, h)
			o.write(now, h.item)
		}
	}
}

// Where there is no room, what goes leaves before what comes is sent; a withdrawal that fails stops neither other
// withdrawals nor additions that have room, and is tried again.
func TestOutboxRoomAndFailure(t *testing.T) {
	items := encodedItems(t, 20)
	o := upOutbox(10, 0)
	fill := func(now time.Time) {
		for {
			it, _, ok := o.nextAdd(now)
			if !ok {
				return
			}
			o.added(now, it, nil)
			o.write(now, it)
			if len(o.held) > 10 {
				t.Fatalf("the router holds %d rules", len(o.held))
			}
		}
	}
	o.set(outboxNow, items[:10])
	fill(outboxNow)
	o.set(outboxNow, items[10:])
	if it, _, ok := o.nextAdd(outboxNow); ok {
		t.Fatalf("%s is sent where there is no room", it.text)
	}
	for range 9 {
		h := o.nextDrop()
		o.dropped(outboxNow, h)
		o.write(outboxNow, h.item)
	}
	fill(outboxNow)
	if len(o.held) != 10 || o.held[items[19].id] != nil {
		t.Errorf("holds %d", len(o.held))
	}
	o.dropped(outboxNow, o.nextDrop())
	fill(outboxNow)
	if len(o.held) != 10 || o.held[items[19].id] == nil {
		t.Errorf("holds %d", len(o.held))
	}

	// The same for an announcement.
	o = upOutbox(0, 0)
	o.set(outboxNow, items)
	it, _, _ := o.nextAdd(outboxNow)
	o.added(outboxNow, it, errors.New("broken"))
	fill2 := 0
	for {
		it, _, ok := o.nextAdd(outboxNow)
		if !ok {
			break
		}
		o.added(outboxNow, it, nil)
		fill2++
	}
	if wait := o.tick(outboxNow); wait != retryAfter {
		t.Errorf("tried again after %s", wait)
	}
	o.tick(outboxNow.Add(retryAfter))
	again, _, ok := o.nextAdd(outboxNow.Add(retryAfter))
	if fill2 != 19 || !ok || again.id != it.id {
		t.Errorf("%d others, then %q", fill2, again.text)
	}
}

// A route that could not be sent, and was not wanted meanwhile, is tried at once when it is wanted again.
func TestOutboxForgetsFailures(t *testing.T) {
	items := encodedItems(t, 2)
	o := upOutbox(0, 0)
	o.set(outboxNow, items)
	it, _, _ := o.nextAdd(outboxNow)
	o.added(outboxNow, it, errors.New("broken"))
	o.set(outboxNow, nil)
	o.set(outboxNow, []*item{it})
	if again, _, ok := o.nextAdd(outboxNow); !ok || again != it {
		t.Errorf("%v, %v", again, ok)
	}
}

// No more than a window is under way, and it goes on when some of it was written.
func TestOutboxWindow(t *testing.T) {
	items := encodedItems(t, sendWindow+1)
	o := upOutbox(0, 0)
	o.set(outboxNow, items)
	for range sendWindow {
		it, _, ok := o.nextAdd(outboxNow)
		if !ok {
			t.Fatal("the window is smaller")
		}
		o.added(outboxNow, it, nil)
	}
	if _, _, ok := o.nextAdd(outboxNow); ok {
		t.Fatal("more than a window is under way")
	}
	o.write(outboxNow, items[0])
	if _, _, ok := o.nextAdd(outboxNow); !ok {
		t.Error("it does not go on")
	}
}

// Whatever is wanted, whenever sessions come and go and routes cannot be sent: a router that gets every withdrawal and announcement
// in order never holds more than it has room for, and holds what is wanted, and nothing else, when things come to rest.
func TestOutboxProperty(t *testing.T) {
	items := encodedItems(t, 40)
	for i := range items {
		items[i].Manual = i%7 == 0
	}
	for seed := range uint64(150) {
		rnd := rand.New(rand.NewPCG(seed, 3))
		room := rnd.IntN(2) * (5 + rnd.IntN(20))
		o := newOutbox(room, rnd.IntN(2)*1000, newSuspicion(blameSpan, nil, nil))
		if room > 0 && rnd.IntN(2) == 0 { // said of tables instead
			o.maxRules, o.maxOf = 0, map[compile.Table]compile.Maximum{"": {Routes: room}}
		}
		now := outboxNow
		router := map[string]route.Action{} // what it holds, with graceful restart
		sent := map[string]bool{}           // in this session, to tell what is stale
		type flight struct {
			key     string
			deliver func()
		}
		var wire []flight // on its way, in order
		broken := func() error {
			if rnd.IntN(10) == 0 {
				return errors.New("broken")
			}
			return nil
		}
		var order []*item
		key := func(it *item) string { return routeKey(it.enc.table, it.enc.nlri) }
		direct := func(es []encoded) {
			for _, e := range es {
				k := routeKey(e.table, e.nlri)
				wire = append(wire, flight{k, func() { delete(router, k); delete(sent, k) }})
			}
		}
		step := func() {
			if h := o.nextDrop(); h != nil {
				o.dropped(now, h)
				wire = append(wire, flight{h.key, func() { delete(router, h.key); delete(sent, h.key) }})
			}
			if it, _, ok := o.nextAdd(now); ok {
				err := broken()
				o.added(now, it, err)
				if err == nil {
					wire = append(wire, flight{key(it), func() { router[key(it)], sent[key(it)] = it.Route.Action, true }})
				}
			}
			if len(wire) > 0 && rnd.IntN(3) > 0 {
				wire[0].deliver()
				o.wrote(now, wire[0].key)
				wire = wire[1:]
			}
			if len(o.held) > room && room > 0 {
				t.Fatalf("seed %d: %d handed over where there is room for %d", seed, len(o.held), room)
			}
			if o.justComplete(now, time.Minute) { // End-of-RIB: what was not refreshed goes
				for k := range router {
					if !sent[k] {
						delete(router, k)
					}
				}
			}
			o.tick(now)
			now = now.Add(time.Duration(rnd.IntN(2000)) * time.Microsecond)
		}
		for range 400 {
			switch n := rnd.IntN(100); {
			case n < 5:
				order = nil
				for _, it := range items {
					if rnd.IntN(2) == 0 && (room == 0 || len(order) < room) {
						if rnd.IntN(4) == 0 {
							d := it.Desired
							d.Route.Action = route.Action{Kind: route.RateBytes, Rate: 1e6}
							it = it.with(d)
						}
						order = append(order, it)
					}
				}
				direct(o.set(now, order))
			case n < 6 && o.up:
				writing := wire[:rnd.IntN(len(wire)+1)] // of which the router gets some, and nobody knows how many
				for _, f := range writing[:rnd.IntN(len(writing)+1)] {
					f.deliver()
				}
				var keys []string
				for _, f := range writing {
					keys = append(keys, f.key)
				}
				o.interrupted(now, keys)
				o.end()
				for k := range router {
					if _, known := o.stale[k]; !known {
						t.Fatalf("seed %d: the router may have kept what nobody knows of", seed)
					}
				}
				wire = nil
			case !o.up && n < 30:
				clear(sent)
				o.begin(now, compile.Tables(), true)
				direct(o.set(now, order))
			default:
				step()
			}
		}
		if !o.up {
			clear(sent)
			o.begin(now, compile.Tables(), true)
			direct(o.set(now, order))
		}
		for range 5000 {
			if step(); len(o.failed) > 0 {
				now = now.Add(time.Second)
			}
		}
		want := map[string]route.Action{}
		for _, it := range order {
			want[key(it)] = it.Route.Action
		}
		if fmt.Sprint(want) != fmt.Sprint(router) || len(wire) > 0 || o.flying != 0 {
			t.Fatalf("seed %d: the router holds %d, %d are wanted, %d under way, %d flying", seed, len(router), len(want), len(wire), o.flying)
		}
	}
}
