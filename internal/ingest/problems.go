package ingest

import (
	"fmt"
	"time"
)

// Problem is something wrong with a sensor. Kind is one of [ProblemKinds].
type Problem struct{ Kind, Text string }

// The kinds of problems, the worst first.
const (
	problemGone      = "gone"      // no stream
	problemStale     = "stale"     // a stream, and no report on it
	problemInterface = "interface" // not attached to an interface, or that is down
	problemDirective = "directive" // the newest directive is refused, or not followed
	problemTriggers  = "triggers"  // triggers were lost
	problemSlots     = "slots"     // hosts are not told apart
	problemBacklog   = "backlog"   // reports were dropped or merged
	problemSamples   = "samples"   // samples were lost
	problemSampling  = "sampling"  // it samples less than it was told
	problemClock     = "clock"     // its clock is wrong
)

// ProblemKinds returns every kind there is, the worst first.
func ProblemKinds() []string {
	return []string{
		problemGone, problemStale, problemInterface, problemDirective, problemTriggers, problemSlots, problemBacklog,
		problemSamples, problemSampling, problemClock,
	}
}

// A loss is a problem for so long after it happened.
const recently = time.Minute

// lossKinds are the losses a sensor counts; one that grew is a problem.
var lossKinds = [...]struct {
	kind string
	of   func(c Counters) uint64
	text string // with a verb for the total
}{
	{problemTriggers, func(c Counters) uint64 { return c.LostTriggers }, "it loses triggers, %d so far: attacks are reported a report interval late"},
	{problemSlots, func(c Counters) uint64 { return c.SlotExhausted }, "%d packets were counted for a network because no slot for their host was free"},
	{problemSlots, func(c Counters) uint64 { return c.lost("free_networks") }, "%d packets were counted for a prefix because no slot for their IPv6 /64 network was free"},
	{problemBacklog, func(c Counters) uint64 { return c.DroppedReports }, "it dropped %d reports: its backlog was full, or this controller refused them (the log of the sensor says which)"},
	{problemBacklog, func(c Counters) uint64 { return c.MergedReports }, "it merged %d interval reports that could not be sent in time"},
	{problemSamples, func(c Counters) uint64 { return c.LostSamples }, "it loses samples, %d so far"},
}

// lost is what found no room in a map.
func (c Counters) lost(name string) uint64 {
	for _, m := range c.Maps {
		if m.Name == name {
			return m.Lost
		}
	}
	return 0
}

// patience is how long a sensor may take to follow a new directive.
const patience = 10 * time.Second

// problems says what is wrong with a sensor. asked is what it has been told for so long, nil while this controller does
// not lead.
func problems(now time.Time, st State, told time.Duration, asked *Directive) []Problem {
	if !st.Connected {
		return []Problem{{problemGone, "it has no stream to this controller"}}
	}
	var out []Problem
	add := func(kind, format string, args ...any) { out = append(out, Problem{kind, fmt.Sprintf(format, args...)}) }
	if st.Stale {
		add(problemStale, "it is connected and does not report")
	}
	known := false // an older sensor does not say how it is attached
	for _, i := range st.Interfaces {
		known = known || i.Attachment != ""
	}
	for _, i := range st.Interfaces {
		if i.Attachment == "" && (known || len(st.Counters.Maps) > 0) {
			add(problemInterface, "interface %s is not attached: its packets are not seen", i.Name)
		}
		if i.Down {
			add(problemInterface, "interface %s is down or has no carrier: no packet comes in through it", i.Name)
		}
	}
	switch {
	case st.DirectiveError != "":
		add(problemDirective, "it refused its newest directive: %s", st.DirectiveError)
	case asked != nil && told > patience && (st.Term < asked.Term || st.Term == asked.Term && st.Revision < asked.Revision):
		add(problemDirective, "it follows directive %d.%d, the newest is %d.%d", st.Term, st.Revision, asked.Term, asked.Revision)
	}
	for i, k := range lossKinds {
		if at := st.lost[i]; !at.IsZero() && now.Sub(at) < recently {
			add(k.kind, k.text, k.of(st.Counters))
		}
	}
	// What an older sensor samples is not known.
	if one := st.Counters.SampleOneIn; asked != nil && asked.SampleOneIn > 0 && told > patience && len(st.Counters.Maps) > 0 {
		switch {
		case one == 0:
			add(problemSampling, "it samples nothing rather than one packet in %d: its CPU budget is spent", asked.SampleOneIn)
		case one > asked.SampleOneIn:
			add(problemSampling, "it samples one packet in %d rather than in %d: its CPU budget is spent", one, asked.SampleOneIn)
		}
	}
	if c := st.Clock; c != nil && c.Offset.Abs() > clockWrong {
		add(problemClock, "its clock is off by %s", c.Offset.Round(time.Millisecond))
	}
	return out
}
