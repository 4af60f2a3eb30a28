//go:build linux

package bpf

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"math/bits"
	"os"
	"slices"
	"sync/atomic"
	"unsafe"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/amooglesoft/trafficmonitor/internal/vector"
)

const (
	blockRecords = len(SensorRecordBlock{}.Totals)
	slotBits     = 24 // of a cell's key
)

// scanner reads counters while the programs go on counting.
//
// What was counted is what the record holds and what CPUs have in their cells for it. A CPU that empties a cell zeroes
// it first and adds to the record then, and we read the record first and the cells then: so what is being moved at that
// moment is missed, and never seen twice. A sum that is less than one already told is not told; the next will be more.
//
// A record alone may hold more packets than were told of it, and fewer bytes: when a large packet was told out of a cell
// that still holds it, and small ones of another CPU came to the record since. So a record for which there are cells is
// told together with them, and only so.
//
// A record that changed is found by its dirty bit, which is set after the change and cleared before we read; a cell by
// looking at all of them, unless their CPU has seen no packet.
type scanner struct {
	sizes   Sizes
	records *ebpf.Map
	windows *ebpf.Map
	dirty   []uint64 // blocks of column 0, of column 1, …
	memory  [][]byte
	lanes   []SensorLane

	told     [Columns][]*toldBlock       // by block: what the caller was told of; nil before the first
	news     []uint32                    // keys of what was told since it was noted last, some twice
	manyNews bool                        // more than mostNews: which, nobody knows
	live     [][Columns / 64]uint64      // by block: columns in which it ever counted anything
	cells    []cells                     // by CPU
	wanted   []uint32                    // slots of a column to read, during ScanSlots
	found    []candidate                 // cells that hold something, sorted by key
	each     func(uint32, Column, Count) // the caller's, during a scan
}

// toldBlock is by slot of a block. Of most columns few blocks count anything, also when sources and ports are invented.
type toldBlock [blockRecords]uint64

// cells are those of one CPU that held something when it was last looked at.
type cells struct {
	packets uint64 // the CPU had seen
	settled bool   // and the time before, too: no packet can have been on its way to a cell
	held    []candidate
}

type candidate struct {
	tag  uint64
	cell *SensorCell
}

func (f candidate) key() uint32 { return uint32(f.tag) }

func newScanner(s Sizes, records, windows, dirty, lanes *ebpf.Map) (_ *scanner, err error) {
	x := &scanner{sizes: s, records: records, windows: windows, live: make([][Columns / 64]uint64, s.blocks()), cells: make([]cells, s.CPUs)}
	share := func(m *ebpf.Map, size, flags int) []byte {
		if err != nil {
			return nil
		}
		var b []byte
		if b, err = unix.Mmap(m.FD(), 0, size, flags, unix.MAP_SHARED); err != nil {
			err = fmt.Errorf("map the counters into memory: %w", err)
			return nil
		}
		x.memory = append(x.memory, b)
		return b
	}
	words := s.columns() * s.blocks()
	if b := share(dirty, words*8, unix.PROT_READ|unix.PROT_WRITE); b != nil {
		x.dirty = unsafe.Slice((*uint64)(unsafe.Pointer(&b[0])), words)
	}
	if b := share(lanes, s.CPUs*laneSize, unix.PROT_READ); b != nil {
		x.lanes = unsafe.Slice((*SensorLane)(unsafe.Pointer(&b[0])), s.CPUs)
	}
	if err != nil {
		return nil, errors.Join(err, x.close())
	}
	return x, nil
}

func (x *scanner) close() error {
	var errs []error
	for _, b := range x.memory {
		errs = append(errs, unix.Munmap(b))
	}
	x.memory, x.dirty, x.lanes = nil, nil, nil
	return errors.Join(errs...)
}

func (x *scanner) lane(cpu int) *SensorLane { return &x.lanes[cpu] }

// Scan tells each what was counted since it, or [Kernel.ScanSlots], was told last, in any order and maybe in parts; the
// sums are never more than the truth, and all of it as soon as the programs rest. That of vector.Total is not told: it is the sum of
// all. It must be called at least once a second: up to 250 million packets and 64 GiB of one slot and column are told exactly.
func (k *Kernel) Scan(each func(slot uint32, c Column, n Count)) error {
	x := k.scanner
	x.each = each
	x.gather()
	blocks := x.sizes.blocks()
	for c := range Column(x.sizes.columns()) {
		words := x.dirty[int(c)*blocks:][:blocks]
		first := slices.IndexFunc(words, func(w uint64) bool { return w != 0 })
		if first < 0 {
			continue
		}
		last := first
		for i := first + 1; i < blocks; i++ {
			if words[i] != 0 {
				last = i
			}
		}
		err := x.open(c, first, last, func(totals []uint64) {
			for b := first; b <= last; b++ {
				if words[b] == 0 {
					continue
				}
				x.live[b][c/64] |= 1 << (c % 64)
				for w := atomic.SwapUint64(&words[b], 0); w != 0; w &= w - 1 {
					i := bits.TrailingZeros64(w)
					x.tellRecord(uint32(b*blockRecords+i), c, &totals[(b-first)*blockRecords+i])
				}
			}
		})
		if err != nil {
			return err
		}
	}
	return x.pending()
}

