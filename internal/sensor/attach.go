package sensor

import (
	"errors"
	"fmt"
	"log/slog"
	"math"
	"slices"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	pb "github.com/amooglesoft/trafficmonitor/api/trafficmonitor/v1"
)

// errNoInterface says that an interface is not there (yet).
var errNoInterface = errors.New("there is no such interface")

// programs are what an interface is watched with.
type programs struct {
	ingress, egress, xdp *ebpf.Program // egress may be nil: nothing that leaves is counted
}

// attachment is what we have at one interface.
type attachment struct {
	hooks    []hook
	places   []place // of the hooks
	index    int
	kind     pb.Interface_Attachment
	outbound bool
	adopted  bool // an earlier process had left it
}

func (a *attachment) alive() bool {
	for _, h := range a.hooks {
		if !h.alive() {
			return false
		}
	}
	return true
}

// leave forgets the attachment: what is pinned stays.
func (a *attachment) leave() (err error) {
	for _, h := range a.hooks {
		err = errors.Join(err, h.leave())
	}
	return err
}

// remove leaves the interface as it was.
func (a *attachment) remove() (err error) {
	for _, h := range a.hooks {
		err = errors.Join(err, h.remove())
	}
	return err
}

func (a *attachment) add(h hook, at place, adopted bool) {
	a.hooks = append(a.hooks, h)
	a.places = append(a.places, at)
	a.adopted = a.adopted || adopted
}

// attacher puts programs in place.
type attacher struct {
	programs programs
	tcx      bool // the kernel has it
	pins     pins
	netns    uint64
	filter   string // name of our filters
	log      *slog.Logger
}

func (a *attacher) place(what string, index int) place { return place{what, index, a.netns} }

// find returns the interface of a name.
func find(name string) (netlink.Link, error) {
	l, err := netlink.LinkByName(name)
	var missing netlink.LinkNotFoundError
	if errors.As(err, &missing) {
		return nil, fmt.Errorf("interface %s: %w", name, errNoInterface)
	}
	if err != nil {
		return nil, fmt.Errorf("interface %s: %w", name, err)
	}
	return l, nil
}

// suits finds the interface, and refuses one that cannot or must not be watched. It needs no programs.
func (a *attacher) suits(i Interface) (netlink.Link, error) {
	l, err := find(i.Name)
	if err != nil {
		return nil, err
	}
	if kind := l.Attrs().EncapType; kind != "ether" && kind != "loopback" {
		return nil, fmt.Errorf("interface %s carries %q frames; only Ethernet can be watched: name the interface below it", i.Name, kind)
	}
	if i.Mode == Mirror && !i.Force {
		if err := mirrorOnly(l); err != nil {
			// Programs that an earlier process left would go on dropping what is no copy.
			return nil, errors.Join(err, a.clear(l.Attrs().Index))
		}
	}
	return l, nil
}

// attach puts the programs for the interface's mode in place, or into the places an earlier process pinned. Other
// programs there are left alone.
func (a *attacher) attach(i Interface) (_ *attachment, err error) {
	l, err := a.suits(i)
	if err != nil {
		return nil, err
	}
	x := &attachment{index: l.Attrs().Index, outbound: i.Mode == Host && i.Outbound && a.programs.egress != nil}
	defer func() {
		if err != nil {
			err = errors.Join(err, x.leave()) // what was pinned before goes on counting
		}
	}()
	if i.Mode == Mirror {
		if err := a.clear(x.index, xdpHook, setPromisc); err != nil {
			return nil, err
		}
		return x, named(i.Name, a.attachXDP(x, l, i))
	}
	switch {
	case i.Hook != HookClsact && a.tcx:
		return x, named(i.Name, a.attachTCX(x))
	case i.Hook == HookTCX:
		return x, named(i.Name, fmt.Errorf("this kernel has no tcx, which came with Linux 6.6; set hook to %s or %s", HookAuto, HookClsact))
	}
	return x, named(i.Name, a.attachClsact(x, i))
}

// haveTCX asks the kernel for tcx, at an interface that cannot be: to try it at a real one, the filter that an earlier process
// left there would have to go first. It needs the right to load a program.
func haveTCX(p *ebpf.Program) bool {
	_, err := link.AttachTCX(link.TCXOptions{Interface: math.MaxInt32, Program: p, Attach: ebpf.AttachTCXIngress})
	return !errors.Is(err, ebpf.ErrNotSupported)
}

func named(name string, err error) error {
	if err != nil {
		return fmt.Errorf("interface %s: %w", name, err)
	}
	return nil
}

