package speaker

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/amooglesoft/trafficmonitor/internal/compile"
)

// A router that resets at a maximum of prefixes nobody told us of gets the most valuable up to it, and is not reset again
// and again; nothing is suspected for it, and tables it does not count are not held back.
func TestMaximumOfPrefixes(t *testing.T) {
	t.Parallel()
	f := newFakeRouter(t)
	f.most, f.mostOf = 7, []compile.Table{compile.IPv4FlowSpec}
	f.serve()
	s := start(t, testOptions(t, f.peer("edge1")))
	texts, _ := rules(20)
	var others []string
	for i := range 12 {
		others = append(others, fmt.Sprintf("destination 2001:db8::%x/128 protocol udp then discard", i+1), fmt.Sprintf("destination 192.0.2.%d/32 then blackhole", i+100))
	}
	s.set(1, 1, desired(t, append(texts, others...)...))
	waitFor(t, "what it has room for", func() bool { return s.status().Peers[0].Routes[Sent] == 7+24 && f.count() == 7+24 })
	p := s.status().Peers[0]
	if p.Routes[NotPlaced] != 13 || p.Routes[Quarantined] != 0 || p.Established != 2 ||
		!strings.Contains(p.LastError, "maximum number of prefixes reached") || !strings.Contains(p.LastError, "its limit is 7 ipv4-flowspec routes") {
		t.Errorf("%+v", p)
	}
	for _, r := range s.status().Routes {
		x := r.Peers[0]
		if compile.TableOf(r.Route) != compile.IPv4FlowSpec && x.State != Sent {
			t.Errorf("%s is %v: %s", r.Route, x.State, x.Reason)
		}
		if x.State == NotPlaced && !strings.Contains(x.Reason, "at most 7 ipv4-flowspec routes, at which it reset the session: its own maximum of prefixes, which is kept to until") {
			t.Errorf("%s: %s", r.Route, x.Reason)
		}
	}
	// What is worth more takes a place, and the session stays.
	urgent := desired(t, append(texts, others...)...)
	for i := range urgent[:20] {
		urgent[i].Manual = i == 19
	}
	s.set(1, 2, urgent)
	waitFor(t, "the engineer's", func() bool {
		_, ok := f.routes()["destination 192.0.2.19/32 protocol udp"]
		return ok && f.count() == 7+24
	})
	if n := f.sessions(); n != 2 {
		t.Errorf("%d sessions", n)
	}
}

// Routers that say nothing of their maximum, or name a table that is not ours: few sessions, and what is left is the most
// valuable.
func TestMaximumOfPrefixesInOtherWords(t *testing.T) {
	t.Parallel()
	texts, _ := rules(20)
	for name, c := range map[string]struct {
		says []byte
		most int // sessions
	}{
		"no data":       {[]byte{}, 3},
		"another table": {[]byte{0, 25, 70, 0, 0, 0, 18}, 2},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFakeRouter(t)
			f.most, f.says = 18, c.says
			f.serve()
			s := start(t, testOptions(t, f.peer("edge1")))
			routes := desired(t, texts...)
			for i := range routes {
				routes[i].Manual = i == 13
			}
			s.set(1, 1, routes)
			waitFor(t, "what is left", func() bool {
				p := s.status().Peers[0]
				return p.State == Established && p.Routes[NotPlaced] > 1 && p.Routes[Sent]+p.Routes[NotPlaced] == 20 && f.count() == p.Routes[Sent]
			})
			p := s.status().Peers[0]
			if _, ok := f.routes()["destination 192.0.2.13/32 protocol udp"]; !ok || int(p.Established) > c.most || p.Routes[Sent] > 18 || p.Routes[Quarantined] > 0 {
				t.Errorf("%d sessions, %+v", p.Established, p)
			}
		})
	}
}

// Whatever a router counts and whatever it says of it, it comes to rest: after a few resets when it says nothing, and after
// more when it lies. After each it gets less than it was handed.
func TestRoofProperty(t *testing.T) {
	rnd := rand.New(rand.NewPCG(5, 6))
	for range 2000 {
		rs := roofs{}
		now := time.Unix(1_800_000_000, 0)
		want := map[compile.Table]int{}
		counts := map[compile.Table]bool{}
		for _, t := range compile.Tables() {
			want[t] = rnd.IntN(500)
			counts[t] = rnd.IntN(2) == 0
		}
		limit := len(compile.Tables()) + rnd.IntN(300) // below, one route of each table would be too many for it
		lies := rnd.IntN(3)                            // 0: it says nothing, 1: a table that counts and any number, 2: anything
		resets := 0
		for ; ; resets++ {
			if resets > []int{20, 100, 100}[lies] {
				t.Fatalf("reset again and again: want %v counts %v limit %d lies %d: %v", want, counts, limit, lies, rs)
			}
			handed, counted, all := map[compile.Table]int{}, 0, 0
			for _, t := range compile.Tables() {
				n := want[t]
				if r, ok := rs[t]; ok {
					n = min(n, r.rules)
				}
				if r, ok := rs[""]; ok {
					n = min(n, r.rules-all)
				}
				handed[t] = n
				all += n
				if counts[t] {
					counted += n
				}
			}
			if counted <= limit {
				break
			}
			said := maximum{}
			for _, t := range compile.Tables() {
				if lies > 0 && counts[t] && handed[t] > 0 {
					said = maximum{t, rnd.IntN(1000)}
				}
			}
			if lies == 2 {
				said.table = compile.Tables()[rnd.IntN(4)]
			}
			before := rs[said.table]
			of, rules := rs.learn(now, said, handed)
			n := handed[of]
			if of == "" {
				n = all
			}
			if rules < 1 || rules >= n && n > 1 {
				t.Fatalf("after %d were too many it gets %d (before %+v)", n, rules, before)
			}
			now = now.Add(time.Second)
		}
		if gone, wait := rs.expire(now); gone || resets > 0 && wait <= 0 {
			t.Fatalf("forgotten at once: %v", wait)
		}
		if rs.expire(now.Add(roofTime)); len(rs) > 0 {
			t.Fatalf("kept for ever: %v", rs)
		}
	}
}

