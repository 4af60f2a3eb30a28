package sensor

import (
	"encoding/binary"
	"math"
	"math/rand/v2"
	"net/netip"
	"runtime"
	"slices"
	"testing"
	"time"

	pb "github.com/amooglesoft/trafficmonitor/api/trafficmonitor/v1"
	"github.com/amooglesoft/trafficmonitor/internal/sensor/bpf"
	"github.com/amooglesoft/trafficmonitor/internal/sketch"
	"github.com/amooglesoft/trafficmonitor/internal/vector"
)

// sampled makes a sample of a UDP or TCP packet.
func sampled(way vector.Direction, v vector.ID, source, destination netip.AddrPort, ttl, flags uint8, length int) bpf.Sample {
	var b []byte
	proto, transport := byte(17), []byte{0, 0, 0, 0, 0, 8, 0, 0}
	if flags != 0 {
		proto, transport = 6, make([]byte, 20)
		transport[12], transport[13] = 5<<4, flags
	}
	binary.BigEndian.PutUint16(transport, source.Port())
	binary.BigEndian.PutUint16(transport[2:], destination.Port())
	if source.Addr().Is4() {
		b = []byte{0x45, 0, 0, 0, 0, 0, 0, 0, ttl, proto, 0, 0}
		binary.BigEndian.PutUint16(b[2:], uint16(length))
	} else {
		b = []byte{0x60, 0, 0, 0, 0, 0, proto, ttl}
		binary.BigEndian.PutUint16(b[4:], uint16(length-40))
	}
	b = append(append(append(b, source.Addr().AsSlice()...), destination.Addr().AsSlice()...), transport...)
	return bpf.Sample{Weight: 100, Length: uint32(length), Vector: v, Direction: way, Header: b}
}

func chosen(p *profiler, targets ...string) {
	var list []*pb.Aggregate
	for i, t := range targets {
		n := netip.MustParsePrefix(t)
		for _, way := range []pb.Direction{pb.Direction_DIRECTION_INBOUND, pb.Direction_DIRECTION_OUTBOUND} {
			list = append(list, &pb.Aggregate{Target: n.Addr().AsSlice(), PrefixLength: uint32(n.Bits()), Direction: way, Vector: uint32(vector.SYN), Packets: uint64(1000 - i)})
		}
	}
	sortAggregates(list)
	p.choose(list)
}

func TestProfileSaysWhatPacketsWereLike(t *testing.T) {
	for _, tc := range []struct{ name, target, peer, network string }{
		{"IPv4", "192.0.2.1", "198.51.%d.7", "198.51.3.0/24"},
		{"IPv6", "2001:db8::1", "2001:db8:ffff:%d::7", "2001:db8:ffff::/48"},
	} {
		for _, way := range []vector.Direction{vector.Inbound, vector.Outbound} {
			p := newProfiler()
			p.limit(4)
			target := netip.MustParseAddr(tc.target)
			prefix := netip.PrefixFrom(target, target.BitLen())
			chosen(p, prefix.String())
			for i := range 30 {
				peer := netip.MustParseAddr("198.51.3.7")
				if target.Is6() {
					peer = netip.MustParseAddr("2001:db8:ffff:3::7")
				}
				b := peer.AsSlice()
				b[len(b)-1] = byte(i % 3)
				peer, _ = netip.AddrFromSlice(b)
				source, destination := netip.AddrPortFrom(peer, uint16(1000+i)), netip.AddrPortFrom(target, 80)
				if way == vector.Outbound {
					source, destination = destination, source
				}
				p.add(sampled(way, vector.SYN, source, destination, 60, 2, 60))
				// Neither another vector, nor the other direction, nor another target.
				p.add(sampled(way, vector.ACK, source, destination, 60, 2, 60))
				p.add(sampled(1-way, vector.SYN, netip.AddrPortFrom(peer, 1), netip.AddrPortFrom(peer, 1), 60, 2, 60))
			}
			all := p.rest()
			if len(all) != 1 {
				t.Fatalf("%s %s: %d profiles", tc.name, way, len(all))
			}
			got := all[0]
			ports, fixed := got.SourcePorts, got.DestinationPorts
			if way == vector.Outbound {
				ports, fixed = fixed, ports
			}
			sources := prefixOf(got.Sources[0].Network, got.Sources[0].PrefixLength)
			if prefixOf(got.Target, got.PrefixLength) != prefix || got.Direction != directionProto(way) || vector.ID(got.Vector) != vector.SYN ||
				got.Samples != 30 || got.Packets != 3000 || got.Lengths[0] != 30 || got.Ttls[1] != 30 || got.Fragments != 0 ||
				len(got.TcpFlags) != 1 || got.TcpFlags[0].Value != 2 || got.TcpFlags[0].Count != 30 ||
				len(fixed) != 1 || fixed[0].Value != 80 || fixed[0].Count != 30 || len(ports) != topPorts ||
				len(got.Sources) != 1 || sources.String() != tc.network || got.Sources[0].Count != 30 || got.DistinctExact {
				t.Errorf("%s %s: %v", tc.name, way, got)
			}
			h, err := sketch.Parse(got.DistinctSources)
			if err != nil || math.Abs(h.Estimate()-3) > 0.5 {
				t.Errorf("%s %s: %v sources, %v; want 3", tc.name, way, h.Estimate(), err)
			}
			if again := p.rest(); len(again) != 0 {
				t.Errorf("%s %s: said twice: %v", tc.name, way, again)
			}
		}
	}
}

