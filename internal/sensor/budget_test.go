package sensor

import (
	"math"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

var asked = effort{sampleOneIn: 64, hotSampleOneIn: 8, profiles: 100, hot: 100 * time.Millisecond}

func TestRestrained(t *testing.T) {
	for _, tc := range []struct {
		level int
		want  effort
	}{
		{0, asked},
		{1, effort{128, 16, 100, asked.hot}},
		{levelSparse, effort{64 << 6, 8 << 6, 100, asked.hot}},
		{levelBlind, effort{0, 0, 100, asked.hot}},
		{levelFew, effort{0, 0, 50, asked.hot}},
		{levelBlank, effort{0, 0, 0, asked.hot}},
		{levelBlank + 1, effort{0, 0, 0, 2 * asked.hot}},
		{levelSlow, effort{0, 0, 0, 32 * asked.hot}},
	} {
		if d := cmp.Diff(tc.want, restrained(asked, tc.level), cmp.AllowUnexported(effort{})); d != "" {
			t.Errorf("level %d (-want +got):\n%s", tc.level, d)
		}
	}
	if got := restrained(effort{sampleOneIn: 1 << 30}, 5).sampleOneIn; got != math.MaxUint32 {
		t.Errorf("one in 2^30, five times halved, is one in %d", got)
	}
	if got := restrained(effort{hot: maxHotInterval}, levelSlow).hot; got != maxHotInterval {
		t.Errorf("the longest hot interval becomes %s", got)
	}
}

// TestLadderSkipsWhatChangesNothing: a level at which nothing is done less would only lose time.
func TestLadderSkipsWhatChangesNothing(t *testing.T) {
	for _, a := range []effort{asked, {hot: time.Second}, {sampleOneIn: 1, hot: time.Second}, {profiles: 1, hot: maxHotInterval}, {profiles: 9}, {}} {
		for _, hot := range []bool{false, true} {
			g := governor{asked: a}
			level := 0
			for {
				next := g.lower(level, hot)
				if next == level {
					break
				}
				if back := g.higher(next); restrained(a, back) == restrained(a, next) {
					t.Errorf("%+v: from level %d the way back to %d changes nothing", a, next, back)
				}
				level = next
			}
			end := restrained(a, level)
			if end.sampleOneIn != 0 || end.hotSampleOneIn != 0 || end.profiles != 0 || !hot && end.hot != a.hot {
				t.Errorf("%+v, hot %v: the ladder ends at %+v", a, hot, end)
			}
		}
	}
}

// load is what a simulated sensor costs, as shares of a core.
type load struct{ fixed, sampling, profiles, reports, noise float64 }

func (l load) of(e effort, random *rand.Rand) float64 {
	s := l.fixed
	if e.sampleOneIn > 0 {
		s += l.sampling * float64(asked.sampleOneIn) / float64(e.sampleOneIn)
	}
	s += l.profiles * float64(e.profiles) / float64(asked.profiles)
	s += l.reports * float64(asked.hot) / float64(e.hot)
	return s * (1 + l.noise*(2*random.Float64()-1))
}

// TestGovernor drives the governor through loads that stay the same for an hour, and then fall.
func TestGovernor(t *testing.T) {
	budget := Budget{Rest: 0.02, Most: 0.25}
	for seed := range uint64(300) {
		random := rand.New(rand.NewPCG(seed, 1))
		g := governor{budget: budget, asked: asked}
		hot := seed%2 == 1
		x, limit := g.gear(hot)
		draw := func() float64 { return limit * math.Pow(2, 8*random.Float64()-6) } // limit/64 to 4 times the limit
		l := load{draw() / 4, 16 * draw(), draw(), draw(), 0.3 * random.Float64()}
		if !hot {
			l.reports = 0
		}
		last := -time.Second
		level, down, up := 0, 0, 0
		run := func(l load, from, to time.Duration, check func(now time.Duration)) {
			for now := from; now < to; now += time.Second {
				share := l.of(g.effort(hot), random)
				g.observe(time.Second, time.Duration(share*float64(time.Second)), hot)
				if x.level != level {
					since := now - last
					switch {
					case x.level > level && since < settle:
						t.Fatalf("seed %d: less is done %s after the last change", seed, since)
					case x.level < level && since < patience:
						t.Fatalf("seed %d: more is done %s after the last change", seed, since)
					case x.level > level:
						down++
					default:
						up++
					}
					level, last = x.level, now
				}
				check(now)
			}
		}
		settled := 2 * time.Minute
		over := 0
		run(l, 0, time.Hour, func(now time.Duration) {
			if now > settled && x.share > limit && x.span >= settle && !x.spent {
				over++
			}
		})
		if over > 3600/20 {
			t.Errorf("seed %d: over the budget for %d seconds of an hour, although something was left to give up: %+v %+v", seed, over, l, *x)
		}
		if up > 40 {
			t.Errorf("seed %d: it went to and fro: %d times more, %d times less in an hour of the same load: %+v", seed, up, down, l)
		}
		if x.spent && x.share <= limit {
			t.Errorf("seed %d: it says that nothing is left to give up at %g of %g", seed, x.share, limit)
		}
		// The load falls: all of it comes back, and soon.
		run(load{fixed: limit / 4}, time.Hour, time.Hour+2*mostPatience+(levelSlow+1)*patience, func(time.Duration) {})
		if x.level != 0 || g.effort(hot) != asked || x.spent {
			t.Errorf("seed %d: the load is gone, but level %d is kept", seed, x.level)
		}
	}
}

func TestGovernorIsQuickWhenFarOver(t *testing.T) {
	g := governor{budget: Budget{Rest: 0.02, Most: 0.25}, asked: asked}
	for range 3 {
		g.observe(time.Second, time.Second, true) // four times the budget
	}
	if got := g.gears[1].level; got != 3 {
		t.Errorf("level %d after three seconds, want 3: an eighth of the samples", got)
	}
	if got := g.gears[0]; got != (gear{}) {
		t.Errorf("at rest nothing was learned, but its gear is %+v", got)
	}
	if g.effort(false) != asked {
		t.Errorf("at rest %+v is done", g.effort(false))
	}
	g.observe(0, time.Second, true)
	g.observe(-time.Second, time.Second, true)
	if got := g.gears[1]; got.changes != 1 {
		t.Errorf("no time passed, yet the gear is %+v", got)
	}
}

func TestGovernorSaysWhenNothingIsLeft(t *testing.T) {
	g := governor{budget: Budget{Rest: 0.02, Most: 0.25}, asked: asked}
	for range 120 {
		g.observe(time.Second, time.Second, false)
	}
	x, _ := g.gear(false)
	if !x.spent || x.level != levelBlank {
		t.Errorf("two minutes at fifty times the budget: %+v", *x)
	}
	g.observe(8*time.Second, 0, false)
	if x.spent {
		t.Errorf("idle, but still spent: %+v", *x)
	}
}

func TestProcessTimeGrows(t *testing.T) {
	before := processTime()
	for n := 0; processTime() == before; n++ {
		if n > 1<<26 {
			t.Fatal("the CPU time of this process stands still")
		}
	}
}
