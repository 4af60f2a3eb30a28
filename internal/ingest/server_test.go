package ingest

import (
	"context"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	pb "github.com/amooglesoft/trafficmonitor/api/trafficmonitor/v1"
	"github.com/amooglesoft/trafficmonitor/internal/traffic"
	"github.com/amooglesoft/trafficmonitor/internal/vector"
)

type fixture struct {
	*Server
	client    pb.SensorServiceClient
	delivered chan Delivery
	reg       *prometheus.Registry
}

func start(t *testing.T, o Options) *fixture {
	t.Helper()
	f := &fixture{delivered: make(chan Delivery, 10), reg: prometheus.NewRegistry()}
	o.Deliver = func(d Delivery) bool {
		select {
		case f.delivered <- d:
			return true
		default:
			return false
		}
	}
	o.StaleAfter = time.Minute
	o.Log = slog.New(slog.DiscardHandler)
	o.Registerer = f.reg
	f.Server = NewServer(o)
	l := bufconn.Listen(1 << 20)
	g := grpc.NewServer()
	f.Register(g)
	go func() { _ = g.Serve(l) }()
	t.Cleanup(g.Stop)
	conn, err := grpc.NewClient("passthrough:///buf", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(context.Context, string) (net.Conn, error) { return l.Dial() }))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	f.client = pb.NewSensorServiceClient(conn)
	return f
}

func (f *fixture) connect(t *testing.T, name string) pb.SensorService_ConnectClient {
	t.Helper()
	s, err := f.client.Connect(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	send(t, s, &pb.ConnectRequest{Message: &pb.ConnectRequest_Hello{Hello: &pb.Hello{Sensor: name, Version: "v1"}}})
	return s
}

func send(t *testing.T, s pb.SensorService_ConnectClient, m *pb.ConnectRequest) {
	t.Helper()
	if err := s.Send(m); err != nil {
		t.Fatal(err)
	}
}

// next returns the next message that is not a question about the clock.
func next(s pb.SensorService_ConnectClient) (*pb.ConnectResponse, error) {
	for {
		m, err := s.Recv()
		if m.GetClockProbe() == nil {
			return m, err
		}
	}
}

func good() *pb.Report {
	return &pb.Report{
		Sequence: 1, Cause: pb.Report_CAUSE_TRIGGER, StartTime: timestamppb.Now(), Span: durationpb.New(33 * time.Millisecond),
		TriggerTime: timestamppb.Now(), SendTime: timestamppb.Now(),
		Aggregates: []*pb.Aggregate{{Target: []byte{192, 0, 2, 1}, PrefixLength: 32, Vector: uint32(vector.DNS), Packets: 700, Bytes: 70_000}},
		Directive:  &pb.DirectiveVersion{Term: 7, Revision: 1},
	}
}

func wrap(r *pb.Report) *pb.ConnectRequest {
	return &pb.ConnectRequest{Message: &pb.ConnectRequest_Report{Report: r}}
}

func TestReportReachesTheEngineAndDirectiveTheSensor(t *testing.T) {
	f := start(t, Options{Own: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}})
	s := f.connect(t, "rack1")
	r := good()
	r.Aggregates = append(r.Aggregates, &pb.Aggregate{Target: []byte{198, 51, 100, 1}, PrefixLength: 32, Packets: 1})
	send(t, s, wrap(r))
	d := <-f.delivered
	want := traffic.Aggregate{Target: netip.MustParsePrefix("192.0.2.1/32"), Vector: vector.DNS, Packets: 700, Bytes: 70_000}
	if d.Report.Sensor != "rack1" || d.Report.Cause != traffic.Trigger || len(d.Report.Aggregates) != 1 || d.Report.Aggregates[0] != want || d.Triggered.IsZero() {
		t.Errorf("delivered %+v", d)
	}
	f.Direct(&Directive{
		Term: 7, Revision: 2, Protected: []netip.Prefix{want.Target},
		Triggers: []Trigger{{Vector: vector.DNS, PPS: 20_000}, {Vector: vector.SYN, Direction: vector.Outbound, PPS: 100}},
		Watch: Watch{
			ReportInterval: time.Second, HotInterval: 100 * time.Millisecond, SampleOneIn: 1000, HotSampleOneIn: 100, Profiles: 64,
			ReflectionPorts: map[uint16]vector.ID{4444: vector.OtherReflection, 53: vector.OtherReflection},
		},
	})
	got, err := next(s)
	if err != nil {
		t.Fatal(err)
	}
	if dir := got.GetDirective(); dir.GetVersion().GetRevision() != 2 || dir.GetProtectedPrefixes()[0] != "192.0.2.1/32" || len(dir.GetReflectionPorts()) < len(vector.Reflections())-1 ||
		dir.GetHotSampleOneIn() != 100 || dir.GetProfiles() != 64 || dir.GetTriggers()[1].GetDirection() != pb.Direction_DIRECTION_OUTBOUND {
		t.Errorf("directive = %v", dir)
	}
	ports := map[uint32]vector.ID{}
	for _, p := range got.GetDirective().GetReflectionPorts() {
		ports[p.GetPort()] = vector.ID(p.GetVector())
	}
	if ports[4444] != vector.OtherReflection || ports[53] != vector.OtherReflection || ports[123] != vector.NTP {
		t.Errorf("reflection ports = %v", ports)
	}
	st := f.Sensors(time.Now())
	if len(st) != 1 || !st[0].Connected || st[0].Stale || st[0].Reports != 1 || st[0].Term != 7 {
		t.Errorf("sensors = %+v", st)
	}
	if n := testutil.ToFloat64(f.metrics.foreign); n != 1 {
		t.Errorf("%v foreign aggregates counted, want 1", n)
	}
}

