//go:build linux

package bpf

import "testing"

// BenchmarkScanSlots reads 64 hot slots of one block in which every inbound vector counted something, as invented source
// ports make it.
func BenchmarkScanSlots(b *testing.B) {
	k := load(b, func(s *Sizes) { s.Hosts = 4096 })
	slots := make([]uint32, 64)
	for i := range slots {
		slots[i] = uint32(i)
	}
	for c := range Column(k.Sizes.columns()) {
		k.scanner.live[0][c/64] |= 1 << (c % 64)
	}
	for b.Loop() {
		if err := k.ScanSlots(slots, func(uint32, Column, Count) {}); err != nil {
			b.Fatal(err)
		}
	}
}
