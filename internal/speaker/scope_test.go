package speaker

import (
	"testing"
)

// A route with a scope is for the routers named only, also after the speaker began again from its journal, and moves when
// its scope does.
func TestScope(t *testing.T) {
	t.Parallel()
	f, g := newFakeRouter(t).serve(), newFakeRouter(t).serve()
	o := testOptions(t, f.peer("edge1"), g.peer("edge2"))
	r := start(t, o)
	both, one := "destination 192.0.2.1/32 protocol udp then discard", "destination 192.0.2.2/32 protocol udp then discard"
	routes := desired(t, both, one)
	routes[1].Scope = []string{"edge2"}
	r.set(1, 1, routes)
	f.await(t, 1)
	g.await(t, 2)
	for _, rs := range r.status().Routes {
		want := 2
		if len(rs.Scope) > 0 {
			want = 1
		}
		if len(rs.Peers) != want {
			t.Errorf("%s has the state of %+v", rs.Route, rs.Peers)
		}
	}
	r.stop()
	r = start(t, o)
	f.await(t, 1)
	g.await(t, 2)
	routes[1].Scope = []string{"edge1"}
	r.set(1, 2, routes)
	f.await(t, 2)
	g.await(t, 1)
	routes[1].Scope = nil
	r.set(1, 3, routes)
	g.await(t, 2)
	r.set(1, 4, routes[:1])
	f.await(t, 1)
	g.await(t, 1)
}
