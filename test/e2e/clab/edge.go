package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

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

	// A router loses its power: nobody is told. It comes back and knows nothing.
	rules, holes := edgeBacklog()
	for _, text := range slices.Concat(rules[1], rules[0], holes) { // the least valuable first
		n.announce(others[0], text)
	}
	every := slices.Concat([]string{limited4}, rules[0], rules[1])
	hosts := []string{"203.0.113.77"}
	for _, h := range holes {
		hosts = append(hosts, strings.TrimSuffix(strings.Fields(h)[1], "/32"))
	}
	n.hold(edges, every...)
	n.blackholes(edges, hosts...)
	same := n.undisturbed("edge2", controllers...)
	n.powerless("edge1")
	for _, c := range controllers {
		n.missed(c, "edge1")
		n.peers(c, "edge2")
	}
	n.limited(by2(on4))
	n.none(by2(onBlack))
	n.speak("edge1")
	for _, c := range controllers {
		n.peers(c, edges...)
		n.desired(c, 2, slices.Concat(every, []string{black}, holes)...)
	}
	n.hold(edges, every...)
	n.blackholes(edges, hosts...)
	n.inOrder("edge1", 5, lines(append(holes, black)), lines(rules[0]), lines(rules[1]), lines([]string{limited4}))
	same()
	n.none(onBlack)

	// The controller that leads falls silent, and comes back to find that another one does. What was withdrawn meanwhile stays so.
	n.silence(leader)
	next := n.leader(others)
	n.unannounce(next, slices.Concat(rules[0], rules[1], holes)...)
	for _, c := range others {
		n.desired(c, 2, limited4, black)
	}
	n.hold(edges, limited4)
	n.blackholes(edges, "203.0.113.77")
	n.limited(by2(on4))
	// Its speaker has them still, for it could not be told. It announces nothing before its controller has read etcd.
	var noneReturned []func()
	for _, r := range edges {
		noneReturned = append(noneReturned, n.noneReturns(r, 1))
	}
	n.speak(leader)
	for _, c := range controllers {
		n.peers(c, edges...)
		n.desired(c, 2, limited4, black)
	}
	for _, check := range noneReturned {
		check()
	}
	leader = n.leader(controllers)
	others = slices.DeleteFunc(slices.Clone(controllers), func(c string) bool { return c == leader })
	n.hold(edges, limited4)
	n.blackholes(edges, "203.0.113.77")

	n.kill(leader)
	next = n.leader(others)
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
	n.enforcedThroughout("edge2", len(every), 1, 2)

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

// edgeBacklog are routes by hand: discards, rate limits, and blackholes, which are worth most.
func edgeBacklog() (rules [2][]string, holes []string) {
	for i := range 4 {
		rules[0] = append(rules[0], fmt.Sprintf("destination 203.0.113.%d/32 protocol udp source-port 19 then discard", 100+i))
		rules[1] = append(rules[1], fmt.Sprintf("destination 203.0.113.%d/32 protocol udp source-port 123 then rate-limit 1Mbps", 110+i))
		holes = append(holes, fmt.Sprintf("destination 203.0.113.%d/32 then blackhole", 120+i))
	}
	return rules, holes
}

// lines are the words that FRR's log has of routes: their destinations.
func lines(routes []string) (out []string) {
	for _, r := range routes {
		out = append(out, strings.Fields(r)[1])
	}
	return out
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
