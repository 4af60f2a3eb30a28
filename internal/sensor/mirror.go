package sensor

import (
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// mirrorOnly refuses an interface that seems to carry traffic of its own: in mirror mode all of it would be lost.
func mirrorOnly(l netlink.Link) error {
	uses, err := ownUses(l)
	if err != nil {
		return err
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
	return refuseMirror(l, uses)
}

// stillMirror is mirrorOnly for a port that was one when we attached to it, to be asked often: without the host's routes, of
// which there may be a million.
func stillMirror(l netlink.Link) error {
	uses, err := ownUses(l)
	if err != nil {
		return nil // no reason to stop
	}
	return refuseMirror(l, uses)
}

func refuseMirror(l netlink.Link, uses []string) error {
	if len(uses) == 0 {
		return nil
	}
	return fmt.Errorf("interface %s %s: mode %s would drop all its traffic; use mode %s, or force if it really receives copies only",
		l.Attrs().Name, strings.Join(uses, ", "), Mirror, Host)
}

// ownUses lists what makes an interface more than a mirror port, but for routes.
func ownUses(l netlink.Link) (uses []string, err error) {
	if m := l.Attrs().MasterIndex; m != 0 {
		uses = append(uses, "is a port of another interface")
	}
	addrs, err := netlink.AddrList(l, netlink.FAMILY_ALL)
	if err != nil {
		return nil, fmt.Errorf("interface %s: list addresses: %w", l.Attrs().Name, err)
	}
	for _, a := range addrs {
		if !a.IP.IsLinkLocalUnicast() || a.IP.To4() != nil {
			uses = append(uses, "has the address "+a.IPNet.String())
		}
	}
	above, err := netlink.LinkList()
	if err != nil {
		return nil, fmt.Errorf("interface %s: list what lies on it: %w", l.Attrs().Name, err)
	}
	uses = append(uses, carries(l.Attrs().Index, above)...)
	if l.Attrs().Flags&net.FlagLoopback != 0 {
		uses = append(uses, "is the loopback interface")
	}
	return uses, nil
}

// stacked are the kinds of interfaces that receive their packets through another one. The other end of a veth pair, which
// the kernel also calls its parent, is none.
var stacked = []string{"vlan", "macvlan", "macvtap", "ipvlan", "ipvtap", "macsec"}

// liesOn tells whether an interface receives its packets through the one of an index. In a container it may lie on one of
// the host's, whose index means another interface here.
func liesOn(l netlink.Link, index int) bool {
	const here = -1
	return l.Attrs().ParentIndex == index && l.Attrs().NetNsID == here && slices.Contains(stacked, l.Type())
}

func carries(index int, links []netlink.Link) (uses []string) {
	for _, l := range links {
		if liesOn(l, index) {
			uses = append(uses, fmt.Sprintf("carries the %s interface %s", l.Type(), l.Attrs().Name))
		}
	}
	return uses
}

// linkLocal tells what the kernel gives every interface by itself: fe80::/64 and multicast.
func linkLocal(n *net.IPNet) bool {
	return n.IP.To4() == nil && (n.IP.IsLinkLocalUnicast() || n.IP.IsMulticast())
}

// promiscuous is a mirror port's willingness to take what is addressed to others, as all copies are.
type promiscuous struct {
	pins   pins
	at     place
	socket int // whose membership makes the interface promiscuous for as long as it is open; -1 for none
}

// makePromiscuous asks for copies addressed to others. With pins it lasts as the program does; else a socket's membership
// ends with it, whatever happens to this process.
func makePromiscuous(pins pins, l netlink.Link, netns uint64) (*promiscuous, error) {
	p := &promiscuous{pins: pins, at: place{setPromisc, l.Attrs().Index, netns}, socket: -1}
	if pins.Pins != nil {
		if l.Attrs().RawFlags&unix.IFF_PROMISC != 0 {
			return p, nil // by us before, or by someone who will keep it
		}
		if err := pins.mark(p.at); err != nil {
			return nil, err
		}
		if err := netlink.SetPromiscOn(l); err != nil {
			return nil, errors.Join(fmt.Errorf("make it promiscuous: %w", err), pins.unmark(p.at))
		}
		return p, nil
	}
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("make it promiscuous: %w", err)
	}
	p.socket = fd
	err = unix.SetsockoptPacketMreq(fd, unix.SOL_PACKET, unix.PACKET_ADD_MEMBERSHIP,
		&unix.PacketMreq{Ifindex: int32(l.Attrs().Index), Type: unix.PACKET_MR_PROMISC})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("make it promiscuous: %w", err), unix.Close(fd))
	}
	return p, nil
}

func (p *promiscuous) alive() bool { return true }

func (p *promiscuous) leave() error {
	if p.socket < 0 {
		return nil
	}
	return unix.Close(p.socket)
}

func (p *promiscuous) remove() error {
	if p.socket >= 0 {
		return unix.Close(p.socket)
	}
	if !p.pins.marked(p.at) {
		return nil
	}
	err := netlink.SetPromiscOff(&netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: p.at.index}})
	if err != nil && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("interface %d: make it promiscuous no more: %w", p.at.index, err)
	}
	return p.pins.unmark(p.at)
}
