package lab

import (
	"context"
	"net/netip"
	"testing"
	"time"

	"github.com/amooglesoft/trafficmonitor/internal/route"
)

// pair is a speaker (a BIRD that announces) and a router under test, side by side.
type pair struct {
	lab     *Lab
	speaker *BIRD
	router  *Namespace
	config  RouterConfig
}

func newPair(t *testing.T) pair {
	t.Helper()
	NeedRoot(t)
	NeedTool(t, "bird", "ip", "nft")
	l := New(t, "routers")
	s, r := namespace(t, l, "speaker"), namespace(t, l, "router")
	sa, ra := netip.MustParseAddr("10.66.0.1"), netip.MustParseAddr("10.66.0.2")
	if _, _, err := l.Link(End{In: s, Addresses: []string{"10.66.0.1/24"}}, End{In: r, Addresses: []string{"10.66.0.2/24"}}); err != nil {
		t.Fatal(err)
	}
	speaker, err := s.StartBIRD(deadline(t, 10*time.Second), RouterConfig{
		Name: "speaker", RouterID: sa, ASN: 65000, Local: sa,
		Neighbors: []Neighbor{{Name: "router", Address: ra, ASN: 65012, Announce: true}},
	})
	if err != nil {
		t.Fatal(err)
	}
	return pair{l, speaker, r, RouterConfig{
		RouterID: ra, ASN: 65012, Local: ra, Neighbors: []Neighbor{{Name: "speaker", Address: sa, ASN: 65000}},
	}}
}

// The bytes of a real BGP speaker go into both routers and are read back with their own tools.
func TestRouters(t *testing.T) {
	for name, start := range map[string]func(context.Context, *Namespace, RouterConfig) (Router, error){
		"bird": func(ctx context.Context, n *Namespace, c RouterConfig) (Router, error) { return n.StartBIRD(ctx, c) },
		"frr":  func(ctx context.Context, n *Namespace, c RouterConfig) (Router, error) { return n.StartFRR(ctx, c) },
	} {
		t.Run(name, func(t *testing.T) {
			p := newPair(t)
			if name == "frr" {
				NeedTool(t, "bgpd", "zebra", "staticd", "vtysh")
			}
			ctx := deadline(t, 40*time.Second)
			r, err := start(ctx, p.router, p.config)
			if err != nil {
				t.Fatal(err)
			}
			if err := r.WaitEstablished(ctx); err != nil {
				t.Fatal(err)
			}
			var want4, want6, all []route.Route
			for _, text := range []string{
				"destination 203.0.113.10/32 protocol udp source-port 53 then discard",
				"destination 203.0.113.10/32 protocol tcp tcp-flags syn&!ack length 40-60,1500 then rate-limit 4Mbps",
				"destination 203.0.113.0/24 source 1.2.3.0/24 protocol tcp,udp destination-port 1-65,80 dscp 10 then rate-limit 800kbps",
				"destination 203.0.113.7/32 fragment is-fragment then discard",
				"destination 2001:db8:113::10/128 protocol tcp tcp-flags syn&!ack then discard",
			} {
				x := mustRoute(t, text).Canonical()
				all = append(all, x)
				if x.Family() == route.IPv4 {
					want4 = append(want4, x)
				} else {
					want6 = append(want6, x)
				}
			}
			black4, black6 := netip.MustParsePrefix("203.0.113.99/32"), netip.MustParsePrefix("2001:db8:113::99/128")
			all = append(all, mustRoute(t, "destination 203.0.113.99/32 then blackhole"), mustRoute(t, "destination 2001:db8:113::99/128 then blackhole"))

			for range 3 { // FRR's zebra used to crash in the third round
				if err := p.speaker.Announce(ctx, all...); err != nil {
					t.Fatal(err)
				}
				if _, err := WaitFlowSpec(ctx, r, route.IPv4, want4...); err != nil {
					t.Fatal(err)
				}
				if _, err := WaitFlowSpec(ctx, r, route.IPv6, want6...); err != nil {
					t.Fatal(err)
				}
				if err := WaitBlackholes(ctx, r, route.IPv4, black4); err != nil {
					t.Fatal(err)
				}
				if err := WaitBlackholes(ctx, r, route.IPv6, black6); err != nil {
					t.Fatal(err)
				}
				if err := p.speaker.Announce(ctx); err != nil {
					t.Fatal(err)
				}
				for _, f := range []route.Family{route.IPv4, route.IPv6} {
					if _, err := WaitFlowSpec(ctx, r, f); err != nil {
						t.Fatal(err)
					}
					if err := WaitBlackholes(ctx, r, f); err != nil {
						t.Fatal(err)
					}
				}
			}
			if _, err := r.Command(ctx, "show nonsense"); err == nil {
				t.Error("nonsense was answered")
			}
			// Waiting for what does not come ends with the deadline, and says what is missing.
			short, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
			defer cancel()
			if _, err := WaitFlowSpec(short, r, route.IPv4, want4[0]); err == nil {
				t.Error("a rule that was not announced arrived")
			}
			// After a crash it comes back, with its session and what is announced.
			if err := p.speaker.Announce(ctx, all...); err != nil {
				t.Fatal(err)
			}
			if err := r.Kill(); err != nil {
				t.Fatal(err)
			}
			if _, err := r.FlowSpecRoutes(ctx, route.IPv4); err == nil {
				t.Error("a dead router answers")
			}
			if err := r.Start(ctx); err != nil {
				t.Fatal(err)
			}
			if _, err := WaitFlowSpec(ctx, r, route.IPv4, want4...); err != nil {
				t.Error(err)
			}
			if err := r.Stop(ctx); err != nil {
				t.Error(err)
			}
			if err := p.lab.Close(); err != nil {
				t.Error(err)
			}
			if left := leftovers(t, p.lab.ID()); len(left) > 0 {
				t.Errorf("left behind: %v", left)
			}
		})
	}
}
