package speaker

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/amooglesoft/trafficmonitor/internal/compile"
)

// g2 is an UPDATE with the FlowSpec NLRI 03 03 B1 06, which panics GoBGP v3.37 when it comes from an established peer.
func g2() []byte {
	attrs := []byte{
		0x40, 1, 1, 0, // ORIGIN
		0x40, 2, 0, // AS_PATH
		0x80, 14, 9, 0, 1, 133, 0, 0, 0x03, 0x03, 0xb1, 0x06, // MP_REACH_NLRI, IPv4 FlowSpec
	}
	return appendMessage(nil, msgUpdate, append([]byte{0, 0, 0, byte(len(attrs))}, attrs...))
}

// A router that sends the NLRI that kills GoBGP, and all kinds of other UPDATEs, costs nobody anything: the process
// lives, its own session stays, and another router's routes are not touched.
func TestHostileUpdates(t *testing.T) {
	t.Parallel()
	hostile, good := newFakeRouter(t), newFakeRouter(t).serve()
	hostile.onUp = func(c net.Conn) {
		for range 3 {
			_, _ = c.Write(g2())
		}
		for _, body := range [][]byte{
			{0, 0, 0, 0},
			{0xff, 0xff, 0, 0},
			{0, 0, 0xff, 0xff},
			bytes.Repeat([]byte{0xff}, 4000),
			make([]byte, 4110-headerLen), // FRR 8.4.4
			make([]byte, maxUpdate-headerLen),
			{0, 0, 0, 4, 0x80, 15, 1, 0},
			{0, 3, 24, 192, 0, 0, 0},
		} {
			_, _ = c.Write(appendMessage(nil, msgUpdate, body))
		}
		_, _ = c.Write(appendMessage(nil, msgRouteRefresh, []byte{0, 1, 0, 133}))
		_, _ = c.Write(appendMessage(nil, msgRouteRefresh, []byte{0xff, 0xff, 0xff, 0xff, 1, 2, 3}))
	}
	hostile.serve()
	s := start(t, testOptions(t, hostile.peer("hostile"), good.peer("good")))
	s.set(1, 1, desired(t, all...))
	waitFor(t, "all routes at both", func() bool { return len(hostile.routes()) == len(all) && len(good.routes()) == len(all) })
	for i := range 20 {
		s.set(1, uint64(2+2*i), desired(t, discard4))
		s.set(1, uint64(3+2*i), desired(t, all...))
	}
	waitFor(t, "all routes at both", func() bool { return len(hostile.routes()) == len(all) && len(good.routes()) == len(all) })
	if n := hostile.sessions() + good.sessions(); n != 2 {
		t.Errorf("%d sessions, want one each", n)
	}
	want := `
# HELP trafficmonitor_speaker_peer_updates_dropped_total BGP UPDATE messages of the peer dropped unread: the speaker takes no routes.
# TYPE trafficmonitor_speaker_peer_updates_dropped_total counter
trafficmonitor_speaker_peer_updates_dropped_total{peer="good"} 0
trafficmonitor_speaker_peer_updates_dropped_total{peer="hostile"} 11
`
	if err := testutil.GatherAndCompare(s.reg, strings.NewReader(want), "trafficmonitor_speaker_peer_updates_dropped_total"); err != nil {
		t.Error(err)
	}
}

