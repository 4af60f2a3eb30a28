package ingest

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

type metrics struct {
	reports    *prometheus.CounterVec
	aggregates prometheus.Counter
	samples    prometheus.Counter
	dropped    *prometheus.CounterVec
	malformed  prometheus.Counter
	refused    prometheus.Counter
	foreign    prometheus.Counter
}

func newMetrics(reg prometheus.Registerer, s *Server) *metrics {
	m := &metrics{
		reports: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "trafficmonitor_ingest_reports_total", Help: "Reports received from sensors, by why they were sent.",
		}, []string{"cause"}),
		aggregates: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "trafficmonitor_ingest_aggregates_total", Help: "Aggregates (one vector at one target) received from sensors.",
		}),
		samples: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "trafficmonitor_ingest_samples_total", Help: "Sampled packets received from sensors.",
		}),
		dropped: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "trafficmonitor_ingest_reports_dropped_total", Help: "Reports dropped because the engine's queue was full: the controller is overloaded.",
		}, []string{"cause"}),
		malformed: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "trafficmonitor_ingest_reports_malformed_total", Help: "Reports refused because they contradict the API; the stream is closed.",
		}),
		refused: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "trafficmonitor_ingest_sensors_refused_total", Help: "Streams refused because of the sensor's name or certificate.",
		}),
		foreign: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "trafficmonitor_ingest_aggregates_foreign_total", Help: "Aggregates of targets outside network.own_prefixes; they are not used.",
		}),
	}
	count := func(name, help string, pick func(State) bool) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, func() float64 {
			n := 0
			for _, st := range s.Sensors(time.Now()) {
				if pick(st) {
					n++
				}
			}
			return float64(n)
		})
	}
	reg.MustRegister(m.reports, m.aggregates, m.samples, m.dropped, m.malformed, m.refused, m.foreign,
		count("trafficmonitor_ingest_sensors_known", "Sensors heard of since the controller's start.", func(State) bool { return true }),
		count("trafficmonitor_ingest_sensors_connected", "Sensors with a stream to this controller.", func(s State) bool { return s.Connected }),
		count("trafficmonitor_ingest_sensors_stale", "Sensors that have not reported in time; their last word is held.", func(s State) bool { return s.Stale }),
	)
	return m
}
