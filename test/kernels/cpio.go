package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"

	"github.com/amooglesoft/trafficmonitor/test/kernels/guest"
)

// archive writes a cpio archive in the format "newc", which the kernel unpacks as its first file system; see
// Documentation/driver-api/early-userspace/buffer-format.rst of the kernel.
type archive struct {
	w     io.Writer
	inode int
	dirs  map[string]bool
}

const (
	modeDir  = 0o040755
	modeFile = 0o100755
)

func (a *archive) entry(name string, mode int, data []byte) error {
	pad := func(n int) []byte { return make([]byte, (4-n%4)%4) }
	a.inode++
	// inode, mode, uid, gid, links, mtime, size, device (2), device of a node (2), length of the name, checksum
	header := fmt.Sprintf("070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x",
		a.inode, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name)+1, 0)
	named := append([]byte(header+name), 0)
	for _, b := range [][]byte{named, pad(len(named)), data, pad(len(data))} {
		if _, err := a.w.Write(b); err != nil {
			return err
		}
	}
	return nil
}

// directory adds a directory and those above it.
func (a *archive) directory(name string) error {
	if name == "." || name == "/" || a.dirs[name] {
		return nil
	}
	if err := a.directory(path.Dir(name)); err != nil {
		return err
	}
	a.dirs[name] = true
	return a.entry(name[1:], modeDir, nil)
}

func (a *archive) file(name string, data []byte) error {
	if err := a.directory(path.Dir(name)); err != nil {
		return err
	}
	return a.entry(name[1:], modeFile, data)
}

func (a *archive) copy(name, from string) error {
	b, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	return a.file(name, b)
}

// tree adds a directory with all that is in it; a missing one is none.
func (a *archive) tree(name, from string) error {
	return filepath.WalkDir(from, func(p string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) && p == from {
			return nil
		}
		if err != nil || d.IsDir() {
			return err
		}
		rel, err := filepath.Rel(from, p)
		if err != nil {
			return err
		}
		return a.copy(path.Join(name, filepath.ToSlash(rel)), p)
	})
}

// writeInitramfs packs the modules the tests need, the programs, the tests' data and the plan, to which it adds the modules.
func writeInitramfs(ctx context.Context, to string, k *kernel, b *binaries, plan *guest.Plan) (err error) {
	f, err := os.Create(to)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	w := bufio.NewWriterSize(f, 1<<20)
	a := &archive{w: w, dirs: map[string]bool{}}

	modules, err := k.modules(ctx, "veth", "dummy", "bridge", "sch_ingress", "cls_bpf")
	if err != nil {
		return err
	}
	for _, m := range modules {
		name := path.Join("/lib/modules", m.name+".ko")
		plan.Modules = append(plan.Modules, name)
		if err := a.file(name, m.data); err != nil {
			return err
		}
	}
	for name, from := range map[string]string{
		"/init":                     b.init.file,
		"/bin/sensor":               b.sensor.file,
		source + "/docs/metrics.md": "docs/metrics.md", // that every metric stands there is tested in the sensor's package
	} {
		if err := a.copy(name, from); err != nil {
			return err
		}
	}
	for i, t := range plan.Tests {
		if err := a.copy(t.Binary, b.tests[i].file); err != nil {
			return err
		}
		if err := errors.Join(a.directory(t.Dir), a.tree(path.Join(t.Dir, "testdata"), filepath.Join(t.Package, "testdata"))); err != nil {
			return err
		}
	}
	text, err := json.MarshalIndent(plan, "", "\t")
	if err != nil {
		return err
	}
	// The kernel opens the console for the init before anything is mounted.
	err = errors.Join(a.file(guest.PlanPath, text), a.directory("/dev"), a.entry("TRAILER!!!", 0, nil))
	return errors.Join(err, w.Flush())
}
