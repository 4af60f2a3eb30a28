package console

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/amooglesoft/trafficmonitor/internal/rpc"
)

// metrics of the console. Methods and codes are closed sets.
type metrics struct {
	requests        *prometheus.CounterVec
	seconds         *prometheus.HistogramVec
	panics          prometheus.Counter
	handshakeErrors prometheus.Counter
	watchers        prometheus.Gauge
	eventsLost      prometheus.Counter
}

func newMetrics(r prometheus.Registerer) *metrics {
	m := &metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "trafficmonitor_console_requests_total",
			Help: "Calls of the console's gRPC methods that ended, by method and gRPC code.",
		}, []string{"method", "code"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "trafficmonitor_console_request_duration_seconds",
			Help:    "Time the console took to answer a unary call.",
			Buckets: []float64{.001, .005, .025, .1, .5, 2.5, 10},
		}, []string{"method"}),
		panics: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "trafficmonitor_console_panics_total",
			Help: "Calls that met a programming error; the log has the stack under \"handler panicked\".",
		}),
		handshakeErrors: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "trafficmonitor_console_refused_connections_total",
			Help: "Connections to the console refused before any call: no, wrong or expired certificate, or no TLS.",
		}),
		watchers: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "trafficmonitor_console_watchers",
			Help: "Readers of events that are connected now.",
		}),
		eventsLost: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "trafficmonitor_console_events_lost_total",
			Help: "Events not sent to a reader because it was too slow, summed over readers.",
		}),
	}
	if r != nil {
		r.MustRegister(m.requests, m.seconds, m.panics, m.handshakeErrors, m.watchers, m.eventsLost)
	}
	return m
}

func (m *metrics) rpc() *rpc.Metrics {
	return &rpc.Metrics{Requests: m.requests, Seconds: m.seconds, Panics: m.panics, HandshakeErrors: m.handshakeErrors}
}
