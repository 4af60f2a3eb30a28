package speaker

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/amooglesoft/trafficmonitor/internal/compile"
)

// pair passes messages between one router and GoBGP for one session.
type pair struct {
	guard  *guard
	router net.Conn
	local  *localConn

	writing chan struct{} // holds one value while somebody writes to the router
	torn    error         // why the stream to the router ended, perhaps within a message; guarded by writing

	// taken returns how many octets the router has acknowledged, and whether more wait for that; nil: nobody looks.
	taken func() (acked uint64, waits bool, err error)

	due     chan struct{} // GoBGP sent a KEEPALIVE, which is to be written
	holdOff time.Time     // when the next KEEPALIVE may stand in for an UPDATE; used by fromRouter only

	mu         sync.Mutex
	tables     []compile.Table // both sides offered; set by the router's OPEN
	keeps      bool            // the router speaks graceful restart, so it may hold routes of an earlier session
	twoOctets  bool            // it knows no AS numbers of four octets
	hold       time.Duration   // the negotiated hold time; 0: there is none
	ourAlive   bool            // GoBGP sent its first KEEPALIVE
	theirAlive bool            // the router did
	up         bool
	cause      error // the first reason the session ended
}

func newPair(g *guard, router net.Conn, local *localConn) *pair {
	return &pair{guard: g, router: router, local: local, writing: make(chan struct{}, 1), due: make(chan struct{}, 1), holdOff: time.Now()}
}

func (p *pair) isUp() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.up
}

// run returns why the session ended.
func (p *pair) run() error {
	o := p.local.open
	// Our state is kept over a reset whatever GoBGP thinks of it: without the F bit a router drops the routes it kept
	// for us when the session is back, and before it has them again (RFC 4724, section 4.2). The R bit says that we were
	// away, so that the router does not wait for our End-of-RIB before it says its own.
	for i := range o.gracefulOf {
		o.gracefulOf[i].flags |= 0x80
	}
	if o.graceful && p.guard.wasAway() {
		o.restartFlags |= 0x8000
	}
	if o.graceful {
		o.longLived = uint32(p.guard.longLived / time.Second)
	}
	if err := p.toRouter(appendOpen(nil, o)); err != nil {
		return &routerGone{err}
	}
	p.guard.setState(OpenSent)

	var wg sync.WaitGroup
	read := make(chan struct{})
	ended := func(err error) {
		var gone *routerGone
		if errors.As(err, &gone) { // what it said before it went may still be there to be read
			p.note(err)
			_ = p.router.SetReadDeadline(time.Now().Add(lastWords))
			<-read
		}
		p.finish(err)
	}
	wg.Go(func() {
		defer close(p.due)
		ended(p.fromLocal())
	})
	wg.Go(func() {
		if err := p.keepAlive(); err != nil {
			ended(err)
		}
	})
	if p.taken != nil {
		wg.Go(func() { p.watch(read) })
	}
	err := p.fromRouter()
	p.finish(err)
	close(read)
	wg.Wait()
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.cause
}

// lastWords is how long a router that takes nothing any more is listened to.
const lastWords = 500 * time.Millisecond

// finish notes the cause, tells the router when there is a NOTIFICATION to send, and closes both sides.
func (p *pair) finish(err error) {
	first := p.note(err)
	var n *notification
	if first && errors.As(err, &n) {
		_ = p.lastMessage(n.bytes())
	}
	p.router.Close()
	p.local.Close()
}

// note keeps the first cause of the session's end, or the router's own word for it; true says that it is this one.
func (p *pair) note(err error) (first bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	var gone *routerGone
	var said *routerNotification
	if first = p.cause == nil || errors.As(p.cause, &gone) && errors.As(err, &said); first {
		p.cause = err
	}
	return first
}

// writePiece is about how much is written at a time: KEEPALIVEs come between.
const writePiece = 16 << 10

// send writes UPDATEs to the router and tells wrote, piece by piece, how many more of them are out as a whole, also of a piece
// that failed on the way. When that happens the session is over.
func (p *pair) send(b []byte, wrote func(updates int)) error {
	for len(b) > 0 {
		n := 0
		for n < len(b) && n < writePiece {
			n += messageLen(b[n:])
		}
		out, err := p.write(b[:n], nil)
		whole := 0
		for at := 0; at < out; whole++ {
			if at += messageLen(b[at:]); at > out {
				break
			}
		}
		if whole > 0 {
			wrote(whole)
		}
		if err != nil {
			err = &routerGone{err}
			p.note(err)
			_ = p.router.SetReadDeadline(time.Now().Add(lastWords)) // what it said before it went may still be there to be read
			return err
		}
		b = b[n:]
	}
	return nil
}

