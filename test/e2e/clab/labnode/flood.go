package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net"
	"net/netip"
	"os"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/amooglesoft/trafficmonitor/internal/lab"
	"github.com/amooglesoft/trafficmonitor/internal/lab/flood"
)

// Bounds nobody can lift: an attack is a test of a lab on one machine.
const (
	mostPackets = 1_000_000
	longest     = time.Minute
	mostPPS     = 50_000
)

// Only addresses that are nobody's are attacked (RFC 5737, RFC 3849), in the name of others that are no one's (RFC 6598).
var (
	targets4 = []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24"), netip.MustParsePrefix("198.51.100.0/24"), netip.MustParsePrefix("203.0.113.0/24")}
	targets6 = []netip.Prefix{netip.MustParsePrefix("2001:db8::/32")}
	sources4 = netip.MustParsePrefix("100.64.0.0/10")
	sources6 = netip.MustParsePrefix("2001:db8:bad::/48")
)

// attack sends one attack and prints what it sent as JSON.
func attack(ctx context.Context, args []string) error {
	f := flag.NewFlagSet("flood", flag.ContinueOnError)
	to := f.String("to", "", "the address to attack")
	out := f.String("interface", "eth1", "the interface to send from")
	kind := f.String("kind", "dns", "dns (answers of open resolvers), udp (to port 9999) or syn (to port 80)")
	pps := f.Float64("pps", 8000, "packets a second")
	packets := f.Uint64("packets", 40_000, "how many packets at most")
	last := f.Duration("for", 10*time.Second, "how long at most")
	if err := f.Parse(args); err != nil {
		return err
	}
	target, err := netip.ParseAddr(*to)
	if err != nil {
		return fmt.Errorf("flood: --to: %w", err)
	}
	template, err := templateOf(*kind, target)
	if err != nil {
		return err
	}
	switch {
	case *packets == 0 || *packets > mostPackets:
		return fmt.Errorf("flood: --packets %d: use 1 to %d", *packets, mostPackets)
	case *last <= 0 || *last > longest:
		return fmt.Errorf("flood: --for %v: use up to %v", *last, longest)
	case *pps < 1 || *pps > mostPPS:
		return fmt.Errorf("flood: --pps %v: use 1 to %d", *pps, mostPPS)
	}
	link, gateway, err := nextHop(ctx, *out, target)
	if err != nil {
		return err
	}
	attack, err := flood.Open(flood.Options{
		Template: template, Interface: link.Attrs().Index, Source: link.Attrs().HardwareAddr, Gateway: gateway,
		PPS: *pps, Packets: *packets, Duration: *last,
	})
	if err != nil {
		return err
	}
	r, err := attack.Run(ctx)
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(map[string]any{
		"attack": template.Says, "to": target, "packets": r.Packets, "pps": int(r.PPS()), "seconds": r.Ended.Sub(r.Began).Seconds(),
	})
}

func templateOf(kind string, target netip.Addr) (*flood.Template, error) {
	sources, allowed := sources4, targets4
	if target.Is6() {
		sources, allowed = sources6, targets6
	}
	ours := false
	for _, p := range allowed {
		ours = ours || p.Contains(target)
	}
	if !ours {
		return nil, fmt.Errorf("flood: --to %s: only addresses for documentation are attacked: %v", target, allowed)
	}
	switch kind {
	case "dns":
		return flood.DNSAnswers(target, sources, 512)
	case "udp":
		return flood.UDP(target, sources, 9999, make([]byte, 64))
	case "syn":
		return flood.SYN(target, sources, 80)
	}
	return nil, fmt.Errorf("flood: --kind %q: use dns, udp or syn", kind)
}

// nextHop returns the interface and the hardware address packets to target are sent to.
func nextHop(ctx context.Context, name string, target netip.Addr) (netlink.Link, net.HardwareAddr, error) {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return nil, nil, fmt.Errorf("interface %s: %w", name, err)
	}
	routes, err := netlink.RouteGetWithOptions(target.AsSlice(), &netlink.RouteGetOptions{Oif: name})
	if err != nil || len(routes) == 0 {
		return nil, nil, fmt.Errorf("no route to %s through %s: %w", target, name, err)
	}
	hop := routes[0].Gw
	if hop == nil {
		hop = target.AsSlice()
	}
	family := unix.AF_INET
	if target.Is6() {
		family = unix.AF_INET6
	}
	// One datagram to the discard port has the kernel ask for the address.
	conn, err := net.DialUDP("udp", nil, &net.UDPAddr{IP: hop, Port: 9})
	if err != nil {
		return nil, nil, err
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	var mac net.HardwareAddr
	err = lab.Until(ctx, fmt.Sprintf("the hardware address of %s", hop), func(context.Context) error {
		if _, err := conn.Write([]byte{0}); err != nil && !errors.Is(err, unix.ECONNREFUSED) {
			return err
		}
		neighbours, err := netlink.NeighList(link.Attrs().Index, family)
		for _, n := range neighbours {
			if n.IP.Equal(hop) && len(n.HardwareAddr) == 6 {
				mac = n.HardwareAddr
				return nil
			}
		}
		return errors.Join(errors.New("nobody has answered"), err)
	})
	return link, mac, err
}
