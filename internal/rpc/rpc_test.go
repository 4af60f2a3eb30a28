package rpc

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	hv1 "google.golang.org/grpc/health/grpc_health_v1"
	rv1 "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"

	tmv1 "github.com/amooglesoft/trafficmonitor/api/trafficmonitor/v1"
	"github.com/amooglesoft/trafficmonitor/internal/pki"
)

// double is a service whose methods misbehave on demand.
type double struct {
	tmv1.UnimplementedSpeakerServiceServer
	caller chan Caller
}

func (d *double) GetSpeakerStatus(ctx context.Context, _ *tmv1.GetSpeakerStatusRequest) (*tmv1.GetSpeakerStatusResponse, error) {
	d.caller <- CallerFrom(ctx)
	return &tmv1.GetSpeakerStatusResponse{}, nil
}

func (d *double) SetRoutes(context.Context, *tmv1.SetRoutesRequest) (*tmv1.SetRoutesResponse, error) {
	panic("no such thing")
}

func (d *double) WatchSpeaker(_ *tmv1.WatchSpeakerRequest, out grpc.ServerStreamingServer[tmv1.WatchSpeakerResponse]) error {
	if err := out.Send(&tmv1.WatchSpeakerResponse{}); err != nil {
		return err
	}
	<-out.Context().Done()
	return out.Context().Err()
}

var doubleRoles = map[string][]string{
	tmv1.SpeakerService_SetRoutes_FullMethodName:          {pki.RoleController},
	tmv1.SpeakerService_ChangeRoutes_FullMethodName:       {pki.RoleController},
	tmv1.SpeakerService_ConfirmRoutes_FullMethodName:      {pki.RoleController},
	tmv1.SpeakerService_GetSpeakerStatus_FullMethodName:   {pki.RoleViewer, pki.RoleOperator},
	tmv1.SpeakerService_WatchSpeaker_FullMethodName:       {pki.RoleViewer},
	tmv1.SpeakerService_WithdrawAll_FullMethodName:        {pki.RoleOperator},
	tmv1.SpeakerService_ReleaseWithdrawAll_FullMethodName: {pki.RoleOperator},
	tmv1.SpeakerService_ReleaseQuarantine_FullMethodName:  {pki.RoleOperator},
}

func testMetrics(r prometheus.Registerer) *Metrics {
	m := &Metrics{
		Requests:        prometheus.NewCounterVec(prometheus.CounterOpts{Name: "requests_total", Help: "h"}, []string{"method", "code"}),
		Seconds:         prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "request_seconds", Help: "h"}, []string{"method"}),
		Panics:          prometheus.NewCounter(prometheus.CounterOpts{Name: "panics_total", Help: "h"}),
		HandshakeErrors: prometheus.NewCounter(prometheus.CounterOpts{Name: "handshake_errors_total", Help: "h"}),
	}
	r.MustRegister(m.Requests, m.Seconds, m.Panics, m.HandshakeErrors)
	return m
}

// start serves d and returns what stops it; the listeners belong to it from then on.
func start(t *testing.T, o Options, d *double, l ...net.Listener) (stop func()) {
	t.Helper()
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Roles == nil {
		o.Roles = doubleRoles
	}
	s, err := NewServer(o)
	if err != nil {
		t.Fatal(err)
	}
	tmv1.RegisterSpeakerServiceServer(s, d)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, l...) }()
	stopped := false
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Serve: %v", err)
		}
	}
	t.Cleanup(stop)
	return stop
}

