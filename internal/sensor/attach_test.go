package sensor

import (
	"bytes"
	"errors"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	pb "github.com/amooglesoft/trafficmonitor/api/trafficmonitor/v1"
	"github.com/amooglesoft/trafficmonitor/internal/lab"
	"github.com/amooglesoft/trafficmonitor/internal/sensor/bpf"
)

// bpffs mounts a bpf file system of the test's own and returns a pin directory in it.
func bpffs(t *testing.T) string {
	t.Helper()
	lab.NeedRoot(t)
	dir := t.TempDir()
	if err := unix.Mount("bpf", dir, "bpf", 0, ""); err != nil {
		t.Fatalf("mount a bpf file system: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return filepath.Join(dir, "tm", "rack1")
}

// nobody is a controller that is never there.
var nobody = []Controller{{Address: "127.0.0.1:1"}}

// present lists our and other programs at an interface.
func present(t *testing.T, index int) (list []string) {
	t.Helper()
	for name, a := range map[string]ebpf.AttachType{"tcx ingress": ebpf.AttachTCXIngress, "tcx egress": ebpf.AttachTCXEgress} {
		if !hasTCX(index) {
			continue
		}
		r, err := link.QueryPrograms(link.QueryOptions{Target: index, Attach: a})
		if err != nil {
			t.Fatal(err)
		}
		for range r.Programs {
			list = append(list, name)
		}
	}
	l, err := netlink.LinkByIndex(index)
	if err != nil {
		t.Fatal(err)
	}
	if x := l.Attrs().Xdp; x != nil && x.Attached {
		list = append(list, "xdp")
	}
	if l.Attrs().RawFlags&unix.IFF_PROMISC != 0 {
		list = append(list, "promiscuous")
	}
	qdiscs, err := netlink.QdiscList(l)
	if err != nil {
		t.Fatal(err)
	}
	for _, q := range qdiscs {
		if q.Type() == "clsact" {
			list = append(list, "clsact")
		}
	}
	for name, parent := range map[string]uint32{"filter ingress": netlink.HANDLE_MIN_INGRESS, "filter egress": netlink.HANDLE_MIN_EGRESS} {
		filters, _ := netlink.FilterList(l, parent)
		for range filters {
			list = append(list, name)
		}
	}
	return list
}

// hasTCX tells whether the kernel has tcx, which came with Linux 6.6; those before say that the question is invalid.
func hasTCX(index int) bool {
	_, err := link.QueryPrograms(link.QueryOptions{Target: index, Attach: ebpf.AttachTCXIngress})
	return !errors.Is(err, unix.EINVAL) && !errors.Is(err, ebpf.ErrNotSupported)
}

// wantPresent compares what is at an interface. Where there is no tcx a filter has to take its place.
func wantPresent(t *testing.T, when string, index int, want ...string) {
	t.Helper()
	if !hasTCX(index) {
		for i, w := range want {
			if hook, ok := strings.CutPrefix(w, "tcx "); ok {
				want[i] = "filter " + hook
				if !slices.Contains(want, "clsact") {
					want = append(want, "clsact")
				}
			}
		}
	}
	count := map[string]int{}
	got := present(t, index)
	for _, s := range got {
		count[s]++
	}
	for _, s := range want {
		count[s]--
	}
	for _, n := range count {
		if n != 0 {
			t.Errorf("%s: at the interface are %q, want %q", when, got, want)
			return
		}
	}
}

// Whatever the hook: a second process takes over what the first left, nothing is there twice, and detach leaves the
// interface as it was.
func TestHooksOutliveTheProcess(t *testing.T) {
	for name, c := range map[string]struct {
		i    Interface
		want []string
		hook string
		said []string
	}{
		"tcx":     {Interface{Name: "in", Mode: Host, Outbound: true}, []string{"tcx ingress", "tcx egress"}, "tcx", []string{"tcx program at ingress of in", "tcx program at egress of in"}},
		"clsact":  {Interface{Name: "in", Mode: Host, Hook: HookClsact, Outbound: true}, []string{"clsact", "filter ingress", "filter egress"}, "clsact", []string{"clsact filter at egress of in", "clsact filter at ingress of in", "clsact queueing discipline of in"}},
		"native":  {Interface{Name: "in", Mode: Mirror}, []string{"xdp", "promiscuous"}, "xdp-native", []string{"XDP program of in", "promiscuous mode of in"}},
		"generic": {Interface{Name: "in", Mode: Mirror, XDP: XDPGeneric}, []string{"xdp", "promiscuous"}, "xdp-generic", []string{"XDP program of in"}},
	} {
		t.Run(name, func(t *testing.T) {
			inNamespace(t, func(t *testing.T) {
				out, in := wire(t)
				index := in.Attrs().Index
				if name == "tcx" && !hasTCX(index) {
					t.Skip("needs tcx, which came with Linux 6.6")
				}
				o := Options{Interfaces: []Interface{c.i}, Controllers: nobody, Pin: bpffs(t)}
				want := c.want
				for run, change := range []string{"attached", "adopted", "adopted"} {
					reg, stop := start(t, o)
					wantPresent(t, "while it runs", index, want...)
					if n := series(t, reg, "trafficmonitor_sensor_interface_changes_total", "change", change); n != 1 {
						t.Errorf("run %d: %s %v times", run, change, n)
					}
					if n := series(t, reg, "trafficmonitor_sensor_interface_hook_info", "hook", c.hook); n != 1 {
						t.Errorf("run %d: the metric does not say %s", run, c.hook)
					}
					if n := series(t, reg, "trafficmonitor_sensor_pinned", "", ""); n != 1 {
						t.Errorf("pinned = %v", n)
					}
					stop()
					wantPresent(t, "after it ended", index, want...)
					send(t, out, udpFrame("192.0.2.9", 53, 9))
				}
				var said bytes.Buffer
				if err := DetachAll(o.Pin, "rack1", &said); err != nil {
					t.Fatal(err)
				}
				wantPresent(t, "after detach", index)
				for _, s := range append(c.said, "maps with the counters", o.Pin) {
					if !strings.Contains(said.String(), s) {
						t.Errorf("detach does not say %q:\n%s", s, said.String())
					}
				}
				if _, err := os.Stat(o.Pin); err == nil || !os.IsNotExist(err) {
					t.Errorf("the pin directory is left: %v", err)
				}
				said.Reset()
				if err := DetachAll(o.Pin, "rack1", &said); err != nil || said.String() != "nothing to remove\n" {
					t.Errorf("detach again: %v %q", err, said.String())
				}
			})
		})
	}
}

// What is configured otherwise the next time is not left behind, and counts nothing twice.
func TestConfigurationChanges(t *testing.T) {
	inNamespace(t, func(t *testing.T) {
		_, in := wire(t)
		index := in.Attrs().Index
		pin := bpffs(t)
		step := func(when string, i Interface, want ...string) {
			t.Helper()
			_, stop := start(t, Options{Interfaces: []Interface{i}, Controllers: nobody, Pin: pin})
			defer stop()
			wantPresent(t, when, index, want...)
		}
		step("host", Interface{Name: "in", Mode: Host}, "tcx ingress")
		step("clsact", Interface{Name: "in", Mode: Host, Hook: HookClsact}, "clsact", "filter ingress")
		step("mirror", Interface{Name: "in", Mode: Mirror}, "xdp", "promiscuous")
		step("generic", Interface{Name: "in", Mode: Mirror, XDP: XDPGeneric}, "xdp", "promiscuous")
		step("host again", Interface{Name: "in", Mode: Host}, "tcx ingress")
		step("another interface", Interface{Name: "out", Mode: Host})

		// A mirror port that gets an address is none any more: what we left there would cut it off.
		step("mirror again", Interface{Name: "in", Mode: Mirror}, "xdp", "promiscuous")
		addr, _ := netlink.ParseAddr("192.0.2.1/24")
		if err := netlink.AddrAdd(in, addr); err != nil {
			t.Fatal(err)
		}
		_, _, err := tryStart(t, Options{Interfaces: []Interface{{Name: "in", Mode: Mirror}}, Controllers: nobody, Pin: pin})
		if err == nil || !strings.Contains(err.Error(), "has the address 192.0.2.1/24") {
			t.Errorf("mirror mode with an address: %v", err)
		}
		wantPresent(t, "refused", index)
	})
}

// Where there is no tcx, the filter an earlier process left is exchanged as a link is, and never taken away in between.
func TestWithoutTCX(t *testing.T) {
	inNamespace(t, func(t *testing.T) {
		_, in := wire(t)
		p, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.SchedCLS, License: "GPL", Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, -1), asm.Return()}})
		if err != nil {
			t.Fatal(err)
		}
		defer p.Close()
		if have, has := haveTCX(p), hasTCX(in.Attrs().Index); have != has {
			t.Errorf("the sensor thinks that this kernel has tcx: %t; it has: %t", have, has)
		}
		found, err := bpf.OpenPins(bpffs(t))
		if err != nil {
			t.Fatal(err)
		}
		defer found.Close()
		ns, err := thisNetns()
		if err != nil {
			t.Fatal(err)
		}
		a := &attacher{programs: programs{ingress: p}, pins: pins{found}, netns: ns, filter: filterPrefix + "rack1", log: slog.New(slog.DiscardHandler)}
		for _, adopted := range []bool{false, true} {
			x, err := a.attach(Interface{Name: "in", Mode: Host})
			if err != nil || x.adopted != adopted || x.kind != pb.Interface_ATTACHMENT_CLSACT {
				t.Fatalf("%+v, %v; adopted should be %v", x, err, adopted)
			}
			wantPresent(t, "attached", in.Attrs().Index, "clsact", "filter ingress")
		}
		if _, err := a.attach(Interface{Name: "in", Mode: Host, Hook: HookTCX}); err == nil || !strings.Contains(err.Error(), "no tcx") {
			t.Errorf("hook tcx: %v", err)
		}
		wantPresent(t, "refused", in.Attrs().Index, "clsact", "filter ingress")
	})
}

