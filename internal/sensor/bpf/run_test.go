package bpf

import (
	"encoding/binary"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"testing"

	"github.com/cilium/ebpf"

	"github.com/amooglesoft/trafficmonitor/internal/sensor/classify"
	"github.com/amooglesoft/trafficmonitor/internal/vector"
)

const (
	next = 0xffffffff // TCX_NEXT
	drop = 1          // XDP_DROP
)

// watched is what the tests protect; the prefixes' slots lie after the 64 hosts.
func watched() Table {
	return Table{
		netip.MustParsePrefix("192.0.2.0/24"):     64,
		netip.MustParsePrefix("203.0.113.128/25"): 65,
		netip.MustParsePrefix("203.0.113.192/26"): 66,
		netip.MustParsePrefix("2001:db8::/32"):    67,
		netip.MustParsePrefix("2001:db8:1::/48"):  68,
	}
}

func loadWatching(t testing.TB, change ...func(*Sizes)) *Kernel {
	t.Helper()
	k := load(t, change...)
	if err := k.SetTargets(watched()); err != nil {
		t.Fatal(err)
	}
	ports := [65536]uint8{}
	for _, v := range vector.Reflections() {
		for _, port := range v.SourcePorts {
			ports[port] = uint8(v.ID)
		}
	}
	if err := k.SetPorts(&ports); err != nil {
		t.Fatal(err)
	}
	return k
}

// counted is everything a run of a program changed.
type counted struct {
	slots map[uint32]map[vector.ID][2]uint64 // packets and bytes
	stats Stats
}

// scanned is what the tests were told of each kernel's slots so far.
var scanned = map[*Kernel]map[uint32]*Row{}

// sums scans, and returns what was counted since the kernel was loaded, totals included.
func sums(t testing.TB, k *Kernel) map[uint32]Row {
	t.Helper()
	if scanned[k] == nil {
		scanned[k] = map[uint32]*Row{}
		t.Cleanup(func() { delete(scanned, k) })
	}
	if err := k.Scan(func(slot uint32, c Column, n Count) {
		if c.Vector() == vector.Total {
			t.Errorf("slot %d: a total is told", slot)
		}
		if scanned[k][slot] == nil {
			scanned[k][slot] = &Row{}
		}
		scanned[k][slot][c] += n
		scanned[k][slot][ColumnOf(c.Direction(), vector.Total)] += n
	}); err != nil {
		t.Fatal(err)
	}
	rows := map[uint32]Row{}
	for slot, row := range scanned[k] {
		rows[slot] = *row
	}
	return rows
}

func snapshot(t testing.TB, k *Kernel) counted {
	t.Helper()
	c := counted{slots: map[uint32]map[vector.ID][2]uint64{}}
	for slot, row := range sums(t, k) {
		c.slots[slot] = map[vector.ID][2]uint64{}
		for v, n := range row[:vector.Count] {
			if n != 0 {
				c.slots[slot][vector.ID(v)] = [2]uint64{n.Packets(), n.Bytes()}
			}
		}
	}
	var err error
	if c.stats, err = k.Stats(); err != nil {
		t.Fatal(err)
	}
	return c
}

func run(t testing.TB, p *ebpf.Program, data []byte, context []byte) uint32 {
	t.Helper()
	o := &ebpf.RunOptions{Data: data}
	if context != nil {
		o.Context = context
	}
	verdict, err := p.Run(o)
	if err != nil {
		t.Fatalf("run with %d octets: %v", len(data), err)
	}
	return verdict
}

// refused tells whether BPF_PROG_RUN would answer EINVAL: it wants a tc program's packet to hold a whole IP header.
func refused(p *ebpf.Program, data []byte) bool {
	if p.Type() != ebpf.SchedCLS || len(data) < 14 {
		return len(data) < 14
	}
	return len(data) == 14 || len(data) < map[uint16]int{ip4: 34, ip6: 54}[binary.BigEndian.Uint16(data[12:])]
}

// merged is the context of a packet that GRO made of segments.
func merged(segments, size uint32) []byte {
	skb := make([]byte, 192)
	binary.LittleEndian.PutUint32(skb[164:], segments)
	binary.LittleEndian.PutUint32(skb[176:], size)
	return skb
}

// doors runs the test for both programs.
func doors(t *testing.T, body func(t *testing.T, k *Kernel, p *ebpf.Program, verdict uint32)) {
	t.Run("tcx", func(t *testing.T) { k := loadWatching(t); body(t, k, k.Ingress(), next) })
	t.Run("xdp", func(t *testing.T) { k := loadWatching(t); body(t, k, k.XDP(), drop) })
}

func TestPackets(t *testing.T) {
	doors(t, func(t *testing.T, k *Kernel, p *ebpf.Program, verdict uint32) {
		for _, tc := range packets() {
			if refused(p, tc.frame) {
				continue // the kernel runs no tc program on half an IP header; XDP does
			}
			t.Run(tc.name, func(t *testing.T) {
				before := snapshot(t, k)
				if got := run(t, p, tc.frame, nil); got != verdict {
					t.Errorf("verdict %d, want %d", got, verdict)
				}
				length := tc.length
				if length == 0 {
					length = len(tc.frame) - 14
				}
				check(t, k, before, tc.target, tc.vector, 1, uint64(length))

				// The reference must say the same.
				r := classify.Classify(classify.Frame{Data: tc.frame}, classify.DefaultPorts())
				if tc.target == "-" != !r.IP || r.IP && (r.Vector != tc.vector || tc.target != "" && r.Length != length) {
					t.Errorf("reference: %+v", r)
				}
			})
		}
	})
}

