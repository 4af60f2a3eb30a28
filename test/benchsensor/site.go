package main

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/amooglesoft/trafficmonitor/internal/lab"
)

// What is protected; floor protects the same.
var (
	own4    = netip.MustParsePrefix("10.20.0.0/16")
	own6    = netip.MustParsePrefix("2001:db8::/32")
	targets = netip.MustParsePrefix("10.20.4.0/22") // 1,024 hosts
	lan6    = netip.MustParsePrefix("2001:db8:20::/64")

	// Half a thousand million addresses to invent sources from.
	spoofed4 = netip.MustParsePrefix("32.0.0.0/3")
	spoofed6 = netip.MustParsePrefix("2001:db9::/32")
)

// epoch is when we began; only differences of times since then mean something.
var epoch = time.Now()

// site is a rack and a machine that sends to it: over a link whose packets the rack routes, into a black hole, and over
// one that plays a mirror port.
type site struct {
	source, rack        *lab.Namespace
	hostOut, hostIn     lab.Interface
	mirrorOut, mirrorIn lab.Interface
}

func newSite(l *lab.Lab) (s *site, err error) {
	s = &site{}
	if s.source, err = l.Namespace("source"); err != nil {
		return nil, err
	}
	if s.rack, err = l.Namespace("rack"); err != nil {
		return nil, err
	}
	s.hostOut, s.hostIn, err = l.Link(
		lab.End{In: s.source, Name: "host-out", Addresses: []string{"10.66.30.1/24", "2001:db9:66::1/64"}},
		lab.End{In: s.rack, Name: "host-in", Addresses: []string{"10.66.30.2/24", "2001:db9:66::2/64"}},
	)
	if err != nil {
		return nil, err
	}
	s.mirrorOut, s.mirrorIn, err = l.Link(lab.End{In: s.source, Name: "mirror-out"}, lab.End{In: s.rack, Name: "mirror-in"})
	if err != nil {
		return nil, err
	}
	for _, p := range []netip.Prefix{own4, own6} {
		dst := &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
		if err := s.rack.Netlink().RouteAdd(&netlink.Route{Dst: dst, Type: unix.RTN_BLACKHOLE}); err != nil {
			return nil, fmt.Errorf("black hole for %s: %w", p, err)
		}
	}
	return s, nil
}

// received is the number of packets an interface took in.
func received(i lab.Interface) (uint64, error) {
	link, err := i.In.Netlink().LinkByIndex(i.Index)
	if err != nil {
		return 0, err
	}
	return link.Attrs().Statistics.RxPackets, nil
}

// usage is processor time, in different accounts.
type usage struct {
	machine time.Duration // of all processors: whatever was not idle
	softirq time.Duration // of the thread that does what interrupts of the flood's processor leave undone
	process time.Duration // of all threads of the watching process
}

// use reads the processor time used so far; pid 0 means that no process watches.
func use(pid int) (u usage, err error) {
	text, err := os.ReadFile("/proc/stat")
	if err != nil {
		return u, err
	}
	// The kernel takes the time of each idle span; it shows hundredths of a second.
	first, _, _ := strings.Cut(string(text), "\n")
	f := strings.Fields(first)
	if len(f) < 6 || f[0] != "cpu" {
		return u, fmt.Errorf("/proc/stat begins with %q", first)
	}
	for _, field := range f[4:6] { // idle, and idle while a disk works
		ticks, err := strconv.ParseUint(field, 10, 64)
		if err != nil {
			return u, err
		}
		u.machine -= time.Duration(ticks) * 10 * time.Millisecond
	}
	u.machine += time.Duration(runtime.NumCPU()) * time.Since(epoch)
	if u.softirq, err = softirq(); err != nil || pid == 0 {
		return u, err
	}
	u.process, err = cpuTime(pid)
	return u, err
}

// minus is what was used in between.
func (u usage) minus(before usage) usage {
	return usage{u.machine - before.machine, u.softirq - before.softirq, u.process - before.process}
}

// softirq is the run time of the flood's processor's ksoftirqd.
func softirq() (time.Duration, error) {
	name := fmt.Sprintf("ksoftirqd/%d\n", lab.FloodCPU())
	processes, err := filepath.Glob("/proc/[0-9]*/comm")
	if err != nil {
		return 0, err
	}
	for _, path := range processes {
		if comm, err := os.ReadFile(path); err != nil || string(comm) != name {
			continue
		}
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(path)))
		if err != nil {
			return 0, err
		}
		return cpuTime(pid)
	}
	return 0, nil // a container does not show the kernel's threads
}
