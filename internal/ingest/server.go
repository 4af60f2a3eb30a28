// Package ingest takes the sensors' streams: it checks who speaks and what is said, converts it to the core's types and
// hands it on, and it tells the sensors what to watch.
package ingest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	pb "github.com/amooglesoft/trafficmonitor/api/trafficmonitor/v1"
	"github.com/amooglesoft/trafficmonitor/internal/pki"
	"github.com/amooglesoft/trafficmonitor/internal/traffic"
)

// Delivery is one report on its way to the view, or some samples on their way to the store of samples, with the times of
// its journey.
type Delivery struct {
	Report traffic.Report
	// Samples are at most 1,024 packets of one sensor, their times by our clock as far as the sensor's is known. A delivery
	// with samples has no report.
	Samples   []traffic.Sample
	Triggered time.Time // when the kernel raised the trigger, by our clock as far as the sensor's is known; zero for other reports
	Received  time.Time // by ours
}

// Options configure a Server.
type Options struct {
	// Deliver hands a report on without blocking; false says that it was dropped.
	Deliver func(Delivery) bool
	// Own are our prefixes: what a sensor says of other targets is not used. Empty uses all.
	Own []netip.Prefix
	// Allowed names the sensors that may connect; empty allows every sensor the certificates allow.
	Allowed []string
	// StaleAfter is the silence after which a sensor counts as stale.
	StaleAfter time.Duration
	Log        *slog.Logger
	Registerer prometheus.Registerer
}

// Server is the SensorService.
type Server struct {
	pb.UnimplementedSensorServiceServer

	o       Options
	log     *slog.Logger
	metrics *metrics

	mu        sync.Mutex
	sensors   map[string]*sensor // guarded by mu
	directive *Directive         // guarded by mu; nil while we do not lead
	directed  time.Time          // guarded by mu; when directive was set
	changed   chan struct{}      // guarded by mu; closed and replaced when directive changes
}

// maxSensors bounds the sensors remembered.
const maxSensors = 50_000

// NewServer returns a server without sensors.
func NewServer(o Options) *Server {
	s := &Server{o: o, log: o.Log.With("component", "ingest"), sensors: map[string]*sensor{}, changed: make(chan struct{})}
	s.metrics = newMetrics(o.Registerer, s)
	return s
}

// Register adds the service to a gRPC server.
func (s *Server) Register(g grpc.ServiceRegistrar) { pb.RegisterSensorServiceServer(g, s) }

// Direct makes d what every sensor is told from now on; nil, while we do not lead, tells them nothing new.
func (s *Server) Direct(d *Directive) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.directive, s.directed = d, time.Now()
	close(s.changed)
	s.changed = make(chan struct{})
}

func (s *Server) current() (*Directive, <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.directive, s.changed
}

