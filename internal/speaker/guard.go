package speaker

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/amooglesoft/trafficmonitor/internal/compile"
)

// guard owns the TCP connection to one router and stands between it and GoBGP, which connects to the guard over
// loopback instead of to the router.
//
// GoBGP v3.37 parses what an established peer sends in goroutines that nobody can recover, and one 4-octet FlowSpec NLRI
// panics the process. We originate routes and need none of a router's. So nothing a router sends reaches GoBGP as it
// came: OPEN is parsed and written anew, UPDATEs are dropped (a KEEPALIVE is passed in their place, for they count
// as a sign of life, and an End-of-RIB per table is made up so that a restarting GoBGP does not wait for one),
// NOTIFICATIONs lose their data, and what is malformed ends this one session.
//
// Owning the connection also lets us connect, retry and report in our own way; GoBGP tells nobody why it cannot connect.
type guard struct {
	peer     Peer
	asn      uint32 // our own
	log      *slog.Logger
	metrics  *metrics
	incoming chan net.Conn // connections of a passive peer, from the listener
	changed  func()        // the session changed

	// The router's side, called in this order for each session; set before run.
	up func(*pair) // the session is established
	// down says how an established session ended, why in words, and, where a maximum of prefixes of the router was the
	// reason, what it said of that; nil where it was not.
	down      func(how ending, why string, most *maximum)
	refresh   func(compile.Table) // the router asks for all of the table again
	reset     func() (eager bool) // makes GoBGP forget the session; eager asks for the next one without a longer pause
	longLived time.Duration       // what the router may keep routes for after graceful restart
	away      bool                // this speaker ran before and had routes; the router may have kept them

	ln    net.Listener // where GoBGP connects
	local chan *localConn

	mu      sync.Mutex
	session session // guarded by mu
}

// session is what is known of the connection to the router.
type session struct {
	state       SessionState
	since       time.Time
	families    []compile.Table
	missing     []compile.Table
	established uint64
	lastError   string
	lastErrorAt time.Time
	stalled     time.Time // since when the router takes nothing of what it is sent; zero while it does
}

// localConn is a connection from GoBGP that has sent its OPEN.
type localConn struct {
	net.Conn
	r    *bufio.Reader
	open open
	gone chan struct{} // closed when GoBGP gave the connection up or the watcher was stopped
}

const (
	openTimeout       = 30 * time.Second // for the router's OPEN after the connection
	localTimeout      = 20 * time.Second // for GoBGP, which may have to sit out its idle hold time
	localWriteTimeout = 30 * time.Second // for GoBGP to read
	minReconnect      = time.Second
	maxReconnect      = 30 * time.Second
	stableSession     = time.Minute // a session that lived longer starts the backoff anew
)

func newGuard(p Peer, asn uint32, log *slog.Logger, m *metrics, changed func()) (*guard, error) {
	ln, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("peer %s: listen on loopback for GoBGP: %w", p.Name, err)
	}
	return &guard{
		peer: p, asn: asn, log: log, metrics: m, changed: changed, ln: ln,
		incoming: make(chan net.Conn, 1), local: make(chan *localConn),
		session: session{state: Idle, since: time.Now()},
	}, nil
}

// port is where GoBGP must connect to.
func (g *guard) port() int { return g.ln.Addr().(*net.TCPAddr).Port }

func (g *guard) snapshot() session {
	g.mu.Lock()
	defer g.mu.Unlock()
	s := g.session
	s.families, s.missing = slices.Clone(s.families), slices.Clone(s.missing)
	return s
}

// run serves until ctx ends; then the router's connection is closed without a NOTIFICATION, which leaves our routes to
// graceful restart.
func (g *guard) run(ctx context.Context) {
	var wg sync.WaitGroup
	stop := context.AfterFunc(ctx, func() { g.ln.Close() })
	defer stop()
	wg.Go(func() { g.acceptLocal(ctx) })
	defer wg.Wait()

	backoff := minReconnect
	for ctx.Err() == nil {
		router, err := g.connect(ctx)
		if err != nil {
			if ctx.Err() == nil {
				g.fail(connectWords(g.peer, err))
				backoff = g.pause(ctx, backoff, g.peer.ConnectRetry)
			}
			continue
		}
		begin := time.Now()
		up, served := g.serve(ctx, router)
		eager := false
		if served && g.reset != nil && ctx.Err() == nil {
			eager = g.reset()
		}
		if up && (eager || time.Since(begin) > stableSession) {
			backoff = minReconnect
		}
		if ctx.Err() == nil && !g.peer.Passive { // a passive peer's router sets the pace
			backoff = g.pause(ctx, backoff, maxReconnect)
		}
	}
}

// give hands a connection the router made to a passive peer; of two that wait the newer one counts.
func (g *guard) give(c net.Conn) {
	for {
		select {
		case g.incoming <- c:
			return
		default:
		}
		select {
		case old := <-g.incoming:
			old.Close()
		default:
		}
	}
}

