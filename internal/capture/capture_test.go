package capture

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"errors"
	"io"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// file writes captures of either format and byte order.
type file struct {
	bytes.Buffer
	order binary.ByteOrder
}

func (f *file) put(fields ...any) *file {
	for _, v := range fields {
		if b, ok := v.([]byte); ok {
			f.Write(b)
			continue
		}
		_ = binary.Write(f, f.order, v) // a buffer takes all
	}
	return f
}

func pcap(order binary.ByteOrder, magic uint32, link LinkType) *file {
	f := &file{order: order}
	return f.put(magic, uint16(2), uint16(4), uint64(0), uint32(65535), uint32(link))
}

func (f *file) record(seconds, fraction, wire uint32, data []byte) *file {
	return f.put(seconds, fraction, uint32(len(data)), wire, data)
}

func (f *file) block(kind uint32, body ...any) *file {
	b := (&file{order: f.order}).put(body...)
	for b.Len()%4 != 0 {
		b.WriteByte(0)
	}
	length := uint32(b.Len() + 12)
	return f.put(kind, length, b.Bytes(), length)
}

func pcapng(order binary.ByteOrder) *file {
	f := &file{order: order}
	return f.block(blockSection, uint32(0x1a2b3c4d), uint16(1), uint16(0), int64(-1))
}

// seen is what a test compares.
type seen struct {
	Time time.Time
	Data []byte
	Wire int
	Link LinkType
}

// all reads to the end, or to the error that ends it; unreadable packets have no data.
func all(t testing.TB, r io.Reader) (list []seen, err error) {
	t.Helper()
	c, err := NewReader(r)
	if err != nil {
		return nil, err
	}
	for {
		p, err := c.Next()
		var unreadable *UnreadableError
		if err != nil && !errors.As(err, &unreadable) {
			if errors.Is(err, io.EOF) {
				err = nil
			}
			return list, err
		}
		list = append(list, seen{p.Time, bytes.Clone(p.Data), p.Wire, p.Link})
		if p.Number != len(list) {
			t.Errorf("packet %d is called number %d", len(list), p.Number)
		}
	}
}

var (
	frame  = append(bytes.Repeat([]byte{2}, 12), 8, 0, 0x45, 1, 2, 3)
	packet = []byte{0x45, 1, 2, 3}
	second = time.Unix(1, 0).UTC()
)

// made is the packet as a frame of ours.
func made(kind ...byte) []byte { return append(append(make([]byte, 12), kind...), packet...) }

