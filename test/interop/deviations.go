package main

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/amooglesoft/trafficmonitor/internal/render"
	"github.com/amooglesoft/trafficmonitor/internal/route"
)

// Deviation is something a router does otherwise than meant, known and accepted. A cell that deviates and is not listed
// fails the suite; so does one that is listed and does as meant. Random rules that are listed are compared in the rest only.
type Deviation struct {
	Number int
	Router string
	// Of says which routes it is about.
	Of func(route.Route) bool
	// ByAction says that what is done with a packet brings it, and not the match.
	ByAction bool
	// Outcome is what goes wrong.
	Outcome string
	// Shows is what the router prints or our speaker says, as evidence; a run demands one of them.
	Shows []string
	// Because says what it is and what it means for whoever runs such a router.
	Because string
}

// Deviations are all that are known.
var Deviations = []Deviation{
	{
		Number: 1, Router: "FRR", Of: func(r route.Route) bool { return r.Action.Kind == route.RatePackets }, ByAction: true,
		Outcome: readsOther, Shows: []string{"UNK:128, 12"},
		Because: "FRR 8.4 does not know traffic-rate-packets (RFC 8955, section 7.2) and keeps the rule without an action, which lets everything pass. The profile `frr` says so, and no such rule is sent to a router that has it.",
	},
	{
		Number: 2, Router: "OpenBGPD", Of: isRule,
		Outcome: notSent, Shows: []string{"the router's tool shows as negotiated: [ipv4-unicast ipv6-unicast]"},
		Because: "OpenBGPD 7.7 has no FlowSpec: its OPEN offers IPv4 and IPv6 unicast only, so no rule is sent to it and the peer's missing families say so. Blackholes work. Later versions negotiate FlowSpec and discard it.",
	},
	{
		Number: 3, Router: "FRR", Of: hasOffset,
		Outcome: notAccepted, Shows: []string{"NOTIFICATION 3/9"},
		Because: "FRR 8.4 resets the session upon a prefix with an offset: it expects as many octets as the prefix length alone would need (RFC 8956, section 3.1, takes the offset off). The profile `frr` says so, and no such rule is sent to a router that has it.",
	},
	{
		Number: 4, Router: "BIRD", Of: func(r route.Route) bool { return birdOctets(r.Match) == moreOctets },
		Outcome: notAccepted, Shows: []string{"NOTIFICATION 3/1"},
		Because: "BIRD 2.0 expects the pattern to begin with the whole octet in which the offset lies, as a draft had it, and not with the bit (RFC 8956, section 3.1). Where that makes another number of octets it resets the session. Offsets of whole octets are the same either way and work.",
	},
	{
		Number: 5, Router: "BIRD", Of: func(r route.Route) bool { return birdOctets(r.Match) == otherBits },
		Outcome: readsOther, Shows: []string{"src ::10/128 offset 100"},
		Because: "As D4, where the number of octets happens to be the same: BIRD then takes the rule and matches other addresses. The profile `bird` says so, and no such rule is sent to a router that has it.",
	},
	{
		Number: 6, Router: "gobgpd", Of: hasOffset,
		Outcome: notAccepted, Shows: []string{"the router does not show it"},
		Because: "gobgpd 3.10 drops a rule with an offset without a word; the session stays.",
	},
	{
		Number: 7, Router: "ExaBGP", Of: hasOffset,
		Outcome: notAccepted, Shows: []string{"the router does not show it"},
		Because: "ExaBGP 4.2 drops a rule with an offset without a word; the session stays.",
	},
	{
		Number: 8, Router: "FRR", Of: func(r route.Route) bool { return r.Action.Sample || r.Action.Continue }, ByAction: true,
		Outcome: readsOther, Shows: []string{"FS:action eval stops"},
		Because: "FRR 8.4 shows the same for every traffic-action: what it does about sampling, and whether it looks at the rules behind, cannot be told. Do not rely on `sample` or `continue` there.",
	},
	{
		Number: 9, Router: "FRR", Of: toAddress6, ByAction: true,
		Outcome: readsOther, Shows: []string{"UNK:0, 12"},
		Because: "FRR 8.4 does not know the redirect to an IPv6 address and keeps the rule without an action, which lets everything pass.",
	},
	{
		Number: 10, Router: "FRR", Of: func(r route.Route) bool { return isRule(r) && r.Action.Attributes != route.Attributes{} }, ByAction: true,
		Outcome: readsOther, Shows: []string{"FS:rate 0.000000 received for"},
		Because: "FRR 8.4 shows no communities, MED or local preference of a FlowSpec rule. Its policy for received rules may still match them.",
	},
	{
		Number: 11, Router: "ExaBGP", Of: func(r route.Route) bool { return r.Action.Redirect.Target.Form == route.TargetAS4 }, ByAction: true,
		Outcome: notAccepted, Shows: []string{"without a NOTIFICATION", "the router does not show it"},
		Because: "ExaBGP 4.2 fails on a redirect to a route target with a 4-octet AS and drops the connection, and every rule with it; at times it only drops the rule. The profile `generic` says so, and no such rule is sent to a router that has it.",
	},
	{
		Number: 12, Router: "ExaBGP", Of: toAddress6, ByAction: true,
		Outcome: readsOther, Shows: []string{"no action and not"},
		Because: "ExaBGP 4.2 shows nothing of IPv6 address specific extended communities, in which a redirect to an IPv6 address travels.",
	},
	{
		Number: 13, Router: "FRR", Of: func(r route.Route) bool { return items(r.Match) > 6 },
		Outcome: notAccepted, Shows: []string{"NOTIFICATION 3/"},
		Because: "FRR 8.4 resets the session above six comparisons in one component, of which a range is two. It takes six, though its code has room for five: the profiles `frr` and `generic` say five, and a longer list is split or not sent.",
	},
	{
		Number: 14, Router: "BIRD", Of: longInBIRD,
		Outcome: readsOther, Shows: []string{" ...}"},
		Because: "BIRD 2.0 cuts what it prints of a rule at 255 characters, in birdc and in its log: it holds the whole rule, which cannot be seen.",
	},
}

