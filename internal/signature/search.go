package signature

import (
	"cmp"
	"math"
	"net/netip"
	"slices"
	"time"

	"github.com/amooglesoft/trafficmonitor/internal/route"
	"github.com/amooglesoft/trafficmonitor/internal/safety"
	"github.com/amooglesoft/trafficmonitor/internal/vector"
)

const (
	testsPerField = 6 // the most promising ones
	beamWidth     = 6
	beamDepth     = 4 // components beside the base's
	leastInGap    = 3 // samples
)

// trims are the parts of what may be missed that a single test gives up at once.
var trims = []float64{0, 0.1, 0.4, 0.8}

// bin is one value of a field.
type bin struct {
	value  uint32
	attack float64 // share of the attack's packets, those that are normal taken out
	normal float64 // share of the target's normal packets
}

// bins returns how attack and normal are spread over the values of a field, in order of the values. Samples the base
// does not hit are left out, but count in the whole.
func (p *problem) bins(f field) []bin {
	collect := func(s *set, in bitset, also bitset) (pairs []uint64) {
		for i, x := range s.samples {
			if in != nil && !in.has(i) || also != nil && !also.has(i) {
				continue
			}
			if v, ok := f.value(x); ok {
				pairs = append(pairs, uint64(v)<<32|weight(x))
			}
		}
		slices.Sort(pairs)
		return pairs
	}
	attack, normal := collect(&p.attack, p.baseAttack, nil), collect(&p.normal, p.baseNormal, nil)
	var kind []uint64
	if p.share > 0 {
		kind = collect(&p.normal, p.baseNormal, p.kind)
	}
	take := func(from *[]uint64, v uint32) (sum uint64) {
		for len(*from) > 0 && uint32((*from)[0]>>32) == v {
			sum += (*from)[0] & math.MaxUint32
			*from = (*from)[1:]
		}
		return sum
	}
	var out, usual []bin
	for len(attack)+len(normal) > 0 {
		v := uint32(math.MaxUint32)
		if len(attack) > 0 {
			v = min(v, uint32(attack[0]>>32))
		}
		if len(normal) > 0 {
			v = min(v, uint32(normal[0]>>32))
		}
		a, n, k := take(&attack, v), take(&normal, v), take(&kind, v)
		out = append(out, bin{value: v, attack: float64(a) / float64(p.attack.total), normal: p.collateral(n)})
		if k > 0 {
			usual = append(usual, bin{value: v, attack: p.share * float64(k) / float64(p.kindTotal)})
		}
	}
	if p.share > 0 {
		explain(out, usual, f.reach())
		for i := range out {
			out[i].attack /= 1 - p.share
		}
	}
	return out
}

// reach is how far apart two values are at most that still say the same: a profile of samples does not hold every value
// there is.
func (f field) reach() int {
	switch f {
	case length:
		return 64
	case sourcePort, destinationPort:
		return 1024
	}
	return 0
}

// explain takes what is usual out of bins, from the nearest that have something left. Both are in order of values.
func explain(bins, usual []bin, reach int) {
	up, down := make([]int, len(bins)+1), make([]int, len(bins)+1) // where to look on; by bin, and by bin + 1
	for i := range up {
		up[i], down[i] = i, i
	}
	find := func(next []int, i int) int {
		for next[i] != i {
			next[i] = next[next[i]]
			i = next[i]
		}
		return i
	}
	at := 0
	for _, u := range usual {
		for at < len(bins) && bins[at].value < u.value {
			at++
		}
		for left := u.attack; left > 0; {
			r, l := find(up, at), find(down, at)-1 // the next with something left at or above, and below
			far := func(i int) int {
				if i < 0 || i >= len(bins) {
					return math.MaxInt
				}
				return max(int(bins[i].value)-int(u.value), int(u.value)-int(bins[i].value))
			}
			i := r
			if far(l) < far(r) {
				i = l
			}
			if far(i) > reach {
				break
			}
			take := min(left, bins[i].attack)
			left -= take
			bins[i].attack -= take
			if bins[i].attack <= 1e-12 {
				bins[i].attack = 0
				up[i], down[i+1] = i+1, i
			}
		}
	}
}

