package main

import (
	"bytes"
	"context"
	"debug/elf"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
)

// kernel is a Debian kernel, unpacked and not installed.
type kernel struct {
	release string
	image   string // path of the vmlinuz
	lib     string // path of its modules
}

// fetch downloads the kernel that a Debian package depends on, once, and unpacks it. If the package lists are missing or old it gets newer ones,
// where root can be had.
func fetch(ctx context.Context, meta string) (*kernel, error) {
	k, err := fetchListed(ctx, meta)
	if err == nil || ctx.Err() != nil {
		return k, err
	}
	update := []string{"apt-get", "update", "-q"}
	if os.Geteuid() != 0 {
		if _, missing := exec.LookPath("sudo"); missing != nil {
			return nil, err
		}
		update = append([]string{"sudo"}, update...)
	}
	fmt.Printf("updating the package lists, for %s was not to be had: %v\n", meta, err)
	if _, err := output(ctx, "", update...); err != nil {
		return nil, err
	}
	return fetchListed(ctx, meta)
}

func fetchListed(ctx context.Context, meta string) (*kernel, error) {
	out, err := output(ctx, "", "apt-cache", "depends", "--important", meta)
	if err != nil {
		return nil, fmt.Errorf("%w (does the package %s exist here? Debian 12 has it; apt-get update gets the lists)", err, meta)
	}
	found := regexp.MustCompile(`Depends: (linux-image-[0-9]\S+)`).FindSubmatch(out)
	if found == nil {
		return nil, fmt.Errorf("package %s depends on no kernel: %s", meta, out)
	}
	pkg := string(found[1])
	root, err := filepath.Abs(filepath.Join(dir, pkg))
	if err != nil {
		return nil, err
	}
	if _, err := os.Stat(root); errors.Is(err, fs.ErrNotExist) {
		if err := unpack(ctx, pkg, root); err != nil {
			return nil, err
		}
	}
	images, _ := filepath.Glob(filepath.Join(root, "boot", "vmlinuz-*"))
	if len(images) != 1 {
		return nil, fmt.Errorf("%s holds %d kernels, want one: remove it to have it fetched again", root, len(images))
	}
	release := strings.TrimPrefix(filepath.Base(images[0]), "vmlinuz-")
	return &kernel{release: release, image: images[0], lib: filepath.Join(root, "lib", "modules", release)}, nil
}

// unpack puts what is in a Debian package below root, or nothing.
func unpack(ctx context.Context, pkg, root string) error {
	part := root + ".part"
	defer os.RemoveAll(part)
	if err := errors.Join(os.RemoveAll(part), os.MkdirAll(part, 0o755)); err != nil {
		return err
	}
	fmt.Printf("fetching %s\n", pkg)
	if _, err := output(ctx, part, "apt-get", "download", "-q", pkg); err != nil {
		return fmt.Errorf("%w (is there a network? Lists older than the mirror need apt-get update)", err)
	}
	debs, _ := filepath.Glob(filepath.Join(part, "*.deb"))
	if len(debs) != 1 {
		return fmt.Errorf("apt-get download %s left %d packages, want one", pkg, len(debs))
	}
	if _, err := output(ctx, "", "dpkg-deb", "-x", debs[0], part); err != nil {
		return err
	}
	return errors.Join(os.Remove(debs[0]), os.Rename(part, root))
}

// output runs a command in a directory and returns what it printed; its complaints are part of the error.
func output(ctx context.Context, in string, argv ...string) ([]byte, error) {
	var stdout, stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = in, &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("%s: %w\n%s", strings.Join(argv, " "), err, bytes.TrimSpace(stderr.Bytes()))
	}
	return stdout.Bytes(), nil
}

// module is a kernel module as it is loaded.
type module struct {
	name string
	data []byte
}

// modules returns the named modules and those they need, in an order in which they load. What is built into the kernel is
// left out. (The package has no modules.dep: depmod writes that when it is installed.)
func (k *kernel) modules(ctx context.Context, names ...string) (list []module, err error) {
	files := map[string]string{}
	err = filepath.WalkDir(k.lib, func(p string, _ fs.DirEntry, err error) error {
		if name, _, ok := strings.Cut(filepath.Base(p), ".ko"); ok {
			files[moduleName(name)] = p
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	builtin, err := os.ReadFile(filepath.Join(k.lib, "modules.builtin"))
	if err != nil {
		return nil, err
	}
	done := map[string]bool{}
	for line := range strings.FieldsSeq(string(builtin)) {
		done[moduleName(strings.TrimSuffix(filepath.Base(line), ".ko"))] = true
	}
	var add func(name string) error
	add = func(name string) error {
		if name = moduleName(name); done[name] {
			return nil
		}
		done[name] = true
		path, ok := files[name]
		if !ok {
			return fmt.Errorf("kernel %s has no module %s", k.release, name)
		}
		data, err := os.ReadFile(path)
		if filepath.Ext(path) == ".xz" {
			data, err = output(ctx, "", "xz", "-dc", path)
		}
		if err != nil {
			return err
		}
		needs, err := dependencies(data)
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		for _, n := range needs {
			if err := add(n); err != nil {
				return err
			}
		}
		list = append(list, module{name, data})
		return nil
	}
	for _, n := range names {
		if err := add(n); err != nil {
			return nil, err
		}
	}
	return list, nil
}

// moduleName is a module's one name: files use - and _ for the same.
func moduleName(file string) string { return strings.ReplaceAll(file, "-", "_") }

// dependencies reads which modules a module needs directly.
func dependencies(object []byte) ([]string, error) {
	f, err := elf.NewFile(bytes.NewReader(object))
	if err != nil {
		return nil, err
	}
	section := f.Section(".modinfo")
	if section == nil {
		return nil, errors.New("no section .modinfo")
	}
	info, err := section.Data()
	if err != nil {
		return nil, err
	}
	for field := range bytes.SplitSeq(info, []byte{0}) {
		if list, ok := bytes.CutPrefix(field, []byte("depends=")); ok && len(list) > 0 {
			return strings.Split(string(list), ","), nil
		}
	}
	return nil, nil
}
