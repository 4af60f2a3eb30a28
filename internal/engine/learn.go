package engine

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"time"

	"github.com/amooglesoft/trafficmonitor/internal/baseline"
	"github.com/amooglesoft/trafficmonitor/internal/detect"
	"github.com/amooglesoft/trafficmonitor/internal/traffic"
)

// learnEvery is the time between two looks of the learner at the view.
const learnEvery = time.Second

// normal is the learner as the detector asks it; without one nothing is known.
func normal(l *baseline.Learner) detect.Normal {
	if l == nil {
		return nil
	}
	return l
}

// learn shows the learner what targets receive and send. Nothing is learnt from what an incident is about, from what a mitigation hides,
// or from what a silent sensor said last.
func (e *Engine) learn(now time.Time) {
	l := e.o.Baseline
	if l == nil || now.Sub(e.learnt) < learnEvery {
		return
	}
	e.learnt = now
	var wide []netip.Prefix // networks that a mitigation is for
	for p := range e.mitigated {
		if !p.IsSingleIP() {
			wide = append(wide, p)
		}
	}
	e.view.Each(func(r traffic.Rate) {
		hidden := e.mitigated[r.Target] || slices.ContainsFunc(wide, r.Target.Overlaps)
		attack := r.Held || hidden || e.detector.Attacked(r.Target, r.Direction, r.Vector)
		l.Observe(now, baseline.Key{Target: r.Target, Direction: r.Direction, Vector: r.Vector}, r.PPS, r.BPS, attack)
	})
	e.metrics.baseline(l)
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
