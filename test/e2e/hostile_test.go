package e2e

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/amooglesoft/trafficmonitor/internal/lab"
)

// hostile is a router that speaks BGP well enough to get a session and then does what it was told to.
type hostile struct {
	t  testing.TB
	ln net.Listener

	mu       sync.Mutex
	sessions int      // guarded by mu
	updates  int      // from us, with routes, in all sessions; guarded by mu
	conn     net.Conn // guarded by mu
}

const oneMore = "destination 203.0.113.77/32 protocol udp source-port 1900 then discard"

// message is one BGP message.
func message(kind byte, body []byte) []byte {
	b := bytes.Repeat([]byte{0xff}, 16)
	b = binary.BigEndian.AppendUint16(b, uint16(19+len(body)))
	return append(append(b, kind), body...)
}

// openMessage is the OPEN of AS 65011 with all our families.
func openMessage() []byte {
	caps := []byte{65, 4, 0, 0, 0xfd, 0xf3} // four-octet AS numbers
	for _, f := range [][2]byte{{1, 1}, {2, 1}, {1, 133}, {2, 133}} {
		caps = append(caps, 1, 4, 0, f[0], 0, f[1])
	}
	body := append([]byte{4, 0xfd, 0xf3, 0, 90, 10, 66, 2, 2, byte(len(caps) + 2), 2, byte(len(caps))}, caps...)
	return message(1, body)
}

// truncated is the UPDATE that panics GoBGP v3.37: a FlowSpec NLRI of three octets, protocol, whose value is missing.
func truncated() []byte {
	attrs := []byte{
		0x40, 1, 1, 0, // ORIGIN
		0x40, 2, 0, // AS_PATH
		0x80, 14, 9, 0, 1, 133, 0, 0, 0x03, 0x03, 0xb1, 0x06, // MP_REACH_NLRI
	}
	return message(2, append([]byte{0, 0, 0, byte(len(attrs))}, attrs...))
}

// serve answers one connection after the other, each with the next of the given behaviours, after the last one with
// good ones only. A behaviour gets the connection when the session is established.
func (h *hostile) serve(behave ...func(net.Conn)) {
	for i := 0; ; i++ {
		c, err := h.ln.Accept()
		if err != nil {
			return
		}
		h.session(c, func(c net.Conn) {
			if i < len(behave) {
				behave[i](c)
			}
		})
	}
}

func (h *hostile) session(c net.Conn, behave func(net.Conn)) {
	defer c.Close()
	r := bufio.NewReader(c)
	next := func() (kind byte, size int, err error) {
		head := make([]byte, 19)
		if _, err := io.ReadFull(r, head); err != nil {
			return 0, 0, err
		}
		size = int(binary.BigEndian.Uint16(head[16:])) - 19
		_, err = io.CopyN(io.Discard, r, int64(size))
		return head[18], size, err
	}
	if kind, _, err := next(); err != nil || kind != 1 {
		return
	}
	_, _ = c.Write(openMessage())
	if kind, _, err := next(); err != nil || kind != 4 {
		return
	}
	_, _ = c.Write(message(4, nil))
	h.mu.Lock()
	h.sessions++
	h.conn = c
	h.mu.Unlock()
	var busy sync.WaitGroup
	busy.Go(func() { behave(c) })
	defer busy.Wait()
	for {
		kind, size, err := next()
		if err != nil || kind == 3 {
			return
		}
		if kind == 2 && size > 12 { // an End-of-RIB has at most 4+6 octets
			h.mu.Lock()
			h.updates++
			h.mu.Unlock()
		}
	}
}

// hangUp ends the present session by a TCP reset, without a word.
func (h *hostile) hangUp() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.conn != nil {
		_ = h.conn.(*net.TCPConn).SetLinger(0)
		h.conn.Close()
	}
}

func (h *hostile) counts() (sessions, updates int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.sessions, h.updates
}

