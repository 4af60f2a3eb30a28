package flood

import (
	"encoding/binary"
	"net/netip"
	"testing"
)

func templates(t testing.TB) map[string]*Template {
	t.Helper()
	t4, t6 := netip.MustParseAddr("203.0.113.10"), netip.MustParseAddr("2001:db8:113::10")
	s4, s6 := netip.MustParsePrefix("100.64.0.0/10"), netip.MustParsePrefix("2001:db8:bad::/48")
	out := map[string]*Template{}
	add := func(name string, x *Template, err error) {
		if err != nil {
			t.Fatal(err)
		}
		out[name] = x
	}
	for name, p := range map[string]struct {
		a netip.Addr
		s netip.Prefix
	}{"4": {t4, s4}, "6": {t6, s6}} {
		x, err := DNSAnswers(p.a, p.s, 512)
		add("dns"+name, x, err)
		x, err = SYN(p.a, p.s, 443)
		add("syn"+name, x, err)
		x, err = UDP(p.a, p.s, 9999, []byte("odd"))
		add("udp"+name, x, err)
		x, err = ICMP(p.a, p.s, make([]byte, 56))
		add("icmp"+name, x, err)
		for _, kind := range []string{"icmp", "syn"} {
			x, err = out[kind+name].Spread(netip.PrefixFrom(p.a, p.a.BitLen()-9))
			add(kind+name+" spread", x, err)
		}
	}
	return out
}

// Every packet has right checksums, a source inside the prefix, and differs from the others.
func TestPackets(t *testing.T) {
	for name, x := range templates(t) {
		t.Run(name, func(t *testing.T) {
			p := append([]byte(nil), x.packet...)
			sources, targets, ports := map[netip.Addr]bool{}, map[netip.Addr]bool{}, map[uint16]bool{}
			for n := range uint64(5000) {
				x.fill(p, n)
				var src, dst netip.Addr
				var pseudo uint32
				if x.v6 {
					src, _ = netip.AddrFromSlice(p[8:24])
					dst, _ = netip.AddrFromSlice(p[24:40])
					pseudo = sum(p[8:40]) + uint32(p[6]) + uint32(len(p)-40)
				} else {
					src, _ = netip.AddrFromSlice(p[12:16])
					dst, _ = netip.AddrFromSlice(p[16:20])
					pseudo = sum(p[12:20]) + uint32(p[9]) + uint32(len(p)-20)
					if fold(sum(p[:20])) != 0xffff {
						t.Fatalf("packet %d: wrong IP checksum", n)
					}
					if p[9] == 1 {
						pseudo = 0
					}
				}
				if fold(pseudo+sum(p[x.l4:])) != 0xffff {
					t.Fatalf("packet %d: wrong transport checksum", n)
				}
				if !x.sources.Contains(src) {
					t.Fatalf("packet %d: source %s is outside %s", n, src, x.sources)
				}
				if !x.targets.Contains(dst) {
					t.Fatalf("packet %d: target %s is outside %s", n, dst, x.targets)
				}
				sources[src] = true
				targets[dst] = true
				ports[binary.BigEndian.Uint16(p[x.vary[0].at:])] = true
			}
			if len(sources) < 4900 || len(ports) < 4000 {
				t.Errorf("%d sources, %d ports", len(sources), len(ports))
			}
			if want := 1 << (x.targets.Addr().BitLen() - x.targets.Bits()); len(targets) != want {
				t.Errorf("%d targets, want %d", len(targets), want)
			}
		})
	}
}

func TestNumbered(t *testing.T) {
	for name, x := range templates(t) {
		if x.packet[x.protocolAt()] != 17 || len(x.packet) < x.l4+8+4 {
			if _, err := x.Numbered(0); err == nil {
				t.Errorf("%s was numbered", name)
			}
			continue
		}
		x, err := x.Numbered(1 << 20)
		if err != nil {
			t.Fatal(err)
		}
		p := append([]byte(nil), x.packet...)
		for n := range uint64(1000) {
			x.fill(p, n)
			if got := binary.BigEndian.Uint32(p[x.l4+8:]); got != 1<<20+uint32(n) {
				t.Fatalf("%s: packet %d has the number %d", name, n, got)
			}
			addresses := p[8:40]
			if !x.v6 {
				addresses = p[12:20]
			}
			if fold(sum(addresses)+17+uint32(len(p)-x.l4)+sum(p[x.l4:])) != 0xffff {
				t.Fatalf("%s: packet %d: wrong checksum", name, n)
			}
		}
	}
}

func TestRefuses(t *testing.T) {
	a4, s6 := netip.MustParseAddr("203.0.113.10"), netip.MustParsePrefix("2001:db8::/32")
	if _, err := SYN(a4, s6, 80); err == nil {
		t.Error("mixed families were accepted")
	}
	if _, err := DNSAnswers(a4, netip.MustParsePrefix("10.0.0.0/8"), 1473); err == nil {
		t.Error("an oversized packet was accepted")
	}
	x, err := SYN(a4, netip.MustParsePrefix("10.0.0.0/8"), 80)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := x.Spread(s6); err == nil {
		t.Error("targets of the other family were accepted")
	}
	for _, o := range []Options{{}, {Template: x}, {Template: x, Packets: 1}, {Template: x, Packets: 1, Duration: 1}} {
		if f, err := Open(o); err == nil {
			f.Close()
			t.Errorf("%+v was accepted", o)
		}
	}
}

func TestDNSAnswerLength(t *testing.T) {
	for _, size := range []int{60, 100, 512, 1200, 1400} {
		if got := len(dnsAnswer(size)); got != size {
			t.Errorf("asked for %d, got %d", size, got)
		}
	}
}

func BenchmarkFill(b *testing.B) {
	for name, x := range templates(b) {
		b.Run(name, func(b *testing.B) {
			p := append([]byte(nil), x.packet...)
			var n uint64
			for b.Loop() {
				x.fill(p, n)
				n++
			}
		})
	}
}
