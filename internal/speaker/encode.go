package speaker

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"sync"

	api "github.com/osrg/gobgp/v3/api"
	"github.com/osrg/gobgp/v3/pkg/packet/bgp"

	"github.com/amooglesoft/trafficmonitor/internal/compile"
	"github.com/amooglesoft/trafficmonitor/internal/route"
	"github.com/amooglesoft/trafficmonitor/internal/safety"
)

// encoded is a route whose NLRI has been proven.
type encoded struct {
	table compile.Table
	nlri  []byte
	key   string // what GoBGP tells routes of a table apart by
}

// encode lets GoBGP read and write the NLRI of the route, and proves that what GoBGP writes is what was meant: AddPath
// returns nil for rules it then serialises corrupt, and such a rule resets the session each time it comes up. anywhere
// proves the attributes: what differs from router to router is proven for each; what does not, here, so that the
// controller hears of it.
func encode(m *safety.Made, anywhere attributes) (encoded, error) {
	r := m.Of()
	e := encoded{table: compile.TableOf(r)}
	var err error
	if r.IsBlackhole() { // one octet of length and the prefix: comparing is proof enough
		e.nlri = appendPrefix(nil, r.Prefix())
	} else if e.nlri, err = m.Octets(); err != nil {
		return encoded{}, err
	}
	var theirs []byte
	if theirs, e.key, err = throughGoBGP(e.table, e.nlri); err != nil {
		return encoded{}, err
	}
	if !bytes.Equal(theirs, e.nlri) {
		return encoded{}, fmt.Errorf("GoBGP would send %x where %x was meant", theirs, e.nlri)
	}
	if _, err := anywhere.path(e, r.Action, false); err != nil {
		return encoded{}, err
	}
	return e, nil
}

// anyRouter are attributes that stand for those of every router.
func anyRouter() attributes {
	return attributes{nextHop4: netip.IPv4Unspecified(), nextHop6: netip.IPv6Unspecified(), internal: true, proofs: &proofs{}}
}

// throughGoBGP reads the NLRI with GoBGP's decoder and writes it with its encoder, as will happen on the way out. What
// GoBGP cannot read within a FlowSpec NLRI it keeps as it is, which is how most prefixes with an offset pass.
func throughGoBGP(t compile.Table, nlri []byte) (out []byte, key string, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("GoBGP panics on the NLRI %x: %v", nlri, r)
		}
	}()
	afi, safi := afiOf(t)
	n, err := bgp.NewPrefixFromRouteFamily(afi, safi)
	if err != nil {
		return nil, "", fmt.Errorf("GoBGP does not know %s: %w", t, err)
	}
	if err := n.DecodeFromBytes(nlri); err != nil {
		return nil, "", fmt.Errorf("GoBGP cannot read the NLRI %x: %w", nlri, err)
	}
	if out, err = n.Serialize(); err != nil {
		return nil, "", fmt.Errorf("GoBGP cannot write the NLRI %x: %w", nlri, err)
	}
	return out, string(t) + " " + n.String(), nil
}

func appendPrefix(dst []byte, p netip.Prefix) []byte {
	a := p.Masked().Addr().AsSlice()
	return append(append(dst, byte(p.Bits())), a[:(p.Bits()+7)/8]...)
}

// attributes are the path attributes a router gets with its routes.
type attributes struct {
	nextHop4, nextHop6 netip.Addr
	communities        []uint32 // of blackholes
	internal           bool     // the router is of our own AS: local preferences reach no other (RFC 4271, section 5.1.5)
	proofs             *proofs  // what was proven before; may be nil
}

// proofs remembers path attributes that were proven: thousands of rules have one action. It may be used from many
// goroutines, and belongs to one value of attributes.
type proofs struct {
	mu    sync.Mutex
	known map[proofOf][][]byte // guarded by mu
}

// proofOf is what path attributes depend on, where they do not carry the NLRI.
type proofOf struct {
	table    compile.Table
	action   route.Action
	withdraw bool
}

const maxProofs = 1024

