package signature

import (
	"cmp"
	"fmt"
	"math"
	"net/netip"
	"slices"

	"github.com/amooglesoft/trafficmonitor/internal/route"
	"github.com/amooglesoft/trafficmonitor/internal/traffic"
	"github.com/amooglesoft/trafficmonitor/internal/vector"
)

// Options bound what Synthesize proposes. A field that is 0 has the value of Defaults.
type Options struct {
	// Coverage is the least share of the attack's packets a match is to hit, above 0 and at most 1.
	Coverage float64
	// MaxCollateral is the largest share of the target's normal packets a match may hit and still separate, 0–1.
	MaxCollateral float64
	// MaxItems is how many alternatives a component may have; FRR takes 5.
	MaxItems int
	// MaxCost is the largest Cost of a match.
	MaxCost int
	// MaxRules is the largest number of rules of a candidate made of source prefixes.
	MaxRules int
	// MaxCandidates is how many candidates are proposed at most, the vector's own mark among them; at least 1.
	MaxCandidates int
	// MinAttack samples of the attack are needed to look for more than the mark, MinNormal ones to believe the profile
	// when it says that the target receives nothing of the kind.
	MinAttack, MinNormal int
	// Ports are those sensors are told of beside the vector table; nil is none.
	Ports Ports
	// NormalPPS and CurrentPPS are the vector's packets per second at the target before the onset and now. Their ratio is
	// the share of the attack samples that is really normal; 0 means unknown, and then all of them count as the attack.
	NormalPPS, CurrentPPS float64
}

// Defaults returns the options without rates.
func Defaults() Options {
	return Options{
		Coverage: 0.95, MaxCollateral: 0.005, MaxItems: 5, MaxCost: 64, MaxRules: 4, MaxCandidates: 5, MinAttack: 20, MinNormal: 100,
	}
}

func (o Options) withDefaults() Options {
	d := Defaults()
	o.Coverage, o.MaxCollateral = cmp.Or(o.Coverage, d.Coverage), cmp.Or(o.MaxCollateral, d.MaxCollateral)
	o.MaxItems, o.MaxCost, o.MaxRules = cmp.Or(o.MaxItems, d.MaxItems), cmp.Or(o.MaxCost, d.MaxCost), cmp.Or(o.MaxRules, d.MaxRules)
	o.MaxCandidates, o.MinAttack, o.MinNormal = cmp.Or(o.MaxCandidates, d.MaxCandidates), cmp.Or(o.MinAttack, d.MinAttack), cmp.Or(o.MinNormal, d.MinNormal)
	return o
}

// Proposal is what can be done about one vector at one target.
type Proposal struct {
	// Candidates has the best first. It is empty only where the safety kernel would refuse any rule.
	Candidates []Candidate
	// Separable is set when the first candidate tells the attack from what the target normally receives.
	Separable bool
	// Spoofed is set when the attack's sources are forged, or so many that rules for sources are of no use.
	Spoofed bool
	// Says is the outcome in words, with what to do when nothing separates.
	Says string
}

// Candidate is one answer: a rule, or several that belong together.
type Candidate struct {
	Match route.Match
	// More are further rules of the same answer, one for each further source prefix; mostly there are none.
	More []route.Match
	// Coverage is the predicted share of the attack's packets that is hit, 0–1. Of the vector's mark it is 1 by
	// construction when there were no samples.
	Coverage float64
	// Collateral is the predicted share of the target's normal packets, of all vectors, that is hit, and CollateralBytes
	// that of their bytes; 0–1, and 0 when there is no normal profile.
	Collateral, CollateralBytes float64
	// Kind is the share that is hit of the normal packets of the attack's own vector, 0–1.
	Kind float64
	// CollateralMost bounds Collateral from above with 95 % confidence (Wilson); 1 when there is no normal profile.
	CollateralMost float64
	// Confidence is how sure it is that Collateral is at most MaxCollateral too small, 0–1; 0 when there is no normal
	// profile: then the collateral is unknown.
	Confidence float64
	// Cost is the TCAM entries of all rules together, as Cost estimates them.
	Cost int
	// Broad is set when the match also hits what the target normally receives, or what servers normally receive where
	// there is no profile of this one.
	Broad bool
	Says  string // the match in words, and what it hits
}

// Rules returns every match of the candidate.
func (c Candidate) Rules() []route.Match { return append([]route.Match{c.Match}, c.More...) }

