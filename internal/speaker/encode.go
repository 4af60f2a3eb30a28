package speaker

import (
	"encoding/binary"
	"fmt"
	"math"
	"net/netip"
	"slices"
	"sync"

	"github.com/amooglesoft/trafficmonitor/internal/compile"
	"github.com/amooglesoft/trafficmonitor/internal/route"
	"github.com/amooglesoft/trafficmonitor/internal/safety"
)

// encoded is a route whose NLRI has been proven.
type encoded struct {
	table compile.Table
	nlri  []byte
}

// encode writes the NLRI of the route, proven by the kernel's decoder. anywhere proves the attributes: what differs from
// router to router is proven for each; what does not, here, so that the controller hears of it.
func encode(m *safety.Made, anywhere attributes) (encoded, error) {
	r := m.Of()
	e := encoded{table: compile.TableOf(r)}
	var err error
	if r.IsBlackhole() {
		e.nlri = appendPrefix(nil, r.Prefix())
		if err := safety.CheckPrefix(r.Prefix(), e.nlri); err != nil {
			return encoded{}, err
		}
	} else if e.nlri, err = m.Octets(); err != nil {
		return encoded{}, err
	}
	_, err = anywhere.of(e, r.Action, false)
	return e, err
}

// anyRouter are attributes that stand for those of every router.
func anyRouter() attributes {
	return attributes{nextHop4: netip.IPv4Unspecified(), nextHop6: netip.IPv6Unspecified(), internal: true, proofs: &proofs{}}
}

func appendPrefix(dst []byte, p netip.Prefix) []byte {
	a := p.Masked().Addr().AsSlice()
	return append(append(dst, byte(p.Bits())), a[:(p.Bits()+7)/8]...)
}

// attributes are the path attributes a router gets with its routes.
type attributes struct {
	nextHop4, nextHop6 netip.Addr
	communities        []uint32 // of blackholes
	asn                uint32   // our own
	internal           bool     // the router is of our own AS: local preferences reach no other (RFC 4271, section 5.1.5)
	proofs             *proofs  // what was proven before; may be nil
}

// proofs remembers path attributes that were proven: thousands of rules have one action. It may be used from many
// goroutines, and belongs to one value of attributes.
type proofs struct {
	mu    sync.Mutex
	known map[proofOf]proven // guarded by mu
}

// proofOf is what path attributes depend on, but for the NLRI that one of them carries.
type proofOf struct {
	table     compile.Table
	action    route.Action
	twoOctets bool
}

// proven are path attributes without the NLRI.
type proven struct {
	reach []byte // the value of MP_REACH_NLRI up to the NLRI; nil of IPv4 unicast, whose NLRI stands behind the attributes
	rest  []byte // all others
}

const maxProofs = 1024

