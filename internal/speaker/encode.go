package speaker

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"
	"net/netip"

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

// encode writes the NLRI of r, lets GoBGP read and write it, and proves that what GoBGP writes is what was meant:
// AddPath returns nil for rules it then serialises corrupt, and such a rule resets the session each time it comes up.
func encode(r route.Route) (encoded, error) {
	e := encoded{table: compile.TableOf(r)}
	var err error
	if r.IsBlackhole() {
		e.nlri = appendPrefix(nil, r.Match.Destination)
	} else if e.nlri, err = route.AppendFlowSpec(nil, r.Match); err != nil {
		return encoded{}, err
	}
	var theirs []byte
	if theirs, e.key, err = throughGoBGP(e.table, e.nlri); err != nil {
		return encoded{}, err
	}
	if !bytes.Equal(theirs, e.nlri) {
		return encoded{}, fmt.Errorf("GoBGP would send %x where %x was meant", theirs, e.nlri)
	}
	if r.IsBlackhole() {
		return e, nil // one octet of length and the prefix: compared above
	}
	if err := safety.CheckWire(r.Family(), r.Match, theirs); err != nil {
		return encoded{}, err
	}
	return e, nil
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

// attributes are the path attributes a router gets with a route.
type attributes struct {
	nextHop4, nextHop6 netip.Addr
	communities        []uint32
}

// path returns what GoBGP's AddPath takes. Origin and next hop are mandatory there, also for a withdraw.
func (a attributes) path(e encoded, action route.Action, withdraw bool) *api.Path {
	afi, safi := afiOf(e.table)
	p := &api.Path{
		Family:       &api.Family{Afi: api.Family_Afi(afi), Safi: api.Family_Safi(safi)},
		NlriBinary:   e.nlri,
		IsWithdraw:   withdraw,
		PattrsBinary: [][]byte{{0x40, 1, 1, 0}}, // ORIGIN IGP
	}
	add := func(flags, typ byte, value []byte) {
		p.PattrsBinary = append(p.PattrsBinary, append([]byte{flags, typ, byte(len(value))}, value...))
	}
	nextHop4 := []byte{0, 0, 0, 0} // a FlowSpec rule has none (RFC 8955, section 4); GoBGP asks for one and omits it
	if e.table == compile.IPv4Unicast {
		nextHop4 = a.nextHop4.AsSlice()
	}
	if e.table == compile.IPv6Unicast {
		v := []byte{byte(afi >> 8), byte(afi), safi, 16}
		v = append(v, a.nextHop6.AsSlice()...)
		v = append(v, 0)
		add(0x80, 14, append(v, e.nlri...)) // MP_REACH_NLRI
	} else {
		add(0x40, 3, nextHop4)
	}
	switch action.Kind {
	case route.Blackhole:
		var v []byte
		for _, c := range a.communities {
			v = binary.BigEndian.AppendUint32(v, c)
		}
		add(0xc0, 8, v)
	default:
		add(0xc0, 16, rateCommunity(action))
	}
	return p
}

// rateCommunity is traffic-rate-bytes (0x8006) or traffic-rate-packets (0x800c) of RFC 8955, section 7, with AS 0.
func rateCommunity(a route.Action) []byte {
	sub := byte(0x06)
	if a.Kind == route.RatePackets {
		sub = 0x0c
	}
	v := []byte{0x80, sub, 0, 0}
	return binary.BigEndian.AppendUint32(v, math.Float32bits(float32(a.Rate)))
}
