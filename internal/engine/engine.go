// Package engine drives the core: it feeds reports to the view and the detector on every controller, and on the leader
// turns incidents and engineers' words into committed mitigations. One goroutine owns all of that state.
package engine

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/amooglesoft/trafficmonitor/internal/audit"
	"github.com/amooglesoft/trafficmonitor/internal/baseline"
	"github.com/amooglesoft/trafficmonitor/internal/breaker"
	"github.com/amooglesoft/trafficmonitor/internal/detect"
	"github.com/amooglesoft/trafficmonitor/internal/ingest"
	"github.com/amooglesoft/trafficmonitor/internal/mitigation"
	"github.com/amooglesoft/trafficmonitor/internal/safety"
	"github.com/amooglesoft/trafficmonitor/internal/store"
	"github.com/amooglesoft/trafficmonitor/internal/traffic"
	"github.com/amooglesoft/trafficmonitor/internal/vector"
	"github.com/amooglesoft/trafficmonitor/policy"
)

// Term is one span of leadership, as the engine uses it.
type Term interface {
	Number() uint64
	Load(ctx context.Context) (mitigation.Records, error)
	Commit(ctx context.Context, c store.Change) (revision int64, err error)
}

// Options configure an Engine.
type Options struct {
	Own     []netip.Prefix
	Safety  safety.Limits
	Policy  *policy.Policy
	Shadow  *policy.Policy // asked beside Policy and never obeyed; may be nil
	Traffic traffic.Options

	DefaultHold   time.Duration // of a manual withdraw that names none
	Keep          time.Duration // how long ended mitigations are remembered
	CommitTimeout time.Duration
	RetryAfter    time.Duration // before automation tries again what was refused, frozen or held
	Watch         ingest.Watch  // how closely sensors look

	Direct func(*ingest.Directive)                                             // tells the sensors what to watch; nil directive: we do not lead
	Emit   func(kind audit.Kind, message string, attributes map[string]string) // records an event; must not block
	// Baseline learns what targets normally receive and send; may be nil. While the engine runs it is the engine's.
	Baseline *baseline.Learner
	// Breaker says when automation does harm; nil is never. BreakerHold is how long it then keeps its hands off a target.
	Breaker     *breaker.Options
	BreakerHold time.Duration
	Journal     func(now time.Time, r traffic.Report) // keeps a report for replay, with the time the core was told; must not block; may be nil
	// Placed tells how many routers have a mitigation's routes, and of how many that are told; may be nil.
	Placed func(mitigation.Mitigation) (installed, routers int)
	// JournalSamples does the same with samples, which say when they were taken.
	JournalSamples func(now time.Time, s []traffic.Sample)
	Log            *slog.Logger

	Registerer prometheus.Registerer
}

// Engine is the state of one controller's brain.
type Engine struct {
	o       Options
	log     *slog.Logger
	metrics *metrics

	reports  chan ingest.Delivery
	sampled  chan ingest.Delivery // with samples
	commands chan command
	terms    chan *leadership
	records  chan store.Snapshot
	stopped  chan struct{} // closed when Run has ended

	// Owned by the loop.
	policy    *policy.Policy
	view      *traffic.View
	samples   *traffic.SampleStore // what packets of a target are like
	wide      []netip.Prefix       // those of mitigated that are networks
	looked    map[string]time.Time // when a mitigation's rule was last held against samples, by its ID
	detector  *detect.Detector
	machine   *mitigation.Machine // nil while we do not lead
	made      safety.Memo         // of the routes judged last
	judged    judgement           // on the whole set
	lead      *leadership         // nil while we do not lead
	mitigated map[netip.Prefix]bool
	decided   steps               // starts and refusals that are not stored yet
	retry     map[sight]time.Time // when automation may try again
	problems  map[string]bool     // of the policy in force, told once
	said      map[sight]string    // why automation did not act, as last recorded; gone with the incident
	adopt     bool                // the policy is new: a mitigation may find itself on another ladder
	refusals  budget              // of refusals that are stored
	ended     []detect.Incident   // newest last, at most maxEnded
	revision  uint64              // of the directive, within the term

	pending pending
	shadow  shadow
	breaker *circuit // nil: off
}

