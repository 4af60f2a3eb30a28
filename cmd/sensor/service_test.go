package main

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/amooglesoft/trafficmonitor/internal/lab"
	"github.com/amooglesoft/trafficmonitor/internal/pki"
)

// buildSensor builds the program as it is shipped.
var buildSensor = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "sensor-under-test-")
	if err != nil {
		return "", err
	}
	binary := filepath.Join(dir, "sensor")
	cmd := exec.Command("go", "build", "-o", binary, ".")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build: %w\n%s", err, out)
	}
	return binary, os.Chmod(dir, 0o755)
})

func TestMain(m *testing.M) {
	code := m.Run()
	if old, _ := filepath.Glob(filepath.Join(os.TempDir(), "sensor-under-test-*")); len(old) > 0 {
		if binary, err := buildSensor(); err == nil {
			os.RemoveAll(filepath.Dir(binary))
		}
	}
	os.Exit(code)
}

// service is a sensor in a network namespace of its own, with us as the service manager.
type service struct {
	t      *testing.T
	dir    string
	config string
	conn   *net.UnixConn
	cmd    *exec.Cmd
	ended  chan error
	log    bytes.Buffer // to be read when it has ended
	heard  []string
}

const nobody = 65534

// prepare makes a folder that user may read, with certificates and a configuration.
func prepare(t *testing.T, user int, pinned bool, interfaces string) *service {
	t.Helper()
	s := &service{t: t, dir: t.TempDir(), ended: make(chan error, 1)}
	for _, d := range []string{filepath.Dir(s.dir), s.dir} {
		if err := os.Chmod(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := pki.CreateCA(filepath.Join(s.dir, "pki")); err != nil {
		t.Fatal(err)
	}
	if _, err := pki.Issue(filepath.Join(s.dir, "pki"), pki.RoleSensor, "rack1", nil); err != nil {
		t.Fatal(err)
	}
	pins := ""
	if pinned {
		pins = mountPins(t, filepath.Join(s.dir, "bpf"))
	}
	s.config = filepath.Join(s.dir, "sensor.yaml")
	s.configure(fmt.Sprintf(`
name: rack1
controllers: [{address: "127.0.0.1:1"}]
tls: {ca: %[1]s/pki/ca.crt, cert: %[1]s/pki/rack1.crt, key: %[1]s/pki/rack1.key}
interfaces: [%s]
state_file: %[1]s/state
pin: %[3]q
listen: {telemetry: ""}
`, s.dir, interfaces, pins))
	err := filepath.WalkDir(s.dir, func(path string, _ fs.DirEntry, err error) error {
		return errors.Join(err, os.Lchown(path, user, user))
	})
	if err != nil {
		t.Fatal(err)
	}
	address := filepath.Join(s.dir, "notify")
	if s.conn, err = net.ListenUnixgram("unixgram", &net.UnixAddr{Name: address, Net: "unixgram"}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.conn.Close() })
	if err := os.Chmod(address, 0o666); err != nil {
		t.Fatal(err)
	}
	return s
}

// mountPins mounts a bpf file system of our own, so that what is pinned ends with the test.
func mountPins(t *testing.T, path string) string {
	t.Helper()
	if err := os.Mkdir(path, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("bpf", path, "bpf", 0, "mode=700"); err != nil {
		t.Fatalf("mount a bpf file system: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(path, 0); err != nil {
			t.Errorf("unmount %s: %v", path, err)
		}
	})
	return path
}

func (s *service) configure(text string) {
	s.t.Helper()
	if err := os.WriteFile(s.config, []byte(text), 0o644); err != nil {
		s.t.Fatal(err)
	}
}

// start runs the sensor, behind a command if one is given, in the namespace of this thread.
func (s *service) start(before ...string) {
	s.t.Helper()
	binary, err := buildSensor()
	if err != nil {
		s.t.Fatal(err)
	}
	args := append(before, binary, "--config", s.config)
	s.cmd = exec.Command(args[0], args[1:]...)
	s.cmd.Env = append(os.Environ(), "NOTIFY_SOCKET="+filepath.Join(s.dir, "notify"), "WATCHDOG_USEC=4000000")
	s.cmd.Stdout, s.cmd.Stderr = &s.log, &s.log
	if err := s.cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	go func() { s.ended <- s.cmd.Wait() }()
	s.t.Cleanup(func() { _ = s.cmd.Process.Kill() })
}

// hear waits until the sensor has said something to the service manager.
func (s *service) hear(want string) {
	s.t.Helper()
	buffer := make([]byte, 4096)
	for {
		if err := s.conn.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
			s.t.Fatal(err)
		}
		n, err := s.conn.Read(buffer)
		if err != nil {
			_ = s.cmd.Process.Kill()
			<-s.ended
			s.t.Fatalf("the service manager waits for %q, but %v; it has heard %q, and the log is\n%s", want, err, s.heard, s.log.String())
		}
		s.heard = append(s.heard, string(buffer[:n]))
		if strings.Contains(string(buffer[:n]), want) {
			return
		}
	}
}

