package sensor

import (
	"context"
	"encoding/binary"
	"errors"
	"log/slog"
	"math"
	"net/netip"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	pb "github.com/amooglesoft/trafficmonitor/api/trafficmonitor/v1"
	"github.com/amooglesoft/trafficmonitor/internal/lab"
	"github.com/amooglesoft/trafficmonitor/internal/sensor/classify"
	"github.com/amooglesoft/trafficmonitor/internal/sketch"
	"github.com/amooglesoft/trafficmonitor/internal/vector"
)

// inNamespace runs body on a thread of its own in a new network namespace, which ends with it, and waits for it.
func inNamespace(t *testing.T, body func(t *testing.T)) {
	t.Helper()
	lab.NeedRoot(t)
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		ns, err := netns.New()
		if err != nil {
			t.Errorf("new namespace: %v", err)
			return
		}
		defer ns.Close()
		body(t)
	}()
	<-done
}

// wire makes a pair of interfaces; what is sent on the first arrives at the second.
func wire(t *testing.T) (out, in netlink.Link) {
	t.Helper()
	pair := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "out", TxQLen: 1000}, PeerName: "in"}
	if err := netlink.LinkAdd(pair); err != nil {
		t.Fatalf("make a veth pair: %v", err)
	}
	get := func(name string) netlink.Link {
		l, err := netlink.LinkByName(name)
		if err != nil {
			t.Fatal(err)
		}
		if err := netlink.LinkSetUp(l); err != nil {
			t.Fatal(err)
		}
		return l
	}
	return get("out"), get("in")
}

// send transmits frames on an interface.
func send(t *testing.T, l netlink.Link, frames ...[]byte) {
	t.Helper()
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	to := &unix.SockaddrLinklayer{Ifindex: l.Attrs().Index}
	for _, f := range frames {
		for {
			err := unix.Sendto(fd, f, 0, to)
			if err == unix.ENOBUFS {
				runtime.Gosched()
				continue
			}
			if err != nil {
				t.Fatalf("send: %v", err)
			}
			break
		}
	}
}

// udpFrame is a UDP datagram from a port to a target.
func udpFrame(target string, port uint16, size int) []byte {
	b := []byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0, 0, 1}
	addr := netip.MustParseAddr(target)
	if addr.Is4() {
		ip := make([]byte, 20)
		ip[0], ip[8], ip[9] = 0x45, 64, 17
		binary.BigEndian.PutUint16(ip[2:], uint16(28+size))
		copy(ip[12:], []byte{198, 51, 100, 1})
		copy(ip[16:], addr.AsSlice())
		b = append(append(b, 8, 0), ip...)
	} else {
		ip := make([]byte, 40)
		ip[0], ip[6], ip[7] = 0x60, 17, 64
		binary.BigEndian.PutUint16(ip[4:], uint16(8+size))
		copy(ip[24:], addr.AsSlice())
		b = append(append(b, 0x86, 0xdd), ip...)
	}
	b = binary.BigEndian.AppendUint16(b, port)
	b = binary.BigEndian.AppendUint16(b, 4444)
	b = binary.BigEndian.AppendUint16(b, uint16(8+size))
	return append(b, make([]byte, 2+size)...)
}

// start runs a sensor in this thread's network namespace until the test ends and returns when it watches.
func start(t *testing.T, o Options) (reg *prometheus.Registry, stop func()) {
	t.Helper()
	reg, stop, err := tryStart(t, o)
	if err != nil {
		t.Fatalf("%+v", err)
	}
	return reg, stop
}