func TestNonsenseIsRefusedWithItsPlace(t *testing.T) {
	f := start(t, Options{})
	for name, tc := range map[string]struct {
		change func(*pb.Report)
		want   string
	}{
		"cause":   {func(r *pb.Report) { r.Cause = 99 }, "cause 99"},
		"start":   {func(r *pb.Report) { r.StartTime = nil }, "start_time"},
		"span":    {func(r *pb.Report) { r.Span = durationpb.New(0) }, "span 0s is outside"},
		"length":  {func(r *pb.Report) { r.Aggregates[0].Target = []byte{1, 2, 3} }, "aggregates[0].target: 010203"},
		"mapped":  {func(r *pb.Report) { r.Aggregates[0].Target = netip.MustParseAddr("::ffff:192.0.2.1").AsSlice() }, "aggregates[0].target"},
		"prefix":  {func(r *pb.Report) { r.Aggregates[0].PrefixLength = 33 }, "is no prefix"},
		"hostbit": {func(r *pb.Report) { r.Aggregates[0].PrefixLength = 24 }, "is no prefix"},
		"vector":  {func(r *pb.Report) { r.Aggregates[0].Vector = 64 }, "aggregates[0].vector: 64 is not below 64"},
	} {
		t.Run(name, func(t *testing.T) {
			s := f.connect(t, "rack-"+name)
			r := good()
			tc.change(r)
			send(t, s, wrap(r))
			_, err := next(s)
			if status.Code(err) != codes.InvalidArgument || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("answer %v, want INVALID_ARGUMENT with %q", err, tc.want)
			}
		})
	}
	if len(f.delivered) != 0 {
		t.Error("part of a wrong report was delivered")
	}
}

