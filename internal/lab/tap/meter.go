package tap

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"golang.org/x/sys/unix"
)

// Meter counts the packets of a class per millisecond, in the kernel: no packet is copied, none is lost to the count.
type Meter struct {
	file  *os.File
	prog  *ebpf.Program
	count *ebpf.Map
	began time.Time // of the first bucket
	// realtime minus monotonic clock
	offset time.Duration
}

// The map's value: four words, then the buckets.
const (
	packetsAt = 8 * iota
	bytesAt
	firstAt // monotonic nanoseconds
	lastAt
	bucketsAt

	bucketWidth = time.Millisecond
	buckets     = 1 << 17 // two minutes; what comes later is counted in the last
)

// Counts is what a meter counted.
type Counts struct {
	// Packets, and Bytes from the IP header on.
	Packets, Bytes uint64
	// First and Last are when the first and the newest packet crossed; zero when none did.
	First, Last time.Time
}

// OpenMeter begins to count on an interface of the calling thread's network namespace.
func OpenMeter(ifindex int, c Class) (*Meter, error) {
	if err := c.check(); err != nil {
		return nil, err
	}
	count, err := ebpf.NewMap(&ebpf.MapSpec{
		Name: "tap_count", Type: ebpf.Array, KeySize: 4, ValueSize: bucketsAt + 8*buckets, MaxEntries: 1, Flags: unix.BPF_F_MMAPABLE,
	})
	if err != nil {
		return nil, fmt.Errorf("tap: make the counters: %w", err)
	}
	m := &Meter{count: count}
	var mono, real unix.Timespec
	if err := errors.Join(unix.ClockGettime(unix.CLOCK_MONOTONIC, &mono), unix.ClockGettime(unix.CLOCK_REALTIME, &real)); err != nil {
		return nil, errors.Join(err, count.Close())
	}
	m.offset = time.Duration(real.Nano() - mono.Nano())
	m.began = time.Unix(0, real.Nano())

	const packetLen = 0 // offset in struct __sk_buff
	ins := append(c.instructions(),
		asm.FnKtimeGetNs.Call(),
		asm.Mov.Reg(asm.R7, asm.R0),
		asm.LoadMapValue(asm.R8, count.FD(), 0),
		asm.Mov.Imm(asm.R1, 1),
		asm.StoreXAdd(asm.R8, asm.R1, asm.DWord), // packets
		asm.LoadMem(asm.R1, asm.R6, packetLen, asm.Word),
		asm.Sub.Imm(asm.R1, 14),
		asm.Mov.Reg(asm.R2, asm.R8),
		asm.Add.Imm(asm.R2, bytesAt),
		asm.StoreXAdd(asm.R2, asm.R1, asm.DWord),
		asm.StoreMem(asm.R8, lastAt, asm.R7, asm.DWord),
		asm.LoadMem(asm.R1, asm.R8, firstAt, asm.DWord),
		asm.JNE.Imm(asm.R1, 0, "bucket"),
		asm.StoreMem(asm.R8, firstAt, asm.R7, asm.DWord),
		asm.LoadImm(asm.R1, mono.Nano(), asm.DWord).WithSymbol("bucket"),
		asm.Sub.Reg(asm.R7, asm.R1),
		asm.Div.Imm(asm.R7, int32(bucketWidth)),
		asm.JLE.Imm(asm.R7, buckets-1, "add"),
		asm.Mov.Imm(asm.R7, buckets-1),
		asm.LSh.Imm(asm.R7, 3).WithSymbol("add"),
		asm.Add.Reg(asm.R8, asm.R7),
		asm.Add.Imm(asm.R8, bucketsAt),
		asm.Mov.Imm(asm.R1, 1),
		asm.StoreXAdd(asm.R8, asm.R1, asm.DWord),
		asm.Mov.Imm(asm.R0, 0).WithSymbol(noMatch), // the socket itself gets nothing
		asm.Return(),
	)
	m.prog, err = ebpf.NewProgram(&ebpf.ProgramSpec{Name: "tap_meter", Type: ebpf.SocketFilter, Instructions: ins, License: "MIT"})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("tap: load the meter: %+w", err), count.Close())
	}
	fd, err := socket(ifindex, m.prog)
	if err != nil {
		return nil, errors.Join(err, m.prog.Close(), count.Close())
	}
	m.file = os.NewFile(uintptr(fd), "meter")
	return m, nil
}

