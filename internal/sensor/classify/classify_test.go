package classify

import (
	"encoding/binary"
	"net/netip"
	"testing"

	"github.com/amooglesoft/trafficmonitor/internal/vector"
)

func udp4(source uint16, payload int) []byte {
	b := make([]byte, 14+20+8+payload)
	b[12], b[13] = 8, 0
	ip := b[14:]
	ip[0], ip[9] = 0x45, 17
	binary.BigEndian.PutUint16(ip[2:], uint16(28+payload))
	copy(ip[16:], []byte{192, 0, 2, 1})
	binary.BigEndian.PutUint16(ip[20:], source)
	binary.BigEndian.PutUint16(ip[24:], uint16(8+payload))
	return b
}

func TestClassify(t *testing.T) {
	target := netip.MustParseAddr("192.0.2.1")
	for _, tc := range []struct {
		name   string
		frame  Frame
		vector vector.ID
		length int
	}{
		{"DNS answer", Frame{Data: udp4(53, 100)}, vector.DNS, 128},
		{"UDP", Frame{Data: udp4(54, 100)}, vector.UDPOther, 128},
		{"merged UDP", Frame{Data: udp4(443, 100), Merged: 25, Segments: 4}, vector.UDPOther, 128 + 3*28},
		{"merged UDP without a number", Frame{Data: udp4(443, 100), Merged: 30}, vector.UDPOther, 128 + 3*28},
		{"cut by the mirror", Frame{Data: udp4(53, 100)[:60], Cut: true}, vector.DNS, 128},
		{"cut on the way", Frame{Data: udp4(53, 100)[:60]}, vector.Malformed, 46},
		{"cut by the capture", Frame{Data: udp4(53, 100)[:60], Wire: 142}, vector.DNS, 128},
	} {
		got := Classify(tc.frame, DefaultPorts())
		if got.Vector != tc.vector || got.Length != tc.length || got.Target != target || !got.IP {
			t.Errorf("%s: %+v, want %s of %d bytes", tc.name, got, tc.vector, tc.length)
		}
	}
	frame := udp4(123, 0)
	if got := Packet(frame[14:], len(frame)-14, DefaultPorts()); got.Vector != vector.NTP || got.Target != target {
		t.Errorf("packet: %+v, want NTP", got)
	}
	if got := Classify(Frame{Data: make([]byte, 60)}, nil); got.IP {
		t.Errorf("a frame of EtherType 0 is IP: %+v", got)
	}
}

// FuzzClassify keeps what must hold for any octets: a vector of the table, a length no longer than the frame and its
// headers explain, and decapsulation that changes nothing where there is no tunnel.
func FuzzClassify(f *testing.F) {
	f.Add(udp4(53, 10), 0, 0, 1, false)
	f.Fuzz(func(t *testing.T, data []byte, wire, merged, segments int, cut bool) {
		if wire < len(data) || wire > 1<<20 || segments > 64 || merged > 1<<16 {
			return
		}
		frame := Frame{Data: data, Wire: wire, Merged: merged, Segments: segments, Cut: cut}
		for _, direction := range []vector.Direction{vector.Inbound, vector.Outbound} {
			frame.Direction, frame.Decapsulate = direction, 0
			outer := Classify(frame, DefaultPorts())
			frame.Decapsulate = AllTunnels
			inner := Classify(frame, DefaultPorts())
			for _, r := range []Result{outer, inner} {
				if _, ok := vector.Get(r.Vector); !ok || r.Vector == vector.Total || r.Length < 0 || r.Segments < 1 || r.L3 > len(data) {
					t.Fatalf("%+v", r)
				}
				if merged <= 0 && !cut && (r.Length > wire || r.Segments != 1) {
					t.Fatalf("longer than the frame: %+v", r)
				}
				if r.Target.IsValid() && r.Target != r.Destination && direction == vector.Inbound {
					t.Fatalf("an inbound packet's target is not its destination: %+v", r)
				}
			}
			if inner.Tunnel == 0 && inner.Vector != vector.Malformed && inner != outer {
				t.Fatalf("without a tunnel %+v became %+v", outer, inner)
			}
		}
	})
}

// Each sample of a hot target is classified: thousands a second.
func TestPacketNeedsNoMemory(t *testing.T) {
	packet := udp4(53, 100)[14:]
	if n := testing.AllocsPerRun(100, func() { Packet(packet, 128, nil) }); n != 0 {
		t.Errorf("%v allocations, want none", n)
	}
}

// Replays classify each packet of a capture several times.
func TestClassifyTakesNoMemory(t *testing.T) {
	frame := make([]byte, 60)
	frame[12], frame[14], frame[17], frame[23], frame[39] = 8, 0x45, 46, 17, 26
	f := Frame{Data: frame, Decapsulate: VXLAN | GRE}
	if r := Classify(f, nil); r.Vector != vector.UDPOther {
		t.Fatalf("the packet is %s", r.Vector)
	}
	if n := testing.AllocsPerRun(100, func() { Classify(f, nil) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
