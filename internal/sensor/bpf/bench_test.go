package bpf

import (
	"testing"

	"github.com/cilium/ebpf"

	"github.com/amooglesoft/trafficmonitor/internal/lab"
	"github.com/amooglesoft/trafficmonitor/internal/vector"
)

// loadFloor loads the program the sensor is measured against, with the same table.
func loadFloor(t testing.TB) *FloorObjects {
	t.Helper()
	lab.NeedRoot(t)
	spec, err := LoadFloor()
	if err != nil {
		t.Fatal(err)
	}
	const slots = 4608
	spec.Maps["counters"].MaxEntries, spec.Maps["counters"].ValueSize = 2, slots*8
	spec.Maps["network_blocks"].MaxEntries, spec.Maps["host_blocks"].MaxEntries = 2, 2
	for name, v := range map[string]uint32{"cpus": 2, "slots": slots} {
		if err := spec.Variables[name].Set(v); err != nil {
			t.Fatal(err)
		}
	}
	var o FloorObjects
	if err := spec.LoadAndAssign(&o, nil); err != nil {
		t.Fatalf("%+v", err)
	}
	t.Cleanup(func() { o.Close() })
	networks := make([]uint32, 65536)
	networks[192<<8] = 1
	var network SensorNetworkBlock
	network.Next[2] = 1
	var hosts SensorHostBlock
	for i := range hosts.Slots {
		hosts.Slots[i] = uint32(i)
	}
	for _, err := range []error{
		o.Networks.Set(networks), o.NetworkBlocks.Put(uint32(1), network), o.HostBlocks.Put(uint32(1), hosts),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	return &o
}

func measure(b *testing.B, p *ebpf.Program, data []byte) {
	const repeat = 1 << 15
	if _, _, err := p.Benchmark(data, repeat, nil); err != nil { // warm
		b.Fatal(err)
	}
	best := -1.0
	for b.Loop() {
		_, d, err := p.Benchmark(data, repeat, nil)
		if err != nil {
			b.Fatal(err)
		}
		if ns := float64(d.Nanoseconds()); best < 0 || ns < best {
			best = ns
		}
	}
	b.ReportMetric(best, "ns/pkt")
}

// BenchmarkPacket reports what one packet costs. Compare within one run only: packet=floor and packet=empty are the
// measure, and BPF_PROG_RUN reports whole nanoseconds.
func BenchmarkPacket(b *testing.B) {
	k := loadWatching(b, func(s *Sizes) { *s = Sizes{2, 4096, 512, 4096, 256, 1 << 16, 1 << 18, false} })
	table := watched()
	for p := range table {
		table[p] += 4096
	}
	if err := k.SetTargets(table); err != nil {
		b.Fatal(err)
	}
	var levels [vector.Count]Level
	for v := range levels {
		levels[v] = Level{Packets: 1 << 22, Bytes: 1 << 30}
	}
	if err := k.SetLevels(levels); err != nil {
		b.Fatal(err)
	}
	if err := k.SetSampling(1000); err != nil {
		b.Fatal(err)
	}
	floor := loadFloor(b)
	dns := frame(eth(ip4), v4(header4{dst: host4, proto: 17}), udp(53), payload(100))
	cases := []struct {
		name     string
		data     []byte
		tcx, xdp *ebpf.Program
	}{
		{"empty", dns, floor.EmptyTcx, floor.EmptyXdp},
		{"floor", dns, floor.FloorTcx, floor.FloorXdp},
		{"dns", dns, k.TCX(), k.XDP()},
		{"syn", frame(eth(ip4), v4(header4{dst: host4, proto: 6}), tcp(syn)), k.TCX(), k.XDP()},
		{"dns6", frame(eth(ip6), v6(header6{dst: host6, next: 17}), udp(53), payload(100)), k.TCX(), k.XDP()},
		{"extensions6", frame(eth(ip6), v6(header6{dst: host6, next: 0}), ext(60, 0), ext(17, 0), udp(53), payload(100)), k.TCX(), k.XDP()},
		{"unprotected", frame(eth(ip4), v4(header4{dst: "198.51.100.9", proto: 17}), udp(53), payload(100)), k.TCX(), k.XDP()},
		{"unprotected6", frame(eth(ip6), v6(header6{dst: "2001:db9::9", next: 17}), udp(53), payload(100)), k.TCX(), k.XDP()},
	}
	for _, c := range cases {
		b.Run("door=tcx/packet="+c.name, func(b *testing.B) { measure(b, c.tcx, c.data) })
		b.Run("door=xdp/packet="+c.name, func(b *testing.B) { measure(b, c.xdp, c.data) })
	}
}
