// Package tap measures packets on interfaces of a lab: when the first of a class crossed, how many per millisecond, and
// when a BGP UPDATE arrived. All times are the kernel's, as CLOCK_REALTIME.
package tap

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"golang.org/x/sys/unix"
)

// Class is a set of packets, by what is at fixed places: IPv4 without options and IPv6 without extension headers.
type Class struct {
	// Destination of the packets; required, and decides the family.
	Destination netip.Addr
	// Protocol is the IP protocol; required.
	Protocol uint8
	// SourcePort and DestinationPort, where not 0.
	SourcePort, DestinationPort uint16
	// FlagsSet must be set and FlagsClear clear in the flags octet of TCP.
	FlagsSet, FlagsClear uint8
}

func (c Class) check() error {
	if !c.Destination.IsValid() || c.Protocol == 0 {
		return errors.New("tap: a class needs a destination and a protocol")
	}
	return nil
}

// Offsets from the Ethernet header on.
func (c Class) transport() int32 {
	if c.Destination.Is6() {
		return 14 + 40
	}
	return 14 + 20
}

const noMatch = "no_match"

// instructions jump to noMatch unless the packet is of the class and coming in. R6 holds the context, as LoadAbs wants.
func (c Class) instructions() asm.Instructions {
	const pktType = 4 // offset in struct __sk_buff
	ins := asm.Instructions{
		asm.Mov.Reg(asm.R6, asm.R1),
		asm.LoadMem(asm.R2, asm.R6, pktType, asm.Word),
		asm.JEq.Imm(asm.R2, unix.PACKET_OUTGOING, noMatch),
	}
	must := func(offset int32, size asm.Size, want int32) {
		ins = append(ins, asm.LoadAbs(offset, size), asm.JNE.Imm32(asm.R0, want, noMatch))
	}
	if c.Destination.Is6() {
		must(12, asm.Half, unix.ETH_P_IPV6)
		must(14+6, asm.Byte, int32(c.Protocol))
		a := c.Destination.As16()
		for i := int32(0); i < 16; i += 4 {
			must(14+24+i, asm.Word, int32(binary.BigEndian.Uint32(a[i:])))
		}
	} else {
		must(12, asm.Half, unix.ETH_P_IP)
		must(14+9, asm.Byte, int32(c.Protocol))
		a := c.Destination.As4()
		must(14+16, asm.Word, int32(binary.BigEndian.Uint32(a[:])))
	}
	if c.SourcePort != 0 {
		must(c.transport(), asm.Half, int32(c.SourcePort))
	}
	if c.DestinationPort != 0 {
		must(c.transport()+2, asm.Half, int32(c.DestinationPort))
	}
	if m := c.FlagsSet | c.FlagsClear; m != 0 {
		ins = append(ins,
			asm.LoadAbs(c.transport()+13, asm.Byte),
			asm.And.Imm(asm.R0, int32(m)),
			asm.JNE.Imm32(asm.R0, int32(c.FlagsSet), noMatch),
		)
	}
	return ins
}

// socket opens a packet socket on an interface of the calling thread's namespace, with a program that decides what it
// gets.
func socket(ifindex int, filter *ebpf.Program) (int, error) {
	// No packets until the filter is in place: the protocol comes with bind.
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return -1, fmt.Errorf("tap: packet socket: %w", err)
	}
	var errs []error
	if filter != nil {
		errs = append(errs, unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ATTACH_BPF, filter.FD()))
	}
	errs = append(errs,
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TIMESTAMPNS, 1),
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 16<<20),
		unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: htons(unix.ETH_P_ALL), Ifindex: ifindex}),
	)
	if err := errors.Join(errs...); err != nil {
		return -1, errors.Join(fmt.Errorf("tap: %w", err), unix.Close(fd))
	}
	return fd, nil
}

func htons(v uint16) uint16 { return v<<8 | v>>8 }

// receive reads one packet with the kernel's timestamp, or unix.EAGAIN.
func receive(fd int, buf []byte) (n int, at time.Time, from *unix.SockaddrLinklayer, err error) {
	oob := make([]byte, 64)
	n, oobn, _, sa, err := unix.Recvmsg(fd, buf, oob, 0)
	if err != nil {
		return 0, at, nil, err
	}
	messages, err := unix.ParseSocketControlMessage(oob[:oobn])
	if err != nil {
		return 0, at, nil, err
	}
	for _, m := range messages {
		if m.Header.Level == unix.SOL_SOCKET && m.Header.Type == unix.SCM_TIMESTAMPNS && len(m.Data) >= 16 {
			at = time.Unix(int64(binary.NativeEndian.Uint64(m.Data)), int64(binary.NativeEndian.Uint64(m.Data[8:])))
		}
	}
	if at.IsZero() {
		return 0, at, nil, errors.New("tap: a packet without a timestamp")
	}
	ll, _ := sa.(*unix.SockaddrLinklayer)
	return n, at, ll, nil
}
