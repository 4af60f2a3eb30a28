package vector

import (
	"fmt"
	"testing"
)

func TestTableIsIndexedByNumber(t *testing.T) {
	names := map[string]bool{}
	for i, v := range table {
		if int(v.ID) != i {
			t.Errorf("row %d holds vector number %d: the table must be in order without gaps", i, v.ID)
		}
		if names[v.Name] {
			t.Errorf("name %q stands twice", v.Name)
		}
		names[v.Name] = true
		if got, err := Parse(v.Name); err != nil || got != v.ID {
			t.Errorf("Parse(%q) = %v, %v; want %d", v.Name, got, err, v.ID)
		}
	}
	if len(table) > Count {
		t.Errorf("%d vectors do not fit %d counters", len(table), Count)
	}
	if _, err := Parse("banana"); err == nil {
		t.Error("Parse(banana) found a vector")
	}
}

func TestEachPortAndTypeHasOneVector(t *testing.T) {
	seen := map[string]ID{}
	once := func(what string, n int, id ID) {
		key := fmt.Sprintf("%s %d", what, n)
		if other, ok := seen[key]; ok {
			t.Errorf("%s belongs to %s and %s", key, other, id)
		}
		seen[key] = id
	}
	for _, v := range All() {
		for _, p := range v.SourcePorts {
			once("source port", int(p), v.ID)
		}
		for _, p := range v.DestinationPorts {
			once("destination port", int(p), v.ID)
		}
		for _, n := range v.ICMPTypes {
			once("ICMP type", int(n), v.ID)
		}
		for _, n := range v.ICMPv6Types {
			once("ICMPv6 type", int(n), v.ID)
		}
	}
}