type sight struct {
	target    netip.Prefix
	direction vector.Direction
	vector    vector.ID
}

type command struct {
	run  func(now time.Time)
	done chan struct{}
}

// leadership is one term with the way to end it.
type leadership struct {
	Term
	ctx     context.Context
	records mitigation.Records
	failed  chan error // buffered; what ended the term from our side
}

const (
	reportQueue = 8192
	sampleQueue = 64 // deliveries of up to 1,024 samples, which a report never waits behind
	maxEnded    = 1000
)

// New returns an engine that does nothing until Run.
func New(o Options) *Engine {
	e := &Engine{
		o: o, log: o.Log.With("component", "engine"),
		reports: make(chan ingest.Delivery, reportQueue), sampled: make(chan ingest.Delivery, sampleQueue), commands: make(chan command),
		terms: make(chan *leadership), records: make(chan store.Snapshot, 1), stopped: make(chan struct{}),
		policy: o.Policy, view: traffic.NewView(o.Traffic), samples: traffic.NewSampleStore(traffic.SampleOptions{}), mitigated: map[netip.Prefix]bool{}, retry: map[sight]time.Time{}, said: map[sight]string{}, problems: map[string]bool{},
	}
	e.detector, e.looked = detect.New(o.Policy.Rules(), normal(o.Baseline)), map[string]time.Time{}
	e.metrics = newMetrics(o.Registerer, e)
	e.pending.since = map[string]origin{}
	e.breaker = newCircuit(o.Breaker, o.Registerer)
	e.setShadow(o.Shadow)
	return e
}

// Deliver takes a report, or samples; false says that their queue is full and they were dropped.
func (e *Engine) Deliver(d ingest.Delivery) bool {
	queue := e.reports
	if len(d.Samples) > 0 {
		queue = e.sampled
	}
	select {
	case queue <- d:
		return true
	default:
		return false
	}
}

// Lead makes the engine decide for as long as the term lasts. It returns when the term is over, with the error that
// made the engine give it up, if it did.
func (e *Engine) Lead(ctx context.Context, t Term) error {
	records, err := t.Load(ctx)
	if err != nil {
		return fmt.Errorf("read the records of term %d: %w", t.Number(), err)
	}
	l := &leadership{Term: t, ctx: ctx, records: records, failed: make(chan error, 1)}
	select {
	case e.terms <- l:
	case <-ctx.Done():
		return nil
	}
	select {
	case err := <-l.failed:
		return err
	case <-ctx.Done():
	}
	// The loop must have let go before another term may begin.
	_ = e.do(context.WithoutCancel(ctx), func(time.Time) error { e.depose(l, nil); return nil })
	return nil
}

// Follow takes the records every controller sees; a newer snapshot replaces one that was not looked at yet.
func (e *Engine) Follow(s store.Snapshot) {
	for {
		select {
		case e.records <- s:
			return
		default:
		}
		select {
		case <-e.records:
		default:
		}
	}
}

// Run is the loop; it ends with ctx.
func (e *Engine) Run(ctx context.Context) error {
	defer close(e.stopped)
	timer := time.NewTimer(time.Second)
	defer timer.Stop()
	ticked := time.Now()
	due, planned := ticked, ticked
	for {
		report := false
		select {
		case <-ctx.Done():
			if e.lead != nil {
				e.depose(e.lead, nil)
			}
			return nil
		case d := <-e.reports:
			e.report(d)
			report = true
		case d := <-e.sampled:
			e.sample(d)
			report = true
		case c := <-e.commands:
			c.run(time.Now())
			close(c.done)
		case l := <-e.terms:
			e.begin(l)
		case s := <-e.records:
			e.follow(s)
		case <-timer.C:
		}
		now := time.Now()
		// What a report brings forward is found a millisecond later: to look at every deadline is dear, and thousands of
		// reports come a second.
		if report && now.Sub(planned) < time.Millisecond && now.Before(due) {
			timer.Reset(min(due.Sub(now), time.Millisecond))
			continue
		}
		// Not only when the timer fires: what comes in all the time would put it off for ever.
		if due = ticked.Add(e.untilNext(ticked)); !now.Before(due) {
			ticked = now
			e.tick(now)
			due = ticked.Add(e.untilNext(ticked))
		}
		planned = now
		timer.Reset(time.Until(due))
	}
}

