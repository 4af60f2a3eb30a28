package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/amooglesoft/trafficmonitor/internal/lab"
)

// home is where a run keeps what it must take away again: a folder with one name, so that the next run finds what one
// left that was killed.
const (
	home       = "/var/tmp/trafficmonitor-clab"
	daemonLink = "tmclab0" // the bridge of our own daemon
	ownHost    = "unix://" + home + "/docker.sock"
)

// lockHome keeps two runs apart.
func lockHome() (unlock func(), err error) {
	f, err := os.OpenFile(home+".lock", os.O_CREATE|os.O_RDWR|syscall.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return nil, errors.Join(fmt.Errorf("another run of clab is going on (%s.lock): %w", home, err), f.Close())
	}
	return func() {
		_ = os.Remove(f.Name()) // while it is held: who waits for the old file finds it free and makes a new one
		f.Close()
	}, nil
}

// docker is a docker daemon, of ours or of the machine.
type docker struct {
	host string
	own  bool
	had  map[string]bool // images that were there before us, by tag
}

func (d *docker) env(more ...string) []string {
	return append(append(os.Environ(), "DOCKER_HOST="+d.host, "DOCKER_BUILDKIT=0"), more...)
}

// run runs docker and returns what it prints to standard output.
func (d *docker) run(ctx context.Context, args ...string) (string, error) {
	return output(ctx, d.env(), nil, "docker", args...)
}

// output runs a program and returns its standard output; an error holds its standard error.
func output(ctx context.Context, env []string, stdin []byte, name string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr, cmd.Env = &stdout, &stderr, env
	if stdin != nil {
		cmd.Stdin = bytes.NewReader(stdin)
	}
	// Ctrl-C in the terminal is ours to handle, not the program's.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) }
	cmd.WaitDelay = 10 * time.Second
	if err := cmd.Run(); err != nil {
		return stdout.String(), fmt.Errorf("%s %s: %w: %s", filepath.Base(name), strings.Join(args, " "), err, strings.TrimSpace(tail(stderr.String()+stdout.String(), 2000)))
	}
	return stdout.String(), nil
}

func tail(s string, n int) string { return s[max(0, len(s)-n):] }

// existingDocker returns the machine's docker daemon, if one answers and can run the privileged containers that
// containerlab always asks for: some virtual machines lack a capability that it would give them.
func existingDocker(ctx context.Context) (*docker, error) {
	d := &docker{host: os.Getenv("DOCKER_HOST")}
	if d.host == "" {
		d.host = "unix:///var/run/docker.sock"
	}
	if _, err := d.run(ctx, "version", "--format", "{{.Server.Version}}"); err != nil {
		return nil, ctx.Err()
	}
	const empty = "trafficmonitor-lab/empty"
	if _, err := output(ctx, d.env(), make([]byte, 1024), "docker", "import", "-", empty); err != nil {
		return nil, err
	}
	_, refusal := d.run(ctx, "run", "--rm", "--privileged", "--network", "none", empty, "/nothing")
	if _, err := d.run(ctx, "image", "rm", "--force", empty); err != nil {
		return nil, err
	}
	if refusal != nil && strings.Contains(refusal.Error(), "apply caps") {
		log.Printf("   the docker daemon at %s cannot run privileged containers: %v", d.host, refusal)
		return nil, nil
	}
	return d, d.remember(ctx)
}

func (d *docker) remember(ctx context.Context) error {
	tags, err := d.tags(ctx)
	d.had = tags
	return err
}

func (d *docker) tags(ctx context.Context) (map[string]bool, error) {
	out, err := d.run(ctx, "image", "ls", "--format", "{{.Repository}}:{{.Tag}}", "--filter", "reference="+imagePrefix+"*")
	tags := map[string]bool{}
	for tag := range strings.FieldsSeq(out) {
		tags[tag] = true
	}
	return tags, err
}

// needDocker returns the machine's daemon or starts one of our own.
func needDocker(ctx context.Context, o options) (*docker, error) {
	d, err := existingDocker(ctx)
	if d != nil || err != nil {
		return d, err
	}
	log.Print("   starting a docker daemon of our own")
	d = &docker{host: ownHost, own: true}
	if err := d.start(ctx); err != nil {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
		defer cancel()
		return nil, errors.Join(err, d.close(ctx, o))
	}
	return d, nil
}

