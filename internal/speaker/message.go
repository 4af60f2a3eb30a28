package speaker

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/amooglesoft/trafficmonitor/internal/compile"
)

// BGP messages as far as the guard must understand them (RFC 4271, section 4). Everything here is strict: it stands
// between a router we do not trust and a library that panics on what it does not expect.

const (
	headerLen  = 19
	maxMessage = 4096 // RFC 4271; we never offer extended messages
	// maxUpdate is the longest UPDATE a header can announce. FRR 8.4 sends UPDATEs a little longer than maxMessage when it
	// tells us our own rules, some hundred of them, again.
	maxUpdate = 65535

	msgOpen         = 1
	msgUpdate       = 2
	msgNotification = 3
	msgKeepalive    = 4
	msgRouteRefresh = 5

	capMultiprotocol   = 1  // RFC 4760
	capRouteRefresh    = 2  // RFC 2918
	capGracefulRestart = 64 // RFC 4724
	capFourOctetAS     = 65 // RFC 6793
	capLongLived       = 71 // RFC 9494

	errHeader   = 1
	errOpen     = 2
	errUpdate   = 3
	errHold     = 4
	errFSM      = 5
	errCease    = 6
	errSendHold = 8 // RFC 9687
	asTrans     = 23456
	minHoldTime = 3
)

// notification is a NOTIFICATION that must be sent, as an error.
type notification struct {
	code, sub byte
	why       string
}

func (n *notification) Error() string { return n.why }

func (n *notification) bytes() []byte {
	return appendMessage(nil, msgNotification, []byte{n.code, n.sub})
}

func appendMessage(dst []byte, typ byte, body []byte) []byte {
	return append(appendHeader(dst, typ, headerLen+len(body)), body...)
}

// appendHeader adds the header of a message whose length is that, with the header.
func appendHeader(dst []byte, typ byte, length int) []byte {
	for range 16 {
		dst = append(dst, 0xff)
	}
	dst = binary.BigEndian.AppendUint16(dst, uint16(length))
	return append(dst, typ)
}

// parseHeader returns the length of the whole message and its type.
func parseHeader(b []byte) (length int, typ byte, err error) {
	for _, m := range b[:16] {
		if m != 0xff {
			return 0, 0, &notification{errHeader, 1, "the header's marker is not all ones"}
		}
	}
	length, typ = int(binary.BigEndian.Uint16(b[16:18])), b[18]
	low, high := headerLen, maxMessage
	switch typ {
	case msgOpen:
		low = 29
	case msgUpdate:
		low, high = 23, maxUpdate
	case msgNotification:
		low = 21
	case msgKeepalive:
		high = headerLen
	case msgRouteRefresh:
		low = 23
	default:
		return 0, 0, &notification{errHeader, 3, fmt.Sprintf("message type %d is not known", typ)}
	}
	if length < low || length > high {
		return 0, 0, &notification{errHeader, 2, fmt.Sprintf("message of type %d says it has %d octets, which is impossible", typ, length)}
	}
	return length, typ, nil
}

// open is what an OPEN says, reduced to what concerns us.
type open struct {
	asn          uint32
	hold         uint16
	id           [4]byte
	tables       []compile.Table // multiprotocol capabilities among ours
	multi        bool            // any multiprotocol capability at all
	refresh      bool
	fourOctet    bool
	graceful     bool
	restartFlags uint16 // R and N bits and the restart time
	gracefulOf   []gracefulTable
	longLived    uint32 // seconds, of every table; 0 means none
}

type gracefulTable struct {
	table compile.Table
	flags byte
}