// untilNext is how long after a look at the time the next one is due: at the next deadline, at most a second later, for
// sensors go stale silently.
func (e *Engine) untilNext(now time.Time) time.Duration {
	wait := time.Second
	consider := func(at time.Time) {
		if !at.IsZero() {
			wait = min(wait, max(at.Sub(now), time.Millisecond))
		}
	}
	consider(e.detector.Deadline())
	if e.shadow.policy != nil {
		consider(e.shadow.detector.Deadline())
	}
	if e.machine != nil {
		consider(e.machine.Deadline())
	}
	return wait
}

func (e *Engine) report(d ingest.Delivery) {
	now := time.Now()
	e.metrics.queue.Observe(now.Sub(d.Received).Seconds())
	if !d.Triggered.IsZero() {
		e.metrics.stage(stageIngest, d.Received.Sub(d.Triggered))
	}
	if e.o.Journal != nil {
		e.o.Journal(now, d.Report)
	}
	e.view.Take(now, d.Report)
	if e.breaker != nil {
		e.breaker.Report(now, d.Report)
	}
	e.metrics.view(e.view.Targets())
	e.observe(now, origin{triggered: d.Triggered, received: d.Received})
}

// observe acts on what has changed in the view.
func (e *Engine) observe(now time.Time, from origin) {
	for _, o := range e.view.Collect(now, func(r traffic.Rate) bool { return e.wants(now, r) }) {
		if e.machine != nil && o.Direction == vector.Inbound && !o.Network {
			e.machine.Observe(began(now, o), e.usual(now, o))
		}
		e.events(now, e.detector.Observe(now, o), from)
		e.shadowSees(now, func(d *detect.Detector) []detect.Event { return d.Observe(now, o) })
	}
	sources := e.view.CollectSources()
	e.events(now, e.detector.ObserveSources(now, sources), origin{})
	e.shadowSees(now, func(d *detect.Detector) []detect.Event { return d.ObserveSources(now, sources) })
	e.flush()
}

// wants tells whether an observation with such rates means anything to us: evidence for a mitigation, or to the detector.
func (e *Engine) wants(now time.Time, r traffic.Rate) bool {
	e.learn(now, r)
	if e.breaker != nil {
		e.breaker.Rate(now, r)
	}
	return e.detector.Wants(r) || e.shadow.wants(r) || e.machine != nil && !r.Network && r.Direction == vector.Inbound && e.machine.Watches(r.Target, r.Vector)
}

func (e *Engine) sample(d ingest.Delivery) {
	if e.o.JournalSamples != nil {
		e.o.JournalSamples(d.Received, d.Samples)
	}
	for _, s := range d.Samples {
		e.samples.Add(d.Received, s)
	}
	e.metrics.samples(e.samples)
}