// promising returns the tests of a field that alone still cover the attack, the best first.
func (p *problem) promising(f field) []test {
	if f == source || f == fragment && len(p.base.Fragment) > 0 {
		return nil
	}
	only := func(allowed ...uint32) bool { // the protocols of the base
		return len(p.base.Protocol) > 0 && !slices.ContainsFunc(p.base.Protocol, func(r route.Range) bool { return r.Lo != r.Hi || !slices.Contains(allowed, r.Lo) })
	}
	switch f { // a field that not every packet of the base has is no component of a rule a router takes
	case sourcePort, destinationPort:
		if !only(protoTCP, protoUDP) {
			return nil
		}
	case tcpFlags:
		if !only(protoTCP) {
			return nil
		}
	case icmpType, icmpCode:
		if !only(1, 58) {
			return nil
		}
	}
	bins := p.bins(f)
	total := 0.0
	for _, b := range bins {
		total += b.attack
	}
	if total < p.o.Coverage {
		return nil
	}
	var out []test
	switch f {
	case tcpFlags:
		out = p.flagTests(bins, total)
	case fragment:
		out = p.fragmentTests()
	default:
		out = p.numberTests(f, bins, total)
	}

	type rated struct {
		test
		score float64
	}
	var all []rated
	for _, t := range out {
		attack, normal := 0.0, 0.0
		for _, b := range bins {
			if (t.bits == nil && inRanges(t.ranges, b.value)) || (t.bits != nil && inBits(t.bits, uint16(b.value))) {
				attack, normal = attack+b.attack, normal+b.normal
			}
		}
		if attack < p.o.Coverage-1e-9 || slices.ContainsFunc(all, func(r rated) bool { return slices.Equal(r.ranges, t.ranges) && slices.Equal(r.bits, t.bits) }) {
			continue
		}
		m := p.base
		t.into(&m)
		all = append(all, rated{t, p.score(min(attack, 1), normal, 0, p.volume(m), Cost(m), p.complexity(m))})
	}
	slices.SortStableFunc(all, func(a, b rated) int { return cmp.Compare(a.score, b.score) })
	out = out[:0]
	for _, r := range all[:min(len(all), testsPerField)] {
		out = append(out, r.test)
	}
	return out
}

