package sensor

import (
	"os"
	"slices"
	"testing"
)

func TestProgramMappings(t *testing.T) {
	const smaps = `00400000-00c00000 r-xp 00000000 fe:00 42    /usr/local/bin/sensor
Size:               8192 kB
Rss:                6560 kB
Anonymous:             0 kB
VmFlags: rd ex mr mw me
00c00000-01400000 r--p 00800000 fe:00 42    /usr/local/bin/sensor
Anonymous:             4 kB
01400000-01500000 r--p 01000000 fe:00 42    /usr/local/bin/sensor
Anonymous:             0 kB
01500000-01600000 rw-p 01100000 fe:00 42    /usr/local/bin/sensor
Anonymous:             0 kB
01600000-01700000 r--p 00000000 fe:00 43    /usr/local/bin/sensor (deleted)
Anonymous:             0 kB
c000000000-c000400000 r--p 00000000 00:00 0
Anonymous:             0 kB
banana
`
	got := programMappings(smaps, "/usr/local/bin/sensor")
	if want := []mapping{{0x400000, 0x800000}, {0x1400000, 0x100000}}; !slices.Equal(got, want) {
		t.Errorf("mappings %x, want %x", got, want)
	}
	if got := programMappings(smaps, "/usr/local/bin/sensor (deleted)"); !slices.Equal(got, []mapping{{0x1600000, 0x100000}}) {
		t.Errorf("mappings of the deleted file %x", got)
	}
	if got := programMappings("", ""); got != nil {
		t.Errorf("mappings of nothing %x", got)
	}
}

// TestUnmapProgram: what is taken out comes back, code and constants alike.
func TestUnmapProgram(t *testing.T) {
	self, err := os.Readlink("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile("/proc/self/smaps")
	if err != nil {
		t.Fatal(err)
	}
	if len(programMappings(string(text), self)) == 0 {
		t.Error("nothing of this program is found in smaps")
	}
	for range 3 {
		unmapProgram()
		if got := residentBytes(); got == 0 || got%uint64(os.Getpagesize()) != 0 {
			t.Errorf("%d bytes are resident", got)
		}
	}
}
