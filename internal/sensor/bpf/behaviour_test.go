package bpf

import (
	"errors"
	"net/netip"
	"os"
	"runtime"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/ringbuf"
	"golang.org/x/sys/unix"

	"github.com/amooglesoft/trafficmonitor/internal/vector"
)

func dnsTo(target string) []byte {
	if netip.MustParseAddr(target).Is4() {
		return frame(eth(ip4), v4(header4{dst: target, proto: 17}), udp(53), payload(100))
	}
	return frame(eth(ip6), v6(header6{dst: target, next: 17}), udp(53), payload(100))
}

// records returns all there are in a ring buffer now.
func records(t *testing.T, r *ringbuf.Reader) (all [][]byte) {
	t.Helper()
	r.SetDeadline(time.Unix(1, 0))
	for {
		rec, err := r.Read()
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return all
		}
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, rec.RawSample)
	}
}

func repeat(t *testing.T, p *ebpf.Program, data []byte, n uint32) {
	t.Helper()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	before := deafen(t)
	_, err := p.Run(&ebpf.RunOptions{Data: data, Repeat: n})
	if err := errors.Join(err, unix.PthreadSigmask(unix.SIG_SETMASK, &before, nil)); err != nil {
		t.Fatal(err)
	}
}

func TestLongestPrefixCounts(t *testing.T) {
	k := loadWatching(t, func(s *Sizes) { s.Hosts = 1 })
	table := Table{}
	for p, slot := range watched() {
		table[p] = slot - 63
	}
	if err := k.SetTargets(table); err != nil {
		t.Fatal(err)
	}
	run(t, k.Ingress(), dnsTo("192.0.2.1"), nil) // takes the only slot
	for _, tc := range []struct {
		target string
		slot   uint32 // 0 for not protected
	}{
		{"192.0.2.2", 1},
		{"203.0.113.127", 0},
		{"203.0.113.128", 2},
		{"203.0.113.191", 2},
		{"203.0.113.192", 3},
		{"203.0.113.255", 3},
		{"2001:db8::1", 4},
		{"2001:db8:1::1", 5},
		{"2001:db8:2::1", 4},
		{"2001:db9::1", 0},
	} {
		before := snapshot(t, k)
		run(t, k.Ingress(), dnsTo(tc.target), nil)
		after := snapshot(t, k)
		if tc.slot == 0 {
			if after.stats.UnprotectedPackets[0] != before.stats.UnprotectedPackets[0]+1 {
				t.Errorf("%s is counted", tc.target)
			}
			continue
		}
		if after.slots[tc.slot][vector.DNS][0] != before.slots[tc.slot][vector.DNS][0]+1 {
			t.Errorf("%s: not counted for slot %d", tc.target, tc.slot)
		}
		if after.stats.SlotExhausted != before.stats.SlotExhausted+1 {
			t.Errorf("%s: exhaustion is not counted", tc.target)
		}
	}
}

func TestSlotsAreFreedAndTakenAgain(t *testing.T) {
	for _, hosts := range [][2]string{{"192.0.2.1", "192.0.2.2"}, {"2001:db8::1", "2001:db8::2"}} {
		k := loadWatching(t, func(s *Sizes) { s.Hosts = 1 })
		table := Table{netip.MustParsePrefix("192.0.2.0/24"): 1, netip.MustParsePrefix("2001:db8::/32"): 2}
		if err := k.SetTargets(table); err != nil {
			t.Fatal(err)
		}
		run(t, k.Ingress(), dnsTo(hosts[0]), nil)
		run(t, k.Ingress(), dnsTo(hosts[1]), nil)
		first, err := k.Holder(0)
		if err != nil || first.Network.Addr().String() != hosts[0] {
			t.Fatalf("slot 0 is held by %s, want %s (%v)", first.Network, hosts[0], err)
		}
		prefix := first.Parent
		if err := errors.Join(k.Unlink(0, first, true), k.PushFree(0), k.ClearExhausted()); err != nil {
			t.Fatal(err)
		}
		run(t, k.Ingress(), dnsTo(hosts[1]), nil)
		if second, _ := k.Holder(0); second.Network.Addr().String() != hosts[1] {
			t.Errorf("slot 0 is held by %s, want %s", second.Network, hosts[1])
		}
		before := snapshot(t, k)
		run(t, k.Ingress(), dnsTo(hosts[0]), nil) // again without a slot
		if after := snapshot(t, k); after.slots[prefix][vector.DNS][0] != before.slots[prefix][vector.DNS][0]+1 {
			t.Errorf("%s is not counted for its prefix", hosts[0])
		}
	}
}

