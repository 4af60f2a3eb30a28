package sensor

import (
	"context"
	"fmt"
	"log/slog"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	pb "github.com/amooglesoft/trafficmonitor/api/trafficmonitor/v1"
)

// stream runs a stream to a controller until the test ends.
func runStream(t *testing.T, address string, b *backlog) (chan *pb.Directive, *metrics) {
	t.Helper()
	directives := make(chan *pb.Directive, 10)
	s := &stream{
		controller: Controller{Address: address}, backlog: b, hello: func() *pb.Hello { return &pb.Hello{Sensor: "rack1"} },
		directives: directives, metrics: newMetrics(prometheus.NewRegistry(), nil), ready: func(string, string) {},
		log: slog.New(slog.NewTextHandler(t.Output(), nil)),
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- s.run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return directives, s.metrics
}

func isReport(sequence uint64) func(m *pb.ConnectRequest) bool {
	return func(m *pb.ConnectRequest) bool { return m.GetReport().GetSequence() == sequence }
}

func TestStreamComesBack(t *testing.T) {
	c := newController(t, "", told(1, 1))
	b := newBacklog(3)
	directives, metrics := runStream(t, c.address, b)
	if m := <-c.messages; m.GetHello().GetSensor() != "rack1" {
		t.Fatalf("first message %v", m)
	}
	if d := <-directives; d.GetVersion().GetRevision() != 1 {
		t.Errorf("directive %v", d)
	}
	b.put(one(worthInterval, 1))
	r := c.await(t, "report", isReport(1)).GetReport()
	if r.GetSendTime() == nil {
		t.Error("no send_time")
	}
	c.server.Stop()
	for testutil.ToFloat64(metrics.disconnects.WithLabelValues(c.address)) == 0 { // until then what is sent is lost on the way
		runtime.Gosched()
	}
	// While nobody listens the backlog fills; what it keeps comes first when a controller is back.
	for i := range uint64(5) {
		b.put(one(worthHot, 2+i))
	}
	b.put(one(worthTrigger, 7))
	again := newController(t, c.address, told(1, 2))
	if m := <-again.messages; m.GetHello() == nil {
		t.Fatalf("first message %v", m)
	}
	if d := <-directives; d.GetVersion().GetRevision() != 2 {
		t.Errorf("directive %v", d)
	}
	last := uint64(0)
	again.await(t, "the last report", func(m *pb.ConnectRequest) bool {
		if n := m.GetReport().GetSequence(); n <= last {
			t.Errorf("report %d after %d", n, last)
		} else {
			last = n
		}
		return last == 7
	})
	if dropped := b.losses().reports; dropped == 0 || dropped > 3 {
		t.Errorf("%d reports dropped", dropped)
	}
}

func TestControllerThatHangsDelaysNoOther(t *testing.T) {
	hung := newController(t, "", nil)
	hung.hang = make(chan struct{})
	good := newController(t, "", nil)
	blocked, fine := newBacklog(8), newBacklog(8)
	runStream(t, hung.address, blocked)
	runStream(t, good.address, fine)
	// Far more than what flow control lets into a connection that nobody reads.
	const n = 3000
	for i := range uint64(n) {
		m := message{worth: worthTrigger, report: &pb.Report{Sequence: i + 1, DirectiveError: string(make([]byte, 1000))}}
		blocked.put(m)
		fine.put(m)
		good.await(t, "report", isReport(i+1))
	}
	for {
		if l := blocked.losses(); l.reports > 0 && l.waiting == 8 {
			break
		}
		runtime.Gosched()
	}
	close(hung.hang)
	hung.await(t, "the newest report, once it reads again", isReport(n))
}

func TestOtherMachinesNeedTLS(t *testing.T) {
	for address, ok := range map[string]bool{
		"192.0.2.1:7443": false, "controller.example:7443": false, "127.0.0.1:7443": true, "[::1]:7443": true, "localhost:7443": true,
		"unix:///run/c.sock": true, "banana": false,
	} {
		conn, err := dial(Controller{Address: address})
		if (err == nil) != ok {
			t.Errorf("%s: %v", address, err)
		}
		if err == nil {
			conn.Close()
		}
	}
}

// A question about the clock is answered at once, whatever waits.
func TestStreamAnswersAboutItsClock(t *testing.T) {
	c := newController(t, "", told(1, 1))
	b := newBacklog(10)
	runStream(t, c.address, b)
	<-c.messages // hello
	asked := timestamppb.New(time.Unix(1, 500))
	before := time.Now()
	c.say(t, &pb.ConnectResponse{Message: &pb.ConnectResponse_ClockProbe{ClockProbe: &pb.ClockProbe{SendTime: asked}}})
	e := c.await(t, "echo", func(m *pb.ConnectRequest) bool { return m.GetClockEcho() != nil }).GetClockEcho()
	received, sent := e.GetReceiveTime().AsTime(), e.GetSendTime().AsTime()
	if !proto.Equal(e.GetProbeTime(), asked) || received.Before(before.Truncate(0)) || sent.Before(received) || sent.After(time.Now()) {
		t.Errorf("echo %v", e)
	}
	b.put(one(worthHot, 4))
	c.await(t, "report", isReport(4))
}

// What was on its way when a stream broke is sent again, until it is receipted; and it is not merged with what is new.
func TestIntervalReportsAreSentUntilTheyAreReceipted(t *testing.T) {
	c := newController(t, "", told(1, 1))
	b := newBacklog(6)
	_, metrics := runStream(t, c.address, b)
	for i := range uint64(4) {
		b.put(one(worthInterval, 1+i))
		c.await(t, "report", isReport(1+i))
	}
	c.say(t, &pb.ConnectResponse{Message: &pb.ConnectResponse_ReportReceipt{ReportReceipt: &pb.ReportReceipt{Sequence: 2}}})
	c.say(t, &pb.ConnectResponse{Message: &pb.ConnectResponse_ReportReceipt{ReportReceipt: &pb.ReportReceipt{Sequence: 99}}})
	c.say(t, &pb.ConnectResponse{Message: &pb.ConnectResponse_ClockProbe{ClockProbe: &pb.ClockProbe{}}})
	c.await(t, "echo", func(m *pb.ConnectRequest) bool { return m.GetClockEcho() != nil }) // the receipts came before it
	c.server.Stop()
	for testutil.ToFloat64(metrics.disconnects.WithLabelValues(c.address)) == 0 {
		runtime.Gosched()
	}
	for i := range uint64(8) {
		b.put(one(worthInterval, 5+i))
	}
	again := newController(t, c.address, told(1, 2))
	var got []uint64
	reports := uint32(0)
	again.await(t, "the last report", func(m *pb.ConnectRequest) bool {
		if r := m.GetReport(); r != nil {
			got = append(got, r.GetSequence())
			reports += holds(r)
			if r.GetSequence() < 5 && holds(r) > 1 {
				t.Errorf("report %d, sent before, holds %d", r.GetSequence(), holds(r))
			}
		}
		return reports == 10
	})
	if len(got) < 3 || got[0] != 3 || got[1] != 4 || got[2] != 5 || !slices.IsSorted(got) {
		t.Errorf("reports %v after the break, want 3 and 4 again, and then the rest", got)
	}
}

// What a controller refuses is not sent for ever: all behind it would be lost with the stream each time.
func TestReportThatIsRefusedIsGivenUp(t *testing.T) {
	c := newController(t, "", told(1, 1))
	c.refuses = 2
	b := newBacklog(6)
	for i := range uint64(4) {
		b.put(one(worthInterval, 1+i))
	}
	runStream(t, c.address, b)
	c.await(t, "report behind the one that is refused", isReport(3))
	c.await(t, "report behind that", isReport(4))
	if dropped := b.losses().reports; dropped != 1 {
		t.Errorf("%d reports are counted as dropped, want 1", dropped)
	}
}

func TestFlightIsBounded(t *testing.T) {
	var f flight
	for i := range uint64(maxFlight + 5) {
		f.start(one(worthInterval, i))
		f.start(one(worthTrigger, 1000+i))
	}
	if lost := f.lost(); lost != nil {
		t.Errorf("%d would be sent twice to a controller that gives no receipts", len(lost))
	}
	for i := range uint64(maxFlight + 5) {
		f.start(one(worthInterval, i))
	}
	f.land(10_000)
	if lost := f.lost(); len(lost) != maxFlight || lost[0].report.Sequence != 5 || !lost[0].sent {
		t.Errorf("%d in flight from %d on", len(lost), lost[0].report.Sequence)
	}
	if lost := f.lost(); len(lost) != 0 {
		t.Errorf("%d are still in flight", len(lost))
	}
}

// The same trouble has the same words each time, so that it is logged once.
func TestWhyThereIsNoStream(t *testing.T) {
	preface := func(port int) error {
		return status.Error(codes.Unavailable, fmt.Sprintf(`connection error: desc = "error reading server preface: read tcp 127.0.0.1:%d->127.0.0.1:7442: use of closed network connection"`, port))
	}
	first, second := inWords(preface(40001)), inWords(preface(40002))
	if first != second || !strings.Contains(first, "does not answer") || !strings.Contains(first, "127.0.0.1->127.0.0.1:7442") {
		t.Errorf("%q, then %q", first, second)
	}
	if got := inWords(status.Error(codes.PermissionDenied, "no sensor of ours")); got != "no sensor of ours" {
		t.Errorf("%q", got)
	}
}