// What is not BGP, and what the configuration does not expect, ends the session with the right NOTIFICATION and a
// reason an operator can act on.
func TestHostileHandshakes(t *testing.T) {
	t.Parallel()
	ours := open{asn: 65001, hold: 90, id: [4]byte{10, 66, 0, 11}, tables: compile.Tables(), fourOctet: true}
	with := func(fn func(*open)) []byte { o := ours; fn(&o); return appendOpen(nil, o) }
	raw := appendOpen(nil, ours)
	short := bytes.Clone(raw)
	short[28] = 200 // more optional parameters than there are
	for _, c := range []struct {
		name string
		send []byte
		want string
		code []byte
	}{
		{"not BGP", []byte("HTTP/1.1 400 Bad Request\r\n\r\n"), "marker", []byte{1, 1}},
		{"unknown type", appendMessage(nil, 9, nil), "type 9", []byte{1, 3}},
		{"too long", append(bytes.Repeat([]byte{0xff}, 16), 0xff, 0xff, 1), "65535 octets", []byte{1, 2}},
		{"KEEPALIVE first", appendMessage(nil, msgKeepalive, nil), "before its OPEN", []byte{5, 1}},
		{"cut parameters", short, "another length", []byte{2, 0}},
		{"other AS", with(func(o *open) { o.asn = 65099 }), "says it is AS 65099 and the peer is configured with AS 65001", []byte{2, 2}},
		{"no identifier", with(func(o *open) { o.id = [4]byte{} }), "identifier 0.0.0.0", []byte{2, 3}},
		{"hold time 1", with(func(o *open) { o.hold = 1 }), "hold time", []byte{2, 6}},
		{"no family", appendOpen(nil, open{asn: 65001, hold: 90, id: ours.id, tables: []compile.Table{compile.IPv4Unicast}, fourOctet: true}), "none of our families", []byte{2, 7}},
		{"UPDATE before KEEPALIVE", append(bytes.Clone(raw), g2()...), "before its first KEEPALIVE", []byte{5, 2}},
		{"NOTIFICATION", appendMessage(nil, msgNotification, []byte{6, 5, 1, 2, 3}), "connection rejected", nil},
		{"its hold timer", appendMessage(nil, msgNotification, []byte{4, 0}), "the router closed the session: hold timer expired: the router heard nothing of us", nil},
		{"our hold timer", with(func(o *open) { o.hold = 3 }), "we closed the session: hold timer expired: nothing came from the router", []byte{4, 0}},
		{"closed", nil, "before its OPEN: configure", nil},
		{"closed, as BIRD does after an error", nil, "the router waits after an error (BIRD: error wait time", nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			f := newFakeRouter(t)
			got := make(chan []byte, 1)
			go func() {
				conn, err := f.ln.Accept()
				if err != nil {
					return
				}
				defer conn.Close()
				r := bufio.NewReader(conn)
				if _, _, err := readMessage(r, nil); err != nil {
					return
				}
				_, _ = conn.Write(c.send)
				if c.send == nil {
					return
				}
				for {
					typ, body, err := readMessage(r, nil)
					if err != nil {
						got <- nil
						return
					}
					if typ == msgNotification {
						got <- bytes.Clone(body)
						return
					}
				}
			}()
			p := f.peer("edge1")
			p.Families = []compile.Table{compile.IPv4FlowSpec, compile.IPv6FlowSpec}
			s := start(t, testOptions(t, p))
			waitFor(t, "the reason", func() bool { return strings.Contains(s.status().Peers[0].LastError, c.want) })
			if c.code != nil {
				if n := <-got; !bytes.HasPrefix(n, c.code) {
					t.Errorf("NOTIFICATION %v, want %v", n, c.code)
				}
			}
		})
	}
}

// closesAtOnce is a router's end that closes while the NOTIFICATION is still being written to it.
type closesAtOnce struct {
	net.Conn
	told, gone chan struct{}
	once       sync.Once
}

func (c *closesAtOnce) Read([]byte) (int, error) { <-c.told; return 0, io.EOF }

func (c *closesAtOnce) Write(b []byte) (int, error) {
	if b[headerLen-1] == msgNotification {
		close(c.told)
		<-c.gone // until the end of the router was seen, and the session is closed for it
	}
	return len(b), nil
}

func (c *closesAtOnce) Close() error { c.once.Do(func() { close(c.gone) }); return nil }

func (c *closesAtOnce) SetReadDeadline(time.Time) error  { return nil }
func (c *closesAtOnce) SetWriteDeadline(time.Time) error { return nil }