// TestTablesChangeUnderTraffic keeps a host's slot over a new directive, and takes it from one that is gone.
func TestTablesChangeUnderTraffic(t *testing.T) {
	k := loadWatching(t)
	for _, target := range []string{"192.0.2.7", "203.0.113.200", "2001:db8::7"} {
		run(t, k.Ingress(), dnsTo(target), nil)
	}
	table := Table{
		netip.MustParsePrefix("192.0.2.0/25"):    70,
		netip.MustParsePrefix("2001:db8::/48"):   71,
		netip.MustParsePrefix("198.51.100.0/24"): 72,
	}
	for range 3 { // blocks of the table are used again and again
		if err := k.SetTargets(table); err != nil {
			t.Fatal(err)
		}
		for target, protected := range map[string]bool{
			"192.0.2.7": true, "203.0.113.200": false, "2001:db8::7": true, "198.51.100.3": true, "192.0.2.128": false, "2001:db8:1::1": false,
		} {
			before := snapshot(t, k)
			run(t, k.Ingress(), dnsTo(target), nil)
			after := snapshot(t, k)
			if got := after.stats.UnprotectedPackets[0] == before.stats.UnprotectedPackets[0]; got != protected {
				// An IPv6 host keeps its entry until user space frees it.
				t.Errorf("%s: protected %v, want %v", target, got, protected)
			}
		}
		if err := k.SetTargets(watched()); err != nil {
			t.Fatal(err)
		}
		for target, protected := range map[string]bool{"192.0.2.7": true, "203.0.113.200": true, "203.0.113.1": false, "198.51.100.3": false, "192.0.2.128": true} {
			before := snapshot(t, k)
			run(t, k.Ingress(), dnsTo(target), nil)
			if got := snapshot(t, k).stats.UnprotectedPackets[0] == before.stats.UnprotectedPackets[0]; got != protected {
				t.Errorf("%s: protected %v, want %v", target, got, protected)
			}
		}
		// As the meter does: what is not protected any more is freed.
		for slot := range uint32(k.Sizes.Hosts) {
			h, err := k.Holder(slot)
			if err != nil || h.Network.Addr().Is4() || !h.Network.IsValid() {
				continue
			}
			if err := errors.Join(err, k.Unlink(slot, h, false)); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func TestTablesThatDoNotFit(t *testing.T) {
	s := Sizes{CPUs: 1, Hosts: 1, Prefixes: 9, Networks4: 4, Blocks4: 1}
	prefixes := func(list ...string) Table {
		table := Table{}
		for _, p := range list {
			table[netip.MustParsePrefix(p)] = 0
		}
		return table
	}
	if err := s.Fits(prefixes("10.0.0.0/22", "10.0.0.0/24", "10.0.3.0/25")); err != nil {
		t.Errorf("four networks: %v", err)
	}
	many := Table{}
	for i := range 9 {
		many[netip.PrefixFrom(netip.AddrFrom16([16]byte{0x20, byte(i)}), 128)] = uint32(i)
	}
	for name, table := range map[string]Table{
		"five networks":    prefixes("10.0.0.0/22", "10.0.4.1/32"),
		"a large prefix":   prefixes("10.0.0.0/8"),
		"two /16 networks": prefixes("10.0.0.0/24", "10.1.0.0/24"),
		"ten prefixes":     prefixes("10.0.0.0/24", "10.0.0.0/25", "10.0.0.0/26", "10.0.0.0/27", "10.0.0.0/28", "10.0.0.0/29", "10.0.0.0/30", "10.0.0.0/31", "10.0.0.0/32", "10.0.0.1/32"),
		"many nodes":       many,
	} {
		if err := s.Fits(table); err == nil {
			t.Errorf("%s: fits", name)
		}
	}
}

func TestTriggerIsRaisedOncePerWindow(t *testing.T) {
	doors(t, func(t *testing.T, k *Kernel, p *ebpf.Program, _ uint32) {
		var levels [Columns]Level
		levels[vector.DNS] = Level{Packets: 1000}
		if err := k.SetLevels(levels); err != nil {
			t.Fatal(err)
		}
		r, err := k.TriggerReader()
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		repeat(t, p, dnsTo(host4), 400) // may fall into two windows
		if n := len(records(t, r)); n != 0 {
			t.Errorf("%d triggers below the level", n)
		}
		var seen map[uint32]int
		var events []SensorTrigger
		// 100,000 packets take a window or a few; each window that passed the level says so once.
		repeat(t, p, dnsTo(host4), 100_000)
		seen = map[uint32]int{}
		for _, raw := range records(t, r) {
			e, err := DecodeTrigger(raw)
			if err != nil {
				t.Fatal(err)
			}
			seen[e.Window]++
			events = append(events, e)
		}
		if len(events) == 0 {
			t.Fatal("no trigger")
		}
		for w, n := range seen {
			if n != 1 {
				t.Errorf("window %d raised %d triggers", w, n)
			}
		}
		e := events[0]
		if e.Packets < 1000 || e.Packets > 1000+1000/sharesPerLevel || uint64(e.Bytes) > uint64(e.Packets)*128 || uint64(e.Bytes)+64*64 < uint64(e.Packets)*128 {
			t.Errorf("event of %d packets and %d bytes, want 1000 and as many bytes", e.Packets, e.Bytes)
		}
		if Address(uint32(e.Family), e.Address).String() != host4 || vector.ID(e.Vector) != vector.DNS || e.Ktime == 0 {
			t.Errorf("event: %+v", e)
		}
		if time.Duration(e.Age)*k.Tick > k.Window {
			t.Errorf("the window is %d ticks old", e.Age)
		}

		if err := k.SetHot(e.Slot, [2]uint64{1 << vector.DNS}); err != nil {
			t.Fatal(err)
		}
		repeat(t, p, dnsTo(host4), 100_000)
		if n := len(records(t, r)); n != 0 {
			t.Errorf("%d triggers of a hot vector", n)
		}
	})
}

func TestTriggerByBytes(t *testing.T) {
	k := loadWatching(t)
	var levels [Columns]Level
	levels[vector.Total] = Level{Bytes: 1 << 20}
	if err := k.SetLevels(levels); err != nil {
		t.Fatal(err)
	}
	r, err := k.TriggerReader()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	repeat(t, k.Ingress(), frame(eth(ip6), v6(header6{dst: host6, next: 17}), udp(4), payload(1400)), 5000)
	all := records(t, r)
	if len(all) == 0 {
		t.Fatal("no trigger")
	}
	if e, _ := DecodeTrigger(all[0]); e.Bytes < 1<<20 || e.Bytes > 1<<20+1<<17 || vector.ID(e.Vector) != vector.Total {
		t.Errorf("event: %+v", e)
	}
}

func TestLostTriggersAreCounted(t *testing.T) {
	k := loadWatching(t, func(s *Sizes) { s.Hosts = 512 })
	var levels [Columns]Level
	levels[vector.DNS] = Level{Packets: 1}
	if err := k.SetLevels(levels); err != nil {
		t.Fatal(err)
	}
	for i := range 200 { // the ring holds 4096 octets, and nobody reads
		run(t, k.Ingress(), dnsTo(netip.AddrFrom4([4]byte{192, 0, 2, byte(i)}).String()), nil)
	}
	st, err := k.Stats()
	if err != nil || st.LostTriggers == 0 || st.LostTriggers >= 200 {
		t.Errorf("lost %d of 200 (%v)", st.LostTriggers, err)
	}
}

func TestPresentWindowIsExact(t *testing.T) {
	k := loadWatching(t)
	var levels [Columns]Level
	levels[vector.DNS] = Level{Packets: 500}
	levels[vector.Total] = Level{Packets: 1 << 20}
	if err := k.SetLevels(levels); err != nil {
		t.Fatal(err)
	}
	r, err := k.TriggerReader()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	// All in one window, and none of the attempt before: else another attempt, in another window.
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); {
		records(t, r)
		repeat(t, k.Ingress(), dnsTo(host4), 700)
		all := records(t, r)
		if len(all) == 0 {
			continue
		}
		e, _ := DecodeTrigger(all[0])
		got, err := k.Present(e.Slot, e.Window)
		if err != nil {
			t.Fatal(err)
		}
		if got[vector.DNS] == CountOf(700, 700*128) && got[vector.Total] == CountOf(700, 700*128) {
			return
		}
	}
	t.Error("never all 700 packets in the present window")
}

func TestSampling(t *testing.T) {
	doors(t, func(t *testing.T, k *Kernel, p *ebpf.Program, _ uint32) {
		if err := k.SetSampling(100); err != nil {
			t.Fatal(err)
		}
		r, err := k.SampleReader()
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		data := dnsTo(host6)
		repeat(t, p, data, 10_000)
		all := records(t, r)
		if len(all) < 97 || len(all) > 100 { // each CPU winds up its own counter
			t.Errorf("%d samples of 10,000 packets, one in 100", len(all))
		}
		s, err := DecodeSample(all[0])
		if err != nil || s.Weight != 100 || s.Length != 148 || s.Vector != vector.DNS || string(s.Header) != string(data[14:14+128]) {
			t.Errorf("sample %+v (%v)", s, err)
		}
		short := frame(eth(ip4), v4(header4{dst: host4, proto: 6}), tcp(syn))
		repeat(t, p, short, 300)
		all = records(t, r)
		if s, err := DecodeSample(all[len(all)-1]); err != nil || string(s.Header) != string(short[14:]) {
			t.Errorf("short sample %+v (%v)", s, err)
		}

		if err := k.SetSampling(1); err != nil {
			t.Fatal(err)
		}
		repeat(t, p, data, 10_000)
		if st, _ := k.Stats(); st.LostSamples == 0 {
			t.Error("a full ring lost no sample")
		}
		if st, _ := k.Stats(); st.LostTriggers != 0 {
			t.Error("samples crowded out triggers")
		}
	})
}

func TestManySpoofedTargetsTakeNoMoreMemory(t *testing.T) {
	k := loadWatching(t)
	before, err := k.Memory()
	if err != nil {
		t.Fatal(err)
	}
	for i := range 2000 {
		run(t, k.Ingress(), dnsTo(netip.AddrFrom16([16]byte{0x20, 1, 0xd, 0xb8, 14: byte(i >> 8), 15: byte(i)}).String()), nil)
	}
	after, err := k.Memory()
	if err != nil {
		t.Fatal(err)
	}
	for i := range before {
		if before[i] != after[i] {
			t.Errorf("%+v became %+v", before[i], after[i])
		}
	}
	c := snapshot(t, k)
	if n := c.slots[67][vector.DNS][0]; n != 2000-32 || c.stats.RefusedHosts != n {
		t.Errorf("%d packets for the prefix, want %d: half of the slots are for heavy targets; %+v", n, 2000-32, c.stats)
	}
}
