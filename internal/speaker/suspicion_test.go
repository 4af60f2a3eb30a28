package speaker

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/amooglesoft/trafficmonitor/internal/compile"
)

// rules returns n texts of rules, and their matches.
func rules(n int) (texts, matches []string) {
	for i := range n {
		m := fmt.Sprintf("destination 192.0.2.%d/32 protocol udp", i)
		texts, matches = append(texts, m+" then discard"), append(matches, m)
	}
	return texts, matches
}

// A router that resets the session upon one rule ends up with all others and a session that stays; the rule is told, with
// why and how it gets out, and other routers have it.
func TestQuarantine(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name   string
		refuse bool
	}{{"NOTIFICATION", true}, {"closes without a word", false}} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			texts, matches := rules(40)
			bad, good := newFakeRouter(t), newFakeRouter(t).serve()
			bad.poison = map[string]bool{matches[17]: c.refuse}
			bad.serve()
			o := testOptions(t, bad.peer("bad"), good.peer("good"))
			o.blameSpan = 500 * time.Millisecond // a slow machine must not take longer than that for a group
			s := start(t, o)
			if !c.refuse { // the others are at work for a while
				s.set(1, 1, desired(t, slices.Concat(texts[:17], texts[18:])...))
				waitFor(t, "the others", func() bool {
					r := s.status().Routes
					return len(r) == 39 && !slices.ContainsFunc(r, func(r RouteStatus) bool {
						return r.Peers[0].State != Sent || time.Since(r.Peers[0].Sent) < o.blameSpan
					})
				})
			}
			s.set(1, 2, desired(t, texts...))
			state := func(peer, route int) PeerRoute { return s.status().Routes[route].Peers[peer] }
			at := slices.IndexFunc(s.status().Routes, func(r RouteStatus) bool { return r.Route.String() == texts[17] })
			waitFor(t, "the quarantine", func() bool { return state(0, at).State == Quarantined })
			waitFor(t, "all others", func() bool { return s.status().Peers[0].Routes[Sent] == 39 && len(bad.routes()) == 39 })
			n := bad.sessions()
			why := state(0, at).Reason
			for _, want := range []string{"quarantined until", "the 1st time", "tmctl release-quarantine bad", map[bool]string{true: "NOTIFICATION 3/9", false: "without a NOTIFICATION"}[c.refuse]} {
				if !strings.Contains(why, want) {
					t.Errorf("reason %q does not say %q", why, want)
				}
			}
			if p := state(1, at); p.State != Sent || good.sessions() != 1 || len(good.routes()) != 40 {
				t.Errorf("the other router: %+v, %d sessions, %d routes", p, good.sessions(), len(good.routes()))
			}
			// New rules reach it on the same session, and the poison stays away though the set still holds it.
			s.set(1, 3, desired(t, append(texts, blackhole4)...))
			waitFor(t, "the new route", func() bool { return len(bad.routes()) == 40 })
			if got := bad.sessions(); got != n {
				t.Errorf("%d sessions after the quarantine", got-n)
			}
			if !c.refuse {
				return
			}
			if n > 6 {
				t.Errorf("%d sessions to find one of 40", n)
			}

			// A speaker that starts anew knows of it.
			waitFor(t, "the file", func() bool { _, err := os.Stat(o.Journal + ".quarantine"); return err == nil })
			s.stop()
			s = start(t, o)
			waitFor(t, "all others", func() bool { return s.status().Peers[0].Routes[Sent] == 40 })
			if q := s.status().Peers[0].Routes[Quarantined]; q != 1 || bad.sessions() != n+1 {
				t.Errorf("after a restart %d are in quarantine, %d sessions", q, bad.sessions()-n)
			}

			// An engineer who has mended the router lifts it.
			bad.get(func() { bad.poison = nil })
			if _, err := s.client.ReleaseQuarantine(t.Context(), "bad", "", "ann", ""); err == nil {
				t.Error("released without a reason")
			}
			if _, err := s.client.ReleaseQuarantine(t.Context(), "nobody", "", "ann", "mended"); err == nil || !strings.Contains(err.Error(), "nobody") {
				t.Errorf("of a router that is not there: %v", err)
			}
			got, err := s.client.ReleaseQuarantine(t.Context(), "bad", texts[17], "ann", "mended")
			if err != nil || !slices.Equal(got, texts[17:18]) {
				t.Errorf("released %v, %v", got, err)
			}
			waitFor(t, "every route", func() bool { return s.status().Peers[0].Routes[Sent] == 41 })
			if bad.sessions() != n+1 {
				t.Error("the session did not stay")
			}
		})
	}
}