func TestReads(t *testing.T) {
	for _, order := range []binary.ByteOrder{binary.LittleEndian, binary.BigEndian} {
		ng := pcapng(order).
			block(blockInterface, uint16(Ethernet), uint16(0), uint32(0)).
			block(blockInterface, uint16(Raw), uint16(0), uint32(0), uint16(9), uint16(1), []byte{9, 0, 0, 0}, uint32(0)).
			block(5, []byte("statistics")).
			block(blockEnhanced, uint32(0), uint32(0), uint32(1_000_007), uint32(len(frame)), uint32(1500), frame).
			block(blockEnhanced, uint32(1), uint32(0), uint32(1_000_000_007), uint32(len(packet)), uint32(40), packet, uint16(1), uint16(2), []byte("hi")).
			block(blockSimple, uint32(1500), frame[:16]).
			block(blockPacket, uint16(1), uint16(0), uint32(0), uint32(1_000_000_000), uint32(len(packet)), uint32(4), packet)
		ng.Write(pcapng(binary.BigEndian).block(blockInterface, uint16(220), uint16(0), uint32(0)).
			block(blockEnhanced, uint32(0), uint32(0), uint32(0), uint32(2), uint32(2), []byte("??")).Bytes())
		for name, tc := range map[string]struct {
			file *file
			want []seen
		}{
			"pcap": {
				pcap(order, magicMicroseconds, Ethernet).record(1, 7, uint32(len(frame)), frame).record(1, 8, 1500, frame),
				[]seen{{second.Add(7 * time.Microsecond), frame, len(frame), Ethernet}, {second.Add(8 * time.Microsecond), frame, 1500, Ethernet}},
			},
			"nanoseconds": {
				pcap(order, magicNanoseconds, Ethernet|0x5<<28).record(1, 7, uint32(len(frame)), frame),
				[]seen{{second.Add(7), frame, len(frame), Ethernet}},
			},
			"modified": {
				pcap(order, magicModified, Ethernet).put(uint32(1), uint32(0), uint32(len(frame)), uint32(len(frame)), uint64(0), frame),
				[]seen{{second, frame, len(frame), Ethernet}},
			},
			"empty": {pcap(order, magicMicroseconds, Ethernet), nil},
			"pcapng": {ng, []seen{
				{second.Add(7 * time.Microsecond), frame, 1500, Ethernet},
				{second.Add(7), made(8, 0), 54, Raw},
				{time.Time{}, frame[:16], 1500, Ethernet},
				{second, made(8, 0), 18, Raw},
				{time.Unix(0, 0).UTC(), nil, 0, 220},
			}},
		} {
			got, err := all(t, bytes.NewReader(tc.file.Bytes()))
			if diff := cmp.Diff(tc.want, got); diff != "" || err != nil {
				t.Errorf("%s, %s: %v\n%s", name, order, err, diff)
			}
			var z bytes.Buffer
			w := gzip.NewWriter(&z)
			_, _ = w.Write(tc.file.Bytes())
			w.Close()
			if again, err := all(t, &z); !cmp.Equal(again, got) || err != nil {
				t.Errorf("%s, %s, compressed: %v, %v", name, order, again, err)
			}
		}
	}
}

func join(parts ...[]byte) []byte { return bytes.Join(parts, nil) }

// snap is the header of IEEE 802.2 with SNAP before an EtherType.
func snap(kind ...byte) []byte { return append([]byte{0xaa, 0xaa, 3, 0, 0, 0}, kind...) }

