package speaker

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	api "github.com/osrg/gobgp/v3/api"

	"github.com/amooglesoft/trafficmonitor/internal/compile"
	"github.com/amooglesoft/trafficmonitor/internal/safety"
)

const (
	sendBatch = 64              // routes written at a time
	tellEvery = 2 * time.Second // how often watchers hear of routes written while more wait
)

// apply makes the set what this router is to get, and begins to send what is new.
func (r *router) apply(set []*item) {
	now := time.Now()
	r.mu.Lock()
	r.set = make([]*item, 0, len(set))
	for _, it := range set {
		if it.tells(r.peer.Name) {
			r.set = append(r.set, it)
		}
	}
	r.place(now)
	r.step(now)
	r.mu.Unlock()
	r.poke()
}

// place decides which routes of the set the router is to have, and as which rules. Those of a table it did not offer in
// its last session, and those in quarantine, take no room. The caller holds mu.
func (r *router) place(now time.Time) {
	profile := r.profile()
	r.out.maxRules, r.out.maxOf = profile.MaxRules, profile.MaxOf
	r.not = map[string]notFor{}
	set := make([]*item, 0, len(r.set))
	for _, it := range r.set {
		if why, unfit := r.unfit(it); unfit {
			r.not[it.id] = why
		} else {
			set = append(set, it)
		}
	}
	r.placed = placeSet(now, set, profile, r.limits, &r.made)
	for r.jailRules() { // a route one rule of which is in quarantine makes room for others
		set = slices.DeleteFunc(set, func(it *item) bool { _, not := r.not[it.id]; return not })
		r.placed = placeSet(now, set, profile, r.limits, &r.made)
	}
	for id, u := range r.placed.refused {
		state := Unsupported
		if u.outcome == compile.NotPlaced {
			state = NotPlaced
		}
		r.not[id] = notFor{state, u.reason}
	}
	r.withdrawStale(r.out.set(now, r.placed.rules))
}

// profile is what the router takes as far as is known, with the maxima it was found to have. The caller holds mu.
func (r *router) profile() compile.Profile {
	p := r.peer.profile()
	p.MaxOf = r.roofs.maxima()
	return p
}

// unfit says why a route is not for the router whatever room there is. The caller holds mu.
func (r *router) unfit(it *item) (why notFor, unfit bool) {
	if t := it.enc.table; r.out.tables != nil && !slices.Contains(r.out.tables, t) && slices.Contains(r.peer.tables(), t) {
		return notFor{Unsupported, fmt.Sprintf("the router does not offer %s: activate it there for this neighbour", t)}, true
	}
	if q := r.out.blame.quarantined(it.id); q != nil {
		return notFor{Quarantined, q.reason(r.peer.Name)}, true
	}
	if q := r.out.blame.doubt.held(it.enc.table); q != nil {
		return notFor{Quarantined, q.heldReason(r.peer.Name)}, true
	}
	return notFor{}, false
}

// jailRules takes out routes of several rules one of which is in quarantine, and reports whether there were any. The
// caller holds mu.
func (r *router) jailRules() (found bool) {
	for id, rules := range r.placed.of {
		for _, rule := range rules {
			if q := r.out.blame.quarantined(rule.id); q != nil {
				r.not[id] = notFor{Quarantined, q.reason(r.peer.Name)}
				found = true
			}
		}
	}
	return found
}

// withdrawStale queues withdrawals of what this session was not given. The caller holds mu.
func (r *router) withdrawStale(routes []encoded) {
	for _, e := range routes {
		r.queue, r.keys = appendWithdrawal(r.queue, e), append(r.keys, routeKey(e.table, e.nlri))
	}
}

func (r *router) poke() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// send writes routes to the router until ctx ends.
func (r *router) send(ctx context.Context) {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-r.wake:
		case <-timer.C:
		}
		wait := r.sendAll(ctx)
		timer.Reset(cmp.Or(wait, time.Hour))
	}
}

