package speaker

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"testing"
	"time"

	api "github.com/osrg/gobgp/v3/api"
	"github.com/osrg/gobgp/v3/pkg/server"
)

func manyRoutes(n int) []Desired {
	out := make([]Desired, n)
	now := time.Now()
	for i := range out {
		out[i] = Desired{
			Route:   mustParse(fmt.Sprintf("destination 10.%d.%d.%d/32 protocol udp source-port 53 then discard", i>>16, i>>8&255, i&255)),
			Created: now.Add(-time.Hour), Deadline: now.Add(time.Hour), Owners: []string{fmt.Sprintf("m-%d", i)},
		}
	}
	return out
}

// How long a set takes to the last UPDATE at the last router, journal synced: one new route among N that stay.
func BenchmarkSetOne(b *testing.B) {
	for _, have := range []int{0, 100, 1000, 10000} {
		b.Run(fmt.Sprintf("have=%d", have), func(b *testing.B) {
			f := newFakeRouter(b).serve()
			o := testOptions(b, f.peer("edge1"))
			o.Log = slog.New(slog.DiscardHandler)
			s := start(b, o)
			routes := manyRoutes(have + 1)
			s.set(1, 1, routes[:have])
			waitFor(b, "the routes", func() bool { return f.sessions() == 1 && f.count() == have })
			rev := uint64(1)
			var on time.Duration
			for b.Loop() {
				rev++
				begin := time.Now()
				s.set(1, rev, routes)
				f.await(b, have+1)
				on += time.Since(begin)
				rev++
				s.set(1, rev, routes[:have])
				f.await(b, have)
			}
			b.ReportMetric(float64(on.Microseconds())/1000/float64(b.N), "ms/announce")
		})
	}
}

// How long an engineer's new blackhole takes to the router past a backlog of N rules that go out at a pace.
func BenchmarkUrgent(b *testing.B) {
	for _, backlog := range []int{0, 1000, 10000} {
		b.Run(fmt.Sprintf("backlog=%d", backlog), func(b *testing.B) {
			f := newFakeRouter(b).serve()
			p := f.peer("edge1")
			p.ProgramRate = 250
			o := testOptions(b, p)
			o.Log = slog.New(slog.DiscardHandler)
			s := start(b, o)
			waitFor(b, "the session", func() bool { return f.sessions() == 1 })
			routes := manyRoutes(backlog)
			s.set(1, 1, routes)
			rev := uint64(1)
			var took []time.Duration
			for b.Loop() {
				rev++
				urgent := desired(b, fmt.Sprintf("destination 10.255.%d.%d/32 then blackhole", rev>>8, rev&255))[0]
				urgent.Created = time.Now()
				routes = append(routes, urgent)
				match := "blackhole " + urgent.Route.Match.Destination.String()
				begin := time.Now()
				s.set(1, rev, routes)
				f.awaitMatch(b, match)
				took = append(took, time.Since(begin))
				if p := s.status().Peers[0]; backlog > 0 && p.Routes[Pending] == 0 {
					b.Fatal("there is no backlog any more")
				}
			}
			slices.Sort(took)
			ms := func(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
			b.ReportMetric(ms(took[len(took)/2]), "ms/p50")
			b.ReportMetric(ms(took[len(took)-1]), "ms/max")
		})
	}
}

// Many routes at once to some routers, beside GoBGP that does nothing but that: one server, the same routers.
func BenchmarkSetMany(b *testing.B) {
	for _, n := range []int{1000, 10000} {
		for _, peers := range []int{1, 4} {
			routes := manyRoutes(n)
			b.Run(fmt.Sprintf("speaker/routes=%d/peers=%d", n, peers), func(b *testing.B) {
				rs, ps := fakeRouterSet(b, peers)
				o := testOptions(b, ps...)
				o.Log = slog.New(slog.DiscardHandler)
				s := start(b, o)
				for _, f := range rs {
					waitFor(b, "the session", func() bool { return f.sessions() == 1 })
				}
				rev := uint64(0)
				var on time.Duration
				for b.Loop() {
					rev++
					begin := time.Now()
					s.set(1, rev, routes)
					for _, f := range rs {
						f.await(b, n)
					}
					on += time.Since(begin)
					rev++
					s.set(1, rev, nil)
					for _, f := range rs {
						f.await(b, 0)
					}
				}
				b.ReportMetric(on.Seconds()/float64(b.N), "s/announce")
			})
			b.Run(fmt.Sprintf("bare/routes=%d/peers=%d", n, peers), func(b *testing.B) {
				rs, ps := fakeRouterSet(b, peers)
				bgp := server.NewBgpServer(server.LoggerOption(&bgpLog{log: slog.New(slog.DiscardHandler)}))
				go bgp.Serve()
				ctx := context.Background()
				if err := bgp.StartBgp(ctx, &api.StartBgpRequest{Global: &api.Global{Asn: 65000, RouterId: "10.66.0.1", ListenPort: -1}}); err != nil {
					b.Fatal(err)
				}
				defer bgp.StopBgp(ctx, &api.StopBgpRequest{})
				for _, p := range ps {
					err := bgp.AddPeer(ctx, &api.AddPeerRequest{Peer: &api.Peer{
						Conf:      &api.PeerConf{NeighborAddress: p.Address.String(), PeerAsn: p.ASN},
						Transport: &api.Transport{RemotePort: uint32(p.Port)},
						AfiSafis:  []*api.AfiSafi{{Config: &api.AfiSafiConfig{Family: &api.Family{Afi: 1, Safi: 133}, Enabled: true}}},
					}})
					if err != nil {
						b.Fatal(err)
					}
				}
				for _, f := range rs {
					waitFor(b, "the session", func() bool { return f.sessions() == 1 })
				}
				send := func(withdraw bool) {
					for _, d := range routes {
						e, err := encodeRoute(d.Route)
						if err != nil {
							b.Fatal(err)
						}
						ec, _ := d.Route.Action.ExtendedCommunities()
						p := &api.Path{
							Family: &api.Family{Afi: 1, Safi: 133}, NlriBinary: e.nlri, IsWithdraw: withdraw,
							PattrsBinary: [][]byte{{0x40, 1, 1, 0}, {0x40, 3, 4, 0, 0, 0, 0}, append([]byte{0xc0, 16, byte(len(ec))}, ec...)},
						}
						if _, err := bgp.AddPath(ctx, &api.AddPathRequest{TableType: api.TableType_GLOBAL, Path: p}); err != nil {
							b.Fatal(err)
						}
					}
				}
				var on time.Duration
				for b.Loop() {
					begin := time.Now()
					send(false)
					for _, f := range rs {
						f.await(b, n)
					}
					on += time.Since(begin)
					send(true)
					for _, f := range rs {
						f.await(b, 0)
					}
				}
				b.ReportMetric(on.Seconds()/float64(b.N), "s/announce")
			})
		}
	}
}

func fakeRouterSet(b *testing.B, n int) (rs []*fakeRouter, ps []Peer) {
	for i := range n {
		f := newFakeRouter(b).serve()
		rs, ps = append(rs, f), append(ps, f.peer(fmt.Sprintf("edge%d", i)))
	}
	return rs, ps
}
