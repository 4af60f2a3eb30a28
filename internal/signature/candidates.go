package signature

import (
	"cmp"
	"math"
	"slices"

	"github.com/amooglesoft/trafficmonitor/internal/route"
)

// Candidates are the tests of one field that are worth a look: found in how attack and normal packets are spread over its
// values.

const (
	testsPerField = 6 // the most promising ones
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
