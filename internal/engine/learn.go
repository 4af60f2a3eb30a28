package engine

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"time"

	"github.com/amooglesoft/trafficmonitor/internal/baseline"
	"github.com/amooglesoft/trafficmonitor/internal/detect"
	"github.com/amooglesoft/trafficmonitor/internal/mitigation"
	"github.com/amooglesoft/trafficmonitor/internal/traffic"
)

// Below these rates nothing is learnt, for no limit is that low: most of what is seen costs nothing then.
const (
	leastLearntPPS = 1000
	leastLearntBPS = 10e6
)

// normal is the learner as the detector asks it; without one nothing is known.
func normal(l *baseline.Learner) detect.Normal {
	if l == nil {
		return nil
	}
	return l
}

// learn shows the learner what a target receives or sends, whenever that changes. Nothing is learnt from what an incident
// is about, from what a mitigation hides, or from a silent sensor's last word.
func (e *Engine) learn(now time.Time, r traffic.Rate) {
	if e.o.Baseline == nil || r.Network || r.PPS < leastLearntPPS && r.BPS < leastLearntBPS {
		return
	}
	attack := r.Held || e.hides(r.Target) || e.detector.Attacked(r.Target, r.Direction, r.Vector)
	e.o.Baseline.Observe(now, baseline.Key{Target: r.Target, Direction: r.Direction, Vector: r.Vector}, r.PPS, r.BPS, attack)
}

// usual is what a mitigated target normally receives.
func (e *Engine) usual(now time.Time, o traffic.Observation) (u mitigation.Usual) {
	if e.o.Baseline != nil && e.machine.Watches(o.Target, o.Vector) {
		u.PPS, u.BPS, _ = e.o.Baseline.Normal(now, o.Target, o.Direction, o.Vector)
	}
	return u
}

// hides tells whether a mitigation is for the target, or for a network around it.
func (e *Engine) hides(target netip.Prefix) bool {
	return e.mitigated[target] || slices.ContainsFunc(e.wide, target.Overlaps)
}

// Baseline returns a snapshot of what was learnt.
func (e *Engine) Baseline(ctx context.Context) (b []byte, err error) {
	if e.o.Baseline == nil {
		return nil, errors.New("nothing is learnt: baseline.enabled is false")
	}
	done := e.do(ctx, func(time.Time) error {
		b, err = e.o.Baseline.AppendBinary(nil)
		return err
	})
	return b, done
}
