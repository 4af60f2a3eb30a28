package main

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	pb "github.com/amooglesoft/trafficmonitor/api/trafficmonitor/v1"
	"github.com/amooglesoft/trafficmonitor/internal/lab"
	"github.com/amooglesoft/trafficmonitor/internal/route"
)

// whole waits until a controller says that nothing is wrong, and that just these sensors watch: by name, with the
// interface and its hook.
func (n *network) whole(controller string, sensors map[string]string) {
	n.until(controller+" is well, its routers are up, its sensors watch", func(ctx context.Context) error {
		if _, err := n.exec(ctx, controller, "tmctl", "status"); err != nil {
			return err
		}
		list, err := ask(ctx, n, controller, &pb.ListSensorsResponse{}, "sensors")
		if err != nil {
			return err
		}
		if len(list.Sensors) != len(sensors) {
			return fmt.Errorf("%d sensors, not %d", len(list.Sensors), len(sensors))
		}
		for _, s := range list.Sensors {
			if !s.Connected || s.Stale || s.Directive.GetRevision() == 0 || len(s.Problems) > 0 {
				return fmt.Errorf("sensor %s: %v", s.Hello.Sensor, s)
			}
			var at []string
			for _, i := range s.Hello.Interfaces {
				at = append(at, i.Name+" "+strings.ToLower(strings.TrimPrefix(i.Attachment.String(), "ATTACHMENT_")))
			}
			if have := strings.Join(at, ", "); have != sensors[s.Hello.Sensor] {
				return fmt.Errorf("sensor %s watches %q, not %q", s.Hello.Sensor, have, sensors[s.Hello.Sensor])
			}
		}
		return nil
	})
}

// desired waits until exactly these routes are desired and each was sent to so many routers.
func (n *network) desired(controller string, routers int, want ...string) {
	n.until(fmt.Sprintf("%s wants %d routes, sent to %d routers", controller, len(want), routers), func(ctx context.Context) error {
		list, err := ask(ctx, n, controller, &pb.ListRoutesResponse{}, "routes")
		if err != nil {
			return err
		}
		var have []string
		for _, r := range list.Routes {
			have = append(have, r.Spec.Route)
			sent := 0
			for _, p := range r.Peers {
				if p.State == pb.PeerRoute_STATE_SENT {
					sent++
				}
			}
			if sent != routers {
				return fmt.Errorf("%s was sent to %d routers: %v", r.Spec.Route, sent, r.Peers)
			}
		}
		if !same(have, want) || len(list.UnexpectedRoutes) > 0 {
			return fmt.Errorf("it wants %q, and what is announced besides is %v", have, list.UnexpectedRoutes)
		}
		return nil
	})
}

// same reports whether two lists hold the same, in any order.
func same(a, b []string) bool {
	a, b = slices.Sorted(slices.Values(a)), slices.Sorted(slices.Values(b))
	return slices.Equal(a, b)
}

// peers waits until a controller says that of its routers just these have a session.
func (n *network) peers(controller string, want ...string) {
	n.until(fmt.Sprintf("tmctl peers of %s: %s up", controller, strings.Join(want, " and ")), func(ctx context.Context) error {
		list, err := ask(ctx, n, controller, &pb.ListPeersResponse{}, "peers")
		if err != nil {
			return err
		}
		var have []string
		for _, p := range list.Peers {
			if p.State == pb.Peer_SESSION_STATE_ESTABLISHED {
				have = append(have, p.Name)
			}
		}
		if !same(have, want) {
			return fmt.Errorf("established: %v", have)
		}
		return nil
	})
}

// hold waits until each of the routers holds exactly these FlowSpec rules, by its own tool's account.
func (n *network) hold(routers []string, want ...string) {
	n.until(fmt.Sprintf("%s hold %d rules, read back there", strings.Join(routers, ", "), len(want)), func(ctx context.Context) error {
		for _, router := range routers {
			have, err := n.flowSpec(ctx, router)
			if err != nil {
				return err
			}
			if !same(have, want) {
				return fmt.Errorf("%s holds %q, not %q", router, have, want)
			}
		}
		return nil
	})
}

// flowSpec reads a router's rules of both families.
func (n *network) flowSpec(ctx context.Context, router string) ([]string, error) {
	var out []string
	for _, f := range []route.Family{route.IPv4, route.IPv6} {
		argv, read := []string{"vtysh", "-c", fmt.Sprintf("show bgp %s flowspec detail", f)}, lab.ParseFRRFlowSpec
		if n.topology.bird(router) {
			argv, read = []string{"birdc", fmt.Sprintf("show route table flowtab%d all", f)}, lab.ParseBIRDFlowSpec
		}
		text, err := n.exec(ctx, router, argv...)
		if err != nil {
			return nil, err
		}
		rules, err := read(text, f)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", router, err)
		}
		for _, r := range rules {
			// The same rule may have come from several neighbours.
			if s := r.Route.String(); !r.Unreachable && !slices.Contains(out, s) {
				out = append(out, s)
			}
		}
	}
	return out, nil
}

