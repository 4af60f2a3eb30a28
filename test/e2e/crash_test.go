package e2e

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	pb "github.com/amooglesoft/trafficmonitor/api/trafficmonitor/v1"
	"github.com/amooglesoft/trafficmonitor/internal/config"
	"github.com/amooglesoft/trafficmonitor/internal/lab"
	"github.com/amooglesoft/trafficmonitor/internal/lab/tap"
	"github.com/amooglesoft/trafficmonitor/internal/vector"
)

// automatic is what the default policy answers a flood of DNS answers to attacked with.
const (
	attacked  = "203.0.113.20"
	automatic = "destination 203.0.113.20/32 protocol udp source-port 53 then rate-limit 1Mbps"
)

// The controller may be killed, or stopped in good order, during active mitigations: the routers hear nothing of it. The
// next one adopts the speaker, has the same mitigations, and ends them as if nothing had happened.
func TestControllerEnds(t *testing.T) {
	t.Parallel()
	s := newSystem(t, "brain", lab.SiteOptions{NoEnforce: true}, settings{})
	for _, text := range kinds {
		s.announce(text, 10*time.Minute)
	}
	rack := s.sensor("rack1")
	rack.directive()
	rack.attack(attacked, vector.DNS, 1000, 500_000)
	all := append(kinds, automatic)
	s.hold(all...)
	s.sent(all...)
	before := s.mitigations()
	if len(before) != len(all) {
		t.Fatalf("%d mitigations for %d routes", len(before), len(all))
	}
	speaker := s.speakerPID()

	for _, sig := range []syscall.Signal{syscall.SIGKILL, syscall.SIGTERM} {
		s.run(sig.String(), func(t *testing.T) {
			began := time.Now()
			sessions := map[string]session{}
			var stops []func()
			for _, r := range s.routers {
				sessions[r.name] = r.session()
				stops = append(stops, r.keeps(all...))
			}
			old := s.controller
			s.end(old.Pid(), sig)
			<-old.Done()
			if err := old.Err(); (err == nil) != (sig == syscall.SIGTERM) {
				t.Errorf("the controller ended with %v", err)
			}
			if r := s.tmctl("status"); r.code != 3 {
				t.Errorf("tmctl without a controller: %v", r.err())
			}
			s.start()
			s.leads()
			s.ready()
			s.sent(all...)
			if pid := s.speakerPID(); pid != speaker {
				t.Errorf("the speaker was process %d and is %d: it was not adopted", speaker, pid)
			}
			sameMitigations(t, before, s.mitigations())
			for i, r := range s.routers {
				stops[i]()
				r.quiet(began)
				r.still(sessions[r.name], 0)
			}
		})
	}

	s.run("withdraw afterwards", func(t *testing.T) {
		began := time.Now()
		s.must("withdraw", before[0].Id, "--reason", "e2e")
		s.must("withdraw", "--all", "--reason", "e2e")
		s.hold()
		s.sent()
		for _, r := range s.routers {
			var want []string
			for _, text := range all {
				r.waitChange(began, text, true)
				want = append(want, "withdrawn "+s.onWire(text))
			}
			r.only(began, want...)
		}
	})
	s.leaveNothing()
}

// sameMitigations fails the test when not the same mitigations are active with the same ends.
func sameMitigations(t *testing.T, before, now []*pb.Mitigation) {
	t.Helper()
	text := func(ms []*pb.Mitigation) (out []string) {
		for _, m := range ms {
			out = append(out, fmt.Sprintln(m.Id, m.State, m.Routes, m.Requester, m.CreateTime.AsTime(), m.Deadline.AsTime()))
		}
		return out
	}
	if err := same(text(now), text(before)); err != nil {
		t.Errorf("mitigations: %v", err)
	}
}

