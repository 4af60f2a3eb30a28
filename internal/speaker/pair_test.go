package speaker

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"log/slog"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	dto "github.com/prometheus/client_model/go"

	"github.com/amooglesoft/trafficmonitor/internal/compile"
)

// tornConn takes so many octets and fails then, as a connection does whose other side reads no more.
type tornConn struct {
	net.Conn // nil: nothing else is called
	room     int
	got      bytes.Buffer
	longest  int
}

func (c *tornConn) Write(b []byte) (int, error) {
	n := min(len(b), c.room)
	c.longest = max(c.longest, n)
	c.room -= n
	c.got.Write(b[:n])
	if n < len(b) {
		c.room = 1000 // it would take more again
		return n, errors.New("torn")
	}
	return n, nil
}

func (*tornConn) SetWriteDeadline(time.Time) error { return nil }
func (*tornConn) SetReadDeadline(time.Time) error  { return nil }
func (*tornConn) Close() error                     { return nil }

// Behind a message of which a part was written nothing is: the router would take it for the rest.
func TestNothingIsWrittenBehindATornMessage(t *testing.T) {
	c := &tornConn{room: 30}
	p := newPair(nil, c, nil)
	keepalive := appendMessage(nil, msgKeepalive, nil)
	if err := p.send(keepalive, func(int) {}); err != nil {
		t.Fatal(err)
	}
	var gone *routerGone
	if err := p.send(keepalive, func(int) {}); !errors.As(err, &gone) {
		t.Errorf("%v", err)
	}
	if err := p.send(keepalive, func(int) {}); err == nil {
		t.Error("written behind a torn message")
	}
	if err := p.toRouter(keepalive); err == nil {
		t.Error("a message of GoBGP was written behind a torn one")
	}
	if c.got.Len() != 30 {
		t.Errorf("%d octets were written, want 30", c.got.Len())
	}
	if !errors.As(p.cause, &gone) {
		t.Errorf("the session ended upon %v", p.cause)
	}
}

// Behind a NOTIFICATION nothing is said (RFC 4271, section 6).
func TestNothingIsWrittenBehindANotification(t *testing.T) {
	c := &tornConn{room: 1000}
	p := newPair(nil, c, &localConn{Conn: c})
	p.finish(&notification{errCease, 4, "over"})
	want := appendMessage(nil, msgNotification, []byte{errCease, 4})
	if err := p.send(appendMessage(nil, msgUpdate, []byte{0, 0, 0, 0}), func(int) {}); err == nil || !bytes.Equal(c.got.Bytes(), want) {
		t.Errorf("%v; the router got %x, want %x", err, c.got.Bytes(), want)
	}
}

// Much is written in pieces of whole messages: a router that takes an hour for all of it is not gone.
func TestPieces(t *testing.T) {
	c := &tornConn{room: 1 << 20}
	p := newPair(nil, c, nil)
	var all []byte
	told := 0
	for i := range 3000 {
		all = appendWithdrawal(all, encoded{compile.IPv4Unicast, []byte{32, 192, 0, byte(i >> 8), byte(i)}})
	}
	if err := p.send(all, func(n int) { told += n }); err != nil || !bytes.Equal(c.got.Bytes(), all) {
		t.Errorf("%d of %d octets, %v", c.got.Len(), len(all), err)
	}
	if told != 3000 {
		t.Errorf("told of %d UPDATEs", told)
	}
	one := len(all) / 3000
	if c.longest < writePiece || c.longest > writePiece+maxMessage || c.longest%one != 0 {
		t.Errorf("%d octets were written at a time", c.longest)
	}
}

