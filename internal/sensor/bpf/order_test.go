//go:build linux

package bpf

import (
	"testing"

	"github.com/cilium/ebpf/asm"
)

// TestOrderTheReaderReliesOn: a cell is zeroed before its count is added, the dirty bit is looked at after it was, and a cell that
// changes hands does so last. Under traffic a wrong order shows once in many millions of packets; in what was compiled, always.
func TestOrderTheReaderReliesOn(t *testing.T) {
	spec, err := LoadSensor()
	if err != nil {
		t.Fatal(err)
	}
	var (
		load, store = asm.LoadMemOp(asm.DWord), asm.StoreMemOp(asm.DWord)
		add, or     = asm.FetchAdd.OpCode(asm.DWord), asm.OrAtomic.OpCode(asm.DWord)
	)
	const tag, count = 0, 8 // offsets in a cell
	for name, p := range spec.Programs {
		renewed := 0
		for i, ins := range p.Instructions {
			if ins.OpCode == add { // only records are added to so
				looked, set := false, false
				for _, after := range p.Instructions[i+1 : min(i+12, len(p.Instructions))] {
					looked = looked || after.OpCode == load && after.Src != asm.R10
					set = set || looked && after.OpCode == or
				}
				if !set {
					t.Errorf("%s: no dirty bit is looked at after instruction %d, which adds", name, i)
				}
			}
			if ins.Symbol() != "renew" {
				continue
			}
			renewed++
			var stores []int16 // until the count is added
			for _, ins := range p.Instructions[i:] {
				if ins.OpCode == add {
					break
				}
				if ins.OpCode == store && ins.Dst != asm.R10 {
					stores = append(stores, ins.Offset)
				}
			}
			if len(stores) != 1 || stores[0] != count {
				t.Errorf("%s: before a count is added, there are stores at %d of its cell, want one at %d, and none at %d", name, stores, count, tag)
			}
		}
		if renewed != 1 {
			t.Errorf("%s: %d functions renew cells, want 1", name, renewed)
		}
	}
}

// TestEpochIsReadFirst: the epoch that is remembered with a network is read once, before the table, whose read depends on it.
func TestEpochIsReadFirst(t *testing.T) {
	spec, err := LoadSensor()
	if err != nil {
		t.Fatal(err)
	}
	epoch := int64(spec.Variables["epoch6"].Offset)
	for name, p := range spec.Programs {
		function, reads, depends, looks := "", 0, 0, 0
		for _, ins := range p.Instructions {
			if s := ins.Symbol(); s != "" {
				function = s
			}
			if function != "other6" {
				continue
			}
			switch {
			case ins.Reference() == variables && ins.Constant>>32 == epoch:
				reads++
			case reads == 0:
			case ins.OpCode == asm.Xor.Op(asm.RegSource) && ins.Dst == ins.Src:
				depends++
			case ins.Reference() == "targets6" && depends == 0:
				looks++
			}
		}
		if reads != 1 || depends != 1 || looks != 0 {
			t.Errorf("%s: the epoch is read %d times, and %d reads depend on it; the table is looked at %d times between", name, reads, depends, looks)
		}
	}
}
