package bpf

import (
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"net/netip"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/amooglesoft/trafficmonitor/internal/lab"
	"github.com/amooglesoft/trafficmonitor/internal/vector"
)

// A CPU remembers the networks whose scans it meets. These tests scan on the first CPU, with no slot left for who is not heavy.

const scanned64 = "2001:db8:0:9::/64"

// scanning fills the slots that are for all, and lets the first CPU meet the network. Returns a function that sends packets there to one
// new address each, and the slot of the network.
func scanning(t *testing.T, k *Kernel, network netip.Prefix) (scan func(n int), slot uint32) {
	t.Helper()
	next := uint64(1)
	scan = func(n int) {
		t.Helper()
		onCPU(t, 0, func() {
			for range n {
				next++
				a := network.Addr().As16()
				binary.BigEndian.PutUint64(a[8:], next*golden) // so that none is heavy
				run(t, k.Ingress(), dnsTo(netip.AddrFrom16(a).String()), nil)
			}
		})
	}
	scan(k.Sizes.Hosts/2 + 2)
	slot, ok := entriesOf(t, k)[network]
	if !ok {
		t.Fatalf("%s has no slot", network)
	}
	if !remembers(t, k, network) {
		t.Fatalf("%s is not remembered", network)
	}
	return scan, slot
}

// remembers tells whether the first CPU would not look for a network.
func remembers(t *testing.T, k *Kernel, network netip.Prefix) bool {
	t.Helper()
	var epoch uint32
	if err := k.objects.Epoch6.Get(&epoch); err != nil {
		t.Fatal(err)
	}
	var lane SensorLane
	if err := k.objects.Lanes.Lookup(uint32(0), &lane); err != nil {
		t.Fatal(err)
	}
	at, high := place6(k, network)
	return lane.Known[at].High == high && lane.Known[at].Epoch == epoch
}

// place6 is known6_at of target.h.
func place6(k *Kernel, network netip.Prefix) (at int, high uint64) {
	a := network.Addr().As16()
	high = binary.LittleEndian.Uint64(a[:8])
	return int(high * (k.seed6[2] | 1) >> 58), high
}

func counted6(t *testing.T, k *Kernel, slot uint32) uint64 {
	t.Helper()
	return sums(t, k)[slot][ColumnOf(vector.Inbound, vector.Total)].Packets()
}

func loadForScans(t *testing.T, networks int) *Kernel {
	t.Helper()
	k := load(t, func(s *Sizes) { s.Hosts, s.Networks6 = 16, networks })
	if err := k.SetTargets(Table{netip.MustParsePrefix("2001:db8::/32"): 16}); err != nil {
		t.Fatal(err)
	}
	return k
}

// TestRememberedNetworkCounts: what is refused a slot without a look at the table counts as it does with one.
func TestRememberedNetworkCounts(t *testing.T) {
	k := loadForScans(t, 4)
	scan, slot := scanning(t, k, netip.MustParsePrefix(scanned64))
	before := snapshot(t, k)
	scan(100)
	after := snapshot(t, k)
	if got := after.slots[slot][vector.UDPOther][0] - before.slots[slot][vector.UDPOther][0]; got != 100 {
		t.Errorf("the network counts %d packets, want 100", got)
	}
	if got := after.stats.RefusedHosts - before.stats.RefusedHosts; got != 100 {
		t.Errorf("%d packets are said to be refused a slot, want 100", got)
	}
	// None left for the heavy either.
	if err := k.objects.EmptyQueues.Set([slotKinds][freeQueues]uint32{{1, 1}, {1, 1}}); err != nil {
		t.Fatal(err)
	}
	scan(10)
	if st, err := k.Stats(); err != nil || st.SlotExhausted != 10 || st.RefusedHosts != after.stats.RefusedHosts || counted6(t, k, slot) != after.slots[slot][vector.UDPOther][0]+10 {
		t.Errorf("10 packets without any slot left: %+v (%v)", st, err)
	}
}

func TestRememberedNetworkIsDeleted(t *testing.T) {
	k := loadForScans(t, 4)
	network := netip.MustParsePrefix(scanned64)
	scan, slot := scanning(t, k, network)
	h, err := k.Holder(slot)
	if err != nil {
		t.Fatal(err)
	}
	if err := k.Unlink(slot, h, true); err != nil {
		t.Fatal(err)
	}
	before := counted6(t, k, slot)
	scan(3)
	if got := counted6(t, k, slot) - before; got != 0 {
		t.Errorf("%d packets are counted for a network that was deleted", got)
	}
	if next, ok := entriesOf(t, k)[network]; !ok || next == slot || counted6(t, k, next) != 3 {
		t.Errorf("the network has slot %d (%v) after %d, which counts %d packets, want another and 3", next, ok, slot, counted6(t, k, next))
	}
}