// attachTCX attaches at the head: what programs behind us drop or redirect is counted too.
func (a *attacher) attachTCX(x *attachment) error {
	x.kind = pb.Interface_ATTACHMENT_TCX
	sides := []tcxSide{{tcxIngress, ebpf.AttachTCXIngress, a.programs.ingress}}
	keep := []string{tcxIngress}
	if x.outbound {
		sides = append(sides, tcxSide{tcxEgress, ebpf.AttachTCXEgress, a.programs.egress})
		keep = append(keep, tcxEgress)
	}
	if err := a.clear(x.index, keep...); err != nil {
		return err
	}
	for _, s := range sides {
		at := a.place(s.what, x.index)
		h, adopted, err := putLink(a.pins, at, s.program, func() (link.Link, error) {
			return link.AttachTCX(link.TCXOptions{Interface: x.index, Program: s.program, Attach: s.attach, Anchor: link.Head()})
		})
		if err != nil {
			return err
		}
		x.add(h, at, adopted)
	}
	return nil
}

// ahead is how many programs of others stand in front of ours at tcx: what they drop or redirect we do not see. Filters of
// clsact come behind all that is there.
func (a *attacher) ahead(x *attachment) (most int) {
	if x.kind != pb.Interface_ATTACHMENT_TCX && x.kind != pb.Interface_ATTACHMENT_CLSACT {
		return 0
	}
	for attach, p := range map[ebpf.AttachType]*ebpf.Program{ebpf.AttachTCXIngress: a.programs.ingress, ebpf.AttachTCXEgress: a.programs.egress} {
		if p == nil || attach == ebpf.AttachTCXEgress && !x.outbound {
			continue
		}
		r, err := link.QueryPrograms(link.QueryOptions{Target: x.index, Attach: attach})
		if err != nil { // as on a kernel without tcx
			continue
		}
		if x.kind == pb.Interface_ATTACHMENT_CLSACT {
			most = max(most, len(r.Programs))
		} else if len(r.Programs) > 1 { // ours is not alone; to ask for its number reads all of it
			if info, err := p.Info(); err == nil {
				id, _ := info.ID()
				most = max(most, slices.IndexFunc(r.Programs, func(q link.AttachedProgram) bool { return q.ID == id }))
			}
		}
	}
	return most
}

type tcxSide struct {
	what    string
	attach  ebpf.AttachType
	program *ebpf.Program
}

func (a *attacher) attachClsact(x *attachment, i Interface) error {
	x.kind = pb.Interface_ATTACHMENT_CLSACT
	sides := []tcxSide{{what: filterIngress, program: a.programs.ingress}}
	keep := []string{filterIngress, madeClsact}
	if x.outbound {
		sides = append(sides, tcxSide{what: filterEgress, program: a.programs.egress})
		keep = append(keep, filterEgress)
	}
	if err := a.clear(x.index, keep...); err != nil {
		return err
	}
	for _, s := range sides {
		at := a.place(s.what, x.index)
		h, adopted, err := putFilter(a.pins, at, s.program, a.filter, i.Replace)
		if err != nil {
			return err
		}
		x.add(h, at, adopted)
	}
	return nil
}

func (a *attacher) attachXDP(x *attachment, l netlink.Link, i Interface) error {
	at := a.place(xdpHook, x.index)
	p, err := makePromiscuous(a.pins, l, a.netns)
	if err != nil {
		return err
	}
	x.add(p, p.at, false)
	if native := xdpNative(l); i.XDP == XDPNative && !native || i.XDP == XDPGeneric && native {
		if err := a.removePinned(at); err != nil { // it was attached in the other way
			return err
		}
	}
	h, adopted, err := putLink(a.pins, at, a.programs.xdp, func() (link.Link, error) {
		if i.Replace && l.Attrs().Xdp != nil && l.Attrs().Xdp.Attached {
			if err := netlink.LinkSetXdpFd(l, -1); err != nil {
				return nil, fmt.Errorf("remove the XDP program in our place: %w", err)
			}
			a.log.Warn("XDP program of others removed, as replace says", "interface", i.Name, "program", l.Attrs().Xdp.ProgId)
		}
		return a.newXDP(x.index, i)
	})
	if occupied(err) {
		if others := a.pins.others(x.index, a.netns); len(others) > 0 {
			return fmt.Errorf("%w (it is that of the sensor %s: run sensor detach with that name in the configuration)", err, strings.Join(others, " "))
		}
	}
	if err != nil {
		return err
	}
	x.add(h, at, adopted)
	if l, err = netlink.LinkByIndex(x.index); err != nil {
		return err
	}
	x.kind = pb.Interface_ATTACHMENT_XDP_GENERIC
	if xdpNative(l) {
		x.kind = pb.Interface_ATTACHMENT_XDP_NATIVE
	}
	return nil
}

