package main

import (
	"strings"
	"testing"
	"time"

	"github.com/amooglesoft/trafficmonitor/internal/route"
)

func TestKept(t *testing.T) {
	routes, err := failoverRoutes()
	if err != nil {
		t.Fatal(err)
	}
	a, b := routes[0], routes[1]
	start := time.Now()
	at := func(seconds int, have, stale []route.Route) look {
		l := look{at: start.Add(time.Duration(seconds) * time.Second), have: map[string]bool{}, stale: map[string]bool{}}
		for _, r := range have {
			l.have[r.Match.String()] = true
		}
		for _, r := range stale {
			l.stale[r.Match.String()] = true
		}
		return l
	}
	both, one := []route.Route{a, b}, []route.Route{b}
	for name, c := range map[string]struct {
		looks []look
		want  Kept
	}{
		"always there":     {[]look{at(1, both, nil), at(2, both, nil)}, Kept{}},
		"dropped":          {[]look{at(1, nil, nil), at(2, nil, nil)}, Kept{First: 1, Gone: 1}},
		"one by one":       {[]look{at(1, both, nil), at(2, one, nil), at(3, nil, nil)}, Kept{First: 2, Gone: 3}},
		"stale, then gone": {[]look{at(1, both, one), at(2, both, both), at(3, one, one), at(4, nil, nil)}, Kept{First: 3, Stale: 2, Gone: 4}},
		"back again":       {[]look{at(1, nil, nil), at(2, both, nil)}, Kept{First: 1}},
	} {
		if got := kept(c.looks, start, both); got != c.want {
			t.Errorf("%s: %+v, want %+v", name, got, c.want)
		}
	}
}

// The judge of what routers keep is judged.
func TestJudgeOfRestarts(t *testing.T) {
	end, mark := (restartTime + longLived).Seconds(), restartTime.Seconds()
	whole := Kept{First: end, Stale: mark, Gone: end}
	for name, c := range map[string]struct {
		event int
		bird  bool
		r     Restart
		wrong string
	}{
		"BIRD alone":             {0, true, Restart{Looks: 50, Rules: whole, Holes: whole, Expired: Kept{}}, ""},
		"let go at once":         {0, true, Restart{Looks: 50, Rules: Kept{First: 0.1, Gone: 0.2}, Holes: whole}, "the rules went"},
		"kept for ever":          {0, true, Restart{Looks: 50, Rules: whole, Holes: Kept{Stale: mark}}, "blackholes went"},
		"never marked":           {0, true, Restart{Looks: 50, Rules: Kept{First: end, Gone: end}, Holes: whole}, "the rules were marked"},
		"back in time":           {1, true, Restart{Looks: 50, Expired: Kept{First: 4, Gone: 4}}, ""},
		"a gap":                  {1, true, Restart{Looks: 50, Rules: Kept{First: 2}, Expired: Kept{First: 4, Gone: 4}}, "one of the rules was missing"},
		"past its deadline":      {1, true, Restart{Looks: 50}, "stayed though its deadline passed"},
		"stale for no reason":    {1, true, Restart{Looks: 50, Holes: Kept{Stale: 1}, Expired: Kept{Gone: 4}}, "marked stale: true"},
		"back when stale":        {2, true, Restart{Looks: 50, Rules: Kept{Stale: 5}, Holes: Kept{Stale: 5}, Expired: Kept{Stale: 5, Gone: 6}}, ""},
		"FRR alone":              {0, false, Restart{Looks: 50, Rules: Kept{First: 0.1, Gone: 0.1}, Holes: whole}, ""},
		"an FRR that keeps more": {0, false, Restart{Looks: 50, Rules: whole, Holes: whole}, "the rules went"},
		"FRR back":               {1, false, Restart{Looks: 50, Rules: Kept{First: 0.1}}, ""},
		"hardly looked at":       {1, false, Restart{Looks: 2, Rules: Kept{First: 0.1}}, "asked 2 times"},
	} {
		if c.event == 0 && c.bird {
			c.r.Expired = c.r.Rules
		}
		c.r.judge(c.event, c.bird)
		if got := strings.Join(c.r.wrong, "; "); c.wrong == "" && got != "" || !strings.Contains(got, c.wrong) {
			t.Errorf("%s: %q, want %q", name, got, c.wrong)
		}
	}
}