// Close ends the count.
func (m *Meter) Close() error {
	return errors.Join(m.file.Close(), m.prog.Close(), m.count.Close())
}

func (m *Meter) value() ([]byte, error) {
	v, err := m.count.LookupBytes(uint32(0))
	if err != nil {
		return nil, fmt.Errorf("tap: read the counters: %w", err)
	}
	if len(v) < bucketsAt+8*buckets {
		return nil, errors.New("tap: the counters are not there")
	}
	return v, nil
}

func (m *Meter) time(mono uint64) time.Time {
	if mono == 0 {
		return time.Time{}
	}
	return time.Unix(0, int64(mono)+int64(m.offset))
}

// Counts returns the totals so far.
func (m *Meter) Counts() (Counts, error) {
	v, err := m.value()
	if err != nil {
		return Counts{}, err
	}
	at := func(i int) uint64 { return binary.NativeEndian.Uint64(v[i:]) }
	return Counts{at(packetsAt), at(bytesAt), m.time(at(firstAt)), m.time(at(lastAt))}, nil
}

// Curve is the packets of every millisecond since the meter was opened.
type Curve struct {
	Began   time.Time
	Packets []uint64
}

// Curve returns what was counted so far.
func (m *Meter) Curve() (Curve, error) {
	v, err := m.value()
	if err != nil {
		return Curve{}, err
	}
	n := min(int(time.Since(m.began)/bucketWidth)+1, buckets)
	c := Curve{Began: m.began, Packets: make([]uint64, n)}
	for i := range c.Packets {
		c.Packets[i] = binary.NativeEndian.Uint64(v[bucketsAt+8*i:])
	}
	return c, nil
}

// Between returns the packets counted in [from, to), to the millisecond.
func (c Curve) Between(from, to time.Time) uint64 {
	lo := max(int(from.Sub(c.Began)/bucketWidth), 0)
	hi := min(int(to.Sub(c.Began)/bucketWidth), len(c.Packets))
	var n uint64
	for i := lo; i < hi; i++ {
		n += c.Packets[i]
	}
	return n
}

// PPS is the mean rate in [from, to).
func (c Curve) PPS(from, to time.Time) float64 {
	d := to.Sub(from).Seconds()
	if d <= 0 {
		return 0
	}
	return float64(c.Between(from, to)) / d
}

// Drop returns when the flow fell to at most the given rate and stayed there, on the mean of every span-long window, until
// end: the end of the last millisecond that still belonged to a faster flow. ok is false when it never fell.
func (c Curve) Drop(from, end time.Time, rate float64, span time.Duration) (at time.Time, ok bool) {
	lo := max(int(from.Sub(c.Began)/bucketWidth), 0)
	hi := min(int(end.Sub(c.Began)/bucketWidth), len(c.Packets))
	w := max(int(span/bucketWidth), 1)
	if hi-lo < w {
		return time.Time{}, false
	}
	limit := rate * (time.Duration(w) * bucketWidth).Seconds()
	// From the end back: the first window that is too fast holds the drop; its last busy millisecond is the drop.
	var sum uint64
	for i := hi - w; i < hi; i++ {
		sum += c.Packets[i]
	}
	if float64(sum) > limit {
		return time.Time{}, false
	}
	for i := hi - w - 1; i >= lo; i-- {
		sum += c.Packets[i]
		sum -= c.Packets[i+w]
		if float64(sum) > limit {
			last := i
			for j := i + w - 1; j >= i; j-- {
				if float64(c.Packets[j]) > rate*bucketWidth.Seconds() {
					last = j
					break
				}
			}
			return c.Began.Add(time.Duration(last+1) * bucketWidth), true
		}
	}
	return c.Began.Add(time.Duration(lo) * bucketWidth), true
}