func (p *proofs) get(of proofOf) (proven, bool) {
	if p == nil {
		return proven{}, false
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	known, ok := p.known[of]
	return known, ok
}

func (p *proofs) put(of proofOf, attrs proven) {
	if p == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.known == nil || len(p.known) >= maxProofs {
		p.known = map[proofOf]proven{}
	}
	p.known[of] = attrs
}

// of returns the path attributes of a route, which the kernel's decoder has read. twoOctets says that the router knows no AS
// numbers of four octets (RFC 6793).
func (a attributes) of(e encoded, action route.Action, twoOctets bool) (proven, error) {
	of := proofOf{e.table, action, twoOctets}
	if known, ok := a.proofs.get(of); ok {
		return known, nil
	}
	attrs, err := a.prove(of, e.nlri)
	if err == nil {
		a.proofs.put(of, attrs)
	}
	return attrs, err
}

// announcement adds an UPDATE that announces one route to dst (RFC 4271, section 4.3; RFC 4760); with an error nothing is
// added.
func (a attributes) announcement(dst []byte, e encoded, action route.Action, twoOctets bool) ([]byte, error) {
	attrs, err := a.of(e, action, twoOctets)
	if err != nil {
		return dst, err
	}
	length := headerLen + 4 + len(attrs.rest) + len(e.nlri) // below maxMessage: twelve attributes of 258 octets are 3,096
	if attrs.reach != nil {
		length += 3 + len(attrs.reach)
	}
	if n := len(attrs.reach) + len(e.nlri); n > math.MaxUint8 {
		return dst, fmt.Errorf("an NLRI of %d octets, which is more than any of ours", len(e.nlri))
	}
	dst = appendHeader(dst, msgUpdate, length)
	dst = append(dst, 0, 0) // nothing withdrawn
	if attrs.reach == nil {
		dst = binary.BigEndian.AppendUint16(dst, uint16(len(attrs.rest)))
		dst = append(dst, attrs.rest...)
		return append(dst, e.nlri...), nil
	}
	dst = binary.BigEndian.AppendUint16(dst, uint16(3+len(attrs.reach)+len(e.nlri)+len(attrs.rest)))
	dst = append(dst, 0x80, attrReach, byte(len(attrs.reach)+len(e.nlri))) // first of all (RFC 7606, section 5.1)
	dst = append(dst, attrs.reach...)
	dst = append(dst, e.nlri...)
	return append(dst, attrs.rest...), nil
}

// The path attributes of our own UPDATEs, in the order in which they stand (RFC 4271, section 5; RFC 1997; RFC 4360; RFC 5701;
// RFC 6793; RFC 8092).
const (
	attrOrigin      = 1
	attrASPath      = 2
	attrNextHop     = 3
	attrMED         = 4
	attrLocalPref   = 5
	attrCommunities = 8
	attrReach       = 14
	attrUnreach     = 15
	attrExtended    = 16
	attrAS4Path     = 17
	attrExtended6   = 25
	attrLarge       = 32

	defaultLocalPref = 100 // what routers take for none; within an AS it must be sent (RFC 4271, section 5.1.5)
)

// prove makes the path attributes, and lets the kernel's decoder read them together with the NLRI of one route.
func (a attributes) prove(of proofOf, nlri []byte) (proven, error) {
	afi, safi := afiOf(of.table)
	action := of.action
	action.LocalPref = 0
	if a.internal {
		action.LocalPref = route.Some(defaultLocalPref)
		if v, ok := of.action.LocalPref.Get(); ok {
			action.LocalPref = route.Some(v)
		}
	}
	want := safety.Path{Action: action, Communities: action.Communities.All(), Large: action.Large.All(), TwoOctets: of.twoOctets}
	if !a.internal {
		want.AS = a.asn
	}
	family := route.IPv4
	var out proven
	var single [][]byte
	add := func(flags, typ byte, value []byte) {
		single = append(single, append([]byte{flags, typ, byte(len(value))}, value...))
	}
	some := func(flags, typ byte, value []byte) {
		if len(value) > 0 {
			add(flags, typ, value)
		}
	}

	switch of.table {
	case compile.IPv4Unicast:
		want.NextHop = pick(action.NextHop, a.nextHop4)
	case compile.IPv6Unicast:
		family, want.NextHop = route.IPv6, pick(action.NextHop, a.nextHop6)
		out.reach = append([]byte{byte(afi >> 8), byte(afi), safi, 16}, append(want.NextHop.AsSlice(), 0)...)
	default: // a FlowSpec rule has no next hop (RFC 8955, section 4)
		out.reach = []byte{byte(afi >> 8), byte(afi), safi, 0, 0}
		if of.table == compile.IPv6FlowSpec {
			family = route.IPv6
		}
	}
	if out.reach != nil {
		add(0x80, attrReach, slices.Concat(out.reach, nlri))
	}
	add(0x40, attrOrigin, []byte{0}) // IGP
	var path, path4 []byte           // one AS_SEQUENCE, or nothing within our AS
	if want.AS > 0 {
		path = binary.BigEndian.AppendUint32([]byte{2, 1}, want.AS)
		if of.twoOctets {
			short := want.AS
			if short > math.MaxUint16 {
				short, path4 = asTrans, path
			}
			path = binary.BigEndian.AppendUint16([]byte{2, 1}, uint16(short))
		}
	}
	add(0x40, attrASPath, path)
	if of.table == compile.IPv4Unicast {
		add(0x40, attrNextHop, want.NextHop.AsSlice())
	}
	if v, ok := action.MED.Get(); ok {
		add(0x80, attrMED, binary.BigEndian.AppendUint32(nil, v))
	}
	if v, ok := action.LocalPref.Get(); ok {
		add(0x40, attrLocalPref, binary.BigEndian.AppendUint32(nil, v))
	}
	if action.IsBlackhole() {
		want.Communities = append(want.Communities, a.communities...)
		slices.Sort(want.Communities)
		want.Communities = slices.Compact(want.Communities)
	}
	var communities []byte
	for _, c := range want.Communities {
		communities = binary.BigEndian.AppendUint32(communities, c)
	}
	some(0xc0, attrCommunities, communities)
	ec, ec6 := action.ExtendedCommunities()
	some(0xc0, attrExtended, ec)
	some(0xc0, attrAS4Path, path4)
	some(0xc0, attrExtended6, ec6)
	some(0xc0, attrLarge, []byte(action.Large))

	rest := single
	if out.reach != nil {
		rest = single[1:]
	}
	out.rest = slices.Concat(rest...)
	return out, safety.CheckPath(family, want, single)
}

// pick returns the first address that is given.
func pick(a, b netip.Addr) netip.Addr {
	if a.IsValid() {
		return a
	}
	return b
}
