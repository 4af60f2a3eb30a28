//go:build linux

package bpf

import (
	"fmt"
	"math"
	"math/bits"
	"os"
	"strconv"
	"strings"

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

// The most a level may be. Of what a window word can tell of packets, half is less than none, and a level must be passed well
// below that: what comes at once, when it is looked at, is a share of it.
const (
	maxPackets = 1 << 20
	maxBytes   = 1 << 35
)

// share is what may be known late of a window: what a CPU holds back, and what is not looked at.
type share struct{ packets, bytes uint64 }

func (s share) least(t share) share { return share{min(s.packets, t.packets), min(s.bytes, t.bytes)} }

// none is so much that a cell is emptied before its count overflows.
var none = share{1 << 27, 1 << 35}

func sharesOf(l Level, cpus uint64) (held, unseen share) {
	held, unseen = none, share{lookPackets, lookBytes}
	if l.Packets > 0 {
		held.packets = max(1, l.Packets/(cpus*sharesPerLevel))
		unseen.packets = min(unseen.packets, max(1, l.Packets/(2*sharesPerLevel)))
	}
	if l.Bytes > 0 {
		held.bytes = max(leastBytes, l.Bytes/(cpus*sharesPerLevel))
		unseen.bytes = min(unseen.bytes, max(leastBytes, l.Bytes/(2*sharesPerLevel)))
	}
	return held, unseen
}

// level is what the programs need to know of a level.
func (l Level) level(held, unseen share) SensorLevel {
	out := SensorLevel{Packets: math.MaxUint32, Bytes: math.MaxUint64}
	if l.Packets > 0 {
		out.Packets = uint32(l.Packets)
	}
	if l.Bytes > 0 {
		out.Bytes = max(leastBytes, l.Bytes/leastBytes*leastBytes)
	}
	out.Room = uint64(CountOf(none.packets-held.packets, none.bytes-held.bytes))
	below := func(n uint64) uint64 { return 1<<(bits.Len64(n)-1) - 1 } // the bits below the highest
	out.Look = ^uint64(CountOf(below(unseen.packets), below(unseen.bytes)))
	return out
}

// SetLevels sets when each column triggers. That of vector.Total is compared with the sum of all. What CPUs hold back is shared
// among those that are online now: of many more, a window would be known later than it should.
func (k *Kernel) SetLevels(levels [Columns]Level) error {
	var held, unseen [Columns]share
	cpus := uint64(min(onlineCPUs(), k.Sizes.CPUs))
	for c, l := range levels {
		levels[c] = Level{min(l.Packets, maxPackets), min(l.Bytes, maxBytes)}
		held[c], unseen[c] = sharesOf(levels[c], cpus)
	}
	var out [Columns]SensorLevel
	for c, l := range levels {
		all := ColumnOf(Column(c).Direction(), vector.Total) // both must be small for the total's sake, too
		out[c] = l.level(held[c].least(held[all]), unseen[c].least(unseen[all]))
	}
	if err := k.objects.Levels.Set(out); err != nil {
		return fmt.Errorf("set the trigger levels: %w", err)
	}
	return nil
}

// onlineCPUs is how many processors packets may be counted on. It is often far fewer than are possible: virtual machines are made
// to grow, and shares for hundreds that are not there would cost each packet of an attack an atomic addition.
func onlineCPUs() int {
	text, err := os.ReadFile("/sys/devices/system/cpu/online")
	if n, ok := countCPUs(string(text)); err == nil && ok {
		return n
	}
	return math.MaxInt
}

// countCPUs counts a list of processors as the kernel writes it: 0-3,8,10-11.
func countCPUs(list string) (n int, ok bool) {
	for part := range strings.SplitSeq(strings.TrimSpace(list), ",") {
		first, last, isRange := strings.Cut(part, "-")
		if !isRange {
			last = first
		}
		a, errA := strconv.ParseUint(first, 10, 16)
		b, errB := strconv.ParseUint(last, 10, 16)
		if errA != nil || errB != nil || b < a {
			return 0, false
		}
		n += int(b-a) + 1
	}
	return n, true
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
