package traffic

import (
	"maps"
	"net/netip"
	"slices"
	"time"
)

// silent drops the shares of a target that a report does not speak of.
func (v *View) silent(s *sensor, p netip.Prefix, l *link, n counted) {
	if l.report != s.report {
		l.report, l.said = s.report, 0
	}
	if l.said < l.shares {
		v.drop(s, l, n, func(x *share) bool { return x.report != s.report })
	}
	if l.shares == 0 {
		if l.t.network {
			delete(s.networks, p)
		} else {
			delete(s.targets, p)
		}
		v.links--
	}
}

// drop takes shares of a sensor out of a target.
func (v *View) drop(s *sensor, l *link, n counted, pick func(*share) bool) {
	t := l.t
	for k := 0; k < len(t.sums); k++ {
		i, ok := v.find(t, k, s)
		if !ok || !pick(&t.shares[i]) {
			continue
		}
		x, total := t.shares[i], &t.sums[k]
		v.note(t, total.column, k, true, n, 0, 0)
		if x.held {
			total.heldPPS -= x.pps
			total.heldBPS -= x.bps
		} else {
			total.pps -= x.pps
			total.bps -= x.bps
		}
		t.shares = slices.Delete(t.shares, i, i+1)
		for j := k + 1; j < len(t.sums); j++ {
			t.sums[j].first--
		}
		if t.end(k) == int(total.first) {
			t.sums = slices.Delete(t.sums, k, k+1)
			v.sums--
			k--
		}
		l.shares--
		v.shares--
	}
}

// Expire holds the shares of sensors that went silent and drops those silent for too long: Collect tells of what lost a
// share for good.
func (v *View) Expire(now time.Time) {
	for _, name := range slices.Sorted(maps.Keys(v.sensors)) {
		s := v.sensors[name]
		switch silence := now.Sub(s.last); {
		case silence >= v.o.ForgetAfter:
			n := counted{start: now}
			for _, links := range []map[netip.Prefix]*link{s.targets, s.networks} {
				for _, l := range links {
					v.drop(s, l, n, func(*share) bool { return true })
					v.links--
				}
			}
			delete(v.sensors, name)
			v.names[s.number] = nil
			v.free = append(v.free, s.number)
		case silence >= v.o.StaleAfter && !s.stale:
			s.stale = true
			v.mark(s, true)
		}
	}
}

// Whole returns a span of which all sensors named have told all they saw, the newest there is: what none of them reports was
// not there. Ok is false when one is silent, or has not reported an interval yet.
func (v *View) Whole(names []string) (from, to time.Time, ok bool) {
	for i, name := range names {
		s := v.sensors[name]
		if s == nil || s.stale || s.to.IsZero() {
			return time.Time{}, time.Time{}, false
		}
		if i == 0 || s.from.Before(from) {
			from = s.from
		}
		if i == 0 || s.to.Before(to) {
			to = s.to
		}
	}
	return from, to, len(names) > 0
}

// Stale returns the sensors whose share is held, sorted.
func (v *View) Stale() []string {
	var out []string
	for name, s := range v.sensors {
		if s.stale {
			out = append(out, name)
		}
	}
	slices.Sort(out)
	return out
}

// mark moves a sensor's shares to what is held, or back.
func (v *View) mark(s *sensor, held bool) {
	for _, links := range []map[netip.Prefix]*link{s.targets, s.networks} {
		for _, l := range links {
			for k := range l.t.sums {
				i, ok := v.find(l.t, k, s)
				if !ok || l.t.shares[i].held == held {
					continue
				}
				x, total, sign := &l.t.shares[i], &l.t.sums[k], int64(1)
				if !held {
					sign = -1
					x.cause = Interval // what it says from now on counts
				}
				x.held = held
				total.pps -= sign * x.pps
				total.bps -= sign * x.bps
				total.heldPPS += sign * x.pps
				total.heldBPS += sign * x.bps
			}
		}
	}
}
