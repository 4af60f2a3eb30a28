package app

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"path/filepath"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	pb "github.com/amooglesoft/trafficmonitor/api/trafficmonitor/v1"
	"github.com/amooglesoft/trafficmonitor/internal/config"
	"github.com/amooglesoft/trafficmonitor/internal/pki"
	"github.com/amooglesoft/trafficmonitor/internal/telemetry/telemetrytest"
)

var update = flag.Bool("update", false, "rewrite the tables of docs/metrics.md")

const metricsDoc = "../../docs/metrics.md"

// TestMetricsAreDocumented runs a controller and its speaker with everything on that has metrics.
func TestMetricsAreDocumented(t *testing.T) {
	dir := t.TempDir()
	tls := filepath.Join(dir, "pki")
	if err := pki.CreateCA(tls); err != nil {
		t.Fatal(err)
	}
	if _, err := pki.Issue(tls, pki.RoleController, "c1", []string{"127.0.0.1"}); err != nil {
		t.Fatal(err)
	}
	cfg, err := config.ParseController("controller.yaml", fmt.Appendf(nil, `
name: c1
data_dir: %[1]s/data
listen: {sensors: "", console: "", console_socket: "unix://%[1]s/console.sock", telemetry: "127.0.0.1:%[2]d"}
tls: {ca: %[1]s/pki/ca.crt, cert: %[1]s/pki/c1.crt, key: %[1]s/pki/c1.key}
network: {own_prefixes: [192.0.2.0/24, "2001:db8::/32"]}
speaker:
  socket: %[1]s/speaker.sock
  telemetry: "127.0.0.1:%[3]d"
  spawn: false
  asn: 65000
  router_id: 127.0.0.1
  peers: [{name: edge1, address: 127.0.0.1, port: %[4]d, asn: 65001, profile: frr, probe: {run: [vtysh, -c]}}]
`, dir, freePort(t), freePort(t), freePort(t)))
	if err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.NewTextHandler(t.Output(), nil))
	controller, speaker := telemetrytest.NewRecorder("controller"), telemetrytest.NewRecorder("speaker")
	c, err := NewController(ControllerOptions{Config: cfg, Version: "test", Log: log})
	if err != nil {
		t.Fatal(err)
	}
	c.reg = controller

	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 2)
	go func() { ended <- c.Run(ctx) }()
	go func() { ended <- runSpeaker(ctx, cfg, "test", log, speaker, nil) }()
	t.Cleanup(func() {
		cancel()
		for range cap(ended) {
			if err := <-ended; err != nil {
				t.Error(err)
			}
		}
	})
	eventually(t, "the speaker has the set and both show everything", func() bool {
		return value(controller, "trafficmonitor_speaker_reachable") == 1 && value(controller, "trafficmonitor_automation_frozen") == 0 &&
			value(controller, "trafficmonitor_store_leading") == 1 && value(controller, "trafficmonitor_console_watchers") == 0 &&
			value(speaker, "trafficmonitor_speaker_routes_pending", "peer", "edge1") == 0
	})
	if v := value(controller, "trafficmonitor_not_ready", "component", "routers"); v != 1 {
		t.Errorf("a router without a session: not_ready is %v", v)
	}
	if v := value(controller, "trafficmonitor_ready"); v != 0 {
		t.Errorf("a router without a session: ready is %v", v)
	}
	controller.Document(t, metricsDoc, "controller", *update)
	speaker.Document(t, metricsDoc, "speaker", *update)
}

// value reads one series; -1 when there is none. Labels come as name and value.
func value(g prometheus.Gatherer, name string, labels ...string) float64 {
	families, err := g.Gather()
	if err != nil {
		return -1
	}
	for _, f := range families {
		if f.GetName() != name {
			continue
		}
		for _, m := range f.GetMetric() {
			if len(labels) == 2 && (len(m.GetLabel()) != 1 || m.GetLabel()[0].GetName() != labels[0] || m.GetLabel()[0].GetValue() != labels[1]) {
				continue
			}
			return m.GetGauge().GetValue() + m.GetCounter().GetValue()
		}
	}
	return -1
}

