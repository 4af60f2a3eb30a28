//go:build linux

package bpf

import (
	"errors"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cilium/ebpf"

	"github.com/amooglesoft/trafficmonitor/internal/lab"
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
	torn := false // a run was interrupted, and begun anew by the library: more packets were counted than were asked for
	send := func(data []byte, packets uint32) {
		counted := &c.k.scanner.lanes[0].Stat.Packets[0]
		before := atomic.LoadUint64(counted)
		if _, err := c.k.Ingress().Run(&ebpf.RunOptions{Data: data, Repeat: packets}); err != nil {
			t.Error(err)
		}
		torn = torn || atomic.LoadUint64(counted)-before != uint64(max(packets, 1))
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
			// From the beginning of a window: into this one, what was tried before may have sent something.
			now, ok := take()
			began := now
			for ok && began == now {
				began, ok = take()
			}
			if !ok {
				return
			}
			c.last, torn = began, false
			body(func(flow int, packets uint32) { send(c.flows[flow], packets) })
			ended, ok := take()
			window, done = ended, ok && began == ended && !torn
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
		flows  []int // what comes, one after the other
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
			raised := c.watch(t, tc.column, tc.level)
			var early, then, later []SensorTrigger
			window := c.inOneWindow(t, func(send func(int, uint32)) {
				raised()
				each := func(packets uint32) {
					for _, flow := range tc.flows {
						if packets > 0 { // of none BPF_PROG_RUN makes one
							send(flow, packets)
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
	lab.NeedCPUs(t, 2)
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

// reword changes the totals and the window word of one of the flows.
func (c *crowd) reword(t *testing.T, flow int, change func(total, word uint64) (uint64, uint64)) {
	t.Helper()
	key, i := uint32(int(c.columns[flow])*c.k.Sizes.blocks()+int(c.target)/blockRecords), int(c.target)%blockRecords
	var totals SensorRecordBlock
	var words SensorWindowBlock
	if err := errors.Join(c.k.objects.Records.Lookup(key, &totals), c.k.objects.Windows.Lookup(key, &words)); err != nil {
		t.Error(err)
		return
	}
	totals.Totals[i], words.Words[i] = change(totals.Totals[i], words.Words[i])
	if err := errors.Join(c.k.objects.Records.Put(key, totals), c.k.objects.Windows.Put(key, words)); err != nil {
		t.Fatal(err)
	}
}

// leave lets the first CPU's cell of a flow hold what it counted for that in the window before.
func (c *crowd) leave(t *testing.T, flow int, n Count) {
	t.Helper()
	var lane SensorLane
	if err := c.k.objects.Lanes.Lookup(uint32(0), &lane); err != nil {
		t.Error(err)
		return
	}
	column := uint32(c.columns[flow])
	cell := &lane.Cells[(c.target+column*37)%uint32(len(lane.Cells))]
	if uint32(cell.Tag) != c.reached[flow] {
		t.Errorf("the cell has the tag %#x, not that of %#x", cell.Tag, c.reached[flow])
	}
	cell.Tag, cell.Count = uint64(c.last-1)<<32|uint64(column<<slotBits|c.target), uint64(n)
	if err := c.k.objects.Lanes.Put(uint32(0), lane); err != nil {
		t.Error(err)
	}
}

// take sends a packet of the one who has the cell of a flow, in this window or from now on.
func (c *crowd) take(t *testing.T, flow int) {
	if _, err := c.k.Ingress().Run(&ebpf.RunOptions{Data: c.takers[flow]}); err != nil {
		t.Error(err)
	}
}

// begin waits for the next window.
func (c *crowd) begin(t *testing.T) {
	began := c.last
	for began == c.last && !t.Failed() {
		c.take(t, 0)
		began, _ = c.window(c.reached[0])
	}
	c.last = began
}

// watch sets one level and returns what reads the target's triggers since it was called last.
func (c *crowd) watch(t *testing.T, column Column, level Level) func() []SensorTrigger {
	t.Helper()
	var levels [Columns]Level
	levels[column] = level
	if err := c.k.SetLevels(levels); err != nil {
		t.Fatal(err)
	}
	r, err := c.k.TriggerReader()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	return func() (all []SensorTrigger) {
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
}

// TestLateCountInsideAWindow: what a CPU held from the window before comes to a record whose window has begun: it raises no trigger,
// and makes nobody forget one.
func TestLateCountInsideAWindow(t *testing.T) {
	c := newCrowd(t, 100)
	raised := c.watch(t, c.columns[0], Level{Packets: 1000})
	var early, then, later []SensorTrigger
	c.inOneWindow(t, func(send func(int, uint32)) {
		raised()
		late := func() {
			c.leave(t, 0, CountOf(700, 700*128))
			c.take(t, 0)
		}
		send(0, 600)
		late()
		send(0, 300)
		early = raised()
		send(0, 200)
		then = raised()
		late()
		send(0, 200)
		later = raised()
	})
	if len(early) != 0 {
		t.Errorf("of 900 packets and 700 of the window before: %+v", early)
	}
	if len(then) != 1 {
		t.Errorf("%d triggers of 1100 packets, want 1", len(then))
	}
	if len(later) != 0 {
		t.Errorf("again: %+v", later)
	}
}

// TestWindowBegunAhead: another CPU begins the window between the addition of a packet and the look at it, with a total of which
// the packet knows nothing. That is less than none, and not millions.
func TestWindowBegunAhead(t *testing.T) {
	c := newCrowd(t, 100)
	raised := c.watch(t, c.columns[0], Level{Packets: 1000, Bytes: 1000 * 128})
	var got []SensorTrigger
	c.inOneWindow(t, func(send func(int, uint32)) {
		raised()
		c.reword(t, 0, func(total, _ uint64) (uint64, uint64) {
			const tagShift, baseShift, baseMask = 51, 8, 1<<50 - 1 // see types.h
			return total, uint64(c.last)<<tagShift | (total+uint64(CountOf(100, 100*128)))>>baseShift&baseMask
		})
		send(0, 64)
		got = raised()
	})
	if len(got) != 0 {
		t.Errorf("of 64 packets: %+v", got)
	}
}

// TestTotalFollowsAllThatIsAShare: vectors that all stay far below the total's trigger pass it together, and what they had before they
// were worth telling the total of is told it with the rest.
func TestTotalFollowsAllThatIsAShare(t *testing.T) {
	t.Run("without cells", func(t *testing.T) {
		c := newCrowd(t, 0)
		const level = 16_000 // a 64th of it is looked at many times before it is reached
		raised := c.watch(t, Column(vector.Total), Level{Packets: level})
		var got []SensorTrigger
		c.inOneWindow(t, func(send func(int, uint32)) {
			raised()
			send(0, level/2+2*lookPackets)
			send(1, level/2+2*lookPackets)
			got = raised()
		})
		if len(got) != 1 {
			t.Errorf("%d triggers, want 1", len(got))
		}
	})
	t.Run("with cells", func(t *testing.T) {
		const level, vectors, each = 10_400, 12, 1000 // of which a CPU holds back 325
		c := newCrowd(t, 0)
		raised := c.watch(t, Column(vector.Total), Level{Packets: level})
		var flows [][]byte
		for _, v := range vector.Reflections()[:vectors] {
			flows = append(flows, frame(eth(ip4), v4(header4{dst: "192.0.2.80", proto: 17}), udp(v.SourcePorts[0])))
		}
		for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline) && !t.Failed(); { // some attempts lie in two windows
			onCPUs(t, 1, func(int) {
				c.begin(t)
				raised()
				for _, data := range flows {
					if _, err := c.k.Ingress().Run(&ebpf.RunOptions{Data: data, Repeat: each}); err != nil {
						t.Error(err)
					}
				}
			})
			if len(raised()) != 0 {
				return
			}
		}
		t.Errorf("%d packets of each of %d vectors, and no trigger", each, vectors)
	})
}

// TestAttackFillsItsCell: once a window has passed its trigger, the CPU's packets touch nothing but its cell, and in the next window
// they are looked at again.
func TestAttackFillsItsCell(t *testing.T) {
	const packets, level, most = 10_000, 1000, 1000 + 2*1000/sharesPerLevel
	for name, column := range map[string]Column{"vector": Column(vector.DNS + 1), "total": Column(vector.Total)} {
		t.Run(name, func(t *testing.T) {
			c := newCrowd(t, 0)
			raised := c.watch(t, column, Level{Packets: level})
			cell := &c.k.scanner.lanes[0].Cells[(c.target+uint32(c.columns[1])*37)%uint32(len(c.k.scanner.lanes[0].Cells))]
			windows := map[uint32]bool{}
			for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline) && !t.Failed(); { // some attempts lie in two windows
				raised()
				onCPUs(t, 1, func(int) {
					c.begin(t)
					if _, err := c.k.Ingress().Run(&ebpf.RunOptions{Data: c.flows[1], Repeat: packets}); err != nil {
						t.Error(err)
					}
				})
				all, held := raised(), Count(atomic.LoadUint64(&cell.Count))
				if len(all) == 1 && all[0].Window == uint32(atomic.LoadUint64(&cell.Tag)>>32) && held.Packets() >= packets-most && held.Packets() <= packets-level/2 {
					windows[all[0].Window] = true
				}
				if len(windows) == 3 {
					return
				}
			}
			t.Errorf("%d windows raised a trigger at which the cell was let fill, want 3", len(windows))
		})
	}
}

// TestFewLargePackets: a trigger of few bytes is passed by packets of which fewer than lookPackets suffice.
func TestFewLargePackets(t *testing.T) {
	c := newCrowd(t, 1000)
	raised := c.watch(t, c.columns[0], Level{Bytes: 8 * 1028})
	var early, then []SensorTrigger
	c.inOneWindow(t, func(send func(int, uint32)) {
		raised()
		c.reword(t, 0, func(total, _ uint64) (uint64, uint64) { // so that no number of packets makes anybody look
			n := Count(total)
			return uint64(CountOf(n.Packets()/lookPackets*lookPackets+lookPackets, n.Bytes())), uint64(c.last-1) << 51
		})
		send(0, 7)
		early = raised()
		send(0, 2)
		then = raised()
	})
	if len(early) != 0 {
		t.Errorf("of 7 packets: %+v", early)
	}
	if len(then) != 1 {
		t.Errorf("%d triggers of 9 packets, want 1", len(then))
	}
}

// TestHotIsOfOneDirection: what is reported already of one direction silences no trigger of the other.
func TestHotIsOfOneDirection(t *testing.T) {
	k := loadWatching(t, func(s *Sizes) { s.Outbound = true })
	var levels [Columns]Level
	for _, d := range []vector.Direction{vector.Inbound, vector.Outbound} {
		levels[ColumnOf(d, vector.DNS)] = Level{Packets: 1}
	}
	if err := k.SetLevels(levels); err != nil {
		t.Fatal(err)
	}
	r, err := k.TriggerReader()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	in := dnsTo(host4)
	run(t, k.Ingress(), in, nil) // who takes slot 0 is not hot yet
	for d, hot := range [][2]uint64{{1 << vector.DNS, 0}, {0, 1 << vector.DNS}} {
		if err := k.SetHot(0, hot); err != nil {
			t.Fatal(err)
		}
		began := func() uint32 { // the window of the last packet that arrived
			return uint32(atomic.LoadUint64(&k.scanner.lanes[0].Cells[int(vector.DNS)*37%len(k.scanner.lanes[0].Cells)].Tag) >> 32)
		}
		seen := map[uint8]int{}
		for deadline := time.Now().Add(30 * time.Second); len(seen) == 0 && time.Now().Before(deadline); {
			records(t, r)
			onCPUs(t, 1, func(int) {
				for last := began(); began() == last && !t.Failed() && time.Now().Before(deadline); {
					if _, err := k.Ingress().Run(&ebpf.RunOptions{Data: in}); err != nil {
						t.Error(err)
					}
				}
				if _, err := k.Egress().Run(&ebpf.RunOptions{Data: back(in)}); err != nil {
					t.Error(err)
				}
			})
			for _, raw := range records(t, r) {
				e, err := DecodeTrigger(raw)
				if err != nil {
					t.Fatal(err)
				}
				seen[e.Direction]++
			}
		}
		if len(seen) != 1 || seen[uint8(1-d)] == 0 {
			t.Errorf("direction %d is reported already, and there are triggers of %v", d, seen)
		}
	}
}
