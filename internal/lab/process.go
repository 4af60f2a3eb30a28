package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"

	"github.com/vishvananda/netns"
)

// Command is a program to be started inside a namespace.
type Command struct {
	// Name names the process and its log; empty means the program's base name.
	Name string
	// Argv is the program with its arguments. A name without a slash is looked up as FindTool does.
	Argv []string
	// Env is added to our own environment.
	Env []string
	// Dir is the working directory; empty means ours.
	Dir string
	// Sys shows the program a /sys of the namespace, as ip netns exec does; without it, it sees the machine's.
	Sys bool
	// OnLine is called with every line the program prints, before it is written to the log.
	OnLine func(line string)

	stdin io.Reader
}

// Process is a program running inside a namespace.
type Process struct {
	name string
	log  string
	cmd  *exec.Cmd
	done chan struct{}
	err  error // of Wait; valid once done is closed
}

// forker starts processes from one thread that lives as long as the lab: the kernel ends a child with Pdeathsig when the
// thread that started it ends, not the process.
type forker struct {
	jobs chan func()
	once sync.Once
}

func newForker() (*forker, error) {
	f := &forker{jobs: make(chan func())}
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the lab
		for job := range f.jobs {
			job()
		}
	}()
	return f, nil
}

func (f *forker) start(cmd *exec.Cmd, in netns.NsHandle) error {
	done := make(chan error, 1)
	f.jobs <- func() {
		origin, err := netns.Get()
		if err != nil {
			done <- err
			return
		}
		defer origin.Close()
		if err := netns.Set(in); err != nil {
			done <- err
			return
		}
		err = cmd.Start()
		done <- errors.Join(err, netns.Set(origin))
	}
	return <-done
}

func (f *forker) close() { f.once.Do(func() { close(f.jobs) }) }

// Start starts a program inside the namespace. It is ended at Close at the latest, and by the kernel when we die.
func (n *Namespace) Start(c Command) (*Process, error) {
	if c.Name == "" && len(c.Argv) > 0 {
		c.Name = filepath.Base(c.Argv[0])
	}
	path := filepath.Join(n.lab.dir, n.name+"-"+c.Name+".log")
	f, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, err
	}
	p, err := n.start(c, f)
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	p.log = path
	n.lab.mu.Lock()
	n.lab.processes = append(n.lab.processes, p)
	n.lab.mu.Unlock()
	return p, nil
}

// start starts the program and copies what it prints to out, which is closed at its end if it can be.
func (n *Namespace) start(c Command, out io.Writer) (*Process, error) {
	if len(c.Argv) == 0 {
		return nil, errors.New("nothing to start")
	}
	argv := c.Argv
	if !strings.Contains(argv[0], "/") {
		path := FindTool(argv[0])
		if path == "" {
			return nil, fmt.Errorf("start %s: not installed: scripts/deps.sh installs what the lab needs", argv[0])
		}
		argv = append([]string{path}, argv[1:]...)
	}
	if c.Sys {
		argv = append([]string{FindTool("ip"), "netns", "exec", n.FullName()}, argv...)
	}
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Env = append(append(os.Environ(), c.Env...), marker+"="+n.lab.id)
	cmd.Dir = c.Dir
	// A process group of its own: Ctrl-C is ours to handle, in an order that keeps the logs readable.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	pr, pw, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = c.stdin, pw, pw
	n.lab.mu.Lock()
	closed := n.lab.closed
	n.lab.mu.Unlock()
	if closed {
		return nil, errors.Join(errors.New("the lab is closed"), pr.Close(), pw.Close())
	}
	if err := n.lab.fork.start(cmd, n.handle); err != nil {
		return nil, errors.Join(fmt.Errorf("start %s in %s: %w", strings.Join(argv, " "), n.name, err), pr.Close(), pw.Close())
	}
	pw.Close()
	p := &Process{name: n.name + "/" + c.Name, cmd: cmd, done: make(chan struct{})}
	copied := make(chan struct{})
	go func() {
		defer close(copied)
		copyLines(out, pr, c.OnLine)
		pr.Close()
	}()
	go func() {
		err := cmd.Wait()
		// A grandchild may hold the pipe; the program's own end is what counts for Done.
		select {
		case <-copied:
		case <-afterGrace():
		}
		p.err = err
		close(p.done)
		<-copied
		if cl, ok := out.(io.Closer); ok {
			cl.Close()
		}
	}()
	return p, nil
}

// copyLines copies in to out and calls onLine for each line of it.
func copyLines(out io.Writer, in io.Reader, onLine func(string)) {
	buf := make([]byte, 64<<10)
	var part []byte
	for {
		k, err := in.Read(buf)
		if onLine != nil {
			part = append(part, buf[:k]...)
			for {
				i := bytes.IndexByte(part, '\n')
				if i < 0 {
					break
				}
				onLine(string(part[:i]))
				part = part[i+1:]
			}
		}
		if k > 0 {
			_, _ = out.Write(buf[:k]) // a full disk shows elsewhere; the program must not block on us
		}
		if err != nil {
			return
		}
	}
}

// Name is the namespace's and the program's name.
func (p *Process) Name() string { return p.name }

// Pid is the process id.
func (p *Process) Pid() int { return p.cmd.Process.Pid }

// LogFile is where all that the program prints is kept.
func (p *Process) LogFile() string { return p.log }

// Done is closed when the program has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// Err says how the program ended: nil for exit code 0. It is valid once Done is closed.
func (p *Process) Err() error {
	select {
	case <-p.done:
		return p.err
	default:
		return nil
	}
}

// Running reports whether the program has not ended.
func (p *Process) Running() bool {
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

func (p *Process) state() string {
	switch {
	case p.Running():
		return fmt.Sprintf("running, pid %d", p.Pid())
	case p.err != nil:
		return p.err.Error()
	}
	return "ended"
}

// Signal sends a signal to the program; to one that has ended it does nothing.
func (p *Process) Signal(s os.Signal) error {
	if err := p.cmd.Process.Signal(s); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("%v to %s: %w", s, p.name, err)
	}
	return nil
}

// Kill ends the program as kill -9 does.
func (p *Process) Kill() error { return p.Signal(syscall.SIGKILL) }

// Stop asks the program to end and waits for it; when ctx ends first, it is killed.
func (p *Process) Stop(ctx context.Context) error {
	if err := p.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	select {
	case <-p.done:
		return nil
	case <-ctx.Done():
	}
	if err := p.Kill(); err != nil {
		return err
	}
	<-p.done
	return fmt.Errorf("%s did not end when asked, and was killed", p.name)
}
