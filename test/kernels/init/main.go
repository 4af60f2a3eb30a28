// Command init is the first and only process of a virtual machine of test/kernels: it runs test binaries and powers off.
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/amooglesoft/trafficmonitor/test/kernels/guest"
)

func main() {
	if os.Getpid() != 1 {
		fmt.Fprintln(os.Stderr, "init: runs as the first process of a virtual machine only: make test-kernels")
		os.Exit(2)
	}
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "init:", err)
	}
	unix.Sync()
	err := unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
	fmt.Fprintln(os.Stderr, "init: power off:", err) // the kernel panics when we end, and qemu ends with it
}

func run() error {
	if err := mounts(); err != nil {
		return err
	}
	port, err := os.OpenFile(guest.Port, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	out := json.NewEncoder(port)
	if err := work(out); err != nil {
		return errors.Join(err, out.Encode(guest.Message{Error: err.Error()}))
	}
	if err := out.Encode(guest.Message{Done: true}); err != nil {
		return err
	}
	return unix.IoctlSetInt(int(port.Fd()), unix.TCSBRK, 1) // wait until all of it is sent
}

// mounts makes what a test expects of a machine.
func mounts() error {
	for _, m := range []struct{ kind, at string }{
		{"devtmpfs", "/dev"},
		{"proc", "/proc"},
		{"sysfs", "/sys"},
		{"bpf", "/sys/fs/bpf"},
		{"tmpfs", "/tmp"},
		{"tmpfs", "/run"},
	} {
		if err := os.MkdirAll(m.at, 0o755); err != nil {
			return err
		}
		if err := unix.Mount(m.kind, m.at, m.kind, 0, ""); err != nil && !errors.Is(err, unix.EBUSY) {
			return fmt.Errorf("mount %s at %s: %w", m.kind, m.at, err)
		}
	}
	return nil
}

// work follows the plan.
func work(out *json.Encoder) error {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return fmt.Errorf("ask for the kernel's release: %w", err)
	}
	if err := out.Encode(guest.Message{Kernel: unix.ByteSliceToString(u.Release[:])}); err != nil {
		return err
	}
	b, err := os.ReadFile(guest.PlanPath)
	if err != nil {
		return err
	}
	var plan guest.Plan
	if err := json.Unmarshal(b, &plan); err != nil {
		return fmt.Errorf("read %s: %w", guest.PlanPath, err)
	}
	for _, path := range plan.Modules {
		if err := load(path); err != nil {
			return fmt.Errorf("load module %s: %w", path, err)
		}
	}
	lo, err := netlink.LinkByName("lo")
	if err == nil {
		err = netlink.LinkSetUp(lo)
	}
	if err != nil {
		return fmt.Errorf("bring the loopback interface up: %w", err)
	}
	for _, t := range plan.Tests {
		if err := test(t, out); err != nil {
			return fmt.Errorf("%s: %w", t.Package, err)
		}
	}
	return nil
}

func load(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	return unix.FinitModule(int(f.Fd()), "", 0)
}

// printer sends what a test prints.
type printer struct {
	out *json.Encoder
	of  string
}

func (p printer) Write(b []byte) (int, error) {
	if err := p.out.Encode(guest.Message{Package: p.of, Output: string(b)}); err != nil {
		return 0, err
	}
	return len(b), nil
}

func test(t guest.Test, out *json.Encoder) error {
	cmd := exec.Command(t.Binary, t.Args...)
	cmd.Dir = t.Dir
	cmd.Env = append([]string{"PATH=/bin", "HOME=/tmp"}, t.Env...)
	p := printer{out, t.Package}
	cmd.Stdout, cmd.Stderr = p, p
	var failed *exec.ExitError
	if err := cmd.Run(); err != nil && !errors.As(err, &failed) {
		return err
	}
	for _, name := range t.Return {
		b, err := os.ReadFile(filepath.Join(t.Dir, name))
		if err != nil {
			return err
		}
		if err := out.Encode(guest.Message{Package: t.Package, File: name, Data: b}); err != nil {
			return err
		}
	}
	exit := cmd.ProcessState.ExitCode()
	if exit < 0 { // ended by a signal
		fmt.Fprintln(p, cmd.ProcessState)
	}
	return out.Encode(guest.Message{Package: t.Package, Exit: &exit})
}
