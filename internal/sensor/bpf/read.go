//go:build linux

package bpf

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"sync/atomic"
	"unsafe"

	"github.com/cilium/ebpf/ringbuf"

	"github.com/amooglesoft/trafficmonitor/internal/vector"
)

const (
	infoSize   = int(unsafe.Sizeof(SensorSlotInfo{}))
	laneSize   = int(unsafe.Sizeof(SensorLane{}))
	blockBytes = blockRecords * 8 // of records and of window words
	byteBits   = 36
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

// SetHot names the vectors of a slot, one bit each, that raise no trigger because they are being reported already.
func (k *Kernel) SetHot(slot uint32, vectors [vector.Directions]uint64) error {
	b := binary.LittleEndian.AppendUint64(nil, vectors[vector.Inbound])
	b = binary.LittleEndian.AppendUint64(b, vectors[vector.Outbound])
	if _, err := k.infos.WriteAt(b, int64(slot)*int64(infoSize)+int64(unsafe.Offsetof(SensorSlotInfo{}.Hot))); err != nil {
		return fmt.Errorf("mark slot %d as hot: %w", slot, err)
	}
	return nil
}

// Stats are the counters that belong to no slot, summed over all CPUs. They only grow, for as long as their map lives.
type Stats = SensorCpuStat

// Stats reads them.
func (k *Kernel) Stats() (sum Stats, err error) {
	const fields = unsafe.Offsetof(sum.SampleLeft) / 8 // all before it are counters
	into := (*[fields]uint64)(unsafe.Pointer(&sum))
	for cpu := range k.Sizes.CPUs {
		from := (*[fields]uint64)(unsafe.Pointer(&k.scanner.lane(cpu).Stat))
		for i := range into {
			into[i] += atomic.LoadUint64(&from[i])
		}
	}
	return sum, nil
}

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
	Direction      vector.Direction
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
		Ktime:     binary.LittleEndian.Uint64(raw),
		Weight:    binary.LittleEndian.Uint32(raw[unsafe.Offsetof(s.Weight):]),
		Length:    binary.LittleEndian.Uint32(raw[unsafe.Offsetof(s.Length):]),
		Vector:    vector.ID(raw[unsafe.Offsetof(s.Vector)]),
		Direction: vector.Direction(raw[unsafe.Offsetof(s.Direction)]),
		Header:    header[:captured],
	}, nil
}
