package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/amooglesoft/trafficmonitor/internal/lab"
	"github.com/amooglesoft/trafficmonitor/internal/lab/tap"
	"github.com/amooglesoft/trafficmonitor/internal/route"
	"github.com/amooglesoft/trafficmonitor/internal/safety"
)

// router is a router of the site under observation.
type router struct {
	s    *system
	name string
	lab.Router
	wire   *tap.BGP        // every UPDATE towards the router
	kernel *lab.RouteWatch // every change of its kernel's routes
}

func (s *system) newRouter(name string, r lab.Router, i lab.Interface) *router {
	s.t.Helper()
	x := &router{s: s, name: name, Router: r}
	var err error
	if x.wire, err = i.BGP(); err != nil {
		s.t.Fatal(err)
	}
	if x.kernel, err = r.In().WatchRoutes(); err != nil {
		s.t.Fatal(err)
	}
	s.routers = append(s.routers, x)
	return x
}

func (r *router) established() {
	r.s.t.Helper()
	if err := r.WaitEstablished(within(r.s.t, patience)); err != nil {
		r.s.t.Fatal(err)
	}
}

// parse reads a route's text form.
func (s *system) parse(text string) route.Route {
	s.t.Helper()
	r, err := route.Parse(text)
	if err != nil {
		s.t.Fatal(err)
	}
	return r
}

// split sorts routes into what a router keeps as FlowSpec rules and what as blackholes, of one family.
func (s *system) split(f route.Family, texts []string) (rules []route.Route, holes []netip.Prefix) {
	s.t.Helper()
	for _, text := range texts {
		switch r := s.parse(text); {
		case r.Family() != f:
		case r.IsBlackhole():
			holes = append(holes, r.Prefix())
		default:
			rules = append(rules, r)
		}
	}
	return rules, holes
}

// holds waits until the router holds exactly these routes, FlowSpec by its own tool's account, blackholes in its kernel.
func (r *router) holds(texts ...string) {
	r.s.t.Helper()
	ctx := within(r.s.t, patience)
	for _, f := range []route.Family{route.IPv4, route.IPv6} {
		rules, holes := r.s.split(f, texts)
		if _, err := lab.WaitFlowSpec(ctx, r, f, rules...); err != nil {
			text, _ := r.FlowSpecText(context.WithoutCancel(ctx), f)
			r.s.t.Fatalf("%v\n%s", err, text)
		}
		if err := lab.WaitBlackholes(ctx, r, f, holes...); err != nil {
			r.s.t.Fatal(err)
		}
	}
}

// hold waits until every router holds exactly these routes.
func (s *system) hold(texts ...string) {
	s.t.Helper()
	for _, r := range s.routers {
		r.holds(texts...)
	}
}

// wanted are the routes of one family that a router is to have.
type wanted struct {
	family route.Family
	rules  []route.Route
	holes  []netip.Prefix
}

// lacks says what is missing of the wanted routes at the router at this moment. It may be called beside the test.
func (r *router) lacks(ctx context.Context, all []wanted) error {
	for _, w := range all {
		if len(w.rules) > 0 {
			have, err := r.FlowSpecRoutes(ctx, w.family)
			if err != nil {
				return err
			}
			for _, want := range w.rules {
				if !slices.ContainsFunc(have, func(h lab.FlowRoute) bool { return h.Route.Equal(want.Canonical()) && !h.Unreachable }) {
					return fmt.Errorf("%s lacks %s", r.name, want)
				}
			}
		}
		if len(w.holes) > 0 {
			have, err := r.Blackholes(ctx, w.family)
			if err != nil {
				return err
			}
			for _, want := range w.holes {
				if !slices.Contains(have, want) {
					return fmt.Errorf("%s does not discard %s", r.name, want)
				}
			}
		}
	}
	return nil
}

