package compile

import (
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/amooglesoft/trafficmonitor/internal/route"
	"github.com/amooglesoft/trafficmonitor/internal/route/routetest"
)

func parse(t testing.TB, s string) route.Route {
	t.Helper()
	r, err := route.Parse(s)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

var t0 = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func TestCompileShape(t *testing.T) {
	for _, c := range []struct {
		name, route, refused string
		p                    Profile
	}{
		{"all tables by default", "destination 192.0.2.1/32 then blackhole", "", Profile{}},
		{"five ports", "destination 192.0.2.1/32 destination-port 1,3,5,7,9 then discard", "", Profile{}},
		{"six ports", "destination 192.0.2.1/32 destination-port 1,3,5,7,9,11 then discard", "destination-port has 6 items", Profile{}},
		{"ranges count two", "destination 192.0.2.1/32 source-port 1-2,4-5,7-8 then discard", "source-port has 6 items", Profile{}},
		{"two ranges and a port", "destination 192.0.2.1/32 source-port 1-2,4-5,7 then discard", "", Profile{}},
		{"set and clear count two", "destination 192.0.2.1/32 tcp-flags syn&!ack,rst&!ack,fin&!ack then discard", "tcp-flags has 6 items", Profile{}},
		{"a router that takes more", "destination 192.0.2.1/32 destination-port 1,3,5,7,9,11 then discard", "", Profile{MaxItems: 10}},
		{"no IPv6 rules", "destination 2001:db8::1/128 then discard", "not configured for ipv6-flowspec", Profile{Tables: []Table{IPv4FlowSpec}}},
		{"no blackholes", "destination 192.0.2.1/32 then blackhole", "not configured for ipv4-unicast", Profile{Tables: []Table{IPv4FlowSpec}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			res := Compile([]Entry{{Route: parse(t, c.route)}}, c.p)
			switch {
			case c.refused == "" && len(res.Accepted) != 1:
				t.Errorf("refused: %v", res.Refused)
			case c.refused != "" && (len(res.Refused) != 1 || !strings.Contains(res.Refused[0].Reason, c.refused)):
				t.Errorf("got %+v, want refused with %q", res, c.refused)
			}
		})
	}
}

func TestCompileOrder(t *testing.T) {
	set := []Entry{
		{Route: parse(t, "destination 192.0.2.1/32 protocol udp then rate-limit 1Mbps"), Created: t0},
		{Route: parse(t, "destination 192.0.2.2/32 protocol udp then discard"), Created: t0.Add(2)},
		{Route: parse(t, "destination 192.0.2.3/32 protocol udp then discard"), Created: t0.Add(1)},
		{Route: parse(t, "destination 192.0.2.4/32 then blackhole"), Created: t0.Add(3)},
		{Route: parse(t, "destination 192.0.2.5/32 protocol udp then rate-limit 1Mbps"), Created: t0.Add(4), Manual: true},
	}
	if got, want := Compile(set, Profile{}).Accepted, []int{4, 3, 2, 1, 0}; !slices.Equal(got, want) {
		t.Errorf("order %v, want %v", got, want)
	}
	res := Compile(set, Profile{MaxRules: 2})
	if got, want := res.Accepted, []int{4, 3}; !slices.Equal(got, want) {
		t.Errorf("with room for two: %v, want %v", got, want)
	}
	if len(res.Refused) != 3 || res.Refused[0].Index != 0 || !strings.Contains(res.Refused[0].Reason, "at most 2 routes") {
		t.Errorf("refused %+v", res.Refused)
	}
}

// Every entry is either accepted or refused, once; the limit holds; a set's order does not change who gets in.
func TestCompileProperty(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	for range 300 {
		var set []Entry
		for i := range rnd.IntN(40) {
			action := []string{"discard", "rate-limit 8Mbps", "blackhole"}[rnd.IntN(3)]
			match := fmt.Sprintf("destination 192.0.2.%d/32", i)
			if action != "blackhole" && rnd.IntN(2) == 0 {
				match += " destination-port 1,3,5,7,9,11,13"[:20+2*rnd.IntN(6)]
				match = strings.TrimRight(match, ",")
			}
			set = append(set, Entry{Route: parse(t, match+" then "+action), Manual: rnd.IntN(4) == 0, Created: t0.Add(time.Duration(rnd.IntN(5)))})
		}
		p := Profile{MaxRules: rnd.IntN(20)}
		if rnd.IntN(2) == 0 {
			p.MaxOf = map[Table]Maximum{}
			for _, t := range append(Tables(), "") {
				if rnd.IntN(3) == 0 {
					p.MaxOf[t] = Maximum{Routes: 1 + rnd.IntN(10)}
				}
			}
		}
		res := Compile(set, p)
		of := map[Table]int{"": len(res.Accepted)}
		for _, i := range res.Accepted {
			of[TableOf(set[i].Route)]++
		}
		for t2, m := range p.MaxOf {
			if of[t2] > m.Routes {
				t.Fatalf("%d of %q accepted, limit %d", of[t2], t2, m.Routes)
			}
		}
		for _, r := range res.Refused { // nobody waits for room that there is
			table := TableOf(set[r.Index].Route)
			m, ok := p.MaxOf[table]
			all, together := p.MaxOf[""]
			if res.Decisions[r.Index].Outcome == NotPlaced && (p.MaxRules == 0 || of[""] < p.MaxRules) && (!ok || of[table] < m.Routes) && (!together || of[""] < all.Routes) {
				t.Fatalf("not placed although there is room: %s", r.Reason)
			}
		}
		seen := map[int]bool{}
		for _, i := range res.Accepted {
			if seen[i] {
				t.Fatalf("entry %d twice", i)
			}
			seen[i] = true
		}
		for _, r := range res.Refused {
			if seen[r.Index] || r.Reason == "" {
				t.Fatalf("entry %d twice or refused without a reason", r.Index)
			}
			seen[r.Index] = true
		}
		if len(seen) != len(set) {
			t.Fatalf("%d of %d entries decided", len(seen), len(set))
		}
		if p.MaxRules > 0 && len(res.Accepted) > p.MaxRules {
			t.Fatalf("%d accepted, limit %d", len(res.Accepted), p.MaxRules)
		}
		mixed := slices.Clone(set)
		rnd.Shuffle(len(mixed), func(i, j int) { mixed[i], mixed[j] = mixed[j], mixed[i] })
		if a, b := texts(set, res), texts(mixed, Compile(mixed, p)); !slices.Equal(a, b) {
			t.Fatalf("the order of the set changed who gets in:\n%v\n%v", a, b)
		}
	}
}

func texts(set []Entry, res Result) []string {
	var out []string
	for _, i := range res.Accepted {
		out = append(out, set[i].Route.String())
	}
	slices.Sort(out)
	return out
}

func hours(n int) time.Duration { return time.Duration(n) * time.Hour }

func TestOffsetsNeedARouterThatKnowsThem(t *testing.T) {
	for _, tc := range []struct {
		offset string
		know   Offsets
		want   int
	}{
		{"64", AnyOffset, 1}, {"63", AnyOffset, 1}, {"64", OctetOffsets, 1}, {"63", OctetOffsets, 0}, {"64", NoOffsets, 0},
	} {
		for _, text := range []string{"destination 2001:db8::1/128 source ::7/%s-128 then discard", "destination ::7/%s-128 then discard"} {
			set := []Entry{{Route: parse(t, fmt.Sprintf(text, tc.offset))}}
			if res := Compile(set, Profile{Offsets: tc.know}); len(res.Accepted) != tc.want {
				t.Errorf("%+v, %s: %+v", tc, text, res.Decisions)
			}
		}
	}
}

// No component escapes what a router takes in one.
func TestEveryComponentIsCounted(t *testing.T) {
	routetest.Components(t, func(field string, m route.Match) {
		if reflect.ValueOf(m).FieldByName(field).Kind() != reflect.Slice {
			return
		}
		set := []Entry{{Route: route.Route{Match: m, Action: route.Action{Kind: route.Discard}}}}
		if res := Compile(set, Profile{MaxItems: 2}); len(res.Refused) != 1 {
			t.Errorf("%s: three items pass where two are the most", field)
		}
	})
}

// Everything an action does needs the router's word for it.
func TestEveryPartOfAnActionNeedsItsWord(t *testing.T) {
	for text, want := range map[string][]Action{
		"destination 192.0.2.1 then discard sample":                                                {Discard, Sample},
		"destination 192.0.2.1 then rate-limit 1Mbps continue mark 8 redirect 64500:1":             {RateBytes, Continue, Mark, RedirectTarget},
		"destination 192.0.2.1 then rate-limit 1pps redirect 192.0.2.9":                            {RatePackets, RedirectAddress},
		"destination 192.0.2.1 then copy 192.0.2.9":                                                {Accept, Copy},
		"destination 192.0.2.1 then blackhole next-hop 192.0.2.9 communities 64500:1 local-pref 1": {Blackhole},
		"source 192.0.2.1 then source-blackhole":                                                   {SourceBlackhole},
	} {
		r := parse(t, text)
		if got := ActionsOf(r.Action); !slices.Equal(got, want) {
			t.Errorf("%q needs %v, not %v", text, got, want)
		}
		for _, missing := range want {
			p := Profile{Name: "x", Actions: slices.DeleteFunc(Actions(), func(a Action) bool { return a == missing })}
			if res := Compile([]Entry{{Route: r}}, p); len(res.Accepted) != 0 {
				t.Errorf("%q passes without %s", text, missing)
			}
		}
		if res := Compile([]Entry{{Route: r}}, Profile{Actions: want}); len(res.Accepted) != 1 {
			t.Errorf("%q does not pass with %v: %+v", text, want, res.Decisions)
		}
	}
	if len(ActionsOf(route.Action{})) != 1 || ActionsOf(route.Action{})[0] != "" {
		t.Error("an action nobody knows has a word")
	}
}
