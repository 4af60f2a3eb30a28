package tap

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"golang.org/x/sys/unix"
)

// First waits for the first packet of a class. It costs nothing once it has it.
type First struct {
	file *os.File
	prog *ebpf.Program
}

// OpenFirst begins to watch an interface of the calling thread's network namespace.
func OpenFirst(ifindex int, c Class) (*First, error) {
	if err := c.check(); err != nil {
		return nil, err
	}
	ins := append(c.instructions(),
		asm.Mov.Imm(asm.R0, 64), // the packet's head is enough
		asm.Return(),
		asm.Mov.Imm(asm.R0, 0).WithSymbol(noMatch),
		asm.Return(),
	)
	prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{Name: "tap_first", Type: ebpf.SocketFilter, Instructions: ins, License: "MIT"})
	if err != nil {
		return nil, fmt.Errorf("tap: load the filter: %w", err)
	}
	fd, err := socket(ifindex, prog)
	if err != nil {
		return nil, errors.Join(err, prog.Close())
	}
	return &First{file: os.NewFile(uintptr(fd), "tap"), prog: prog}, nil
}

// Wait returns when the first packet crossed, and ends the tap.
func (f *First) Wait(ctx context.Context) (time.Time, error) {
	defer f.Close()
	at, _, _, err := next(ctx, f.file, make([]byte, 128))
	return at, err
}

// Close ends the tap.
func (f *First) Close() error { return errors.Join(f.file.Close(), f.prog.Close()) }

// next waits for a packet.
func next(ctx context.Context, file *os.File, buf []byte) (at time.Time, n int, from *unix.SockaddrLinklayer, err error) {
	conn, err := file.SyscallConn()
	if err != nil {
		return at, 0, nil, err
	}
	if err := file.SetReadDeadline(time.Time{}); err != nil {
		return at, 0, nil, err
	}
	stop := context.AfterFunc(ctx, func() { _ = file.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	var fail error
	err = conn.Read(func(fd uintptr) bool {
		n, at, from, fail = receive(int(fd), buf)
		return !errors.Is(fail, syscall.EAGAIN)
	})
	if ctx.Err() != nil && (err != nil || fail != nil) {
		return at, 0, nil, fmt.Errorf("tap: no packet: %w", ctx.Err())
	}
	return at, n, from, errors.Join(err, fail)
}
