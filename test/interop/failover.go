package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/amooglesoft/trafficmonitor/internal/lab"
	"github.com/amooglesoft/trafficmonitor/internal/lab/tap"
	"github.com/amooglesoft/trafficmonitor/internal/route"
	"github.com/amooglesoft/trafficmonitor/internal/safety"
	"github.com/amooglesoft/trafficmonitor/internal/speaker"
)

// Two speakers announce the same routes to one router, and one of them goes away and comes back. The router is watched
// throughout: its own account of its tables, every change of its kernel's routes, and every UPDATE with which it tells a
// neighbour of its own what became of the rules.

// Failover is what was seen at one router during one event.
type Failover struct {
	Router      string   `json:"router"`
	Event       string   `json:"event"`
	Looks       int      `json:"looks"`       // how often its own account was read, with every route there
	Updates     int      `json:"updates"`     // with which it told its neighbour of the rules
	Kernel      int      `json:"kernel"`      // changes of its kernel's blackholes
	Reinstalled int      `json:"reinstalled"` // of these, IPv6 ones that were deleted and came again
	Longest     float64  `json:"longest_ms"`  // until they did, as the kernel's news reached us
	Gaps        []string `json:"gaps"`        // what was missing, withdrawn or deleted, and when
}

// failoverEvents are what happens to one of two speakers, in this order.
var failoverEvents = []string{
	"the first speaker is killed (kill -9), and what the router kept for it runs out",
	"the first speaker comes back",
	"the second speaker is stopped and withdraws its routes",
	"the second speaker comes back",
	"the first speaker is stopped and leaves its routes to graceful restart, which runs out",
	"the first speaker comes back again",
}

// failoverRoutes are what both announce.
func failoverRoutes() ([]route.Route, error) {
	var out []route.Route
	for n, text := range []string{
		"destination {host} protocol udp source-port 53 then discard",
		"destination {host} protocol udp source-port 123 then rate-limit 8Mbps",
		"destination {host} protocol tcp tcp-flags syn&!ack then rate-limit 80Mbps",
		"destination {host} fragment is-fragment then discard",
		"destination {host} then blackhole",
		"destination {host} then blackhole",
	} {
		for _, f := range []route.Family{route.IPv4, route.IPv6} {
			r, err := route.Parse(fill(text, f, n))
			if err != nil {
				return nil, err
			}
			out = append(out, r)
		}
	}
	return out, nil
}

// replica is one of two speakers.
type replica struct {
	in      *lab.Namespace
	program string
	config  speakerConfig
	process *lab.Process
	client  *speaker.Client
}

// announce starts the speaker and hands it the routes.
func (r *replica) announce(ctx context.Context, rev uint64, routes []route.Route) (err error) {
	if r.process, r.client, err = r.config.start(r.in, r.program); err != nil {
		return err
	}
	now := time.Now()
	var all []speaker.Desired
	for i, x := range routes {
		all = append(all, speaker.Desired{Route: x, Deadline: now.Add(time.Hour), Created: now, Owners: []string{fmt.Sprint("failover-", i)}, Manual: true, Approved: true})
	}
	return lab.Until(ctx, "the speaker to take the routes", func(ctx context.Context) error {
		result, err := r.client.Set(ctx, 1, rev, all)
		if err == nil && len(result.Refused) > 0 {
			err = lab.GiveUp(fmt.Errorf("it refused %v", result.Refused))
		}
		return err
	})
}

// end ends the speaker by a signal.
func (r *replica) end(ctx context.Context, sig syscall.Signal) error {
	if err := errors.Join(r.client.Close(), r.process.Signal(sig)); err != nil {
		return err
	}
	select {
	case <-r.process.Done():
		return nil
	case <-ctx.Done():
		return fmt.Errorf("the speaker does not end: %w", ctx.Err())
	}
}

// watched is the router of a failover with what watches it.
type watched struct {
	lab.Router
	receiver lab.Receiver
	routes   []route.Route
	kernel   *lab.RouteWatch
	told     *tap.BGP // what its neighbour hears
}

const failoverRestart = 3 * time.Second // how long routers keep what a lost session told them

