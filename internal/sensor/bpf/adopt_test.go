package bpf

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"path/filepath"
	"slices"
	"testing"
)

// death is what the Go side dies of in these tests.
type death struct{}

// dies runs do, which ends before the n-th change of a map, and tells whether it came so far.
func dies(k *Kernel, n int, do func()) (died bool) {
	left := n
	k.before = func() {
		if left--; left < 0 {
			panic(death{})
		}
	}
	defer func() {
		k.before = nil
		if r := recover(); r != nil {
			if _, ok := r.(death); !ok {
				panic(r)
			}
			died = true
		}
	}()
	do()
	return false
}

// TestAdopt kills the Go side at random points of random work; whatever the maps look like then, the next
// process makes a whole of them.
func TestAdopt(t *testing.T) {
	dir := filepath.Join(bpffs(t), "rack1")
	sizes := smallSizes
	sizes.Networks6 = 16
	firstPrefix := uint32(sizes.Hosts)
	tables := []Table{
		{netip.MustParsePrefix("192.0.2.0/24"): 0, netip.MustParsePrefix("2001:db8::/32"): 1},
		{netip.MustParsePrefix("192.0.2.0/25"): 2, netip.MustParsePrefix("2001:db8::/32"): 1, netip.MustParsePrefix("2001:db8::/64"): 0},
		{netip.MustParsePrefix("10.1.0.0/21"): 0, netip.MustParsePrefix("192.0.2.64/26"): 3, netip.MustParsePrefix("2001:db9::/48"): 1},
		{netip.MustParsePrefix("10.2.0.0/23"): 3, netip.MustParsePrefix("10.1.4.0/24"): 1},
	}
	for _, table := range tables {
		for p := range table {
			table[p] += firstPrefix
		}
	}
	targets := []string{"192.0.2.1", "192.0.2.70", "192.0.2.200", "10.1.4.4", "10.1.0.9", "10.2.1.1", "2001:db8::1", "2001:db8:0:1::1", "2001:db8:0:2::3", "2001:db9::7"}
	r := rand.New(rand.NewPCG(5, 6))
	k, p := pinned(t, dir, sizes)
	traffic := func() {
		for range 8 {
			run(t, k.Ingress(), dnsTo(targets[r.IntN(len(targets))]), nil)
		}
	}
	work := func() {
		for {
			if err := k.SetTargets(tables[r.IntN(len(tables))]); err != nil {
				panic(err)
			}
			traffic()
			for slot := range uint32(sizes.Hosts) {
				h, err := k.Holder(slot)
				if err != nil {
					panic(err)
				}
				if h.Network.IsValid() && r.IntN(4) == 0 {
					if err := k.SetFlag(slot, Watched, true); err != nil {
						panic(err)
					}
				}
				if h.Network.IsValid() && r.IntN(4) == 0 && isHeld(t, k, slot, h) {
					if err := k.Unlink(slot, h, true); err != nil {
						panic(err)
					}
					if err := k.PushFree(slot); err != nil {
						panic(err)
					}
				}
			}
		}
	}
	for life := range 30 {
		if !dies(k, r.IntN(60), work) {
			t.Fatal("work has an end")
		}
		old, err := k.Ingress().Clone()
		if err != nil {
			t.Fatal(err)
		}
		end(t, k, p)
		if p, err = OpenPins(dir); err != nil {
			t.Fatal(err)
		}
		if k, err = LoadPinned(sizes, p); err != nil || !k.Reused {
			t.Fatalf("life %d: reused %v, %v", life, k.Reused, err)
		}
		run(t, old, dnsTo(targets[r.IntN(len(targets))]), nil) // a program of the life before, on the same maps
		old.Close()

		for _, slot := range k.Adopted {
			if h, err := k.Holder(slot); err != nil || k.flags(t, slot, h) != 0 {
				t.Errorf("life %d: %s keeps the marks of a process that has died (%v)", life, h.Network, err)
			}
		}
		for _, slot := range k.Unlinked { // as the meter does when it has reported what they counted
			if h, err := k.Holder(slot); err != nil || !h.Network.IsValid() || isHeld(t, k, slot, h) {
				t.Errorf("life %d: slot %d is unlinked, and held by %v (%v)", life, slot, h, err)
			}
			if err := k.PushFree(slot); err != nil {
				t.Fatal(err)
			}
		}
		whole(t, k, fmt.Sprintf("life %d", life))
		// All prefixes of a table are protected again, nothing else is, and every slot can be given away.
		var held []uint32
		for slot := range uint32(k.Sizes.Slots()) {
			h, err := k.Holder(slot)
			if err != nil {
				t.Fatal(err)
			}
			if (slot < firstPrefix || int(slot) >= sizes.FirstNetwork()) && h.Network.IsValid() && isHeld(t, k, slot, h) {
				held = append(held, slot)
			}
		}
		table := tables[r.IntN(len(tables))]
		if err := k.SetTargets(table); err != nil {
			t.Fatal(err)
		}
		for _, slot := range held { // as the meter does
			h, err := k.Holder(slot)
			if err != nil {
				t.Fatal(err)
			}
			if _, ok := table.Longest(h.Network); !ok {
				free(t, k, slot)
			}
		}
		for _, target := range targets {
			_, want := table.Lookup(netip.MustParseAddr(target))
			before, _ := k.Stats()
			run(t, k.Ingress(), dnsTo(target), nil)
			if after, _ := k.Stats(); (after.UnprotectedPackets == before.UnprotectedPackets) != want {
				t.Fatalf("life %d: %s protected %v, want %v by %v", life, target, !want, want, table)
			}
		}
		whole(t, k, fmt.Sprintf("life %d, at work", life))
	}
	end(t, k, p)
}

