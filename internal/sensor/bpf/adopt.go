//go:build linux

package bpf

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// adopt rebuilds what this process must know of maps that an earlier one filled, wherever that one died: what can be
// found in the tables and describes itself stays, without its marks; everything else is free. It may run while the earlier process'
// programs go on counting; for its span, a few milliseconds, targets without a slot get none.
func (k *Kernel) adopt() error {
	if err := k.objects.Seed6.Get(&k.seed6); err != nil {
		return fmt.Errorf("read the seed of the IPv6 table: %w", err)
	}
	if err := k.stopTaking(); err != nil {
		return err
	}
	var err error
	if k.free.put, err = k.taken(); err != nil {
		return err
	}
	held := make([]bool, k.Sizes.Slots())
	table := Table{}
	for i := range k.Sizes.Prefixes {
		slot := uint32(k.Sizes.Hosts + i)
		h, err := k.Holder(slot)
		if err != nil {
			return err
		}
		if _, twice := table[h.Network]; h.Network.IsValid() && !twice {
			table[h.Network], held[slot] = slot, true
		}
	}
	if err := k.adopt6(held); err != nil {
		return err
	}
	if err := k.adopt4(table, held); err != nil {
		return err
	}
	for slot, held := range held {
		if held {
			k.Adopted = append(k.Adopted, uint32(slot))
			if slot >= k.Sizes.Hosts {
				if err := k.SetFlag(uint32(slot), slotFlags, false); err != nil {
					return err
				}
			}
			continue
		}
		h, err := k.Holder(uint32(slot))
		if err != nil {
			return err
		}
		switch {
		case slot >= k.Sizes.Hosts && slot < k.Sizes.FirstNetwork():
		case h.Network.IsValid():
			k.Unlinked = append(k.Unlinked, uint32(slot))
		default:
			if err := k.PushFree(uint32(slot)); err != nil {
				return err
			}
		}
	}
	return k.ClearExhausted()
}

// membarrierGlobal waits as synchronize_rcu() does: MEMBARRIER_CMD_GLOBAL of membarrier(2).
const membarrierGlobal = 1

// stopTaking empties the queues of free slots, and returns when no program is about to put one it took into a table.
func (k *Kernel) stopTaking() error {
	empty := func() error {
		if err := k.objects.EmptyQueues.Set([slotKinds][freeQueues]uint32{{1, 1}, {1, 1}}); err != nil {
			return fmt.Errorf("stop programs from taking slots: %w", err)
		}
		return nil
	}
	if err := empty(); err != nil {
		return err
	}
	for _, kind := range k.free.queues {
		for _, q := range kind {
			var slot uint32
			for q.LookupAndDelete(nil, &slot) == nil {
			}
		}
	}
	// Programs run inside an RCU read-side section, and this call waits for all of those.
	if _, _, errno := unix.Syscall(unix.SYS_MEMBARRIER, membarrierGlobal, 0, 0); errno != 0 {
		time.Sleep(100 * time.Millisecond) // it is refused where CPUs run without a tick
	}
	// A program that had not seen the mark may have put a slot back since.
	for _, kind := range k.free.queues {
		for _, q := range kind {
			var slot uint32
			for q.LookupAndDelete(nil, &slot) == nil {
			}
		}
	}
	return empty()
}

func (k *Kernel) adopt6(held []bool) error {
	spills := make([]uint32, k.Sizes.buckets6())
	err := table6(k.objects.Targets6, k.Sizes.buckets6()*ways6, func(entries []uint32) {
		for i, entry := range entries {
			slot, bucket := entry&slotMask, uint32(i/ways6)
			if entry == 0 {
				continue
			}
			if int(slot) < len(held) && !held[slot] {
				if first, ok := k.target6(slot, bucket, entry>>tagShift6); ok {
					held[slot] = true
					entries[i] = entry &^ slotFlags // no program changes an entry
					if bucket != first {
						spills[first]++
					}
					continue
				}
			}
			entries[i] = 0
		}
	})
	if err != nil {
		return err
	}
	err = table6(k.objects.Spills6, len(spills), func(counts []uint32) {
		for i, n := range spills {
			atomic.StoreUint32(&counts[i], n)
		}
	})
	if err != nil {
		return err
	}
	if err := k.forgetNetworks6(); err != nil {
		return err
	}
	// Nobody holds one for long, and nobody who did has died: programs end.
	if err := k.objects.Locks6.Set([1024]uint32{}); err != nil {
		return fmt.Errorf("unlock the table of IPv6 targets: %w", err)
	}
	return nil
}