func TestOnExitDetach(t *testing.T) {
	inNamespace(t, func(t *testing.T) {
		_, in := wire(t)
		o := Options{
			Interfaces:  []Interface{{Name: "in", Mode: Host}, {Name: "out", Mode: Host, Hook: HookClsact}},
			Controllers: nobody, Pin: bpffs(t), OnExit: Detach,
		}
		_, stop := start(t, o)
		stop()
		wantPresent(t, "after it ended", in.Attrs().Index)
		wantPresent(t, "after it ended", in.Attrs().Index-1)
		if _, err := os.Stat(o.Pin); !os.IsNotExist(err) {
			t.Errorf("the pin directory is left: %v", err)
		}
	})
}

func TestUnpinned(t *testing.T) {
	inNamespace(t, func(t *testing.T) {
		_, in := wire(t)
		o := Options{Interfaces: []Interface{{Name: "in", Mode: Host, Hook: HookClsact}}, Controllers: nobody, Pin: filepath.Join(t.TempDir(), "nobpffs")}
		reg, stop := start(t, o)
		if n := series(t, reg, "trafficmonitor_sensor_pinned", "", ""); n != 0 {
			t.Errorf("pinned = %v without a bpf file system", n)
		}
		stop()
		// A queueing discipline is left: nothing remembers that we made it.
		wantPresent(t, "after it ended", in.Attrs().Index, "clsact")
	})
}

