package legit

import (
	"net"
	"net/netip"
	"testing"
	"time"
)

// freePort returns a port that is free for UDP and TCP at once, most probably.
func freePort(t *testing.T) uint16 {
	t.Helper()
	l, err := net.Listen("tcp", ":0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return uint16(l.Addr().(*net.TCPAddr).Port)
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal(what)
		}
	}
}

func TestAnswersAndLosses(t *testing.T) {
	port := freePort(t)
	s, err := Listen(port)
	if err != nil {
		t.Fatal(err)
	}
	c, err := Start(Options{
		Servers:  []netip.AddrPort{netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), port)},
		Rate:     1000,
		Patience: 100 * time.Millisecond,
	})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	began := time.Now()
	eventually(t, "no answers", func() bool { return c.Between(began, time.Now()).Asked > 100 })
	if st := c.Between(began, time.Now()); st.Lost > 0 || st.Median <= 0 || st.Max < st.P99 || st.P99 < st.Median {
		t.Errorf("with a server: %+v", st)
	}

	s.Close()
	down := time.Now()
	eventually(t, "no losses", func() bool { return c.Between(down, time.Now()).Asked > 100 })
	if st := c.Between(down, time.Now()); st.LossPercent() != 100 {
		t.Errorf("without a server: %+v", st)
	}

	s, err = Listen(port) // both connections work again
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	eventually(t, "no recovery", func() bool {
		st := c.Between(time.Now().Add(-300*time.Millisecond), time.Now().Add(-100*time.Millisecond))
		return st.Asked > 100 && st.Lost == 0
	})
}

func TestNoServer(t *testing.T) {
	if c, err := Start(Options{}); err == nil {
		c.Close()
		t.Error("a client without servers was started")
	}
	if c, err := Start(Options{Servers: []netip.AddrPort{netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), freePort(t))}}); err == nil {
		c.Close()
		t.Error("a client without a listening server was started")
	}
}
