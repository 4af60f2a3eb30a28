package speaker

import (
	"slices"
	"time"

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
	refreshes      *prometheus.CounterVec
	updates        *prometheus.CounterVec
	dropped        *prometheus.CounterVec
	bgpErrors      *prometheus.CounterVec
	quarantines    *prometheus.CounterVec
	familyHolds    *prometheus.CounterVec
	storeWaits     *prometheus.CounterVec
	probes         *prometheus.CounterVec
	routeSeconds   *prometheus.HistogramVec
	info           *prometheus.GaugeVec
	peerInfo       *prometheus.GaugeVec
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
			Help: "From the arrival of a set of routes to its routes queued for the routers, journal written.", Buckets: fast,
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
		refreshes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "trafficmonitor_speaker_peer_refreshes_total", Help: "Times all routes were sent to the peer again because it asked for them (ROUTE-REFRESH).",
		}, []string{"peer"}),
		updates: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "trafficmonitor_speaker_peer_updates_sent_total", Help: "BGP UPDATE messages written to the peer's connection, End-of-RIB among them.",
		}, []string{"peer"}),
		dropped: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "trafficmonitor_speaker_peer_updates_dropped_total",
			Help: "BGP UPDATE messages of the peer dropped unread: the speaker takes no routes.",
		}, []string{"peer"}),
		bgpErrors: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "trafficmonitor_speaker_bgp_errors_total", Help: "Routes that could not be made into an UPDATE for the peer although their encoding was proven.",
		}, []string{"peer"}),
		quarantines: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "trafficmonitor_speaker_quarantines_total", Help: "Times a route was put into quarantine because the peer reset the session upon it.",
		}, []string{"peer"}),
		familyHolds: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "trafficmonitor_speaker_family_holds_total",
			Help: "Times a whole family was kept from the peer because it reset the session upon one route of it after the other.",
		}, []string{"peer", "family"}),
		storeWaits: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "trafficmonitor_speaker_store_waits_total",
			Help: "Sessions that waited for the controller before anything was announced on them, by how that ended: current, the routes are the store's; or unanswered, they were announced all the same.",
		}, []string{"peer", "result"}),
		routeSeconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "trafficmonitor_speaker_route_write_seconds",
			Help:    "From a new route's arrival, the session being up, to its UPDATE on the peer's connection.",
			Buckets: append(slices.Clone(fast), 30, 60, 300),
		}, []string{"peer"}),
		probes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "trafficmonitor_speaker_probes_total",
			Help: "Times a peer was asked what it installed, by result: ok, or error when there was no answer that could be read.",
		}, []string{"peer", "result"}),
		info: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "trafficmonitor_speaker_info", Help: "Always 1; the version of the speaker.",
		}, []string{"version"}),
		peerInfo: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "trafficmonitor_speaker_peer_info",
			Help: "Always 1; of each peer the group and the profile it has in the configuration, to join with other series of the peer.",
		}, []string{"peer", "group", "profile"}),
	}
	// A series that begins with its first event has no increase to alert on.
	for _, i := range safety.Invariants() {
		m.refused.WithLabelValues(string(i))
	}
	for _, i := range []string{RefusedText, RefusedDuplicate, RefusedDeadline, RefusedEncoding} {
		m.refused.WithLabelValues(i)
	}
	for _, r := range []string{"ok", "base", "stale", "withdrawn_all", "journal_error"} {
		m.sets.WithLabelValues(r)
	}
	for _, c := range []prometheus.Collector{
		m.routesDesired, m.refused, m.announced, m.withdrawn, m.deadlines, m.journalSeconds,
		m.journalErrors, m.setSeconds, m.sets, m.button, m.sessionState, m.established, m.flaps, m.updates, m.dropped,
		m.bgpErrors, m.quarantines, m.familyHolds, m.storeWaits, m.refreshes, m.routeSeconds, m.probes, m.info, m.peerInfo,
	} {
		if err := reg.Register(c); err != nil {
			return nil, err
		}
	}
	return m, nil
}

// peer shows a router from the start, before anything happened to its session.
func (m *metrics) peer(p Peer) {
	name := p.Name
	m.peerInfo.WithLabelValues(name, p.Group, p.Profile.Name).Set(1)
	m.sessionState.WithLabelValues(name).Set(float64(Idle))
	for _, c := range []*prometheus.CounterVec{m.established, m.flaps, m.updates, m.dropped, m.bgpErrors, m.quarantines, m.refreshes} {
		c.WithLabelValues(name)
	}
	for _, t := range p.tables() {
		m.familyHolds.WithLabelValues(name, string(t))
	}
	m.routeSeconds.WithLabelValues(name)
	for _, result := range []string{currentWait, unansweredWait} {
		m.storeWaits.WithLabelValues(name, result)
	}
	for _, result := range []string{"ok", "error"} {
		m.probes.WithLabelValues(name, result)
	}
}

// routeCollector counts routes per peer when it is asked.
type routeCollector struct{ s *speaker }