func tryStart(t *testing.T, o Options) (reg *prometheus.Registry, stop func(), err error) {
	t.Helper()
	reg = prometheus.NewRegistry()
	o.Registerer = reg
	if o.Name == "" {
		o.Name = "rack1"
	}
	o.Slots = 64
	o.Log = slog.New(slog.NewTextHandler(t.Output(), nil))
	if err := o.check(); err != nil {
		t.Fatal(err)
	}
	ns, err := netns.Get()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	started, done := make(chan error, 1), make(chan error, 1)
	go func() {
		defer ns.Close()
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		if err := netns.Set(ns); err != nil {
			started <- err
			return
		}
		a, err := newAgent(o)
		if err == nil {
			if err = a.doors.open(time.Now()); err != nil {
				a.close()
			}
		}
		if started <- err; err != nil {
			return
		}
		err = a.run(ctx)
		a.close()
		done <- err
	}()
	if err := <-started; err != nil {
		cancel()
		return nil, nil, err
	}
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("run: %v", err)
		}
	})
	t.Cleanup(stop)
	return reg, stop, nil
}

type sum struct{ packets, bytes uint64 }

func total(r *pb.Report, into map[string]sum) {
	for _, a := range r.GetAggregates() {
		addr, _ := netip.AddrFromSlice(a.GetTarget())
		k := netip.PrefixFrom(addr, int(a.GetPrefixLength())).String() + " " + vector.ID(a.GetVector()).String()
		into[k] = sum{into[k].packets + a.GetPackets(), into[k].bytes + a.GetBytes()}
	}
}

// TestCountsRealPackets sends packets through a real interface in both modes and expects each of them in the reports.
func TestCountsRealPackets(t *testing.T) {
	for _, mode := range []Mode{Host, Mirror} {
		t.Run(string(mode), func(t *testing.T) {
			inNamespace(t, func(t *testing.T) {
				out, in := wire(t)
				c := newController(t, "", told(1, 1))
				reg, stop := start(t, Options{Interfaces: []Interface{{Name: "in", Mode: mode}}, Controllers: []Controller{{Address: c.address}}})
				defer stop()
				hello := c.await(t, "hello", func(m *pb.ConnectRequest) bool { return true }).GetHello()
				if hello.GetSensor() != "rack1" || hello.GetMapBytes() == 0 || len(hello.GetInterfaces()) != 1 {
					t.Errorf("hello: %v", hello)
				}
				c.await(t, "report that follows the directive", func(m *pb.ConnectRequest) bool {
					return m.GetReport().GetDirective().GetRevision() == 1
				})
				send(t, out, slices.Repeat([][]byte{
					udpFrame("192.0.2.9", 53, 100), udpFrame("2001:db8::9", 123, 200), udpFrame("198.51.100.1", 53, 10),
				}, 300)...)
				got := map[string]sum{}
				var counters *pb.SensorCounters
				var samples []*pb.Sample
				c.await(t, "complete count", func(m *pb.ConnectRequest) bool {
					samples = append(samples, m.GetSamples().GetSamples()...)
					if m.GetReport().GetCause() != pb.Report_CAUSE_INTERVAL {
						return false
					}
					total(m.GetReport(), got)
					counters = m.GetReport().GetCounters()
					return got["192.0.2.9/32 total"].packets >= 300 && got["2001:db8::9/128 total"].packets >= 300
				})
				for k, want := range map[string]sum{
					"192.0.2.9/32 dns-amplification": {300, 300 * 128}, "192.0.2.9/32 total": {300, 300 * 128},
					"2001:db8::9/128 ntp-amplification": {300, 300 * 248}, "2001:db8::9/128 total": {300, 300 * 248},
				} {
					if got[k] != want {
						t.Errorf("%s: %v, want %v", k, got[k], want)
					}
				}
				if counters.GetUnprotectedPackets() < 300 || counters.GetSlotsUsed() < 2 {
					t.Errorf("counters: %v", counters)
				}
				// Two CPUs at most have a counter of their own, and the first sample comes after the first 100 packets.
				if len(samples) < 4 || len(samples) > 6 {
					t.Errorf("%d samples of 600 packets, one in 100", len(samples))
				}
				for _, s := range samples {
					if s.GetWeight() != 100 || len(s.GetHeader()) != 128 || classify.Packet(s.GetHeader(), int(s.GetLength()), classify.DefaultPorts()).Vector != vector.ID(s.GetVector()) {
						t.Errorf("sample: %v", s)
					}
				}
				if problems, err := testutil.GatherAndLint(reg); err != nil || len(problems) > 0 {
					t.Errorf("metrics: %v %v", problems, err)
				}

				// Nothing of us is left on the interface, and in host mode the packets went on to the stack.
				stop()
				if l, _ := netlink.LinkByName("in"); mode == Host && l.Attrs().Statistics.RxPackets < 900 || l.Attrs().Xdp != nil && l.Attrs().Xdp.Attached {
					t.Errorf("interface afterwards: %+v", l.Attrs())
				}
				if r, err := link.QueryPrograms(link.QueryOptions{Target: in.Attrs().Index, Attach: ebpf.AttachTCXIngress}); err == nil && len(r.Programs) > 0 {
					t.Errorf("programs are left at tcx: %+v", r.Programs)
				}
			})
		})
	}
}