// keeps watches that the router never lacks one of the routes, from now until the returned function is called.
func (r *router) keeps(texts ...string) (stop func()) {
	r.s.t.Helper()
	var all []wanted
	for _, f := range []route.Family{route.IPv4, route.IPv6} {
		rules, holes := r.s.split(f, texts)
		all = append(all, wanted{f, rules, holes})
	}
	ctx, cancel := context.WithCancel(r.s.t.Context())
	var wg sync.WaitGroup
	var lost error
	looks := 0
	wg.Go(func() {
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for {
			err := r.lacks(ctx, all)
			if ctx.Err() != nil {
				return
			}
			if err != nil {
				lost = fmt.Errorf("at %s: %w", time.Now().Format("15:04:05.000"), err)
				return
			}
			looks++
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
		}
	})
	end := sync.OnceFunc(func() { cancel(); wg.Wait() })
	r.s.t.Cleanup(end)
	return func() {
		r.s.t.Helper()
		end()
		if lost != nil {
			r.s.t.Error(lost)
		} else if looks == 0 {
			r.s.t.Errorf("%s was never looked at", r.name)
		}
	}
}

// change is one route announced to or withdrawn from a router, as it stood on the wire.
type change struct {
	at       time.Time
	withdraw bool
	what     string // match of a rule, or "blackhole" and the prefix
}

func (c change) String() string {
	verb := "announced"
	if c.withdraw {
		verb = "withdrawn"
	}
	return c.at.Format("15:04:05.000") + " " + verb + " " + c.what
}

// changes returns what was announced and withdrawn since a moment, decoded by the safety kernel's decoder.
func (r *router) changes(since time.Time) (out []change) {
	r.s.t.Helper()
	for _, u := range r.wire.Updates() {
		if u.Time.Before(since) {
			continue
		}
		for _, b := range []struct {
			withdraw bool
			nlri     []byte
		}{{true, u.Unreach}, {false, u.Reach}} {
			for nlri := b.nlri; len(nlri) > 0; {
				var what string
				what, nlri = r.one(u, nlri)
				out = append(out, change{u.Time, b.withdraw, what})
			}
		}
	}
	return out
}

// one reads the first NLRI of several.
func (r *router) one(u tap.Update, b []byte) (what string, rest []byte) {
	r.s.t.Helper()
	f := route.IPv4
	if u.AFI == 2 {
		f = route.IPv6
	}
	if u.SAFI == tap.SAFIFlowSpec {
		n := 1 + int(b[0])
		if b[0] >= 0xf0 || n > len(b) {
			r.s.t.Fatalf("%s was sent the FlowSpec NLRI %x", r.name, b)
		}
		m, err := safety.DecodeFlowSpec(f, b[:n])
		if err != nil {
			r.s.t.Fatalf("%s was sent the FlowSpec NLRI %x: %v", r.name, b, err)
		}
		return m.String(), b[n:]
	}
	size := 4
	if f == route.IPv6 {
		size = 16
	}
	n := 1 + (int(b[0])+7)/8
	if n > len(b) || n > 1+size {
		r.s.t.Fatalf("%s was sent the NLRI %x", r.name, b)
	}
	octets := make([]byte, size)
	copy(octets, b[1:n])
	a, _ := netip.AddrFromSlice(octets)
	return "blackhole " + netip.PrefixFrom(a, int(b[0])).String(), b[n:]
}

// onWire is how change names a route.
func (s *system) onWire(text string) string {
	s.t.Helper()
	r := s.parse(text).Canonical()
	if r.IsBlackhole() {
		return "blackhole " + r.Prefix().String()
	}
	return r.Match.String()
}

// only fails the test when the router heard anything else than this since a moment, each exactly once, in any order.
func (r *router) only(since time.Time, want ...string) {
	r.s.t.Helper()
	var have []string
	for _, c := range r.changes(since) {
		_, what, _ := strings.Cut(c.String(), " ")
		have = append(have, what)
	}
	if err := same(have, want); err != nil {
		r.s.t.Errorf("what %s heard since %s: %v", r.name, since.Format("15:04:05.000"), err)
	}
}