// What kill -9 leaves of a sensor that pins nothing is a filter; the next start removes it where nothing is to be watched.
func TestUnpinnedLeavesNoFilter(t *testing.T) {
	inNamespace(t, func(t *testing.T) {
		out, in := wire(t)
		p, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.SchedCLS, License: "GPL", Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, -1), asm.Return()}})
		if err != nil {
			t.Fatal(err)
		}
		defer p.Close()
		for _, name := range []string{filterPrefix + "rack1", filterPrefix + "rack2"} {
			a := &attacher{programs: programs{ingress: p, egress: p}, filter: name, log: slog.New(slog.DiscardHandler)}
			l := map[bool]netlink.Link{true: in, false: out}[name == filterPrefix+"rack1"]
			if _, err := a.attach(Interface{Name: l.Attrs().Name, Mode: Host, Hook: HookClsact, Outbound: true}); err != nil {
				t.Fatal(err)
			}
		}
		other := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "other"}, PeerName: "another"}
		if err := netlink.LinkAdd(other); err != nil {
			t.Fatal(err)
		}
		_, stop := start(t, Options{Interfaces: []Interface{{Name: "other", Mode: Host}}, Controllers: nobody})
		defer stop()
		wantPresent(t, "ours", in.Attrs().Index, "clsact")
		wantPresent(t, "another sensor's", out.Attrs().Index, "clsact", "filter ingress", "filter egress")
	})
}

