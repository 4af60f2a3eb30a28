package lab

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// Namespace is one machine of a lab: a network namespace with loopback up, forwarding on, and neither duplicate address
// detection nor router advertisements nor reverse path filters in the way.
type Namespace struct {
	lab    *Lab
	name   string
	handle netns.NsHandle
	nl     *netlink.Handle
}

// Namespace returns the lab's namespace called name, and makes it when there is none. On the machine it is called by
// its FullName.
func (l *Lab) Namespace(name string) (*Namespace, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil, errors.New("the lab is closed")
	}
	for _, n := range l.namespaces {
		if n.name == name {
			return n, nil
		}
	}
	if name != clean(name) {
		return nil, fmt.Errorf("namespace %q: use small letters, digits and hyphens", name)
	}
	n := &Namespace{lab: l, name: name, handle: netns.None()}
	err := onOwnThread(func() error {
		origin, err := netns.Get()
		if err != nil {
			return err
		}
		defer origin.Close()
		if n.handle, err = netns.NewNamed(n.FullName()); err != nil {
			return err
		}
		return netns.Set(origin)
	})
	if err != nil {
		return nil, fmt.Errorf("make namespace %s: %w", n.FullName(), err)
	}
	l.namespaces = append(l.namespaces, n)
	if n.nl, err = netlink.NewHandleAt(n.handle); err != nil {
		return nil, fmt.Errorf("netlink in %s: %w", n.FullName(), err)
	}
	if err := n.prepare(); err != nil {
		return nil, fmt.Errorf("prepare namespace %s: %w", n.FullName(), err)
	}
	return n, nil
}

func (n *Namespace) prepare() error {
	lo, err := n.nl.LinkByName("lo")
	if err != nil {
		return err
	}
	if err := n.nl.LinkSetUp(lo); err != nil {
		return err
	}
	return n.Sysctl(map[string]string{
		"net.ipv4.ip_forward":                 "1",
		"net.ipv6.conf.all.forwarding":        "1",
		"net.ipv4.conf.all.rp_filter":         "0",
		"net.ipv4.conf.default.rp_filter":     "0",
		"net.ipv6.conf.default.accept_dad":    "0",
		"net.ipv6.conf.default.accept_ra":     "0",
		"net.ipv6.conf.default.dad_transmits": "0",
	})
}

// Name is what the lab calls the namespace.
func (n *Namespace) Name() string { return n.name }

// FullName is what the machine calls the namespace: ip netns exec FULLNAME.
func (n *Namespace) FullName() string { return n.lab.id + "-" + n.name }

// Lab is the lab the namespace is part of.
func (n *Namespace) Lab() *Lab { return n.lab }

// Netlink is a netlink handle inside the namespace.
func (n *Namespace) Netlink() *netlink.Handle { return n.nl }

// onOwnThread runs fn on a thread of its own. The thread ends with fn when fn fails, so that no other goroutine ever
// runs on a thread that was left in another namespace.
func onOwnThread(fn func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		err := fn()
		if err == nil {
			runtime.UnlockOSThread()
		}
		done <- err
	}()
	return <-done
}

// Do runs fn on a thread inside the namespace; sockets it opens stay there. fn must not start goroutines that need the
// namespace, and no processes: Start and Run are for those.
func (n *Namespace) Do(fn func() error) error {
	var fail error
	err := onOwnThread(func() error {
		origin, err := netns.Get()
		if err != nil {
			return err
		}
		defer origin.Close()
		if err := netns.Set(n.handle); err != nil {
			return fmt.Errorf("enter namespace %s: %w", n.FullName(), err)
		}
		fail = fn()
		return netns.Set(origin)
	})
	return errors.Join(err, fail)
}

// Sysctl sets kernel parameters inside the namespace.
func (n *Namespace) Sysctl(values map[string]string) error {
	return n.Do(func() error {
		var errs []error
		for key, value := range values {
			path := filepath.Join("/proc/sys", strings.ReplaceAll(key, ".", "/"))
			if err := os.WriteFile(path, []byte(value), 0o644); err != nil {
				errs = append(errs, err)
			}
		}
		return errors.Join(errs...)
	})
}

// Run runs a program inside the namespace and returns what it printed; the error holds that too.
func (n *Namespace) Run(ctx context.Context, argv ...string) (string, error) {
	var out output
	p, err := n.start(Command{Argv: argv}, &out)
	if err != nil {
		return "", err
	}
	select {
	case <-p.Done():
	case <-ctx.Done():
		_ = p.Kill()
		<-p.Done()
		return out.String(), fmt.Errorf("%s in %s: %w\n%s", strings.Join(argv, " "), n.name, ctx.Err(), out.String())
	}
	if p.err != nil {
		return out.String(), fmt.Errorf("%s in %s: %w\n%s", strings.Join(argv, " "), n.name, p.err, out.String())
	}
	return out.String(), nil
}

// output collects what a program prints, safe to read while a descendant of the program still prints.
type output struct {
	mu  sync.Mutex
	buf strings.Builder // guarded by mu
}

func (o *output) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.Write(b)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.String()
}

