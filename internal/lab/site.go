package lab

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/amooglesoft/trafficmonitor/internal/lab/enforce"
)

// Addresses of a Site. Everything inside the own prefixes is the victim.
var (
	SiteOwn4     = netip.MustParsePrefix("203.0.113.0/24")
	SiteOwn6     = netip.MustParsePrefix("2001:db8:113::/48")
	SiteVictim4  = netip.MustParseAddr("203.0.113.10")
	SiteVictim6  = netip.MustParseAddr("2001:db8:113::10")
	SiteSpoofed4 = netip.MustParsePrefix("100.64.0.0/10")
	SiteSpoofed6 = netip.MustParsePrefix("2001:db8:bad::/48")
	// The control machine as its neighbours see it, and the neighbours as it sees them.
	SiteControlForBIRD = netip.MustParseAddr("10.66.1.1")
	SiteBIRD           = netip.MustParseAddr("10.66.1.2")
	SiteControlForFRR  = netip.MustParseAddr("10.66.2.1")
	SiteFRR            = netip.MustParseAddr("10.66.2.2")
	SiteControlForRack = netip.MustParseAddr("10.66.3.1")
	SiteRack           = netip.MustParseAddr("10.66.3.2")
)

// AS numbers of a Site.
const (
	SiteASN     = 65000
	SiteBIRDASN = 65012
	SiteFRRASN  = 65011
)

// SiteOptions says what a Site is made of. The zero SiteOptions is a whole one.
type SiteOptions struct {
	// NoFRR and NoBIRD leave a router out. Without BIRD the edge still forwards, and nothing is dropped.
	NoFRR, NoBIRD bool
	// NoEnforce leaves the shim out: BIRD then stores rules that nothing enforces.
	NoEnforce bool
	// Capacity is the packets per second the victim's line carries, what is above it is lost, whoever sent it; 0 means as
	// many as the machine can. A queueing discipline that counts bytes would cost more than the flood itself where
	// timers are expensive, as in virtual machines.
	Capacity uint64
	// Neighbor changes how the routers see the control machine: password, TTL security and so on. Passive is set.
	Neighbor func(*Neighbor)
	// Extra is added to BIRD's and FRR's configuration.
	ExtraBIRD, ExtraFRR string
}

// Site is the small network that the demo, the end-to-end tests and the benchmarks share:
//
//	attacker ─┐                       ┌─ victim
//	          ├─ edge (BIRD) ── rack ─┘
//	client ───┘    │              │
//	               └── control ───┘
//	                      └── edge2 (FRR)
//
// The sensor belongs on Uplink, the controller into Control.
type Site struct {
	Lab                                                    *Lab
	Attacker, Client, Edge, Rack, Victim, Control, EdgeTwo *Namespace

	// AttackerOut and EdgeIn are the two ends of the attacker's link.
	AttackerOut, EdgeIn Interface
	// Uplink is the rack's interface towards the edge: what is attacked comes in here. EdgeOut is its other end.
	Uplink, EdgeOut Interface
	// VictimIn is the victim's interface, Downlink the rack's towards it.
	VictimIn, Downlink Interface
	// ControlToBIRD and BIRDToControl carry the session with BIRD, ControlToFRR and FRRToControl the one with FRR.
	ControlToBIRD, BIRDToControl, ControlToFRR, FRRToControl Interface

	BIRD    *BIRD         // nil with NoBIRD
	FRR     *FRR          // nil with NoFRR
	Enforce *enforce.Shim // nil with NoBIRD or NoEnforce
}

// NewSite builds a Site in an empty lab and starts its routers, which wait for a speaker at the control machine.
func NewSite(ctx context.Context, l *Lab, o SiteOptions) (*Site, error) {
	s := &Site{Lab: l}
	for _, build := range []func() error{s.namespaces, s.links, s.routes} {
		if err := build(); err != nil {
			return nil, err
		}
	}
	if o.Capacity > 0 {
		if err := s.Downlink.limit(ctx, o.Capacity); err != nil {
			return nil, err
		}
	}
	neighbor := func(address netip.Addr) []Neighbor {
		n := Neighbor{Name: "control", Address: address, ASN: SiteASN, Passive: true}
		if o.Neighbor != nil {
			o.Neighbor(&n)
		}
		return []Neighbor{n}
	}
	var err error
	if !o.NoBIRD {
		s.BIRD, err = s.Edge.StartBIRD(ctx, RouterConfig{
			RouterID: SiteBIRD, ASN: SiteBIRDASN, Local: SiteBIRD, Neighbors: neighbor(SiteControlForBIRD), Extra: o.ExtraBIRD,
		})
		if err != nil {
			return nil, err
		}
		if !o.NoEnforce {
			s.Enforce = s.BIRD.Enforce()
		}
	}
	if !o.NoFRR {
		s.FRR, err = s.EdgeTwo.StartFRR(ctx, RouterConfig{
			RouterID: SiteFRR, ASN: SiteFRRASN, Local: SiteFRR, Neighbors: neighbor(SiteControlForFRR), Extra: o.ExtraFRR,
		})
		if err != nil {
			return nil, err
		}
	}
	return s, nil
}