// GoBGP announces nothing: what it says of routes is an End-of-RIB, which comes before its time, or its fault.
func TestGoBGPHasNoRoutes(t *testing.T) {
	var log bytes.Buffer
	c := &tornConn{room: 1000}
	p := newPair(&guard{log: slog.New(slog.NewTextHandler(&log, nil))}, c, nil)
	p.ourAlive = true // and not the first of its KEEPALIVEs
	p.due = make(chan struct{}, 2)
	keepalive := appendMessage(nil, msgKeepalive, nil)
	said := bytes.Join([][]byte{
		endOfRIB(compile.IPv4FlowSpec), keepalive, appendWithdrawal(nil, encoded{compile.IPv4Unicast, []byte{32, 192, 0, 2, 1}}), keepalive,
	}, nil)
	p.local = &localConn{r: bufio.NewReader(bytes.NewReader(said))}
	if err := p.fromLocal(); err == nil || !strings.Contains(err.Error(), "GoBGP closed the session") {
		t.Errorf("%v", err)
	}
	close(p.due)
	if err := p.keepAlive(); err != nil {
		t.Error(err)
	}
	said = slices.Concat(appendMessage(nil, msgNotification, []byte{6, 2}), keepalive)
	p.local = &localConn{r: bufio.NewReader(bytes.NewReader(said))}
	if err := p.fromLocal(); err == nil || !strings.Contains(err.Error(), "we closed the session") {
		t.Errorf("%v", err)
	}
	if want := bytes.Join([][]byte{keepalive, keepalive, appendMessage(nil, msgNotification, []byte{6, 2})}, nil); !bytes.Equal(c.got.Bytes(), want) {
		t.Errorf("the router got %x", c.got.Bytes())
	}
	if n := strings.Count(log.String(), "a message of its own"); n != 1 {
		t.Errorf("said %d times:\n%s", n, &log)
	}
	for _, rest := range [][]byte{nil, keepalive[:5]} {
		p.local = &localConn{r: bufio.NewReader(bytes.NewReader(rest))}
		if err := p.fromLocal(); err == nil || errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("%x: %v", rest, err)
		}
	}
}

// UPDATEs go out as soon as the session is established, and must not come before our first KEEPALIVE.
func TestEstablishedAfterOurKeepalive(t *testing.T) {
	_, r := bareSpeaker(t)
	c := &tornConn{room: 1000}
	keepalive := appendMessage(nil, msgKeepalive, nil)
	p := newPair(r.guard, c, &localConn{r: bufio.NewReader(bytes.NewReader(keepalive))})
	p.theirAlive, p.tables = true, compile.Tables()
	up := 0
	r.guard.up = func(*pair) {
		if up++; !bytes.Equal(c.got.Bytes(), keepalive) {
			t.Errorf("the session is established and the router got %x", c.got.Bytes())
		}
	}
	if err := p.fromLocal(); err == nil || up != 0 {
		t.Errorf("%v, established %d times before the KEEPALIVE was written", err, up)
	}
	close(p.due)
	if err := p.keepAlive(); err != nil || up != 1 {
		t.Errorf("%v, established %d times", err, up)
	}
}