// A network is described by what reaches its hosts, too.
func TestProfileOfANetwork(t *testing.T) {
	p := newProfiler()
	p.limit(4)
	chosen(p, "192.0.2.0/24", "192.0.2.1/32")
	for i := range byte(10) {
		p.add(sampled(vector.Inbound, vector.SYN, netip.MustParseAddrPort("198.51.100.1:5"), netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, 2, i}), 80), 1, 2, 40))
	}
	var got []uint32
	for _, x := range p.rest() {
		got = append(got, x.Samples)
	}
	if !slices.Equal(got, []uint32{10, 1}) {
		t.Errorf("samples %v, want those of the network and those of the host", got)
	}
}

func TestTheBusiestAreChosen(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 1))
	p := newProfiler()
	p.limit(50)
	for range 20 {
		var list []*pb.Aggregate
		for i := range 400 {
			list = append(list, &pb.Aggregate{Target: []byte{192, 0, byte(i >> 8), byte(i)}, PrefixLength: 32, Direction: 1, Vector: uint32(rng.IntN(3)), Packets: rng.Uint64N(100)})
		}
		want := map[profileKey]bool{}
		sorted := slices.DeleteFunc(slices.Clone(list), func(a *pb.Aggregate) bool { return a.Vector == 0 })
		slices.SortFunc(sorted, func(a, b *pb.Aggregate) int {
			if busier(a, b) {
				return -1
			}
			return 1
		})
		for _, a := range sorted[:50] {
			want[profileKey{prefixOf(a.Target, 32), bpf.ColumnOf(vector.Inbound, vector.ID(a.Vector))}] = true
		}
		p.choose(list)
		if len(p.of) != len(want) {
			t.Fatalf("%d are described, want %d", len(p.of), len(want))
		}
		for k := range p.of {
			if !want[k] {
				t.Errorf("%v is described and not among the busiest", k)
			}
		}
	}
	p.limit(0)
	p.choose([]*pb.Aggregate{{Target: []byte{192, 0, 2, 1}, PrefixLength: 32, Vector: 1, Packets: 5}})
	if len(p.of) != 0 {
		t.Errorf("%d are described, none should be", len(p.of))
	}
}