// sendAll does what there is to do now and returns when there is more; 0 means when something happens.
func (r *router) sendAll(ctx context.Context) time.Duration {
	for ctx.Err() == nil {
		now := time.Now()
		r.mu.Lock()
		released, wait := r.out.blame.release(now)
		higher, until := r.roofs.expire(now)
		wait = sooner(wait, until)
		if len(released) > 0 || higher {
			r.place(now)
		}
		unanswered, left := r.unanswered(now)
		wait = sooner(wait, left)
		again := r.out.tick(now)
		later := r.refreshDue(now)
		more, next := r.step(now)
		wait = sooner(wait, later)
		wait = sooner(sooner(wait, again), next)
		write, keys, pair := r.queue, r.keys, r.pair
		r.queue, r.keys = nil, nil
		if pair != nil {
			r.sending = keys
		}
		complete := r.out.justComplete(now, cmp.Or(r.grace, defaultGracefulRestart))
		if complete && pair != nil && pair.keeps && r.grace > 0 {
			for _, t := range r.out.tables {
				write = append(write, endOfRIB(t)...)
			}
		}
		r.mu.Unlock()

		if unanswered {
			r.goesOn(unansweredWait)
		}
		if len(released) > 0 {
			r.log.Warn("routes come out of quarantine and are tried again", "routes", len(released))
			r.report()
		}
		if pair != nil && len(write) > 0 {
			err := pair.send(write, func(updates int) {
				n := min(updates, len(keys)) // behind those are End-of-RIBs
				r.wrote(pair, updates, keys[:n])
				keys = keys[n:]
			})
			if err != nil {
				r.gone(pair)
				return 0 // until the next session
			}
			continue
		}
		if !more && !complete { // once all is out, suspects are next, and step looked before
			return wait
		}
	}
	return 0
}

// pardon tries again what is in quarantine; an empty route means all. It returns the routes.
func (r *router) pardon(text string) []string {
	now := time.Now()
	r.mu.Lock()
	released := r.out.blame.pardon(text)
	r.place(now)
	r.mu.Unlock()
	slices.Sort(released)
	if len(released) > 0 {
		r.report()
		r.poke()
	}
	return released
}

// report tells watchers and the file of quarantine about a judgement.
func (r *router) report() {
	if r.judged != nil {
		r.judged()
	}
	r.watch.changed()
}

// step queues a batch of withdrawals and a batch of additions. more says that it can go on at once, wait that it can
// after a while. The caller holds mu.
func (r *router) step(now time.Time) (more bool, wait time.Duration) {
	var failed int
	for range sendBatch {
		h := r.out.nextDrop()
		if h == nil {
			break
		}
		more = true
		r.withdraw(now, h)
	}
	for range sendBatch {
		it, pause, ok := r.out.nextAdd(now)
		if !ok {
			wait = pause
			break
		}
		more = true
		err := r.announce(it, routeKey(it.enc.table, it.enc.nlri))
		r.out.added(now, it, err)
		if err != nil {
			failed++
			r.log.Error("a route cannot be sent to this router", "route", it.text, "err", err)
		}
	}
	filled, later, bad := r.fill(now)
	if failed += bad; failed > 0 {
		r.m.bgpErrors.WithLabelValues(r.peer.Name).Add(float64(failed))
	}
	return more || filled, sooner(wait, later)
}

// announce queues the UPDATE of a route. The caller holds mu.
func (r *router) announce(it *item, key string) error {
	out, err := r.attrs.announcement(r.queue, *it.enc, it.Route.Action, r.twoOctets)
	if err == nil {
		r.queue, r.keys = out, append(r.keys, key)
	}
	return err
}

// withdraw queues the withdrawal of a route. The caller holds mu.
func (r *router) withdraw(now time.Time, h *held) {
	r.queue, r.keys = appendWithdrawal(r.queue, *h.enc), append(r.keys, h.key)
	r.out.dropped(now, h)
}

// drain queues every withdrawal before it returns, however many are under way.
func (r *router) drain() {
	r.mu.Lock()
	now := time.Now()
	if r.out.up {
		for _, h := range r.out.drop {
			r.withdraw(now, h)
		}
		r.out.drop = r.out.drop[:0]
	}
	r.mu.Unlock()
	r.poke()
}

// remember notes what the router may have kept from a speaker before this one.
func (r *router) remember(items []*item) {
	r.mu.Lock()
	defer r.mu.Unlock()
	p, anywhere := r.peer.profile(), anyRouter()
	for i, d := range compile.Compile(compileEntries(items), p).Decisions {
		// The route itself as well: its profile may have been another one then.
		for _, rule := range append(slices.Clone(d.Rules), items[i].Route) {
			if e, err := encode(safety.Make(rule), anywhere); err == nil {
				r.out.stale[routeKey(e.table, e.nlri)] = e
			}
		}
	}
}

