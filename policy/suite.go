package policy

import (
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/amooglesoft/trafficmonitor/internal/detect"
	"github.com/amooglesoft/trafficmonitor/internal/document"
	"github.com/amooglesoft/trafficmonitor/internal/vector"
)

// Suite is tests of a policy, as they are written in a file.
type Suite struct {
	name   string
	report *document.Report
	tests  []test
}

// Result is what came of one test.
type Result struct {
	Name  string
	Place string // file:line
	// Failures say what was expected and what is so; none when the test passes.
	Failures []string
}

type test struct {
	name   string
	given  given
	expect expectation
}

// given is the incident that a policy is asked about, and what was measured of its answer.
type given struct {
	target           netip.Prefix
	vector           vector.ID
	direction        string
	pps, bps         *float64
	peakPPS, peakBPS *float64
	totalPPS         *float64
	duration         time.Duration
	test             string
	sensors, hosts   int
	flaps            bool
	collateral       *float64
	at               time.Time
	step             int
	evidence         *evidence
}

type evidence struct {
	before, after, reduction, pps, bps, legitimateDrop *float64
	age                                                time.Duration
	installed, routers                                 int
}

type expectation struct {
	group    *string
	attack   *bool
	action   *action
	step     *int
	approval *int
	because  *string
}

// noon is when tests happen that do not say it: a Monday, before any exception ends.
var noon = time.Date(2001, 1, 1, 12, 0, 0, 0, time.UTC)

// ParseSuite reads tests from the text of a file. The error is a document.Problems with everything that is wrong.
func ParseSuite(name string, text []byte) (*Suite, error) {
	s := &Suite{name: name}
	version := 0
	s.report = document.Read(name, text, suiteSchema(&version, &s.tests))
	for i, t := range s.tests {
		at := fmt.Sprintf("tests[%d]", i)
		if t.expect == (expectation{}) {
			s.report.Add(at+".expect", "expects nothing: write group, attack, action, step, approval or because")
		}
		if t.given.step > 0 && t.given.evidence == nil {
			s.report.Add(at+".given.evidence", "is missing: what was measured while step %d was in effect", t.given.step)
		}
		switch g := t.given; {
		case g.totalPPS == nil:
		case g.test != detect.Share.String():
			s.report.Add(at+".given.total_pps", "counts for test: share only, and this is about test: %s", g.test)
		case g.pps == nil:
			s.report.Add(at+".given.pps", "is missing: what part of total_pps the vector is")
		case *g.totalPPS < *g.pps:
			s.report.Add(at+".given.total_pps", "is less than pps, which is a part of it")
		}
		if t.expect.attack != nil && t.given.pps == nil && t.given.bps == nil {
			s.report.Add(at+".given.pps", "is missing, as is bps: an attack is told by its rate")
		}
	}
	if len(s.tests) == 0 {
		s.report.Add("tests", "holds no test")
	}
	if err := s.report.Err(); err != nil {
		return nil, err
	}
	return s, nil
}

func suiteSchema(format *int, tests *[]test) document.Value {
	return document.Section(
		document.Field{Key: "version", Value: document.Scalar(format, version()), Required: true, Help: "The version of this file format, which is 1."},
		document.Field{
			Key: "tests", Help: "What is asked, and what is expected.", Required: true,
			Value: document.List(tests, func() test {
				return test{given: given{direction: "inbound", test: "limit", sensors: 1, hosts: 1, at: noon}}
			}, func(t *test) document.Value {
				return document.Section(
					document.Field{Key: "name", Value: document.Scalar(&t.name, document.Text(1, 200)), Required: true, Help: "What the test says, in a sentence."},
					document.Field{Key: "given", Value: t.given.schema(), Required: true, Help: "The incident."},
					document.Field{Key: "expect", Value: t.expect.schema(), Required: true, Help: "What the policy makes of it."},
				)
			}),
		},
	)
}