func TestRememberedNetworkIsMarked(t *testing.T) {
	k := loadForScans(t, 4)
	scan, slot := scanning(t, k, netip.MustParsePrefix(scanned64))
	if err := k.SetWatchedSampling(1); err != nil {
		t.Fatal(err)
	}
	for _, watched := range []bool{true, false, true} {
		if err := k.SetFlag(slot, Watched, watched); err != nil {
			t.Fatal(err)
		}
		scan(2) // the first sample only winds the counter up
		before, err := k.Stats()
		if err != nil {
			t.Fatal(err)
		}
		scan(20)
		want := uint64(0)
		if watched {
			want = 20
		}
		if st, err := k.Stats(); err != nil || st.Samples-before.Samples != want {
			t.Errorf("watched %v: %d of 20 packets are sampled, want %d (%v)", watched, st.Samples-before.Samples, want, err)
		}
	}
}

// TestRememberedNetworkOfTheDead: a process that dies when it has deleted a network from the table, and before it could say so.
func TestRememberedNetworkOfTheDead(t *testing.T) {
	dir := filepath.Join(bpffs(t), "rack1")
	sizes := smallSizes
	sizes.Hosts, sizes.Networks6 = 16, 4
	k, p := pinned(t, dir, sizes)
	if err := k.SetTargets(Table{netip.MustParsePrefix("2001:db8::/32"): 16}); err != nil {
		t.Fatal(err)
	}
	network := netip.MustParsePrefix(scanned64)
	_, slot := scanning(t, k, network)
	if err := k.change6(network, slot, func(uint32) uint32 { return 0 }); err != nil {
		t.Fatal(err)
	}
	end(t, k, p)
	k, p = pinned(t, dir, sizes)
	if !k.Reused || remembers(t, k, network) {
		t.Errorf("the maps are reused: %v; and a network is remembered that is not in them any more", k.Reused)
	}
	end(t, k, p)
}

// TestNothingIsRememberedAtFirst: not even the network of address 0, which new memory would do for.
func TestNothingIsRememberedAtFirst(t *testing.T) {
	k := load(t, func(s *Sizes) { s.Hosts, s.Networks6 = 16, 4 })
	if err := k.SetTargets(Table{netip.MustParsePrefix("::/0"): 16}); err != nil {
		t.Fatal(err)
	}
	scanning(t, k, netip.MustParsePrefix(scanned64))
	before := sums(t, k)
	onCPU(t, 0, func() { run(t, k.Ingress(), dnsTo("::7:7"), nil) })
	slot, ok := entriesOf(t, k)[netip.MustParsePrefix("::/64")]
	if !ok || counted6(t, k, slot) != 1 {
		t.Errorf("the network has slot %d (%v), which counts %d packets, want 1; of slot 0 there are %d more", slot, ok, counted6(t, k, slot), counted6(t, k, 0)-before[0][ColumnOf(vector.Inbound, vector.Total)].Packets())
	}
}

// TestNetworksShareAPlace: more networks than a CPU can remember.
func TestNetworksShareAPlace(t *testing.T) {
	k := loadForScans(t, 64)
	first := netip.MustParsePrefix(scanned64)
	at, _ := place6(k, first)
	var other netip.Prefix
	places := map[int]bool{at: true}
	for i := 10; !other.IsValid() || i < 10+1024; i++ {
		a := first.Addr().As16()
		a[6], a[7] = byte(i>>8), byte(i)
		p := netip.PrefixFrom(netip.AddrFrom16(a), 64)
		if here, _ := place6(k, p); here == at && !other.IsValid() {
			other = p
		} else {
			places[here] = true
		}
	}
	if all := len(SensorLane{}.Known); len(places) < all-2 {
		t.Errorf("1,024 networks side by side have %d places, of %d", len(places), all)
	}
	scan, slot := scanning(t, k, first)
	scanOther, slotOther := scanning(t, k, other)
	before, beforeOther := counted6(t, k, slot), counted6(t, k, slotOther)
	for range 20 {
		scan(1)
		scanOther(2)
	}
	if got, gotOther := counted6(t, k, slot)-before, counted6(t, k, slotOther)-beforeOther; got != 20 || gotOther != 40 {
		t.Errorf("20 packets to one and 40 to the other are counted as %d and %d", got, gotOther)
	}
}

