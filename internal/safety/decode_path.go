package safety

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"net/netip"
	"slices"

	"github.com/amooglesoft/trafficmonitor/internal/route"
)

// Path is what a router is to get with a route beside the NLRI.
type Path struct {
	Action      route.Action // of its attributes, only LocalPref and MED are looked at here
	NextHop     netip.Addr   // of a blackhole; FlowSpec rules have none
	Communities []uint32     // all of them: the configured ones and those of the route
	Large       [][3]uint32
	AS          uint32 // the only one of AS_PATH; 0 where the path is empty, towards a router of our own AS
	TwoOctets   bool   // the router knows AS numbers of two octets only (RFC 6793)
}

// CheckPath reports why attributes, the path attributes about to be sent with a route of family f, must not leave: malformed,
// unknown, or meaning anything but want. Each is one attribute with its flags, type and length (RFC 4271, section 4.3).
// It shares no code with the encoder.
func CheckPath(f route.Family, want Path, attributes [][]byte) error {
	var d pathDecoder
	d.family, d.unicast, d.as, d.twoOctets = f, want.Action.IsBlackhole(), want.AS, want.TwoOctets
	for _, a := range attributes {
		if err := d.attribute(a); err != nil {
			return fmt.Errorf("path attribute %x: %w", a, err)
		}
	}
	switch long := want.TwoOctets && want.AS > math.MaxUint16; {
	case !d.origin:
		return errors.New("path attributes: no ORIGIN")
	case !d.seen[2]:
		return errors.New("path attributes: no AS_PATH")
	case d.seen[17] != long:
		return fmt.Errorf("path attributes: AS4_PATH %v, wanted %v", d.seen[17], long)
	case d.seen[14] != (f == route.IPv6 || !d.unicast):
		return fmt.Errorf("path attributes: MP_REACH_NLRI %v for %q", d.seen[14], want.Action)
	}
	got, err := d.action(want.Action)
	if err != nil {
		return err
	}
	if d.nextHop != want.NextHop {
		return fmt.Errorf("path attributes: the next hop is %s, not %s", d.nextHop, want.NextHop)
	}
	if want := slices.Compact(slices.Sorted(slices.Values(want.Communities))); !slices.Equal(d.communities, want) {
		return fmt.Errorf("path attributes: the communities are %08x, not %08x", d.communities, want)
	}
	if !slices.Equal(d.large, want.Large) {
		return fmt.Errorf("path attributes: the large communities are %d, not %d", d.large, want.Large)
	}
	return sameAction(got, want.Action)
}

// CheckPrefix reports why octets are not the NLRI of the one unicast route to want: its length in bits and as many octets
// as that takes, with nothing behind it (RFC 4271, section 4.3).
func CheckPrefix(want netip.Prefix, octets []byte) error {
	bad := func() error { return fmt.Errorf("the octets %x are not the prefix %s", octets, want) }
	if len(octets) == 0 {
		return bad()
	}
	address := make([]byte, 4)
	if want.Addr().Is6() {
		address = make([]byte, 16)
	}
	bits := int(octets[0])
	if bits > 8*len(address) || len(octets) != 1+(bits+7)/8 {
		return bad()
	}
	copy(address, octets[1:])
	if a, ok := netip.AddrFromSlice(address); !ok || netip.PrefixFrom(a, bits) != want {
		return bad()
	}
	return nil
}

// CheckAction reports why the values of the attributes extended communities (RFC 4360) and IPv6 address specific extended
// communities (RFC 5701) do not mean want.
func CheckAction(want route.Action, ec, ec6 []byte) error {
	got, err := DecodeAction(ec, ec6)
	if err != nil {
		return err
	}
	want.LocalPref, want.MED = 0, 0 // attributes of their own
	return sameAction(got, want)
}

// sameAction compares what was read with what was meant, but for communities and next hops.
func sameAction(got, want route.Action) error {
	want.NextHop, want.Communities, want.Large = netip.Addr{}, "", ""
	if want.IsBlackhole() {
		got.Kind = want.Kind // none is on the wire: it is a unicast route
	}
	if isRate(want) && got.Kind == want.Kind {
		// A 32-bit float has 24 bits: what was meant is rounded to the nearest.
		if off := math.Abs(float64(got.Rate) - float64(want.Rate)); off > float64(want.Rate)/(1<<24) {
			return fmt.Errorf("the octets say a rate of %d, not %d", got.Rate, want.Rate)
		}
		got.Rate = want.Rate
	}
	if got != want {
		return fmt.Errorf("the octets say %q, not %q", got, want)
	}
	return nil
}

func isRate(a route.Action) bool { return a.Kind == route.RateBytes || a.Kind == route.RatePackets }

// pathDecoder reads path attributes.
type pathDecoder struct {
	family      route.Family
	unicast     bool
	as          uint32
	twoOctets   bool
	seen        [256]bool
	origin      bool
	nextHop     netip.Addr
	communities []uint32
	large       [][3]uint32
	ec, ec6     []byte
	localPref   route.Optional
	med         route.Optional
}

