package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/amooglesoft/trafficmonitor/internal/lab"
	"github.com/amooglesoft/trafficmonitor/internal/route"
	"github.com/amooglesoft/trafficmonitor/internal/speaker"
)

// One speaker, which is killed, and one router, which is asked over and over what it still holds: for how long it keeps
// rules and blackholes, when it marks them as stale for long (RFC 9494), and what becomes of them when the speaker is back.

// Restart is what was seen at one router.
type Restart struct {
	Router  string `json:"router"`
	Event   string `json:"event"`
	Looks   int    `json:"looks"`
	Rules   Kept   `json:"rules"`
	Holes   Kept   `json:"blackholes"`
	Expired Kept   `json:"expired"` // the rule whose deadline passes while nobody can withdraw it
	wrong   []string
}

// Kept says what became of a kind of routes, in seconds after the kill; 0 is never.
type Kept struct {
	First float64 `json:"first_missing"` // one of them was missing
	Stale float64 `json:"stale"`         // all that are left are marked LLGR_STALE
	Gone  float64 `json:"gone"`          // the last was missing
}

const llgrStale = 0xffff0006

// What the speaker asks routers for.
const (
	restartTime  = 5 * time.Second
	longLived    = 7 * time.Second
	generousTime = 60 * time.Second
	// What a busy machine and timers of whole seconds may add or take.
	slack = 10 * time.Second
	early = 1500 * time.Millisecond
)

var restartEvents = []string{
	"the speaker is killed (kill -9) and does not come back",
	"the speaker is killed and comes back within the graceful restart time",
	"the speaker is killed and comes back when its routes are long-lived stale",
}

// restartLoses is tried at BIRD only, which shows which of the paths of a rule is the best.
const restartLoses = "the speaker is killed, and another one has announced the same rules"

// look is what a router held at one time.
type look struct {
	at          time.Time
	have, stale map[string]bool // by match
}

// restarts tries all events at FRR (index 0) or BIRD (1).
func restarts(ctx context.Context, l *lab.Lab, program string, index int) (out []Restart, err error) {
	ctx, cancel := context.WithTimeout(ctx, 4*patience)
	defer cancel()
	name := []string{"FRR", "BIRD"}[index]
	routes, err := failoverRoutes()
	if err != nil {
		return nil, err
	}
	us, err := l.Namespace(fmt.Sprintf("restart-us%d", index))
	if err != nil {
		return nil, err
	}
	them, err := l.Namespace(fmt.Sprintf("restart-them%d", index))
	if err != nil {
		return nil, err
	}
	a, b := addresses(230 + index)
	if _, _, err := l.Link(lab.End{In: us, Addresses: []string{a.String() + "/24"}}, lab.End{In: them, Addresses: []string{b.String() + "/24"}}); err != nil {
		return nil, err
	}
	second, err := l.Namespace(fmt.Sprintf("restart-second%d", index))
	if err != nil {
		return nil, err
	}
	a2, b2 := addresses(240 + index)
	if _, _, err := l.Link(lab.End{In: second, Addresses: []string{a2.String() + "/24"}}, lab.End{In: them, Addresses: []string{b2.String() + "/24"}}); err != nil {
		return nil, err
	}
	if err := second.AddRoute(b.String()+"/32", b2); err != nil {
		return nil, err
	}
	c := lab.RouterConfig{RouterID: b, ASN: uint32(65100 + index), Local: b, Neighbors: []lab.Neighbor{
		{Name: "speaker", Address: a, ASN: ourASN, Passive: true}, {Name: "second", Address: a2, ASN: ourASN, Passive: true},
	}}
	var router lab.Receiver
	if index == 0 {
		// FRR keeps nothing for long unless it is told for how long itself.
		c.Extra = fmt.Sprintf("router bgp %d\n bgp long-lived-graceful-restart stale-time %d\nexit\n", c.ASN, int(generousTime/time.Second))
		router, err = them.StartFRR(ctx, c)
	} else {
		router, err = them.StartBIRD(ctx, c)
	}
	if err != nil {
		return nil, err
	}
	for i, event := range restartEvents {
		s := &replica{in: us, program: program, config: speakerConfig{
			Dir: filepath.Join(l.Dir(), fmt.Sprintf("%s-%d", us.Name(), i)), RouterID: a, OnStop: string(speaker.Withdraw),
			Restart: []time.Duration{restartTime, generousTime, restartTime}[i], LongLived: []time.Duration{longLived, longLived, generousTime}[i],
			Peers: []speakerPeer{{name, b, c.ASN}},
		}}
		r, err := restart(ctx, router, s, event, routes)
		if err != nil {
			return out, fmt.Errorf("%s, %s: %w", name, event, err)
		}
		r.Router = name
		r.judge(i, index == 1)
		fmt.Printf("%s, %s: rules %+v, blackholes %+v, the rule that ends %+v\n", name, event, r.Rules, r.Holes, r.Expired)
		out = append(out, r)
	}
	if bird, ok := router.(*lab.BIRD); ok {
		var both [2]*replica
		for i, in := range []*lab.Namespace{us, second} {
			both[i] = &replica{in: in, program: program, config: speakerConfig{
				Dir: filepath.Join(l.Dir(), in.Name()+"-loses"), RouterID: []netip.Addr{a, a2}[i], OnStop: string(speaker.Withdraw),
				Restart: restartTime, LongLived: generousTime, Peers: []speakerPeer{{name, b, c.ASN}},
			}}
		}
		rules, _ := split(routes)
		if err := loses(ctx, bird, both, rules); err != nil {
			return out, fmt.Errorf("%s, %s: %w", name, restartLoses, err)
		}
		out = append(out, Restart{Router: name, Event: restartLoses})
	}
	return out, nil
}