func TestWhoMayConnect(t *testing.T) {
	f := start(t, Options{Allowed: []string{"rack1"}})
	for name, want := range map[string]codes.Code{"rack2": codes.PermissionDenied, "": codes.InvalidArgument, "rack 1": codes.InvalidArgument, strings.Repeat("x", 129): codes.InvalidArgument} {
		if _, err := next(f.connect(t, name)); status.Code(err) != want {
			t.Errorf("sensor %q: %v, want %s", name, err, want)
		}
	}
	s, err := f.client.Connect(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	send(t, s, wrap(good()))
	if _, err := next(s); status.Code(err) != codes.InvalidArgument {
		t.Errorf("a stream without hello: %v", err)
	}
}

func TestNewStreamReplacesTheOld(t *testing.T) {
	f := start(t, Options{})
	old := f.connect(t, "rack1")
	send(t, old, wrap(good()))
	<-f.delivered
	r := good()
	r.Sequence = 5
	now := f.connect(t, "rack1")
	if _, err := next(old); status.Code(err) != codes.Aborted {
		t.Errorf("the old stream ended with %v", err)
	}
	send(t, now, wrap(r))
	<-f.delivered
	r.Sequence = 8
	send(t, now, wrap(r))
	<-f.delivered
	if st := f.Sensors(time.Now()); len(st) != 1 || !st[0].Connected || st[0].Missing != 2 || st[0].Reports != 3 {
		t.Errorf("sensors = %+v, want one, connected, two reports missing", st)
	}
}

func TestOverloadIsCounted(t *testing.T) {
	f := start(t, Options{})
	s := f.connect(t, "rack1")
	for range cap(f.delivered) + 3 {
		send(t, s, wrap(good()))
	}
	if err := s.CloseSend(); err != nil {
		t.Fatal(err)
	}
	if _, err := next(s); err == nil || !strings.Contains(err.Error(), "EOF") {
		t.Fatal(err)
	}
	if n := testutil.ToFloat64(f.metrics.dropped.WithLabelValues("trigger")); n != 3 {
		t.Errorf("%v dropped reports counted, want 3", n)
	}
	if problems, err := testutil.GatherAndLint(f.reg); err != nil || len(problems) > 0 {
		t.Errorf("metrics: %v %v", problems, err)
	}
}

// What passes report is fit for the view, and nothing makes it panic.
func FuzzReport(f *testing.F) {
	b, _ := proto.Marshal(good())
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		var r pb.Report
		if proto.Unmarshal(b, &r) != nil {
			return
		}
		out, err := report("rack1", &r)
		if err != nil {
			return
		}
		if out.Span <= 0 || out.Cause == 0 {
			t.Fatalf("report passed with span %s and cause %s", out.Span, out.Cause)
		}
		for _, a := range out.Aggregates {
			if !a.Target.IsValid() || a.Target != a.Target.Masked() || a.Vector >= vector.Count {
				t.Fatalf("aggregate passed: %+v", a)
			}
		}
		traffic.NewView(traffic.Options{MaxTargets: 10, StaleAfter: time.Second, ForgetAfter: time.Minute}).Apply(out.Start, out)
	})
}

// A controller that was down for a minute is handed what sensors kept for it: the attacks of a minute ago are no reason
// for rules now. The sensor's own clock tells the age, however wrong it is.
func TestOldReportsAreNotDecidedOn(t *testing.T) {
	f := start(t, Options{})
	s := f.connect(t, "rack1")
	old := good()
	wrong := time.Now().Add(-time.Hour)
	old.StartTime, old.SendTime = timestamppb.New(wrong.Add(-2*time.Minute)), timestamppb.New(wrong)
	send(t, s, wrap(old))
	fresh := good()
	fresh.Sequence = 2
	fresh.StartTime, fresh.SendTime = timestamppb.New(wrong.Add(-33*time.Millisecond)), timestamppb.New(wrong)
	send(t, s, wrap(fresh))
	if d := <-f.delivered; !d.Report.Start.Equal(fresh.StartTime.AsTime()) {
		t.Errorf("delivered a report two minutes old: %+v", d.Report)
	}
	if n := testutil.ToFloat64(f.metrics.late); n != 1 {
		t.Errorf("%v late reports counted, want 1", n)
	}
	if st := f.Sensors(time.Now()); st[0].Reports != 2 || st[0].Missing != 0 {
		t.Errorf("sensors = %+v", st)
	}
}
