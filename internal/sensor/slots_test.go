package sensor

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"

	"github.com/amooglesoft/trafficmonitor/internal/lab"
	"github.com/amooglesoft/trafficmonitor/internal/sensor/bpf"
	"github.com/amooglesoft/trafficmonitor/internal/vector"
)

// overKernel is a meter over real programs.
func overKernel(t *testing.T, prefixes ...string) (*meter, *bpf.Kernel) {
	t.Helper()
	lab.NeedRoot(t)
	cpus, err := ebpf.PossibleCPU()
	if err != nil {
		t.Fatal(err)
	}
	sizes := bpf.Sizes{CPUs: cpus, Hosts: 64, Prefixes: 8, Networks4: 8, Networks6: 16, Blocks4: 4, Triggers: 4096, Samples: 4096}
	k, err := bpf.Load(sizes)
	if err != nil {
		t.Fatalf("%+v", err)
	}
	t.Cleanup(func() { k.Close() })
	m := newMeter(k, sizes, k.Window, k.Tick, time.Minute, begin)
	follow(t, m, 1, prefixes...)
	return m, k
}

// frameTo is a UDP packet of 100 bytes from the IP header on.
func frameTo(addr netip.Addr) []byte {
	var ip []byte
	ethernet := append(make([]byte, 12), 0x86, 0xdd)
	if addr.Is4() {
		ethernet[12], ethernet[13] = 0x08, 0x00
		ip = []byte{0x45, 0, 0, 100, 0, 0, 0, 0, 64, 17, 0, 0, 203, 0, 113, 1, 0, 0, 0, 0}
		copy(ip[16:], addr.AsSlice())
	} else {
		ip = make([]byte, 40)
		ip[0], ip[5], ip[6], ip[7] = 0x60, 60, 17, 64
		copy(ip[24:], addr.AsSlice())
	}
	udp := make([]byte, 100-len(ip))
	udp[0], udp[3], udp[5] = 200, 9, byte(len(udp))
	return append(append(ethernet, ip...), udp...)
}

func deliver(t *testing.T, k *bpf.Kernel, addr netip.Addr) {
	t.Helper()
	if _, err := k.Ingress().Run(&ebpf.RunOptions{Data: frameTo(addr)}); err != nil {
		t.Fatal(err)
	}
}

// consistent checks what the meter knows against itself and the kernel.
func consistent(t *testing.T, m *meter, k *bpf.Kernel) {
	t.Helper()
	used, children := map[*pool]int{}, map[uint32]int{}
	for n := range uint32(len(m.slots)) {
		s := &m.slots[n]
		if p := m.poolOf(n); p != nil && s.holder.IsValid() {
			used[p]++
			if m.networks.has(s.parent) {
				children[s.parent]++
				if above := m.slots[s.parent].holder; above != network6(s.holder) {
					t.Errorf("%s belongs to %s", s.holder, above)
				}
			}
			if h, err := k.Holder(n); err != nil || h.Network != s.holder || h.Parent != s.parent {
				t.Errorf("slot %d: %s below %d, but the kernel says %v (%v)", n, s.holder, s.parent, h, err)
			}
		}
	}
	for n := m.networks.first; n < m.networks.end; n++ {
		if m.children[n-m.networks.first] != children[n] {
			t.Errorf("network %s has %d hosts, not %d", m.slots[n].holder, children[n], m.children[n-m.networks.first])
		}
	}
	hosts, networks, err := k.Free()
	if err != nil || hosts+used[&m.hosts] != m.sizes.Hosts || networks+used[&m.networks] != m.sizes.Networks6 ||
		m.hosts.used != used[&m.hosts] || m.networks.used != used[&m.networks] {
		t.Errorf("%d hosts free and %d used (%d), %d networks free and %d used (%d) (%v)",
			hosts, used[&m.hosts], m.hosts.used, networks, used[&m.networks], m.networks.used, err)
	}
}