const (
	// leastKind is how many normal samples of the attack's vector show how it normally looks, and mostKind the share of
	// them that a match which separates may hit: a rule that takes all a target receives of a kind separates nothing,
	// however little that is.
	leastKind = 10
	mostKind  = 0.2
	// worthwhile is the part of the mark's collateral below which a match that does not separate is proposed all the same.
	worthwhile = 0.75
	// mostNormal caps the share of the attack samples that is taken for normal.
	mostNormal = 0.95
	// wilson95 is the quantile of the one-sided 95 % bound.
	wilson95 = 1.6449
)

// Synthesize looks for the conjunction of FlowSpec components that hits the attack on target and the least of what the
// target normally receives. attack are samples of the vector since the onset, a part of which may be normal traffic;
// normal are samples of any vector from before it. Samples of other targets, directions or, of the attack, vectors are
// ignored. Neither their order nor their times matter.
//
// The work grows linearly with the samples but for sorting; with 2,000 of each it takes 4 to 12 milliseconds (BenchmarkSynthesize).
//
// Target is a prefix of ours in canonical form: the destination of inbound packets, the source of outbound ones. Rules
// for the latter have no destination, so the safety kernel takes them from an approver only.
func Synthesize(o Options, target netip.Prefix, direction vector.Direction, v vector.ID, attack, normal []traffic.Sample) Proposal {
	p := newProblem(o.withDefaults(), target, direction, v, attack, normal)
	var out Proposal
	forged, whyForged := spoofed(p.attack.samples, p.info.Reflection())
	out.Spoofed = forged

	var found []Candidate
	if len(p.attack.samples) >= p.o.MinAttack {
		for _, m := range p.search(!forged && direction == vector.Inbound) {
			found = append(found, p.candidate(m))
		}
		if !slices.ContainsFunc(found, p.separates) && !forged && direction == vector.Inbound {
			if rules := p.bySources(); len(rules) > 1 {
				found = append(found, p.candidate(rules))
			}
		}
	}
	mark := p.candidate([]route.Match{p.mark})
	found = slices.DeleteFunc(found, func(c Candidate) bool { return len(c.More) == 0 && c.Match.Equal(p.mark) })
	found = slices.DeleteFunc(found, func(c Candidate) bool { // what is hardly better than the mark only confuses
		return !p.separates(c) && p.normalCount > 0 && c.Collateral > worthwhile*mark.Collateral
	})
	found = append(found, mark)
	found = slices.DeleteFunc(found, func(c Candidate) bool { return !p.allowed(c) })
	p.rank(found)
	if n := p.o.MaxCandidates; len(found) > n { // the mark stays: it is what policies name
		keep := found[:n]
		if i := slices.IndexFunc(found, func(c Candidate) bool { return len(c.More) == 0 && c.Match.Equal(p.mark) }); i >= n {
			keep[n-1] = found[i]
		}
		found = slices.Clip(keep)
	}
	out.Candidates = found
	out.Separable = len(found) > 0 && p.separates(found[0])
	out.Says = p.outcome(out, whyForged)
	return out
}

// problem is what a proposal is looked for.
type problem struct {
	o         Options
	target    netip.Prefix
	direction vector.Direction
	vector    vector.ID
	info      vector.Vector
	mark      route.Match // the vector's own
	broad     bool        // whether that hits what servers normally receive
	says      string
	base      route.Match // the mark, perhaps with the one protocol the attack has

	attack set
	normal set    // of those that the mark hits; others no candidate can hit
	kind   bitset // of normal: those of the attack's vector

	everything  []*traffic.Sample // all normal samples
	normalTotal uint64            // weight of all normal samples
	normalBytes float64           // weight times length of them
	normalCount int
	effective   float64
	kindTotal   uint64  // weight of all normal samples of the vector
	kindCount   int     // and their number
	share       float64 // of the attack samples that is normal traffic
	baseAttack  bitset  // what the base hits
	baseNormal  bitset
}

