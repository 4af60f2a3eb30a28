package main

import (
	"reflect"
	"strings"
	"testing"

	"github.com/amooglesoft/trafficmonitor/internal/lab"
	"github.com/amooglesoft/trafficmonitor/internal/route"
)

// The random rules say everything a route can say, keep to their part of our networks, and follow from their seed.
func TestRandomCells(t *testing.T) {
	cells := randomCells(1, 2000)
	said, kinds := map[string]bool{}, map[route.ActionKind]int{}
	for _, c := range cells {
		for path := range leaves(reflect.ValueOf(c.Route), "Route") {
			said[c.Family.String()+" "+path] = true
		}
		kinds[c.Route.Action.Kind]++
		have := lab.Received{Match: wantedMatch(c)}
		if !c.holds(have) || cells[(c.number+1)%len(cells)].holds(have) {
			t.Errorf("%s is not told from the cell next to it", c.Route)
		}
		if again, err := route.Parse(c.Route.String()); err != nil || !again.Equal(c.Route) {
			t.Errorf("%s is read as %s, %v", c.Route, again, err)
		}
	}
	for _, f := range []route.Family{route.IPv4, route.IPv6} {
		for path := range paths(reflect.TypeFor[route.Route](), "Route") {
			if !said[f.String()+" "+path] && !notIn[f][path] && path != "Route.Action.Attributes.LocalPref" {
				t.Errorf("no random %s rule says %s", f, path)
			}
		}
	}
	for k := route.ActionKind(1); !strings.HasPrefix(k.String(), "action-"); k++ {
		if kinds[k] < 10 {
			t.Errorf("%d of %d random rules have the action %s", kinds[k], len(cells), k)
		}
	}
	for i, c := range randomCells(1, 50) {
		if !c.Route.Equal(cells[i].Route) {
			t.Errorf("rule %d of seed 1 is %s, and was %s", i, c.Route, cells[i].Route)
		}
	}
}

// Every smaller rule is another one, and by going on with those that still have what is wrong, little more than that is left.
func TestSmaller(t *testing.T) {
	for _, c := range randomCells(3, 300) {
		wrong := func(r route.Route) bool { // as if a decoder failed on these
			for _, x := range r.Match.DestinationPort {
				if x.Hi > 40000 {
					return true
				}
			}
			return false
		}
		r := c.Route
		if !wrong(r) {
			continue
		}
		for steps, found := 0, true; found; steps++ {
			found = false
			for _, s := range smaller(r) {
				if s.Equal(r) {
					t.Fatalf("%s is smaller than itself", r)
				}
				if wrong(s) {
					r, found = s, true
					break
				}
			}
			if steps > 200 {
				t.Fatalf("it does not end: %s", r)
			}
		}
		want := route.Match{Destination: r.Match.Destination, DestinationPort: r.Match.DestinationPort}
		if !want.Destination.IsValid() {
			want.Source = r.Match.Source
		}
		if p := want.DestinationPort; !r.Match.Equal(want) || len(p) != 1 || p[0].Lo != p[0].Hi || r.Action != (route.Action{Kind: route.Discard}) {
			t.Errorf("%s shrinks to %s", c.Route, r)
		}
	}
}

// The judge of random rules is judged, as that of cells is.
func TestWrongIn(t *testing.T) {
	rule := func(text string) Cell {
		r, err := route.Parse("destination 10.128.0.1/32 " + text)
		if err != nil {
			t.Fatal(err)
		}
		return randomCell(r, 0)
	}
	plain, packets := rule("protocol udp then discard"), rule("protocol udp then rate-limit 1kpps")
	for name, c := range map[string]struct {
		r     Result
		wrong bool
	}{
		"as meant":                    {Result{Router: "FRR", cell: plain, Sent: true, Accepted: true, ReadBackEqual: true, Withdrawn: true}, false},
		"another action":              {Result{Router: "FRR", cell: plain, Sent: true, Accepted: true, Withdrawn: true, matches: true}, true},
		"another action, listed":      {Result{Router: "FRR", cell: packets, Sent: true, Accepted: true, Withdrawn: true, matches: true}, false},
		"another match, listed":       {Result{Router: "FRR", cell: packets, Sent: true, Accepted: true, Withdrawn: true}, true},
		"listed for another router":   {Result{Router: "BIRD", cell: packets, Sent: true, Accepted: true, Withdrawn: true, matches: true}, true},
		"not there":                   {Result{Router: "FRR", cell: plain, Sent: true}, true},
		"stays":                       {Result{Router: "FRR", cell: packets, Sent: true, Accepted: true, ReadBackEqual: true}, true},
		"not sent":                    {Result{Router: "FRR", cell: plain}, true},
		"refused for BGP":             {Result{Router: "FRR", cell: plain, Note: refusedNote + "bgp: it could cut sessions"}, false},
		"refused for its octets":      {Result{Router: "FRR", cell: plain, Note: refusedNote + "encoding: not what was meant"}, true},
		"refused for another reason":  {Result{Router: "FRR", cell: plain, Note: refusedNote + "malformed: no"}, true},
		"a reset, though it may show": {Result{Router: "FRR", cell: packets, Sent: true, Note: "NOTIFICATION 3/1"}, true},
	} {
		if got := wrongIn(c.r); (got != "") != c.wrong {
			t.Errorf("%s: %q", name, got)
		}
	}
	if wrongFuzz([]Fuzz{{Router: "BIRD", Rules: 100, Compared: 5}}) == nil {
		t.Error("a run that compares nothing is fine")
	}
}
