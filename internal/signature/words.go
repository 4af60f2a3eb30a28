package signature

import (
	"fmt"
	"slices"
	"strings"

	"github.com/amooglesoft/trafficmonitor/internal/route"
	"github.com/amooglesoft/trafficmonitor/internal/vector"
)

// words says what a candidate hits.
func (p *problem) words(c Candidate) string {
	var b strings.Builder
	b.WriteString(p.says)
	m := c.Match
	extra := func(word string, f field) {
		if rs := *f.ranges(&m); len(rs) > 0 && !slices.Equal(rs, *f.ranges(&p.mark)) {
			var one route.Match
			*f.ranges(&one) = rs
			_, list, _ := strings.Cut(one.String(), " ")
			b.WriteString(", " + word + " " + list)
		}
	}
	extra("protocol", protocol)
	extra("source port", sourcePort)
	extra("destination port", destinationPort)
	if len(m.TCPFlags) > 0 && !slices.Equal(m.TCPFlags, p.mark.TCPFlags) {
		b.WriteString(", " + route.Match{TCPFlags: m.TCPFlags}.String())
	}
	extra("type", icmpType)
	extra("code", icmpCode)
	extra("octets", length)
	if len(m.Fragment) > 0 && !slices.Equal(m.Fragment, p.mark.Fragment) {
		b.WriteString(", " + route.Match{Fragment: m.Fragment}.String())
	}
	extra("DSCP", dscp)
	if p.direction == vector.Outbound {
		fmt.Fprintf(&b, ", from %s", p.target)
	} else {
		if m.Source.IsValid() {
			var from []string
			for _, r := range c.Rules() {
				from = append(from, r.Source.String())
			}
			b.WriteString(", from " + strings.Join(from, ", "))
		}
		fmt.Fprintf(&b, ", to %s", p.target)
	}
	if n := len(p.attack.samples); n > 0 {
		fmt.Fprintf(&b, ": hits %s of the attack (%s)", percent(c.Coverage), samples(n))
		if p.share >= 0.05 {
			fmt.Fprintf(&b, ", given that %s of them are normal traffic", percent(p.share))
		}
	} else {
		b.WriteString(": no sample of the attack yet")
	}
	if p.normalCount > 0 {
		fmt.Fprintf(&b, " and %s of the normal packets (at most %s by %s)", percent(c.Collateral), percent(c.CollateralMost), samples(p.normalCount))
		if p.kindCount >= leastKind && c.Kind > mostKind {
			fmt.Fprintf(&b, ", %s of those of this kind", percent(c.Kind))
		}
	} else {
		b.WriteString("; what it hits of the normal traffic is unknown, for there is no normal profile")
	}
	return b.String()
}

func samples(n int) string {
	if n == 1 {
		return "1 sample"
	}
	return fmt.Sprintf("%d samples", n)
}

// outcome says what a proposal comes to.
func (p *problem) outcome(out Proposal, whyForged string) string {
	var parts []string
	add := func(format string, args ...any) { parts = append(parts, fmt.Sprintf(format, args...)) }
	switch {
	case len(out.Candidates) == 0:
		add("no rule may be announced for this: the safety kernel would refuse it; ask the owner of %s to act", p.target)
	case len(p.attack.samples) < p.o.MinAttack:
		add("%s of the attack, fewer than %d: only the vector's own mark is proposed", samples(len(p.attack.samples)), p.o.MinAttack)
	case out.Separable && p.normalCount == 0:
		add("the vector's packets are nothing servers need, but what %s normally receives is unknown, for there is no normal profile", p.target)
	case out.Separable:
		add("the best match hits %s of the attack and %s of what %s normally receives", percent(out.Candidates[0].Coverage), percent(out.Candidates[0].Collateral), p.target)
	case p.normalCount < p.o.MinNormal:
		add("%s of what %s normally receives, fewer than %d: it is not known whether a match hits it; limit the rate of the best match, or blackhole %s",
			samples(p.normalCount), p.target, p.o.MinNormal, p.target)
	default:
		c := out.Candidates[0]
		add("nothing separates the attack from what %s normally receives: the best match hits %s of it (%s of its own kind); limit the rate of that match above what is normal, or blackhole %s",
			p.target, percent(c.Collateral), percent(c.Kind), p.target)
	}
	if out.Spoofed {
		add("the sources are spoofed, or too many for rules (%s), so no rule names a source", whyForged)
	}
	if p.direction == vector.Outbound && len(out.Candidates) > 0 {
		add("the rules have no destination, so only an approver may announce them")
	}
	return strings.Join(parts, "; ")
}
