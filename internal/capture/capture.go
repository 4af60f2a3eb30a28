// Package capture reads packets from pcap and pcapng files, also compressed ones, and makes Ethernet frames of them
// whatever their link type is.
//
// The formats are few and small; a library's reader would bring the tables of hundreds of protocols into the sensor's
// memory, and refuses files that other tools read. The formats are those of draft-ietf-opsawg-pcap and
// draft-ietf-opsawg-pcapng.
package capture

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"time"
)

// MaxPacket is the most octets of a packet that are read; a file that says more is broken. It is what libpcap takes.
const MaxPacket = 256 << 10

// Packet is one packet of a capture.
type Packet struct {
	// Number counts the capture's packets, from 1.
	Number int
	// Time is when it was captured.
	Time time.Time
	// Data begins with an Ethernet header, of our making where the link has another; valid until the next call.
	Data []byte
	// Wire is the frame's length before it was cut: at least len(Data).
	Wire int
	// Link is the link type it was captured on.
	Link LinkType
}

// UnreadableError is a packet of a link type we make no Ethernet frames of. The next packet can be read.
type UnreadableError struct {
	Number int
	Link   LinkType
}

func (e *UnreadableError) Error() string {
	return fmt.Sprintf("packet %d is of link type %s, which is not read; read are %s", e.Number, e.Link, readable())
}

// Reader reads one capture.
type Reader struct {
	in     *bufio.Reader
	order  binary.ByteOrder
	next   func() (record, error)
	number int
	frame  []byte
	failed error

	// pcap
	link   LinkType
	minor  uint16
	unit   time.Duration // of the fraction of a second
	header int           // octets before a packet

	// pcapng
	interfaces []netInterface
}

// record is a packet before its link type matters.
type record struct {
	time time.Time
	data []byte
	wire int
	link LinkType
}

// NewReader reads the beginning of a capture. The format is told from its first octets.
func NewReader(r io.Reader) (*Reader, error) {
	in := bufio.NewReaderSize(r, 64<<10)
	magic, err := in.Peek(4)
	if err == nil && bytes.HasPrefix(magic, []byte{0x1f, 0x8b}) {
		z, zerr := gzip.NewReader(in)
		if zerr != nil {
			return nil, fmt.Errorf("decompress: %w", zerr)
		}
		in = bufio.NewReaderSize(z, 64<<10)
		magic, err = in.Peek(4)
	}
	if err != nil {
		return nil, fmt.Errorf("read the first octets: %w", ended(err))
	}
	c := &Reader{in: in}
	if binary.BigEndian.Uint32(magic) == blockSection {
		c.next = c.nextBlock
		return c, nil
	}
	return c, c.begin(magic)
}

// Next returns the next packet. At the end it returns io.EOF; where the file is broken, an error that says at which
// packet, and nothing more can be read; an *[UnreadableError] stands for one packet only.
func (c *Reader) Next() (Packet, error) {
	if c.failed != nil {
		return Packet{}, c.failed
	}
	r, err := c.next()
	if err != nil {
		if !errors.Is(err, io.EOF) {
			err = fmt.Errorf("packet %d: %w", c.number+1, err)
		}
		c.failed = err
		return Packet{}, err
	}
	c.number++
	p := Packet{Number: c.number, Time: r.time, Link: r.link}
	frame, strip, ok := r.link.frame(c.frame[:0], r.data)
	if !ok {
		return p, &UnreadableError{c.number, r.link}
	}
	p.Data, p.Wire = frame, max(len(frame), r.wire-strip+len(frame)-(len(r.data)-strip))
	return p, nil
}

// The magic numbers of pcap, as a reader of the right byte order sees them.
const (
	magicMicroseconds = 0xa1b2c3d4
	magicNanoseconds  = 0xa1b23c4d
	magicModified     = 0xa1b2cd34 // with eight more octets before each packet
)

// begin reads the header of a pcap file.
func (c *Reader) begin(magic []byte) error {
	c.next, c.header = c.nextRecord, 16
	for _, order := range []binary.ByteOrder{binary.LittleEndian, binary.BigEndian} {
		c.order = order
		switch order.Uint32(magic) {
		case magicMicroseconds:
			c.unit = time.Microsecond
		case magicNanoseconds:
			c.unit = time.Nanosecond
		case magicModified:
			c.unit, c.header = time.Microsecond, 24
		default:
			continue
		}
		h, err := c.take(24)
		if err != nil {
			return fmt.Errorf("read the file's header: %w", err)
		}
		if major := order.Uint16(h[4:]); major != 2 {
			return fmt.Errorf("version %d of the pcap format is not known, only 2", major)
		}
		c.minor = order.Uint16(h[6:])
		c.link = LinkType(order.Uint32(h[20:]) & 0x3ffffff) // above: what trails each frame, which does not matter
		return nil
	}
	return fmt.Errorf("neither pcap nor pcapng: the first octets are %x", magic)
}

func (c *Reader) nextRecord() (record, error) {
	h, err := c.take(c.header)
	if err != nil {
		if errors.Is(err, errNothing) {
			err = io.EOF
		}
		return record{}, err
	}
	at := time.Unix(int64(c.order.Uint32(h)), int64(c.order.Uint32(h[4:]))*int64(c.unit)).UTC()
	captured, wire := c.order.Uint32(h[8:]), c.order.Uint32(h[12:])
	if captured > wire && c.minor <= 3 || c.minor < 3 { // old versions had them the other way round
		captured, wire = wire, captured
	}
	data, err := c.packet(captured)
	return record{at, data, int(wire), c.link}, err
}

// packet takes the octets of a packet, of which there are as many as the file says.
func (c *Reader) packet(captured uint32) ([]byte, error) {
	if captured > MaxPacket {
		return nil, fmt.Errorf("the file says that it has %d octets; captures hold at most %d: the file is broken here", captured, MaxPacket)
	}
	return c.take(int(captured))
}

// errNothing says that the file ended where something may begin.
var errNothing = errors.New("the file ends here")

func ended(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return errNothing
	}
	return err
}

// take returns the next n octets, up to MaxPacket and some, until the next call.
func (c *Reader) take(n int) ([]byte, error) {
	const front = 32 // room for the header that a frame gets, so that it need not be copied
	if cap(c.frame) < front+n {
		c.frame = make([]byte, front, front+max(n, 2048))
	}
	b := c.frame[front : front+n]
	have, err := io.ReadFull(c.in, b)
	switch {
	case err == nil:
		return b, nil
	case have == 0 && n > 0 && errors.Is(err, io.EOF):
		return nil, errNothing
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return nil, fmt.Errorf("the file ends inside of it, after %d of %d octets", have, n)
	}
	return nil, err
}
