package speaker

import (
	"bufio"
	"errors"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/amooglesoft/trafficmonitor/internal/compile"
)

func TestSendHoldTime(t *testing.T) {
	for hold, want := range map[time.Duration]time.Duration{
		0: 0, 3 * time.Second: 8 * time.Minute, 90 * time.Second: 8 * time.Minute, 4 * time.Minute: 8 * time.Minute,
		5 * time.Minute: 10 * time.Minute, 65535 * time.Second: 131070 * time.Second,
	} {
		if got := sendHoldTime(hold); got != want {
			t.Errorf("hold time %s: %s, want %s", hold, got, want)
		}
	}
}

func TestStall(t *testing.T) {
	begin := time.Unix(1e9, 0)
	var s stall
	for i, c := range []struct {
		acked uint64
		waits bool
		since int // seconds; -1: it takes what it is sent
	}{
		0: {100, false, -1},
		1: {100, true, 1}, // just written
		2: {100, true, 1},
		3: {100, true, 1},
		4: {101, true, 4}, // it takes an octet
		5: {101, true, 4},
		6: {101, false, -1},
		7: {101, true, 7},
		8: {200, false, -1},
	} {
		got := s.look(begin.Add(time.Duration(i)*time.Second), c.acked, c.waits)
		want := time.Time{}
		if c.since >= 0 {
			want = begin.Add(time.Duration(c.since) * time.Second)
		}
		if !got.Equal(want) {
			t.Errorf("look %d: %s, want %s", i, got, want)
		}
	}
}

// stallRig is a session in a bubble: a router that reads when the test says so, and what GoBGP would say.
type stallRig struct {
	p      *pair
	router net.Conn // the router's end
	gobgp  net.Conn // GoBGP's end
	taken  atomic.Uint64
	wrote  *countingConn
	end    chan error
}

// countingConn counts what is handed to it.
type countingConn struct {
	net.Conn
	handed atomic.Uint64
}

func (c *countingConn) Write(b []byte) (int, error) {
	c.handed.Add(uint64(len(b)))
	return c.Conn.Write(b)
}

func newStallRig(t *testing.T, hold uint16) *stallRig {
	t.Helper()
	m, err := newMetrics(prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	ours, theirs := net.Pipe()
	local, gobgp := net.Pipe()
	r := &stallRig{router: theirs, gobgp: gobgp, wrote: &countingConn{Conn: ours}, end: make(chan error, 1)}
	g := &guard{peer: Peer{Name: "r", ASN: 65001}, asn: 65000, metrics: m, changed: func() {}, log: slog.New(slog.NewTextHandler(t.Output(), nil))}
	said := open{asn: 65000, hold: 300, id: [4]byte{1}, tables: compile.Tables(), fourOctet: true}
	r.p = newPair(g, r.wrote, &localConn{Conn: local, r: bufio.NewReader(local), open: said})
	r.p.taken = func() (uint64, bool, error) {
		n := r.taken.Load()
		return n, r.wrote.handed.Load() > n, nil
	}
	go func() {
		_, _ = io.Copy(io.Discard, gobgp)
		gobgp.Close()
	}()
	go func() { r.end <- r.p.run() }()
	r.read(t, len(appendOpen(nil, said)))
	keepalive := appendMessage(nil, msgKeepalive, nil)
	for _, msg := range [][]byte{appendOpen(nil, open{asn: 65001, hold: hold, id: [4]byte{2}, tables: compile.Tables(), fourOctet: true}), keepalive} {
		if _, err := theirs.Write(msg); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := gobgp.Write(keepalive); err != nil {
		t.Fatal(err)
	}
	r.read(t, len(keepalive))
	synctest.Wait()
	if !r.p.isUp() {
		t.Fatal("the session is not established")
	}
	t.Cleanup(func() { theirs.Close(); gobgp.Close() })
	again(t, gobgp, keepalive)
	return r
}

// again says it every 30 s for as long as the session lasts.
func again(t *testing.T, c net.Conn, msg []byte) {
	go func() {
		for {
			select {
			case <-t.Context().Done():
				return
			case <-time.After(30 * time.Second):
			}
			if _, err := c.Write(msg); err != nil {
				return
			}
		}
	}()
}

// read takes so many octets of what is sent.
func (r *stallRig) read(t *testing.T, n int) {
	t.Helper()
	got, err := io.ReadFull(r.router, make([]byte, n))
	r.taken.Add(uint64(got))
	if err != nil {
		t.Error(err)
	}
}

// ended returns how the session ended, nil while it lasts.
func (r *stallRig) ended() error {
	synctest.Wait()
	select {
	case err := <-r.end:
		return err
	default:
		return nil
	}
}

// much is more UPDATEs than are written at a time.
func much() (b []byte) {
	for len(b) < 4*writePiece {
		b = appendWithdrawal(b, encoded{compile.IPv4Unicast, []byte{32, 192, 0, 2, 1}})
	}
	return b
}

// A router that is alive and takes nothing is shown after seconds, and has its session for as long as RFC 9687 gives it.
func TestRouterTakesNothing(t *testing.T) {
	for _, c := range []struct {
		hold  uint16
		limit time.Duration // 0: for ever
	}{{90, 8 * time.Minute}, {300, 10 * time.Minute}, {0, 0}} {
		synctest.Test(t, func(t *testing.T) {
			r := newStallRig(t, c.hold)
			again(t, r.router, appendMessage(nil, msgKeepalive, nil))
			sent := make(chan error, 1)
			go func() { sent <- r.p.send(much(), func(int) { t.Error("something was written") }) }()
			begin := time.Now()
			time.Sleep(4 * time.Second)
			synctest.Wait()
			if s := r.p.guard.snapshot(); !s.stalled.IsZero() {
				t.Errorf("hold time %d: told after 4 s", c.hold)
			}
			time.Sleep(4 * time.Second)
			synctest.Wait()
			if s := r.p.guard.snapshot(); s.stalled.Sub(begin) > stallPoll || s.stalled.Before(begin) || s.state != Established {
				t.Errorf("hold time %d: after 8 s %+v", c.hold, s)
			}
			if c.limit == 0 {
				time.Sleep(24 * time.Hour)
				if err := r.ended(); err != nil {
					t.Errorf("without a hold time it ended: %v", err)
				}
				r.router.Close()
				<-sent
				return
			}
			time.Sleep(c.limit - 10*time.Second)
			if err := r.ended(); err != nil {
				t.Fatalf("hold time %d: after %s: %v", c.hold, time.Since(begin), err)
			}
			time.Sleep(5 * time.Second)
			err := r.ended()
			if err == nil || !strings.Contains(err.Error(), "send hold timer expired") || endingOf(err) != silent {
				t.Errorf("hold time %d: %v", c.hold, err)
			}
			if err := <-sent; err == nil {
				t.Error("the write came to an end")
			}
		})
	}
}

// A router that takes a little now and then is slow and no more.
func TestSlowRouterKeepsItsSession(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newStallRig(t, 90)
		again(t, r.router, appendMessage(nil, msgKeepalive, nil))
		go func() { _ = r.p.send(much(), func(int) {}) }()
		for range 10 {
			time.Sleep(7 * time.Minute)
			if s := r.p.guard.snapshot(); s.stalled.IsZero() {
				t.Error("nothing is said of it")
			}
			r.read(t, 1000)
			time.Sleep(2 * time.Second)
			if s := r.p.guard.snapshot(); !s.stalled.IsZero() {
				t.Errorf("it took something, and it is said that it took nothing since %s", s.stalled)
			}
		}
		if err := r.ended(); err != nil {
			t.Error(err)
		}
	})
}

