package lab

import (
	"context"
	"fmt"
	"net/netip"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/amooglesoft/trafficmonitor/internal/lab/flood"
	"github.com/amooglesoft/trafficmonitor/internal/lab/legit"
	"github.com/amooglesoft/trafficmonitor/internal/lab/tap"
)

// Flood prepares an attack that leaves through the interface towards gateway, the other end of its link. What o says of
// the interface is filled in.
func (i Interface) Flood(gateway Interface, o flood.Options) (f *flood.Flood, err error) {
	o.Interface, o.Source, o.Gateway = i.Index, i.MAC, gateway.MAC
	err = i.In.Do(func() (err error) {
		f, err = flood.Open(o)
		return err
	})
	return f, err
}

// First begins to wait for the first packet of a class to come in.
func (i Interface) First(c tap.Class) (f *tap.First, err error) {
	err = i.In.Do(func() (err error) {
		f, err = tap.OpenFirst(i.Index, c)
		return err
	})
	if err == nil {
		i.In.lab.OnClose(func() { _ = f.Close() })
	}
	return f, err
}

// Meter begins to count the packets of a class that come in.
func (i Interface) Meter(c tap.Class) (m *tap.Meter, err error) {
	err = i.In.Do(func() (err error) {
		m, err = tap.OpenMeter(i.Index, c)
		return err
	})
	if err == nil {
		i.In.lab.OnClose(func() { _ = m.Close() })
	}
	return m, err
}

// Numbers begins to check off the numbered packets of a class that come in.
func (i Interface) Numbers(c tap.Class, n int) (x *tap.Numbers, err error) {
	err = i.In.Do(func() (err error) {
		x, err = tap.OpenNumbers(i.Index, c, n)
		return err
	})
	if err == nil {
		i.In.lab.OnClose(func() { _ = x.Close() })
	}
	return x, err
}

// BGP begins to watch the BGP sessions that come in over the interface.
func (i Interface) BGP() (b *tap.BGP, err error) {
	err = i.In.Do(func() (err error) {
		b, err = tap.OpenBGP(i.Index)
		return err
	})
	if err == nil {
		i.In.lab.OnClose(func() { _ = b.Close() })
	}
	return b, err
}

// Serve starts a server of legitimate traffic on a UDP and a TCP port of the namespace.
func (n *Namespace) Serve(port uint16) (s *legit.Server, err error) {
	err = n.Do(func() (err error) {
		s, err = legit.Listen(port)
		return err
	})
	if err == nil {
		n.lab.OnClose(s.Close)
	}
	return s, err
}

// Client starts a legitimate client in the namespace.
func (n *Namespace) Client(o legit.Options) (*legit.Client, error) {
	o.Do = n.Do
	c, err := legit.Start(o)
	if err == nil {
		n.lab.OnClose(c.Close)
	}
	return c, err
}

// RouteEvent is a change of the kernel's routes.
type RouteEvent struct {
	// Time we were told of it.
	Time time.Time
	// Prefix of the route.
	Prefix netip.Prefix
	// Blackhole says that it discards.
	Blackhole bool
	// Deleted says that it went away.
	Deleted bool
}

// RouteWatch keeps the changes of a namespace's routes.
type RouteWatch struct {
	mu     sync.Mutex
	events []RouteEvent  // guarded by mu
	news   chan struct{} // guarded by mu: closed and replaced with each event
}

// WatchRoutes begins to watch the routes of the namespace, until the lab is closed.
func (n *Namespace) WatchRoutes() (*RouteWatch, error) {
	w := &RouteWatch{news: make(chan struct{})}
	updates, stop := make(chan netlink.RouteUpdate, 64), make(chan struct{})
	if err := netlink.RouteSubscribeWithOptions(updates, stop, netlink.RouteSubscribeOptions{Namespace: &n.handle}); err != nil {
		return nil, fmt.Errorf("watch the routes of %s: %w", n.name, err)
	}
	go func() {
		for u := range updates {
			now := time.Now()
			if u.Dst == nil {
				continue
			}
			addr, ok := netip.AddrFromSlice(u.Dst.IP)
			ones, _ := u.Dst.Mask.Size()
			if !ok {
				continue
			}
			w.mu.Lock()
			w.events = append(w.events, RouteEvent{now, netip.PrefixFrom(addr.Unmap(), ones), u.Route.Type == unix.RTN_BLACKHOLE, u.Type == unix.RTM_DELROUTE})
			close(w.news)
			w.news = make(chan struct{})
			w.mu.Unlock()
		}
	}()
	n.lab.OnClose(func() { close(stop) })
	return w, nil
}

// Events returns every change so far.
func (w *RouteWatch) Events() []RouteEvent {
	w.mu.Lock()
	defer w.mu.Unlock()
	return append([]RouteEvent(nil), w.events...)
}

// Wait returns the first event at or after since of which want says yes.
func (w *RouteWatch) Wait(ctx context.Context, since time.Time, want func(RouteEvent) bool) (RouteEvent, error) {
	for {
		w.mu.Lock()
		events, news := w.events, w.news
		w.mu.Unlock()
		for _, e := range events {
			if !e.Time.Before(since) && want(e) {
				return e, nil
			}
		}
		select {
		case <-ctx.Done():
			return RouteEvent{}, fmt.Errorf("no such change of routes among %d: %w", len(events), ctx.Err())
		case <-news:
		}
	}
}
