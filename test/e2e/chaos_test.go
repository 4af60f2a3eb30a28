package e2e

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protojson"

	pb "github.com/amooglesoft/trafficmonitor/api/trafficmonitor/v1"
	"github.com/amooglesoft/trafficmonitor/internal/lab"
)

// What an engineer was told is announced stays announced, whatever is killed while more is being announced; and no
// router holds anything that no mitigation owns.
func TestKilledWhileAnnouncing(t *testing.T) {
	t.Parallel()
	s := newSystem(t, "burst", lab.SiteOptions{NoEnforce: true}, settings{})
	const routes = 40
	var (
		mu    sync.Mutex
		acked []string // guarded by mu
		wg    sync.WaitGroup
	)
	reached := func(n int) {
		t.Helper()
		eventually(t, fmt.Sprintf("%d routes to be announced", n), func(context.Context) error {
			mu.Lock()
			defer mu.Unlock()
			if len(acked) < n {
				return fmt.Errorf("%d", len(acked))
			}
			return nil
		})
	}
	stop := make(chan struct{})
	wg.Go(func() {
		for i := range routes {
			text := fmt.Sprintf("destination 203.0.113.%d/32 protocol udp source-port 53 then discard", 100+i)
			for {
				select {
				case <-stop:
					return
				default:
				}
				r := s.tmctl("announce", text, "--ttl", "10m", "--reason", "e2e", "--request-id", fmt.Sprint("burst-", i), "--timeout", "1s")
				if r.code == 0 {
					break
				}
				if r.code == 2 {
					t.Error(r.err())
					return
				}
			}
			mu.Lock()
			acked = append(acked, text)
			mu.Unlock()
		}
	})
	defer func() { close(stop); wg.Wait() }()

	reached(5)
	s.end(s.speakerPID(), syscall.SIGKILL)
	reached(10)
	s.end(s.controller.Pid(), syscall.SIGKILL)
	s.start()
	s.leads()
	reached(20)
	s.end(s.controller.Pid(), syscall.SIGKILL)
	s.end(s.speakerPID(), syscall.SIGKILL)
	s.start()
	s.leads()
	reached(routes)
	s.ready()
	var owned []string
	for _, m := range s.mitigations() {
		if i := slices.Index(acked, m.Routes[0]); i == 0 || i == routes-1 { // before the first was killed, and after the last
			s.recorded(m)
		}
		owned = append(owned, m.Routes...)
	}
	mu.Lock()
	if err := same(owned, acked); err != nil {
		t.Errorf("announced and acknowledged: %v", err)
	}
	mu.Unlock()
	s.sent(owned...)
	s.hold(owned...)
	s.must("withdraw", "--all", "--reason", "e2e")
	s.hold()
	s.leaveNothing()
}

// recorded waits until it can be told how a mitigation came about: who asked for it, and when each router was sent its route.
func (s *system) recorded(m *pb.Mitigation) {
	s.t.Helper()
	eventually(s.t, "the story of "+m.Id, func(context.Context) error {
		r := s.tmctl("explain", m.Id)
		if r.code != 0 {
			return r.err()
		}
		for _, want := range []string{"manual_announce", m.Requester, "route_sent", "Policy", "term"} {
			if !strings.Contains(r.stdout, want) {
				return fmt.Errorf("it lacks %q:\n%s", want, r.stdout)
			}
		}
		return nil
	})
}

// A controller that stands still for longer than its lease changes nothing at the routers, and leads again afterwards.
func TestControllerStandsStill(t *testing.T) {
	t.Parallel()
	s := newSystem(t, "pause", lab.SiteOptions{NoEnforce: true}, settings{})
	for _, text := range kinds {
		s.announce(text, 10*time.Minute)
	}
	s.hold(kinds...)
	s.sent(kinds...)
	term := s.status().Term
	began := time.Now()
	short := s.announce(oneMore, 3*time.Second).Deadline.AsTime()
	s.hold(append(kinds, oneMore)...)
	if err := s.controller.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	// The speaker needs nobody to keep a deadline. It is behind the lease's end, too: 2 s.
	s.punctual(began, []string{oneMore}, []time.Time{short}, kinds...)
	if r := s.tmctl("status", "--timeout", "200ms"); r.code != 3 {
		t.Errorf("tmctl and a controller that stands still: %v", r.err())
	}
	if err := s.controller.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	s.leads()
	s.ready()
	s.sent(kinds...)
	if now := s.status().Term; now < term {
		t.Errorf("term %d after %d", now, term)
	}
	for _, r := range s.routers {
		r.only(began, "announced "+s.onWire(oneMore), "withdrawn "+s.onWire(oneMore))
	}
	// It may have been asked while it still took itself for the leader of before, and its term ended under the decision.
	eventually(t, "the new leader to withdraw everything", func(context.Context) error {
		if r := s.tmctl("withdraw", "--all", "--reason", "e2e"); r.code != 0 {
			return r.err()
		}
		return nil
	})
	s.hold()
	s.leaveNothing()
}

// A router that is restarted gets every route again, the other one hears nothing of it; meanwhile tmctl says which
// router lacks what.
func TestRouterRestarts(t *testing.T) {
	t.Parallel()
	s := newSystem(t, "restart", lab.SiteOptions{NoEnforce: true}, settings{})
	for _, text := range kinds {
		s.announce(text, 10*time.Minute)
	}
	s.hold(kinds...)
	s.sent(kinds...)
	for i, r := range s.routers {
		s.run(r.name, func(t *testing.T) {
			other := s.routers[1-i]
			began, session, keeps := time.Now(), other.session(), other.keeps(kinds...)
			if err := r.Kill(); err != nil {
				t.Fatal(err)
			}
			eventually(t, "tmctl to show that the router is gone", func(context.Context) error {
				out := s.tmctl("routes", "-o", "json")
				list := &pb.ListRoutesResponse{}
				if err := protojson.Unmarshal([]byte(out.stdout), list); err != nil {
					return err
				}
				for _, x := range list.Routes {
					if !slices.ContainsFunc(x.Peers, func(p *pb.PeerRoute) bool {
						return p.Peer == r.name && p.State == pb.PeerRoute_STATE_PENDING
					}) {
						return fmt.Errorf("%v", x)
					}
				}
				return nil
			})
			if out := s.tmctl("status"); out.code != 4 {
				t.Errorf("status without %s: %v", r.name, out.err())
			}
			if err := r.Start(within(t, patience)); err != nil {
				t.Fatal(err)
			}
			s.ready()
			s.hold(kinds...)
			s.sent(kinds...)
			keeps()
			other.quiet(began)
			other.still(session, 0)
		})
	}
	s.must("withdraw", "--all", "--reason", "e2e")
	s.hold()
	s.leaveNothing()
}
