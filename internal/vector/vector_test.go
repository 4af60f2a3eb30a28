package vector

import "testing"

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

func TestReflectionPortsAreUnique(t *testing.T) {
	ports := map[uint16]ID{}
	for _, v := range Reflections() {
		if other, ok := ports[v.SourcePort]; ok {
			t.Errorf("port %d belongs to %s and %s", v.SourcePort, other, v.ID)
		}
		ports[v.SourcePort] = v.ID
	}
}