func listen(t *testing.T, address string, tls bool) net.Listener {
	t.Helper()
	l, err := Listen(address, tls)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func connect(t *testing.T, address string, f pki.Files) *grpc.ClientConn {
	t.Helper()
	c, err := Dial(address, f)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func socket(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "tm") // t.TempDir's paths may be too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return filepath.Join(dir, "s.sock")
}

func TestPanicCostsOneCall(t *testing.T) {
	var log strings.Builder
	reg := prometheus.NewPedanticRegistry()
	path := "unix://" + socket(t)
	d := &double{caller: make(chan Caller, 1)}
	stop := start(t, Options{Log: slog.New(slog.NewTextHandler(&log, nil)), Metrics: testMetrics(reg)}, d, listen(t, path, false))
	c := tmv1.NewSpeakerServiceClient(connect(t, path, pki.Files{}))
	_, err := c.SetRoutes(t.Context(), &tmv1.SetRoutesRequest{})
	if status.Code(err) != codes.Internal || !strings.Contains(err.Error(), "handler panicked") {
		t.Errorf("panic answered with %v", err)
	}
	if _, err := c.GetSpeakerStatus(t.Context(), &tmv1.GetSpeakerStatusRequest{}); err != nil {
		t.Fatalf("the call after a panic: %v", err)
	}
	if got := <-d.caller; !strings.HasPrefix(got.Local, "unix") || got.Name != "" {
		t.Errorf("caller %+v, want a local one over unix", got)
	}
	stop()
	for _, want := range []string{"no such thing", "rpc_test.go", "SetRoutes"} {
		if !strings.Contains(log.String(), want) {
			t.Errorf("the log of the panic lacks %q:\n%s", want, &log)
		}
	}
	want := `# HELP requests_total h
# TYPE requests_total counter
requests_total{code="Internal",method="SetRoutes"} 1
requests_total{code="OK",method="GetSpeakerStatus"} 1
# HELP panics_total h
# TYPE panics_total counter
panics_total 1
`
	if err := testutil.GatherAndCompare(reg, strings.NewReader(want), "requests_total", "panics_total"); err != nil {
		t.Error(err)
	}
}

func TestStopEndsStreams(t *testing.T) {
	path := "unix://" + socket(t)
	stop := start(t, Options{}, &double{}, listen(t, path, false))
	w, err := tmv1.NewSpeakerServiceClient(connect(t, path, pki.Files{})).WatchSpeaker(t.Context(), &tmv1.WatchSpeakerRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Recv(); err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	stop()
	if took := time.Since(begin); took >= stopGrace {
		t.Errorf("the stream held the server up for %v", took)
	}
	if _, err := w.Recv(); status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), "shutting down") {
		t.Errorf("the stream ended with %v", err)
	}
}

func TestEveryMethodNeedsRoles(t *testing.T) {
	s, err := NewServer(Options{Log: slog.New(slog.DiscardHandler), Roles: map[string][]string{}})
	if err != nil {
		t.Fatal(err)
	}
	tmv1.RegisterSpeakerServiceServer(s, &double{})
	l := listen(t, "127.0.0.1:0", false)
	if err := s.Serve(t.Context(), l); err == nil || !strings.Contains(err.Error(), "SpeakerService/WithdrawAll") {
		t.Errorf("Serve: %v; want the methods without roles", err)
	}
	if _, err := l.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("the listener is still open: %v", err)
	}
}

