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

func TestStatm(t *testing.T) {
	page := uint64(os.Getpagesize())
	for text, want := range map[string][2]uint64{
		"300000 4000 1500 200 0 9000 0\n": {4000 * page, 1500 * page},
		"300000 4000":                     {},
		"300000 4000 many":                {},
		"":                                {},
	} {
		if all, files := parseStatm([]byte(text)); [2]uint64{all, files} != want {
			t.Errorf("%q: %d and %d bytes, want %d", text, all, files, want)
		}
	}
}

// TestSlimness: the program is taken out when there is much of it, and then there is little.
func TestSlimness(t *testing.T) {
	s := slimness{others: 5 << 20}
	if s.due(1 << 30) {
		t.Error("what is not known to be the program is to be taken out")
	}
	s.program = []mapping{{0x400000, 0x1000}}
	for files, want := range map[uint64]bool{0: false, 5 << 20: false, 12 << 20: false, 12<<20 + 1: true} {
		if got := s.due(files); got != want {
			t.Errorf("%d bytes of files, %d of others: due %v, want %v", files, s.others, got, want)
		}
	}

	var real slimness
	real.start()
	if len(real.program) == 0 || real.others == 0 {
		t.Fatalf("of this program %d mappings were found, of others %d bytes", len(real.program), real.others)
	}
	if _, files := resident(); real.due(files) {
		t.Errorf("%d bytes of files right after the program was taken out, %d of others", files, real.others)
	}
}

// TestUnmap: what is taken out comes back, code and constants alike.
func TestUnmap(t *testing.T) {
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
		unmap(ownProgram())
		if got := residentBytes(); got == 0 || got%uint64(os.Getpagesize()) != 0 {
			t.Errorf("%d bytes are resident", got)
		}
	}
}
