package sensor

import (
	"slices"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	pb "github.com/amooglesoft/trafficmonitor/api/trafficmonitor/v1"
)

// gaugeOf returns what a gauge without labels shows.
func gaugeOf(t *testing.T, reg *prometheus.Registry, name string) float64 {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == name {
			return f.GetMetric()[0].GetGauge().GetValue()
		}
	}
	t.Fatalf("there is no metric %s", name)
	return 0
}

// TestBudgetOfARunningSensor gives a sensor a budget that any work exceeds: it gives up sampling, says so, and counts and
// triggers as before.
func TestBudgetOfARunningSensor(t *testing.T) {
	inNamespace(t, func(t *testing.T) {
		out, _ := wire(t)
		d := told(1, 1)
		d.SampleOneIn = 1
		c := newController(t, "", d)
		reg, stop := start(t, Options{
			Interfaces: []Interface{{Name: "in", Mode: Host}}, Controllers: []Controller{{Address: c.address}},
			Budget: Budget{Rest: 1e-9, Most: 1e-9},
		})
		defer stop()
		c.await(t, "report that follows the directive", func(m *pb.ConnectRequest) bool {
			return m.GetReport().GetDirective().GetRevision() == 1
		})
		send(t, out, slices.Repeat([][]byte{udpFrame("192.0.2.9", 53, 100)}, 300)...)
		c.await(t, "sample", func(m *pb.ConnectRequest) bool { return len(m.GetSamples().GetSamples()) > 0 })
		c.await(t, "report that says that nothing is sampled", func(m *pb.ConnectRequest) bool {
			k := m.GetReport().GetCounters()
			return k != nil && k.GetSampleOneIn() == 0 && k.GetCpuNanoseconds() > 0 && k.GetResidentBytes() > 0
		})
		if asked, actual := gaugeOf(t, reg, "trafficmonitor_sensor_sample_one_in_asked"), gaugeOf(t, reg, "trafficmonitor_sensor_sample_one_in"); asked != 1 || actual != 0 {
			t.Errorf("asked to sample one in %g, samples one in %g", asked, actual)
		}
		if level := gaugeOf(t, reg, "trafficmonitor_sensor_restraint_level"); level < levelBlind {
			t.Errorf("level %g", level)
		}
		got := map[string]sum{}
		send(t, out, slices.Repeat([][]byte{udpFrame("192.0.2.10", 53, 100)}, 300)...)
		c.await(t, "complete count", func(m *pb.ConnectRequest) bool {
			for _, s := range m.GetSamples().GetSamples() {
				t.Errorf("a packet was sampled: %v", s)
			}
			if m.GetReport().GetCause() == pb.Report_CAUSE_INTERVAL {
				total(m.GetReport(), got)
			}
			return got["192.0.2.10/32 dns-amplification"].packets >= 300
		})
		send(t, out, slices.Repeat([][]byte{udpFrame("192.0.2.11", 53, 100)}, 20_000)...)
		c.await(t, "trigger", func(m *pb.ConnectRequest) bool { return m.GetReport().GetCause() == pb.Report_CAUSE_TRIGGER })
	})
}
