//go:build linux

package bpf

import (
	"net/netip"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cilium/ebpf"

	"github.com/amooglesoft/trafficmonitor/internal/vector"
)

// crowd is two flows of one target of which neither has a cell: others have taken both.
type crowd struct {
	k       *Kernel
	target  uint32
	columns [2]Column
	flows   [2][]byte
	takers  [2][]byte
	reached [2]uint32 // keys of the takers
	last    uint32    // window that was used
}

func newCrowd(t *testing.T, octets int) *crowd {
	t.Helper()
	// Slots are given in the order in which targets appear, but for the upper half.
	k := loadWatching(t, func(s *Sizes) { s.Hosts = 256; s.Triggers = 1 << 16 })
	if err := k.SetTargets(Table{netip.MustParsePrefix("192.0.2.0/24"): 256}); err != nil {
		t.Fatal(err)
	}
	packet := func(v vector.ID, slot uint32) []byte {
		port := uint16(0)
		for _, r := range vector.Reflections() {
			if r.ID == v {
				port = r.SourcePorts[0]
			}
		}
		addr := netip.AddrFrom4([4]byte{192, 0, 2, byte(slot)}).String()
		return frame(eth(ip4), v4(header4{dst: addr, proto: 17}), udp(port), payload(octets))
	}
	for slot := range uint32(128) {
		run(t, k.Ingress(), packet(vector.DNS, slot), nil)
	}
	c := &crowd{k: k, target: 80, columns: [2]Column{Column(vector.DNS), Column(vector.DNS + 1)}}
	for i, column := range c.columns {
		// See count_cell for which cell it is.
		taker, of := c.target-37, column+1
		c.flows[i], c.takers[i] = packet(column.Vector(), c.target), packet(of.Vector(), taker)
		c.reached[i] = uint32(of)<<slotBits | taker
	}
	return c
}

// window is the one in which a key has a cell of the first CPU.
func (c *crowd) window(key uint32) (window uint32, ok bool) {
	cells := &c.k.scanner.lanes[0].Cells
	for i := range cells {
		if tag := atomic.LoadUint64(&cells[i].Tag); uint32(tag) == key {
			return uint32(tag >> 32), true
		}
	}
	return 0, false
}

// inOneWindow runs body, again and again until all of it lay in one window, in which neither flow had a cell. Then what the last
// body found counts.
func (c *crowd) inOneWindow(t *testing.T, body func(send func(flow int, packets uint32))) (window uint32) {
	t.Helper()
	send := func(data []byte, packets uint32) {
		if _, err := c.k.Ingress().Run(&ebpf.RunOptions{Data: data, Repeat: packets}); err != nil {
			t.Error(err)
		}
	}
	take := func() (window uint32, ok bool) {
		var windows [2]uint32
		for i, data := range c.takers {
			send(data, 1)
			if windows[i], ok = c.window(c.reached[i]); !ok {
				return 0, false // somebody else has that one
			}
		}
		return windows[0], windows[0] == windows[1]
	}
	for deadline := time.Now().Add(30 * time.Second); !t.Failed() && time.Now().Before(deadline); {
		done := false
		onCPUs(t, 1, func(int) {
			began, ok := take()
			if !ok || began == c.last {
				return
			}
			c.last = began
			body(func(flow int, packets uint32) { send(c.flows[flow], packets) })
			ended, ok := take()
			window, done = ended, ok && began == ended
		})
		if done {
			return window
		}
	}
	t.Fatal("it never all lay in one window, with others in the cells")
	return 0
}

