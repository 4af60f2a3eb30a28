package speaker

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/amooglesoft/trafficmonitor/internal/compile"
	"github.com/amooglesoft/trafficmonitor/internal/route"
	"github.com/amooglesoft/trafficmonitor/internal/route/routetest"
)

// mixedItems returns as many rules and blackholes of each family, in turn, so that their values mix.
func mixedItems(t *testing.T, of map[compile.Table]int) []*item {
	t.Helper()
	text := map[compile.Table]string{
		compile.IPv4FlowSpec: "destination 10.0.%d.%d/32 protocol udp then discard", compile.IPv6FlowSpec: "destination 2001:db8::%x:%x/128 protocol udp then discard",
		compile.IPv4Unicast: "destination 10.1.%d.%d/32 then blackhole", compile.IPv6Unicast: "destination 2001:db8:1::%x:%x/128 then blackhole",
	}
	var out []*item
	for i := range slices.Max([]int{of[compile.IPv4FlowSpec], of[compile.IPv6FlowSpec], of[compile.IPv4Unicast], of[compile.IPv6Unicast]}) {
		for _, table := range compile.Tables() {
			if i < of[table] {
				it := itemsOf(t, fmt.Sprintf(text[table], i/256, i%256))[0]
				e, err := encode(it.made, anyRouter())
				if err != nil {
					t.Fatal(err)
				}
				it.enc = &e
				out = append(out, it)
			}
		}
	}
	return out
}

// A router that resets on every route of some families, and of one or none on single ones: the families are held, in a
// number of sessions that does not hang on how many routes there are; everything else is there and stays.
func TestDoubtFindsTheFamilies(t *testing.T) {
	const v4, v6, u4, u6 = compile.IPv4FlowSpec, compile.IPv6FlowSpec, compile.IPv4Unicast, compile.IPv6Unicast
	for _, c := range []struct {
		of     map[compile.Table]int
		broken []compile.Table
		poison int // of all, this one as well; -1: none
		how    ending
		most   int // sessions, the last of which stays
	}{
		{map[compile.Table]int{v4: 20, v6: 20}, []compile.Table{v6}, -1, refused, 5},
		{map[compile.Table]int{v4: 20, v6: 20}, []compile.Table{v4}, -1, refused, 5},
		{map[compile.Table]int{v4: 20, v6: 20}, []compile.Table{v6}, -1, closed, 8},
		{map[compile.Table]int{v4: 3000, v6: 3000}, []compile.Table{v6}, -1, refused, 5},
		{map[compile.Table]int{v4: 1, v6: 3}, []compile.Table{v6}, -1, refused, 5},
		{map[compile.Table]int{v6: 100}, []compile.Table{v6}, -1, refused, 5},
		{map[compile.Table]int{v4: 50, v6: 50, u4: 50, u6: 50}, []compile.Table{v4, v6}, -1, refused, 9},
		{map[compile.Table]int{v4: 50, v6: 50, u4: 50, u6: 50}, []compile.Table{v4, v6}, -1, closed, 15},
		{map[compile.Table]int{v4: 50, v6: 50, u4: 50, u6: 50}, []compile.Table{u6}, 0, refused, 12}, // 0 is of v4 unicast
	} {
		t.Run(fmt.Sprintf("%v %v %d ending %d", c.of, c.broken, c.poison, c.how), func(t *testing.T) {
			items := mixedItems(t, c.of)
			s := simulated{t: t, now: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC), items: items, out: newOutbox(0, 0, newSuspicion(blameSpan, nil, nil))}
			byID := map[string]*item{}
			for _, it := range items {
				byID[it.id] = it
			}
			s.dies = func(took []string) (ending, bool) {
				it := byID[took[len(took)-1]]
				return c.how, slices.Contains(c.broken, it.enc.table) || c.poison >= 0 && it == items[c.poison]
			}
			if !s.run() {
				t.Fatalf("no session stays; held %v, quarantined %v", s.held, s.jailed)
			}
			slices.Sort(s.held)
			want := slices.Sorted(slices.Values(c.broken))
			if !slices.Equal(s.held, want) {
				t.Errorf("held %v, want %v", s.held, want)
			}
			if n := len(s.jailed); c.poison < 0 && n > 0 || c.poison >= 0 && (n != 1 || s.jailed[0] != items[c.poison].id) {
				t.Errorf("quarantined %v", s.jailed)
			}
			if s.sessions > c.most {
				t.Errorf("%d sessions, at most %d", s.sessions, c.most)
			}
			rest := 0
			for table, n := range c.of {
				if !slices.Contains(c.broken, table) {
					rest += n
				}
			}
			if rest -= len(s.jailed); len(s.out.held) != rest {
				t.Errorf("the router has %d, not %d", len(s.out.held), rest)
			}
			t.Logf("%d sessions", s.sessions)
		})
	}
}