func TestOneSensorPerPinDirectory(t *testing.T) {
	inNamespace(t, func(t *testing.T) {
		wire(t)
		o := Options{Interfaces: []Interface{{Name: "in", Mode: Host}}, Controllers: nobody, Pin: bpffs(t)}
		start(t, o)
		if _, _, err := tryStart(t, o); err == nil || !strings.Contains(err.Error(), "another sensor uses it") {
			t.Errorf("a second sensor: %v", err)
		}
		if err := DetachAll(o.Pin, "rack1", new(bytes.Buffer)); err == nil || !strings.Contains(err.Error(), "stop the sensor first") {
			t.Errorf("detach of a running sensor: %v", err)
		}
	})
}

// Programs of others stay, but where replace says otherwise.
func TestForeignPrograms(t *testing.T) {
	inNamespace(t, func(t *testing.T) {
		_, in := wire(t)
		index := in.Attrs().Index
		program := func(kind ebpf.ProgramType, verdict int32) *ebpf.Program {
			p, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: kind, License: "GPL", Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, verdict), asm.Return()}})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { p.Close() })
			return p
		}
		pin := bpffs(t)
		try := func(i Interface) (func(), error) {
			_, stop, err := tryStart(t, Options{Interfaces: []Interface{i}, Controllers: nobody, Pin: pin})
			return stop, err
		}
		detach := func() {
			t.Helper()
			if err := DetachAll(pin, "rack1", t.Output()); err != nil {
				t.Fatal(err)
			}
		}

		other := program(ebpf.XDP, 2)
		if err := netlink.LinkSetXdpFd(in, other.FD()); err != nil {
			t.Fatal(err)
		}
		if _, err := try(Interface{Name: "in", Mode: Mirror}); err == nil || !strings.Contains(err.Error(), "left alone") {
			t.Errorf("XDP: %v", err)
		}
		detach()
		wantPresent(t, "after detach", index, "xdp")
		stop, err := try(Interface{Name: "in", Mode: Mirror, Replace: true})
		if err != nil {
			t.Errorf("XDP with replace: %v", err)
		} else {
			stop()
		}
		detach()
		wantPresent(t, "after replace and detach", index)

		if err := netlink.QdiscAdd(clsact(index)); err != nil {
			t.Fatal(err)
		}
		theirs := &netlink.BpfFilter{
			FilterAttrs: netlink.FilterAttrs{LinkIndex: index, Parent: netlink.HANDLE_MIN_INGRESS, Handle: filterHandle, Priority: filterPriority, Protocol: unix.ETH_P_ALL},
			Fd:          program(ebpf.SchedCLS, 0).FD(), Name: "theirs", DirectAction: true,
		}
		if err := netlink.FilterAdd(theirs); err != nil {
			t.Fatal(err)
		}
		host := Interface{Name: "in", Mode: Host, Hook: HookClsact}
		if _, err := try(host); err == nil || !strings.Contains(err.Error(), `"theirs", not ours`) {
			t.Errorf("clsact: %v", err)
		}
		detach()
		wantPresent(t, "after refusal", index, "clsact", "filter ingress")
		// Of another handle it is a neighbour, and stays when we go.
		if err := netlink.FilterDel(theirs); err != nil {
			t.Fatal(err)
		}
		theirs.Handle = 1
		if err := netlink.FilterAdd(theirs); err != nil {
			t.Fatal(err)
		}
		if stop, err = try(host); err != nil {
			t.Fatal(err)
		}
		wantPresent(t, "neighbours", index, "clsact", "filter ingress", "filter ingress")
		stop()
		detach()
		wantPresent(t, "neighbour left", index, "clsact", "filter ingress")
	})
}

