package safety

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/amooglesoft/trafficmonitor/internal/route"
)

// maxWire is the longest NLRI that may leave, in octets after the length octet. It repeats route.MaxNLRI on purpose: the
// check must not follow the encoder into an error.
const maxWire = 238

// fields lists the numeric components a FlowSpec NLRI may hold: their name and the largest value of the field.
var fields = map[byte]struct {
	name   string
	max    uint64
	octets int // the most a value takes
}{
	3:  {"protocol", 255, 1},
	4:  {"port", 65535, 2},
	5:  {"destination-port", 65535, 2},
	6:  {"source-port", 65535, 2},
	7:  {"icmp-type", 255, 1},
	8:  {"icmp-code", 255, 1},
	10: {"length", 65535, 2},
	11: {"dscp", 63, 1},
	13: {"flow-label", 0xfffff, 4},
}

// CheckWire reports why nlri, the octets about to be sent for want, must not leave: too long, malformed, or meaning
// anything but want.
func CheckWire(f route.Family, want route.Match, nlri []byte) error {
	if len(nlri) > maxWire+1 {
		return fmt.Errorf("NLRI of %d octets: at most %d may leave", len(nlri)-1, maxWire)
	}
	got, err := DecodeFlowSpec(f, nlri)
	if err != nil {
		return err
	}
	if !got.Equal(want) {
		return fmt.Errorf("the octets say %q, not %q", got, want)
	}
	return nil
}

// DecodeFlowSpec reads one FlowSpec NLRI with its length octets (RFC 8955, section 4; RFC 8956 for IPv6) and returns what
// it means, in canonical form. It shares no code with the encoder, so that one mistake cannot hide in both. It is
// strict: whatever the RFCs call malformed, reserved or unusual is an error, and so is what route.Match cannot express.
func DecodeFlowSpec(f route.Family, nlri []byte) (route.Match, error) {
	d := decoder{family: f, in: nlri}
	m, err := d.nlri()
	if err != nil {
		return route.Match{}, fmt.Errorf("%s FlowSpec NLRI, octet %d: %w", f, d.at, err)
	}
	return m, nil
}

var errTruncated = errors.New("cut short")

type decoder struct {
	family route.Family
	in     []byte
	at     int
}

// octet takes the next one.
func (d *decoder) octet() (byte, error) {
	if d.at >= len(d.in) {
		return 0, errTruncated
	}
	b := d.in[d.at]
	d.at++
	return b, nil
}

func (d *decoder) nlri() (m route.Match, err error) {
	if d.family != route.IPv4 && d.family != route.IPv6 {
		return m, fmt.Errorf("family %d is neither IPv4 nor IPv6", d.family)
	}
	if err := d.length(); err != nil {
		return m, err
	}
	last := byte(0)
	for d.at < len(d.in) {
		kind, err := d.octet()
		if err != nil {
			return m, err
		}
		switch { // RFC 8955, section 4.2: strictly increasing types; anything else is malformed
		case kind == last:
			return m, fmt.Errorf("component type %d stands twice", kind)
		case kind < last:
			return m, fmt.Errorf("component type %d after type %d: types must increase", kind, last)
		}
		last = kind
		if err := d.component(&m, kind); err != nil {
			return m, fmt.Errorf("component type %d: %w", kind, err)
		}
	}
	return m, nil
}

// length reads the length octets: one below 240, two from 240 to 4095 (RFC 8955, section 4.1).
func (d *decoder) length() error {
	first, err := d.octet()
	if err != nil {
		return err
	}
	n := int(first)
	if first >= 0xf0 {
		second, err := d.octet()
		if err != nil {
			return err
		}
		n = int(first&0x0f)<<8 | int(second)
		if n < 240 {
			return fmt.Errorf("length %d in two octets: below 240 it takes one", n)
		}
	}
	switch left := len(d.in) - d.at; {
	case n == 0:
		return errors.New("no component: it would match every packet")
	case left < n:
		return fmt.Errorf("length says %d octets, %d are there: %w", n, left, errTruncated)
	case left > n:
		return fmt.Errorf("length says %d octets, %d are there: something follows the NLRI", n, left)
	}
	return nil
}