// numberTests are the lists and ranges of a field's values that hold most of the attack. Values are given up where the
// target normally has them most, or where the attack has them least; between those kept, ranges are split where most
// normal packets lie.
func (p *problem) numberTests(f field, bins []bin, total float64) []test {
	var out []test
	add := func(rs []route.Range) {
		if rs = p.tidy(f, rs); len(rs) > 0 && len(rs) <= p.o.MaxItems {
			out = append(out, test{field: f, ranges: rs})
		}
	}
	index := make([]int, 0, len(bins))
	for i, b := range bins {
		if b.attack > 0 {
			index = append(index, i)
		}
	}
	before := make([]float64, len(bins)+1) // normal packets of all values below
	for i, b := range bins {
		before[i+1] = before[i] + b.normal
	}
	// A gap is worth an item of its own when enough is known to be in it, for there are gaps by chance, too.
	worth := p.o.MaxCollateral/2 + leastInGap/max(p.effective, 1)
	byMass := func(a, b int) int { return cmp.Or(cmp.Compare(bins[b].attack, bins[a].attack), a-b) }
	byExcess := func(a, b int) int {
		x, y := bins[a], bins[b]
		return cmp.Or(cmp.Compare(x.normal*y.attack, y.normal*x.attack), byMass(a, b))
	}
	for _, order := range []func(a, b int) int{byExcess, byMass} {
		slices.SortFunc(index, order)
		for _, trim := range trims {
			keep, sum := 0, 0.0
			for keep < len(index) && (keep == 0 || sum < total-trim*(1-p.o.Coverage)-1e-12) {
				sum += bins[index[keep]].attack
				keep++
			}
			kept := slices.Sorted(slices.Values(index[:keep]))
			if len(kept) <= p.o.MaxItems {
				var list []route.Range
				for _, i := range kept {
					list = append(list, route.Range{Lo: bins[i].value, Hi: bins[i].value})
				}
				add(list)
			}
			// Gaps between values kept, those with the most normal packets first.
			gaps := make([]int, 0, len(kept))
			in := func(g int) float64 { return before[kept[g+1]] - before[kept[g]+1] }
			for g := range len(kept) - 1 {
				if in(g) >= worth {
					gaps = append(gaps, g)
				}
			}
			slices.SortFunc(gaps, func(a, b int) int { return cmp.Or(cmp.Compare(in(b), in(a)), a-b) })
			for n := range min(len(gaps), p.o.MaxItems-1) + 1 {
				cuts := slices.Sorted(slices.Values(gaps[:n]))
				var rs []route.Range
				from := 0
				for _, g := range append(cuts, len(kept)-1) {
					rs = append(rs, route.Range{Lo: bins[kept[from]].value, Hi: bins[kept[g]].value})
					from = g + 1
				}
				add(rs)
			}
		}
	}
	// The shortest range that holds enough, for values that are all rare.
	for _, trim := range trims {
		need := total - trim*(1-p.o.Coverage) - 1e-12
		best, found := route.Range{}, false
		sum, lo := 0.0, 0
		for hi := range bins {
			sum += bins[hi].attack
			for lo < hi && (bins[lo].attack == 0 || sum-bins[lo].attack >= need) {
				sum -= bins[lo].attack
				lo++
			}
			if r := (route.Range{Lo: bins[lo].value, Hi: bins[hi].value}); sum >= need && (!found || r.Hi-r.Lo < best.Hi-best.Lo) {
				best, found = r, true
			}
		}
		if found {
			add([]route.Range{best})
		}
	}
	return out
}

// tidy makes ranges a component that routers take: within the base's, without TCP port 179 (BGP), and not a mixture of
// single values and ranges, which FRR does not enforce. It returns nil when nothing is left.
func (p *problem) tidy(f field, rs []route.Range) []route.Range {
	rs = within(rs, *f.ranges(&p.base))
	if (f == sourcePort || f == destinationPort) && inRanges(p.base.Protocol, protoTCP) {
		rs = without(rs, 179)
	}
	canonical := func() {
		var m route.Match
		*f.ranges(&m) = rs
		m = route.Route{Match: m}.Canonical().Match
		rs = *f.ranges(&m)
	}
	canonical()
	single := func(r route.Range) bool { return r.Lo == r.Hi }
	if !slices.ContainsFunc(rs, single) || !slices.ContainsFunc(rs, func(r route.Range) bool { return !single(r) }) {
		return rs
	}
	rs = slices.Clone(rs)
	for i, r := range rs {
		if single(r) {
			rs[i] = route.Range{Lo: r.Lo &^ 1, Hi: r.Lo | 1}
		}
	}
	base := *f.ranges(&p.base)
	tcp := (f == sourcePort || f == destinationPort) && inRanges(p.base.Protocol, protoTCP)
	canonical()
	if tcp && inRanges(rs, 179) || !slices.Equal(within(rs, base), rs) {
		return nil
	}
	return rs
}

// within returns the values of a that b lets match; an empty b lets everything.
func within(a, b []route.Range) []route.Range {
	if len(b) == 0 {
		return a
	}
	var out []route.Range
	for _, x := range a {
		for _, y := range b {
			if r := (route.Range{Lo: max(x.Lo, y.Lo), Hi: min(x.Hi, y.Hi)}); r.Lo <= r.Hi {
				out = append(out, r)
			}
		}
	}
	return out
}