// The speaker may be killed: BIRD keeps every route, FRR its blackholes, and the next one, which the controller starts,
// brings back what FRR dropped. Each route is announced once more to each router, and nothing is withdrawn.
func TestSpeakerKilled(t *testing.T) {
	t.Parallel()
	s := newSystem(t, "speaker", lab.SiteOptions{NoEnforce: true}, settings{})
	for _, text := range kinds {
		s.announce(text, 10*time.Minute)
	}
	s.hold(kinds...)
	s.sent(kinds...)
	before := s.mitigations()

	began := time.Now()
	birdKeeps, logged := s.bird.keeps(kinds...), len(s.read(s.BIRD.Process().LogFile()))
	frrKeeps := s.frr.keeps(blackhole4, blackhole6)
	pid := s.speakerPID()
	s.end(pid, syscall.SIGKILL)
	var want []string
	for _, text := range kinds {
		want = append(want, "announced "+s.onWire(text))
		for _, r := range s.routers {
			r.waitChange(began, text, false)
		}
	}
	t.Logf("FRR was sent the rules again after %v", s.frr.waitChange(began, discard4, false).Sub(began))
	s.ready()
	s.hold(kinds...)
	s.sent(kinds...)
	// What BIRD kept for us is removed at the End-of-RIB unless it was announced again: it must have come.
	for _, r := range s.routers {
		r.endOfRIB(began)
		r.only(began, want...)
	}
	s.hold(kinds...)
	birdKeeps()
	frrKeeps()
	for _, r := range s.routers {
		for _, e := range r.deletedHoles(began) {
			t.Errorf("the kernel of %s lost the blackhole of %s at %v", r.name, e.Prefix, e.Time)
		}
	}
	// Shorter than one could see by asking: BIRD traces every route that goes.
	for line := range strings.Lines(s.read(s.BIRD.Process().LogFile())[logged:]) {
		if strings.Contains(line, "> removed") {
			t.Errorf("BIRD lost a route: %s", line)
		}
	}
	sameMitigations(t, before, s.mitigations())
	if now := s.speakerPID(); now == pid {
		t.Errorf("the speaker is process %d, as before it was killed", now)
	}
	s.must("withdraw", "--all", "--reason", "e2e")
	s.hold()
	s.leaveNothing()
}

// deletedHoles returns the blackholes that the router's kernel lost since a moment.
func (r *router) deletedHoles(since time.Time) (out []lab.RouteEvent) {
	r.s.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	cancel() // only what has happened already
	_, _ = r.kernel.Wait(ctx, since, func(e lab.RouteEvent) bool {
		if e.Deleted && e.Blackhole {
			out = append(out, e)
		}
		return false
	})
	return out
}

// endOfRIB waits until the router was told since a moment, in each family, that it has everything.
func (r *router) endOfRIB(since time.Time) {
	r.s.t.Helper()
	seen := map[string]bool{}
	_, err := r.wire.Wait(within(r.s.t, patience), since, func(u tap.Update) bool {
		if len(u.Reach)+len(u.Unreach) == 0 {
			seen[fmt.Sprintf("%d/%d", u.AFI, u.SAFI)] = true
		}
		return len(seen) == 4 // plain IPv4 has none in its End-of-RIB and shows as 0/0
	})
	if err != nil {
		r.s.t.Fatalf("%s: End-of-RIB of %v: %v", r.name, seen, err)
	}
}