// isHeld tells whether the tables lead to a slot.
func isHeld(t *testing.T, k *Kernel, slot uint32, h Holder) bool {
	t.Helper()
	if h.Network.Addr().Is6() {
		found, ok := entriesOf(t, k)[h.Network]
		return ok && found == slot
	}
	held := false
	if err := k.change4(h.Network.Addr(), slot, func(word uint32) uint32 { held = true; return word }); err != nil {
		t.Fatal(err)
	}
	return held
}

// whole checks that every slot is either free or held by one target that the tables lead to.
func whole(t *testing.T, k *Kernel, when string) {
	t.Helper()
	held := map[uint32]netip.Prefix{}
	take := func(slot uint32, by netip.Prefix) {
		if other, twice := held[slot]; twice {
			t.Errorf("%s: slot %d is held by %s and by %s", when, slot, other, by)
		}
		held[slot] = by
	}
	for p, slot := range entriesOf(t, k) {
		take(slot, p)
	}
	spillsMatch(t, k, when)
	blocks := map[uint32]bool{}
	for n, block := range k.v4.hostBlocks {
		blocks[block] = true
		err := k.words(k.objects.HostBlocks, block, func(hosts []uint32) {
			for i, word := range hosts {
				if word >= unallocated {
					continue
				}
				addr := netip.AddrFrom4([4]byte{byte(n >> 16), byte(n >> 8), byte(n), byte(i)})
				h, err := k.Holder(word & slotMask)
				if err != nil || h.Network != netip.PrefixFrom(addr, 32) {
					t.Errorf("%s: %s has slot %d of %s (%v)", when, addr, word&slotMask, h.Network, err)
				}
				take(word&slotMask, h.Network)
			}
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if len(blocks)+len(k.v4.freeHosts) != k.Sizes.Networks4 {
		t.Errorf("%s: %d /24 networks in use and %d free of %d", when, len(blocks), len(k.v4.freeHosts), k.Sizes.Networks4)
	}
	inUse := 0
	for _, block := range k.v4.networks {
		if block != 0 {
			inUse++
		}
	}
	if inUse+len(k.v4.freeNetworks) != k.Sizes.Blocks4 {
		t.Errorf("%s: %d /16 networks in use and %d free of %d", when, inUse, len(k.v4.freeNetworks), k.Sizes.Blocks4)
	}
	hosts, networks, err := k.Free()
	if err != nil {
		t.Fatal(err)
	}
	for slot := range held {
		if k.Sizes.kindOf(slot) == hostSlots {
			hosts++
		} else {
			networks++
		}
	}
	if hosts != k.Sizes.Hosts || networks != k.Sizes.Networks6 {
		t.Errorf("%s: %d hosts and %d networks are free or in use, want %d and %d: %v", when, hosts, networks, k.Sizes.Hosts, k.Sizes.Networks6, slices.Sorted(maps.Keys(held)))
	}
}