// quiet fails the test when anything was announced to or withdrawn from the router since a moment.
func (r *router) quiet(since time.Time) {
	r.s.t.Helper()
	if c := r.changes(since); len(c) > 0 {
		r.s.t.Errorf("%s was to hear nothing since %s: %v", r.name, since.Format("15:04:05.000"), c)
	}
}

// waitChange waits until the router hears of a route, and returns when.
func (r *router) waitChange(since time.Time, text string, withdraw bool) time.Time {
	r.s.t.Helper()
	var at time.Time
	want := r.s.onWire(text)
	_, err := r.wire.Wait(within(r.s.t, patience), since, func(tap.Update) bool {
		for _, c := range r.changes(since) {
			if c.withdraw == withdraw && c.what == want {
				at = c.at
				return true
			}
		}
		return false
	})
	if err != nil {
		r.s.t.Fatalf("%s: no change (withdraw %v) of %s: %v; there were %v", r.name, withdraw, text, err, r.changes(since))
	}
	return at
}

// session is what a router counts of its session with us.
type session struct {
	ups, downs, updates int
	since               time.Time // where the router says it
}

// is reports whether two moments see the same session; BIRD's times of day are no exact numbers.
func (x session) is(y session) bool {
	return x.ups == y.ups && x.downs == y.downs && x.since.Sub(y.since).Abs() < 100*time.Millisecond
}

// still fails the test when the router's session is not the one it was, or when it counts more or fewer updates since.
func (r *router) still(was session, updates int) {
	r.s.t.Helper()
	if now := r.session(); !now.is(was) || now.updates != was.updates+updates {
		r.s.t.Errorf("the session of %s was %+v and is %+v, with %d updates in between", r.name, was, now, updates)
	}
}

// session asks the router's own tool.
func (r *router) session() (x session) {
	r.s.t.Helper()
	ctx := within(r.s.t, patience)
	switch r.name {
	case "frr":
		text, err := r.Command(ctx, "show bgp neighbors json")
		if err != nil {
			r.s.t.Fatal(err)
		}
		var peers map[string]struct {
			State        string `json:"bgpState"`
			Established  int    `json:"connectionsEstablished"`
			Dropped      int    `json:"connectionsDropped"`
			MessageStats struct {
				Updates int `json:"updatesRecv"`
			} `json:"messageStats"`
		}
		if err := json.Unmarshal([]byte(text), &peers); err != nil {
			r.s.t.Fatal(err)
		}
		p, ok := peers[lab.SiteControlForFRR.String()]
		if !ok || p.Established == 0 {
			r.s.t.Fatalf("FRR knows %v", slices.Collect(maps.Keys(peers)))
		}
		return session{ups: p.Established, downs: p.Dropped, updates: p.MessageStats.Updates}
	default:
		text, err := r.Command(ctx, "show protocols all bgp_control")
		if err != nil {
			r.s.t.Fatal(err)
		}
		// "bgp_control BGP --- up 18:20:01.123 Established", and for each channel "Import updates: 4 0 0 0 4".
		for line := range strings.Lines(text) {
			w := strings.Fields(line)
			switch {
			case len(w) >= 6 && w[0] == "bgp_control":
				if x.since, err = time.Parse("15:04:05", w[4]); err != nil || w[5] != "Established" {
					r.s.t.Fatalf("BIRD printed %q", line)
				}
			case len(w) > 2 && w[0] == "Import" && (w[1] == "updates:" || w[1] == "withdraws:"):
				var n int
				if _, err := fmt.Sscan(w[2], &n); err != nil {
					r.s.t.Fatalf("BIRD printed %q", line)
				}
				x.updates += n
			}
		}
		return x
	}
}

// same compares two sets of texts.
func same(have, want []string) error {
	h, w := slices.Sorted(slices.Values(have)), slices.Sorted(slices.Values(want))
	if !slices.Equal(h, w) {
		return fmt.Errorf("there are\n\t%s\nand not\n\t%s", strings.Join(h, "\n\t"), strings.Join(w, "\n\t"))
	}
	return nil
}
