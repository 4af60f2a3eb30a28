package engine

import (
	"fmt"
	"slices"
	"time"

	"github.com/amooglesoft/trafficmonitor/internal/audit"
	"github.com/amooglesoft/trafficmonitor/internal/detect"
	"github.com/amooglesoft/trafficmonitor/internal/mitigation"
	"github.com/amooglesoft/trafficmonitor/internal/route"
	"github.com/amooglesoft/trafficmonitor/internal/signature"
	"github.com/amooglesoft/trafficmonitor/internal/traffic"
	"github.com/amooglesoft/trafficmonitor/internal/vector"
	"github.com/amooglesoft/trafficmonitor/policy"
)

// plan is what the answer of the policy wants done about one vector. It is proposed only where the ladder's first step may
// not be taken now. Why says why none of it may be done; it is empty otherwise.
func (e *Engine) plan(now time.Time, inc detect.Incident, v vector.ID, answer policy.Response) (p mitigation.Plan, why string) {
	i := slices.IndexFunc(answer.Steps, policy.Step.Announces)
	if i < 0 {
		return mitigation.Plan{}, ""
	}
	s := answer.Steps[i]
	r := route.Route{Match: e.ports().For(inc.Target, v).Match, Action: s.Action}
	switch {
	case s.Action.Kind == route.Blackhole:
		r.Match = route.Match{Destination: inc.Target}
	case unmarked(r.Match, v):
		return mitigation.Plan{}, fmt.Sprintf("no match tells %s from other traffic, so that would be done to all traffic of %s: only observed (a response to total, or a blackhole, says so openly)", v, inc.Target)
	}
	p = mitigation.Plan{
		Target: inc.Target, Vector: v, Incident: inc.ID, Answer: answer.Path, Route: r, TTL: s.TTL, Extend: s.Extend, MaxAge: min(s.MaxAge, e.o.Safety.MaxAge),
		Reason: fmt.Sprintf("%s; %s", inc.Reason, answer.Reason), Scope: slices.Sorted(slices.Values(s.Scope)),
	}
	if ladder := mitigation.Ladder(answer); ladder != "" {
		p.Rung = mitigation.Rung{Ladder: ladder, Steps: len(answer.Steps), Name: s.Name, DownAfter: s.DownAfter}
		if answer.Observe {
			p.Proposed, p.Rung.Step, p.Rung.Name, p.Rung.DownAfter = true, -1, "", 0
		}
	}
	if j := slices.IndexFunc(inc.Vectors, func(m detect.Measurement) bool { return m.Vector == v }); j >= 0 {
		p.PPS, p.BPS = inc.Vectors[j].PPS, inc.Vectors[j].BPS
	}
	o := e.view.Observe(inc.Target, vector.Inbound, v)
	p.Other, p.Sensors = max(0, o.AllPPS-o.PPS), o.Sensors
	return p, ""
}

// unmarked tells whether a match takes all traffic of its target though the vector is not all of it.
func unmarked(m route.Match, v vector.ID) bool {
	return v != vector.Total && m.Equal(route.Match{Destination: m.Destination})
}

// ports are the source ports of reflection that our directive tells sensors of.
func (e *Engine) ports() signature.Ports { return e.o.Watch.ReflectionPorts }

// propose stores a mitigation that announces nothing yet, and lets its ladder begin; false says that the term was given up.
func (e *Engine) propose(now time.Time, m mitigation.Mitigation, answer policy.Response, about map[string]string) bool {
	if _, err := e.commit(mitigation.Change{Put: []mitigation.Mitigation{m}}); err != nil {
		return false
	}
	e.log.Info("mitigation proposed", "mitigation", m.ID, "incident", m.Incident, "rule", m.Routes[0], "reason", answer.Reason)
	about["mitigation"], about["route"] = m.ID, m.Routes[0].String()
	e.o.Emit(audit.MitigationProposed, fmt.Sprintf("%s is not announced yet: %s", m.Routes[0], answer.Reason), about)
	return e.advance(now, m)
}

// ladders lets each live mitigation do what its ladder asks for.
func (e *Engine) ladders(now time.Time) {
	if e.machine == nil {
		return
	}
	adopt := e.adopt
	e.adopt = false
	taken := 0
	var s steps
	for _, m := range e.machine.Live() {
		if m.Manual() || len(m.Vectors) != 1 || m.Rung.Ladder == "" && !adopt {
			continue
		}
		if e.step(now, m, &s) {
			taken++
		}
		if taken >= maxSteps { // the others come a moment later
			e.adopt = e.adopt || adopt
			break
		}
	}
	e.store(s)
}

