package e2e

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protojson"

	pb "github.com/amooglesoft/trafficmonitor/api/trafficmonitor/v1"
	"github.com/amooglesoft/trafficmonitor/internal/lab"
)

// Routes of every kind.
const (
	discard4   = "destination 203.0.113.10/32 protocol udp source-port 53 then discard"
	discard6   = "destination 2001:db8:113::10/128 protocol tcp tcp-flags syn&!ack then discard"
	rate4      = "destination 203.0.113.11/32 protocol udp source-port 123,389,11211 length 400-65535 then rate-limit 1Mbps"
	rate6      = "destination 2001:db8:113::11/128 protocol udp source-port 53 fragment is-fragment then rate-limit 10Mbps"
	blackhole4 = "destination 203.0.113.66/32 then blackhole"
	blackhole6 = "destination 2001:db8:113::66/128 then blackhole"
)

var kinds = []string{discard4, discard6, rate4, rate6, blackhole4, blackhole6}

// An engineer announces and withdraws routes of every kind; both routers have them and lose them, and tmctl says so.
func TestManual(t *testing.T) {
	t.Parallel()
	s := newSystem(t, "manual", lab.SiteOptions{NoEnforce: true}, settings{})
	begun := map[string]session{}
	for _, r := range s.routers {
		begun[r.name] = r.session()
	}

	s.run("one by one", func(t *testing.T) {
		for _, text := range kinds {
			m := s.announce(text, 10*time.Minute)
			if m.State != pb.Mitigation_STATE_ACTIVE || !strings.HasPrefix(m.Requester, "eva") || !slices.Equal(m.Routes, []string{text}) {
				t.Errorf("announced: %v", m)
			}
			s.hold(text)
			s.sent(text)
			began := time.Now()
			w := ask(s, &pb.WithdrawMitigationsResponse{}, "withdraw", m.Id, "--reason", "e2e", "--hold", "0")
			if len(w.Mitigations) != 1 || w.Mitigations[0].Id != m.Id || len(w.Holds) != 0 {
				t.Errorf("withdrawn: %v", w)
			}
			for _, r := range s.routers {
				r.waitChange(began, text, true)
			}
			s.hold()
			s.sent()
		}
		if list := ask(s, &pb.ListMitigationsResponse{}, "mitigations", "--all").Mitigations; len(list) != len(kinds) {
			t.Errorf("of %d mitigations tmctl remembers %d", len(kinds), len(list))
		}
	})

	s.run("nothing twice", func(t *testing.T) {
		began := time.Now()
		args := []string{"announce", rate4, "--ttl", "10m", "--reason", "e2e", "--request-id", "ticket-4711"}
		preview := ask(s, &pb.CreateMitigationResponse{}, append(args, "--dry-run")...).Preview
		if len(preview.GetPeers()) != 2 || !slices.Equal(preview.Peers[0].Rules, []string{rate4}) || preview.Peers[0].Reason != "" || preview.Peers[0].Cost == 0 {
			t.Errorf("a dry run says of routers %v", preview)
		}
		if m := s.mitigations(); len(m) != 0 {
			t.Errorf("a dry run made %v", m)
		}
		first := ask(s, &pb.CreateMitigationResponse{}, args...).Mitigation
		s.hold(rate4)
		again := ask(s, &pb.CreateMitigationResponse{}, args...).Mitigation
		if first.Id != again.Id {
			t.Errorf("the same request made %s and %s", first.Id, again.Id)
		}
		if r := s.tmctl("announce", blackhole4, "--ttl", "10m", "--reason", "e2e", "--request-id", "ticket-4711"); r.code == 0 {
			t.Errorf("a used request id took another route: %v", r.err())
		}
		s.sent(rate4)
		s.must("withdraw", "--all", "--reason", "e2e", "--hold", "0")
		s.hold()
		for _, r := range s.routers {
			r.waitChange(began, rate4, true)
			r.only(began, "announced "+s.onWire(rate4), "withdrawn "+s.onWire(rate4))
		}
	})

	s.run("all at once, by target, and all", func(t *testing.T) {
		for _, text := range kinds {
			s.announce(text, 10*time.Minute)
		}
		s.hold(kinds...)
		s.sent(kinds...)
		// Exactly the mitigations inside the prefix: 203.0.113.10 and .11 and not .66.
		w := ask(s, &pb.WithdrawMitigationsResponse{}, "withdraw", "--target", "203.0.113.8/29", "--reason", "e2e", "--hold", "1h")
		if len(w.Mitigations) != 2 || len(w.Holds) != 2 {
			t.Errorf("withdrawn by target: %v", w)
		}
		rest := []string{discard6, rate6, blackhole4, blackhole6}
		s.hold(rest...)
		s.sent(rest...)

		holds := ask(s, &pb.ListHoldsResponse{}, "holds").Holds
		var held []string
		for _, h := range holds {
			held = append(held, h.Target)
			if left := time.Until(h.EndTime.AsTime()); left < 59*time.Minute || left > time.Hour {
				t.Errorf("the hold on %s ends in %v", h.Target, left)
			}
		}
		if err := same(held, []string{"203.0.113.10/32", "203.0.113.11/32"}); err != nil {
			t.Errorf("holds: %v", err)
		}
		s.must("release-hold", "203.0.113.10/32", "--reason", "e2e")
		if n := len(ask(s, &pb.ListHoldsResponse{}, "holds").Holds); n != 1 {
			t.Errorf("%d holds after one of two was released", n)
		}
		if r := s.tmctl("release-hold", "203.0.113.10/32", "--reason", "e2e"); r.code != 1 {
			t.Errorf("a hold that is not there: %v", r.err())
		}

		// A hold and a freeze stop automation, not engineers.
		s.must("freeze", "--reason", "e2e")
		s.announce(rate4, 10*time.Minute)
		s.hold(append(rest, rate4)...)
		if f := s.status().Freeze; f == nil {
			t.Error("status does not say that automation is frozen")
		}
		s.must("unfreeze", "--reason", "e2e")

		s.must("withdraw", "--all", "--reason", "e2e", "--hold", "0")
		s.hold()
		s.sent()
		if r := s.tmctl("withdraw", "m-0000000000", "--reason", "e2e"); r.code != 1 {
			t.Errorf("a mitigation that is not there: %v", r.err())
		}
	})

	s.run("ends at its deadline", func(t *testing.T) {
		began := time.Now()
		var ends []time.Time
		for _, text := range kinds {
			ends = append(ends, s.announce(text, 4*time.Second).Deadline.AsTime())
		}
		s.hold(kinds...)
		s.punctual(began, kinds, ends)
		s.sent()
		for _, m := range ask(s, &pb.ListMitigationsResponse{}, "mitigations", "--all").Mitigations[:len(kinds)] {
			if m.State != pb.Mitigation_STATE_ENDED || m.EndReason != "deadline" {
				t.Errorf("ended: %v", m)
			}
		}
	})

	s.run("the red button", func(t *testing.T) {
		for _, text := range kinds {
			s.announce(text, 10*time.Minute)
		}
		s.hold(kinds...)
		speaker := "unix://" + s.dir + "/speaker.sock"
		s.must("withdraw", "--all", "--now", "--speaker", speaker, "--reason", "e2e")
		s.hold()
		if r := s.tmctl("status"); r.code != 4 || !strings.Contains(r.stdout+r.stderr, "red button") {
			t.Errorf("status with the button pressed: %v", r.err())
		}
		s.must("withdraw", "--release", "--speaker", speaker, "--reason", "e2e")
		// Nothing was withdrawn at the controller, so what it wants is back.
		s.hold(kinds...)
		s.must("withdraw", "--all", "--reason", "e2e")
		s.hold()
	})

	s.run("live events", func(t *testing.T) {
		watch, err := s.Control.Start(lab.Command{
			Name: "watch", Argv: []string{program(t, "tmctl"), "--address", "unix://" + s.dir + "/console.sock", "watch", "-o", "json"},
		})
		if err != nil {
			t.Fatal(err)
		}
		// The watch has no beginning one could see but its first event, so announce until it has seen one come and go.
		eventually(t, "the events of a route", func(context.Context) error {
			m := s.announce(discard6, 10*time.Minute)
			s.hold(discard6)
			s.must("withdraw", m.Id, "--reason", "e2e", "--hold", "0")
			s.hold()
			return s.events(watch, "manual_announce", "route_sent", "manual_withdraw", "route_withdrawn")
		})
		if err := watch.Stop(within(t, patience)); err != nil {
			t.Error(err)
		}
	})

	// All that over one session to each router.
	for _, r := range s.routers {
		if was, now := begun[r.name], r.session(); !now.is(was) {
			t.Errorf("the session of %s flapped: %+v, then %+v", r.name, was, now)
		}
	}
	s.leaveNothing()
}

