package sensor

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/amooglesoft/trafficmonitor/internal/lab"
)

// readiness remembers what keeps a sensor from being ready.
type readiness struct {
	mu sync.Mutex
	of map[string]string // guarded by mu
}

func (r *readiness) set(component, reason string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.of == nil {
		r.of = map[string]string{}
	}
	r.of[component] = reason
}

func (r *readiness) reason(component string) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.of[component]
}

// An interface that goes, is renamed, or comes back as another is followed, with and without pins.
func TestInterfacesAreFollowed(t *testing.T) {
	for name, pin := range map[string]func(t *testing.T) string{
		"pinned": bpffs, "unpinned": func(*testing.T) string { return "" },
	} {
		t.Run(name, func(t *testing.T) {
			inNamespace(t, func(t *testing.T) {
				wire(t)
				var ready readiness
				o := Options{
					Interfaces:  []Interface{{Name: "in", Mode: Host}, {Name: "later", Mode: Mirror, Optional: true}},
					Controllers: nobody, Pin: pin(t), Ready: ready.set,
				}
				reg, _ := start(t, o)
				changed := func(iface, change string, times float64) {
					t.Helper()
					until(t, func() bool { return changes(t, reg, iface, change) == times }, "%s is %s %v times", iface, change, times)
				}
				is := func(component, reason string) {
					t.Helper()
					until(t, func() bool { return ready.reason(component) == reason }, "readiness of %s is %q", component, reason)
				}
				changed("in", "attached", 1)
				is("interface later", "there is no such interface")

				// It goes, and comes back with another index.
				del(t, "in")
				is("interface in", "there is no such interface")
				changed("in", "lost", 1)
				pair := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "in"}, PeerName: "out"}
				if err := netlink.LinkAdd(pair); err != nil {
					t.Fatal(err)
				}
				changed("in", "reattached", 1)
				is("interface in", "")
				in, err := netlink.LinkByName("in")
				if err != nil {
					t.Fatal(err)
				}
				wantPresent(t, "after it came back", in.Attrs().Index, "tcx ingress")

				// Another name is another interface.
				if err := netlink.LinkSetName(in, "other"); err != nil {
					t.Fatal(err)
				}
				changed("in", "lost", 2)
				is("interface in", "there is no such interface")
				var left []string
				if name == "unpinned" && !hasTCX(in.Attrs().Index) {
					left = []string{"clsact"} // nothing remembers that we made it
				}
				wantPresent(t, "after it was renamed", in.Attrs().Index, left...)
				if err := netlink.LinkSetName(in, "in"); err != nil {
					t.Fatal(err)
				}
				changed("in", "reattached", 2)
				wantPresent(t, "renamed back", in.Attrs().Index, "tcx ingress")

				// One that was never there appears.
				if err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "later"}, PeerName: "later-peer"}); err != nil {
					t.Fatal(err)
				}
				changed("later", "attached", 1)
				is("interface later", "")

				// Trouble with one leaves the others alone: a mirror port that comes back with a master is refused.
				del(t, "later")
				changed("later", "lost", 1)
				bridge := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "br"}}
				if err := netlink.LinkAdd(bridge); err != nil {
					t.Fatal(err)
				}
				br, err := netlink.LinkByName("br")
				if err != nil {
					t.Fatal(err)
				}
				attrs := netlink.LinkAttrs{Name: "port", MasterIndex: br.Attrs().Index}
				if err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "later-peer"}); err != nil {
					t.Fatal(err)
				}
				port, err := netlink.LinkByName("port")
				if err == nil {
					err = netlink.LinkSetName(port, "later") // by now it is the bridge's
				}
				if err != nil {
					t.Fatal(err)
				}
				// Twice, when its program was seen to be gone before the interface was.
				until(t, func() bool {
					return strings.Contains(ready.reason("interface later"), "is a port of another interface")
				}, "later is refused")
				if err := netlink.LinkDel(br); err != nil {
					t.Fatal(err)
				}
				changed("later", "reattached", 1) // losing its master is an event, too
				wantPresent(t, "at the end", in.Attrs().Index, "tcx ingress")
			})
		})
	}
}

// That the kernel could not be asked says nothing about an interface: what is there stays.
func TestInterfaceThatCannotBeAskedFor(t *testing.T) {
	for _, hook := range []Hook{HookTCX, HookClsact} {
		t.Run(string(hook), func(t *testing.T) {
			inNamespace(t, func(t *testing.T) {
				_, in := wire(t)
				if hook == HookTCX && !hasTCX(in.Attrs().Index) {
					t.Skip("needs tcx, which came with Linux 6.6")
				}
				p, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.SchedCLS, License: "GPL", Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, -1), asm.Return()}})
				if err != nil {
					t.Fatal(err)
				}
				defer p.Close()
				log := slog.New(slog.NewTextHandler(t.Output(), nil))
				a := &attacher{programs: programs{ingress: p}, tcx: true, filter: filterPrefix + "rack1", log: log}
				d := newDoors(a, []Interface{{Name: "in", Mode: Host, Hook: hook}}, prometheus.NewRegistry(), func(string, string) {}, log)
				defer d.close(false)
				x := d.list[0]
				if err := d.check(x); err != nil {
					t.Fatal(err)
				}
				before := present(t, in.Attrs().Index)

				var limit unix.Rlimit
				if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
					t.Fatal(err)
				}
				if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 0, Max: limit.Max}); err != nil {
					t.Fatal(err)
				}
				checked, alive := d.check(x), x.attachment != nil && x.attachment.alive()
				if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
					t.Fatal(err)
				}
				if checked == nil || !alive {
					t.Errorf("without file descriptors: %v, alive: %v", checked, alive)
				}
				wantPresent(t, "afterwards", in.Attrs().Index, before...)
			})
		})
	}
}