func (r *router) sessionUp(p *pair) {
	r.mu.Lock()
	p.mu.Lock()
	tables, keeps := slices.Clone(p.tables), p.keeps
	r.twoOctets = p.twoOctets
	p.mu.Unlock()
	r.pair, r.queue, r.keys, r.sending = p, nil, nil, nil
	now := time.Now()
	r.out.begin(now, tables, keeps)
	r.place(now)
	suspects := len(r.out.last)
	waits := r.beginWait(now)
	r.mu.Unlock()
	if waits {
		r.watch.changed()
	}
	if suspects > 0 {
		r.log.Warn("routes that may have reset the session go last, a few at a time", "suspects", suspects)
	}
	r.poke()
}

// wrote notes that so many UPDATEs were written to the connection of this session. The keys are those of their routes, the
// next of r.sending.
func (r *router) wrote(p *pair, updates int, keys []string) {
	now := time.Now()
	r.m.updates.WithLabelValues(r.peer.Name).Add(float64(updates))
	r.mu.Lock()
	if r.pair != p { // it ended meanwhile, and sessionDown knows of these
		r.mu.Unlock()
		return
	}
	r.sending = r.sending[len(keys):]
	for _, key := range keys {
		if h := r.out.wrote(now, key); h != nil && !h.since.IsZero() {
			r.m.routeSeconds.WithLabelValues(r.peer.Name).Observe(now.Sub(h.since).Seconds())
		}
	}
	idle := r.out.flying == 0
	tell := idle && len(r.out.add) == 0 || now.Sub(r.told) > tellEvery
	if tell {
		r.told = now
	}
	r.mu.Unlock()
	r.poke()
	if tell {
		r.watch.changed()
	}
}

// gone notes that nothing more can be written to this session, whose end is about to be told.
func (r *router) gone(p *pair) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.pair == p {
		r.pair = nil
	}
}

// sessionDown judges how an established session ended.
func (r *router) sessionDown(how ending, why string, most *maximum) {
	now := time.Now()
	r.mu.Lock()
	r.out.interrupted(now, r.sending) // they may have been what it ended upon
	r.sending = nil
	v := r.out.blame.ended(now, how, why, r.out.held)
	var q Quarantine
	if v.jailed != "" {
		q = *r.out.blame.records[v.jailed]
	} else if v.held != "" {
		q = *r.out.blame.doubt.records[v.held]
	}
	var table compile.Table
	var rules int
	if most != nil {
		table, rules = r.roofs.learn(now, *most, r.out.heldOf)
	}
	lower := rules > 0 && rules < len(r.out.held)
	clear(r.refill)
	clear(r.again)
	r.out.end()
	r.pair, r.queue, r.keys, r.asked = nil, nil, nil, 0
	r.eager = v != (verdict{}) || lower
	r.place(now)
	r.mu.Unlock()
	if most != nil {
		r.log.Error("the router has a maximum of prefixes below what it was sent: it gets the most valuable up to that for an hour; raise it there, or lower max_rules",
			"maximum", rules, "family", cmp.Or(table, "all"), "max_rules", r.peer.MaxRules)
	}
	switch {
	case v.jailed != "":
		r.m.quarantines.WithLabelValues(r.peer.Name).Inc()
		r.log.Error("route in quarantine: the router reset the session upon it again and again; it is not sent there until then, all others are",
			"route", q.Route, "until", q.Until.UTC(), "times", q.Times, "reason", q.Why)
		r.report()
	case v.held != "":
		r.m.familyHolds.WithLabelValues(r.peer.Name, string(v.held)).Inc()
		r.log.Error("family kept from the router: it reset the session upon one route of it after the other and took none; all other families are sent",
			"family", q.Family, "until", q.Until.UTC(), "times", q.Times, "reason", q.Why, "remedy", "upgrade the router, or leave the family out of its families")
		r.report()
	case v.suspects > 0:
		r.log.Warn("the router ended the session soon after routes were sent: some of them may be the reason", "suspects", v.suspects, "reason", why)
	}
}

// reconnect makes GoBGP forget the neighbour and start anew: left alone it stays idle for five seconds after each loss.
func (r *router) reconnect() (eager bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.alive {
		return false
	}
	ctx := context.Background()
	err := r.bgp.DeletePeer(ctx, &api.DeletePeerRequest{Address: "127.0.0.1"})
	if err == nil {
		err = r.addPeer()
	}
	if err != nil {
		r.log.Error("GoBGP does not take the peer again: restart the speaker", "err", err)
	}
	return r.eager
}

