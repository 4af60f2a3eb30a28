// Package speaker announces routes to routers: it owns GoBGP, a journal of what is announced with absolute deadlines, and
// the service through which a controller hands it the whole desired set.
package speaker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/amooglesoft/trafficmonitor/internal/safety"
)

// speaker is the one owner of what is announced.
type speaker struct {
	o       Options
	log     *slog.Logger
	metrics *metrics
	start   time.Time
	journal journal
	routers []*router // sorted by name; fixed after start

	mu    sync.Mutex         // one change at a time; held over the journal's sync
	state state              // as journaled; guarded by mu
	have  map[string]item    // by ID: what is announced; guarded by mu
	enc   map[string]encoded // by text: of the routes in have; guarded by mu

	ready atomic.Bool           // routers is complete
	shown atomic.Pointer[state] // what status shows; never changed after it is stored
	kick  chan struct{}         // the next deadline changed
	watch watchers
}

// Run is the whole speaker process. It announces what the journal holds, serves on the socket, and ends when ctx does,
// leaving the routes to what Options.OnStop says.
func Run(ctx context.Context, opts Options) error {
	o, err := opts.withDefaults()
	if err != nil {
		return fmt.Errorf("speaker: %w", err)
	}
	s, err := newSpeaker(o)
	if err != nil {
		return fmt.Errorf("speaker: %w", err)
	}
	if err := s.run(ctx); err != nil {
		return fmt.Errorf("speaker: %w", err)
	}
	return nil
}

func newSpeaker(o Options) (*speaker, error) {
	m, err := newMetrics(o.Registerer)
	if err != nil {
		return nil, err
	}
	s := &speaker{
		o: o, log: o.Log.With("component", "speaker"), metrics: m, start: time.Now(),
		journal: journal{path: o.Journal}, have: map[string]item{}, enc: map[string]encoded{},
		kick: make(chan struct{}, 1),
	}
	s.o.Log = s.log
	s.shown.Store(&state{})
	if err := o.Registerer.Register(&routeCollector{s}); err != nil {
		return nil, err
	}
	m.info.WithLabelValues(o.Version).Set(1)
	return s, nil
}

func (s *speaker) run(ctx context.Context) error {
	unlock, err := lockJournal(s.o.Journal)
	if err != nil {
		return err
	}
	defer unlock()
	if err := probeSocket(s.o.Socket); err != nil {
		return err
	}
	restarting, err := s.restore(time.Now())
	if err != nil {
		return err
	}

	guards, stopGuards := context.WithCancel(context.WithoutCancel(ctx))
	var wg sync.WaitGroup
	defer func() {
		var stops sync.WaitGroup
		if s.o.OnStop == Withdraw {
			for _, r := range s.routers {
				stops.Go(r.cease)
			}
			stops.Wait()
		}
		stopGuards() // closes the routers' connections without a NOTIFICATION
		wg.Wait()
		for _, r := range s.routers {
			stops.Go(r.stop)
		}
		stops.Wait()
	}()
	for _, p := range s.o.Peers {
		r, err := newRouter(s.o, p, s.metrics, &s.watch)
		if err != nil {
			return err
		}
		s.routers = append(s.routers, r)
	}
	s.ready.Store(true)
	s.mu.Lock()
	err = s.apply(s.state.items)
	s.mu.Unlock()
	if err != nil {
		s.log.Error("routes of the journal were not all announced", "err", err)
	}
	if err := s.listenPassive(guards, &wg); err != nil {
		return err
	}
	for _, r := range s.routers {
		if err := r.start(restarting); err != nil {
			return err
		}
		wg.Go(func() { r.guard.run(guards) })
	}

	ln, err := listenSocket(s.o.Socket)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	wg.Go(func() { s.keepDeadlines(ctx) })
	s.log.Info("speaker started", "version", s.o.Version, "socket", s.o.Socket, "journal", s.o.Journal,
		"routes", len(s.shown.Load().items), "peers", len(s.o.Peers), "on_stop", string(s.o.OnStop))
	err = s.serve(ctx, ln)
	cancel()
	s.log.Info("speaker stops", "on_stop", string(s.o.OnStop), "routes", len(s.shown.Load().items))
	return err
}

