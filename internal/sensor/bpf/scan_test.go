//go:build linux

package bpf

import (
	"net/netip"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/amooglesoft/trafficmonitor/internal/lab"
	"github.com/amooglesoft/trafficmonitor/internal/vector"
)

// onCPUs runs body on a thread of its own on every one of the first n CPUs, and waits for all of them.
func onCPUs(t *testing.T, n int, body func(cpu int)) {
	t.Helper()
	var all sync.WaitGroup
	for cpu := range n {
		all.Go(func() { onCPU(t, cpu, func() { body(cpu) }) })
	}
	all.Wait()
}

// onCPU runs body on a thread of its own on a CPU.
func onCPU(t *testing.T, cpu int, body func()) {
	t.Helper()
	var done sync.WaitGroup
	done.Go(func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		var set unix.CPUSet
		set.Set(cpu)
		if err := unix.SchedSetaffinity(0, &set); err != nil {
			t.Errorf("stay on CPU %d: %v", cpu, err)
			return
		}
		deafen(t)
		body()
	})
	done.Wait()
}

// deafen blocks signals on this thread: BPF_PROG_RUN that is interrupted, by the scheduler of Go for example, is begun
// anew by the library, and more packets are counted than were asked for.
func deafen(t *testing.T) (before unix.Sigset_t) {
	t.Helper()
	var all unix.Sigset_t
	for i := range all.Val {
		all.Val[i] = ^uint64(0)
	}
	if err := unix.PthreadSigmask(unix.SIG_BLOCK, &all, &before); err != nil {
		t.Errorf("block signals: %v", err)
	}
	return before
}

// back is the packet the other way: an IPv4 UDP packet with both addresses and ports exchanged.
func back(in []byte) []byte {
	out := slices.Clone(in)
	copy(out[26:30], in[30:34])
	copy(out[30:34], in[26:30])
	copy(out[34:36], in[36:38])
	copy(out[36:38], in[34:36])
	return out
}

// TestScanUnderTraffic reads while two CPUs count into the same records, over many windows and with triggers that empty
// cells all the time. Nothing may ever be told twice or go missing.
func TestScanUnderTraffic(t *testing.T) {
	// More flows than a CPU has cells.
	t.Run("many flows", func(t *testing.T) { scanUnderTraffic(t, 24, 16, 3, 200) })
	// What a cell holds when it is emptied is more than a run adds, so that it is noticed when told twice.
	t.Run("few flows", func(t *testing.T) { scanUnderTraffic(t, 1, 2, 20_000, 4) })
}

