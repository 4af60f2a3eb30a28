package speaker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"
	"time"

	api "github.com/osrg/gobgp/v3/api"
	"github.com/osrg/gobgp/v3/pkg/server"

	"github.com/amooglesoft/trafficmonitor/internal/compile"
)

// router is one GoBGP server with one neighbour: the guard of a router.
//
// There is one server per router, not one with export policies: each router gets its own compiled set without tags on
// routes, a router that does not come back delays no other's restart (GoBGP holds all routes back until every
// neighbour has sent its End-of-RIB), and the servers work in parallel.
//
// StartBgp sets two package variables of GoBGP, so servers are started one after the other and before any has routes, and
// a process runs one speaker.
type router struct {
	peer  Peer
	log   *slog.Logger
	m     *metrics
	attrs attributes
	watch *watchers
	guard *guard
	bgp   *server.BgpServer
	grace time.Duration

	mu    sync.Mutex
	rib   map[string]ribEntry // by route ID: what GoBGP holds; guarded by mu
	not   map[string]string   // by route ID: why the router does not get it; guarded by mu
	alive bool                // StopBgp was not called; guarded by mu
}

type ribEntry struct {
	item
	added time.Time
}

func newRouter(o Options, p Peer, m *metrics, w *watchers) (*router, error) {
	log := o.Log.With("peer", p.Name)
	g, err := newGuard(p, o.ASN, o.Log, m, w.changed)
	if err != nil {
		return nil, err
	}
	pick := func(a, b netip.Addr) netip.Addr {
		if a.IsValid() {
			return a
		}
		return b
	}
	r := &router{
		peer: p, log: log, m: m, watch: w, guard: g, grace: o.GracefulRestart,
		attrs: attributes{pick(p.NextHop4, o.NextHop4), pick(p.NextHop6, o.NextHop6), o.Communities},
		bgp:   server.NewBgpServer(server.LoggerOption(&bgpLog{log: log.With("component", "gobgp")})),
		rib:   map[string]ribEntry{}, not: map[string]string{}, alive: true,
	}
	g.reset = r.reconnect
	go r.bgp.Serve() // never returns: GoBGP has no way to end it
	err = r.bgp.StartBgp(context.Background(), &api.StartBgpRequest{Global: &api.Global{
		Asn: o.ASN, RouterId: o.RouterID.String(), ListenPort: -1,
	}})
	if err != nil {
		g.ln.Close()
		return nil, fmt.Errorf("peer %s: start GoBGP: %w", p.Name, err)
	}
	return r, nil
}

// start lets GoBGP connect. Routes that are there already are announced before anything else; with restarting set the
// router is told that we were away and kept our state.
func (r *router) start(restarting bool) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.addPeer(restarting)
}

func (r *router) addPeer(restarting bool) error {
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
			Enabled: true, RestartTime: uint32(r.grace / time.Second), DeferralTime: 2, LocalRestarting: restarting,
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

// reconnect makes GoBGP forget the neighbour and start anew: left alone it stays idle for five seconds after each loss.
func (r *router) reconnect() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.alive {
		return
	}
	err := r.bgp.DeletePeer(context.Background(), &api.DeletePeerRequest{Address: "127.0.0.1"})
	if err == nil {
		err = r.addPeer(true)
	}
	if err != nil {
		r.log.Error("GoBGP does not take the peer again: restart the speaker", "err", err)
	}
}

// apply makes the set what this router gets: withdrawals first, so that a limit of the router is not passed on the way.
func (r *router) apply(set []item) error {
	entries := make([]compile.Entry, len(set))
	for i, it := range set {
		entries[i] = compile.Entry{Route: it.Route, Manual: it.Manual, Created: it.Created}
	}
	res := compile.Compile(entries, r.peer.profile())

	r.mu.Lock()
	defer r.mu.Unlock()
	r.not = make(map[string]string, len(res.Refused))
	for _, f := range res.Refused {
		r.not[set[f.Index].id] = f.Reason
	}
	want := make(map[string]bool, len(res.Accepted))
	for _, i := range res.Accepted {
		want[set[i].id] = true
	}
	var errs []error
	for id, e := range r.rib {
		if want[id] {
			continue
		}
		if err := r.send(e.item, true); err != nil {
			errs = append(errs, fmt.Errorf("withdraw %q: %w", e.text, err))
			continue
		}
		delete(r.rib, id)
	}
	for _, i := range res.Accepted {
		it := set[i]
		have, ok := r.rib[it.id]
		if ok && have.Route.Action == it.Route.Action {
			continue
		}
		if err := r.send(it, false); err != nil {
			errs = append(errs, fmt.Errorf("announce %q: %w", it.text, err))
			r.not[it.id] = fmt.Sprintf("GoBGP did not take the route: %v", err)
			continue
		}
		r.rib[it.id] = ribEntry{it, time.Now()}
	}
	if len(errs) > 0 {
		r.m.bgpErrors.WithLabelValues(r.peer.Name).Add(float64(len(errs)))
		return fmt.Errorf("peer %s: %w", r.peer.Name, errors.Join(errs...))
	}
	return nil
}

func (r *router) send(it item, withdraw bool) error {
	// Withdrawn by path: by the UUID AddPath returns it takes GoBGP a walk over all routes.
	_, err := r.bgp.AddPath(context.Background(), &api.AddPathRequest{
		TableType: api.TableType_GLOBAL, Path: r.attrs.path(*it.enc, it.Route.Action, withdraw),
	})
	return err
}

// routeState says what became of the route with this ID. s is the session as it is now.
func (r *router) routeState(id string, s session) PeerRoute {
	r.mu.Lock()
	defer r.mu.Unlock()
	p := PeerRoute{Peer: r.peer.Name}
	if why, ok := r.not[id]; ok {
		p.State, p.Reason = Unsupported, why
		return p
	}
	e, ok := r.rib[id]
	switch {
	case !ok:
		p.State, p.Reason = Pending, "about to be announced"
	case s.state != Established:
		p.State, p.Reason = Pending, "the session is "+s.state.String()
		if s.lastError != "" {
			p.Reason += ": " + s.lastError
		}
	case !hasTable(s.families, e.enc.table):
		p.State = Unsupported
		p.Reason = fmt.Sprintf("the router does not offer %s: activate it there for this neighbour", e.enc.table)
	default:
		p.State, p.Sent = Sent, e.added
		if s.since.After(e.added) {
			p.Sent = s.since
		}
	}
	return p
}

// counts returns the routes the router is to have, those handed over for the present session, and those it does not get.
func (r *router) counts(s session) (desired, sent, unsupported int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	desired, unsupported = len(r.rib), len(r.not)
	for _, e := range r.rib {
		switch {
		case s.state != Established:
		case hasTable(s.families, e.enc.table):
			sent++
		default:
			unsupported++
		}
	}
	return desired, sent, unsupported
}

func hasTable(ts []compile.Table, t compile.Table) bool {
	for _, x := range ts {
		if x == t {
			return true
		}
	}
	return false
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
		_ = r.bgp.StopBgp(context.Background(), &api.StopBgpRequest{}) // always nil; knows no context
	}()
	select {
	case <-done:
	case <-time.After(stopTimeout):
		r.log.Error("GoBGP does not stop; the process ends without it")
	}
}