// GoBGP ends the session of a router that takes nothing and says nothing by its hold timer: it is not kept waiting.
func TestHoldTimerEndsAStalledSession(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newStallRig(t, 90)
		go func() { _ = r.p.send(much(), func(int) {}) }()
		time.Sleep(90*time.Second + time.Millisecond) // three KEEPALIVEs of ours wait
		if err := r.ended(); err != nil {
			t.Fatal(err)
		}
		if _, err := r.gobgp.Write(appendMessage(nil, msgNotification, []byte{errHold, 0})); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * lastWords)
		if err := r.ended(); err == nil || !strings.Contains(err.Error(), "nothing came from the router") || endingOf(err) != silent {
			t.Error(err)
		}
	})
}

// The kernel tells what the other side has taken: nothing more once its window is shut, and the rest when it reads again.
func TestTCPTaken(t *testing.T) {
	c, a := tcpPair(t)
	taken := func() (uint64, bool) {
		t.Helper()
		acked, waits, err := tcpTaken(c.(*net.TCPConn))
		if err != nil {
			t.Fatal(err)
		}
		return acked, waits
	}
	if acked, waits := taken(); waits {
		t.Errorf("nothing was written: %d octets are taken, and more wait", acked)
	}
	total, same := 0, 0
	var shut uint64
	block := make([]byte, 1<<16)
	waitFor(t, "a shut window", func() bool { // when both kernels are full
		_ = c.SetWriteDeadline(time.Now().Add(time.Millisecond))
		n, _ := c.Write(block)
		total += n
		acked, waits := taken()
		if same++; !waits || acked != shut {
			shut, same = acked, 0
		}
		return same == 20
	})
	if shut == 0 || shut >= uint64(total) {
		t.Errorf("%d of %d octets are taken", shut, total)
	}
	go func() { _, _ = io.Copy(io.Discard, a) }()
	waitFor(t, "the rest to be taken", func() bool { acked, waits := taken(); return !waits && acked >= uint64(total) })
	c.Close()
	if _, _, err := tcpTaken(c.(*net.TCPConn)); !errors.Is(err, net.ErrClosed) {
		t.Errorf("closed: %v", err)
	}
}

// A speaker tells of a router that reads nothing, and of nothing any more when it reads again.
func TestStallIsTold(t *testing.T) {
	t.Parallel()
	const name = "trafficmonitor_speaker_peer_stalled_seconds"
	f, goOn := newFakeRouter(t), make(chan struct{})
	f.onUp = func(net.Conn) { <-goOn }
	s := start(t, testOptions(t, f.serve().peer("edge1")))
	waitFor(t, "the session", func() bool { return s.status().Peers[0].State == Established })
	stalled := func() float64 {
		families, err := s.reg.Gather()
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range families {
			if m.GetName() == name {
				return m.GetMetric()[0].GetGauge().GetValue()
			}
		}
		t.Fatalf("no %s", name)
		return 0
	}
	if v := stalled(); v != 0 {
		t.Errorf("stalled for %v s from the start", v)
	}
	routes := manyRoutes(5000) // more than its kernel takes for it
	begin := time.Now()
	s.set(1, 1, routes)
	waitFor(t, "the router to be told of", func() bool { return !s.status().Peers[0].Stalled.IsZero() })
	if d := time.Since(begin); d < stallShown {
		t.Errorf("told after %s", d)
	}
	if v, p := stalled(), s.status().Peers[0]; v < stallShown.Seconds() || v > time.Since(begin).Seconds() || p.Stalled.Before(begin) || p.State != Established {
		t.Errorf("stalled for %v s, %+v", v, p)
	}
	close(goOn)
	waitFor(t, "all routes", func() bool { return len(f.routes()) == len(routes) })
	waitFor(t, "nothing to be told of any more", func() bool { return s.status().Peers[0].Stalled.IsZero() && stalled() == 0 })
}
