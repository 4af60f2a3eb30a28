package sensor

import (
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"

	pb "github.com/amooglesoft/trafficmonitor/api/trafficmonitor/v1"
	"github.com/amooglesoft/trafficmonitor/internal/sensor/bpf"
	"github.com/amooglesoft/trafficmonitor/internal/sensor/classify"
)

type metrics struct {
	connected    *prometheus.GaugeVec
	disconnects  *prometheus.CounterVec
	sent         *prometheus.CounterVec
	latency      prometheus.Histogram
	raised       prometheus.Counter
	reported     *prometheus.CounterVec
	refused      prometheus.Counter
	ignored      prometheus.Counter
	term         prometheus.Gauge
	revision     prometheus.Gauge
	hot          prometheus.Gauge
	scan         prometheus.Histogram
	errors       prometheus.Counter
	mapBytes     *prometheus.GaugeVec
	counters     atomic.Pointer[pb.SensorCounters]
	stats        atomic.Pointer[bpf.Stats]
	unprofiled   atomic.Uint64
	profiles     prometheus.Gauge
	unsketched   atomic.Uint64
	sketches     prometheus.Gauge
	backlogDescs [4]*prometheus.Desc
	backlogs     map[string]*backlog
}

func newMetrics(reg prometheus.Registerer, backlogs map[string]*backlog) *metrics {
	m := &metrics{
		backlogs: backlogs,
		connected: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "trafficmonitor_sensor_stream_connected", Help: "1 while the stream to the configured controller is open.",
		}, []string{"controller"}),
		disconnects: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "trafficmonitor_sensor_stream_disconnects_total", Help: "Streams that broke or could not be opened.",
		}, []string{"controller"}),
		sent: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "trafficmonitor_sensor_messages_sent_total", Help: "Reports and sample batches handed to the stream.",
		}, []string{"controller"}),
		latency: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "trafficmonitor_sensor_trigger_latency_seconds", Help: "From the trigger in the kernel until its report was handed to a stream.",
			Buckets: []float64{.0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .5, 1, 10},
		}),
		raised: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "trafficmonitor_sensor_triggers_total", Help: "Triggers the kernel raised.",
		}),
		reported: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "trafficmonitor_sensor_reports_total", Help: "Reports made, by why; each goes to every controller.",
		}, []string{"cause"}),
		refused: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "trafficmonitor_sensor_directives_refused_total", Help: "Directives refused because something in them is wrong; the one before stays.",
		}),
		ignored: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "trafficmonitor_sensor_directives_ignored_total", Help: "Directives not newer than the one followed.",
		}),
		term: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "trafficmonitor_sensor_directive_term", Help: "Election term of the directive followed; 0 while there is none.",
		}),
		revision: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "trafficmonitor_sensor_directive_revision", Help: "Revision of the directive followed.",
		}),
		hot: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "trafficmonitor_sensor_hot_targets", Help: "Targets that triggered and have not calmed down.",
		}),
		scan: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "trafficmonitor_sensor_scan_seconds", Help: "Time to read all counters that changed.",
			Buckets: []float64{.0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .5},
		}),
		errors: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "trafficmonitor_sensor_errors_total", Help: "Errors reading or writing the kernel's maps; the log says which.",
		}),
		mapBytes: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "trafficmonitor_sensor_map_bytes", Help: "Kernel memory of each map, fixed at the start.",
		}, []string{"map"}),
	}
	m.profiles = prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "trafficmonitor_sensor_profiles", Help: "Vectors of hot and of the busiest targets whose packets are described now.",
	})
	m.sketches = prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "trafficmonitor_sensor_sketches", Help: "Hot targets, by direction, whose sources the kernel counts; there is room for 64.",
	})
	reg.MustRegister(m.sketches, prometheus.NewCounterFunc(prometheus.CounterOpts{
		Name: "trafficmonitor_sensor_sketches_refused_total", Help: "Triggers of targets whose sources are counted from samples only, because no sketch of the kernel was free.",
	}, func() float64 { return float64(m.unsketched.Load()) }))
	reg.MustRegister(m.profiles, prometheus.NewCounterFunc(prometheus.CounterOpts{
		Name: "trafficmonitor_sensor_profiles_refused_total", Help: "Vectors of hot targets that could not be described because too many others were, counted at each hot report.",
	}, func() float64 { return float64(m.unprofiled.Load()) }))
	label := []string{"controller"}
	m.backlogDescs = [4]*prometheus.Desc{
		prometheus.NewDesc("trafficmonitor_sensor_backlog_messages", "Messages that wait for the controller to take them.", label, nil),
		prometheus.NewDesc("trafficmonitor_sensor_reports_dropped_total", "Hot and trigger reports dropped because the controller did not take them in time, and interval reports it refused twice; the log says why.", label, nil),
		prometheus.NewDesc("trafficmonitor_sensor_sample_batches_dropped_total", "Sample batches dropped because the controller did not take them in time.", label, nil),
		prometheus.NewDesc("trafficmonitor_sensor_reports_merged_total", "Interval reports merged into another because the controller did not take them in time; no packet of them is lost.", label, nil),
	}
	reg.MustRegister(m.connected, m.disconnects, m.sent, m.latency, m.raised, m.reported, m.refused, m.ignored, m.term, m.revision,
		m.hot, m.scan, m.errors, m.mapBytes, backlogCollector{m})

	counter := func(name, help string, of func(c *pb.SensorCounters) uint64) {
		reg.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{Name: name, Help: help}, func() float64 {
			return float64(of(m.counters.Load()))
		}))
	}
	counter("trafficmonitor_sensor_packets_total", "Packets seen on all interfaces.", (*pb.SensorCounters).GetPackets)
	counter("trafficmonitor_sensor_packet_bytes_total", "Bytes seen on all interfaces, counted from the IP header on.", (*pb.SensorCounters).GetBytes)
	counter("trafficmonitor_sensor_unprotected_packets_total", "Packets that came in for no protected prefix.", (*pb.SensorCounters).GetUnprotectedPackets)
	counter("trafficmonitor_sensor_outbound_packets_total", "Of all packets, those that left.", (*pb.SensorCounters).GetOutboundPackets)
	counter("trafficmonitor_sensor_foreign_source_packets_total", "Packets that left from an address outside all protected prefixes; they are counted for no target.", (*pb.SensorCounters).GetForeignSourcePackets)
	counter("trafficmonitor_sensor_malformed_packets_total", "Packets that could not be parsed.", (*pb.SensorCounters).GetMalformedPackets)
	counter("trafficmonitor_sensor_non_ip_packets_total", "Packets that are neither IPv4 nor IPv6.", (*pb.SensorCounters).GetNonIpPackets)
	counter("trafficmonitor_sensor_slot_exhausted_packets_total", "Packets counted for the prefix because no slot for the host was free; configure more slots.", (*pb.SensorCounters).GetSlotExhaustedPackets)
	counter("trafficmonitor_sensor_triggers_lost_total", "Triggers lost because their ring buffer was full.", (*pb.SensorCounters).GetLostTriggers)
	counter("trafficmonitor_sensor_samples_lost_total", "Samples lost because their ring buffer was full.", (*pb.SensorCounters).GetLostSamples)
	gauge := func(name, help string, of func(c *pb.SensorCounters) uint64) {
		reg.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, func() float64 {
			return float64(of(m.counters.Load()))
		}))
	}
	gauge("trafficmonitor_sensor_slots_used", "Hosts counted one by one.", (*pb.SensorCounters).GetSlotsUsed)
	gauge("trafficmonitor_sensor_slots", "Hosts that can be counted one by one.", (*pb.SensorCounters).GetSlotsTotal)
	stat := func(name, help string, of func(s *bpf.Stats) uint64) {
		reg.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{Name: name, Help: help}, func() float64 {
			if s := m.stats.Load(); s != nil {
				return float64(of(s))
			}
			return 0
		}))
	}
	reg.MustRegister(reasonCollector{m})
	stat("trafficmonitor_sensor_samples_total", "Packets sampled.", func(s *bpf.Stats) uint64 { return s.Samples })
	stat("trafficmonitor_sensor_slots_refused_packets_total", "Packets counted for the network or prefix because the last slots of hosts, or of IPv6 /64 networks, are kept for heavier targets; many say that addresses are scanned.", func(s *bpf.Stats) uint64 { return s.RefusedHosts + s.RefusedNetworks })
	stat("trafficmonitor_sensor_network_slots_exhausted_packets_total", "Packets counted for the prefix because no slot for their IPv6 /64 network was free.", func(s *bpf.Stats) uint64 { return s.NetworkExhausted })
	stat("trafficmonitor_sensor_ipv6_table_overflow_packets_total", "Packets counted for the network or prefix because both places for their IPv6 host or network were full.", func(s *bpf.Stats) uint64 { return s.Table6Overflows })
	stat("trafficmonitor_sensor_slots_lost_total", "Slots a program could not put back; they stay unused until a restart.", func(s *bpf.Stats) uint64 { return s.LostSlots })
	return m
}