// TestSecondBucketInAScan: hosts in their second bucket are found also while others are refused.
func TestSecondBucketInAScan(t *testing.T) {
	k := load(t, func(s *Sizes) { s.Hosts, s.Networks6 = 32, 4 })
	if err := k.SetTargets(Table{netip.MustParsePrefix("2001:db8::/32"): 32}); err != nil {
		t.Fatal(err)
	}
	network := netip.MustParsePrefix(scanned64)
	// Of one first bucket, and of tags that differ.
	var hosts []netip.Addr
	tags, bucket := map[uint32]bool{tag6(k.hash6(network)): true}, uint32(0)
	for i := uint64(1); len(hosts) < 12; i++ {
		a := network.Addr().As16()
		binary.BigEndian.PutUint64(a[8:], i)
		addr := netip.AddrFrom16(a)
		hash := k.hash6(netip.PrefixFrom(addr, 128))
		if len(hosts) == 0 {
			bucket = k.bucketsOf(hash)[0]
		}
		if k.bucketsOf(hash)[0] == bucket && k.bucketsOf(hash)[1] != bucket && !tags[tag6(hash)] {
			hosts, tags[tag6(hash)] = append(hosts, addr), true
		}
	}
	send := func() {
		onCPU(t, 0, func() {
			for _, addr := range hosts {
				run(t, k.Ingress(), dnsTo(addr.String()), nil)
			}
		})
	}
	send()
	if n := spillsMatch(t, k, "before the scan"); n < 4 {
		t.Fatalf("%d of %d hosts are in their second bucket", n, len(hosts))
	}
	scanning(t, k, network)
	for range 5 {
		send()
	}
	held := entriesOf(t, k)
	for _, addr := range hosts {
		if slot, ok := held[netip.PrefixFrom(addr, 128)]; !ok || counted6(t, k, slot) != 6 {
			t.Errorf("%s: slot %d (%v) counts %d packets, want 6", addr, slot, ok, counted6(t, k, slot))
		}
	}
}

// TestSecondBucketsOfTheDead: a process that dies between a deletion in a second bucket and saying so; and one that says too much.
func TestSecondBucketsOfTheDead(t *testing.T) {
	dir := filepath.Join(bpffs(t), "rack1")
	sizes := smallSizes
	sizes.Networks6 = 4
	k, p := pinned(t, dir, sizes)
	if err := k.objects.Seed6.Set([11]uint64{}); err != nil { // see below
		t.Fatal(err)
	}
	if err := k.SetTargets(Table{netip.MustParsePrefix("2001:db8::/32"): uint32(sizes.Hosts)}); err != nil {
		t.Fatal(err)
	}
	for i := range 14 {
		run(t, k.Ingress(), dnsTo(in64(i).String()), nil)
	}
	for _, wrong := range []uint32{0, 99} {
		if err := table6(k.objects.Spills6, k.Sizes.buckets6(), func(counts []uint32) { counts[0] = wrong; counts[3] = wrong }); err != nil {
			t.Fatal(err)
		}
		end(t, k, p)
		if k, p = pinned(t, dir, sizes); !k.Reused {
			t.Fatal("the maps are not reused")
		}
		if n := spillsMatch(t, k, "adopted"); n != 14-ways6 {
			t.Errorf("%d targets are in their second bucket, want %d", n, 14-ways6)
		}
	}
	end(t, k, p)
}

// TestSecondBuckets: every other target is in its second bucket.
func TestSecondBuckets(t *testing.T) {
	k := loadUnseeded(t)
	r := rand.New(rand.NewPCG(11, 12))
	model, most := map[netip.Addr]uint32{}, uint32(0)
	want := map[uint32]uint64{}
	for step := range 2000 {
		addr := in64(r.IntN(24))
		if slot, ok := model[addr]; ok && r.IntN(2) == 0 {
			free(t, k, slot)
			delete(model, addr)
		} else {
			run(t, k.Ingress(), dnsTo(addr.String()), nil)
			found, held := entriesOf(t, k)[netip.PrefixFrom(addr, 128)]
			if ok && (!held || found != slot) {
				t.Fatalf("step %d: %s had slot %d and has %d (%v)", step, addr, slot, found, held)
			}
			if held {
				model[addr] = found
				want[found]++
			}
		}
		most = max(most, spillsMatch(t, k, "at work"))
	}
	if most < ways6-1 {
		t.Errorf("no more than %d targets were in their second bucket at a time", most)
	}
	for slot, n := range want {
		if got := counted6(t, k, slot); got != n {
			t.Errorf("slot %d counts %d packets, want %d", slot, got, n)
		}
	}
}