// target6 tells whether an entry of the IPv6 table is where the holder of its slot belongs, and which is the holder's first bucket.
func (k *Kernel) target6(slot, bucket, tag uint32) (first uint32, ok bool) {
	h, err := k.Holder(slot)
	if err != nil || !h.Network.Addr().Is6() {
		return 0, false
	}
	bits := 128
	if k.Sizes.kindOf(slot) == networkSlots {
		bits = 64
	}
	hash := k.hash6(h.Network)
	buckets := k.bucketsOf(hash)
	return buckets[0], h.Network.Bits() == bits && tag == tag6(hash) && slices.Contains(buckets[:], bucket)
}

// adopt4 finds the blocks in use by walking the table as the programs do.
func (k *Kernel) adopt4(table Table, held []bool) error {
	if err := k.objects.Networks.Get(&k.v4.networks); err != nil {
		return fmt.Errorf("read the IPv4 table: %w", err)
	}
	usedNetworks, usedHosts := map[uint32]bool{}, map[uint32]bool{}
	for first, block := range k.v4.networks {
		if block == 0 {
			continue
		}
		if int(block) > k.Sizes.Blocks4 || usedNetworks[block] {
			k.v4.networks[first] = 0
			continue
		}
		usedNetworks[block] = true
		err := k.words(k.objects.NetworkBlocks, block, func(next []uint32) {
			for i, hosts := range next {
				n := uint32(first)<<8 | uint32(i)
				switch {
				case hosts == 0:
				case int(hosts) > k.Sizes.Networks4 || usedHosts[hosts]:
					next[i] = 0
				default:
					usedHosts[hosts] = true
					k.v4.hostBlocks[n] = hosts
					k.v4.blocksUsed[n>>8]++
				}
			}
		})
		if err != nil {
			return err
		}
		if k.v4.blocksUsed[uint32(first)] == 0 {
			k.v4.networks[first] = 0
			delete(usedNetworks, block)
		}
	}
	k.step()
	if err := k.objects.Networks.Set(k.v4.networks); err != nil {
		return fmt.Errorf("set the IPv4 table: %w", err)
	}

	// Blocks in no use are as in a new table.
	k.v4.freeNetworks, k.v4.freeHosts = nil, nil
	for block := uint32(1); int(block) <= k.Sizes.Blocks4; block++ {
		if usedNetworks[block] {
			continue
		}
		k.v4.freeNetworks = append(k.v4.freeNetworks, block)
		if err := k.words(k.objects.NetworkBlocks, block, func(next []uint32) { clear(next) }); err != nil {
			return err
		}
	}
	for block := uint32(1); int(block) <= k.Sizes.Networks4; block++ {
		if usedHosts[block] {
			continue
		}
		k.v4.freeHosts = append(k.v4.freeHosts, block)
		err := k.words(k.objects.HostBlocks, block, func(hosts []uint32) {
			for i := range hosts {
				hosts[i] = unprotected
			}
		})
		if err != nil {
			return err
		}
	}
	for n, block := range k.v4.hostBlocks {
		var failed error
		err := k.words(k.objects.HostBlocks, block, func(hosts []uint32) {
			for i, word := range hosts {
				if word >= unallocated {
					continue
				}
				addr := netip.AddrFrom4([4]byte(binary.BigEndian.AppendUint32(nil, n<<8|uint32(i))))
				slot := word & slotMask
				if int(slot) < k.Sizes.Hosts && !held[slot] {
					h, err := k.Holder(slot)
					if failed = err; h.Network == netip.PrefixFrom(addr, 32) {
						held[slot] = true
						hosts[i] = slot
						continue
					}
				}
				if prefix, ok := table.Lookup(addr); ok {
					hosts[i] = unallocated | prefix
				} else {
					hosts[i] = unprotected
				}
			}
		})
		if err != nil || failed != nil {
			return fmt.Errorf("read the IPv4 table: %w", cmp.Or(err, failed))
		}
	}
	return nil
}
