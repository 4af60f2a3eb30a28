package main

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"sync"
	"time"
)

// router is the other end of a session that counts: it decodes every UPDATE so far as to know which IPv4 FlowSpec rules and
// IPv4 blackholes it announces or withdraws, and does nothing else, so that none of a difference hides in its work.
type router struct {
	ln net.Listener

	mu    sync.Mutex
	held  map[string]bool // NLRI; guarded by mu
	up    bool            // guarded by mu
	err   error           // guarded by mu
	moved chan struct{}   // closed at the next change; guarded by mu
}

const (
	headerLen    = 19
	msgOpen      = 1
	msgUpdate    = 2
	msgKeepalive = 4
	routerASN    = 65001
)

func newRouter(address string) (*router, error) {
	ln, err := net.Listen("tcp4", address+":0")
	if err != nil {
		return nil, err
	}
	r := &router{ln: ln, held: map[string]bool{}, moved: make(chan struct{})}
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			err = r.session(c)
			c.Close()
			r.change(func() { r.up, r.err = false, err })
		}
	}()
	return r, nil
}

func (r *router) port() int { return r.ln.Addr().(*net.TCPAddr).Port }

func (r *router) change(f func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	f()
	close(r.moved)
	r.moved = make(chan struct{})
}

// await returns the time at which ok first held.
func (r *router) await(what string, ok func() bool) (time.Time, error) {
	timeout := time.After(2 * time.Minute)
	for {
		r.mu.Lock()
		now, done, moved, n := time.Now(), ok(), r.moved, len(r.held)
		r.mu.Unlock()
		if done {
			return now, nil
		}
		select {
		case <-moved:
		case <-timeout:
			return now, fmt.Errorf("router %s waited two minutes for %s and holds %d rules (%v)", r.ln.Addr(), what, n, r.err)
		}
	}
}

func (r *router) awaitUp() error {
	_, err := r.await("its session", func() bool { return r.up })
	return err
}

func (r *router) awaitCount(n int) (time.Time, error) {
	return r.await(fmt.Sprintf("%d rules", n), func() bool { return len(r.held) == n })
}

// awaitRule returns when the router had the NLRI, and how many others then.
func (r *router) awaitRule(nlri []byte) (at time.Time, others int, err error) {
	at, err = r.await("the urgent rule", func() bool { others = len(r.held) - 1; return r.held[string(nlri)] })
	return at, others, err
}

func message(typ byte, body []byte) []byte {
	b := make([]byte, headerLen, headerLen+len(body))
	for i := range 16 {
		b[i] = 0xff
	}
	binary.BigEndian.PutUint16(b[16:], uint16(headerLen+len(body)))
	b[18] = typ
	return append(b, body...)
}

func read(r io.Reader) (typ byte, body []byte, err error) {
	var head [headerLen]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return 0, nil, err
	}
	n := int(binary.BigEndian.Uint16(head[16:]))
	if n < headerLen || n > 4096 {
		return 0, nil, fmt.Errorf("a message of %d octets", n)
	}
	body = make([]byte, n-headerLen)
	_, err = io.ReadFull(r, body)
	return head[18], body, err
}

func (r *router) session(c net.Conn) error {
	in := bufio.NewReaderSize(c, 1<<18)
	if typ, _, err := read(in); err != nil || typ != msgOpen {
		return fmt.Errorf("no OPEN: type %d, %w", typ, err)
	}
	open := []byte{
		4, routerASN >> 8, routerASN & 0xff, 0, 90, 10, 66, 0, 11, 22, 2, 20,
		1, 4, 0, 1, 0, 1, // IPv4 unicast
		1, 4, 0, 1, 0, 133, // IPv4 FlowSpec
		2, 0, // route refresh
		65, 4, 0, 0, routerASN >> 8, routerASN & 0xff,
	}
	if _, err := c.Write(append(message(msgOpen, open), message(msgKeepalive, nil)...)); err != nil {
		return err
	}
	done := make(chan struct{})
	defer close(done)
	go func() {
		tick := time.NewTicker(20 * time.Second)
		defer tick.Stop()
		for {
			select {
			case <-done:
				return
			case <-tick.C:
				_, _ = c.Write(message(msgKeepalive, nil))
			}
		}
	}()
	for {
		typ, body, err := read(in)
		if err != nil {
			return err
		}
		switch typ {
		case msgKeepalive:
			r.mu.Lock()
			up := r.up
			r.mu.Unlock()
			if !up {
				r.change(func() { clear(r.held); r.up = true })
			}
		case msgUpdate:
			if err := r.update(body); err != nil {
				return err
			}
		default:
			return fmt.Errorf("message of type %d: %x", typ, body)
		}
	}
}

func (r *router) update(b []byte) error {
	n := int(binary.BigEndian.Uint16(b))
	gone, b := b[2:2+n], b[2+n:]
	n = int(binary.BigEndian.Uint16(b))
	attrs, come := b[2:2+n], b[2+n:]
	var goneRules, comeRules []byte
	for len(attrs) > 0 {
		head, l := 3, int(attrs[2])
		if attrs[0]&0x10 != 0 {
			head, l = 4, int(binary.BigEndian.Uint16(attrs[2:]))
		}
		v := attrs[head : head+l]
		switch attrs[1] {
		case 14:
			if v[2] == 133 {
				comeRules = v[5+int(v[3]):]
			}
		case 15:
			if v[2] == 133 {
				goneRules = v[3:]
			}
		}
		attrs = attrs[head+l:]
	}
	r.change(func() {
		each(gone, prefixLen, func(nlri string) { delete(r.held, nlri) })
		each(goneRules, ruleLen, func(nlri string) { delete(r.held, nlri) })
		each(come, prefixLen, func(nlri string) { r.held[nlri] = true })
		each(comeRules, ruleLen, func(nlri string) { r.held[nlri] = true })
	})
	return nil
}

func prefixLen(b []byte) int { return 1 + (int(b[0])+7)/8 }
func ruleLen(b []byte) int   { return 1 + int(b[0]) } // ours are shorter than 240 octets

func each(b []byte, length func([]byte) int, f func(nlri string)) {
	for len(b) > 0 {
		n := min(length(b), len(b))
		f(string(b[:n]))
		b = b[n:]
	}
}
