package app

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	pb "github.com/amooglesoft/trafficmonitor/api/trafficmonitor/v1"
	"github.com/amooglesoft/trafficmonitor/internal/config"
	"github.com/amooglesoft/trafficmonitor/internal/journal"
	"github.com/amooglesoft/trafficmonitor/internal/traffic"
	"github.com/amooglesoft/trafficmonitor/internal/vector"
)

// running is a controller in this process, with clients of its services.
type running struct {
	*Controller
	dir     string
	console pb.ConsoleServiceClient
	sensors pb.SensorServiceClient
	stop    func() error
}

// start runs a controller without routers on the data in dir.
func start(t *testing.T, dir string) *running {
	t.Helper()
	sensors, telemetry := freePort(t), freePort(t)
	for telemetry == sensors {
		telemetry = freePort(t)
	}
	text := fmt.Sprintf(`
name: c1
data_dir: %[1]s/data
listen: {sensors: "127.0.0.1:%[2]d", console: "", console_socket: "unix://%[1]s/console.sock", telemetry: "127.0.0.1:%[3]d"}
network: {own_prefixes: [192.0.2.0/24, "2001:db8::/32"]}
speaker: {socket: %[1]s/speaker.sock}
policy: %[1]s/policy.yaml
`, dir, sensors, telemetry)
	if _, err := os.Stat(filepath.Join(dir, "policy.yaml")); err != nil {
		writePolicy(t, dir, "version: 1\nthresholds: [{vectors: all-reflection, pps: 20 kpps}]\nresponses: [{vectors: all, action: discard, ttl: 1m}]\n")
	}
	if _, err := os.Stat(filepath.Join(dir, "shadow.yaml")); err == nil {
		text += "shadow_policy: " + dir + "/shadow.yaml\n"
	}
	cfg, err := config.ParseController("controller.yaml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	c, err := NewController(ControllerOptions{Config: cfg, Version: "test", Log: slog.New(slog.NewTextHandler(t.Output(), nil))})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- c.Run(ctx) }()
	r := &running{Controller: c, dir: dir}
	r.stop = func() error {
		cancel()
		err := <-ended
		ended <- err
		return err
	}
	t.Cleanup(func() {
		if err := r.stop(); err != nil {
			t.Errorf("the controller ended with %v", err)
		}
	})
	dial := func(target string) *grpc.ClientConn {
		conn, err := grpc.NewClient(target, grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
		return conn
	}
	r.console = pb.NewConsoleServiceClient(dial("unix:" + dir + "/console.sock"))
	r.sensors = pb.NewSensorServiceClient(dial(fmt.Sprintf("127.0.0.1:%d", sensors)))
	eventually(t, "the controller leads", func() bool {
		st, err := r.console.GetStatus(t.Context(), &pb.GetStatusRequest{})
		return err == nil && st.GetIsLeader()
	})
	return r
}

func writePolicy(t *testing.T, dir, text string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, "policy.yaml"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

// eventually waits for a condition that depends on other processes' or goroutines' progress.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.After(20 * time.Second)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-deadline:
			t.Fatalf("waited in vain: %s", what)
		case <-tick.C:
		}
	}
}

