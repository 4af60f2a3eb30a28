package engine

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/amooglesoft/trafficmonitor/internal/audit"
	"github.com/amooglesoft/trafficmonitor/internal/detect"
	"github.com/amooglesoft/trafficmonitor/internal/mitigation"
	"github.com/amooglesoft/trafficmonitor/internal/safety"
	"github.com/amooglesoft/trafficmonitor/internal/vector"
	"github.com/amooglesoft/trafficmonitor/policy"
)

// events acts on what the detector says.
func (e *Engine) events(now time.Time, evs []detect.Event, from origin) {
	for _, ev := range evs {
		inc := ev.Incident
		e.shadowHears(now, ev)
		switch ev.Kind {
		case detect.Onset, detect.VectorAdded:
			if !from.received.IsZero() {
				e.metrics.stage(stageDecision, now.Sub(from.received))
			}
			kind := audit.IncidentOnset
			if ev.Kind == detect.VectorAdded {
				kind = audit.IncidentGrown
			} else {
				e.metrics.active.Inc()
				e.samples.Freeze(inc.Target, inc.Onset)
				if e.o.Baseline != nil {
					e.o.Baseline.Discard(now, inc.Target, inc.Onset)
				}
			}
			e.metrics.incidents.WithLabelValues(ev.Vectors[0].String()).Inc()
			e.log.Info("incident", "incident", inc.ID, "target", inc.Target, "vector", ev.Vectors[0], "reason", inc.Reason)
			about := map[string]string{
				"incident": inc.ID, "target": inc.Target.String(), "direction": inc.Direction.String(), "vector": ev.Vectors[0].String(), "group": inc.Group, "test": inc.Test.String(),
				"sensors": strings.Join(inc.Sensors, ","),
			}
			if !from.triggered.IsZero() { // the sensor's kernel saw it by itself, and when
				about["triggered"] = from.triggered.UTC().Format(time.RFC3339Nano)
			}
			e.o.Emit(kind, inc.Reason, about)
			e.respond(now, inc, ev.Vectors, from)
		case detect.Continues:
			e.respond(now, inc, ev.Vectors, from)
		case detect.End:
			e.metrics.active.Dec()
			if !slices.ContainsFunc(e.detector.Incidents(), func(x detect.Incident) bool { return x.Target == inc.Target }) {
				e.samples.Thaw(now, inc.Target) // else another attack on it, or by it, goes on
			}
			e.ended = append(e.ended, inc)
			if len(e.ended) > maxEnded {
				e.ended = e.ended[1:]
			}
			e.over(now, inc, ev.Vectors)
			for _, v := range ev.Vectors {
				delete(e.retry, sight{inc.Target, inc.Direction, v})
				delete(e.said, sight{inc.Target, inc.Direction, v})
			}
			e.log.Info("incident ended", "incident", inc.ID, "target", inc.Target, "duration", inc.Ended.Sub(inc.Onset).Round(time.Millisecond))
			e.o.Emit(audit.IncidentEnded, fmt.Sprintf("the attack on %s is over after %s", inc.Target, inc.Ended.Sub(inc.Onset).Round(time.Millisecond)),
				map[string]string{"incident": inc.ID, "target": inc.Target.String()})
		}
	}
}

// respond does what the policy wants about vectors of an incident, one mitigation a vector; what it comes to is for flush to store and
// to tell.
func (e *Engine) respond(now time.Time, inc detect.Incident, vectors []vector.ID, from origin) {
	if e.machine == nil {
		return
	}
	for _, v := range vectors {
		k := sight{inc.Target, inc.Direction, v}
		if now.Before(e.retry[k]) {
			continue
		}
		if e.machine == nil { // what was decided before could not be stored
			return
		}
		e.retry[k] = now.Add(e.o.RetryAfter)
		asked := policy.Observed(inc, v, now)
		if e.policy.AsksCollateral() {
			asked.Collateral = e.collateral(inc, v)
		}
		answer := e.policy.Answer(asked, now)
		e.uncomputed(answer.Problems)
		about := map[string]string{"incident": inc.ID, "target": inc.Target.String(), "vector": v.String()}
		p, why := e.plan(now, inc, v, answer)
		if why != "" {
			answer.Observe = true
			answer.Reason += "; " + why
		}
		if answer.Observe && (why != "" || !p.Proposed) {
			if e.news(k, answer.Reason) {
				e.unanswered(answer, about)
			}
			continue
		}
		r, known := p.Route, e.known(now)
		m, err := e.machine.Respond(now, p)
		switch {
		case errors.Is(err, mitigation.ErrCovered):
			continue
		case err != nil:
			e.metrics.withheld.Inc()
			if text := fmt.Sprintf("%s against %s is withheld: %v", r, v, err); e.news(k, text) {
				e.o.Emit(audit.MitigationRefused, text, about)
			}
			continue
		}
		if p.Proposed {
			if !e.propose(now, m, answer, about) {
				return
			}
			delete(e.said, k)
			continue
		}
		if refusals := e.judgeChange(now, known, mitigation.Mitigation{}, m); len(refusals) > 0 {
			e.refuse(now, m, refusals, &k)
			e.unchanged()
			continue
		}
		e.pending.add(m.ID, from)
		e.decided.put(mitigation.Change{Put: []mitigation.Mitigation{m}}, func() {
			delete(e.said, k)
			e.metrics.decided.WithLabelValues(answer.Action.Kind.String()).Inc()
			e.log.Info("mitigation announced", "mitigation", m.ID, "incident", inc.ID, "rule", r, "reason", m.Reason, "expires", m.Deadline)
			about["mitigation"], about["route"], about["deadline"] = m.ID, r.String(), m.Deadline.UTC().Format(time.RFC3339Nano)
			e.o.Emit(audit.MitigationCreated, fmt.Sprintf("%s until %s: %s", r, m.Deadline.UTC().Format(time.TimeOnly), answer.Reason), about)
		})
		if len(e.decided) >= maxSteps { // the first must not wait for thousands
			e.flush()
		}
	}
}

