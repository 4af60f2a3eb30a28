package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"sync"
	"time"

	"google.golang.org/grpc"

	pb "github.com/amooglesoft/trafficmonitor/api/trafficmonitor/v1"
	"github.com/amooglesoft/trafficmonitor/internal/lab"
	"github.com/amooglesoft/trafficmonitor/internal/lab/legit"
	"github.com/amooglesoft/trafficmonitor/internal/lab/tap"
	"github.com/amooglesoft/trafficmonitor/internal/pki"
	"github.com/amooglesoft/trafficmonitor/internal/rpc"
)

// stage is the network with everything running in it.
type stage struct {
	out    *timeline
	site   *lab.Site
	tmctl  string // path of the program
	socket string // the console's

	client          *legit.Client
	bgpBIRD, bgpFRR *tap.BGP
	console         pb.ConsoleServiceClient
	events          *events
}

// servicePort is where the victim serves the legitimate client.
const servicePort = 8443

// capacity is what the victim's line carries, in packets per second: a flood of rate crowds out the client.
const capacity = 40_000

// build builds the network and starts everything in it, and returns when all of it is ready.
func build(ctx context.Context, l *lab.Lab, bin string, out *timeline) (*stage, error) {
	bin, err := filepath.Abs(bin)
	if err != nil {
		return nil, err
	}
	s := &stage{out: out, tmctl: filepath.Join(bin, "tmctl")}
	ctx, cancel := context.WithTimeout(ctx, 60*time.Second)
	defer cancel()
	step := func(format string, args ...any) {
		out.line("  " + out.paint(green, "✓ ") + fmt.Sprintf(format, args...))
	}

	out.line(`
   attacker ──┐                                   ┌── victim  203.0.113.10, 2001:db8:113::10
              ├── edge: BIRD ──── rack: sensor ───┘
   client ────┘      │ BGP             │ gRPC
                     └── controller ───┘
                             └── edge2: FRR
`)
	if s.site, err = lab.NewSite(ctx, l, lab.SiteOptions{Capacity: capacity}); err != nil {
		return nil, err
	}
	step("network: 7 namespaces %s-*, BIRD and FRR running, the victim's line carries %s packets a second", l.ID(), thousands(capacity))

	f, err := s.configure(ctx)
	if err != nil {
		return nil, err
	}
	s.socket = f.socket
	if s.bgpBIRD, err = s.site.BIRDToControl.BGP(); err != nil {
		return nil, err
	}
	if s.bgpFRR, err = s.site.FRRToControl.BGP(); err != nil {
		return nil, err
	}
	if _, err := s.site.Control.Start(lab.Command{Argv: []string{filepath.Join(bin, "controller"), "--config", f.controller}}); err != nil {
		return nil, err
	}
	if err := s.site.BIRD.WaitEstablished(ctx); err != nil {
		return nil, err
	}
	if err := s.site.FRR.WaitEstablished(ctx); err != nil {
		return nil, err
	}
	step("controller: embedded etcd, policy from policy/default.yaml, BGP sessions with both routers established")

	if _, err := s.site.Rack.Start(lab.Command{Argv: []string{filepath.Join(bin, "sensor"), "--config", f.sensor}}); err != nil {
		return nil, err
	}
	if err := s.connect(ctx); err != nil {
		return nil, err
	}
	step("sensor: eBPF on %s of the rack, streaming over mutual TLS, directive in force", s.site.Uplink.Name)

	if _, err := s.site.Victim.Serve(servicePort); err != nil {
		return nil, err
	}
	s.client, err = s.site.Client.Client(legit.Options{Servers: []netip.AddrPort{
		netip.AddrPortFrom(lab.SiteVictim4, servicePort), netip.AddrPortFrom(lab.SiteVictim6, servicePort),
	}})
	if err != nil {
		return nil, err
	}
	step("client: 200 questions a second to the victim, over UDP and TCP, IPv4 and IPv6")
	return s, nil
}

