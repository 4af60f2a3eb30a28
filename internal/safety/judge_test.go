package safety

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

// What a judge says of a set that grows is what Check says of the whole. It says no only where that is so, or where the set
// was not sound, or where what came is not younger.
func TestJudge(t *testing.T) {
	rnd := rand.New(rand.NewPCG(7, 8))
	grown, refused := 0, 0
	for round := range 3_000 {
		l := limits()
		l.MaxRules, l.MaxNewPerMinute = 5+rnd.IntN(20), 2+rnd.IntN(10)
		l.MaxRulesPerTarget, l.MaxRulesPerOwner = 1+rnd.IntN(3), 2+rnd.IntN(8)
		l.MaxRulesPerResponse, l.MaxRulesPerGroup = 2+rnd.IntN(8), 2+rnd.IntN(8)
		l.Own = prefixes("192.0.2.0/24 203.0.113.0/24 2001:db8::/32")
		entries := func(n int) []Entry {
			set := make([]Entry, n)
			for i := range set {
				set[i] = randomEntry(rnd)
			}
			return set
		}
		set := entries(rnd.IntN(10))
		if rnd.IntN(4) > 0 {
			set = pass(l, set)
		}
		j := NewJudge(l)
		if got, want := j.Check(now, set), Check(now, l, set); !slices.Equal(got, want) {
			t.Fatalf("round %d: %v, not %v", round, got, want)
		}
		at := now
		for range rnd.IntN(5) {
			at = at.Add(time.Duration(rnd.IntN(30)) * time.Second)
			more := entries(rnd.IntN(3))
			if rnd.IntN(3) > 0 {
				more = pass(l, more)
			}
			for i := range more {
				if rnd.IntN(4) > 0 {
					more[i].Created, more[i].Deadline = at, at.Add(time.Hour)
				}
			}
			sound := len(Check(at, l, set)) == 0
			younger := true
			for i := range more {
				for k := range set {
					younger = younger && byAge(newEntry(&set[k], 0), newEntry(&more[i], 0)) < 0
				}
			}
			whole := append(slices.Clone(set), more...)
			want := Check(at, l, whole)
			for i := range more { // what is derived is checked where it is given
				more[i].Made = Make(more[i].Route)
			}
			switch got := j.Grow(at, more); {
			case got && len(want) > 0:
				t.Fatalf("round %d: passed, and Check says %v", round, want)
			case !got && len(want) == 0 && sound && younger:
				t.Fatalf("round %d: refused, and Check finds nothing in %v", round, texts(whole))
			case got:
				grown += len(more)
				set = whole
			case j.Grow(at, nil):
				t.Fatalf("round %d: it goes on from a set of which it could not tell", round)
			default:
				refused++
				if rnd.IntN(2) == 0 {
					set = whole
				}
				if v := j.Check(at, set); !slices.Equal(v, Check(at, l, set)) {
					t.Fatalf("round %d: %v", round, v)
				}
			}
		}
	}
	if grown < 300 || refused < 300 {
		t.Errorf("%d entries were added and %d times it said no: both should be many", grown, refused)
	}
}

// A route that comes later but was created earlier is not counted behind the younger ones: a minute of them could not be
// found any more.
func TestJudgeTakesNoOlderRoute(t *testing.T) {
	l := limits()
	l.MaxNewPerMinute = 2
	host := 10
	entry := func(age time.Duration) Entry {
		e := parseEntry(t, fmt.Sprintf("destination 192.0.2.%d protocol udp source-port 53", host))
		host++
		e.Created, e.Deadline = now.Add(-age), now.Add(time.Hour)
		return e
	}
	j := NewJudge(l)
	set := []Entry{entry(100 * time.Second)}
	if v := j.Check(now, set); len(v) > 0 {
		t.Fatal(v)
	}
	older, young := []Entry{entry(200 * time.Second)}, []Entry{entry(50 * time.Second), entry(49 * time.Second)}
	grown := j.Grow(now, older) && j.Grow(now, young)
	if whole := slices.Concat(set, older, young); grown || len(Check(now, l, whole)) == 0 {
		t.Error("three routes within a minute were found sound, two are the most allowed")
	}
}