// failover tries all events at FRR (index 0) or BIRD (1), and returns what was seen.
func failover(ctx context.Context, l *lab.Lab, program string, index int) ([]Failover, error) {
	ctx, cancel := context.WithTimeout(ctx, 3*patience)
	defer cancel()
	name := []string{"FRR", "BIRD"}[index]
	routes, err := failoverRoutes()
	if err != nil {
		return nil, err
	}
	at := func(what string) (*lab.Namespace, error) { return l.Namespace(fmt.Sprintf("%s-%d", what, index)) }
	them, err := at("router")
	if err != nil {
		return nil, err
	}
	// Three links: to the first speaker, to the second, and to the neighbour that is told.
	var ours [3]*lab.Namespace
	var far lab.Interface // the neighbour's end
	for i, what := range []string{"first", "second", "neighbour"} {
		if ours[i], err = at(what); err != nil {
			return nil, err
		}
		a, b := addresses(200 + 10*index + i)
		if far, _, err = l.Link(lab.End{In: ours[i], Addresses: []string{a.String() + "/24"}}, lab.End{In: them, Addresses: []string{b.String() + "/24"}}); err != nil {
			return nil, err
		}
		// The router speaks from one address, that of the first link.
		if _, id := addresses(200 + 10*index); i > 0 {
			if err := ours[i].AddRoute(id.String()+"/32", b); err != nil {
				return nil, err
			}
		}
	}
	told, err := far.BGP()
	if err != nil {
		return nil, err
	}
	x, err := startWatched(ctx, them, index, routes, told)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	if err := startNeighbour(ctx, ours[2], index); err != nil {
		return nil, err
	}
	var both [2]*replica
	_, id := addresses(200 + 10*index)
	for i := range both {
		a, _ := addresses(200 + 10*index + i)
		both[i] = &replica{in: ours[i], program: program, config: speakerConfig{
			Dir: filepath.Join(l.Dir(), ours[i].Name()), RouterID: a, Restart: failoverRestart,
			OnStop: []string{string(speaker.GracefulRestart), string(speaker.Withdraw)}[i],
			Peers:  []speakerPeer{{name, id, uint32(65100 + index)}},
		}}
		if err := both[i].announce(ctx, 1, routes); err != nil {
			return nil, err
		}
	}
	for i := range both {
		if err := x.has(ctx, i, index); err != nil {
			return nil, err
		}
	}
	if err := x.holdsAll(ctx); err != nil {
		return nil, err
	}
	if err := x.toldAll(ctx); err != nil {
		return nil, err
	}
	steps := []func() error{
		func() error { return errors.Join(both[0].end(ctx, syscall.SIGKILL), x.lost(ctx, 0, index)) },
		func() error { return errors.Join(both[0].announce(ctx, 2, routes), x.has(ctx, 0, index)) },
		func() error { return errors.Join(both[1].end(ctx, syscall.SIGTERM), x.lost(ctx, 1, index)) },
		func() error { return errors.Join(both[1].announce(ctx, 2, routes), x.has(ctx, 1, index)) },
		func() error { return errors.Join(both[0].end(ctx, syscall.SIGTERM), x.lost(ctx, 0, index)) },
		func() error { return errors.Join(both[0].announce(ctx, 3, routes), x.has(ctx, 0, index)) },
	}
	var out []Failover
	for i, step := range steps {
		f, err := x.during(ctx, name, failoverEvents[i], step)
		if err != nil {
			return out, fmt.Errorf("%s, %s: %w", name, failoverEvents[i], err)
		}
		out = append(out, f)
	}
	return out, nil
}

// startWatched starts the router with its three neighbours.
func startWatched(ctx context.Context, them *lab.Namespace, index int, routes []route.Route, told *tap.BGP) (*watched, error) {
	_, id := addresses(200 + 10*index)
	c := lab.RouterConfig{RouterID: id, ASN: uint32(65100 + index), Local: id}
	for i, name := range []string{"first", "second", "neighbour"} {
		a, _ := addresses(200 + 10*index + i)
		n := lab.Neighbor{Name: name, Address: a, ASN: ourASN, Passive: true}
		if i == 2 {
			n.ASN, n.Families = 65199, []lab.AddressFamily{lab.FlowSpec4, lab.FlowSpec6}
			if index == 1 { // what the lab generates exports static routes only
				c.Extra = fmt.Sprintf(`protocol bgp told {
  local %s as %d;
  neighbor %s as %d;
  passive on;
  flow4 { table flowtab4; import none; export all; };
  flow6 { table flowtab6; import none; export all; };
}
`, id, c.ASN, a, n.ASN)
				continue
			}
		}
		c.Neighbors = append(c.Neighbors, n)
	}
	x := &watched{routes: routes, told: told}
	var err error
	if x.kernel, err = them.WatchRoutes(); err != nil {
		return nil, err
	}
	if index == 0 {
		var r *lab.FRR
		r, err = them.StartFRR(ctx, c)
		x.Router, x.receiver = r, r
	} else {
		var r *lab.BIRD
		r, err = them.StartBIRD(ctx, c)
		x.Router, x.receiver = r, r
	}
	return x, err
}