// restore reads the journal and keeps of it what is still due and what the safety kernel allows today.
func (s *speaker) restore(now time.Time) (restarting bool, err error) {
	st, restarting, err := s.journal.load(now)
	var corrupt *corruptError
	if errors.As(err, &corrupt) {
		s.metrics.journalErrors.Inc()
		s.log.Error("journal set aside", "err", err)
	} else if err != nil {
		return false, err
	}
	want, refused := s.admit(st.items, now)
	for _, r := range refused {
		s.log.Error("route of the journal refused", "route", r.Route, "invariant", r.Invariant, "reason", r.Reason)
	}
	p := makePlan(nil, want, now)
	st.items = p.set
	s.state = st
	s.publish()
	return restarting, nil
}

// admit returns the items that may be announced, encoded into s.enc, and those that may not. It changes s.enc only;
// the caller holds mu or is alone.
func (s *speaker) admit(items []item, now time.Time) (ok []item, refused []Refused) {
	refuse := func(it item, invariant, reason string) {
		refused = append(refused, Refused{it.text, invariant, reason})
		s.metrics.refused.WithLabelValues(invariant).Inc()
	}
	due := make([]item, 0, len(items))
	entries := make([]safety.Entry, 0, len(items))
	seen := make(map[string]bool, len(items))
	for _, it := range items {
		switch {
		case seen[it.id]:
			refuse(it, RefusedDuplicate, "another route of the set has the same match: a router holds one action per match")
		case it.Deadline.IsZero():
			refuse(it, RefusedDeadline, "the route has no deadline")
		case !it.Deadline.After(now):
			refuse(it, RefusedDeadline, fmt.Sprintf("the deadline %s has passed", it.Deadline.UTC().Format(time.RFC3339)))
		default:
			due = append(due, it)
			entries = append(entries, safety.Entry{
				Route: it.Route, Owners: it.Owners, Created: it.Created, Deadline: it.Deadline, Manual: it.Manual, Approved: it.Approved,
			})
		}
		seen[it.id] = true
	}
	why := map[int]safety.Violation{}
	for _, v := range safety.Check(now, s.o.Safety, entries) {
		if _, ok := why[v.Index]; !ok {
			why[v.Index] = v
		}
	}
	for i, it := range due {
		if v, bad := why[i]; bad {
			refuse(it, string(v.Invariant), v.Reason)
			continue
		}
		if _, known := s.enc[it.text]; !known {
			e, err := encode(it.Route)
			if err != nil {
				refuse(it, RefusedEncoding, err.Error())
				continue
			}
			s.enc[it.text] = e
		}
		ok = append(ok, it)
	}
	return ok, refused
}

// Set is SetRoutes: it makes the given routes the only ones. It is called with the texts that could not be read in
// refused already.
func (s *speaker) set(term, revision uint64, items []item, refused []Refused) (Result, error) {
	begin := time.Now()
	sortItems(items)
	s.mu.Lock()
	defer s.mu.Unlock()
	if b := s.state.button; b != nil {
		s.metrics.sets.WithLabelValues("withdrawn_all").Inc()
		return Result{}, fmt.Errorf("%w by %s at %s (%s): nothing is announced until it is released",
			ErrWithdrawnAll, b.By, b.At.UTC().Format(time.RFC3339), b.Reason)
	}
	if stale(s.state.term, s.state.revision, term, revision) {
		s.metrics.sets.WithLabelValues("stale").Inc()
		return Result{}, fmt.Errorf("%w: term %d revision %d is older than the applied term %d revision %d; if the store was rebuilt from nothing, stop the speaker, remove its journal and start it again",
			ErrStale, term, revision, s.state.term, s.state.revision)
	}
	now := time.Now()
	want, more := s.admit(items, now)
	refused = append(refused, more...)
	for _, r := range refused {
		s.log.Warn("route refused", "route", r.Route, "invariant", r.Invariant, "reason", r.Reason)
	}
	res := Result{Refused: refused}
	p := makePlan(s.have, want, now)
	next := state{term: term, revision: revision, items: p.set}
	if err := s.save(next); err != nil {
		// What is not journaled is not announced; what is no longer wanted goes all the same, for that is the safe side.
		s.metrics.sets.WithLabelValues("journal_error").Inc()
		rest := s.keepOnly(p.set)
		s.state.items = rest
		werr := s.apply(rest)
		return Result{}, errors.Join(fmt.Errorf("nothing new is announced: %w", err), werr)
	}
	s.state = next
	err := s.apply(p.set)
	res.Announced, res.Withdrawn = len(p.announce), len(p.withdraw)
	s.metrics.announced.Add(float64(len(p.announce)))
	s.metrics.withdrawn.Add(float64(len(p.withdraw)))
	s.metrics.setSeconds.Observe(time.Since(begin).Seconds())
	s.tell("announced", p.announce)
	s.tell("withdrawn", p.withdraw)
	if err != nil {
		s.metrics.sets.WithLabelValues("bgp_error").Inc()
		s.log.Error("not every route was handed to BGP", "err", err)
		return res, nil // the routes concerned say so in the status
	}
	s.metrics.sets.WithLabelValues("ok").Inc()
	return res, nil
}