// without returns the values of a but for v, which is neither 0 nor 65535.
func without(a []route.Range, v uint32) []route.Range {
	var out []route.Range
	for _, r := range a {
		if v < r.Lo || v > r.Hi {
			out = append(out, r)
			continue
		}
		if r.Lo < v {
			out = append(out, route.Range{Lo: r.Lo, Hi: v - 1})
		}
		if v < r.Hi {
			out = append(out, route.Range{Lo: v + 1, Hi: r.Hi})
		}
	}
	return out
}

// flagMask leaves ECE and CWR out, which not every router compares.
const flagMask = 0x3f

// flagTests ask for the very flags the attack has most, or for what all of them have in common.
func (p *problem) flagTests(bins []bin, total float64) []test {
	bs := slices.Clone(bins)
	slices.SortStableFunc(bs, func(a, b bin) int { return cmp.Compare(b.attack, a.attack) })
	var out []test
	add := func(list []route.Bits) {
		list = slices.DeleteFunc(list, func(b route.Bits) bool { return b == route.Bits{} })
		if len(list) == 0 || len(list) > p.o.MaxItems {
			return
		}
		for v := range uint16(256) { // never more than the base
			if inBits(list, v) && !inBits(p.base.TCPFlags, v) {
				return
			}
		}
		m := route.Route{Match: route.Match{TCPFlags: list}}.Canonical().Match
		out = append(out, test{field: tcpFlags, bits: m.TCPFlags})
	}
	for _, trim := range trims {
		var exact []route.Bits
		set, clear, sum := uint16(flagMask), uint16(flagMask), 0.0
		for _, b := range bs {
			if b.attack == 0 || sum >= total-trim*(1-p.o.Coverage)-1e-12 {
				break
			}
			v := uint16(b.value) & flagMask
			set, clear, sum = set&v, clear&^v, sum+b.attack
			exact = append(exact, route.Bits{Set: v, Clear: ^v & flagMask})
		}
		add([]route.Bits{{Set: set, Clear: clear}})
		slices.SortFunc(exact, func(a, b route.Bits) int { return cmp.Or(cmp.Compare(a.Set, b.Set), cmp.Compare(a.Clear, b.Clear)) })
		add(slices.Compact(exact))
	}
	return out
}

// fragmentTests ask for one bit to be set or clear, as every router that knows the component can. The last-fragment bit
// is left out: some do not know it.
func (p *problem) fragmentTests() []test {
	known := []uint16{route.IsFragment, route.FirstFragment}
	if !p.target.Addr().Is6() {
		known = append(known, route.DontFragment)
	}
	var out []test
	for _, b := range known {
		out = append(out, test{field: fragment, bits: []route.Bits{{Set: b}}}, test{field: fragment, bits: []route.Bits{{Clear: b}}})
	}
	return out
}

// sourceTests ask for the one source prefix that holds the attack, longer and shorter.
func (p *problem) sourceTests() []test {
	var out []test
	for _, level := range crowds(p.attack.samples, 1) {
		if len(level) > 0 && !slices.ContainsFunc(out, func(t test) bool { return t.prefix == level[0].prefix }) && level[0].prefix.Bits() > 0 {
			out = append(out, test{field: source, prefix: level[0].prefix})
		}
	}
	return out
}

// bySources returns rules for a few source prefixes that together hold the attack, or nil.
func (p *problem) bySources() []route.Match {
	if p.o.MaxRules < 2 {
		return nil
	}
	var best []route.Match
	least := math.Inf(1)
	for _, level := range crowds(p.attack.samples, p.o.MaxRules) {
		for n := 2; n <= len(level); n++ {
			rules := bySource(p.base, level[:n])
			c := p.candidate(rules)
			if c.Coverage < p.o.Coverage {
				continue
			}
			if s := p.score(c.Coverage, c.Collateral, 0, 0.05*float64(n), c.Cost, float64(n)*itemWeight); s < least {
				best, least = rules, s
			}
			break // more rules of one length cover what is covered
		}
	}
	return best
}

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