// A router that sends what kills GoBGP, and other things no router should, ends no process of ours and moves no route
// at another router.
func TestHostileRouter(t *testing.T) {
	t.Parallel()
	s := newSite(t, "hostile", lab.SiteOptions{NoFRR: true, NoEnforce: true}, settings{Peers: []string{"hostile"}})
	h := &hostile{t: t}
	if err := s.EdgeTwo.Do(func() (err error) {
		h.ln, err = net.Listen("tcp4", lab.SiteFRR.String()+":179")
		return err
	}); err != nil {
		t.Fatal(err)
	}
	attack := make(chan struct{})
	done := make(chan struct{})
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		h.serve(
			// Updates that make no sense, in an established session.
			func(c net.Conn) {
				select {
				case <-attack:
				case <-t.Context().Done():
					return
				}
				for _, b := range [][]byte{
					truncated(), truncated(), truncated(),
					message(2, []byte{0, 0, 0, 0}),
					message(2, []byte{0xff, 0xff, 0, 0}),
					message(2, []byte{0, 0, 0xff, 0xff}),
					message(2, bytes.Repeat([]byte{0xff}, 4000)),
					message(2, []byte{0, 0, 0, 4, 0x80, 15, 1, 0}),
					message(2, []byte{0, 5, 33, 192, 0, 2, 1, 0, 0}),
					truncated(),
				} {
					_, _ = c.Write(b)
				}
				close(done)
			},
			// What is no BGP at all.
			func(c net.Conn) { _, _ = c.Write(bytes.Repeat([]byte("hostile "), 4096)) },
			// A message that never ends.
			func(c net.Conn) {
				b := message(2, make([]byte, 2000))
				_, _ = c.Write(b[:500])
				_ = c.(*net.TCPConn).CloseWrite()
			},
			// Whole messages whose bodies are chance, the same in each run; an UPDATE longer than BGP allows (RFC 4271, section
			// 4.1), which is skipped; a KEEPALIVE that is longer than one, which ends the session.
			func(c net.Conn) {
				chance := rand.NewChaCha8([32]byte{6})
				for size := range 256 {
					body := make([]byte, 4+size)
					_, _ = chance.Read(body)
					_, _ = c.Write(message(2, body))
				}
				_, _ = c.Write(message(2, make([]byte, 60000)))
				_, _ = c.Write(message(4, make([]byte, 1)))
			},
		)
	}()
	t.Cleanup(func() {
		h.ln.Close()
		h.hangUp()
		<-ended
	})

	s.start()
	s.ready()
	for _, text := range kinds {
		s.announce(text, 10*time.Minute)
	}
	s.hold(kinds...)
	s.sent(kinds...)
	eventually(t, "the hostile router to have everything", func(context.Context) error {
		if _, n := h.counts(); n < len(kinds) {
			return fmt.Errorf("%d updates", n)
		}
		return nil
	})
	speaker, begun, began := s.speakerPID(), s.bird.session(), time.Now()
	keeps := s.bird.keeps(kinds...)

	// First what costs no session of the router that sends it ...
	close(attack)
	<-done
	s.announce(oneMore, 10*time.Minute)
	eventually(t, "the hostile router to have one more", func(context.Context) error {
		if _, n := h.counts(); n != len(kinds)+1 {
			return fmt.Errorf("%d updates", n)
		}
		return nil
	})
	if n, _ := h.counts(); n != 1 {
		t.Errorf("the hostile router has its session for the %d. time", n)
	}
	// ... then what does: the session is lost, and comes back.
	h.hangUp()
	eventually(t, "the hostile router to have everything in its fifth session", func(context.Context) error {
		if n, u := h.counts(); n < 5 || u < 2*(len(kinds)+1) {
			return fmt.Errorf("%d sessions, %d updates", n, u)
		}
		return nil
	})
	keeps()
	s.bird.waitChange(began, oneMore, false)
	s.bird.only(began, "announced "+s.onWire(oneMore))
	s.ready()
	s.sent(append(kinds, oneMore)...)
	s.hold(append(kinds, oneMore)...)
	if pid := s.speakerPID(); pid != speaker {
		t.Errorf("the speaker was process %d and is %d", speaker, pid)
	}
	s.bird.still(begun, 1)
	s.leaveNothing()
}