func (s *Site) namespaces() error {
	for name, n := range map[string]**Namespace{
		"attacker": &s.Attacker, "client": &s.Client, "edge": &s.Edge, "rack": &s.Rack, "victim": &s.Victim,
		"control": &s.Control, "edge2": &s.EdgeTwo,
	} {
		var err error
		if *n, err = s.Lab.Namespace(name); err != nil {
			return err
		}
	}
	// The attacker stands for the Internet: answers to spoofed addresses end there, silently.
	return s.Attacker.Sysctl(map[string]string{"net.ipv4.ip_forward": "0", "net.ipv6.conf.all.forwarding": "0"})
}

func (s *Site) links() error {
	var unused Interface
	for _, x := range []struct {
		a, b       *Namespace
		net4, net6 string
		atA, atB   *Interface
	}{
		{s.Attacker, s.Edge, "198.18.0", "2001:db8:18", &s.AttackerOut, &s.EdgeIn},
		{s.Client, s.Edge, "198.51.100", "2001:db8:51", &unused, &unused},
		{s.Rack, s.Edge, "10.66.10", "2001:db8:66:10", &s.Uplink, &s.EdgeOut},
		{s.Victim, s.Rack, "10.66.20", "2001:db8:66:20", &s.VictimIn, &s.Downlink},
		{s.Control, s.Edge, "10.66.1", "2001:db8:66:1", &s.ControlToBIRD, &s.BIRDToControl},
		{s.Control, s.EdgeTwo, "10.66.2", "2001:db8:66:2", &s.ControlToFRR, &s.FRRToControl},
		{s.Control, s.Rack, "10.66.3", "2001:db8:66:3", &unused, &unused},
	} {
		// The machine named first has .1 where it is the control machine, else .2: the hub of the link has .1.
		first, second := "2", "1"
		if x.a == s.Control {
			first, second = "1", "2"
		}
		end := func(n *Namespace, host string) End {
			return End{In: n, Addresses: []string{x.net4 + "." + host + "/24", x.net6 + "::" + host + "/64"}}
		}
		var err error
		if *x.atA, *x.atB, err = s.Lab.Link(end(x.a, first), end(x.b, second)); err != nil {
			return err
		}
	}
	return nil
}

func (s *Site) routes() error {
	var errs []error
	for _, r := range []struct {
		in       *Namespace
		dst, via string
	}{
		{s.Attacker, "0.0.0.0/0", "198.18.0.1"},
		{s.Attacker, "::/0", "2001:db8:18::1"},
		{s.Client, "0.0.0.0/0", "198.51.100.1"},
		{s.Client, "::/0", "2001:db8:51::1"},
		{s.Edge, "0.0.0.0/0", "198.18.0.2"},
		{s.Edge, "::/0", "2001:db8:18::2"},
		{s.Edge, SiteOwn4.String(), "10.66.10.2"},
		{s.Edge, SiteOwn6.String(), "2001:db8:66:10::2"},
		{s.Rack, "0.0.0.0/0", "10.66.10.1"},
		{s.Rack, "::/0", "2001:db8:66:10::1"},
		{s.Rack, SiteOwn4.String(), "10.66.20.2"},
		{s.Rack, SiteOwn6.String(), "2001:db8:66:20::2"},
	} {
		errs = append(errs, r.in.AddRoute(r.dst, netip.MustParseAddr(r.via)))
	}
	// The victim is every host of the own prefixes, and speaks as the first of them.
	lo, err := s.Victim.nl.LinkByName("lo")
	if err != nil {
		return errors.Join(append(errs, err)...)
	}
	for _, x := range []struct {
		own    netip.Prefix
		victim netip.Addr
		via    string
	}{{SiteOwn4, SiteVictim4, "10.66.20.1"}, {SiteOwn6, SiteVictim6, "2001:db8:66:20::1"}} {
		addr, err := netlink.ParseAddr(netip.PrefixFrom(x.victim, x.victim.BitLen()).String())
		if err != nil {
			return err
		}
		addr.Flags = unix.IFA_F_NODAD
		errs = append(errs,
			s.Victim.nl.AddrAdd(lo, addr),
			s.Victim.nl.RouteAdd(&netlink.Route{
				Dst: ipNet(x.own), LinkIndex: lo.Attrs().Index, Type: unix.RTN_LOCAL, Table: unix.RT_TABLE_LOCAL, Scope: netlink.SCOPE_HOST,
			}),
			s.Victim.nl.RouteAdd(&netlink.Route{
				Dst: ipNet(netip.PrefixFrom(x.own.Addr(), 0).Masked()), Gw: netip.MustParseAddr(x.via).AsSlice(), Src: x.victim.AsSlice(),
			}),
		)
	}
	return errors.Join(errs...)
}

// ipNet is a prefix as netlink takes it.
func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// limit makes the interface lose what is above a number of packets per second, with a queue of 10 ms.
func (i Interface) limit(ctx context.Context, pps uint64) error {
	script := fmt.Sprintf("add table inet line\n"+
		"add chain inet line out { type filter hook postrouting priority 0; policy accept; }\n"+
		"add rule inet line out oifname %q limit rate over %d/second burst %d packets counter drop\n", i.Name, pps, max(pps/100, 5))
	out, err := (&nftables{in: i.In}).once(ctx, script, "-f", "-")
	if err != nil {
		return fmt.Errorf("limit %s/%s: %w: %s", i.In.name, i.Name, err, out)
	}
	return nil
}
