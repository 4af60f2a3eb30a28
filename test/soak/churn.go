package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"syscall"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	pb "github.com/amooglesoft/trafficmonitor/api/trafficmonitor/v1"
	"github.com/amooglesoft/trafficmonitor/internal/lab"
	"github.com/amooglesoft/trafficmonitor/internal/lab/flood"
	"github.com/amooglesoft/trafficmonitor/internal/vector"
)

const reportInterval = 500 * time.Millisecond

// targets are attacked one after the other, each time by another vector: half are IPv4, half IPv6.
const targets = 8192

func attack(n int) (netip.Addr, vector.ID) {
	vectors := vector.Reflections()
	k := n % targets
	v := vectors[n/targets%len(vectors)].ID
	if k%2 == 0 {
		return netip.AddrFrom4([4]byte{10, 9, byte(k >> 9), byte(k >> 1)}), v
	}
	a := netip.MustParsePrefix(ownRules6).Addr().As16()
	a[14], a[15] = byte(k>>8), byte(k)
	return netip.AddrFrom16(a), v
}

// report tells both controllers of n attacks that nobody told of before, as a sensor would: again and again until ctx
// ends, on a stream that is opened anew when it breaks.
func (s *stage) report(ctx context.Context, r *replica, rate int) {
	began := time.Now()
	for ctx.Err() == nil {
		if err := s.stream(ctx, r, began, rate); err != nil && ctx.Err() == nil {
			s.count("streams of scripted sensors that broke") // the controller's log says why
			pause(ctx, time.Second)
		}
	}
}

// stream says Hello and reports until the stream breaks. Which attacks go on hangs on the time alone, so that both
// controllers hear the same.
func (s *stage) stream(ctx context.Context, r *replica, began time.Time, rate int) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	x, err := pb.NewSensorServiceClient(r.sensors).Connect(ctx)
	if err != nil {
		return err
	}
	hello := &pb.Hello{Sensor: "scripted", Version: "soak", StartTime: timestamppb.Now()}
	if err := x.Send(&pb.ConnectRequest{Message: &pb.ConnectRequest_Hello{Hello: hello}}); err != nil {
		return err
	}
	news, broken := make(chan *pb.ConnectRequest, 16), make(chan error, 1)
	var directive *pb.DirectiveVersion
	followed := make(chan *pb.DirectiveVersion, 16)
	go func() {
		for {
			m, err := x.Recv()
			if err != nil {
				broken <- err
				return
			}
			if d := m.GetDirective(); d != nil {
				followed <- d.Version
			}
			if p := m.GetClockProbe(); p != nil {
				now := timestamppb.Now()
				news <- &pb.ConnectRequest{Message: &pb.ConnectRequest_ClockEcho{ClockEcho: &pb.ClockEcho{ProbeTime: p.SendTime, ReceiveTime: now, SendTime: now}}}
			}
		}
	}()
	each := max(1, int(float64(rate)*reportInterval.Seconds()))
	tick := time.NewTicker(reportInterval)
	defer tick.Stop()
	for sequence := uint64(1); ; {
		m := &pb.ConnectRequest{}
		select {
		case err := <-broken:
			return err
		case directive = <-followed:
			continue
		case m = <-news:
		case now := <-tick.C:
			p := &pb.Report{
				Sequence: sequence, Cause: pb.Report_CAUSE_INTERVAL, StartTime: timestamppb.New(now.Add(-reportInterval)),
				Span: durationpb.New(reportInterval), SendTime: timestamppb.Now(), Directive: directive, Counters: &pb.SensorCounters{},
			}
			sequence++
			for i := range each {
				a, v := attack(int(now.Sub(began)/reportInterval)*each + i)
				p.Aggregates = append(p.Aggregates, &pb.Aggregate{Target: a.AsSlice(), PrefixLength: uint32(a.BitLen()), Vector: uint32(v), Packets: 5000, Bytes: 5000 * 468})
			}
			m.Message = &pb.ConnectRequest_Report{Report: p}
		}
		if err := x.Send(m); err != nil {
			return err
		}
	}
}