func TestMirrorModeIsRefusedUnderVLANsAndMasters(t *testing.T) {
	inNamespace(t, func(t *testing.T) {
		_, in := wire(t)
		for _, l := range []netlink.Link{
			&netlink.Vlan{LinkAttrs: netlink.LinkAttrs{Name: "in.5", ParentIndex: in.Attrs().Index}, VlanId: 5},
			&netlink.Macvlan{LinkAttrs: netlink.LinkAttrs{Name: "mac", ParentIndex: in.Attrs().Index}, Mode: netlink.MACVLAN_MODE_BRIDGE},
		} {
			if err := netlink.LinkAdd(l); err != nil {
				t.Logf("no %s here: %v", l.Type(), err)
				continue
			}
			_, _, err := tryStart(t, Options{Interfaces: []Interface{{Name: "in", Mode: Mirror}}, Controllers: nobody})
			if err == nil || !strings.Contains(err.Error(), "carries the "+l.Type()+" interface "+l.Attrs().Name) {
				t.Errorf("%s: %v", l.Type(), err)
			}
			if err := netlink.LinkDel(l); err != nil {
				t.Fatal(err)
			}
		}
		// Each of these is a master.
		for _, l := range []netlink.Link{
			&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "m"}},
			&netlink.Vrf{LinkAttrs: netlink.LinkAttrs{Name: "m"}, Table: 10},
			bond(),
		} {
			if err := netlink.LinkAdd(l); err != nil {
				t.Logf("no %s here: %v", l.Type(), err)
				continue
			}
			if err := netlink.LinkSetDown(in); err != nil {
				t.Fatal(err)
			}
			if err := netlink.LinkSetMaster(in, l); err != nil {
				t.Fatal(err)
			}
			_, _, err := tryStart(t, Options{Interfaces: []Interface{{Name: "in", Mode: Mirror}}, Controllers: nobody})
			if err == nil || !strings.Contains(err.Error(), "is a port of another interface") {
				t.Errorf("%s: %v", l.Type(), err)
			}
			if err := netlink.LinkDel(l); err != nil {
				t.Fatal(err)
			}
		}
	})
}

func bond() netlink.Link {
	b := netlink.NewLinkBond(netlink.LinkAttrs{Name: "m"})
	b.Mode = netlink.BOND_MODE_ACTIVE_BACKUP
	return b
}

func TestCarries(t *testing.T) {
	link := func(name string, parent int) netlink.LinkAttrs {
		return netlink.LinkAttrs{Name: name, ParentIndex: parent, NetNsID: -1}
	}
	elsewhere := link("theirs", 7)
	elsewhere.NetNsID = 0
	got := carries(7, []netlink.Link{
		&netlink.Vlan{LinkAttrs: link("in.5", 7)}, &netlink.Vlan{LinkAttrs: link("other.5", 8)},
		&netlink.Veth{LinkAttrs: link("peer", 7)}, &netlink.Macvlan{LinkAttrs: link("mac", 7)}, &netlink.Macvlan{LinkAttrs: elsewhere},
	})
	if want := []string{"carries the vlan interface in.5", "carries the macvlan interface mac"}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}

func TestPlaces(t *testing.T) {
	p := place{tcxIngress, 7, 4026531840}
	if q, ok := parsePlace(p.String()); !ok || q != p {
		t.Errorf("%s reads as %v, %v", p, q, ok)
	}
	for _, s := range []string{"", "x", "tcx_ingress-7", "tcx_ingress-7-8-9", "tcx_ingress-a-8", "tcx_ingress-7-b"} {
		if q, ok := parsePlace(s); ok {
			t.Errorf("%q reads as %v", s, q)
		}
	}
	if !fs.ValidPath(p.String()) || strings.Contains(PinDir("/sys/fs/bpf", "a.b/c"), "a.b") {
		t.Error("names that bpffs refuses")
	}
}

// A start that an interface forbids is found out before anything is loaded: it is tried again each second.
func TestRefusedBeforeAnythingIsLoaded(t *testing.T) {
	inNamespace(t, func(t *testing.T) {
		_, in := wire(t)
		if err := netlink.AddrAdd(in, &netlink.Addr{IPNet: &net.IPNet{IP: net.IPv4(192, 0, 2, 1), Mask: net.CIDRMask(24, 32)}}); err != nil {
			t.Fatal(err)
		}
		pin := bpffs(t)
		for name, list := range map[string][]Interface{
			"there is no such interface":         {{Name: "in", Mode: Host}, {Name: "inn", Mode: Host}},
			"Correct the name, or set optional":  {{Name: "inn", Mode: Mirror}},
			"has the address 192.0.2.1/24":       {{Name: "in", Mode: Mirror}},
			"interface in has the address 192.0": {{Name: "later", Mode: Mirror, Optional: true}, {Name: "in", Mode: Mirror}},
		} {
			if _, _, err := tryStart(t, Options{Interfaces: list, Controllers: nobody, Pin: pin}); err == nil || !strings.Contains(err.Error(), name) {
				t.Errorf("%+v: %v, want %q", list, err, name)
			}
		}
		wantPresent(t, "after refusals", in.Attrs().Index)
		if left, err := filepath.Glob(filepath.Join(pin, "maps", "*")); err != nil || len(left) > 0 {
			t.Errorf("maps are pinned: %q %v", left, err)
		}
	})
}

