//go:build linux

package bpf

import (
	"encoding/binary"
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/amooglesoft/trafficmonitor/internal/vector"
)

const toldHeader = 32 + 8

// AppendTold appends to b what [Kernel.Scan] has told so far, for [Kernel.Resume] of a later process on the same maps.
func (k *Kernel) AppendTold(b []byte) []byte {
	b = append(b, k.identity.Layout[:]...)
	b = binary.LittleEndian.AppendUint64(b, uint64(k.identity.Began))
	for c, blocks := range k.scanner.told {
		for i, block := range blocks {
			if block == nil {
				continue
			}
			for j, n := range block {
				if n != 0 {
					b = appendTold(b, uint32(c)<<slotBits|uint32(i*blockRecords+j), n)
				}
			}
		}
	}
	k.scanner.forgetNews()
	return b
}

// AppendNews appends what was told since AppendTold or AppendNews, so that AppendTold's followed by it is AppendTold's of now.
// It returns false, and all is lost that AppendNews could say, when that is much.
func (k *Kernel) AppendNews(b []byte) ([]byte, bool) {
	x := k.scanner
	if x.manyNews {
		return b, false
	}
	for _, key := range x.news {
		b = appendTold(b, key, *x.toldOf(Column(key>>slotBits), key&(1<<slotBits-1)))
	}
	x.forgetNews()
	return b, true
}

func appendTold(b []byte, key uint32, n uint64) []byte {
	return binary.LittleEndian.AppendUint64(binary.LittleEndian.AppendUint32(b, key), n)
}

// Resume makes Scan go on where an earlier process stood when it wrote told: what was counted since is told next. Without
// it, what was counted before the maps were found is never told. Told of other maps is refused, and so is what is cut off.
func (k *Kernel) Resume(told []byte) error {
	const entry = 4 + 8
	if len(told) < toldHeader || (len(told)-toldHeader)%entry != 0 {
		return fmt.Errorf("what was told is %d octets long, which is no whole number of entries", len(told))
	}
	if [32]byte(told) != k.identity.Layout || int64(binary.LittleEndian.Uint64(told[32:])) != k.identity.Began {
		return errors.New("it was told of other counters")
	}
	x := k.scanner
	before := map[uint32]uint64{}
	for b := told[toldHeader:]; len(b) > 0; b = b[entry:] {
		before[binary.LittleEndian.Uint32(b)] = binary.LittleEndian.Uint64(b[4:])
	}
	for key := range before { // also what is nowhere to be found at this moment, see below
		if c, slot := Column(key>>slotBits), key&(1<<slotBits-1); int(c) < x.sizes.columns() && int(slot) < x.sizes.Slots() {
			x.toldOf(c, slot)
		}
	}
	for c, blocks := range x.told {
		for i, now := range blocks {
			if now == nil {
				continue
			}
			for j := range now {
				then := before[uint32(c)<<slotBits|uint32(i*blockRecords+j)]
				if then == now[j] {
					continue
				}
				// Also when it is more than was found: that is being moved from a cell to its record at this moment.
				now[j] = then
				atomic.OrUint64(&x.dirty[c*x.sizes.blocks()+i], 1<<j)
			}
		}
	}
	return nil
}

// calm takes back what an earlier process asked for of slots: that they raise no trigger, because it reported them, and
// sketches. Nobody would ever take it back for a target that has become silent.
func (k *Kernel) calm() error {
	for slot := range uint32(k.Sizes.Slots()) {
		if err := k.SetHot(slot, [vector.Directions]uint64{}); err != nil {
			return err
		}
		for d := range vector.Direction(vector.Directions) {
			if err := k.SetSketch(slot, d, -1); err != nil {
				return err
			}
		}
	}
	return nil
}
