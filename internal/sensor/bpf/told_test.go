//go:build linux

package bpf

import (
	"encoding/binary"
	"errors"
	"maps"
	"math/rand/v2"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"

	"github.com/amooglesoft/trafficmonitor/internal/vector"
)

var watchedPrefix = netip.MustParsePrefix("192.0.2.0/24")

// A process on the maps of another tells what that one had not, and nothing of other maps.
func TestResume(t *testing.T) {
	root := bpffs(t)
	dir := filepath.Join(root, "a")
	k, p := pinned(t, dir, smallSizes)
	if err := k.SetTargets(Table{watchedPrefix: 64}); err != nil {
		t.Fatal(err)
	}
	packets := func(k *Kernel) (n uint64) {
		t.Helper()
		err := k.Scan(func(_ uint32, c Column, count Count) {
			if c.Vector() == vector.Total {
				t.Error("a total is told")
			}
			n += count.Packets()
		})
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	target := append([]byte(nil), stray...)
	copy(target[30:], []byte{192, 0, 2, 1})
	for range 5 {
		run(t, k.Ingress(), target, nil)
	}
	if n := packets(k); n != 5 {
		t.Fatalf("%d packets told, want 5", n)
	}
	told := k.AppendTold(nil)
	if err := errors.Join(k.SetHot(64, [2]uint64{2, 4}), k.SetSketch(64, vector.Outbound, 3)); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		run(t, k.Ingress(), target, nil)
	}
	if n := packets(k); n != 3 {
		t.Fatalf("%d packets told, want 3", n)
	}
	end(t, k, p)

	for name, c := range map[string]struct {
		told []byte
		ok   bool
		want uint64
	}{
		"all":       {told, true, 3},
		"cut off":   {told[:len(told)-1], false, 0},
		"nothing":   {nil, false, 0},
		"others'":   {append([]byte{^told[0]}, told[1:]...), false, 0},
		"no counts": {told[:toldHeader], true, 8},
	} {
		t.Run(name, func(t *testing.T) {
			k, p := pinned(t, dir, smallSizes)
			var info SensorSlotInfo
			if err := k.objects.SlotInfos.Lookup(uint32(64), &info); err != nil || info.Hot != [2]uint64{} || info.Sketch != [2]uint16{} {
				t.Errorf("still asked for by a process that has ended: %+v %v", info, err)
			}
			if err := k.Resume(c.told); (err == nil) != c.ok {
				t.Errorf("resume: %v", err)
			}
			if n := packets(k); n != c.want {
				t.Errorf("%d packets told, want %d", n, c.want)
			}
			if n := packets(k); n != 0 {
				t.Errorf("%d packets told twice", n)
			}
			end(t, k, p)
		})
	}
	t.Run("what was on its way from a cell to its record when we looked", func(t *testing.T) {
		k, p := pinned(t, dir, smallSizes)
		defer end(t, k, p)
		const unseen = Column(vector.TFTP)
		entry := binary.LittleEndian.AppendUint32(told[:toldHeader:toldHeader], uint32(unseen)<<slotBits|64)
		if err := k.Resume(binary.LittleEndian.AppendUint64(entry, uint64(CountOf(5, 500)))); err != nil {
			t.Fatal(err)
		}
		k.scanner.each = func(_ uint32, _ Column, n Count) { t.Errorf("%d packets told twice", n.Packets()) }
		k.scanner.tell(64, unseen, uint64(CountOf(5, 500)))
	})
	other, _ := pinned(t, filepath.Join(root, "b"), smallSizes)
	if err := other.Resume(told); err == nil {
		t.Error("what was told of other maps is believed")
	}
}

// What was told and then the news is what is told now.
func TestNews(t *testing.T) {
	k := load(t)
	k.scanner.each = func(uint32, Column, Count) {}
	r := rand.New(rand.NewPCG(5, 6))
	folded := func(b []byte) map[uint32]uint64 {
		said := map[uint32]uint64{}
		for b = b[toldHeader:]; len(b) > 0; b = b[12:] {
			said[binary.LittleEndian.Uint32(b)] = binary.LittleEndian.Uint64(b[4:])
		}
		return said
	}
	sums := map[uint32]uint64{}
	b, full := k.AppendTold(nil), 0
	for round := range 200 {
		for range r.IntN(mostNews/100) * (1 + round%20*6) {
			slot, c := uint32(r.IntN(k.Sizes.Slots())), Column(r.IntN(8))
			key := uint32(c)<<slotBits | slot
			sums[key] += uint64(CountOf(uint64(1+r.IntN(3)), 300))
			k.scanner.tell(slot, c, sums[key])
		}
		var ok bool
		if b, ok = k.AppendNews(b); !ok {
			b = k.AppendTold(nil)
			full++
		}
		if got := folded(b); !maps.Equal(got, sums) {
			t.Fatalf("round %d: %d records noted, want %d", round, len(got), len(sums))
		}
	}
	if full == 0 || full == 200 {
		t.Errorf("all was noted anew in %d of 200 rounds", full)
	}
}

// A record's word counts round and round. Where it stands when a process finds it, and how far it went while none ran, must
// not make the process deaf to what comes.
func TestLongCountsGoOn(t *testing.T) {
	root := bpffs(t)
	target := append([]byte(nil), stray...)
	copy(target[30:], []byte{192, 0, 2, 1})
	for name, c := range map[string]struct {
		before, meanwhile uint64 // packets
		resume            bool
		want              uint64
	}{
		"found far on":         {before: 1<<27 + 7, want: 5},
		"found before its end": {before: 1<<28 - 7, want: 5},
		"a long gap":           {meanwhile: 1<<27 + 7, resume: true, want: 1<<27 + 7 + 5},
	} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(root, strings.ReplaceAll(name, " ", ""))
			k, p := pinned(t, dir, smallSizes)
			if err := k.SetTargets(Table{watchedPrefix: 64}); err != nil {
				t.Fatal(err)
			}
			run(t, k.Ingress(), target, nil)
			var slot uint32
			var column Column
			err := k.Scan(func(s uint32, c Column, _ Count) { slot, column = s, c })
			if err != nil {
				t.Fatal(err)
			}
			told := k.AppendTold(nil)
			// As if so many had come: all of them in the record.
			key, block := uint32(int(column)*k.Sizes.blocks()+int(slot)/blockRecords), SensorRecordBlock{}
			if err := k.objects.Records.Lookup(key, &block); err != nil {
				t.Fatal(err)
			}
			block.Totals[int(slot)%blockRecords] += uint64(CountOf(c.before+c.meanwhile, 0))
			if err := k.objects.Records.Put(key, &block); err != nil {
				t.Fatal(err)
			}
			end(t, k, p)

			k, p = pinned(t, dir, smallSizes)
			defer end(t, k, p)
			if c.resume {
				if err := k.Resume(told); err != nil {
					t.Fatal(err)
				}
			}
			for range 5 {
				run(t, k.Ingress(), target, nil)
			}
			n := uint64(0)
			if err := k.Scan(func(_ uint32, _ Column, count Count) { n += count.Packets() }); err != nil {
				t.Fatal(err)
			}
			if n != c.want {
				t.Errorf("%d packets told, want %d", n, c.want)
			}
		})
	}
}