func (g *given) schema() document.Value {
	return document.Section(
		document.Field{Key: "target", Value: document.Scalar(&g.target, document.Prefix()), Required: true, Help: "The address, or the network, that is attacked."},
		document.Field{Key: "vector", Value: document.Scalar(&g.vector, oneVector()), Required: true, Help: "The vector."},
		document.Field{Key: "direction", Value: document.Scalar(&g.direction, document.OneOf("inbound", "outbound")), Help: "Whether the target receives or sends it."},
		document.Field{Key: "pps", Value: document.Optional(&g.pps, document.PPS()), Help: "Its packets per second now."},
		document.Field{Key: "bps", Value: document.Optional(&g.bps, document.BPS()), Help: "Its bits per second now."},
		document.Field{Key: "peak_pps", Value: document.Optional(&g.peakPPS, document.PPS()), Help: "The highest so far; absent: pps."},
		document.Field{Key: "peak_bps", Value: document.Optional(&g.peakBPS, document.BPS()), Help: "The highest so far; absent: bps."},
		document.Field{Key: "total_pps", Value: document.Optional(&g.totalPPS, document.PPS()), Help: "Packets per second of all that the target receives, of which test: share is a share; absent: pps."},
		document.Field{Key: "duration", Value: document.Scalar(&g.duration, document.Duration(0, 1000*time.Hour)), Help: "How long the incident lasts."},
		document.Field{Key: "test", Value: document.Scalar(&g.test, document.OneOf("limit", "unanswered", "spoofed", "unusual", "share")), Help: "What was passed."},
		document.Field{Key: "sensors", Value: document.Scalar(&g.sensors, document.Number(0, 1<<20)), Help: "How many sensors see it."},
		document.Field{Key: "hosts", Value: document.Scalar(&g.hosts, document.Number(1, 1<<20)), Help: "In how many hosts of a network it arrives."},
		document.Field{Key: "flaps", Value: document.Scalar(&g.flaps, document.Bool()), Help: "Whether another incident ended shortly before."},
		document.Field{Key: "collateral", Value: document.Optional(&g.collateral, share), Help: "The share of normal traffic that the match is predicted to hit; absent: not known."},
		document.Field{Key: "at", Value: document.Scalar(&g.at, moment()), Help: "When it is."},
		document.Field{Key: "step", Value: document.Scalar(&g.step, document.Number(0, maxSteps)), Help: "The step of the ladder that is in effect, from 1 on; 0: none yet."},
		document.Field{Key: "evidence", Value: sectionOf(&g.evidence), Help: "What was measured while it was in effect; absent: nothing."},
	)
}

// sectionOf is the evidence, made when it stands in the file.
func sectionOf(dst **evidence) document.Value {
	return document.Made(dst, func(e *evidence) document.Value {
		return document.Section(
			document.Field{Key: "before", Value: document.Optional(&e.before, document.PPS()), Help: "Packets per second before."},
			document.Field{Key: "after", Value: document.Optional(&e.after, document.PPS()), Help: "Packets per second now."},
			document.Field{Key: "reduction", Value: document.Optional(&e.reduction, share), Help: "The share by which they fell. Where it is absent, and before and after too, nothing was measured."},
			document.Field{Key: "pps", Value: document.Optional(&e.pps, document.PPS()), Help: "Packets per second that sensors see; absent: after."},
			document.Field{Key: "bps", Value: document.Optional(&e.bps, document.BPS()), Help: "Bits per second that sensors see."},
			document.Field{Key: "legitimate_drop", Value: document.Optional(&e.legitimateDrop, share), Help: "The share by which other traffic of the target fell."},
			document.Field{Key: "age", Value: document.Scalar(&e.age, document.Duration(0, 1000*time.Hour)), Help: "How long the step has been in effect."},
			document.Field{Key: "installed", Value: document.Scalar(&e.installed, document.Number(0, 1000)), Help: "How many routers have it installed."},
			document.Field{Key: "routers", Value: document.Scalar(&e.routers, document.Number(0, 1000)), Help: "Of how many routers."},
		)
	})
}

func (x *expectation) schema() document.Value {
	return document.Section(
		document.Field{Key: "group", Value: document.Optional(&x.group, document.Word()), Help: "The target's group."},
		document.Field{Key: "attack", Value: document.Optional(&x.attack, document.Bool()), Help: "Whether the rates reach a limit, however long they last and whatever is normal."},
		document.Field{Key: "action", Value: document.Optional(&x.action, actions()), Help: "What the step does that is in effect afterwards; observe where none is."},
		document.Field{Key: "step", Value: document.Optional(&x.step, document.Number(0, maxSteps)), Help: "The step that is in effect afterwards, from 1 on; 0: none."},
		document.Field{Key: "approval", Value: document.Optional(&x.approval, approval), Help: "How many persons must approve it first."},
		document.Field{Key: "because", Value: document.Optional(&x.because, document.Text(1, 200)), Help: "What stands in the reason."},
	)
}

func oneVector() document.Codec[vector.ID] {
	c := selectors()
	return document.Codec[vector.ID]{
		Type: "vector",
		Parse: func(s string) (vector.ID, error) {
			v, err := c.Parse(s)
			if err == nil && len(v.ids) != 1 {
				return 0, fmt.Errorf("%q names many vectors: an incident is about one", s)
			}
			if err != nil {
				return 0, err
			}
			return v.ids[0], nil
		},
		Format: vector.ID.String,
		JSON:   map[string]any{"enum": vector.Names()},
	}
}

// Run asks a policy and compares.
func (s *Suite) Run(p *Policy) []Result {
	out := make([]Result, len(s.tests))
	for i, t := range s.tests {
		out[i] = Result{Name: t.name, Place: s.report.Place(fmt.Sprintf("tests[%d]", i)), Failures: t.run(p)}
	}
	return out
}

