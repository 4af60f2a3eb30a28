// Package legit is the traffic that must not suffer: clients that ask a small server over UDP and TCP, at a steady rate,
// and know exactly which of their questions were answered in time.
package legit

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"
)

const messageSize = 64

// Server answers every message with the same message.
type Server struct {
	udp   net.PacketConn
	tcp   net.Listener
	wg    sync.WaitGroup
	mu    sync.Mutex
	conns map[net.Conn]bool // guarded by mu; nil once closed
}

// Listen starts a server on a UDP and a TCP port, both families, in the network namespace of the calling thread.
func Listen(port uint16) (*Server, error) {
	at := fmt.Sprintf(":%d", port)
	udp, err := net.ListenPacket("udp", at)
	if err != nil {
		return nil, err
	}
	tcp, err := net.Listen("tcp", at)
	if err != nil {
		return nil, errors.Join(err, udp.Close())
	}
	s := &Server{udp: udp, tcp: tcp, conns: map[net.Conn]bool{}}
	s.wg.Go(func() {
		buf := make([]byte, 2048)
		for {
			n, from, err := udp.ReadFrom(buf)
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if err == nil && n == messageSize {
				_, _ = udp.WriteTo(buf[:n], from)
			}
		}
	})
	s.wg.Go(func() {
		for {
			c, err := tcp.Accept()
			if err != nil {
				return
			}
			s.mu.Lock()
			if s.conns == nil {
				c.Close()
			} else {
				s.conns[c] = true
				s.wg.Go(func() { s.serve(c) })
			}
			s.mu.Unlock()
		}
	})
	return s, nil
}

func (s *Server) serve(c net.Conn) {
	defer func() {
		c.Close()
		s.mu.Lock()
		delete(s.conns, c)
		s.mu.Unlock()
	}()
	buf := make([]byte, messageSize)
	for {
		if _, err := io.ReadFull(c, buf); err != nil {
			return
		}
		if _, err := c.Write(buf); err != nil {
			return
		}
	}
}

// Close ends the server.
func (s *Server) Close() {
	s.udp.Close()
	s.tcp.Close()
	s.mu.Lock()
	for c := range s.conns {
		c.Close()
	}
	s.conns = nil
	s.mu.Unlock()
	s.wg.Wait()
}

// Options says what a client does.
type Options struct {
	// Servers are asked in turn, each over UDP and TCP.
	Servers []netip.AddrPort
	// Rate is the questions per second, over all; 0 means 200.
	Rate float64
	// Patience is how long an answer may take before it counts as lost; 0 means 500 ms.
	Patience time.Duration
	// Do runs a function in the client's network namespace; nil means the present one.
	Do func(func() error) error
}

// Client asks until it is closed.
type Client struct {
	o     Options
	began time.Time
	stop  chan struct{}
	wg    sync.WaitGroup

	mu        sync.Mutex
	questions []question // guarded by mu, by number
}

type question struct {
	sent time.Time
	took time.Duration // 0: no answer so far
}

// Start starts a client. Its connections are made before it returns.
func Start(o Options) (*Client, error) {
	if o.Rate == 0 {
		o.Rate = 200
	}
	if o.Patience == 0 {
		o.Patience = 500 * time.Millisecond
	}
	if o.Do == nil {
		o.Do = func(f func() error) error { return f() }
	}
	c := &Client{o: o, stop: make(chan struct{})}
	var flows []*flow
	for _, s := range o.Servers {
		for _, network := range []string{"udp", "tcp"} {
			f := &flow{network: network, server: s, client: c}
			if err := f.dial(); err != nil {
				for _, f := range flows {
					f.close()
				}
				c.wg.Wait()
				return nil, fmt.Errorf("legitimate client: %w", err)
			}
			flows = append(flows, f)
		}
	}
	if len(flows) == 0 {
		return nil, errors.New("legitimate client: no servers")
	}
	c.began = time.Now()
	c.wg.Go(func() { c.ask(flows) })
	return c, nil
}

// Close ends the client.
func (c *Client) Close() {
	c.mu.Lock()
	select {
	case <-c.stop:
	default:
		close(c.stop)
	}
	c.mu.Unlock()
	c.wg.Wait()
}