// A family comes out when its time is over, or by an engineer's word; one route goes first. A router that was mended gets
// all of it, one that was not costs one more session each time, for longer.
func TestHeldFamilyEnds(t *testing.T) {
	items := mixedItems(t, map[compile.Table]int{compile.IPv4FlowSpec: 30, compile.IPv6FlowSpec: 30})
	s := simulated{t: t, now: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC), items: items, out: newOutbox(0, 0, newSuspicion(blameSpan, nil, nil))}
	six := map[string]bool{}
	for _, it := range items {
		six[it.id] = it.enc.table == compile.IPv6FlowSpec
	}
	broken := true
	var took6 []int // of each session
	s.dies = func(took []string) (ending, bool) {
		n := 0
		for _, id := range took {
			if six[id] {
				n++
			}
		}
		took6 = append(took6, n)
		return refused, broken && six[took[len(took)-1]]
	}
	if !s.run() || len(s.held) != 1 {
		t.Fatalf("held %v", s.held)
	}
	blame := s.out.blame
	want := quarantineFirst
	for i := range 6 {
		r := blame.doubt.held(compile.IPv6FlowSpec)
		if r == nil || r.Times != i+1 || r.Until.Sub(r.Since) != want || !strings.Contains(r.heldReason("edge1"), "tmctl release-quarantine edge1 ipv6-flowspec") {
			t.Fatalf("round %d: %+v, want %s", i, r, want)
		}
		if got, wait := blame.release(r.Until.Add(-time.Second)); len(got) > 0 || wait != time.Second {
			t.Fatalf("round %d: released %v too early, %s", i, got, wait)
		}
		if again := newSuspicion(blameSpan, nil, blame.doubt.records); again.doubt.held(compile.IPv6FlowSpec) == nil {
			t.Error("a speaker that starts anew does not know it")
		}
		want = min(4*want, quarantineMost)
		s.now = r.Until
		if got, _ := blame.release(s.now); !slices.Equal(got, []string{"ipv6-flowspec"}) {
			t.Fatalf("round %d: released %v", i, got)
		}
		s.out.end()
		took6 = nil
		begin := s.sessions
		if i == 5 {
			break
		}
		if !s.run() || s.sessions-begin != 2 || slices.Max(took6) != 1 {
			t.Fatalf("round %d: %d sessions, of IPv6 it got %v", i, s.sessions-begin, took6)
		}
	}
	broken = false
	begin := s.sessions
	if !s.run() || s.sessions != begin+1 || len(s.out.held) != 60 {
		t.Fatalf("mended it got %d, %d sessions", len(s.out.held), s.sessions-begin)
	}
	if len(blame.doubt.records)+len(blame.doubt.tables) > 0 || blame.careful {
		t.Errorf("not cleared: %+v", blame.doubt)
	}

	blame.doubt.strikes[compile.IPv4FlowSpec] = &strikes{routes: map[string]bool{}, points: strikesEnough - 1}
	delete(blame.doubt.taken, compile.IPv4FlowSpec) // as after a restart
	if !blame.doubt.strike(s.now, refused, "", items[0]) {
		t.Fatal("not held")
	}
	if got := blame.pardon("ipv6-flowspec"); len(got) > 0 {
		t.Errorf("pardoned %v", got)
	}
	if got := blame.pardon("ipv4-flowspec"); !slices.Equal(got, []string{"ipv4-flowspec"}) || blame.doubt.held(compile.IPv4FlowSpec) != nil || !blame.careful {
		t.Errorf("pardoned %v", got)
	}
}