// loses has two speakers announce the same rules, kills the one whose paths are the best, and waits until they are
// long-lived stale and the other's are the best.
func loses(ctx context.Context, router *lab.BIRD, both [2]*replica, rules []route.Route) error {
	best := func(i int, stale bool) error {
		from := both[i].config.RouterID
		return lab.Until(ctx, fmt.Sprintf("the rules from %s to be the best, those of the other long-lived stale: %v", from, stale), func(ctx context.Context) error {
			received, err := router.Received(ctx)
			if err != nil {
				return err
			}
			for _, f := range []route.Family{route.IPv4, route.IPv6} {
				paths, err := router.FlowSpecRoutes(ctx, f)
				if err != nil {
					return err
				}
				for _, r := range rules {
					if r.Family() != f {
						continue
					}
					if !slices.ContainsFunc(paths, func(p lab.FlowRoute) bool { return p.Route.Match.Equal(r.Match) && p.Best && p.From == from }) {
						return fmt.Errorf("that of %s is not", r)
					}
					if !slices.ContainsFunc(received, func(p lab.Received) bool {
						return p.Match.Equal(r.Match) && p.From == both[1-i].config.RouterID && slices.Contains(p.Path.Communities, llgrStale) == stale
					}) {
						return fmt.Errorf("that of %s from the other is not", r)
					}
				}
			}
			return nil
		})
	}
	for i, s := range both {
		if err := s.announce(ctx, 1, rules); err != nil {
			return err
		}
		if err := router.WaitEstablished(ctx, []string{"speaker", "second"}[i]); err != nil {
			return err
		}
	}
	if err := best(0, false); err != nil {
		return err
	}
	if err := both[0].end(ctx, syscall.SIGKILL); err != nil {
		return err
	}
	if err := best(1, true); err != nil {
		return err
	}
	return both[1].end(ctx, syscall.SIGTERM)
}

