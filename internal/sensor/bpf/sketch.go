//go:build linux

package bpf

import (
	"encoding/binary"
	"fmt"
	"unsafe"

	"github.com/amooglesoft/trafficmonitor/internal/vector"
)

// Sketches is how many sketches of addresses there are.
const Sketches = 64

// Sketch holds the registers of a HyperLogLog: see internal/sketch.
type Sketch [256]uint8

// SetSketch lets a sketch, 0 to [Sketches]-1, see the addresses that packets of a slot come from, or go to; -1 lets none.
// The slot must be marked as watched. A sketch may see both directions, and several slots.
func (k *Kernel) SetSketch(slot uint32, d vector.Direction, sketch int) error {
	if sketch < -1 || sketch >= Sketches {
		return fmt.Errorf("sketch %d is not one of %d", sketch, Sketches)
	}
	at := int64(slot)*int64(infoSize) + int64(unsafe.Offsetof(SensorSlotInfo{}.Sketch)) + 2*int64(d)
	if _, err := k.infos.WriteAt(binary.LittleEndian.AppendUint16(nil, uint16(sketch+1)), at); err != nil {
		return fmt.Errorf("give slot %d a sketch: %w", slot, err)
	}
	return nil
}

// ReadSketch returns what a sketch has seen since it was cleared.
func (k *Kernel) ReadSketch(sketch int) (s Sketch, err error) {
	if err := k.objects.Sketches.Lookup(uint32(sketch), &s); err != nil {
		return s, fmt.Errorf("read sketch %d: %w", sketch, err)
	}
	return s, nil
}

// ClearSketch makes a sketch empty. What packets of this moment add may be lost.
func (k *Kernel) ClearSketch(sketch int) error {
	if err := k.objects.Sketches.Put(uint32(sketch), Sketch{}); err != nil {
		return fmt.Errorf("clear sketch %d: %w", sketch, err)
	}
	return nil
}