// newXDP attaches inside the driver where it can and may, else behind it.
func (a *attacher) newXDP(index int, i Interface) (link.Link, error) {
	o := link.XDPOptions{Program: a.programs.xdp, Interface: index, Flags: link.XDPDriverMode}
	if i.XDP == XDPGeneric {
		o.Flags = link.XDPGenericMode
	}
	x, err := link.AttachXDP(o)
	if err != nil && i.XDP != XDPNative && i.XDP != XDPGeneric && !occupied(err) {
		native := err
		o.Flags = link.XDPGenericMode
		if x, err = link.AttachXDP(o); err != nil {
			return nil, errors.Join(native, err)
		}
		a.log.Warn("driver has no native XDP, the slower generic one is used", "interface", i.Name, "err", native)
	}
	if occupied(err) {
		return nil, fmt.Errorf("there is an XDP program already, which is left alone: remove it, or set replace: %w", err)
	}
	return x, err
}

func occupied(err error) bool { return errors.Is(err, unix.EBUSY) || errors.Is(err, unix.EEXIST) }

// xdpNative tells whether the XDP program of an interface sits inside its driver.
func xdpNative(l netlink.Link) bool {
	const driver = 1 // XDP_ATTACHED_DRV
	return l.Attrs().Xdp != nil && l.Attrs().Xdp.AttachMode == driver
}

// clear removes what an earlier process left at an interface in other places than those to keep: one packet must not be
// counted twice.
func (a *attacher) clear(index int, keep ...string) error {
	var errs []error
	for _, what := range []string{tcxIngress, tcxEgress, xdpHook, setPromisc, filterIngress, filterEgress, madeClsact} {
		if !slices.Contains(keep, what) {
			errs = append(errs, a.removePinned(a.place(what, index)))
		}
	}
	return errors.Join(errs...)
}

// removePinned removes what is at a place, if it is ours.
func (a *attacher) removePinned(at place) error {
	_, err := removeAt(a.pins, at, a.filter)
	return err
}

// removeAt removes what is at a place of an earlier process or this one; done says whether there was something.
func removeAt(pins pins, at place, filter string) (done bool, err error) {
	var h hook
	switch at.what {
	case tcxIngress, tcxEgress, xdpHook:
		h, err = pinnedLink(pins, at)
		if h == nil || err != nil {
			return false, err
		}
	case setPromisc:
		if !pins.marked(at) {
			return false, nil
		}
		h = &promiscuous{pins: pins, at: at, socket: -1}
	case filterIngress, filterEgress:
		f, err := ourFilter(at, filter)
		if err != nil || f == nil {
			return false, errors.Join(err, pins.unmark(at))
		}
		return true, (&filterHook{pins: pins, at: at, name: f.Name}).removeFilter()
	case madeClsact:
		return removeClsact(pins, at)
	default:
		return false, nil
	}
	return true, h.remove()
}

// sweep removes what an earlier process left where nothing is to be watched any more: interfaces no longer configured,
// and those of a network namespace it ran in.
func (a *attacher) sweep(interfaces []Interface) error {
	places, err := a.left()
	if err != nil {
		return err
	}
	wanted := map[int]bool{}
	for _, i := range interfaces {
		if l, err := find(i.Name); err == nil {
			wanted[l.Attrs().Index] = true
		}
	}
	var errs []error
	for _, at := range places {
		if at.netns == a.netns && wanted[at.index] {
			continue
		}
		if at.netns != a.netns && !isLink(at.what) {
			errs = append(errs, a.pins.unmark(at)) // its interface cannot be reached from here
			continue
		}
		done, err := removeAt(a.pins, at, a.filter)
		if done && err == nil {
			a.log.Info("removed what an earlier run left: it is not to be watched any more", "place", at.what, "index", at.index)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// left lists where an earlier process may have left something.
func (a *attacher) left() (places []place, err error) {
	if a.pins.Pins == nil {
		// Nothing is noted, and nothing but filters can have outlived it.
		all, err := netlink.LinkList()
		if err != nil {
			return nil, fmt.Errorf("list the interfaces: %w", err)
		}
		for _, l := range all {
			places = append(places, a.place(filterIngress, l.Attrs().Index), a.place(filterEgress, l.Attrs().Index))
		}
		return places, nil
	}
	links, err := a.pins.Links()
	marks, err2 := a.pins.Marks()
	for _, name := range append(links, marks...) {
		if at, ok := parsePlace(name); ok {
			places = append(places, at)
		}
	}
	return places, errors.Join(err, err2)
}

func isLink(what string) bool { return what == tcxIngress || what == tcxEgress || what == xdpHook }
