package speaker

import (
	"fmt"
	"slices"
	"time"

	"github.com/amooglesoft/trafficmonitor/internal/compile"
)

// doubt finds the tables of which a router takes nothing, such as one whose parser of IPv6 rules is broken: to put its
// routes into quarantine one by one would cost some resets each.
//
// A table is taken as soon as one route of it survived a span, and stays so while the speaker lives: its resets are those
// of single routes. Any other is doubted when routes of it were among those that were hit, once suspicion is careful. In
// the next session one route of each doubted table goes alone, before all other suspects, and the rest of the table waits.
// One that does not survive a span is a strike, and a route of another shape goes next. After three different routes, of
// two shapes unless the set has but one, the whole table is kept from the router. A TCP close has other causes too and
// takes five. The table comes out when its time is over; then again one route goes alone, first, of a shape that was not
// struck if there is one, and one more NOTIFICATION sends the table back for four times as long.
//
// It is part of suspicion, and pure.
type doubt struct {
	order   []*item                    // what the router is to have
	taken   map[compile.Table]bool     // of these a route survived
	tables  map[compile.Table]bool     // doubted
	strikes map[compile.Table]*strikes // of tables that are not taken
	records map[compile.Table]*Quarantine
}

// strikes are routes of a table each of which was alone when the router reset the session.
type strikes struct {
	routes map[string]bool // by ID
	shapes []shape         // of these and of those before the table was last held; the last that was struck is last
	points int
}

// strikesEnough is three NOTIFICATIONs, or five TCP closes.
const strikesEnough = 3 * pointsRefused

func newDoubt(records map[compile.Table]*Quarantine) *doubt {
	if records == nil {
		records = map[compile.Table]*Quarantine{}
	}
	d := &doubt{
		taken: map[compile.Table]bool{}, tables: map[compile.Table]bool{}, strikes: map[compile.Table]*strikes{}, records: records,
	}
	for t, r := range records {
		if r.Released {
			d.try(t)
		}
	}
	return d
}

// try doubts a table that one more NOTIFICATION sends back.
func (d *doubt) try(t compile.Table) {
	d.tables[t] = true
	d.strikes[t] = &strikes{routes: map[string]bool{}, points: strikesEnough - pointsRefused, shapes: slices.Clone(d.records[t].Shapes)}
}

// survived notes that a route of the table outlived a span, and reports whether the table was under doubt.
func (d *doubt) survived(t compile.Table) (doubted bool) {
	doubted = d.tables[t] || d.strikes[t] != nil
	d.taken[t] = true
	delete(d.tables, t)
	delete(d.strikes, t)
	if r := d.records[t]; r != nil && r.Released {
		delete(d.records, t)
	}
	return doubted
}

// reset takes the tables of the routes that were hit.
func (d *doubt) reset(hit map[compile.Table]bool, careful bool) {
	for t := range hit {
		if careful && !d.taken[t] {
			d.tables[t] = true
		}
	}
}

// strike notes that the router reset the session when the route was alone, and reports whether it takes none of its table.
func (d *doubt) strike(now time.Time, how ending, why string, it *item) (held bool) {
	t := it.enc.table
	if d.taken[t] {
		return false
	}
	s := d.strikes[t]
	if s == nil {
		s = &strikes{routes: map[string]bool{}}
		d.strikes[t] = s
	}
	if s.routes[it.id] {
		return false
	}
	s.routes[it.id] = true
	form := shapeOf(it.Route)
	s.shapes = append(slices.DeleteFunc(s.shapes, func(o shape) bool { return o == form }), form)
	if s.points += pointsClosed; how == refused {
		s.points += pointsRefused - pointsClosed
	}
	if s.points < strikesEnough || len(s.shapes) == 1 && d.offersOther(t, form) {
		return false
	}
	r := d.records[t]
	if r == nil {
		r = &Quarantine{Family: string(t)}
		d.records[t] = r
	}
	r.again(now, why)
	r.Shapes = s.shapes
	delete(d.tables, t)
	delete(d.strikes, t)
	return true
}

// offersOther reports whether the router is to have a route of the table of another shape.
func (d *doubt) offersOther(t compile.Table, form shape) bool {
	return slices.ContainsFunc(d.order, func(it *item) bool { return it.enc.table == t && shapeOf(it.Route) != form })
}

// told returns how much was heard of the shape of a route: the less, the more there is to learn.
func (d *doubt) told(it *item) int {
	s := d.strikes[it.enc.table]
	if s == nil || len(s.shapes) == 0 {
		return 0
	}
	return slices.Index(s.shapes, shapeOf(it.Route)) + 1
}

// forget ends all doubt but of tables that are tried again.
func (d *doubt) forget() {
	d.explained(d.tables)
}

// explained ends the doubt about tables, but of those that are tried again: what they were hit by was a single route.
func (d *doubt) explained(tables map[compile.Table]bool) {
	for t := range tables {
		if r := d.records[t]; r == nil || !r.Released {
			delete(d.tables, t)
		}
	}
}

// held returns why the table is kept from the router, or nil.
func (d *doubt) held(t compile.Table) *Quarantine {
	if r := d.records[t]; r != nil && !r.Released {
		return r
	}
	return nil
}

// release lets go what sat its time, and returns when the next one has; 0 means never.
func (d *doubt) release(now time.Time) (released []string, wait time.Duration) {
	for t, r := range d.records {
		switch left := r.Until.Sub(now); {
		case r.Released && left < -quarantineMost:
			delete(d.records, t) // nobody wanted it for a day
			delete(d.tables, t)
		case r.Released:
		case left <= 0:
			r.Released = true
			d.try(t)
			released = append(released, string(t))
		default:
			wait = sooner(wait, left)
		}
	}
	return released, wait
}

// pardon is release by an engineer's word, whose record starts anew. An empty name means all tables.
func (d *doubt) pardon(name string) (released []string) {
	for t, r := range d.records {
		if name != "" && name != string(t) {
			continue
		}
		if !r.Released {
			released = append(released, string(t))
		}
		d.try(t)
		delete(d.records, t)
	}
	return released
}

// HeldFamily is a family of which a router takes nothing, and which is kept from it.
type HeldFamily struct {
	Table  compile.Table
	Until  time.Time
	Reason string // in words, with what to do
}

// heldReason says in words why a family is held and how it gets out.
func (q *Quarantine) heldReason(peer string) string {
	return fmt.Sprintf("all %s routes are kept from this router until %s, the %s, for it resets the session upon whichever it gets: %s. Upgrade it or leave the family out of its families; to try one at once: tmctl release-quarantine %s %s --reason ...",
		q.Family, q.Until.UTC().Format(time.RFC3339), ordinal(q.Times)+" time", q.Why, peer, q.Family)
}
