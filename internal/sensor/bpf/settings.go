//go:build linux

package bpf

import (
	"fmt"
	"math"

	"github.com/amooglesoft/trafficmonitor/internal/vector"
)

// Level is the count inside one window from which on a vector triggers; zero means never.
type Level struct{ Packets, Bytes uint64 }

// sharesPerLevel is how finely a level is reached: a CPU adds to the shared window when it has counted this share of
// the level divided by the number of CPUs, so that the window is behind by at most one in sharesPerLevel.
const sharesPerLevel = 16

// The most a shared window holds.
const (
	maxPackets = 1<<23 - 1
	maxBytes   = 1 << 31
)

func levelFor(l Level, cpus int) SensorLevel {
	out := SensorLevel{Bytes: math.MaxUint64, BatchBytes: math.MaxUint64, Packets: math.MaxUint32, BatchPackets: math.MaxUint32}
	parts := uint64(cpus * sharesPerLevel)
	if l.Packets > 0 {
		p := min(l.Packets, maxPackets)
		out.Packets = uint32(p)
		out.BatchPackets = uint32(max(1, p/parts))
	}
	if l.Bytes > 0 {
		b := min(l.Bytes, maxBytes)
		out.Bytes = max(64, b/64*64)
		out.BatchBytes = max(64, b/parts)
	}
	return out
}

// SetLevels sets when each vector triggers.
func (k *Kernel) SetLevels(levels [vector.Count]Level) error {
	var out [vector.Count]SensorLevel
	for v, l := range levels {
		out[v] = levelFor(l, k.Sizes.CPUs)
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
