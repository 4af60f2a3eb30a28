package bpf

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/cilium/ebpf"

	"github.com/amooglesoft/trafficmonitor/internal/lab"
	"github.com/amooglesoft/trafficmonitor/internal/sensor/classify"
	"github.com/amooglesoft/trafficmonitor/internal/vector"
)

// What the parser returns.
const (
	parsed      = 0
	parsedNotIP = 1
	parsedShort = 2
)

// probe is the parser alone, behind each of its doors.
type probe struct {
	ProbePrograms
	Last    *ebpf.Variable `ebpf:"last"`
	tunnels classify.Tunnels
}

func loadProbe(t testing.TB, tunnels classify.Tunnels, cut bool) *probe {
	t.Helper()
	lab.NeedRoot(t)
	spec, err := LoadProbe()
	if err != nil {
		t.Fatal(err)
	}
	if err := setVectors(spec); err != nil {
		t.Fatal(err)
	}
	var ports [65536]uint8
	for port, v := range classify.DefaultPorts() {
		ports[port] = uint8(v)
	}
	constants := map[string]any{"decapsulate": tunnelBits(tunnels), "udp_vectors": ports[:]}
	if cut {
		constants["truncated_mirror"] = uint32(1)
	}
	for name, value := range constants {
		if err := spec.Variables[name].Set(value); err != nil {
			t.Fatal(err)
		}
	}
	p := &probe{tunnels: tunnels}
	if err := spec.LoadAndAssign(p, nil); err != nil {
		t.Fatalf("%+v", err)
	}
	t.Cleanup(func() { p.ProbeIngress.Close(); p.ProbeEgress.Close(); p.ProbeXdp.Close() })
	return p
}

// run returns what a program made of the frame, in the reference's words.
func (p *probe) run(t testing.TB, program *ebpf.Program, data, context []byte) classify.Result {
	t.Helper()
	run(t, program, data, context)
	var v ProbeVerdict
	if err := p.Last.Get(&v); err != nil {
		t.Fatal(err)
	}
	r := classify.Result{
		IP: v.Parsed != parsedNotIP, Vector: vector.ID(v.Vector), Reason: classify.Reason(v.Reason), Length: int(v.Length),
		Segments: int(v.Segments), L3: int(v.L3),
	}
	if v.Parsed == parsedShort {
		r.Vector, r.Reason = vector.Malformed, classify.Short
	}
	switch v.Family {
	case 4:
		r.Target = netip.AddrFrom4([4]byte{byte(v.Address4 >> 24), byte(v.Address4 >> 16), byte(v.Address4 >> 8), byte(v.Address4)})
	case 6:
		r.Target = address6(v.Address6)
	}
	return counted1(r)
}

func address6(words [2]uint64) netip.Addr {
	var b [16]byte
	for i := range b {
		b[i] = byte(words[i/8] >> (8 * (i % 8)))
	}
	return netip.AddrFrom16(b)
}

// counted1 keeps of a result what a program decides, and drops what means nothing.
func counted1(r classify.Result) classify.Result {
	out := classify.Result{IP: r.IP, Length: r.Length, Segments: r.Segments}
	if r.IP {
		out.Target, out.Vector = r.Target, r.Vector
	}
	if !r.IP || r.Target.IsValid() {
		out.L3 = r.L3
	}
	if r.IP && r.Vector == vector.Malformed {
		out.Reason = r.Reason
	}
	return out
}

// door is one of the ways into the parser.
type door struct {
	name      string
	program   *ebpf.Program
	direction vector.Direction
	mirror    bool
}

func (p *probe) doors() []door {
	return []door{
		{"ingress", p.ProbeIngress, vector.Inbound, false},
		{"egress", p.ProbeEgress, vector.Outbound, false},
		{"mirror", p.ProbeXdp, vector.Inbound, true},
	}
}

// agree feeds the frame to every door and to the reference. A merged one has a size and a number of segments.
func agree(t testing.TB, p *probe, data []byte, cut bool, segments, size uint32) {
	t.Helper()
	for _, d := range p.doors() {
		if refused(d.program, data) || d.mirror && size > 0 {
			continue
		}
		f := classify.Frame{Data: data, Direction: d.direction, Cut: cut && d.mirror, Decapsulate: p.tunnels}
		var context []byte
		if size > 0 {
			context = merged(segments, size)
			f.Merged, f.Segments = int(size), int(segments)
		}
		want := counted1(classify.Classify(f, classify.DefaultPorts()))
		if got := p.run(t, d.program, data, context); got != want {
			t.Errorf("%s, decapsulating %q, cut %v, %d segments of %d octets:\nprogram   %+v\nreference %+v\nframe %x",
				d.name, p.tunnels, cut, segments, size, got, want, data)
		}
	}
}