// What we end is not taken for what the router does upon it: a close of the router's speaks against the routes before it.
func TestOurNotificationIsTheCause(t *testing.T) {
	t.Parallel()
	m, err := newMetrics(prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	gobgp, local := net.Pipe()
	t.Cleanup(func() { gobgp.Close() })
	go func() { _, _ = gobgp.Write(appendMessage(nil, msgNotification, []byte{4, 0})) }()
	p := newPair(&guard{peer: Peer{Name: "r"}, metrics: m, changed: func() {}}, &closesAtOnce{told: make(chan struct{}), gone: make(chan struct{})},
		&localConn{Conn: local, r: bufio.NewReader(local), gone: make(chan struct{})})
	err = p.run()
	if err == nil || !strings.Contains(err.Error(), "we closed the session: hold timer expired: nothing came from the router") || endingOf(err) != silent {
		t.Errorf("got %v, %v", err, endingOf(err))
	}
}

func TestConnectReasons(t *testing.T) {
	t.Parallel()
	f := newFakeRouter(t)
	p := f.peer("edge1")
	f.ln.Close()
	s := start(t, testOptions(t, p))
	waitFor(t, "the reason", func() bool {
		return strings.Contains(s.status().Peers[0].LastError, "refuses connections: is BGP running there")
	})
	s.set(1, 1, desired(t, discard4))
	if r := s.status().Routes[0].Peers[0]; r.State != Pending || !strings.Contains(r.Reason, "refuses connections") {
		t.Errorf("route: %+v", r)
	}
}

// tcpPair is both ends of a connection over loopback.
func tcpPair(t *testing.T) (dialled, accepted net.Conn) {
	t.Helper()
	ln, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	if dialled, err = net.Dial("tcp4", ln.Addr().String()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { dialled.Close() })
	if accepted, err = ln.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { accepted.Close() })
	return dialled, accepted
}

// The listener on loopback where GoBGP connects takes nobody else: who came in there would speak to the router as us.
func TestOwnSocket(t *testing.T) {
	c, a := tcpPair(t)
	if err := ownSocket(a); err != nil {
		t.Errorf("our own: %v", err)
	}
	c.Close()
	if err := ownSocket(a); err == nil {
		t.Error("a socket nobody of us holds was taken for our own")
	}
}

func TestPassive(t *testing.T) {
	t.Parallel()
	f := newFakeRouter(t)
	probe, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := probe.Addr().(*net.TCPAddr).Port
	probe.Close()
	p := f.peer("edge1")
	p.Passive, p.MD5 = true, ""
	o := testOptions(t, p)
	o.ListenPort, o.ListenAddresses = port, []netip.Addr{netip.MustParseAddr("127.0.0.1")}
	s := start(t, o)
	s.set(1, 1, desired(t, all...))
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: p.Address.AsSlice()}}
	to := net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: port}
	for i := range 2 {
		c, err := d.DialContext(context.Background(), "tcp4", to.String())
		if err != nil {
			t.Fatal(err)
		}
		go f.session(c)
		waitFor(t, "all routes", func() bool { return len(f.routes()) == len(all) })
		if i == 0 {
			f.drop()
			waitFor(t, "the end", func() bool { return len(f.routes()) == 0 })
		}
	}
	stranger, err := net.Dial("tcp4", to.String())
	if err != nil {
		t.Fatal(err)
	}
	defer stranger.Close()
	_ = stranger.SetReadDeadline(time.Now().Add(5 * time.Second))
	if _, err := stranger.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("a stranger was not turned away: %v", err)
	}
}

func TestOpenRoundTrip(t *testing.T) {
	o := open{
		asn: 4200000001, hold: 90, id: [4]byte{1, 2, 3, 4}, tables: compile.Tables(), multi: true, refresh: true, fourOctet: true,
		graceful: true, restartFlags: 0x8078, gracefulOf: []gracefulTable{{compile.IPv4FlowSpec, 0x80}}, longLived: 86_400,
	}
	got, err := parseOpen(appendOpen(nil, o)[headerLen:])
	if err != nil {
		t.Fatal(err)
	}
	if a, b := appendOpen(nil, o), appendOpen(nil, got); !bytes.Equal(a, b) {
		t.Errorf("%x\n%x", a, b)
	}
}

// Whatever a router sends: no panic, and what is passed on is an OPEN that reads as the same.
func FuzzOpen(f *testing.F) {
	f.Add(appendOpen(nil, open{asn: 65001, hold: 90, id: [4]byte{1, 1, 1, 1}, tables: compile.Tables(), fourOctet: true, graceful: true})[headerLen:])
	f.Add([]byte{4, 0, 1, 0, 90, 1, 1, 1, 1, 255, 255, 0, 0})
	f.Fuzz(func(t *testing.T, body []byte) {
		o, err := parseOpen(body)
		if err != nil {
			return
		}
		out := appendOpen(nil, o)
		typ, again, err := readMessage(bytes.NewReader(out), nil)
		if err != nil || typ != msgOpen {
			t.Fatalf("type %d: %v", typ, err)
		}
		o2, err := parseOpen(again)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(appendOpen(nil, o2), out) {
			t.Fatalf("%+v\n%+v", o, o2)
		}
	})
}
