//go:build linux

package bpf

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"sync/atomic"
	"unsafe"

	"github.com/cilium/ebpf"
)

// NoSlot is the parent of a prefix that lies in no other.
const NoSlot = 0xffffffff

const (
	slotMask  = maxSlots - 1
	slotFlags = 0x01000000
	flagShift = 24
)

// Holder is whom a slot counts: a host, an IPv6 /64 network that hosts belong to, or a protected prefix.
type Holder struct {
	Network netip.Prefix // a host has its full length; invalid while nobody holds the slot
	Parent  uint32       // slot of the network or prefix it belongs to, or NoSlot
}

// Holder returns who holds a slot, until it is given back: whether a host's or a network's slot can still be found is
// not said.
func (k *Kernel) Holder(slot uint32) (h Holder, err error) {
	var b [infoSize]byte
	if _, err := k.infos.ReadAt(b[:], int64(slot)*int64(infoSize)); err != nil {
		return h, fmt.Errorf("read who holds slot %d: %w", slot, err)
	}
	info := (*SensorSlotInfo)(unsafe.Pointer(&b))
	h.Parent = info.Parent
	if addr := Address(uint32(info.Family), [16]byte(b[:16])); addr.IsValid() {
		h.Network = netip.PrefixFrom(addr, int(info.Bits))
	}
	return h, nil
}

// describe writes who holds a slot that programs do not give away.
func (k *Kernel) describe(slot uint32, h Holder) error {
	now, err := k.Holder(slot)
	if err != nil {
		return err
	}
	info := SensorSlotInfo{Parent: h.Parent}
	switch {
	case now.Network == h.Network: // keeps its marks
		return k.SetParent(slot, h.Parent)
	case h.Network.Addr().Is4():
		a := h.Network.Addr().As4()
		info.Family, info.Bits = 4, uint8(h.Network.Bits())
		info.Address[0] = uint64(binary.LittleEndian.Uint32(a[:]))
	case h.Network.IsValid():
		a := h.Network.Addr().As16()
		info.Family, info.Bits = 6, uint8(h.Network.Bits())
		info.Address = [2]uint64{binary.LittleEndian.Uint64(a[:8]), binary.LittleEndian.Uint64(a[8:])}
	}
	k.step()
	b := unsafe.Slice((*byte)(unsafe.Pointer(&info)), infoSize)
	if _, err := k.infos.WriteAt(b, int64(slot)*int64(infoSize)); err != nil {
		return fmt.Errorf("give slot %d to %s: %w", slot, h.Network, err)
	}
	return nil
}

// SetParent makes a slot belong to another one.
func (k *Kernel) SetParent(slot, parent uint32) error {
	k.step()
	at := int64(slot)*int64(infoSize) + int64(unsafe.Offsetof(SensorSlotInfo{}.Parent))
	if _, err := k.infos.WriteAt(binary.LittleEndian.AppendUint32(nil, parent), at); err != nil {
		return fmt.Errorf("let slot %d belong to slot %d: %w", slot, parent, err)
	}
	return nil
}

// Unlink makes a host's or network's slot impossible to find. Programs that are running may count a few more packets
// there, and a network that was found before may just become a host's parent, so the slot must not be given away at
// once. An IPv4 host that stays protected is counted for its parent, until it is given another slot.
func (k *Kernel) Unlink(slot uint32, h Holder, protected bool) error {
	if h.Network.Addr().Is6() {
		err := k.change6(h.Network, slot, func(uint32) uint32 { return 0 })
		if k.Sizes.kindOf(slot) == networkSlots {
			err = errors.Join(err, k.forgetNetworks6())
		}
		return err
	}
	next := uint32(unprotected)
	if protected {
		next = unallocated | h.Parent
	}
	return k.change4(h.Network.Addr(), slot, func(uint32) uint32 { return next })
}

// Flag is a mark on a slot that the programs hand on to whoever counts: see SLOT_FLAGS.
type Flag uint32

// Watched slots are sampled more often, perhaps with sketches.
const Watched Flag = 0x01000000