func TestLinkTypes(t *testing.T) {
	six := []byte{0x60, 1, 2, 3}
	for _, tc := range []struct {
		link   LinkType
		header []byte
		rest   []byte
		kind   []byte
	}{
		{Null, []byte{2, 0, 0, 0}, packet, []byte{8, 0}},
		{Null, []byte{0, 0, 0, 30}, six, []byte{0x86, 0xdd}},
		{Null, []byte{9, 0, 0, 0}, six, []byte{0xff, 0xff}},
		{Loop, []byte{0, 0, 0, 24}, six, []byte{0x86, 0xdd}},
		{Raw, nil, packet, []byte{8, 0}},
		{Raw12, nil, six, []byte{0x86, 0xdd}},
		{IPv4, nil, packet, []byte{8, 0}},
		{IPv6, nil, six, []byte{0x86, 0xdd}},
		{PPP, []byte{0, 0x57}, six, []byte{0x86, 0xdd}},
		{PPP, []byte{0xff, 3, 0, 0x21}, packet, []byte{8, 0}},
		{PPP, []byte{0xc0, 0x21}, packet, []byte{0xff, 0xff}},
		{PPPSerial, []byte{0x0f, 0, 8, 0}, packet, []byte{8, 0}},
		{CiscoHDLC, []byte{0x0f, 0, 0x86, 0xdd}, six, []byte{0x86, 0xdd}},
		{LinuxCooked, append(make([]byte, 14), 8, 0), packet, []byte{8, 0}},
		{LinuxSLL2, append([]byte{0x86, 0xdd}, make([]byte, 18)...), six, []byte{0x86, 0xdd}},
		{LinuxSLL2, []byte{0x86, 0xdd}, nil, []byte{0xff, 0xff}}, // cut
		{FDDI, join([]byte{0x50}, make([]byte, 12), snap(8, 0)), packet, []byte{8, 0}},
		{FDDI, join([]byte{0xd4}, make([]byte, 12), snap(0x86, 0xdd)), six, []byte{0x86, 0xdd}},
		{FDDI, join([]byte{0x41}, make([]byte, 12), snap(8, 0), packet), nil, []byte{0xff, 0xff}}, // station management
		{FDDI, join([]byte{0x50}, make([]byte, 12), []byte{0x42, 0x42, 3}), nil, []byte{0xff, 0xff}},
		{WiFi, join([]byte{0x08, 0x01}, make([]byte, 22), snap(8, 0)), packet, []byte{8, 0}},
		{WiFi, join([]byte{0x08, 0x03}, make([]byte, 28), snap(8, 0)), packet, []byte{8, 0}},                     // four addresses
		{WiFi, join([]byte{0x88, 0x02}, make([]byte, 24), snap(0x86, 0xdd)), six, []byte{0x86, 0xdd}},            // quality of service
		{WiFi, join([]byte{0x88, 0x82}, make([]byte, 28), snap(8, 0)), packet, []byte{8, 0}},                     // and high throughput
		{WiFi, join([]byte{0x88, 0x02}, make([]byte, 22), []byte{0x80, 0}, snap(8, 0)), nil, []byte{0xff, 0xff}}, // several in one
		{WiFi, join([]byte{0x08, 0x41}, make([]byte, 22), snap(8, 0), packet), nil, []byte{0xff, 0xff}},          // encrypted
		{WiFi, join([]byte{0x48, 0x01}, make([]byte, 22)), nil, []byte{0xff, 0xff}},                              // without data
		{WiFi, join([]byte{0x80, 0x00}, make([]byte, 40)), nil, []byte{0xff, 0xff}},                              // a beacon
		{Radiotap, join([]byte{0, 0, 8, 0, 0, 0, 0, 0}, []byte{0x08, 1}, make([]byte, 22), snap(8, 0)), packet, []byte{8, 0}},
		// Two words of fields, a time and flags, which say that the header is padded.
		{Radiotap, join([]byte{0, 0, 25, 0, 3, 0, 0, 0x80, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0x20}, []byte{0x88, 2}, make([]byte, 26), snap(8, 0)), packet, []byte{8, 0}},
		{Radiotap, []byte{0, 0, 99, 0, 0, 0, 0, 0}, nil, []byte{0xff, 0xff}},
		{PPI, join([]byte{0, 0, 12, 0, 105, 0, 0, 0, 1, 2, 3, 4}, []byte{0x08, 1}, make([]byte, 22), snap(8, 0)), packet, []byte{8, 0}},
		{PPI, join([]byte{0, 0, 8, 0, 1, 0, 0, 0}, make([]byte, 12), []byte{8, 0}), packet, []byte{8, 0}},
		{PPI, []byte{0, 0, 8, 0, 192, 0, 0, 0}, nil, []byte{0xff, 0xff}}, // in itself
		{NFLOG, join([]byte{2, 0, 0, 0, 8, 0, 1, 0, 8, 0, 1, 0, 5, 0, 10, 0, 0, 0, 0, 0}, []byte{24, 0, 9, 0}), packet, []byte{8, 0}},
		{NFLOG, join([]byte{10, 0, 0, 0, 0, 8, 0, 1, 8, 0, 1, 0}, []byte{0, 24, 0, 9}), six, []byte{0x86, 0xdd}}, // of a big-endian machine
		{NFLOG, []byte{2, 0, 0, 0, 3, 0, 1, 0}, nil, []byte{0xff, 0xff}},
	} {
		data := append(bytes.Clone(tc.header), tc.rest...)
		got, err := all(t, pcap(binary.LittleEndian, magicMicroseconds, tc.link).record(1, 0, uint32(len(data)+100), data))
		want := append(append(make([]byte, 12), tc.kind...), tc.rest...)
		if err != nil || len(got) != 1 || !bytes.Equal(got[0].Data, want) || got[0].Wire != len(want)+100 {
			t.Errorf("%s: %+v, %v; want %x", tc.link, got, err, want)
		}
	}
}

