package speaker

import (
	"maps"
	"time"

	"github.com/amooglesoft/trafficmonitor/internal/compile"
)

// suspicion finds the routes upon which a router resets its session, from nothing but when routes were written and how
// sessions ended, and puts them in quarantine for that router.
//
// What was written within span before a router closed the session is suspect. After a NOTIFICATION, or a second TCP close
// in a row, the next session gets everything else first, stays without a suspect for one span (so a router that resets in
// any case clears them), and then gets the suspects in groups, a span between them. What survives a span is cleared; the
// group that does not is in focus, comes first and in smaller groups the next time. A route that is alone in focus and is
// hit until the points suffice goes into quarantine: after two ends by NOTIFICATION, or three by a TCP close, which has
// other causes too. It comes out when its time is over, and is then a suspect: it goes last, and one more NOTIFICATION
// sends it back for four times as long. Tables of which the router takes nothing are found by doubt.
//
// It is pure: no I/O, no lock, no clock.
type suspicion struct {
	span     time.Duration
	careful  bool            // suspects are held back
	suspects map[string]bool // by ID
	focus    map[string]bool // those of them that were hit last
	points   map[string]int  // by ID
	records  map[string]*Quarantine
	doubt    *doubt
}

// verdict is what the end of a session tells of routes.
type verdict struct {
	suspects int           // routes that are suspect now because of it
	jailed   string        // the ID of the route that went into quarantine
	held     compile.Table // the table that is kept from the router from now on
}

// Quarantine is a route, or a family, that is kept from one router because the router resets its session upon it.
type Quarantine struct {
	Route  string    `json:"route,omitempty"`  // empty for a family
	Family string    `json:"family,omitempty"` // a compile.Table, all routes of which are kept; empty for a route
	Since  time.Time `json:"since"`
	Until  time.Time `json:"until"`
	Times  int       `json:"times"` // how often it was put here
	Why    string    `json:"why"`   // the last reset in words
	// Released is set while the route is tried again.
	Released bool `json:"released,omitempty"`
	// Shapes are those of a family that were struck, the last of them last.
	Shapes []shape `json:"shapes,omitempty"`
}

const (
	blameSpan       = 3 * time.Second // how long after a route a router resets because of it; FRR, BIRD and ExaBGP take milliseconds
	groups          = 8
	pointsRefused   = 3
	pointsClosed    = 2
	pointsEnough    = 6
	quarantineFirst = 10 * time.Minute
	quarantineMost  = 24 * time.Hour
)

func newSuspicion(span time.Duration, records map[string]*Quarantine, tables map[compile.Table]*Quarantine) *suspicion {
	if records == nil {
		records = map[string]*Quarantine{}
	}
	s := &suspicion{span: span, suspects: map[string]bool{}, focus: map[string]bool{}, points: map[string]int{}, records: records, doubt: newDoubt(tables)}
	s.careful = len(s.doubt.tables) > 0
	for id, r := range records {
		if r.Released {
			s.try(id)
		}
	}
	return s
}

// try makes a route a suspect that one more reset sends back.
func (s *suspicion) try(id string) {
	s.careful = true
	s.suspects[id] = true
	s.points[id] = pointsEnough - pointsRefused
}

// quarantined returns why the route is kept from the router, or nil.
func (s *suspicion) quarantined(id string) *Quarantine {
	if r := s.records[id]; r != nil && !r.Released {
		return r
	}
	return nil
}

// suspect reports whether a route is held back in the next session.
func (s *suspicion) suspect(it *item) bool {
	return s.careful && (s.suspects[it.id] || s.focus[it.id] || s.doubt.tables[it.enc.table])
}

// survivors finds the tables of which a route lived for a span, and reports whether one of them was under doubt. A session
// may be long.
func (s *suspicion) survivors(now time.Time, sent map[string]*held) (found bool) {
	for _, h := range sent {
		if t := h.enc.table; !s.doubt.taken[t] && !h.written.IsZero() && now.Sub(h.written) >= s.span {
			found = s.doubt.survived(t) || found
		}
	}
	s.settle()
	return found
}

// settle ends the care when nothing is suspect any more.
func (s *suspicion) settle() {
	if s.careful = s.careful && len(s.suspects)+len(s.doubt.tables) > 0; !s.careful {
		s.doubt.forget()
	}
}