// Resets upon single rules, months apart, hold no family of which rules lived between.
func TestStrikesEndWithASurvivor(t *testing.T) {
	items := mixedItems(t, map[compile.Table]int{compile.IPv4FlowSpec: 10, compile.IPv6FlowSpec: 10})
	var four, six []*item
	for _, it := range items {
		if it.enc.table == compile.IPv6FlowSpec {
			six = append(six, it)
		} else {
			four = append(four, it)
		}
	}
	for _, lives := range []bool{false, true} {
		o := newOutbox(0, 0, newSuspicion(blameSpan, nil, nil))
		now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
		send := func(order ...*item) {
			o.set(now, order)
			for range 100 {
				if it, wait, ok := o.nextAdd(now); ok {
					o.added(now, it, nil)
					o.write(now, it)
				} else if !o.justComplete(now, time.Minute) {
					now = now.Add(max(wait, time.Millisecond))
				}
			}
		}
		held := 0
		for i := range 6 {
			o.begin(now, nil, true)
			send(four...)
			now = now.Add(time.Hour)
			if lives {
				send(append(slices.Clone(four), six[9])...)
				now = now.Add(time.Hour)
				send(four...) // and it is gone before the session ends
				for h := o.nextDrop(); h != nil; h = o.nextDrop() {
					o.dropped(now, h)
					o.write(now, h.item)
				}
				now = now.Add(24 * time.Hour)
			}
			send(append(slices.Clone(four), six[i])...)
			if v := o.blame.ended(now.Add(time.Millisecond), refused, "test", o.held); v.held != "" {
				held++
			}
			o.end()
			now = now.Add(time.Hour)
		}
		if want := map[bool]int{false: 2, true: 0}[lives]; held != want {
			t.Errorf("rules live between: %t, held %d times, want %d", lives, held, want)
		}
	}
}

// Whatever families and routes a router dies of, and however: it comes to rest, has all it takes, and a family is held only
// if it takes nothing of it.
func TestDoubtProperty(t *testing.T) {
	for seed := range uint64(60) {
		rnd := rand.New(rand.NewPCG(seed, 9))
		of := map[compile.Table]int{}
		broken := map[compile.Table]bool{}
		for _, table := range compile.Tables() {
			of[table] = rnd.IntN(30)
			broken[table] = rnd.IntN(3) == 0
		}
		items := mixedItems(t, of)
		if len(items) == 0 {
			continue
		}
		how := []ending{refused, closed}[rnd.IntN(2)]
		bad := map[string]bool{}
		left := map[compile.Table]int{}
		for _, it := range items {
			if bad[it.id] = broken[it.enc.table] || rnd.IntN(40) == 0; !bad[it.id] {
				left[it.enc.table]++
			}
		}
		s := simulated{t: t, now: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC), items: items, out: newOutbox(0, 0, newSuspicion(blameSpan, nil, nil))}
		s.dies = func(took []string) (ending, bool) { return how, bad[took[len(took)-1]] }
		stable := s.run()
		if !stable {
			t.Fatalf("seed %d: no session of %d stays: %v broken, held %v, %d quarantined", seed, s.sessions, broken, s.held, len(s.jailed))
		}
		good := 0
		for _, n := range left {
			good += n
		}
		if len(s.out.held) != good {
			t.Fatalf("seed %d: the router has %d, not %d", seed, len(s.out.held), good)
		}
		for _, table := range s.held {
			if left[table] > 0 {
				t.Fatalf("seed %d: %s is held, and the router takes %d routes of it", seed, table, left[table])
			}
		}
	}
}

