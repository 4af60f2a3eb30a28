//go:build linux

package bpf

import (
	"errors"
	"fmt"
	"net/netip"
	"os"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// Table maps protected prefixes to their slots; of several that hold an address the longest counts.
type Table map[netip.Prefix]uint32

// Lookup returns the slot of the longest prefix that holds addr.
func (t Table) Lookup(addr netip.Addr) (slot uint32, ok bool) {
	p, ok := t.Longest(netip.PrefixFrom(addr, addr.BitLen()))
	return t[p], ok
}

// Longest returns the longest prefix that holds all of p, which may be p itself.
func (t Table) Longest(p netip.Prefix) (longest netip.Prefix, ok bool) {
	for bits := p.Bits(); bits >= 0; bits-- {
		longest, err := p.Addr().Prefix(bits)
		if err != nil {
			break
		}
		if _, ok := t[longest]; ok {
			return longest, true
		}
	}
	return netip.Prefix{}, false
}

// Parent returns the slot of the longest prefix that holds p and more, or NoSlot.
func (t Table) Parent(p netip.Prefix) uint32 {
	if p.Bits() > 0 {
		if above, ok := t.Longest(netip.PrefixFrom(p.Addr(), p.Bits()-1)); ok {
			return t[above]
		}
	}
	return NoSlot
}

// Fits tells whether the maps can hold t.
func (s Sizes) Fits(t Table) error {
	var errs []error
	if len(t) > s.Prefixes {
		errs = append(errs, fmt.Errorf("%d protected prefixes are more than the %d this sensor has room for", len(t), s.Prefixes))
	}
	networks := t.Networks4(s.Networks4)
	if len(networks) > s.Networks4 {
		errs = append(errs, fmt.Errorf("the protected IPv4 prefixes hold more than the %d /24 networks this sensor has room for", s.Networks4))
	}
	blocks := map[uint32]bool{}
	for n := range networks {
		blocks[n>>8] = true
	}
	if len(blocks) > s.Blocks4 {
		errs = append(errs, fmt.Errorf("the protected IPv4 prefixes touch %d /16 networks, more than the %d this sensor has room for", len(blocks), s.Blocks4))
	}
	if n := len(newTrie6(t).nodes); n > s.nodes6() {
		errs = append(errs, fmt.Errorf("the protected IPv6 prefixes need %d table nodes, more than the %d this sensor has room for: allow it more prefixes, or protect shorter ones", n, s.nodes6()))
	}
	return errors.Join(errs...)
}

// SetTargets makes t what is protected, while packets go on being counted. A host that was protected before and is
// now keeps its slot. What has a slot and is not protected any more, or has another parent now, is for the caller to
// [Kernel.Unlink] or [Kernel.SetParent]. A process that dies in the middle leaves maps that the next can make good by
// calling it again.
func (k *Kernel) SetTargets(t Table) error {
	if err := k.Sizes.Fits(t); err != nil {
		return err
	}
	// Prefixes are described before packets can be counted for them.
	described := map[uint32]bool{}
	for p, slot := range t {
		if err := k.describe(slot, Holder{Network: p, Parent: t.Parent(p)}); err != nil {
			return err
		}
		described[slot] = true
	}
	if err := k.setTargets6(t); err != nil {
		return err
	}
	if err := k.setTargets4(t); err != nil {
		return err
	}
	for i := range k.Sizes.Prefixes {
		if slot := uint32(k.Sizes.Hosts + i); !described[slot] {
			if err := k.describe(slot, Holder{Parent: NoSlot}); err != nil {
				return err
			}
		}
	}
	return nil
}

// window gives access to size octets of a map's values while programs use them; they must not reach over a page. The
// page is mapped for the moment only: kept mapped, the whole table would count as memory of this process a second time.
func (k *Kernel) window(m *ebpf.Map, offset, size int, do func(memory []byte)) error {
	k.step()
	page := os.Getpagesize()
	memory, err := unix.Mmap(m.FD(), int64(offset/page*page), page, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return err
	}
	do(memory[offset%page : offset%page+size])
	return unix.Munmap(memory)
}

// step comes before each change of a map that a death of this process may leave as the last.
func (k *Kernel) step() {
	if k.before != nil {
		k.before()
	}
}
