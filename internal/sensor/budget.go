package sensor

import (
	"math"
	"math/bits"
	"time"

	"golang.org/x/sys/unix"
)

// Budget is the CPU time the process of a sensor may take, as shares of one core. What the programs take in the kernel,
// while the machine receives packets, is not in it: asking the kernel for that would cost more than the programs do.
type Budget struct {
	Rest float64 // while no target is hot
	Most float64 // always
}

// effort is what can be done less of. Counting, triggers and interval reports are not in it: they are never given up.
type effort struct {
	sampleOneIn    uint32 // 0 samples none
	hotSampleOneIn uint32 // of hot targets; 0 is as sampleOneIn says
	profiles       int    // of the busiest targets
	hot            time.Duration
}

// The ladder of what is done less of, step by step: each level includes those before it.
const (
	levelSparse = 6               // so often sampling is halved,
	levelBlind  = levelSparse + 1 // then there is none,
	levelFew    = levelBlind + 1  // then half the profiles,
	levelBlank  = levelFew + 1    // then none,
	levelSlow   = levelBlank + 5  // and so often the hot interval doubles
)

// restrained returns what of asked is left at a level.
func restrained(asked effort, level int) effort {
	e := asked
	switch {
	case level >= levelBlind:
		e.sampleOneIn, e.hotSampleOneIn = 0, 0
	case level > 0:
		e.sampleOneIn = sparser(asked.sampleOneIn, level)
		e.hotSampleOneIn = sparser(asked.hotSampleOneIn, level)
	}
	switch {
	case level >= levelBlank:
		e.profiles = 0
	case level >= levelFew:
		e.profiles = asked.profiles / 2
	}
	if level > levelBlank {
		e.hot = max(asked.hot, min(asked.hot<<(level-levelBlank), maxHotInterval))
	}
	return e
}

func sparser(oneIn uint32, times int) uint32 {
	if bits.Len32(oneIn)+times > 32 {
		return math.MaxUint32
	}
	return oneIn << times
}

// The pace of the governor.
const (
	// settle is how long a level is looked at before it is found too expensive.
	settle = 3 * time.Second
	// lookBack is the span the average is taken over.
	lookBack = 8 * time.Second
	// patience is how long a level must keep within the budget before the next is dared. Where that was too early it
	// doubles, up to mostPatience.
	patience     = 10 * time.Second
	mostPatience = 5 * time.Minute
)

// gear is the governor's state while targets are hot, or while none is. What was learned in one says nothing of the other.
type gear struct {
	level   int
	share   float64                      // of one core, averaged since the last change of level
	span    time.Duration                // that share looks back on, at most lookBack
	since   time.Duration                // time spent in this gear since the last change of level
	dared   bool                         // the last change was to do more,
	from    int                          // from this level
	waits   [levelSlow + 1]time.Duration // more than patience where daring more failed, by level
	spent   bool                         // nothing is left to give up, and still it is too much
	changes int
}

// governor decides how much is done. It has no clock: it is told how much time passed, and how much of it was used.
type governor struct {
	budget Budget
	asked  effort
	gears  [2]gear // at rest, hot
}

func (g *governor) gear(hot bool) (*gear, float64) {
	if hot {
		return &g.gears[1], g.budget.Most
	}
	return &g.gears[0], g.budget.Rest
}

// effort is what is to be done now.
func (g *governor) effort(hot bool) effort {
	x, _ := g.gear(hot)
	return restrained(g.asked, x.level)
}

// observe takes in that the process used so much CPU time in the span that just passed.
func (g *governor) observe(span, used time.Duration, hot bool) {
	if span <= 0 {
		return
	}
	x, limit := g.gear(hot)
	x.since += span
	x.span = min(x.span+span, lookBack)
	x.share += (float64(used)/float64(span) - x.share) * min(1, float64(span)/float64(x.span))
	switch {
	case x.span < settle:
	case x.share > limit:
		next := g.lower(x.level, hot)
		for range bits.Len(uint(x.share/limit)) - 1 { // a level halves what it is about, so take as many as there are halvings
			next = g.lower(next, hot)
		}
		x.spent = next == x.level
		if x.spent {
			return
		}
		if x.dared {
			x.waits[x.from] = min(2*max(x.waits[x.from], patience), mostPatience)
		}
		x.change(next)
		x.dared = false
	case x.level > 0 && x.since >= max(x.waits[x.level], patience):
		if x.dared {
			x.waits[x.from] = 0 // that went well
		}
		from := x.level
		x.change(g.higher(from))
		x.dared, x.from = true, from
	default:
		x.spent = false
		if x.level == 0 && x.since >= mostPatience {
			x.dared, x.waits = false, [levelSlow + 1]time.Duration{}
		}
	}
}

func (x *gear) change(level int) {
	x.level, x.spent = level, false
	x.share, x.span, x.since = 0, 0, 0
	x.changes++
}

// lower is the next level at which less is done; the same where nothing is left. At rest the hot interval costs nothing,
// and must be as asked when a target becomes hot.
func (g *governor) lower(level int, hot bool) int {
	last := levelBlank
	if hot {
		last = levelSlow
	}
	for l := level + 1; l <= last; l++ {
		if restrained(g.asked, l) != restrained(g.asked, level) {
			return l
		}
	}
	return level
}

// higher is the highest of the levels below at which more is done.
func (g *governor) higher(level int) int {
	for l := level - 1; l > 0; l-- {
		if restrained(g.asked, l) != restrained(g.asked, level) {
			return l
		}
	}
	return 0
}

// processTime is the CPU time this process has used.
func processTime() time.Duration {
	var r unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &r); err != nil {
		return 0 // cannot fail for ourselves
	}
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}