func (p *proofs) get(of proofOf) [][]byte {
	if p == nil || of.table == compile.IPv6Unicast { // carries its NLRI in MP_REACH_NLRI
		return nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.known[of]
}

func (p *proofs) put(of proofOf, attrs [][]byte) {
	if p == nil || of.table == compile.IPv6Unicast {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.known == nil || len(p.known) >= maxProofs {
		p.known = map[proofOf][][]byte{}
	}
	p.known[of] = attrs
}

// path returns what GoBGP's AddPath takes. Origin and next hop are mandatory there, also for a withdraw. The attributes of
// a route that is announced are proven like its NLRI: what GoBGP makes of them is read back by the kernel's decoder.
func (a attributes) path(e encoded, action route.Action, withdraw bool) (*api.Path, error) {
	afi, safi := afiOf(e.table)
	p := &api.Path{
		Family:     &api.Family{Afi: api.Family_Afi(afi), Safi: api.Family_Safi(safi)},
		NlriBinary: e.nlri,
		IsWithdraw: withdraw,
	}
	of := proofOf{e.table, action, withdraw}
	if p.PattrsBinary = a.proofs.get(of); p.PattrsBinary != nil {
		return p, nil
	}
	p.PattrsBinary = [][]byte{{0x40, 1, 1, 0}} // ORIGIN IGP
	add := func(flags, typ byte, value []byte) {
		if len(value) > 0 {
			p.PattrsBinary = append(p.PattrsBinary, append([]byte{flags, typ, byte(len(value))}, value...))
		}
	}
	if !a.internal {
		action.LocalPref = 0
	}
	want := safety.Path{Action: action, Communities: action.Communities.All(), Large: action.Large.All()}
	switch e.table {
	case compile.IPv4Unicast:
		want.NextHop = pick(action.NextHop, a.nextHop4)
		add(0x40, 3, want.NextHop.AsSlice())
	case compile.IPv6Unicast:
		want.NextHop = pick(action.NextHop, a.nextHop6)
		v := append([]byte{byte(afi >> 8), byte(afi), safi, 16}, want.NextHop.AsSlice()...)
		add(0x80, 14, append(append(v, 0), e.nlri...)) // MP_REACH_NLRI
	default:
		add(0x40, 3, []byte{0, 0, 0, 0}) // a FlowSpec rule has none (RFC 8955, section 4); GoBGP asks for one and omits it
	}
	if withdraw {
		a.proofs.put(of, p.PattrsBinary)
		return p, nil
	}
	if action.IsBlackhole() {
		want.Communities = append(want.Communities, a.communities...)
		slices.Sort(want.Communities)
		want.Communities = slices.Compact(want.Communities)
	}
	if v, ok := action.MED.Get(); ok {
		add(0x80, 4, binary.BigEndian.AppendUint32(nil, v))
	}
	if v, ok := action.LocalPref.Get(); ok {
		add(0x40, 5, binary.BigEndian.AppendUint32(nil, v))
	}
	var communities []byte
	for _, c := range want.Communities {
		communities = binary.BigEndian.AppendUint32(communities, c)
	}
	add(0xc0, 8, communities)
	ec, ec6 := action.ExtendedCommunities()
	add(0xc0, 16, ec)
	add(0xc0, 25, ec6)
	add(0xc0, 32, []byte(action.Large))
	if err := prove(e.table, want, p.PattrsBinary); err != nil {
		return p, err
	}
	a.proofs.put(of, p.PattrsBinary)
	return p, nil
}

// prove lets GoBGP read and write each attribute, and the kernel's decoder read what GoBGP wrote.
func prove(t compile.Table, want safety.Path, attrs [][]byte) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("GoBGP panics on the path attributes %x: %v", attrs, r)
		}
	}()
	theirs := make([][]byte, len(attrs))
	for i, raw := range attrs {
		a, err := bgp.GetPathAttribute(raw)
		if err == nil {
			err = a.DecodeFromBytes(raw)
		}
		if err == nil {
			theirs[i], err = a.Serialize()
		}
		if err != nil {
			return fmt.Errorf("GoBGP cannot read and write the path attribute %x: %w", raw, err)
		}
		if !bytes.Equal(theirs[i], raw) {
			return fmt.Errorf("GoBGP would send %x where %x was meant", theirs[i], raw)
		}
	}
	f := route.IPv4
	if t == compile.IPv6Unicast || t == compile.IPv6FlowSpec {
		f = route.IPv6
	}
	return safety.CheckPath(f, want, theirs)
}

// pick returns the first address that is given.
func pick(a, b netip.Addr) netip.Addr {
	if a.IsValid() {
		return a
	}
	return b
}