// pause waits for d, give or take a quarter, and returns what to wait the next time.
func (g *guard) pause(ctx context.Context, d, most time.Duration) time.Duration {
	d = min(d, most)
	t := time.NewTimer(d*3/4 + rand.N(d/2))
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
	return min(2*d, most)
}

// connect dials the router, or waits for it when the peer is passive.
func (g *guard) connect(ctx context.Context) (net.Conn, error) {
	if g.peer.Passive {
		g.setState(Active)
		select {
		case c := <-g.incoming:
			return c, nil
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	g.setState(Connect)
	d := net.Dialer{Timeout: 10 * time.Second, Control: g.peer.control(), KeepAlive: -1}
	if g.peer.LocalAddress.IsValid() {
		d.LocalAddr = &net.TCPAddr{IP: g.peer.LocalAddress.AsSlice(), Zone: g.peer.LocalAddress.Zone()}
	}
	return d.DialContext(ctx, "tcp", g.peer.endpoint().String())
}

// serve pairs the router with GoBGP and passes messages until either is gone. It reports whether the session was
// established, and whether GoBGP had a part in it.
func (g *guard) serve(ctx context.Context, router net.Conn) (up, served bool) {
	defer router.Close()
	var local *localConn
	patience := time.NewTimer(localTimeout)
	defer patience.Stop()
	select {
	case local = <-g.local:
	case <-ctx.Done():
		return false, false
	case <-patience.C:
		g.fail("GoBGP does not connect to us: a fault of this program; it is tried again, and a restart of the speaker helps if it stays")
		return false, true
	}
	local.take()
	defer local.Close()
	stop := context.AfterFunc(ctx, func() { router.Close(); local.Close() })
	defer stop()

	p := newPair(g, router, local)
	if c, ok := router.(syscall.Conn); ok {
		p.taken = func() (uint64, bool, error) { return tcpTaken(c) }
	}
	err := p.run()
	if ctx.Err() != nil {
		return p.isUp(), true
	}
	words := g.end(err)
	if p.isUp() && g.down != nil {
		var most *maximum
		var said *routerNotification
		if errors.As(err, &said) {
			most = said.maximum()
		}
		g.down(endingOf(err), words, most)
	}
	return p.isUp(), true
}

// acceptLocal keeps the newest connection of GoBGP ready.
func (g *guard) acceptLocal(ctx context.Context) {
	var wg sync.WaitGroup
	defer wg.Wait()
	for {
		c, err := g.ln.Accept()
		if err != nil {
			if ctx.Err() == nil {
				g.log.Error("accept on loopback", "peer", g.peer.Name, "err", err)
			}
			return
		}
		if err := ownSocket(c); err != nil {
			g.log.Error("a connection to the loopback port of BGP was refused", "peer", g.peer.Name, "from", c.RemoteAddr().String(), "err", err)
			c.Close()
			continue
		}
		wg.Go(func() { g.offer(ctx, c) })
	}
}

// offer reads GoBGP's OPEN and hands the connection to serve, unless GoBGP gives it up before a router is there.
func (g *guard) offer(ctx context.Context, c net.Conn) {
	stop := context.AfterFunc(ctx, func() { c.Close() })
	defer stop()
	l := &localConn{Conn: c, r: bufio.NewReaderSize(c, 64<<10), gone: make(chan struct{})}
	typ, body, err := readMessage(l.r, nil)
	if err == nil && typ == msgOpen {
		l.open, err = parseOpen(body)
	}
	if err != nil || typ != msgOpen {
		c.Close()
		return
	}
	go func() {
		_, _ = l.r.Peek(1) // returns when GoBGP says or closes something, or when take stops it
		close(l.gone)
	}()
	select {
	case g.local <- l:
	case <-l.gone:
		c.Close()
	case <-ctx.Done():
	}
}

// take ends the watching of a connection so that it can be read.
func (l *localConn) take() {
	_ = l.SetReadDeadline(time.Unix(1, 0))
	<-l.gone
	_ = l.SetReadDeadline(time.Time{})
}

// readMessage reads one message into buf, which may be nil. The body is valid until buf is used again. An UPDATE longer
// than BGP allows is skipped and has no body: nobody reads it, and refusing it would cost the session at each return.
func readMessage(r io.Reader, buf []byte) (typ byte, body []byte, err error) {
	if cap(buf) < maxMessage {
		buf = make([]byte, maxMessage)
	}
	head := buf[:headerLen]
	if _, err := io.ReadFull(r, head); err != nil {
		return 0, nil, err
	}
	n, typ, err := parseHeader(head)
	if err != nil {
		return 0, nil, err
	}
	if n > maxMessage {
		_, err := io.CopyN(io.Discard, r, int64(n-headerLen))
		return typ, nil, err
	}
	body = buf[headerLen:n]
	if _, err := io.ReadFull(r, body); err != nil {
		return 0, nil, err
	}
	return typ, body, nil
}

func (g *guard) setState(s SessionState) {
	g.mu.Lock()
	if g.session.state == s {
		g.mu.Unlock()
		return
	}
	g.session.state, g.session.since, g.session.stalled = s, time.Now(), time.Time{}
	if s != Established {
		g.session.families, g.session.missing = nil, nil
	}
	g.mu.Unlock()
	g.metrics.sessionState.WithLabelValues(g.peer.Name).Set(float64(s))
	g.changed()
}

// fail remembers why there is no session.
func (g *guard) fail(words string) {
	g.mu.Lock()
	fresh := g.session.lastError != words
	g.session.lastError, g.session.lastErrorAt = words, time.Now()
	g.mu.Unlock()
	if fresh {
		g.log.Warn("no BGP session", "peer", g.peer.Name, "reason", words)
	}
	g.changed()
}

// wasAway says whether the router may hold routes we sent before the session that is about to begin.
func (g *guard) wasAway() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.away || g.session.established > 0
}

func (g *guard) established(p *pair, tables []compile.Table) {
	ours := g.peer.tables()
	g.mu.Lock()
	g.session.state, g.session.since = Established, time.Now()
	g.session.established++
	g.session.families, g.session.missing = nil, nil
	for _, t := range ours {
		if slices.Contains(tables, t) {
			g.session.families = append(g.session.families, t)
		} else {
			g.session.missing = append(g.session.missing, t)
		}
	}
	s := g.session
	g.mu.Unlock()
	g.metrics.established.WithLabelValues(g.peer.Name).Inc()
	g.metrics.sessionState.WithLabelValues(g.peer.Name).Set(float64(Established))
	g.log.Info("BGP session up", "peer", g.peer.Name, "asn", g.peer.ASN, "families", s.families, "missing", s.missing)
	if len(s.missing) > 0 {
		g.log.Warn("the router does not offer all families of its configuration here: activate them there for this neighbour",
			"peer", g.peer.Name, "missing", s.missing)
	}
	if g.up != nil {
		g.up(p)
	}
	g.changed()
}

// end records how a session ended and returns it in words.
func (g *guard) end(err error) string {
	s := g.snapshot()
	words := "the session ended"
	if err != nil {
		words = err.Error()
	}
	var gone *routerGone
	if errors.As(err, &gone) {
		words = closedWords(g.peer, s.state, gone.err)
	}
	if s.state == Established {
		g.metrics.flaps.WithLabelValues(g.peer.Name).Inc()
		g.log.Error("BGP session down", "peer", g.peer.Name, "reason", words, "up", time.Since(s.since).Round(time.Millisecond))
	}
	g.setState(Idle)
	g.fail(words)
	return words
}

// routerGone is the end of the router's connection without a word.
type routerGone struct{ err error }

func (e *routerGone) Error() string { return e.err.Error() }
func (e *routerGone) Unwrap() error { return e.err }

// routerNotification is the end of the session by the router's own word.
type routerNotification struct {
	code, sub byte
	data      []byte
}

func (e *routerNotification) Error() string {
	return "the router closed the session: " + notificationWords(e.code, e.sub) + e.details()
}

// maximum is the maximum of prefixes upon which the router closed the session; nil when it was something else. RFC 4486,
// section 4: the data, which may be missing, is AFI, SAFI and the maximum.
func (e *routerNotification) maximum() *maximum {
	if e.code != errCease || e.sub != 1 {
		return nil
	}
	if len(e.data) < 7 {
		return &maximum{}
	}
	t, _ := tableOfAFI(binary.BigEndian.Uint16(e.data), e.data[2])
	return &maximum{t, max(int(binary.BigEndian.Uint32(e.data[3:])), 1)}
}

// details says in words what the data of the NOTIFICATION tells: the limit, or an operator's message (RFC 9003). It comes
// from the router, so it is cut to what may stand in a log.
func (e *routerNotification) details() string {
	if m := e.maximum(); m != nil && m.rules > 0 {
		family := "prefixes"
		if m.table != "" {
			family = string(m.table) + " routes"
		}
		return fmt.Sprintf(", its limit is %d %s", m.rules, family)
	}
	if e.code != errCease || e.sub != 2 && e.sub != 4 || len(e.data) < 2 || int(e.data[0]) > len(e.data)-1 {
		return ""
	}
	return fmt.Sprintf(", the operator there says %q", strings.ToValidUTF8(string(e.data[1:1+e.data[0]]), "?"))
}

// ending is how an established session ended, as far as it tells about the routes sent before.
type ending int

const (
	// silent: a broken path, a hold timer of ours, a fault here. It says nothing about routes.
	silent ending = iota
	// told: the router closed the session for a reason that is not a route, such as an operator's reset.
	told
	// closed: the router's TCP closed or reset the connection without a word, as it does when its BGP crashes.
	closed
	// refused: the router said that a message of ours is wrong.
	refused
)

func endingOf(err error) ending {
	var said *routerNotification
	var gone *routerGone
	switch {
	case errors.As(err, &said):
		if said.code == errHeader || said.code == errUpdate {
			return refused
		}
		return told
	case errors.As(err, &gone) && (errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) ||
		errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)):
		return closed
	}
	return silent
}
