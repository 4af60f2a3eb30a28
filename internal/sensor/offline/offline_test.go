package offline

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"golang.org/x/sys/unix"

	"github.com/amooglesoft/trafficmonitor/internal/lab"
	"github.com/amooglesoft/trafficmonitor/internal/sensor/classify"
	"github.com/amooglesoft/trafficmonitor/internal/vector"
)

// udp is a frame from 198.51.100.1 to a host of 192.0.2.0/24.
func udp(host byte, source, destination uint16, inside ...byte) []byte {
	b := make([]byte, 14+28, 14+28+len(inside))
	b[12] = 8
	ip := b[14:]
	ip[0], ip[9] = 0x45, 17
	binary.BigEndian.PutUint16(ip[2:], uint16(28+len(inside)))
	copy(ip[12:], []byte{198, 51, 100, 1, 192, 0, 2, host})
	binary.BigEndian.PutUint16(ip[20:], source)
	binary.BigEndian.PutUint16(ip[22:], destination)
	binary.BigEndian.PutUint16(ip[24:], uint16(8+len(inside)))
	return append(b, inside...)
}

// write makes a capture, of which every packet was longer on the wire by missing octets.
func write(t *testing.T, missing int, more []byte, frames ...[]byte) string {
	t.Helper()
	le := binary.LittleEndian
	b := le.AppendUint32(nil, 0xa1b2c3d4)
	b = le.AppendUint32(b, 2|4<<16)
	b = le.AppendUint64(b, 0)
	b = le.AppendUint32(le.AppendUint32(b, 65535), 1)
	for _, f := range frames {
		b = le.AppendUint64(b, 0)
		b = le.AppendUint32(le.AppendUint32(b, uint32(len(f))), uint32(len(f)+missing))
		b = append(b, f...)
	}
	name := filepath.Join(t.TempDir(), "test.pcap")
	if err := os.WriteFile(name, append(b, more...), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

func key(target string, d vector.Direction, v vector.ID) Key {
	return Key{netip.MustParsePrefix(target), d, v}
}

// count counts with the reference and, where there is the privilege, with both engines, which must agree.
func count(t *testing.T, o Options) *Result {
	t.Helper()
	o.Engine = Reference
	r, err := Count(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Run("kernel", func(t *testing.T) {
		lab.NeedRoot(t)
		o.Engine = Both
		both, err := Count(t.Context(), o)
		if err != nil {
			t.Fatal(err)
		}
		if len(both.Differs) > 0 {
			t.Errorf("the engines differ: %v", both.Differs)
		}
		o.Engine = Kernel
		kernel, err := Count(t.Context(), o)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(r, kernel, cmpopts.IgnoreFields(Result{}, "Engine", "Broken"), cmpopts.EquateComparable(netip.Prefix{})); diff != "" {
			t.Errorf("kernel: %s", diff)
		}
	})
	return r
}

func TestCount(t *testing.T) {
	arp := make([]byte, 60)
	arp[12], arp[13] = 8, 6
	name := write(t, 0, nil, udp(1, 53, 9, 1, 2), udp(1, 9, 443), udp(2, 53, 9), arp)
	r := count(t, Options{File: name})
	want := map[Key]Tally{
		key("192.0.2.1/32", vector.Inbound, vector.DNS):  {1, 30},
		key("192.0.2.1/32", vector.Inbound, vector.QUIC): {1, 28},
		key("192.0.2.2/32", vector.Inbound, vector.DNS):  {1, 28},
	}
	if diff := cmp.Diff(want, r.Counts, cmpopts.EquateComparable(netip.Prefix{})); diff != "" || r.Packets != 4 || r.NotIP != 1 {
		t.Errorf("%+v\n%s", r, diff)
	}
}

func TestTargets(t *testing.T) {
	name := write(t, 0, nil, udp(1, 9999, 53), udp(200, 9999, 53))
	r := count(t, Options{File: name, Targets: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/25"), netip.MustParsePrefix("198.51.100.0/24")}})
	want := map[Key]Tally{
		key("192.0.2.1/32", vector.Inbound, vector.DNSQuery): {1, 28},
		key("198.51.100.1/32", vector.Outbound, vector.DNS):  {2, 56},
	}
	if diff := cmp.Diff(want, r.Counts, cmpopts.EquateComparable(netip.Prefix{})); diff != "" || r.Unprotected != 1 {
		t.Errorf("%+v\n%s", r, diff)
	}
}

// TestCutAndBroken: what the capture cut off behind the headers counts, and what stands before a break.
func TestCutAndBroken(t *testing.T) {
	long := udp(1, 123, 9)
	binary.BigEndian.PutUint16(long[14+2:], 28+400)
	binary.BigEndian.PutUint16(long[14+24:], 8+400)
	r := count(t, Options{File: write(t, 400, []byte("half a header"), long)})
	if r.Counts[key("192.0.2.1/32", vector.Inbound, vector.NTP)] != (Tally{1, 428}) || r.Broken == nil {
		t.Errorf("%+v", r)
	}
}

func TestDecapsulates(t *testing.T) {
	inner := udp(7, 123, 9)
	name := write(t, 0, nil, udp(1, 50000, classify.PortVXLAN, append([]byte{8, 0, 0, 0, 0, 0, 1, 0}, inner...)...))
	r := count(t, Options{File: name, Decapsulate: classify.VXLAN})
	if r.Counts[key("192.0.2.7/32", vector.Inbound, vector.NTP)] != (Tally{1, 28}) || len(r.Counts) != 1 {
		t.Errorf("%+v", r)
	}
}

// TestScatteredIPv6: hosts that share nothing of their addresses.
func TestScatteredIPv6(t *testing.T) {
	var frames [][]byte
	for i := range byte(200) {
		b := make([]byte, 14+48)
		b[12], b[13] = 0x86, 0xdd
		ip := b[14:]
		ip[0], ip[5], ip[6] = 0x60, 8, 17
		for j := range byte(16) {
			ip[24+j] = i*(2*j+3) + 7*j
		}
		ip[24] = 0x20 | i>>4
		binary.BigEndian.PutUint16(ip[40:], 53)
		binary.BigEndian.PutUint16(ip[44:], 8)
		frames = append(frames, b)
	}
	if r := count(t, Options{File: write(t, 0, nil, frames...)}); len(r.Counts) != len(frames) {
		t.Errorf("%d targets, want %d", len(r.Counts), len(frames))
	}
}

// TestMoreTargetsThanTheKernelHolds: they are all counted, and it is said for which nobody else did.
func TestMoreTargetsThanTheKernelHolds(t *testing.T) {
	const more = 100
	var frames [][]byte
	for i := range maxTargets/2 + more {
		b := udp(1, 53, 9)
		binary.BigEndian.PutUint16(b[14+18:], uint16(i))
		frames = append(frames, b)
	}
	o := Options{File: write(t, 0, nil, frames...), Engine: Reference}
	r, err := Count(t.Context(), o)
	if err != nil || len(r.Counts) != len(frames) || r.Beyond != 0 {
		t.Fatalf("%d targets and %d beyond, %v", len(r.Counts), r.Beyond, err)
	}
	lab.NeedRoot(t)
	o.Engine = Both
	if r, err = Count(t.Context(), o); err != nil || len(r.Counts) != len(frames) || r.Beyond != more || r.Unprotected != 0 || len(r.Differs) > 0 {
		t.Errorf("both: %d targets, %d beyond, %d to none, %v, %v", len(r.Counts), r.Beyond, r.Unprotected, r.Differs, err)
	}
	o.Engine = Kernel
	if r, err = Count(t.Context(), o); err != nil || r.Beyond != more || r.Unprotected != more {
		t.Errorf("kernel: %d beyond, %d to none, %v", r.Beyond, r.Unprotected, err)
	}
}

// TestPipe: what can be read only once is for the reference alone.
func TestPipe(t *testing.T) {
	whole, err := os.ReadFile(write(t, 0, nil, udp(1, 53, 9)))
	if err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(t.TempDir(), "pipe")
	if err := unix.Mkfifo(name, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, e := range []Engine{Kernel, Both} {
		if _, err := Count(t.Context(), Options{File: name, Engine: e}); !errors.Is(err, errOnce) {
			t.Errorf("%s: %v", e, err)
		}
	}
	written := make(chan error, 1)
	go func() { written <- os.WriteFile(name, whole, 0o600) }()
	r, err := Count(t.Context(), Options{File: name, Engine: Auto})
	if err != nil || r.Engine != Reference || !errors.Is(r.WhyNotKernel, errOnce) || len(r.Counts) != 1 {
		t.Errorf("auto: %+v, %v", r, err)
	}
	if err := <-written; err != nil {
		t.Error(err)
	}
}