// startNeighbour starts the neighbour that the router tells of its rules.
func startNeighbour(ctx context.Context, in *lab.Namespace, index int) error {
	a, _ := addresses(200 + 10*index + 2)
	_, id := addresses(200 + 10*index)
	_, err := in.StartBIRD(ctx, lab.RouterConfig{
		RouterID: a, ASN: 65199, Local: a,
		Neighbors: []lab.Neighbor{{Name: "router", Address: id, ASN: uint32(65100 + index), Families: []lab.AddressFamily{lab.FlowSpec4, lab.FlowSpec6}}},
	})
	return err
}

// has waits until the router has the session of a speaker, and every blackhole from it where it shows of whom.
func (x *watched) has(ctx context.Context, i, index int) error {
	if err := x.WaitEstablished(ctx, []string{"first", "second"}[i]); err != nil {
		return err
	}
	return x.from(ctx, i, index, func(n int) bool { return n >= 4 })
}

// lost waits until the router has nothing of a speaker any more.
func (x *watched) lost(ctx context.Context, i, index int) error {
	return x.from(ctx, i, index, func(n int) bool { return n == 0 })
}

// from waits for a number of routes from a speaker; FRR does not show of whom it has FlowSpec rules.
func (x *watched) from(ctx context.Context, i, index int, ok func(int) bool) error {
	a, _ := addresses(200 + 10*index + i)
	return lab.Until(ctx, fmt.Sprintf("%s to have what it should from %s", x.Name(), a), func(ctx context.Context) error {
		have, err := x.receiver.Received(ctx)
		if err != nil {
			return err
		}
		n := 0
		for _, r := range have {
			if r.Err != nil {
				return r.Err
			}
			if r.From == a {
				n++
			}
		}
		if !ok(n) {
			return fmt.Errorf("there are %d", n)
		}
		return nil
	})
}

func (x *watched) holdsAll(ctx context.Context) error {
	return lab.Until(ctx, x.Name()+" to hold everything", x.lacks)
}

// toldAll waits until the neighbour was told of every rule.
func (x *watched) toldAll(ctx context.Context) error {
	return lab.Until(ctx, x.Name()+" to tell its neighbour", func(context.Context) error {
		reached, _, err := x.changes(time.Time{})
		for _, r := range x.routes {
			if err == nil && !r.IsBlackhole() && !slices.Contains(reached, r.Match.String()) {
				err = fmt.Errorf("not yet of %s", r)
			}
		}
		return err
	})
}

// lacks says what the router does not hold now: rules by its own tool, blackholes in its kernel.
func (x *watched) lacks(ctx context.Context) error {
	for _, f := range []route.Family{route.IPv4, route.IPv6} {
		rules, err := x.FlowSpecRoutes(ctx, f)
		if err != nil {
			return err
		}
		holes, err := x.Blackholes(ctx, f)
		if err != nil {
			return err
		}
		for _, w := range x.routes {
			switch {
			case w.Family() != f:
			case w.IsBlackhole() && !slices.Contains(holes, w.Prefix()):
				return fmt.Errorf("the kernel lacks %s", w)
			case !w.IsBlackhole() && !slices.ContainsFunc(rules, func(r lab.FlowRoute) bool { return r.Route.Equal(w) && r.Best && !r.Unreachable }):
				return fmt.Errorf("it lacks %s", w)
			}
		}
	}
	return nil
}

