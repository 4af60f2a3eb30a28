package pki

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics shows the files of one identity as they are at each scrape.
type metrics struct {
	files  Files
	expiry *prometheus.Desc
	usable *prometheus.Desc
}

// Register adds the metrics of these files to r. It does nothing where no TLS is configured.
func (f Files) Register(r prometheus.Registerer) error {
	if !f.Enabled() {
		return nil
	}
	return r.Register(&metrics{
		files: f,
		expiry: prometheus.NewDesc("trafficmonitor_certificate_expiry_timestamp_seconds",
			"When the certificate on disk ends, in seconds since 1970; of=\"own\" is this process's, of=\"ca\" the first to end in the CA file.",
			[]string{"of"}, nil),
		usable: prometheus.NewDesc("trafficmonitor_certificate_usable",
			"1 when the certificate files on disk can be used now; 0 when not, and the ones read before stay in use.", nil, nil),
	})
}

func (m *metrics) Describe(ch chan<- *prometheus.Desc) {
	ch <- m.expiry
	ch <- m.usable
}

func (m *metrics) Collect(ch chan<- prometheus.Metric) {
	usable := 0.0
	if _, err := m.files.load(time.Now()); err == nil {
		usable = 1
	}
	ch <- prometheus.MustNewConstMetric(m.usable, prometheus.GaugeValue, usable)
	cert, ca, err := m.files.Expiry()
	if err != nil {
		return // usable says so
	}
	ch <- prometheus.MustNewConstMetric(m.expiry, prometheus.GaugeValue, float64(cert.Unix()), "own")
	ch <- prometheus.MustNewConstMetric(m.expiry, prometheus.GaugeValue, float64(ca.Unix()), "ca")
}