// The attributes we send, with their flags (RFC 4271, section 5; RFC 4760; RFC 1997; RFC 4360; RFC 5701; RFC 6793; RFC 8092).
var pathFlags = map[byte]byte{1: 0x40, 2: 0x40, 17: 0xc0, 3: 0x40, 4: 0x80, 5: 0x40, 8: 0xc0, 14: 0x80, 16: 0xc0, 25: 0xc0, 32: 0xc0}

func (d *pathDecoder) attribute(a []byte) error {
	if len(a) < 3 {
		return errTruncated
	}
	flags, kind, value := a[0], a[1], a[3:]
	want, known := pathFlags[kind]
	switch {
	case !known:
		return errors.New("unknown")
	case flags != want:
		return fmt.Errorf("flags %02x, not %02x", flags, want)
	case d.seen[kind]:
		return errors.New("stands twice")
	case int(a[2]) != len(value):
		return fmt.Errorf("length says %d octets, %d are there", a[2], len(value))
	}
	d.seen[kind] = true
	number := func() (route.Optional, error) {
		if len(value) != 4 {
			return 0, errors.New("not four octets")
		}
		return route.Some(binary.BigEndian.Uint32(value)), nil
	}
	var err error
	switch kind {
	case 1:
		if d.origin = len(value) == 1 && value[0] == 0; !d.origin {
			return errors.New("not IGP")
		}
	case 2, 17:
		return d.path(value, kind == 2 && d.twoOctets)
	case 3:
		if !d.unicast || d.family == route.IPv6 {
			return errors.New("an IPv4 next hop for what is no IPv4 unicast route")
		}
		return d.hop(value, 4)
	case 4:
		d.med, err = number()
	case 5:
		d.localPref, err = number()
	case 8:
		if len(value) == 0 || len(value)%4 != 0 {
			return errors.New("not whole communities")
		}
		for ; len(value) > 0; value = value[4:] {
			d.communities = append(d.communities, binary.BigEndian.Uint32(value))
		}
	case 14:
		return d.reach(value)
	case 16:
		d.ec = value
	case 25:
		d.ec6 = value
	case 32:
		if len(value) == 0 || len(value)%12 != 0 {
			return errors.New("not whole large communities")
		}
		for ; len(value) > 0; value = value[12:] {
			d.large = append(d.large, [3]uint32{binary.BigEndian.Uint32(value), binary.BigEndian.Uint32(value[4:]), binary.BigEndian.Uint32(value[8:])})
		}
	}
	return err
}

// path reads AS_PATH or AS4_PATH: one AS_SEQUENCE of one AS, or nothing (RFC 4271, section 5.1.2; RFC 6793, section 4.2.2).
func (d *pathDecoder) path(value []byte, two bool) error {
	if d.as == 0 {
		if len(value) > 0 {
			return errors.New("not empty, towards a router of our own AS")
		}
		return nil
	}
	want := []byte{2, 1, byte(d.as >> 24), byte(d.as >> 16), byte(d.as >> 8), byte(d.as)}
	if two {
		want = []byte{2, 1, byte(d.as >> 8), byte(d.as)}
		if d.as > math.MaxUint16 {
			want = []byte{2, 1, 23456 >> 8, 23456 & 0xff} // AS_TRANS
		}
	}
	if !slices.Equal(value, want) {
		return fmt.Errorf("not AS %d alone", d.as)
	}
	return nil
}

// reach reads MP_REACH_NLRI (RFC 4760, section 3) as far as its NLRI, which is proven apart. FlowSpec rules have no next hop
// (RFC 8955, section 4).
func (d *pathDecoder) reach(value []byte) error {
	family, sub := byte(1), byte(133)
	if d.family == route.IPv6 {
		family = 2
	}
	if d.unicast {
		sub = 1
	}
	switch {
	case d.unicast && d.family != route.IPv6:
		return errors.New("IPv4 unicast routes have none here")
	case len(value) < 5 || len(value) < 5+int(value[3]):
		return errTruncated
	case value[0] != 0 || value[1] != family || value[2] != sub:
		return fmt.Errorf("family %d/%d, not %d/%d", binary.BigEndian.Uint16(value), value[2], family, sub)
	case value[4+int(value[3])] != 0:
		return errors.New("the reserved octet is not 0")
	case !d.unicast:
		if value[3] > 0 {
			return errors.New("a FlowSpec rule with a next hop")
		}
		return nil
	}
	return d.hop(value[4:4+int(value[3])], 16)
}

func (d *pathDecoder) hop(value []byte, size int) error {
	a, ok := netip.AddrFromSlice(value)
	switch {
	case !ok || len(value) != size:
		return fmt.Errorf("a next hop of %d octets, not %d", len(value), size)
	case d.nextHop.IsValid():
		return errors.New("a second next hop")
	}
	d.nextHop = a
	return nil
}