// Sessions that end for other reasons, however often and however soon after a route, put nothing into quarantine.
func TestInnocentEnds(t *testing.T) {
	base := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	innocent := encodedItems(t, 20)
	for _, how := range []ending{silent, told} {
		s := newSuspicion(time.Second, nil, nil)
		for i := range 50 {
			now := base.Add(time.Duration(i) * time.Minute)
			if v := s.ended(now, how, "", sentAt(now.Add(-time.Millisecond), innocent)); v != (verdict{}) {
				t.Errorf("ending %d: %+v", how, v)
			}
		}
	}
	// A router that crashes again and again, long after the last route.
	s := newSuspicion(time.Second, nil, nil)
	for i := range 50 {
		now := base.Add(time.Duration(i) * time.Minute)
		if v := s.ended(now, closed, "", sentAt(now.Add(-5*time.Second), innocent)); v != (verdict{}) {
			t.Errorf("crash: %+v", v)
		}
	}
}

func sentAt(at time.Time, items []*item) map[string]*held {
	out := map[string]*held{}
	for _, it := range items {
		out[it.id] = &held{item: it, written: at}
	}
	return out
}

// simulated is a router, the path to it and the speaker's side in one loop over a clock of its own.
type simulated struct {
	t     *testing.T
	now   time.Time
	out   *outbox
	items []*item
	// dies says, of what a router has taken in this session, oldest first, whether it dies of it now, and how.
	dies     func(took []string) (ending, bool)
	doom     func() time.Duration // how long a session lives at most; may be nil
	sessions int
	jailed   []string
	held     []compile.Table
}

// run lets pass until the session lived for a minute with nothing left to send, or too many died.
func (s *simulated) run() (stable bool) {
	for range 60 {
		if s.session() {
			return true
		}
		s.now = s.now.Add(time.Second)
	}
	return false
}

func (s *simulated) session() (stable bool) {
	s.sessions++
	place := func() {
		var order []*item
		for _, it := range s.items {
			if s.out.blame.quarantined(it.id) == nil && s.out.blame.doubt.held(it.enc.table) == nil {
				order = append(order, it)
			}
		}
		s.out.set(s.now, order)
	}
	s.out.begin(s.now, nil, true)
	place()
	var took []string
	died := func(how ending) {
		s.now = s.now.Add(5 * time.Millisecond)
		v := s.out.blame.ended(s.now, how, "test", s.out.held)
		if v.jailed != "" {
			s.jailed = append(s.jailed, v.jailed)
		}
		if v.held != "" {
			s.held = append(s.held, v.held)
		}
		s.out.end()
	}
	life := time.Hour
	if s.doom != nil {
		life = s.doom()
	}
	for begin := s.now; s.now.Sub(begin) < time.Minute; {
		if s.now.Sub(begin) >= life {
			died(closed)
			return false
		}
		it, wait, ok := s.out.nextAdd(s.now)
		if ok {
			s.out.added(s.now, it, nil)
			s.now = s.now.Add(50 * time.Microsecond)
			s.out.wrote(s.now, routeKey(it.enc.table, it.enc.nlri))
			took = append(took, it.id)
			if how, dies := s.dies(took); dies {
				died(how)
				return false
			}
			continue
		}
		if s.out.justComplete(s.now, time.Minute) {
			continue
		}
		if wait == 0 {
			wait = time.Second
		}
		s.now = s.now.Add(min(wait, max(life-s.now.Sub(begin), 0)))
	}
	return len(s.out.held) == len(s.out.order)
}

func encodedItems(t testing.TB, n int) []*item {
	var out []*item
	for _, d := range manyRoutes(n) {
		it := newItem(d)
		e, err := encodeRoute(it.Route)
		if err != nil {
			t.Fatal(err)
		}
		it.enc = &e
		out = append(out, it)
	}
	return out
}

// Of many rules exactly those a router dies of are found, in few sessions, and nothing else is kept from it.
func TestSuspicionFindsThePoison(t *testing.T) {
	for _, c := range []struct {
		rules  int
		poison []int
		how    ending
		most   int // sessions
	}{
		{1, []int{0}, refused, 3},
		{10, []int{9}, refused, 5},
		{1000, []int{0}, refused, 8},
		{1000, []int{500}, closed, 10},
		{5000, []int{4999}, refused, 9},
		{200, []int{3, 77, 198}, refused, 20},
		{200, []int{10, 11, 12}, closed, 30},
	} {
		t.Run(fmt.Sprintf("%d rules %v ending %d", c.rules, c.poison, c.how), func(t *testing.T) {
			items := encodedItems(t, c.rules)
			bad := map[string]bool{}
			for _, i := range c.poison {
				bad[items[i].id] = true
			}
			s := simulated{t: t, now: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC), items: items, out: newOutbox(0, 0, newSuspicion(blameSpan, nil, nil))}
			s.dies = func(took []string) (ending, bool) { return c.how, bad[took[len(took)-1]] }
			begin := s.now
			if !s.run() {
				t.Fatalf("no session stays; quarantined %v", s.jailed)
			}
			got := map[string]bool{}
			for _, id := range s.jailed {
				got[id] = true
			}
			if !maps.Equal(got, bad) || len(s.jailed) != len(bad) {
				t.Errorf("quarantined %v, want %v", s.jailed, bad)
			}
			if s.sessions > c.most {
				t.Errorf("%d sessions, at most %d", s.sessions, c.most)
			}
			t.Logf("%d sessions, %s", s.sessions, s.now.Sub(begin).Round(time.Second)-time.Minute)
		})
	}
}

