package speaker

import (
	"fmt"
	"time"

	"github.com/amooglesoft/trafficmonitor/internal/compile"
)

// roofs are maxima of routes that a router was found to have by resetting the session at them (RFC 4486), by the table it
// counts; the key "" is for all tables together, of a router that did not say which it counts. It is pure.
type roofs map[compile.Table]roof

type roof struct {
	rules int
	cut   int       // how many fewer than what the router was handed
	until time.Time // when more are tried again
}

// roofTime is how long a maximum that was found is kept to: one reset an hour, at most.
const roofTime = time.Hour

// maximum is what a router said of the maximum of prefixes upon which it closed the session.
type maximum struct {
	table compile.Table // which it counts; empty when it does not say, or names one that is not ours
	rules int           // 0 when it does not say
}

// learn notes that a router that was handed so many routes, by table, closed the session for its maximum, and returns the
// table it counts and what it gets from now on. It gets fewer than it was handed, whatever it says; each time that is not
// enough twice as many are cut off, so that a router that does not say what it counts resets a few times only.
func (rs roofs) learn(now time.Time, said maximum, handed map[compile.Table]int) (of compile.Table, rules int) {
	n, all := handed[said.table], 0
	for _, m := range handed {
		all += m
	}
	if said.table != "" && (n == 0 || n == 1 && all > 1) { // it counts something else, or more than it says
		said = maximum{}
	}
	if said.table == "" {
		n = all
	}
	if n == 0 {
		return "", 0
	}
	r := rs[said.table]
	if now.After(r.until) {
		r.cut = 0
	}
	r.cut = max(2*r.cut, 1)
	r.rules, r.until = n-r.cut, now.Add(roofTime)
	if said.rules > 0 && said.rules <= r.rules {
		r.rules, r.cut = said.rules, 0
	}
	r.rules = max(r.rules, 1)
	rs[said.table] = r
	return said.table, r.rules
}

// expire forgets what sat its time, and returns when the next one has; 0 means never.
func (rs roofs) expire(now time.Time) (gone bool, wait time.Duration) {
	for t, r := range rs {
		if left := r.until.Sub(now); left > 0 {
			wait = sooner(wait, left)
			continue
		}
		delete(rs, t)
		gone = true
	}
	return gone, wait
}

// maxima are the roofs as a profile has them.
func (rs roofs) maxima() map[compile.Table]compile.Maximum {
	if len(rs) == 0 {
		return nil
	}
	out := make(map[compile.Table]compile.Maximum, len(rs))
	for t, r := range rs {
		out[t] = compile.Maximum{Routes: r.rules, Why: fmt.Sprintf("at which it reset the session: its own maximum of prefixes, which is kept to until %s", r.until.UTC().Format(time.RFC3339))}
	}
	return out
}
