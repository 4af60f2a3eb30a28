package bpf

import (
	"math/rand/v2"
	"net/netip"
	"testing"
)

// TestNetworks6 follows slots up to their prefix.
func TestNetworks6(t *testing.T) {
	k := load(t, func(s *Sizes) { s.Networks6 = 4 })
	prefix := func(s string) netip.Prefix { return netip.MustParsePrefix(s) }
	table := Table{
		prefix("2001:db8::/32"): 64, prefix("2001:db8:1::/48"): 65, prefix("2001:db8:0:7::/64"): 66,
		prefix("2001:db8:0:8::8/128"): 67, prefix("192.0.2.0/24"): 68, prefix("192.0.2.128/25"): 69,
	}
	if err := k.SetTargets(table); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		target string
		chain  []string
	}{
		{"2001:db8::1", []string{"2001:db8::/64", "2001:db8::/32"}},
		{"2001:db8::", []string{"2001:db8::/64", "2001:db8::/32"}},
		{"2001:db8:1::1", []string{"2001:db8:1::/64", "2001:db8:1::/48", "2001:db8::/32"}},
		{"2001:db8:0:7::1", []string{"2001:db8:0:7::/64", "2001:db8::/32"}},
		{"2001:db8:0:8::8", []string{"2001:db8:0:8::8/128", "2001:db8::/32"}},
		{"2001:db8:0:8::9", []string{"2001:db8::/32"}}, // a longer prefix is in its /64
		{"192.0.2.1", []string{"192.0.2.0/24"}},
		{"192.0.2.200", []string{"192.0.2.128/25", "192.0.2.0/24"}},
	} {
		run(t, k.Ingress(), dnsTo(c.target), nil)
		addr := netip.MustParseAddr(c.target)
		for slot := range uint32(k.Sizes.Hosts) {
			h, err := k.Holder(slot)
			if err != nil {
				t.Fatal(err)
			}
			if h.Network != netip.PrefixFrom(addr, addr.BitLen()) {
				continue
			}
			for _, want := range c.chain {
				if h, err = k.Holder(h.Parent); err != nil || h.Network.String() != want {
					t.Errorf("%s: belongs to %s, want %s (%v)", c.target, h.Network, want, err)
				}
			}
			if h.Parent != NoSlot {
				t.Errorf("%s: more is above %v", c.target, c.chain)
			}
			c.chain = nil
		}
		if c.chain != nil {
			t.Errorf("%s: has no slot", c.target)
		}
	}
	// Two of four slots are taken; the others are for heavy networks.
	before := snapshot(t, k)
	run(t, k.Ingress(), dnsTo("2001:db8:2::1"), nil)
	after := snapshot(t, k)
	if after.stats.RefusedNetworks != before.stats.RefusedNetworks+1 || len(after.slots[65]) != len(before.slots[65]) || len(after.slots[64]) == len(before.slots[64]) {
		t.Errorf("a light network: %v, was %v", after, before)
	}
	for range 40 {
		run(t, k.Ingress(), dnsTo("2001:db8:2::1"), nil)
	}
	if _, ok := entriesOf(t, k)[prefix("2001:db8:2::/64")]; !ok {
		t.Error("a heavy network has no slot")
	}
}

func TestFlags(t *testing.T) {
	k := load(t, func(s *Sizes) { s.Networks6 = 4 })
	if err := k.SetTargets(watched()); err != nil {
		t.Fatal(err)
	}
	run(t, k.Ingress(), dnsTo("192.0.2.9"), nil)
	run(t, k.Ingress(), dnsTo("2001:db8::9"), nil)
	const flag = Watched
	for slot := range uint32(k.Sizes.Slots()) {
		h, err := k.Holder(slot)
		if err != nil {
			t.Fatal(err)
		}
		if !h.Network.IsValid() {
			continue
		}
		for _, on := range []bool{true, true, false, false} {
			if err := k.SetFlag(slot, flag, on); err != nil {
				t.Fatal(err)
			}
			if got := k.flags(t, slot, h) == uint32(flag); got != on {
				t.Errorf("%s: marked %v, want %v", h.Network, got, on)
			}
			if int(slot) < k.Sizes.Hosts && !isHeld(t, k, slot, h) {
				t.Errorf("%s lost its slot", h.Network)
			}
		}
	}
	for bit := range 32 {
		if f := Flag(1) << bit; f != Watched {
			if err := k.SetFlag(0, f, true); err == nil {
				t.Errorf("%#x, a bit of slots or tables, can be set", uint32(f))
			}
		}
	}
}