// parseOpen reads the body of an OPEN.
func parseOpen(b []byte) (open, error) {
	var o open
	bad := func(sub byte, format string, args ...any) (open, error) {
		return open{}, &notification{errOpen, sub, "OPEN: " + fmt.Sprintf(format, args...)}
	}
	if len(b) < 10 {
		return bad(0, "%d octets are too few", len(b))
	}
	if b[0] != 4 {
		return bad(1, "version %d", b[0])
	}
	o.asn = uint32(binary.BigEndian.Uint16(b[1:3]))
	o.hold = binary.BigEndian.Uint16(b[3:5])
	if o.hold != 0 && o.hold < minHoldTime {
		return bad(6, "hold time of %d s", o.hold)
	}
	o.id = [4]byte(b[5:9])
	if o.id == [4]byte{} {
		return bad(3, "BGP identifier 0.0.0.0")
	}
	params := b[10:]
	wide := b[9] == 255 && len(params) >= 3 && params[0] == 255 // RFC 9072
	if wide {
		if int(binary.BigEndian.Uint16(params[1:3])) != len(params)-3 {
			return bad(0, "optional parameters of another length than said")
		}
		params = params[3:]
	} else if int(b[9]) != len(params) {
		return bad(0, "optional parameters of another length than said")
	}
	for len(params) > 0 {
		head := 2
		if wide {
			head = 3
		}
		if len(params) < head {
			return bad(0, "an optional parameter is cut short")
		}
		typ, n := params[0], int(params[1])
		if wide {
			n = int(binary.BigEndian.Uint16(params[1:3]))
		}
		if len(params) < head+n {
			return bad(0, "an optional parameter is cut short")
		}
		if typ == 2 { // capabilities, RFC 5492
			if err := o.capabilities(params[head : head+n]); err != nil {
				return bad(0, "%s", err)
			}
		}
		params = params[head+n:]
	}
	if !o.multi {
		o.tables = []compile.Table{compile.IPv4Unicast} // RFC 4760, section 8: none means IPv4 unicast
	}
	return o, nil
}

func (o *open) capabilities(b []byte) error {
	for len(b) > 0 {
		if len(b) < 2 || len(b) < 2+int(b[1]) {
			return errors.New("a capability is cut short")
		}
		code, v := b[0], b[2:2+int(b[1])]
		b = b[2+len(v):]
		switch code {
		case capMultiprotocol:
			if len(v) != 4 {
				return fmt.Errorf("multiprotocol capability of %d octets", len(v))
			}
			o.multi = true
			if t, ok := tableOfAFI(binary.BigEndian.Uint16(v), v[3]); ok && !slices.Contains(o.tables, t) {
				o.tables = append(o.tables, t)
			}
		case capRouteRefresh:
			o.refresh = true
		case capFourOctetAS:
			if len(v) != 4 {
				return fmt.Errorf("four-octet AS capability of %d octets", len(v))
			}
			o.fourOctet = true
			o.asn = binary.BigEndian.Uint32(v)
		case capLongLived:
			if len(v)%7 != 0 {
				return fmt.Errorf("long-lived graceful restart capability of %d octets", len(v))
			}
			for o.longLived = 0; len(v) > 0; v = v[7:] {
				o.longLived = max(o.longLived, binary.BigEndian.Uint32(v[3:])&0xffffff)
			}
		case capGracefulRestart:
			if len(v) < 2 || (len(v)-2)%4 != 0 {
				return fmt.Errorf("graceful restart capability of %d octets", len(v))
			}
			o.graceful = true
			o.restartFlags = binary.BigEndian.Uint16(v)
			o.gracefulOf = nil
			for v = v[2:]; len(v) > 0; v = v[4:] {
				t, ok := tableOfAFI(binary.BigEndian.Uint16(v), v[2])
				if ok && !slices.ContainsFunc(o.gracefulOf, func(g gracefulTable) bool { return g.table == t }) {
					o.gracefulOf = append(o.gracefulOf, gracefulTable{t, v[3]})
				}
			}
		}
	}
	return nil
}