// shaped returns the rules, encoded, in this order of value.
func shaped(t *testing.T, texts ...string) []*item {
	t.Helper()
	out := itemsOf(t, texts...)
	for i, it := range out {
		e, err := encode(it.made, anyRouter())
		if err != nil {
			t.Fatal(err)
		}
		out[i].enc = &e
	}
	return out
}

// formed returns n texts of rules of one form, of which a verb is the number.
func formed(form string, from, n int) (out []string) {
	for i := range n {
		out = append(out, fmt.Sprintf(form, from+i))
	}
	return out
}

const (
	plainForm = "destination 10.0.0.%d/32 protocol udp then discard"
	poisonous = "destination 10.0.0.%d/32 protocol tcp tcp-flags syn fragment is-fragment then discard"
)

// A router that resets on rules of one shape, which stand first in order of value: the family is never held, and all other
// rules are there in the end.
func TestAShapeHoldsNoFamily(t *testing.T) {
	for seed := range uint64(60) {
		rnd := rand.New(rand.NewPCG(seed, 11))
		poison, plain, other := 1+rnd.IntN(6), 1+rnd.IntN(60), rnd.IntN(20)
		texts := slices.Concat(formed(poisonous, 0, poison), formed(plainForm, 50, plain), formed("destination 10.0.0.%d/32 protocol udp then rate-limit 1Mbps", 150, other),
			formed("destination 2001:db8::%x/128 protocol udp then discard", 0, rnd.IntN(30)))
		rnd.Shuffle(len(texts)-poison, func(i, j int) { texts[poison+i], texts[poison+j] = texts[poison+j], texts[poison+i] })
		items := shaped(t, texts...)
		bad := map[string]bool{}
		for _, it := range items[:poison] {
			bad[it.id] = true
		}
		how := []ending{refused, closed}[seed%2]
		s := simulated{t: t, now: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC), items: items, out: newOutbox(0, 0, newSuspicion(blameSpan, nil, nil))}
		s.dies = func(took []string) (ending, bool) { return how, bad[took[len(took)-1]] }
		if !s.run() {
			t.Fatalf("seed %d: no session of %d stays", seed, s.sessions)
		}
		if len(s.held) > 0 {
			t.Fatalf("seed %d: held %v, and the router takes %d of %d", seed, s.held, len(items)-poison, len(items))
		}
		if len(s.out.held) != len(items)-poison || len(s.jailed) != poison {
			t.Fatalf("seed %d: the router has %d of %d, %d of %d quarantined", seed, len(s.out.held), len(items)-poison, len(s.jailed), poison)
		}
		if most := map[ending]int{refused: 3, closed: 5}[how] * (poison + 1); s.sessions > most {
			t.Errorf("seed %d: %d sessions for %d poisons, at most %d", seed, s.sessions, poison, most)
		}
	}
}