// reasonCollector counts by a label that is known before anything is counted.
type reasonCollector struct{ m *metrics }

var reasonDesc = prometheus.NewDesc("trafficmonitor_sensor_malformed_reasons_total", "Packets that could not be parsed, by reason.", []string{"reason"}, nil)

func (c reasonCollector) Describe(ch chan<- *prometheus.Desc) { ch <- reasonDesc }

func (c reasonCollector) Collect(ch chan<- prometheus.Metric) {
	s := c.m.stats.Load()
	for reason := range classify.Reason(classify.Reasons) {
		n := 0.0
		if s != nil {
			n = float64(s.Malformed[reason])
		}
		ch <- prometheus.MustNewConstMetric(reasonDesc, prometheus.CounterValue, n, reason.String())
	}
}

type backlogCollector struct{ m *metrics }

func (c backlogCollector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range c.m.backlogDescs {
		ch <- d
	}
}

func (c backlogCollector) Collect(ch chan<- prometheus.Metric) {
	for name, b := range c.m.backlogs {
		l := b.losses()
		ch <- prometheus.MustNewConstMetric(c.m.backlogDescs[0], prometheus.GaugeValue, float64(l.waiting), name)
		ch <- prometheus.MustNewConstMetric(c.m.backlogDescs[1], prometheus.CounterValue, float64(l.reports), name)
		ch <- prometheus.MustNewConstMetric(c.m.backlogDescs[2], prometheus.CounterValue, float64(l.samples), name)
		ch <- prometheus.MustNewConstMetric(c.m.backlogDescs[3], prometheus.CounterValue, float64(l.merged), name)
	}
}