func TestTriggerIsReportedAtOnce(t *testing.T) {
	inNamespace(t, func(t *testing.T) {
		out, _ := wire(t)
		d := told(1, 1)
		d.ReportInterval.Seconds = 5 // a report at the interval would come too late for this test
		d.HotSampleOneIn = 10
		c := newController(t, "", d)
		reg, stop := start(t, Options{Interfaces: []Interface{{Name: "in", Mode: Host}}, Controllers: []Controller{{Address: c.address}}})
		defer stop()
		c.await(t, "hello", func(m *pb.ConnectRequest) bool { return m.GetHello() != nil })
		for testutil.ToFloat64(metric(t, reg, "trafficmonitor_sensor_directive_revision")) != 1 {
			runtime.Gosched()
		}
		flood := slices.Repeat([][]byte{udpFrame("192.0.2.66", 53, 100)}, 8000)
		send(t, out, flood...)
		// On a busy machine the event may be read when its window is over: then each vector's own event tells of it.
		got := map[string]sum{}
		r := c.await(t, "trigger", func(m *pb.ConnectRequest) bool {
			clear(got)
			total(m.GetReport(), got)
			return m.GetReport().GetCause() == pb.Report_CAUSE_TRIGGER && got["192.0.2.66/32 dns-amplification"].packets > 0
		}).GetReport()
		n := got["192.0.2.66/32 dns-amplification"]
		if n.packets < 600 || n.bytes != n.packets*128 || got["192.0.2.66/32 total"].packets < n.packets {
			t.Errorf("counts of the window: %v", got)
		}
		raised, sent := r.GetTriggerTime().AsTime(), r.GetSendTime().AsTime()
		if r.GetStartTime().AsTime().After(raised) || raised.After(sent) || r.GetSpan().AsDuration() > longest {
			t.Errorf("start %s, raised %s, sent %s, span %s", r.GetStartTime().AsTime(), raised, sent, r.GetSpan().AsDuration())
		}
		t.Logf("kernel to stream: %s", sent.Sub(raised))
		hot := c.await(t, "hot report", cause(pb.Report_CAUSE_HOT)).GetReport()
		if len(hot.GetAggregates()) == 0 {
			t.Error("a hot report without its target")
		}
		// By now it is sampled as hot targets are, and the kernel sees all its sources.
		send(t, out, flood...)
		said := c.await(t, "profile", func(m *pb.ConnectRequest) bool {
			return slices.ContainsFunc(m.GetReport().GetProfiles(), func(p *pb.Profile) bool { return p.GetDistinctExact() })
		}).GetReport()
		p := said.GetProfiles()[0]
		h, err := sketch.Parse(p.GetDistinctSources())
		if said.GetCause() != pb.Report_CAUSE_HOT || vector.ID(p.GetVector()) != vector.DNS || p.GetSamples() == 0 || p.GetSourcePorts()[0].GetValue() != 53 || err != nil || math.Round(h.Estimate()) != 1 {
			t.Errorf("profile %v, %v", p, err)
		}
		// It says that nothing comes any more, then the target is not hot any longer.
		c.await(t, "hot report of silence", func(m *pb.ConnectRequest) bool {
			a := m.GetReport().GetAggregates()
			return m.GetReport().GetCause() == pb.Report_CAUSE_HOT && len(a) > 0 && a[0].GetVector() == 0 && a[0].GetPackets() == 0
		})
		for testutil.ToFloat64(metric(t, reg, "trafficmonitor_sensor_hot_targets")) != 0 {
			runtime.Gosched()
		}
		send(t, out, flood...)
		c.await(t, "trigger of the second flood", cause(pb.Report_CAUSE_TRIGGER))
	})
}