func TestRolesOverTLS(t *testing.T) {
	dir := t.TempDir()
	if err := pki.CreateCA(dir); err != nil {
		t.Fatal(err)
	}
	issue := func(role, name string) pki.Files {
		var hosts []string
		if role == pki.RoleController {
			hosts = []string{"127.0.0.1", "localhost"}
		}
		f, err := pki.Issue(dir, role, name, hosts)
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	reg := prometheus.NewPedanticRegistry()
	tcp, path := listen(t, "127.0.0.1:0", true), "unix://"+socket(t)
	d := &double{caller: make(chan Caller, 1)}
	start(t, Options{TLS: issue(pki.RoleController, "c1"), Metrics: testMetrics(reg)}, d, tcp, listen(t, path, true))
	viewer := connect(t, tcp.Addr().String(), issue(pki.RoleViewer, "eva"))
	sensor := connect(t, tcp.Addr().String(), issue(pki.RoleSensor, "rack1"))

	if _, err := tmv1.NewSpeakerServiceClient(viewer).GetSpeakerStatus(t.Context(), &tmv1.GetSpeakerStatusRequest{}); err != nil {
		t.Fatal(err)
	}
	if got := <-d.caller; got != (Caller{Name: "eva", Role: "viewer"}) {
		t.Errorf("caller %+v", got)
	}
	_, err := tmv1.NewSpeakerServiceClient(sensor).GetSpeakerStatus(t.Context(), &tmv1.GetSpeakerStatusRequest{})
	if want := `GetSpeakerStatus: "rack1" has the role sensor, and this needs viewer or operator`; status.Code(err) != codes.PermissionDenied || status.Convert(err).Message() != want {
		t.Errorf("sensor: %v, want %s", err, want)
	}
	w, err := tmv1.NewSpeakerServiceClient(sensor).WatchSpeaker(t.Context(), &tmv1.WatchSpeakerRequest{})
	if err == nil {
		_, err = w.Recv()
	}
	if status.Code(err) != codes.PermissionDenied {
		t.Errorf("sensor's stream: %v", err)
	}
	if r, err := hv1.NewHealthClient(sensor).Check(t.Context(), &hv1.HealthCheckRequest{}); err != nil || r.Status != hv1.HealthCheckResponse_SERVING {
		t.Errorf("health for a sensor: %v %v", r, err)
	}

	// The unix socket of the same server needs no certificate.
	if _, err := tmv1.NewSpeakerServiceClient(connect(t, path, pki.Files{})).GetSpeakerStatus(t.Context(), &tmv1.GetSpeakerStatusRequest{}); err != nil {
		t.Errorf("over unix: %v", err)
	}
	if got := <-d.caller; !got.IsLocal() {
		t.Errorf("over unix: caller %+v", got)
	}

	// Without a certificate nothing is answered, health included.
	if _, err := hv1.NewHealthClient(connect(t, tcp.Addr().String(), pki.Files{})).Check(t.Context(), &hv1.HealthCheckRequest{}); status.Code(err) != codes.Unavailable {
		t.Errorf("without a certificate: %v", err)
	}
}

func TestHealthFollowsReadiness(t *testing.T) {
	path := "unix://" + socket(t)
	ready := make(chan []string, 1)
	ready <- []string{"store: no leader"}
	notReady := func() []string { r := <-ready; ready <- r; return r }
	start(t, Options{NotReady: notReady}, &double{}, listen(t, path, false))
	c := connect(t, path, pki.Files{})
	h := hv1.NewHealthClient(c)
	w, err := h.Watch(t.Context(), &hv1.HealthCheckRequest{Service: tmv1.SpeakerService_ServiceDesc.ServiceName})
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []hv1.HealthCheckResponse_ServingStatus{hv1.HealthCheckResponse_NOT_SERVING, hv1.HealthCheckResponse_SERVING} {
		r, err := w.Recv()
		if err != nil || r.Status != want {
			t.Fatalf("watch: %v %v, want %v", r, err, want)
		}
		<-ready
		ready <- nil
	}
	if _, err := h.Check(t.Context(), &hv1.HealthCheckRequest{Service: "banana"}); status.Code(err) != codes.NotFound {
		t.Errorf("unknown service: %v", err)
	}
	if l, err := h.List(t.Context(), &hv1.HealthListRequest{}); err != nil || len(l.Statuses) < 3 {
		t.Errorf("list: %v %v", l, err)
	}
	r, err := rv1.NewServerReflectionClient(c).ServerReflectionInfo(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Send(&rv1.ServerReflectionRequest{MessageRequest: &rv1.ServerReflectionRequest_ListServices{}}); err != nil {
		t.Fatal(err)
	}
	if a, err := r.Recv(); err != nil || !strings.Contains(a.String(), "trafficmonitor.v1.SpeakerService") {
		t.Errorf("reflection: %v %v", a, err)
	}
}

func TestListenOnlyWhereItIsSafe(t *testing.T) {
	for _, tc := range []struct {
		address string
		tls     bool
		want    string
	}{
		{"127.0.0.1:0", false, ""},
		{"[::1]:0", false, ""},
		{"localhost:0", false, ""},
		{"0.0.0.0:0", true, ""},
		{"0.0.0.0:0", false, "without certificates only loopback"},
		{":0", false, "without certificates only loopback"},
		{"192.0.2.1:0", false, "without certificates only loopback"},
		{"controller.example:0", false, "without certificates only loopback"},
		{"banana", false, "neither host:port"},
		{"http://127.0.0.1:1", false, "neither host:port"},
		{"127.0.0.1:70000", false, "not a number from 0 to 65535"},
		{"unix:", false, "has no path"},
		{"unix:///" + strings.Repeat("x", 107), false, "at most 107"},
	} {
		l, err := Listen(tc.address, tc.tls)
		if tc.want == "" {
			if err != nil && tc.address == "[::1]:0" {
				t.Logf("no IPv6 loopback here: %v", err)
			} else if err != nil {
				t.Errorf("Listen(%s): %v", tc.address, err)
			} else {
				l.Close()
			}
			continue
		}
		if err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("Listen(%s): %v, want an error with %q", tc.address, err, tc.want)
		}
	}
	if _, err := Dial("192.0.2.1:1", pki.Files{}); err == nil || !strings.Contains(err.Error(), "tmctl pki") {
		t.Errorf("Dial without TLS: %v", err)
	}
	if _, err := Dial(":1", pki.Files{CA: "x"}); err == nil || !strings.Contains(err.Error(), "no host") {
		t.Errorf("Dial without host: %v", err)
	}
}

func TestUnixSocket(t *testing.T) {
	path := socket(t)
	l := listen(t, path2address(path), false)
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("socket %v %v, want mode 0600", info, err)
	}
	if entries, _ := os.ReadDir(filepath.Dir(path)); len(entries) != 1 {
		t.Errorf("something was left beside the socket: %v", entries)
	}
	if _, err := Listen(path2address(path), false); err == nil || !strings.Contains(err.Error(), "another process listens there") {
		t.Errorf("a second listener: %v", err)
	}
	l.Close()
	if _, err := os.Stat(path); !os.IsNotExist(err) {
		t.Errorf("the socket is left behind: %v", err)
	}

	// One that a killed process left behind is replaced; closing the old listener does not take the new socket away.
	dead, err := net.ListenUnix("unix", &net.UnixAddr{Name: path})
	if err != nil {
		t.Fatal(err)
	}
	dead.SetUnlinkOnClose(false)
	dead.Close()
	l = listen(t, path2address(path), false)
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	other := listen(t, path2address(path), false)
	l.Close()
	if _, err := os.Stat(path); err != nil {
		t.Errorf("closing a listener removed another's socket: %v", err)
	}
	other.Close()

	if err := os.WriteFile(path, []byte("data"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Listen(path2address(path), false); err == nil || !strings.Contains(err.Error(), "not a socket") {
		t.Errorf("a file in the way: %v", err)
	}
	if b, _ := os.ReadFile(path); string(b) != "data" {
		t.Error("the file in the way was changed")
	}
}

func path2address(path string) string { return "unix://" + path }

func TestGarbageIsRefused(t *testing.T) {
	reg := prometheus.NewPedanticRegistry()
	dir := t.TempDir()
	if err := pki.CreateCA(dir); err != nil {
		t.Fatal(err)
	}
	f, err := pki.Issue(dir, pki.RoleController, "c1", []string{"127.0.0.1"})
	if err != nil {
		t.Fatal(err)
	}
	m := testMetrics(reg)
	l := listen(t, "127.0.0.1:0", true)
	stop := start(t, Options{TLS: f, Metrics: m}, &double{}, l)
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := io.WriteString(c, "GET / HTTP/1.1\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	c.SetDeadline(time.Now().Add(10 * time.Second))
	io.Copy(io.Discard, c)
	stop()
	if got := testutil.ToFloat64(m.HandshakeErrors); got != 1 {
		t.Errorf("%v refused connections counted, want 1", got)
	}
}
