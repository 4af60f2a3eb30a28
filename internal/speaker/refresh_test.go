package speaker

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/amooglesoft/trafficmonitor/internal/compile"
)

// A router that asks for everything again gets what it is to hold, and of what was withdrawn nothing. It cannot make us do it
// all the time.
func TestRefresh(t *testing.T) {
	all := manyRoutes(300)
	f, s, r := routerWith(t, all)
	s.set(1, 2, all[:200])
	f.await(t, 200)
	updates := func() float64 { return testutil.ToFloat64(r.m.updates.WithLabelValues("edge1")) }
	refreshes := func() float64 { return testutil.ToFloat64(r.m.refreshes.WithLabelValues("edge1")) }
	before := updates()
	ask := func() {
		f.get(func() {
			f.rib = map[string]string{} // as a router does that forgot
			_, _ = f.conn.Write(appendMessage(nil, msgRouteRefresh, []byte{0, 1, 0, 133}))
		})
	}
	ask()
	f.await(t, 200)
	waitFor(t, "200 UPDATEs", func() bool { return updates()-before == 200 })
	for range 5 {
		ask()
	}
	f.await(t, 200)
	if n := refreshes(); n != 2 {
		t.Errorf("all was sent again %v times, want once, and once for five times more", n)
	}
	if f.sessions() != 1 {
		t.Errorf("%d sessions", f.sessions())
	}
}

// Only a plain request for a family that both sides carry is one, and what is sent again is of that family.
func TestWhatIsAskedFor(t *testing.T) {
	p := &pair{tables: []compile.Table{compile.IPv4FlowSpec, compile.IPv6Unicast}}
	for _, c := range []struct {
		body []byte
		want compile.Table
	}{
		{[]byte{0, 1, 0, 133}, compile.IPv4FlowSpec},
		{[]byte{0, 2, 0, 1}, compile.IPv6Unicast},
		{[]byte{0, 1, 0, 1}, ""},   // a family we carry not
		{[]byte{0, 9, 0, 1}, ""},   // one we do not know
		{[]byte{0, 1, 1, 133}, ""}, // the begin of an enhanced one (RFC 7313)
		{[]byte{0, 1, 0, 133, 0}, ""},
	} {
		if got, ok := p.asksForAll(c.body); ok != (c.want != "") || ok && got != c.want {
			t.Errorf("%x: %q, %v, want %q", c.body, got, ok, c.want)
		}
	}

	_, r := bareSpeaker(t)
	r.patience = 0
	items := itemsOf(t, discard4, blackhole4)
	for _, it := range items {
		e, err := encodeRoute(it.Route)
		if err != nil {
			t.Fatal(err)
		}
		it.enc = &e
	}
	r.apply(items)
	r.sessionUp(&pair{tables: compile.Tables()})
	r.mu.Lock()
	defer r.mu.Unlock()
	r.step(time.Now())
	r.refresh0(time.Now())
	if len(r.refill) != 1 || r.refill[items[0].id] == nil {
		t.Errorf("sent again is %v, want the rule and not the blackhole", r.refill)
	}
	r.again[compile.IPv6FlowSpec], r.refreshed = true, time.Time{}
	r.refreshDue(time.Now())
	if len(r.refill) != 1 || len(r.again) != 0 {
		t.Errorf("%v is sent again, %v still asked for", r.refill, r.again)
	}
}

// The router asks for all while withdrawals wait and another action is on its way: none is lost, and what is sent again is
// what the router was told last.
func TestRefreshLosesNothing(t *testing.T) {
	all := manyRoutes(700)
	f, _, r := routerWith(t, all)

	now := time.Now()
	var limited *item
	r.mu.Lock()
	rest := slices.Clone(r.set[:100])
	r.refresh0(now)
	r.fill(now)                                // of 700 a batch is queued, with some in it that are about to go
	for _, done := range []bool{true, false} { // one is about to change that was sent again, and one that was not
		at := slices.IndexFunc(rest, func(it *item) bool { return strings.Contains(it.text, "discard") && (r.refill[it.id] == nil) == done })
		limited = newItem(desired(t, strings.Replace(rest[at].text, "discard", "rate-limit 8Mbps", 1))[0])
		limited.enc, rest[at] = rest[at].enc, limited
	}
	r.set = rest
	r.place(now)
	r.step(now)
	r.mu.Unlock()
	r.drain()
	f.await(t, len(rest))
	waitFor(t, "what stays, once more, and that it may be what a router resets upon", func() bool {
		r.mu.Lock()
		defer r.mu.Unlock()
		for _, h := range r.out.held {
			if h.written.Before(now) {
				return false
			}
		}
		return len(r.refill) == 0 && r.out.flying == 0
	})
	f.await(t, len(rest))
	routes := f.routes()
	does := map[string]int{}
	for _, it := range rest {
		does[routes[it.Route.Match.String()]]++
		if it == limited && does[routes[it.Route.Match.String()]] > 2 {
			t.Errorf("the router does %q with what is limited by now, as with others", routes[it.Route.Match.String()])
		}
	}
	if len(does) != 2 {
		t.Errorf("the router does %v", does)
	}
	for _, it := range rest {
		f.awaitMatch(t, it.Route.Match.String())
	}

	r.mu.Lock() // and again, with all of them about to go
	r.refresh0(now)
	r.set = nil
	r.place(now)
	r.mu.Unlock()
	r.drain()
	f.await(t, 0)
	waitFor(t, "nothing under way", func() bool {
		r.mu.Lock()
		defer r.mu.Unlock()
		return r.out.flying == 0 && len(r.refill) == 0
	})
	if f.sessions() != 1 || f.count() != 0 {
		t.Errorf("%d sessions, want one; %d routes, want none", f.sessions(), f.count())
	}
}

// refresh0 is a refresh that is due at once. The caller holds mu.
func (r *router) refresh0(now time.Time) {
	r.again[compile.IPv4FlowSpec], r.refreshed = true, time.Time{}
	r.refreshDue(now)
}

// routerWith is a router that holds these, the speaker that announces them, and its side of the session.
func routerWith(t *testing.T, routes []Desired) (*fakeRouter, *running, *router) {
	t.Helper()
	f := newFakeRouter(t).serve()
	var r *router
	o := testOptions(t, f.peer("edge1"))
	o.made = func(made *router) { r = made }
	s := start(t, o)
	waitFor(t, "the session", func() bool { return f.sessions() == 1 })
	s.set(1, 1, routes)
	f.await(t, len(routes))
	return f, s, r
}
