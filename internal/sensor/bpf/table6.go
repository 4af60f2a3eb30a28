//go:build linux

package bpf

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"sync/atomic"
	"unsafe"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// Shape of the IPv6 tables: see types.h.
const (
	ways6      = 8
	bucketSize = ways6 * 4
	tagShift6  = 25
	tags6      = 127
	spills6    = 16
	stride6    = 4
	root6Bits  = 12
	child6     = 0x80000000
	nodeSize   = 4 << stride6
	golden     = 0x9e3779b97f4a7c15
)

// buckets6 is how many buckets the table of IPv6 targets has: half of its entries are never used.
func (s Sizes) buckets6() int { return max(2, (2*(s.Hosts+s.Networks6)+ways6-1)/ways6) }

// nodes6 is how many nodes each half of the trie has: whole pages, and enough for prefixes that share nothing but their
// first 32 bits and are no longer than /64.
func (s Sizes) nodes6() int { return (s.Prefixes*8 + 63) / 64 * 64 }

// trie6 is the longest-prefix match of IPv6 as the programs walk it: 12 bits, then four at a time.
type trie6 struct {
	root  [1 << root6Bits]uint32
	nodes [][1 << stride6]uint32
}

func newTrie6(t Table) *trie6 {
	var list []netip.Prefix
	for p := range t {
		if p.Addr().Is6() {
			list = append(list, p)
		}
	}
	// Shortest first: the longer then find what they narrow, and nothing below themselves.
	slices.SortFunc(list, func(a, b netip.Prefix) int {
		return cmp.Or(cmp.Compare(a.Bits(), b.Bits()), a.Addr().Compare(b.Addr()))
	})
	trie := &trie6{}
	for _, p := range list {
		trie.insert(p, t[p]+1)
	}
	return trie
}

func (t *trie6) insert(p netip.Prefix, value uint32) {
	a := p.Addr().As16()
	// take returns n bits from bit at on; n is at most 12 and what is taken lies in two octets.
	take := func(at, n int) int {
		two := int(a[at/8])<<8 | int(a[min(at/8+1, 15)])
		return two >> (16 - at%8 - n) & (1<<n - 1)
	}
	table, at, width := t.root[:], 0, root6Bits
	for p.Bits() > at+width {
		i := take(at, width)
		if table[i]&child6 == 0 {
			var node [1 << stride6]uint32
			for j := range node {
				node[j] = table[i]
			}
			table[i] = child6 | uint32(len(t.nodes))
			t.nodes = append(t.nodes, node)
		}
		table, at, width = t.nodes[table[i]&^child6][:], at+width, stride6
	}
	first := take(at, width)
	for i := range 1 << (at + width - p.Bits()) {
		table[first+i] = value
	}
}

// filter6 has a bit for each value of an address' second 16 bits that a prefix holds.
func (t Table) filter6() (filter [1024]uint64) {
	for p := range t {
		if !p.Addr().Is6() {
			continue
		}
		a := p.Addr().As16()
		first, n := int(a[2])<<8|int(a[3]), 1<<min(16, max(0, 32-p.Bits()))
		if n == 1<<16 {
			first = 0
		}
		for i := first; i < first+n; i++ {
			bit := i>>8 | i&0xff<<8 // as the programs load it
			filter[bit/64] |= 1 << (bit % 64)
		}
	}
	return filter
}

// setTargets6 writes the half of the trie no program reads, then turns the programs to it.
func (k *Kernel) setTargets6(t Table) error {
	var half uint32
	var root [2][1 << root6Bits]uint32
	var filter [1024]uint64
	for _, err := range []error{k.objects.Half6.Get(&half), k.objects.Root6.Get(&root), k.objects.Filter6.Get(&filter)} {
		if err != nil {
			return fmt.Errorf("read the IPv6 table: %w", err)
		}
	}
	half = 1 - half&1
	trie, base := newTrie6(t), half*uint32(k.Sizes.nodes6())
	moved := func(e uint32) uint32 {
		if e&child6 != 0 {
			return e + base
		}
		return e
	}
	memory, err := unix.Mmap(k.objects.Nodes6.FD(), int64(base)*nodeSize, k.Sizes.nodes6()*nodeSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return fmt.Errorf("map the IPv6 table into memory: %w", err)
	}
	for i, node := range trie.nodes {
		for j, e := range node {
			binary.LittleEndian.PutUint32(memory[i*nodeSize+4*j:], moved(e))
		}
	}
	if err := unix.Munmap(memory); err != nil {
		return fmt.Errorf("unmap the IPv6 table: %w", err)
	}
	for i, e := range trie.root {
		root[half][i] = moved(e)
	}
	k.nodesUsed = len(trie.nodes)
	// The filter lets through what is protected before or after.
	next := t.filter6()
	for i := range filter {
		filter[i] |= next[i]
	}
	for _, set := range []func() error{
		func() error { return k.objects.Root6.Set(root) },
		func() error { return k.objects.Filter6.Set(filter) },
		func() error { return k.objects.Half6.Set(half) },
		func() error { return k.objects.Filter6.Set(next) },
	} {
		k.step()
		if err := set(); err != nil {
			return fmt.Errorf("set the IPv6 table: %w", err)
		}
	}
	return nil
}

