package engine

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Stages of the way from a packet to its announcement.
const (
	stageIngest   = "trigger_to_ingest"    // kernel trigger → report at the controller; holds the clock skew
	stageDecision = "ingest_to_decision"   // report at the controller → incident
	stageCommit   = "commit"               // writing to the store
	stageSpeaker  = "decision_to_speaker"  // incident's mitigation made → speaker has announced it
	stageTotal    = "trigger_to_announced" // kernel trigger → speaker has announced it
)

type metrics struct {
	stages       *prometheus.HistogramVec
	queue        prometheus.Histogram
	incidents    *prometheus.CounterVec
	decided      *prometheus.CounterVec
	ended        *prometheus.CounterVec
	refused      *prometheus.CounterVec
	withheld     prometheus.Counter
	commitErrors prometheus.Counter

	desired     prometheus.Gauge
	speakerUp   prometheus.Gauge
	speakerSets *prometheus.CounterVec
	lag         prometheus.Gauge
}

func newMetrics(reg prometheus.Registerer, e *Engine) *metrics {
	buckets := []float64{.0002, .0005, .001, .002, .005, .01, .02, .05, .1, .2, .5, 1, 2, 5, 10}
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		c := prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, labels)
		reg.MustRegister(c)
		return c
	}
	gauge := func(name, help string) prometheus.Gauge {
		g := prometheus.NewGauge(prometheus.GaugeOpts{Name: name, Help: help})
		reg.MustRegister(g)
		return g
	}
	m := &metrics{
		stages: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "trafficmonitor_stage_seconds", Help: "Time each stage takes on the way from a packet to its announcement.", Buckets: buckets,
		}, []string{"stage"}),
		queue: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "trafficmonitor_engine_queue_seconds", Help: "Time a report waits for the engine.", Buckets: buckets,
		}),
		incidents:    counter("trafficmonitor_incident_vectors_total", "Vectors that passed their limit at a target.", "vector"),
		decided:      counter("trafficmonitor_mitigations_made_total", "Mitigations made by automation.", "action"),
		ended:        counter("trafficmonitor_mitigations_ended_total", "Mitigations that ended.", "reason"),
		refused:      counter("trafficmonitor_safety_refusals_total", "Routes the safety kernel refused before commit.", "invariant"),
		withheld:     prometheus.NewCounter(prometheus.CounterOpts{Name: "trafficmonitor_automation_withheld_total", Help: "Answers automation withheld because of a freeze or a hold."}),
		commitErrors: prometheus.NewCounter(prometheus.CounterOpts{Name: "trafficmonitor_commit_errors_total", Help: "Decisions that could not be stored; nothing of them was announced."}),
		desired:      gauge("trafficmonitor_routes_desired", "Routes that are to be announced, by the records all controllers share. Compare with the speaker's own metrics of what was sent."),
		speakerUp:    gauge("trafficmonitor_speaker_reachable", "1 while this controller's speaker answers."),
		speakerSets:  counter("trafficmonitor_speaker_sets_total", "Times the whole set was handed to the speaker.", "result"),
		lag:          gauge("trafficmonitor_speaker_behind_seconds", "For how long the speaker has not had the newest set; 0 when it has it."),
	}
	reg.MustRegister(m.stages, m.queue, m.withheld, m.commitErrors,
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "trafficmonitor_engine_queue_reports", Help: "Reports waiting for the engine."},
			func() float64 { return float64(len(e.reports)) }),
	)
	return m
}

// stage observes a stage; a negative time, of clocks that differ, counts as zero.
func (m *metrics) stage(name string, d time.Duration) {
	m.stages.WithLabelValues(name).Observe(max(d, 0).Seconds())
}