// Connect serves one sensor's stream.
func (s *Server) Connect(stream pb.SensorService_ConnectServer) error {
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	hello := first.GetHello()
	if hello == nil {
		return status.Error(codes.InvalidArgument, "the first message of a stream must be a hello")
	}
	name := hello.GetSensor()
	if err := s.admit(stream.Context(), name); err != nil {
		s.metrics.refused.Inc()
		s.log.Warn("sensor refused", "sensor", fmt.Sprintf("%.128q", name), "err", err)
		return err
	}
	ctx, cancel := context.WithCancelCause(stream.Context())
	defer cancel(nil)
	addr := ""
	if p, ok := peer.FromContext(ctx); ok {
		addr = p.Addr.String()
	}
	x, err := s.join(name, addr, hello, cancel)
	if err != nil {
		return err
	}
	s.log.Info("sensor connected", "sensor", name, "address", addr, "version", fmt.Sprintf("%.64s", hello.GetVersion()))
	defer func() {
		s.leave(x, cancel)
		s.log.Info("sensor disconnected", "sensor", name, "reason", context.Cause(ctx))
	}()

	receipts := receipts{wake: make(chan struct{}, 1)}
	var telling sync.WaitGroup
	telling.Go(func() {
		if err := s.tell(ctx, x, &receipts, stream); err != nil {
			cancel(err)
		}
	})
	// Recv cannot be interrupted but by the handler's return, which ends the goroutine.
	received := make(chan error, 1)
	go func() { received <- s.receive(ctx, x, &receipts, stream) }()
	select {
	case err = <-received:
	case <-ctx.Done():
		err = status.Error(codes.Aborted, context.Cause(ctx).Error())
	}
	cancel(err)
	telling.Wait()
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

// admit checks the sensor's name against its certificate and the list of allowed sensors.
func (s *Server) admit(ctx context.Context, name string) error {
	if !validName(name) {
		return status.Errorf(codes.InvalidArgument, "hello.sensor: a name has 1 to %d characters of A-Z a-z 0-9 . _ -", maxName)
	}
	if cn, role, ok := pki.PeerIdentity(ctx); ok {
		if role != pki.RoleSensor {
			return status.Errorf(codes.PermissionDenied, "the certificate of %q has the role %q: a sensor needs one of the role %q", cn, role, pki.RoleSensor)
		}
		if cn != name {
			return status.Errorf(codes.PermissionDenied, "the sensor calls itself %q, its certificate %q: they must agree", name, cn)
		}
	}
	if len(s.o.Allowed) > 0 && !slices.Contains(s.o.Allowed, name) {
		return status.Errorf(codes.PermissionDenied, "sensor %q is not in sensors.allowed of the controller's configuration", name)
	}
	return nil
}

// receipts tells the goroutine that sends what the one that receives took.
type receipts struct {
	newest atomic.Uint64 // sequence of the newest interval report taken
	wake   chan struct{}
}

func (r *receipts) give(sequence uint64) {
	r.newest.Store(sequence)
	select {
	case r.wake <- struct{}{}:
	default: // the receipt of one holds for those before
	}
}

// tell sends what the sensor has to know: directives, receipts, and questions about its clock.
func (s *Server) tell(ctx context.Context, x *sensor, receipts *receipts, stream pb.SensorService_ConnectServer) error {
	ask := time.NewTimer(0)
	defer ask.Stop()
	var told *Directive
	for {
		d, changed := s.current()
		if d != nil && d != told {
			msg := &pb.ConnectResponse{Message: &pb.ConnectResponse_Directive{Directive: d.proto()}}
			if err := stream.Send(msg); err != nil {
				return fmt.Errorf("send directive: %w", err)
			}
		}
		told = d
		select {
		case <-changed:
		case <-receipts.wake:
			msg := &pb.ConnectResponse{Message: &pb.ConnectResponse_ReportReceipt{ReportReceipt: &pb.ReportReceipt{Sequence: receipts.newest.Load()}}}
			if err := stream.Send(msg); err != nil {
				return fmt.Errorf("send receipt: %w", err)
			}
		case <-ask.C:
			msg := &pb.ConnectResponse{Message: &pb.ConnectResponse_ClockProbe{ClockProbe: x.probe()}}
			if err := stream.Send(msg); err != nil {
				return fmt.Errorf("ask for the clock: %w", err)
			}
			ask.Reset(probeInterval*4/5 + rand.N(probeInterval*2/5))
		case <-ctx.Done():
			return nil
		}
	}
}

// receive handles a stream's messages until it ends. What is wrong ends the stream with an error that says what, for a
// sensor that sends nonsense must be noticed; what came before it stands.
func (s *Server) receive(ctx context.Context, x *sensor, receipts *receipts, stream pb.SensorService_ConnectServer) error {
	for {
		msg, err := stream.Recv()
		if err != nil {
			return err
		}
		if ctx.Err() != nil {
			return status.Error(codes.Aborted, context.Cause(ctx).Error())
		}
		if err := s.take(time.Now(), x, msg); err != nil {
			return err
		}
		if r := msg.GetReport(); r.GetCause() == pb.Report_CAUSE_INTERVAL {
			receipts.give(r.GetSequence())
		}
	}
}

// take handles one message, or returns an error, and then nothing of it was used.
func (s *Server) take(now time.Time, x *sensor, msg *pb.ConnectRequest) error {
	switch {
	case msg.GetReport() != nil:
		return s.takeReport(now, x, msg.GetReport())
	case msg.GetSamples() != nil:
		return s.takeSamples(now, x, msg.GetSamples())
	case msg.GetClockEcho() != nil:
		s.echo(x, now, msg.GetClockEcho())
	case msg.GetHello() != nil:
		return status.Error(codes.InvalidArgument, "a hello may only be the first message of a stream")
	default:
		return status.Error(codes.InvalidArgument, "a message without content, or of a kind this controller does not know: upgrade the controller before the sensors")
	}
	return nil
}

func (s *Server) takeReport(now time.Time, x *sensor, p *pb.Report) error {
	r, err := report(x.name, p)
	if err != nil {
		s.metrics.malformed.Inc()
		return status.Errorf(codes.InvalidArgument, "report %d: %v", p.GetSequence(), err)
	}
	if r.Cause == traffic.Interval && x.repeats(p.GetSequence()) {
		s.metrics.repeated.Inc()
		return nil
	}
	s.metrics.reports.WithLabelValues(r.Cause.String()).Inc()
	s.metrics.aggregates.Add(float64(len(r.Aggregates)))
	s.metrics.networks.Add(float64(len(r.Networks)))
	s.metrics.profiles.Add(float64(len(r.Profiles)))
	if n := s.dropForeign(&r); n > 0 {
		s.metrics.foreign.Add(float64(n))
	}
	x.note(now, p)
	r.Outbound = x.countsOutbound()
	d := Delivery{Report: r, Received: now}
	if t := p.GetTriggerTime(); r.Cause == traffic.Trigger && t != nil && t.CheckValid() == nil {
		d.Triggered = x.ours(now, t.AsTime())
	}
	if s.late(p, r) {
		s.metrics.late.Inc()
		return nil
	}
	if !s.o.Deliver(d) {
		s.metrics.dropped.WithLabelValues(r.Cause.String()).Inc()
	}
	return nil
}

// takeSamples hands sampled packets on. A header nobody can read, or of a target that is not ours, costs only its sample;
// when nobody has room for them they go first, for nothing is detected by samples.
func (s *Server) takeSamples(now time.Time, x *sensor, b *pb.SampleBatch) error {
	if err := checkSamples(b); err != nil {
		s.metrics.malformed.Inc()
		return status.Error(codes.InvalidArgument, err.Error())
	}
	s.metrics.samples.Add(float64(len(b.GetSamples())))
	ahead := now.Sub(x.ours(now, now))
	all := make([]traffic.Sample, 0, len(b.GetSamples()))
	for _, p := range b.GetSamples() {
		switch sample, ok := sampleOf(now, ahead, p); {
		case !ok:
			s.metrics.unused.WithLabelValues(unusedMalformed).Inc()
		case s.foreign(netip.PrefixFrom(sample.Target(), sample.Target().BitLen())):
			s.metrics.unused.WithLabelValues(unusedForeign).Inc()
		default:
			all = append(all, sample)
		}
	}
	for part := range slices.Chunk(all, maxDelivered) {
		if !s.o.Deliver(Delivery{Samples: part, Received: now}) {
			s.metrics.unused.WithLabelValues(unusedQueue).Add(float64(len(part)))
		}
	}
	return nil
}

// echo takes what a sensor says of its clock. What cannot be is counted and otherwise ignored: it is no reason to go
// without the sensor's reports.
func (s *Server) echo(x *sensor, now time.Time, e *pb.ClockEcho) {
	x.mu.Lock()
	defer x.mu.Unlock()
	m, err := x.clock.echo(now, e)
	if err != nil {
		s.metrics.echoes.Inc()
		s.log.Debug("clock echo ignored", "sensor", x.name, "err", err)
		return
	}
	s.metrics.offset.Observe(m.offset.Abs().Seconds())
	s.metrics.delay.Observe(m.delay.Seconds())
	if best, turned := x.clock.turns(now); turned && x.clock.wrong {
		s.log.Warn("a sensor's clock is wrong", "sensor", x.name, "offset", best.offset, "delay", best.delay,
			"remedy", "repair NTP there, or here if many sensors are named")
	} else if turned {
		s.log.Info("a sensor's clock is right again", "sensor", x.name, "offset", best.offset)
	}
}

// late reports whether a sensor kept a report for so long that it tells of the past: an attack that was seen while no
// controller listened is no reason for a rule now, nor is the mean over an outage. Both times are of the sensor's clock,
// so that it need not agree with ours.
func (s *Server) late(r *pb.Report, t traffic.Report) bool {
	if s.o.StaleAfter <= 0 {
		return false
	}
	sent := r.GetSendTime()
	return t.Past(s.o.StaleAfter) || sent != nil && sent.CheckValid() == nil && sent.AsTime().Sub(t.Start.Add(t.Span)) > s.o.StaleAfter
}

// dropForeign removes what is said of targets outside our own prefixes and returns how much there was.
func (s *Server) dropForeign(r *traffic.Report) int {
	if len(s.o.Own) == 0 {
		return 0
	}
	before := len(r.Aggregates) + len(r.Networks) + len(r.Profiles)
	r.Aggregates = slices.DeleteFunc(r.Aggregates, func(a traffic.Aggregate) bool { return s.foreign(a.Target) })
	r.Networks = slices.DeleteFunc(r.Networks, func(n traffic.NetworkTotal) bool { return s.foreign(n.Network) })
	r.Profiles = slices.DeleteFunc(r.Profiles, func(p traffic.Profile) bool { return s.foreign(p.Target) })
	return before - len(r.Aggregates) - len(r.Networks) - len(r.Profiles)
}

// foreign reports whether a target is outside our own prefixes.
func (s *Server) foreign(p netip.Prefix) bool {
	return len(s.o.Own) > 0 && !slices.ContainsFunc(s.o.Own, func(own netip.Prefix) bool { return own.Bits() <= p.Bits() && own.Contains(p.Addr()) })
}
