package route

import (
	"encoding/binary"
	"math"
)

// ExtendedCommunities writes what is to be done with packets as the values of two attributes: extended communities (RFC
// 4360) and IPv6 address specific extended communities (RFC 5701). Both are empty for a blackhole, and for Accept alone.
func (a Action) ExtendedCommunities() (ec, ec6 []byte) {
	switch a.Kind {
	case Discard, RateBytes:
		ec = appendRate(ec, 0x06, a.Rate)
	case RatePackets:
		ec = appendRate(ec, 0x0c, a.Rate)
	}
	if a.Sample || a.Continue { // RFC 8955, section 7.3: the two lowest bits
		v := byte(0)
		if a.Sample {
			v |= 2
		}
		if a.Continue {
			v |= 1
		}
		ec = append(ec, 0x80, 0x07, 0, 0, 0, 0, 0, v)
	}
	if d, ok := a.Mark.Get(); ok {
		ec = append(ec, 0x80, 0x09, 0, 0, 0, 0, 0, byte(d))
	}

	t := a.Redirect.Target
	switch t.Form {
	case TargetAS2:
		ec = append(ec, 0x80, 0x08)
		ec = binary.BigEndian.AppendUint16(ec, uint16(t.Global))
		ec = binary.BigEndian.AppendUint32(ec, t.Local)
	case TargetIPv4, TargetAS4:
		ec = append(ec, 0x80+byte(t.Form-TargetAS2), 0x08)
		ec = binary.BigEndian.AppendUint32(ec, t.Global)
		ec = binary.BigEndian.AppendUint16(ec, uint16(t.Local))
	}
	// draft-ietf-idr-flowspec-redirect-ip: sub-type 0x0c of the address specific communities; the lowest bit is Copy.
	copies := byte(0)
	if a.Redirect.Copy {
		copies = 1
	}
	switch hop := a.Redirect.Address; {
	case hop.Is4():
		ec = append(append(append(ec, 0x01, 0x0c), hop.AsSlice()...), 0, copies)
	case hop.Is6():
		ec6 = append(append(append(ec6, 0x00, 0x0c), hop.AsSlice()...), 0, copies)
	}
	return ec, ec6
}

// appendRate writes a rate as a 32-bit float, behind AS 0, which says nothing (RFC 8955, section 7.1).
func appendRate(b []byte, sub byte, rate uint64) []byte {
	return binary.BigEndian.AppendUint32(append(b, 0x80, sub, 0, 0), math.Float32bits(float32(rate)))
}