// punctual waits until every router has been told to withdraw each route, and checks that this was at its deadline.
// What is left then are the routes in rest.
func (s *system) punctual(since time.Time, texts []string, ends []time.Time, rest ...string) {
	s.t.Helper()
	for i, text := range texts {
		for _, r := range s.routers {
			at := r.waitChange(since, text, true)
			// The wire is seen by another clock than the deadline was made by, on a machine with other things to do.
			if late := at.Sub(ends[i]); late < -10*time.Millisecond || late > time.Second {
				s.t.Errorf("%s lost %q %v after its deadline", r.name, text, late)
			}
		}
	}
	s.hold(rest...)
}

// events says which kinds of events a tmctl watch has not printed yet.
func (s *system) events(watch *lab.Process, kinds ...string) error {
	s.t.Helper()
	seen := map[string]bool{}
	for line := range strings.Lines(s.read(watch.LogFile())) {
		e := &pb.WatchEventsResponse{}
		if err := protojson.Unmarshal([]byte(line), e); err != nil {
			return fmt.Errorf("tmctl watch printed %q: %w", line, err)
		}
		seen[e.Kind] = true
	}
	for _, k := range kinds {
		if !seen[k] {
			return fmt.Errorf("no %s among %v", k, seen)
		}
	}
	return nil
}
