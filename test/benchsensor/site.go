package main

import (
	"fmt"
	"net"
	"net/netip"
	"os"
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

// idle is how long all processors together have had nothing to do. The kernel takes the time of each idle span; it shows
// hundredths of a second.
func idle() (time.Duration, error) {
	text, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0, err
	}
	first, _, _ := strings.Cut(string(text), "\n")
	f := strings.Fields(first)
	if len(f) < 6 || f[0] != "cpu" {
		return 0, fmt.Errorf("/proc/stat begins with %q", first)
	}
	ticks, err := strconv.ParseUint(f[4], 10, 64)
	if err != nil {
		return 0, err
	}
	waits, err := strconv.ParseUint(f[5], 10, 64)
	return time.Duration(ticks+waits) * 10 * time.Millisecond, err
}

// busy runs body and returns how long processors worked meanwhile, all together.
func busy(body func() error) (time.Duration, error) {
	began := time.Now()
	before, err := idle()
	if err != nil {
		return 0, err
	}
	if err := body(); err != nil {
		return 0, err
	}
	after, err := idle()
	return time.Duration(runtime.NumCPU())*time.Since(began) - (after - before), err
}
