package speaker

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"
	"time"

	api "github.com/osrg/gobgp/v3/api"
	"github.com/osrg/gobgp/v3/pkg/server"

	"github.com/amooglesoft/trafficmonitor/internal/compile"
	"github.com/amooglesoft/trafficmonitor/internal/safety"
)

// router is one GoBGP server with one neighbour: the guard of a router.
//
// The server opens the session, keeps it and ends it, and has no routes: the UPDATEs are ours and go past it (encode.go,
// outbox; ADR 4 says why).
//
// There is one server per router: one that waits, or is made to forget its neighbour, is nothing to the others.
//
// StartBgp sets two package variables of GoBGP that the servers read, so servers are started one after the other, and a
// process runs one speaker.
type router struct {
	peer  Peer
	log   *slog.Logger
	m     *metrics
	attrs attributes
	watch *watchers
	guard *guard
	bgp   *server.BgpServer
	grace time.Duration
	wake  chan struct{} // there may be something to send
	// judged is called without the lock when what is in quarantine changed; may be nil.
	judged func()
	// ask numbers a new session for which it is asked whether the set is that of the store; 0: it is not asked.
	ask    func() uint64
	limits safety.Limits
	prober *prober

	mu      sync.Mutex
	set     []*item             // the whole set; guarded by mu
	placed  placement           // as the router gets it; guarded by mu
	made    map[string]*encoded // rules made for this router, by text; guarded by mu
	not     map[string]notFor   // by route ID: why the router does not get it; guarded by mu
	out     *outbox             // guarded by mu
	asked   uint64              // number of the session while it waits for the answer, 0 otherwise; guarded by mu
	pair    *pair               // the established session; guarded by mu
	queue   []byte              // UPDATEs to write to it; guarded by mu
	keys    []string            // of the routes in them that the outbox waits for; guarded by mu
	sending []string            // the keys of what is being written; guarded by mu
	eager   bool                // the last session's end taught something; guarded by mu
	roofs   roofs               // guarded by mu
	told    time.Time           // when watchers were last told of routes written; guarded by mu
	alive   bool                // stop was not called; guarded by mu

	patience  time.Duration          // how long a new session waits for the answer
	twoOctets bool                   // the router knows AS numbers of two octets only; guarded by mu
	again     map[compile.Table]bool // it asked for all of these; guarded by mu
	refill    map[string]*held       // by ID: what it has and is to get again; guarded by mu
	refreshed time.Time              // when all was last sent again; guarded by mu
}

// notFor says why a route is not for a router.
type notFor struct {
	state  RouteState
	reason string
}

func newRouter(o Options, p Peer, m *metrics, w *watchers) (*router, error) {
	log := o.Log.With("peer", p.Name)
	g, err := newGuard(p, o.ASN, o.Log, m, w.changed)
	if err != nil {
		return nil, err
	}
	r := &router{
		peer: p, log: log, m: m, watch: w, guard: g, grace: o.GracefulRestart,
		attrs:  attributes{pick(p.NextHop4, o.NextHop4), pick(p.NextHop6, o.NextHop6), o.Communities, o.ASN, p.ASN == o.ASN, &proofs{}},
		limits: o.Safety, prober: newProber(p),
		wake: make(chan struct{}, 1), not: map[string]notFor{}, again: map[compile.Table]bool{}, refill: map[string]*held{}, roofs: roofs{}, alive: true, patience: o.StoreWait,
		out: newOutbox(p.MaxRules, p.ProgramRate, newSuspicion(cmp.Or(o.blameSpan, blameSpan), nil, nil)),
	}
	g.longLived = o.LongLived
	g.up, g.down, g.reset, g.refresh = r.sessionUp, r.sessionDown, r.reconnect, r.refresh
	if r.bgp, err = o.bgp(o.ASN, o.RouterID, log.With("component", "gobgp")); err != nil {
		g.ln.Close()
		return nil, fmt.Errorf("peer %s: start GoBGP: %w", p.Name, err)
	}
	return r, nil
}

// startBGP starts a server without neighbours.
func startBGP(asn uint32, id netip.Addr, log *slog.Logger) (*server.BgpServer, error) {
	b := server.NewBgpServer(server.LoggerOption(&bgpLog{log: log}))
	go b.Serve() // never returns: GoBGP has no way to end it
	return b, b.StartBgp(context.Background(), &api.StartBgpRequest{Global: &api.Global{Asn: asn, RouterId: id.String(), ListenPort: -1}})
}

// start lets GoBGP connect.
func (r *router) start() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.addPeer()
}

func (r *router) addPeer() error {
	p := &api.Peer{
		Conf: &api.PeerConf{NeighborAddress: "127.0.0.1", PeerAsn: r.peer.ASN},
		Transport: &api.Transport{
			LocalAddress: "127.0.0.1", RemotePort: uint32(r.guard.port()),
		},
		Timers: &api.Timers{Config: &api.TimersConfig{
			HoldTime: uint64(r.peer.HoldTime / time.Second), KeepaliveInterval: uint64(max(r.peer.HoldTime/3/time.Second, 1)), ConnectRetry: 1,
		}},
	}
	if r.grace > 0 {
		p.GracefulRestart = &api.GracefulRestart{
			Enabled: true, RestartTime: uint32(r.grace / time.Second),
		}
	}
	for _, t := range r.peer.tables() {
		afi, safi := afiOf(t)
		p.AfiSafis = append(p.AfiSafis, &api.AfiSafi{
			Config:            &api.AfiSafiConfig{Family: &api.Family{Afi: api.Family_Afi(afi), Safi: api.Family_Safi(safi)}, Enabled: true},
			MpGracefulRestart: &api.MpGracefulRestart{Config: &api.MpGracefulRestartConfig{Enabled: r.grace > 0}},
		})
	}
	if err := r.bgp.AddPeer(context.Background(), &api.AddPeerRequest{Peer: p}); err != nil {
		return fmt.Errorf("peer %s: add to GoBGP: %w", r.peer.Name, err)
	}
	return nil
}

// cease closes the session with a NOTIFICATION, upon which the router drops our routes, and waits until it is out.
func (r *router) cease() {
	r.stop()
	timeout := time.After(stopTimeout)
	for {
		next := r.watch.next()
		if r.guard.snapshot().state < OpenSent {
			return
		}
		select {
		case <-next:
		case <-timeout:
			r.log.Error("the router did not take the end of the session in time: its hold timer will end it", "timeout", stopTimeout)
			return
		}
	}
}

const stopTimeout = 2 * time.Second

// stop ends GoBGP. What it says to the router on the way is up to the guard, which may be closed already.
func (r *router) stop() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.alive {
		return
	}
	r.alive = false
	done := make(chan struct{})
	go func() {
		defer close(done)
		// Not StopBgp, which waits for the peer and then overwrites what the peer's goroutines may still read.
		_ = r.bgp.DeletePeer(context.Background(), &api.DeletePeerRequest{Address: "127.0.0.1"}) // fails when it was not added
	}()
	select {
	case <-done:
	case <-time.After(stopTimeout):
		r.log.Error("GoBGP does not stop; the process ends without it")
	}
}
