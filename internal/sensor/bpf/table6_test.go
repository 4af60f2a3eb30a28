package bpf

import (
	"math/rand/v2"
	"net/netip"
	"sync"
	"testing"
	"unsafe"

	"github.com/amooglesoft/trafficmonitor/internal/vector"
)

// entriesOf reads the whole table of IPv6 targets: which slot each holder has, and how many entries there are.
func entriesOf(t testing.TB, k *Kernel) map[netip.Prefix]uint32 {
	t.Helper()
	found, _ := contents6(t, k)
	return found
}

// contents6 reads also how many of them are in their second bucket, by their first.
func contents6(t testing.TB, k *Kernel) (found map[netip.Prefix]uint32, second map[uint32]uint32) {
	t.Helper()
	found, second = map[netip.Prefix]uint32{}, map[uint32]uint32{}
	err := table6(k.objects.Targets6, k.Sizes.buckets6()*ways6, func(entries []uint32) {
		for i, entry := range entries {
			if entry == 0 {
				continue
			}
			slot, bucket := entry&slotMask, uint32(i/ways6)
			h, err := k.Holder(slot)
			if err != nil {
				t.Fatal(err)
			}
			first, ok := k.target6(slot, bucket, entry>>tagShift6)
			if !ok {
				t.Errorf("entry %d, %#x: does not belong there: %v", i, entry, h)
			}
			if _, twice := found[h.Network]; twice {
				t.Errorf("%s is there twice", h.Network)
			}
			found[h.Network] = slot
			if bucket != first {
				second[first]++
			}
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	return found, second
}

// spillsMatch checks that programs are told of every target in its second bucket, and of no more. Returns how many there are.
func spillsMatch(t testing.TB, k *Kernel, when string) (n uint32) {
	t.Helper()
	_, want := contents6(t, k)
	err := table6(k.objects.Spills6, k.Sizes.buckets6(), func(counts []uint32) {
		for i, got := range counts {
			if got != want[uint32(i)] {
				t.Errorf("%s: bucket %d has sent %d targets to their second, the programs are told of %d", when, i, want[uint32(i)], got)
			}
			n += got
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// walk6 is prefix6 of target.h.
func (t *trie6) walk6(addr netip.Addr) (value uint32) {
	a := addr.As16()
	value = t.root[int(a[0])<<4|int(a[1])>>4]
	for at := root6Bits; value&child6 != 0; at += stride6 {
		nibble := a[at/8] >> 4
		if at%8 != 0 {
			nibble = a[at/8] & 15
		}
		value = t.nodes[value&^child6][nibble]
	}
	return value
}

// randomTable6 has prefixes of all lengths, many of them inside each other.
func randomTable6(r *rand.Rand, n int) Table {
	t := Table{}
	var some []netip.Addr
	for len(t) < n {
		var a [16]byte
		a[0], a[1] = 0x20, byte(r.IntN(2))
		for i := 2; i < 16; i++ {
			a[i] = byte(r.IntN(2)) * 0x11
		}
		if len(some) > 0 && r.IntN(2) == 0 {
			a = some[r.IntN(len(some))].As16()
		}
		addr := netip.AddrFrom16(a)
		some = append(some, addr)
		p, _ := addr.Prefix(r.IntN(129))
		t[p] = uint32(len(t))
	}
	return t
}

func near(r *rand.Rand, t Table) netip.Addr {
	for p := range t { // any
		a := p.Addr().As16()
		for range r.IntN(3) {
			bit := r.IntN(128)
			a[bit/8] ^= 1 << (bit % 8)
		}
		return netip.AddrFrom16(a)
	}
	return netip.IPv6Unspecified()
}

func TestTrie6(t *testing.T) {
	for seed := range uint64(200) {
		r := rand.New(rand.NewPCG(seed, 1))
		table := randomTable6(r, 1+r.IntN(30))
		trie, filter := newTrie6(table), table.filter6()
		for range 200 {
			addr := near(r, table)
			want, protected := table.Lookup(addr)
			got := trie.walk6(addr)
			if protected != (got != 0) || protected && got != want+1 {
				t.Fatalf("seed %d: %s leads to %d, want slot %d (%v) of %v", seed, addr, got, want, protected, table)
			}
			a := addr.As16()
			bit := int(a[3])<<8 | int(a[2])
			if protected && filter[bit/64]>>(bit%64)&1 == 0 {
				t.Fatalf("seed %d: the filter rejects %s, which is protected by %v", seed, addr, table)
			}
		}
	}
}

// TestPrefixes6 asks the program itself which prefix an address belongs to.
func TestPrefixes6(t *testing.T) {
	k := load(t, func(s *Sizes) { s.Hosts, s.Prefixes = 1024, 256 })
	r := rand.New(rand.NewPCG(7, 7))
	for range 30 {
		table := randomTable6(r, 1+r.IntN(12))
		for p := range table {
			table[p] += 1024
		}
		if err := k.SetTargets(table); err != nil {
			t.Fatal(err)
		}
		for range 10 {
			addr := near(r, table)
			before, err := k.Stats()
			if err != nil {
				t.Fatal(err)
			}
			run(t, k.Ingress(), dnsTo(addr.String()), nil)
			want, protected := table.Lookup(addr)
			after, err := k.Stats()
			if err != nil {
				t.Fatal(err)
			}
			if got := after.UnprotectedPackets == before.UnprotectedPackets; got != protected {
				t.Fatalf("%s: protected %v, want %v by %v", addr, got, protected, table)
			}
			host := netip.PrefixFrom(addr, 128)
			slot, found := entriesOf(t, k)[host]
			if found != protected {
				t.Fatalf("%s has a slot: %v, protected: %v", addr, found, protected)
			}
			if !found {
				continue
			}
			h, err := k.Holder(slot)
			if err != nil || h.Parent != want {
				t.Fatalf("%s belongs to slot %d, want %d of %v (%v)", addr, h.Parent, want, table, err)
			}
			free(t, k, slot)
		}
	}
}

// free gives a slot back as the meter does.
func free(t testing.TB, k *Kernel, slot uint32) {
	t.Helper()
	h, err := k.Holder(slot)
	if err != nil {
		t.Fatal(err)
	}
	if err := k.Unlink(slot, h, true); err != nil {
		t.Fatal(err)
	}
	if err := k.PushFree(slot); err != nil {
		t.Fatal(err)
	}
	if err := k.ClearExhausted(); err != nil {
		t.Fatal(err)
	}
}

func in64(i int) netip.Addr {
	return netip.AddrFrom16([16]byte{0x20, 1, 0xd, 0xb8, 7: byte(i >> 16), 14: byte(i >> 8), 15: byte(i)})
}

// TestTable6AgainstMap inserts and deletes at random and compares with a Go map.
func TestTable6AgainstMap(t *testing.T) {
	k := load(t, func(s *Sizes) { s.Hosts, s.Networks6 = 512, 64 })
	if err := k.SetTargets(Table{netip.MustParsePrefix("2001:db8::/32"): 512}); err != nil {
		t.Fatal(err)
	}
	r := rand.New(rand.NewPCG(1, 2))
	model := map[netip.Prefix]uint32{}
	for step := range 6000 {
		addr := in64(r.IntN(200) | r.IntN(5)<<16)
		host, network := netip.PrefixFrom(addr, 128), netip.PrefixFrom(addr, 64).Masked()
		if slot, ok := model[host]; ok && r.IntN(3) == 0 {
			free(t, k, slot)
			delete(model, host)
		} else {
			run(t, k.Ingress(), dnsTo(addr.String()), nil)
			hosts := 0
			for p := range model {
				if p.Bits() == 128 {
					hosts++
				}
			}
			full := hosts >= 256 // the other half is for the heavy
			found := entriesOf(t, k)
			slot, got := found[host]
			parent, above := found[network]
			if _, known := model[host]; !above || got != (known || !full) {
				t.Fatalf("step %d: %s has a slot: %v, known %v, its network %v; %d in use", step, host, got, known, above, hosts)
			}
			if got {
				h, err := k.Holder(slot)
				if err != nil || h.Parent != parent {
					t.Fatalf("step %d: %s belongs to %d, want %d (%v)", step, host, h.Parent, parent, err)
				}
				model[host] = slot
			}
			model[network] = parent
			for p, slot := range model {
				if found[p] != slot {
					t.Fatalf("step %d: %s moved from slot %d to %d", step, p, slot, found[p])
				}
			}
			if len(found) != len(model) {
				t.Fatalf("step %d: %d entries, want %d", step, len(found), len(model))
			}
		}
	}
	spillsMatch(t, k, "in the end")
	if st, _ := k.Stats(); st.LostSlots != 0 || st.RefusedNetworks != 0 || st.Table6Overflows != 0 {
		t.Errorf("losses: %+v", st)
	}
}

// TestTable6OnTwoCPUs lets two threads insert the same addresses while a third deletes.
func TestTable6OnTwoCPUs(t *testing.T) {
	k := load(t, func(s *Sizes) { s.Hosts, s.Networks6 = 1024, 64 })
	if err := k.SetTargets(Table{netip.MustParsePrefix("2001:db8::/32"): 1024}); err != nil {
		t.Fatal(err)
	}
	var knock sync.WaitGroup
	done := make(chan struct{})
	for range 2 {
		knock.Go(func() {
			for round := range 20 {
				for i := range 300 {
					run(t, k.Ingress(), dnsTo(in64(i|(round%3)<<16).String()), nil)
				}
			}
		})
	}
	go func() { knock.Wait(); close(done) }()
	r := rand.New(rand.NewPCG(3, 4))
	for deleting := true; deleting; {
		select {
		case <-done:
			deleting = false
		default:
			slot := uint32(r.IntN(1024))
			h, err := k.Holder(slot)
			if err != nil {
				t.Fatal(err)
			}
			if _, held := entriesOf(t, k)[h.Network]; held && h.Network.IsValid() {
				if err := k.Unlink(slot, h, true); err != nil { // the slot is not given back: it is not what is tested
					t.Fatal(err)
				}
			}
		}
	}
	held := entriesOf(t, k)
	spillsMatch(t, k, "in the end")
	slots := map[uint32]netip.Prefix{}
	for p, slot := range held {
		if other, twice := slots[slot]; twice {
			t.Errorf("slot %d is that of %s and of %s", slot, p, other)
		}
		slots[slot] = p
	}
	if st, _ := k.Stats(); st.LostSlots != 0 {
		t.Errorf("losses: %+v", st)
	}
	if len(held) == 0 {
		t.Error("nothing is left to be tested")
	}
}

// loadUnseeded gives all addresses of in64 the same two buckets: without its seed the hash is one that anybody can aim at.
func loadUnseeded(t *testing.T) *Kernel {
	t.Helper()
	k := load(t, func(s *Sizes) { s.Hosts, s.Networks6 = 256, 16 })
	k.seed6 = [11]uint64{}
	if err := k.objects.Seed6.Set(k.seed6); err != nil {
		t.Fatal(err)
	}
	if err := k.SetTargets(Table{netip.MustParsePrefix("2001:db8::/32"): 256}); err != nil {
		t.Fatal(err)
	}
	return k
}

// TestOverflow6: more hosts than their two buckets have room for.
func TestOverflow6(t *testing.T) {
	k := loadUnseeded(t)
	const aimed = 40
	for range 2 {
		for i := range aimed {
			run(t, k.Ingress(), dnsTo(in64(i).String()), nil)
		}
	}
	st, err := k.Stats()
	if err != nil || st.Table6Overflows != 2*(aimed-2*ways6) {
		t.Errorf("%d packets found no room, want %d (%v)", st.Table6Overflows, 2*(aimed-2*ways6), err)
	}
	if hosts, _, err := k.Free(); err != nil || 256-hosts != 2*ways6 {
		t.Errorf("%d slots are in use, want %d (%v)", 256-hosts, 2*ways6, err)
	}
}

// TestTwins6 has hosts that share a bucket, a tag and where they are looked for first, when no more slots are to be had: only
// what is compared of their addresses tells them apart.
func TestTwins6(t *testing.T) {
	k := load(t, func(s *Sizes) { s.Hosts, s.Networks6 = 16, 64 })
	if err := k.SetTargets(Table{netip.MustParsePrefix("2001:db8::/32"): 16}); err != nil {
		t.Fatal(err)
	}
	inOne := func(i int) netip.Addr { return in64(i) }
	inEach := func(i int) netip.Addr { // the same host of many networks
		return netip.AddrFrom16([16]byte{0x20, 1, 0xd, 0xb8, 5: byte(i >> 16), 6: byte(i >> 8), 7: byte(i), 15: 1})
	}
	hashOf := func(a netip.Addr) uint64 { return k.hash6(netip.PrefixFrom(a, 128)) }
	twins := []netip.Addr{inOne(1)}
	a := hashOf(twins[0])
	for _, more := range []func(int) netip.Addr{inOne, inEach} {
		for i, n := 2, 0; n < 2; i++ {
			if b := hashOf(more(i)); tag6(a) == tag6(b) && k.bucketsOf(a)[0] == k.bucketsOf(b)[0] && a%ways6 == b%ways6 {
				twins = append(twins, more(i))
				n++
			}
		}
	}
	for _, addr := range twins {
		run(t, k.Ingress(), dnsTo(addr.String()), nil)
	}
	for i := range 5 { // of another network
		run(t, k.Ingress(), dnsTo(in64(1<<16|i).String()), nil)
	}
	for n, addr := range twins {
		for range n {
			run(t, k.Ingress(), dnsTo(addr.String()), nil)
		}
	}
	held, counted := entriesOf(t, k), sums(t, k)
	for n, addr := range twins {
		slot, ok := held[netip.PrefixFrom(addr, 128)]
		if got := counted[slot][ColumnOf(vector.Inbound, vector.Total)].Packets(); !ok || got != uint64(n+1) {
			t.Errorf("%s, slot %d (%v): %d packets, want %d", addr, slot, ok, got, n+1)
		}
	}
	if st, err := k.Stats(); err != nil || st.RefusedHosts == 0 {
		t.Errorf("nobody was refused a slot: %+v (%v)", st, err)
	}
}

func TestBucketIsInOneCacheLine(t *testing.T) {
	if n := unsafe.Sizeof(SensorBucket6{}); n != 32 {
		t.Errorf("a bucket has %d octets", n)
	}
}

// TestRoomInTable6: with every slot taken by an IPv6 host or network, and as they come and go, few find both their buckets full,
// also when their addresses follow each other.
func TestRoomInTable6(t *testing.T) {
	k := &Kernel{Sizes: Sizes{Hosts: 1 << 16, Networks6: 1 << 10}}
	all := k.Sizes.Hosts + k.Sizes.Networks6
	r := rand.New(rand.NewPCG(7, 8))
	for round := range 3 {
		for i := range k.seed6 {
			k.seed6[i] = r.Uint64()
		}
		load, held, next := make([]int, k.Sizes.buckets6()), []uint32(nil), 0
		put := func() bool {
			a := [16]byte{0x20, 1, 0xd, 0xb8, 6: byte(next >> 8 & 3), 13: byte(next >> 18), 14: byte(next >> 10), 15: byte(next)}
			next++
			for _, bucket := range k.bucketsOf(k.hash6(netip.PrefixFrom(netip.AddrFrom16(a), 128))) {
				if load[bucket] < ways6 {
					load[bucket]++
					held = append(held, bucket)
					return true
				}
			}
			return false
		}
		var full, later int
		for range all {
			if !put() {
				full++
			}
		}
		for range 4 * all { // one goes, one comes
			i := r.IntN(len(held))
			load[held[i]]--
			held[i] = held[len(held)-1]
			held = held[:len(held)-1]
			for !put() {
				later++
			}
		}
		if full > all/1000 || later > 4*all/400 {
			t.Errorf("round %d: %d of %d found no room while it filled, %d of %d later", round, full, all, later, 4*all)
		}
	}
}
