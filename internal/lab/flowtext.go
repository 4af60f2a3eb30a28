package lab

import (
	"fmt"
	"math"
	"math/bits"
	"net/netip"
	"strconv"
	"strings"

	"github.com/amooglesoft/trafficmonitor/internal/route"
)

// Helpers for reading FlowSpec as routers print it, turned into the terms of package route. What cannot be said in
// those terms is an error: a rule that is read wrong would be enforced wrong.

// comparison is one item of a numeric component: a comparison with a value, joined to the one before by AND or OR.
type comparison struct {
	and   bool
	op    string // one of = != < <= > >=
	value int
}

// ranges returns the values in 0..most that the comparisons accept.
func ranges(items []comparison, most int) ([]route.Range, error) {
	var out []route.Range
	var group []bool
	flush := func() {
		for v := 0; v < len(group); v++ {
			if !group[v] {
				continue
			}
			lo := v
			for v+1 < len(group) && group[v+1] {
				v++
			}
			out = append(out, route.Range{Lo: uint32(lo), Hi: uint32(v)})
		}
	}
	for _, c := range items {
		if c.value < 0 || c.value > most {
			return nil, fmt.Errorf("value %d is outside 0 to %d", c.value, most)
		}
		if !c.and || group == nil {
			flush()
			group = make([]bool, most+1)
			for v := range group {
				group[v] = true
			}
		}
		for v := range group {
			group[v] = group[v] && holds(v, c.op, c.value)
		}
	}
	flush()
	if len(out) == 0 {
		return nil, fmt.Errorf("no value is accepted")
	}
	return out, nil
}

func holds(v int, op string, with int) bool {
	switch op {
	case "=":
		return v == with
	case "!=":
		return v != with
	case "<":
		return v < with
	case "<=":
		return v <= with
	case ">":
		return v > with
	case ">=":
		return v >= with
	}
	return false
}

// bitTest is one item of a flags component: field & mask == value, or its negation.
type bitTest struct {
	and         bool
	not         bool
	value, mask uint16
}

// flagBits joins bit tests into alternatives.
func flagBits(items []bitTest) ([]route.Bits, error) {
	var out []route.Bits
	for i, t := range items {
		if t.value&^t.mask != 0 {
			return nil, fmt.Errorf("value 0x%x outside its mask 0x%x", t.value, t.mask)
		}
		if t.not {
			if bits.OnesCount16(t.mask) != 1 {
				return nil, fmt.Errorf("the negation of several bits at once (0x%x/0x%x) is not understood", t.value, t.mask)
			}
			t.value ^= t.mask
		}
		if !t.and || i == 0 {
			out = append(out, route.Bits{})
		}
		b := &out[len(out)-1]
		b.Set |= t.value
		b.Clear |= t.mask &^ t.value
	}
	for _, b := range out {
		if b.Set&b.Clear != 0 || b == (route.Bits{}) {
			return nil, fmt.Errorf("bits 0x%x set and 0x%x clear test nothing or contradict each other", b.Set, b.Clear)
		}
	}
	return out, nil
}

// rateAction turns an RFC 8955 traffic rate into an action.
func rateAction(rate float64, kind route.ActionKind) (route.Action, error) {
	switch {
	case math.IsNaN(rate) || math.IsInf(rate, 0) || rate < 0:
		return route.Action{}, fmt.Errorf("traffic rate %v is not a rate", rate)
	case rate == 0:
		return route.Action{Kind: route.Discard}, nil
	}
	return route.Action{Kind: kind, Rate: uint64(math.Round(rate))}, nil
}

func parseUint(s string, most int) (int, error) {
	v, err := strconv.ParseUint(strings.TrimSpace(s), 0, 32)
	if err != nil || v > uint64(most) {
		return 0, fmt.Errorf("%q is not a number from 0 to %d", strings.TrimSpace(s), most)
	}
	return int(v), nil
}

// flowPrefix reads a prefix and, behind separator, the offset that IPv6 ones may have.
func flowPrefix(text, separator string, f route.Family) (p netip.Prefix, offset uint8, err error) {
	text, number, ok := strings.Cut(text, separator)
	if ok {
		n, err := parseUint(number, 127)
		if err != nil {
			return p, 0, fmt.Errorf("offset: %w", err)
		}
		offset = uint8(n)
	}
	if p, err = netip.ParsePrefix(text); err != nil {
		return p, 0, err
	}
	if p.Addr().Is4() != (f == route.IPv4) {
		return p, 0, fmt.Errorf("prefix %s is not %s", p, f)
	}
	return p, offset, nil
}
