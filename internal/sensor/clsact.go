package sensor

import (
	"errors"
	"fmt"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Before Linux 6.6 there is no tcx: a filter of the clsact queueing discipline takes its place, at the front and with an
// action that leaves the packet to whoever comes next. Filters outlive their process in any case; their name says whose
// they are.
const (
	filterPriority = 1
	filterHandle   = 0x746d // "tm"
	filterPrefix   = "trafficmonitor:"
)

// filterHook is a program in a filter.
type filterHook struct {
	pins    pins
	at      place
	name    string
	program int // its id in the kernel
}

func filterParent(what string) uint32 {
	if what == filterEgress {
		return netlink.HANDLE_MIN_EGRESS
	}
	return netlink.HANDLE_MIN_INGRESS
}

// filterAt returns the filter at the place that ours have; nil if there is none.
func filterAt(at place) (netlink.Filter, error) {
	all, err := netlink.FilterList(&netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: at.index}}, filterParent(at.what))
	if errors.Is(err, unix.ENODEV) || errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT) {
		return nil, nil // no interface, or no queueing discipline
	}
	if err != nil {
		return nil, fmt.Errorf("list the filters of interface %d: %w", at.index, err)
	}
	for _, f := range all {
		if a := f.Attrs(); a.Priority == filterPriority && a.Handle == filterHandle && f.Type() == "bpf" {
			return f, nil
		}
	}
	return nil, nil
}

// ourFilter is filterAt for a filter of the given name only; the prefix of all our names stands for each.
func ourFilter(at place, name string) (*netlink.BpfFilter, error) {
	f, err := filterAt(at)
	if b, ok := f.(*netlink.BpfFilter); ok && (b.Name == name || name == filterPrefix && strings.HasPrefix(b.Name, name)) {
		return b, err
	}
	return nil, err
}

func (h *filterHook) alive() bool {
	f, err := ourFilter(h.at, h.name)
	if err != nil {
		return true // no answer, as when others change filters meanwhile, does not say that it is gone
	}
	return f != nil && f.Id == h.program
}

func (h *filterHook) leave() error {
	if h.pins.Pins == nil {
		return h.remove()
	}
	return nil
}

func (h *filterHook) remove() error {
	err := h.removeFilter()
	_, qdisc := removeClsact(h.pins, h.at)
	return errors.Join(err, qdisc)
}

func (h *filterHook) removeFilter() error {
	f, err := ourFilter(h.at, h.name)
	if err == nil && f != nil {
		err = netlink.FilterDel(f)
	}
	if err != nil && !errors.Is(err, unix.ENODEV) && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("remove the filter %s: %w", h.at, err)
	}
	return h.pins.unmark(h.at)
}

// removeClsact removes the queueing discipline if we made it and no filter is left in it.
func removeClsact(pins pins, at place) (done bool, err error) {
	at.what = madeClsact
	if !pins.marked(at) {
		return false, nil
	}
	l := &netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: at.index}}
	for _, what := range []string{filterIngress, filterEgress} {
		left, err := netlink.FilterList(l, filterParent(what))
		if err == nil && len(left) > 0 {
			return false, nil
		}
	}
	err = netlink.QdiscDel(clsact(at.index))
	if err != nil && !errors.Is(err, unix.ENODEV) && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.EINVAL) {
		return false, fmt.Errorf("remove the clsact queueing discipline of interface %d: %w", at.index, err)
	}
	return true, pins.unmark(at)
}

func clsact(index int) *netlink.Clsact {
	return &netlink.Clsact{QdiscAttrs: netlink.QdiscAttrs{LinkIndex: index, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT}}
}

// putFilter makes program p the one in our filter at a place, exchanging the one of an earlier process in one step.
// A filter that is not ours is replaced only when told.
func putFilter(pins pins, at place, p *ebpf.Program, name string, replace bool) (h *filterHook, adopted bool, err error) {
	info, err := p.Info()
	if err != nil {
		return nil, false, fmt.Errorf("ask for the program's number: %w", err)
	}
	id, _ := info.ID()
	h = &filterHook{pins: pins, at: at, name: name, program: int(id)}
	made := at
	made.what = madeClsact
	switch err := netlink.QdiscAdd(clsact(at.index)); {
	case err == nil:
		if err := pins.mark(made); err != nil {
			return nil, false, err
		}
	case !errors.Is(err, unix.EEXIST):
		return nil, false, fmt.Errorf("add the clsact queueing discipline: %w", err)
	}
	present, err := filterAt(at)
	if err != nil {
		return nil, false, err
	}
	f := &netlink.BpfFilter{
		FilterAttrs: netlink.FilterAttrs{
			LinkIndex: at.index, Parent: filterParent(at.what), Handle: filterHandle, Priority: filterPriority, Protocol: unix.ETH_P_ALL,
		},
		Fd: p.FD(), Name: name, DirectAction: true,
	}
	put := netlink.FilterAdd // fails if another is quicker
	if present != nil {
		theirs := ""
		if b, ok := present.(*netlink.BpfFilter); ok {
			theirs = b.Name
		}
		if adopted = theirs == name; !adopted && !replace {
			return nil, false, fmt.Errorf("the filter with priority %d and handle %#x is %q, not ours, and is left alone: remove it, or set replace", filterPriority, filterHandle, theirs)
		}
		put = netlink.FilterReplace
	}
	if err := pins.mark(at); err != nil {
		return nil, false, err
	}
	if err := put(f); err != nil {
		if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EEXIST) {
			err = fmt.Errorf("%w (is there an ingress queueing discipline, or a filter of another kind at priority %d? give it another priority)", err, filterPriority)
		}
		_, qdisc := removeClsact(pins, at)
		return nil, false, errors.Join(fmt.Errorf("add the filter: %w", err), pins.unmark(at), qdisc)
	}
	return h, adopted, nil
}
