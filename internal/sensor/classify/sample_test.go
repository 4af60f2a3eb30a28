package classify

import (
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/amooglesoft/trafficmonitor/internal/traffic"
	"github.com/amooglesoft/trafficmonitor/internal/vector"
)

func TestSample(t *testing.T) {
	at := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	four := func(flags byte, more ...byte) []byte {
		b := []byte{0x45, 0xb8, 0, byte(20 + len(more)), 0, 0, flags, 0, 61, 0, 0, 0, 192, 0, 2, 1, 198, 51, 100, 7}
		return append(b, more...)
	}
	six := func(next byte, more ...byte) []byte {
		b := make([]byte, 40, 40+len(more))
		b[0], b[1], b[2], b[3], b[5], b[6], b[7], b[23], b[39] = 0x6b, 0x8a, 0xbc, 0xde, byte(len(more)), next, 61, 1, 7
		return append(b, more...)
	}
	from4, to4 := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("198.51.100.7")
	from6, to6 := netip.MustParseAddr("::1"), netip.MustParseAddr("::7")
	base := traffic.Sample{Time: at, Weight: 3, Source: from4, Destination: to4, TTL: 61, DSCP: 46}
	base6 := base
	base6.Source, base6.Destination, base6.FlowLabel = from6, to6, 0xabcde
	for name, tc := range map[string]struct {
		packet []byte
		base   traffic.Sample
		set    func(*traffic.Sample)
	}{
		"udp, do not fragment": {four(0x40, 0, 53, 0x30, 0x39, 0, 8, 0, 0), base, func(s *traffic.Sample) {
			s.Vector, s.Protocol, s.HasPorts, s.SourcePort, s.DestinationPort, s.Fragment = vector.DNS, 17, true, 53, 12345, traffic.DontFragment
		}},
		"icmp code": {four(0, 3, 13, 0, 0), base, func(s *traffic.Sample) {
			s.Vector, s.Protocol, s.HasICMP, s.ICMPType, s.ICMPCode = vector.ICMPUnreachable, 1, true, 3, 13
		}},
		"later fragment, more to come": {four(0x21, 1, 2, 3, 4), base, func(s *traffic.Sample) {
			s.Vector, s.Protocol, s.Fragment = vector.Fragment, 17, traffic.IsFragment
		}},
		"last fragment": {four(0x01, 1, 2, 3, 4), base, func(s *traffic.Sample) {
			s.Vector, s.Protocol, s.Fragment = vector.Fragment, 17, traffic.IsFragment|traffic.LastFragment
		}},
		"first fragment of 6": {six(44, 17, 0, 0, 1, 0, 0, 0, 9, 0x30, 0x39, 0x30, 0x3a, 0, 8, 0, 0), base6, func(s *traffic.Sample) {
			s.Vector, s.Protocol, s.HasPorts, s.SourcePort, s.DestinationPort, s.Fragment = vector.FirstFragment, 17, true, 12345, 12346, traffic.FirstFragment
		}},
		"last fragment of 6": {six(44, 17, 0, 1, 0, 0, 0, 0, 9, 1, 2), base6, func(s *traffic.Sample) {
			s.Vector, s.Protocol, s.Fragment = vector.Fragment, 17, traffic.IsFragment|traffic.LastFragment
		}},
		"syn of 6": {six(6, 0x30, 0x39, 0, 80, 0, 0, 0, 0, 0, 0, 0, 0, 0x50, 2, 0, 0, 0, 0, 0, 0), base6, func(s *traffic.Sample) {
			s.Vector, s.Protocol, s.HasPorts, s.SourcePort, s.DestinationPort, s.TCPFlags = vector.SYN, 6, true, 12345, 80, 2
		}},
	} {
		t.Run(name, func(t *testing.T) {
			want := tc.base
			want.Length = uint16(len(tc.packet))
			tc.set(&want)
			if tc.packet[0]>>4 == 4 {
				tc.packet[9] = want.Protocol
			}
			r := Packet(tc.packet, len(tc.packet), DefaultPorts())
			got := r.Sample(at, vector.Inbound, 3)
			if diff := cmp.Diff(want, got, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
				t.Error(diff)
			}
			if got.Target() != want.Destination || got.Peer() != want.Source {
				t.Errorf("target %s, peer %s", got.Target(), got.Peer())
			}
		})
	}
}