// End is one end of a link.
type End struct {
	// In is the namespace it lies in.
	In *Namespace
	// Name of the interface, at most 15 bytes; empty means "to-" and the other namespace's name.
	Name string
	// Addresses with their prefix lengths, such as "10.0.0.1/24" and "2001:db8::1/64".
	Addresses []string
}

// Interface is an interface of a namespace.
type Interface struct {
	In    *Namespace
	Name  string
	Index int
	MAC   net.HardwareAddr
	// Addresses without their prefix lengths, in the order they were given.
	Addresses []netip.Addr
}

// Link joins two namespaces with a veth pair of MTU 1500, configures its addresses and sets it up.
func (l *Lab) Link(a, b End) (Interface, Interface, error) {
	for _, e := range []struct{ end, other *End }{{&a, &b}, {&b, &a}} {
		if e.end.Name == "" {
			e.end.Name = "to-" + e.other.In.name
		}
		e.end.Name = e.end.Name[:min(len(e.end.Name), 15)]
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU = a.Name, 1500
	attrs.Namespace = netlink.NsFd(int(a.In.handle))
	veth := &netlink.Veth{LinkAttrs: attrs, PeerName: b.Name, PeerNamespace: netlink.NsFd(int(b.In.handle))}
	if err := a.In.nl.LinkAdd(veth); err != nil {
		return Interface{}, Interface{}, fmt.Errorf("link %s/%s to %s/%s: %w", a.In.name, a.Name, b.In.name, b.Name, err)
	}
	var out [2]Interface
	for i, e := range []End{a, b} {
		var err error
		if out[i], err = e.configure(); err != nil {
			return Interface{}, Interface{}, fmt.Errorf("configure %s/%s: %w", e.In.name, e.Name, err)
		}
	}
	for i := range out {
		if err := out[i].ready(out[1-i]); err != nil {
			return Interface{}, Interface{}, fmt.Errorf("set up %s/%s: %w", out[i].In.name, out[i].Name, err)
		}
	}
	return out[0], out[1], nil
}

// ready waits until the kernel lets packets out of the interface, which may be a second after both ends are up, and
// tells it the other end's addresses: neighbour discovery would cost the first packets, and a flood could starve it.
func (i Interface) ready(other Interface) error {
	for _, a := range other.Addresses {
		neigh := &netlink.Neigh{LinkIndex: i.Index, State: netlink.NUD_PERMANENT, IP: a.AsSlice(), HardwareAddr: other.MAC}
		if err := i.In.nl.NeighSet(neigh); err != nil {
			return fmt.Errorf("neighbour %s: %w", a, err)
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	return Until(ctx, "the link to come up", func(context.Context) error {
		link, err := i.In.nl.LinkByIndex(i.Index)
		if err != nil {
			return err
		}
		if s := link.Attrs().OperState; s != netlink.OperUp {
			return fmt.Errorf("it is %s", s)
		}
		return nil
	})
}

func (e End) configure() (Interface, error) {
	link, err := e.In.nl.LinkByName(e.Name)
	if err != nil {
		return Interface{}, err
	}
	if err := e.In.nl.LinkSetMTU(link, 1500); err != nil {
		return Interface{}, err
	}
	out := Interface{In: e.In, Name: e.Name, Index: link.Attrs().Index, MAC: slices.Clone(link.Attrs().HardwareAddr)}
	for _, text := range e.Addresses {
		addr, err := netlink.ParseAddr(text)
		if err != nil {
			return Interface{}, fmt.Errorf("address %q: %w", text, err)
		}
		prefix := netip.MustParsePrefix(text)
		if prefix.Addr().Is6() {
			addr.Flags = unix.IFA_F_NODAD
		}
		if err := e.In.nl.AddrAdd(link, addr); err != nil {
			return Interface{}, fmt.Errorf("address %s: %w", text, err)
		}
		out.Addresses = append(out.Addresses, prefix.Addr())
	}
	return out, e.In.nl.LinkSetUp(link)
}

// AddRoute sends what is for dst ("203.0.113.0/24") by way of the next hop via.
func (n *Namespace) AddRoute(dst string, via netip.Addr) error {
	p, err := netip.ParsePrefix(dst)
	if err != nil {
		return err
	}
	r := &netlink.Route{Dst: ipNet(p.Masked()), Gw: via.AsSlice()}
	if err := n.nl.RouteAdd(r); err != nil {
		return fmt.Errorf("route %s via %s in %s: %w", dst, via, n.name, err)
	}
	return nil
}

// remove deletes the namespace. Interfaces in it, and the other ends of their links, go with it.
func (n *Namespace) remove() error {
	var errs []error
	if n.nl != nil {
		// The namespace itself lives on while a socket of ours is open in it; its links must not.
		if links, err := n.nl.LinkList(); err == nil {
			for _, l := range links {
				if l.Type() == "veth" {
					_ = n.nl.LinkDel(l) // its other end may have taken it along
				}
			}
		}
		n.nl.Close()
	}
	if n.handle.IsOpen() {
		errs = append(errs, n.handle.Close())
	}
	return errors.Join(append(errs, netns.DeleteNamed(n.FullName()))...)
}
