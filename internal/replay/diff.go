package replay

import (
	"slices"
	"time"
)

// Change is an incident that two replays of the same records tell differently: one of Old and New is nil where only the
// other knows it.
type Change struct {
	Old, New *Incident
	// Differs names what differs where both know it: vectors, decided, action, routes.
	Differs []string
}

// Compare lists what differs between two replays of the same records, in order of onset. Incidents are the same when they
// are about the same target and direction, and go on at the same time.
func Compare(before, after *Result) (changes []Change, same int) {
	taken := make([]bool, len(after.Incidents))
	for i := range before.Incidents {
		a := &before.Incidents[i]
		j := slices.IndexFunc(after.Incidents, func(b Incident) bool { return a.Site() == b.Site() && overlap(a, &b) })
		for ; j >= 0 && j < len(taken); j++ { // the first that no other is the same as
			if b := &after.Incidents[j]; !taken[j] && a.Site() == b.Site() && overlap(a, b) {
				break
			}
		}
		if j < 0 || j == len(taken) {
			changes = append(changes, Change{Old: a})
			continue
		}
		taken[j] = true
		b := &after.Incidents[j]
		if d := differs(a, b); len(d) > 0 {
			changes = append(changes, Change{a, b, d})
		} else {
			same++
		}
	}
	for j := range after.Incidents {
		if !taken[j] {
			changes = append(changes, Change{New: &after.Incidents[j]})
		}
	}
	slices.SortStableFunc(changes, func(a, b Change) int { return a.onset().Compare(b.onset()) })
	return changes, same
}

func (c Change) onset() time.Time {
	if c.Old != nil {
		return c.Old.Onset
	}
	return c.New.Onset
}

func overlap(a, b *Incident) bool {
	ends := func(i *Incident, other time.Time) bool { return !i.Ended.IsZero() && i.Ended.Before(other) }
	return !ends(a, b.Onset) && !ends(b, a.Onset)
}

func differs(a, b *Incident) (d []string) {
	vectors := func(i *Incident) (names []string) {
		for _, m := range i.Vectors {
			names = append(names, m.Vector.String())
		}
		return names
	}
	routes := func(i *Incident) (texts []string) {
		for _, r := range i.Routes {
			texts = append(texts, r.String())
		}
		slices.Sort(texts)
		return texts
	}
	for _, x := range []struct {
		name string
		is   bool
	}{
		{"vectors", !slices.Equal(vectors(a), vectors(b))},
		{"decided", !a.Decided.Equal(b.Decided)},
		{"action", a.Action != b.Action},
		{"routes", !slices.Equal(routes(a), routes(b))},
	} {
		if x.is {
			d = append(d, x.name)
		}
	}
	return d
}
