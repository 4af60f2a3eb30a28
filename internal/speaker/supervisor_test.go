package speaker

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// supervised runs a supervisor of speakers in processes of their own.
type supervised struct {
	t      *testing.T
	cancel context.CancelFunc
	done   chan error

	mu   sync.Mutex
	last SupervisorStatus // guarded by mu
	pids map[int]bool     // every speaker seen; guarded by mu
}

func supervise(t *testing.T, c processConfig, change func(*SupervisorOptions)) *supervised {
	t.Helper()
	out, err := os.Create(filepath.Join(t.TempDir(), "speaker.log"))
	if err != nil {
		t.Fatal(err)
	}
	v := &supervised{t: t, done: make(chan error, 1), pids: map[int]bool{}}
	o := SupervisorOptions{
		Socket: c.Socket, Command: []string{os.Args[0]}, Env: c.env(t), Output: out, Log: testLog(t),
		Interval: 200 * time.Millisecond, MinBackoff: 20 * time.Millisecond, MaxBackoff: 100 * time.Millisecond,
		OnStatus: func(st SupervisorStatus) {
			v.mu.Lock()
			defer v.mu.Unlock()
			v.last = st
			if st.PID != 0 {
				v.pids[st.PID] = true
			}
		},
	}
	if change != nil {
		change(&o)
	}
	s, err := NewSupervisor(o)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	v.cancel = cancel
	go func() { v.done <- s.Run(ctx) }()
	t.Cleanup(func() {
		v.end()
		v.mu.Lock()
		defer v.mu.Unlock()
		for pid := range v.pids {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
		out.Close()
		if b, err := os.ReadFile(out.Name()); err == nil && t.Failed() {
			t.Logf("output of the speaker:\n%s", b)
		}
	})
	return v
}

func (v *supervised) end() {
	v.cancel()
	if v.done != nil {
		if err := <-v.done; err != nil {
			v.t.Error(err)
		}
		v.done = nil
	}
}

func (v *supervised) status() SupervisorStatus {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.last
}

func (v *supervised) wait(what string, ok func(SupervisorStatus) bool) SupervisorStatus {
	v.t.Helper()
	waitFor(v.t, what, func() bool { return ok(v.status()) })
	return v.status()
}

func TestSupervisor(t *testing.T) {
	t.Parallel()
	f := newFakeRouter(t)
	f.keep = true
	f.serve()
	dir := t.TempDir()
	c := processConfig{Socket: filepath.Join(dir, "s"), Journal: filepath.Join(dir, "journal"), Peers: []Peer{f.peer("edge1")}}
	v := supervise(t, c, nil)
	st := v.wait("a speaker", func(s SupervisorStatus) bool { return s.Running })
	if st.Adopted || st.Restarts != 0 || st.Version != "child" || st.PID == os.Getpid() {
		t.Errorf("status: %+v", st)
	}
	if sid, err := syscallGetsid(st.PID); err != nil || sid != st.PID {
		t.Errorf("session of %d is %d, %v: not its own", st.PID, sid, err)
	}
	client, err := Dial(c.Socket)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	if _, err := client.Set(t.Context(), 1, 1, desired(t, all...)); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "all routes", func() bool { return len(f.routes()) == len(all) })

	// The end of the supervisor ends nothing; the next one adopts.
	v.end()
	v2 := supervise(t, c, nil)
	st2 := v2.wait("the adopted speaker", func(s SupervisorStatus) bool { return s.Running })
	if !st2.Adopted || st2.PID != st.PID {
		t.Errorf("adopted %+v, the speaker is %d", st2, st.PID)
	}
	if n := f.sessions(); n != 1 {
		t.Errorf("%d sessions: the change of the supervisor was felt", n)
	}

	// kill -9 of an adopted one: another one starts, and has announced the journal before anyone asked for it.
	var before int
	f.get(func() { before = f.updates })
	if err := syscall.Kill(st.PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	st3 := v2.wait("another speaker", func(s SupervisorStatus) bool { return s.Running && s.PID != st.PID })
	if st3.Adopted || st3.Restarts != 1 {
		t.Errorf("status: %+v", st3)
	}
	waitFor(t, "the next session", func() bool { return f.sessions() == 2 })
	waitFor(t, "its routes", func() bool { var n int; f.get(func() { n = f.updates - before }); return n == len(all) })
	got, err := client.Status(t.Context())
	if err != nil || got.Term != 1 || len(got.Routes) != len(all) {
		t.Errorf("after the restart: %d routes, term %d, %v", len(got.Routes), got.Term, err)
	}
}

// A speaker that hangs holds nobody up for ever: calls end with their time, and it is replaced.
func TestSupervisorHang(t *testing.T) {
	t.Parallel()
	f := newFakeRouter(t).serve()
	dir := t.TempDir()
	c := processConfig{Socket: filepath.Join(dir, "s"), Journal: filepath.Join(dir, "journal"), Peers: []Peer{f.peer("edge1")}}
	v := supervise(t, c, func(o *SupervisorOptions) { o.HangTimeout = 1500 * time.Millisecond })
	st := v.wait("a speaker", func(s SupervisorStatus) bool { return s.Running })
	client, err := Dial(c.Socket)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	if _, err := client.Status(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(st.PID, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if _, err := client.Set(ctx, 1, 1, desired(t, discard4)); !errors.Is(err, ErrNoSpeaker) {
		t.Errorf("set on a speaker that hangs: %v", err)
	}
	v.wait("the report", func(s SupervisorStatus) bool { return !s.Running && strings.Contains(s.Err, "does not answer") })
	v.wait("another speaker", func(s SupervisorStatus) bool { return s.Running && s.PID != st.PID && s.Restarts == 1 })
}

func TestSupervisorBackoff(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	v := supervise(t, processConfig{Socket: filepath.Join(dir, "s"), Crash: true}, nil)
	st := v.wait("restarts", func(s SupervisorStatus) bool { return s.Restarts >= 3 })
	if st.Running || !strings.Contains(st.Err, "exit status 3") {
		t.Errorf("status: %+v", st)
	}
	v.end()

	v = supervise(t, processConfig{Socket: filepath.Join(dir, "s")}, func(o *SupervisorOptions) { o.Command = []string{"/does/not/exist"} })
	v.wait("the reason", func(s SupervisorStatus) bool { return strings.Contains(s.Err, "/does/not/exist") })
}

// Two speakers never run on one journal or one socket.
func TestSecondSpeaker(t *testing.T) {
	t.Parallel()
	f := newFakeRouter(t).serve()
	o := testOptions(t, f.peer("edge1"))
	s := start(t, o)
	c := processConfig{Socket: o.Socket + "2", Journal: o.Journal, Peers: o.Peers}
	for _, x := range []struct {
		name, want string
		change     func()
	}{
		{"journal", "in use by another speaker (pid ", func() {}},
		{"socket", "another speaker answers there", func() { c.Socket, c.Journal = o.Socket, o.Journal+"2" }},
	} {
		x.change()
		cmd := exec.Command(os.Args[0])
		cmd.Env = c.env(t)
		out, err := cmd.CombinedOutput()
		if err == nil || !strings.Contains(string(out), x.want) {
			t.Errorf("same %s: %v\n%s", x.name, err, out)
		}
	}
	s.status()
	// A stale socket is replaced.
	s.stop()
	if err := os.WriteFile(o.Socket+"x", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(os.Args[0])
	cmd.Env = processConfig{Socket: o.Socket, Journal: o.Journal, Peers: o.Peers}.env(t)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "the socket", func() bool { _, err := s.client.Status(t.Context()); return err == nil })
	_ = cmd.Process.Kill() // leaves its socket behind
	_ = cmd.Wait()
	if _, err := os.Stat(o.Socket); err != nil {
		t.Fatal(err)
	}
	s = start(t, o)
	s.status()
	if st, err := os.Stat(o.Socket); err != nil || st.Mode().Perm() != 0o660 {
		t.Errorf("mode of the socket: %v, %v", st.Mode(), err)
	}
}

func TestOptionsSayEverything(t *testing.T) {
	err := Options{
		Socket: "/s", Journal: "/j", ListenPort: -1, RouterID: [1]Options{}[0].RouterID, OnStop: "later",
		Peers: []Peer{{Name: "a", MultihopTTL: 2, TTLSecurity: true, Passive: true, MD5: strings.Repeat("x", 81)}, {Name: "a", ASN: 1}},
	}.Check()
	for _, want := range []string{
		"asn: not given", "router_id", "on_stop: \"later\"", "own prefixes: none given", "peer a: address", "peer a: asn",
		"listen_port says there is no listener", "81 octets", "exclude each other", "name stands twice",
	} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("no word of %q in: %v", want, err)
		}
	}
}

func syscallGetsid(pid int) (int, error) {
	sid, _, errno := syscall.Syscall(syscall.SYS_GETSID, uintptr(pid), 0, 0)
	if errno != 0 {
		return 0, errno
	}
	return int(sid), nil
}