// appendOpen writes o with nothing in it but what parseOpen understood.
func appendOpen(dst []byte, o open) []byte {
	var caps []byte
	for _, t := range o.tables {
		afi, safi := afiOf(t)
		caps = append(caps, capMultiprotocol, 4, byte(afi>>8), byte(afi), 0, safi)
	}
	if o.refresh {
		caps = append(caps, capRouteRefresh, 0)
	}
	if o.graceful {
		caps = append(caps, capGracefulRestart, byte(2+4*len(o.gracefulOf)))
		caps = binary.BigEndian.AppendUint16(caps, o.restartFlags)
		for _, g := range o.gracefulOf {
			afi, safi := afiOf(g.table)
			caps = append(caps, byte(afi>>8), byte(afi), safi, g.flags)
		}
	}
	if o.longLived > 0 && len(o.tables) > 0 {
		caps = append(caps, capLongLived, byte(7*len(o.tables)))
		for _, t := range o.tables {
			afi, safi := afiOf(t)
			caps = append(caps, byte(afi>>8), byte(afi), safi, 0x80, byte(o.longLived>>16), byte(o.longLived>>8), byte(o.longLived))
		}
	}
	as := o.asn
	if o.fourOctet {
		caps = append(caps, capFourOctetAS, 4)
		caps = binary.BigEndian.AppendUint32(caps, o.asn)
		if as > 65535 {
			as = asTrans
		}
	}
	body := []byte{4}
	body = binary.BigEndian.AppendUint16(body, uint16(as))
	body = binary.BigEndian.AppendUint16(body, o.hold)
	body = append(body, o.id[:]...)
	if len(caps) > 0 {
		body = append(body, byte(len(caps)+2), 2, byte(len(caps)))
		body = append(body, caps...)
	} else {
		body = append(body, 0)
	}
	return appendMessage(dst, msgOpen, body)
}

// endOfRIB is the marker that a router has sent all it has of a table (RFC 4724, section 2).
func endOfRIB(t compile.Table) []byte {
	if t == compile.IPv4Unicast {
		return appendMessage(nil, msgUpdate, []byte{0, 0, 0, 0})
	}
	afi, safi := afiOf(t)
	return appendMessage(nil, msgUpdate, []byte{0, 0, 0, 6, 0x80, attrUnreach, 3, byte(afi >> 8), byte(afi), safi})
}

func afiOf(t compile.Table) (afi uint16, safi byte) {
	switch t {
	case compile.IPv4Unicast:
		return 1, 1
	case compile.IPv6Unicast:
		return 2, 1
	case compile.IPv4FlowSpec:
		return 1, 133
	default:
		return 2, 133
	}
}

func tableOfAFI(afi uint16, safi byte) (compile.Table, bool) {
	for _, t := range compile.Tables() {
		if a, s := afiOf(t); a == afi && s == safi {
			return t, true
		}
	}
	return "", false
}

func (o open) identifier() netip.Addr { return netip.AddrFrom4(o.id) }

// isEndOfRIB says whether the message is an UPDATE with no routes in it.
func isEndOfRIB(msg []byte) bool {
	for _, t := range compile.Tables() {
		if bytes.Equal(msg, endOfRIB(t)) {
			return true
		}
	}
	return false
}

// routeKey names a route as it is on the wire: its table and its NLRI.
func routeKey(t compile.Table, nlri []byte) string {
	key := make([]byte, 0, 1+len(nlri))
	return string(append(append(key, byte(slices.Index(compile.Tables(), t))), nlri...))
}

// appendWithdrawal adds an UPDATE that withdraws one route, known to the router or not.
func appendWithdrawal(dst []byte, e encoded) []byte {
	body := binary.BigEndian.AppendUint16(nil, 0)
	if e.table == compile.IPv4Unicast {
		body = binary.BigEndian.AppendUint16(nil, uint16(len(e.nlri)))
		body = append(body, e.nlri...)
		return appendMessage(dst, msgUpdate, append(body, 0, 0))
	}
	afi, safi := afiOf(e.table)
	v := append([]byte{byte(afi >> 8), byte(afi), safi}, e.nlri...)
	body = binary.BigEndian.AppendUint16(body, uint16(4+len(v)))
	body = append(body, 0x90, attrUnreach) // MP_UNREACH_NLRI, extended length
	body = binary.BigEndian.AppendUint16(body, uint16(len(v)))
	return appendMessage(dst, msgUpdate, append(body, v...))
}