// A family of which a rule once lived is not doubted by a poison that comes later, in the next session all others go out at
// once, and neither a release nor an engineer's word makes it doubtful.
func TestATakenFamilyIsNotDoubted(t *testing.T) {
	items := shaped(t, slices.Concat(formed(poisonous, 0, 4), formed(plainForm, 50, 40))...)
	poison, rest := items[:4], items[4:]
	bad := map[string]bool{}
	for _, it := range poison {
		bad[it.id] = true
	}
	s := simulated{t: t, now: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC), items: rest, out: newOutbox(0, 0, newSuspicion(blameSpan, nil, nil))}
	s.dies = func(took []string) (ending, bool) { return refused, bad[took[len(took)-1]] }
	if !s.session() {
		t.Fatal("the session does not stay")
	}
	blame := s.out.blame
	for i, it := range poison {
		// It comes in the middle of a long session.
		s.now = s.now.Add(time.Hour)
		order := append(slices.Clone(poison[i:i+1]), rest...)
		s.out.set(s.now, order)
		got, _, ok := s.out.nextAdd(s.now)
		if !ok || got != it {
			t.Fatalf("%d: the poison did not go out", i)
		}
		s.out.added(s.now, it, nil)
		s.out.write(s.now, it)
		s.now = s.now.Add(time.Millisecond)
		if v := blame.ended(s.now, refused, "test", s.out.held); v.held != "" {
			t.Fatalf("%d: held %s", i, v.held)
		}
		s.out.end()
		if len(blame.doubt.tables)+len(blame.doubt.strikes) > 0 {
			t.Fatalf("%d: doubted %v", i, blame.doubt.tables)
		}
		s.now = s.now.Add(time.Second)
		s.out.begin(s.now, nil, true)
		s.out.set(s.now, order)
		if len(s.out.add) != len(rest) || len(s.out.last) != 1 || s.out.last[0] != it {
			t.Fatalf("%d: %d rules go at once, %d last", i, len(s.out.add), len(s.out.last))
		}
		s.out.end()
		s.items = order
		if !s.run() || len(s.jailed) != i+1 {
			t.Fatalf("%d: %d quarantined", i, len(s.jailed))
		}
	}
	if len(s.held) > 0 {
		t.Errorf("held %v", s.held)
	}
	blame.pardon("")
	if !blame.doubt.taken[compile.IPv4FlowSpec] || len(blame.doubt.tables) > 0 {
		t.Error("an engineer's word made the family doubtful")
	}
}

// The routes that go alone differ in shape as long as there are others, and after a release one that was not struck is
// first, also at a speaker that started anew in between.
func TestAnotherShapeGoesAlone(t *testing.T) {
	const six = "destination 2001:db8::%x/128 protocol "
	items := shaped(t, slices.Concat(formed(six+"tcp tcp-flags syn then discard", 0, 9), formed(six+"udp then discard", 16, 9), formed(six+"udp fragment is-fragment then discard", 32, 9))...)
	byID := map[string]*item{}
	for _, it := range items {
		byID[it.id] = it
	}
	s := simulated{t: t, now: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC), items: items, out: newOutbox(0, 0, newSuspicion(blameSpan, nil, nil))}
	var struck []*item
	s.dies = func(took []string) (ending, bool) {
		struck = append(struck, byID[took[len(took)-1]])
		return refused, true
	}
	if !s.run() || len(s.held) != 1 {
		t.Fatalf("held %v", s.held)
	}
	alone := map[shape]bool{}
	for _, it := range struck {
		alone[shapeOf(it.Route)] = true
	}
	if len(alone) != 3 || len(struck) != 3 {
		t.Errorf("%d sessions, %d shapes alone", len(struck), len(alone))
	}

	s.out.blame.doubt.records[compile.IPv6FlowSpec].Shapes = []shape{shapeOf(items[9].Route), shapeOf(items[0].Route)}
	data, err := json.Marshal(s.out.blame.doubt.records)
	if err != nil {
		t.Fatal(err)
	}
	for _, word := range []bool{false, true} { // whether an engineer lets it go
		var records map[compile.Table]*Quarantine
		if err := json.Unmarshal(data, &records); err != nil {
			t.Fatal(err)
		}
		s.out.end()
		s.out.blame = newSuspicion(blameSpan, nil, records)
		if s.now = s.now.Add(quarantineFirst); word {
			s.out.blame.pardon("ipv6-flowspec")
		} else {
			s.out.blame.release(s.now)
		}
		struck = nil
		if s.session() || len(struck) != 1 || shapeOf(struck[0].Route) != shapeOf(items[18].Route) {
			t.Errorf("by word %t: %d went, not one of the third shape", word, len(struck))
		}
		if s.out.blame.doubt.held(compile.IPv6FlowSpec) == nil {
			t.Error("not held again")
		}
	}

	// One shape alone holds no family that has others to offer.
	d := newDoubt(nil)
	d.order = items
	for i := range 9 {
		if d.strike(s.now, refused, "", items[i]) {
			t.Fatal("held for one shape of three")
		}
	}
	d.order = items[:9]
	if d.tables[compile.IPv6FlowSpec] = true; !d.strike(s.now, refused, "", shaped(t, fmt.Sprintf(six+"tcp tcp-flags ack then discard", 99))[0]) {
		t.Error("not held where the set has one shape")
	}
}

