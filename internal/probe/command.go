package probe

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"syscall"
	"time"
)

// MaxOutput is the longest answer that is read, in octets.
const MaxOutput = 32 << 20

// Command runs a router's commands: here, or there through a program such as ssh.
type Command struct {
	// Argv is a program and its arguments. The router's command becomes the last one; no shell of ours sees it.
	Argv []string
	// Timeout is how long an answer may take; the program and all it started are ended then.
	Timeout time.Duration
}

// Run runs one command of the router and returns what it printed.
func (c Command) Run(ctx context.Context, show string) ([]byte, error) {
	if len(c.Argv) == 0 || c.Argv[0] == "" {
		return nil, errors.New("ask the router: no program is configured")
	}
	ctx, cancel := context.WithTimeout(ctx, c.Timeout)
	defer cancel()
	argv := append(append([]string(nil), c.Argv...), show)
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) } // the group: ssh may have started others
	cmd.WaitDelay = time.Second
	stdout, stderr := &limited{most: MaxOutput, full: cancel}, &limited{most: 4 << 10}
	cmd.Stdout, cmd.Stderr = stdout, stderr
	err := cmd.Run()
	switch {
	case stdout.over:
		return nil, fmt.Errorf("ask the router %q: the answer is longer than %d MiB", show, MaxOutput>>20)
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		return nil, late{fmt.Errorf("ask the router %q: no answer within %s: try by hand: %s", show, c.Timeout, strings.Join(argv, " "))}
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case err != nil:
		said := strings.TrimSpace(stderr.buf.String())
		if said == "" {
			said = strings.TrimSpace(firstLine(strings.Split(stdout.buf.String(), "\n")))
		}
		return nil, fmt.Errorf("ask the router %q: %w: %s", show, err, quote(said))
	}
	return stdout.buf.Bytes(), nil
}

// limited keeps the first octets written to it, and calls full when there are more.
type limited struct {
	buf  bytes.Buffer
	most int
	over bool
	full func()
}

func (l *limited) Write(p []byte) (int, error) {
	if room := l.most - l.buf.Len(); len(p) > room {
		l.buf.Write(p[:room])
		if !l.over && l.full != nil {
			l.full()
		}
		l.over = true
		return len(p), nil
	}
	return l.buf.Write(p)
}
