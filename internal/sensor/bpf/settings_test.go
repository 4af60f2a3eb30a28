//go:build linux

package bpf

import (
	"fmt"
	"math"
	"testing"

	"github.com/amooglesoft/trafficmonitor/internal/vector"
)

// TestLevelsAreReachedInTime: whatever the levels and however many CPUs, what may be known late is little; a cell is emptied when it
// holds its share and not before, without packets or bytes overflowing; and a window that has passed its level is looked at
// before it holds more than its word can tell.
func TestLevelsAreReachedInTime(t *testing.T) {
	const (
		full = 1<<63 | 1<<(byteBits-1) // FULL of types.h
		// The most that one packet can be: what GRO merges, each segment with headers of its own.
		largestPackets, largestBytes = 1<<16 - 1, 1<<19 + (1<<16-1)*128
		half                         = 1 << 21 // of the packets of a window: from here on the kernel takes them for less than none
	)
	for _, cpus := range []uint64{1, 2, 16, 64, 256, 1024} {
		for _, l := range []Level{
			{},
			{Packets: 1},
			{Packets: 20},
			{Packets: 511},
			{Packets: 640},
			{Packets: 100_000},
			{Packets: maxPackets},
			{Bytes: 1},
			{Bytes: 300},
			{Bytes: 1 << 20},
			{Bytes: maxBytes},
			{Packets: 1, Bytes: maxBytes},
			{Packets: maxPackets, Bytes: 1},
			{Packets: maxPackets, Bytes: maxBytes},
		} {
			t.Run(fmt.Sprintf("%d CPUs, %d packets, %d bytes", cpus, l.Packets, l.Bytes), func(t *testing.T) {
				held, unseen := sharesOf(l, cpus)
				level := l.level(held, unseen)
				// A CPU alone holds less than its share, for a share makes it tell.
				if late := (held.packets - 1) * cpus; l.Packets > 0 && late > l.Packets/sharesPerLevel {
					t.Errorf("%d packets are held back", late)
				}
				if late := (held.bytes - 1) * cpus; l.Bytes > 0 && late > max(leastBytes*cpus, l.Bytes/sharesPerLevel) {
					t.Errorf("%d bytes are held back", late)
				}
				if l.Packets > 0 && (unseen.packets-1)*2 > l.Packets/sharesPerLevel || unseen.packets > lookPackets {
					t.Errorf("%d packets are not looked at", unseen.packets)
				}
				if l.Bytes > 0 && (unseen.bytes-1)*2 > max(2*leastBytes, l.Bytes/sharesPerLevel) || unseen.bytes > lookBytes {
					t.Errorf("%d bytes are not looked at", unseen.bytes)
				}
				if seen := l.Packets + held.packets*cpus + lookPackets + largestPackets; l.Packets > 0 && seen >= half {
					t.Errorf("passed with up to %d packets, which is no window's", seen)
				}

				if (uint64(CountOf(held.packets-1, held.bytes-1))+level.Room)&full != 0 {
					t.Error("a cell with less than its share is emptied")
				}
				for _, c := range []Count{CountOf(held.packets, 0), CountOf(0, held.bytes), CountOf(held.packets-1+largestPackets, held.bytes-1+largestBytes)} {
					if (uint64(c)+level.Room)&full == 0 {
						t.Errorf("a cell with %d packets and %d bytes is not emptied", c.Packets(), c.Bytes())
					}
				}
				// Also of a cell that was let fill: whoever finds it full has not seen bytes become packets.
				if none.bytes-1+largestBytes >= 1<<byteBits || none.packets-1+largestPackets >= 1<<(64-byteBits) {
					t.Error("a cell overflows")
				}
				for n := range unseen.packets { // whatever was counted before
					if (uint64(CountOf(n, 0))^uint64(CountOf(n+unseen.packets, 0)))&level.Look == 0 {
						t.Errorf("%d packets after %d are not looked at", unseen.packets, n)
					}
				}
				for _, n := range []uint64{0, 1, unseen.bytes - 1, 1<<20 - 1} {
					if (uint64(CountOf(0, n))^uint64(CountOf(0, n+unseen.bytes)))&level.Look == 0 {
						t.Errorf("%d bytes after %d are not looked at", unseen.bytes, n)
					}
				}
			})
		}
	}
}

// TestTheMostALevelMayBe: a level that a window can never be seen to pass would be one that is switched off, silently.
func TestTheMostALevelMayBe(t *testing.T) {
	k := loadWatching(t)
	r, err := k.TriggerReader()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	var levels [Columns]Level
	levels[vector.DNS] = Level{Packets: 1 << 40}
	if err := k.SetLevels(levels); err != nil {
		t.Fatal(err)
	}
	// Each stands for 65,535, so that a window has millions of them; some may lie in two windows.
	data := frame(eth(ip4), v4(header4{dst: host4, proto: 17}), udp(53), payload(3000))
	for range 200 {
		for range 40 {
			run(t, k.Ingress(), data, merged(1<<16-1, 1))
		}
		if all := records(t, r); len(all) != 0 {
			if e, err := DecodeTrigger(all[0]); err != nil || e.Packets < maxPackets {
				t.Errorf("%+v (%v)", e, err)
			}
			return
		}
	}
	t.Error("millions of packets in a window raise no trigger")
}

func TestCountCPUs(t *testing.T) {
	for list, want := range map[string]int{"0\n": 1, "0-1\n": 2, "0-3,8,10-11\n": 7, "0,2,4": 3, "0-65535": 65536} {
		if n, ok := countCPUs(list); !ok || n != want {
			t.Errorf("%q: %d (%v), want %d", list, n, ok, want)
		}
	}
	for _, list := range []string{"", "\n", "0-", "-1", "3-1", "0,,1", "0-1-2", "a", "65536"} {
		if n, ok := countCPUs(list); ok {
			t.Errorf("%q: %d", list, n)
		}
	}
	if n := onlineCPUs(); n < 1 || n == math.MaxInt {
		t.Errorf("%d are online here", n)
	}
}
