package speaker

import (
	"fmt"
	"time"

	"github.com/amooglesoft/trafficmonitor/internal/compile"
)

// doubt finds the tables of which a router takes nothing, such as one whose parser of IPv6 rules is broken: to put its
// routes into quarantine one by one would cost some resets each.
//
// A table is doubted when routes of it were among those that were hit, once suspicion is careful. In the next session one
// route of each doubted table goes alone, before all other suspects, and the rest of the table waits. One that survives a span clears its table. One that does not is a strike; after three different routes,
// with no route of the table that ever survived a span between, the whole table is kept from the router. A TCP close has
// other causes too and takes five. The table comes out when its time is over; then again one route goes alone, first, and
// one more NOTIFICATION sends the table back for four times as long.
//
// It is part of suspicion, and pure.
type doubt struct {
	tables  map[compile.Table]bool     // doubted
	cleared map[compile.Table]bool     // by a survivor, since suspicion became careful
	strikes map[compile.Table]*strikes // since a route of the table last survived
	records map[compile.Table]*Quarantine
}

// strikes are routes of a table each of which was alone when the router reset the session.
type strikes struct {
	routes map[string]bool // by ID
	points int
}

// strikesEnough is three NOTIFICATIONs, or five TCP closes.
const strikesEnough = 3 * pointsRefused

func newDoubt(records map[compile.Table]*Quarantine) *doubt {
	if records == nil {
		records = map[compile.Table]*Quarantine{}
	}
	d := &doubt{
		tables: map[compile.Table]bool{}, cleared: map[compile.Table]bool{},
		strikes: map[compile.Table]*strikes{}, records: records,
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
	d.strikes[t] = &strikes{routes: map[string]bool{}, points: strikesEnough - pointsRefused}
}

// survived notes that a route of the table outlived a span: the router takes some.
func (d *doubt) survived(t compile.Table) {
	if d.tables[t] {
		d.cleared[t] = true
	}
	delete(d.tables, t)
	delete(d.strikes, t)
	if r := d.records[t]; r != nil && r.Released {
		delete(d.records, t)
	}
}

// reset takes the tables of the routes that were hit.
func (d *doubt) reset(hit map[compile.Table]bool, careful bool) {
	for t := range hit {
		if careful && !d.cleared[t] {
			d.tables[t] = true
		}
	}
}

// strike notes that the router reset the session when the route was alone, and reports whether it takes none of its table.
func (d *doubt) strike(now time.Time, how ending, why string, id string, t compile.Table) (held bool) {
	s := d.strikes[t]
	if s == nil {
		s = &strikes{routes: map[string]bool{}}
		d.strikes[t] = s
	}
	if s.routes[id] {
		return false
	}
	s.routes[id] = true
	if s.points += pointsClosed; how == refused {
		s.points += pointsRefused - pointsClosed
	}
	if s.points < strikesEnough {
		return false
	}
	r := d.records[t]
	if r == nil {
		r = &Quarantine{Family: string(t)}
		d.records[t] = r
	}
	r.again(now, why)
	delete(d.tables, t)
	delete(d.strikes, t)
	return true
}

// forget ends all doubt but of tables that are tried again.
func (d *doubt) forget() {
	clear(d.cleared)
	for t := range d.tables {
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
		delete(d.records, t)
		d.try(t)
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