// TestTriggersWithoutACell: a record without a cell is looked at now and then only, and yet its trigger is raised: once, never
// early, and at most a sixteenth late.
func TestTriggersWithoutACell(t *testing.T) {
	const octets = 100
	const size = 28 + octets
	for _, tc := range []struct {
		name   string
		column Column
		level  Level
		flows  []int // what comes by turns
		below  uint32
		late   uint32 // packets
	}{
		{"packets", Column(vector.DNS), Level{Packets: 1000}, []int{0}, 999, 1000 / 16},
		{"one packet", Column(vector.DNS), Level{Packets: 1}, []int{0}, 0, 0},
		{"twenty packets", Column(vector.DNS), Level{Packets: 20}, []int{0}, 19, 0},
		{"bytes", Column(vector.DNS), Level{Bytes: 1000 * size}, []int{0}, 999, 1000 / 16},
		{"few bytes", Column(vector.DNS), Level{Bytes: 16 * size}, []int{0}, 13, 4}, // a window is told in steps of 256
		{"total", Column(vector.Total), Level{Packets: 1000}, []int{0, 1}, 499, 1000 / 16 / 2},
		{"total of bytes", Column(vector.Total), Level{Bytes: 1000 * size}, []int{0, 1}, 499, 1000 / 16 / 2},
		{"small total", Column(vector.Total), Level{Packets: 20}, []int{0, 1}, 9, 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := newCrowd(t, octets)
			var levels [Columns]Level
			levels[tc.column] = tc.level
			if err := c.k.SetLevels(levels); err != nil {
				t.Fatal(err)
			}
			r, err := c.k.TriggerReader()
			if err != nil {
				t.Fatal(err)
			}
			defer r.Close()
			var early, then, later []SensorTrigger
			raised := func() (all []SensorTrigger) {
				for _, raw := range records(t, r) {
					e, err := DecodeTrigger(raw)
					if err != nil {
						t.Error(err)
					}
					if e.Slot == c.target { // takers have levels, too
						all = append(all, e)
					}
				}
				return all
			}
			window := c.inOneWindow(t, func(send func(int, uint32)) {
				raised()
				each := func(packets uint32) {
					for range packets {
						for _, flow := range tc.flows {
							send(flow, 1)
						}
					}
				}
				each(tc.below)
				early = raised()
				each(1 + tc.late)
				then = raised()
				each(200)
				later = raised()
			})
			if len(early) != 0 {
				t.Errorf("below the level: %+v", early)
			}
			if len(later) != 0 {
				t.Errorf("again: %+v", later)
			}
			if len(then) != 1 {
				t.Fatalf("%d triggers, want 1", len(then))
			}
			e, most := then[0], uint64(tc.below+1+tc.late)*uint64(len(tc.flows))
			if e.Window != window || vector.ID(e.Vector) != tc.column.Vector() {
				t.Errorf("in window %d: %+v", window, e)
			}
			if n := uint64(e.Packets); n < tc.level.Packets || n > most || e.Bytes < tc.level.Bytes || e.Bytes > most*size+255 {
				t.Errorf("%d packets and %d bytes, want the level and at most %d packets", e.Packets, e.Bytes, most)
			}
		})
	}
}

// TestPresentWindowOfTheCrowded: what is not looked at is missing from the present window, a little, and never more is told.
func TestPresentWindowOfTheCrowded(t *testing.T) {
	c := newCrowd(t, 100)
	var got Row
	for _, packets := range []uint32{1, lookPackets, 300, 2000} {
		window := c.inOneWindow(t, func(send func(int, uint32)) {
			send(0, packets)
		})
		var err error
		if got, err = c.k.Present(c.target, window); err != nil {
			t.Fatal(err)
		}
		n := got[c.columns[0]]
		if n.Packets() > uint64(packets) || n.Packets()+lookPackets <= uint64(packets) || n.Bytes() > n.Packets()*128+255 || n.Bytes()+255 < n.Packets()*128 {
			t.Errorf("%d packets: %d with %d bytes", packets, n.Packets(), n.Bytes())
		}
	}
}

// TestLateCountIsOfNoWindow: what a CPU still holds from a window before counts towards none when it comes to the record, whether
// another CPU has begun the new window by then or this is what begins it.
func TestLateCountIsOfNoWindow(t *testing.T) {
	if runtime.NumCPU() < 2 {
		t.Skip("needs two processors")
	}
	const late, fresh = 100, 200
	for _, tc := range []struct {
		name  string
		first int // CPU that comes first in the new window; 0 holds the late packets
	}{{"begun by another", 1}, {"begun by the late", 0}} {
		t.Run(tc.name, func(t *testing.T) {
			k := loadWatching(t)
			var levels [Columns]Level
			levels[vector.DNS] = Level{Packets: 4000} // of which a CPU holds back 125
			if err := k.SetLevels(levels); err != nil {
				t.Fatal(err)
			}
			const other = "192.0.2.99"
			for _, target := range []string{host4, other} { // slots 0 and 1
				run(t, k.Ingress(), dnsTo(target), nil)
			}
			send := func(cpu int, target string, packets uint32) (window uint32) {
				onCPU(t, cpu, func() {
					if _, err := k.Ingress().Run(&ebpf.RunOptions{Data: dnsTo(target), Repeat: packets}); err != nil {
						t.Error(err)
					}
				})
				slot := map[string]uint32{host4: 0, other: 1}[target]
				for i := range k.scanner.lanes[cpu].Cells {
					if tag := atomic.LoadUint64(&k.scanner.lanes[cpu].Cells[i].Tag); uint32(tag) == uint32(vector.DNS)<<slotBits|slot {
						return uint32(tag >> 32)
					}
				}
				t.Errorf("slot %d has no cell of CPU %d", slot, cpu)
				return 0
			}
			for deadline := time.Now().Add(30 * time.Second); !t.Failed() && time.Now().Before(deadline); {
				old := send(0, host4, late)
				began := send(1, other, 1)
				for began == old && !t.Failed() {
					began = send(1, other, 1)
				}
				ended := map[int]uint32{}
				for _, cpu := range []int{tc.first, 1 - tc.first} {
					ended[cpu] = send(cpu, host4, map[int]uint32{0: 1, 1: fresh}[cpu])
				}
				if ended[0] != began || ended[1] != began {
					continue // a window ended meanwhile
				}
				got, err := k.Present(0, began)
				if err != nil {
					t.Fatal(err)
				}
				if n := got[vector.DNS].Packets(); n != fresh+1 {
					t.Errorf("%d packets in the present window, want %d", n, fresh+1)
				}
				return
			}
			t.Error("it never all lay in one window")
		})
	}
}