// What a judge says of one entry more, of one in the place of another, and after some left, is what Check says of the whole.
// Where it cannot tell there is a reason.
func TestJudgeOfOneChange(t *testing.T) {
	rnd := rand.New(rand.NewPCG(9, 10))
	added, broken, swapped, notSwapped, afterLeft := 0, 0, 0, 0, 0
	for round := range 1_200 {
		l := limits()
		l.MaxRules, l.MaxNewPerMinute = 5+rnd.IntN(20), 2+rnd.IntN(10)
		l.MaxRulesPerTarget, l.MaxRulesPerOwner = 1+rnd.IntN(3), 2+rnd.IntN(8)
		l.MaxRulesPerResponse, l.MaxRulesPerGroup = 2+rnd.IntN(8), 2+rnd.IntN(8)
		l.Own = prefixes("192.0.2.0/24 203.0.113.0/24 2001:db8::/32")
		l.MaxOwnShare = choose(rnd, 0.004, 0.01, 0.1, 0.25)
		set := make([]Entry, rnd.IntN(12))
		for i := range set {
			set[i] = randomEntry(rnd)
		}
		set = pass(l, set)
		j := NewJudge(l)
		if v := j.Check(now, set); len(v) > 0 {
			t.Fatal(v)
		}
		at, left, cut := now, false, false
		for range 8 {
			at = at.Add(time.Duration(rnd.IntN(20)) * time.Second)
			set = slices.DeleteFunc(set, func(e Entry) bool {
				gone := !e.Deadline.After(at) || rnd.IntN(20) == 0
				if gone {
					j.Left()
					left = true
				}
				return gone
			})
			if len(set) == 0 || rnd.IntN(2) == 0 {
				more := randomEntry(rnd)
				if rnd.IntN(5) > 0 {
					more.Created, more.Deadline = at, at.Add(time.Hour)
				}
				whole := append(slices.Clone(set), more)
				want := Check(at, l, whole)
				younger, twice := true, false
				for k := range set {
					younger = younger && byAge(newEntry(&set[k], 0), newEntry(&more, 0)) < 0
					twice = twice || set[k].Route.Equal(more.Route)
				}
				for i := range want {
					if want[i].Index != len(set) && younger && !twice {
						t.Fatalf("round %d: %v of what was sound", round, want[i])
					}
					want[i].Index = 0
				}
				got, ok := j.Add(at, more)
				switch {
				case ok && !slices.Equal(got, want):
					t.Fatalf("round %d: %v, and Check says %v", round, got, want)
				case !ok && younger && !twice && !left && !cut:
					t.Fatalf("round %d: it cannot tell of %v, and nothing is in the way", round, more)
				case ok && len(got) > 0:
					broken++
				case ok:
					added++
					set = whole
					if left {
						afterLeft++
					}
				}
				continue
			}
			i := rnd.IntN(len(set))
			next := set[i]
			next.Route = randomEntry(rnd).Route
			if rnd.IntN(3) > 0 {
				next.Route.Match = set[i].Route.Match
			}
			next.Deadline = at.Add(time.Duration(rnd.IntN(100)) * time.Minute)
			whole := slices.Clone(set)
			whole[i] = next
			want := Check(at, l, whole)
			was, e := newEntry(&set[i], 0), newEntry(&next, 0)
			alone := len(next.Owners) == 1 && target(was) == target(e) && !left && !cut
			for k := range set {
				alone = alone && (k == i || newEntry(&set[k], 0).id != was.id && newEntry(&set[k], 0).id != e.id)
			}
			switch got := j.Swap(at, set[i], next); {
			case got && len(want) > 0:
				t.Fatalf("round %d: passed, and Check says %v", round, want)
			case !got && len(want) == 0 && alone && !cutsOff(was):
				t.Fatalf("round %d: it cannot tell of %v for %v, and nothing is in the way", round, next.Route, set[i].Route)
			case got:
				swapped++
				set, cut = whole, cut || cutsOff(was)
			default:
				notSwapped++
			}
		}
	}
	for what, n := range map[string]int{"added": added, "refused": broken, "swapped": swapped, "not swapped": notSwapped, "added after others left": afterLeft} {
		if n < 100 {
			t.Errorf("%d entries %s: too few to show anything", n, what)
		}
	}
}
