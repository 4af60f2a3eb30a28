package mitigation

import (
	"cmp"
	"maps"
	"slices"
	"time"

	"github.com/amooglesoft/trafficmonitor/internal/route"
)

// Desired is one route that is to be announced, with those that want it.
type Desired struct {
	Route    route.Route
	Owners   []string  // mitigation ids, sorted
	Answers  []string  // the policy's responses that asked for it, sorted
	Groups   []string  // the policy's groups its target is in, sorted
	Scope    []string  // the routers that are told, sorted; empty: all
	Created  time.Time // of the oldest owner
	Deadline time.Time // of the owner that ends last
	Manual   bool      // an engineer asked for it
	Approved bool      // an approver allowed what automation may not do
}

// Routes returns the set that r wants announced at now, sorted by text. Mitigations that want the same route share it:
// it ends with the last of them. Where two want different actions for one match, the older one stands.
func (r Records) Routes(now time.Time) []Desired {
	byID, byText := map[string]*Desired{}, map[string]*Desired{}
	active := slices.DeleteFunc(slices.Clone(r.Mitigations), func(m Mitigation) bool {
		return m.State != Active || !now.Before(m.Deadline)
	})
	slices.SortFunc(active, func(a, b Mitigation) int { return cmp.Or(a.Created.Compare(b.Created), cmp.Compare(a.ID, b.ID)) })
	for _, m := range active {
		for _, x := range m.Routes {
			text, id := x.TextAndID()
			d := byID[id]
			if d == nil {
				d = &Desired{Route: x, Owners: []string{m.ID}, Created: m.Created, Deadline: m.Deadline, Manual: m.Manual(), Approved: m.Approved, Scope: slices.Clone(m.Scope)}
				d.asked(m)
				byID[id], byText[text] = d, d
				continue
			}
			if !d.Route.Equal(x) {
				continue
			}
			d.Owners = append(d.Owners, m.ID)
			if len(m.Scope) == 0 || len(d.Scope) == 0 {
				d.Scope = nil
			} else {
				for _, router := range m.Scope {
					d.Scope = insert(d.Scope, router)
				}
			}
			d.asked(m)
			if m.Deadline.After(d.Deadline) {
				d.Deadline = m.Deadline
			}
			d.Manual = d.Manual || m.Manual()
			d.Approved = d.Approved || m.Approved
		}
	}
	out := make([]Desired, 0, len(byText))
	for _, text := range slices.Sorted(maps.Keys(byText)) {
		d := byText[text]
		slices.Sort(d.Owners)
		out = append(out, *d)
	}
	return out
}

// asked notes on whose behalf m wants the route.
func (d *Desired) asked(m Mitigation) {
	if m.Answer != "" {
		d.Answers = insert(d.Answers, m.Answer)
	}
	for _, g := range m.Groups {
		d.Groups = insert(d.Groups, g)
	}
}

// insert adds a name to a sorted list that does not have it.
func insert(sorted []string, name string) []string {
	i, found := slices.BinarySearch(sorted, name)
	if found {
		return sorted
	}
	return slices.Insert(sorted, i, name)
}