func (d *docker) start(ctx context.Context) error {
	if err := os.MkdirAll(home, 0o700); err != nil {
		return err
	}
	runc, err := exec.LookPath("runc")
	if err != nil {
		return fmt.Errorf("dockerd needs runc: scripts/deps.sh clab installs both: %w", err)
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	// docker passes its runtime's own arguments on, so ours is a script.
	runtime := filepath.Join(home, "runc-bounded")
	if err := os.WriteFile(runtime, fmt.Appendf(nil, "#!/bin/sh\nexec '%s' %s '%s' \"$@\"\n", self, runtimeFlag, runc), 0o700); err != nil {
		return err
	}
	// A bridge of its own: by default it would share docker0 with another daemon, and without any it would delete it.
	bridge := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: daemonLink}}
	addr, err := netlink.ParseAddr("172.30.255.1/24")
	if err != nil {
		return err
	}
	if err := errors.Join(netlink.LinkAdd(bridge), netlink.AddrAdd(bridge, addr), netlink.LinkSetUp(bridge)); err != nil {
		return fmt.Errorf("bridge %s: %w", daemonLink, err)
	}
	logFile, err := os.Create(filepath.Join(home, "dockerd.log"))
	if err != nil {
		return err
	}
	defer logFile.Close()
	cmd := exec.Command("dockerd", "--host", d.host, "--data-root", home+"/data", "--exec-root", home+"/exec", "--pidfile", home+"/docker.pid",
		"--iptables=false", "--ip6tables=false", "--ip-masq=false", "--bridge", daemonLink,
		"--add-runtime", "bounded="+runtime, "--default-runtime", "bounded")
	cmd.Stdout, cmd.Stderr = logFile, logFile
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("dockerd: scripts/deps.sh clab installs it: %w", err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	return lab.Until(ctx, "dockerd to answer", func(ctx context.Context) error {
		select {
		case err := <-ended:
			text, _ := os.ReadFile(logFile.Name())
			return lab.GiveUp(fmt.Errorf("it ended: %v: %s", err, tail(string(text), 1000)))
		default:
		}
		_, err := d.run(ctx, "version", "--format", "{{.Server.Version}}")
		return err
	})
}

// close stops our own daemon and removes all it had; of the machine's daemon it removes the images that were not there.
func (d *docker) close(ctx context.Context, o options) error {
	if d.own {
		return sweep(ctx, o)
	}
	tags, err := d.tags(ctx)
	errs := []error{err}
	for tag := range tags {
		if !d.had[tag] {
			_, err := d.run(ctx, "image", "rm", "--force", tag)
			errs = append(errs, err)
		}
	}
	_, err = d.run(ctx, "image", "prune", "--force", "--filter", "label="+imageLabel)
	errs = append(errs, err)
	return errors.Join(errs...)
}

// daemonPID is the process of our daemon, 0 for none: what the file names must also be a dockerd of ours.
func daemonPID() int {
	text, err := os.ReadFile(home + "/docker.pid")
	if err != nil {
		return 0
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil || pid <= 1 {
		return 0
	}
	cmdline, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err != nil || !bytes.HasPrefix(cmdline, []byte("dockerd\x00")) || !bytes.Contains(cmdline, []byte(home+"/data\x00")) {
		return 0
	}
	return pid
}

// endProcess asks a process to end, and ends it after half a minute.
func endProcess(pid int) error {
	for _, s := range []struct {
		sig  syscall.Signal
		wait time.Duration
	}{{syscall.SIGTERM, 30 * time.Second}, {syscall.SIGKILL, 5 * time.Second}} {
		if err := syscall.Kill(pid, s.sig); errors.Is(err, syscall.ESRCH) {
			return nil
		}
		ctx, cancel := context.WithTimeout(context.Background(), s.wait)
		err := lab.Until(ctx, fmt.Sprintf("dockerd, process %d, to end after %v", pid, s.sig), func(context.Context) error {
			stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
			if err != nil || bytes.Contains(stat, []byte(") Z ")) {
				return nil
			}
			return errors.New("it is there")
		})
		cancel()
		if err == nil {
			return nil
		}
		log.Print("   ", err)
	}
	return fmt.Errorf("dockerd, process %d, does not end", pid)
}

// unmountBelow unmounts what is mounted in a folder, the deepest first.
func unmountBelow(dir string) error {
	text, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return err
	}
	var at []string
	for line := range strings.Lines(string(text)) {
		if f := strings.Fields(line); len(f) > 4 && strings.HasPrefix(f[4], dir+"/") {
			at = append(at, f[4])
		}
	}
	var errs []error
	for i := range at {
		if err := unix.Unmount(at[len(at)-1-i], unix.MNT_DETACH); err != nil {
			errs = append(errs, fmt.Errorf("unmount %s: %w", at[len(at)-1-i], err))
		}
	}
	return errors.Join(errs...)
}