// attack connects as a sensor, takes the directive and reports a triggered window.
func (r *running) attack(t *testing.T) {
	t.Helper()
	s, err := r.sensors.Connect(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Send(&pb.ConnectRequest{Message: &pb.ConnectRequest_Hello{Hello: &pb.Hello{Sensor: "rack1"}}}); err != nil {
		t.Fatal(err)
	}
	var m *pb.ConnectResponse
	for m.GetDirective() == nil { // a question about the clock may come first
		if m, err = s.Recv(); err != nil {
			t.Fatal(err)
		}
	}
	if d := m.GetDirective(); len(d.GetProtectedPrefixes()) != 2 || len(d.GetTriggers()) == 0 {
		t.Fatalf("directive = %v", d)
	}
	if err := s.Send(&pb.ConnectRequest{Message: &pb.ConnectRequest_Report{Report: &pb.Report{
		Sequence: 1, Cause: pb.Report_CAUSE_TRIGGER, StartTime: timestamppb.Now(), Span: durationpb.New(33 * time.Millisecond), TriggerTime: timestamppb.Now(),
		Aggregates: []*pb.Aggregate{{Target: []byte{192, 0, 2, 1}, PrefixLength: 32, Vector: uint32(vector.DNS), Packets: 1000, Bytes: 500_000}},
	}}}); err != nil {
		t.Fatal(err)
	}
}

func TestFromReportToRecordAndOverARestart(t *testing.T) {
	dir := t.TempDir()
	r := start(t, dir)
	events, err := r.console.WatchEvents(t.Context(), &pb.WatchEventsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	r.attack(t)
	for {
		e, err := events.Recv()
		if err != nil {
			t.Fatal(err)
		}
		if e.GetKind() == "mitigation_created" {
			break
		}
	}
	const want = "destination 192.0.2.1/32 protocol udp source-port 53 then discard"
	var id string
	eventually(t, "the route is desired", func() bool {
		ms, err := r.console.ListMitigations(t.Context(), &pb.ListMitigationsRequest{})
		if err != nil || len(ms.GetMitigations()) != 1 {
			return false
		}
		id = ms.GetMitigations()[0].GetId()
		rs, err := r.console.ListRoutes(t.Context(), &pb.ListRoutesRequest{})
		return err == nil && len(rs.GetRoutes()) == 1 && rs.GetRoutes()[0].GetSpec().GetRoute() == want
	})
	if problems, err := testutil.GatherAndLint(r.reg); err != nil || len(problems) > 0 {
		t.Errorf("metrics: %v %v", problems, err)
	}
	if err := r.stop(); err != nil {
		t.Fatal(err)
	}

	// What the sensor reported can be replayed.
	j, err := journal.Open(filepath.Join(dir, "data", "journal"))
	if err != nil {
		t.Fatal(err)
	}
	rec, err := j.Next()
	if err != nil || rec.Sensor != "rack1" || rec.Report.Cause != traffic.Trigger || len(rec.Report.Aggregates) == 0 || time.Since(rec.Time) > time.Minute {
		t.Errorf("journal: %+v %v", rec, err)
	}

	// Another process on the same data goes on: the mitigation is there, and a manual withdraw ends it.
	r = start(t, dir)
	ms, err := r.console.ListMitigations(t.Context(), &pb.ListMitigationsRequest{})
	if err != nil || len(ms.GetMitigations()) != 1 || ms.GetMitigations()[0].GetId() != id {
		t.Fatalf("after the restart: %v %v", ms, err)
	}
	if _, err := r.console.WithdrawMitigations(t.Context(), &pb.WithdrawMitigationsRequest{Selector: &pb.WithdrawMitigationsRequest_Id{Id: id}, Reason: "test", Requester: "ann"}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the route is not desired any more", func() bool {
		rs, err := r.console.ListRoutes(t.Context(), &pb.ListRoutesRequest{})
		return err == nil && len(rs.GetRoutes()) == 0
	})
	hs, err := r.console.ListHolds(t.Context(), &pb.ListHoldsRequest{})
	if err != nil || len(hs.GetHolds()) != 1 {
		t.Errorf("holds: %v %v", hs, err)
	}
}

func TestABrokenPolicyLeavesTheRunningOne(t *testing.T) {
	dir := t.TempDir()
	r := start(t, dir)
	before, err := r.console.GetPolicy(t.Context(), &pb.GetPolicyRequest{})
	if err != nil {
		t.Fatal(err)
	}
	writePolicy(t, dir, "version: 1\nthreshold: []\n")
	r.Reload()
	eventually(t, "the refusal is shown with line and suggestion", func() bool {
		p, err := r.console.GetPolicy(t.Context(), &pb.GetPolicyRequest{})
		return err == nil && p.GetHash() == before.GetHash() && strings.Contains(p.GetError(), "policy.yaml:2") && strings.Contains(p.GetError(), "thresholds")
	})
	writePolicy(t, dir, "version: 1\nthresholds: [{vectors: syn, pps: 1 kpps}]\nresponses: [{vectors: all, action: observe}]\n")
	r.Reload()
	eventually(t, "the mended policy is in force", func() bool {
		p, err := r.console.GetPolicy(t.Context(), &pb.GetPolicyRequest{})
		return err == nil && p.GetHash() != before.GetHash() && p.GetError() == ""
	})
}

func TestStatusShowsTheShadowPolicy(t *testing.T) {
	dir := t.TempDir()
	shadow := func(text string) {
		if err := os.WriteFile(filepath.Join(dir, "shadow.yaml"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	shadow("version: 1\nthresholds: [{vectors: syn, pps: 1 kpps}]\nresponses: [{vectors: all, action: observe}]\n")
	r := start(t, dir)
	status := func() *pb.ShadowPolicy {
		st, err := r.console.GetStatus(t.Context(), &pb.GetStatusRequest{})
		if err != nil {
			t.Fatal(err)
		}
		return st.ShadowPolicy
	}
	first := status()
	if first.GetSource() != filepath.Join(dir, "shadow.yaml") || len(first.GetHash()) != 64 || first.GetError() != "" || first.GetLoadTime() == nil {
		t.Errorf("shadow: %v", first)
	}
	shadow("version: 1\nthreshold: []\n")
	r.Reload()
	eventually(t, "the refusal is shown and the one before stays", func() bool {
		s := status()
		return s.GetHash() == first.GetHash() && strings.Contains(s.GetError(), "shadow.yaml:2")
	})
	shadow("version: 1\nthresholds: [{vectors: syn, pps: 2 kpps}]\nresponses: [{vectors: all, action: observe}]\n")
	r.Reload()
	eventually(t, "the mended one is asked", func() bool {
		s := status()
		return s.GetHash() != first.GetHash() && s.GetError() == ""
	})
}

func TestReadinessHasReasons(t *testing.T) {
	r := start(t, t.TempDir())
	st, err := r.console.GetStatus(t.Context(), &pb.GetStatusRequest{})
	if err != nil || len(st.GetNotReady()) != 1 || !strings.Contains(st.GetNotReady()[0], "routers: none are configured") {
		t.Errorf("not ready: %q %v", st.GetNotReady(), err)
	}
	resp, err := http.Get("http://" + r.o.Config.Listen.Telemetry.String() + "/readyz")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("readyz answers %s", resp.Status)
	}
}

func TestWhatCannotWorkIsRefusedBeforeAnythingIsOpened(t *testing.T) {
	dir := t.TempDir()
	cfg := config.DefaultController()
	cfg.DataDir = filepath.Join(dir, "data")
	cfg.Policy, cfg.Shadow = filepath.Join(dir, "absent.yaml"), filepath.Join(dir, "nowhere.d")
	_, err := NewController(ControllerOptions{Config: cfg, Log: slog.New(slog.DiscardHandler)})
	if err == nil || !strings.Contains(err.Error(), "absent.yaml") || !strings.Contains(err.Error(), "shadow_policy: ") || !strings.Contains(err.Error(), "own prefixes") {
		t.Errorf("NewController = %v; want all three problems", err)
	}
	if _, err := os.Stat(cfg.DataDir); err == nil {
		t.Error("the data directory was made though the controller cannot run")
	}
}

// A step for a router that there is not would announce nothing anywhere.
func TestScopesNameRouters(t *testing.T) {
	dir := t.TempDir()
	const text = "version: 1\nthresholds: []\nresponses: [{vectors: all, ladder: [{action: discard, scope: %s}]}]\n"
	cfg := config.DefaultController()
	cfg.Policy = filepath.Join(dir, "policy.yaml")
	cfg.Speaker.Peers = []config.Peer{{Name: "edge-1"}, {Name: "edge-2"}}
	writePolicy(t, dir, fmt.Sprintf(text, "[edge-2, edge-3]"))
	want := `policy.yaml:3: responses[0].ladder[0].scope: edge-3 is no router: speaker.peers has edge-1, edge-2; did you mean "edge-1"?`
	if _, err := loadPolicy(cfg); err == nil || !strings.HasSuffix(err.Error(), want) {
		t.Errorf("%v", err)
	}
	cfg.Shadow = cfg.Policy
	if _, err := loadShadow(cfg); err == nil || !strings.Contains(err.Error(), "edge-3") {
		t.Errorf("shadow: %v", err)
	}
	writePolicy(t, dir, fmt.Sprintf(text, "edge-2"))
	if _, err := loadPolicy(cfg); err != nil {
		t.Error(err)
	}
	if p, err := loadShadow(config.DefaultController()); p != nil || err != nil {
		t.Errorf("no shadow: %v %v", p, err)
	}
}
