package tap

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"sync"
	"time"
)

// Update is one BGP UPDATE as it arrived on a link.
type Update struct {
	// Time the kernel saw the packet that completed the message.
	Time time.Time
	// From and To are the session's addresses.
	From, To netip.Addr
	// AFI and SAFI of what it announces or withdraws; 1/1 for plain IPv4 unicast, 0/0 for an empty one.
	AFI  uint16
	SAFI uint8
	// Reach and Unreach are the announced and the withdrawn NLRI as they are on the wire, all of them in one.
	Reach, Unreach []byte
}

// SAFIs of RFC 4760 and RFC 8955.
const (
	SAFIUnicast  = 1
	SAFIFlowSpec = 133
)

// BGP watches the BGP sessions on a link and keeps every UPDATE that crosses it towards this end.
type BGP struct {
	file *os.File
	stop context.CancelFunc
	done chan struct{}

	mu      sync.Mutex
	updates []Update      // guarded by mu
	news    chan struct{} // guarded by mu: closed and replaced with each update
	err     error         // guarded by mu
}

// OpenBGP begins to watch an interface of the calling thread's network namespace.
func OpenBGP(ifindex int) (*BGP, error) {
	fd, err := socket(ifindex, nil)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	b := &BGP{file: os.NewFile(uintptr(fd), "bgp-tap"), stop: cancel, done: make(chan struct{}), news: make(chan struct{})}
	go b.run(ctx)
	return b, nil
}

// Close ends the watch.
func (b *BGP) Close() error {
	b.stop()
	<-b.done
	return b.file.Close()
}

// Updates returns every UPDATE seen so far.
func (b *BGP) Updates() []Update {
	b.mu.Lock()
	defer b.mu.Unlock()
	return append([]Update(nil), b.updates...)
}

// Wait returns the first UPDATE at or after since of which want says yes.
func (b *BGP) Wait(ctx context.Context, since time.Time, want func(Update) bool) (Update, error) {
	seen := 0
	for {
		b.mu.Lock()
		updates, news, err := b.updates, b.news, b.err
		b.mu.Unlock()
		for _, u := range updates[seen:] {
			if !u.Time.Before(since) && want(u) {
				return u, nil
			}
		}
		seen = len(updates)
		if err != nil {
			return Update{}, err
		}
		select {
		case <-ctx.Done():
			return Update{}, fmt.Errorf("tap: no such UPDATE among %d: %w", seen, ctx.Err())
		case <-news:
		}
	}
}

func (b *BGP) run(ctx context.Context) {
	defer close(b.done)
	streams := map[[2]netip.AddrPort]*stream{}
	buf := make([]byte, 128<<10)
	for {
		at, n, from, err := next(ctx, b.file, buf)
		if err != nil {
			b.mu.Lock()
			b.err = err
			close(b.news)
			b.news = make(chan struct{})
			b.mu.Unlock()
			return
		}
		if from != nil && from.Pkttype == 4 { // PACKET_OUTGOING
			continue
		}
		seg, ok := parseSegment(buf[:n])
		if !ok || (seg.src.Port() != 179 && seg.dst.Port() != 179) {
			continue
		}
		key := [2]netip.AddrPort{seg.src, seg.dst}
		s := streams[key]
		if s == nil || seg.syn {
			s = &stream{}
			streams[key] = s
		}
		for _, message := range s.take(seg) {
			u, ok, err := parseUpdate(message)
			if !ok {
				continue
			}
			u.Time, u.From, u.To = at, seg.src.Addr(), seg.dst.Addr()
			b.mu.Lock()
			if err != nil {
				b.err = errors.Join(b.err, err)
			} else {
				b.updates = append(b.updates, u)
			}
			close(b.news)
			b.news = make(chan struct{})
			b.mu.Unlock()
		}
	}
}

// segment is one TCP segment.
type segment struct {
	src, dst netip.AddrPort
	seq      uint32
	syn      bool
	payload  []byte
}