// configure makes certificates with tmctl, as an operator would, and writes the configurations.
func (s *stage) configure(ctx context.Context) (files, error) {
	dir := filepath.Join(s.site.Lab.Dir(), "pki")
	issue := func(args ...string) (c certificate, err error) {
		text, err := s.site.Control.Run(ctx, append([]string{s.tmctl, "pki", "--dir", dir, "-o", "json"}, args...)...)
		if err != nil {
			return c, err
		}
		return c, json.Unmarshal([]byte(text), &c)
	}
	if _, err := issue("init"); err != nil {
		return files{}, err
	}
	controller, err := issue("issue", "--role", "controller", "--name", "controller-1", "--host", "controller-1", "--host", lab.SiteControlForRack.String())
	if err != nil {
		return files{}, err
	}
	sensor, err := issue("issue", "--role", "sensor", "--name", "rack-1")
	if err != nil {
		return files{}, err
	}
	return write(s.site, controller, sensor)
}

// connect connects to the console and waits until the whole system is ready.
func (s *stage) connect(ctx context.Context) error {
	conn, err := rpc.Dial("unix://"+s.socket, pki.Files{})
	if err != nil {
		return err
	}
	s.site.Lab.OnClose(func() { conn.Close() })
	s.console = pb.NewConsoleServiceClient(conn)
	err = lab.Until(ctx, "the system to be ready", func(ctx context.Context) error {
		st, err := s.console.GetStatus(ctx, &pb.GetStatusRequest{})
		if err != nil {
			return err
		}
		sensors, err := s.console.ListSensors(ctx, &pb.ListSensorsRequest{})
		if err != nil {
			return err
		}
		switch {
		case len(st.NotReady) > 0:
			return fmt.Errorf("not ready: %v", st.NotReady)
		case !st.IsLeader:
			return errors.New("nobody leads")
		case st.PeersEstablished < 2:
			return fmt.Errorf("%d of 2 routers are established", st.PeersEstablished)
		case len(sensors.Sensors) < 1 || !sensors.Sensors[0].Connected:
			return errors.New("the sensor is not connected")
		case sensors.Sensors[0].Directive.GetRevision() == 0:
			return fmt.Errorf("the sensor follows no directive yet %s", sensors.Sensors[0].DirectiveError)
		}
		return nil
	})
	if err != nil {
		return err
	}
	s.events, err = watchEvents(s.site.Lab, s.console)
	return err
}

// events keeps what the controller tells.
type events struct {
	mu   sync.Mutex
	all  []*pb.WatchEventsResponse // guarded by mu
	news chan struct{}             // guarded by mu: closed and replaced with each event
	err  error                     // guarded by mu
}

func watchEvents(l *lab.Lab, console pb.ConsoleServiceClient) (*events, error) {
	ctx, cancel := context.WithCancel(context.Background())
	stream, err := console.WatchEvents(ctx, &pb.WatchEventsRequest{}, grpc.WaitForReady(true))
	if err != nil {
		cancel()
		return nil, err
	}
	e := &events{news: make(chan struct{})}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			m, err := stream.Recv()
			e.mu.Lock()
			if err != nil {
				e.err = fmt.Errorf("the controller's events ended: %w", err)
			} else {
				e.all = append(e.all, m)
			}
			close(e.news)
			e.news = make(chan struct{})
			e.mu.Unlock()
			if err != nil {
				return
			}
		}
	}()
	l.OnClose(func() { cancel(); <-done })
	return e, nil
}

// next returns the first event from number i on, and its number.
func (e *events) next(ctx context.Context, i int) (*pb.WatchEventsResponse, error) {
	for {
		e.mu.Lock()
		all, err, news := e.all, e.err, e.news
		e.mu.Unlock()
		if i < len(all) {
			return all[i], nil
		}
		if err != nil {
			return nil, err
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-news:
		}
	}
}

// count is the number of events so far.
func (e *events) count() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return len(e.all)
}

// wait returns the first event from number i on of which want says yes.
func (e *events) wait(ctx context.Context, i int, want func(*pb.WatchEventsResponse) bool) (*pb.WatchEventsResponse, error) {
	for ; ; i++ {
		ev, err := e.next(ctx, i)
		if err != nil || want(ev) {
			return ev, err
		}
	}
}
