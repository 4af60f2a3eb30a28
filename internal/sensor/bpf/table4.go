//go:build linux

package bpf

import (
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"sync/atomic"
	"unsafe"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// Words of the IPv4 table: see types.h.
const (
	unprotected = 0xffffffff
	unallocated = 0x80000000
	blockSize   = 1024
)

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
	k.step()
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
	k.step()
	if err := k.objects.Networks.Set(k.v4.networks); err != nil {
		return fmt.Errorf("set the IPv4 table: %w", err)
	}
	return nil
}

// fill makes every host of a block what want says, but leaves its slot to a host that has one and stays protected.
func (k *Kernel) fill(block uint32, want func(i int) uint32) error {
	return k.words(k.objects.HostBlocks, block, func(hosts []uint32) {
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
	return k.words(k.objects.NetworkBlocks, k.v4.networks[network>>8], func(next []uint32) {
		atomic.StoreUint32(&next[network&0xff], block)
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

// words gives access to one block while programs use it.
func (k *Kernel) words(m *ebpf.Map, block uint32, do func(words []uint32)) error {
	err := k.window(m, int(block)*blockSize, blockSize, func(memory []byte) {
		do(unsafe.Slice((*uint32)(unsafe.Pointer(&memory[0])), blockSize/4))
	})
	if err != nil {
		return fmt.Errorf("map block %d of the IPv4 table into memory: %w", block, err)
	}
	return nil
}