// Where systemd, and not the controller, starts the speaker: each process may end at any time, in either way, and what
// is announced afterwards is what is desired and due.
func TestProcessesApart(t *testing.T) {
	t.Parallel()
	s := newSite(t, "apart", lab.SiteOptions{NoEnforce: true}, settings{NoSpawn: true, StoreWait: "30s"})
	s.startSpeaker()
	s.start()
	s.ready()

	s.run("a route ends while the speaker is dead", func(t *testing.T) {
		short := s.announce(discard4, 5*time.Second).Deadline.AsTime()
		gone := s.announce(blackhole6, 10*time.Minute)
		s.announce(rate4, 10*time.Minute)
		s.announce(blackhole4, 10*time.Minute)
		s.hold(discard4, blackhole6, rate4, blackhole4)
		s.sent(discard4, blackhole6, rate4, blackhole4)

		keeps := s.bird.keeps(rate4, blackhole4)
		killed := time.Now()
		s.end(s.speaker.Pid(), syscall.SIGKILL)
		s.must("withdraw", gone.Id, "--reason", "e2e")
		if r := s.tmctl("status"); r.code != 4 || !strings.Contains(r.stdout, "speaker") {
			t.Errorf("status without a speaker: %v", r.err())
		}
		if r := s.tmctl("routes"); r.code != 4 {
			t.Errorf("routes without a speaker: %v", r.err())
		}
		s.passed(short)
		// The controller cannot tell the new speaker yet; the wait of 30 s is longer than it takes until it can.
		if err := s.controller.Signal(syscall.SIGSTOP); err != nil {
			t.Fatal(err)
		}
		back := time.Now()
		s.startSpeaker()
		eventually(t, "sessions that wait for the controller", func(context.Context) error {
			st, err := s.speakerStatus()
			if err != nil {
				return err
			}
			for _, p := range st.Peers {
				if p.State != pb.Peer_SESSION_STATE_ESTABLISHED || p.SentRoutes == 0 && p.StoreWaitUntilTime == nil {
					return fmt.Errorf("%s is %s", p.Name, p.State)
				}
			}
			return nil
		})
		if err := s.controller.Signal(syscall.SIGCONT); err != nil {
			t.Fatal(err)
		}
		s.leads()
		s.ready()
		s.hold(rate4, blackhole4)
		s.sent(rate4, blackhole4)
		keeps()
		for _, r := range s.routers {
			r.endOfRIB(killed)
			for _, c := range r.changes(killed) {
				if c.withdraw || c.at.Before(back) {
					continue
				}
				switch c.what {
				case s.onWire(discard4):
					t.Errorf("%s was sent a route past its deadline: %v", r.name, c)
				case s.onWire(blackhole6): // it is in the speaker's journal
					t.Errorf("%s was sent a route that was withdrawn while the speaker was dead: %v", r.name, c)
				}
			}
		}
		s.hold(rate4, blackhole4)
	})

	s.run("the speaker stops and leaves the routes", func(t *testing.T) {
		keeps, holes := s.bird.keeps(rate4, blackhole4), s.frr.keeps(blackhole4)
		s.stopSpeaker()
		s.startSpeaker()
		s.ready()
		s.hold(rate4, blackhole4)
		keeps()
		holes()
	})

	s.run("the speaker starts and no controller answers", func(t *testing.T) {
		s.set.StoreWait = ""
		s.configure()
		s.end(s.controller.Pid(), syscall.SIGKILL)
		keeps := s.bird.keeps(rate4, blackhole4)
		killed := time.Now()
		s.end(s.speaker.Pid(), syscall.SIGKILL)
		s.startSpeaker()
		for _, r := range s.routers { // not before the wait is over, and then all the same
			r.waitChange(killed, rate4, false)
			r.waitChange(killed, blackhole4, false)
			r.endOfRIB(killed)
		}
		s.hold(rate4, blackhole4)
		keeps()
		st, err := s.speakerStatus()
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range st.Peers {
			for _, r := range s.routers {
				if waited := r.waitChange(killed, rate4, false).Sub(p.StateTime.AsTime()); r.name == p.Name && waited < config.DefaultController().Speaker.StoreWait-time.Second {
					t.Errorf("%s was sent the routes %v after its session came up", p.Name, waited)
				}
			}
		}
		s.start()
		s.leads()
		s.ready()
		s.sent(rate4, blackhole4)
	})

	for name, spoil := range map[string]func(path string) error{
		"the journal is lost":    os.Remove,
		"the journal is damaged": func(path string) error { return os.WriteFile(path, []byte("{\"routes\": [\x00"), 0o600) },
		"the journal is cut":     func(path string) error { return os.Truncate(path, 100) },
	} {
		s.run(name, func(t *testing.T) {
			s.end(s.speaker.Pid(), syscall.SIGKILL)
			if err := spoil(filepath.Join(s.dir, "data", "speaker.journal")); err != nil {
				t.Fatal(err)
			}
			// What the speaker does not know any more the controller does.
			s.startSpeaker()
			s.ready()
			s.sent(rate4, blackhole4)
			s.hold(rate4, blackhole4)
		})
	}

	s.run("the speaker stops and withdraws", func(t *testing.T) {
		s.stopSpeaker()
		s.set.OnStop = "withdraw"
		s.configure()
		s.startSpeaker()
		s.ready()
		s.hold(rate4, blackhole4)
		s.stopSpeaker()
		s.hold()
		s.startSpeaker()
		s.ready()
		s.hold(rate4, blackhole4)
		s.sent(rate4, blackhole4)
		s.must("withdraw", "--all", "--reason", "e2e")
		s.hold()
	})

	s.run("the speaker keeps deadlines alone", func(t *testing.T) {
		began := time.Now()
		var ends []time.Time
		for _, text := range kinds {
			ends = append(ends, s.announce(text, 4*time.Second).Deadline.AsTime())
		}
		s.hold(kinds...)
		s.end(s.controller.Pid(), syscall.SIGKILL)
		if time.Now().After(ends[0]) {
			t.Fatal("this machine is too slow for the deadline of this test")
		}
		s.punctual(began, kinds, ends)
		s.start()
		s.leads()
		s.ready()
		s.sent()
		if n := len(s.mitigations()); n != 0 {
			t.Errorf("%d mitigations are active past their deadline", n)
		}
	})

	s.run("the red button with leader and etcd dead", func(t *testing.T) {
		for _, text := range kinds {
			s.announce(text, 10*time.Minute)
		}
		s.hold(kinds...)
		s.end(s.controller.Pid(), syscall.SIGKILL) // etcd runs in it
		speaker := "unix://" + s.dir + "/speaker.sock"
		pressed := time.Now()
		s.must("withdraw", "--all", "--now", "--speaker", speaker, "--reason", "e2e")
		var last time.Time
		for _, r := range s.routers {
			for _, text := range kinds {
				if at := r.waitChange(pressed, text, true); at.After(last) {
					last = at
				}
			}
		}
		t.Logf("%d routes withdrawn at %d routers in %s", len(kinds), len(s.routers), last.Sub(pressed).Round(time.Millisecond))
		s.hold()
		s.start()
		eventually(t, "a leader that says that the button is pressed", func(context.Context) error {
			if r := s.tmctl("status"); r.code != 4 || !strings.Contains(r.stdout, "red button") || len(s.mitigations()) != len(kinds) {
				return fmt.Errorf("status: %v", r.err())
			}
			return nil
		})
		s.hold() // the new leader wants them, and the button holds
		s.must("withdraw", "--release", "--speaker", speaker, "--reason", "e2e")
		s.ready()
		s.hold(kinds...)
		s.must("withdraw", "--all", "--reason", "e2e")
		s.hold()
	})

	s.run("both are dead at the deadline", func(t *testing.T) {
		var last time.Time
		for _, text := range kinds {
			last = s.announce(text, 3*time.Second).Deadline.AsTime()
		}
		s.hold(kinds...)
		killed := time.Now()
		s.end(s.controller.Pid(), syscall.SIGKILL)
		s.end(s.speaker.Pid(), syscall.SIGKILL)
		s.passed(last)
		s.startSpeaker()
		s.start()
		s.leads()
		s.ready()
		for _, r := range s.routers {
			r.endOfRIB(killed)
		}
		s.hold() // BIRD kept them until the speaker said that it has nothing more to say
		s.sent()
		for _, r := range s.routers {
			for _, c := range r.changes(killed) { // to be told again that they are gone does no harm
				if !c.withdraw {
					t.Errorf("%s was sent a route past its deadline: %v", r.name, c)
				}
			}
		}
	})
	s.leaveNothing()
}

// stopSpeaker stops the speaker in good order.
func (s *system) stopSpeaker() {
	s.t.Helper()
	if err := s.speaker.Stop(within(s.t, patience)); err != nil {
		s.t.Fatal(err)
	}
	if err := s.speaker.Err(); err != nil {
		s.t.Errorf("the speaker ended with %v", err)
	}
}

// passed waits until a moment has passed.
func (s *system) passed(at time.Time) {
	s.t.Helper()
	eventually(s.t, "a deadline to pass", func(context.Context) error {
		if left := time.Until(at); left > 0 {
			return fmt.Errorf("%v are left", left)
		}
		return nil
	})
}
