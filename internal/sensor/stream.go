package sensor

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	pb "github.com/amooglesoft/trafficmonitor/api/trafficmonitor/v1"
)

// Reconnecting: the wait before each attempt is random between nothing and a bound that doubles, so that a thousand
// sensors do not come back to a restarted controller at the same moment.
const (
	firstBackoff = 200 * time.Millisecond
	maxBackoff   = 15 * time.Second
	steadyAfter  = 30 * time.Second // a stream that lived so long resets the bound
)

// stream keeps one controller informed.
type stream struct {
	controller Controller
	backlog    *backlog
	flight     flight
	hello      func() *pb.Hello
	directives chan<- *pb.Directive
	metrics    *metrics
	ready      func(component, reason string)
	log        *slog.Logger
}

// run connects, and connects again, until ctx ends.
func (s *stream) run(ctx context.Context) error {
	conn, err := dial(s.controller)
	if err != nil {
		return fmt.Errorf("controller %s: %w", s.controller.Address, err)
	}
	defer conn.Close()
	connected := s.metrics.connected.WithLabelValues(s.controller.Address)
	connected.Set(0)
	component := "controller " + s.controller.Address
	s.ready(component, "no stream yet")
	bound, last := firstBackoff, ""
	for {
		begin := time.Now()
		err := s.once(ctx, conn)
		connected.Set(0)
		if ctx.Err() != nil || s.backlog.finished() {
			return nil
		}
		if time.Since(begin) > steadyAfter {
			bound, last = firstBackoff, ""
		}
		wait := rand.N(bound)
		s.metrics.disconnects.WithLabelValues(s.controller.Address).Inc()
		// The same error again and again is said once.
		if text := inWords(err); text != last {
			s.log.Warn("no stream to controller", "err", text, "retry_within", bound)
			s.ready(component, text)
			last = text
		}
		bound = min(2*bound, maxBackoff)
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-s.backlog.over: // whom we do not reach now will not hear our last report
			timer.Stop()
			return nil
		case <-ctx.Done():
			timer.Stop()
			return nil
		}
		conn.ResetConnectBackoff()
	}
}

// inWords is why there is no stream, in the same words each time: without our port, which is another one for each connection.
func inWords(err error) string {
	text := status.Convert(err).Message()
	if from, to, ok := strings.Cut(text, "->"); ok {
		if without := strings.TrimRight(from, "0123456789"); strings.HasSuffix(without, ":") {
			text = strings.TrimSuffix(without, ":") + "->" + to
		}
	}
	if strings.Contains(text, "error reading server preface") {
		return "it takes the connection and does not answer: it hangs, or that is the port of something else, or one side uses TLS and the other does not: " + text
	}
	return text
}