// messageLen is the length of the message that b begins with.
func messageLen(b []byte) int { return int(binary.BigEndian.Uint16(b[16:])) }

// toRouter writes whole messages.
func (p *pair) toRouter(b []byte) error {
	_, err := p.write(b, nil)
	return err
}

// lastMessage writes a NOTIFICATION, behind which nothing is written, and does not wait long for what is being written.
func (p *pair) lastMessage(b []byte) error {
	_ = p.router.SetWriteDeadline(time.Now().Add(lastWords))
	_, err := p.write(b, errors.New("we closed the session"))
	return err
}

// write writes whole messages and returns how many octets are out; over is what a later write gets, nil where another one may
// follow.
//
// It waits for as long as the router takes nothing: watch ends that.
func (p *pair) write(b []byte, over error) (out int, err error) {
	p.writing <- struct{}{}
	defer func() { <-p.writing }()
	if p.torn != nil {
		return 0, p.torn
	}
	out, err = p.router.Write(b)
	if p.torn = err; err == nil {
		p.torn = over
	}
	return out, err
}

// fromLocal passes what GoBGP says to keep the session. Routes it has none of. It does not wait for a router that takes
// nothing, so that GoBGP can end the session of one that says nothing either.
func (p *pair) fromLocal() error {
	buf := make([]byte, maxMessage)
	for {
		typ, body, err := readMessage(p.local.r, buf)
		switch {
		case errors.Is(err, io.EOF), errors.Is(err, net.ErrClosed):
			return errors.New("GoBGP closed the session")
		case err != nil:
			return fmt.Errorf("GoBGP sent what is not BGP: %w", errors.New(err.Error()))
		}
		switch typ {
		case msgKeepalive:
			select {
			case p.due <- struct{}{}:
			default: // one waits already
			}
		case msgNotification:
			last := fmt.Errorf("we closed the session: %s", p.explain(body[0], body[1]))
			p.note(last) // before the router has it: one that closes at once is not the one that ended the session
			if err := p.lastMessage(appendMessage(nil, typ, body)); err != nil {
				return &routerGone{err}
			}
			return last
		default:
			if !isEndOfRIB(appendMessage(nil, typ, body)) { // GoBGP says that before the router has our routes; the router gets ours
				p.guard.log.Error("GoBGP sent a message of its own, which the router does not get: a fault of this program", "type", typ, "body", fmt.Sprintf("%x", body))
			}
		}
	}
}

// keepAlive writes KEEPALIVEs as they are due.
func (p *pair) keepAlive() error {
	msg := appendMessage(nil, msgKeepalive, nil)
	for range p.due {
		if err := p.toRouter(msg); err != nil {
			return &routerGone{err}
		}
		p.alive(&p.ourAlive) // after the router has it: UPDATEs come behind it
	}
	return nil
}

// explain adds to a NOTIFICATION of ours what we know and GoBGP does not say.
func (p *pair) explain(code, sub byte) string {
	if code == errOpen && sub == 2 {
		p.mu.Lock()
		defer p.mu.Unlock()
		return fmt.Sprintf("the router says another AS than the configured %d: %s (NOTIFICATION 2/2)", p.guard.peer.ASN, correctASN)
	}
	if code == errHold {
		return silentRouter
	}
	return notificationWords(code, sub)
}

// alive notes a KEEPALIVE; the session is established when both sides have sent one (RFC 4271, section 8.2.2).
func (p *pair) alive(side *bool) {
	p.mu.Lock()
	if *side {
		p.mu.Unlock()
		return
	}
	*side = true
	now := p.ourAlive && p.theirAlive && !p.up
	if now {
		p.up = true
	}
	tables := p.tables
	p.mu.Unlock()
	if now {
		p.guard.established(p, tables)
	}
}