// What a sensor of another name has at an interface, or left there, is told and left alone.
func TestSensorOfAnotherName(t *testing.T) {
	inNamespace(t, func(t *testing.T) {
		_, in := wire(t)
		index := in.Attrs().Index
		ours := bpffs(t)
		theirs := filepath.Join(filepath.Dir(ours), "rack_0")
		with := func(name, pin string, i Interface) (*prometheus.Registry, func(), error) {
			return tryStart(t, Options{Name: name, Interfaces: []Interface{i}, Controllers: nobody, Pin: pin})
		}
		detach := func(name, pin string) {
			t.Helper()
			if err := DetachAll(pin, name, t.Output()); err != nil {
				t.Fatal(err)
			}
		}
		const metric = "trafficmonitor_sensor_interface_others"
		for _, i := range []Interface{{Name: "in", Mode: Host}, {Name: "in", Mode: Host, Hook: HookClsact}} {
			reg, stop, err := with("rack.0", theirs, i)
			if err != nil {
				t.Fatal(err)
			}
			if n := value(t, reg, metric); n != 0 {
				t.Errorf("alone: %v others", n)
			}
			stop()
			reg, stop, err = with("rack1", ours, Interface{Name: "in", Mode: Host})
			if !hasTCX(index) { // there is one place, and it is taken
				if err == nil || !strings.Contains(err.Error(), `"trafficmonitor:rack.0", not ours`) {
					t.Errorf("in place of another's filter: %v", err)
				}
				detach("rack1", ours)
				detach("rack.0", theirs)
				continue
			}
			if err != nil {
				t.Fatal(err)
			}
			if n := value(t, reg, metric); n != 1 {
				t.Errorf("%s: %v others, want 1", i.Hook, n)
			}
			stop()
			detach("rack1", ours)
			detach("rack.0", theirs)
		}

		mirror := Interface{Name: "in", Mode: Mirror}
		_, stop, err := with("rack.0", theirs, mirror)
		if err != nil {
			t.Fatal(err)
		}
		stop()
		if _, _, err := with("rack1", ours, mirror); err == nil || !strings.Contains(err.Error(), "that of the sensor rack_0") {
			t.Errorf("a mirror port of another's: %v", err)
		}
		wantPresent(t, "theirs is left alone", index, "xdp", "promiscuous")
		detach("rack1", ours)
		detach("rack.0", theirs)
	})
}

// A program that somebody puts in front of ours is told.
func TestProgramInFrontOfOurs(t *testing.T) {
	for _, hook := range []Hook{HookAuto, HookClsact} {
		t.Run(string(hook), func(t *testing.T) { inNamespace(t, func(t *testing.T) { programInFront(t, hook) }) })
	}
}

func programInFront(t *testing.T, hook Hook) {
	_, in := wire(t)
	var ready readiness
	reg, _ := start(t, Options{Interfaces: []Interface{{Name: "in", Mode: Host, Hook: hook, Outbound: true}}, Controllers: nobody, Pin: bpffs(t), Ready: ready.set})
	const metric = "trafficmonitor_sensor_interface_programs_ahead"
	if n := value(t, reg, metric); n != 0 {
		t.Errorf("%v programs ahead at the start", n)
	}
	if !hasTCX(in.Attrs().Index) {
		return // a filter's priority is its place
	}
	p, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.SchedCLS, License: "GPL", Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, -1), asm.Return()}})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	for attach, want := range map[ebpf.AttachType]float64{ebpf.AttachTCXIngress: 1, ebpf.AttachTCXEgress: 1} {
		l, err := link.AttachTCX(link.TCXOptions{Interface: in.Attrs().Index, Program: p, Attach: attach, Anchor: link.Head()})
		if err != nil {
			t.Fatal(err)
		}
		look := func() { // at an event: the next look by itself is 30 s away
			t.Helper()
			if err := netlink.LinkSetMTU(in, 1400); err != nil {
				t.Fatal(err)
			}
			if err := netlink.LinkSetMTU(in, 1500); err != nil {
				t.Fatal(err)
			}
		}
		look()
		until(t, func() bool { return value(t, reg, metric) == want }, "%v programs are ahead", want)
		l.Close()
		look()
		until(t, func() bool { return value(t, reg, metric) == 0 }, "none is ahead")
	}
}
