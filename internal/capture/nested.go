package capture

import "encoding/binary"

// nested is kind of the links whose header's length is not always the same.
func (l LinkType) nested(b []byte) (kind uint16, header int) {
	switch l {
	case FDDI:
		return fddi(b)
	case WiFi:
		return wifi(b, false)
	case Radiotap:
		return radiotap(b)
	case PPI:
		return ppi(b)
	}
	return nflog(b)
}

// opaque is a packet of which all is header: nothing in it is IP, or it is cut before that.
func opaque(b []byte) (kind uint16, header int) { return typeNone, len(b) }

// behind takes n octets of a header off that stands before another one.
func behind(n int, kind uint16, header int) (uint16, int) { return kind, n + header }

// llc reads IEEE 802.2 with SNAP: RFC 1042.
func llc(b []byte) (kind uint16, header int) {
	if len(b) < 8 || b[0] != 0xaa || b[1] != 0xaa || b[2] != 3 || b[3] != 0 || b[4] != 0 || b[5] != 0 {
		return opaque(b)
	}
	return binary.BigEndian.Uint16(b[6:]), 8
}

// fddi reads frame control and two addresses; only frames of 802.2 hold anything (ANSI X3.139: control xx01 xxxx, not of tokens).
func fddi(b []byte) (kind uint16, header int) {
	const size = 13
	if len(b) < size || b[0]&0x70 != 0x50 {
		return opaque(b)
	}
	kind, header = llc(b[size:])
	return behind(size, kind, header)
}

// wifi reads the header of a data frame of IEEE 802.11-2020, section 9.3.2; padded tells that the radio aligned what follows.
func wifi(b []byte, padded bool) (kind uint16, header int) {
	const (
		data                                = 2
		toDS, fromDS, protected, moreHeader = 1, 2, 0x40, 0x80
		noData, quality                     = 4, 8 // of the subtype
		aggregate                           = 0x80 // of the control field for quality of service
	)
	if len(b) < 24 || b[0]&3 != 0 || b[0]>>2&3 != data || b[1]&protected != 0 {
		return opaque(b)
	}
	subtype, flags := b[0]>>4, b[1]
	size := 24
	if flags&(toDS|fromDS) == toDS|fromDS {
		size += 6
	}
	if subtype&quality != 0 {
		if len(b) < size+2 || b[size]&aggregate != 0 { // several frames in one
			return opaque(b)
		}
		size += 2
		if flags&moreHeader != 0 {
			size += 4
		}
	}
	if padded {
		size = (size + 3) &^ 3
	}
	if subtype&noData != 0 || len(b) < size {
		return opaque(b)
	}
	kind, header = llc(b[size:])
	return behind(size, kind, header)
}

// radiotap reads the header of radiotap.org before IEEE 802.11.
func radiotap(b []byte) (kind uint16, header int) {
	const (
		time, flags, more = 1 << 0, 1 << 1, 1 << 31 // of the fields that are present
		pad               = 0x20                    // of the flags
	)
	if len(b) < 8 || b[0] != 0 {
		return opaque(b)
	}
	size := int(binary.LittleEndian.Uint16(b[2:]))
	if size < 8 || size > len(b) {
		return opaque(b)
	}
	present, at := binary.LittleEndian.Uint32(b[4:]), 8
	for word := present; word&more != 0; at += 4 {
		if at+4 > size {
			return opaque(b)
		}
		word = binary.LittleEndian.Uint32(b[at:])
	}
	if present&time != 0 {
		at = (at+7)&^7 + 8
	}
	padded := present&flags != 0 && at < size && b[at]&pad != 0
	kind, header = wifi(b[size:], padded)
	return behind(size, kind, header)
}

// ppi reads the header of CACE's Per-Packet Information, which says what follows.
func ppi(b []byte) (kind uint16, header int) {
	if len(b) < 8 {
		return opaque(b)
	}
	size, inner := int(binary.LittleEndian.Uint16(b[2:])), LinkType(binary.LittleEndian.Uint32(b[4:]))
	if size < 8 || size > len(b) || inner == PPI {
		return opaque(b)
	}
	if inner == Ethernet {
		if len(b) < size+14 {
			return opaque(b)
		}
		return binary.BigEndian.Uint16(b[size+12:]), size + 14
	}
	kind, header, ok := inner.kind(b[size:])
	if !ok {
		return opaque(b)
	}
	return behind(size, kind, header)
}

// nflog reads the attributes that stand before the packet, in the byte order of the machine that logged it.
func nflog(b []byte) (kind uint16, header int) {
	const head, payload = 4, 9
	if len(b) < head {
		return opaque(b)
	}
	switch b[0] {
	case 2:
		kind = typeIPv4
	case 10:
		kind = typeIPv6
	default:
		return opaque(b)
	}
	for _, order := range []binary.ByteOrder{binary.LittleEndian, binary.BigEndian} {
		for at := head; at+4 <= len(b); {
			size := int(order.Uint16(b[at:]))
			if order.Uint16(b[at+2:]) == payload && size >= 4 {
				return kind, at + 4 // of a packet that is cut, the size is that of all of it
			}
			if size < 4 || at+size > len(b) {
				break
			}
			at += (size + 3) &^ 3
		}
	}
	return opaque(b)
}