// refuse records that the kernel let a mitigation not pass; nothing of it was announced. Automation tries again for as
// long as the attack lasts, which may be hours on thousands of targets of the attacker's choice: for it, of, what was
// said before is counted only, and no more than a budget is stored.
func (e *Engine) refuse(now time.Time, m mitigation.Mitigation, vs []safety.Violation, of *sight) {
	var words, broken []string
	for _, v := range vs {
		e.metrics.refused.WithLabelValues(string(v.Invariant)).Inc()
		words = append(words, fmt.Sprintf("%s: %s", v.Invariant, v.Reason))
		broken = append(broken, string(v.Invariant))
	}
	if of != nil && !e.news(*of, strings.Join(broken, " ")) {
		e.machine.Drop(m.ID)
		return
	}
	detail := strings.Join(words, "; ")
	e.log.Error("refused by the safety kernel", "mitigation", m.ID, "rule", m.Routes[0], "reason", detail)
	e.o.Emit(audit.MitigationRefused, fmt.Sprintf("%s: %s", m.Routes[0], detail), map[string]string{
		"mitigation": m.ID, "target": m.Target.String(), "route": m.Routes[0].String(), "invariant": string(vs[0].Invariant), "requester": m.Requester,
	})
	if of != nil && !e.refusals.spend(now) {
		e.machine.Drop(m.ID)
		return
	}
	m = e.machine.Refuse(now, m.ID, detail)
	e.decided.put(mitigation.Change{Put: []mitigation.Mitigation{m}}, nil)
	if of == nil {
		e.flush()
	}
}

// unanswered tells that nothing is announced, and asks a person to look where the policy says so.
func (e *Engine) unanswered(answer policy.Response, about map[string]string) {
	kind := audit.MitigationObserved
	if answer.Steps[0].Notify {
		kind = audit.PolicyNotify
		e.metrics.notified.Inc()
		e.log.Warn("the policy asks a person to look", "incident", about["incident"], "target", about["target"], "vector", about["vector"], "reason", answer.Reason)
	}
	e.o.Emit(kind, answer.Reason, about)
}

// uncomputed tells of conditions of the policy that could not be computed: each time by the metric, and once in words.
func (e *Engine) uncomputed(problems []string) {
	for _, p := range problems {
		e.metrics.uncomputed.Inc()
		if !e.problems[p] {
			e.problems[p] = true
			e.log.Error("a condition of the policy cannot be computed", "reason", p)
			e.o.Emit(audit.PolicyProblem, "a condition cannot be computed; its response is passed over, its exception holds: "+p, map[string]string{"source": e.policy.Source()})
		}
	}
}

// news reports whether text is new about what automation does not do, and remembers it.
func (e *Engine) news(k sight, text string) bool {
	if e.said[k] == text {
		return false
	}
	e.said[k] = text
	return true
}

// maxRefusals are stored a minute.
const maxRefusals = 60

// budget allows maxRefusals a minute.
type budget struct {
	since time.Time
	spent int
}

func (b *budget) spend(now time.Time) bool {
	if now.Sub(b.since) >= time.Minute {
		*b = budget{since: now}
	}
	b.spent++
	return b.spent <= maxRefusals
}

// enforceSafety ends active mitigations that the kernel would not let pass today, for limits change with the
// configuration.
func (e *Engine) enforceSafety(now time.Time) {
	if e.machine == nil {
		return
	}
	vs, owners := e.judge(now, e.machine.Active())
	unsafe := map[string]string{}
	for _, v := range vs {
		for _, o := range owners[v.Index] {
			unsafe[o] = fmt.Sprintf("%s: %s", v.Invariant, v.Reason)
		}
	}
	if len(unsafe) == 0 {
		return
	}
	c := e.machine.EndUnsafe(now, unsafe)
	if _, err := e.commit(c); err != nil {
		return
	}
	for _, m := range c.Put {
		e.announceChange(m)
	}
}

// announceChange records that a stored mitigation was extended or ended.
func (e *Engine) announceChange(m mitigation.Mitigation) {
	about := e.about(m)
	if m.State == mitigation.Active {
		kind := audit.MitigationExtended
		if m.Extend == 0 {
			kind = audit.MitigationChanged
		}
		e.log.Info("mitigation goes on", "mitigation", m.ID, "rule", m.Routes[0], "reason", m.Evidence, "expires", m.Deadline)
		e.o.Emit(kind, fmt.Sprintf("%s: %s", m.Routes[0], m.Evidence), about)
		return
	}
	for _, v := range m.Vectors {
		delete(e.retry, sight{m.Target, vector.Inbound, v})
	}
	e.metrics.ended.WithLabelValues(m.EndReason).Inc()
	about["reason"] = m.EndReason
	e.log.Info("mitigation ended", "mitigation", m.ID, "rule", m.Routes[0], "reason", m.EndReason, "detail", m.EndDetail)
	kind := audit.MitigationEnded
	switch m.EndReason {
	case mitigation.EndWithdrawn:
		kind = audit.ManualWithdraw
	case mitigation.EndRejected:
		kind = audit.ApprovalRejected
	}
	e.o.Emit(kind, strings.TrimSuffix(fmt.Sprintf("%s ended: %s: %s", m.Routes[0], m.EndReason, m.EndDetail), ": "), about)
}
