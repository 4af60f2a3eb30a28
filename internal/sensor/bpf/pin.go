//go:build linux

package bpf

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// What [OpenPins] ends with besides errors of the system.
var (
	// ErrNoBPFFS says that a directory does not lie in a bpf file system, which alone can hold maps and links.
	ErrNoBPFFS = errors.New("no bpf file system is mounted there (mount -t bpf bpf /sys/fs/bpf; systemd does it at boot)")
	// ErrPinsInUse says that another process uses the directory.
	ErrPinsInUse = errors.New("another sensor uses it: one at a time, or give each a pin directory of its own")
)

// Pins is a directory in a bpf file system that keeps maps and links alive while no process does:
//
//	maps/NAME     the maps programs count in, complete or not there at all
//	maps/identity which layout they have and since when they count
//	maps_new/     maps on their way there; whoever finds them removes them
//	links/NAME    one link each
//	marks/NAME    an empty directory each: a note of something done to the system
//
// It belongs to one process at a time.
type Pins struct {
	dir  string
	lock *os.File
}

// OpenPins makes the directory if it is missing and takes it for this process, until Close or its death.
func OpenPins(dir string) (*Pins, error) {
	if err := inBPFFS(dir); err != nil {
		return nil, err
	}
	for range 10 {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, fmt.Errorf("make the pin directory: %w", err)
		}
		p, err := lockPins(dir)
		if errors.Is(err, fs.ErrNotExist) {
			continue // removed by a detach at this moment
		}
		if err != nil {
			return nil, err
		}
		for _, sub := range []string{"links", "marks"} {
			if err := os.MkdirAll(filepath.Join(dir, sub), 0o700); err != nil {
				return nil, errors.Join(fmt.Errorf("make the pin directory: %w", err), p.Close())
			}
		}
		return p, nil
	}
	return nil, fmt.Errorf("make the pin directory %s: it vanishes each time: %w", dir, fs.ErrNotExist)
}

// FindPins takes a directory for this process that is there already; [fs.ErrNotExist] if it is not.
func FindPins(dir string) (*Pins, error) {
	if _, err := os.Stat(dir); err != nil {
		return nil, err
	}
	if err := inBPFFS(dir); err != nil {
		return nil, err
	}
	return lockPins(dir)
}

func lockPins(dir string) (*Pins, error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, fmt.Errorf("open the pin directory: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		if errors.Is(err, unix.EWOULDBLOCK) {
			err = ErrPinsInUse
		}
		return nil, errors.Join(fmt.Errorf("lock the pin directory %s: %w", dir, err), f.Close())
	}
	// What was locked may have been removed between the two calls.
	mine, err := f.Stat()
	if err == nil {
		var now fs.FileInfo
		if now, err = os.Stat(dir); err == nil && !os.SameFile(mine, now) {
			err = fs.ErrNotExist
		}
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return &Pins{dir: dir, lock: f}, nil
}

// inBPFFS checks the file system of a directory, or of the nearest directory above it that exists.
func inBPFFS(dir string) error {
	var st unix.Statfs_t
	for at := dir; ; at = filepath.Dir(at) {
		err := unix.Statfs(at, &st)
		if errors.Is(err, unix.ENOENT) && at != "/" && at != "." {
			continue
		}
		if err != nil {
			return fmt.Errorf("pin directory %s: %w", dir, err)
		}
		if st.Type != unix.BPF_FS_MAGIC {
			return fmt.Errorf("pin directory %s: %w", dir, ErrNoBPFFS)
		}
		return nil
	}
}

// Close lets others use the directory. What is pinned stays.
func (p *Pins) Close() error { return p.lock.Close() }

// Dir is the directory.
func (p *Pins) Dir() string { return p.dir }

func (p *Pins) maps() string { return filepath.Join(p.dir, "maps") }

// fresh holds maps until they are complete.
func (p *Pins) fresh() string { return filepath.Join(p.dir, "maps_new") }

// LinkPath is where the link of a name is pinned. Names hold no dots, which bpffs keeps for itself.
func (p *Pins) LinkPath(name string) string { return filepath.Join(p.dir, "links", name) }

// Links lists the names of the pinned links.
func (p *Pins) Links() ([]string, error) { return p.list("links") }

// Mark notes something we did to the system that nothing else remembers. Names are as those of links.
func (p *Pins) Mark(name string) error {
	if err := os.Mkdir(filepath.Join(p.dir, "marks", name), 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("pin the note %s: %w", name, err)
	}
	return nil
}

// Unmark forgets a note.
func (p *Pins) Unmark(name string) error {
	if err := os.Remove(filepath.Join(p.dir, "marks", name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove the note %s: %w", name, err)
	}
	return nil
}

// Marks lists the notes.
func (p *Pins) Marks() ([]string, error) { return p.list("marks") }

func (p *Pins) list(what string) ([]string, error) {
	entries, err := os.ReadDir(filepath.Join(p.dir, what))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list the pinned %s: %w", what, err)
	}
	names := make([]string, 0, len(entries))
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names, nil
}

// Remove unpins everything and removes the directory. Maps live on as long as programs or processes use them.
func (p *Pins) Remove() error {
	if err := os.RemoveAll(p.dir); err != nil {
		return fmt.Errorf("remove the pin directory: %w", err)
	}
	return nil
}

