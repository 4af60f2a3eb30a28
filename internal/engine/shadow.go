package engine

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/amooglesoft/trafficmonitor/internal/audit"
	"github.com/amooglesoft/trafficmonitor/internal/detect"
	"github.com/amooglesoft/trafficmonitor/internal/traffic"
	"github.com/amooglesoft/trafficmonitor/policy"
)

// shadow is a policy that sees what the one in force sees, and is never obeyed: it is told where it would have acted
// otherwise. The zero shadow is none.
type shadow struct {
	policy   *policy.Policy // nil without one
	detector *detect.Detector
	cases    map[sight]*shadowCase
	told     budget
	judged   uint64 // cases that ended since it was loaded
	differs  uint64 // of them, those in which it would have acted otherwise
}

// shadowCase is a vector of an incident that either policy makes, from the first one's onset to the last one's end.
type shadowCase struct {
	active, shadow verdict
	incident       string // of the policy in force, if it makes one
}

// verdict is what one policy makes of it.
type verdict struct {
	made, open bool
	action     string // what it does, or would do; the first that announces something stays
	announces  bool
	why        string
	next       time.Time // when it is asked again
}

// The outcomes of a case, as the metric's label has them.
const (
	shadowSame   = "same"
	shadowLess   = "only_active"
	shadowMore   = "only_shadow"
	shadowAction = "action"
)

// SetShadow puts a policy beside the one in force; nil takes it away.
func (e *Engine) SetShadow(ctx context.Context, p *policy.Policy) error {
	return e.do(ctx, func(now time.Time) error {
		e.setShadow(p)
		for target := range e.mitigated {
			e.shadow.mask(now, target, true)
		}
		return nil
	})
}

// Shadowed tells of how many vectors of incidents that ended the shadow policy has been asked since it was loaded, and at how
// many it would have acted otherwise.
func (e *Engine) Shadowed(ctx context.Context) (judged, differs uint64, err error) {
	err = e.do(ctx, func(time.Time) error {
		judged, differs = e.shadow.judged, e.shadow.differs
		return nil
	})
	return judged, differs, err
}

func (e *Engine) setShadow(p *policy.Policy) {
	e.shadow = shadow{}
	if p != nil {
		e.shadow = shadow{policy: p, detector: detect.New(p.Rules(), normal(e.o.Baseline)), cases: map[sight]*shadowCase{}}
		e.log.Info("shadow policy loaded", "source", p.Source(), "hash", p.Hash())
	}
}

func (s *shadow) wants(r traffic.Rate) bool { return s.policy != nil && s.detector.Wants(r) }

func (s *shadow) mask(now time.Time, target netip.Prefix, masked bool) {
	if s.policy != nil {
		s.detector.Mask(now, target, masked)
	}
}

// shadowSees lets the shadow see what the policy in force sees.
func (e *Engine) shadowSees(now time.Time, observe func(*detect.Detector) []detect.Event) {
	if e.shadow.policy == nil {
		return
	}
	for _, ev := range observe(e.shadow.detector) {
		e.shadowCases(now, ev, e.shadow.policy, func(c *shadowCase) *verdict { return &c.shadow })
	}
}

// shadowHears tells the shadow what the policy in force makes of an attack.
func (e *Engine) shadowHears(now time.Time, ev detect.Event) {
	if e.shadow.policy != nil {
		e.shadowCases(now, ev, e.policy, func(c *shadowCase) *verdict { return &c.active })
	}
}

// shadowCases notes what a policy makes of an event on its side of each case.
func (e *Engine) shadowCases(now time.Time, ev detect.Event, p *policy.Policy, side func(*shadowCase) *verdict) {
	for _, v := range ev.Vectors {
		k := sight{ev.Incident.Target, ev.Incident.Direction, v}
		if ev.Kind == detect.End {
			e.shadowEnds(now, k, side)
			continue
		}
		c := e.shadow.of(k)
		if p == e.policy {
			c.incident = ev.Incident.ID
		}
		if mine := side(c); mine.due(now, e.o.RetryAfter) {
			mine.take(p.Answer(policy.Observed(ev.Incident, v, now), now), ev.Incident.Reason)
		}
	}
}

func (s *shadow) of(k sight) *shadowCase {
	c := s.cases[k]
	if c == nil {
		c = &shadowCase{}
		s.cases[k] = c
	}
	return c
}

// due reports whether it is time to ask again: at first, and now and then until something is announced.
func (v *verdict) due(now time.Time, after time.Duration) bool {
	if v.open && (v.announces || now.Before(v.next)) {
		return false
	}
	v.next = now.Add(after)
	return true
}

func (v *verdict) take(answer policy.Response, reason string) {
	v.open = true
	if v.made && v.announces {
		return
	}
	var does []string
	for _, s := range answer.Steps {
		does = append(does, s.Does())
	}
	v.made, v.announces = true, answer.Announces()
	v.action, v.why = strings.Join(does, ", then "), fmt.Sprintf("%s; %s", reason, answer.Reason)
}

// shadowEnds closes one side of a case, and the case with its last side.
func (e *Engine) shadowEnds(now time.Time, k sight, side func(*shadowCase) *verdict) {
	c := e.shadow.cases[k]
	if c == nil {
		return
	}
	side(c).open = false
	if c.active.open || c.shadow.open {
		return
	}
	delete(e.shadow.cases, k)
	outcome := shadowSame
	switch {
	case !c.shadow.made:
		outcome = shadowLess
	case !c.active.made:
		outcome = shadowMore
	case c.active.action != c.shadow.action:
		outcome = shadowAction
	}
	e.metrics.shadowed.WithLabelValues(outcome).Inc()
	if e.shadow.judged++; outcome != shadowSame {
		e.shadow.differs++
	}
	if outcome == shadowSame || e.machine == nil || !e.shadow.told.spend(now) { // the leader tells
		return
	}
	e.o.Emit(audit.ShadowDiffers, fmt.Sprintf("%s at %s: in force: %s; shadow: %s", k.vector, k.target, c.active, c.shadow), map[string]string{
		"incident": c.incident, "target": k.target.String(), "vector": k.vector.String(), "direction": k.direction.String(), "outcome": outcome,
		"shadow": e.shadow.policy.Source(), "shadow_hash": e.shadow.policy.Hash(),
	})
}

func (v verdict) String() string {
	if !v.made {
		return "no incident"
	}
	return fmt.Sprintf("%s (%s)", v.action, v.why)
}