// once serves one stream until it breaks.
func (s *stream) once(ctx context.Context, conn *grpc.ClientConn) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	rpc, err := pb.NewSensorServiceClient(conn).Connect(ctx)
	if err != nil {
		return err
	}
	if err := rpc.Send(&pb.ConnectRequest{Message: &pb.ConnectRequest_Hello{Hello: s.hello()}}); err != nil {
		if _, said := rpc.Recv(); said != nil {
			err = said // Send only says that the stream is over, Recv says why
		}
		return err
	}
	s.metrics.connected.WithLabelValues(s.controller.Address).Set(1)
	s.ready("controller "+s.controller.Address, "")
	s.log.Info("stream to controller opened")

	// Two send: this goroutine what waits in the backlog, and another what must not wait behind it.
	var sending sync.Mutex
	send := func(m func() *pb.ConnectRequest) error {
		sending.Lock()
		defer sending.Unlock()
		return rpc.Send(m())
	}
	probes := make(chan *pb.ClockEcho, 1)
	var others sync.WaitGroup
	others.Go(func() {
		for {
			select {
			case e := <-probes:
				_ = send(func() *pb.ConnectRequest { // an error of the stream's end is Recv's to say
					e.SendTime = timestamppb.Now()
					return &pb.ConnectRequest{Message: &pb.ConnectRequest_ClockEcho{ClockEcho: e}}
				})
			case <-ctx.Done():
				return
			}
		}
	})
	received := make(chan struct{})
	go func() {
		defer close(received)
		for {
			m, err := rpc.Recv()
			if err != nil {
				if errors.Is(err, io.EOF) {
					err = errors.New("the controller closed the stream")
				}
				cancel(err)
				return
			}
			if p := m.GetClockProbe(); p != nil {
				select { // one that waits is not put aside: whoever asks faster than we can send gets fewer answers
				case probes <- &pb.ClockEcho{ProbeTime: p.GetSendTime(), ReceiveTime: timestamppb.Now()}:
				default:
				}
			}
			if r := m.GetReportReceipt(); r != nil {
				s.flight.land(r.GetSequence())
			}
			if d := m.GetDirective(); d != nil {
				select {
				case s.directives <- d:
				case <-ctx.Done():
				}
			}
		}
	}()
	defer func() {
		cancel(nil)
		<-received
		others.Wait()
		lost := s.flight.lost()
		if err := context.Cause(ctx); refusal(err) && len(lost) > 0 && lost[0].again {
			// Either this is what it refuses, and would for ever, or what it refuses came behind: then it has this.
			s.log.Error("a report is dropped: the controller refused it twice", "sequence", lost[0].report.GetSequence(), "err", err,
				"remedy", "give this sensor and the controller the same version")
			s.backlog.giveUp(lost[0])
			lost = lost[1:]
		}
		s.backlog.back(lost...)
	}()

	for {
		m, err := s.backlog.take(ctx)
		if errors.Is(err, errDrained) {
			// The controller ends the stream once it has read all of it.
			if err := rpc.CloseSend(); err != nil {
				return err
			}
			select {
			case <-received:
			case <-ctx.Done():
			}
			return nil
		}
		if err != nil {
			return err
		}
		s.flight.start(m)
		if err := send(func() *pb.ConnectRequest { return s.request(m) }); err != nil {
			s.flight.abort(m)
			s.backlog.back(m)
			<-received // it knows why the stream is over
			return cmp.Or(context.Cause(ctx), err)
		}
		if m.ktime != 0 {
			s.metrics.latency.Observe(time.Duration(time.Now().UnixNano() - m.ktime).Seconds())
		}
		s.metrics.sent.WithLabelValues(s.controller.Address).Inc()
	}
}

// refusal tells whether a controller ended the stream for what we sent.
func refusal(err error) bool {
	c := status.Code(err)
	return c == codes.InvalidArgument || c == codes.ResourceExhausted
}

// request makes what is sent of a message that other streams share.
func (s *stream) request(m message) *pb.ConnectRequest {
	if m.samples != nil {
		return &pb.ConnectRequest{Message: &pb.ConnectRequest_Samples{Samples: m.samples}}
	}
	o := m.report
	r := &pb.Report{
		Sequence: o.Sequence, Cause: o.Cause, StartTime: o.StartTime, Span: o.Span, Aggregates: o.Aggregates, Networks: o.Networks,
		Profiles: o.Profiles, Merged: o.Merged, TriggerTime: o.TriggerTime, SendTime: timestamppb.Now(), Directive: o.Directive,
		DirectiveError: o.DirectiveError,
	}
	if o.Counters != nil {
		l := s.backlog.losses()
		r.Counters = proto.CloneOf(o.Counters)
		r.Counters.DroppedReports, r.Counters.MergedReports = l.reports, l.merged
	}
	return &pb.ConnectRequest{Message: &pb.ConnectRequest_Report{Report: r}}
}

func dial(c Controller) (*grpc.ClientConn, error) {
	creds := insecure.NewCredentials()
	if c.TLS != nil {
		creds = credentials.NewTLS(c.TLS)
	}
	target := c.Address
	if path, ok := strings.CutPrefix(target, "unix:"); ok {
		target = "unix:" + strings.TrimPrefix(path, "//")
		creds = insecure.NewCredentials()
	} else {
		host, _, err := net.SplitHostPort(target)
		if err != nil {
			return nil, fmt.Errorf("address: %w", err)
		}
		ip := net.ParseIP(host)
		if c.TLS == nil && host != "localhost" && !ip.IsLoopback() {
			return nil, errors.New("other machines are reached with TLS only: configure the CA, certificate and key")
		}
		if target = "dns:///" + c.Address; ip != nil {
			target = "passthrough:///" + c.Address
		}
	}
	return grpc.NewClient(
		target,
		grpc.WithTransportCredentials(creds),
		grpc.WithNoProxy(),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(16<<20)),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 20 * time.Second, Timeout: 10 * time.Second}),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: firstBackoff, Multiplier: 2, Jitter: 0.2, MaxDelay: maxBackoff},
			MinConnectTimeout: 5 * time.Second,
		}),
		// A trigger must not wait for buffers: reports are small.
		grpc.WithWriteBufferSize(16<<10),
		grpc.WithReadBufferSize(4<<10),
	)
}
