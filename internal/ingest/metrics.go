package ingest

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/amooglesoft/trafficmonitor/internal/traffic"
	"github.com/amooglesoft/trafficmonitor/internal/vector"
)

// Why a sample is not used.
const (
	unusedMalformed = "malformed"
	unusedForeign   = "foreign"
	unusedQueue     = "queue"
)

type metrics struct {
	reports    *prometheus.CounterVec
	aggregates prometheus.Counter
	networks   prometheus.Counter
	profiles   prometheus.Counter
	samples    prometheus.Counter
	unused     *prometheus.CounterVec
	dropped    *prometheus.CounterVec
	malformed  prometheus.Counter
	late       prometheus.Counter
	refused    prometheus.Counter
	foreign    prometheus.Counter
	repeated   prometheus.Counter
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
			Name: "trafficmonitor_ingest_reports_late_total", Help: "Reports a sensor had kept for longer than sensors.stale_after before it could send them, or merged over a longer time; nothing is decided on them.",
		}),
		refused: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "trafficmonitor_ingest_sensors_refused_total", Help: "Streams refused because of the sensor's name or certificate.",
		}),
		foreign: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "trafficmonitor_ingest_aggregates_foreign_total", Help: "Aggregates, totals and profiles of targets outside network.own_prefixes; they are not used.",
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
	m.networks = prometheus.NewCounter(prometheus.CounterOpts{
		Name: "trafficmonitor_ingest_networks_total", Help: "Totals (one vector of one network) received from sensors.",
	})
	m.profiles = prometheus.NewCounter(prometheus.CounterOpts{
		Name: "trafficmonitor_ingest_profiles_total", Help: "Descriptions of one vector's packets at one target received from sensors.",
	})
	m.repeated = prometheus.NewCounter(prometheus.CounterOpts{
		Name: "trafficmonitor_ingest_reports_repeated_total", Help: "Interval reports sent again after a stream broke, though they had come; they are not used twice.",
	})
	m.unused = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "trafficmonitor_ingest_samples_unused_total", Help: "Sampled packets not used, by why: header malformed, target foreign to network.own_prefixes, or the engine's queue full.",
	}, []string{"reason"})
	reg.MustRegister(m.unused, m.repeated, m.echoes, m.offset, m.delay, m.networks, m.profiles)
	reg.MustRegister(m.reports, m.aggregates, m.samples, m.dropped, m.malformed, m.late, m.refused, m.foreign, sensorCollector{s})
	// A series that begins with its first event has no increase to alert on.
	for _, why := range []string{unusedMalformed, unusedForeign, unusedQueue} {
		m.unused.WithLabelValues(why)
	}
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

// What sensors say of themselves, summed or the largest of those connected.
var (
	troubledDesc = prometheus.NewDesc("trafficmonitor_ingest_sensors_troubled",
		"Sensors with a problem, by its kind; tmctl sensors names them and says what.", []string{"problem"}, nil)
	packetsDesc = prometheus.NewDesc("trafficmonitor_ingest_sensor_packets_per_second",
		"Packets all connected sensors see, by their last two interval reports.", []string{"direction"}, nil)
	slotsDesc = prometheus.NewDesc("trafficmonitor_ingest_sensor_slots_used_ratio_max",
		"The fullest sensor: host slots in use of those there are.", nil, nil)
	cpuDesc = prometheus.NewDesc("trafficmonitor_ingest_sensor_cpu_ratio_max",
		"The busiest sensor: CPU time of its process per second, 1 being one core.", nil, nil)
	residentDesc = prometheus.NewDesc("trafficmonitor_ingest_sensor_resident_bytes_max",
		"The largest sensor: resident memory of its process.", nil, nil)
	mapsDesc = prometheus.NewDesc("trafficmonitor_ingest_sensor_map_bytes_max",
		"The largest sensor: kernel memory of its maps.", nil, nil)
)

// Describe implements prometheus.Collector.
func (c sensorCollector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		knownDesc, connectedDesc, staleDesc, directiveDesc, missingDesc, skewDesc, troubledDesc, packetsDesc, slotsDesc, cpuDesc,
		residentDesc, mapsDesc,
	} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (c sensorCollector) Collect(ch chan<- prometheus.Metric) {
	var known, connected, stale, refused, missing float64
	var packets, outbound, slots, cpu, resident, maps float64
	var skew time.Duration
	troubled := map[string]float64{}
	for _, st := range c.s.Sensors(time.Now()) {
		known++
		missing += float64(st.Missing)
		if st.Stale {
			stale++
		}
		if st.DirectiveError != "" {
			refused++
		}
		last := ""
		for _, p := range st.Problems {
			if p.Kind != last { // problems of a kind stand together
				troubled[p.Kind]++
			}
			last = p.Kind
		}
		if !st.Connected {
			continue
		}
		connected++
		off := st.ClockSkew
		if st.Clock != nil {
			off = st.Clock.Offset
		}
		skew = max(skew, off.Abs())
		packets += st.Rates.Packets - st.Rates.Outbound
		outbound += st.Rates.Outbound
		if n := st.Counters.SlotsTotal; n > 0 {
			slots = max(slots, float64(st.Counters.SlotsUsed)/float64(n))
		}
		cpu, resident, maps = max(cpu, st.Rates.CPU), max(resident, float64(st.Counters.Resident)), max(maps, float64(st.MapBytes))
	}
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	gauge(knownDesc, known)
	gauge(connectedDesc, connected)
	gauge(staleDesc, stale)
	gauge(directiveDesc, refused)
	gauge(skewDesc, skew.Seconds())
	for _, kind := range ProblemKinds() {
		gauge(troubledDesc, troubled[kind], kind)
	}
	gauge(packetsDesc, packets, vector.Inbound.String())
	gauge(packetsDesc, outbound, vector.Outbound.String())
	gauge(slotsDesc, slots)
	gauge(cpuDesc, cpu)
	gauge(residentDesc, resident)
	gauge(mapsDesc, maps)
	ch <- prometheus.MustNewConstMetric(missingDesc, prometheus.CounterValue, missing)
}