// routeState says what became of the route with this ID. s is the session as it is now.
func (r *router) routeState(it *item, s session) PeerRoute {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.stateOf(it, s)
}

// stateOf is routeState; the caller holds mu. Of a route that is several rules here it is the state of the worst.
func (r *router) stateOf(it *item, s session) PeerRoute {
	rules := r.placed.of[it.id]
	if rules == nil {
		p := r.ruleState(it, s)
		if p.State == Sent {
			p.Found = r.prober.of(time.Now(), []string{it.id})
		}
		return p
	}
	var p PeerRoute
	ids := make([]string, len(rules))
	for i, rule := range rules {
		if q := r.ruleState(rule, s); i == 0 || severity(q.State) > severity(p.State) {
			p = q
		}
	}
	p.Widened = r.placed.widened[it.id]
	for i, rule := range rules {
		p.Rules, ids[i] = append(p.Rules, rule.text), rule.id
	}
	if p.State == Sent {
		p.Found = r.prober.of(time.Now(), ids)
	}
	return p
}

// sentRules returns the rules whose UPDATEs were written to the router's connection before now, in this session.
func (r *router) sentRules(now time.Time) []*item {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []*item
	for _, h := range r.out.held {
		if !h.written.IsZero() && h.written.Before(now) {
			out = append(out, h.item)
		}
	}
	return out
}

// cost returns the entries of hardware that the router's rules take.
func (r *router) cost() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.placed.cost
}

// severity orders the states of rules that are one route: a part that is missing says more than one that is there.
func severity(s RouteState) int {
	return slices.Index([]RouteState{Sent, Pending, NotPlaced, Unsupported, Failed, Quarantined}, s)
}

func (r *router) ruleState(it *item, s session) PeerRoute {
	p := PeerRoute{Peer: r.peer.Name, State: Pending}
	if n, ok := r.not[it.id]; ok {
		p.State, p.Reason = n.state, n.reason
		return p
	}
	h, f := r.out.held[it.id], r.out.failed[it.id]
	switch {
	case s.state != Established || !r.out.up:
		p.Reason = "the session is " + s.state.String()
		if s.lastError != "" {
			p.Reason += ": " + s.lastError
		}
	case !r.out.until.IsZero():
		p.Reason = r.waitReason()
	case f != nil:
		p.State = Failed
		p.Reason = fmt.Sprintf("%s; it is tried again every %s", f.err, retryAfter)
	case h != nil && !h.written.IsZero() && h.Route.Action == it.Route.Action:
		p.State, p.Sent = Sent, h.written
	case r.out.blame.suspect(it):
		p.Reason = "the router may have reset the session upon it: it is sent after the others, a few at a time, to find out"
	case !s.stalled.IsZero():
		p.Reason = "it waits for the router, which has taken nothing of what it is sent since " + s.stalled.UTC().Format(time.RFC3339)
	default:
		p.Reason = "it waits for its turn"
	}
	return p
}

// heldFamilies returns the families that are kept from the router.
func (r *router) heldFamilies() (out []HeldFamily) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, t := range compile.Tables() {
		if q := r.out.blame.doubt.held(t); q != nil {
			out = append(out, HeldFamily{t, q.Until, q.heldReason(r.peer.Name)})
		}
	}
	return out
}

// counts returns how many routes the router is to have, and how many of the set are in each state.
func (r *router) counts(s session) (desired int, in map[RouteState]int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	in = map[RouteState]int{}
	for _, n := range r.not {
		in[n.state]++
	}
	for _, it := range r.out.order {
		in[r.ruleState(it, s).State]++
	}
	return len(r.out.order), in
}

// reason says in words why a route is in quarantine and how it gets out.
func (q *Quarantine) reason(peer string) string {
	return fmt.Sprintf("quarantined until %s, the %s: %s. Correct the rule or the router; to try it again at once: tmctl release-quarantine %s --reason ...",
		q.Until.UTC().Format(time.RFC3339), ordinal(q.Times)+" time", q.Why, peer)
}

func ordinal(n int) string {
	switch {
	case n%100/10 == 1:
	case n%10 == 1:
		return fmt.Sprintf("%dst", n)
	case n%10 == 2:
		return fmt.Sprintf("%dnd", n)
	case n%10 == 3:
		return fmt.Sprintf("%drd", n)
	}
	return fmt.Sprintf("%dth", n)
}
