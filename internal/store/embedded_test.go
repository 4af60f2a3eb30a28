package store

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/amooglesoft/trafficmonitor/internal/mitigation"
)

// childDir makes this test binary a controller that leads, commits one mitigation, says so and then hangs.
const childDir = "TRAFFICMONITOR_STORE_TEST_CHILD"

func TestMain(m *testing.M) {
	if dir := os.Getenv(childDir); dir != "" {
		child(dir)
	}
	os.Exit(m.Run())
}

func child(dir string) {
	fail := func(err error) {
		fmt.Println("failed:", err)
		os.Exit(1)
	}
	s, err := Open(context.Background(), Options{Name: "child", DataDir: dir, LeaseTTL: time.Hour})
	if err != nil {
		fail(err)
	}
	fail(s.Lead(context.Background(), func(ctx context.Context, t *Term) error {
		if _, err := t.Commit(ctx, Change{Holds: []mitigation.Hold{sampleHold}}); err != nil {
			fail(err)
		}
		fmt.Println("term", t.Number())
		<-ctx.Done()
		return nil
	}))
}

var sampleHold = mitigation.Hold{Target: mustPrefix("192.0.2.0/24"), Until: time.Date(2100, 1, 1, 0, 0, 0, 0, time.UTC), Requester: "ann", Reason: "ours"}

// startChild runs a controller in another process and returns when it leads and has committed.
func startChild(t *testing.T, dir string) (cmd *exec.Cmd, term uint64) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd = exec.Command(self)
	cmd.Env = append(os.Environ(), childDir+"="+dir)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if cmd.ProcessState == nil {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		}
	})
	line, err := bufio.NewReader(out).ReadString('\n')
	if _, serr := fmt.Sscanf(line, "term %d", &term); serr != nil {
		t.Fatalf("child said %q, %v", line, err)
	}
	return cmd, term
}

func TestKilledControllerIsBackAtOnce(t *testing.T) {
	dir := t.TempDir()
	cmd, term := startChild(t, dir)

	// While it lives nobody else may use its directory.
	if s, err := Open(t.Context(), Options{Name: "two", DataDir: dir}); err == nil {
		closeStore(t, s)
		t.Fatal("two controllers opened one directory")
	} else if want := fmt.Sprintf("in use by process %d", cmd.Process.Pid); !strings.Contains(err.Error(), want) {
		t.Errorf("error %q does not say %q", err, want)
	}

	if err := cmd.Process.Kill(); err != nil { // SIGKILL
		t.Fatal(err)
	}
	_ = cmd.Wait()

	s := open(t, Options{Name: "next", DataDir: dir})
	// Its lease is of an hour: only because it is revoked does the next lead within the patience of the test.
	l := lead(t, s)
	if l.Number() <= term {
		t.Errorf("term %d after %d", l.Number(), term)
	}
	r, err := l.Load(t.Context())
	if d := cmp.Diff([]mitigation.Hold{sampleHold}, r.Holds, equal...); err != nil || d != "" {
		t.Errorf("holds (-want +got):\n%s %v", d, err)
	}
}

func TestEmbeddedListensNowhere(t *testing.T) {
	listening := func() map[string]bool {
		out := map[string]bool{}
		fds, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatalf("this test reads its own descriptors: %v", err)
		}
		for _, fd := range fds {
			if l, err := os.Readlink(filepath.Join("/proc/self/fd", fd.Name())); err == nil && strings.HasPrefix(l, "socket:") {
				out[l] = true
			}
		}
		return out
	}
	before := listening()
	probe, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if len(listening()) != len(before)+1 {
		t.Fatal("the test does not see a listener of its own")
	}
	probe.Close()
	dir := t.TempDir()
	s := open(t, Options{DataDir: dir})
	lead(t, s)
	for l := range listening() {
		if !before[l] {
			t.Errorf("the embedded etcd opened %s", l)
		}
	}
	for _, d := range []string{dir + "/etcd", dir + "/etcd/member"} {
		if st, err := os.Stat(d); err != nil || st.Mode().Perm() != 0o700 {
			t.Errorf("%s: %v %v: others may read it", d, st.Mode(), err)
		}
	}
}

func TestOpenSaysWhatIsWrong(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		o    Options
		want string
	}{
		"no name":             {Options{DataDir: t.TempDir()}, "no name"},
		"nowhere":             {Options{Name: "x"}, "neither etcd endpoints nor a data directory"},
		"directory is a file": {Options{Name: "x", DataDir: file}, "not a directory"},
		"endpoint":            {Options{Name: "x", Endpoints: []string{"etcd1:2379"}}, "https://host:2379"},
		"endpoint not TLS":    {Options{Name: "x", Endpoints: []string{"http://etcd1:2379"}, TLS: &tls.Config{}}, "write https"},
		"negative":            {Options{Name: "x", DataDir: t.TempDir(), Keep: -1}, "negative"},
	} {
		t.Run(name, func(t *testing.T) {
			s, err := Open(t.Context(), c.o)
			if err == nil {
				closeStore(t, s)
				t.Fatal("accepted")
			}
			if !strings.Contains(err.Error(), c.want) || !strings.HasPrefix(err.Error(), "store: ") {
				t.Errorf("error %q, want %q", err, c.want)
			}
		})
	}
}

// TestOutOfSpace fills the embedded database to its quota with history, and looks that it helps itself.
func TestOutOfSpace(t *testing.T) {
	s := open(t, Options{DataDir: t.TempDir(), quota: 3 << 20})
	l := lead(t, s)
	m := sample(t, 1)
	m.Reason = strings.Repeat("x", 500_000)
	refused := false
	for range 20 {
		if _, err := l.Commit(t.Context(), Change{Put: []mitigation.Mitigation{m}}); err != nil {
			if !strings.Contains(err.Error(), "space") {
				t.Fatalf("refused, but not for space: %v", err)
			}
			refused = true
			break
		}
	}
	if !refused {
		t.Fatal("the quota does not bind")
	}
	s.checkSpace()
	if err := s.Healthy(); err != nil {
		t.Errorf("not healthy after making space: %v", err)
	}
	if _, err := l.Commit(t.Context(), Change{Put: []mitigation.Mitigation{m}}); err != nil {
		t.Errorf("commit after making space: %v", err)
	}
}

// TestEmbeddedDies: the store ends with its etcd, and says so to everybody, so that the process is started anew.
func TestEmbeddedDies(t *testing.T) {
	s := open(t, Options{DataDir: t.TempDir()})
	ended := make(chan error, 2)
	leads, ready := make(chan struct{}), make(chan struct{}, 100)
	go func() {
		ended <- s.Lead(t.Context(), func(ctx context.Context, _ *Term) error {
			close(leads)
			<-ctx.Done()
			return nil
		})
	}()
	go func() { ended <- s.Watch(t.Context(), func(Snapshot) { ready <- struct{}{} }) }()
	<-leads
	<-ready
	s.embedded.etcd.Server.HardStop()
	for n := 0; n < 2; {
		select {
		case err := <-ended:
			n++
			if !errors.Is(err, ErrClosed) || !strings.Contains(err.Error(), "restart the controller") {
				t.Errorf("ended with %v", err)
			}
		case <-ready: // a snapshot more
		case <-time.After(patience):
			t.Fatal("goes on without its etcd")
		}
	}
	if err := s.Healthy(); err == nil || !strings.Contains(err.Error(), "ended by itself") {
		t.Errorf("health: %v", err)
	}
}