// ended takes the end of a session and returns what changed.
func (s *suspicion) ended(now time.Time, how ending, why string, sent map[string]*held) verdict {
	if how != silent { // the router lived to the end
		s.survivors(now, sent)
		for id := range s.suspects {
			if h := sent[id]; h != nil && !h.written.IsZero() && now.Sub(h.written) > s.span {
				s.acquit(id)
			}
		}
	}
	if how != refused && how != closed {
		return verdict{}
	}
	var hit map[string]bool
	for span := s.span; ; span *= 2 {
		hit = map[string]bool{}
		for id, h := range sent {
			if !h.written.IsZero() && now.Sub(h.written) <= span {
				hit[id] = true
			}
		}
		if len(hit) > 0 || how != refused || span > 32*s.span {
			break // what a router refuses was sent by us: look further back
		}
	}
	if len(hit) == 0 {
		return verdict{}
	}
	both, tables := map[string]bool{}, map[compile.Table]bool{}
	for id := range hit {
		tables[sent[id].enc.table] = true
		if s.suspects[id] {
			both[id] = true
		}
	}
	switch {
	case !s.careful && len(both) == 0:
		s.careful = how == refused
		s.suspects, s.focus = hit, maps.Clone(hit)
	case !s.careful:
		s.careful = true
		s.suspects, s.focus = both, maps.Clone(both)
	case len(both) == 0: // something else as well
		maps.Copy(s.suspects, hit)
	default:
		s.focus = both
	}
	s.doubt.reset(tables, s.careful)
	if len(hit) == 1 {
		for id := range hit {
			if it := sent[id].item; s.doubt.strike(now, how, why, it) {
				s.acquitAll()
				return verdict{held: it.enc.table}
			}
		}
	}
	for id := range s.points {
		if !hit[id] {
			delete(s.points, id)
		}
	}
	jailed := ""
	for id := range s.focus {
		jailed = id
	}
	if len(s.focus) > 1 || !hit[jailed] {
		return verdict{suspects: len(s.suspects)}
	}
	if how == refused {
		s.points[jailed] += pointsRefused
	} else {
		s.points[jailed] += pointsClosed
	}
	if s.points[jailed] < pointsEnough {
		return verdict{suspects: len(s.suspects)}
	}
	s.doubt.explained(tables)
	s.drop(jailed)
	r := s.records[jailed]
	if r == nil {
		r = &Quarantine{Route: sent[jailed].text}
		s.records[jailed] = r
	}
	r.again(now, why)
	return verdict{suspects: len(s.suspects), jailed: jailed}
}

// again keeps what the record is of for longer than the last time.
func (q *Quarantine) again(now time.Time, why string) {
	q.Times++
	q.Since, q.Why, q.Released = now, why, false
	last := quarantineFirst
	for range q.Times - 1 {
		last = min(4*last, quarantineMost)
	}
	q.Until = now.Add(last)
}

// acquitAll ends all suspicion but of what is tried again: what happened is explained.
func (s *suspicion) acquitAll() {
	clear(s.suspects)
	clear(s.focus)
	clear(s.points)
	s.doubt.forget()
	s.careful = len(s.doubt.tables) > 0
	for id, r := range s.records {
		if r.Released {
			s.try(id)
		}
	}
}

// drop makes a route no suspect any more.
func (s *suspicion) drop(id string) {
	delete(s.suspects, id)
	delete(s.focus, id)
	delete(s.points, id)
	s.settle()
}

func (s *suspicion) acquit(id string) {
	s.drop(id)
	if r := s.records[id]; r != nil && r.Released {
		delete(s.records, id)
	}
}

// release lets go what sat its time, and returns when the next one has; 0 means never.
func (s *suspicion) release(now time.Time) (released []string, wait time.Duration) {
	for id, r := range s.records {
		switch left := r.Until.Sub(now); {
		case r.Released && left < -quarantineMost:
			delete(s.records, id) // nobody wanted it for a day
			s.drop(id)
		case r.Released:
		case left <= 0:
			r.Released = true
			s.try(id)
			released = append(released, id)
		default:
			wait = sooner(wait, left)
		}
	}
	tables, next := s.doubt.release(now)
	s.careful = s.careful || len(tables) > 0
	return append(released, tables...), sooner(wait, next)
}

// pardon is release by an engineer's word, whose record starts anew. An empty route means all; a table's name is as good.
func (s *suspicion) pardon(route string) (released []string) {
	for id, r := range s.records {
		if route != "" && r.Route != route {
			continue
		}
		if !r.Released {
			released = append(released, r.Route)
		}
		delete(s.records, id)
		s.suspects[id], s.careful = true, true
		delete(s.points, id)
	}
	tables := s.doubt.pardon(route)
	s.careful = s.careful || len(s.doubt.tables) > 0
	return append(released, tables...)
}