// during watches the router while a step is done.
func (x *watched) during(ctx context.Context, name, event string, step func() error) (Failover, error) {
	f := Failover{Router: name, Event: event, Gaps: []string{}}
	since := time.Now()
	watching, stop := context.WithCancel(ctx)
	var wg sync.WaitGroup
	var gaps []string
	wg.Go(func() {
		for watching.Err() == nil {
			if err := x.lacks(watching); err == nil {
				f.Looks++
			} else if watching.Err() == nil {
				gaps = append(gaps, fmt.Sprintf("%s %v", time.Now().Format("15:04:05.000"), err))
			}
		}
	})
	err := step()
	if err == nil {
		err = x.holdsAll(ctx)
	}
	stop()
	wg.Wait()
	if err != nil {
		return f, err
	}
	f.Gaps = append(f.Gaps, gaps...)
	if f.Looks == 0 {
		f.Gaps = append(f.Gaps, "its account was never read with every route there")
	}
	reached, gone, err := x.changes(since)
	if err != nil {
		return f, err
	}
	f.Updates = len(reached) + len(gone)
	for _, g := range gone {
		f.Gaps = append(f.Gaps, "it told its neighbour that it has no longer "+g)
	}
	deleted := map[netip.Prefix]time.Time{}
	for _, e := range x.kernel.Events() {
		if e.Time.Before(since) || !slices.ContainsFunc(x.routes, func(r route.Route) bool { return r.IsBlackhole() && r.Prefix() == e.Prefix }) {
			continue
		}
		f.Kernel++
		at, again := deleted[e.Prefix]
		switch {
		case e.Deleted && e.Prefix.Addr().Is6(): // see reinstalls
			deleted[e.Prefix] = e.Time
		case e.Deleted || !e.Blackhole:
			f.Gaps = append(f.Gaps, fmt.Sprintf("%s the kernel's blackhole of %s went away", e.Time.Format("15:04:05.000"), e.Prefix))
		case again:
			f.Reinstalled++
			f.Longest = max(f.Longest, float64(e.Time.Sub(at).Microseconds())/1000)
			delete(deleted, e.Prefix)
		}
	}
	for p, at := range deleted {
		f.Gaps = append(f.Gaps, fmt.Sprintf("%s the kernel's blackhole of %s went away and did not come again", at.Format("15:04:05.000"), p))
	}
	return f, nil
}

// changes are the matches of the rules that the neighbour was told of, and that they are gone, since a moment.
func (x *watched) changes(since time.Time) (reached, gone []string, err error) {
	read := func(u tap.Update, b []byte) (out []string) {
		f := route.IPv4
		if u.AFI == 2 {
			f = route.IPv6
		}
		for len(b) > 0 && err == nil {
			n := 1 + int(b[0])
			if b[0] >= 0xf0 || n > len(b) {
				err = fmt.Errorf("the neighbour was sent the NLRI %x", b)
				return out
			}
			var m route.Match
			if m, err = safety.DecodeFlowSpec(f, b[:n]); err != nil {
				return out
			}
			out, b = append(out, m.String()), b[n:]
		}
		return out
	}
	for _, u := range x.told.Updates() {
		if !u.Time.Before(since) && u.SAFI == tap.SAFIFlowSpec {
			reached, gone = append(reached, read(u, u.Reach)...), append(gone, read(u, u.Unreach)...)
		}
	}
	return reached, gone, err
}

// failovers tries FRR and BIRD at the same time.
func failovers(ctx context.Context, l *lab.Lab, program string) ([]Failover, error) {
	return atBoth(func(i int) ([]Failover, error) { return failover(ctx, l, program, i) })
}

// atBoth does the same with FRR and BIRD at the same time.
func atBoth[T any](try func(i int) ([]T, error)) ([]T, error) {
	var out [2][]T
	var errs [2]error
	var wg sync.WaitGroup
	for i := range out {
		wg.Go(func() { out[i], errs[i] = try(i) })
	}
	wg.Wait()
	return slices.Concat(out[:]...), errors.Join(errs[:]...)
}

// reinstalls is known of both routers: when another path of an IPv6 blackhole becomes the best, they delete the kernel's
// route and add it again, where they replace an IPv4 one.
const reinstalls = "when another path of an IPv6 blackhole becomes the best, because the speaker of the best one went away or, with BIRD,\n" +
	"came back, the kernel tells of a deletion and of an addition right behind it: for less than a poll can see, packets to that target\n" +
	"pass. IPv4 blackholes are replaced at once."

// gaps says what was missing, and which router no longer does what is known of it.
func gaps(all []Failover) (out []string) {
	known := map[string]int{}
	for _, f := range all {
		known[f.Router] += f.Reinstalled
	}
	for router, n := range known {
		if n == 0 {
			out = append(out, router+" reinstalled no IPv6 blackhole, though that is listed: remove it")
		}
	}
	for _, f := range all {
		if len(f.Gaps) > 0 {
			out = append(out, fmt.Sprintf("%s, %s: %s", f.Router, f.Event, strings.Join(f.Gaps, "; ")))
		}
	}
	return out
}