// keepOnly returns what is announced now and also in set, with what was known of it before.
func (s *speaker) keepOnly(set []item) []item {
	var rest []item
	for _, it := range set {
		if h, ok := s.have[it.id]; ok && h.Route.Action == it.Route.Action {
			rest = append(rest, h)
		}
	}
	return rest
}

// tell logs each route up to a number people can read.
func (s *speaker) tell(what string, items []item) {
	const most = 20
	for i, it := range items {
		if i == most {
			s.log.Info("more routes "+what, "more", len(items)-most)
			return
		}
		s.log.Info("route "+what, "route", it.text, "deadline", it.Deadline.UTC(), "owners", it.Owners)
	}
}

func (s *speaker) save(next state) error {
	begin := time.Now()
	err := s.journal.save(next)
	s.metrics.journalSeconds.Observe(time.Since(begin).Seconds())
	if err != nil {
		s.metrics.journalErrors.Inc()
		s.log.Error("journal not written", "err", err)
	}
	return err
}

// apply hands the set to every router. The caller holds mu and has journaled the set, or a larger one.
func (s *speaker) apply(set []item) error {
	errs := make([]error, len(s.routers))
	var wg sync.WaitGroup
	for i, r := range s.routers {
		wg.Go(func() { errs[i] = r.apply(set, s.enc) })
	}
	wg.Wait()
	s.have = make(map[string]item, len(set))
	enc := make(map[string]encoded, len(set))
	for _, it := range set {
		s.have[it.id] = it
		enc[it.text] = s.enc[it.text]
	}
	s.enc = enc
	s.publish()
	return errors.Join(errs...)
}

// publish shows the present state to readers and to the deadline keeper.
func (s *speaker) publish() {
	st := s.state
	s.shown.Store(&st)
	s.metrics.routesDesired.Set(float64(len(st.items)))
	pressed := 0.0
	if st.button != nil {
		pressed = 1
	}
	s.metrics.button.Set(pressed)
	select {
	case s.kick <- struct{}{}:
	default:
	}
	s.watch.changed()
}

// withdrawAll is the red button: first withdraw, then write it down.
func (s *speaker) withdrawAll(by, reason string) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	gone := slices.Collect(maps.Values(s.have))
	sortItems(gone)
	s.state.items = nil
	s.state.button = &Button{by, reason, time.Now().UTC().Truncate(time.Second)}
	err := s.apply(nil)
	s.log.Error("red button: all routes withdrawn", "by", by, "reason", reason, "routes", len(gone))
	s.tell("withdrawn", gone)
	s.metrics.withdrawn.Add(float64(len(gone)))
	if jerr := s.save(s.state); jerr != nil {
		err = errors.Join(err, fmt.Errorf("all routes are withdrawn, but a restart of the speaker would forget that: %w", jerr))
	}
	return len(gone), err
}

