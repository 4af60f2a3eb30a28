package probe

import (
	"strconv"
	"strings"

	"github.com/amooglesoft/trafficmonitor/internal/route"
)

// set reads alternatives, each comparisons joined by and, into a component that is not set yet.
func set(m *route.Match, word string, alternatives []string, and string) error {
	to, most := m.Numeric(word)
	if to == nil || *to != nil || len(alternatives) == 0 {
		return errUnread
	}
	for _, a := range alternatives {
		lo, hi := uint64(0), uint64(most)
		for c := range strings.SplitSeq(a, and) {
			op, text := operator(strings.TrimSpace(c))
			v, err := strconv.ParseUint(strings.TrimSpace(text), 10, 32)
			if err != nil {
				return errUnread
			}
			switch op {
			case "=", "==", "":
				lo, hi = max(lo, v), min(hi, v)
			case ">=":
				lo = max(lo, v)
			case ">":
				lo = max(lo, v+1)
			case "<=":
				hi = min(hi, v)
			case "<":
				if v == 0 {
					return errUnread
				}
				hi = min(hi, v-1)
			default:
				return errUnread
			}
		}
		if lo > hi {
			return errUnread
		}
		*to = append(*to, route.Range{Lo: uint32(lo), Hi: uint32(hi)})
	}
	return nil
}

// operator splits a comparison.
func operator(s string) (op, rest string) {
	i := 0
	for i < len(s) && strings.IndexByte("<>=!", s[i]) >= 0 {
		i++
	}
	return s[:i], s[i:]
}

// count reads a counter, such as 6780.
func count(s string) (uint64, bool) {
	v, err := strconv.ParseUint(s, 10, 64)
	return v, err == nil
}