// blackholes waits until the kernels of the routers drop all that goes to exactly these hosts.
func (n *network) blackholes(routers []string, want ...string) {
	n.until(fmt.Sprintf("%s blackhole %d hosts in their kernels", strings.Join(routers, ", "), len(want)), func(ctx context.Context) error {
		for _, router := range routers {
			var have []string
			for _, family := range []string{"-4", "-6"} {
				out, err := n.exec(ctx, router, "ip", family, "route", "show", "type", "blackhole")
				if err != nil {
					return err
				}
				for line := range strings.Lines(out) {
					// Of networks a router may have a blackhole so that it can announce them.
					if f := strings.Fields(line); len(f) > 1 && f[0] == "blackhole" && !strings.Contains(f[1], "/") && f[1] != "192.0.2.1" && f[1] != "100::1" {
						have = append(have, f[1])
					}
				}
			}
			if !same(have, want) {
				return fmt.Errorf("%s drops what goes to %q, not %q", router, have, want)
			}
		}
		return nil
	})
}

// enforcedThroughout says that a router's data plane got its rules one after the other, up to most, has never had fewer
// than least from then on, and has rules now: it never let go of one that was to stay.
func (n *network) enforcedThroughout(router string, most, least, rules int) {
	n.do(fmt.Sprintf("%s enforced its rules all the time", router), func(ctx context.Context) error {
		counts, out, err := n.enforced(ctx, router)
		if err != nil {
			return err
		}
		if !stayed(counts, most, least, rules) {
			return fmt.Errorf("rules came and went, not up to %d, then never below %d, and now %d:\n%s", most, least, rules, out)
		}
		return nil
	})
}

// enforced is how many rules a router's data plane had, one time after the other, and the log that says so.
func (n *network) enforced(ctx context.Context, router string) (counts []int, log string, err error) {
	log, err = n.exec(ctx, router, "cat", "/var/log/enforce.log")
	if err != nil {
		return nil, "", err
	}
	for line := range strings.Lines(log) {
		if _, after, ok := strings.Cut(line, " rules="); ok {
			var now int
			if _, err := fmt.Sscan(after, &now); err != nil {
				return nil, log, fmt.Errorf("%w:\n%s", err, log)
			}
			counts = append(counts, now)
		}
	}
	return counts, log, nil
}

// noneReturns waits until a router's data plane has so many rules, and returns a step that says it never had more since.
func (n *network) noneReturns(router string, rules int) func() {
	var before int
	n.until(fmt.Sprintf("%s enforces %d rules", router, rules), func(ctx context.Context) error {
		counts, log, err := n.enforced(ctx, router)
		if err != nil {
			return err
		}
		if before = len(counts); before == 0 || counts[before-1] != rules {
			return fmt.Errorf("not yet:\n%s", log)
		}
		return nil
	})
	return func() {
		n.do(fmt.Sprintf("%s got no rule back that was withdrawn", router), func(ctx context.Context) error {
			counts, log, err := n.enforced(ctx, router)
			if err != nil {
				return err
			}
			if slices.ContainsFunc(counts[before:], func(now int) bool { return now > rules }) {
				return fmt.Errorf("it had more than %d:\n%s", rules, log)
			}
			return nil
		})
	}
}

// stayed reports whether counts never fall before they reach most, never fall below least from then on, and end at end.
func stayed(counts []int, most, least, end int) bool {
	last, reached := 0, false
	for _, now := range counts {
		if reached && now < least || !reached && now < last {
			return false
		}
		last, reached = now, reached || now == most
	}
	return reached && last == end
}

// reachable waits until pings from a node are answered, each of them.
func (n *network) reachable(from string, targets ...string) {
	for _, to := range targets {
		n.until(fmt.Sprintf("%s reaches %s", from, to), func(ctx context.Context) error {
			_, err := n.exec(ctx, from, "ping", "-n", "-c", "3", "-i", "0.02", "-W", "1", to)
			return err
		})
	}
}

// flood is an attack of four seconds or less, as far as the machine lets it; of twenty at most.
type flood struct {
	from, to string
	at       string // the rack
	kind     string // dns or udp9999, which is also the counter at the rack
	packets  uint64
	through  string // the interface of from; eth1 when empty
}

// outcome is what became of an attack: packets sent, within so many seconds, and packets that had arrived then.
type outcome struct {
	Packets uint64
	Seconds float64
	arrived uint64
}

