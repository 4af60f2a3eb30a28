package safety

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
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

// What a judge says of some entries taken out and others put in is what Check says of the whole, and so on from there; after a
// refusal it goes on from the set before. Where it cannot tell there is a reason.
func TestJudgeOfAChange(t *testing.T) {
	rnd := rand.New(rand.NewPCG(9, 10))
	seen := map[string]int{}
	for round := range 700 {
		l := limits()
		l.MaxRules, l.MaxNewPerMinute = 3+rnd.IntN(20), 2+rnd.IntN(10)
		l.MaxRulesPerTarget, l.MaxRulesPerOwner = 1+rnd.IntN(3), 2+rnd.IntN(8)
		l.MaxRulesPerResponse, l.MaxRulesPerGroup = 1+rnd.IntN(5), 2+rnd.IntN(8)
		l.Own = prefixes("192.0.2.0/24 203.0.113.0/24 2001:db8::/32")
		l.MaxOwnShare = choose(rnd, 0.004, 0.01, 0.1, 0.25)
		set := make([]Entry, rnd.IntN(12))
		for i := range set {
			set[i] = randomEntry(rnd)
			if i > 0 && rnd.IntN(8) == 0 {
				set[i].Route = set[i-1].Route // twice
			}
		}
		set = pass(l, set)
		j := NewJudge(l)
		if v := j.Check(now, set); len(v) > 0 {
			t.Fatal(v)
		}
		at := now
		for range 12 {
			at = at.Add(time.Duration(rnd.IntN(20)) * time.Second)
			var out, in, stay []Entry
			for _, e := range set {
				if !e.Deadline.After(at) || rnd.IntN(14) == 0 {
					out = append(out, e)
				} else {
					stay = append(stay, e)
				}
			}
			younger := true
			for range rnd.IntN(3) {
				e := randomEntry(rnd)
				for rnd.IntN(60) > 0 && len(Check(now, l, []Entry{e})) > 0 {
					e = randomEntry(rnd)
				}
				if rnd.IntN(3) > 0 {
					e.Created, e.Deadline = at, at.Add(time.Hour)
				}
				if len(out) > 0 && rnd.IntN(2) == 0 { // a step: another rule of the same age
					was := choose(rnd, out...)
					e.Owners, e.Answers, e.Groups, e.Created, e.Manual, e.Deadline = was.Owners, was.Answers, was.Groups, was.Created, was.Manual, at.Add(time.Hour)
					if rnd.IntN(2) == 0 {
						e.Route.Match = was.Route.Match
					}
				}
				if rnd.IntN(4) == 0 { // two want it
					e.Owners = []string{"m-1", "m-2"}
				}
				if len(set) > 0 && rnd.IntN(6) == 0 {
					e.Route = choose(rnd, set...).Route
				} else if len(set) > 0 && rnd.IntN(4) == 0 {
					e.Route.Match = choose(rnd, set...).Route.Match
				}
				in = append(in, e)
			}
			for i := range in {
				for k := range stay {
					younger = younger && byAge(newEntry(&stay[k], 0), newEntry(&in[i], 0)) < 0
				}
			}
			whole := append(slices.Clone(stay), in...)
			want := Check(at, l, whole)
			got, ok := j.Change(at, out, in)
			what := fmt.Sprintf("round %d: %v out of %v, and in %v", round, texts(out), texts(set), texts(in))
			switch {
			case !ok && !double(append(slices.Clone(set), in...)):
				t.Fatalf("%s: it cannot tell, and nothing is in the way", what)
			case ok && (len(got) > 0) != (len(want) > 0):
				t.Fatalf("%s: it says %v, and Check %v", what, got, want)
			case ok && len(in) == 1 && younger && len(got) > 0:
				for i := range want {
					if want[i].Index != len(stay) {
						t.Fatalf("%s: %v of what was sound", what, want[i])
					}
					want[i].Index = 0
				}
				if !slices.Equal(got, want) {
					t.Fatalf("%s: it says %v, and Check %v", what, got, want)
				}
			}
			for _, v := range got {
				seen[string(v.Invariant)]++
			}
			switch {
			case !ok || len(got) > 0:
				if len(out) > 0 {
					seen["refused, and nothing taken out"]++
				}
			case len(out) == 0 && len(in) > 0:
				seen["added"]++
				set = whole
			case len(in) == 0 && len(out) > 0:
				seen["left"]++
				set = whole
			default:
				seen["swapped"]++
				set = whole
			}
			if !ok {
				seen["not told"]++
			}
			// What has passed is for the caller to see.
			set = slices.DeleteFunc(set, func(e Entry) bool {
				gone := !e.Deadline.After(at)
				if _, ok := j.Change(at, []Entry{e}, nil); gone && !ok && !double(set) {
					t.Fatalf("%s: it does not let go of %v", what, e)
				} else if !gone && ok {
					if v, ok := j.Change(at, nil, []Entry{e}); !ok || len(v) > 0 {
						t.Fatalf("%s: what was taken out may not come back: %v", what, v)
					}
				}
				return gone
			})
		}
	}
	for _, what := range []string{"added", "left", "swapped", "refused, and nothing taken out", "not told", string(Conflict), string(QuotaRules), string(QuotaNew), string(QuotaTarget), string(QuotaOwner), string(QuotaAnswer), string(QuotaGroup), string(QuotaOwnShare)} {
		if seen[what] < 50 {
			t.Errorf("%d times %s: too few to show anything", seen[what], what)
		}
	}
}

// double tells whether two entries want one route.
func double(set []Entry) bool {
	seen := map[string]bool{}
	for _, e := range set {
		if seen[e.Route.String()] {
			return true
		}
		seen[e.Route.String()] = true
	}
	return false
}

// An area from which prefixes are taken is that of those that are left.
func TestAreaOfWhatIsLeft(t *testing.T) {
	rnd := rand.New(rand.NewPCG(11, 12))
	for range 500 {
		a := newArea()
		var left []netip.Prefix
		for range 40 {
			if n := len(left); n > 0 && rnd.IntN(3) == 0 {
				i := rnd.IntN(n)
				a.remove(left[i])
				left = slices.Delete(left, i, i+1)
			} else {
				p := netip.PrefixFrom(netip.AddrFrom4([4]byte{192, 0, 2, byte(rnd.IntN(256))}), 24+rnd.IntN(9)).Masked()
				a.add(p)
				left = append(left, p)
			}
			if want := newPrefixSet(left); !slices.Equal(a.set, want) || a.space != want.space(false) {
				t.Fatalf("%v takes %v, and %v takes %v", a.set, a.space, want, want.space(false))
			}
		}
	}
}
