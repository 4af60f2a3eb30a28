package sensor

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/amooglesoft/trafficmonitor/internal/sensor/bpf"
)

// errNoInterface says that an interface is not there (yet).
var errNoInterface = errors.New("there is no such interface")

// attachment is a program on an interface. Closing it leaves the interface as it was; so does the process's death.
type attachment struct {
	link    link.Link
	promisc int // packet socket that keeps a mirror port promiscuous; -1 for none
	index   int
}

func (a *attachment) Close() error {
	err := a.link.Close()
	if a.promisc >= 0 {
		err = errors.Join(err, unix.Close(a.promisc))
	}
	return err
}

// attach puts the program for the interface's mode in place. Other programs there are left alone.
func attach(k *bpf.Kernel, i Interface, log *slog.Logger) (*attachment, error) {
	l, err := netlink.LinkByName(i.Name)
	var missing netlink.LinkNotFoundError
	if errors.As(err, &missing) {
		return nil, fmt.Errorf("interface %s: %w", i.Name, errNoInterface)
	}
	if err != nil {
		return nil, fmt.Errorf("interface %s: %w", i.Name, err)
	}
	if kind := l.Attrs().EncapType; kind != "ether" && kind != "loopback" {
		return nil, fmt.Errorf("interface %s carries %q frames; only Ethernet can be watched: name the interface below it", i.Name, kind)
	}
	if i.Mode == Mirror {
		if !i.Force {
			if err := mirrorOnly(l); err != nil {
				return nil, err
			}
		}
		return attachXDP(k, l, log)
	}
	// At the head: what programs behind us drop or redirect is counted too.
	t, err := link.AttachTCX(link.TCXOptions{Interface: l.Attrs().Index, Program: k.Ingress(), Attach: ebpf.AttachTCXIngress, Anchor: link.Head()})
	if errors.Is(err, ebpf.ErrNotSupported) {
		return nil, fmt.Errorf("interface %s: this kernel has no tcx, which came with Linux 6.6: %w", i.Name, err)
	}
	if err != nil {
		return nil, fmt.Errorf("interface %s: %w", i.Name, err)
	}
	return &attachment{link: t, promisc: -1, index: l.Attrs().Index}, nil
}

// mirrorOnly refuses an interface that seems to carry traffic of its own: in mirror mode all of it would be lost.
func mirrorOnly(l netlink.Link) error {
	var uses []string
	if m := l.Attrs().MasterIndex; m != 0 {
		uses = append(uses, "is a port of another interface")
	}
	addrs, err := netlink.AddrList(l, netlink.FAMILY_ALL)
	if err != nil {
		return fmt.Errorf("interface %s: list addresses: %w", l.Attrs().Name, err)
	}
	for _, a := range addrs {
		if !a.IP.IsLinkLocalUnicast() || a.IP.To4() != nil {
			uses = append(uses, "has the address "+a.IPNet.String())
		}
	}
	routes, err := netlink.RouteListFiltered(netlink.FAMILY_ALL, &netlink.Route{LinkIndex: l.Attrs().Index}, netlink.RT_FILTER_OIF)
	if err != nil {
		return fmt.Errorf("interface %s: list routes: %w", l.Attrs().Name, err)
	}
	for _, r := range routes {
		switch {
		case r.Dst == nil:
			uses = append(uses, "has the default route")
		case !linkLocal(r.Dst):
			uses = append(uses, "has the route "+r.Dst.String())
		}
	}
	if l.Attrs().Flags&net.FlagLoopback != 0 {
		uses = append(uses, "is the loopback interface")
	}
	if len(uses) > 0 {
		return fmt.Errorf("interface %s %s: mode %s would drop all its traffic; use mode %s, or force if it really receives copies only",
			l.Attrs().Name, strings.Join(uses, ", "), Mirror, Host)
	}
	return nil
}

// linkLocal tells what the kernel gives every interface by itself: fe80::/64 and multicast.
func linkLocal(n *net.IPNet) bool {
	return n.IP.To4() == nil && (n.IP.IsLinkLocalUnicast() || n.IP.IsMulticast())
}

func attachXDP(k *bpf.Kernel, l netlink.Link, log *slog.Logger) (*attachment, error) {
	name := l.Attrs().Name
	o := link.XDPOptions{Program: k.XDP(), Interface: l.Attrs().Index, Flags: link.XDPDriverMode}
	x, err := link.AttachXDP(o)
	switch {
	case errors.Is(err, unix.EBUSY) || errors.Is(err, unix.EEXIST):
		return nil, fmt.Errorf("interface %s has an XDP program already, which is left alone: %w", name, err)
	case err != nil:
		native := err
		o.Flags = link.XDPGenericMode
		if x, err = link.AttachXDP(o); err != nil {
			return nil, fmt.Errorf("interface %s: %w", name, errors.Join(native, err))
		}
		log.Warn("driver has no native XDP, the slower generic one is used", "interface", name, "err", native)
	}
	a := &attachment{link: x, promisc: -1, index: l.Attrs().Index}
	// Copies carry the addresses of others. A socket's membership ends with it, whatever happens to this process.
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err == nil {
		a.promisc = fd
		err = unix.SetsockoptPacketMreq(fd, unix.SOL_PACKET, unix.PACKET_ADD_MEMBERSHIP,
			&unix.PacketMreq{Ifindex: int32(l.Attrs().Index), Type: unix.PACKET_MR_PROMISC})
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("interface %s: make it promiscuous: %w", name, err), a.Close())
	}
	return a, nil
}