func (f flood) send(ctx context.Context, n *network) (o outcome, err error) {
	before, err := n.seen(ctx, f.at, f.kind)
	if err != nil {
		return o, err
	}
	kind, through := "dns", "eth1"
	if f.kind == "udp9999" {
		kind = "udp"
	}
	if f.through != "" {
		through = f.through
	}
	out, err := n.exec(ctx, f.from, "labnode", "flood", "--to", f.to, "--kind", kind, "--interface", through,
		"--packets", fmt.Sprint(f.packets), "--pps", fmt.Sprint(max(1000, f.packets/4)), "--for", "20s")
	if err != nil {
		return o, err
	}
	if err := json.Unmarshal([]byte(out), &o); err != nil {
		return o, fmt.Errorf("labnode flood: %w: %s", err, out)
	}
	after, err := n.seen(ctx, f.at, f.kind)
	o.arrived = after - before
	return o, err
}

// seen reads a counter of host/seen.nft at a rack.
func (n *network) seen(ctx context.Context, rack, counter string) (uint64, error) {
	out, err := n.exec(ctx, rack, "nft", "-j", "list", "counter", "inet", "seen", counter)
	if err != nil {
		return 0, err
	}
	var answer struct {
		Nftables []struct {
			Counter *struct{ Packets uint64 }
		}
	}
	if err := json.Unmarshal([]byte(out), &answer); err != nil {
		return 0, err
	}
	for _, x := range answer.Nftables {
		if x.Counter != nil {
			return x.Counter.Packets, nil
		}
	}
	return 0, fmt.Errorf("no counter %s: %s", counter, out)
}

// attack sends an attack of 32,000 packets, which automation is to answer.
func (n *network) attack(f flood) {
	f.packets = 32_000
	n.do(fmt.Sprintf("attack from %s on %s", f.from, f.to), func(ctx context.Context) error {
		o, err := f.send(ctx, n)
		if err == nil && o.arrived == 0 {
			err = fmt.Errorf("none of %d packets arrived", o.Packets)
		}
		return err
	})
}

// limited sends the attack again and says that a trickle arrives, at most what the rule lets through.
func (n *network) limited(f flood) {
	f.packets = 32_000
	n.do(fmt.Sprintf("of an attack from %s on %s a trickle arrives", f.from, f.to), func(ctx context.Context) error {
		o, err := f.send(ctx, n)
		// 1 Mbps are 231 packets a second of 540 octets; a second's worth may come at once, and one more is leeway.
		if err == nil && (o.arrived == 0 || float64(o.arrived) > 231*(o.Seconds+2)) {
			err = fmt.Errorf("%d of %d packets arrived in %.1f s", o.arrived, o.Packets, o.Seconds)
		}
		return err
	})
}

// none sends packets of which not one may arrive.
func (n *network) none(f flood) {
	f.packets = 1000
	n.do(fmt.Sprintf("nothing from %s reaches %s", f.from, f.to), func(ctx context.Context) error {
		o, err := f.send(ctx, n)
		if err == nil && (o.Packets != f.packets || o.arrived != 0) {
			err = fmt.Errorf("%d of %d packets arrived", o.arrived, o.Packets)
		}
		return err
	})
}

// all sends packets of which each must arrive.
func (n *network) all(f flood) {
	n.do(fmt.Sprintf("all of %d packets (%s) from %s reach %s", f.packets, f.kind, f.from, f.to), func(ctx context.Context) error {
		o, err := f.send(ctx, n)
		if err == nil && (o.Packets != f.packets || o.arrived != o.Packets) {
			err = fmt.Errorf("%d of %d packets arrived", o.arrived, o.Packets)
		}
		return err
	})
}

// announce announces a route by hand.
func (n *network) announce(controller, text string) {
	n.do("an engineer announces: "+text, func(ctx context.Context) error {
		_, err := n.exec(ctx, controller, "tmctl", "announce", text, "--ttl", "10m", "--reason", "containerlab")
		return err
	})
}

// withdraw takes everything back by hand.
func (n *network) withdraw(controller string, args ...string) {
	n.do("an engineer withdraws everything, at "+controller, func(ctx context.Context) error {
		_, err := n.exec(ctx, controller, slices.Concat([]string{"tmctl"}, args, []string{"withdraw", "--all", "--reason", "containerlab"})...)
		return err
	})
}

// unannounce takes routes back by hand.
func (n *network) unannounce(controller string, texts ...string) {
	n.do(fmt.Sprintf("an engineer withdraws %d routes, at %s", len(texts), controller), func(ctx context.Context) error {
		for _, text := range texts {
			if _, err := n.exec(ctx, controller, "tmctl", "withdraw", "--target", strings.Fields(text)[1], "--reason", "containerlab"); err != nil {
				return err
			}
		}
		return nil
	})
}

// kill ends a node with all its processes at once, as a crash does: nothing is said in good order, links go down.
func (n *network) kill(node string) {
	n.do(node+" is lost", func(ctx context.Context) error {
		_, err := n.docker.run(ctx, "kill", n.container(node))
		return err
	})
}
