//go:build linux

package floor

import (
	"encoding/binary"
	"strings"
	"testing"

	"github.com/amooglesoft/trafficmonitor/internal/lab"
	"github.com/amooglesoft/trafficmonitor/internal/sensor/bpf"
)

// TestBothCount: a comparison means something only if the floor and the sensor count every packet, each where it belongs.
func TestBothCount(t *testing.T) {
	lab.NeedRoot(t)
	b, err := Open()
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	for _, k := range Kinds() {
		for _, d := range k.Doors {
			t.Run(string(d)+"/"+k.Name, func(t *testing.T) {
				c, err := b.Prepare(k, d)
				if err != nil {
					t.Fatal(err)
				}
				defer c.Close()
				before := counted(t, b.floor)
				if _, err := cost(c.programs[0], c.frame); err != nil {
					t.Fatal(err)
				}
				changed, sum := 0, uint64(0)
				for i, n := range counted(t, b.floor) {
					if n == before[i] {
						continue
					}
					changed++
					sum += n - before[i]
					if protected(k) != (i < counters) {
						t.Errorf("counter %d was used", i)
					}
				}
				want := 1
				if k.at != 0 && k.scene != hot {
					want = Rotating
				}
				if sum != Round || changed != want {
					t.Errorf("the floor counted %d packets at %d targets, want %d at %d", sum, changed, Round, want)
				}

				skip := func(uint32, bpf.Column, bpf.Count) {}
				if err := b.kernel.Scan(skip); err != nil {
					t.Fatal(err)
				}
				if _, err := cost(c.programs[2], c.frame); err != nil {
					t.Fatal(err)
				}
				slots, packets := map[uint32]bool{}, uint64(0)
				err = b.kernel.Scan(func(slot uint32, _ bpf.Column, n bpf.Count) { slots[slot] = true; packets += n.Packets() })
				if err != nil {
					t.Fatal(err)
				}
				switch {
				case k.scene == scarce:
					if packets != Round || len(slots) > 4096+3 {
						t.Errorf("the sensor counted %d packets at %d slots, want %d at no more than it has", packets, len(slots), Round)
					}
				case packets == 0 && !protected(k):
				case packets != Round || len(slots) != want:
					t.Errorf("the sensor counted %d packets at %d slots, want %d at %d", packets, len(slots), Round, want)
				}
			})
		}
	}
}

// protected tells whether the packets are to or from a target of ours.
func protected(k Kind) bool {
	return !strings.Contains(k.Name, "unprotected") && !strings.Contains(k.Name, "foreign") && k.Name != "arp"
}

// counted returns the packets of each counter of the floor.
func counted(t *testing.T, f *floorObjects) map[int]uint64 {
	t.Helper()
	sums := map[int]uint64{}
	for cpu := range f.Counters.MaxEntries() {
		row, err := f.Counters.LookupBytes(cpu)
		if err != nil {
			t.Fatal(err)
		}
		for i := 0; i < len(row); i += 8 {
			if n := binary.LittleEndian.Uint64(row[i:]); n != 0 {
				sums[i/8] += n >> 36
			}
		}
	}
	return sums
}