// hash6 is the programs' hash of a target: see target.h.
func (k *Kernel) hash6(p netip.Prefix) uint64 {
	a := p.Addr().As16()
	high, low := binary.LittleEndian.Uint64(a[:8]), binary.LittleEndian.Uint64(a[8:])
	if p.Bits() == 64 {
		low = 1<<64 - 1
	}
	s := &k.seed6
	hash := (s[1]+high&0xffffffff)*(s[2]+high>>32) + (s[3]+low&0xffffffff)*(s[4]+low>>32) + s[0]
	return (hash ^ hash>>32) * golden
}

func tag6(hash uint64) uint32 { return uint32(hash>>24&0xffff)*tags6>>16 + 1 }

// bucketsOf returns the two buckets a hash leads to.
func (k *Kernel) bucketsOf(hash uint64) [2]uint32 {
	n := uint64(k.Sizes.buckets6())
	second := uint64(uint32(hash>>16)|1) * golden
	return [2]uint32{uint32(hash >> 32 * n >> 32), uint32(second >> 32 * n >> 32)}
}

// change6 replaces the entry of an IPv6 target that leads to slot, if there is one; 0 deletes it.
func (k *Kernel) change6(p netip.Prefix, slot uint32, to func(entry uint32) uint32) error {
	hash := k.hash6(p)
	buckets := k.bucketsOf(hash)
	for second, bucket := range buckets {
		deleted := int32(0)
		err := k.window(k.objects.Targets6, int(bucket)*bucketSize, bucketSize, func(memory []byte) {
			entries := entries6(memory)
			for i := range entries {
				entry := &entries[i]
				for {
					old := atomic.LoadUint32(entry)
					if old>>tagShift6 != tag6(hash) || old&slotMask != slot {
						break
					}
					if next := to(old); atomic.CompareAndSwapUint32(entry, old, next) {
						if next == 0 {
							deleted++
						}
						break
					}
				}
			}
		})
		if err != nil {
			err = fmt.Errorf("map the table of IPv6 targets into memory: %w", err)
		}
		if second == 1 && deleted > 0 {
			err = errors.Join(err, k.spill6(buckets[0], -deleted))
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// spill6 says that a bucket has sent n targets more to their second.
func (k *Kernel) spill6(bucket uint32, n int32) error {
	err := k.window(k.objects.Spills6, int(bucket)*4, 4, func(memory []byte) { atomic.AddUint32(&entries6(memory)[0], uint32(n)) })
	if err != nil {
		return fmt.Errorf("map the IPv6 targets in their second bucket into memory: %w", err)
	}
	return nil
}

// table6 gives access to the first n words of a map.
func table6(m *ebpf.Map, n int, do func(words []uint32)) error {
	page := os.Getpagesize()
	memory, err := unix.Mmap(m.FD(), 0, (n*4+page-1)/page*page, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return fmt.Errorf("map a table of IPv6 targets into memory: %w", err)
	}
	do(entries6(memory)[:n])
	if err := unix.Munmap(memory); err != nil {
		return fmt.Errorf("unmap a table of IPv6 targets: %w", err)
	}
	return nil
}

func entries6(memory []byte) []uint32 {
	return unsafe.Slice((*uint32)(unsafe.Pointer(&memory[0])), len(memory)/4)
}

// forgetNetworks6 makes the programs look into the table for each network again: one they remember may have been deleted or marked.
func (k *Kernel) forgetNetworks6() error {
	// By an atomic operation, so that on every processor it is seen after the change.
	err := k.window(k.variables, k.epoch6, 4, func(memory []byte) { atomic.AddUint32(&entries6(memory)[0], 1) })
	if err != nil {
		return fmt.Errorf("let programs forget IPv6 networks: %w", err)
	}
	return nil
}
