package enforce

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/amooglesoft/trafficmonitor/internal/render"
	"github.com/amooglesoft/trafficmonitor/internal/route"
)

func parse(t *testing.T, texts ...string) []route.Route {
	t.Helper()
	var out []route.Route
	for _, text := range texts {
		r, err := route.Parse(text)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, r.Canonical())
	}
	return out
}

// RFC 8955, section 5.1, in the order in which rules must be tried.
func TestSort(t *testing.T) {
	want := parse(t,
		"destination 10.0.0.0/8 then discard",                               // lowest address
		"destination 192.0.2.1/32 source 10.0.0.0/8 then discard",           // has a source, the next has none
		"destination 192.0.2.1/32 protocol tcp source-port 80 then discard", // protocol before port, 6 before 17
		"destination 192.0.2.1/32 protocol udp destination-port 53 then discard",
		"destination 192.0.2.1/32 protocol udp source-port 53 then discard",
		"destination 192.0.2.1/32 protocol udp then discard", // all of the above plus more goes first
		"destination 192.0.2.1/32 then discard",
		"destination 192.0.2.0/24 protocol udp then discard", // less specific, though it has more components
		"destination 192.0.2.0/24 then discard",
		"source 10.0.0.0/8 then discard", // no destination at all
		"destination 2001:db8::1/128 protocol tcp then discard",
		"destination 2001:db8::/32 then discard",
	)
	got := make([]route.Route, 0, len(want))
	for i := range want { // a fixed shuffle: 5 and 12 have no common divisor
		got = append(got, want[i*5%len(want)])
	}
	Sort(got)
	for i := range want {
		if !want[i].Equal(got[i]) {
			t.Errorf("%d: got %s, want %s", i, got[i], want[i])
		}
	}
}

func TestConditions(t *testing.T) {
	for _, c := range []struct {
		match string
		want  []string
	}{
		{"destination 192.0.2.1/32 protocol udp source-port 53,123-124", []string{
			"meta nfproto ipv4 ip daddr 192.0.2.1/32 meta l4proto 17 ip frag-off & 0x1fff == 0 meta l4proto { 6, 17 } th sport { 53, 123-124 }",
		}},
		{"destination 192.0.2.1/32 port 80", []string{
			"meta nfproto ipv4 ip daddr 192.0.2.1/32 ip frag-off & 0x1fff == 0 meta l4proto { 6, 17 } th sport 80",
			"meta nfproto ipv4 ip daddr 192.0.2.1/32 ip frag-off & 0x1fff == 0 meta l4proto { 6, 17 } th dport 80",
		}},
		{"destination 2001:db8::/32 source 2001:db8:1::/48 tcp-flags syn&!ack,rst", []string{
			"meta nfproto ipv6 ip6 daddr 2001:db8::/32 ip6 saddr 2001:db8:1::/48 exthdr frag missing meta l4proto 6 @th,104,8 & 0x12 == 0x02",
			"meta nfproto ipv6 ip6 daddr 2001:db8::/32 ip6 saddr 2001:db8:1::/48 exthdr frag missing meta l4proto 6 @th,104,8 & 0x04 == 0x04",
			"meta nfproto ipv6 ip6 daddr 2001:db8::/32 ip6 saddr 2001:db8:1::/48 frag frag-off 0 meta l4proto 6 @th,104,8 & 0x12 == 0x02",
			"meta nfproto ipv6 ip6 daddr 2001:db8::/32 ip6 saddr 2001:db8:1::/48 frag frag-off 0 meta l4proto 6 @th,104,8 & 0x04 == 0x04",
		}},
		{"destination 2001:db8::/32 icmp-type 128 icmp-code 0 dscp 3 length 100-200", []string{
			"meta nfproto ipv6 ip6 daddr 2001:db8::/32 exthdr frag missing meta l4proto 58 icmpv6 type 128 icmpv6 code 0 meta length 100-200 ip6 dscp 3",
			"meta nfproto ipv6 ip6 daddr 2001:db8::/32 frag frag-off 0 meta l4proto 58 icmpv6 type 128 icmpv6 code 0 meta length 100-200 ip6 dscp 3",
		}},
		{"destination 192.0.2.1/32 fragment is-fragment&!last-fragment,dont-fragment", []string{
			"meta nfproto ipv4 ip daddr 192.0.2.1/32 ip frag-off & 0x4000 != 0",
			"meta nfproto ipv4 ip daddr 192.0.2.1/32 ip frag-off & 0x1fff != 0 ip frag-off & 0x3fff != 1-8191",
		}},
		{"destination 2001:db8::1/128 fragment !is-fragment", []string{
			"meta nfproto ipv6 ip6 daddr 2001:db8::1/128 exthdr frag missing",
			"meta nfproto ipv6 ip6 daddr 2001:db8::1/128 frag frag-off 0",
		}},
	} {
		r := parse(t, c.match+" then discard")[0]
		got, err := render.NFT(r.Match)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%s (-want +got)\n%s", c.match, diff)
		}
	}
}