// TestBroken: what came before the break is read, and the error says where it is.
func TestBroken(t *testing.T) {
	good := pcap(binary.LittleEndian, magicMicroseconds, Ethernet).record(1, 0, 18, frame)
	ng := pcapng(binary.LittleEndian).block(blockInterface, uint16(Ethernet), uint16(0), uint32(0)).
		block(blockEnhanced, uint32(0), uint32(0), uint32(0), uint32(18), uint32(18), frame)
	with := func(f *file, more ...any) []byte {
		return (&file{order: f.order}).put(f.Bytes()).put(more...).Bytes()
	}
	for name, tc := range map[string]struct {
		file    []byte
		packets int
		says    string
	}{
		"nothing":              {nil, 0, "read the first octets: the file ends here"},
		"text":                 {[]byte("hello"), 0, "neither pcap nor pcapng: the first octets are 68656c6c"},
		"half a file header":   {good.Bytes()[:20], 0, "read the file's header: the file ends inside of it, after 20 of 24 octets"},
		"half a packet header": {with(good, uint64(0)), 1, "packet 2: the file ends inside of it, after 8 of 16 octets"},
		"half a packet":        {with(good, uint64(0), uint32(18), uint32(18), frame[:9]), 1, "packet 2: the file ends inside of it, after 9 of 18 octets"},
		"a huge packet":        {with(good, uint64(0), uint32(1<<31), uint32(1<<31)), 1, "packet 2: the file says that it has 2147483648 octets; captures hold at most 262144: the file is broken here"},
		"half a block":         {ng.Bytes()[:ng.Len()-6], 0, "packet 1: the file ends inside of a block, 6 octets before its end"},
		"a block of no length": {with(ng, uint32(6), uint32(0)), 1, "packet 2: a block of type 0x6 says it is 0 octets long: the file is broken here"},
		"no such interface":    {with(ng, uint32(6), uint32(32), uint32(4), uint64(0), uint64(0)), 1, "packet 2: it was captured on interface 4 of 1: the file is broken here"},
		"lengths that differ":  {with(ng, uint32(99), uint32(12), uint32(16)), 1, "packet 2: a block says it is 12 octets long, and at its end 16: the file is broken here"},
	} {
		got, err := all(t, bytes.NewReader(tc.file))
		if len(got) != tc.packets || err == nil || err.Error() != tc.says {
			t.Errorf("%s: %d packets and %q, want %d and %q", name, len(got), err, tc.packets, tc.says)
		}
	}
}

func FuzzReader(f *testing.F) {
	f.Add(pcap(binary.BigEndian, magicNanoseconds, LinuxCooked).record(1, 0, 18, frame).Bytes())
	f.Add(pcapng(binary.LittleEndian).block(blockInterface, uint16(Null), uint16(0), uint32(0)).
		block(blockEnhanced, uint32(0), uint32(0), uint32(0), uint32(18), uint32(18), frame).Bytes())
	for _, link := range []LinkType{FDDI, WiFi, Radiotap, PPI, NFLOG} {
		f.Add(pcap(binary.LittleEndian, magicMicroseconds, link).record(1, 0, 60, join(make([]byte, 32), snap(8, 0), packet)).Bytes())
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := NewReader(bytes.NewReader(data))
		if err != nil {
			return
		}
		for number := 1; ; number++ {
			p, err := c.Next()
			var unreadable *UnreadableError
			switch {
			case errors.As(err, &unreadable):
			case err != nil:
				if _, again := c.Next(); !errors.Is(again, err) {
					t.Fatalf("after %v came %v", err, again)
				}
				return
			case p.Wire < len(p.Data) || len(p.Data) > MaxPacket+14:
				t.Fatalf("%d octets of %d", len(p.Data), p.Wire)
			}
			if p.Number != number {
				t.Fatalf("packet %d is called %d", number, p.Number)
			}
		}
	})
}