// Hot targets are described beside the busiest, once a second, and return to them.
func TestHotTargetsAreDescribedOnceASecond(t *testing.T) {
	m, k := watching(t, "192.0.2.0/24")
	m.now.hotSampleOneIn, m.now.profiles = 1, 0
	k.packets("192.0.2.1", vector.DNS, 50_000)
	k.packets("192.0.2.1", vector.ACK, 10)
	if err := m.scan(at(time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	if _, err := m.trigger(trigger{slot: 0, window: 1, column: bpf.ColumnOf(vector.Inbound, vector.Total), addr: netip.MustParseAddr("192.0.2.1"), packets: 700, bytes: 70_000}, at(0)); err != nil {
		t.Fatal(err)
	}
	sample := func() {
		for _, v := range []vector.ID{vector.DNS, vector.ACK} {
			m.profiles.add(sampled(vector.Inbound, v, netip.MustParseAddrPort("198.51.100.1:53"), netip.MustParseAddrPort("192.0.2.1:4000"), 60, 0, 500))
		}
	}
	said := 0
	for i := range 30 {
		sample()
		k.packets("192.0.2.1", vector.DNS, 5000)
		reports, err := m.hotReports(at(time.Duration(i+1) * 100 * time.Millisecond))
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range reports {
			for _, x := range r.Profiles {
				said++
				if vector.ID(x.Vector) != vector.DNS || x.Samples != 10 {
					t.Errorf("profile %v", x)
				}
			}
		}
	}
	if said != 3 {
		t.Errorf("%d profiles in three seconds", said)
	}
	sample()
	if r := m.interval(at(3100 * time.Millisecond)); len(r.Profiles) != 0 {
		t.Errorf("a hot target is in an interval report: %v", r.Profiles)
	}
	if err := m.calm(0); err != nil {
		t.Fatal(err)
	}
	if r := m.interval(at(4 * time.Second)); len(r.Profiles) != 1 {
		t.Errorf("%d profiles after it calmed down, want what was gathered", len(r.Profiles))
	}
	if len(m.profiles.of) != 0 || m.profiles.heated != 0 || len(m.profiles.hot) != 0 {
		t.Errorf("%d are still described", len(m.profiles.of))
	}
}

// However many targets are attacked and sources are forged, the memory of profiles is fixed.
func TestProfilesAreBounded(t *testing.T) {
	p := newProfiler()
	p.limit(100)
	refused := 0
	rng := rand.New(rand.NewPCG(2, 2))
	round := func(n int) {
		var list []*pb.Aggregate
		for i := range n {
			a := netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)})
			if !p.heat(profileKey{netip.PrefixFrom(a, 32), bpf.ColumnOf(vector.Inbound, vector.DNS)}, begin) {
				refused++
			}
			list = append(list, &pb.Aggregate{Target: a.AsSlice(), PrefixLength: 32, Vector: uint32(vector.SYN), Packets: rng.Uint64N(1000)})
		}
		p.choose(list)
		for range n {
			source := netip.AddrPortFrom(netip.AddrFrom4([4]byte(binary.BigEndian.AppendUint32(nil, rng.Uint32()))), uint16(rng.Uint32()))
			p.add(sampled(vector.Inbound, vector.DNS, source, netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 0, byte(rng.IntN(256))}), 80), 3, 0, 700))
		}
		p.rest()
		for i := range n {
			p.cool(netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}), 32))
		}
		p.rest()
		p.choose(nil)
		if len(p.of) != 0 || len(p.spare) > 100+hotProfiles {
			t.Fatalf("%d described, %d spare", len(p.of), len(p.spare))
		}
	}
	round(3000)
	heap := func() uint64 {
		var s runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&s)
		return s.HeapAlloc
	}
	before := heap()
	for range 5 {
		round(3000)
	}
	if grown := int64(heap()) - int64(before); grown > 1<<20 {
		t.Errorf("the heap grew by %d bytes", grown)
	}
	if refused == 0 {
		t.Error("no vector of a hot target was refused")
	}
	chosen(p, "10.0.0.1/32")
	s := sampled(vector.Inbound, vector.SYN, netip.MustParseAddrPort("198.51.100.1:53"), netip.MustParseAddrPort("10.0.0.1:4000"), 60, 2, 500)
	if n := testing.AllocsPerRun(1000, func() { p.add(s) }); n > 1 { // the dissector
		t.Errorf("%v allocations for a sample", n)
	}
}

// A hot target is marked in the kernel and gets a sketch, which is in its profiles and free again when it calms down.
func TestHotTargetsAreWatched(t *testing.T) {
	m, k := watching(t, "192.0.2.0/24")
	k.packets("192.0.2.1", vector.DNS, 50_000)
	if err := m.scan(at(time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	event := func(d vector.Direction, v vector.ID) {
		t.Helper()
		e := trigger{slot: 0, window: 1, column: bpf.ColumnOf(d, v), addr: netip.MustParseAddr("192.0.2.1"), packets: 700, bytes: 70_000}
		if _, err := m.trigger(e, at(0)); err != nil {
			t.Fatal(err)
		}
	}
	event(vector.Inbound, vector.DNS)
	in := [2]uint32{0, uint32(vector.Inbound)}
	if !k.watched[0] || k.sketch[in] != bpf.Sketches-1 || !slices.Equal(k.cleared, []int{bpf.Sketches - 1}) {
		t.Errorf("watched %v, sketches %v, cleared %v", k.watched, k.sketch, k.cleared)
	}
	m.profiles.add(sampled(vector.Inbound, vector.DNS, netip.MustParseAddrPort("198.51.100.1:53"), netip.MustParseAddrPort("192.0.2.1:4000"), 60, 0, 500))
	k.packets("192.0.2.1", vector.DNS, 5000)
	reports, err := m.hotReports(at(1500 * time.Millisecond))
	if err != nil || len(reports) != 1 || len(reports[0].Profiles) != 1 {
		t.Fatalf("reports %v, %v", reports, err)
	}
	if p := reports[0].Profiles[0]; !p.DistinctExact || !slices.Equal(p.DistinctSources[:2], []byte{bpf.Sketches - 1, 7}) {
		t.Errorf("profile %v", p)
	}
	m.sketches = m.sketches[:0]
	event(vector.Outbound, vector.SYN)
	if _, given := k.sketch[[2]uint32{0, uint32(vector.Outbound)}]; given || m.unsketched != 1 {
		t.Errorf("sketches %v, %d refused", k.sketch, m.unsketched)
	}
	if err := m.calm(0); err != nil {
		t.Fatal(err)
	}
	if k.watched[0] || k.sketch[in] != -1 || len(m.sketches) != 1 {
		t.Errorf("after it calmed down: watched %v, sketches %v, %d free", k.watched, k.sketch, len(m.sketches))
	}
}
