package journal

import "github.com/prometheus/client_golang/prometheus"

// Values of metric labels.
const (
	recordsReport  = "report"
	recordsSamples = "samples"
	droppedQueue   = "queue"
	droppedDisk    = "disk"
)

type metrics struct {
	records, dropped                *prometheus.CounterVec
	written, errors, deleted, torn  prometheus.Counter
	size, segments, failing, oldest prometheus.Gauge
}

// newMetrics registers the metrics; a nil Registerer registers none.
func newMetrics(reg prometheus.Registerer, w *Writer) (*metrics, error) {
	m := &metrics{
		records: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "trafficmonitor_journal_records_total", Help: "Records written to the journal, by kind.",
		}, []string{"kind"}),
		dropped: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "trafficmonitor_journal_dropped_total", Help: "Records that are not in the journal, because the queue was full or the disk could not be written.",
		}, []string{"reason"}),
		written: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "trafficmonitor_journal_written_bytes_total", Help: "Octets written to the journal, compressed.",
		}),
		errors: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "trafficmonitor_journal_errors_total", Help: "Failed writes, deletions and other operations of the journal.",
		}),
		deleted: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "trafficmonitor_journal_segments_deleted_total", Help: "Segments of the journal that were deleted because of its size or their age.",
		}),
		torn: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "trafficmonitor_journal_torn_bytes_total", Help: "Octets cut off the end of the journal at the start, which a crash had left incomplete.",
		}),
		size: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "trafficmonitor_journal_bytes", Help: "Size of the journal on disk.",
		}),
		segments: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "trafficmonitor_journal_segments", Help: "Segments of the journal on disk.",
		}),
		oldest: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "trafficmonitor_journal_oldest_timestamp_seconds", Help: "Time of the oldest record in the journal; 0 while there is none.",
		}),
		failing: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "trafficmonitor_journal_failing", Help: "1 while the journal cannot be written.",
		}),
	}
	for _, l := range []string{recordsReport, recordsSamples} {
		m.records.WithLabelValues(l)
	}
	for _, l := range []string{droppedQueue, droppedDisk} {
		m.dropped.WithLabelValues(l)
	}
	if reg == nil {
		return m, nil
	}
	for _, c := range []prometheus.Collector{
		m.records, m.dropped, m.written, m.errors, m.deleted, m.torn, m.size, m.segments, m.failing, m.oldest,
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "trafficmonitor_journal_queue_length", Help: "Records that wait for the journal.",
		}, func() float64 { return float64(len(w.queue)) }),
	} {
		if err := reg.Register(c); err != nil {
			return nil, err
		}
	}
	return m, nil
}
