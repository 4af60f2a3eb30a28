package sensor

import (
	"errors"
	"math"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// restraint keeps the process within its budget, and says what that costs.
type restraint struct {
	governor  governor
	effort    effort     // what is done now
	directive *directive // that it was done for
	time      time.Time
	used      time.Duration // CPU time of the process at that time
	state     budgetState
	settled   bool // the start is over
	slimness  slimness
	metrics   restraintMetrics
}

type budgetState int

const (
	keepsBudget budgetState = iota
	doesLess
	exceedsBudget // although nothing is left to give up
)

// startsFor is how long after the start the work is no longer that of starting.
const startsFor = 10 * time.Second

type restraintMetrics struct {
	share, budget, level, exhausted, asked, actual prometheus.Gauge
}

func newRestraint(b Budget, reg prometheus.Registerer) restraint {
	for _, share := range []*float64{&b.Rest, &b.Most} {
		if *share <= 0 {
			*share = math.Inf(1)
		}
	}
	gauge := func(name, help string) prometheus.Gauge {
		g := prometheus.NewGauge(prometheus.GaugeOpts{Name: name, Help: help})
		reg.MustRegister(g)
		return g
	}
	return restraint{governor: governor{budget: b}, metrics: restraintMetrics{
		share:     gauge("trafficmonitor_sensor_cpu_ratio", "CPU time the process took in the last second, as a share of one core."),
		budget:    gauge("trafficmonitor_sensor_cpu_budget_ratio", "The share of one core the process may take now: cpu.rest, or cpu.most while targets are hot."),
		level:     gauge("trafficmonitor_sensor_restraint_level", "How much less is done to keep the budget: 0 nothing, 1 to 6 halvings of sampling, 7 no samples, 8 and 9 fewer profiles, above that doublings of the hot interval."),
		exhausted: gauge("trafficmonitor_sensor_budget_exhausted", "1 while the budget is exceeded although nothing is left to give up."),
		asked:     gauge("trafficmonitor_sensor_sample_one_in_asked", "One packet in so many is to be sampled, says the directive; 0 none."),
		actual:    gauge("trafficmonitor_sensor_sample_one_in", "One packet in so many is sampled; 0 none. More than asked, or 0, where the CPU budget is used up."),
	}}
}

// restrain looks at what the process used since a second ago or more, and changes what is done.
func (a *agent) restrain(now time.Time) {
	r := &a.restraint
	if r.time.IsZero() {
		r.time, r.used = now, processTime() // what starting took is not counted
	}
	span := now.Sub(r.time)
	if span < time.Second*9/10 { // a scan may come a moment early
		return
	}
	if r.settled {
		r.slimness.keep()
	} else if now.Sub(a.started) >= startsFor {
		r.settled = true
		r.slimness.start() // shaking hands with the controllers brought in code that rarely runs
	}
	used := processTime()
	last := float64(used-r.used) / float64(span)
	hot := len(a.meter.hot) > 0
	r.governor.observe(span, used-r.used, hot)
	r.time, r.used = now, used
	a.exert()

	x, limit := r.governor.gear(hot)
	state := keepsBudget
	switch {
	case x.spent:
		state = exceedsBudget
	case x.level > 0:
		state = doesLess
	}
	r.metrics.share.Set(last)
	r.metrics.budget.Set(limit)
	r.metrics.level.Set(float64(x.level))
	r.metrics.exhausted.Set(0)
	if state == exceedsBudget {
		r.metrics.exhausted.Set(1)
	}
	if state == r.state {
		return
	}
	r.state = state
	log := a.o.Log.With("share", last, "budget", limit, "hot", hot, "level", x.level, "sample_one_in", r.effort.sampleOneIn)
	switch state {
	case keepsBudget:
		log.Info("the CPU budget is kept: all is done again that the directive asks for")
	case doesLess:
		log.Warn("the CPU budget was exceeded: less is sampled; counting and triggers go on")
	case exceedsBudget:
		log.Error("the CPU budget is exceeded and nothing is left to give up; counting and triggers go on: " +
			"raise cpu in the configuration of the sensor, or sensors.report_interval in that of the controllers")
	}
}

// exert does as much as the directive asks and the budget allows.
func (a *agent) exert() {
	d, r := a.meter.now, &a.restraint
	if d == nil {
		return
	}
	r.governor.asked = effort{sampleOneIn: d.sampleOneIn, hotSampleOneIn: d.hotSampleOneIn, profiles: d.profiles, hot: d.hot}
	e := r.governor.effort(len(a.meter.hot) > 0)
	if d != r.directive || e.sampleOneIn != r.effort.sampleOneIn || e.hotSampleOneIn != r.effort.hotSampleOneIn {
		if err := errors.Join(a.meter.k.SetSampling(e.sampleOneIn), a.meter.k.SetWatchedSampling(e.hotSampleOneIn)); err != nil {
			a.note(err)
			return
		}
	}
	a.meter.profiles.limit(e.profiles)
	r.directive, r.effort = d, e
	r.metrics.asked.Set(float64(d.sampleOneIn))
	r.metrics.actual.Set(float64(e.sampleOneIn))
}