// HasMaps tells whether there are maps of an earlier process.
func (p *Pins) HasMaps() bool {
	_, err := os.Stat(filepath.Join(p.maps(), identityMap))
	return err == nil
}

const identityMap = "identity"

// identity is what pinned maps say about themselves.
type identity struct {
	Layout [32]byte
	Began  int64 // Unix nanoseconds
}

func identitySpec() *ebpf.MapSpec {
	return &ebpf.MapSpec{
		Name: "tm_identity", Type: ebpf.Array, KeySize: 4, ValueSize: uint32(binary.Size(identity{})), MaxEntries: 1,
	}
}

// find returns the maps an earlier process left if they suit the programs, or says why not. Nothing found is no reason.
func (p *Pins) find(spec *ebpf.CollectionSpec, layout [32]byte) (found map[string]*ebpf.Map, id identity, why string) {
	if err := os.RemoveAll(p.fresh()); err != nil {
		return nil, id, fmt.Sprintf("maps half made by an earlier process cannot be removed: %v", err)
	}
	if _, err := os.Stat(p.maps()); errors.Is(err, fs.ErrNotExist) {
		return nil, id, ""
	}
	open := func(name string) (*ebpf.Map, error) {
		return ebpf.LoadPinnedMap(filepath.Join(p.maps(), pinName(name)), nil)
	}
	m, err := open(identityMap)
	if err != nil {
		return nil, id, fmt.Sprintf("what they are cannot be read: %v", err)
	}
	defer m.Close()
	if err := errors.Join(identitySpec().Compatible(m), m.Lookup(uint32(0), &id)); err != nil {
		return nil, id, fmt.Sprintf("what they are cannot be read: %v", err)
	}
	found = map[string]*ebpf.Map{}
	for name, s := range spec.Maps {
		if !outlives(name) {
			continue
		}
		s = s.Copy()
		if dataSection(name) {
			s.Flags |= unix.BPF_F_MMAPABLE
		}
		m, err := open(name)
		if err == nil {
			found[name] = m
			err = s.Compatible(m)
		}
		if err != nil {
			closeMaps(found)
			return nil, id, fmt.Sprintf("map %s: %v", name, err)
		}
	}
	if id.Layout != layout {
		closeMaps(found)
		return nil, id, "they are laid out in another way: by another version, other sizes or another number of CPUs"
	}
	return found, id, ""
}

// keep pins the maps of a collection in place of those of an earlier process. Whoever looks finds all the old ones, all
// the new ones, or, when this process dies between the two renames, none.
func (p *Pins) keep(maps map[string]*ebpf.Map, id identity) error {
	if err := errors.Join(os.RemoveAll(p.fresh()), os.Mkdir(p.fresh(), 0o700)); err != nil {
		return fmt.Errorf("make the directory of pinned maps: %w", err)
	}
	for name, m := range maps {
		if !outlives(name) {
			continue
		}
		// The map itself stays unpinned for the library, which would otherwise remember a path that is renamed.
		c, err := m.Clone()
		if err == nil {
			err = errors.Join(c.Pin(filepath.Join(p.fresh(), pinName(name))), c.Close())
		}
		if err != nil {
			return fmt.Errorf("pin map %s: %w", name, err)
		}
	}
	m, err := ebpf.NewMap(identitySpec())
	if err != nil {
		return fmt.Errorf("make the map that says what the others are: %w", err)
	}
	defer m.Close()
	if err := errors.Join(m.Put(uint32(0), &id), m.Pin(filepath.Join(p.fresh(), identityMap))); err != nil {
		return fmt.Errorf("pin what the maps are: %w", err)
	}
	if err := errors.Join(os.RemoveAll(p.maps()), os.Rename(p.fresh(), p.maps())); err != nil {
		return fmt.Errorf("replace the pinned maps: %w", err)
	}
	return nil
}

// create loads the programs, on the maps found in pins if they suit, else on new ones.
func (k *Kernel) create(spec *ebpf.CollectionSpec, pins *Pins) (*ebpf.Collection, identity, error) {
	id := identity{Layout: layoutOf(spec), Began: k.Began.UnixNano()}
	var o ebpf.CollectionOptions
	if pins != nil {
		found, old, why := pins.find(spec, id.Layout)
		defer closeMaps(found)
		if k.Replaced = why; found != nil {
			k.Reused, k.Began, id = true, old.began(), old
			o.MapReplacements = found
		}
	}
	made, err := ebpf.NewCollectionWithOptions(spec, o)
	if err != nil {
		return nil, id, explain(err, k.Sizes, memoryOf(spec))
	}
	return made, id, nil
}

// outlives tells which maps belong to the counters and not to one loading of the programs.
func outlives(name string) bool { return !strings.HasPrefix(name, ".rodata") }

func dataSection(name string) bool {
	return strings.HasPrefix(name, ".bss") || strings.HasPrefix(name, ".data")
}

// pinName is the file name of a map.
func pinName(name string) string { return strings.ReplaceAll(strings.TrimPrefix(name, "."), ".", "_") }

func closeMaps(maps map[string]*ebpf.Map) {
	for _, m := range maps {
		m.Close()
	}
}

// began is when the counters described by an identity began.
func (id identity) began() time.Time { return time.Unix(0, id.Began) }