// cumulative is the weight of samples up to each value of a field.
type cumulative struct {
	values []uint32
	upTo   []uint64
}

func (p *problem) along(f field, s *set, in, also bitset) cumulative {
	var pairs []uint64
	for i, x := range s.samples {
		if !in.has(i) || also != nil && !also.has(i) {
			continue
		}
		if v, ok := f.value(x); ok {
			pairs = append(pairs, uint64(v)<<32|weight(x))
		}
	}
	slices.Sort(pairs)
	var c cumulative
	sum := uint64(0)
	for _, x := range pairs {
		sum += x & math.MaxUint32
		if v := uint32(x >> 32); len(c.values) > 0 && c.values[len(c.values)-1] == v {
			c.upTo[len(c.upTo)-1] = sum
		} else {
			c.values, c.upTo = append(c.values, v), append(c.upTo, sum)
		}
	}
	return c
}

// sum is the weight within ranges that do not overlap.
func (c *cumulative) sum(rs []route.Range) uint64 {
	below := func(v uint32) uint64 {
		i, _ := slices.BinarySearch(c.values, v)
		if i == 0 {
			return 0
		}
		return c.upTo[i-1]
	}
	n := uint64(0)
	for _, r := range rs {
		n += below(r.Hi+1) - below(r.Lo)
	}
	return n
}

// volume is what part of the packets the mark hits a match takes up before anything is known of the target: a rough
// guess that keeps a match narrow where no sample says what else is there. Destination ports hardly narrow it, for what
// a target receives goes to few.
func (p *problem) volume(m route.Match) float64 {
	for f := range fields { // what the mark asks for narrows nothing
		if rs := f.ranges(&m); rs != nil && slices.Equal(*rs, *f.ranges(&p.mark)) {
			*rs = nil
		}
		if bs := f.bits(&m); bs != nil && slices.Equal(*bs, *f.bits(&p.mark)) {
			*bs = nil
		}
	}
	if p.direction == vector.Outbound {
		m.Source = m.Destination
	}
	return roomOf(m)
}

func roomOf(m route.Match) float64 {
	room := 1.0
	part := func(rs []route.Range, of, least float64) {
		if len(rs) == 0 {
			return
		}
		n := 0.0
		for _, r := range rs {
			n += float64(r.Hi) - float64(r.Lo) + 1
		}
		room *= min(max(n/of, least), 1)
	}
	part(m.Protocol, 4, 0.3)
	part(m.SourcePort, 65536, 0.05)
	part(m.DestinationPort, 65536, 0.7)
	part(m.ICMPType, 4, 0.4)
	part(m.ICMPCode, 4, 0.7)
	part(m.DSCP, 8, 0.9)
	lengths := slices.Clone(m.Length)
	for i := range lengths {
		lengths[i].Hi = max(min(lengths[i].Hi, 1500), lengths[i].Lo)
	}
	part(lengths, 1500, 0.02)
	if len(m.TCPFlags) > 0 {
		room *= 0.8
	}
	if len(m.Fragment) > 0 {
		room *= 0.9
	}
	if m.Source.IsValid() {
		room *= 0.05
	}
	return room
}

// allowed reports whether the safety kernel lets the candidate's rules pass, given that the target is ours and not on
// the never list. Outbound rules have no destination, which an approver may ask for.
func (p *problem) allowed(c Candidate) bool {
	l := safety.Defaults()
	l.Own, l.MaxOwnShare = []netip.Prefix{p.target}, 1
	at := time.Unix(0, 0)
	var set []safety.Entry
	for _, m := range c.Rules() {
		set = append(set, safety.Entry{
			Route:  route.Route{Match: m, Action: route.Action{Kind: route.Discard}},
			Owners: []string{"signature"}, Created: at, Deadline: at.Add(time.Minute),
			Manual: true, Approved: p.direction == vector.Outbound, // whether automation may act on a whole network is for its own check
		})
	}
	return len(safety.Check(at, l, set)) == 0
}
