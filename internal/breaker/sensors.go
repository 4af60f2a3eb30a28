package breaker

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"time"

	"github.com/amooglesoft/trafficmonitor/internal/traffic"
	"github.com/amooglesoft/trafficmonitor/internal/vector"
)

// ballot is where sensors say what they see of one answered attack.
type ballot struct {
	Announcement
	counts map[string]*count // by sensor
}

// count is what one sensor counted at the target since the answer: packets of the attack, and of what else it receives.
type count struct{ attack, other uint64 }

// verdict is a ballot that was counted.
type verdict struct {
	ballot  *ballot
	sensor  string // that counts most
	finding Verdict
}

// triggered is the span that the word which led to an answer is taken to be from: the shortest there is.
const triggered = 20 * time.Millisecond

const (
	// leastOther is how many packets of a target's other traffic other sensors must count to show that it comes past them,
	// and elsewhere how many times as many as the one does.
	leastOther = 20
	elsewhere  = 4
	// Of all targets answered, so many are disputed, or on the word of one sensor.
	disputedShare  = 0.5
	oneSensorShare = 0.8
	// Where fewer sensors report, that many attacks come past one is no wonder.
	leastSensors = 3
)

func (b *Breaker) vote(a Announcement) {
	if b.o.DisputedTargets == 0 && b.o.OneSensorTargets == 0 {
		return
	}
	if slices.ContainsFunc(b.ballots[a.Target], func(x *ballot) bool { return x.ID == a.ID }) {
		return // its rule has changed meanwhile
	}
	if slices.ContainsFunc(b.verdicts, func(v verdict) bool { return v.ballot.ID == a.ID }) {
		return
	}
	x := &ballot{a, map[string]*count{}}
	for _, s := range a.Seen {
		x.counts[s.Sensor] = &count{attack: uint64(s.PPS * triggered.Seconds())}
	}
	b.ballots[a.Target] = append(b.ballots[a.Target], x)
}

func (b *Breaker) count(r traffic.Report) {
	var last netip.Prefix
	var ballots []*ballot // of that one
	for i := range r.Aggregates {
		a := &r.Aggregates[i]
		if a.Direction != vector.Inbound {
			continue
		}
		if a.Target != last { // those of one target come in a row
			last, ballots = a.Target, b.ballots[a.Target]
		}
		for _, x := range ballots {
			c := x.counts[r.Sensor]
			if c == nil {
				c = &count{}
				x.counts[r.Sensor] = c
			}
			switch a.Vector {
			case x.Vector:
				c.attack += a.Packets
			case vector.Total: // all of it once more
			default:
				c.other += a.Packets
			}
		}
	}
}

// find counts a ballot.
func (b *Breaker) find(x *ballot) verdict {
	names := slices.SortedFunc(maps.Keys(x.counts), func(p, q string) int {
		return cmp.Or(cmp.Compare(x.counts[q].attack, x.counts[p].attack), cmp.Compare(p, q))
	})
	others := 0 // sensors that reported since
	for name, at := range b.seen {
		if !at.Before(x.At) && (len(names) == 0 || name != names[0]) {
			others++
		}
	}
	if len(names) == 0 || x.counts[names[0]].attack == 0 || others == 0 {
		return verdict{x, "", Unconfirmed}
	}
	v := verdict{x, names[0], Alone}
	top := x.counts[names[0]]
	var other uint64
	for _, n := range names[1:] {
		c := x.counts[n]
		if float64(c.attack) >= b.o.Agreement*float64(top.attack) {
			v.finding = Agreed
			return v
		}
		other += c.other
	}
	if other >= leastOther && other > elsewhere*top.other {
		v.finding = Contested
	}
	return v
}

func (b *Breaker) judge(now time.Time) (Trip, bool) {
	fresh := false
	for _, p := range sortedTargets(b.ballots) {
		left := b.ballots[p][:0]
		for _, x := range b.ballots[p] {
			if now.Sub(x.At) < b.o.Settle {
				left = append(left, x)
				continue
			}
			v := b.find(x)
			b.found[v.finding]++
			b.verdicts = append(b.verdicts, v)
			fresh = true
		}
		if b.ballots[p] = left; len(left) == 0 {
			delete(b.ballots, p)
		}
	}
	b.verdicts = slices.DeleteFunc(b.verdicts, func(v verdict) bool { return now.Sub(v.ballot.At) > b.o.Span+b.o.Settle })
	if !fresh {
		return Trip{}, false
	}

	judged := map[netip.Prefix]bool{}
	contested, alone := map[netip.Prefix]string{}, map[netip.Prefix]string{} // the sensor by target
	for _, v := range b.verdicts {
		t := v.ballot.Target
		switch v.finding {
		case Unconfirmed:
			continue
		case Contested:
			contested[t] = v.sensor
			alone[t] = v.sensor
		case Alone:
			alone[t] = v.sensor
		}
		judged[t] = true
	}
	sensor, n := most(tally(alone))
	if d := len(contested); b.o.DisputedTargets > 0 && d >= b.o.DisputedTargets && float64(d) >= disputedShare*float64(len(judged)) {
		behind, at := most(tally(contested))
		return b.open(Disputed, behind, contested, fmt.Sprintf("of %d targets answered within %s, the attacks on %d are reported by one sensor alone, though the targets' other traffic comes past others, which see none of it; %s reports %d of them",
			len(judged), b.o.Span, d, behind, at)), true
	}
	if b.o.OneSensorTargets > 0 && n >= b.o.OneSensorTargets && float64(n) >= oneSensorShare*float64(len(judged)) && b.reporting(now) >= leastSensors {
		maps.DeleteFunc(alone, func(_ netip.Prefix, s string) bool { return s != sensor })
		return b.open(OneSensor, sensor, alone, fmt.Sprintf("of %d targets answered within %s, the attacks on %d are reported by sensor %s alone, of %d that report",
			len(judged), b.o.Span, n, sensor, b.reporting(now))), true
	}
	return Trip{}, false
}

// reporting counts the sensors that reported lately.
func (b *Breaker) reporting(now time.Time) (n int) {
	for _, at := range b.seen {
		if now.Sub(at) <= b.o.Settle {
			n++
		}
	}
	return n
}

// open makes the trip: of the targets it is about, and of those that were not judged yet, everything goes that sensors do
// not agree on.
func (b *Breaker) open(why Reason, sensor string, about map[netip.Prefix]string, says string) Trip {
	back := map[string]bool{}
	targets := map[netip.Prefix]bool{}
	for _, v := range b.verdicts {
		if _, ok := about[v.ballot.Target]; ok && v.finding != Agreed {
			back[v.ballot.ID], targets[v.ballot.Target] = true, true
		}
	}
	for p, xs := range b.ballots {
		for _, x := range xs {
			back[x.ID], targets[p] = true, true
		}
	}
	b.verdicts = nil
	clear(b.ballots)
	return Trip{Reason: why, Then: b.o.OnDisagreement, Mitigations: ids(back), Targets: sortedTargets(targets), Sensor: sensor, Says: says}
}

func tally(sensors map[netip.Prefix]string) map[string]int {
	n := map[string]int{}
	for _, s := range sensors {
		n[s]++
	}
	return n
}
