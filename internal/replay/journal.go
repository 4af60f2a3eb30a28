package replay

import (
	"cmp"
	"context"
	"errors"
	"io"
	"time"

	"github.com/amooglesoft/trafficmonitor/internal/journal"
	"github.com/amooglesoft/trafficmonitor/internal/traffic"
	"github.com/amooglesoft/trafficmonitor/policy"
)

// Journal replays what a controller kept of its sensors' reports and samples, so that an incident of last night can be
// seen again, or under another policy. open yields the records from the first on; it is called twice. Coverage and collateral
// are measured on the samples.
//
// What sensors reported at once depended on the limits in force then: where the policy given here has lower ones, the
// journal knows of what lies between only by interval reports.
func Journal(ctx context.Context, o Options, open func() (*journal.Reader, error)) (r *Result, damaged []error, err error) {
	if o.Policy == nil {
		o.Policy = policy.Default()
	}
	o.MaxTargets = cmp.Or(o.MaxTargets, 200_000)
	e := newEngine(o, true)
	damaged, err = records(ctx, open, e.record)
	if err != nil {
		return nil, damaged, err
	}
	e.finish()
	if len(e.result.Incidents) > 0 {
		m := newMeasure(o, e.result.Incidents)
		if _, err := records(ctx, open, func(rec journal.Record) {
			for i := range rec.Samples {
				m.sample(Packet{Time: rec.Samples[i].Time}, &rec.Samples[i])
			}
		}); err != nil {
			return nil, damaged, err
		}
		m.finish()
	}
	return &e.result, damaged, nil
}

func records(ctx context.Context, open func() (*journal.Reader, error), do func(journal.Record)) (damaged []error, err error) {
	r, err := open()
	if err != nil {
		return nil, err
	}
	for ctx.Err() == nil {
		rec, err := r.Next()
		var hole *journal.Damage
		switch {
		case errors.Is(err, io.EOF):
			return damaged, nil
		case errors.As(err, &hole):
			damaged = append(damaged, hole)
		case err != nil:
			return damaged, err
		default:
			do(rec)
		}
	}
	return damaged, ctx.Err()
}

// record takes in what a controller took in, when it did.
func (e *engine) record(rec journal.Record) {
	if e.result.First.IsZero() {
		e.result.First, e.now = rec.Time, rec.Time
	}
	for at := e.now.Add(reportInterval); at.Before(rec.Time); at = at.Add(reportInterval) {
		if rec.Time.Sub(at) > patience { // the controller was away
			at = rec.Time.Add(-reportInterval)
		}
		e.now = at
		e.tick(at)
	}
	e.now = later(e.now, rec.Time)
	e.result.Duration = e.now.Sub(e.result.First)
	if rec.Samples != nil {
		e.result.Packets += len(rec.Samples)
		for _, s := range rec.Samples {
			e.samples.Add(rec.Time, s)
		}
		return
	}
	e.result.Reports++
	e.report(e.now, rec.Report)
	e.tick(e.now)
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// sample measures one sample.
func (m *measure) sample(p Packet, s *traffic.Sample) {
	for _, i := range m.of[s.Target()] {
		if m.incidents[i].Direction == s.Direction {
			m.see(i, p, s)
		}
	}
	for _, i := range m.wide {
		if m.incidents[i].Direction == s.Direction && m.incidents[i].Target.Contains(s.Target()) {
			m.see(i, p, s)
		}
	}
}
