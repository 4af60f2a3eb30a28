package classify

import (
	"encoding/binary"
	"fmt"
	"strings"

	"github.com/amooglesoft/trafficmonitor/internal/vector"
)

// Tunnels is a set of encapsulations.
type Tunnels uint32

// The encapsulations that can be looked into.
const (
	// VXLAN is Ethernet in UDP to port 4789, RFC 7348.
	VXLAN Tunnels = 1 << iota
	// Geneve is Ethernet or IP in UDP to port 6081, RFC 8926.
	Geneve
	// GRE is IP or Ethernet in GRE, RFC 2784 and 2890.
	GRE
	// IPIP is IPv4 or IPv6 in either of them, RFC 2003, 2473 and 4213.
	IPIP
	// AllTunnels is all of them.
	AllTunnels = VXLAN | Geneve | GRE | IPIP
)

// The UDP ports of VXLAN and Geneve.
const (
	PortVXLAN  = 4789
	PortGeneve = 6081
)

// TunnelNames are the names of the encapsulations, in order of their bits.
var TunnelNames = []string{"vxlan", "geneve", "gre", "ipip"}

// ParseTunnels returns the set of the named encapsulations.
func ParseTunnels(names []string) (set Tunnels, err error) {
next:
	for _, name := range names {
		for i, known := range TunnelNames {
			if name == known {
				set |= 1 << i
				continue next
			}
		}
		return 0, fmt.Errorf("encapsulation %q is not known; known are %s", name, strings.Join(TunnelNames, ", "))
	}
	return set, nil
}

// String lists the names in the set.
func (t Tunnels) String() string {
	var names []string
	for i, name := range TunnelNames {
		if t&(1<<i) != 0 {
			names = append(names, name)
		}
	}
	return strings.Join(names, ",")
}

// tunnel is a tunnel that was found: its transport header and what belongs to it.
type tunnel struct {
	kind  Tunnels // one of them, or 0
	proto uint16  // EtherType of what IPIP carries
	b     []byte
	rest  int
}

// tunnel remembers the packet when it is a tunnel to be decapsulated. b is the transport header, rest what belongs to it.
func (d *dissector) tunnel(b []byte, proto uint8, rest int) {
	want, r := d.frame.Decapsulate, &d.result
	switch {
	case proto == 4 && want&IPIP != 0:
		d.inner = tunnel{IPIP, ethernetIPv4, b, rest}
	case proto == 41 && want&IPIP != 0:
		d.inner = tunnel{IPIP, ethernetIPv6, b, rest}
	case proto == 47 && want&GRE != 0:
		d.inner = tunnel{GRE, 0, b, rest}
	case proto == 17 && r.DestinationPort == PortVXLAN && want&VXLAN != 0:
		d.inner = tunnel{VXLAN, 0, b, rest}
	case proto == 17 && r.DestinationPort == PortGeneve && want&Geneve != 0:
		d.inner = tunnel{Geneve, 0, b, rest}
	}
}

// open looks into the tunnel that was found, if there was one.
func (d *dissector) open() {
	switch t := d.inner; t.kind {
	case IPIP:
		d.look(IPIP, t.b, t.rest, 0, t.proto)
	case GRE:
		d.gre(t.b, t.rest)
	case VXLAN:
		d.vxlan(t.b, t.rest)
	case Geneve:
		d.geneve(t.b, t.rest)
	}
}

func (d *dissector) gre(b []byte, rest int) {
	flags, size := binary.BigEndian.Uint16(b), 4
	if flags&0x4007 != 0 { // source routes, or not version 0
		return
	}
	for _, field := range []uint16{0x8000, 0x2000, 0x1000} { // checksum, key, sequence number
		if flags&field != 0 {
			size += 4
		}
	}
	d.look(GRE, b, rest, size, binary.BigEndian.Uint16(b[2:]))
}

func (d *dissector) vxlan(b []byte, rest int) {
	if !d.fits(b, rest, 16) || b[8]&0x08 == 0 { // without a network identifier it is no VXLAN
		return
	}
	d.look(VXLAN, b, rest, 16, transparentEthernet)
}

func (d *dissector) geneve(b []byte, rest int) {
	if !d.fits(b, rest, 16) || b[8]>>6 != 0 || b[9]&0x80 != 0 { // not version 0, or control
		return
	}
	d.look(Geneve, b, rest, 16+int(b[8]&0x3f)*4, binary.BigEndian.Uint16(b[10:]))
}

// fits tells whether the first size octets of b belong to the packet and are there; if not, the outer packet is
// malformed.
func (d *dissector) fits(b []byte, rest, size int) bool {
	switch {
	case rest < size:
		d.malformed(Tunnel)
	case len(b) < size:
		d.malformed(Short)
	default:
		return true
	}
	return false
}

// look dissects what is behind size octets of b. What is not IP stays what the outer packet is, and garbage is a
// malformed packet of the outer target.
func (d *dissector) look(kind Tunnels, b []byte, rest, size int, proto uint16) {
	if proto == transparentEthernet {
		size += 14
		if !d.fits(b, rest, size) {
			return
		}
		proto = binary.BigEndian.Uint16(b[size-2:])
		for range 2 {
			if !isTag(proto) {
				break
			}
			size += 4
			if !d.fits(b, rest, size) {
				return
			}
			proto = binary.BigEndian.Uint16(b[size-2:])
		}
	}
	if proto != ethernetIPv4 && proto != ethernetIPv6 {
		return
	}
	if rest < size {
		d.malformed(Tunnel)
		return
	}

	outer := d.result
	d.inside, d.sound, d.available = true, false, rest-size
	d.result = Result{
		IP: true, Vector: vector.Malformed, Reason: Short, Segments: d.segments, Length: d.available, Tunnel: kind,
		L3: len(d.frame.Data) - len(b) + size,
	}
	if at := tail(b, size); proto == ethernetIPv4 {
		d.ipv4(at)
	} else {
		d.ipv6(at)
	}
	if !d.sound {
		why := Tunnel
		if d.result.Reason == Short {
			why = Short
		}
		d.result = outer
		d.malformed(why)
	}
}