func (s *service) end(code int) {
	s.t.Helper()
	select {
	case <-s.ended:
	case <-time.After(20 * time.Second):
		_ = s.cmd.Process.Kill()
		s.t.Fatalf("the sensor does not end")
	}
	if got := s.cmd.ProcessState.ExitCode(); got != code {
		s.t.Errorf("exit %d, want %d:\n%s", got, code, s.log.String())
	}
}

func set(caps []uint) (bits uint64) {
	for _, c := range caps {
		bits |= 1 << c
	}
	return bits
}

// holds checks the capabilities of every thread: exactly those, and no way to any other. The bounding set can only be
// narrowed by who may do that; no_new_privs makes it mean nothing.
func (s *service) holds(want, bound uint64) {
	s.t.Helper()
	threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", s.cmd.Process.Pid))
	if err != nil || len(threads) < 3 {
		s.t.Fatalf("threads %q, %v", threads, err)
	}
	for _, path := range threads {
		text, err := os.ReadFile(path)
		if err != nil {
			continue // it ended
		}
		seen := 0
		for line := range strings.Lines(string(text)) {
			key, value, _ := strings.Cut(strings.TrimSpace(line), ":\t")
			switch key {
			case "CapPrm", "CapEff", "CapInh", "CapAmb", "CapBnd":
				allowed := want
				if key == "CapBnd" {
					allowed = bound
				}
				got, err := strconv.ParseUint(value, 16, 64)
				if err != nil {
					s.t.Fatal(err)
				}
				seen++
				if exact := key == "CapPrm" || key == "CapEff"; got != want && exact || got&^allowed != 0 {
					s.t.Errorf("%s: %s is %x, want %x", path, key, got, want)
				}
			case "NoNewPrivs":
				seen++
				if value != "1" {
					s.t.Errorf("%s: NoNewPrivs is %s", path, value)
				}
			}
		}
		if seen != 6 {
			s.t.Errorf("%s does not say all:\n%s", path, text)
		}
	}
}

// inNamespace runs body on a thread in a network namespace that ends with it.
func inNamespace(t *testing.T, body func(t *testing.T)) {
	t.Helper()
	lab.NeedRoot(t)
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		ns, err := netns.New()
		if err != nil {
			t.Errorf("new namespace: %v", err)
			return
		}
		defer ns.Close()
		body(t)
	}()
	<-done
}

func veth(t *testing.T, name string) {
	t.Helper()
	if err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: name + "-peer"}, PeerName: name}); err != nil {
		t.Fatalf("make %s: %v", name, err)
	}
}

