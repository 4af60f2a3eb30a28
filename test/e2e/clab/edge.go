package main

import (
	"context"
	"errors"
	"fmt"
	"slices"

	pb "github.com/amooglesoft/trafficmonitor/api/trafficmonitor/v1"
)

// edge: an attack through one transit is answered at both; a host is blackholed by way of a controller that does not lead;
// the controller that leads is lost, and another one answers the next attack; an edge router is lost; all is withdrawn.
func edge(n *network) {
	const (
		limited4 = "destination 203.0.113.10/32 protocol udp source-port 53 then rate-limit 1Mbps"
		limited6 = "destination 2001:db8:113:1::10/128 protocol udp source-port 53 then rate-limit 1Mbps"
		black    = "destination 203.0.113.77/32 then blackhole"
	)
	on4 := flood{from: "internet", to: "203.0.113.10", at: "rack1", kind: "dns"}
	on6 := flood{from: "internet", to: "2001:db8:113:1::10", at: "rack1", kind: "dns"}
	other := flood{from: "internet", to: "203.0.113.10", at: "rack1", kind: "udp9999", packets: 1000}
	onBlack := flood{from: "internet", to: "203.0.113.77", at: "rack1", kind: "udp9999", packets: 1000}
	by2 := func(f flood) flood { f.through = "eth2"; return f }
	edges, controllers := []string{"edge1", "edge2"}, []string{"ctl1", "ctl2", "ctl3"}

	for _, c := range controllers {
		n.whole(c, map[string]string{"rack1": "eth1 tcx"})
	}
	n.reachable("internet", on4.to, on6.to)
	n.all(other)
	n.all(by2(onBlack))

	n.attack(on4)
	for _, c := range controllers {
		n.desired(c, 2, limited4)
	}
	n.hold(edges, limited4)
	n.limited(on4)
	n.limited(by2(on4))
	n.all(by2(other))

	leader := n.leader(controllers)
	others := slices.DeleteFunc(slices.Clone(controllers), func(c string) bool { return c == leader })
	n.announce(others[0], black)
	n.blackholes(edges, "203.0.113.77")
	n.none(onBlack)
	n.none(by2(onBlack))

	n.kill(leader)
	next := n.leader(others)
	n.hold(edges, limited4)
	n.blackholes(edges, "203.0.113.77")
	n.limited(by2(on4))
	n.attack(on6)
	for _, c := range others {
		n.desired(c, 2, limited4, limited6, black)
	}
	n.hold(edges, limited4, limited6)
	n.limited(on6)
	n.limited(by2(on6))

	n.kill("edge1")
	for _, c := range others {
		n.peers(c, "edge2")
		n.desired(c, 1, limited4, limited6, black)
	}
	n.reachable("internet", on4.to, on6.to)
	n.hold([]string{"edge2"}, limited4, limited6)
	n.blackholes([]string{"edge2"}, "203.0.113.77")
	n.limited(by2(on4))
	n.none(by2(onBlack))
	n.enforcedThroughout("edge2", 2)

	n.withdraw(next)
	for _, c := range others {
		n.desired(c, 1)
	}
	n.hold([]string{"edge2"})
	n.blackholes([]string{"edge2"})
	on4.packets, on6.packets = 4000, 4000
	n.all(by2(on4))
	n.all(by2(on6))
	n.all(by2(onBlack))
}

// leader waits until one of the controllers leads, all of them agree on it, and returns it.
func (n *network) leader(controllers []string) (leader string) {
	n.until(fmt.Sprintf("one of %v leads", controllers), func(ctx context.Context) error {
		leader = ""
		for _, c := range controllers {
			s, err := ask(ctx, n, c, &pb.GetStatusResponse{}, "status")
			switch {
			case err != nil:
				return err
			case !slices.Contains(controllers, s.Leader):
				return fmt.Errorf("%s says that %q leads", c, s.Leader)
			case leader != "" && s.Leader != leader:
				return errors.New("they do not agree")
			}
			leader = s.Leader
		}
		return nil
	})
	return leader
}