func scanUnderTraffic(t *testing.T, hosts, vectors, rounds int, repeats uint32) {
	k := loadWatching(t, func(s *Sizes) { s.Outbound = true })
	var levels [Columns]Level
	levels[vector.DNS] = Level{Packets: 100}
	levels[vector.Total] = Level{Packets: 1000}
	if err := k.SetLevels(levels); err != nil {
		t.Fatal(err)
	}
	type key struct {
		host string
		c    Column
	}
	type flow struct {
		key
		program *ebpf.Program
		frame   []byte
		// What was given to the programs, and what they are done with.
		given, done atomic.Uint64
	}
	var flows []*flow
	for h := range hosts {
		for _, v := range vector.Reflections()[:vectors] {
			addr := netip.AddrFrom4([4]byte{192, 0, 2, byte(h)}).String()
			in := frame(eth(ip4), v4(header4{dst: addr, proto: 17}), udp(v.SourcePorts[0]), payload(h))
			flows = append(flows,
				&flow{key: key{addr, ColumnOf(vector.Inbound, v.ID)}, program: k.Ingress(), frame: in},
				&flow{key: key{addr, ColumnOf(vector.Outbound, v.ID)}, program: k.Egress(), frame: back(in)})
		}
	}

	told := map[key]uint64{}
	scan := func() {
		t.Helper()
		err := k.Scan(func(slot uint32, c Column, n Count) {
			h, err := k.Holder(slot)
			if err != nil {
				t.Error(err)
			}
			told[key{h.Network.Addr().String(), c}] += n.Packets()
			if size := (n.Bytes() - 28*n.Packets()) / n.Packets(); size >= uint64(hosts) || n.Bytes() != n.Packets()*(28+size) {
				t.Errorf("%d packets have %d bytes", n.Packets(), n.Bytes())
			}
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	cpus := min(2, runtime.NumCPU())
	finished := make(chan struct{})
	go func() {
		defer close(finished)
		onCPUs(t, cpus, func(cpu int) {
			for range rounds {
				for i := range flows {
					f := flows[(i*(7+cpu*4))%len(flows)]
					f.given.Add(uint64(repeats))
					if _, err := f.program.Run(&ebpf.RunOptions{Data: f.frame, Repeat: repeats}); err != nil {
						t.Error(err)
						return
					}
					f.done.Add(uint64(repeats))
				}
			}
		})
	}()
	scans := 0
	for running := true; running; scans++ {
		select {
		case <-finished:
			running = false
		default:
		}
		scan()
		for _, f := range flows {
			if given := f.given.Load(); told[f.key] > given {
				t.Errorf("%v: told of %d packets of %d", f.key, told[f.key], given)
			}
		}
	}
	scan()
	for _, f := range flows {
		if told[f.key] != f.done.Load() {
			t.Errorf("%v: told of %d packets, want %d", f.key, told[f.key], f.done.Load())
		}
		delete(told, f.key)
	}
	if len(told) != 0 {
		t.Errorf("told also of %v", told)
	}
	st, err := k.Stats()
	if want := uint64(len(flows)*cpus*rounds) * uint64(repeats); err != nil || st.Packets[0]+st.Packets[1] != want || st.Packets[0] != st.Packets[1] {
		t.Errorf("counted %v packets, want %d (%v)", st.Packets, want, err)
	}
	t.Logf("%d scans while %d packets were counted", scans, st.Packets[0]+st.Packets[1])
}

// TestNewProcessGoesOn reads with a new scanner what is counted on maps an earlier one has read.
func TestNewProcessGoesOn(t *testing.T) {
	k := loadWatching(t)
	repeat(t, k.Ingress(), dnsTo(host4), 1000)
	repeat(t, k.Ingress(), dnsTo(host6), 10)
	if rows := sums(t, k); rows[0][vector.DNS].Packets() != 1000 || rows[1][vector.DNS].Packets() != 10 {
		t.Errorf("before: %v", rows)
	}
	repeat(t, k.Ingress(), dnsTo(host4), 7) // and dies before it has told of these
	old := k.scanner
	defer old.close()
	x, err := newScanner(k.Sizes, k.objects.Records, k.objects.Windows, k.objects.Dirty, k.objects.Lanes)
	if err != nil {
		t.Fatal(err)
	}
	k.scanner = x
	if err := k.skip(); err != nil {
		t.Fatal(err)
	}
	delete(scanned, k)
	if rows := sums(t, k); len(rows) != 0 {
		t.Errorf("told again: %v", rows)
	}
	repeat(t, k.Ingress(), dnsTo(host4), 5)
	if rows := sums(t, k); len(rows) != 1 || rows[0][vector.DNS] != CountOf(5, 5*128) {
		t.Errorf("after: %v", rows)
	}
	if st, err := k.Stats(); err != nil || st.Packets[0] != 1022 {
		t.Errorf("all in all %d packets (%v)", st.Packets[0], err)
	}
}

// TestCountsMayWrap lets records begin close to where 64 bits end.
func TestCountsMayWrap(t *testing.T) {
	k := loadWatching(t)
	run(t, k.Ingress(), dnsTo(host4), nil)
	sums(t, k)
	var block SensorRecordBlock
	at := uint32(vector.DNS) * uint32(k.Sizes.blocks())
	if err := k.objects.Records.Lookup(at, &block); err != nil {
		t.Fatal(err)
	}
	block.Totals[0] = uint64(CountOf(1<<28-2, 1<<36-100))
	if err := k.objects.Records.Put(at, block); err != nil {
		t.Fatal(err)
	}
	if err := k.skip(); err != nil {
		t.Fatal(err)
	}
	*k.scanner.toldOf(Column(vector.DNS), 0) = block.Totals[0]
	delete(scanned, k)
	repeat(t, k.Ingress(), dnsTo(host4), 100_000)
	// The packet that was in a cell belongs to what was told before.
	if n := sums(t, k)[0][vector.DNS]; n != CountOf(100_001, 100_001*128) {
		t.Errorf("%d packets and %d bytes", n.Packets(), n.Bytes())
	}
}

// TestIdleScanTellsNothing holds that what is told once is never told again.
func TestIdleScanTellsNothing(t *testing.T) {
	k := loadWatching(t)
	repeat(t, k.Ingress(), dnsTo(host4), 100_000)
	sums(t, k)
	for range 3 {
		if err := k.Scan(func(slot uint32, c Column, n Count) { t.Errorf("slot %d, column %d: %d packets", slot, c, n.Packets()) }); err != nil {
			t.Fatal(err)
		}
	}
	if err := k.ScanSlots([]uint32{0, 1}, func(slot uint32, c Column, n Count) { t.Errorf("slot %d, column %d", slot, c) }); err != nil {
		t.Fatal(err)
	}
	repeat(t, k.Ingress(), dnsTo(host4), 3)
	var got Count
	if err := k.ScanSlots([]uint32{0}, func(_ uint32, _ Column, n Count) { got += n }); err != nil || got != CountOf(3, 3*128) {
		t.Errorf("%d packets (%v)", got.Packets(), err)
	}
	if rows := sums(t, k); rows[0][vector.DNS].Packets() != 100_000 {
		t.Errorf("told of the same packets again: %d", rows[0][vector.DNS].Packets())
	}
}

func BenchmarkScan(b *testing.B) {
	for _, targets := range []int{0, 1, 256} {
		b.Run(map[int]string{0: "targets=none", 1: "targets=1", 256: "targets=256"}[targets], func(b *testing.B) {
			k := loadWatching(b, func(s *Sizes) { s.Hosts = 4096 - 64 })
			if err := k.SetTargets(Table{netip.MustParsePrefix("192.0.2.0/24"): 4040}); err != nil {
				b.Fatal(err)
			}
			for b.Loop() {
				b.StopTimer()
				for i := range targets {
					run(b, k.Ingress(), dnsTo(netip.AddrFrom4([4]byte{192, 0, 2, byte(i)}).String()), nil)
				}
				b.StartTimer()
				if err := k.Scan(func(uint32, Column, Count) {}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// A large packet waits in one CPU's cell, told already, while another CPU's small ones come to the record: more packets and
// fewer bytes than were told of it. Who adds up packets and bytes must never be told of 64 GiB that nobody sent.
func TestSmallPacketsAfterALargeOne(t *testing.T) {
	lab.NeedCPUs(t, 2)
	k := loadWatching(t, func(*Sizes) {})
	var levels [Columns]Level
	levels[vector.DNS] = Level{Packets: 100}
	if err := k.SetLevels(levels); err != nil {
		t.Fatal(err)
	}
	packet := func(octets int) []byte {
		return frame(eth(ip4), v4(header4{dst: "192.0.2.9", proto: 17}), udp(53), payload(octets))
	}
	large, small := packet(1300), packet(0)
	var packets, bytes uint64
	scan := func() {
		t.Helper()
		if err := k.Scan(func(_ uint32, _ Column, n Count) { packets, bytes = packets+n.Packets(), bytes+n.Bytes() }); err != nil {
			t.Fatal(err)
		}
	}
	send := func(on int, data []byte, repeat uint32) {
		t.Helper()
		onCPUs(t, 2, func(cpu int) {
			if cpu != on {
				return
			}
			if _, err := k.Ingress().Run(&ebpf.RunOptions{Data: data, Repeat: repeat}); err != nil {
				t.Error(err)
			}
		})
	}
	var wantPackets, wantBytes uint64
	for round := range 20 {
		send(0, large, 1)
		scan()
		n := uint32(10 + round)
		send(1, small, n)
		scan()
		wantPackets += 1 + uint64(n)
		wantBytes += 1328 + 28*uint64(n)
		if packets != wantPackets || bytes != wantBytes {
			t.Fatalf("round %d: told of %d packets and %d bytes, want %d and %d", round, packets, bytes, wantPackets, wantBytes)
		}
	}
}

// Without columns for what leaves, the egress program only counts how much there was, and nobody's scan minds.
func TestScanWithoutColumnsForWhatLeaves(t *testing.T) {
	k := loadWatching(t)
	run(t, k.Ingress(), dnsTo(host4), nil)
	repeat(t, k.Egress(), back(dnsTo(host4)), 10)
	if rows := sums(t, k); len(rows) != 1 || rows[0][vector.DNS] != CountOf(1, 128) {
		t.Errorf("told of %v", rows)
	}
	if err := k.ScanSlots([]uint32{0}, func(_ uint32, c Column, n Count) { t.Errorf("column %d: %d packets", c, n.Packets()) }); err != nil {
		t.Error(err)
	}
	if st, err := k.Stats(); err != nil || st.Packets != [2]uint64{1, 10} {
		t.Errorf("%v packets (%v)", st.Packets, err)
	}
}
