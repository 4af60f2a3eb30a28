package sensor

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	pb "github.com/amooglesoft/trafficmonitor/api/trafficmonitor/v1"
	"github.com/amooglesoft/trafficmonitor/internal/vector"
)

// controller is a SensorService that keeps what it is told.
type controller struct {
	pb.UnimplementedSensorServiceServer
	address  string
	server   *grpc.Server
	messages chan *pb.ConnectRequest
	hang     chan struct{} // when not nil: reads nothing until it is closed
	refuses  uint64        // ends streams that bring the interval report of this sequence; then it receipts the others

	mu      sync.Mutex
	streams []pb.SensorService_ConnectServer // guarded by mu
	d       *pb.Directive                    // guarded by mu; sent to every new stream
}

func newController(t testing.TB, address string, d *pb.Directive) *controller {
	t.Helper()
	if address == "" { // a unix socket, for it is reached from every network namespace
		dir, err := os.MkdirTemp("", "")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { os.RemoveAll(dir) })
		address = "unix://" + filepath.Join(dir, "c")
	}
	l, err := net.Listen("unix", strings.TrimPrefix(address, "unix://"))
	if err != nil {
		t.Fatal(err)
	}
	c := &controller{address: address, server: grpc.NewServer(), messages: make(chan *pb.ConnectRequest, 10_000), d: d}
	pb.RegisterSensorServiceServer(c.server, c)
	go func() { _ = c.server.Serve(l) }()
	t.Cleanup(c.server.Stop)
	return c
}

func (c *controller) Connect(s pb.SensorService_ConnectServer) error {
	c.mu.Lock()
	c.streams = append(c.streams, s)
	d := c.d
	c.mu.Unlock()
	if c.hang != nil {
		select {
		case <-c.hang:
		case <-s.Context().Done():
			return nil
		}
	}
	if d != nil {
		if err := s.Send(&pb.ConnectResponse{Message: &pb.ConnectResponse_Directive{Directive: d}}); err != nil {
			return err
		}
	}
	for {
		m, err := s.Recv()
		if err != nil {
			return err
		}
		if r := m.GetReport(); c.refuses != 0 && r != nil {
			if r.Sequence == c.refuses {
				return status.Error(codes.InvalidArgument, "aggregates[0].vector: 99 is not known")
			}
			if err := s.Send(&pb.ConnectResponse{Message: &pb.ConnectResponse_ReportReceipt{ReportReceipt: &pb.ReportReceipt{Sequence: r.Sequence}}}); err != nil {
				return err
			}
		}
		c.messages <- m
	}
}

func (c *controller) direct(t testing.TB, d *pb.Directive) {
	t.Helper()
	c.say(t, &pb.ConnectResponse{Message: &pb.ConnectResponse_Directive{Directive: d}})
}

// say sends a message on the newest stream.
func (c *controller) say(t testing.TB, m *pb.ConnectResponse) {
	t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.streams[len(c.streams)-1].Send(m); err != nil {
		t.Fatal(err)
	}
}

// await returns the first message that is what.
func (c *controller) await(t testing.TB, what string, is func(m *pb.ConnectRequest) bool) *pb.ConnectRequest {
	t.Helper()
	deadline := time.After(15 * time.Second)
	for {
		select {
		case m := <-c.messages:
			if is(m) {
				return m
			}
		case <-deadline:
			t.Fatalf("no %s came", what)
		}
	}
}

func cause(c pb.Report_Cause) func(m *pb.ConnectRequest) bool {
	return func(m *pb.ConnectRequest) bool { return m.GetReport().GetCause() == c }
}

func told(term, revision uint64) *pb.Directive {
	d := &pb.Directive{
		Version:           &pb.DirectiveVersion{Term: term, Revision: revision},
		ProtectedPrefixes: []string{"192.0.2.0/24", "2001:db8::/32"},
		Triggers:          []*pb.Trigger{{Vector: uint32(vector.Total), PacketsPerSecond: 20_000}, {Vector: uint32(vector.DNS), PacketsPerSecond: 20_000}},
		ReportInterval:    durationpb.New(100 * time.Millisecond),
		HotInterval:       durationpb.New(20 * time.Millisecond),
		SampleOneIn:       100,
	}
	for _, v := range vector.Reflections() {
		for _, port := range v.SourcePorts {
			d.ReflectionPorts = append(d.ReflectionPorts, &pb.ReflectionPort{Port: uint32(port), Vector: uint32(v.ID)})
		}
	}
	return d
}
