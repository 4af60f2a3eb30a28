package ingest

import (
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus/testutil"
)

func TestSensorsAreCounted(t *testing.T) {
	f := start(t, Options{})
	s := f.connect(t, "rack1")
	for _, seq := range []uint64{1, 2, 6} { // 3, 4 and 5 never come
		r := good()
		r.Sequence, r.DirectiveError = seq, "too many prefixes"
		send(t, s, wrap(r))
		<-f.delivered
	}
	want := `
# HELP trafficmonitor_ingest_reports_missing_total Reports sensors made that never came, by the gaps in their numbers: dropped by a sensor's backlog, or lost with a stream.
# TYPE trafficmonitor_ingest_reports_missing_total counter
trafficmonitor_ingest_reports_missing_total 3
# HELP trafficmonitor_ingest_sensors_connected Sensors with a stream to this controller.
# TYPE trafficmonitor_ingest_sensors_connected gauge
trafficmonitor_ingest_sensors_connected 1
# HELP trafficmonitor_ingest_sensors_directive_refused Sensors that refused their newest directive and follow an older one, or none.
# TYPE trafficmonitor_ingest_sensors_directive_refused gauge
trafficmonitor_ingest_sensors_directive_refused 1
# HELP trafficmonitor_ingest_sensors_stale Sensors that have not reported in time; their last word is held.
# TYPE trafficmonitor_ingest_sensors_stale gauge
trafficmonitor_ingest_sensors_stale 0
`
	if err := testutil.GatherAndCompare(f.reg, strings.NewReader(want), "trafficmonitor_ingest_reports_missing_total", "trafficmonitor_ingest_sensors_connected",
		"trafficmonitor_ingest_sensors_directive_refused", "trafficmonitor_ingest_sensors_stale"); err != nil {
		t.Error(err)
	}
	if n := testutil.CollectAndCount(f.metrics.dropped); n != 3 {
		t.Errorf("%d series of dropped reports before the first, want one a cause", n)
	}
}
