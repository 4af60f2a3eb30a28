package telemetry

import (
	"github.com/prometheus/client_golang/prometheus"
)

// Registry is what a daemon's metrics are registered with and read from.
type Registry interface {
	prometheus.Registerer
	prometheus.Gatherer
}

var (
	readyDesc = prometheus.NewDesc("trafficmonitor_ready",
		"1 while the daemon is ready, as /readyz says it; 0 while trafficmonitor_not_ready names a component.", nil, nil)
	notReadyDesc = prometheus.NewDesc("trafficmonitor_not_ready",
		"1 for each component that is not ready now; absent for all others. /readyz has the reason in words.", []string{"component"}, nil)
)

// Register shows h as metrics. Components come from the code and the configuration, never from traffic.
func (h *Health) Register(r prometheus.Registerer) error { return r.Register(h) }

// Describe implements prometheus.Collector.
func (h *Health) Describe(ch chan<- *prometheus.Desc) {
	ch <- readyDesc
	ch <- notReadyDesc
}

// Collect implements prometheus.Collector.
func (h *Health) Collect(ch chan<- prometheus.Metric) {
	h.mu.Lock()
	defer h.mu.Unlock()
	ready := 1.0
	for component := range h.reasons {
		ready = 0
		ch <- prometheus.MustNewConstMetric(notReadyDesc, prometheus.GaugeValue, 1, component)
	}
	ch <- prometheus.MustNewConstMetric(readyDesc, prometheus.GaugeValue, ready)
}