var routeDescs = map[RouteState]*prometheus.Desc{
	Sent:        routeDesc("sent", "Routes whose UPDATE was written to the peer's connection in this session. Not: installed in its hardware."),
	Pending:     routeDesc("pending", "Routes that wait for the peer's session, for their turn or for its pace: the length of its queue."),
	Unsupported: routeDesc("unsupported", "Desired routes the peer does not get, because it does not take their family or their shape."),
	NotPlaced:   routeDesc("not_placed", "Desired routes the peer does not get, because it has no room for so many (max_rules, max_cost)."),
	Quarantined: routeDesc("quarantined", "Desired routes the peer does not get, because it resets the session upon them."),
	Failed:      routeDesc("failed", "Desired routes that cannot be made into an UPDATE for the peer; they are tried again."),
}

var (
	hardwareDesc = prometheus.NewDesc("trafficmonitor_speaker_hardware_entries",
		"Entries of the peer's hardware that the rules it is to have take, as its profile counts them.", []string{"peer"}, nil)
	heldDesc = prometheus.NewDesc("trafficmonitor_speaker_family_held",
		"1 while no route of the family is sent to the peer, because it reset the session upon one after the other.", []string{"peer", "family"}, nil)
	storeWaitDesc = prometheus.NewDesc("trafficmonitor_speaker_store_wait",
		"1 while nothing is announced on the peer's session, because the controller has not said yet that the routes are those of the store.", []string{"peer"}, nil)
	unconfirmedDesc = prometheus.NewDesc("trafficmonitor_speaker_unconfirmed_seconds",
		"For how long no controller has said that the routes are those of the store, read with a quorum; since the start where none did. 0 while the red button is pressed.", nil, nil)
	stalledDesc = prometheus.NewDesc("trafficmonitor_speaker_peer_stalled_seconds",
		"For how long the peer has acknowledged nothing of what it is sent, by TCP; 0 while it does, and below 5 s.", []string{"peer"}, nil)
	installedDesc = prometheus.NewDesc("trafficmonitor_speaker_rules_installed",
		"FlowSpec rules of which the peer said at the last probe that they are installed; probed peers only.", []string{"peer"}, nil)
	notInstalledDesc = prometheus.NewDesc("trafficmonitor_speaker_rules_not_installed",
		"FlowSpec rules the peer was sent and of which it said at the last probe that they are not installed; probed peers only.", []string{"peer"}, nil)
	hitDesc = prometheus.NewDesc("trafficmonitor_speaker_rules_hit_packets",
		"Packets hit by the rules installed now, as far as the peer counts them; falls when rules go. Probed peers only.", []string{"peer"}, nil)
	pauseDesc = prometheus.NewDesc("trafficmonitor_speaker_probe_pause_seconds",
		"Pause before the peer is asked again what it installed, because its last answer was late; 0 while it is asked at its interval. Probed peers only.", []string{"peer"}, nil)
)

func routeDesc(state, help string) *prometheus.Desc {
	return prometheus.NewDesc("trafficmonitor_speaker_routes_"+state, help, []string{"peer"}, nil)
}

// Describe implements prometheus.Collector.
func (c *routeCollector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range routeDescs {
		ch <- d
	}
	for _, d := range []*prometheus.Desc{hardwareDesc, heldDesc, storeWaitDesc, unconfirmedDesc, stalledDesc, installedDesc, notInstalledDesc, hitDesc, pauseDesc} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (c *routeCollector) Collect(ch chan<- prometheus.Metric) {
	if !c.s.ready.Load() {
		return
	}
	ch <- prometheus.MustNewConstMetric(unconfirmedDesc, prometheus.GaugeValue, c.s.unconfirmed(time.Now()).Seconds())
	for _, r := range c.s.routers {
		session := r.guard.snapshot()
		_, in := r.counts(session)
		for state, d := range routeDescs {
			ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, float64(in[state]), r.peer.Name)
		}
		gauge := func(d *prometheus.Desc, v float64) {
			ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, r.peer.Name)
		}
		gauge(hardwareDesc, float64(r.cost()))
		waits := 0.0
		if _, until := r.waiting(); !until.IsZero() {
			waits = 1
		}
		gauge(storeWaitDesc, waits)
		stalled := 0.0
		if !session.stalled.IsZero() {
			stalled = time.Since(session.stalled).Seconds()
		}
		gauge(stalledDesc, stalled)
		held := r.heldFamilies()
		for _, t := range r.peer.tables() {
			v := 0.0
			if slices.ContainsFunc(held, func(h HeldFamily) bool { return h.Table == t }) {
				v = 1
			}
			ch <- prometheus.MustNewConstMetric(heldDesc, prometheus.GaugeValue, v, r.peer.Name, string(t))
		}
		if r.prober.asks() {
			p := r.prober.all()
			gauge(installedDesc, float64(p.Installed))
			gauge(notInstalledDesc, float64(p.NotInstalled))
			gauge(hitDesc, float64(p.Packets))
			gauge(pauseDesc, p.Pause.Seconds())
		}
	}
}