func newProblem(o Options, target netip.Prefix, direction vector.Direction, v vector.ID, attack, normal []traffic.Sample) *problem {
	p := &problem{o: o, target: target, direction: direction, vector: v}
	p.info, _ = vector.Get(v)
	p.mark, p.broad, p.says = markOf(o.Ports, target, direction, v)
	p.base = p.mark

	ours := func(s *traffic.Sample) bool { return s.Direction == direction && target.Contains(s.Target()) }
	of := func(s *traffic.Sample) bool { return v == vector.Total || s.Vector == v }
	var bad, hit []*traffic.Sample
	for i := range attack {
		if s := &attack[i]; ours(s) && of(s) {
			bad = append(bad, s)
		}
	}
	p.attack = newSet(bad)
	for i := range normal {
		s := &normal[i]
		if !ours(s) {
			continue
		}
		p.everything = append(p.everything, s)
		if of(s) {
			p.kindTotal += weight(s)
			p.kindCount++
		}
		if Matches(p.mark, s) {
			hit = append(hit, s)
		}
	}
	all := newSet(p.everything)
	p.normalTotal, p.normalCount, p.effective = all.total, len(p.everything), all.effective()
	for _, s := range p.everything {
		p.normalBytes += float64(weight(s)) * float64(s.Length)
	}
	p.normal = newSet(hit)
	p.kind = p.normal.where(of)
	if o.CurrentPPS > 0 && o.NormalPPS > 0 && p.kindTotal > 0 {
		p.share = min(o.NormalPPS/o.CurrentPPS, mostNormal)
	}

	if len(p.base.Protocol) == 0 && p.attack.total > 0 { // one protocol, though the vector has none
		if b := p.bins(protocol); len(b) > 0 {
			top := slices.MaxFunc(b, func(x, y bin) int { return cmp.Or(cmp.Compare(x.attack, y.attack), cmp.Compare(y.value, x.value)) })
			if top.attack >= (1+o.Coverage)/2 {
				p.base.Protocol = []route.Range{{Lo: top.value, Hi: top.value}}
			}
		}
	}
	p.baseAttack = p.attack.where(func(s *traffic.Sample) bool { return Matches(p.base, s) })
	p.baseNormal = p.normal.where(func(s *traffic.Sample) bool { return Matches(p.base, s) })
	return p
}

// markOf is the vector's own match, in the direction the packets go.
func markOf(ports Ports, target netip.Prefix, direction vector.Direction, v vector.ID) (m route.Match, broad bool, says string) {
	s := ports.For(target, v)
	m = s.Match
	info, _ := vector.Get(v)
	says = info.Says
	if says == "" {
		says = "all packets"
	}
	if direction == vector.Outbound {
		m.Destination, m.Source = netip.Prefix{}, target
		if len(m.SourcePort) > 0 { // what a host of ours asks reflectors
			m.SourcePort, m.DestinationPort = nil, m.SourcePort
			says = "requests: " + says
		}
	}
	return m, s.Broad, says
}

// measured is what a match hits of the samples, by weight.
type measured struct {
	attack, normal, kind uint64
	bytes                float64
}

// coverage is the share of the attack that is hit. What the attack samples hold of normal traffic is taken out, as far
// as the profile says how that looks: of all samples, share·kind are expected to be hit because they are normal.
func (p *problem) coverage(attack, kind uint64) float64 {
	if p.attack.total == 0 {
		return 1
	}
	all := float64(attack) / float64(p.attack.total)
	if p.share == 0 {
		return all
	}
	return min(max((all-p.share*float64(kind)/float64(p.kindTotal))/(1-p.share), 0), 1)
}

func (p *problem) collateral(normal uint64) float64 {
	if p.normalTotal == 0 {
		return 0
	}
	return float64(normal) / float64(p.normalTotal)
}

// kindShare is the share that is hit of what the target normally receives of the vector, or 0 where too few samples say.
func (p *problem) kindShare(kind uint64) float64 {
	if p.kindCount < leastKind {
		return 0
	}
	return float64(kind) / float64(p.kindTotal)
}

// Weights of what makes a match worse, in shares of normal traffic that is hit.
const (
	missedWeight    = 0.1    // of the attack that is missed
	kindWeight      = 0.01   // of the normal packets of the vector
	costWeight      = 0.0003 // per doubling of the TCAM entries
	componentWeight = 0.001  // per component beside the mark's: each must be worth it, for people read rules, too
	itemWeight      = 0.0005 // per item of such a component after the first
	pairWeight      = 0.0005 // source and destination ports together: FRR does not enforce it
	sourceWeight    = 0.0005 // a source prefix: the attacker changes it at once
	priorSamples    = 2      // how many normal samples the room a match takes up is worth
)

// score says how bad a match is; the smallest is the best. What no sample was hit of may still be there: hence the
// volume, the part of the packets of this kind a match takes up before anything is known of the target.
func (p *problem) score(coverage, collateral, kind, volume float64, cost int, complexity float64) float64 {
	s := (collateral*p.effective + priorSamples*volume) / (p.effective + priorSamples)
	return s + missedWeight*(1-coverage) + kindWeight*kind + costWeight*math.Log2(float64(max(cost, 1))) + complexity
}