// tunnelled wraps what is inside into every kind of tunnel.
func tunnelled() map[string][]byte {
	inner4 := []layer{v4(header4{dst: "203.0.113.200", proto: 17}), udp(123), payload(40)}
	inner6 := []layer{v6(header6{dst: "2001:db8:1::9", next: 6}), tcp(syn)}
	stack := func(outer []layer, inner ...layer) []byte {
		return frame(append(append([]layer{}, outer...), inner...)...)
	}
	out4 := func(proto uint8, more ...layer) []layer {
		return append([]layer{eth(ip4), v4(header4{dst: host4, proto: proto})}, more...)
	}
	out6 := func(next uint8, more ...layer) []layer {
		return append([]layer{eth(vlan), tag(5, ip6), v6(header6{dst: host6, next: next})}, more...)
	}
	vxlan := []layer{udpPorts(50000, classify.PortVXLAN), raw(8, 0, 0, 0, 0, 0, 7, 0)}
	geneve := func(options int, kind uint16) []layer {
		return []layer{udpPorts(50000, classify.PortGeneve), raw(byte(options), 0, byte(kind>>8), byte(kind), 0, 0, 7, 0), raw(make([]byte, options*4)...)}
	}
	list := map[string][]byte{}
	for name, inner := range map[string]struct {
		kind   uint16
		proto  uint8
		layers []layer
	}{"4": {ip4, 4, inner4}, "6": {ip6, 41, inner6}} {
		for outer, out := range map[string]func(uint8, ...layer) []layer{"4": out4, "6": out6} {
			add := func(kind string, l []layer, inner ...layer) {
				list[kind+" "+name+" in "+outer] = stack(l, inner...)
			}
			in := inner.layers
			add("ipip", out(inner.proto), in...)
			add("gre", out(47, raw(0, 0, byte(inner.kind>>8), byte(inner.kind))), in...)
			add("gre with all fields", out(47, raw(0xb0, 0, byte(inner.kind>>8), byte(inner.kind)), raw(make([]byte, 12)...)), in...)
			add("gre of version 1", out(47, raw(0x20, 1, byte(inner.kind>>8), byte(inner.kind)), raw(0, 0, 0, 0)), in...)
			add("gre with routes", out(47, raw(0x40, 0, byte(inner.kind>>8), byte(inner.kind)), raw(0, 0, 0, 0)), in...)
			add("nvgre", out(47, raw(0x20, 0, 0x65, 0x58, 0, 0, 1, 0), eth(inner.kind)), in...)
			add("vxlan", out(17, vxlan...), append([]layer{eth(inner.kind)}, in...)...)
			add("vxlan with two tags", out(17, vxlan...), append([]layer{eth(qinq), tag(1, vlan), tag(2, inner.kind)}, in...)...)
			add("geneve", out(17, geneve(0, 0x6558)...), append([]layer{eth(inner.kind)}, in...)...)
			add("geneve with options", out(17, geneve(63, 0x6558)...), append([]layer{eth(inner.kind)}, in...)...)
			add("geneve of ip", out(17, geneve(3, inner.kind)...), in...)
			add("garbage in vxlan", out(17, vxlan...), eth(inner.kind), payload(30))
			add("arp in vxlan", out(17, vxlan...), eth(0x0806), payload(46))
			add("a tunnel in vxlan", out(17, vxlan...), append([]layer{eth(ip4), v4(header4{dst: "203.0.113.7", proto: inner.proto})}, in...)...)
			add("a fragment in gre", out(47, raw(0, 0, 8, 0)), v4(header4{dst: "203.0.113.7", proto: 17, fragment: 9}), payload(40))
			add("half a header in gre", out(47, raw(0, 0, byte(inner.kind>>8), byte(inner.kind))), payload(12))
			add("a wrong udp length in ipip", out(4), v4(header4{dst: "203.0.113.7", proto: 17}), udpLength(123, 900))
		}
	}
	return list
}

// TestTunnels says what each tunnel is counted as; TestSameAsReference compares the rest.
func TestTunnels(t *testing.T) {
	on, off := loadProbe(t, classify.AllTunnels, false), loadProbe(t, 0, false)
	const inner4, inner6 = "203.0.113.200", "2001:db8:1::9"
	for name, want := range map[string]struct {
		target string
		vector vector.ID
		length int
	}{
		"ipip 4 in 4":                       {inner4, vector.NTP, 68},
		"ipip 6 in 4":                       {inner6, vector.SYN, 60},
		"ipip 4 in 6":                       {inner4, vector.NTP, 68},
		"gre 6 in 6":                        {inner6, vector.SYN, 60},
		"gre with all fields 4 in 6":        {inner4, vector.NTP, 68},
		"gre of version 1 4 in 4":           {host4, vector.GRE, 96},
		"gre with routes 4 in 4":            {host4, vector.GRE, 96},
		"nvgre 6 in 4":                      {inner6, vector.SYN, 60},
		"vxlan 4 in 4":                      {inner4, vector.NTP, 68},
		"vxlan with two tags 6 in 6":        {inner6, vector.SYN, 60},
		"geneve 6 in 4":                     {inner6, vector.SYN, 60},
		"geneve with options 4 in 6":        {inner4, vector.NTP, 68},
		"geneve of ip 4 in 4":               {inner4, vector.NTP, 68},
		"garbage in vxlan 4 in 4":           {host4, vector.Malformed, 80},
		"arp in vxlan 4 in 4":               {host4, vector.UDPOther, 96},
		"a tunnel in vxlan 4 in 4":          {"203.0.113.7", vector.IPIP, 88},
		"a fragment in gre 4 in 4":          {"203.0.113.7", vector.Fragment, 60},
		"half a header in gre 4 in 4":       {host4, vector.Malformed, 36},
		"a wrong udp length in ipip 4 in 4": {"203.0.113.7", vector.Malformed, 28},
	} {
		data, ok := tunnelled()[name]
		if !ok {
			t.Fatalf("there is no packet %q", name)
		}
		got := on.run(t, on.ProbeXdp, data, nil)
		if got.Target.String() != want.target || got.Vector != want.vector || got.Length != want.length {
			t.Errorf("%s: %+v, want %+v", name, got, want)
		}
		if got := off.run(t, off.ProbeXdp, data, nil); got.Target.String() != host4 && got.Target.String() != host6 {
			t.Errorf("%s: decapsulated although it is off: %+v", name, got)
		}
	}
}

