package main

import (
	"fmt"
	"slices"
	"strings"
)

// Deviation is something a router does otherwise than meant, known and accepted. A cell that deviates and is not listed
// fails the suite; so does one that is listed and does as meant.
type Deviation struct {
	Number int
	Router string
	// The cells it holds for; what is empty means all. Family is ipv4 or ipv6.
	Family, Component, Operator string
	Actions                     []string
	// Outcome is what goes wrong.
	Outcome string
	// Shows is what the router prints or our speaker says, as evidence; a run demands one of them.
	Shows []string
	// Because says what it is and what it means for whoever runs such a router.
	Because string
}

// flowspec stands for the components of every FlowSpec rule.
const flowspec = "FlowSpec"

// Deviations are all that are known.
var Deviations = []Deviation{
	{
		Number: 1, Router: "FRR", Actions: []string{"rate-limit 1kpps"}, Outcome: readsOther, Shows: []string{"UNK:128, 12"},
		Because: "FRR 8.4 does not know traffic-rate-packets (RFC 8955, section 7.2) and keeps the rule without an action, which lets everything pass. The profile `frr` says so, and no such rule is sent to a router that has it.",
	},
	{
		Number: 2, Router: "OpenBGPD", Component: flowspec, Outcome: notSent, Shows: []string{"the router's tool shows as negotiated: [ipv4-unicast ipv6-unicast]"},
		Because: "OpenBGPD 7.7 has no FlowSpec: its OPEN offers IPv4 and IPv6 unicast only, so no rule is sent to it and the peer's missing families say so. Blackholes work. Later versions negotiate FlowSpec and discard it.",
	},
	{
		Number: 3, Router: "FRR", Family: "ipv6", Component: "source", Operator: offset, Outcome: notAccepted, Shows: []string{"NOTIFICATION 3/9"},
		Because: "FRR 8.4 resets the session upon a prefix with an offset: it expects as many octets as the prefix length alone would need (RFC 8956, section 3.1, takes the offset off). The profile `frr` says so, and no such rule is sent to a router that has it.",
	},
	{
		Number: 4, Router: "BIRD", Family: "ipv6", Component: "source", Operator: "offset of bits", Outcome: notAccepted, Shows: []string{"NOTIFICATION 3/1"},
		Because: "BIRD 2.0 expects the pattern to begin with the whole octet in which the offset lies, as a draft had it, and not with the bit (RFC 8956, section 3.1). Where that makes another number of octets it resets the session. Offsets of whole octets are the same either way and work.",
	},
	{
		Number: 5, Router: "BIRD", Family: "ipv6", Component: "source", Operator: "offset, to the last bit", Outcome: readsOther, Shows: []string{"src ::10/128 offset 100"},
		Because: "As D4, where the number of octets happens to be the same: BIRD then takes the rule and matches other addresses. The profile `bird` says so, and no such rule is sent to a router that has it.",
	},
	{
		Number: 6, Router: "gobgpd", Family: "ipv6", Component: "source", Operator: offset, Outcome: notAccepted, Shows: []string{"the router does not show it"},
		Because: "gobgpd 3.10 drops a rule with an offset without a word; the session stays.",
	},
	{
		Number: 7, Router: "ExaBGP", Family: "ipv6", Component: "source", Operator: offset, Outcome: notAccepted, Shows: []string{"the router does not show it"},
		Because: "ExaBGP 4.2 drops a rule with an offset without a word; the session stays.",
	},
	{
		Number: 8, Router: "FRR", Actions: []string{"discard sample", "sample", "rate-limit 8Mbps continue", "rate-limit 1Gbps sample mark 8"},
		Outcome: readsOther, Shows: []string{"FS:action eval stops"},
		Because: "FRR 8.4 shows the same for every traffic-action: what it does about sampling, and whether it looks at the rules behind, cannot be told. Do not rely on `sample` or `continue` there.",
	},
	{
		Number: 9, Router: "FRR", Family: "ipv6", Actions: []string{"redirect " + hop6.String(), "copy " + hop6.String()}, Outcome: readsOther, Shows: []string{"UNK:0, 12"},
		Because: "FRR 8.4 does not know the redirect to an IPv6 address and keeps the rule without an action, which lets everything pass.",
	},
	{
		Number: 10, Router: "FRR", Actions: attributed, Outcome: readsOther, Shows: []string{"FS:rate 0.000000 received for"},
		Because: "FRR 8.4 shows no communities, MED or local preference of a FlowSpec rule. Its policy for received rules may still match them.",
	},
	{
		Number: 11, Router: "ExaBGP", Actions: []string{"redirect 4200000000:9"}, Outcome: notAccepted, Shows: []string{"without a NOTIFICATION", "the router does not show it"},
		Because: "ExaBGP 4.2 fails on a redirect to a route target with a 4-octet AS and drops the connection, and every rule with it; at times it only drops the rule.",
	},
	{
		Number: 12, Router: "ExaBGP", Family: "ipv6", Actions: []string{"redirect " + hop6.String(), "copy " + hop6.String()}, Outcome: readsOther, Shows: []string{"no action and not"},
		Because: "ExaBGP 4.2 shows nothing of IPv6 address specific extended communities, in which a redirect to an IPv6 address travels.",
	},
}

// attributed are the actions of rules with path attributes.
var attributed = []string{
	"discard communities 64500:667,no-export", "discard large-communities 64500:1:2,64500:3:4", "discard med 10", "discard local-pref 200",
}

// offset stands for every way to give an IPv6 prefix an offset.
const offset = "offset…"

func (d Deviation) holds(router string, c Cell) bool {
	is := func(want, have string) bool { return want == "" || want == have }
	component := d.Component
	if component == flowspec {
		if c.Route.IsBlackhole() {
			return false
		}
		component = ""
	}
	if d.Operator == offset {
		return d.Router == router && c.Route.Match.SourceOffset > 0
	}
	return d.Router == router && is(d.Family, c.Family.String()) && is(component, c.Component) && is(d.Operator, c.Operator) &&
		(len(d.Actions) == 0 || slices.Contains(d.Actions, c.Action))
}

// listed returns the deviation that is listed for a cell; of several, the one that goes wrong first.
func listed(router string, c Cell) *Deviation {
	var first *Deviation
	for i := range Deviations {
		if d := &Deviations[i]; d.holds(router, c) && (first == nil || slices.Index(outcomes, d.Outcome) < slices.Index(outcomes, first.Outcome)) {
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
	case !slices.ContainsFunc(d.Shows, func(s string) bool { return strings.Contains(r.raw+" "+r.Note, s) }):
		return fmt.Sprintf("the evidence of %s (%s) is not shown", d.name(), strings.Join(d.Shows, ", or "))
	default:
		r.Deviation = d.name()
		return ""
	}
}

func (d Deviation) name() string { return fmt.Sprintf("D%d", d.Number) }