func (c *Client) ask(flows []*flow) {
	defer func() {
		for _, f := range flows {
			f.close()
		}
	}()
	buf := make([]byte, messageSize)
	for n := 0; ; n++ {
		due := c.began.Add(time.Duration(float64(n) / c.o.Rate * float64(time.Second)))
		select {
		case <-c.stop:
			return
		case <-time.After(time.Until(due)):
		}
		binary.BigEndian.PutUint64(buf, uint64(n))
		c.mu.Lock()
		c.questions = append(c.questions, question{sent: time.Now()})
		c.mu.Unlock()
		flows[n%len(flows)].send(buf)
	}
}

func (c *Client) answered(message []byte) {
	now := time.Now()
	n := binary.BigEndian.Uint64(message)
	c.mu.Lock()
	defer c.mu.Unlock()
	if n < uint64(len(c.questions)) && c.questions[n].took == 0 {
		c.questions[n].took = max(now.Sub(c.questions[n].sent), 1)
	}
}

// flow is one connection of the client. A TCP connection that breaks is made again.
type flow struct {
	network string
	server  netip.AddrPort
	client  *Client

	mu      sync.Mutex
	conn    net.Conn // guarded by mu; nil while there is none
	dialing bool     // guarded by mu
	closed  bool     // guarded by mu
}

func (f *flow) dial() error {
	var conn net.Conn
	err := f.client.o.Do(func() (err error) {
		conn, err = net.DialTimeout(f.network, f.server.String(), 2*time.Second)
		return err
	})
	if err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return conn.Close()
	}
	f.conn = conn
	f.client.wg.Go(func() { f.receive(conn) })
	return nil
}

func (f *flow) receive(conn net.Conn) {
	buf := make([]byte, messageSize)
	for {
		if _, err := io.ReadFull(conn, buf); err != nil {
			if f.network == "udp" && !errors.Is(err, net.ErrClosed) {
				continue // an ICMP error of one datagram
			}
			f.lost(conn)
			return
		}
		f.client.answered(buf)
	}
}

// lost forgets a broken connection.
func (f *flow) lost(conn net.Conn) {
	conn.Close()
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.conn == conn {
		f.conn = nil
	}
}

func (f *flow) send(message []byte) {
	f.mu.Lock()
	conn := f.conn
	redial := conn == nil && !f.dialing && !f.closed
	f.dialing = f.dialing || redial
	f.mu.Unlock()
	if redial { // the question is lost, as it is to a person
		f.client.wg.Go(func() {
			_ = f.dial() // the next question tries again
			f.mu.Lock()
			f.dialing = false
			f.mu.Unlock()
		})
	}
	if conn == nil {
		return
	}
	_ = conn.SetWriteDeadline(time.Now().Add(f.client.o.Patience))
	if _, err := conn.Write(message); err != nil && f.network == "tcp" {
		f.lost(conn)
	}
}

func (f *flow) close() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.closed = true
	if f.conn != nil {
		f.conn.Close()
	}
}

// Stats is what became of the questions of a span of time.
type Stats struct {
	Asked, Lost int
	// Median, P99 and Max are how long the answers took that came in time.
	Median, P99, Max time.Duration
}

// LossPercent is the share of questions without an answer in time.
func (s Stats) LossPercent() float64 {
	if s.Asked == 0 {
		return 0
	}
	return 100 * float64(s.Lost) / float64(s.Asked)
}

// Between returns what became of the questions asked in [from, to). Questions whose patience has not run out yet are
// left out.
func (c *Client) Between(from, to time.Time) Stats {
	now := time.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	var s Stats
	var took []time.Duration
	for _, q := range c.questions {
		if q.sent.Before(from) || !q.sent.Before(to) {
			continue
		}
		inTime := q.took > 0 && q.took <= c.o.Patience
		if !inTime && now.Sub(q.sent) < c.o.Patience {
			continue
		}
		s.Asked++
		if inTime {
			took = append(took, q.took)
		} else {
			s.Lost++
		}
	}
	if len(took) > 0 {
		slices.Sort(took)
		s.Median, s.P99, s.Max = took[len(took)/2], took[len(took)*99/100], took[len(took)-1]
	}
	return s
}
