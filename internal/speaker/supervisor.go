package speaker

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"syscall"
	"time"
)

// SupervisorOptions is what a Supervisor is told.
type SupervisorOptions struct {
	Socket string
	// Command starts a speaker that listens on Socket: the program and its arguments.
	Command []string
	Env     []string // nil means this process's
	// Output is where the speaker writes; it must outlive this process, so it is a file and not a pipe of ours. nil
	// means this process's standard error.
	Output *os.File

	Interval    time.Duration // between two questions whether it lives; 2 s when 0
	HangTimeout time.Duration // a speaker that does not answer for so long is killed; 30 s when 0
	MinBackoff  time.Duration // between two starts, doubled each time; 200 ms when 0
	MaxBackoff  time.Duration // 30 s when 0

	OnStatus func(SupervisorStatus) // called on every change, one call at a time; may be nil
	Log      *slog.Logger
}

// SupervisorStatus says how the speaker is.
type SupervisorStatus struct {
	Running  bool   // it answers
	Adopted  bool   // it was there before this process
	PID      int    // 0 when there is none
	Version  string // of the running speaker; another than ours after an upgrade of the controller
	Restarts int    // times it was started again
	Err      string // why it is not running, with what to do; empty while it is
}

// Supervisor keeps a speaker alive that does not depend on it: the speaker runs in a session of its own, goes on when
// the controller ends or dies, and is adopted by the next one.
type Supervisor struct {
	o        SupervisorOptions
	client   *Client
	last     SupervisorStatus
	restarts int
}

// NewSupervisor returns a supervisor that does nothing until Run.
func NewSupervisor(o SupervisorOptions) (*Supervisor, error) {
	if o.Socket == "" || len(o.Command) == 0 {
		return nil, errors.New("speaker supervisor: a socket and a command are needed")
	}
	o.Interval = cmp.Or(o.Interval, 2*time.Second)
	o.HangTimeout = cmp.Or(o.HangTimeout, 30*time.Second)
	o.MinBackoff = cmp.Or(o.MinBackoff, 200*time.Millisecond)
	o.MaxBackoff = cmp.Or(o.MaxBackoff, 30*time.Second)
	o.Output = cmp.Or(o.Output, os.Stderr)
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	c, err := Dial(o.Socket)
	if err != nil {
		return nil, err
	}
	return &Supervisor{o: o, client: c}, nil
}

// process is a speaker we look after.
type process struct {
	*os.Process // a pidfd: never another process that got the same number
	adopted     bool
	exited      <-chan error
}

// Run keeps the speaker running until ctx ends. It then leaves the speaker as it is.
func (s *Supervisor) Run(ctx context.Context) error {
	defer s.client.Close()
	backoff := s.o.MinBackoff
	proc := s.adopt(ctx)
	for first := true; ctx.Err() == nil; first = false {
		if proc == nil {
			if !first {
				if !sleep(ctx, backoff) {
					break
				}
				backoff = min(2*backoff, s.o.MaxBackoff)
				if proc = s.adopt(ctx); proc == nil { // somebody else may have started one
					s.restarts++
				}
			}
			if proc == nil {
				var err error
				if proc, err = s.spawn(); err != nil {
					s.report(SupervisorStatus{Err: fmt.Sprintf("start %q: %v", s.o.Command, err)})
					continue
				}
			}
		}
		begin := time.Now()
		why := s.attend(ctx, proc)
		if ctx.Err() != nil {
			break
		}
		s.o.Log.Error("speaker ended", "pid", proc.Pid, "reason", why, "after", time.Since(begin).Round(time.Millisecond))
		s.report(SupervisorStatus{Err: why})
		if time.Since(begin) > time.Minute {
			backoff = s.o.MinBackoff
		}
		_ = proc.Release()
		proc = nil
	}
	return nil
}

// adopt returns the speaker that listens on the socket, whether it answers or hangs, or nil.
func (s *Supervisor) adopt(ctx context.Context) *process {
	var d net.Dialer
	dctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	c, err := d.DialContext(dctx, "unix", s.o.Socket)
	if err != nil {
		return nil
	}
	defer c.Close()
	pid, err := listenerPID(c.(*net.UnixConn))
	if err != nil || pid <= 1 || pid == os.Getpid() {
		return nil
	}
	p, err := os.FindProcess(pid)
	if err != nil {
		return nil
	}
	ended, err := processEnd(pid)
	if err != nil {
		return nil
	}
	s.o.Log.Info("speaker adopted", "pid", pid)
	return &process{Process: p, adopted: true, exited: ended}
}

// spawn starts a speaker in its own session, so that no signal of our terminal or of our end reaches it.
func (s *Supervisor) spawn() (*process, error) {
	cmd := exec.Command(s.o.Command[0], s.o.Command[1:]...)
	cmd.Env, cmd.Stdout, cmd.Stderr = s.o.Env, s.o.Output, s.o.Output
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	exited := make(chan error, 1)
	go func() { exited <- cmd.Wait() }() // ends with the speaker or with us
	p, err := os.FindProcess(cmd.Process.Pid)
	if err != nil {
		return nil, err
	}
	s.o.Log.Info("speaker started", "pid", p.Pid, "command", s.o.Command)
	return &process{Process: p, exited: exited}, nil
}

// attend watches one speaker until it is gone and says why.
func (s *Supervisor) attend(ctx context.Context, p *process) string {
	answered := time.Now()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return ""
		case err := <-p.exited:
			switch {
			case p.adopted:
				return "the adopted speaker is gone; its log says why"
			case err == nil:
				return "the speaker ended by itself"
			}
			return fmt.Sprintf("the speaker ended: %v; its log says why", err)
		case <-timer.C:
		}
		wait := s.o.Interval
		actx, cancel := context.WithTimeout(ctx, max(s.o.Interval, time.Second))
		st, err := s.client.Status(actx)
		cancel()
		switch {
		case ctx.Err() != nil:
			return ""
		case err == nil && st.PID == p.Pid:
			answered = time.Now()
			s.report(SupervisorStatus{Running: true, Adopted: p.adopted, PID: p.Pid, Version: st.Version})
		case time.Since(answered) > s.o.HangTimeout:
			_ = p.Kill()
			<-p.exited
			return fmt.Sprintf("the speaker (pid %d) did not answer for %s and was killed: %v", p.Pid, s.o.HangTimeout, err)
		default:
			if s.last.Running {
				s.report(SupervisorStatus{Adopted: p.adopted, PID: p.Pid, Err: fmt.Sprintf("the speaker (pid %d) does not answer: %v", p.Pid, err)})
			}
			wait = min(s.o.Interval, 50*time.Millisecond) // it starts, or it hangs
			if time.Since(answered) > 5*time.Second {
				wait = s.o.Interval
			}
		}
		timer.Reset(wait)
	}
}

func (s *Supervisor) report(st SupervisorStatus) {
	st.Restarts = s.restarts
	if st == s.last {
		return
	}
	s.last = st
	if st.Err != "" {
		s.o.Log.Warn("speaker is not running", "reason", st.Err)
	}
	if s.o.OnStatus != nil {
		s.o.OnStatus(st)
	}
}

func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}
