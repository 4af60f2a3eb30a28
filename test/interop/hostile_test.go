package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/amooglesoft/trafficmonitor/internal/lab"
	"github.com/amooglesoft/trafficmonitor/internal/speaker"
)

// Routers that do one kind of harm each. up is called when the session is established; without it the handshake is the
// harm.
var harms = []struct {
	name      string
	handshake func(c net.Conn) error
	up        func(c net.Conn, over <-chan struct{})
}{
	{name: "silent", handshake: func(c net.Conn) error { return waitForEnd(c) }},
	{name: "half-open", handshake: func(c net.Conn) error {
		_, err := c.Write(openMessage())
		return errors.Join(err, waitForEnd(c))
	}},
	{name: "half-said", handshake: func(c net.Conn) error {
		_, err := c.Write(openMessage()[:20])
		return errors.Join(err, waitForEnd(c))
	}},
	{name: "resets", up: func(c net.Conn, _ <-chan struct{}) { _ = c.(*net.TCPConn).SetLinger(0) }},
	{name: "reads-nothing", up: func(_ net.Conn, over <-chan struct{}) { <-over }},
	{name: "says-nonsense", up: func(c net.Conn, _ <-chan struct{}) {
		chance := rand.NewChaCha8([32]byte{7})
		for size := 0; ; size = (size + 97) % 8000 { // also longer than BGP allows
			body := make([]byte, 4+size)
			_, _ = chance.Read(body)
			if _, err := c.Write(message(2, body)); err != nil {
				return
			}
		}
	}},
	{name: "breaks-off", up: func(c net.Conn, _ <-chan struct{}) {
		_, _ = c.Write(message(2, make([]byte, 3000))[:700])
		_ = c.(*net.TCPConn).CloseWrite()
		_, _ = io.Copy(io.Discard, c)
	}},
}

const harmfulASN = 65050

// message is one BGP message.
func message(kind byte, body []byte) []byte {
	b := binary.BigEndian.AppendUint16(bytes.Repeat([]byte{0xff}, 16), uint16(19+len(body)))
	return append(append(b, kind), body...)
}

// openMessage is an OPEN with our four families.
func openMessage() []byte {
	caps := []byte{65, 4, 0, 0, harmfulASN >> 8, harmfulASN & 0xff}
	for _, f := range [][2]byte{{1, 1}, {2, 1}, {1, 133}, {2, 133}} {
		caps = append(caps, 1, 4, 0, f[0], 0, f[1])
	}
	return message(1, append([]byte{4, harmfulASN >> 8, harmfulASN & 0xff, 0, 90, 10, 66, 99, 99, byte(len(caps) + 2), 2, byte(len(caps))}, caps...))
}

// waitForEnd reads until the other side has had enough.
func waitForEnd(c net.Conn) error {
	_, err := io.Copy(io.Discard, c)
	return errors.Join(err, io.EOF)
}

// readMessage reads one message of a kind.
func readMessage(c net.Conn, kind byte) error {
	head := make([]byte, 19)
	if _, err := io.ReadFull(c, head); err != nil {
		return err
	}
	_, err := io.CopyN(io.Discard, c, int64(binary.BigEndian.Uint16(head[16:]))-19)
	if err == nil && head[18] != kind {
		err = fmt.Errorf("a message of type %d, not %d", head[18], kind)
	}
	return err
}