func parseSegment(frame []byte) (segment, bool) {
	var s segment
	if len(frame) < 14 {
		return s, false
	}
	kind, p := binary.BigEndian.Uint16(frame[12:]), frame[14:]
	var src, dst netip.Addr
	switch {
	case kind == 0x0800 && len(p) >= 20 && p[9] == 6:
		head, total := int(p[0]&15)*4, int(binary.BigEndian.Uint16(p[2:]))
		src, _ = netip.AddrFromSlice(p[12:16])
		dst, _ = netip.AddrFromSlice(p[16:20])
		if total == 0 { // a segment the card was to cut
			total = len(p)
		}
		if head > total || total > len(p) {
			return s, false
		}
		p = p[head:total]
	case kind == 0x86dd && len(p) >= 40 && p[6] == 6:
		src, _ = netip.AddrFromSlice(p[8:24])
		dst, _ = netip.AddrFromSlice(p[24:40])
		p = p[40:]
	default:
		return s, false
	}
	if len(p) < 20 || len(p) < int(p[12]>>4)*4 {
		return s, false
	}
	s.src = netip.AddrPortFrom(src, binary.BigEndian.Uint16(p))
	s.dst = netip.AddrPortFrom(dst, binary.BigEndian.Uint16(p[2:]))
	s.seq = binary.BigEndian.Uint32(p[4:])
	s.syn = p[13]&2 != 0
	s.payload = p[int(p[12]>>4)*4:]
	return s, true
}

// stream puts one direction of a session together. Segments of a lab's link are in order; one that is not is repeated by
// the sender if it was lost, and then it is.
type stream struct {
	synced bool
	next   uint32
	buf    []byte
}

var bgpMarker = bytes.Repeat([]byte{0xff}, 16)

// take adds a segment and returns the BGP messages it completes.
func (s *stream) take(seg segment) [][]byte {
	if seg.syn {
		s.synced, s.next = true, seg.seq+1
		return nil
	}
	p := seg.payload
	if !s.synced { // watching began in the middle: a message that begins a segment is where we get in
		if !bytes.HasPrefix(p, bgpMarker) {
			return nil
		}
		s.synced, s.next = true, seg.seq
	}
	if d := int32(s.next - seg.seq); d > 0 { // sent again
		if int(d) >= len(p) {
			return nil
		}
		p = p[d:]
	} else if d < 0 { // a gap: begin again where a message does
		s.synced, s.buf = false, nil
		return s.take(seg)
	}
	s.next += uint32(len(p))
	s.buf = append(s.buf, p...)
	var out [][]byte
	for len(s.buf) >= 19 {
		n := int(binary.BigEndian.Uint16(s.buf[16:]))
		if n < 19 || !bytes.HasPrefix(s.buf, bgpMarker) {
			s.synced, s.buf = false, nil
			break
		}
		if len(s.buf) < n {
			break
		}
		out = append(out, bytes.Clone(s.buf[:n]))
		s.buf = s.buf[n:]
	}
	return out
}

// parseUpdate reads an UPDATE (RFC 4271, section 4.3; RFC 4760); ok is false for other messages.
func parseUpdate(message []byte) (u Update, ok bool, err error) {
	if message[18] != 2 {
		return u, false, nil
	}
	short := fmt.Errorf("tap: a BGP UPDATE of %d octets that contradicts itself", len(message))
	p := message[19:]
	if len(p) < 2 || len(p) < 2+int(binary.BigEndian.Uint16(p)) {
		return u, true, short
	}
	withdrawn := p[2 : 2+int(binary.BigEndian.Uint16(p))]
	p = p[2+len(withdrawn):]
	if len(p) < 2 || len(p) < 2+int(binary.BigEndian.Uint16(p)) {
		return u, true, short
	}
	attributes := p[2 : 2+int(binary.BigEndian.Uint16(p))]
	nlri := p[2+len(attributes):]
	if len(withdrawn)+len(nlri) > 0 {
		u.AFI, u.SAFI, u.Reach, u.Unreach = 1, SAFIUnicast, nlri, withdrawn
	}
	for len(attributes) > 0 {
		if len(attributes) < 3 {
			return u, true, short
		}
		flags, kind, head, n := attributes[0], attributes[1], 3, int(attributes[2])
		if flags&0x10 != 0 { // extended length
			if len(attributes) < 4 {
				return u, true, short
			}
			head, n = 4, int(binary.BigEndian.Uint16(attributes[2:]))
		}
		if len(attributes) < head+n {
			return u, true, short
		}
		value := attributes[head : head+n]
		attributes = attributes[head+n:]
		switch kind {
		case 14: // MP_REACH_NLRI
			if len(value) < 5 || len(value) < 5+int(value[3]) {
				return u, true, short
			}
			u.AFI, u.SAFI = binary.BigEndian.Uint16(value), value[2]
			u.Reach = value[5+int(value[3]):]
		case 15: // MP_UNREACH_NLRI
			if len(value) < 3 {
				return u, true, short
			}
			u.AFI, u.SAFI = binary.BigEndian.Uint16(value), value[2]
			u.Unreach = value[3:]
		}
	}
	return u, true, nil
}