// TestSlotsComeAndGo lets random hosts come and go under changing directives: every packet of a protected address is
// reported once, in whatever slot it was counted, and what the meter knows of slots stays true.
func TestSlotsComeAndGo(t *testing.T) {
	tables := [][]string{
		{"2001:db8::/32", "192.0.2.0/24"},
		{"2001:db8::/32", "2001:db8:0:2::/64", "192.0.2.0/25", "192.0.2.0/24"},
		{"2001:db8::/32", "2001:db8:0:3::3/128", "2001:db8:1::/48", "192.0.2.0/24"},
	}
	m, k := overKernel(t, tables[0]...)
	r := rand.New(rand.NewPCG(1, 9))
	now, revision := begin, uint64(1)
	sent, reported := uint64(0), uint64(0)
	report := func() {
		t.Helper()
		if err := m.scan(now); err != nil {
			t.Fatal(err)
		}
		for _, a := range m.interval(now).GetAggregates() {
			if a.GetVector() == 0 {
				reported += a.GetPackets()
			}
		}
		consistent(t, m, k)
		if sent != reported {
			t.Fatalf("%d packets sent, %d reported", sent, reported)
		}
	}
	for round := range 300 {
		now = now.Add(time.Second)
		// The same few for a while, then others.
		for range r.IntN(30) {
			addr := netip.AddrFrom16([16]byte{0x20, 1, 0xd, 0xb8, 7: byte(round/40 + r.IntN(4)), 15: byte(1 + r.IntN(4) + round/10)})
			if r.IntN(3) == 0 {
				addr = netip.AddrFrom4([4]byte{192, 0, 2, byte(r.IntN(4) + round/2)})
			}
			deliver(t, k, addr)
			sent++
		}
		report()
		if round%25 == 24 {
			revision++
			follow(t, m, revision, tables[r.IntN(len(tables))]...)
			consistent(t, m, k)
		}
	}
	if m.hosts.used == 0 || m.networks.used == 0 {
		t.Error("nothing is in use")
	}
	for range 5 { // silence: hosts first, then their networks
		now = now.Add(2 * time.Minute)
		report()
	}
	if m.hosts.used != 0 || m.networks.used != 0 || len(m.limbo) != 0 {
		t.Errorf("%d hosts and %d networks still have slots, %d are in limbo", m.hosts.used, m.networks.used, len(m.limbo))
	}
}

// TestNetworkThatLeavesTakesItsHostsAlong unlinks a network in the moment a host has found it.
func TestNetworkThatLeavesTakesItsHostsAlong(t *testing.T) {
	m, k := overKernel(t, "2001:db8::/32")
	host := netip.MustParseAddr("2001:db8::1")
	deliver(t, k, host)
	if err := m.scan(begin); err != nil {
		t.Fatal(err)
	}
	network := m.slots[0].parent
	m.interval(begin)
	if err := m.release(network, true); err != nil {
		t.Fatal(err)
	}
	for i := range 4 {
		now := begin.Add(time.Duration(i) * time.Second)
		if err := m.scan(now); err != nil {
			t.Fatal(err)
		}
		m.interval(now)
		consistent(t, m, k)
	}
	if m.hosts.used != 0 || m.networks.used != 0 {
		t.Errorf("%d hosts and %d networks still have slots", m.hosts.used, m.networks.used)
	}
	deliver(t, k, host)
	if err := m.scan(begin.Add(5 * time.Second)); err != nil {
		t.Fatal(err)
	}
	consistent(t, m, k)
	if m.hosts.used != 1 || m.networks.used != 1 {
		t.Errorf("%d hosts and %d networks have slots", m.hosts.used, m.networks.used)
	}
}

// TestMapsSayHowFullTheyAre fills the slots and reads it from the uses.
func TestMapsSayHowFullTheyAre(t *testing.T) {
	_, k := overKernel(t, "192.0.2.0/24", "2001:db8::/32")
	for i := range 40 {
		deliver(t, k, netip.AddrFrom4([4]byte{192, 0, 2, byte(i)}))
	}
	deliver(t, k, netip.MustParseAddr("2001:db8::1"))
	st, err := k.Stats()
	if err != nil {
		t.Fatal(err)
	}
	uses, err := k.Uses(&st)
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]bpf.Use{
		"slot_infos": {Used: 32, Total: 64}, "heavy_hosts": {Total: 32, Lost: 9}, "free_networks": {Used: 1, Total: 16},
		"host_blocks": {Used: 1, Total: 8}, "network_blocks": {Used: 1, Total: 4}, "nodes6": {Used: 5, Total: 64},
	} {
		if got := uses[name]; got != want {
			t.Errorf("%s: %s, want %s", name, fmt.Sprint(got), fmt.Sprint(want))
		}
	}
}

// A prefix that gets the slot of another does not get what that one received, not even what nobody has read yet.
func TestPrefixTakesOverAnothersSlot(t *testing.T) {
	m, k := overKernel(t, "192.0.2.0/24")
	for i := range 200 { // more than there are slots for, so that the prefix counts
		deliver(t, k, netip.AddrFrom4([4]byte{192, 0, 2, byte(i)}))
	}
	follow(t, m, 2, "198.51.100.0/24")
	if got := scanned(t, m, at(time.Second)); strings.Contains(got, "198.51.100.0/24") {
		t.Errorf("after the directive: %s", got)
	}
	for i := range 2 {
		deliver(t, k, netip.AddrFrom4([4]byte{198, 51, 100, byte(i)}))
	}
	n := uint64(0)
	if err := m.scan(at(2 * time.Second)); err != nil {
		t.Fatal(err)
	}
	for _, a := range m.interval(at(2 * time.Second)).GetAggregates() {
		if vector.ID(a.GetVector()) == vector.Total {
			n += a.GetPackets()
		}
	}
	if n != 2 {
		t.Errorf("%d packets reported, want 2", n)
	}
}