// TestRememberedNetworksChangeHands: two CPUs scan a network each, with packets of different length, while slots are taken from
// both and given to whoever asks first. What a slot counted from one holder to the next is of one length.
func TestRememberedNetworksChangeHands(t *testing.T) {
	lab.NeedCPUs(t, 2)
	k := loadForScans(t, 4)
	networks := []netip.Prefix{netip.MustParsePrefix(scanned64), netip.MustParsePrefix("2001:db8:0:a::/64")}
	length := map[netip.Prefix]uint64{}
	const most = 2_000_000 // packets, if user space does not get to it
	var enough atomic.Bool
	var sent atomic.Uint64
	var scans sync.WaitGroup
	for cpu, network := range networks {
		frame := dnsTo(network.Addr().String())
		frame = append(frame, make([]byte, 100*cpu)...)
		binary.BigEndian.PutUint16(frame[18:], uint16(len(frame)-54)) // payload length
		binary.BigEndian.PutUint16(frame[58:], uint16(len(frame)-54)) // of UDP
		length[network] = uint64(len(frame) - 14)
		scans.Go(func() {
			onCPU(t, cpu, func() {
				for i := uint64(1); i < most && !enough.Load(); i++ {
					binary.BigEndian.PutUint64(frame[46:], i*golden)
					run(t, k.Ingress(), frame, nil)
					sent.Add(1)
				}
			})
		})
	}
	done := make(chan struct{})
	go func() { scans.Wait(); close(done) }()

	const tenuresWanted = 100
	total := ColumnOf(vector.Inbound, vector.Total)
	seen, tenures := map[uint32]Count{}, map[netip.Prefix]int{}
	check := func(slot uint32, h Holder) {
		n := sums(t, k)[slot][total]
		d := n - seen[slot]
		seen[slot] = n
		if d.Bytes() != d.Packets()*length[h.Network] {
			t.Errorf("slot %d counts %d packets of %d bytes for %s, whose packets have %d", slot, d.Packets(), d.Bytes(), h.Network, length[h.Network])
		}
		if d.Packets() > 0 {
			tenures[h.Network]++
		}
	}
	r := rand.New(rand.NewPCG(13, 14))
	for scanning := true; scanning; {
		select {
		case <-done:
			scanning = false
		default:
			network := networks[r.IntN(2)]
			slot, ok := entriesOf(t, k)[network]
			if !ok {
				continue
			}
			h := Holder{Network: network}
			if r.IntN(2) == 0 {
				if err := k.SetFlag(slot, Watched, r.IntN(2) == 0); err != nil {
					t.Fatal(err)
				}
			}
			if err := k.Unlink(slot, h, true); err != nil {
				t.Fatal(err)
			}
			if _, _, errno := unix.Syscall(unix.SYS_MEMBARRIER, membarrierGlobal, 0, 0); errno != 0 {
				t.Fatalf("wait for the programs that run: membarrier: %v", errno)
			}
			check(slot, h)
			if err := errors.Join(k.PushFree(slot), k.ClearExhausted()); err != nil {
				t.Fatal(err)
			}
			enough.Store(tenures[networks[0]] >= tenuresWanted && tenures[networks[1]] >= tenuresWanted)
		}
	}
	for _, network := range networks {
		if slot, ok := entriesOf(t, k)[network]; ok {
			check(slot, Holder{Network: network})
		}
		if tenures[network] < tenuresWanted {
			t.Errorf("%s had %d slots one after the other, too few to say anything", network, tenures[network])
		}
	}
	t.Logf("slots one after the other: %v", tenures)
	if st, err := k.Stats(); err != nil || st.Packets[0] != sent.Load() || st.UnprotectedPackets[0] != 0 {
		t.Errorf("%+v (%v), want %d packets", st, err, sent.Load())
	}
}
