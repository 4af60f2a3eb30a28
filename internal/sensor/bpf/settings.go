//go:build linux

package bpf

import (
	"fmt"
	"math"
	"math/bits"

	"github.com/amooglesoft/trafficmonitor/internal/vector"
)

// Level is the count inside one window from which on a vector triggers; zero means never.
type Level struct{ Packets, Bytes uint64 }

// sharesPerLevel is how finely a level is reached: a CPU adds to the shared window when it has counted this share of
// the level divided by the number of CPUs, so that the window is behind by at most one in sharesPerLevel.
const sharesPerLevel = 16

// A record that has no cell is looked at when its total passes a multiple of so many packets or bytes, or of less where that
// were too coarse: its window begins with a look, and passes the level with one, so it is behind by at most two.
const (
	lookPackets = 16
	lookBytes   = 1 << 15
	leastBytes  = 1 << 8 // what a window word can tell
)

// The most a level may be: half of what a window word can tell.
const (
	maxPackets = 1 << 21
	maxBytes   = 1 << 35
)

func levelFor(l Level, cpus int) SensorLevel {
	out := SensorLevel{Bytes: math.MaxUint64, BatchBytes: math.MaxUint64, Packets: math.MaxUint32, BatchPackets: math.MaxUint32}
	parts := uint64(cpus * sharesPerLevel)
	packets, bytes := uint64(lookPackets), uint64(lookBytes)
	if l.Packets > 0 {
		p := min(l.Packets, maxPackets)
		out.Packets = uint32(p)
		out.BatchPackets = uint32(max(1, p/parts))
		packets = min(packets, max(1, p/(2*sharesPerLevel)))
	}
	if l.Bytes > 0 {
		b := min(l.Bytes, maxBytes)
		out.Bytes = max(leastBytes, b/leastBytes*leastBytes)
		out.BatchBytes = max(leastBytes, b/parts)
		bytes = min(bytes, max(leastBytes, b/(2*sharesPerLevel)))
	}
	below := func(n uint64) uint64 { return 1<<(bits.Len64(n)-1) - 1 } // the bits below the highest
	out.Look = ^uint64(CountOf(below(packets), below(bytes)))
	return out
}

// SetLevels sets when each column triggers. That of vector.Total is compared with the sum of all.
func (k *Kernel) SetLevels(levels [Columns]Level) error {
	var out [Columns]SensorLevel
	for c, l := range levels {
		out[c] = levelFor(l, k.Sizes.CPUs)
	}
	// What a cell holds back and what is not looked at must be small for the total's sake, too.
	for c := range out {
		all := out[ColumnOf(Column(c).Direction(), vector.Total)]
		out[c].BatchPackets = min(out[c].BatchPackets, all.BatchPackets)
		out[c].BatchBytes = min(out[c].BatchBytes, all.BatchBytes)
		out[c].Look |= all.Look
	}
	if err := k.objects.Levels.Set(out); err != nil {
		return fmt.Errorf("set the trigger levels: %w", err)
	}
	return nil
}

// SetPorts assigns UDP source ports to vectors; 0 means none.
func (k *Kernel) SetPorts(ports *[65536]uint8) error {
	if err := k.objects.UdpVectors.Set(ports[:]); err != nil {
		return fmt.Errorf("set the reflection ports: %w", err)
	}
	return nil
}

// SetSampling samples one packet in so many, or none.
func (k *Kernel) SetSampling(oneIn uint32) error {
	if err := k.objects.SampleEvery.Set(oneIn); err != nil {
		return fmt.Errorf("set the sampling rate: %w", err)
	}
	return nil
}

// SetWatchedSampling is SetSampling for slots that are watched.
func (k *Kernel) SetWatchedSampling(oneIn uint32) error {
	if err := k.objects.WatchedSampleEvery.Set(oneIn); err != nil {
		return fmt.Errorf("set the sampling rate of watched targets: %w", err)
	}
	return nil
}
