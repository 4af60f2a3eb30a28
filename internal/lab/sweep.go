package lab

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/vishvananda/netns"
)

const netnsDir = "/run/netns"

// labName matches the names of namespaces and run directories of labs: tm-PID, for a process's further labs tm-PIDxN,
// then what it is.
var labName = regexp.MustCompile(`^(tm-([0-9]+)(?:x[0-9]+)?)-[a-z0-9-]+$`)

func labID(pid int, n int64) string {
	if n == 1 {
		return fmt.Sprintf("tm-%d", pid)
	}
	return fmt.Sprintf("tm-%dx%d", pid, n)
}

// clean turns a name into what labName matches.
func clean(name string) string {
	s := strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= '0' && r <= '9':
			return r
		case r >= 'A' && r <= 'Z':
			return r + 'a' - 'A'
		}
		return '-'
	}, name)
	if s == "" {
		return "lab"
	}
	return s
}

// deadLab returns the lab a name belongs to when the process that made it is gone.
func deadLab(name string) (id string, dead bool) {
	m := labName.FindStringSubmatch(name)
	if m == nil {
		return "", false
	}
	pid, err := strconv.Atoi(m[2])
	if err != nil || pid <= 1 {
		return "", false
	}
	// A process that took over the number keeps the leftover alive for a while: the safe direction.
	return m[1], errors.Is(syscall.Kill(pid, 0), syscall.ESRCH)
}

// Sweep ends the processes and removes the namespaces and run directories of labs whose process is gone. It touches
// nothing that does not carry a lab's name or marker.
func Sweep(log *slog.Logger) error {
	var errs []error
	errs = append(errs, sweepMarked())
	dirs := []string{netnsDir, os.TempDir()}
	groups, err := cgroup2()
	if err == nil {
		dirs = append(dirs, groups)
	}
	for _, dir := range dirs {
		entries, err := os.ReadDir(dir)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
		for _, e := range entries {
			_, dead := deadLab(e.Name())
			if !dead {
				continue
			}
			log.Info("removing what a dead lab left", "path", filepath.Join(dir, e.Name()))
			switch path := filepath.Join(dir, e.Name()); dir {
			case netnsDir:
				errs = append(errs, deleteNamespace(e.Name()))
			case groups:
				errs = append(errs, removeGroup(path))
			default:
				errs = append(errs, os.RemoveAll(path))
			}
		}
	}
	return errors.Join(errs...)
}

// deleteNamespace deletes a namespace that another process may be deleting at the same moment.
func deleteNamespace(name string) error {
	err := netns.DeleteNamed(name)
	if errors.Is(err, syscall.EINVAL) { // unmounted already
		err = os.Remove(filepath.Join(netnsDir, name))
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// marked lists the processes that carry a lab's marker, with the lab each belongs to.
func marked() (map[int]string, error) {
	dirs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return nil, err
	}
	out := map[int]string{}
	for _, d := range dirs {
		env, err := os.ReadFile(d + "/environ")
		if err != nil {
			continue // it ended, or is not ours to read
		}
		for v := range bytes.SplitSeq(env, []byte{0}) {
			if id, ok := bytes.CutPrefix(v, []byte(marker+"=")); ok {
				if pid, err := strconv.Atoi(filepath.Base(d)); err == nil && pid != os.Getpid() {
					out[pid] = string(id)
				}
			}
		}
	}
	return out, nil
}

func sweepMarked() error {
	pids, err := marked()
	if err != nil {
		return err
	}
	var errs []error
	seen := map[string]bool{}
	for _, id := range pids {
		if _, dead := deadLab(id + "-x"); dead && !seen[id] {
			seen[id] = true
			errs = append(errs, endMarked(id))
		}
	}
	return errors.Join(errs...)
}

// endMarked ends every process that carries the lab's marker: politely, after two seconds without.
func endMarked(id string) error {
	deadline := time.Now().Add(2 * time.Second)
	sig := syscall.SIGTERM
	asked := map[int]bool{}
	defer func() {
		for pid := range asked { // orphans are ours to bury: see Open
			_, _ = syscall.Wait4(pid, nil, syscall.WNOHANG, nil)
		}
	}()
	for {
		pids, err := marked()
		if err != nil {
			return err
		}
		left := 0
		for pid, of := range pids {
			if of != id {
				continue
			}
			left++
			asked[pid] = true
			_ = syscall.Kill(pid, sig) // it may have ended since
			for _, daemon := range frrDaemons {
				removeFRRCrashDir(daemon, pid)
			}
		}
		switch {
		case left == 0:
			return nil
		case time.Now().After(deadline.Add(3 * time.Second)):
			return fmt.Errorf("%d processes of lab %s do not end", left, id)
		case time.Now().After(deadline):
			sig = syscall.SIGKILL
		}
		time.Sleep(20 * time.Millisecond)
	}
}
