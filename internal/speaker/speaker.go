// Package speaker announces routes to routers: it owns GoBGP, which keeps the sessions, a journal of what is announced with absolute deadlines, and
// the service through which a controller hands it the whole desired set.
package speaker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/amooglesoft/trafficmonitor/internal/safety"
)

// speaker is the one owner of what is announced.
type speaker struct {
	o        Options
	log      *slog.Logger
	metrics  *metrics
	start    time.Time
	journal  journal
	anywhere attributes
	routers  []*router // sorted by name; fixed after start

	// Locks in this order. A disk that hangs holds writing for as long as it likes; withdrawing needs mu only.
	writing sync.Mutex    // one writer of the journal at a time
	asked   asked         // guarded by writing
	judge   *safety.Judge // guarded by writing
	mu      sync.Mutex
	state   state            // what is announced, and the term and revision of it; guarded by mu
	have    map[string]*item // state.items by ID; guarded by mu

	left  []*item                   // what the journal held at the start: routers may have kept it
	ready atomic.Bool               // routers is complete
	shown atomic.Pointer[state]     // what status shows; never changed after it is stored
	kick  chan struct{}             // the next deadline changed
	asks  numbers                   // of sessions
	known atomic.Pointer[time.Time] // when a controller last said that the set is that of the store
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
		journal: journal{path: o.Journal}, have: map[string]*item{}, anywhere: anyRouter(), asked: asked{id: rand.Uint64()}, judge: safety.NewJudge(o.Safety),
		kick: make(chan struct{}, 1), asks: newNumbers(),
	}
	s.o.Log = s.log
	s.shown.Store(&state{})
	s.known.Store(&s.start)
	if err := o.Registerer.Register(&routeCollector{s}); err != nil {
		return nil, err
	}
	m.info.WithLabelValues(o.Version).Set(1)
	for _, p := range o.Peers {
		m.peer(p)
	}
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
	jailed, heldBack := s.loadQuarantine()
	news := make(chan struct{}, 1)
	judged := func() { // the disk may hang; a router's session must not
		select {
		case news <- struct{}{}:
		default:
		}
	}
	for _, p := range s.o.Peers {
		r, err := newRouter(s.o, p, s.metrics, &s.watch)
		if err != nil {
			return err
		}
		r.remember(s.left)
		r.out.blame = newSuspicion(r.out.blame.span, jailed[p.Name], heldBack[p.Name])
		r.judged, r.ask = judged, s.ask
		if s.o.made != nil {
			s.o.made(r)
		}
		s.routers = append(s.routers, r)
	}
	s.left = nil
	wg.Go(func() {
		for {
			select {
			case <-news:
				s.keepQuarantine()
			case <-guards.Done():
				return
			}
		}
	})
	s.ready.Store(true)
	s.mu.Lock()
	s.apply()
	s.mu.Unlock()
	if err := s.listenPassive(guards, &wg); err != nil {
		return err
	}
	for _, r := range s.routers {
		r.guard.away = restarting
		if err := r.start(); err != nil {
			return err
		}
		wg.Go(func() { r.guard.run(guards) })
		wg.Go(func() { r.send(guards) })
		wg.Go(func() { r.prober.run(guards, s.metrics, s.log, r.sentRules, s.watch.changed) })
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
	if s.o.Serving != nil {
		s.o.Serving()
	}
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
	s.left = st.items
	p := makePlan(nil, want, now)
	st.items = p.set
	s.asked.items = p.set
	s.state = st
	s.publish()
	return restarting, nil
}

// pressed returns an error while the red button is pressed. The caller holds mu.
func (s *speaker) pressed() error {
	b := s.state.button
	if b == nil {
		return nil
	}
	s.metrics.sets.WithLabelValues("withdrawn_all").Inc()
	return fmt.Errorf("%w by %s at %s (%s): nothing is announced until it is released",
		ErrWithdrawnAll, b.By, b.At.UTC().Format(time.RFC3339), b.Reason)
}

