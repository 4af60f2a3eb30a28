package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"time"

	"github.com/amooglesoft/trafficmonitor/test/kernels/guest"
)

// machine is a virtual machine without disk and network.
type machine struct {
	kernel, initramfs string
	accel             string
	limit             time.Duration
}

// boot runs the machine until it powers off and hands over each message. A machine that ends without its last message,
// because its kernel panicked or the limit passed, is an error with the end of its console.
func boot(ctx context.Context, m machine, handle func(guest.Message) error) error {
	ctx, cancel := context.WithTimeoutCause(ctx, m.limit, fmt.Errorf("the machine ran for more than %v", m.limit))
	defer cancel()
	messages, port, err := os.Pipe()
	if err != nil {
		return err
	}
	defer messages.Close()
	var console tail
	cmd := exec.CommandContext(ctx, "qemu-system-x86_64",
		"-accel", m.accel, "-cpu", "max", "-smp", "2", "-m", "2048", "-nodefaults", "-display", "none", "-no-reboot",
		"-kernel", m.kernel, "-initrd", m.initramfs, "-append", "console=ttyS0 panic=-1 quiet loglevel=4",
		"-serial", "stdio", // the first is the console, the second the messages'
		"-add-fd", "fd=3,set=1", "-chardev", "file,id=messages,path=/dev/fdset/1,append=on", "-serial", "chardev:messages")
	cmd.ExtraFiles = []*os.File{port}
	cmd.Stdout, cmd.Stderr = &console, &console
	// The machine ends with us, even if we are killed. The kernel ties that to the thread that started it.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		port.Close()
		return err
	}
	port.Close()

	done, bad := false, error(nil)
	for in := json.NewDecoder(messages); ; {
		var msg guest.Message
		if err := in.Decode(&msg); err != nil {
			if !errors.Is(err, io.EOF) {
				bad = fmt.Errorf("messages of the machine: %w", err)
			}
			break
		}
		if msg.Error != "" {
			bad = errors.New(msg.Error)
			break
		}
		if msg.Done {
			done = true
			break
		}
		if bad = handle(msg); bad != nil {
			break
		}
	}
	if bad != nil {
		cancel()
	}
	_, _ = io.Copy(io.Discard, messages)
	err = cmd.Wait()
	if cause := context.Cause(ctx); cause != nil && bad == nil {
		bad = cause
	}
	switch {
	case bad != nil:
		return fmt.Errorf("%w\n%s", bad, console.last())
	case err != nil || !done:
		return fmt.Errorf("the machine stopped before it was done (%v)\n%s", err, console.last())
	}
	return nil
}

// tail keeps the end of what is written to it.
type tail struct{ b bytes.Buffer }

const tailLength = 4 << 10

func (t *tail) Write(p []byte) (int, error) {
	if t.b.Len() > 2*tailLength {
		t.b.Next(t.b.Len() - tailLength)
	}
	return t.b.Write(p)
}

func (t *tail) last() string {
	b := t.b.Bytes()
	return string(b[max(0, len(b)-tailLength):])
}