// unseen tells the machine of vectors that it answers and nobody reports: sensors say only what they see, so that of nothing
// there is no news. It is nothing only where those that saw the attack report.
func (e *Engine) unseen(now time.Time) {
	for _, m := range e.machine.Live() {
		for _, v := range m.Vectors {
			names := e.machine.Sensors(m.Target, v)
			if m.Manual() || len(names) == 0 {
				continue
			}
			from, to, ok := e.view.Whole(names)
			e.machine.Silent(m.Target, v, !ok)
			if o := e.view.Observe(m.Target, vector.Inbound, v); ok && o.SensorCount == 0 && o.MissingCount == 0 {
				o.Target, o.Direction, o.Vector = m.Target, vector.Inbound, v
				o.Start, o.Span = from, to.Sub(from)
				e.machine.Observe(began(now, o), e.usual(now, o))
			}
		}
	}
}

// maxSteps are taken at a look.
const maxSteps = 32

// began takes a window for no newer than it can be: the clock of a sensor may be ahead, and what was before a step must not count as
// after it. One that is behind makes a window older than it is, which then counts for nothing.
func began(now time.Time, o traffic.Observation) traffic.Observation {
	if at := now.Add(-o.Span); at.Before(o.Start) {
		o.Start = at
	}
	return o
}

// advance lets one mitigation do what its ladder asks for; false says that the term was given up.
func (e *Engine) advance(now time.Time, m mitigation.Mitigation) bool {
	var s steps
	e.step(now, m, &s)
	return e.store(s)
}

// step asks the policy about one mitigation, and the safety kernel about what comes of it, which is for store to store and to tell.
func (e *Engine) step(now time.Time, m mitigation.Mitigation, s *steps) (moved bool) {
	v := m.Vectors[0]
	inc, live := e.attack(m)
	asked := policy.Incident{Target: m.Target, Vector: v}
	if live {
		asked = policy.Observed(inc, v, now)
		if m.State == mitigation.Active { // with its peaks, for the answer itself lowers what sensors see
			asked.PPS, asked.BPS = asked.PeakPPS, asked.PeakBPS
		}
		if e.policy.AsksCollateral() {
			asked.Collateral = e.collateral(inc, v)
		}
	}
	answer := e.policy.Answer(asked, now)
	s.then(func() { e.uncomputed(answer.Problems) })
	mark := e.ports().For(m.Target, v).Match
	f := mitigation.Facts{Live: live, Collateral: -1, Mark: mark, Unmarked: unmarked(mark, v), MaxAge: e.o.Safety.MaxAge}
	if live {
		f.Duration = now.Sub(inc.Onset)
		if e.policy.AsksCollateral() {
			f.Collateral = asked.Collateral
		}
	}
	if e.o.Placed != nil {
		f.Installed, f.Routers = e.o.Placed(m)
	}
	known := e.known(now)
	before, c, did, err := e.machine.Advance(now, m.ID, answer, f)
	if err != nil {
		s.then(func() { e.uncomputed([]string{err.Error()}) })
	}
	if moved = did; !moved {
		return false
	}
	after := c.Put[0]
	if after.State != mitigation.Active {
		e.left(now, known, before, after)
	} else if refusals := e.judgeChange(now, known, before, after); len(refusals) > 0 {
		e.machine.Restore(now, before)
		e.unchanged()
		s.then(func() {
			e.metrics.refused.WithLabelValues(string(refusals[0].Invariant)).Inc()
			if text := fmt.Sprintf("%s is refused by the safety kernel, %s stays: %s: %s", after.Routes[0], before.Phase, refusals[0].Invariant, refusals[0].Reason); e.news(sight{m.Target, vector.Inbound, v}, text) {
				e.log.Error("a step of a ladder is refused by the safety kernel", "mitigation", m.ID, "rule", after.Routes[0], "reason", refusals[0].Reason)
				e.o.Emit(audit.MitigationRefused, text, e.about(before))
			}
		})
		return true
	}
	s.put(c, func() {
		e.tell(c)
		if i := after.Rung.Step; i != before.Rung.Step && 0 <= i && i < len(answer.Steps) && answer.Steps[i].Notify {
			e.metrics.notified.Inc()
			e.log.Warn("the policy asks a person to look", "mitigation", m.ID, "incident", m.Incident, "target", m.Target, "vector", v, "reason", after.Evidence)
			e.o.Emit(audit.PolicyNotify, after.Evidence, e.about(after))
		}
	})
	return true
}