// SetFlag sets or clears a mark on whoever holds a slot. A mark on a network or prefix is on packets that are counted
// there for want of a slot of their own. It is gone when the slot is.
func (k *Kernel) SetFlag(slot uint32, f Flag, on bool) error {
	if uint32(f)&^uint32(slotFlags) != 0 {
		return fmt.Errorf("mark slot %d: %#x is no mark", slot, uint32(f))
	}
	h, err := k.Holder(slot)
	if err != nil || !h.Network.IsValid() {
		return err
	}
	mark := func(word uint32) uint32 {
		if on {
			return word | uint32(f)
		}
		return word &^ uint32(f)
	}
	if h.Network.IsSingleIP() && int(slot) < k.Sizes.Hosts {
		if h.Network.Addr().Is4() {
			return k.change4(h.Network.Addr(), slot, mark)
		}
		return k.change6(h.Network, slot, mark)
	}
	var b [1]byte
	at := int64(slot)*int64(infoSize) + int64(unsafe.Offsetof(SensorSlotInfo{}.Flags))
	if _, err := k.infos.ReadAt(b[:], at); err != nil {
		return fmt.Errorf("read the marks of slot %d: %w", slot, err)
	}
	b[0] = byte(mark(uint32(b[0])<<flagShift) >> flagShift)
	if _, err := k.infos.WriteAt(b[:], at); err != nil {
		return fmt.Errorf("mark slot %d: %w", slot, err)
	}
	if int(slot) < k.Sizes.FirstNetwork() {
		return nil
	}
	return k.forgetNetworks6()
}

// change4 replaces the word of an IPv4 host that leads to slot.
func (k *Kernel) change4(addr netip.Addr, slot uint32, to func(word uint32) uint32) error {
	a := addr.As4()
	block, ok := k.v4.hostBlocks[binary.BigEndian.Uint32(a[:])>>8]
	if !ok {
		return nil
	}
	return k.words(k.objects.HostBlocks, block, func(hosts []uint32) {
		for {
			old := atomic.LoadUint32(&hosts[a[3]])
			if old >= unallocated || old&slotMask != slot || atomic.CompareAndSwapUint32(&hosts[a[3]], old, to(old)) {
				return
			}
		}
	})
}

// Slots that programs take, and the queues they are in: see maps.h.
const (
	hostSlots = iota
	networkSlots
	slotKinds
)

const (
	forAll = iota
	forHeavy
	freeQueues
)

type perQueue [slotKinds][freeQueues]uint64

// freeSlots keeps the queues of free slots.
type freeSlots struct {
	queues [slotKinds][freeQueues]*ebpf.Map
	kept   [slotKinds]uint64 // slots that only heavy targets may take
	put    perQueue          // into the queues so far
}

// kindOf tells which kind of free slots a slot is.
func (s Sizes) kindOf(slot uint32) int {
	if int(slot) < s.Hosts {
		return hostSlots
	}
	return networkSlots
}

// PushFree gives a host's or network's slot back to the programs: to heavy targets until half of all slots wait for
// them, then to any.
func (k *Kernel) PushFree(slot uint32) error {
	taken, err := k.taken()
	if err != nil {
		return err
	}
	// Whoever finds a description in the maps of a process that died knows that the slot was not given back yet.
	if err := k.describe(slot, Holder{Parent: NoSlot}); err != nil {
		return err
	}
	kind := k.Sizes.kindOf(slot)
	queue := forAll
	if k.free.put[kind][forHeavy]-taken[kind][forHeavy] < k.free.kept[kind] {
		queue = forHeavy
	}
	k.step()
	if err := k.free.queues[kind][queue].Put(nil, slot); err != nil {
		return fmt.Errorf("put slot %d back: %w", slot, err)
	}
	k.free.put[kind][queue]++
	return nil
}

// ClearExhausted tells the programs in which queues there are free slots again.
func (k *Kernel) ClearExhausted() error {
	taken, err := k.taken()
	if err != nil {
		return err
	}
	var empty [slotKinds][freeQueues]uint32
	for kind := range empty {
		for queue := range freeQueues {
			if k.free.put[kind][queue] == taken[kind][queue] {
				empty[kind][queue] = 1
			}
		}
	}
	if err := k.objects.EmptyQueues.Set(empty); err != nil {
		return fmt.Errorf("say that slots are free again: %w", err)
	}
	return nil
}

func (k *Kernel) taken() (taken perQueue, err error) {
	if err := k.objects.SlotsTaken.Get(&taken); err != nil {
		return taken, fmt.Errorf("read how many slots are taken: %w", err)
	}
	return taken, nil
}

// Free returns how many slots of hosts and of networks nobody holds.
func (k *Kernel) Free() (hosts, networks int, err error) {
	taken, err := k.taken()
	var free [slotKinds]uint64
	for kind := range free {
		for queue := range freeQueues {
			free[kind] += k.free.put[kind][queue] - taken[kind][queue]
		}
	}
	return int(free[hostSlots]), int(free[networkSlots]), err
}
