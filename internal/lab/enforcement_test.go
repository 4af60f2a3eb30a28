package lab

import (
	"context"
	"encoding/binary"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/amooglesoft/trafficmonitor/internal/lab/enforce"
	"github.com/amooglesoft/trafficmonitor/internal/route"
)

// packet builds test packets; what is zero takes a usual value.
type packet struct {
	v6            bool
	src           string
	protocol      uint8
	sport, dport  uint16 // of TCP and UDP; type and code of ICMP
	flags         uint8
	length        int // of the whole packet
	dscp          uint8
	fragmentField uint16 // IPv4: flags and offset; IPv6: the fragment header's offset and M bit
	fragmented    bool   // IPv6: has a fragment header
}

func (p packet) bytes() []byte {
	l4 := make([]byte, 20)
	switch p.protocol {
	case 1, 58:
		l4[0], l4[1] = byte(p.sport), byte(p.dport)
	default:
		binary.BigEndian.PutUint16(l4, p.sport)
		binary.BigEndian.PutUint16(l4[2:], p.dport)
		l4[12], l4[13] = 5<<4, p.flags
		if p.protocol == 17 {
			binary.BigEndian.PutUint16(l4[4:], 20)
		}
	}
	if p.v6 {
		next := p.protocol
		if p.fragmented {
			l4 = append([]byte{p.protocol, 0, byte(p.fragmentField >> 8), byte(p.fragmentField), 0, 0, 0, 7}, l4...)
			next = 44
		}
		l4 = append(l4, make([]byte, max(p.length-40-len(l4), 0))...)
		h := make([]byte, 40)
		binary.BigEndian.PutUint32(h, 6<<28|uint32(p.dscp)<<22)
		binary.BigEndian.PutUint16(h[4:], uint16(len(l4)))
		h[6], h[7] = next, 64
		copy(h[8:], netip.MustParseAddr(p.src).AsSlice())
		copy(h[24:], SiteVictim6.AsSlice())
		return append(h, l4...)
	}
	l4 = append(l4, make([]byte, max(p.length-20-len(l4), 0))...)
	h := make([]byte, 20)
	h[0], h[1], h[5], h[8], h[9] = 0x45, p.dscp<<2, 7, 64, p.protocol
	binary.BigEndian.PutUint16(h[2:], uint16(20+len(l4)))
	binary.BigEndian.PutUint16(h[6:], p.fragmentField)
	copy(h[12:], netip.MustParseAddr(p.src).AsSlice())
	copy(h[16:], SiteVictim4.AsSlice())
	var sum uint32
	for i := 0; i < 20; i += 2 {
		sum += uint32(binary.BigEndian.Uint16(h[i:]))
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	binary.BigEndian.PutUint16(h[10:], ^uint16(sum))
	return append(h, l4...)
}

// send puts packets on the wire of an interface.
func send(t *testing.T, from, to Interface, packets []packet) {
	t.Helper()
	err := from.In.Do(func() error {
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		for _, p := range packets {
			frame := append(append([]byte(nil), to.MAC...), from.MAC...)
			kind := []byte{0x08, 0x00}
			if p.v6 {
				kind = []byte{0x86, 0xdd}
			}
			frame = append(append(frame, kind...), p.bytes()...)
			if err := unix.Sendto(fd, frame, 0, &unix.SockaddrLinklayer{Ifindex: from.Index}); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// Every component, in the kernel: each rule drops the packets it names and none of the others.
func TestEnforceEveryComponent(t *testing.T) {
	NeedRoot(t)
	NeedTool(t, "nft")
	l := New(t, "components")
	a, b := namespace(t, l, "a"), namespace(t, l, "b")
	out, in, err := l.Link(End{In: a, Addresses: []string{"10.0.0.1/24", "2001:db8::1/64"}}, End{In: b, Addresses: []string{"10.0.0.2/24", "2001:db8::2/64"}})
	if err != nil {
		t.Fatal(err)
	}
	nft := &nftables{in: b}
	var present []route.Route
	shim := enforce.New(enforce.Options{NFT: nft.run})

	const s4, o4, s6 = "100.64.0.1", "192.0.2.77", "2001:db8:bad::1"
	udp := packet{src: s4, protocol: 17, sport: 53, dport: 1000}
	tcp := packet{src: s4, protocol: 6, sport: 1000, dport: 80, flags: 0x02}
	icmp := packet{src: s4, protocol: 1, sport: 8}
	udp6 := packet{v6: true, src: s6, protocol: 17, sport: 53, dport: 1000}
	tcp6 := packet{v6: true, src: s6, protocol: 6, sport: 1000, dport: 80, flags: 0x02}
	icmp6 := packet{v6: true, src: s6, protocol: 58, sport: 128}
	with := func(p packet, change func(*packet)) packet { change(&p); return p }
	flags := func(p packet, f uint8) packet { p.flags = f; return p }
	size := func(p packet, n int) packet { p.length = n; return p }
	dscp := func(p packet, v uint8) packet { p.dscp = v; return p }
	frag := func(p packet, f uint16) packet { p.fragmentField, p.fragmented = f, true; return p }
	ports := func(p packet, s, d uint16) packet { p.sport, p.dport = s, d; return p }
	const d4, d6 = "destination 203.0.113.10/32 ", "destination 2001:db8:113::10/128 "
	// IPv4: don't fragment, more fragments, offset. IPv6: offset in units of eight octets above three bits, more.
	const df, mf4, mf6 = 0x4000, 0x2000, 1

	for _, c := range []struct {
		rule      string
		hit, miss []packet
	}{
		{d4, []packet{udp, tcp, icmp}, []packet{udp6, tcp6}},
		{d6, []packet{udp6, tcp6, icmp6}, []packet{udp, tcp}},
		{d4 + "source 100.64.0.0/10", []packet{udp}, []packet{with(udp, func(p *packet) { p.src = o4 }), udp6}},
		{d6 + "source 2001:db8:bad::/48", []packet{udp6}, []packet{with(udp6, func(p *packet) { p.src = "2001:db8:1::1" })}},
		{d4 + "protocol udp,icmp", []packet{udp, icmp}, []packet{tcp}},
		{d6 + "protocol tcp", []packet{tcp6, frag(tcp6, mf6)}, []packet{udp6, icmp6}},
		{d4 + "port 53,80", []packet{udp, tcp, ports(udp, 1, 80)}, []packet{ports(udp, 1, 2), icmp}},
		{d4 + "destination-port 1000-2000", []packet{udp, ports(tcp, 1, 2000)}, []packet{tcp, ports(udp, 1000, 2001)}},
		{d6 + "source-port 53", []packet{udp6, ports(tcp6, 53, 1), frag(udp6, mf6)}, []packet{ports(udp6, 54, 53), frag(udp6, 5<<3), frag(udp6, 5<<3|mf6)}},
		{d4 + "source-port 53", []packet{udp, frag(udp, mf4)}, []packet{frag(udp, 5), frag(udp, mf4|5)}}, // later fragments have no ports
		{d4 + "icmp-type 8 icmp-code 0-3", []packet{icmp, ports(icmp, 8, 3)}, []packet{ports(icmp, 8, 4), ports(icmp, 0, 0), udp}},
		{d6 + "icmp-type 128,135", []packet{icmp6, ports(icmp6, 135, 0)}, []packet{ports(icmp6, 129, 0), tcp6}},
		{d4 + "tcp-flags syn&!ack,rst", []packet{tcp, flags(tcp, 0x42), flags(tcp, 0x14)}, []packet{flags(tcp, 0x12), flags(tcp, 0x10), udp}},
		{d6 + "protocol tcp destination-port 80 tcp-flags syn&!ack", []packet{tcp6}, []packet{flags(tcp6, 0x12), ports(tcp6, 1, 81)}},
		{d4 + "length 100-200,1000", []packet{size(udp, 100), size(tcp, 200), size(udp, 1000)}, []packet{udp, size(udp, 99), size(udp, 201)}},
		{d6 + "length 100-200", []packet{size(udp6, 100), size(udp6, 200)}, []packet{size(udp6, 99), size(udp6, 201)}},
		{d4 + "dscp 10,46", []packet{dscp(udp, 10), dscp(tcp, 46)}, []packet{udp, dscp(udp, 11)}},
		{d6 + "dscp 46", []packet{dscp(udp6, 46)}, []packet{udp6, dscp(udp6, 45)}},
		{d4 + "fragment is-fragment", []packet{frag(udp, mf4|5), frag(udp, 5)}, []packet{udp, frag(udp, mf4), frag(udp, df)}},
		{d4 + "fragment first-fragment", []packet{frag(udp, mf4)}, []packet{udp, frag(udp, mf4|5), frag(udp, 5)}},
		{d4 + "fragment last-fragment", []packet{frag(udp, 5)}, []packet{udp, frag(udp, mf4), frag(udp, mf4|5)}},
		{d4 + "fragment dont-fragment", []packet{frag(udp, df)}, []packet{udp, frag(udp, 5)}},
		{d4 + "fragment !is-fragment&!first-fragment", []packet{udp, frag(udp, df)}, []packet{frag(udp, mf4), frag(udp, 5)}},
		{d4 + "fragment !last-fragment", []packet{udp, frag(udp, mf4), frag(udp, mf4|5)}, []packet{frag(udp, 5)}},
		{d6 + "fragment is-fragment", []packet{frag(udp6, 5<<3), frag(udp6, 5<<3|mf6)}, []packet{udp6, frag(udp6, mf6)}},
		{d6 + "fragment first-fragment,last-fragment", []packet{frag(udp6, mf6), frag(udp6, 5<<3)}, []packet{udp6, frag(udp6, 5<<3|mf6)}},
		{d6 + "fragment !is-fragment", []packet{udp6, frag(udp6, mf6)}, []packet{frag(udp6, 5<<3)}},
	} {
		r := mustRoute(t, c.rule+" then discard").Canonical()
		script, err := enforce.Script([]route.Route{r}, present)
		if err != nil {
			t.Fatal(err)
		}
		if out, err := nft.run(t.Context(), script, "-f", "-"); err != nil {
			t.Fatalf("%s: %v\n%s\n%s", c.rule, err, out, script)
		}
		present = []route.Route{r}
		count := func() uint64 {
			all, err := shim.Counters(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if len(all) != 1 {
				t.Fatalf("%s: counters of %d rules are there", c.rule, len(all))
			}
			return all[enforce.Key(r)].Dropped.Packets
		}
		send(t, out, in, c.miss)
		send(t, out, in, c.hit)
		// Sending hands a packet to the other end at once; it may be counted a moment later.
		err = Until(deadline(t, time.Second), "the packets to be counted", func(context.Context) error {
			if got := count(); got != uint64(len(c.hit)) {
				return fmt.Errorf("%d were dropped", got)
			}
			return nil
		})
		if err != nil {
			t.Errorf("%s: %v of %d that match and %d that do not", c.rule, err, len(c.hit), len(c.miss))
		}
	}
	if out, err := nft.run(t.Context(), "add rule inet nowhere x drop", "-f", "-"); err == nil || out == "" {
		t.Errorf("nft refused nothing: %q, %v", out, err)
	}
}