func TestSameAsReference(t *testing.T) {
	frames := tunnelled()
	for i, tc := range packets() {
		frames[fmt.Sprint(i, tc.name)] = tc.frame
	}
	for _, tunnels := range []classify.Tunnels{0, classify.VXLAN | classify.IPIP, classify.AllTunnels} {
		for _, cut := range []bool{false, true} {
			p := loadProbe(t, tunnels, cut)
			for _, data := range frames {
				agree(t, p, data, cut, 0, 0)
				agree(t, p, data, cut, 0, 20)
				agree(t, p, data, cut, 4, 20)
				if t.Failed() {
					return
				}
			}
		}
	}
}

// TestSameAsReferenceAtEveryLength cuts off what stands in tunnels; TestTruncatedAtEveryLength does so with the rest.
func TestSameAsReferenceAtEveryLength(t *testing.T) {
	for _, cut := range []bool{false, true} {
		p := loadProbe(t, classify.AllTunnels, cut)
		for _, data := range tunnelled() {
			for n := 14 + 20; n < min(len(data), 140) && !t.Failed(); n++ {
				agree(t, p, data[:n], cut, 0, 0)
			}
		}
	}
}

// TestDecapsulationCostsNothingWhenOff: the verifier removes the code, so the program is smaller by all of it.
func TestDecapsulationCostsNothingWhenOff(t *testing.T) {
	on, off := loadProbe(t, classify.AllTunnels, false), loadProbe(t, 0, false)
	for i, d := range on.doors() {
		with, without := instructions(t, d.program), instructions(t, off.doors()[i].program)
		t.Logf("%s: %d instructions with decapsulation, %d without", d.name, with, without)
		if without >= with-200 {
			t.Errorf("%s: the code of decapsulation is there although it is off", d.name)
		}
	}
}

func instructions(t testing.TB, p *ebpf.Program) int {
	t.Helper()
	info, err := p.Info()
	if err != nil {
		t.Fatal(err)
	}
	all, err := info.Instructions()
	if err != nil {
		t.Fatal(err)
	}
	return len(all)
}

// FuzzParser feeds the programs and the reference the same octets: any direction, tunnels, merged and cut.
func FuzzParser(f *testing.F) {
	for _, tc := range packets() {
		f.Add(tc.frame, uint8(0), uint16(0), uint16(0))
	}
	for _, data := range tunnelled() {
		f.Add(data, uint8(15), uint16(0), uint16(0))
		f.Add(data, uint8(31), uint16(3), uint16(20))
	}
	var probes [32]*probe
	for i := range probes {
		probes[i] = loadProbe(f, classify.Tunnels(i&15), i&16 != 0)
	}
	f.Fuzz(func(t *testing.T, data []byte, how uint8, segments, size uint16) {
		if len(data) < 14 || len(data) > 3000 {
			return
		}
		agree(t, probes[how%32], data, how&16 != 0, uint32(segments), uint32(size))
	})
}

// TestDecapsulatedIsCounted: the sensor's own programs count the inner packet, for its target.
func TestDecapsulatedIsCounted(t *testing.T) {
	k := loadWatching(t, func(s *Sizes) { s.Decapsulate = classify.AllTunnels })
	for _, p := range []*ebpf.Program{k.Ingress(), k.XDP()} {
		info, err := p.Info()
		if err != nil {
			t.Fatal(err)
		}
		n, _ := info.VerifiedInstructions()
		t.Logf("%s: %d instructions verified", info.Name, n)
		if n > 200_000 {
			t.Errorf("%s: the verifier walked %d instructions; the limit is a million", info.Name, n)
		}
		before := snapshot(t, k)
		run(t, p, tunnelled()["vxlan 4 in 6"], nil)
		check(t, k, before, "203.0.113.200", vector.NTP, 1, 68)
	}
}
