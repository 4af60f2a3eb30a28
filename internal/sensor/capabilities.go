package sensor

import (
	"errors"
	"fmt"
	"strings"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// capability is the number of a privilege: capabilities(7).
type capability uint

var capabilityNames = map[capability]string{
	unix.CAP_NET_ADMIN: "CAP_NET_ADMIN", unix.CAP_NET_RAW: "CAP_NET_RAW", unix.CAP_BPF: "CAP_BPF", unix.CAP_PERFMON: "CAP_PERFMON",
}

func (c capability) String() string {
	if name := capabilityNames[c]; name != "" {
		return name
	}
	return fmt.Sprintf("capability %d", uint(c))
}

// kept are the capabilities that attaching to an interface anew needs. Programs and maps are made once, before; who
// holds them by descriptor needs no capability to read and write maps, to update a link, or to make one for tcx or XDP
// (found out by trying each on Linux 6.18). What is left:
//
//   - CAP_NET_ADMIN for filters of clsact, for asking which programs an interface has, and for making it promiscuous;
//   - CAP_NET_RAW for the packet socket that keeps a mirror port promiscuous where nothing is pinned.
func kept(interfaces []Interface, pinned bool) []capability {
	keep := []capability{unix.CAP_NET_ADMIN}
	for _, i := range interfaces {
		if i.Mode == Mirror && !pinned {
			return append(keep, unix.CAP_NET_RAW)
		}
	}
	return keep
}

// dropCapabilities gives up what is not needed any more, on every thread, for good: also what a program that is
// executed would get. Files are opened afterwards with the rights of the user alone, also when that is root.
func (a *agent) dropCapabilities() error {
	keep := kept(a.o.Interfaces, a.pins.Pins != nil)
	left, err := restrictTo(keep)
	if err != nil {
		return fmt.Errorf("drop capabilities: %w (drop_capabilities: false keeps them)", err)
	}
	a.o.Log.Info("capabilities dropped", "kept", names(left))
	return nil
}

func names(caps []capability) string {
	if len(caps) == 0 {
		return "none"
	}
	list := make([]string, len(caps))
	for i, c := range caps {
		list[i] = c.String()
	}
	return strings.Join(list, " ")
}

// restrictTo leaves the process those of keep that it has, and returns them.
func restrictTo(keep []capability) (left []capability, err error) {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var have, want [2]unix.CapUserData
	if err := unix.Capget(&header, &have[0]); err != nil {
		return nil, fmt.Errorf("ask for our capabilities: %w", err)
	}
	for _, c := range keep {
		if have[c/32].Permitted&(1<<(c%32)) != 0 {
			want[c/32].Permitted |= 1 << (c % 32)
			want[c/32].Effective |= 1 << (c % 32)
			left = append(left, c)
		}
	}
	// The bounding set can be narrowed only with CAP_SETPCAP. Who lacks that was started by somebody who chose it.
	if have[0].Effective&(1<<unix.CAP_SETPCAP) != 0 {
		for c := range capability(64) {
			in, err := unix.PrctlRetInt(unix.PR_CAPBSET_READ, uintptr(c), 0, 0, 0)
			if err != nil {
				break // the kernel knows no more
			}
			if in == 1 && want[c/32].Permitted&(1<<(c%32)) == 0 {
				if err := everyThread(unix.SYS_PRCTL, unix.PR_CAPBSET_DROP, uintptr(c)); err != nil {
					return nil, fmt.Errorf("take %s out of the bounding set: %w", c, err)
				}
			}
		}
	}
	if err := everyThread(unix.SYS_PRCTL, unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL); err != nil && !errors.Is(err, unix.EINVAL) {
		return nil, fmt.Errorf("clear the ambient set: %w", err)
	}
	if err := everyThread(unix.SYS_PRCTL, unix.PR_SET_NO_NEW_PRIVS, 1); err != nil {
		return nil, fmt.Errorf("set no_new_privs: %w", err)
	}
	if err := everyThread(unix.SYS_CAPSET, uintptr(unsafe.Pointer(&header)), uintptr(unsafe.Pointer(&want[0]))); err != nil {
		return nil, fmt.Errorf("set the capabilities to %s: %w", names(left), err)
	}
	return left, nil
}

// everyThread makes a system call on every thread, and on those to come: capabilities belong to threads, Go's goroutines
// to none of them.
//
//go:uintptrescapes
func everyThread(trap, a1, a2 uintptr) error {
	_, _, errno := syscall.AllThreadsSyscall(trap, a1, a2, 0)
	switch errno {
	case 0:
		return nil
	case syscall.ENOTSUP:
		return errors.New("this program was built with cgo: build it with CGO_ENABLED=0")
	}
	return errno
}
