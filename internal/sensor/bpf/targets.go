//go:build linux

package bpf

import (
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"slices"
	"sync/atomic"
	"unsafe"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

const (
	unprotected = 0xffffffff
	unallocated = 0x80000000
	blockSize   = 1024
)

// MaxLengths6 is how many different lengths the protected IPv6 prefixes may have.
const MaxLengths6 = 8

// Table maps protected prefixes to their slots; of several that hold an address the longest counts.
type Table map[netip.Prefix]uint32

// Lookup returns the slot of the longest prefix that holds addr.
func (t Table) Lookup(addr netip.Addr) (slot uint32, ok bool) {
	for bits := addr.BitLen(); bits >= 0; bits-- {
		p, err := addr.Prefix(bits)
		if err != nil {
			return 0, false
		}
		if slot, ok := t[p]; ok {
			return slot, true
		}
	}
	return 0, false
}

// table4 remembers which blocks of the IPv4 table are in use.
type table4 struct {
	networks     []uint32          // first two octets -> network block, as the programs see it
	hostBlocks   map[uint32]uint32 // first three octets -> host block
	blocksUsed   map[uint32]int    // first two octets -> host blocks in it
	freeNetworks []uint32
	freeHosts    []uint32
}

func newTable4(s Sizes) table4 {
	t := table4{networks: make([]uint32, 65536), hostBlocks: map[uint32]uint32{}, blocksUsed: map[uint32]int{}}
	for i := range s.Blocks4 {
		t.freeNetworks = append(t.freeNetworks, uint32(i+1))
	}
	for i := range s.Networks4 {
		t.freeHosts = append(t.freeHosts, uint32(i+1))
	}
	return t
}

// Networks4 returns the /24 networks, as their first three octets, that the IPv4 prefixes of t touch.
// It stops once there are more than limit.
func (t Table) Networks4(limit int) map[uint32]bool {
	networks := map[uint32]bool{}
	for p := range t {
		if !p.Addr().Is4() {
			continue
		}
		a := p.Addr().As4()
		first := binary.BigEndian.Uint32(a[:]) >> 8
		for n := range uint32(1) << max(0, 24-p.Bits()) {
			if networks[first+n] = true; len(networks) > limit {
				return networks
			}
		}
	}
	return networks
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
	blocks, lengths := map[uint32]bool{}, map[int]bool{}
	for n := range networks {
		blocks[n>>8] = true
	}
	if len(blocks) > s.Blocks4 {
		errs = append(errs, fmt.Errorf("the protected IPv4 prefixes touch %d /16 networks, more than the %d this sensor has room for", len(blocks), s.Blocks4))
	}
	for p := range t {
		if p.Addr().Is6() {
			lengths[p.Bits()] = true
		}
	}
	if len(lengths) > MaxLengths6 {
		errs = append(errs, fmt.Errorf("the protected IPv6 prefixes have %d different lengths, of which a sensor tells at most %d apart", len(lengths), MaxLengths6))
	}
	return errors.Join(errs...)
}

// SetTargets makes t what is protected, while packets go on being counted. A host that was protected before and is
// now keeps its slot. Slots of hosts no longer protected are unlinked; the caller gives them back.
func (k *Kernel) SetTargets(t Table) error {
	if err := k.Sizes.Fits(t); err != nil {
		return err
	}
	if err := k.setTargets6(t); err != nil {
		return err
	}
	return k.setTargets4(t)
}

func (k *Kernel) setTargets6(t Table) error {
	lengths := map[int]bool{}
	for p, slot := range t {
		if !p.Addr().Is6() {
			continue
		}
		lengths[p.Bits()] = true
		if k.v6[p] == slot {
			if _, ok := k.v6[p]; ok {
				continue
			}
		}
		if err := k.objects.Prefixes6.Put(key6(p), slot); err != nil {
			return fmt.Errorf("protect %s: %w", p, err)
		}
		k.v6[p] = slot
	}
	// Longest first; a length stays visible until all prefixes of it are gone.
	masks := [MaxLengths6]SensorMask6{}
	for i, bits := range slices.Backward(slices.Sorted(maps.Keys(lengths))) {
		all := netip.MustParseAddr("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff")
		m := key6(netip.PrefixFrom(all, bits).Masked())
		masks[len(lengths)-1-i] = SensorMask6{Mask: m.Address, Length: uint32(bits)}
	}
	if err := k.objects.Masks6.Set(masks); err != nil {
		return fmt.Errorf("set the IPv6 prefix lengths: %w", err)
	}
	if err := k.objects.Masks6Used.Set(uint32(len(lengths))); err != nil {
		return fmt.Errorf("set the IPv6 prefix lengths: %w", err)
	}
	for p := range k.v6 {
		if _, keep := t[p]; keep {
			continue
		}
		if err := k.objects.Prefixes6.Delete(key6(p)); err != nil && !isMissing(err) {
			return fmt.Errorf("stop protecting %s: %w", p, err)
		}
		delete(k.v6, p)
	}
	return nil
}

func key6(p netip.Prefix) SensorPrefix6 {
	a := p.Addr().As16()
	return SensorPrefix6{
		Address: [2]uint64{binary.LittleEndian.Uint64(a[:8]), binary.LittleEndian.Uint64(a[8:])},
		Length:  uint32(p.Bits()),
	}
}

func (k *Kernel) setTargets4(t Table) error {
	wanted := t.Networks4(k.Sizes.Networks4)
	// What goes makes room for what comes.
	for _, n := range slices.Sorted(maps.Keys(k.v4.hostBlocks)) {
		if wanted[n] {
			continue
		}
		if err := k.fill(k.v4.hostBlocks[n], func(int) uint32 { return unprotected }); err != nil {
			return err
		}
		if err := k.link(n, 0); err != nil {
			return err
		}
		k.v4.freeHosts = append(k.v4.freeHosts, k.v4.hostBlocks[n])
		delete(k.v4.hostBlocks, n)
		if k.v4.blocksUsed[n>>8]--; k.v4.blocksUsed[n>>8] == 0 {
			delete(k.v4.blocksUsed, n>>8)
			k.v4.freeNetworks = append(k.v4.freeNetworks, k.v4.networks[n>>8])
			k.v4.networks[n>>8] = 0
		}
	}
	if err := k.objects.Networks.Set(k.v4.networks); err != nil {
		return fmt.Errorf("set the IPv4 table: %w", err)
	}

	inside := map[uint32]bool{} // networks of which hosts differ
	for p := range t {
		if p.Addr().Is4() && p.Bits() > 24 {
			a := p.Addr().As4()
			inside[binary.BigEndian.Uint32(a[:])>>8] = true
		}
	}
	for _, n := range slices.Sorted(maps.Keys(wanted)) {
		host := func(i int) netip.Addr {
			return netip.AddrFrom4([4]byte(binary.BigEndian.AppendUint32(nil, n<<8|uint32(i))))
		}
		want := func(i int) uint32 {
			if slot, ok := t.Lookup(host(i)); ok {
				return unallocated | slot
			}
			return unprotected
		}
		if !inside[n] {
			all := want(0)
			want = func(int) uint32 { return all }
		}
		block, known := k.v4.hostBlocks[n]
		if !known {
			if len(k.v4.freeHosts) == 0 {
				return errors.New("no room for another /24 network") // Fits said there is
			}
			block, k.v4.freeHosts = k.v4.freeHosts[0], k.v4.freeHosts[1:]
		}
		if err := k.fill(block, want); err != nil {
			return err
		}
		if known {
			continue
		}
		if k.v4.networks[n>>8] == 0 {
			if len(k.v4.freeNetworks) == 0 {
				return errors.New("no room for another /16 network")
			}
			k.v4.networks[n>>8], k.v4.freeNetworks = k.v4.freeNetworks[0], k.v4.freeNetworks[1:]
		}
		k.v4.hostBlocks[n] = block
		k.v4.blocksUsed[n>>8]++
		if err := k.link(n, block); err != nil {
			return err
		}
	}
	if err := k.objects.Networks.Set(k.v4.networks); err != nil {
		return fmt.Errorf("set the IPv4 table: %w", err)
	}
	return nil
}

// fill makes every host of a block what want says, but leaves its slot to a host that has one and stays protected.
func (k *Kernel) fill(block uint32, want func(i int) uint32) error {
	return words(k.objects.HostBlocks, block, func(hosts []uint32) {
		for i := range hosts {
			w := want(i)
			for {
				old := atomic.LoadUint32(&hosts[i])
				if old == w || old < unallocated && w != unprotected {
					break
				}
				if atomic.CompareAndSwapUint32(&hosts[i], old, w) {
					break
				}
			}
		}
	})
}

// link lets the third octet of a network lead to a host block, or to none.
func (k *Kernel) link(network, block uint32) error {
	return words(k.objects.NetworkBlocks, k.v4.networks[network>>8], func(next []uint32) {
		atomic.StoreUint32(&next[network&0xff], block)
	})
}

// FreeHost unlinks a host from its slot. Programs that are running may count a few more packets there.
func (k *Kernel) FreeHost(addr netip.Addr, slot uint32, prefix uint32, protected bool) error {
	if addr.Is6() {
		key := addr.As16()
		var found uint32
		if err := k.objects.Hosts6.Lookup(key[:], &found); err != nil || found != slot {
			if err == nil || isMissing(err) {
				return nil
			}
			return fmt.Errorf("look up %s: %w", addr, err)
		}
		if err := k.objects.Hosts6.Delete(key[:]); err != nil && !isMissing(err) {
			return fmt.Errorf("free the slot of %s: %w", addr, err)
		}
		return nil
	}
	a := addr.As4()
	block, ok := k.v4.hostBlocks[binary.BigEndian.Uint32(a[:])>>8]
	if !ok {
		return nil
	}
	next := uint32(unprotected)
	if protected {
		next = unallocated | prefix
	}
	return words(k.objects.HostBlocks, block, func(hosts []uint32) {
		atomic.CompareAndSwapUint32(&hosts[a[3]], slot, next)
	})
}

// clearHosts marks all hosts as not protected: zero would be a slot.
func (k *Kernel) clearHosts() error {
	m := k.objects.HostBlocks
	memory, err := unix.Mmap(m.FD(), 0, int(m.MaxEntries())*blockSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return fmt.Errorf("map the IPv4 table into memory: %w", err)
	}
	for i := range memory {
		memory[i] = 0xff
	}
	if err := unix.Munmap(memory); err != nil {
		return fmt.Errorf("unmap the IPv4 table: %w", err)
	}
	return nil
}

// words gives access to one block while programs use it. The page is mapped for the moment only: kept mapped, the
// whole table would count as memory of this process a second time.
func words(m *ebpf.Map, block uint32, do func(words []uint32)) error {
	page := os.Getpagesize()
	at := int(block) * blockSize
	memory, err := unix.Mmap(m.FD(), int64(at/page*page), page, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return fmt.Errorf("map block %d of the IPv4 table into memory: %w", block, err)
	}
	do(unsafe.Slice((*uint32)(unsafe.Pointer(&memory[at%page])), blockSize/4))
	if err := unix.Munmap(memory); err != nil {
		return fmt.Errorf("unmap block %d of the IPv4 table: %w", block, err)
	}
	return nil
}
