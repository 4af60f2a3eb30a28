package engine

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/amooglesoft/trafficmonitor/internal/baseline"
	"github.com/amooglesoft/trafficmonitor/internal/safety"
	"github.com/amooglesoft/trafficmonitor/internal/traffic"
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
	refined      *prometheus.CounterVec
	judgements   *prometheus.CounterVec
	withheld     prometheus.Counter
	commitErrors prometheus.Counter
	uncomputed   prometheus.Counter
	notified     prometheus.Counter
	moves        *prometheus.CounterVec
	verified     prometheus.Histogram
	shadowed     *prometheus.CounterVec

	active      prometheus.Gauge
	targets     prometheus.Gauge
	viewBytes   prometheus.Gauge
	sampled     prometheus.Gauge
	sampleBytes prometheus.Gauge
	crowded     prometheus.Counter
	unkept      prometheus.Counter
	dropped     uint64 // of the store of samples, counted in unkept already; owned by the loop
	refusals    uint64 // of the view, counted in crowded already; owned by the loop

	baselineKeys    prometheus.Gauge
	baselineBytes   prometheus.Gauge
	baselineEvicted prometheus.Counter
	evicted         uint64 // of the learner, counted in baselineEvicted already; owned by the loop

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
			Name: "trafficmonitor_stage_seconds", Help: "Time each stage takes on the way from a packet to its announcement: trigger_to_ingest, ingest_to_decision, commit, decision_to_speaker, and trigger_to_announced for all of it.", Buckets: buckets,
		}, []string{"stage"}),
		queue: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "trafficmonitor_engine_queue_seconds", Help: "Time a report waits for the engine.", Buckets: buckets,
		}),
		incidents: counter("trafficmonitor_incident_vectors_total", "Vectors that passed their limit at a target.", "vector"),
		decided:   counter("trafficmonitor_mitigations_made_total", "Mitigations made by automation; counted by the leader.", "action"),
		moves:     counter("trafficmonitor_mitigation_moves_total", "Times a mitigation entered a phase of its life (docs/lifecycle.md); counted by the leader.", "phase"),
		verified: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "trafficmonitor_mitigation_time_to_verified_seconds", Help: "From the announcement to the first measurement that shows its effect; counted by the leader.", Buckets: []float64{.25, .5, 1, 2, 3, 5, 10, 30, 60},
		}),
		ended:           counter("trafficmonitor_mitigations_ended_total", "Mitigations that ended, by why; counted by the leader.", "reason"),
		refined:         counter("trafficmonitor_mitigations_refined_total", "Times automation gave a mitigation another rule: a narrower one that spares normal traffic, or one that follows an attack that changed.", "why"),
		refused:         counter("trafficmonitor_safety_refusals_total", "Routes the safety kernel refused before commit, by invariant; engineers' requests included.", "invariant"),
		judgements:      counter("trafficmonitor_safety_judgements_total", "Times the leader asked the safety kernel before commit, by about what: set, all that is announced, or change, one mitigation beside what was said of the others.", "about"),
		withheld:        prometheus.NewCounter(prometheus.CounterOpts{Name: "trafficmonitor_automation_withheld_total", Help: "Answers automation withheld because of a freeze or a hold."}),
		commitErrors:    prometheus.NewCounter(prometheus.CounterOpts{Name: "trafficmonitor_commit_errors_total", Help: "Decisions that could not be stored; nothing of them was announced."}),
		notified:        prometheus.NewCounter(prometheus.CounterOpts{Name: "trafficmonitor_policy_notifications_total", Help: "Times the policy asked a person to look (action notify); counted by the leader."}),
		shadowed:        counter("trafficmonitor_shadow_policy_vectors_total", "Vectors of incidents that ended, by what the shadow policy made of them: same, another action, or an incident under only one of the two.", "outcome"),
		uncomputed:      prometheus.NewCounter(prometheus.CounterOpts{Name: "trafficmonitor_policy_condition_errors_total", Help: "Conditions of the policy that could not be computed when something was decided: their response was passed over, their exception held."}),
		active:          gauge("trafficmonitor_incidents_active", "Attacks this controller sees going on now."),
		targets:         gauge("trafficmonitor_view_targets", "Targets with traffic that this controller keeps in view."),
		viewBytes:       gauge("trafficmonitor_view_bytes", "Memory of the targets in view and of what each sensor says of them, estimated."),
		sampled:         gauge("trafficmonitor_sample_store_targets", "Targets, each direction being one, whose sampled packets are kept."),
		sampleBytes:     gauge("trafficmonitor_sample_store_bytes", "Memory of the sampled packets kept, 64 MiB at most."),
		unkept:          prometheus.NewCounter(prometheus.CounterOpts{Name: "trafficmonitor_sample_store_dropped_total", Help: "Sampled packets not kept: no room for a target as light, or too old."}),
		crowded:         prometheus.NewCounter(prometheus.CounterOpts{Name: "trafficmonitor_view_refused_total", Help: "Aggregates not taken in because too many targets were in view; attacks on those targets go unseen."}),
		baselineKeys:    gauge("trafficmonitor_baseline_keys", "Targets, directions and vectors whose normal traffic is learnt."),
		baselineBytes:   gauge("trafficmonitor_baseline_bytes", "Memory of what is learnt of targets' normal traffic."),
		baselineEvicted: prometheus.NewCounter(prometheus.CounterOpts{Name: "trafficmonitor_baseline_evicted_total", Help: "Targets, directions and vectors forgotten because there was no room."}),
		speakerSets:     counter("trafficmonitor_speaker_sets_total", "Times the whole set was handed to the speaker.", "result"),
		lag:             gauge("trafficmonitor_speaker_behind_seconds", "For how long the speaker has not had the newest set; 0 when it has it."),
	}
	reg.MustRegister(m.stages, m.queue, m.withheld, m.commitErrors, m.uncomputed, m.notified, m.verified, m.crowded, m.unkept, m.baselineEvicted,
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "trafficmonitor_engine_queue_reports", Help: "Reports waiting for the engine."},
			func() float64 { return float64(len(e.reports)) }),
	)
	// A series that begins with its first event has no increase to alert on.
	for _, s := range []string{stageIngest, stageDecision, stageCommit, stageSpeaker, stageTotal} {
		m.stages.WithLabelValues(s)
	}
	for _, outcome := range []string{shadowSame, shadowLess, shadowMore, shadowAction} {
		m.shadowed.WithLabelValues(outcome)
	}
	for _, about := range []string{judgedSet, judgedChange} {
		m.judgements.WithLabelValues(about)
	}
	for _, i := range safety.Invariants() {
		m.refused.WithLabelValues(string(i))
	}
	for _, why := range []string{whyNarrower, whyFollows} {
		m.refined.WithLabelValues(why)
	}
	for _, r := range []string{"ok", "error"} {
		m.speakerSets.WithLabelValues(r)
	}
	return m
}

// baseline shows what is learnt.
func (m *metrics) baseline(l *baseline.Learner) {
	kept, evicted := l.Keys()
	m.baselineKeys.Set(float64(kept))
	m.baselineBytes.Set(float64(l.Bytes()))
	m.baselineEvicted.Add(float64(evicted - m.evicted))
	m.evicted = evicted
}

// view shows what the view holds and what it had no room for.
func (m *metrics) view(targets int, refused uint64) {
	m.targets.Set(float64(targets))
	m.crowded.Add(float64(refused - m.refusals))
	m.refusals = refused
}

// samples shows what is kept of sampled packets.
func (m *metrics) samples(s *traffic.SampleStore) {
	kept, dropped := s.Targets()
	m.unkept.Add(float64(dropped - m.dropped))
	m.dropped = dropped
	m.sampled.Set(float64(kept))
	m.sampleBytes.Set(float64(s.Bytes()))
}

// stage observes a stage; a negative time, of clocks that differ, counts as zero.
func (m *metrics) stage(name string, d time.Duration) {
	m.stages.WithLabelValues(name).Observe(max(d, 0).Seconds())
}
