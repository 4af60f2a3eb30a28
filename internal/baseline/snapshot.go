package baseline

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"math/bits"
	"slices"
)

// A snapshot is the magic, an octet with the version, the number of keys, the keys in order, and CRC-32C of all that in four
// octets, lowest first. Numbers are varints in their shortest form. A key is
//
//	family, length, direction, vector   an octet each
//	address                             4 or 16 octets
//	first, last                         grains since 1970; last as the difference
//	day, two references                 days since 1970; an octet each
//	classes                             a bit for each of the 24, then of each that is there, lowest first:
//	  day, two references               as above
//	  twice: top                        the largest code, an octet; 0: there is no more of this measure
//	         buckets                    a bit for each that is not empty, then the weight of each of those, lowest first
//
// What waits in delay lines is not part of it, for nobody could tell any more whether an incident begins.
const (
	magic   = "tmbaseline"
	version = 1
	// leastKey is the least length of a key.
	leastKey = 4 + 4 + 1 + 1 + 1 + 2 + 1
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// AppendBinary appends a snapshot of what was learnt. It never fails.
func (l *Learner) AppendBinary(b []byte) ([]byte, error) {
	start := len(b)
	order := make([]int32, 0, l.keys.len())
	for i := range l.keys.len() {
		if l.keys.at(i).first > 0 {
			order = append(order, i)
		}
	}
	slices.SortFunc(order, func(i, j int32) int { return l.keys.at(i).key.compare(l.keys.at(j).key) })
	b = append(b, magic...)
	b = append(b, version)
	b = binary.AppendUvarint(b, uint64(len(order)))
	for _, i := range order {
		b = l.appendKey(b, l.keys.at(i))
	}
	return binary.LittleEndian.AppendUint32(b, crc32.Checksum(b[start:], castagnoli)), nil
}

func (l *Learner) appendKey(b []byte, e *entry) []byte {
	k := e.key.unpack()
	family := byte(e.key.rest >> 24)
	b = append(b, family, byte(k.Target.Bits()), byte(k.Direction), byte(k.Vector))
	b = append(b, k.Target.Addr().AsSlice()...)
	b = binary.AppendUvarint(b, uint64(e.first))
	b = binary.AppendUvarint(b, uint64(e.last-e.first))
	b = binary.AppendUvarint(b, uint64(e.day))
	b = append(b, e.ref[:]...)
	var there uint64
	for i, place := range e.hours {
		if place > 0 {
			there |= 1 << i
		}
	}
	b = binary.AppendUvarint(b, there)
	for _, place := range e.hours {
		if place == 0 {
			continue
		}
		c := l.hours.at(place - 1)
		b = binary.AppendUvarint(b, uint64(c.day))
		b = append(b, c.ref[:]...)
		for m := range c.counts {
			if b = append(b, c.top[m]); c.top[m] == 0 {
				continue
			}
			var used uint64
			for i, n := range c.counts[m] {
				if n > 0 {
					used |= 1 << i
				}
			}
			b = binary.AppendUvarint(b, used)
			for _, n := range c.counts[m] {
				if n > 0 {
					b = binary.AppendUvarint(b, uint64(n))
				}
			}
		}
	}
	return b
}

// Load replaces what was learnt by a snapshot. With an error nothing has changed. Where the snapshot has more keys than there
// is room for, those that matter most stay, about.
func (l *Learner) Load(b []byte) error {
	n, err := l.decode(b)
	if err != nil {
		return fmt.Errorf("baseline: load a snapshot of %d octets: %w", len(b), err)
	}
	n.evicted += l.evicted
	*l = *n
	return nil
}

func (l *Learner) decode(b []byte) (*Learner, error) {
	if len(b) < len(magic)+1+4 || string(b[:len(magic)]) != magic {
		return nil, fmt.Errorf("it does not begin with %q: it is no snapshot of baselines", magic)
	}
	if v := b[len(magic)]; v != version {
		return nil, fmt.Errorf("it has version %d, and this program reads %d", v, version)
	}
	body, sum := b[:len(b)-4], binary.LittleEndian.Uint32(b[len(b)-4:])
	if got := crc32.Checksum(body, castagnoli); got != sum {
		return nil, fmt.Errorf("it is damaged: its checksum is %08x and it says %08x", got, sum)
	}
	r := reader{left: body[len(magic)+1:]}
	n := New(l.o)
	count := r.uvarint(uint64(len(r.left) / leastKey))
	var last packed
	for i := range count {
		key, err := n.readKey(&r, i, last)
		if err != nil {
			return nil, fmt.Errorf("key %d of %d: %w", i+1, count, err)
		}
		last = key
	}
	if r.bad || len(r.left) > 0 {
		return nil, errors.New("it says another number of keys than it has")
	}
	return n, nil
}

var errSyntax = errors.New("its parts do not fit together")

func (l *Learner) readKey(r *reader, i uint64, last packed) (packed, error) {
	head := r.octets(4)
	if r.bad || head[0] != 4 && head[0] != 6 {
		return packed{}, errSyntax
	}
	p := packed{rest: uint64(head[0])<<24 | uint64(head[1])<<16 | uint64(head[2])<<8 | uint64(head[3])}
	length := 4
	if head[0] == 6 {
		length = 16
	}
	for _, o := range r.octets(length) {
		p.high, p.low = p.high<<8|p.low>>56, p.low<<8|uint64(o)
	}
	if again, ok := pack(p.unpack()); r.bad || !ok || again != p || i > 0 && last.compare(p) >= 0 {
		return packed{}, errors.New("it is no target, or not in order")
	}
	e := entry{key: p}
	e.first = uint32(r.uvarint(1<<32 - 1))
	e.last = e.first + uint32(r.uvarint(uint64(1<<32-1-e.first)))
	e.day = uint16(r.uvarint(1<<16 - 1))
	copy(e.ref[:], r.octets(measures))
	there := r.uvarint(1<<classes - 1)
	if r.bad || e.first == 0 || there == 0 {
		return packed{}, errSyntax
	}
	e.head, e.heavy = e.last, e.ref[pps]
	var cs [classes]class
	for i := range cs {
		if there&(1<<i) != 0 && !cs[i].read(r) {
			return packed{}, errSyntax
		}
	}
	at, ok := l.admit(p, e.head, e.heavy, l.worth(&e))
	if !ok {
		return p, nil
	}
	for i := range cs {
		if there&(1<<i) != 0 {
			place := l.newClass(0)
			*l.hours.at(place) = cs[i]
			e.hours[i] = place + 1
		}
	}
	*l.keys.at(at) = e
	return p, nil
}

func (c *class) read(r *reader) bool {
	c.day = uint16(r.uvarint(1<<16 - 1))
	copy(c.ref[:], r.octets(measures))
	for m := range c.counts {
		if c.top[m] = r.octet(); c.top[m] == 0 {
			continue
		}
		used := r.uvarint(1<<buckets - 1)
		if c.top[m] > most || bits.Len64(used) != buckets {
			return false // the largest is there, or it would not be the largest
		}
		for i := range c.counts[m] {
			if used&(1<<i) == 0 {
				continue
			}
			if c.counts[m][i] = uint16(r.uvarint(1<<16 - 1)); c.counts[m][i] == 0 {
				return false
			}
		}
	}
	return !r.bad
}

// reader takes a snapshot apart. Once bad it gives zeros.
type reader struct {
	left []byte
	bad  bool
	zero [16]byte
}

func (r *reader) octets(n int) []byte {
	if r.bad = r.bad || len(r.left) < n; r.bad {
		return r.zero[:n]
	}
	b := r.left[:n]
	r.left = r.left[n:]
	return b
}

func (r *reader) octet() byte { return r.octets(1)[0] }

// uvarint reads a number in its shortest form.
func (r *reader) uvarint(most uint64) uint64 {
	v, n := binary.Uvarint(r.left)
	if n <= 0 || v > most || n > 1 && r.left[n-1] == 0 {
		r.bad = true
	}
	if r.bad {
		return 0
	}
	r.left = r.left[n:]
	return v
}
