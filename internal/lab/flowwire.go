package lab

import (
	"fmt"

	"github.com/amooglesoft/trafficmonitor/internal/route"
)

// Operators as RFC 8955, section 4.2.1 numbers them, for routers that show them so or in signs that say the same.
const (
	wireAnd   = 0x40
	wireLess  = 0x04
	wireMore  = 0x02
	wireEqual = 0x01
	wireNot   = 0x02
	wireMatch = 0x01
)

// wireComparison is a numeric operator with its value.
func wireComparison(op uint8, value int) (comparison, error) {
	signs := map[uint8]string{
		wireEqual: "=", wireLess: "<", wireMore: ">", wireLess | wireEqual: "<=", wireMore | wireEqual: ">=", wireLess | wireMore: "!=",
	}
	sign, ok := signs[op&(wireLess|wireMore|wireEqual)]
	if !ok {
		return comparison{}, fmt.Errorf("numeric operator 0x%02x compares nothing", op)
	}
	return comparison{op&wireAnd != 0, sign, value}, nil
}

// wireBits is a bitmask operator with its value.
func wireBits(op uint8, value int) (bitTest, error) {
	v, err := flagsValue(value)
	if err != nil {
		return bitTest{}, err
	}
	t := bitTest{and: op&wireAnd != 0, value: v, mask: v}
	one := v&(v-1) == 0
	switch op & (wireNot | wireMatch) {
	case wireMatch:
	case wireNot: // none of them
		t.value = 0
	case 0: // any of them
		if !one {
			return t, fmt.Errorf("any of several bits (0x%x) is not understood", v)
		}
	case wireNot | wireMatch: // not all of them
		if !one {
			return t, fmt.Errorf("not all of several bits (0x%x) is not understood", v)
		}
		t.value = 0
	}
	return t, nil
}

func flagsValue(v int) (uint16, error) {
	if v <= 0 || v > 0xfff {
		return 0, fmt.Errorf("flags 0x%x are outside 0x001 to 0xfff", v)
	}
	return uint16(v), nil
}

// setWire sets a component of a match by its RFC 8955 type, from operators and values.
func setWire(m *route.Match, kind int, items []wireItem) error {
	if kind == 9 || kind == 12 {
		var tests []bitTest
		for _, x := range items {
			t, err := wireBits(x.op, x.value)
			if err != nil {
				return err
			}
			tests = append(tests, t)
		}
		bits, err := flagBits(tests)
		if err != nil {
			return err
		}
		if kind == 9 {
			m.TCPFlags = bits
		} else {
			m.Fragment = bits
		}
		return nil
	}
	to, largest := m.Numeric(wireKinds[kind])
	most := int(largest)
	if to == nil {
		return fmt.Errorf("component type %d is not known", kind)
	}
	var all []comparison
	for _, x := range items {
		c, err := wireComparison(x.op, x.value)
		if err != nil {
			return err
		}
		all = append(all, c)
	}
	rs, err := ranges(all, most)
	*to = rs
	return err
}

// wireItem is one operator with its value.
type wireItem struct {
	op    uint8
	value int
}

var wireKinds = map[int]string{
	3: "protocol", 4: "port", 5: "destination-port", 6: "source-port", 7: "icmp-type", 8: "icmp-code", 10: "length", 11: "dscp", 13: "flow-label",
}