// A mirror port that is given traffic of its own while it is watched is let go of, for all of that would be dropped.
func TestMirrorPortThatBecomesAnother(t *testing.T) {
	inNamespace(t, func(t *testing.T) {
		_, in := wire(t)
		var ready readiness
		o := Options{
			Interfaces:  []Interface{{Name: "in", Mode: Mirror}},
			Controllers: nobody, Pin: bpffs(t), Ready: ready.set,
		}
		reg, _ := start(t, o)
		wantPresent(t, "a mirror port", in.Attrs().Index, "xdp", "promiscuous")
		bridge := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "br"}}
		if err := netlink.LinkAdd(bridge); err != nil {
			t.Fatal(err)
		}
		if err := netlink.LinkSetMaster(in, bridge); err != nil {
			t.Fatal(err)
		}
		until(t, func() bool { return strings.Contains(ready.reason("interface in"), "is a port of another interface") }, "it is refused")
		if got := present(t, in.Attrs().Index); slices.Contains(got, "xdp") {
			t.Errorf("a bridge's port still has %q", got)
		}
		if err := netlink.LinkDel(bridge); err != nil {
			t.Fatal(err)
		}
		until(t, func() bool { return changes(t, reg, "in", "reattached") == 1 }, "it is watched again")
	})
}

// An interface without a carrier stays watched, and it is said that nothing can come in.
func TestInterfaceThatIsDown(t *testing.T) {
	inNamespace(t, func(t *testing.T) {
		out, _ := wire(t)
		var ready readiness
		reg, _ := start(t, Options{Interfaces: []Interface{{Name: "in", Mode: Host}}, Controllers: nobody, Ready: ready.set})
		up := func(want float64) {
			t.Helper()
			until(t, func() bool { return value(t, reg, "trafficmonitor_sensor_interface_up") == want }, "interface_up is %v", want)
		}
		up(1)
		for n := range 2 {
			if err := netlink.LinkSetDown(out); err != nil {
				t.Fatal(err)
			}
			up(0)
			if got := changes(t, reg, "in", "down"); got != float64(n+1) {
				t.Errorf("it went down %v times, want %d", got, n+1)
			}
			if err := netlink.LinkSetUp(out); err != nil {
				t.Fatal(err)
			}
			up(1)
		}
		if r, lost := ready.reason("interface in"), changes(t, reg, "in", "lost"); r != "" || lost != 0 {
			t.Errorf("not ready: %q, lost %v times", r, lost)
		}
		del(t, "in")
		up(-1)
	})
}

// Two interfaces of which one has the packets of the other, too, are told, for each packet counts twice.
func TestPacketsThatAreCountedTwice(t *testing.T) {
	inNamespace(t, func(t *testing.T) {
		_, in := wire(t)
		bridge := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "br0"}}
		if err := netlink.LinkAdd(bridge); err != nil {
			t.Fatal(err)
		}
		if err := netlink.LinkSetMaster(in, bridge); err != nil {
			t.Fatal(err)
		}
		var ready readiness
		start(t, Options{Interfaces: []Interface{{Name: "in", Mode: Host}, {Name: "br0", Mode: Host}}, Controllers: nobody, Ready: ready.set})
		says := func(want string) {
			t.Helper()
			until(t, func() bool {
				got := ready.reason("packets of in")
				return got == want || want != "" && strings.Contains(got, want)
			}, "readiness says %q", want)
		}
		says("they come through br0 as well")
		if err := netlink.LinkSetNoMaster(in); err != nil {
			t.Fatal(err)
		}
		says("")
		if got := ready.reason("packets of br0") + ready.reason("interface in"); got != "" {
			t.Errorf("the others say %q", got)
		}
	})
}

