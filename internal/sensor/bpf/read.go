//go:build linux

package bpf

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/ringbuf"

	"github.com/amooglesoft/trafficmonitor/internal/vector"
)

const (
	cellSize     = int(unsafe.Sizeof(SensorCell{}))
	infoSize     = int(unsafe.Sizeof(SensorSlotInfo{}))
	statSize     = int(unsafe.Sizeof(SensorCpuStat{}))
	settingsSize = 65536*4 + 65536 + vector.Count*int(unsafe.Sizeof(SensorLevel{})) + 8*int(unsafe.Sizeof(SensorMask6{})) + 12
	byteBits     = 36
)

// Count is a number of packets and bytes in one word, as the programs keep it: see types.h. Only differences mean
// something.
type Count uint64

// CountOf packs packets and bytes.
func CountOf(packets, bytes uint64) Count { return Count(packets<<byteBits | bytes) }

// Packets returns how many packets a difference of two counts holds.
func (c Count) Packets() uint64 { return uint64(c) >> byteBits }

// Bytes returns how many bytes a difference of two counts holds.
func (c Count) Bytes() uint64 { return uint64(c) & (1<<byteBits - 1) }

// Totals writes the sum over all CPUs of every slot's total into into, which must hold [Sizes.Slots] counts.
func (k *Kernel) Totals(into []Count, buffer *[]byte) error {
	row := k.Sizes.Slots() * cellSize
	stride := (row + 7) / 8 * 8
	if len(*buffer) != row {
		*buffer = make([]byte, row)
	}
	clear(into)
	for cpu := range k.Sizes.CPUs {
		if _, err := k.totals.ReadAt(*buffer, int64(cpu*stride)); err != nil {
			return fmt.Errorf("read the totals of CPU %d: %w", cpu, err)
		}
		for slot := range into {
			into[slot] += Count(binary.LittleEndian.Uint64((*buffer)[slot*cellSize:]))
		}
	}
	return nil
}

// Vectors returns the sum over all CPUs of a slot's counters, one per vector; that of the total is always zero.
func (k *Kernel) Vectors(slot uint32, buffer *[]byte) (sums [vector.Count]Count, err error) {
	if err := k.block(slot, buffer); err != nil {
		return sums, err
	}
	for at := 0; at < len(*buffer); at += cellSize {
		sums[at/cellSize%vector.Count] += Count(binary.LittleEndian.Uint64((*buffer)[at:]))
	}
	return sums, nil
}

// Present returns what all CPUs have counted for a slot in the given window so far, per vector, the total included.
func (k *Kernel) Present(slot, window uint32, buffer *[]byte) (counts [vector.Count]Count, err error) {
	// The shared window first: what a CPU adds to it in between is then missing from both for a moment, never
	// counted twice.
	var shared SensorSharedWindow
	if err := k.objects.SharedWindows.Lookup(slot, &shared); err != nil {
		return counts, fmt.Errorf("read the shared window of slot %d: %w", slot, err)
	}
	const byteUnitBits, packetBits, unit = 26, 24, 64
	for v, word := range shared.Vectors {
		if word>>(byteUnitBits+packetBits) == uint64(window)&(1<<(64-byteUnitBits-packetBits)-1) {
			counts[v] = CountOf(word>>byteUnitBits&(1<<packetBits-1), word&(1<<byteUnitBits-1)*unit)
		}
	}
	if err := k.block(slot, buffer); err != nil {
		return counts, err
	}
	add := func(v int, cell []byte) {
		if binary.LittleEndian.Uint32(cell[16:]) == window {
			counts[v] += Count(binary.LittleEndian.Uint64(cell) - binary.LittleEndian.Uint64(cell[8:]))
		}
	}
	for at := 0; at < len(*buffer); at += cellSize {
		add(at/cellSize%vector.Count, (*buffer)[at:])
	}
	var cell [24]byte
	stride := (k.Sizes.Slots()*cellSize + 7) / 8 * 8
	for cpu := range k.Sizes.CPUs {
		if _, err := k.totals.ReadAt(cell[:cellSize], int64(cpu*stride+int(slot)*cellSize)); err != nil {
			return counts, fmt.Errorf("read the total of slot %d: %w", slot, err)
		}
		add(int(vector.Total), cell[:])
	}
	return counts, nil
}

func (k *Kernel) block(slot uint32, buffer *[]byte) error {
	if size := k.Sizes.CPUs * vector.Count * cellSize; len(*buffer) != size {
		*buffer = make([]byte, size)
	}
	if err := k.objects.Blocks.Lookup(slot, *buffer); err != nil {
		return fmt.Errorf("read the counters of slot %d: %w", slot, err)
	}
	return nil
}

// Holder returns the address a host slot counts, and the slot of the prefix it belongs to.
func (k *Kernel) Holder(slot uint32) (addr netip.Addr, prefix uint32, err error) {
	var b [infoSize]byte
	if _, err := k.infos.ReadAt(b[:], int64(slot)*int64(infoSize)); err != nil {
		return addr, 0, fmt.Errorf("read who holds slot %d: %w", slot, err)
	}
	return Address(binary.LittleEndian.Uint32(b[20:]), [16]byte(b[:16])), binary.LittleEndian.Uint32(b[16:]), nil
}

