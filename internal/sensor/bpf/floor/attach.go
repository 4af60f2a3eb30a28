//go:build linux

package floor

import (
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
)

// Attach puts the floor on an interface of the calling thread's network namespace: at its ingress, where every packet
// passes, or in XDP, where every packet is dropped once it is counted. With empty, a program that does nothing but that
// takes its place.
func (b *Bench) Attach(d Door, ifindex int, empty bool) (io.Closer, error) {
	if d == XDP {
		program := b.floor.FloorXdp
		if empty {
			program = b.floor.EmptyXdp
		}
		l, err := link.AttachXDP(link.XDPOptions{Program: program, Interface: ifindex, Flags: link.XDPDriverMode})
		if err != nil {
			return nil, fmt.Errorf("attach the floor's XDP program: %w", err)
		}
		return l, nil
	}
	program := b.floor.FloorIngress
	if empty {
		program = b.floor.EmptyTc
	}
	l, err := link.AttachTCX(link.TCXOptions{Interface: ifindex, Program: program, Attach: ebpf.AttachTCXIngress})
	if err != nil {
		return nil, fmt.Errorf("attach the floor's tcx program: %w", err)
	}
	return l, nil
}

// Generator sends frames out of an interface as fast as one processor makes them: BPF_PROG_RUN on live frames, each
// redirected. The other end must run XDP, else all are lost; what it receives is handled on the same processor.
type Generator struct {
	drive *driveObjects
	frame []byte
}

// NewGenerator makes a generator of UDP over IPv4 from port 53: to one protected target or, rotating, to 65,536 of them.
func NewGenerator(ifindex int, rotating bool) (*Generator, error) {
	at := 0
	if rotating {
		at = lowTarget4
	}
	o, err := openDrive(nil, at, ifindex)
	if err != nil {
		return nil, err
	}
	if err := o.order(scattered, scatteredStep); err != nil {
		return nil, errors.Join(err, o.Close())
	}
	return &Generator{drive: o, frame: ethernet(0x0800, ipv4(stranger4, host4, 17, udp(53, 4444, make([]byte, 18))))}, nil
}

// Close unloads the generator.
func (g *Generator) Close() error { return g.drive.Close() }

const liveFrames = 1 << 1 // BPF_F_TEST_XDP_LIVE_FRAMES

// Send sends so many frames, and some more if a signal comes in between; the goroutine must be locked to a thread that is
// in the interface's network namespace. It returns the thread's processor time, of which the receiver's work is part, and
// the time by the clock. Count what arrives.
func (g *Generator) Send(packets int) (processor, clock time.Duration, err error) {
	began, begin := time.Now(), threadTime()
	_, err = g.drive.Redirect.Run(&ebpf.RunOptions{Data: g.frame, Repeat: uint32(packets), Flags: liveFrames})
	if err != nil {
		return 0, 0, fmt.Errorf("run on live frames: %w", err)
	}
	return threadTime() - begin, time.Since(began), nil
}