// ScanSlots is [Kernel.Scan] for a few slots, and for what it costs little to tell of others.
func (k *Kernel) ScanSlots(slots []uint32, each func(slot uint32, c Column, n Count)) error {
	x := k.scanner
	x.each = each
	x.gather()
	if len(slots) == 0 {
		return x.pending()
	}
	// A column is mapped into memory once, however many slots are hot.
	first, last := int(slices.Min(slots))/blockRecords, int(slices.Max(slots))/blockRecords
	for c := range Column(x.sizes.columns()) {
		x.wanted = x.wanted[:0]
		for _, slot := range slots {
			if x.counted(int(slot)/blockRecords, c) {
				x.wanted = append(x.wanted, slot)
			}
		}
		if len(x.wanted) == 0 {
			continue
		}
		err := x.open(c, first, last, func(totals []uint64) {
			for _, slot := range x.wanted {
				x.tellRecord(slot, c, &totals[int(slot)-first*blockRecords])
			}
		})
		if err != nil {
			return err
		}
	}
	return x.pending()
}

// skip takes all that was counted so far as told: on the maps of an earlier process, by that one.
func (k *Kernel) skip() error {
	x := k.scanner
	x.each = func(uint32, Column, Count) {}
	x.gather()
	for c := range Column(x.sizes.columns()) {
		err := x.open(c, 0, x.sizes.blocks()-1, func(totals []uint64) {
			for slot := range totals {
				if n := atomic.LoadUint64(&totals[slot]); n != 0 && c.Vector() != vector.Total {
					x.live[slot/blockRecords][c/64] |= 1 << (c % 64)
					*x.toldOf(c, uint32(slot)) = n // wherever the word stands: tell() would compare it with 0
				}
			}
		})
		if err != nil {
			return err
		}
	}
	return x.pending()
}

// Present returns what was counted for a slot in the given window so far, with vector.Total the sum of the direction.
// Bytes are right up to 255 in each column; of a column whose cell another one has, up to [lookPackets] or [lookBytes] from the
// window's beginning are missing.
func (k *Kernel) Present(slot, window uint32) (counts Row, err error) {
	x := k.scanner
	const tagShift, tagMask, baseShift, baseMask = 51, 1<<13 - 1, 8, 1<<50 - 1 // see types.h
	b, i := int(slot)/blockRecords, int(slot)%blockRecords
	for c := range Column(x.sizes.columns()) {
		if !x.counted(b, c) {
			continue
		}
		// A CPU that empties a cell of the window before adds to the record and then moves the window's base: who reads the one before
		// and the other after takes that count for the window's.
		var word, total uint64
		var inner error
		err := x.share(x.windows, c, b, b, func(words []uint64) {
			inner = x.open(c, b, b, func(totals []uint64) {
				for again := true; again; {
					word = atomic.LoadUint64(&words[i])
					total = atomic.LoadUint64(&totals[i])
					again = atomic.LoadUint64(&words[i]) != word
				}
			})
		})
		if err := errors.Join(err, inner); err != nil {
			return counts, err
		}
		if word>>tagShift != uint64(window)&tagMask {
			continue
		}
		if n := (total>>baseShift - word) & baseMask; n>>49 == 0 {
			counts[c] = Count(n << baseShift)
		}
	}
	for i := range x.lanes {
		for j := range x.lanes[i].Cells {
			cell := &x.lanes[i].Cells[j]
			tag := atomic.LoadUint64(&cell.Tag)
			if uint32(tag>>32) != window || uint32(tag)&(1<<slotBits-1) != slot {
				continue
			}
			if n := atomic.LoadUint64(&cell.Count); atomic.LoadUint64(&cell.Tag) == tag {
				counts[uint32(tag)>>slotBits] += Count(n)
			}
		}
	}
	for _, d := range []vector.Direction{vector.Inbound, vector.Outbound} {
		total := ColumnOf(d, vector.Total)
		counts[total] = 0
		for _, n := range counts[total+1 : total+vector.Count] {
			counts[total] += n
		}
	}
	return counts, nil
}

// mostMoved is more than cells can hold of one record while it is moved there, which is what they counted in a window.
const mostMoved = 1 << 24 << byteBits

// tellRecord tells what is new in a record, unless there are cells for it: pending tells them together.
func (x *scanner) tellRecord(slot uint32, c Column, total *uint64) {
	key := uint32(c)<<slotBits | slot
	if _, held := slices.BinarySearchFunc(x.found, key, func(f candidate, key uint32) int { return cmp.Compare(f.key(), key) }); !held {
		x.tell(slot, c, atomic.LoadUint64(total))
	}
}

// mostBytes is more than a packet has.
const mostBytes = 1 << 17

