package sensor

import (
	"flag"
	"testing"

	"github.com/amooglesoft/trafficmonitor/internal/pki"
	"github.com/amooglesoft/trafficmonitor/internal/telemetry"
	"github.com/amooglesoft/trafficmonitor/internal/telemetry/telemetrytest"
)

var update = flag.Bool("update", false, "rewrite the sensor's table of docs/metrics.md")

// TestMetricsAreDocumented needs no kernel: the metrics are the same before the programs are loaded. What cmd/sensor
// adds is added here, too.
func TestMetricsAreDocumented(t *testing.T) {
	dir := t.TempDir()
	if err := pki.CreateCA(dir); err != nil {
		t.Fatal(err)
	}
	files, err := pki.Issue(dir, pki.RoleSensor, "rack1", nil)
	if err != nil {
		t.Fatal(err)
	}
	r := telemetrytest.NewRecorder("sensor")
	newMetrics(r, map[string]*backlog{"controller-1:7442": newBacklog(1)})
	newRestraint(Budget{}, r)
	newDoorMetrics(r)
	newPinMetrics(r)
	if err := files.Register(r); err != nil {
		t.Fatal(err)
	}
	health := &telemetry.Health{}
	health.Set("directive", "no controller has said yet what to watch")
	if err := health.Register(r); err != nil {
		t.Fatal(err)
	}
	r.Document(t, "../../docs/metrics.md", "sensor", *update)
}