func (k *Kernel) flags(t *testing.T, slot uint32, h Holder) (flags uint32) {
	t.Helper()
	var err error
	switch {
	case int(slot) >= k.Sizes.Hosts:
		var info SensorSlotInfo
		err = k.objects.SlotInfos.Lookup(slot, &info)
		flags = uint32(info.Flags) << flagShift
	case h.Network.Addr().Is4():
		err = k.change4(h.Network.Addr(), slot, func(word uint32) uint32 { flags = word & slotFlags; return word })
	default:
		err = k.change6(h.Network, slot, func(entry uint32) uint32 { flags = entry & slotFlags; return entry })
	}
	if err != nil {
		t.Fatal(err)
	}
	return flags
}

// TestScanHidesNobody sends a million random addresses of one network past a target that begins in the middle.
func TestScanHidesNobody(t *testing.T) {
	for name, c := range map[string]struct {
		real    string
		random  func(r *rand.Rand) netip.Addr
		packets int
	}{
		"ipv6": {"2001:db8:0:9::53", func(r *rand.Rand) netip.Addr {
			a := [16]byte{0x20, 1, 0xd, 0xb8, 7: 9}
			for i := 8; i < 16; i++ {
				a[i] = byte(r.Uint32())
			}
			return netip.AddrFrom16(a)
		}, 1_000_000},
		"ipv4": {"10.9.0.53", func(r *rand.Rand) netip.Addr {
			return netip.AddrFrom4([4]byte{10, 9, byte(r.Uint32()), byte(r.Uint32())})
		}, 200_000},
	} {
		t.Run(name, func(t *testing.T) {
			k := load(t, func(s *Sizes) { s.Hosts, s.Networks4, s.Networks6 = 1024, 256, 16 })
			table := Table{netip.MustParsePrefix("2001:db8::/32"): 1024, netip.MustParsePrefix("10.9.0.0/16"): 1025}
			if err := k.SetTargets(table); err != nil {
				t.Fatal(err)
			}
			memory, err := k.Memory()
			if err != nil {
				t.Fatal(err)
			}
			r := rand.New(rand.NewPCG(8, 9))
			target := netip.MustParseAddr(c.real)
			data, real := dnsTo(c.random(r).String()), dnsTo(c.real)
			const share = 100 // one packet in so many goes to the real target
			sent, toReal, patience := uint64(0), 0, 0
			for i := range c.packets {
				if i > c.packets/2 && i%share == 0 {
					run(t, k.Ingress(), real, nil)
					sent++
					if toReal++; patience == 0 && holds(t, k, target) {
						patience = toReal
					}
					continue
				}
				a := c.random(r)
				if a.Is4() {
					copy(data[30:], a.AsSlice())
				} else {
					copy(data[38:], a.AsSlice())
				}
				run(t, k.Ingress(), data, nil)
				sent++
			}
			if patience == 0 || patience > 200 {
				t.Errorf("the real target got a slot after %d of %d packets", patience, toReal)
			}
			t.Logf("the real target got a slot with its packet %d", patience)
			counts := snapshot(t, k)
			prefix := uint32(1024)
			if target.Is4() {
				prefix++
			}
			var below, total uint64
			for slot, vectors := range counts.slots {
				h, err := k.Holder(slot)
				if err != nil {
					t.Fatal(err)
				}
				n := vectors[0][0]
				total += n
				for h.Parent != prefix && h.Parent != NoSlot {
					if h, err = k.Holder(h.Parent); err != nil {
						t.Fatal(err)
					}
				}
				if h.Parent == prefix || slot == prefix {
					below += n
				}
			}
			if total != sent || below != sent {
				t.Errorf("%d packets are counted, %d of them below the prefix; %d were sent", total, below, sent)
			}
			hosts, _, err := k.Free()
			if err != nil || hosts < 1024/2-5 {
				t.Errorf("%d slots of 1024 are left for heavy targets (%v)", hosts, err)
			}
			if counts.stats.RefusedHosts < sent-20_000 {
				t.Errorf("%d packets were refused a slot", counts.stats.RefusedHosts)
			}
			after, err := k.Memory()
			if err != nil {
				t.Fatal(err)
			}
			for i := range memory {
				if memory[i] != after[i] {
					t.Errorf("%+v became %+v", memory[i], after[i])
				}
			}
		})
	}
}

// holds tells whether a host has a slot.
func holds(t *testing.T, k *Kernel, addr netip.Addr) bool {
	t.Helper()
	for slot := range uint32(k.Sizes.Hosts) {
		if h, err := k.Holder(slot); err != nil {
			t.Fatal(err)
		} else if h.Network.Addr() == addr {
			return true
		}
	}
	return false
}
