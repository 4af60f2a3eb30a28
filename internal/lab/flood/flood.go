// Package flood sends attacks at an exact rate inside a lab: AF_PACKET, sendmmsg, no queueing discipline, one pinned
// thread, bounded in packets and in time.
package flood

import (
	"context"
	"errors"
	"fmt"
	"net"
	"runtime"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Options says what is sent, from where, and for how long.
type Options struct {
	Template *Template
	// Interface is the index of the interface to send from; Source and Gateway are its and the next hop's addresses.
	Interface       int
	Source, Gateway net.HardwareAddr
	// PPS is the rate; 0 means as fast as possible.
	PPS float64
	// Packets and Duration bound the attack; whichever is reached first ends it. Both are required.
	Packets  uint64
	Duration time.Duration
	// Pin keeps the sender on processor CPU. What the packets cost on veth links is spent there too.
	Pin bool
	CPU int
}

// Flood is an attack ready to be sent.
type Flood struct {
	o    Options
	fd   int
	sent atomic.Uint64
}

// Result is what was sent, by the sender's account: count at the receiver, too.
type Result struct {
	Packets      uint64
	Began, Ended time.Time
	// CPU is the processor time of the sending thread. What the packets cost on veth links is part of it.
	CPU time.Duration
	// Retries are sends the kernel had no buffer for; they were repeated.
	Retries uint64
}

// PPS is the rate achieved.
func (r Result) PPS() float64 {
	if d := r.Ended.Sub(r.Began).Seconds(); d > 0 {
		return float64(r.Packets) / d
	}
	return 0
}

// Open opens the socket of an attack in the network namespace of the calling thread.
func Open(o Options) (*Flood, error) {
	switch {
	case o.Template == nil:
		return nil, errors.New("flood: no template")
	case o.Packets == 0 || o.Duration <= 0:
		return nil, errors.New("flood: an attack needs a bound in packets and in time")
	case len(o.Source) != 6 || len(o.Gateway) != 6 || o.Interface == 0:
		return nil, errors.New("flood: no interface, or no addresses of it and of the next hop")
	}
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("flood: packet socket: %w", err)
	}
	err = errors.Join(
		unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_QDISC_BYPASS, 1),
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, 8<<20),
		unix.Bind(fd, &unix.SockaddrLinklayer{Ifindex: o.Interface}),
	)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("flood: %w", err), unix.Close(fd))
	}
	return &Flood{o: o, fd: fd}, nil
}

// Sent is the number of packets sent so far.
func (f *Flood) Sent() uint64 { return f.sent.Load() }

// Close closes the socket of an attack that was never run.
func (f *Flood) Close() error { return unix.Close(f.fd) }

// Run sends the attack until its bounds or ctx end it, and closes the socket.
func (f *Flood) Run(ctx context.Context) (Result, error) {
	type outcome struct {
		r   Result
		err error
	}
	done := make(chan outcome, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread keeps its processor until it ends
		r, err := f.run(ctx)
		done <- outcome{r, err}
	}()
	o := <-done
	return o.r, errors.Join(o.err, unix.Close(f.fd))
}

const batch = 64

// mmsghdr is struct mmsghdr of sendmmsg(2).
type mmsghdr struct {
	hdr unix.Msghdr
	len uint32
	_   [4]byte
}

func (f *Flood) run(ctx context.Context) (Result, error) {
	if f.o.Pin {
		var set unix.CPUSet
		set.Set(f.o.CPU)
		if err := unix.SchedSetaffinity(0, &set); err != nil {
			return Result{}, fmt.Errorf("flood: pin to processor %d: %w", f.o.CPU, err)
		}
	}
	// An attack comes from elsewhere and does not slow down because this machine is busy. Without the right to a
	// real-time priority the rate suffers on a busy machine, and the count at the receiver says so.
	_ = unix.SchedSetAttr(0, &unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_FIFO, Priority: 1}, 0)
	// Wake up when asked, not 50 µs later.
	_ = unix.Prctl(unix.PR_SET_TIMERSLACK, 1, 0, 0, 0)

	t := f.o.Template
	frames := make([][]byte, batch)
	iov := make([]unix.Iovec, batch)
	msgs := make([]mmsghdr, batch)
	for i := range frames {
		frame := make([]byte, 14+t.Len())
		copy(frame, f.o.Gateway)
		copy(frame[6:], f.o.Source)
		frame[12], frame[13] = 0x08, 0x00
		if t.v6 {
			frame[12], frame[13] = 0x86, 0xdd
		}
		copy(frame[14:], t.packet)
		frames[i] = frame
		iov[i].Base = &frame[0]
		iov[i].SetLen(len(frame))
		msgs[i].hdr.Iov = &iov[i]
		msgs[i].hdr.SetIovlen(1)
	}
	defer runtime.KeepAlive(frames)

	var r Result
	worked, err := threadTime()
	if err != nil {
		return r, err
	}
	r.Began = time.Now()
	for r.Packets < f.o.Packets && ctx.Err() == nil {
		elapsed := time.Since(r.Began)
		if elapsed >= f.o.Duration {
			break
		}
		due := min(f.o.Packets-r.Packets, batch)
		if f.o.PPS > 0 {
			ahead := f.o.PPS*elapsed.Seconds() - float64(r.Packets)
			if ahead < 1 {
				// Until eight packets are due, or one at low rates: waking up costs more than they do.
				wait := time.Duration((min(8, f.o.PPS/1000+1) - ahead) / f.o.PPS * float64(time.Second))
				pause := unix.NsecToTimespec(int64(min(wait, f.o.Duration-elapsed, 10*time.Millisecond)))
				_ = unix.Nanosleep(&pause, nil)
				continue
			}
			due = min(due, uint64(ahead))
		}
		for i := range due {
			t.fill(frames[i][14:], r.Packets+i)
		}
		n, _, errno := unix.Syscall6(unix.SYS_SENDMMSG, uintptr(f.fd), uintptr(unsafe.Pointer(&msgs[0])), uintptr(due), 0, 0, 0)
		switch errno {
		case 0:
			r.Packets += uint64(n)
			f.sent.Store(r.Packets)
		case unix.ENOBUFS, unix.EAGAIN, unix.EINTR:
			r.Retries++
		default:
			r.Ended = time.Now()
			return r, fmt.Errorf("flood: sendmmsg: %w", errno)
		}
	}
	r.Ended = time.Now()
	after, err := threadTime()
	r.CPU = after - worked
	return r, err
}

func threadTime() (time.Duration, error) {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &t); err != nil {
		return 0, fmt.Errorf("flood: processor time: %w", err)
	}
	return time.Duration(t.Nano()), nil
}