func (d *decoder) component(m *route.Match, kind byte) (err error) {
	switch kind {
	case 1:
		m.Destination, m.DestinationOffset, err = d.prefix()
	case 2:
		m.Source, m.SourceOffset, err = d.prefix()
	case 3:
		m.Protocol, err = d.numbers(kind)
	case 4:
		m.Port, err = d.numbers(kind)
	case 5:
		m.DestinationPort, err = d.numbers(kind)
	case 6:
		m.SourcePort, err = d.numbers(kind)
	case 7:
		m.ICMPType, err = d.numbers(kind)
	case 8:
		m.ICMPCode, err = d.numbers(kind)
	case 9:
		m.TCPFlags, err = d.flags(2, 0xfff, "TCP flags")
	case 10:
		m.Length, err = d.numbers(kind)
	case 11:
		m.DSCP, err = d.numbers(kind)
	case 12:
		// RFC 8955, section 4.2.2.12; RFC 8956, section 3.3 takes DF away.
		mask := uint16(0x0f)
		if d.family == route.IPv6 {
			mask = 0x0e
		}
		m.Fragment, err = d.flags(1, mask, "fragment bits")
	case 13:
		if d.family != route.IPv6 {
			return errors.New("flow label does not exist in IPv4")
		}
		m.FlowLabel, err = d.numbers(kind)
	default:
		return errors.New("unknown")
	}
	return err
}

// prefix reads a prefix: length and octets, in IPv6 with an offset between them and without the bits before the offset
// (RFC 8956, section 3.1).
func (d *decoder) prefix() (netip.Prefix, uint8, error) {
	fail := func(err error) (netip.Prefix, uint8, error) { return netip.Prefix{}, 0, err }
	octet, err := d.octet()
	if err != nil {
		return fail(err)
	}
	bits, offset, size := int(octet), 0, 4
	if d.family == route.IPv6 {
		size = 16
		if octet, err = d.octet(); err != nil {
			return fail(err)
		}
		offset = int(octet)
	}
	switch {
	case bits > size*8:
		return fail(fmt.Errorf("prefix length %d is above %d", bits, size*8))
	case offset > 0 && offset >= bits:
		return fail(fmt.Errorf("prefix offset %d is not below the length %d", offset, bits))
	}
	var raw [16]byte
	for at := offset; at < bits; at += 8 {
		if octet, err = d.octet(); err != nil {
			return fail(err)
		}
		for bit := range 8 { // of the octet, the highest first
			if octet&(0x80>>bit) == 0 {
				continue
			}
			if at+bit >= bits {
				return fail(fmt.Errorf("prefix of length %d has bits beyond its length", bits))
			}
			raw[(at+bit)/8] |= 0x80 >> ((at + bit) % 8)
		}
	}
	addr, _ := netip.AddrFromSlice(raw[:size])
	if addr.Is4In6() {
		return fail(fmt.Errorf("prefix %s is IPv4-mapped, which never stands on the wire", addr))
	}
	return netip.PrefixFrom(addr, bits), uint8(offset), nil
}

// item is one operator with its value.
type item struct {
	end, and bool
	op       byte // the low four bits of the operator
	octets   int
	value    uint64
}

// next reads one item; first says that nothing stands before it in the component.
func (d *decoder) next(first bool) (item, error) {
	op, err := d.octet()
	if err != nil {
		return item{}, err
	}
	it := item{end: op&0x80 != 0, and: op&0x40 != 0, op: op & 0x0f, octets: 1 << (op >> 4 & 3)}
	if first && it.and {
		return item{}, errors.New("the first item is joined by AND to nothing")
	}
	for range it.octets {
		b, err := d.octet()
		if err != nil {
			return item{}, err
		}
		it.value = it.value<<8 | uint64(b)
	}
	return it, nil
}
