package ingest

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/amooglesoft/trafficmonitor/internal/traffic"
)

type metrics struct {
	reports    *prometheus.CounterVec
	aggregates prometheus.Counter
	samples    prometheus.Counter
	dropped    *prometheus.CounterVec
	malformed  prometheus.Counter
	late       prometheus.Counter
	refused    prometheus.Counter
	foreign    prometheus.Counter
	echoes     prometheus.Counter
	offset     prometheus.Histogram
	delay      prometheus.Histogram
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
		late: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "trafficmonitor_ingest_reports_late_total", Help: "Reports a sensor had kept for longer than sensors.stale_after before it could send them; nothing is decided on them.",
		}),
		refused: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "trafficmonitor_ingest_sensors_refused_total", Help: "Streams refused because of the sensor's name or certificate.",
		}),
		foreign: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "trafficmonitor_ingest_aggregates_foreign_total", Help: "Aggregates of targets outside network.own_prefixes; they are not used.",
		}),
	}
	m.echoes = prometheus.NewCounter(prometheus.CounterOpts{
		Name: "trafficmonitor_ingest_clock_echoes_ignored_total", Help: "Answers of sensors about their clock that contradict themselves or answer no question.",
	})
	m.offset = prometheus.NewHistogram(prometheus.HistogramOpts{
		Name: "trafficmonitor_ingest_clock_offset_seconds", Help: "Difference between a sensor's clock and ours, whatever its sign, by each exchange with each sensor (RFC 5905).",
		Buckets: []float64{.0001, .0005, .001, .005, .01, .05, .1, .5, 1, 10, 60, 3600},
	})
	m.delay = prometheus.NewHistogram(prometheus.HistogramOpts{
		Name: "trafficmonitor_ingest_clock_delay_seconds", Help: "Time to a sensor and back, its own work not counted, by each exchange with each sensor (RFC 5905).",
		Buckets: []float64{.0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .5, 1, 10},
	})
	reg.MustRegister(m.echoes, m.offset, m.delay)
	reg.MustRegister(m.reports, m.aggregates, m.samples, m.dropped, m.malformed, m.late, m.refused, m.foreign, sensorCollector{s})
	// A series that begins with its first event has no increase to alert on.
	for _, c := range []traffic.Cause{traffic.Interval, traffic.Trigger, traffic.Hot} {
		m.reports.WithLabelValues(c.String())
		m.dropped.WithLabelValues(c.String())
	}
	return m
}

// sensorCollector counts sensors when it is asked; their names are no labels, for there may be thousands.
type sensorCollector struct{ s *Server }

var (
	knownDesc = prometheus.NewDesc("trafficmonitor_ingest_sensors_known",
		"Sensors heard of since the controller's start.", nil, nil)
	connectedDesc = prometheus.NewDesc("trafficmonitor_ingest_sensors_connected",
		"Sensors with a stream to this controller.", nil, nil)
	staleDesc = prometheus.NewDesc("trafficmonitor_ingest_sensors_stale",
		"Sensors that have not reported in time; their last word is held.", nil, nil)
	directiveDesc = prometheus.NewDesc("trafficmonitor_ingest_sensors_directive_refused",
		"Sensors that refused their newest directive and follow an older one, or none.", nil, nil)
	missingDesc = prometheus.NewDesc("trafficmonitor_ingest_reports_missing_total",
		"Reports sensors made that never came, by the gaps in their numbers: dropped by a sensor's backlog, or lost with a stream.", nil, nil)
	skewDesc = prometheus.NewDesc("trafficmonitor_ingest_clock_skew_seconds",
		"The largest difference between a connected sensor's clock and ours; where a sensor does not answer about its clock, the network's delay included.", nil, nil)
)

// Describe implements prometheus.Collector.
func (c sensorCollector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{knownDesc, connectedDesc, staleDesc, directiveDesc, missingDesc, skewDesc} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (c sensorCollector) Collect(ch chan<- prometheus.Metric) {
	var known, connected, stale, refused, missing float64
	var skew time.Duration
	for _, st := range c.s.Sensors(time.Now()) {
		known++
		missing += float64(st.Missing)
		if st.Stale {
			stale++
		}
		if st.DirectiveError != "" {
			refused++
		}
		if st.Connected {
			connected++
			off := st.ClockSkew
			if st.Clock != nil {
				off = st.Clock.Offset
			}
			skew = max(skew, off.Abs())
		}
	}
	gauge := func(d *prometheus.Desc, v float64) { ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v) }
	gauge(knownDesc, known)
	gauge(connectedDesc, connected)
	gauge(staleDesc, stale)
	gauge(directiveDesc, refused)
	gauge(skewDesc, skew.Seconds())
	ch <- prometheus.MustNewConstMetric(missingDesc, prometheus.CounterValue, missing)
}