func TestScriptRefuses(t *testing.T) {
	good := parse(t, "destination 192.0.2.1/32 then discard")[0]
	for name, r := range map[string]route.Route{
		"blackhole":   {Match: good.Match, Action: route.Action{Kind: route.Blackhole}},
		"match all":   {Action: route.Action{Kind: route.Discard}},
		"no rate":     {Match: good.Match, Action: route.Action{Kind: route.RateBytes}},
		"port 1 to 0": {Match: route.Match{Destination: good.Match.Destination, Port: []route.Range{{Lo: 1, Hi: 0}}}},
	} {
		if s, err := Script([]route.Route{r}, nil); err == nil {
			t.Errorf("%s was accepted:\n%s", name, s)
		}
	}
}

// What goes away is deleted, what stays is not touched, and a changed rate is a new limit.
func TestScriptDifference(t *testing.T) {
	r := parse(t, "destination 192.0.2.1/32 then rate-limit 1Mbps", "destination 192.0.2.1/32 then rate-limit 2Mbps", "destination 192.0.2.2/32 then discard")
	one, two, gone := objectsOf(r[0]), objectsOf(r[1]), objectsOf(r[2])
	s, err := Script(r[1:2], []route.Route{r[0], r[2]})
	if err != nil {
		t.Fatal(err)
	}
	for text, want := range map[string]bool{
		"delete limit inet flowspec " + one.limit:      true,
		"add limit inet flowspec " + two.limit:         true,
		"delete counter inet flowspec " + one.matched:  false,
		"delete chain inet flowspec " + one.chain:      false,
		"delete chain inet flowspec " + gone.chain:     true,
		"delete counter inet flowspec " + gone.dropped: true,
		"delete limit inet flowspec " + gone.limit:     false,
	} {
		if strings.Contains(s, text+"\n") != want && strings.Contains(s, text+" ") != want {
			t.Errorf("%q: %v in\n%s", text, !want, s)
		}
	}
}

// The shim follows changes at once, looks by itself when it is told nothing, and keeps what is in force when the router
// cannot be read.
func TestShim(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rules := parse(t, "destination 192.0.2.1/32 then discard")
		var mu sync.Mutex
		var fail error
		var scripts []string
		changed := make(chan struct{}, 1)
		s := New(Options{
			Rules: func(context.Context) ([]route.Route, error) {
				mu.Lock()
				defer mu.Unlock()
				return slices.Clone(rules), fail
			},
			Changed: changed,
			NFT: func(_ context.Context, in string, _ ...string) (string, error) {
				mu.Lock()
				defer mu.Unlock()
				scripts = append(scripts, in)
				return "", nil
			},
		})
		ctx, cancel := context.WithCancel(t.Context())
		go s.Run(ctx)
		synctest.Wait()
		if got, _, err := s.State(); len(got) != 1 || err != nil || len(scripts) != 1 {
			t.Fatalf("in force %v, %v, %d scripts", got, err, len(scripts))
		}
		time.Sleep(time.Second) // nothing changed: nothing is done
		synctest.Wait()
		if len(scripts) != 1 {
			t.Errorf("%d scripts", len(scripts))
		}
		began := time.Now()
		set := func(to []route.Route, err error) {
			mu.Lock()
			defer mu.Unlock()
			rules, fail = to, err
		}
		set(append(rules, parse(t, "destination 192.0.2.0/24 then rate-limit 1Mbps")...), nil)
		changed <- struct{}{}
		at, err := s.Wait(ctx, func(r []route.Route) bool { return len(r) == 2 })
		if err != nil || !at.Equal(began) {
			t.Errorf("in force after %v, %v", at.Sub(began), err)
		}
		unreadable := errors.New("unreadable")
		set(nil, unreadable)
		time.Sleep(time.Second)
		if got, _, err := s.State(); len(got) != 2 || !errors.Is(err, unreadable) {
			t.Errorf("in force %v, %v", got, err)
		}
		set(nil, nil)
		time.Sleep(250 * time.Millisecond)
		synctest.Wait()
		if got, _, err := s.State(); len(got) != 0 || err != nil {
			t.Errorf("in force %v, %v", got, err)
		}
		cancel()
		synctest.Wait()
		if _, err := s.Wait(ctx, func(r []route.Route) bool { return len(r) == 7 }); !errors.Is(err, context.Canceled) {
			t.Errorf("waiting ended with %v", err)
		}
	})
}

func TestReadCounters(t *testing.T) {
	got, err := parseCounters(`{"nftables": [{"metainfo": {"version": "1.0.6"}},
		{"counter": {"family": "inet", "name": "m_v4ab", "table": "flowspec", "handle": 2, "packets": 7, "bytes": 70}},
		{"counter": {"family": "inet", "name": "d_v4ab", "table": "flowspec", "handle": 3, "packets": 5, "bytes": 50}}]}`)
	want := map[string]Counters{"v4ab": {Matched: Counter{7, 70}, Dropped: Counter{5, 50}}}
	if diff := cmp.Diff(want, got); err != nil || diff != "" {
		t.Errorf("%v\n%s", err, diff)
	}
	if _, err := parseCounters("Error: no such file"); err == nil {
		t.Error("an error was read as counters")
	}
}
