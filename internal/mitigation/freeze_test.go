package mitigation

import (
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/amooglesoft/trafficmonitor/internal/route"
)

// inDNS puts every target in the group dns, which lies inside of customers.
func inDNS(netip.Prefix) []string { return []string{"dns", "customers"} }

func TestFreezeOfAGroup(t *testing.T) {
	for group, stops := range map[string]bool{"dns": true, "customers": true, "web": false, "default": false} {
		t.Run(group, func(t *testing.T) {
			m := New(Records{})
			m.SetGroups(inDNS, "default")
			x, err := m.Respond(t0, plan(t))
			if err != nil {
				t.Fatal(err)
			}
			m.FreezeGroup(Freeze{Group: group, Since: t0, Requester: "ann", Reason: "maintenance"})

			// It outlives a leader.
			m = New(m.Records())
			m.SetGroups(inDNS, "default")
			other := plan(t)
			other.Route.Match.SourcePort = []route.Range{{Lo: 123, Hi: 123}}
			_, err = m.Respond(t0, other)
			if errors.Is(err, ErrFrozen) != stops || stops && !strings.Contains(err.Error(), "frozen in group "+group+" since") {
				t.Errorf("an answer: %v, want frozen %v", err, stops)
			}
			if _, _, ok := m.Refine(t0, x.ID, other.Route, "test"); ok == stops {
				t.Errorf("a refinement: %v", ok)
			}
			m.Observe(sees(900_000), Usual{})
			if c := m.Tick(x.Deadline.Add(-time.Second), nil); len(c.Put) == 0 || (c.Put[0].Extensions == 0) != stops {
				t.Errorf("before the deadline: %+v", c)
			}
			if !stops {
				return
			}
			if c := m.Tick(x.Deadline, nil); len(c.Put) != 1 || c.Put[0].State != Ended {
				t.Errorf("a freeze must not keep a route past its deadline: %+v", c)
			}
			if _, repeated := m.Announce(x.Deadline, Request{Route: plan(t).Route, TTL: time.Minute, Requester: "ann", Reason: "r"}); repeated {
				t.Error("an engineer is frozen too")
			}
			if c, err := m.UnfreezeGroup(group); err != nil || len(c.Unfreeze) != 1 {
				t.Errorf("unfreeze: %+v %v", c, err)
			}
			if _, err := m.Respond(x.Deadline, other); err != nil {
				t.Errorf("after the freeze: %v", err)
			}
			if _, err := m.UnfreezeGroup(group); !errors.Is(err, ErrNotFound) {
				t.Errorf("unfreeze of what is not frozen: %v", err)
			}
		})
	}
}

func TestFreezesDoNotLiftEachOther(t *testing.T) {
	m := New(Records{})
	m.SetGroups(inDNS, "default")
	m.SetFreeze(&Freeze{Since: t0, Requester: "ann", Reason: "all"})
	m.FreezeGroup(Freeze{Group: "dns", Since: t0, Requester: "ann", Reason: "one"})
	m.SetFreeze(nil)
	if f, ok := m.FrozenFor(victim); !ok || f.Group != "dns" {
		t.Errorf("lifting the freeze of all lifted that of the group: %+v %v", f, ok)
	}
	m.SetFreeze(&Freeze{Since: t0, Requester: "ann", Reason: "all"})
	if _, err := m.UnfreezeGroup("dns"); err != nil {
		t.Fatal(err)
	}
	if f, ok := m.FrozenFor(victim); !ok || f.Group != "" {
		t.Errorf("lifting the freeze of the group lifted that of all: %+v %v", f, ok)
	}
}

func TestFreezeOfWhatNoGroupHolds(t *testing.T) {
	m := New(Records{})
	m.SetGroups(func(netip.Prefix) []string { return nil }, "default")
	m.FreezeGroup(Freeze{Group: "dns", Since: t0, Requester: "ann", Reason: "r"})
	if _, frozen := m.FrozenFor(victim); frozen {
		t.Error("a freeze of another group stops it")
	}
	m.FreezeGroup(Freeze{Group: "default", Since: t0, Requester: "ann", Reason: "r"})
	if f, frozen := m.FrozenFor(victim); !frozen || f.Group != "default" {
		t.Errorf("%+v %v", f, frozen)
	}
}

// What a route is for, in the policy's words, travels with it: both kernels count by it.
func TestRoutesSayWhichResponseAndGroupsTheyAreFor(t *testing.T) {
	m := New(Records{})
	m.SetGroups(inDNS, "default")
	p := plan(t)
	p.Answer = "responses[1]"
	if _, err := m.Respond(t0, p); err != nil {
		t.Fatal(err)
	}
	m.Announce(t0, Request{Route: p.Route, TTL: time.Minute, Requester: "ann", Reason: "r"})
	got := m.Records().Routes(t0)
	if len(got) != 1 || len(got[0].Owners) != 2 || !slices.Equal(got[0].Answers, []string{"responses[1]"}) || !slices.Equal(got[0].Groups, []string{"customers", "dns"}) {
		t.Errorf("%+v", got)
	}
}