func TestRoofEnds(t *testing.T) {
	t.Parallel()
	s, r := bareSpeaker(t)
	texts, _ := rules(5)
	if _, err := s.hand(1, 1, itemsOf(t, append(texts, blackhole4)...)); err != nil {
		t.Fatal(err)
	}
	r.roofs = roofs{compile.IPv4FlowSpec: {rules: 3, until: time.Now().Add(time.Hour)}}
	r.place(time.Now())
	if len(r.out.order) != 4 || r.sendAll(t.Context()) <= 0 {
		t.Errorf("%d routes under a roof of three", len(r.out.order))
	}
	r.roofs = roofs{compile.IPv4FlowSpec: {rules: 3, until: time.Now()}}
	r.sendAll(t.Context())
	if len(r.out.order) != 6 || len(r.roofs) != 0 {
		t.Errorf("%d routes after it", len(r.out.order))
	}
}

func TestRoofLearns(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	const fs4, fs6, u4 = compile.IPv4FlowSpec, compile.IPv6FlowSpec, compile.IPv4Unicast
	handed := map[compile.Table]int{fs4: 100, fs6: 30, u4: 1}
	for name, c := range map[string]struct {
		said  maximum
		of    compile.Table
		rules int
	}{
		"its table and maximum":        {maximum{fs4, 80}, fs4, 80},
		"its table only":               {maximum{fs6, 0}, fs6, 29},
		"a maximum it does not keep":   {maximum{fs4, 1 << 31}, fs4, 99},
		"what it was handed":           {maximum{fs4, 100}, fs4, 99},
		"nothing":                      {maximum{}, "", 130},
		"a maximum of another's table": {maximum{"", 50}, "", 50},
		"a table it did not get":       {maximum{compile.IPv6Unicast, 3}, "", 130},
		"a table with one route":       {maximum{u4, 1}, "", 130},
	} {
		rs := roofs{}
		if of, rules := rs.learn(now, c.said, handed); of != c.of || rules != c.rules || len(rs) != 1 {
			t.Errorf("%s: %d of %q", name, rules, of)
		}
	}
	rs := roofs{}
	var got []int
	for range 5 { // it says nothing, and gets what it is allowed
		_, n := rs.learn(now, maximum{}, map[compile.Table]int{fs4: max(100, rs[""].rules)})
		got = append(got, n)
	}
	if want := []int{99, 98, 96, 92, 84}; !slices.Equal(got, want) {
		t.Errorf("%v, not %v", got, want)
	}
	if _, n := rs.learn(now.Add(roofTime+1), maximum{}, handed); n != 130 {
		t.Errorf("%d after an hour", n)
	}
	if of, n := rs.learn(now, maximum{}, nil); of != "" || n != 0 {
		t.Errorf("of nothing %d", n)
	}
}

// What the data of a NOTIFICATION tells, and never more than it holds.
func TestNotificationDetails(t *testing.T) {
	for _, c := range []struct {
		data []byte
		sub  byte
		want string
	}{
		{[]byte{0, 2, 1, 0, 0, 3, 232}, 1, "its limit is 1000 ipv6-unicast routes"},
		{[]byte{0, 9, 9, 0, 0, 0, 5}, 1, "its limit is 5 prefixes"},
		{[]byte{0, 2}, 1, ""},
		{append([]byte{7}, "upgrade"...), 2, `the operator there says "upgrade"`},
		{append([]byte{3}, "a\xff\nb"...), 4, `the operator there says "a?\n"`},
		{append([]byte{200}, "short"...), 2, ""},
		{nil, 2, ""},
		{append([]byte{2}, "ok"...), 9, ""},
	} {
		n := &routerNotification{errCease, c.sub, c.data}
		got := n.Error()
		if c.want == "" && n.details() != "" || !strings.Contains(got, c.want) {
			t.Errorf("%v: %s", c.data, got)
		}
	}
}
