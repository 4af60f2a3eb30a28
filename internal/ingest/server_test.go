package ingest

import (
	"context"
	"log/slog"
	"net"
	"net/netip"
	"reflect"
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
	"github.com/amooglesoft/trafficmonitor/internal/sketch"
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

// Whatever a sensor sends is taken and fit for the view, or refused with a reason and without a trace.
func FuzzConnectRequest(f *testing.F) {
	full := good()
	full.Cause, full.TriggerTime = pb.Report_CAUSE_HOT, nil
	full.Networks = []*pb.NetworkTotal{{Network: []byte{192, 0, 2, 0}, PrefixLength: 24, Direction: pb.Direction_DIRECTION_OUTBOUND, Packets: 5, ActiveHosts: 1}}
	full.Profiles = []*pb.Profile{whole()}
	interval := every(1, &pb.SensorCounters{Packets: 1, Maps: []*pb.MapUse{{Name: "m"}}})
	interval.Merged = 3
	for _, m := range []*pb.ConnectRequest{
		wrap(good()), wrap(full), wrap(interval),
		{},
		{Message: &pb.ConnectRequest_Hello{Hello: &pb.Hello{Sensor: "rack1"}}},
		{Message: &pb.ConnectRequest_Samples{Samples: &pb.SampleBatch{Samples: []*pb.Sample{{Vector: 3, Header: make([]byte, 128)}}}}},
		{Message: &pb.ConnectRequest_ClockEcho{ClockEcho: &pb.ClockEcho{ProbeTime: timestamppb.Now()}}},
	} {
		b, err := proto.Marshal(m)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	now := time.Unix(1_700_000_000, 0)
	f.Fuzz(func(t *testing.T, b []byte) {
		var m pb.ConnectRequest
		if proto.Unmarshal(b, &m) != nil {
			return
		}
		var delivered []Delivery
		s := NewServer(Options{
			Deliver: func(d Delivery) bool { delivered = append(delivered, d); return true }, StaleAfter: 3 * time.Second,
			Log: slog.New(slog.DiscardHandler), Registerer: prometheus.NewRegistry(),
		})
		x, err := s.join("rack1", "", &pb.Hello{}, func(error) {})
		if err != nil {
			t.Fatal(err)
		}
		before := s.Sensors(now)
		if err := s.take(now, x, &m); err != nil {
			if status.Code(err) != codes.InvalidArgument || len(status.Convert(err).Message()) < 10 {
				t.Fatalf("refused with %v", err)
			}
			if len(delivered) > 0 || !reflect.DeepEqual(before, s.Sensors(now)) {
				t.Fatalf("refused (%v), and left a trace", err)
			}
			return
		}
		if m.GetSamples() != nil {
			saneSamples(t, now, s, m.GetSamples(), delivered)
			return
		}
		for _, d := range delivered {
			r := d.Report
			if r.Span <= 0 || r.Cause == 0 || r.Past(3*time.Second) || r.Merged > 1 && r.Cause != traffic.Interval {
				t.Fatalf("a report passed with span %s, cause %s, %d merged", r.Span, r.Cause, r.Merged)
			}
			fit := func(p netip.Prefix, d vector.Direction, v vector.ID) {
				if !p.IsValid() || p != p.Masked() || v >= vector.Count || d >= vector.Directions {
					t.Fatalf("passed: %s %s %s", p, d, v)
				}
			}
			for _, a := range r.Aggregates {
				fit(a.Target, a.Direction, a.Vector)
			}
			for _, n := range r.Networks {
				fit(n.Network, n.Direction, n.Vector)
			}
			for _, p := range r.Profiles {
				fit(p.Target, p.Direction, p.Vector)
				for _, n := range p.Sources {
					fit(n.Network, 0, 0)
				}
				if h := p.DistinctSources; h != nil && h.Estimate() < 0 {
					t.Fatalf("%v sources", h.Estimate())
				}
			}
			traffic.NewView(traffic.Options{MaxTargets: 10, StaleAfter: time.Second, ForgetAfter: time.Minute}).Apply(r.Start, r)
		}
		if len(delivered) > 1 || s.Sensors(now)[0].Reports > 1 {
			t.Fatal("one message was taken for several")
		}
	})
}

// whole is a profile with everything in it.
func whole() *pb.Profile {
	return &pb.Profile{
		Target: []byte{192, 0, 2, 1}, PrefixLength: 32, Direction: pb.Direction_DIRECTION_INBOUND, Vector: uint32(vector.DNS), Samples: 10, Packets: 1000,
		Lengths: []uint32{1, 2, 3, 4}, Ttls: []uint32{0, 10}, Fragments: 1, TcpFlags: []*pb.Count{{Value: 2, Count: 9}},
		SourcePorts: []*pb.Count{{Value: 53, Count: 10, Error: 1}}, DestinationPorts: []*pb.Count{{Value: 40_000, Count: 1}},
		Sources:         []*pb.SourceCount{{Network: []byte{198, 51, 100, 0}, PrefixLength: 24, Count: 5, Error: 1}},
		DistinctSources: append(make([]byte, 255), 3), DistinctExact: true,
	}
}

func TestNetworksAndProfilesReachTheEngine(t *testing.T) {
	f := start(t, Options{Own: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}})
	s := f.connect(t, "rack1")
	r := good()
	r.Cause, r.TriggerTime = pb.Report_CAUSE_INTERVAL, nil
	r.Aggregates[0].Direction = pb.Direction_DIRECTION_OUTBOUND
	r.Networks = []*pb.NetworkTotal{
		{Network: []byte{192, 0, 2, 0}, PrefixLength: 24, Direction: pb.Direction_DIRECTION_OUTBOUND, Vector: 3, Packets: 5, Bytes: 6, ActiveHosts: 7},
		{Network: []byte{198, 51, 100, 0}, PrefixLength: 24, Packets: 5},
	}
	r.Profiles = []*pb.Profile{whole()}
	send(t, s, wrap(r))
	got := (<-f.delivered).Report
	want := traffic.Report{
		Sensor: "rack1", Cause: traffic.Interval, Start: got.Start, Span: got.Span,
		Aggregates: []traffic.Aggregate{{Target: netip.MustParsePrefix("192.0.2.1/32"), Direction: vector.Outbound, Vector: vector.DNS, Packets: 700, Bytes: 70_000}},
		Networks:   []traffic.NetworkTotal{{Network: netip.MustParsePrefix("192.0.2.0/24"), Direction: vector.Outbound, Vector: vector.ACK, Packets: 5, Bytes: 6, ActiveHosts: 7}},
		Profiles: []traffic.Profile{{
			Target: netip.MustParsePrefix("192.0.2.1/32"), Vector: vector.DNS, Samples: 10, Packets: 1000,
			Lengths: [8]uint32{1, 2, 3, 4}, TTLs: [8]uint32{0, 10}, Fragments: 1, TCPFlags: []traffic.Count{{Value: 2, Count: 9}},
			SourcePorts: []traffic.Count{{Value: 53, Count: 10, Error: 1}}, DestinationPorts: []traffic.Count{{Value: 40_000, Count: 1}},
			Sources:         []traffic.SourceCount{{Network: netip.MustParsePrefix("198.51.100.0/24"), Count: 5, Error: 1}},
			DistinctSources: &sketch.HyperLogLog{255: 3}, DistinctExact: true,
		}},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("delivered\n%+v, want\n%+v", got, want)
	}
	if n := testutil.ToFloat64(f.metrics.foreign); n != 1 {
		t.Errorf("%v foreign entries counted, want 1", n)
	}
}

func TestWrongProfilesAreRefusedWithTheirPlace(t *testing.T) {
	for want, change := range map[string]func(*pb.Report){
		"networks[0].network: 0102 is no": func(r *pb.Report) { r.Networks = []*pb.NetworkTotal{{Network: []byte{1, 2}}} },
		"networks[0].direction: 3 is": func(r *pb.Report) {
			r.Networks = []*pb.NetworkTotal{{Network: []byte{1, 0, 0, 0}, PrefixLength: 8, Direction: 3}}
		},
		"profiles[0].lengths: 9 classes are more than 8":    func(r *pb.Report) { r.Profiles[0].Lengths = make([]uint32, 9) },
		"profiles[0].tcp_flags[0]: value 64":                func(r *pb.Report) { r.Profiles[0].TcpFlags[0].Value = 64 },
		"profiles[0].source_ports[0]: value 65536":          func(r *pb.Report) { r.Profiles[0].SourcePorts[0].Value = 65536 },
		"profiles[0].destination_ports[0]: value 40000":     func(r *pb.Report) { r.Profiles[0].DestinationPorts[0].Error = 2 },
		"profiles[0].sources[0].network: 01":                func(r *pb.Report) { r.Profiles[0].Sources[0].Network = []byte{1} },
		"profiles[0].distinct_sources: 3 registers are not": func(r *pb.Report) { r.Profiles[0].DistinctSources = []byte{1, 2, 3} },
		"profiles[0].vector: 64 is not below":               func(r *pb.Report) { r.Profiles[0].Vector = 64 },
		"merged is 2, but only interval reports are merged": func(r *pb.Report) { r.Merged = 2 },
		"span 10m0s is outside 1ms to 5m0s":                 func(r *pb.Report) { r.Span = durationpb.New(10 * time.Minute) },
		"span 9000h0m0s is outside 1ms to 8784h0m0s": func(r *pb.Report) {
			r.Cause, r.Merged, r.Span = pb.Report_CAUSE_INTERVAL, 2, durationpb.New(9000*time.Hour)
		},
		"65537 values are more than 256": func(r *pb.Report) { r.Profiles[0].SourcePorts = make([]*pb.Count, 1<<16+1) },
	} {
		r := good()
		r.Profiles = []*pb.Profile{whole()}
		if _, err := report("rack1", r); err != nil {
			t.Fatal(err)
		}
		change(r)
		if _, err := report("rack1", r); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
}

// Only who counts what leaves on every interface can tell that nothing left.
func TestWhoCountsBothDirections(t *testing.T) {
	f := start(t, Options{})
	s := f.connect(t, "rack1")
	for i, tc := range []struct {
		of   []*pb.Interface
		want bool
	}{
		{nil, false},
		{[]*pb.Interface{{Name: "a", Outbound: true}}, true},
		{nil, true},
		{[]*pb.Interface{{Name: "a", Outbound: true}, {Name: "b", Mode: pb.Interface_MODE_MIRROR}}, false},
	} {
		r := every(i+1, nil)
		r.Counters = &pb.SensorCounters{Interfaces: tc.of}
		send(t, s, wrap(r))
		if d := <-f.delivered; d.Report.Outbound != tc.want {
			t.Errorf("%d: counts both directions: %v", i, d.Report.Outbound)
		}
	}
}

// The mean over an outage is no rate of now, though its span ends now.
func TestMergedReportsAreNotDecidedOn(t *testing.T) {
	f := start(t, Options{})
	s := f.connect(t, "rack1")
	old := every(1, nil)
	old.Merged, old.Span = 100, durationpb.New(2*time.Hour)
	old.SendTime = timestamppb.New(old.StartTime.AsTime().Add(2 * time.Hour))
	send(t, s, wrap(old))
	fresh := every(101, nil)
	send(t, s, wrap(fresh))
	if d := <-f.delivered; d.Report.Merged != 0 {
		t.Errorf("delivered %+v", d.Report)
	}
	if n := testutil.ToFloat64(f.metrics.late); n != 1 {
		t.Errorf("%v late reports counted, want 1", n)
	}
	if n := f.Sensors(time.Now())[0].Missing; n != 0 {
		t.Errorf("%d reports are missing", n)
	}
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

// A report that is sent again, for its receipt was lost with the stream, counts once; that of a new process counts.
func TestRepeatedReportsCountOnce(t *testing.T) {
	f := start(t, Options{})
	begun := timestamppb.New(time.Unix(1_700_000_000, 0))
	connect := func(begun *timestamppb.Timestamp) pb.SensorService_ConnectClient {
		t.Helper()
		s, err := f.client.Connect(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		send(t, s, &pb.ConnectRequest{Message: &pb.ConnectRequest_Hello{Hello: &pb.Hello{Sensor: "rack1", StartTime: begun}}})
		return s
	}
	receipted := func(s pb.SensorService_ConnectClient, want uint64) {
		t.Helper()
		for {
			m, err := next(s)
			if err != nil {
				t.Fatal(err)
			}
			if got := m.GetReportReceipt().GetSequence(); got == want {
				return
			} else if got > want || m.GetReportReceipt() == nil {
				t.Fatalf("%v, want the receipt of %d", m, want)
			}
		}
	}
	s := connect(begun)
	for seq := range 3 {
		send(t, s, wrap(every(1+seq, nil)))
		<-f.delivered
	}
	send(t, s, wrap(good())) // a trigger has no receipt
	<-f.delivered
	receipted(s, 3)
	s = connect(begun)
	for _, seq := range []int{2, 3, 4} {
		send(t, s, wrap(every(seq, nil)))
	}
	if d := <-f.delivered; d.Report.Start != every(4, nil).StartTime.AsTime() {
		t.Errorf("delivered %+v", d.Report)
	}
	receipted(s, 4)
	s = connect(timestamppb.New(time.Unix(1_700_000_500, 0)))
	send(t, s, wrap(every(1, nil)))
	<-f.delivered
	if n := testutil.ToFloat64(f.metrics.repeated); n != 2 {
		t.Errorf("%v repeated reports counted, want 2", n)
	}
}
