package sensor

import (
	"errors"
	"log/slog"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/amooglesoft/trafficmonitor/internal/sensor/bpf"
)

// openPins takes the pin directory. Without one the sensor works, for one that does not start sees nothing; it only
// loses what is counted while it restarts.
func openPins(o Options) (pins, error) {
	if o.Pin == "" {
		return pins{}, nil
	}
	p, err := bpf.OpenPins(o.Pin)
	if errors.Is(err, bpf.ErrPinsInUse) {
		return pins{}, err
	}
	if err != nil {
		o.Log.Warn("nothing is pinned: what comes in while the sensor restarts will not be counted", "err", err)
		return pins{}, nil
	}
	return pins{p}, nil
}

// loadOn loads the programs, on what an earlier process left if it can.
func loadOn(p pins, sizes bpf.Sizes, log *slog.Logger) (*bpf.Kernel, error) {
	if p.Pins == nil {
		return bpf.Load(sizes)
	}
	k, err := bpf.LoadPinned(sizes, p.Pins)
	if err != nil {
		return nil, err
	}
	switch {
	case k.Reused:
		log.Info("counters of an earlier run go on", "pin", p.Dir(), "since", k.Began)
	case k.Replaced != "":
		log.Warn("counters of an earlier run are replaced; what it had not reported is lost", "pin", p.Dir(), "reason", k.Replaced)
	}
	return k, nil
}

type pinMetrics struct{ pinned, began, replaced prometheus.Gauge }

func newPinMetrics(reg prometheus.Registerer) pinMetrics {
	m := pinMetrics{
		pinned: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "trafficmonitor_sensor_pinned", Help: "1 when maps and links outlive the process; 0 when a restart loses what comes in meanwhile.",
		}),
		began: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "trafficmonitor_sensor_counters_start_time_seconds", Help: "When the kernel's counters began: before the process if it found them pinned.",
		}),
		replaced: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "trafficmonitor_sensor_maps_replaced", Help: "1 when this process found pinned counters it could not go on with, because of another version, sizes or number of CPUs.",
		}),
	}
	reg.MustRegister(m.pinned, m.began, m.replaced)
	return m
}

func (m pinMetrics) set(p pins, k *bpf.Kernel) {
	if p.Pins != nil {
		m.pinned.Set(1)
	}
	if k.Replaced != "" {
		m.replaced.Set(1)
	}
	m.began.Set(float64(k.Began.UnixNano()) / 1e9)
}