// restart announces the routes, and one that ends while the speaker is dead, kills the speaker, has it come back if the
// event says so, and says what the router held meanwhile. In the end the speaker withdraws.
func restart(ctx context.Context, router lab.Receiver, s *replica, event string, routes []route.Route) (r Restart, err error) {
	r.Event = event
	ends, err := route.Parse(fill("destination {host} protocol udp source-port 11211 then discard", route.IPv4, 900))
	if err != nil {
		return r, err
	}
	if err := s.announce(ctx, 1, routes); err != nil {
		return r, err
	}
	deadline := time.Now().Add(patience) // for it to arrive; then it is set again, to end soon
	if err := s.set(ctx, 2, routes, ends, deadline); err != nil {
		return r, err
	}
	all := append(slices.Clone(routes), ends)
	if _, err = untilLook(ctx, router, "to hold everything", func(l look) bool { return l.lacks(all) == 0 }); err != nil {
		return r, err
	}
	// The speaker dies before this, and is still dead then: routers know nothing of deadlines.
	if err := s.set(ctx, 3, routes, ends, time.Now().Add(2*time.Second)); err != nil {
		return r, err
	}
	if err := s.end(ctx, syscall.SIGKILL); err != nil {
		return r, err
	}
	killed := time.Now()
	var looks []look
	var unread error
	watching, stop := context.WithCancel(ctx)
	var wg sync.WaitGroup
	wg.Go(func() {
		for watching.Err() == nil {
			if l, err := lookAt(watching, router); err == nil {
				looks = append(looks, l)
			} else if watching.Err() == nil {
				unread = errors.Join(unread, err)
				return
			}
		}
	})
	defer wg.Wait()
	defer stop()
	rules, holes := split(routes)
	back := func() error {
		var err error
		if s.process, s.client, err = s.config.start(s.in, s.program); err != nil {
			return err
		}
		return lab.Until(ctx, "the speaker to be back", func(ctx context.Context) error {
			st, err := s.client.Status(ctx)
			if err == nil && st.Peers[0].State != speaker.Established {
				err = errors.New("no session")
			}
			return err
		})
	}
	settled := func(l look) bool { return l.lacks(routes) == 0 && len(l.stale) == 0 && !l.have[ends.Match.String()] }
	var last look
	switch event {
	case restartEvents[0]:
		last, err = untilLook(ctx, router, "to hold nothing", func(l look) bool { return len(l.have) == 0 })
	case restartEvents[1]:
		// Past the deadline of the rule that ends.
		if _, err = untilLook(ctx, router, "to go on", func(l look) bool { return l.at.Sub(killed) > 3*time.Second }); err == nil {
			if err = back(); err == nil {
				_, err = untilLook(ctx, router, "to hold what has not ended, and no more", settled)
			}
		}
	case restartEvents[2]:
		if _, err = untilLook(ctx, router, "to mark blackholes as stale", func(l look) bool {
			n := 0
			for _, h := range holes {
				if l.stale[h.Match.String()] {
					n++
				}
			}
			return n == len(holes)
		}); err == nil {
			if err = back(); err == nil {
				_, err = untilLook(ctx, router, "to hold what has not ended, none of it stale", settled)
			}
		}
	}
	stop()
	wg.Wait()
	if err := errors.Join(err, unread); err != nil {
		return r, err
	}
	r.Looks = len(looks)
	if event == restartEvents[0] {
		looks = append(looks, last)
	}
	r.Rules, r.Holes, r.Expired = kept(looks, killed, rules), kept(looks, killed, holes), kept(looks, killed, []route.Route{ends})
	if event == restartEvents[0] {
		return r, nil
	}
	return r, errors.Join(s.end(ctx, syscall.SIGTERM), onlyErr(untilLook(ctx, router, "to hold nothing", func(l look) bool { return len(l.have) == 0 })))
}

func onlyErr(_ look, err error) error { return err }

// set makes the routes, and one that ends at a deadline, the only ones.
func (r *replica) set(ctx context.Context, rev uint64, routes []route.Route, ends route.Route, deadline time.Time) error {
	now := time.Now()
	all := []speaker.Desired{{Route: ends, Deadline: deadline, Created: now, Owners: []string{"ends"}, Manual: true, Approved: true}}
	for i, x := range routes {
		all = append(all, speaker.Desired{Route: x, Deadline: now.Add(time.Hour), Created: now, Owners: []string{fmt.Sprint("failover-", i)}, Manual: true, Approved: true})
	}
	result, err := r.client.Set(ctx, 1, rev, all)
	if err == nil && len(result.Refused) > 0 {
		err = fmt.Errorf("the speaker refused %v", result.Refused)
	}
	return err
}