// action returns what the attributes say is to be done, with local preference and MED.
func (d *pathDecoder) action(want route.Action) (a route.Action, err error) {
	if want.IsBlackhole() {
		if d.ec != nil || d.ec6 != nil {
			return a, errors.New("path attributes: extended communities at a blackhole")
		}
	} else if a, err = DecodeAction(d.ec, d.ec6); err != nil {
		return a, err
	}
	a.LocalPref, a.MED = d.localPref, d.med
	return a, nil
}

// DecodeAction reads the values of the attributes extended communities and IPv6 address specific extended communities as
// what a FlowSpec rule does (RFC 8955, section 7; draft-ietf-idr-flowspec-redirect-ip). It is strict, as DecodeFlowSpec
// is: what is reserved, unknown, said twice or contradicts itself is an error.
func DecodeAction(ec, ec6 []byte) (route.Action, error) {
	a := route.Action{Kind: route.Accept}
	if len(ec)%8 != 0 || len(ec6)%20 != 0 {
		return a, fmt.Errorf("extended communities: %d and %d octets are no whole communities: %w", len(ec), len(ec6), errTruncated)
	}
	seen := map[[2]byte]bool{}
	each := func(c []byte, read func(*route.Action, []byte) error) error {
		kind := [2]byte(c)
		err := read(&a, c)
		if err == nil && seen[kind] {
			err = errors.New("a second of its kind")
		}
		if err != nil {
			return fmt.Errorf("extended community %x: %w", c, err)
		}
		seen[kind] = true
		return nil
	}
	for c := range slices.Chunk(ec, 8) {
		if err := each(c, extended); err != nil {
			return a, err
		}
	}
	for c := range slices.Chunk(ec6, 20) {
		if err := each(c, extended6); err != nil {
			return a, err
		}
	}
	return a, nil
}

// extended reads one extended community into a.
func extended(a *route.Action, c []byte) error {
	number := binary.BigEndian.Uint32
	switch kind := binary.BigEndian.Uint16(c); kind {
	case 0x8006, 0x800c:
		return rate(a, kind == 0x800c, c[2:])
	case 0x8007:
		if slices.Max(c[2:7]) > 0 || c[7] > 3 || c[7] == 0 {
			return errors.New("traffic-action with reserved bits, or without any")
		}
		a.Continue, a.Sample = c[7]&1 != 0, c[7]&2 != 0
	case 0x8009:
		if slices.Max(c[2:7]) > 0 || c[7] > 63 {
			return errors.New("traffic-marking with reserved bits")
		}
		a.Mark = route.Some(uint32(c[7]))
	case 0x8008:
		return redirect(a, route.Redirect{Target: route.RouteTarget{Form: route.TargetAS2, Global: number(c[2:]) >> 16, Local: number(c[4:])}})
	case 0x8108:
		return redirect(a, route.Redirect{Target: route.RouteTarget{Form: route.TargetIPv4, Global: number(c[2:]), Local: number(c[4:]) & 0xffff}})
	case 0x8208:
		return redirect(a, route.Redirect{Target: route.RouteTarget{Form: route.TargetAS4, Global: number(c[2:]), Local: number(c[4:]) & 0xffff}})
	case 0x010c:
		return redirectTo(a, c[2:6], c[6:])
	default:
		return errors.New("unknown")
	}
	return nil
}

// extended6 reads one IPv6 address specific extended community into a.
func extended6(a *route.Action, c []byte) error {
	if c[0] != 0x00 || c[1] != 0x0c {
		return errors.New("unknown")
	}
	return redirectTo(a, c[2:18], c[18:])
}

// rate reads the value of traffic-rate-bytes or -packets: an AS, of which we say none, and a 32-bit float.
func rate(a *route.Action, packets bool, value []byte) error {
	v := float64(math.Float32frombits(binary.BigEndian.Uint32(value[2:])))
	switch {
	case a.Kind != route.Accept:
		return errors.New("a second rate")
	case value[0] != 0 || value[1] != 0:
		return errors.New("a rate with an AS")
	case math.IsNaN(v) || math.Signbit(v) || v > float64(2*route.MaxRate) || v != math.Trunc(v):
		return fmt.Errorf("%v is no rate of ours", v)
	case v == 0 && packets:
		return errors.New("a discard in packets per second")
	case v == 0:
		a.Kind = route.Discard
	case packets:
		a.Kind, a.Rate = route.RatePackets, uint64(v)
	default:
		a.Kind, a.Rate = route.RateBytes, uint64(v)
	}
	return nil
}

func redirect(a *route.Action, r route.Redirect) error {
	if a.Redirect != (route.Redirect{}) {
		return errors.New("a second redirect")
	}
	a.Redirect = r
	return nil
}

func redirectTo(a *route.Action, address, bits []byte) error {
	hop, _ := netip.AddrFromSlice(address)
	if bits[0] != 0 || bits[1] > 1 || hop.Is4In6() {
		return errors.New("a redirect with reserved bits, or to an IPv4-mapped address")
	}
	return redirect(a, route.Redirect{Address: hop, Copy: bits[1] == 1})
}
