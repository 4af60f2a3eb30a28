package audit

import "github.com/prometheus/client_golang/prometheus"

// Where an event was lost: values of a metric label.
const (
	lostFile       = "file"
	lostSubscriber = "subscriber"
	lostShared     = "shared"
)

type metrics struct {
	events    *prometheus.CounterVec
	lost      *prometheus.CounterVec
	errors    prometheus.Counter
	rotations prometheus.Counter
	size      prometheus.Gauge
}

// newMetrics registers the metrics; a nil Registerer registers none.
func newMetrics(reg prometheus.Registerer, l *Log) (*metrics, error) {
	m := &metrics{
		events: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "trafficmonitor_audit_events_total", Help: "Events recorded, by kind.",
		}, []string{"kind"}),
		lost: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "trafficmonitor_audit_lost_total", Help: "Events that did not reach the file, the record that controllers share or a subscriber, because it was too slow or failed.",
		}, []string{"destination"}),
		errors: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "trafficmonitor_audit_write_errors_total", Help: "Failed writes, syncs and rotations of the audit file.",
		}),
		rotations: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "trafficmonitor_audit_rotations_total", Help: "Times the audit file was full and a new one was begun.",
		}),
		size: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "trafficmonitor_audit_file_bytes", Help: "Size of the current audit file.",
		}),
	}
	for _, k := range kinds {
		m.events.WithLabelValues(string(k))
	}
	m.lost.WithLabelValues(lostFile)
	m.lost.WithLabelValues(lostSubscriber)
	m.lost.WithLabelValues(lostShared)
	if reg == nil {
		return m, nil
	}
	for _, c := range []prometheus.Collector{
		m.events, m.lost, m.errors, m.rotations, m.size,
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "trafficmonitor_audit_queue_length", Help: "Events that wait for the disk.",
		}, func() float64 { return float64(len(l.queue)) }),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "trafficmonitor_audit_subscribers", Help: "Readers that follow the events.",
		}, func() float64 {
			l.mu.Lock()
			defer l.mu.Unlock()
			return float64(len(l.subs))
		}),
	} {
		if err := reg.Register(c); err != nil {
			return nil, err
		}
	}
	return m, nil
}

// recorded counts an event. A kind that is none of the constants is a mistake in the code, not a new label.
func (m *metrics) recorded(k Kind) {
	if !k.Known() {
		k = "unknown"
	}
	m.events.WithLabelValues(string(k)).Inc()
}