// fromRouter reads what the router says and passes on what GoBGP needs of it, written anew.
func (p *pair) fromRouter() error {
	g := p.guard
	r := bufio.NewReaderSize(p.router, 64<<10)
	buf := make([]byte, maxMessage)
	_ = p.router.SetReadDeadline(time.Now().Add(openTimeout))
	var opened, alive bool
	for {
		typ, body, err := readMessage(r, buf)
		if err != nil {
			return p.readError(err, opened)
		}
		var pass []byte
		switch {
		case typ == msgNotification:
			err := &routerNotification{body[0], body[1], slices.Clone(body[2:])}
			p.note(err) // before GoBGP hears of it: it closes its side at once, which would be taken for the cause
			// What GoBGP passes to its own peers it may carry; the data is the router's and stays here.
			_ = p.toLocal(appendMessage(nil, msgNotification, body[:2]))
			return err
		case !opened:
			if typ != msgOpen {
				return &notification{errFSM, 1, fmt.Sprintf("the router sent a message of type %d before its OPEN", typ)}
			}
			if pass, err = p.theirOpen(body); err != nil {
				return err
			}
			opened = true
			_ = p.router.SetReadDeadline(time.Time{}) // the hold timer is GoBGP's
			g.setState(OpenConfirm)
		case !alive:
			if typ != msgKeepalive {
				return &notification{errFSM, 2, fmt.Sprintf("the router sent a message of type %d before its first KEEPALIVE", typ)}
			}
			alive = true
			pass = appendMessage(nil, msgKeepalive, nil)
			p.mu.Lock()
			for _, t := range p.tables {
				pass = append(pass, endOfRIB(t)...)
			}
			p.mu.Unlock()
			p.alive(&p.theirAlive)
		case typ == msgKeepalive:
			pass = appendMessage(nil, msgKeepalive, nil)
		case typ == msgUpdate:
			g.metrics.dropped.WithLabelValues(g.peer.Name).Inc()
			if now := time.Now(); now.After(p.holdOff) {
				p.holdOff = now.Add(time.Second)
				pass = appendMessage(nil, msgKeepalive, nil)
			}
		case typ == msgRouteRefresh:
			if t, ok := p.asksForAll(body); ok && g.refresh != nil {
				g.refresh(t)
			}
		default:
			return &notification{errFSM, 3, fmt.Sprintf("the router sent a message of type %d in an established session", typ)}
		}
		if len(pass) > 0 {
			if err := p.toLocal(pass); err != nil {
				return errors.New("GoBGP closed the session")
			}
		}
	}
}

func (p *pair) toLocal(b []byte) error {
	_ = p.local.SetWriteDeadline(time.Now().Add(localWriteTimeout))
	_, err := p.local.Write(b)
	return err
}

func (p *pair) readError(err error, opened bool) error {
	var n *notification
	var timeout net.Error
	switch {
	case errors.As(err, &n):
		return n
	case errors.Is(err, net.ErrClosed):
		return errors.New("the session was closed here")
	case errors.As(err, &timeout) && timeout.Timeout() && !opened:
		return &notification{4, 0, fmt.Sprintf("the router took the connection and sent no OPEN within %s: is this host configured there as a neighbour?", openTimeout)}
	}
	return &routerGone{err}
}

// theirOpen checks the router's OPEN and returns the one GoBGP gets.
func (p *pair) theirOpen(body []byte) ([]byte, error) {
	o, err := parseOpen(body)
	if err != nil {
		return nil, err
	}
	if want := p.guard.peer.ASN; o.asn != want {
		return nil, &notification{errOpen, 2, fmt.Sprintf("the router says it is AS %d and the peer is configured with AS %d: %s", o.asn, want, correctASN)}
	}
	if o.id == p.local.open.id && p.guard.peer.ASN == p.guard.asn {
		return nil, &notification{errOpen, 3, fmt.Sprintf("the router's BGP identifier %s is our own: give this speaker another router_id", o.identifier())}
	}
	var both []compile.Table
	for _, t := range p.local.open.tables {
		if slices.Contains(o.tables, t) {
			both = append(both, t)
		}
	}
	o.tables = both
	o.multi = true
	o.longLived = 0 // ours to offer, and nothing GoBGP should act on
	p.mu.Lock()
	p.tables, p.keeps, p.twoOctets = both, o.graceful, !o.fourOctet
	p.hold = time.Duration(min(o.hold, p.local.open.hold)) * time.Second // RFC 4271, section 4.2
	p.mu.Unlock()
	if len(both) == 0 {
		return nil, &notification{errOpen, 7, "the router offers none of our families: activate them there for this neighbour"}
	}
	return appendOpen(nil, o), nil
}

// asksForAll returns the table, which we carry, for which the body is that of a plain ROUTE-REFRESH (RFC 2918).
func (p *pair) asksForAll(body []byte) (t compile.Table, ok bool) {
	if len(body) != 4 || body[2] != 0 {
		return t, false
	}
	t, ok = tableOfAFI(binary.BigEndian.Uint16(body), body[3])
	p.mu.Lock()
	defer p.mu.Unlock()
	return t, ok && slices.Contains(p.tables, t)
}