// flood sends a short real attack at another address of the victim's every five seconds.
func (s *stage) flood(ctx context.Context) error {
	for n := 0; pause(ctx, 5*time.Second); n++ {
		target, sources := netip.AddrFrom4([4]byte{203, 0, 113, byte(11 + n%200)}), lab.SiteSpoofed4
		if n%2 == 1 {
			a := lab.SiteOwn6.Addr().As16()
			a[15], a[14] = byte(n), byte(n>>8)
			target, sources = netip.AddrFrom16(a), lab.SiteSpoofed6
		}
		t, err := flood.DNSAnswers(target, sources, 400)
		if err != nil {
			return err
		}
		f, err := s.site.AttackerOut.Flood(s.site.EdgeIn, flood.Options{Template: t, PPS: 4000, Packets: 4000, Duration: time.Second})
		if err != nil {
			return err
		}
		if _, err = f.Run(ctx); err != nil && ctx.Err() == nil {
			return err
		}
		s.count("real floods")
	}
	return nil
}

// announce asks the leader for a route.
func (s *stage) announce(ctx context.Context, text string, ttl time.Duration) (*pb.Mitigation, error) {
	r := s.leader(ctx)
	if r == nil {
		return nil, errors.New("nobody leads")
	}
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	m, err := r.console.CreateMitigation(ctx, &pb.CreateMitigationRequest{Route: text, Ttl: durationpb.New(ttl), Reason: "soak", Requester: "soak"})
	return m.GetMitigation(), err
}

// withdraw asks the leader to end a mitigation.
func (s *stage) withdraw(ctx context.Context, id string) error {
	r := s.leader(ctx)
	if r == nil {
		return errors.New("nobody leads")
	}
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	_, err := r.console.WithdrawMitigations(ctx, &pb.WithdrawMitigationsRequest{
		Selector: &pb.WithdrawMitigationsRequest_Id{Id: id}, Reason: "soak", Requester: "soak", Hold: durationpb.New(0),
	})
	return err
}

// byHand announces a route a second and withdraws it some seconds later; what is not withdrawn, for nobody led, ends
// by itself.
func (s *stage) byHand(ctx context.Context) {
	var open []string
	for n := 0; pause(ctx, time.Second); n++ {
		text := fmt.Sprintf("destination 10.9.%d.%d/32 protocol udp source-port %d destination-port %d then discard", 128+n/256%64, n%256, 1+n%65000, 1024+rand.IntN(60000))
		if m, err := s.announce(ctx, text, time.Minute); err == nil {
			s.count("announced by hand")
			open = append(open, m.Id)
		} else {
			s.count("not announced by hand")
		}
		if len(open) > 5 {
			if s.withdraw(ctx, open[0]) == nil {
				s.count("withdrawn by hand")
			}
			open = open[1:]
		}
	}
}

// disturb does one thing after the other to the system, one each interval.
func (s *stage) disturb(ctx context.Context, interval time.Duration) error {
	for n := 0; pause(ctx, interval); n++ {
		s.forgive(20 * time.Second)
		kind := []string{"policies read", "sensor restarts", "leader changes", "session resets of one", "session resets of two"}[n%5]
		var err error
		switch n % 5 {
		case 0:
			err = s.writePolicy(1000 + n%100)
			for _, r := range s.replicas {
				err = errors.Join(err, r.process.Signal(syscall.SIGHUP))
			}
		case 1:
			if err = s.rack.Stop(ctx); err == nil {
				s.rack, err = s.startSensor("rack", s.site.Uplink)
			}
		case 2:
			err = s.depose(ctx)
		default:
			_, err = s.replicas[n%5-3].router.Command(ctx, "restart bgp_control")
		}
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return fmt.Errorf("%s: %w", kind, err)
		}
		s.count(kind)
		s.forgive(20 * time.Second)
	}
	return nil
}

// depose pauses the leader until the other one leads.
func (s *stage) depose(ctx context.Context) error {
	was := s.leader(ctx)
	if was == nil {
		return errors.New("nobody leads")
	}
	if err := was.process.Signal(syscall.SIGSTOP); err != nil {
		return err
	}
	within, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	err := lab.Until(within, "the other controller to lead", func(ctx context.Context) error {
		for _, r := range s.replicas {
			if r == was {
				continue
			}
			if st, err := r.console.GetStatus(ctx, &pb.GetStatusRequest{}); err != nil || !st.IsLeader {
				return fmt.Errorf("controller %s does not: %v", r.name, err)
			}
		}
		return nil
	})
	return errors.Join(err, was.process.Signal(syscall.SIGCONT))
}

// forgive lets everybody complain for a while: something was done to them.
func (s *stage) forgive(d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.excuse = time.Now().Add(d)
}

func (s *stage) forgiven() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return time.Now().Before(s.excuse)
}

// pause waits, and reports whether ctx goes on.
func pause(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}