// A session may end before the write of the UPDATE returns upon which it did: these are suspect, and the router may have
// kept them. A write of the session before says nothing of this one.
func TestSessionEndsWhileUpdatesAreWritten(t *testing.T) {
	_, r := bareSpeaker(t)
	items := encodedItems(t, 3)
	begin := func() *pair {
		p := &pair{tables: compile.Tables(), keeps: true}
		r.sessionUp(p)
		return p
	}
	take := func() []string {
		r.mu.Lock()
		defer r.mu.Unlock()
		keys := r.keys
		r.queue, r.keys, r.sending = nil, nil, keys
		return keys
	}
	r.apply(items)
	first := begin()
	r.mu.Lock()
	r.step(time.Now())
	r.mu.Unlock()
	keys := take()
	if len(keys) != 3 {
		t.Fatalf("%d are written", len(keys))
	}
	r.refresh(compile.IPv4FlowSpec)
	r.sessionDown(refused, "NOTIFICATION 3/1", nil)
	r.mu.Lock()
	if len(r.again) > 0 {
		t.Error("the next session begins with a refresh that this one asked for")
	}
	for _, it := range items {
		if !r.out.blame.suspect(it) {
			t.Errorf("%q is not suspect", it.text)
		}
		if _, ok := r.out.stale[routeKey(it.enc.table, it.enc.nlri)]; !ok {
			t.Errorf("the router may have kept %q, and nobody knows", it.text)
		}
	}
	r.mu.Unlock()

	// A withdrawal of which nobody knows whether the router has it is the first thing that the next session says, and the next.
	r.apply(items[1:])
	for range 2 {
		begin()
		r.mu.Lock()
		want := appendWithdrawal(nil, *items[0].enc)
		if !bytes.HasPrefix(r.queue, want) {
			t.Errorf("the session begins with %x, want the withdrawal %x", r.queue, want)
		}
		r.mu.Unlock()
		take()
		r.sessionDown(silent, "no KEEPALIVE", nil)
	}

	begin()
	r.mu.Lock()
	r.out.complete = true
	r.out.since = time.Now().Add(-time.Hour)
	r.step(time.Now()) // suspects, one group
	flying := r.out.flying
	r.mu.Unlock()
	if flying == 0 {
		t.Fatal("nothing is under way")
	}
	r.wrote(first, len(keys), keys)
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.out.flying != flying {
		t.Errorf("%d under way, want %d: a write of the session before was counted", r.out.flying, flying)
	}
}

// A router that knows AS numbers of two octets only gets its paths so, from its OPEN to its routes.
func TestTwoOctetAS(t *testing.T) {
	for _, four := range []bool{true, false} {
		p := &pair{guard: &guard{peer: Peer{ASN: 64501}, asn: 4200000000}, local: &localConn{open: open{asn: 4200000000, id: [4]byte{1}, tables: compile.Tables(), fourOctet: true}}}
		body := appendOpen(nil, open{asn: 64501, hold: 90, id: [4]byte{2}, tables: compile.Tables(), multi: true, fourOctet: four})[headerLen:]
		if _, err := p.theirOpen(body); err != nil {
			t.Fatal(err)
		}
		_, r := bareSpeaker(t)
		r.attrs.asn, r.attrs.internal, r.attrs.proofs = 4200000000, false, nil
		r.apply(encodedItems(t, 1))
		r.sessionUp(p)
		r.mu.Lock()
		r.step(time.Now())
		r.mu.Unlock()
		long, short := []byte{0x40, attrASPath, 6, 2, 1, 0xfa, 0x56, 0xea, 0}, []byte{0x40, attrASPath, 4, 2, 1, 0x5b, 0xa0}
		if !bytes.Contains(r.queue, map[bool][]byte{true: long, false: short}[four]) || bytes.Contains(r.queue, []byte{0xc0, attrAS4Path}) == four {
			t.Errorf("four octets %v: %x", four, r.queue)
		}
	}
}

// Of a connection that takes no more it is not known what the router got: all that was to be written is suspect.
func TestTornUpdatesAreSuspect(t *testing.T) {
	_, r := bareSpeaker(t)
	items := encodedItems(t, 3*sendBatch)
	r.patience = 0
	p := newPair(r.guard, &tornConn{room: 100}, nil)
	p.tables, p.keeps = compile.Tables(), true
	r.apply(items)
	r.sessionUp(p)
	if wait := r.sendAll(t.Context()); wait != 0 {
		t.Errorf("it goes on after %s", wait)
	}
	r.sendAll(t.Context()) // somebody poked: nothing more is tried
	r.sessionDown(refused, "NOTIFICATION 3/1", nil)
	r.mu.Lock()
	defer r.mu.Unlock()
	if n := len(r.out.blame.suspects); n != sendBatch {
		t.Errorf("%d are suspect, %d were about to be written", n, sendBatch)
	}
}

// tellingConn takes everything, and asks before each write.
type tellingConn struct {
	tornConn
	before func(b []byte)
}

func (c *tellingConn) Write(b []byte) (int, error) {
	c.before(b)
	return len(b), nil
}