func isRule(r route.Route) bool { return !r.IsBlackhole() }

func hasOffset(r route.Route) bool { return r.Match.SourceOffset > 0 || r.Match.DestinationOffset > 0 }

func toAddress6(r route.Route) bool { return r.Action.Redirect.Address.Is6() }

// What a BIRD, for which a pattern begins with the octet in which the offset lies, makes of one that begins with the bit.
const (
	sameBits   = iota // nothing else: the offset is none, or one of octets
	otherBits         // as many octets, with other bits in them
	moreOctets        // it looks for more octets than there are
)

// birdOctets is the worse of what BIRD makes of both prefixes.
func birdOctets(m route.Match) (worst int) {
	for _, p := range []struct {
		prefix netip.Prefix
		offset uint8
	}{{m.Destination, m.DestinationOffset}, {m.Source, m.SourceOffset}} {
		length, offset := p.prefix.Bits(), int(p.offset)
		switch {
		case !p.prefix.IsValid() || offset%8 == 0:
		case (length-offset+7)/8 == (length+7)/8-offset/8:
			worst = max(worst, otherBits)
		default:
			worst = moreOctets
		}
	}
	return worst
}

// longInBIRD reports whether BIRD's text of a rule may be longer than it prints.
func longInBIRD(r route.Route) bool {
	return isRule(r) && len(fmt.Sprintf("flow%d { %s}", r.Family(), strings.ReplaceAll(render.BIRDMatch(r.Match), ", ", ","))) > 250
}

// items is the largest number of comparisons that one component takes on the wire.
func items(m route.Match) (most int) {
	for _, rs := range [][]route.Range{m.Protocol, m.Port, m.DestinationPort, m.SourcePort, m.ICMPType, m.ICMPCode, m.Length, m.DSCP, m.FlowLabel} {
		n := len(rs)
		for _, r := range rs {
			if r.Lo != r.Hi {
				n++
			}
		}
		most = max(most, n)
	}
	for _, bs := range [][]route.Bits{m.TCPFlags, m.Fragment} {
		n := len(bs)
		for _, b := range bs {
			if b.Set != 0 && b.Clear != 0 {
				n++
			}
		}
		most = max(most, n)
	}
	return most
}

func (d Deviation) holds(router string, r route.Route) bool { return d.Router == router && d.Of(r) }

// listed returns the deviation that is listed for a cell; of several, the one that goes wrong first.
func listed(router string, c Cell) *Deviation {
	var first *Deviation
	for i := range Deviations {
		if d := &Deviations[i]; d.holds(router, c.Route) && (first == nil || slices.Index(outcomes, d.Outcome) < slices.Index(outcomes, first.Outcome)) {
			first = d
		}
	}
	return first
}

// mark notes the listed deviation in a result, and says what is wrong with the result.
func mark(r *Result) (wrong string) {
	d := listed(r.Router, r.cell)
	switch outcome := r.Outcome(); {
	case d == nil && outcome == asMeant:
		return ""
	case d == nil:
		return outcome + ", which is not listed"
	case outcome == asMeant:
		return "as meant, though " + d.name() + " is listed: remove it"
	case outcome != d.Outcome:
		return outcome + ", though " + d.name() + " says: " + d.Outcome
	case !d.shown(*r):
		return fmt.Sprintf("the evidence of %s (%s) is not shown", d.name(), strings.Join(d.Shows, ", or "))
	default:
		r.Deviation = d.name()
		return ""
	}
}

// shown reports whether a result has the evidence.
func (d Deviation) shown(r Result) bool {
	return slices.ContainsFunc(d.Shows, func(s string) bool { return strings.Contains(r.raw+" "+r.Note, s) })
}

func (d Deviation) name() string { return fmt.Sprintf("D%d", d.Number) }