// A single route in quarantine ends the doubt its reset raised.
func TestJailEndsDoubt(t *testing.T) {
	items := shaped(t, formed(plainForm, 0, 2)...)
	s := newSuspicion(blameSpan, nil, nil)
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	jailed := ""
	for range 2 {
		jailed = s.ended(now, refused, "test", sentAt(now.Add(-time.Millisecond), items[:1])).jailed
		now = now.Add(time.Minute)
	}
	if jailed != items[0].id || len(s.doubt.tables) > 0 || s.careful {
		t.Errorf("quarantined %q, doubted %v", jailed, s.doubt.tables)
	}
}

// A shape tells every component, and what an action does, from each other.
func TestShapes(t *testing.T) {
	seen := map[shape]string{shapeOf(route.Route{}): "nothing"}
	note := func(what string, r route.Route) {
		if was, ok := seen[shapeOf(r)]; ok {
			t.Errorf("%s is of the same shape as %s", what, was)
		}
		seen[shapeOf(r)] = what
	}
	routetest.Components(t, func(field string, m route.Match) { note(field, route.Route{Match: m}) })
	for what, a := range map[string]route.Action{
		"discard": {Kind: route.Discard}, "rate": {Kind: route.RateBytes}, "sample": {Sample: true}, "continue": {Continue: true}, "mark": {Mark: route.Some(0)},
		"target": {Redirect: route.Redirect{Target: route.RouteTarget{Form: 1}}}, "address": {Redirect: route.Redirect{Address: netip.IPv4Unspecified()}},
		"copy": {Redirect: route.Redirect{Address: netip.IPv4Unspecified(), Copy: true}},
	} {
		note(what, route.Route{Action: a})
	}
	a, b := shaped(t, "destination 10.0.0.1/32 protocol udp then discard")[0], shaped(t, "destination 10.9.0.0/16 protocol tcp then discard")[0]
	if shapeOf(a.Route) != shapeOf(b.Route) {
		t.Error("values are no shape")
	}
}

