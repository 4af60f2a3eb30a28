package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"flag"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"

	"github.com/amooglesoft/trafficmonitor/internal/lab"
)

// hostile takes BGP sessions at one address, one after the other, and does in each the next of its misdeeds; after the
// last one it behaves. Each is told to standard error.
func hostile(ctx context.Context, args []string) error {
	f := flag.NewFlagSet("hostile", flag.ContinueOnError)
	listen := f.String("listen", "0.0.0.0:179", "address to take sessions at")
	asn := f.Uint("asn", 64666, "AS number, 1 to 65535")
	id := f.String("id", "10.0.0.66", "BGP identifier")
	when := f.String("when", "", "behave until this file exists; empty: never behave")
	if err := f.Parse(args); err != nil {
		return err
	}
	addr, err := netip.ParseAddr(*id)
	if err != nil || !addr.Is4() || *asn == 0 || *asn > 65535 {
		return errors.Join(errors.New("hostile: --id is an IPv4 address, --asn 1 to 65535"), err)
	}
	ln, err := (&net.ListenConfig{}).Listen(ctx, "tcp4", *listen)
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { ln.Close() })
	defer stop()
	open := openMessage(uint16(*asn), addr)
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	for i := 0; ; i++ {
		c, err := ln.Accept()
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return err
		}
		deed := misdeed{"none", func(*net.TCPConn) {}}
		if i < len(misdeeds) {
			deed = misdeeds[i]
		}
		did := false
		session(ctx, c.(*net.TCPConn), open, func(ctx context.Context, c *net.TCPConn) {
			if awaitFile(ctx, *when) == nil {
				log.Info("session", "number", i+1, "with", c.RemoteAddr(), "misdeed", deed.name)
				did = true
				deed.do(c)
			}
		})
		if !did {
			i-- // it is still to be done
		}
	}
}

type misdeed struct {
	name string
	do   func(*net.TCPConn)
}

var misdeeds = []misdeed{
	{"sends UPDATEs that make no sense, then resets", func(c *net.TCPConn) {
		for _, b := range [][]byte{
			truncated(), truncated(),
			message(2, []byte{0, 0, 0, 0}),
			message(2, []byte{0xff, 0xff, 0, 0}),
			message(2, []byte{0, 0, 0xff, 0xff}),
			message(2, bytes.Repeat([]byte{0xff}, 4000)),
			message(2, []byte{0, 0, 0, 4, 0x80, 15, 1, 0}),
			truncated(),
		} {
			_, _ = c.Write(b)
		}
		_ = c.SetLinger(0)
		c.Close()
	}},
	{"sends what is no BGP", func(c *net.TCPConn) { _, _ = c.Write(bytes.Repeat([]byte("hostile "), 4096)) }},
	{"never finishes a message", func(c *net.TCPConn) {
		_, _ = c.Write(message(2, make([]byte, 2000))[:500])
		_ = c.CloseWrite()
	}},
	{"sends UPDATEs of chance, then one of 60,000 octets, then hangs up", func(c *net.TCPConn) {
		chance := rand.NewChaCha8([32]byte{6})
		for size := range 256 {
			body := make([]byte, 4+size)
			_, _ = chance.Read(body)
			_, _ = c.Write(message(2, body))
		}
		_, _ = c.Write(message(2, make([]byte, 60000)))
		_ = c.CloseWrite()
	}},
	{"refuses with a NOTIFICATION", func(c *net.TCPConn) {
		_, _ = c.Write(message(3, []byte{6, 2})) // Cease, Administrative Shutdown (RFC 4486)
		c.Close()
	}},
}

// awaitFile waits until a file exists, or ctx ends.
func awaitFile(ctx context.Context, path string) error {
	if path == "" {
		return nil
	}
	return lab.Until(ctx, path, func(context.Context) error {
		_, err := os.Stat(path)
		return err
	})
}

// session gets a session established and keeps it to its end, while do does its worst.
func session(ctx context.Context, c *net.TCPConn, open []byte, do func(context.Context, *net.TCPConn)) {
	defer c.Close()
	ctx, cancel := context.WithCancel(ctx)
	var busy sync.WaitGroup
	defer busy.Wait()
	defer cancel()
	stop := context.AfterFunc(ctx, func() { c.Close() })
	defer stop()
	r := bufio.NewReader(c)
	next := func() (kind byte, err error) {
		head := make([]byte, 19)
		if err := c.SetReadDeadline(time.Now().Add(2 * time.Minute)); err != nil {
			return 0, err
		}
		if _, err := io.ReadFull(r, head); err != nil {
			return 0, err
		}
		_, err = io.CopyN(io.Discard, r, int64(binary.BigEndian.Uint16(head[16:]))-19)
		return head[18], err
	}
	if kind, err := next(); err != nil || kind != 1 {
		return
	}
	_, _ = c.Write(open)
	if kind, err := next(); err != nil || kind != 4 {
		return
	}
	_, _ = c.Write(message(4, nil))
	busy.Go(func() { do(ctx, c) })
	for {
		kind, err := next()
		if err != nil || kind == 3 {
			return
		}
		if kind == 4 {
			_, _ = c.Write(message(4, nil))
		}
	}
}

// message is one BGP message (RFC 4271, section 4.1).
func message(kind byte, body []byte) []byte {
	b := bytes.Repeat([]byte{0xff}, 16)
	b = binary.BigEndian.AppendUint16(b, uint16(19+len(body)))
	return append(append(b, kind), body...)
}

// openMessage is an OPEN with unicast and FlowSpec of both families (RFC 4271, section 4.2; RFC 4760).
func openMessage(asn uint16, id netip.Addr) []byte {
	var caps []byte
	for _, f := range [][2]byte{{1, 1}, {2, 1}, {1, 133}, {2, 133}} {
		caps = append(caps, 1, 4, 0, f[0], 0, f[1])
	}
	caps = binary.BigEndian.AppendUint32(append(caps, 65, 4), uint32(asn))
	body := binary.BigEndian.AppendUint16([]byte{4}, asn)
	body = append(append(body, 0, 90), id.AsSlice()...)
	body = append(body, byte(len(caps)+2), 2, byte(len(caps)))
	return message(1, append(body, caps...))
}

// truncated is an UPDATE whose FlowSpec rule lacks the value of its one component.
func truncated() []byte {
	attrs := []byte{
		0x40, 1, 1, 0, // ORIGIN
		0x40, 2, 0, // AS_PATH
		0x80, 14, 9, 0, 1, 133, 0, 0, 0x03, 0x03, 0xb1, 0x06, // MP_REACH_NLRI
	}
	return message(2, append([]byte{0, 0, 0, byte(len(attrs))}, attrs...))
}