const longest = 40_000_000 // ns

// A clock that is put back after the start, as at a boot before NTP, does not make triggers look as if they were old.
func TestTriggersAndTheClock(t *testing.T) {
	inNamespace(t, func(t *testing.T) {
		o := Options{
			Name: "rack1", Interfaces: []Interface{{Name: "in", Mode: Host, Optional: true}}, Controllers: nobody, Slots: 64,
			Registerer: prometheus.NewRegistry(), Log: slog.New(slog.DiscardHandler),
		}
		if err := o.check(); err != nil {
			t.Fatal(err)
		}
		a, err := newAgent(o)
		if err != nil {
			t.Fatal(err)
		}
		defer a.close()
		a.started = time.Now().Add(time.Hour) // by the clock as it was then
		if err := a.follow(told(1, 1)); err != nil {
			t.Fatal(err)
		}
		events := make(chan trigger, 64)
		go func() { _ = a.readTriggers(t.Context(), events) }() // ends with the ring
		if _, err := a.kernel.Ingress().Run(&ebpf.RunOptions{Data: udpFrame("192.0.2.66", 53, 100), Repeat: 20_000}); err != nil {
			t.Fatal(err)
		}
		select {
		case <-events:
		case <-time.After(10 * time.Second):
			t.Error("no trigger")
		}
	})
}

// metric returns a collector of one series of the registry.
func metric(t *testing.T, reg *prometheus.Registry, name string) prometheus.Collector {
	t.Helper()
	all, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range all {
		if f.GetName() == name {
			return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "x"}, func() float64 { return f.GetMetric()[0].GetGauge().GetValue() })
		}
	}
	t.Fatalf("no metric %s", name)
	return nil
}

// series adds up the series of a metric with a label of the given value; an empty label stands for all of them.
func series(t *testing.T, reg *prometheus.Registry, name, label, value string) (sum float64) {
	t.Helper()
	all, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range all {
		if f.GetName() != name {
			continue
		}
		for _, m := range f.GetMetric() {
			for _, l := range m.GetLabel() {
				if l.GetName() == label && l.GetValue() != value {
					m = nil
				}
			}
			if m != nil {
				sum += m.GetGauge().GetValue() + m.GetCounter().GetValue()
			}
		}
	}
	return sum
}