// check compares what was counted since before with one target's packets.
func check(t testing.TB, k *Kernel, before counted, target string, v vector.ID, packets, bytes uint64) {
	t.Helper()
	after := snapshot(t, k)
	changed := map[uint32]bool{}
	for slot, now := range after.slots {
		if fmt.Sprint(now) != fmt.Sprint(before.slots[slot]) {
			changed[slot] = true
		}
	}
	stats := after.stats
	switch {
	case target == "-":
		if len(changed) != 0 || stats.NonIpPackets != before.stats.NonIpPackets+packets {
			t.Errorf("not IP: slots %v changed, %+v", changed, stats)
		}
		return
	case target == "":
		if len(changed) != 0 || stats.HeadlessPackets != before.stats.HeadlessPackets+packets || stats.MalformedPackets != before.stats.MalformedPackets+packets {
			t.Errorf("no target: slots %v changed, %+v", changed, stats)
		}
		return
	}
	if len(changed) != 1 {
		t.Fatalf("slots %v changed, want one: %+v", changed, stats)
	}
	slot := slices.Collect(maps.Keys(changed))[0]
	if int(slot) < k.Sizes.Hosts {
		holder, err := k.Holder(slot)
		if err != nil || holder.Network.Addr().String() != target {
			t.Errorf("slot %d is held by %s, want %s (%v)", slot, holder.Network, target, err)
		}
	}
	for _, id := range []vector.ID{vector.Total, v} {
		got := after.slots[slot][id]
		got[0] -= before.slots[slot][id][0]
		got[1] -= before.slots[slot][id][1]
		if got != [2]uint64{packets, bytes} {
			t.Errorf("%s: %d packets and %d bytes, want %d and %d (all: %v)", id, got[0], got[1], packets, bytes, after.slots[slot])
		}
	}
}

func TestTruncatedAtEveryLength(t *testing.T) {
	doors(t, func(t *testing.T, k *Kernel, p *ebpf.Program, verdict uint32) {
		for _, tc := range packets() {
			for n := 15; n < min(len(tc.frame), 150); n++ {
				differ(t, k, p, verdict, tc.frame[:n])
			}
		}
	})
}

// differ runs a frame and compares what the program did with the reference.
func differ(t testing.TB, k *Kernel, p *ebpf.Program, verdict uint32, data []byte) {
	t.Helper()
	if refused(p, data) {
		return
	}
	before := snapshot(t, k)
	if got := run(t, p, data, nil); got != verdict {
		t.Errorf("verdict %d, want %d", got, verdict)
	}
	r := classify.Classify(classify.Frame{Data: data}, classify.DefaultPorts())
	target := "-"
	if r.IP {
		target = ""
		if r.Target.IsValid() {
			target = r.Target.String()
			if _, ok := watched().Lookup(r.Target); !ok {
				after := snapshot(t, k)
				if after.stats.UnprotectedPackets[0] != before.stats.UnprotectedPackets[0]+1 ||
					after.stats.UnprotectedBytes[0] != before.stats.UnprotectedBytes[0]+uint64(r.Length) {
					t.Errorf("unprotected %s: %+v, was %+v, reference %+v", target, after.stats, before.stats, r)
				}
				return
			}
		}
	}
	check(t, k, before, target, r.Vector, 1, uint64(r.Length))
	if t.Failed() {
		t.Fatalf("frame %x, reference %+v", data, r)
	}
}

func TestMergedPackets(t *testing.T) {
	k := loadWatching(t)
	for _, tc := range []struct {
		name   string
		data   []byte
		target string
		vector vector.ID
		bytes  uint64
	}{
		{"tcp", frame(eth(ip4), v4(header4{dst: host4, proto: 6}), tcpOffset(ack, 8), payload(12+3000)), host4, vector.ACK, 4*52 + 3000},
		{"tcp ipv6", frame(eth(ip6), v6(header6{dst: host6, next: 6}), tcp(ack), payload(3000)), host6, vector.ACK, 4*60 + 3000},
		{"udp", frame(eth(ip4), v4(header4{dst: host4, proto: 17}), udp(53), payload(3000)), host4, vector.DNS, 4*28 + 3000},
	} {
		for _, segments := range []uint32{4, 0} { // 0: a virtual machine's packet
			before := snapshot(t, k)
			if got := run(t, k.Ingress(), tc.data, merged(segments, 750)); got != next {
				t.Errorf("verdict %d", got)
			}
			check(t, k, before, tc.target, tc.vector, 4, tc.bytes)
			r := classify.Classify(classify.Frame{Data: tc.data, Merged: 750, Segments: int(segments)}, classify.DefaultPorts())
			if r.Vector != tc.vector || uint64(r.Length) != tc.bytes || r.Segments != 4 {
				t.Errorf("%s: reference %+v", tc.name, r)
			}
		}
	}
}

func TestMirrorThatCutsFrames(t *testing.T) {
	k := loadWatching(t, func(s *Sizes) { s.CutMirrors = true })
	data := frame(eth(ip4), v4(header4{dst: host4, proto: 17}), udp(53), payload(1400))
	before := snapshot(t, k)
	run(t, k.XDP(), data[:64], nil)
	check(t, k, before, host4, vector.DNS, 1, 1428)
	before = snapshot(t, k)
	run(t, k.Ingress(), data[:64], nil) // a host interface cuts nothing
	check(t, k, before, host4, vector.Malformed, 1, 50)
}

func FuzzSameAsReference(f *testing.F) {
	for _, tc := range packets() {
		f.Add(tc.frame)
	}
	k := loadWatching(f)
	f.Fuzz(func(t *testing.T, data []byte) {
		if len(data) < 15 || len(data) > 3000 {
			return
		}
		differ(t, k, k.Ingress(), next, data)
		differ(t, k, k.XDP(), drop, data)
	})
}