func TestService(t *testing.T) {
	ambient := []string{
		"setpriv", "--reuid", strconv.Itoa(nobody), "--regid", strconv.Itoa(nobody), "--clear-groups",
		"--inh-caps", "-all,+bpf,+net_admin,+perfmon,+net_raw", "--ambient-caps", "-all,+bpf,+net_admin,+perfmon,+net_raw",
		"--bounding-set", "-all,+bpf,+net_admin,+perfmon,+net_raw",
	}
	for _, tc := range []struct {
		name   string
		user   int
		before []string
		mode   string
		pinned bool
		caps   []uint
		bound  []uint
	}{
		{"root", 0, nil, "host", true, []uint{unix.CAP_NET_ADMIN}, []uint{unix.CAP_NET_ADMIN}},
		{"root with a pinned mirror", 0, nil, "mirror", true, []uint{unix.CAP_NET_ADMIN}, []uint{unix.CAP_NET_ADMIN}},
		{"root with a mirror", 0, nil, "mirror", false, []uint{unix.CAP_NET_ADMIN, unix.CAP_NET_RAW}, []uint{unix.CAP_NET_ADMIN, unix.CAP_NET_RAW}},
		{"user with ambient capabilities", nobody, ambient, "host", true, []uint{unix.CAP_NET_ADMIN}, []uint{unix.CAP_BPF, unix.CAP_NET_ADMIN, unix.CAP_PERFMON, unix.CAP_NET_RAW}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if tc.before != nil {
				lab.NeedTool(t, "setpriv")
			}
			inNamespace(t, func(t *testing.T) {
				veth(t, "first")
				s := prepare(t, tc.user, tc.pinned, "{name: first}, {name: later, optional: true, mode: "+tc.mode+"}")
				s.start(tc.before...)
				s.hear("READY=1")
				s.hear("STATUS=watches first (down), not later; streams to 0 of 1 controllers; has no directive yet")
				s.holds(set(tc.caps), set(tc.bound))
				s.hear("WATCHDOG=1")
				veth(t, "later")
				s.hear("STATUS=watches first (down) later (down);")
				if pinned, err := filepath.Glob(filepath.Join(s.dir, "bpf", "*", "*")); err != nil || tc.pinned != (len(pinned) > 0) {
					t.Errorf("pinned are %q (%v)", pinned, err)
				}

				// A hangup does not end it. A configuration with mistakes does not either.
				good, err := os.ReadFile(s.config)
				if err != nil {
					t.Fatal(err)
				}
				for _, text := range []string{string(good) + "log: {level: debug}\n", "interfaces: banana\n"} {
					s.configure(text)
					if err := s.cmd.Process.Signal(syscall.SIGHUP); err != nil {
						t.Fatal(err)
					}
					s.hear("RELOADING=1\nMONOTONIC_USEC=")
					s.hear("READY=1")
				}
				s.hear("WATCHDOG=1")
				s.holds(set(tc.caps), set(tc.bound))
				if err := s.cmd.Process.Signal(syscall.SIGTERM); err != nil {
					t.Fatal(err)
				}
				s.hear("STOPPING=1")
				s.end(0)
				for _, want := range []string{"capabilities dropped", "the configuration is read again", "the configuration is not read again", "msg=memory"} {
					if !strings.Contains(s.log.String(), want) {
						t.Errorf("the log does not say %q:\n%s", want, s.log.String())
					}
				}
			})
		})
	}
}

// TestKeyThatOnlyPrivilegesCanRead: found out at the start, not when the certificate is renewed.
func TestKeyThatOnlyPrivilegesCanRead(t *testing.T) {
	inNamespace(t, func(t *testing.T) {
		veth(t, "first")
		s := prepare(t, 0, false, "{name: first}")
		if err := os.Chown(filepath.Join(s.dir, "pki", "rack1.key"), nobody, nobody); err != nil {
			t.Fatal(err)
		}
		s.start()
		s.end(1)
		if !strings.Contains(s.log.String(), "rack1.key") || !strings.Contains(s.log.String(), "privileges are dropped") {
			t.Errorf("the log says\n%s", s.log.String())
		}
	})
}