// A container has interfaces that lie on the host's, whose index is that of another one inside.
func TestInterfaceThatLiesOnTheHosts(t *testing.T) {
	inNamespace(t, func(t *testing.T) {
		_, in := wire(t)
		container, err := netns.Get()
		if err != nil {
			t.Fatal(err)
		}
		defer container.Close()
		host, err := netns.New()
		if err != nil {
			t.Fatal(err)
		}
		defer host.Close()
		below := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "below", Index: in.Attrs().Index}}
		mac := &netlink.Macvlan{LinkAttrs: netlink.LinkAttrs{Name: "mac", ParentIndex: below.Index}, Mode: netlink.MACVLAN_MODE_BRIDGE}
		for _, do := range []func() error{
			func() error { return netlink.LinkAdd(below) },
			func() error { return netlink.LinkAdd(mac) },
			func() error { return netlink.LinkSetNsFd(mac, int(container)) },
			func() error { return netns.Set(container) },
		} {
			if err := do(); errors.Is(err, unix.EOPNOTSUPP) {
				t.Skip("this kernel has no macvlan, as those made for clouds have none")
			} else if err != nil {
				t.Fatal(err)
			}
		}
		l, err := netlink.LinkByName("mac")
		if err != nil || l.Attrs().ParentIndex != in.Attrs().Index {
			t.Fatalf("the case is not made: it lies on %d, want %d (%v)", l.Attrs().ParentIndex, in.Attrs().Index, err)
		}
		// Of a mirror port the same makes one that carries traffic of its own.
		if err := mirrorOnly(in); err != nil {
			t.Error(err)
		}
		var ready readiness
		start(t, Options{Interfaces: []Interface{{Name: "in", Mode: Host}, {Name: "mac", Mode: Host}}, Controllers: nobody, Ready: ready.set})
		if got := ready.reason("packets of in"); got != "" {
			t.Errorf("in: %q", got)
		}
	})
}

// value returns the only series of a metric, or -1 when there is none.
func value(t *testing.T, reg *prometheus.Registry, name string) float64 {
	t.Helper()
	all, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range all {
		if f.GetName() == name {
			return f.GetMetric()[0].GetGauge().GetValue()
		}
	}
	return -1
}

// A mirror port that somebody made take only what is addressed to it is made to take all again.
func TestMirrorPortStaysPromiscuous(t *testing.T) {
	inNamespace(t, func(t *testing.T) {
		_, in := wire(t)
		start(t, Options{Interfaces: []Interface{{Name: "in", Mode: Mirror}}, Controllers: nobody, Pin: bpffs(t)})
		if err := netlink.SetPromiscOff(in); err != nil {
			t.Fatal(err)
		}
		until(t, func() bool { return slices.Contains(present(t, in.Attrs().Index), "promiscuous") }, "it is promiscuous again")
	})
}

func del(t *testing.T, name string) {
	t.Helper()
	l, err := netlink.LinkByName(name)
	if err == nil {
		err = netlink.LinkDel(l)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func changes(t *testing.T, reg *prometheus.Registry, iface, change string) (n float64) {
	t.Helper()
	all, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range all {
		for _, m := range f.GetMetric() {
			l := m.GetLabel()
			if f.GetName() == "trafficmonitor_sensor_interface_changes_total" && l[0].GetValue() == change && l[1].GetValue() == iface {
				n += m.GetCounter().GetValue()
			}
		}
	}
	return n
}

// until waits for a condition.
func until(t *testing.T, ok func() bool, format string, args ...any) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	err := lab.Until(ctx, fmt.Sprintf(format, args...), func(context.Context) error {
		if !ok() {
			return errors.New("not yet")
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestWhatGoesOnThroughWhat: what is told to be counted twice is, and nothing else.
func TestWhatGoesOnThroughWhat(t *testing.T) {
	links := map[int]netlink.Link{}
	const here = -1
	add := func(index int, kind string, master, parent, namespace int) {
		links[index] = &netlink.GenericLink{LinkType: kind, LinkAttrs: netlink.LinkAttrs{Index: index, MasterIndex: master, ParentIndex: parent, NetNsID: namespace}}
	}
	add(1, "device", 3, 0, here) // two ports
	add(2, "device", 3, 0, here)
	add(3, "bond", 4, 0, here) // the bond of both
	add(4, "bridge", 0, 0, here)
	add(5, "vlan", 0, 3, here)    // of the bond
	add(6, "vlan", 0, 4, here)    // of the bridge
	add(7, "macvlan", 0, 2, 0)    // of the host's interface 2, not ours
	add(8, "macsec", 0, 1, here)  // what it lies on has encrypted frames
	add(9, "device", 10, 0, here) // in a VRF
	add(10, "vrf", 0, 0, here)
	add(11, "veth", 0, 12, here) // a pair
	add(12, "veth", 0, 11, here)
	add(13, "vxlan", 0, 1, here) // its packets come inside of others
	add(14, "device", 15, 0, here)
	add(15, "openvswitch", 0, 0, here)
	add(16, "vlan", 17, 17, here) // a circle that no kernel makes
	add(17, "bridge", 16, 0, here)
	want := map[int][]int{1: {3, 4, 5, 6}, 2: {3, 4, 5, 6}, 3: {4, 5, 6}, 4: {6}, 16: {17}, 17: {16}}
	find := func(index int) netlink.Link { return links[index] }
	for from := range 19 { // 0 and 18 are not there
		var got []int
		for to := range 19 {
			if from != to && goesOnThrough(from, to, find) {
				got = append(got, to)
			}
		}
		if !slices.Equal(got, want[from]) {
			t.Errorf("what comes in through %d goes on through %v, want %v", from, got, want[from])
		}
	}
}