// A route is written, and its time ends, with the piece that holds it: what is behind may take a slow router long.
func TestRoutesAreWrittenPieceByPiece(t *testing.T) {
	_, r := bareSpeaker(t)
	r.patience = 0
	updates, seconds := r.m.updates.WithLabelValues("edge1"), r.m.routeSeconds.WithLabelValues("edge1").(prometheus.Histogram)
	sent, pieces := 0, 0
	p := newPair(r.guard, &tellingConn{before: func(b []byte) {
		var m dto.Metric
		if err := seconds.Write(&m); err != nil {
			t.Error(err)
		}
		if n := int(m.GetHistogram().GetSampleCount()); n != sent {
			t.Errorf("before piece %d the time was taken of %d routes, %d are written", pieces, n, sent)
		}
		if n := int(testutil.ToFloat64(updates)); n != sent {
			t.Errorf("before piece %d %d UPDATEs were counted, %d are written", pieces, n, sent)
		}
		for pieces++; len(b) > 0; sent++ {
			b = b[messageLen(b):]
		}
	}}, nil)
	p.tables, p.keeps = compile.Tables(), true
	r.sessionUp(p)
	r.mu.Lock()
	r.out.began = r.out.began.Add(-time.Second) // so that the routes are new
	r.mu.Unlock()
	items := encodedItems(t, 5*sendBatch)
	r.apply(items)
	r.mu.Lock()
	for range 4 {
		r.step(time.Now())
	}
	r.mu.Unlock()
	r.sendAll(t.Context())
	if pieces < 2 || sent != len(items)+len(compile.Tables()) {
		t.Errorf("%d UPDATEs in %d pieces", sent, pieces)
	}
}

// What was written before a connection took no more was written, and an End-of-RIB is an UPDATE.
func TestUpdatesAreCounted(t *testing.T) {
	_, r := bareSpeaker(t)
	r.patience = 0
	items := encodedItems(t, 3)
	c := &tornConn{room: 1 << 20}
	r.apply(items)
	p := newPair(r.guard, c, nil)
	p.tables, p.keeps = compile.Tables(), true
	r.sessionUp(p)
	r.sendAll(t.Context())
	updates := r.m.updates.WithLabelValues("edge1")
	if n, want := testutil.ToFloat64(updates), float64(3+len(compile.Tables())); n != want {
		t.Errorf("%v counted, want %v", n, want)
	}
	one := c.got.Len()
	r.sessionDown(silent, "gone", nil)

	c = &tornConn{room: one / 4}
	p = newPair(r.guard, c, nil)
	p.tables, p.keeps = compile.Tables(), true
	r.sessionUp(p)
	r.sendAll(t.Context())
	whole := 0
	for b := c.got.Bytes(); len(b) >= headerLen && len(b) >= messageLen(b); whole++ {
		b = b[messageLen(b):]
	}
	if n, want := testutil.ToFloat64(updates), float64(3+len(compile.Tables())+whole); whole == 0 || whole == 3 || n != want {
		t.Errorf("%v counted, want %v; %d are whole", n, want, whole)
	}
}

// An operator who takes over the number that a router in a confederation says may get a session and no route at the router.
func TestAnotherASNamesConfederations(t *testing.T) {
	p := &pair{guard: &guard{peer: Peer{ASN: 64999}, asn: 65000}, local: &localConn{open: open{asn: 65000, id: [4]byte{1}, tables: compile.Tables(), fourOctet: true}}}
	_, err := p.theirOpen(appendOpen(nil, open{asn: 65010, hold: 90, id: [4]byte{2}, tables: compile.Tables(), multi: true, fourOctet: true})[headerLen:])
	var n *notification
	if !errors.As(err, &n) || n.code != errOpen || n.sub != 2 {
		t.Fatal(err)
	}
	for _, words := range []string{err.Error(), p.explain(errOpen, 2), notificationWords(errUpdate, 11)} {
		if !strings.Contains(words, "confederation") {
			t.Error(words)
		}
	}
}