// A router that resets on every IPv6 rule: its IPv4 rules are all there and stay, it resets a few times only, it is told,
// and when it is mended it gets everything.
func TestARouterThatTakesNoneOfAFamily(t *testing.T) {
	t.Parallel()
	bad, good := newFakeRouter(t), newFakeRouter(t).serve()
	bad.refuses = compile.IPv6FlowSpec
	bad.serve()
	o := testOptions(t, bad.peer("bad"), good.peer("good"))
	o.blameSpan = 800 * time.Millisecond // a slow machine must not take longer than that for one route
	s := start(t, o)
	texts, _ := rules(20)
	for i := range 20 {
		texts = append(texts, fmt.Sprintf("destination 2001:db8::%x/128 protocol udp then discard", i+1))
	}
	s.set(1, 1, desired(t, texts...))
	waitFor(t, "the family to be held", func() bool { return len(s.status().Peers[0].Held) == 1 })
	// A hold is an event of its own, and no route was put into quarantine.
	waitFor(t, "the hold to be counted", func() bool {
		return testutil.GatherAndCompare(s.reg, strings.NewReader(`
# HELP trafficmonitor_speaker_family_holds_total Times a whole family was kept from the peer because it reset the session upon one route of it after the other.
# TYPE trafficmonitor_speaker_family_holds_total counter
trafficmonitor_speaker_family_holds_total{family="ipv4-flowspec",peer="bad"} 0
trafficmonitor_speaker_family_holds_total{family="ipv4-unicast",peer="bad"} 0
trafficmonitor_speaker_family_holds_total{family="ipv6-flowspec",peer="bad"} 1
trafficmonitor_speaker_family_holds_total{family="ipv6-unicast",peer="bad"} 0
trafficmonitor_speaker_family_holds_total{family="ipv4-flowspec",peer="good"} 0
trafficmonitor_speaker_family_holds_total{family="ipv4-unicast",peer="good"} 0
trafficmonitor_speaker_family_holds_total{family="ipv6-flowspec",peer="good"} 0
trafficmonitor_speaker_family_holds_total{family="ipv6-unicast",peer="good"} 0
# HELP trafficmonitor_speaker_quarantines_total Times a route was put into quarantine because the peer reset the session upon it.
# TYPE trafficmonitor_speaker_quarantines_total counter
trafficmonitor_speaker_quarantines_total{peer="bad"} 0
trafficmonitor_speaker_quarantines_total{peer="good"} 0
`), "trafficmonitor_speaker_family_holds_total", "trafficmonitor_speaker_quarantines_total") == nil
	})
	waitFor(t, "the IPv4 rules", func() bool { return bad.count() == 20 && s.status().Peers[0].Routes[Sent] == 20 })
	n := bad.sessions()
	if n > 5 {
		t.Errorf("%d sessions", n)
	}
	st := s.status()
	h := st.Peers[0].Held[0]
	for _, want := range []string{"all ipv6-flowspec routes are kept", "the 1st time", "NOTIFICATION 3/9", "leave the family out", "tmctl release-quarantine bad ipv6-flowspec"} {
		if !strings.Contains(h.Reason, want) {
			t.Errorf("%q does not say %q", h.Reason, want)
		}
	}
	if h.Table != compile.IPv6FlowSpec || time.Until(h.Until) < quarantineFirst/2 || st.Peers[0].Routes[Quarantined] != 20 || st.Peers[0].State != Established {
		t.Errorf("%+v, %+v", h, st.Peers[0])
	}
	for _, r := range st.Routes {
		if p := r.Peers[0]; compile.TableOf(r.Route) == compile.IPv6FlowSpec && (p.State != Quarantined || p.Reason != h.Reason) {
			t.Errorf("%s: %+v", r.Route, p)
		}
	}
	waitFor(t, "all at the other router", func() bool { return good.count() == 40 })
	if len(st.Peers[1].Held) > 0 || good.sessions() != 1 {
		t.Errorf("the other router: %+v", st.Peers[1])
	}
	// New rules of the family stay away as well, others reach it on the same session.
	texts = append(texts, blackhole4, "destination 2001:db8::99/128 protocol udp then discard")
	s.set(1, 2, desired(t, texts...))
	waitFor(t, "the blackhole", func() bool { return bad.count() == 21 })
	if got := bad.sessions(); got != n {
		t.Errorf("%d more sessions", got-n)
	}

	// Mended; a speaker that starts anew knows of it until somebody says so.
	bad.get(func() { bad.refuses = "" })
	waitFor(t, "the file", func() bool {
		q, err := os.ReadFile(o.Journal + ".quarantine")
		return err == nil && strings.Contains(string(q), `"family":"ipv6-flowspec"`)
	})
	s.stop()
	s = start(t, o)
	waitFor(t, "the IPv4 rules and the blackhole", func() bool { return s.status().Peers[0].Routes[Sent] == 21 })
	if q := s.status().Peers[0]; q.Routes[Quarantined] != 21 || len(q.Held) != 1 {
		t.Errorf("after a restart: %+v", q)
	}
	got, err := s.client.ReleaseQuarantine(t.Context(), "bad", "ipv6-flowspec", "ann", "upgraded")
	if err != nil || !slices.Equal(got, []string{"ipv6-flowspec"}) {
		t.Errorf("released %v, %v", got, err)
	}
	waitFor(t, "everything", func() bool { return bad.count() == 42 && s.status().Peers[0].Routes[Sent] == 42 })
	if got := bad.sessions(); got != n+1 || len(s.status().Peers[0].Held) > 0 {
		t.Errorf("%d sessions more", got-n)
	}
}