func (e *Engine) tick(now time.Time) {
	e.view.Expire(now) // evidence, too, ends with the sensor that gave it
	e.observe(now, origin{})
	e.metrics.view(e.view.Targets())
	e.events(now, e.detector.Tick(now), origin{})
	e.shadowSees(now, func(d *detect.Detector) []detect.Event { return d.Tick(now) })
	e.flush()
	e.metrics.viewBytes.Set(float64(e.view.Bytes()))
	if e.o.Baseline != nil {
		e.metrics.baseline(e.o.Baseline)
	}
	e.judgeAnswers(now)
	for k, at := range e.retry {
		if !now.Before(at) {
			delete(e.retry, k)
		}
	}
	if e.machine == nil {
		return
	}
	e.unseen(now)
	if c := e.machine.Tick(now, func(m mitigation.Mitigation) bool { return e.wanted(m, now) }); !c.Empty() {
		if _, err := e.commit(c); err != nil {
			return
		}
		e.tell(c)
		for _, p := range c.DeleteHolds {
			e.o.Emit(audit.HoldLifted, fmt.Sprintf("the hold on %s ended", p), map[string]string{"target": p.String()})
		}
	}
	e.enforceSafety(now)
	e.ladders(now)
	e.refine(now)
	if e.machine != nil {
		e.machine.Forget(now.Add(-e.o.Keep)) // the store prunes its records by itself
	}
}

func (e *Engine) begin(l *leadership) {
	now := time.Now()
	e.lead = l
	e.machine, e.adopt = e.newMachine(l.records), true
	clear(e.retry)
	clear(e.said)
	clear(e.looked)
	e.revision = 0
	e.direct()
	e.mask(now)
	e.watchChange(now, l.records.Mitigations)
	active := 0
	for _, m := range l.records.Mitigations {
		if m.State == mitigation.Active {
			active++
		}
	}
	e.log.Info("leading", "term", l.Number(), "mitigations", active)
	e.o.Emit(audit.LeaderElected, fmt.Sprintf("this controller leads from term %d on, with %d active mitigations", l.Number(), active),
		map[string]string{"term": fmt.Sprint(l.Number())})
	e.followPolicy(now)
	e.tick(now)
}

// newMachine returns a machine that knows what the engine does.
func (e *Engine) newMachine(r mitigation.Records) *mitigation.Machine {
	m := mitigation.New(r)
	m.SetGroups(e.policy.Groups, policy.DefaultGroup)
	if e.o.Placed != nil {
		m.SetReach(func(m mitigation.Mitigation) int { _, routers := e.o.Placed(m); return routers })
	}
	return m
}

// depose ends the term from our side. What was decided and not stored is forgotten with the machine.
func (e *Engine) depose(l *leadership, why error) {
	if e.lead != l {
		return
	}
	e.lead, e.machine, e.decided = nil, nil, nil
	e.o.Direct(nil)
	select {
	case l.failed <- why:
	default:
	}
	e.log.Info("not leading any more", "term", l.Number(), "err", why)
	e.o.Emit(audit.LeaderLost, fmt.Sprintf("this controller does not lead any more (term %d)", l.Number()), map[string]string{"term": fmt.Sprint(l.Number())})
}

// direct tells the sensors what the policy wants watched.
func (e *Engine) direct() {
	if e.lead == nil {
		return
	}
	e.revision++
	d := &ingest.Directive{
		Term: e.lead.Number(), Revision: e.revision, Protected: e.o.Own, Watch: e.o.Watch,
	}
	for _, way := range []vector.Direction{vector.Inbound, vector.Outbound} {
		for v, l := range e.policy.Triggers(way) {
			d.Triggers = append(d.Triggers, ingest.Trigger{Vector: v, Direction: way, PPS: uint64(l.PPS), BPS: uint64(l.BPS)})
		}
	}
	slices.SortFunc(d.Triggers, func(a, b ingest.Trigger) int {
		return cmp.Or(cmp.Compare(a.Direction, b.Direction), cmp.Compare(a.Vector, b.Vector))
	})
	e.o.Direct(d)
}

// follow takes what all controllers share. The leader knows it already, being who wrote it.
func (e *Engine) follow(s store.Snapshot) {
	if e.machine != nil {
		return
	}
	now := time.Now()
	e.setMitigated(now, s.Records.Mitigations)
	e.watchChange(now, s.Records.Mitigations)
}

// mask tells the detector which targets' traffic a mitigation hides.
func (e *Engine) mask(now time.Time) {
	if e.machine != nil {
		e.setMitigated(now, e.machine.Active())
	}
}