func (t test) run(p *Policy) (failures []string) {
	inc := t.given.incident()
	fail := func(of string, got, want any) {
		failures = append(failures, fmt.Sprintf("%s is %v, expected %v", of, got, want))
	}
	if want := t.expect.group; want != nil && p.Group(inc.Target) != *want {
		fail("the group of "+inc.Target.String(), p.Group(inc.Target), *want)
	}
	if want := t.expect.attack; want != nil {
		if l := p.limitsOf(inc); l.reached(inc, t.given.total()) != *want {
			fail("attack", fmt.Sprintf("%v (the limits are %s)", !*want, l), *want)
		}
	}
	r := p.Answer(inc, t.given.at)
	at := t.given.step - 1
	if at >= len(r.Steps) {
		return append(failures, fmt.Sprintf("step %d cannot be in effect: %s", t.given.step, r.Reason))
	}
	next, err := r.Climb(at, t.given.measured(), inc.Collateral)
	if err != nil {
		failures = append(failures, err.Error())
	}
	reason := fmt.Sprintf("%s; %s", r.Reason, next.Why)
	does := action{}
	if next.Step >= 0 {
		does = action{r.Steps[next.Step].Action, r.Steps[next.Step].Notify}
	}
	if want := t.expect.action; want != nil && does != *want {
		fail("the action", fmt.Sprintf("%s (%s)", formatAction(does), reason), formatAction(*want))
	}
	if want := t.expect.step; want != nil && next.Step+1 != *want {
		fail("the step", fmt.Sprintf("%d (%s)", next.Step+1, reason), *want)
	}
	if want := t.expect.approval; want != nil && next.Approvals != *want {
		fail("the number of approvals", next.Approvals, *want)
	}
	if want := t.expect.because; want != nil && !strings.Contains(reason, *want) {
		fail("the reason", fmt.Sprintf("%q", reason), fmt.Sprintf("%q in it", *want))
	}
	for _, problem := range r.Problems {
		failures = append(failures, "a condition cannot be computed: "+problem)
	}
	return failures
}

func (g given) incident() Incident {
	inc := Incident{
		Target: g.target, Vector: g.vector, Direction: vector.Inbound, Measured: g.pps != nil || g.bps != nil, Duration: g.duration, Test: g.test,
		Sensors: g.sensors, Hosts: g.hosts, Flaps: g.flaps, Collateral: -1,
	}
	if g.direction == "outbound" {
		inc.Direction = vector.Outbound
	}
	set(&inc.PPS, g.pps)
	set(&inc.BPS, g.bps)
	inc.PeakPPS, inc.PeakBPS = inc.PPS, inc.BPS
	set(&inc.PeakPPS, g.peakPPS)
	set(&inc.PeakBPS, g.peakBPS)
	set(&inc.Collateral, g.collateral)
	return inc
}

// total is what the target receives in all, packets per second.
func (g given) total() float64 {
	var total float64
	set(&total, g.pps)
	set(&total, g.totalPPS)
	return total
}

// measured is the evidence; before the first step its age is that of the incident.
func (g given) measured() Evidence {
	if g.evidence == nil {
		return Evidence{Age: g.duration}
	}
	x := g.evidence
	e := Evidence{Age: x.age, Installed: x.installed, Routers: x.routers, Measured: x.reduction != nil || x.before != nil && x.after != nil}
	set(&e.Before, x.before)
	set(&e.After, x.after)
	if e.Before > 0 {
		e.Reduction = max(0, 1-e.After/e.Before)
	}
	set(&e.Reduction, x.reduction)
	e.PPS = e.After
	set(&e.PPS, x.pps)
	set(&e.BPS, x.bps)
	set(&e.LegitimateDrop, x.legitimateDrop)
	return e
}

// limitsOf are the limits that count for an incident.
func (p *Policy) limitsOf(inc Incident) Limits {
	switch {
	case inc.Direction == vector.Outbound:
		return p.Outbound(inc.Target, inc.Vector)
	case !inc.Target.IsSingleIP():
		return p.Networks(inc.Target, inc.Vector)
	}
	return p.Limits(inc.Target, inc.Vector)
}

// reached reports whether the rates of an incident reach a limit, by the test that it says; total is all that its target receives,
// packets per second.
func (l Limits) reached(inc Incident, total float64) bool {
	over := func(x, limit float64) bool { return limit > 0 && x >= limit }
	if l.Hosts > 0 && inc.Hosts < l.Hosts && !inc.Target.IsSingleIP() {
		return false
	}
	switch {
	case over(inc.PPS, l.PPS) || over(inc.BPS, l.BPS):
		return true
	case inc.Test == "unanswered":
		return over(inc.PPS, l.Unanswered)
	case inc.Test == "share": // of all that the target receives
		return l.Share > 0 && over(inc.PPS, max(l.ShareFrom, l.Share*total))
	case inc.Test == "spoofed": // each packet has a source of its own
		return over(inc.PPS, l.Spoofed)
	}
	return false
}