func TestTheSituationIsInTheMetrics(t *testing.T) {
	dir := t.TempDir()
	r := start(t, dir)
	expect := func(when, name string, want float64, labels ...string) {
		t.Helper()
		eventually(t, fmt.Sprintf("%s: %s%v is %v, now %v", when, name, labels, want, value(r.reg, name, labels...)), func() bool {
			return value(r.reg, name, labels...) == want
		})
	}
	expect("calm", "trafficmonitor_mitigations", 0, "state", "active")
	expect("calm", "trafficmonitor_incidents_active", 0)
	expect("calm", "trafficmonitor_automation_frozen", 0)
	expect("calm", "trafficmonitor_policy_refused", 0)
	expect("calm", "trafficmonitor_policy_info", 1, "hash", r.policy.Load().Hash()[:12])

	r.attack(t)
	expect("attacked", "trafficmonitor_incidents_active", 1)
	expect("attacked", "trafficmonitor_view_targets", 1)
	expect("attacked", "trafficmonitor_mitigations", 1, "state", "active")
	expect("attacked", "trafficmonitor_routes_desired", 1)
	expect("attacked", "trafficmonitor_ingest_sensors_known", 1)

	if _, err := r.console.WithdrawMitigations(t.Context(), &pb.WithdrawMitigationsRequest{Selector: &pb.WithdrawMitigationsRequest_All{All: true}, Reason: "test", Requester: "ann"}); err != nil {
		t.Fatal(err)
	}
	expect("withdrawn", "trafficmonitor_mitigations", 0, "state", "active")
	expect("withdrawn", "trafficmonitor_mitigations", 1, "state", "ended")
	expect("withdrawn", "trafficmonitor_holds", 1)

	for _, frozen := range []bool{true, false} {
		want := map[bool]float64{true: 1}[frozen]
		if _, err := r.console.SetFreeze(t.Context(), &pb.SetFreezeRequest{Frozen: frozen, Reason: "test", Requester: "ann"}); err != nil {
			t.Fatal(err)
		}
		expect("freeze", "trafficmonitor_automation_frozen", want)
		if _, err := r.console.SetFreeze(t.Context(), &pb.SetFreezeRequest{Frozen: frozen, Group: "default", Reason: "test", Requester: "ann"}); err != nil {
			t.Fatal(err)
		}
		expect("freeze of a group", "trafficmonitor_automation_frozen_groups", want)
		st, err := r.console.GetStatus(t.Context(), &pb.GetStatusRequest{})
		if err != nil || len(st.GroupFreezes) != int(want) {
			t.Errorf("status shows %v frozen, want %v; %v", st.GetGroupFreezes(), want, err)
		}
	}

	loaded := value(r.reg, "trafficmonitor_policy_loaded_timestamp_seconds")
	if age := float64(time.Now().Unix()) - loaded; age < -1 || age > 60 {
		t.Errorf("the policy was loaded %v seconds ago", age)
	}
	writePolicy(t, dir, "version: 1\nthreshold: []\n")
	r.Reload()
	expect("broken policy", "trafficmonitor_policy_refused", 1)
	writePolicy(t, dir, "version: 1\nthresholds: [{vectors: syn, pps: 1 kpps}]\nresponses: [{vectors: all, action: observe}]\n")
	r.Reload()
	expect("mended policy", "trafficmonitor_policy_refused", 0)
	if now := value(r.reg, "trafficmonitor_policy_loaded_timestamp_seconds"); now <= loaded {
		t.Errorf("the policy was loaded at %v before and %v after", loaded, now)
	}
	if problems, err := testutil.GatherAndLint(r.reg); err != nil || len(problems) > 0 {
		t.Errorf("metrics: %v %v", problems, err)
	}
}
