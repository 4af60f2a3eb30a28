package mitigation

import (
	"slices"
	"testing"
	"time"
)

// Who shares a route shares its scope: it is told to the routers of each, and to all when one says so.
func TestScopesOfAShared(t *testing.T) {
	m := New(Records{})
	p := plan(t)
	p.Scope = make([]string, 1, 8)
	p.Scope[0] = "edge2"
	x, err := m.Respond(t0, p)
	if err != nil {
		t.Fatal(err)
	}
	y := x
	y.ID, y.Scope, y.Created = "m-y", []string{"edge1", "edge2"}, t0.Add(time.Second)
	z := x
	z.ID, z.Scope, z.Created = "m-z", nil, t0.Add(2*time.Second)
	first := z
	first.Created = t0.Add(-time.Second)
	for _, c := range []struct {
		all  []Mitigation
		want []string
	}{
		{[]Mitigation{x}, []string{"edge2"}},
		{[]Mitigation{x, y}, []string{"edge1", "edge2"}},
		{[]Mitigation{x, y, z}, nil},
		{[]Mitigation{z, x}, nil},
		{[]Mitigation{first, x}, nil},
	} {
		got := Records{Mitigations: c.all}.Routes(t0.Add(time.Minute))
		if len(got) != 1 || !slices.Equal(got[0].Scope, c.want) {
			t.Errorf("%d owners: %+v, want scope %v", len(c.all), got, c.want)
		}
	}
	if !slices.Equal(x.Scope, []string{"edge2"}) {
		t.Errorf("the owner's scope became %v", x.Scope)
	}
}