// candidate measures rules that belong together on all samples.
func (p *problem) candidate(rules []route.Match) Candidate {
	var m measured
	hits := func(s *traffic.Sample) bool {
		return slices.ContainsFunc(rules, func(r route.Match) bool { return Matches(r, s) })
	}
	for _, s := range p.attack.samples {
		if hits(s) {
			m.attack += weight(s)
		}
	}
	for i, s := range p.normal.samples {
		if hits(s) {
			m.normal += weight(s)
			m.bytes += float64(weight(s)) * float64(s.Length)
			if p.kind.has(i) {
				m.kind += weight(s)
			}
		}
	}
	c := Candidate{Match: rules[0], Coverage: p.coverage(m.attack, m.kind), Collateral: p.collateral(m.normal), CollateralMost: 1}
	if len(rules) > 1 {
		c.More = rules[1:]
	}
	for _, r := range rules {
		c.Cost += Cost(r)
	}
	if p.kindTotal > 0 {
		c.Kind = float64(m.kind) / float64(p.kindTotal)
	}
	if p.normalBytes > 0 {
		c.CollateralBytes = m.bytes / p.normalBytes
	}
	if p.normalCount > 0 {
		c.CollateralMost = wilson(c.Collateral, p.effective)
		c.Confidence = confidence(c.Collateral, p.o.MaxCollateral, p.effective)
	}
	c.Broad = p.broad
	if p.normalCount >= p.o.MinNormal {
		c.Broad = c.Collateral > p.o.MaxCollateral || p.kindShare(m.kind) > mostKind
	}
	c.Says = p.words(c)
	return c
}

// wilson bounds a share that was measured on n samples from above, with 95 % confidence.
func wilson(share, n float64) float64 {
	const z = wilson95
	mid := share + z*z/(2*n)
	off := z * math.Sqrt(share*(1-share)/n+z*z/(4*n*n))
	return max(share, min((mid+off)/(1+z*z/n), 1)) // no less than was measured, though it be by rounding
}

// confidence that a share measured on n samples is at most more too small (score test).
func confidence(share, more, n float64) float64 {
	limit := share + more
	if limit >= 1 {
		return 1
	}
	z := more * math.Sqrt(n/(limit*(1-limit)))
	return math.Erf(z / math.Sqrt2) // within more on either side, so that it is 0 with nothing to go by
}

// separates reports whether a candidate tells the attack from what is normal.
func (p *problem) separates(c Candidate) bool {
	return c.Coverage >= p.o.Coverage && !c.Broad && (p.normalCount == 0 || c.Collateral <= p.o.MaxCollateral)
}

// rank sorts candidates, the best first.
func (p *problem) rank(cs []Candidate) {
	covers := func(c Candidate) int {
		switch {
		case p.separates(c):
			return 0
		case c.Coverage >= p.o.Coverage:
			return 1
		}
		return 2
	}
	score := func(c Candidate) float64 {
		m := c.Match
		kind := 0.0
		if p.kindCount >= leastKind {
			kind = c.Kind
		}
		return p.score(c.Coverage, c.Collateral, kind, p.volume(m), c.Cost, p.complexity(m)+itemWeight*float64(len(c.More)))
	}
	slices.SortStableFunc(cs, func(a, b Candidate) int {
		return cmp.Or(cmp.Compare(covers(a), covers(b)), cmp.Compare(score(a), score(b)), cmp.Compare(a.Match.String(), b.Match.String()))
	})
}

// complexity is what a match says beside the mark.
func (p *problem) complexity(m route.Match) float64 {
	items := func(n int) float64 { return componentWeight + itemWeight*float64(n-1) }
	sum := 0.0
	for f := range fields {
		if rs := f.ranges(&m); rs != nil && len(*rs) > 0 && !slices.Equal(*rs, *f.ranges(&p.mark)) {
			sum += items(len(*rs))
		}
		if bs := f.bits(&m); bs != nil && len(*bs) > 0 && !slices.Equal(*bs, *f.bits(&p.mark)) {
			sum += items(len(*bs))
		}
	}
	if m.Source.IsValid() && m.Source != p.mark.Source {
		sum += items(1) + sourceWeight
	}
	if len(m.SourcePort) > 0 && len(m.DestinationPort) > 0 {
		sum += pairWeight
	}
	return sum
}

func percent(share float64) string {
	switch {
	case share == 0:
		return "0 %"
	case share < 0.0001:
		return "less than 0.01 %"
	case share < 0.1:
		return fmt.Sprintf("%.2f %%", share*100)
	}
	return fmt.Sprintf("%.1f %%", share*100)
}
