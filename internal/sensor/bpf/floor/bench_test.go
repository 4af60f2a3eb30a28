//go:build linux

package floor

import (
	"encoding/binary"
	"strings"
	"testing"

	"github.com/amooglesoft/trafficmonitor/internal/lab"
)

// TestFloorCounts: a comparison means something only if the floor counts every packet, each where it belongs.
func TestFloorCounts(t *testing.T) {
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
					protected := !strings.Contains(k.Name, "unprotected") && !strings.Contains(k.Name, "foreign") && k.Name != "arp"
					if protected != (i < counters) {
						t.Errorf("counter %d was used", i)
					}
				}
				want := 1
				if k.at != 0 {
					want = Rotating
				}
				if sum != Round || changed != want {
					t.Errorf("%d packets at %d targets, want %d at %d", sum, changed, Round, want)
				}
			})
		}
	}
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