func TestDirectives(t *testing.T) {
	inNamespace(t, func(t *testing.T) {
		out, _ := wire(t)
		c := newController(t, "", told(2, 5))
		state := filepath.Join(t.TempDir(), "state")
		o := Options{Interfaces: []Interface{{Name: "in", Mode: Host}}, Controllers: []Controller{{Address: c.address}}, StateFile: state}
		_, stop := start(t, o)
		defer stop()
		following := func(term, revision uint64) func(m *pb.ConnectRequest) bool {
			return func(m *pb.ConnectRequest) bool {
				d := m.GetReport().GetDirective()
				return d.GetTerm() == term && d.GetRevision() == revision
			}
		}
		c.await(t, "directive 2.5", following(2, 5))
		bad := told(2, 6)
		bad.ProtectedPrefixes = append(bad.ProtectedPrefixes, "banana")
		c.direct(t, bad)
		r := c.await(t, "error", func(m *pb.ConnectRequest) bool { return m.GetReport().GetDirectiveError() != "" }).GetReport()
		if !strings.Contains(r.GetDirectiveError(), `protected_prefixes[2]: "banana"`) || r.GetDirective().GetRevision() != 5 {
			t.Errorf("refused: %v", r)
		}
		huge := told(2, 7)
		huge.ProtectedPrefixes = []string{"10.0.0.0/8"}
		c.direct(t, huge)
		c.await(t, "error about the size", func(m *pb.ConnectRequest) bool {
			return strings.Contains(m.GetReport().GetDirectiveError(), "/24 networks")
		})
		c.direct(t, told(1, 99)) // a deposed leader
		moved := told(3, 1)
		moved.ProtectedPrefixes = []string{"192.0.2.0/25", "198.51.100.0/24"}
		c.direct(t, moved)
		c.await(t, "directive 3.1", following(3, 1))
		send(t, out, slices.Repeat([][]byte{udpFrame("192.0.2.200", 53, 9), udpFrame("198.51.100.9", 53, 9)}, 50)...)
		got := map[string]sum{}
		c.await(t, "count", func(m *pb.ConnectRequest) bool {
			total(m.GetReport(), got)
			return got["198.51.100.9/32 total"].packets >= 50
		})
		if got["192.0.2.200/32 total"].packets != 0 {
			t.Errorf("a host outside the prefixes is counted: %v", got)
		}
		stop()

		// A restarted sensor watches before any controller has said a word.
		silent := newController(t, "", nil)
		o.Controllers = []Controller{{Address: silent.address}}
		start(t, o)
		hello := silent.await(t, "hello", func(m *pb.ConnectRequest) bool { return true }).GetHello()
		if v := hello.GetDirective(); v.GetTerm() != 3 || v.GetRevision() != 1 {
			t.Errorf("hello after a restart: %v", hello)
		}
	})
}

func TestMirrorModeIsRefusedWhereTrafficIs(t *testing.T) {
	inNamespace(t, func(t *testing.T) {
		_, in := wire(t)
		addr, _ := netlink.ParseAddr("192.0.2.1/24")
		if err := netlink.AddrAdd(in, addr); err != nil {
			t.Fatal(err)
		}
		o := Options{Interfaces: []Interface{{Name: "in", Mode: Mirror}}, Controllers: []Controller{{Address: "127.0.0.1:1"}}, Name: "rack1"}
		err := Run(t.Context(), o)
		if err == nil || !strings.Contains(err.Error(), "has the address 192.0.2.1/24") {
			t.Errorf("address: %v", err)
		}
		if err := netlink.AddrDel(in, addr); err != nil {
			t.Fatal(err)
		}
		bridge := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "br"}}
		if err := netlink.LinkAdd(bridge); err != nil {
			t.Fatal(err)
		}
		if err := netlink.LinkSetMaster(in, bridge); err != nil {
			t.Fatal(err)
		}
		if err := Run(t.Context(), o); err == nil || !strings.Contains(err.Error(), "is a port of another interface") {
			t.Errorf("bridge port: %v", err)
		}
		o.Interfaces[0].Name = "lo"
		if err := Run(t.Context(), o); err == nil || !strings.Contains(err.Error(), "loopback") {
			t.Errorf("loopback: %v", err)
		}
		o.Interfaces[0].Name = "nosuch"
		if err := Run(t.Context(), o); err == nil || !strings.Contains(err.Error(), "interface nosuch: there is no such interface; there are lo, ") {
			t.Errorf("missing: %v", err)
		}
	})
}

