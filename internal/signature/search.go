package signature

import (
	"cmp"
	"math"
	"slices"

	"github.com/amooglesoft/trafficmonitor/internal/route"
)

// The search joins tests of several fields into rules, and keeps the best few of each depth.

const (
	beamWidth = 6
	beamDepth = 4 // components beside the base's
)

// plan is a conjunction that is looked at: at most one test of each field beside the base.
type plan struct {
	tests  [fields]uint8 // 1 + the number of the field's test
	attack bitset
	normal bitset
	hits   uint64
	score  float64
	covers bool
}

// option is a test with what it hits.
type option struct {
	test
	attack, normal bitset
}

// search returns the best conjunction for each choice of fields, the best first, as rules of one.
func (p *problem) search(sources bool) [][]route.Match {
	var options [fields][]option
	for f := range fields {
		tests := p.promising(f)
		if f == source && sources {
			tests = p.sourceTests()
		}
		for _, t := range tests {
			options[f] = append(options[f], option{t, p.attack.passing(&t), p.normal.passing(&t)})
		}
	}
	start := plan{attack: p.baseAttack, normal: p.baseNormal}
	p.rate(&start, &options)
	type choice [fields]bool
	best := map[choice]plan{}
	note := func(x plan) {
		var c choice
		for f, t := range x.tests {
			c[f] = t > 0
		}
		if old, ok := best[c]; x.covers && (!ok || better(x, old)) {
			best[c] = x
		}
	}
	note(start)
	beam, seen := []plan{start}, map[[fields]uint8]bool{}
	for range beamDepth {
		var next []plan
		for _, from := range beam {
			for f := range fields {
				if from.tests[f] > 0 {
					continue
				}
				for i := range options[f] {
					x := from
					x.tests[f] = uint8(i + 1)
					if seen[x.tests] {
						continue
					}
					seen[x.tests] = true
					o := &options[f][i]
					if p.coverage(p.attack.mass(from.attack, o.attack), 0) < p.o.Coverage {
						continue // with normal taken out it is even less
					}
					x.attack, x.normal = from.attack.and(o.attack), from.normal.and(o.normal)
					p.rate(&x, &options)
					if x.covers && (x.hits < from.hits || x.score < from.score) {
						note(x)
						next = append(next, x)
					}
				}
			}
		}
		slices.SortFunc(next, comparePlans)
		beam = next[:min(len(next), beamWidth)]
	}
	var plans []plan
	for _, x := range best {
		plans = append(plans, x)
	}
	slices.SortFunc(plans, comparePlans)
	var out [][]route.Match
	for _, x := range plans[:min(len(plans), p.o.MaxCandidates)] {
		out = append(out, []route.Match{p.widen(&x, &options)})
	}
	return out
}

func comparePlans(a, b plan) int {
	return cmp.Or(cmp.Compare(a.score, b.score), slices.Compare(a.tests[:], b.tests[:]))
}

func better(a, b plan) bool { return comparePlans(a, b) < 0 }

// match is the conjunction as a match.
func (p *problem) match(x *plan, options *[fields][]option) route.Match {
	m := p.base
	for f, t := range x.tests {
		if t > 0 {
			options[f][t-1].into(&m)
		}
	}
	return m
}

func (p *problem) rate(x *plan, options *[fields][]option) {
	m := p.match(x, options)
	kind := p.normal.mass(x.normal, p.kind)
	x.hits = p.normal.mass(x.normal, x.normal)
	coverage := p.coverage(p.attack.mass(x.attack, x.attack), kind)
	x.covers = coverage >= p.o.Coverage && Cost(m) <= p.o.MaxCost
	x.score = p.scoreOf(m, coverage, x.hits, kind)
}

func (p *problem) scoreOf(m route.Match, coverage float64, hits, kind uint64) float64 {
	return p.score(coverage, p.collateral(hits), p.kindShare(kind), p.volume(m), Cost(m), p.complexity(m))
}

// widen moves the ends of ranges outwards to multiples of powers of two where that makes the match cheaper, or cover
// more, and hits no more of what is normal.
func (p *problem) widen(x *plan, options *[fields][]option) route.Match {
	m := p.match(x, options)
	for _, f := range []field{length, destinationPort, sourcePort} {
		t := x.tests[f]
		if t == 0 || !slices.ContainsFunc(options[f][t-1].ranges, func(r route.Range) bool { return r.Lo != r.Hi }) {
			continue
		}
		attack, normal := p.baseAttack, p.baseNormal // what all other components hit
		for g, u := range x.tests {
			if u > 0 && field(g) != f {
				o := &options[g][u-1]
				attack, normal = attack.and(o.attack), normal.and(o.normal)
			}
		}
		a, n, k := p.along(f, &p.attack, attack, nil), p.along(f, &p.normal, normal, nil), p.along(f, &p.normal, normal, p.kind)
		rate := func(rs []route.Range) float64 {
			*f.ranges(&m) = rs
			if Cost(m) > p.o.MaxCost {
				return math.Inf(1)
			}
			kind := k.sum(rs)
			return p.scoreOf(m, p.coverage(a.sum(rs), kind), n.sum(rs), kind)
		}
		best := slices.Clone(options[f][t-1].ranges)
		least := rate(best)
		for i := range best {
			floor, ceiling := uint32(0), f.top()
			if i > 0 {
				floor = best[i-1].Hi + 1
			}
			if i+1 < len(best) {
				ceiling = best[i+1].Lo - 1
			}
			r := best[i]
			now := slices.Clone(best)
			for down := range 17 {
				lo := r.Lo >> down << down
				if lo < floor {
					break
				}
				for up := range 17 {
					hi := r.Hi | (1<<up - 1)
					if hi > ceiling {
						break
					}
					now[i] = route.Range{Lo: lo, Hi: hi}
					if rs := p.tidy(f, now); slices.Equal(rs, now) {
						if s := rate(rs); s < least-1e-12 {
							best, least = slices.Clone(now), s
						}
					}
					if hi == ceiling {
						break
					}
				}
				if lo == floor {
					break
				}
			}
		}
		*f.ranges(&m) = best
	}
	return m
}
