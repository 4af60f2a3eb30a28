package safety

import (
	"cmp"
	"errors"
	"fmt"
	"slices"

	"github.com/amooglesoft/trafficmonitor/internal/route"
)

// span is a closed interval that may be empty (lo above hi).
type span struct{ lo, hi int }

// numbers reads a numeric component (RFC 8955, section 4.2.1.1) and returns its values as sorted, disjoint ranges with
// gaps between them: AND binds tighter than OR, each item is at most two spans.
func (d *decoder) numbers(kind byte) ([]route.Range, error) {
	field := fields[kind]
	top := int(field.max)
	var union []span
	group := []span{{0, top}}
	for first := true; ; first = false {
		it, err := d.next(first)
		if err != nil {
			return nil, err
		}
		switch {
		case it.op&0x08 != 0:
			return nil, errors.New("a reserved bit of the operator is set")
		case it.value > field.max:
			return nil, fmt.Errorf("%s %d is above %d", field.name, it.value, field.max)
		case it.octets > field.octets:
			return nil, fmt.Errorf("%s %d in %d octets: longer than the field", field.name, it.value, it.octets)
		}
		if !it.and && !first {
			union = append(union, group...)
			group = []span{{0, top}}
		}
		v, accepted := int(it.value), []span(nil)
		if it.op&0x04 != 0 {
			accepted = append(accepted, span{0, v - 1})
		}
		if it.op&0x01 != 0 {
			accepted = append(accepted, span{v, v})
		}
		if it.op&0x02 != 0 {
			accepted = append(accepted, span{v + 1, top})
		}
		group = intersect(group, accepted)
		if it.end {
			break
		}
	}
	out := join(append(union, group...))
	if len(out) == 0 {
		return nil, fmt.Errorf("%s: no value satisfies the list", field.name)
	}
	ranges := make([]route.Range, len(out))
	for i, s := range out {
		ranges[i] = route.Range{Lo: uint32(s.lo), Hi: uint32(s.hi)}
	}
	return ranges, nil
}

func intersect(a, b []span) []span {
	var out []span
	for _, x := range a {
		for _, y := range b {
			if s := (span{max(x.lo, y.lo), min(x.hi, y.hi)}); s.lo <= s.hi {
				out = append(out, s)
			}
		}
	}
	return join(out)
}

// join sorts spans, drops empty ones and joins those that touch.
func join(in []span) []span {
	in = slices.DeleteFunc(in, func(s span) bool { return s.lo > s.hi })
	slices.SortFunc(in, func(a, b span) int { return cmp.Or(a.lo-b.lo, a.hi-b.hi) })
	out := in[:0]
	for _, s := range in {
		if n := len(out); n > 0 && s.lo <= out[n-1].hi+1 {
			out[n-1].hi = max(out[n-1].hi, s.hi)
			continue
		}
		out = append(out, s)
	}
	return out
}

// flags reads a bitmask component (RFC 8955, section 4.2.1.2) of at most octets per value, of which the bits of mask
// exist, and returns it as alternatives, sorted and without duplicates. Per item, with value v and data x:
//
//	match      x&v == v   all bits set
//	NOT        x&v == 0   all bits clear
//	(nothing)  x&v != 0   any bit set: an alternative per bit
//	NOT match  x&v != v   any bit clear: an alternative per bit
func (d *decoder) flags(octets int, mask uint16, name string) ([]route.Bits, error) {
	var union []route.Bits
	group := []route.Bits{{}}
	for first := true; ; first = false {
		it, err := d.next(first)
		if err != nil {
			return nil, err
		}
		switch {
		case it.op&0x0c != 0:
			return nil, errors.New("a reserved bit of the operator is set")
		case it.octets > octets:
			return nil, fmt.Errorf("%s in %d octets: at most %d are allowed", name, it.octets, octets)
		case it.value&^uint64(mask) != 0:
			return nil, fmt.Errorf("%s 0x%x are outside 0x%02x", name, it.value, mask)
		}
		if !it.and && !first {
			union = append(union, group...)
			group = []route.Bits{{}}
		}
		if group = both(group, alternatives(it.op, uint16(it.value))); len(group) > maxWire/2 {
			return nil, fmt.Errorf("%s: a list of more alternatives than a rule of ours can hold", name)
		}
		if it.end {
			break
		}
	}
	union = append(union, group...)
	if len(union) == 0 {
		return nil, fmt.Errorf("%s: no packet satisfies the list", name)
	}
	slices.SortFunc(union, byBits)
	if union[0] == (route.Bits{}) {
		return nil, fmt.Errorf("%s: a list that every packet satisfies; no rule of ours can express it", name)
	}
	return slices.Compact(union), nil
}

func alternatives(op byte, v uint16) []route.Bits {
	switch op & 0x03 {
	case 0x01:
		return []route.Bits{{Set: v}}
	case 0x02:
		return []route.Bits{{Clear: v}}
	}
	var out []route.Bits
	for bit := range 16 {
		if one := v & (1 << bit); one != 0 && op&0x02 == 0 {
			out = append(out, route.Bits{Set: one})
		} else if one != 0 {
			out = append(out, route.Bits{Clear: one})
		}
	}
	return out
}

// both returns the alternatives that satisfy a and b, without contradictions and without those that another implies.
// The caller bounds a, twelve bits bound b.
func both(a, b []route.Bits) []route.Bits {
	var all []route.Bits
	for _, x := range a {
		for _, y := range b {
			if s := (route.Bits{Set: x.Set | y.Set, Clear: x.Clear | y.Clear}); s.Set&s.Clear == 0 {
				all = append(all, s)
			}
		}
	}
	slices.SortFunc(all, byBits)
	all = slices.Compact(all)
	var out []route.Bits
	for _, x := range all {
		implied := slices.ContainsFunc(all, func(y route.Bits) bool {
			return x != y && x.Set&y.Set == y.Set && x.Clear&y.Clear == y.Clear
		})
		if !implied {
			out = append(out, x)
		}
	}
	return out
}

func byBits(a, b route.Bits) int {
	return cmp.Or(cmp.Compare(a.Set, b.Set), cmp.Compare(a.Clear, b.Clear))
}
