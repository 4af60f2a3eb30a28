package speaker

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/amooglesoft/trafficmonitor/internal/safety"
)

type metrics struct {
	routesDesired  prometheus.Gauge
	refused        *prometheus.CounterVec
	announced      prometheus.Counter
	withdrawn      prometheus.Counter
	deadlines      prometheus.Counter
	journalSeconds prometheus.Histogram
	journalErrors  prometheus.Counter
	setSeconds     prometheus.Histogram
	sets           *prometheus.CounterVec
	button         prometheus.Gauge
	sessionState   *prometheus.GaugeVec
	established    *prometheus.CounterVec
	flaps          *prometheus.CounterVec
	updates        *prometheus.CounterVec
	dropped        *prometheus.CounterVec
	bgpErrors      *prometheus.CounterVec
	info           *prometheus.GaugeVec
}

func newMetrics(reg prometheus.Registerer) (*metrics, error) {
	fast := []float64{.0005, .001, .002, .003, .005, .0075, .01, .02, .05, .1, .25, .5, 1, 2.5, 5, 10}
	m := &metrics{
		routesDesired: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "trafficmonitor_speaker_routes_desired",
			Help: "Routes this speaker is to announce, after its safety kernel.",
		}),
		refused: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "trafficmonitor_speaker_routes_refused_total",
			Help: "Routes asked for and not announced, by the invariant that refused them.",
		}, []string{"invariant"}),
		announced: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "trafficmonitor_speaker_routes_announced_total", Help: "Routes announced, counted once for all peers.",
		}),
		withdrawn: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "trafficmonitor_speaker_routes_withdrawn_total", Help: "Routes withdrawn, counted once for all peers.",
		}),
		deadlines: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "trafficmonitor_speaker_deadline_withdrawals_total",
			Help: "Routes the speaker withdrew by itself because their deadline passed.",
		}),
		journalSeconds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "trafficmonitor_speaker_journal_write_seconds", Help: "Writing the journal to disk, synced.", Buckets: fast,
		}),
		journalErrors: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "trafficmonitor_speaker_journal_errors_total", Help: "Journals that could not be written or read.",
		}),
		setSeconds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "trafficmonitor_speaker_set_routes_seconds",
			Help: "From the arrival of a set of routes to the last of its routes handed to BGP.", Buckets: fast,
		}),
		sets: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "trafficmonitor_speaker_set_routes_total", Help: "Sets of routes received, by what became of them.",
		}, []string{"result"}),
		button: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "trafficmonitor_speaker_withdrawn_all", Help: "1 while the red button is pressed and nothing is announced.",
		}),
		sessionState: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "trafficmonitor_speaker_peer_state",
			Help: "State of the session: 1 idle, 2 connect, 3 active, 4 open-sent, 5 open-confirm, 6 established.",
		}, []string{"peer"}),
		established: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "trafficmonitor_speaker_peer_established_total", Help: "Times the session with the peer came up.",
		}, []string{"peer"}),
		flaps: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "trafficmonitor_speaker_peer_flaps_total", Help: "Times an established session with the peer was lost.",
		}, []string{"peer"}),
		updates: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "trafficmonitor_speaker_peer_updates_sent_total", Help: "BGP UPDATE messages written to the peer's connection.",
		}, []string{"peer"}),
		dropped: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "trafficmonitor_speaker_peer_updates_dropped_total",
			Help: "BGP UPDATE messages of the peer dropped unread: the speaker takes no routes.",
		}, []string{"peer"}),
		bgpErrors: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "trafficmonitor_speaker_bgp_errors_total", Help: "Routes GoBGP did not take although their encoding was proven.",
		}, []string{"peer"}),
		info: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "trafficmonitor_speaker_info", Help: "Always 1; the version of the speaker.",
		}, []string{"version"}),
	}
	// A series that begins with its first event has no increase to alert on.
	for _, i := range safety.Invariants() {
		m.refused.WithLabelValues(string(i))
	}
	for _, i := range []string{RefusedText, RefusedDuplicate, RefusedDeadline, RefusedEncoding} {
		m.refused.WithLabelValues(i)
	}
	for _, r := range []string{"ok", "stale", "withdrawn_all", "journal_error", "bgp_error"} {
		m.sets.WithLabelValues(r)
	}
	for _, c := range []prometheus.Collector{
		m.routesDesired, m.refused, m.announced, m.withdrawn, m.deadlines, m.journalSeconds,
		m.journalErrors, m.setSeconds, m.sets, m.button, m.sessionState, m.established, m.flaps, m.updates, m.dropped,
		m.bgpErrors, m.info,
	} {
		if err := reg.Register(c); err != nil {
			return nil, err
		}
	}
	return m, nil
}

// peer shows a router from the start, before anything happened to its session.
func (m *metrics) peer(name string) {
	m.sessionState.WithLabelValues(name).Set(float64(Idle))
	for _, c := range []*prometheus.CounterVec{m.established, m.flaps, m.updates, m.dropped, m.bgpErrors} {
		c.WithLabelValues(name)
	}
}

// routeCollector counts routes per peer when it is asked.
type routeCollector struct{ s *speaker }

var (
	sentDesc = prometheus.NewDesc("trafficmonitor_speaker_routes_sent",
		"Routes handed to BGP for the present session with the peer. Not: installed in its hardware.", []string{"peer"}, nil)
	pendingDesc = prometheus.NewDesc("trafficmonitor_speaker_routes_pending",
		"Desired routes that wait for the session with the peer.", []string{"peer"}, nil)
	unsupportedDesc = prometheus.NewDesc("trafficmonitor_speaker_routes_unsupported",
		"Desired routes the peer does not get, because it does not take their family, their shape or so many.", []string{"peer"}, nil)
)

// Describe implements prometheus.Collector.
func (c *routeCollector) Describe(ch chan<- *prometheus.Desc) {
	ch <- sentDesc
	ch <- pendingDesc
	ch <- unsupportedDesc
}

// Collect implements prometheus.Collector.
func (c *routeCollector) Collect(ch chan<- prometheus.Metric) {
	if !c.s.ready.Load() {
		return
	}
	for _, r := range c.s.routers {
		_, sent, unsupported := r.counts(r.guard.snapshot())
		pending := max(len(c.s.shown.Load().items)-sent-unsupported, 0)
		ch <- prometheus.MustNewConstMetric(pendingDesc, prometheus.GaugeValue, float64(pending), r.peer.Name)
		ch <- prometheus.MustNewConstMetric(sentDesc, prometheus.GaugeValue, float64(sent), r.peer.Name)
		ch <- prometheus.MustNewConstMetric(unsupportedDesc, prometheus.GaugeValue, float64(unsupported), r.peer.Name)
	}
}