// TestHostile gives one speaker a good router and one of each kind of bad ones, at the same time. The good one follows
// every change of the rules over one session, whatever the others do.
func TestHostile(t *testing.T) {
	lab.NeedRoot(t)
	lab.NeedTool(t, "bird", "ip")
	program := program(t)
	l := lab.New(t, "hostile")
	ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
	defer cancel()
	us := namespace(t, l, "us")
	// Small buffers: what a router does not read fills them soon.
	if err := us.Sysctl(map[string]string{"net.ipv4.tcp_wmem": "4096 4096 8192", "net.ipv4.tcp_rmem": "4096 8192 16384"}); err != nil {
		t.Fatal(err)
	}
	ours, good := addresses(1)
	config := speakerConfig{Dir: filepath.Join(l.Dir(), "speaker"), RouterID: ours, Peers: []speakerPeer{{"good", good, 65100}}}
	them := namespace(t, l, "good")
	link(t, l, us, them, 1)
	bird, err := them.StartBIRD(ctx, lab.RouterConfig{
		RouterID: good, ASN: 65100, Local: good, AcceptAll: true,
		Neighbors: []lab.Neighbor{{Name: "speaker", Address: ours, ASN: ourASN, Passive: true}},
	})
	if err != nil {
		t.Fatal(err)
	}
	sessions := make([]atomic.Int64, len(harms))
	for i, h := range harms {
		in := namespace(t, l, h.name)
		if err := in.Sysctl(map[string]string{"net.ipv4.tcp_rmem": "4096 4096 4096"}); err != nil {
			t.Fatal(err)
		}
		link(t, l, us, in, 2+i)
		_, address := addresses(2 + i)
		var ln net.Listener
		if err := in.Do(func() (err error) {
			ln, err = net.Listen("tcp4", address.String()+":179")
			return err
		}); err != nil {
			t.Fatal(err)
		}
		config.Peers = append(config.Peers, speakerPeer{h.name, address, harmfulASN})
		harm(t, ln, &sessions[i], h.handshake, h.up)
	}
	process, client, err := config.start(us, program)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()

	cells := allCells(t)[:200]
	p := &pair{router: bird, client: client, speaker: process}
	for round, set := range [][]Cell{cells[:150], cells, cells[50:], cells[:10], nil} {
		if err := lab.Until(ctx, "the speaker to take the routes", func(ctx context.Context) error {
			_, err := p.set(ctx, set)
			return err
		}); err != nil {
			t.Fatal(err)
		}
		if err := lab.Until(ctx, fmt.Sprintf("the good router to have the routes of round %d", round), func(ctx context.Context) error {
			have, err := bird.Received(ctx)
			if err == nil && len(have) != len(set) {
				err = fmt.Errorf("it has %d of %d", len(have), len(set))
			}
			return err
		}); err != nil {
			t.Fatal(err)
		}
		if round > 0 {
			continue
		}
		// Every harm is being done by now.
		if _, err := p.wait(ctx, "every router to do its harm", func(st speaker.Status) error {
			for i, h := range harms {
				if sessions[i].Load() == 0 {
					return fmt.Errorf("%s has no connection yet", h.name)
				}
			}
			for _, s := range st.Peers {
				if s.Name == "reads-nothing" && (s.State != speaker.Established || s.Routes[speaker.Pending] == 0) {
					return fmt.Errorf("the router that does not read is %s and waits for %d routes", s.State, s.Routes[speaker.Pending])
				}
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
	}
	st, err := client.Status(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range st.Peers {
		if s.Name == "good" && (s.State != speaker.Established || s.Established != 1) {
			t.Errorf("the good router is %s in its session number %d: %s", s.State, s.Established, s.LastError)
		}
	}
	if st.PID != process.Pid() {
		t.Errorf("the speaker was process %d and is %d", process.Pid(), st.PID)
	}
}

func namespace(t *testing.T, l *lab.Lab, name string) *lab.Namespace {
	t.Helper()
	n, err := l.Namespace(name)
	return lab.Must(t, n, err)
}

// link joins the speaker's namespace with a router's.
func link(t *testing.T, l *lab.Lab, us, them *lab.Namespace, n int) {
	t.Helper()
	a, b := addresses(n)
	if _, _, err := l.Link(lab.End{In: us, Addresses: []string{a.String() + "/24"}}, lab.End{In: them, Addresses: []string{b.String() + "/24"}}); err != nil {
		t.Fatal(err)
	}
}

// harm serves connections until the test ends.
func harm(t *testing.T, ln net.Listener, sessions *atomic.Int64, handshake func(net.Conn) error, up func(net.Conn, <-chan struct{})) {
	t.Helper()
	var wg sync.WaitGroup
	var mu sync.Mutex
	open := map[net.Conn]bool{}
	over := make(chan struct{})
	served := make(chan struct{})
	wg.Go(func() {
		defer close(served)
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			open[c] = true
			mu.Unlock()
			wg.Go(func() {
				defer c.Close()
				if handshake != nil {
					sessions.Add(1)
					_ = handshake(c)
					return
				}
				if readMessage(c, 1) != nil {
					return
				}
				if _, err := c.Write(append(openMessage(), message(4, nil)...)); err != nil || readMessage(c, 4) != nil {
					return
				}
				sessions.Add(1)
				up(c, over)
			})
		}
	})
	t.Cleanup(func() {
		ln.Close()
		<-served
		close(over)
		mu.Lock()
		for c := range open {
			c.Close()
		}
		mu.Unlock()
		wg.Wait()
	})
}
