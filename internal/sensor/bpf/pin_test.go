//go:build linux

package bpf

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/amooglesoft/trafficmonitor/internal/lab"
)

// bpffs mounts a bpf file system of the test's own.
func bpffs(t *testing.T) string {
	t.Helper()
	lab.NeedRoot(t)
	dir := t.TempDir()
	if err := unix.Mount("bpf", dir, "bpf", 0, ""); err != nil {
		t.Fatalf("mount a bpf file system: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir
}

func pinned(t *testing.T, dir string, s Sizes) (*Kernel, *Pins) {
	t.Helper()
	p, err := OpenPins(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	k, err := LoadPinned(s, p)
	if err != nil {
		t.Fatalf("%+v", err)
	}
	t.Cleanup(func() { k.Close() })
	return k, p
}

func end(t *testing.T, k *Kernel, p *Pins) {
	t.Helper()
	if err := errors.Join(k.Close(), p.Close()); err != nil {
		t.Fatal(err)
	}
}

var smallSizes = Sizes{CPUs: 2, Hosts: 64, Prefixes: 16, Networks4: 32, Blocks4: 4, Triggers: 4096, Samples: 1 << 16}

// strays is what the statistics say of packets to nobody: it hangs on no table.
func strays(t *testing.T, k *Kernel) uint64 {
	t.Helper()
	st, err := k.Stats()
	if err != nil {
		t.Fatal(err)
	}
	return st.UnprotectedPackets[0]
}

var stray = append(append(make([]byte, 12), 8, 0, 0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0, 0, 198, 51, 100, 1, 198, 51, 100, 2), make([]byte, 30)...)

func TestPinnedMapsGoOn(t *testing.T) {
	dir := filepath.Join(bpffs(t), "trafficmonitor", "rack1")
	k, p := pinned(t, dir, smallSizes)
	if k.Reused || k.Replaced != "" {
		t.Errorf("the first process reused %v, replaced %q", k.Reused, k.Replaced)
	}
	if st, err := os.Stat(dir); err != nil || st.Mode().Perm() != 0o700 {
		t.Errorf("pin directory: %v %v", st.Mode(), err)
	}
	for range 5 {
		run(t, k.Ingress(), stray, nil)
	}
	began, old := k.Began, k.Ingress()
	other, err := old.Clone()
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	end(t, k, p)
	run(t, other, stray, nil) // an attached program while no process lives

	loose := smallSizes
	loose.CutMirrors = true
	for i := range uint64(3) {
		k, p = pinned(t, dir, loose)
		if !k.Reused || !k.Began.Equal(began) {
			t.Errorf("process %d: reused %v (%s), counters since %v, want %v", i, k.Reused, k.Replaced, k.Began, began)
		}
		run(t, other, stray, nil)
		run(t, k.Ingress(), stray, nil)
		if n := strays(t, k); n != 8+2*i {
			t.Errorf("process %d: %d packets, want %d", i, n, 8+2*i)
		}
		end(t, k, p)
	}
	if p, err = FindPins(dir); err != nil || !p.HasMaps() {
		t.Fatalf("find the pins: %v", err)
	}
	if err := p.Remove(); err != nil {
		t.Fatal(err)
	}
	p.Close()
	if _, err := FindPins(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("after removal: %v", err)
	}
}

// Whatever an earlier process left, also one that died at any moment, the next one starts.
func TestPinsHeal(t *testing.T) {
	root := bpffs(t)
	for name, c := range map[string]struct {
		spoil  func(dir string) error
		sizes  func(*Sizes)
		reused bool
		why    string
	}{
		"half made": {
			spoil: func(dir string) error {
				return errors.Join(os.Mkdir(dir+"/maps_new", 0o700), os.Rename(dir+"/maps/lanes", dir+"/maps_new/lanes"), os.Rename(dir+"/maps_new/lanes", dir+"/maps/lanes"))
			},
			reused: true,
		},
		"between the renames": {spoil: func(dir string) error { return os.Rename(dir+"/maps", dir+"/maps_new") }},
		"while removing":      {spoil: func(dir string) error { return os.Remove(dir + "/maps/triggers") }, why: "map triggers"},
		"no identity":         {spoil: func(dir string) error { return os.Remove(dir + "/maps/identity") }, why: "what they are cannot be read"},
		"other sizes":         {sizes: func(s *Sizes) { s.Hosts = 128 }, why: "changed to"},
		"other CPUs":          {sizes: func(s *Sizes) { s.CPUs = 3 }, why: "changed to"},
		"a map of another kind": {
			spoil: func(dir string) error {
				return errors.Join(os.Remove(dir+"/maps/lanes"), os.Rename(dir+"/maps/triggers", dir+"/maps/lanes"))
			},
			why: "map ",
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(root, strings.ReplaceAll(name, " ", "_"))
			k, p := pinned(t, dir, smallSizes)
			run(t, k.Ingress(), stray, nil)
			end(t, k, p)
			sizes := smallSizes
			if c.sizes != nil {
				c.sizes(&sizes)
			}
			if c.spoil != nil {
				if err := c.spoil(dir); err != nil {
					t.Fatal(err)
				}
			}
			k, p = pinned(t, dir, sizes)
			if k.Reused != c.reused || !strings.Contains(k.Replaced, c.why) || (k.Replaced == "") != (c.why == "") {
				t.Errorf("reused %v, replaced because %q; want %v, %q", k.Reused, k.Replaced, c.reused, c.why)
			}
			if n := strays(t, k); (n == 1) != c.reused {
				t.Errorf("%d packets counted before", n)
			}
			end(t, k, p)
			k, _ = pinned(t, dir, sizes)
			if !k.Reused {
				t.Errorf("the process after that starts anew: %s", k.Replaced)
			}
			if entries, _ := os.ReadDir(dir); len(entries) != 3 {
				t.Errorf("left in the directory: %v", entries)
			}
		})
	}
}

func TestPinsBelongToOne(t *testing.T) {
	root := bpffs(t)
	dir := filepath.Join(root, "a", "b")
	p, err := OpenPins(dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := OpenPins(dir); !errors.Is(err, ErrPinsInUse) {
		t.Errorf("a second sensor: %v", err)
	}
	if _, err := FindPins(dir); !errors.Is(err, ErrPinsInUse) {
		t.Errorf("detach of a running sensor: %v", err)
	}
	p.Close()
	if p, err = OpenPins(dir); err != nil {
		t.Fatalf("after the first: %v", err)
	}
	p.Close()
	if _, err := OpenPins(filepath.Join(t.TempDir(), "x", "y")); !errors.Is(err, ErrNoBPFFS) {
		t.Errorf("no bpffs: %v", err)
	}
}

// The layout must not hang on the order of maps, and must hang on each of these.
func TestLayout(t *testing.T) {
	text := func(change func(s *sensorSpec)) string {
		spec, err := LoadSensor()
		if err != nil {
			t.Fatal(err)
		}
		change(spec)
		var b strings.Builder
		writeLayout(&b, spec)
		return b.String()
	}
	same := text(func(*sensorSpec) {})
	for range 3 {
		if again := text(func(*sensorSpec) {}); again != same {
			t.Fatalf("not the same twice:\n%s\n%s", same, again)
		}
	}
	if loose := text(func(s *sensorSpec) { _ = s.Variables["truncated_mirror"].Set(uint32(1)) }); loose != same {
		t.Error("a constant nothing in the maps depends on changes the layout")
	}
	for name, change := range map[string]func(s *sensorSpec){
		"window":   func(s *sensorSpec) { _ = s.Variables["window_shift"].Set(uint32(9)) },
		"slots":    func(s *sensorSpec) { _ = s.Variables["slots"].Set(uint32(9)) },
		"entries":  func(s *sensorSpec) { s.Maps["slot_infos"].MaxEntries++ },
		"flags":    func(s *sensorSpec) { s.Maps["slot_infos"].Flags ^= 1 },
		"variable": func(s *sensorSpec) { s.Variables["levels"].Offset += 8 },
		"a map":    func(s *sensorSpec) { delete(s.Maps, "slot_infos") },
	} {
		if text(change) == same {
			t.Errorf("%s: the layout does not tell", name)
		}
	}
	for _, want := range []string{"struct slot_info ", "address"} {
		if !strings.Contains(same, want) {
			t.Errorf("the layout says nothing of %q", want)
		}
	}
	if !slices.Contains(strings.Split(same, "\n"), "revision 1") {
		t.Error("the layout has no revision")
	}
}

type sensorSpec = ebpf.CollectionSpec