// tell says what of a sum is new. A sum a little below what was told is one of which a part is being moved; so is one with
// more packets and fewer bytes, of which the difference has a borrow in it. It is seen in a difference of fewer than 2^19 packets, and a
// part that is being moved holds fewer bytes than so many have.
func (x *scanner) tell(slot uint32, c Column, sum uint64) {
	told := x.toldOf(c, slot)
	if n := sum - *told; n != 0 && n < math.MaxUint64-mostMoved && Count(n).Bytes() <= Count(n).Packets()*mostBytes {
		*told = sum
		if len(x.news) < mostNews {
			x.news = append(x.news, uint32(c)<<slotBits|slot)
		} else {
			x.manyNews = true
		}
		x.each(slot, c, Count(n))
	}
}

// mostNews is so many that to note everything costs little more.
const mostNews = 1024

func (x *scanner) forgetNews() { x.news, x.manyNews = x.news[:0], false }

// toldOf is where it stands what the caller was told of a slot and column.
func (x *scanner) toldOf(c Column, slot uint32) *uint64 {
	if x.told[c] == nil {
		x.told[c] = make([]*toldBlock, x.sizes.blocks())
	}
	block := &x.told[c][slot/uint32(blockRecords)]
	if *block == nil {
		*block = new(toldBlock)
	}
	return &(*block)[slot%uint32(blockRecords)]
}

// counted tells whether a block ever counted anything in a column.
func (x *scanner) counted(b int, c Column) bool {
	if atomic.LoadUint64(&x.dirty[int(c)*x.sizes.blocks()+b]) != 0 {
		x.live[b][c/64] |= 1 << (c % 64)
	}
	return x.live[b][c/64]&(1<<(c%64)) != 0
}

// gather finds the cells that hold something.
func (x *scanner) gather() {
	x.found = x.found[:0]
	for i := range x.lanes {
		x.found = append(x.found, x.held(i)...)
	}
	slices.SortFunc(x.found, func(a, b candidate) int { return cmp.Compare(a.key(), b.key()) })
}

// pending tells what is in the cells that gather found, together with their records.
func (x *scanner) pending() error {
	block := func(f candidate) int { return int(f.key()&(1<<slotBits-1)) / blockRecords }
	for rest := x.found; len(rest) > 0; {
		c, n := Column(rest[0].key()>>slotBits), 1
		for n < len(rest) && Column(rest[n].key()>>slotBits) == c {
			n++
		}
		first, last := block(rest[0]), block(rest[n-1])
		err := x.open(c, first, last, func(totals []uint64) { x.add(c, first*blockRecords, totals, rest[:n]) })
		if err != nil {
			return err
		}
		rest = rest[n:]
	}
	return nil
}

// add tells the sums of one column's records, from slot at on, and the cells found for them.
func (x *scanner) add(c Column, at int, totals []uint64, found []candidate) {
	for len(found) > 0 {
		key := found[0].key()
		slot := key & (1<<slotBits - 1)
		sum := atomic.LoadUint64(&totals[int(slot)-at]) // before the cells
		for len(found) > 0 && found[0].key() == key {
			f := found[0]
			n := atomic.LoadUint64(&f.cell.Count)
			if atomic.LoadUint64(&f.cell.Tag) == f.tag { // a tag never comes back, so the count is its own
				sum += n
			}
			found = found[1:]
		}
		x.tell(slot, c, sum)
	}
}

// held finds the cells of a CPU that hold something.
func (x *scanner) held(cpu int) []candidate {
	lane, h := &x.lanes[cpu], &x.cells[cpu]
	packets := atomic.LoadUint64(&lane.Stat.Packets[0]) + atomic.LoadUint64(&lane.Stat.Packets[1])
	if packets == h.packets && h.settled {
		return h.held
	}
	h.settled = packets == h.packets
	h.packets = packets
	h.held = h.held[:0]
	for i := range lane.Cells {
		cell := &lane.Cells[i]
		tag := atomic.LoadUint64(&cell.Tag)
		// What left has cells also where it has no columns: of such a cell nothing is ever added to a record.
		if column := int(uint32(tag) >> slotBits); atomic.LoadUint64(&cell.Count) != 0 && column != 0 && column < x.sizes.columns() {
			h.held = append(h.held, candidate{tag, cell})
		}
	}
	return h.held
}

// open looks at the totals of some blocks of a column.
func (x *scanner) open(c Column, first, last int, look func(totals []uint64)) error {
	return x.share(x.records, c, first, last, look)
}

// share maps some blocks of a column into memory for the moment: all the time they would count as memory of this
// process, a second time.
func (x *scanner) share(m *ebpf.Map, c Column, first, last int, look func(words []uint64)) error {
	page := os.Getpagesize()
	at, size := (int(c)*x.sizes.blocks()+first)*blockBytes, (last-first+1)*blockBytes
	lead := at % page
	memory, err := unix.Mmap(m.FD(), int64(at-lead), lead+size, unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		return fmt.Errorf("map the counters of column %d into memory: %w", c, err)
	}
	look(unsafe.Slice((*uint64)(unsafe.Pointer(&memory[lead])), size/8))
	if err := unix.Munmap(memory); err != nil {
		return fmt.Errorf("unmap the counters of column %d: %w", c, err)
	}
	return nil
}
