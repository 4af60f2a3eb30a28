package capture

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"math/bits"
	"time"
)

// Blocks of pcapng.
const (
	blockSection   = 0x0a0d0d0a
	blockInterface = 1
	blockPacket    = 2 // obsolete
	blockSimple    = 3
	blockEnhanced  = 6
)

// maxBlock bounds blocks that are skipped; maxInterfaces those of a section.
const (
	maxBlock      = 16 << 20
	maxInterfaces = 1 << 16
)

// netInterface is what an interface description block says.
type netInterface struct {
	link    LinkType
	snaplen uint32
	units   uint64 // per second
	offset  int64  // seconds
}

// time converts a time stamp.
func (i netInterface) time(stamp uint64) time.Time {
	seconds, rest := stamp/i.units, stamp%i.units
	hi, lo := bits.Mul64(rest, uint64(time.Second))
	nanoseconds, _ := bits.Div64(hi, lo, i.units) // rest < units, so it fits
	if seconds > math.MaxInt64/4 {
		seconds = 0 // centuries from now: nobody's clock
	}
	return time.Unix(int64(seconds)+i.offset, int64(nanoseconds)).UTC()
}

// nextBlock skips what holds no packet.
func (c *Reader) nextBlock() (record, error) {
	for {
		h, err := c.take(8)
		if err != nil {
			if errors.Is(err, errNothing) {
				err = io.EOF
			}
			return record{}, err
		}
		if binary.BigEndian.Uint32(h) == blockSection { // reads the same in both byte orders
			err = c.section(binary.BigEndian.Uint32(h[4:]))
			if err != nil {
				return record{}, fmt.Errorf("a section begins before it: %w", err)
			}
			continue
		}
		if c.order == nil {
			return record{}, errors.New("the file does not begin with a section")
		}
		kind, length := c.order.Uint32(h), c.order.Uint32(h[4:])
		if length < 12 || length > maxBlock {
			return record{}, fmt.Errorf("a block of type %#x says it is %d octets long: the file is broken here", kind, length)
		}
		body := (int(length)+3)/4*4 - 12
		var r record
		held := false
		switch kind {
		case blockInterface:
			body, err = c.describe(body)
		case blockEnhanced, blockPacket, blockSimple:
			r, body, err = c.block(kind, body)
			held = true
		}
		if err == nil {
			err = c.finish(body, length)
		}
		if err != nil {
			return record{}, err
		}
		if held {
			return r, nil
		}
	}
}

// finish skips the rest of a block, and the length that is repeated behind it.
func (c *Reader) finish(left int, length uint32) error {
	if n, err := c.in.Discard(left); err != nil {
		return fmt.Errorf("the file ends inside of a block, %d octets before its end", left-n+4)
	}
	b, err := c.in.Peek(4)
	if err != nil {
		return fmt.Errorf("the file ends inside of a block, before its last octets")
	}
	if again := c.order.Uint32(b); again != length {
		return fmt.Errorf("a block says it is %d octets long, and at its end %d: the file is broken here", length, again)
	}
	_, err = c.in.Discard(4)
	return err
}

func (c *Reader) section(length uint32) error {
	magic, err := c.take(4)
	if err != nil {
		return err
	}
	switch binary.BigEndian.Uint32(magic) {
	case 0x1a2b3c4d:
		c.order = binary.BigEndian
	case 0x4d3c2b1a:
		c.order = binary.LittleEndian
		length = bits.ReverseBytes32(length)
	default:
		return fmt.Errorf("%x says nothing about the byte order", magic)
	}
	if length < 28 || length > maxBlock || length%4 != 0 {
		return fmt.Errorf("its header says it is %d octets long", length)
	}
	version, err := c.take(4)
	if err != nil {
		return err
	}
	if major := c.order.Uint16(version); major != 1 {
		return fmt.Errorf("version %d of the pcapng format is not known, only 1", major)
	}
	c.interfaces = nil
	return c.finish(int(length)-20, length)
}

// describe reads an interface description and returns how much of the block is left.
func (c *Reader) describe(body int) (left int, err error) {
	if body < 8 || body > MaxPacket || len(c.interfaces) == maxInterfaces {
		return 0, fmt.Errorf("an interface is described in %d octets, after %d others: the file is broken here", body, len(c.interfaces))
	}
	b, err := c.take(body)
	if err != nil {
		return 0, err
	}
	i := netInterface{link: LinkType(c.order.Uint16(b)), snaplen: c.order.Uint32(b[4:]), units: 1e6}
	for o := b[8:]; len(o) >= 4; {
		code, size := c.order.Uint16(o), int(c.order.Uint16(o[2:]))
		padded := (size + 3) / 4 * 4
		if code == 0 || len(o) < 4+padded {
			break
		}
		value := o[4 : 4+size]
		switch {
		case code == 9 && size == 1: // if_tsresol
			power := value[0] & 0x7f
			if value[0]&0x80 != 0 && power < 64 {
				i.units = 1 << power
			} else if value[0]&0x80 == 0 && power < 20 {
				i.units = uint64(math.Pow10(int(power)))
			} else {
				return 0, fmt.Errorf("an interface's clock has a resolution of %#x: the file is broken here", value[0])
			}
		case code == 14 && size == 8: // if_tsoffset
			i.offset = int64(c.order.Uint64(value))
		}
		o = o[4+padded:]
	}
	c.interfaces = append(c.interfaces, i)
	return 0, nil
}

// block reads a block that holds a packet.
func (c *Reader) block(kind uint32, body int) (r record, left int, err error) {
	header := map[uint32]int{blockEnhanced: 20, blockPacket: 20, blockSimple: 4}[kind]
	if body < header {
		return r, 0, fmt.Errorf("its block has only %d octets: the file is broken here", body)
	}
	h, err := c.take(header)
	if err != nil {
		return r, 0, err
	}
	body -= header
	var number, captured uint32
	switch kind {
	case blockEnhanced:
		number, captured, r.wire = c.order.Uint32(h), c.order.Uint32(h[12:]), int(c.order.Uint32(h[16:]))
	case blockPacket:
		number, captured, r.wire = uint32(c.order.Uint16(h)), c.order.Uint32(h[12:]), int(c.order.Uint32(h[16:]))
	case blockSimple:
		r.wire = int(c.order.Uint32(h))
	}
	if int(number) >= len(c.interfaces) {
		return r, 0, fmt.Errorf("it was captured on interface %d of %d: the file is broken here", number, len(c.interfaces))
	}
	i := c.interfaces[number]
	r.link = i.link
	if kind == blockSimple {
		captured = uint32(min(r.wire, body))
		if i.snaplen > 0 {
			captured = min(captured, i.snaplen)
		}
	} else {
		r.time = i.time(uint64(c.order.Uint32(h[4:]))<<32 | uint64(c.order.Uint32(h[8:])))
	}
	if int(captured) > body {
		return r, 0, fmt.Errorf("it has %d octets, and its block only %d: the file is broken here", captured, body)
	}
	r.data, err = c.packet(captured)
	return r, body - int(captured), err
}
