package e2e

import (
	"context"
	"net/netip"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	pb "github.com/amooglesoft/trafficmonitor/api/trafficmonitor/v1"
	"github.com/amooglesoft/trafficmonitor/internal/vector"
)

// scripted is a sensor that says what the test makes it say.
type scripted struct {
	t        testing.TB
	stream   pb.SensorService_ConnectClient
	sequence uint64
}

// sensor connects a scripted sensor over the sensors' socket.
func (s *system) sensor(name string) *scripted {
	s.t.Helper()
	conn, err := grpc.NewClient("unix:"+s.dir+"/sensors.sock", grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		s.t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(s.t.Context(), 2*time.Minute)
	s.t.Cleanup(func() { cancel(); conn.Close() })
	stream, err := pb.NewSensorServiceClient(conn).Connect(ctx, grpc.WaitForReady(true))
	if err != nil {
		s.t.Fatal(err)
	}
	x := &scripted{t: s.t, stream: stream}
	x.say(&pb.ConnectRequest{Message: &pb.ConnectRequest_Hello{Hello: &pb.Hello{Sensor: name, Version: "e2e", StartTime: timestamppb.Now()}}})
	return x
}

func (x *scripted) say(m *pb.ConnectRequest) {
	x.t.Helper()
	if err := x.stream.Send(m); err != nil {
		x.t.Fatal(err)
	}
}

// directive waits for what the controller tells the sensor.
func (x *scripted) directive() *pb.Directive {
	x.t.Helper()
	for {
		m, err := x.stream.Recv()
		if err != nil {
			x.t.Fatal(err)
		}
		if d := m.GetDirective(); d != nil { // and no question about the clock
			return d
		}
	}
}

func (x *scripted) report(r *pb.Report) {
	x.t.Helper()
	x.sequence++
	r.Sequence = x.sequence
	x.say(&pb.ConnectRequest{Message: &pb.ConnectRequest_Report{Report: r}})
}

// attack reports a window in which a trigger was passed.
func (x *scripted) attack(target string, v vector.ID, packets, bytes uint64) {
	x.t.Helper()
	a := netip.MustParseAddr(target)
	now := timestamppb.Now()
	x.report(&pb.Report{
		Cause: pb.Report_CAUSE_TRIGGER, StartTime: now, Span: durationpb.New(33554432 * time.Nanosecond), TriggerTime: now, SendTime: now,
		Aggregates: []*pb.Aggregate{{Target: a.AsSlice(), PrefixLength: uint32(a.BitLen()), Vector: uint32(v), Packets: packets, Bytes: bytes}},
	})
}
