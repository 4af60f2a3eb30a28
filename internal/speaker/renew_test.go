package speaker

import (
	"fmt"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
)

// What renew is for, and that it helps. When the first part fails GoBGP has learned to forget, and renew can go.
func TestGoBGPKeepsWhatIsWithdrawn(t *testing.T) {
	_, r := bareSpeaker(t)
	const n = 5_000
	heap := func() int {
		runtime.GC()
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return int(m.HeapAlloc)
	}
	routes := encodedItems(t, n)
	before := heap()
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, it := range routes {
		if err := r.addPath(it); err != nil {
			t.Fatal(err)
		}
		r.withdraw(r.told, &held{item: it, key: it.text})
	}
	r.out.end()
	r.out.stale = map[string]encoded{}
	if kept := heap() - before; kept < n*500 {
		t.Errorf("GoBGP keeps %d octets of %d routes that were withdrawn", kept, n)
	}
	r.renew(r.told)
	if kept := heap() - before; kept > n*200 {
		t.Errorf("after renew %d octets are kept of %d routes that were withdrawn", kept, n)
	}
	runtime.KeepAlive(routes)
}

// However many rules come and go, GoBGP's table stays small, the session stays up, and the router holds what it is to hold:
// also when it asks for everything again, of which what was withdrawn is no part.
func TestRenew(t *testing.T) {
	f := newFakeRouter(t).serve()
	o := testOptions(t, f.peer("edge1"))
	o.renewAfter = 40
	var r *router
	o.made = func(made *router) { r = made }
	s := start(t, o)
	waitFor(t, "the session", func() bool { return f.sessions() == 1 })
	all := manyRoutes(400)
	stay := all[:7]
	revision := uint64(0)
	set := func(routes []Desired) {
		revision++
		s.set(1, revision, routes)
		waitFor(t, fmt.Sprintf("%d routes", len(routes)), func() bool { return f.count() == len(routes) })
	}
	for i := 7; i+20 <= len(all); i += 20 {
		set(append(stay[:7:7], all[i:i+20]...))
		set(stay)
	}
	renewals := func() float64 { return testutil.ToFloat64(r.m.renewals.WithLabelValues("edge1")) }
	if n := renewals(); n < 5 {
		t.Errorf("the table was renewed %v times for 380 withdrawals", n)
	}

	// Now the router asks for all, and its neighbour in GoBGP looks at a table in which there are seven.
	set(stay[:3])
	before := testutil.ToFloat64(r.m.updates.WithLabelValues("edge1"))
	f.get(func() { _, _ = f.conn.Write(appendMessage(nil, msgRouteRefresh, []byte{0, 1, 0, 133})) })
	waitFor(t, "all again", func() bool { return testutil.ToFloat64(r.m.updates.WithLabelValues("edge1")) >= before+3 })
	set(stay[:4]) // exactly these: nothing that was withdrawn came back
	set(stay)

	// A session that ends is the end of the old table, too.
	f.drop()
	waitFor(t, "the next session", func() bool { return f.sessions() == 2 && f.count() == 7 })
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.renewed || r.left != 0 {
		t.Errorf("a new session begins with an old table: %v, %d are left", r.renewed, r.left)
	}
	if f.sessions() != 2 {
		t.Errorf("%d sessions, want 2: one was dropped here", f.sessions())
	}
}

// The router asks for all while withdrawals wait, or one that GoBGP did not take: none is lost, though GoBGP's table was
// emptied in between, nor is a route that was to get another action. And what stays is sent again.
func TestRenewLosesNoWithdrawal(t *testing.T) {
	f := newFakeRouter(t).serve()
	o := testOptions(t, f.peer("edge1"))
	var r *router
	o.made = func(made *router) { r = made }
	s := start(t, o)
	waitFor(t, "the session", func() bool { return f.sessions() == 1 })
	all := manyRoutes(700)
	s.set(1, 1, all)
	f.await(t, len(all))
	updates := func() float64 { return testutil.ToFloat64(r.m.updates.WithLabelValues("edge1")) }
	before := updates()

	changed := desired(t, strings.Replace(all[0].Route.String(), "discard", "rate-limit 8Mbps", 1))[0]
	s.set(1, 2, append([]Desired{changed}, all[1:]...))
	waitFor(t, "the change", func() bool { return updates() == before+1 })
	var rest []*item
	r.mu.Lock()
	rest = r.set[:100]
	r.set = rest
	now := time.Now()
	r.place(now) // 600 are to go now, and some of them go before GoBGP's table is emptied, some after
	r.step(now)
	r.renew(now)
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
		return len(r.out.held) == len(rest)
	})
	if n := updates(); n < before+1+600+100 {
		t.Errorf("%v UPDATEs", n-before)
	}
	for _, it := range rest {
		f.awaitMatch(t, it.Route.Match.String())
	}

	// What is to be added again is what the router was told last, not what was in the table.
	other := newItem(desired(t, strings.Replace(all[1].Route.String(), "discard", "rate-limit 8Mbps", 1))[0])
	other.enc = rest[0].enc
	for i, it := range rest {
		if it.Route.Match.Equal(other.Route.Match) {
			other.enc, rest[i] = it.enc, other
		}
	}
	r.mu.Lock()
	r.renew(time.Now())
	r.set = rest
	r.place(time.Now())
	r.step(time.Now())
	r.mu.Unlock()
	r.poke()
	waitFor(t, "everything to be in the table again", func() bool {
		r.mu.Lock()
		defer r.mu.Unlock()
		return len(r.refill) == 0 && r.out.flying == 0
	})
	if was, is := f.routes()[rest[50].Route.Match.String()], f.routes()[other.Route.Match.String()]; was == is || is == "" {
		t.Errorf("the router does %q with what is limited by now, and with what is discarded %q", is, was)
	}
	r.mu.Lock()
	for range 2 { // and again, with all of them about to go
		r.renew(now)
	}
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
	if f.sessions() != 1 {
		t.Errorf("%d sessions, want one", f.sessions())
	}
}
