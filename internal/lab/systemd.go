package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// Systemd is a namespace in which systemd is process 1 and services are what they are on a real machine: users,
// capabilities, system call filters, folders. It sees this machine's files, and what it writes is gone with it.
type Systemd struct {
	in      *Namespace
	process *Process
	cgroup  string
}

// bootScript makes a root of its own out of this machine's files and those of $FILES, with nothing to start but the journal, and
// becomes systemd. What could change this machine is read-only or not there: /sys, /proc/sys, devices.
const bootScript = `set -eu
mount --make-rprivate /
mount -t tmpfs -o mode=0755 tmpfs "$ROOT"
cd "$ROOT"
mkdir up work root
mount -t overlay -o "lowerdir=/,upperdir=$ROOT/up,workdir=$ROOT/work" overlay root
cp -a "$FILES/." root
cd root
mount -t proc proc proc
mount -o bind,ro proc/sys proc/sys
mount -t sysfs -o ro sysfs sys
mount -t cgroup2 cgroup2 sys/fs/cgroup
mount -t bpf bpf sys/fs/bpf
for d in run tmp dev; do mount -t tmpfs -o mode=0755 tmpfs $d; done
chmod 1777 tmp
for d in null zero full random urandom tty; do : > dev/$d; mount --bind /dev/$d dev/$d; done
mkdir dev/shm dev/pts
mount -t devpts -o newinstance,ptmxmode=0666 devpts dev/pts
ln -s pts/ptmx dev/ptmx
: > etc/fstab
rm -rf etc/systemd/system-generators usr/lib/systemd/system-generators etc/systemd/system/*.wants etc/systemd/system/*.requires usr/lib/systemd/system/*.target.wants usr/lib/systemd/system/*.target.requires
printf '[Unit]\nWants=systemd-journald.service\n' > etc/systemd/system/lab.target
ln -sf /dev/null etc/systemd/system/systemd-journald-audit.socket
rm -f etc/machine-id
printf '%s\n' 0123456789abcdef0123456789abcdef > etc/machine-id
pivot_root . mnt
umount -l /mnt
exec env -i container=lab "$MARK" PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin /lib/systemd/systemd --unit=lab.target --show-status=no`

// NeedSystemd skips a test on a machine that cannot run a systemd in namespaces, and fails it where CI=true.
func NeedSystemd(t testing.TB) {
	t.Helper()
	NeedRoot(t)
	NeedTool(t, "unshare", "nsenter", "systemctl", "journalctl")
	NeedFile(t, "/lib/systemd/systemd")
	if _, err := cgroup2(); err != nil {
		skip(t, err.Error())
	}
}

// cgroup2 is where this machine's control groups of version 2 are.
func cgroup2() (string, error) {
	text, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(string(text)) {
		if f := strings.Fields(line); len(f) > 2 && f[2] == "cgroup2" {
			return f[1], nil
		}
	}
	return "", errors.New("no cgroup2 file system is mounted here")
}

// StartSystemd boots systemd inside the namespace. What lies in the folder files is there below /.
func (n *Namespace) StartSystemd(ctx context.Context, files string) (*Systemd, error) {
	root := filepath.Join(n.lab.dir, n.name+"-root")
	if err := os.Mkdir(root, 0o755); err != nil {
		return nil, err
	}
	groups, err := cgroup2()
	if err != nil {
		return nil, err
	}
	// A group of its own, so that systemd takes nobody else's processes for its own.
	s := &Systemd{in: n, cgroup: filepath.Join(groups, n.FullName())}
	if err := os.Mkdir(s.cgroup, 0o755); err != nil {
		return nil, fmt.Errorf("make a control group: %w", err)
	}
	n.lab.OnClose(func() { _ = s.end() })
	s.process, err = n.Start(Command{
		Name: "systemd",
		Argv: []string{"sh", "-c", `echo $$ > "$0/cgroup.procs" && exec unshare --mount --pid --fork --kill-child --uts --ipc --cgroup sh -c "$1"`, s.cgroup, bootScript},
		Env:  []string{"ROOT=" + root, "FILES=" + files, "MARK=" + marker + "=" + n.lab.id},
	})
	if err != nil {
		return nil, err
	}
	return s, Until(ctx, "systemd to boot", func(ctx context.Context) error {
		if !s.process.Running() {
			return GiveUp(fmt.Errorf("it ended: %w\n%s", s.process.err, tail(s.process.LogFile(), 20)))
		}
		_, err := s.Run(ctx, "systemctl", "is-active", "lab.target")
		return err
	})
}

// init is the process id that systemd has outside.
func (s *Systemd) init() (string, error) {
	pid := strconv.Itoa(s.process.Pid())
	text, err := os.ReadFile(filepath.Join("/proc", pid, "task", pid, "children"))
	if err != nil {
		return "", err
	}
	f := strings.Fields(string(text))
	if len(f) != 1 {
		return "", fmt.Errorf("process %s has children %q, want one", pid, text)
	}
	return f[0], nil
}

// Run runs a program beside systemd's services and returns what it printed; the error holds that too.
func (s *Systemd) Run(ctx context.Context, argv ...string) (string, error) {
	init, err := s.init()
	if err != nil {
		return "", err
	}
	cmd := exec.CommandContext(ctx, "nsenter", append([]string{"--target", init, "--mount", "--pid", "--uts", "--ipc", "--net", "--cgroup", "--"}, argv...)...)
	cmd.WaitDelay = 5 * time.Second // what it left running may hold its output
	out, err := cmd.CombinedOutput()
	if errors.Is(err, exec.ErrWaitDelay) {
		err = nil
	}
	if err != nil {
		err = fmt.Errorf("%s: %w\n%s", strings.Join(argv, " "), err, out)
	}
	return string(out), err
}

// Show returns properties of a unit.
func (s *Systemd) Show(ctx context.Context, unit string, properties ...string) (map[string]string, error) {
	out, err := s.Run(ctx, "systemctl", "show", "--property="+strings.Join(properties, ","), unit)
	values := map[string]string{}
	for line := range strings.Lines(out) {
		if key, value, ok := strings.Cut(strings.TrimSuffix(line, "\n"), "="); ok {
			values[key] = value
		}
	}
	return values, err
}

// end ends systemd with all that it started.
func (s *Systemd) end() error {
	if s.process != nil {
		_ = s.process.Kill()
		<-s.process.Done()
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	return Until(ctx, "the control groups to be empty", func(context.Context) error { return removeGroup(s.cgroup) })
}

// removeGroup removes a control group with those below it.
func removeGroup(path string) error {
	entries, err := os.ReadDir(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	for _, e := range entries {
		if e.IsDir() {
			err = errors.Join(err, removeGroup(filepath.Join(path, e.Name())))
		}
	}
	if r := syscall.Rmdir(path); r != nil && !errors.Is(r, syscall.ENOENT) {
		err = errors.Join(err, fmt.Errorf("remove %s: %w", path, r))
	}
	return err
}