// keepOnly returns what is announced now and also in set, with what was known of it before. The caller holds mu.
func (s *speaker) keepOnly(set []*item) []*item {
	var rest []*item
	for _, it := range set {
		if h, ok := s.have[it.id]; ok && h.Route.Action == it.Route.Action {
			rest = append(rest, h)
		}
	}
	return rest
}

// tell logs each route up to a number people can read.
func (s *speaker) tell(what string, items []*item) {
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

// apply makes state.items what every router is to get. The caller holds mu and has journaled them, or more than them.
func (s *speaker) apply() {
	set := s.state.items
	s.eachRouter(func(r *router) { r.apply(set) })
	s.have = make(map[string]*item, len(set))
	for _, it := range set {
		s.have[it.id] = it
	}
	s.publish()
}

// eachRouter calls do for every router at once.
func (s *speaker) eachRouter(do func(*router)) {
	var wg sync.WaitGroup
	for _, r := range s.routers {
		wg.Go(func() { do(r) })
	}
	wg.Wait()
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

// withdrawAll is the red button: first withdraw, then write it down, and not wait for a disk that hangs.
func (s *speaker) withdrawAll(by, reason string) (int, error) {
	s.mu.Lock()
	gone := s.state.items
	s.state.items = nil
	s.state.button = &Button{by, reason, time.Now().UTC().Truncate(time.Second)}
	s.apply()
	s.mu.Unlock()
	s.eachRouter(func(r *router) { r.answered(s.asks.last.Load(), "") }) // nothing is left to wait with, and routers keep nothing
	s.eachRouter((*router).drain)

	s.log.Error("red button: all routes withdrawn", "by", by, "reason", reason, "routes", len(gone))
	s.tell("withdrawn", gone)
	s.metrics.withdrawn.Add(float64(len(gone)))
	saved := make(chan error, 1)
	go func() { saved <- s.saveState() }()
	var jerr error
	select {
	case jerr = <-saved:
	case <-time.After(journalPatience):
		jerr = fmt.Errorf("the disk of %s does not answer", s.o.Journal)
	}
	if jerr != nil {
		return len(gone), fmt.Errorf("all routes are withdrawn, but a restart of the speaker would forget that: %w", jerr)
	}
	return len(gone), nil
}

// journalPatience is how long the red button waits for the journal.
const journalPatience = 3 * time.Second

// saveState writes the present state.
func (s *speaker) saveState() error {
	s.writing.Lock()
	defer s.writing.Unlock()
	s.mu.Lock()
	st := s.state
	s.mu.Unlock()
	return s.save(st)
}

func (s *speaker) release(by, reason string) error {
	s.writing.Lock()
	defer s.writing.Unlock()
	s.mu.Lock()
	next := s.state
	s.mu.Unlock()
	button := next.button
	if button == nil {
		return nil
	}
	next.button = nil
	if err := s.save(next); err != nil {
		return fmt.Errorf("the red button stays pressed: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.state.button != button {
		return fmt.Errorf("%w again meanwhile, by %s: it stays pressed", ErrWithdrawnAll, s.state.button)
	}
	s.state.button = nil
	s.log.Warn("red button released", "by", by, "reason", reason)
	s.publish()
	return nil
}

// keepDeadlines withdraws each route when its deadline passes, whoever is alive.
func (s *speaker) keepDeadlines(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	unconfirmed := false
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.kick:
		case <-timer.C:
		}
		// The timer runs on the monotonic clock and a deadline is a time of day: look again every second, in case
		// the clock was set.
		unconfirmed = s.tellUnconfirmed(time.Now(), unconfirmed)
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

// expire withdraws what is past its deadline. The journal is left as it is: the deadline stands there too.
func (s *speaker) expire(now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := makePlan(s.have, s.state.items, now)
	if len(p.withdraw) == 0 {
		return
	}
	s.state.items = p.set
	s.apply()
	s.metrics.deadlines.Add(float64(len(p.expired)))
	s.metrics.withdrawn.Add(float64(len(p.withdraw)))
	for _, it := range p.expired {
		s.log.Info("route withdrawn", "route", it.text, "reason", "deadline", "deadline", it.Deadline.UTC(), "owners", it.Owners)
	}
}