// A router that crashes again and again for a reason that is none of our routes, hundreds of times, soon after they came
// and later: what goes into quarantine by mistake is little.
func TestSuspicionIsFairToTheInnocent(t *testing.T) {
	items := encodedItems(t, 300)
	var sessions, jailed, held int
	for seed := range uint64(40) {
		rnd := rand.New(rand.NewPCG(seed, 1))
		s := simulated{t: t, now: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC), items: items, out: newOutbox(0, 0, newSuspicion(blameSpan, nil, nil))}
		s.dies = func([]string) (ending, bool) { return 0, false }
		mean := []time.Duration{100 * time.Millisecond, time.Second, 5 * time.Second, 20 * time.Second}[seed%4]
		s.doom = func() time.Duration { return time.Duration(rnd.ExpFloat64() * float64(mean)) }
		for range 20 {
			s.session()
			s.now = s.now.Add(time.Second)
		}
		sessions, jailed, held = sessions+s.sessions, jailed+len(s.jailed), held+len(s.held)
	}
	t.Logf("%d sessions, %d mistakes", sessions, jailed)
	if held > 0 {
		t.Errorf("%d families were held by mistake", held)
	}
	if jailed > sessions/100 {
		t.Errorf("%d routes went into quarantine by mistake in %d sessions", jailed, sessions)
	}
}

// What was kept comes out when its time is over, is tried last, and is cleared when it survives; a poison goes back.
func TestQuarantineEnds(t *testing.T) {
	items := encodedItems(t, 300)
	s := simulated{t: t, now: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC), items: items, out: newOutbox(0, 0, newSuspicion(blameSpan, nil, nil))}
	s.dies = func([]string) (ending, bool) { return 0, false }
	s.out.blame.records[items[5].id] = &Quarantine{Route: items[5].text, Until: s.now.Add(quarantineFirst), Times: 1}
	if r, _ := s.out.blame.release(s.now.Add(quarantineFirst - 1)); len(r) > 0 {
		t.Error("released too early")
	}
	s.now = s.now.Add(quarantineFirst)
	if r, _ := s.out.blame.release(s.now); len(r) != 1 {
		t.Errorf("released %v", r)
	}
	if !s.session() {
		t.Error("the session did not stay")
	}
	s.out.blame.ended(s.now, told, "", s.out.held)
	if len(s.out.blame.records) > 0 || len(s.out.blame.suspects) > 0 || s.out.blame.careful {
		t.Errorf("not cleared: %+v", s.out.blame)
	}

	// A poison that comes out goes back after one more NOTIFICATION, for longer each time, up to a day.
	s.items = items[:1]
	s.dies = func([]string) (ending, bool) { return refused, true }
	s.jailed = nil
	want := quarantineFirst
	for i := range 6 {
		s.out.end()
		begin := s.sessions
		if !s.run() {
			t.Fatal("the session does not stay")
		}
		r := s.out.blame.records[items[0].id]
		if len(s.jailed) != i+1 || r.Times != i+1 || r.Until.Sub(r.Since) != want {
			t.Fatalf("round %d: %d times, for %s, want %s", i, r.Times, r.Until.Sub(r.Since), want)
		}
		if i > 0 && s.sessions-begin != 2 {
			t.Errorf("round %d took %d sessions", i, s.sessions-begin)
		}
		want = min(4*want, quarantineMost)
		s.now = r.Until
		s.out.blame.release(s.now)
	}

	if got := s.out.blame.pardon("something else"); len(got) > 0 {
		t.Errorf("pardoned %v", got)
	}
}

// Where a suspect is all there is, and no End-of-RIB is owed, nothing but the sender itself can find that it is its turn.
func TestLoneSuspectIsSent(t *testing.T) {
	t.Parallel()
	f := newFakeRouter(t)
	f.plain = true
	f.serve()
	s := start(t, testOptions(t, f.peer("edge1")))
	waitFor(t, "the session", func() bool { return f.sessions() == 1 })
	s.set(1, 1, desired(t, discard4))
	sent := func(n int) func() bool {
		return func() (ok bool) {
			f.get(func() { ok = f.updates == n })
			return ok
		}
	}
	for n := range 2 { // without a word, and so soon after the route that it may be why
		waitFor(t, "the route in another session", sent(n+1))
		f.drop()
	}
	waitFor(t, "the route, which is a suspect by now, in the third session", sent(3))
	if f.sessions() != 3 {
		t.Errorf("%d sessions, want 3", f.sessions())
	}
}