func (s *speaker) release(by, reason string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.state.button == nil {
		return nil
	}
	next := s.state
	next.button = nil
	if err := s.save(next); err != nil {
		return fmt.Errorf("the red button stays pressed: %w", err)
	}
	s.state = next
	s.log.Warn("red button released", "by", by, "reason", reason)
	s.publish()
	return nil
}

// keepDeadlines withdraws each route when its deadline passes, whoever is alive.
func (s *speaker) keepDeadlines(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.kick:
		case <-timer.C:
		}
		// The timer runs on the monotonic clock and a deadline is a time of day: look again every second, in case
		// the clock was set.
		wait := time.Hour
		for _, it := range s.shown.Load().items {
			wait = min(wait, time.Until(it.Deadline))
		}
		if wait <= 0 {
			s.expire(time.Now())
			wait = 10 * time.Millisecond // and look at the rest
		}
		timer.Reset(min(wait, time.Second))
	}
}

// expire withdraws what is past its deadline. The journal follows: what it holds too much has its deadline there too.
func (s *speaker) expire(now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := makePlan(s.have, s.state.items, now)
	if len(p.withdraw) == 0 {
		return
	}
	s.state.items = p.set
	if err := s.apply(p.set); err != nil {
		s.log.Error("not every route past its deadline was withdrawn", "err", err)
	}
	s.metrics.deadlines.Add(float64(len(p.expired)))
	s.metrics.withdrawn.Add(float64(len(p.withdraw)))
	for _, it := range p.expired {
		s.log.Info("route withdrawn", "route", it.text, "reason", "deadline", "deadline", it.Deadline.UTC(), "owners", it.Owners)
	}
	_ = s.save(s.state) // logged and counted there
}

// listenPassive serves the connections of passive peers.
func (s *speaker) listenPassive(ctx context.Context, wg *sync.WaitGroup) error {
	byAddr := map[netip.Addr]*router{}
	var peers []Peer
	for _, r := range s.routers {
		if r.peer.Passive {
			byAddr[r.peer.Address] = r
			peers = append(peers, r.peer)
		}
	}
	if len(peers) == 0 {
		return nil
	}
	addrs := s.o.ListenAddresses
	if len(addrs) == 0 {
		addrs = []netip.Addr{netip.IPv4Unspecified(), netip.IPv6Unspecified()}
	}
	for _, a := range addrs {
		if !slices.ContainsFunc(peers, func(p Peer) bool { return p.Address.Is6() == a.Is6() }) {
			continue
		}
		ln, err := listenBGP(netip.AddrPortFrom(a, uint16(s.o.ListenPort)), peers)
		if err != nil {
			return fmt.Errorf("listen for BGP on port %d: %w", s.o.ListenPort, err)
		}
		context.AfterFunc(ctx, func() { ln.Close() })
		wg.Go(func() {
			for {
				c, err := ln.Accept()
				if errors.Is(err, net.ErrClosed) {
					return
				}
				if err != nil {
					s.log.Error("accept BGP connection", "err", err)
					continue
				}
				from := c.RemoteAddr().(*net.TCPAddr).AddrPort().Addr().Unmap().WithZone("")
				r := byAddr[from]
				if r == nil {
					s.log.Warn("BGP connection from an address that is no passive peer", "from", from.String())
					c.Close()
					continue
				}
				if err := r.peer.prepareAccepted(c); err != nil {
					r.guard.fail(fmt.Sprintf("accepted connection cannot be prepared: %v", err))
					c.Close()
					continue
				}
				r.guard.give(c)
			}
		})
	}
	return nil
}

// lockJournal makes sure that one speaker uses a journal.
func lockJournal(path string) (unlock func(), err error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o750); err != nil {
		return nil, fmt.Errorf("create the journal's directory: %w", err)
	}
	f, err := os.OpenFile(path+".lock", os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open the journal's lock: %w", err)
	}
	if err := flock(f); err != nil {
		pid, _ := os.ReadFile(path + ".lock")
		f.Close()
		return nil, fmt.Errorf("journal %s is in use by another speaker (pid %s): stop that one, or give this one another journal and socket",
			path, strings.TrimSpace(string(pid)))
	}
	if err := f.Truncate(0); err == nil {
		_, _ = f.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0)
	}
	return func() { f.Close() }, nil
}
