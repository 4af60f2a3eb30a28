package tap

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"golang.org/x/sys/unix"
)

// Numbers checks off numbered packets, in the kernel: none is lost to the count. The number is the first word of a UDP
// payload: flood.Template.Numbered writes it.
type Numbers struct {
	file *os.File
	prog *ebpf.Program
	seen *ebpf.Map // number -> how often
	n    int
}

// OpenNumbers begins to check off the numbers 0 to n-1 of a class on an interface of the calling thread's network
// namespace.
func OpenNumbers(ifindex int, c Class, n int) (*Numbers, error) {
	if err := c.check(); err != nil {
		return nil, err
	}
	if c.Protocol != unix.IPPROTO_UDP || n < 1 || n > 1<<27 {
		return nil, fmt.Errorf("tap: %d numbered packets of protocol %d: it must be UDP, and 1 to 2^27 of them", n, c.Protocol)
	}
	seen, err := ebpf.NewMap(&ebpf.MapSpec{
		Name: "tap_numbers", Type: ebpf.Array, KeySize: 4, ValueSize: 8, MaxEntries: uint32(n), Flags: unix.BPF_F_MMAPABLE,
	})
	if err != nil {
		return nil, fmt.Errorf("tap: make the list of numbers: %w", err)
	}
	ins := append(c.instructions(),
		asm.LoadAbs(c.transport()+8, asm.Word),
		asm.StoreMem(asm.RFP, -4, asm.R0, asm.Word),
		asm.Mov.Reg(asm.R2, asm.RFP),
		asm.Add.Imm(asm.R2, -4),
		asm.LoadMapPtr(asm.R1, seen.FD()),
		asm.FnMapLookupElem.Call(),
		asm.JEq.Imm(asm.R0, 0, noMatch),
		asm.Mov.Imm(asm.R1, 1),
		asm.StoreXAdd(asm.R0, asm.R1, asm.DWord),
		asm.Mov.Imm(asm.R0, 0).WithSymbol(noMatch), // the socket itself gets nothing
		asm.Return(),
	)
	x := &Numbers{seen: seen, n: n}
	x.prog, err = ebpf.NewProgram(&ebpf.ProgramSpec{Name: "tap_numbers", Type: ebpf.SocketFilter, Instructions: ins, License: "MIT"})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("tap: load the program that checks numbers off: %+w", err), seen.Close())
	}
	fd, err := socket(ifindex, x.prog)
	if err != nil {
		return nil, errors.Join(err, x.prog.Close(), seen.Close())
	}
	x.file = os.NewFile(uintptr(fd), "numbers")
	return x, nil
}

// Close ends the count.
func (x *Numbers) Close() error {
	return errors.Join(x.file.Close(), x.prog.Close(), x.seen.Close())
}

// Missing returns how many of the first n numbers have not come, the lowest of them, and how many came more than once.
func (x *Numbers) Missing(n int) (missing, lowest, twice int, err error) {
	m, err := x.seen.Memory()
	if err != nil {
		return 0, 0, 0, fmt.Errorf("tap: read the list of numbers: %w", err)
	}
	b := make([]byte, 8*min(n, x.n))
	if _, err := m.ReadAt(b, 0); err != nil {
		return 0, 0, 0, fmt.Errorf("tap: read the list of numbers: %w", err)
	}
	lowest = -1
	for i := range len(b) / 8 {
		switch times := binary.NativeEndian.Uint64(b[8*i:]); {
		case times == 0:
			if missing++; lowest < 0 {
				lowest = i
			}
		case times > 1:
			twice++
		}
	}
	return missing, lowest, twice, nil
}
