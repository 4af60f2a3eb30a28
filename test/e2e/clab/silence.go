package main

import (
	"context"
	"errors"
	"fmt"
	"log"
	"maps"
	"slices"
	"strings"
	"time"

	pb "github.com/amooglesoft/trafficmonitor/api/trafficmonitor/v1"
)

// The loss of a node that says nothing more: no FIN, no RST, and no interface that goes down beside it.

// silence drops every packet that a node receives or sends.
func (n *network) silence(node string) {
	n.do(node+" falls silent", func(ctx context.Context) error {
		_, err := n.exec(ctx, node, "nft", `table inet silence {
	chain in { type filter hook prerouting priority -500; iif != lo drop; }
	chain out { type filter hook output priority -500; oif != lo drop; }
}`)
		return err
	})
}

// speak takes that away again.
func (n *network) speak(node string) {
	n.do(node+" is heard again", func(ctx context.Context) error {
		_, err := n.exec(ctx, node, "nft", "delete table inet silence")
		return err
	})
}

// powerless cuts an FRR off from its power: it falls silent, and its BGP loses all it knew. What it then does when it is
// heard again, it does as after a start.
func (n *network) powerless(node string) {
	n.silence(node)
	n.do(node+" loses its state", func(ctx context.Context) error {
		_, err := n.exec(ctx, node, "sh", "-c", "kill -9 $(cat /var/run/frr/bgpd.pid)")
		return err
	})
	n.until(node+" starts, and writes down what it will receive", func(ctx context.Context) error {
		out, err := n.exec(ctx, node, "vtysh", "-c", "show bgp ipv4 flowspec detail")
		if err != nil || strings.Contains(out, "entry") {
			return fmt.Errorf("%w: %s", errors.Join(err, errors.New("not yet")), out)
		}
		_, err = n.exec(ctx, node, "vtysh", "-d", "bgpd", "-c", "debug bgp flowspec", "-c", "debug bgp updates in", "-c", "configure terminal",
			"-c", "log timestamp precision 3", "-c", "log file "+receivedLog+" debugging")
		return err
	})
	n.hold([]string{node})
	n.blackholes([]string{node})
}

const receivedLog = "/tmp/received.log"

// sessions are the established sessions of a controller's speaker, with the time since when they are.
func (n *network) sessions(ctx context.Context, controller string) (map[string]time.Time, error) {
	list, err := ask(ctx, n, controller, &pb.ListPeersResponse{}, "peers")
	if err != nil {
		return nil, err
	}
	out := map[string]time.Time{}
	for _, p := range list.Peers {
		if p.State == pb.Peer_SESSION_STATE_ESTABLISHED {
			out[p.Name] = p.StateTime.AsTime()
		}
	}
	return out, nil
}

// undisturbed notes the sessions of controllers to a router, and returns a step that says they are the same ones still.
func (n *network) undisturbed(router string, controllers ...string) func() {
	look := func(ctx context.Context) (map[string]time.Time, error) {
		out := map[string]time.Time{}
		for _, c := range controllers {
			s, err := n.sessions(ctx, c)
			if err != nil {
				return nil, err
			}
			if _, up := s[router]; !up {
				return nil, fmt.Errorf("%s has no session to %s", c, router)
			}
			out[c] = s[router]
		}
		return out, nil
	}
	var before map[string]time.Time
	n.do("sessions to "+router+" are noted", func(ctx context.Context) (err error) {
		before, err = look(ctx)
		return err
	})
	return func() {
		n.do("sessions to "+router+" are the same still", func(ctx context.Context) error {
			now, err := look(ctx)
			if err == nil && !maps.EqualFunc(before, now, time.Time.Equal) {
				err = fmt.Errorf("up since %v, and before since %v", now, before)
			}
			return err
		})
	}
}

// missed waits until a controller says that a router is not there: its state, its readiness, and what the alert
// TrafficMonitorNoBGPSession asks for.
func (n *network) missed(controller, router string) {
	n.until(fmt.Sprintf("%s says that %s is lost: peers, status, metric of the alert", controller, router), func(ctx context.Context) error {
		list, err := ask(ctx, n, controller, &pb.ListPeersResponse{}, "peers")
		if err != nil {
			return err
		}
		for _, p := range list.Peers {
			if p.Name == router && (p.State == pb.Peer_SESSION_STATE_ESTABLISHED || !strings.Contains(strings.ToLower(p.LastError), "hold")) {
				return fmt.Errorf("%v, %q", p.State, p.LastError)
			}
		}
		if out, err := n.exec(ctx, controller, "tmctl", "status"); err == nil {
			return fmt.Errorf("tmctl status says that all is well: %s", out)
		} else if !strings.Contains(err.Error(), "exit status 4") {
			return err
		}
		state, err := n.metric(ctx, controller, fmt.Sprintf(`trafficmonitor_speaker_peer_state{peer=%q}`, router))
		if err == nil && state >= 6 {
			err = fmt.Errorf("the metric says %v", state)
		}
		return err
	})
}

// metric reads a series of a controller's speaker.
func (n *network) metric(ctx context.Context, controller, series string) (v float64, err error) {
	out, err := n.exec(ctx, controller, "bash", "-c", `exec 3<>/dev/tcp/127.0.0.1/7446 && printf 'GET /metrics HTTP/1.0\r\n\r\n' >&3 && cat <&3`)
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(out) {
		if text, ok := strings.CutPrefix(line, series+" "); ok {
			_, err := fmt.Sscan(text, &v)
			return v, err
		}
	}
	return 0, fmt.Errorf("no series %s", series)
}

// inOrder says that a router that lost its state was sent classes of routes one behind the other, and no faster than its
// pace: each class is given by what its lines in the router's log hold. Each session has the order; the first line about
// a route, of whichever session, has it then, too.
func (n *network) inOrder(router string, rate float64, classes ...[]string) {
	n.do(router+" was sent its routes in the order of their value, and at its pace", func(ctx context.Context) error {
		out, err := n.exec(ctx, router, "cat", receivedLog)
		if err != nil {
			return err
		}
		lines := strings.Split(out, "\n")
		first := func(text string) int {
			return slices.IndexFunc(lines, func(l string) bool { return strings.Contains(l, text) })
		}
		behind, routes := -1, 0
		var from, to time.Time
		for i, class := range classes {
			last := behind
			for _, text := range class {
				at := first(text)
				if at < 0 {
					return fmt.Errorf("nothing was received of %q:\n%s", text, out)
				}
				if at <= behind {
					return fmt.Errorf("%q of class %d was received before the last of class %d:\n%s", text, i, i-1, out)
				}
				when, err := time.Parse("2006/01/02 15:04:05.000", lines[at][:min(len(lines[at]), 23)])
				if err != nil {
					return err
				}
				if from.IsZero() || when.Before(from) {
					from = when
				}
				if when.After(to) {
					to = when
				}
				last, routes = max(last, at), routes+1
			}
			behind = last
		}
		// Half of what the pace asks for: several sessions send, and some routes may go at once.
		if took, least := to.Sub(from).Seconds(), float64(routes)/rate/2; took < least {
			return fmt.Errorf("%d routes came within %.1f s, at a pace of %v a second", routes, took, rate)
		}
		log.Printf("              %d routes in %.1f s", routes, to.Sub(from).Seconds())
		return nil
	})
}
