package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// marker is the environment variable that every process of a lab, and every descendant of one, carries: it tells our
// processes from all others.
const marker = "TRAFFICMONITOR_LAB"

var labs atomic.Int64 // numbers the labs of this process; nothing else hangs on it

// Options says how a lab is made. The zero Options is usable.
type Options struct {
	// Name appears in the run directory's name.
	Name string
	// Dir keeps logs and sockets; empty means a new directory below os.TempDir, removed at Close unless Keep is set.
	// Unix sockets are made in it, so its path must be short.
	Dir string
	// Keep leaves the run directory behind.
	Keep bool
	// Log takes what the lab does; nil discards it.
	Log *slog.Logger
}

// Lab is a set of network namespaces with the processes in them. Its methods may be called from several goroutines.
type Lab struct {
	id   string
	dir  string
	keep atomic.Bool
	log  *slog.Logger
	fork *forker

	mu         sync.Mutex
	namespaces []*Namespace // guarded by mu, in order of creation
	processes  []*Process   // guarded by mu, in order of their start
	closers    []func()     // guarded by mu
	closed     bool         // guarded by mu
}

// Open makes an empty lab, after clearing away what labs of dead processes left behind.
func Open(o Options) (*Lab, error) {
	if os.Geteuid() != 0 {
		return nil, errors.New("a lab needs root: it makes network namespaces")
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if err := Sweep(o.Log); err != nil {
		return nil, fmt.Errorf("clear away what dead labs left: %w", err)
	}
	// What a program of the lab starts and leaves behind becomes our child, not the machine's.
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return nil, fmt.Errorf("adopt orphans: %w", err)
	}
	l := &Lab{id: labID(os.Getpid(), labs.Add(1)), log: o.Log, dir: o.Dir}
	l.keep.Store(o.Keep)
	if l.dir == "" {
		l.dir = filepath.Join(os.TempDir(), l.id+"-"+clean(o.Name))
	} else {
		l.keep.Store(true) // the caller's directory is the caller's to remove
	}
	// Routers drop their privileges and must still reach their sockets below.
	if err := os.MkdirAll(l.dir, 0o755); err != nil {
		return nil, err
	}
	abs, err := filepath.Abs(l.dir)
	if err != nil {
		return nil, err
	}
	l.dir = abs
	if l.fork, err = newForker(); err != nil {
		return nil, err
	}
	return l, nil
}

// New makes a lab for a test that needs root: it skips the test without it, closes the lab at the test's end and at
// SIGINT or SIGTERM, and shows the end of every log when the test failed.
func New(t testing.TB, name string) *Lab {
	t.Helper()
	NeedRoot(t)
	l, err := Open(Options{Name: name})
	if err != nil {
		t.Fatal(err)
	}
	stop := l.closeOnSignal()
	t.Cleanup(func() {
		stop()
		l.mu.Lock()
		closed := l.closed
		l.mu.Unlock()
		if t.Failed() && !closed {
			l.keep.Store(true)
			t.Logf("logs are kept in %s\n%s", l.dir, l.Tails(30))
		}
		if err := l.Close(); err != nil {
			t.Errorf("close the lab: %v", err)
		}
	})
	return l
}

// Must returns v, or ends the test with err.
func Must[T any](t testing.TB, v T, err error) T {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// closeOnSignal closes the lab when the process is asked to end, and then lets it end. stop takes that back.
func (l *Lab) closeOnSignal() (stop func()) {
	c := make(chan os.Signal, 1)
	done := make(chan struct{})
	signal.Notify(c, os.Interrupt, syscall.SIGTERM)
	go func() {
		select {
		case s := <-c:
			fmt.Fprintf(os.Stderr, "%v: closing lab %s\n", s, l.id)
			if err := l.Close(); err != nil {
				fmt.Fprintln(os.Stderr, err)
			}
			os.Exit(128 + int(s.(syscall.Signal)))
		case <-done:
		}
	}()
	return sync.OnceFunc(func() { signal.Stop(c); close(done) })
}

// ID is the prefix of the names of all the lab's namespaces.
func (l *Lab) ID() string { return l.id }

// Dir is the run directory: logs, generated configurations, sockets.
func (l *Lab) Dir() string { return l.dir }

// Keep leaves the run directory behind at Close.
func (l *Lab) Keep() { l.keep.Store(true) }

// OnClose registers what Close must end before it stops the processes; last registered, first called.
func (l *Lab) OnClose(f func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closers = append(l.closers, f)
}

// Close stops every process of the lab, last started first, removes its namespaces with all that is in them, and its
// run directory unless it is to be kept. It may be called twice.
func (l *Lab) Close() error {
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return nil
	}
	l.closed = true
	closers, processes, namespaces := l.closers, l.processes, l.namespaces
	l.mu.Unlock()

	for _, f := range slices.Backward(closers) {
		f()
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	var errs []error
	for _, p := range slices.Backward(processes) {
		errs = append(errs, p.Stop(ctx))
	}
	// What our processes started and left, such as a speaker that outlives its controller.
	errs = append(errs, endMarked(l.id))
	for _, n := range slices.Backward(namespaces) {
		errs = append(errs, n.remove())
	}
	l.fork.close()
	if !l.keep.Load() {
		errs = append(errs, os.RemoveAll(l.dir))
	}
	return errors.Join(errs...)
}

// Tails returns the last lines of every log of the lab.
func (l *Lab) Tails(lines int) string {
	l.mu.Lock()
	processes := slices.Clone(l.processes)
	l.mu.Unlock()
	var out []byte
	for _, p := range processes {
		out = fmt.Appendf(out, "--- %s (%s)\n%s\n", p.Name(), p.state(), tail(p.LogFile(), lines))
	}
	return string(out)
}

// tail returns the last lines of a file, read from its last 64 KiB.
func tail(path string, lines int) string {
	f, err := os.Open(path)
	if err != nil {
		return err.Error()
	}
	defer f.Close()
	const most = 64 << 10
	if st, err := f.Stat(); err == nil && st.Size() > most {
		if _, err := f.Seek(-most, io.SeekEnd); err != nil {
			return err.Error()
		}
	}
	b, err := io.ReadAll(f)
	if err != nil {
		return err.Error()
	}
	i := len(b)
	for range lines + 1 {
		j := i - 1
		for j >= 0 && b[j] != '\n' {
			j--
		}
		if i = j; i < 0 {
			break
		}
	}
	return string(b[i+1:])
}