// over ends what waits for an answer to an incident that is over.
func (e *Engine) over(now time.Time, inc detect.Incident, vectors []vector.ID) {
	if e.machine == nil {
		return
	}
	if inc.Direction != vector.Inbound {
		return
	}
	c := e.machine.Over(now, inc.Target, vectors)
	if c.Empty() {
		return
	}
	if _, err := e.commit(c); err == nil {
		e.tell(c)
	}
}

// attack returns the incident that a mitigation of automation answers, while it goes on. Another controller may have given it another
// name: what counts is that this target is attacked by this vector.
func (e *Engine) attack(m mitigation.Mitigation) (detect.Incident, bool) {
	inc, live := e.detector.Incident(detect.Site{Target: m.Target, Direction: vector.Inbound})
	live = live && slices.ContainsFunc(m.Vectors, func(v vector.ID) bool {
		return slices.ContainsFunc(inc.Vectors, func(x detect.Measurement) bool { return x.Vector == v })
	})
	return inc, live
}

// about names a mitigation in an event.
func (e *Engine) about(m mitigation.Mitigation) map[string]string {
	about := map[string]string{
		"mitigation": m.ID, "target": m.Target.String(), "route": m.Routes[0].String(), "deadline": m.Deadline.UTC().Format(time.RFC3339Nano), "phase": string(m.Phase),
	}
	if m.Incident != "" {
		about["incident"] = m.Incident
	}
	if m.Rung.Name != "" {
		about["step"] = m.Rung.Name
	}
	return about
}

// phaseKinds are the events of a mitigation that enters a phase in which it lives.
var phaseKinds = map[mitigation.Phase]audit.Kind{
	mitigation.Proposed: audit.MitigationProposed, mitigation.AwaitingApproval: audit.ApprovalAsked, mitigation.Announced: audit.MitigationCreated,
	mitigation.Verified: audit.MitigationVerified, mitigation.Ineffective: audit.MitigationIneffective, mitigation.Escalated: audit.MitigationEscalated,
	mitigation.Easing: audit.MitigationEased, mitigation.OnHold: audit.MitigationHeld,
}

// tell records what was stored.
func (e *Engine) tell(c mitigation.Change) {
	for _, m := range c.Put {
		i := slices.IndexFunc(c.Moves, func(mv mitigation.Move) bool { return mv.ID == m.ID })
		if i < 0 || m.State == mitigation.Ended || m.State == mitigation.Refused {
			e.announceChange(m)
			continue
		}
		e.moved(m, c.Moves[i])
	}
}

func (e *Engine) moved(m mitigation.Mitigation, mv mitigation.Move) {
	kind := phaseKinds[mv.To]
	switch {
	case mv.From == mv.To && m.Ask.Open():
		kind = audit.ApprovalAsked
	case mv.From == mv.To, mv.From == mitigation.OnHold:
		kind = audit.MitigationChanged
	case mv.To == mitigation.Announced:
		e.metrics.decided.WithLabelValues(m.Routes[0].Action.Kind.String()).Inc()
	case mv.To == mitigation.Verified && m.Effect.Verified.Equal(m.Effect.Measured):
		since := m.Rung.Since
		if since.IsZero() {
			since = m.Created
		}
		e.metrics.verified.Observe(m.Effect.Verified.Sub(since).Seconds())
	}
	e.metrics.moves.WithLabelValues(string(mv.To)).Inc()
	about := e.about(m)
	if !m.Effect.Measured.IsZero() {
		about["before_pps"], about["now_pps"] = fmt.Sprintf("%.0f", m.Effect.BeforePPS), fmt.Sprintf("%.0f", m.Effect.PPS)
	}
	e.log.Info("mitigation", "mitigation", m.ID, "phase", mv.To, "before", mv.From, "rule", m.Routes[0], "reason", mv.Why)
	e.o.Emit(kind, fmt.Sprintf("%s: %s", m.Routes[0], mv.Why), about)
}
