package route

import (
	"reflect"
	"testing"
)

// Every numeric component is found by its word, and each word finds another one.
func TestNumeric(t *testing.T) {
	var m Match
	found := map[*[]Range]string{}
	for _, c := range m.numeric() {
		to, most := m.Numeric(c.word)
		if to == nil || most != c.max || found[to] != "" {
			t.Errorf("%s: %v, at most %d; found before as %q", c.word, to, most, found[to])
		}
		found[to] = c.word
	}
	v, fields := reflect.ValueOf(&m).Elem(), 0
	for i := range v.NumField() {
		if p, ok := v.Field(i).Addr().Interface().(*[]Range); ok {
			if fields++; found[p] == "" {
				t.Errorf("no word finds %s", v.Type().Field(i).Name)
			}
		}
	}
	if fields != len(found) {
		t.Errorf("%d words for %d components", len(found), fields)
	}
	for _, word := range []string{"", "tcp-flags", "fragment", "destination", "Port"} {
		if to, most := m.Numeric(word); to != nil || most != 0 {
			t.Errorf("%q finds something", word)
		}
	}
}
