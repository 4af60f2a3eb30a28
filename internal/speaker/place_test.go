package speaker

import (
	"bytes"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/amooglesoft/trafficmonitor/internal/compile"
	"github.com/amooglesoft/trafficmonitor/internal/safety"
)

var placeNow = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// admitted are items as the speaker holds them: judged and encoded.
func admitted(t testing.TB, l safety.Limits, change func(*Desired), texts ...string) []*item {
	t.Helper()
	var items []*item
	var entries []safety.Entry
	for i, text := range texts {
		d := Desired{Route: parse(t, text), Created: placeNow.Add(time.Duration(i-1000) * time.Second), Deadline: placeNow.Add(time.Hour), Owners: []string{"m"}}
		if change != nil {
			change(&d)
		}
		it := newItem(d)
		e, err := encodeRoute(it.Route)
		if err != nil {
			t.Fatal(err)
		}
		it.enc = &e
		items, entries = append(items, it), append(entries, it.entry())
	}
	if v := safety.Check(placeNow, l, entries); len(v) > 0 {
		t.Fatalf("the test's own routes are refused: %+v", v)
	}
	return items
}

func ruleTexts(p placement) []string {
	var out []string
	for _, r := range p.rules {
		out = append(out, r.text)
	}
	slices.Sort(out)
	return out
}

// A router of which nothing is said gets the routes themselves, in order of value.
func TestPlaceGeneric(t *testing.T) {
	set := admitted(t, testLimits(), nil, "destination 192.0.2.1/32 protocol udp then rate-limit 8Mbps", "destination 192.0.2.2/32 then blackhole")
	cache := map[string]*encoded{"left from before": {}}
	p := placeSet(placeNow, set, compile.Profile{}, testLimits(), &cache)
	if len(p.rules) != 2 || p.rules[0].text != set[1].text || p.rules[1].enc != set[0].enc || len(p.of)+len(p.refused)+len(p.widened)+len(cache) != 0 {
		t.Errorf("%+v", p)
	}
}

// A split route's rules are encoded, proven and kept; a route that is no longer there leaves nothing behind.
func TestPlaceSplit(t *testing.T) {
	prof := compile.Profile{Name: "x", Split: 4, Unmixed: true}
	set := admitted(t, testLimits(), nil,
		"destination 192.0.2.1/32 protocol udp source-port 53,100-200 then discard", "destination 192.0.2.2/32 protocol udp then discard")
	var cache map[string]*encoded
	p := placeSet(placeNow, set, prof, testLimits(), &cache)
	want := []string{
		"destination 192.0.2.1/32 protocol udp source-port 100-200 then discard", "destination 192.0.2.1/32 protocol udp source-port 53 then discard",
		"destination 192.0.2.2/32 protocol udp then discard",
	}
	if got := ruleTexts(p); !slices.Equal(got, want) || len(p.of[set[0].id]) != 2 || p.widened[set[0].id] != "" {
		t.Fatalf("%v %+v", got, p)
	}
	for _, r := range p.rules {
		fresh, err := encodeRoute(r.Route)
		if err != nil || !bytes.Equal(fresh.nlri, r.enc.nlri) || r.Deadline != set[0].Deadline || r.Owners[0] != "m" {
			t.Errorf("%s: %v %+v", r.text, err, r)
		}
	}
	before := cache[want[0]]
	if again := placeSet(placeNow, set, prof, testLimits(), &cache); len(again.rules) != 3 || cache[want[0]] != before {
		t.Error("the same rules are encoded again")
	}
	if placeSet(placeNow, set[1:], prof, testLimits(), &cache); len(cache) != 0 {
		t.Errorf("%d rules are kept of a route that is gone", len(cache))
	}
}

// What a widened rule matches besides is judged like a route of its own: here an approved rule for a router of ours, which
// leaves BGP alone by naming both ports, would cut BGP without one of them.
func TestPlaceJudgesWidenedRules(t *testing.T) {
	l := testLimits()
	l.Never = []netip.Prefix{netip.MustParsePrefix("192.0.2.254/32")}
	person := func(d *Desired) { d.Manual, d.Approved = true, true }
	set := slices.Concat(
		admitted(t, l, person, "destination 192.0.2.254/32 protocol tcp destination-port 80 source-port 2000 then discard"),
		admitted(t, l, nil, "destination 192.0.2.1/32 protocol tcp destination-port 80 source-port 2000 then discard"),
	)
	prof := compile.Profile{Name: "x", Exclusive: [][2]string{{"source-port", "destination-port"}}, Widen: []string{"destination-port"}}
	var cache map[string]*encoded
	p := placeSet(placeNow, set, prof, l, &cache)
	if got := ruleTexts(p); !slices.Equal(got, []string{"destination 192.0.2.1/32 protocol tcp source-port 2000 then discard"}) {
		t.Fatalf("the router gets %v", got)
	}
	u := p.refused[set[0].id]
	if u.outcome != compile.Refused || !strings.Contains(u.reason, `"destination 192.0.2.254/32 protocol tcp source-port 2000 then discard", which the router would get for it, breaks bgp`) {
		t.Errorf("%+v", u)
	}
	if w := p.widened[set[1].id]; !strings.Contains(w, "destination-port 80 is not matched there") {
		t.Errorf("told %q", w)
	}
	if _, ok := p.of[set[0].id]; ok {
		t.Error("a refused route has rules")
	}
}

// Parts count for the quotas, and a route one part of which is over a quota is not placed with the other.
func TestPlaceCountsParts(t *testing.T) {
	l := testLimits()
	l.MaxRulesPerTarget = 3
	set := admitted(t, l, nil,
		"destination 192.0.2.1/32 protocol udp source-port 53,100-200 then discard", "destination 192.0.2.1/32 protocol udp source-port 123,300-400 then discard")
	var cache map[string]*encoded
	p := placeSet(placeNow, set, compile.Profile{Split: 4, Unmixed: true}, l, &cache)
	if got := ruleTexts(p); len(got) != 2 || len(p.refused) != 1 || !strings.Contains(p.refused[set[1].id].reason, "breaks quota_per_target") {
		t.Errorf("%v %+v", got, p.refused)
	}
}

// Room for 100 and 500 wanted.
func TestPlaceRoom(t *testing.T) {
	var texts []string
	for i := range 500 {
		texts = append(texts, fmt.Sprintf("destination 10.0.%d.%d/32 protocol udp then discard", i/250, i%250))
	}
	set := admitted(t, testLimits(), nil, texts...)
	var cache map[string]*encoded
	p := placeSet(placeNow, set, compile.Profile{Name: "x", Budget: compile.Budget{Shared: 100}}, testLimits(), &cache)
	if len(p.rules) != 100 || len(p.refused) != 400 || p.cost != 100 || p.rules[0].text != set[0].text {
		t.Fatalf("%d placed, %d not", len(p.rules), len(p.refused))
	}
	for id, u := range p.refused {
		if u.outcome != compile.NotPlaced || !strings.Contains(u.reason, "the router has 100 entries") {
			t.Errorf("%s: %+v", id, u)
		}
	}
}