func split(routes []route.Route) (rules, holes []route.Route) {
	for _, r := range routes {
		if r.IsBlackhole() {
			holes = append(holes, r)
		} else {
			rules = append(rules, r)
		}
	}
	return rules, holes
}

func lookAt(ctx context.Context, router lab.Receiver) (look, error) {
	l := look{at: time.Now(), have: map[string]bool{}, stale: map[string]bool{}}
	have, err := router.Received(ctx)
	for _, r := range have {
		if err == nil {
			err = r.Err
		}
		l.have[r.Match.String()] = true
		if slices.Contains(r.Path.Communities, llgrStale) {
			l.stale[r.Match.String()] = true
		}
	}
	return l, err
}

func untilLook(ctx context.Context, router lab.Receiver, what string, ok func(look) bool) (l look, err error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	err = lab.Until(ctx, router.Name()+" "+what, func(ctx context.Context) (err error) {
		if l, err = lookAt(ctx, router); err == nil && !ok(l) {
			err = fmt.Errorf("it holds %d, %d of them stale", len(l.have), len(l.stale))
		}
		return err
	})
	return l, err
}

// lacks is how many of the routes are not there.
func (l look) lacks(routes []route.Route) (n int) {
	for _, r := range routes {
		if !l.have[r.Match.String()] {
			n++
		}
	}
	return n
}

// kept reads from the looks what became of routes since a moment.
func kept(looks []look, since time.Time, routes []route.Route) (k Kept) {
	for _, l := range looks {
		at := l.at.Sub(since).Seconds()
		missing, stale := l.lacks(routes), 0
		for _, r := range routes {
			if l.stale[r.Match.String()] {
				stale++
			}
		}
		if missing > 0 && k.First == 0 {
			k.First = at
		}
		if missing < len(routes) && stale == len(routes)-missing && k.Stale == 0 {
			k.Stale = at
		}
		switch {
		case missing < len(routes):
			k.Gone = 0
		case k.Gone == 0:
			k.Gone = at
		}
	}
	return k
}

// judge says what is otherwise than docs/interop.md has it. FRR keeps blackholes and no rules.
func (r *Restart) judge(event int, rules bool) {
	bad := func(format string, args ...any) { r.wrong = append(r.wrong, fmt.Sprintf(format, args...)) }
	between := func(what string, at float64, from, to time.Duration) {
		if at < (from-early).Seconds() || at > (to+slack).Seconds() {
			bad("%s after %.1f s, not between %v and %v", what, at, from, to)
		}
	}
	if r.Looks < 3 {
		bad("it was asked %d times only", r.Looks)
	}
	check := func(what string, k Kept, ends bool) {
		switch event {
		case 0:
			between(what+" were marked stale", k.Stale, restartTime, restartTime)
			between("the first of "+what+" went", k.First, restartTime+longLived, restartTime+longLived)
			between("the last of "+what+" went", k.Gone, restartTime+longLived, restartTime+longLived)
		default:
			if !ends && k.First != 0 {
				bad("one of %s was missing after %.1f s", what, k.First)
			}
			if ends && k.Gone == 0 {
				bad("%s stayed though its deadline passed", what)
			}
			if stale := k.Stale != 0; stale != (event == 2) {
				bad("%s marked stale: %v", what, stale)
			}
		}
	}
	check("the blackholes", r.Holes, false)
	if rules {
		check("the rules", r.Rules, false)
		check("the rule that ends", r.Expired, true)
		return
	}
	// The deviation is held to as the others are: an FRR that keeps rules is news.
	between("the first of the rules went", r.Rules.First, 0, 0)
	if r.Rules.First == 0 || r.Rules.Stale != 0 {
		bad("it kept the rules, which is not listed: %+v", r.Rules)
	}
}

// allRestarts tries FRR and BIRD at the same time.
func allRestarts(ctx context.Context, l *lab.Lab, program string) ([]Restart, error) {
	return atBoth(func(i int) ([]Restart, error) { return restarts(ctx, l, program, i) })
}

func wrongRestarts(all []Restart) (out []string) {
	for _, r := range all {
		for _, w := range r.wrong {
			out = append(out, fmt.Sprintf("%s, %s: %s", r.Router, r.Event, w))
		}
	}
	return out
}