func TestOtherProgramsAreLeftAlone(t *testing.T) {
	inNamespace(t, func(t *testing.T) {
		_, in := wire(t)
		other, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.SchedCLS, License: "GPL", Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, -1), asm.Return()}})
		if err != nil {
			t.Fatal(err)
		}
		defer other.Close()
		l, err := link.AttachTCX(link.TCXOptions{Interface: in.Attrs().Index, Program: other, Attach: ebpf.AttachTCXIngress})
		if errors.Is(err, ebpf.ErrNotSupported) {
			t.Skip("this kernel has no tcx, which is what others would use")
		}
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		programs := func() int {
			r, err := link.QueryPrograms(link.QueryOptions{Target: in.Attrs().Index, Attach: ebpf.AttachTCXIngress})
			if err != nil {
				t.Fatal(err)
			}
			return len(r.Programs)
		}
		c := newController(t, "", told(1, 1))
		_, stop := start(t, Options{Interfaces: []Interface{{Name: "in", Mode: Host}}, Controllers: []Controller{{Address: c.address}}})
		if n := programs(); n != 2 {
			t.Errorf("%d programs, want ours and the other", n)
		}
		stop()
		if n := programs(); n != 1 {
			t.Errorf("%d programs afterwards, want the other", n)
		}
	})
}

// TestHeadersOutsideTheLinearPart sends packets whose headers lie in page fragments, as some drivers deliver them, and
// one that a virtual machine left to be cut into segments.
func TestHeadersOutsideTheLinearPart(t *testing.T) {
	inNamespace(t, func(t *testing.T) {
		out, in := wire(t)
		for _, l := range []netlink.Link{out, in} {
			if err := netlink.LinkSetMTU(l, 9000); err != nil {
				t.Fatal(err)
			}
		}
		c := newController(t, "", told(1, 1))
		_, stop := start(t, Options{Interfaces: []Interface{{Name: "in", Mode: Host}}, Controllers: []Controller{{Address: c.address}}})
		defer stop()
		c.await(t, "report that follows the directive", func(m *pb.ConnectRequest) bool {
			return m.GetReport().GetDirective().GetRevision() == 1
		})
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(fd)
		const packetVnetHdr = 15
		if err := unix.SetsockoptInt(fd, unix.SOL_PACKET, packetVnetHdr, 1); err != nil {
			t.Fatal(err)
		}
		to := &unix.SockaddrLinklayer{Ifindex: out.Attrs().Index}
		big := udpFrame("192.0.2.9", 53, 6000)
		linear14 := []byte{0, 0, 14, 0, 0, 0, 0, 0, 0, 0} // struct virtio_net_hdr: hdr_len 14
		if err := unix.Sendto(fd, append(linear14, big...), 0, to); err != nil {
			t.Fatal(err)
		}
		// flags NEEDS_CSUM, type UDP_L4, hdr_len 42, gso_size 1000, csum_start 34, csum_offset 6
		segments := []byte{1, 5, 42, 0, 0xe8, 3, 34, 0, 6, 0}
		want := map[string]sum{"192.0.2.9/32 dns-amplification": {1, 6028}}
		err = unix.Sendto(fd, append(segments, udpFrame("192.0.2.10", 123, 6000)...), 0, to)
		merged := !errors.Is(err, unix.EINVAL) // Linux 6.2 and newer
		if merged {
			want["192.0.2.10/32 ntp-amplification"] = sum{6, 6000 + 6*28}
			if err != nil {
				t.Fatal(err)
			}
		}
		got := map[string]sum{}
		c.await(t, "count", func(m *pb.ConnectRequest) bool {
			if m.GetReport().GetCause() == pb.Report_CAUSE_INTERVAL {
				total(m.GetReport(), got)
			}
			return got["192.0.2.9/32 total"].packets > 0 && (!merged || got["192.0.2.10/32 total"].packets > 0)
		})
		for k, want := range want {
			if got[k] != want {
				t.Errorf("%s: %v, want %v", k, got, want)
			}
		}
	})
}