// Address makes an address out of what the programs write; the zero Addr if they wrote none.
func Address(family uint32, b [16]byte) netip.Addr {
	switch family {
	case 4:
		return netip.AddrFrom4([4]byte(b[:4]))
	case 6:
		return netip.AddrFrom16(b)
	}
	return netip.Addr{}
}

// SetHot names the vectors of a slot that raise no trigger because they are being reported already.
func (k *Kernel) SetHot(slot uint32, vectors uint64) error {
	if _, err := k.infos.WriteAt(binary.LittleEndian.AppendUint64(nil, vectors), int64(slot)*int64(infoSize)+24); err != nil {
		return fmt.Errorf("mark slot %d as hot: %w", slot, err)
	}
	return nil
}

// Stats is the sum over all CPUs of what is counted outside of slots.
type Stats = SensorCpuStat

// Stats reads the counters that belong to no slot.
func (k *Kernel) Stats() (sum Stats, err error) {
	var b [statSize]byte
	for cpu := range k.Sizes.CPUs {
		if _, err := k.stats.ReadAt(b[:], int64(cpu*statSize)); err != nil {
			return sum, fmt.Errorf("read the statistics of CPU %d: %w", cpu, err)
		}
		for i, field := range []*uint64{
			&sum.UnprotectedPackets, &sum.UnprotectedBytes, &sum.MalformedPackets, &sum.HeadlessPackets,
			&sum.HeadlessBytes, &sum.NonIpPackets, &sum.NonIpBytes, &sum.SlotExhausted, &sum.LostTriggers, &sum.LostSamples,
			&sum.LostSlots, &sum.Samples,
		} {
			*field += binary.LittleEndian.Uint64(b[i*8:])
		}
	}
	return sum, nil
}

// PushFree gives a slot back to the programs.
func (k *Kernel) PushFree(slot uint32) error {
	if err := k.objects.FreeSlots.Put(nil, slot); err != nil {
		return fmt.Errorf("put slot %d back: %w", slot, err)
	}
	return nil
}

// ClearExhausted tells the programs to look for free slots again.
func (k *Kernel) ClearExhausted() error { return k.objects.Exhausted.Set(uint32(0)) }

// TriggerReader opens the ring buffer of triggers.
func (k *Kernel) TriggerReader() (*ringbuf.Reader, error) {
	return ringbuf.NewReader(k.objects.Triggers)
}

// SampleReader opens the ring buffer of samples.
func (k *Kernel) SampleReader() (*ringbuf.Reader, error) { return ringbuf.NewReader(k.objects.Samples) }

// DecodeTrigger reads a record of the triggers' ring buffer.
func DecodeTrigger(raw []byte) (t SensorTrigger, err error) {
	if len(raw) < int(unsafe.Sizeof(t)) {
		return t, fmt.Errorf("trigger of %d octets is too short", len(raw))
	}
	_, err = binary.Decode(raw, binary.LittleEndian, &t)
	return t, err
}

// Sample is one record of the samples' ring buffer; Header aliases the record.
type Sample struct {
	Ktime          uint64
	Weight, Length uint32
	Vector         vector.ID
	Header         []byte
}

// DecodeSample reads a record of the samples' ring buffer without copying.
func DecodeSample(raw []byte) (Sample, error) {
	var s SensorSample
	if len(raw) < int(unsafe.Offsetof(s.Header))+len(s.Header) {
		return Sample{}, fmt.Errorf("sample of %d octets is too short", len(raw))
	}
	captured := binary.LittleEndian.Uint32(raw[unsafe.Offsetof(s.Captured):])
	if captured > uint32(len(s.Header)) {
		return Sample{}, errors.New("sample holds more than fits it")
	}
	header := raw[unsafe.Offsetof(s.Header):]
	return Sample{
		Ktime:  binary.LittleEndian.Uint64(raw),
		Weight: binary.LittleEndian.Uint32(raw[unsafe.Offsetof(s.Weight):]),
		Length: binary.LittleEndian.Uint32(raw[unsafe.Offsetof(s.Length):]),
		Vector: vector.ID(raw[unsafe.Offsetof(s.Vector)]),
		Header: header[:captured],
	}, nil
}

// isMissing tells that a key was not there.
func isMissing(err error) bool { return errors.Is(err, ebpf.ErrKeyNotExist) }

// Total returns the sum over all CPUs of one slot's total.
func (k *Kernel) Total(slot uint32) (sum Count, err error) {
	var b [8]byte
	stride := (k.Sizes.Slots()*cellSize + 7) / 8 * 8
	for cpu := range k.Sizes.CPUs {
		if _, err := k.totals.ReadAt(b[:], int64(cpu*stride+int(slot)*cellSize)); err != nil {
			return 0, fmt.Errorf("read the total of slot %d: %w", slot, err)
		}
		sum += Count(binary.LittleEndian.Uint64(b[:]))
	}
	return sum, nil
}
