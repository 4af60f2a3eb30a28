package tap

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"slices"
	"testing"
	"time"
)

func curve(packets ...uint64) Curve {
	return Curve{Began: time.Unix(1000, 0), Packets: packets}
}

func TestCurve(t *testing.T) {
	c := curve(0, 100, 100, 100, 100, 40, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0)
	at := func(ms int) time.Time { return c.Began.Add(time.Duration(ms) * time.Millisecond) }
	if got := c.PPS(at(1), at(5)); got != 100_000 {
		t.Errorf("%.0f packets per second", got)
	}
	if got := c.Between(at(-5), at(100)); got != 442 {
		t.Errorf("%d packets", got)
	}
	for _, x := range []struct {
		from, end int
		rate      float64
		want      int
		ok        bool
	}{
		{1, 16, 1000, 6, true},  // at most one packet per millisecond: the last busy one is 5
		{1, 5, 1000, 0, false},  // still running
		{6, 16, 1000, 6, true},  // never fast
		{1, 3, 1000, 0, false},  // shorter than the window
		{1, 16, 50000, 5, true}, // 40 in a millisecond is slow
	} {
		got, ok := c.Drop(at(x.from), at(x.end), x.rate, 4*time.Millisecond)
		if ok != x.ok || (ok && !got.Equal(at(x.want))) {
			t.Errorf("%+v: drop at %v, %v", x, got.Sub(c.Began), ok)
		}
	}
}

// update builds a BGP UPDATE.
func update(withdrawn, attributes, nlri []byte) []byte {
	body := binary.BigEndian.AppendUint16(nil, uint16(len(withdrawn)))
	body = append(body, withdrawn...)
	body = binary.BigEndian.AppendUint16(body, uint16(len(attributes)))
	body = append(append(body, attributes...), nlri...)
	m := bytes.Repeat([]byte{0xff}, 16)
	m = binary.BigEndian.AppendUint16(m, uint16(19+len(body)))
	return append(append(m, 2), body...)
}

var (
	reachFlow   = []byte{0x80, 14, 9, 0, 1, 133, 0, 0, 3, 1, 24, 203}
	unreachFlow = []byte{0x90, 15, 0, 7, 0, 2, 133, 3, 1, 24, 203}
	keepalive   = append(bytes.Repeat([]byte{0xff}, 16), 0, 19, 4)
)

func TestUpdates(t *testing.T) {
	for name, c := range map[string]struct {
		message []byte
		want    Update
	}{
		"flowspec":   {update(nil, slices.Concat([]byte{0x40, 1, 1, 0}, reachFlow), nil), Update{AFI: 1, SAFI: 133, Reach: []byte{3, 1, 24, 203}}},
		"withdrawal": {update(nil, unreachFlow, nil), Update{AFI: 2, SAFI: 133, Unreach: []byte{3, 1, 24, 203}}},
		"unicast":    {update([]byte{8, 10}, []byte{0x40, 1, 1, 0}, []byte{16, 10, 1}), Update{AFI: 1, SAFI: 1, Reach: []byte{16, 10, 1}, Unreach: []byte{8, 10}}},
		"end of RIB": {update(nil, nil, nil), Update{}},
	} {
		u, ok, err := parseUpdate(c.message)
		if !ok || err != nil || u.AFI != c.want.AFI || u.SAFI != c.want.SAFI || !bytes.Equal(u.Reach, c.want.Reach) || !bytes.Equal(u.Unreach, c.want.Unreach) {
			t.Errorf("%s: %+v, %v, %v", name, u, ok, err)
		}
	}
	if _, ok, _ := parseUpdate(keepalive); ok {
		t.Error("a KEEPALIVE is an UPDATE")
	}
	whole := update([]byte{8, 10}, slices.Concat(reachFlow, unreachFlow), nil)
	for n := 19; n < len(whole); n++ { // cut short anywhere: an error or less of it, never a panic
		_, _, _ = parseUpdate(whole[:n])
	}
}

// A session is put together however its octets are cut, repeated or joined in the middle.
func TestStream(t *testing.T) {
	a, b := update(nil, reachFlow, nil), update(nil, unreachFlow, nil)
	all := slices.Concat(keepalive, a, b, keepalive)
	want := [][]byte{keepalive, a, b, keepalive}
	for size := 1; size <= len(all); size++ {
		s := &stream{}
		var got [][]byte
		seq := uint32(0xfffffff0) // wraps
		got = append(got, s.take(segment{seq: seq - 1, syn: true})...)
		for at := 0; at < len(all); at += size {
			end := min(at+size, len(all))
			for range 2 { // each sent twice
				got = append(got, s.take(segment{seq: seq + uint32(at), payload: all[at:end]})...)
			}
		}
		if !slices.EqualFunc(got, want, bytes.Equal) {
			t.Fatalf("segments of %d: %d messages", size, len(got))
		}
	}
	s := &stream{}
	if got := s.take(segment{seq: 5, payload: a[3:]}); got != nil {
		t.Errorf("half a message is %d messages", len(got))
	}
	if got := s.take(segment{seq: 500, payload: a}); len(got) != 1 {
		t.Errorf("%d messages after getting in", len(got))
	}
	if got := s.take(segment{seq: 9000, payload: b}); len(got) != 1 {
		t.Errorf("%d messages after a gap", len(got))
	}
}

func TestSegments(t *testing.T) {
	tcp := make([]byte, 20)
	tcp[1], tcp[3], tcp[12] = 179, 50, 5<<4
	ip4 := append([]byte{0x45, 0, 0, 43, 0, 0, 0, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2}, append(tcp, "abc"...)...)
	frame := append(append(make([]byte, 12), 0x08, 0x00), append(ip4, "padding"...)...)
	s, ok := parseSegment(frame)
	if !ok || string(s.payload) != "abc" || s.src != netip.MustParseAddrPort("10.0.0.1:179") || s.dst != netip.MustParseAddrPort("10.0.0.2:50") {
		t.Errorf("%+v, %v", s, ok)
	}
	for n := range frame[:len(frame)-7] {
		if _, ok := parseSegment(frame[:n]); ok {
			t.Errorf("%d octets are a segment", n)
		}
	}
}

func TestClassRefuses(t *testing.T) {
	for _, c := range []Class{{}, {Destination: netip.MustParseAddr("192.0.2.1")}, {Protocol: 6}} {
		if c.check() == nil {
			t.Errorf("%+v was accepted", c)
		}
	}
}
