package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	pb "github.com/amooglesoft/trafficmonitor/api/trafficmonitor/v1"
)

// exchange: an attack is answered by FlowSpec at our own router; blackholes made by hand reach the members through route
// servers that know nothing of FlowSpec; a router does its worst; a route server is lost; all is withdrawn.
func exchange(n *network) {
	const (
		limited4 = "destination 203.0.113.10/32 protocol udp source-port 53 then rate-limit 1Mbps"
		black4   = "destination 203.0.113.77/32 then blackhole"
		black6   = "destination 2001:db8:113:1::77/128 then blackhole"
	)
	on4 := flood{from: "users1", to: "203.0.113.10", at: "rack1", kind: "dns"}
	other := flood{from: "users2", to: "203.0.113.10", at: "rack1", kind: "udp9999", packets: 1000}
	onBlack4 := flood{from: "users1", to: "203.0.113.77", at: "rack1", kind: "udp9999", packets: 1000}
	onBlack6 := flood{from: "users2", to: "2001:db8:113:1::77", at: "rack1", kind: "udp9999", packets: 1000}
	who := func(f flood, from string) flood { f.from = from; return f }
	droppers := []string{"home1", "member1", "member2"}

	n.whole("ctl1", map[string]string{"rack1": "eth1 tcx"})
	n.reachable("users1", on4.to, onBlack6.to)
	n.reachable("users2", on4.to, onBlack6.to)
	n.all(onBlack4)
	n.all(onBlack6)

	n.attack(on4)
	n.desired("ctl1", 2, limited4) // home1, evil: the route servers have no FlowSpec
	n.hold([]string{"home1"}, limited4)
	n.limited(on4)
	n.limited(who(on4, "users2"))
	n.all(other)

	n.announce("ctl1", black4)
	n.announce("ctl1", black6)
	n.served("203.0.113.77/32", "2001:db8:113:1::77/128")
	n.blackholes(droppers, "203.0.113.77", "2001:db8:113:1::77")
	n.none(onBlack4)
	n.none(who(onBlack4, "users2"))
	n.none(onBlack6)
	n.reachable("users1", on4.to)

	n.misbehave("ctl1", "evil")
	n.hold([]string{"home1"}, limited4)
	n.blackholes(droppers, "203.0.113.77", "2001:db8:113:1::77")
	n.enforcedThroughout("home1", 1, 1, 1)

	n.kill("rs1")
	n.peers("ctl1", "home1", "rs2", "evil")
	n.blackholes(droppers, "203.0.113.77", "2001:db8:113:1::77")
	n.reachable("users1", on4.to, "2001:db8:113:1::10")
	n.none(onBlack4)
	n.none(onBlack6)

	n.withdraw("ctl1")
	n.desired("ctl1", 3)
	n.hold([]string{"home1"})
	n.blackholes(droppers)
	on4.packets = 4000
	n.all(on4)
	n.all(onBlack4)
	n.all(onBlack6)
}

// served waits until both route servers show these prefixes with the BLACKHOLE community, by their own tools' account.
func (n *network) served(prefixes ...string) {
	n.until("rs1 (OpenBGPD) and rs2 (BIRD) serve "+strings.Join(prefixes, ", "), func(ctx context.Context) error {
		for _, p := range prefixes {
			openbgpd, err := n.exec(ctx, "rs1", "bgpctl", "show", "rib", "detail", p)
			if err != nil {
				return err
			}
			bird, err := n.exec(ctx, "rs2", "birdc", "show route all for "+p)
			if err != nil {
				return err
			}
			if !strings.Contains(openbgpd, "BLACKHOLE") || !strings.Contains(bird, "(65535,666)") {
				return fmt.Errorf("%s:\n%s\n%s", p, openbgpd, bird)
			}
		}
		return nil
	})
}

// misbehave has a router do all that it can think of, and says that no other session of the controller's speaker was
// touched, that the speaker is the same process, and that the router has its session back in the end.
func (n *network) misbehave(controller, router string) {
	type state struct {
		sessions map[string]time.Time
		speaker  string
	}
	look := func(ctx context.Context) (s state, err error) {
		peers, err := ask(ctx, n, controller, &pb.ListPeersResponse{}, "peers")
		if err != nil {
			return s, err
		}
		s.sessions = map[string]time.Time{}
		for _, p := range peers.Peers {
			if p.State == pb.Peer_SESSION_STATE_ESTABLISHED {
				s.sessions[p.Name] = p.StateTime.AsTime()
			}
		}
		s.speaker, err = n.exec(ctx, controller, "pgrep", "-f", "controller speaker")
		return s, err
	}
	var before state
	n.do(router+" begins to misbehave", func(ctx context.Context) (err error) {
		if before, err = look(ctx); err != nil {
			return err
		}
		_, err = n.exec(ctx, router, "touch", "/tmp/misbehave")
		return err
	})
	n.until(router+" is through with its misdeeds, and has its session back", func(ctx context.Context) error {
		text, err := output(ctx, n.docker.env(), nil, "sh", "-c", "docker logs "+n.container(router)+" 2>&1")
		if err != nil {
			return err
		}
		now, err := look(ctx)
		if err != nil {
			return err
		}
		if _, up := now.sessions[router]; !up || !strings.Contains(text, "misdeed=none") {
			return fmt.Errorf("established: %v; it did:\n%s", now.sessions, text)
		}
		return nil
	})
	n.do("no other session was touched, and the speaker lives", func(ctx context.Context) error {
		now, err := look(ctx)
		if err != nil {
			return err
		}
		for name, since := range before.sessions {
			if name != router && !now.sessions[name].Equal(since) {
				return fmt.Errorf("the session to %s was up since %v, and is since %v", name, since, now.sessions[name])
			}
		}
		if now.speaker != before.speaker {
			return fmt.Errorf("the speaker was process %s and is %s", before.speaker, now.speaker)
		}
		return nil
	})
}