func (e *Engine) setMitigated(now time.Time, all []mitigation.Mitigation) {
	next := map[netip.Prefix]bool{}
	for _, m := range all {
		if m.State == mitigation.Active {
			next[m.Target] = true
		}
	}
	for p := range e.mitigated {
		if !next[p] {
			e.detector.Mask(now, p, false)
			e.shadow.mask(now, p, false)
		}
	}
	for p := range next {
		e.detector.Mask(now, p, true)
		e.shadow.mask(now, p, true)
	}
	e.mitigated, e.wide = next, nil
	for p := range next {
		if !p.IsSingleIP() {
			e.wide = append(e.wide, p)
		}
	}
}

// maskOne is mask for one target, of which something was stored.
func (e *Engine) maskOne(now time.Time, p netip.Prefix) {
	masked := e.machine.Mitigated(p)
	if masked == e.mitigated[p] {
		return
	}
	if masked {
		e.mitigated[p] = true
	} else {
		delete(e.mitigated, p)
	}
	e.detector.Mask(now, p, masked)
	e.shadow.mask(now, p, masked)
	e.wide = slices.DeleteFunc(e.wide, func(q netip.Prefix) bool { return q == p })
	if masked && !p.IsSingleIP() {
		e.wide = append(e.wide, p)
	}
}

var errNotLeading = errors.New("this controller does not lead")

// commit stores a change; nothing of it is announced before. When it cannot be stored the term is given up: the next
// one begins from what really is stored.
func (e *Engine) commit(c mitigation.Change) (revision int64, err error) {
	e.flush() // in the order of decisions
	if revision, err = e.write(c); err != nil {
		e.giveUp(err)
	}
	return revision, err
}

// giveUp ends the term after a change that was not stored.
func (e *Engine) giveUp(err error) {
	if e.lead == nil {
		return
	}
	e.log.Error("commit failed: giving up the term; the next one goes on from what is stored", "term", e.lead.Number(), "err", err)
	e.depose(e.lead, err)
}

// write is commit that leaves the term to the caller.
func (e *Engine) write(c mitigation.Change) (revision int64, err error) {
	if e.lead == nil {
		return 0, errNotLeading
	}
	began := time.Now()
	ctx, cancel := context.WithTimeout(e.lead.ctx, e.o.CommitTimeout)
	defer cancel()
	revision, err = e.lead.Commit(ctx, store.Change{
		Put: c.Put, Holds: c.Holds, DeleteHolds: c.DeleteHolds, SetFreeze: c.SetFreeze, Freeze: c.Freeze, Freezes: c.Freezes, Unfreeze: c.Unfreeze,
	})
	e.metrics.stage(stageCommit, time.Since(began))
	if err != nil {
		e.metrics.commitErrors.Inc()
		return 0, err
	}
	now := time.Now()
	for _, m := range c.Put {
		e.maskOne(now, m.Target)
	}
	e.watchChange(now, c.Put)
	return revision, nil
}

// do runs fn in the loop.
func (e *Engine) do(ctx context.Context, fn func(now time.Time) error) error {
	var err error
	c := command{run: func(now time.Time) { err = fn(now) }, done: make(chan struct{})}
	select {
	case e.commands <- c:
	case <-e.stopped:
		return errors.New("the engine has stopped")
	case <-ctx.Done():
		return fmt.Errorf("the engine did not answer in time: %w", ctx.Err())
	}
	<-c.done
	return err
}

// pending remembers when the packets came that a mitigation answers, until its route is announced.
type pending struct {
	mu    sync.Mutex
	since map[string]origin // guarded by mu; by mitigation
}

// origin is where a decision began.
type origin struct{ triggered, received time.Time }

func (p *pending) add(id string, o origin) {
	if o.received.IsZero() {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.since) < maxEnded {
		p.since[id] = o
	}
}

func (p *pending) take(id string) (origin, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	o, ok := p.since[id]
	delete(p.since, id)
	return o, ok
}
