package store

import (
	"github.com/prometheus/client_golang/prometheus"
)

// Results of a commit: values of a metric label.
const (
	resultOK          = "ok"
	resultDeposed     = "deposed"
	resultInvalid     = "invalid"
	resultTooLarge    = "too_large"
	resultUnavailable = "unavailable"
)

type metrics struct {
	commit      prometheus.Histogram
	commits     *prometheus.CounterVec
	split       prometheus.Counter
	termChanges prometheus.Counter
	resyncs     *prometheus.CounterVec
	notify      prometheus.Histogram
	probe       prometheus.Histogram
	up          prometheus.Gauge
	leading     prometheus.Gauge
	pruned      prometheus.Counter
	dbSize      prometheus.Gauge
	dbUsed      prometheus.Gauge
	logLines    prometheus.Gauge
	logPruned   prometheus.Counter
}

// newMetrics registers the metrics; a nil Registerer registers none.
func newMetrics(reg prometheus.Registerer, s *Store) (*metrics, error) {
	latency := prometheus.ExponentialBuckets(0.0001, 2, 16) // 0.1 ms to 3.3 s
	m := &metrics{
		commit: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "trafficmonitor_store_commit_seconds", Help: "Time a commit took, etcd's write to disk included.", Buckets: latency,
		}),
		commits: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "trafficmonitor_store_commits_total", Help: "Commits by result; unavailable means that the outcome is unknown.",
		}, []string{"result"}),
		split: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "trafficmonitor_store_split_commits_total", Help: "Commits too big for one transaction of etcd.",
		}),
		termChanges: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "trafficmonitor_store_term_changes_total", Help: "Terms of leaders seen to begin, the first included.",
		}),
		resyncs: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "trafficmonitor_store_watch_resyncs_total", Help: "Times the records had to be read again because their events broke off, by reason.",
		}, []string{"reason"}),
		notify: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "trafficmonitor_store_notify_seconds", Help: "Time from the arrival of a change to the call of a watcher.",
			Buckets: prometheus.ExponentialBuckets(0.00001, 4, 10), // 10 us to 2.6 s
		}),
		probe: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "trafficmonitor_store_probe_seconds", Help: "Time of the linearizable read made every second.", Buckets: latency,
		}),
		up: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "trafficmonitor_store_up", Help: "1 while etcd answers linearizable reads.",
		}),
		leading: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "trafficmonitor_store_leading", Help: "1 while this controller leads.",
		}),
		pruned: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "trafficmonitor_store_pruned_total", Help: "Ended mitigations and expired holds removed because of their age.",
		}),
		dbSize: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "trafficmonitor_store_db_bytes", Help: "Size of etcd's database on disk.",
		}),
		dbUsed: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "trafficmonitor_store_db_used_bytes", Help: "Part of etcd's database that is in use; the rest is free for reuse.",
		}),
		logLines: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "trafficmonitor_store_log_lines", Help: "Lines of the audit record that controllers share, as the leader counted them last.",
		}),
		logPruned: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "trafficmonitor_store_log_pruned_total", Help: "Lines removed from it because of their age or number.",
		}),
	}
	for _, r := range []string{resultOK, resultDeposed, resultInvalid, resultTooLarge, resultUnavailable} {
		m.commits.WithLabelValues(r)
	}
	for _, r := range []string{"compacted", "rewound", "unavailable", "watch_ended"} {
		m.resyncs.WithLabelValues(r)
	}
	if reg == nil {
		return m, nil
	}
	seen := func(name, help string, read func(*published) float64) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, func() float64 {
			if p := s.published.Load(); p != nil {
				return read(p)
			}
			return 0
		})
	}
	for _, c := range []prometheus.Collector{
		m.commit, m.commits, m.split, m.termChanges, m.resyncs, m.notify, m.probe, m.up, m.leading, m.pruned, m.dbSize, m.dbUsed, m.logLines, m.logPruned,
		seen("trafficmonitor_store_led", "1 while any controller is seen to lead.", func(p *published) float64 {
			if p.led {
				return 1
			}
			return 0
		}),
		seen("trafficmonitor_store_term", "Number of the last term seen.", func(p *published) float64 { return float64(p.term.Number) }),
		seen("trafficmonitor_store_revision", "Revision of the records seen.", func(p *published) float64 { return float64(p.Revision) }),
		seen("trafficmonitor_store_mitigations", "Stored mitigations, ended ones included.", func(p *published) float64 {
			return float64(len(p.Records.Mitigations))
		}),
		seen("trafficmonitor_store_holds", "Stored holds.", func(p *published) float64 { return float64(len(p.Records.Holds)) }),
		seen("trafficmonitor_store_unreadable_records", "Records left out because they cannot be read; each is an error in the log.", func(p *published) float64 {
			return float64(len(p.Unreadable))
		}),
	} {
		if err := reg.Register(c); err != nil {
			return nil, err
		}
	}
	return m, nil
}
