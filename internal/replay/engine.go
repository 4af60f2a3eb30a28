package replay

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/amooglesoft/trafficmonitor/internal/detect"
	"github.com/amooglesoft/trafficmonitor/internal/route"
	"github.com/amooglesoft/trafficmonitor/internal/safety"
	"github.com/amooglesoft/trafficmonitor/internal/signature"
	"github.com/amooglesoft/trafficmonitor/internal/traffic"
	"github.com/amooglesoft/trafficmonitor/internal/vector"
	"github.com/amooglesoft/trafficmonitor/policy"
)

// engine is the system without a network: the packets' stamps are its clock.
type engine struct {
	o        Options
	view     *traffic.View
	detector *detect.Detector
	samples  *traffic.SampleStore
	sensor   *sensor
	live     bool // reports come from real sensors
	result   Result
	now      time.Time
	open     map[string]int // incident ID -> index in result.Incidents
	active   []int          // the same indices, in order of decision
	entries  []safety.Entry
}

// sampleMargin is how long before an onset a packet counts as normal in a capture, which may show but seconds of peace.
const sampleMargin = 2 * detect.Window

func newEngine(o Options, live bool) *engine {
	kept := traffic.SampleOptions{MaxBytes: 256 << 20, MaxTargets: o.MaxTargets, Margin: sampleMargin, Attack: 8192, Normal: 4096, Recent: 1024}
	if live {
		kept = traffic.SampleOptions{} // as a controller's
	}
	e := &engine{
		o: o, live: live, view: traffic.NewView(traffic.Options{MaxTargets: o.MaxTargets, StaleAfter: 3 * reportInterval, ForgetAfter: time.Minute}),
		detector: detect.New(o.Policy.Rules(), nil), open: map[string]int{},
		samples: traffic.NewSampleStore(kept),
	}
	var levels [vector.Directions][vector.Count]level
	for d := range levels {
		for v, l := range o.Policy.Triggers(vector.Direction(d)) {
			levels[d][v] = levelOf(l.PPS, l.BPS)
		}
	}
	e.sensor = newSensor(o.Targets, o.MaxTargets, levels, e.report)
	return e
}

func (e *engine) packet(p Packet) {
	if e.result.Packets == 0 {
		e.result.First, e.now = p.Time, p.Time
		e.sensor.begin(p.Time)
	}
	if p.Time.Before(e.now) {
		p.Time = e.now // captures of several interfaces are a little out of order
	}
	e.advance(p.Time)
	e.result.Packets++
	e.result.Duration = p.Time.Sub(e.result.First)
	for _, d := range []vector.Direction{vector.Inbound, vector.Outbound} {
		r := Classify(p, d, e.o)
		if d == vector.Inbound {
			switch {
			case !r.IP:
				e.result.NotIP++
			case r.Vector == vector.Malformed:
				e.result.Malformed++
			}
		}
		if !r.IP || !r.Target.IsValid() {
			return
		}
		if e.sensor.count(p.Time, d, &r) {
			e.samples.Add(p.Time, r.Sample(p.Time, d, uint32(r.Segments)))
		}
	}
}

// patience is how long the clock goes on second by second when no packets come: then everything has ended that ends.
const patience = 20 * time.Minute

// advance does what is due before a time.
func (e *engine) advance(to time.Time) {
	for quiet := e.now.Add(patience); ; {
		at := e.sensor.due()
		if at.After(to) {
			break
		}
		if at.After(quiet) && e.sensor.idle() {
			e.sensor.skip(to)
			quiet = to.Add(patience)
			continue
		}
		e.now = at
		e.sensor.report(at)
		e.tick(at)
	}
	e.now = to
}

// finish lets the clock run until every incident has ended.
func (e *engine) finish() {
	if e.result.Packets+e.result.Reports == 0 {
		return
	}
	last := e.now
	if e.live {
		e.signAll()
		return
	}
	for at := last.Add(reportInterval); (len(e.open) > 0 || !e.sensor.idle()) && at.Before(last.Add(patience)); at = at.Add(reportInterval) {
		e.advance(at)
	}
	e.signAll()
	e.result.Refused = e.sensor.refused
}

// signAll makes the signatures that were not made yet.
func (e *engine) signAll() {
	for _, i := range e.active {
		if e.result.Incidents[i].signed.IsZero() {
			e.sign(i)
		}
	}
}

func (e *engine) report(now time.Time, r traffic.Report) {
	e.now = now
	e.view.Take(now, r)
	e.observe(now)
}

func (e *engine) observe(now time.Time) {
	for _, o := range e.view.Collect(now, e.wants) {
		e.events(now, e.detector.Observe(now, o))
	}
	e.events(now, e.detector.ObserveSources(now, e.view.CollectSources()))
}

// wants leaves out what leaves when nobody said who is ours: or else each attack would be told twice, of its target and of
// its source.
func (e *engine) wants(r traffic.Rate) bool {
	return (r.Direction == vector.Inbound || len(e.o.Targets) > 0 || e.live) && e.detector.Wants(r)
}

func (e *engine) tick(now time.Time) {
	e.view.Expire(now)
	e.observe(now)
	e.events(now, e.detector.Tick(now))
	for _, i := range e.active {
		inc := &e.result.Incidents[i]
		switch {
		case now.Sub(inc.Decided) < settle || now.Sub(inc.signed) < again:
		case inc.signed.IsZero(), len(inc.Vectors) != inc.signedVectors, e.slips(inc, now):
			e.sign(i)
		default:
			inc.signed = now
		}
	}
}

// slips tells whether the rules no longer match the attack as it is now.
func (e *engine) slips(inc *Incident, now time.Time) bool {
	for _, m := range inc.Vectors {
		var all, hit uint64
		for _, s := range e.samples.Attack(inc.Target, inc.Direction, m.Vector, inc.signed) {
			all += uint64(s.Weight)
			if slices.ContainsFunc(inc.Rules, func(r route.Match) bool { return signature.Matches(r, &s) }) {
				hit += uint64(s.Weight)
			}
		}
		if all >= fewest && float64(hit) < 0.95*float64(all) {
			return true
		}
	}
	return false
}

func (e *engine) events(now time.Time, events []detect.Event) {
	for _, ev := range events {
		i, known := e.open[ev.Incident.ID]
		if !known {
			if ev.Kind != detect.Onset {
				continue
			}
			i = len(e.result.Incidents)
			e.result.Incidents = append(e.result.Incidents, Incident{})
			e.open[ev.Incident.ID] = i
			e.active = append(e.active, i)
			e.samples.Freeze(ev.Incident.Target, ev.Incident.Onset)
		}
		inc := &e.result.Incidents[i]
		inc.Incident = ev.Incident
		if ev.Kind == detect.End {
			delete(e.open, ev.Incident.ID)
			e.active = slices.DeleteFunc(e.active, func(j int) bool { return j == i })
			if inc.signed.IsZero() || len(inc.Vectors) != inc.signedVectors || e.slips(inc, now) {
				e.sign(i)
			}
			if !slices.ContainsFunc(e.active, func(j int) bool { return e.result.Incidents[j].Target == ev.Incident.Target }) {
				e.samples.Thaw(now, ev.Incident.Target)
			}
		}
	}
}

// sign makes the signature of an incident's vectors, the one with the most packets first, and asks policy and safety
// kernel what would be done with it.
func (e *engine) sign(i int) {
	inc := &e.result.Incidents[i]
	inc.signed, inc.signedVectors, inc.Rules, inc.Routes = e.now, len(inc.Vectors), nil, nil
	e.entries = slices.DeleteFunc(e.entries, func(x safety.Entry) bool { return strings.HasPrefix(x.Owners[0], inc.ID+" ") })
	normal := e.samples.Normal(inc.Target, inc.Direction, inc.Onset)
	var says []string
	var actions []string
	for _, m := range byPeak(inc.Vectors) {
		attack := e.samples.Attack(inc.Target, inc.Direction, m.Vector, inc.Onset)
		p := signature.Synthesize(e.o.Signature, inc.Target, inc.Direction, m.Vector, attack, normal)
		if len(p.Candidates) == 0 {
			says = append(says, p.Says)
			continue
		}
		best := p.Candidates[0]
		if len(inc.Rules) == 0 {
			inc.PredictedCoverage, inc.PredictedCollateral, inc.Confidence = best.Coverage, best.Collateral, best.Confidence
		}
		rules := append([]route.Match{best.Match}, best.More...)
		inc.Rules = append(inc.Rules, rules...)
		says = append(says, best.Says)
		action, why := e.answer(inc, m.Vector, rules)
		actions, inc.Why = append(actions, action), why
	}
	inc.Says = strings.Join(says, "; ")
	inc.Action = strings.Join(slices.Compact(actions), ", ")
	if inc.Action == "" {
		inc.Action = observe
	}
}

const observe = "observe"

// byPeak orders measurements by their peak of packets, the largest first.
func byPeak(in []detect.Measurement) []detect.Measurement {
	out := slices.Clone(in)
	slices.SortStableFunc(out, func(a, b detect.Measurement) int {
		switch {
		case a.PeakPPS > b.PeakPPS:
			return -1
		case a.PeakPPS < b.PeakPPS:
			return 1
		}
		return 0
	})
	return out
}

// answer says what policy and safety kernel make of rules against a vector.
func (e *engine) answer(inc *Incident, v vector.ID, rules []route.Match) (action, why string) {
	asked := policy.Observed(inc.Incident, v, e.now)
	if inc.Confidence > 0 {
		asked.Collateral = inc.PredictedCollateral
	}
	response := e.o.Policy.Answer(asked, inc.Decided)
	if inc.Direction == vector.Outbound {
		return observe, "what leaves is only observed"
	}
	i := slices.IndexFunc(response.Steps, policy.Step.Announces)
	if i < 0 {
		return response.Steps[0].Does(), response.Reason
	}
	step := response.Steps[i]
	if most := step.MaxCollateral; most >= 0 && !(asked.Collateral >= 0 && asked.Collateral <= most) {
		return observe, response.Reason + "; the collateral is above the cap, or not known"
	}
	e.entries = slices.DeleteFunc(e.entries, func(x safety.Entry) bool { return !inc.Decided.Before(x.Deadline) })
	before := len(e.entries)
	var routes []route.Route
	for _, m := range rules {
		r := route.Route{Match: m, Action: step.Action}
		if step.Action.Kind == route.Blackhole {
			r.Match = route.Match{Destination: inc.Target}
		}
		routes = append(routes, r)
		e.entries = append(e.entries, safety.Entry{Route: r, Owners: []string{inc.ID + " " + v.String()}, Answers: []string{response.Path}, Created: inc.Decided, Deadline: inc.Decided.Add(step.TTL)})
	}
	for _, violation := range safety.Check(inc.Decided, e.limits(inc.Target), e.entries) {
		if violation.Index >= before {
			e.entries = e.entries[:before]
			return "refused", fmt.Sprintf("%s: %s", violation.Invariant, violation.Reason)
		}
	}
	inc.Routes = append(inc.Routes, routes...)
	var steps []string
	for _, s := range response.Steps {
		if s.Announces() {
			steps = append(steps, s.Action.String())
		} else {
			steps = append(steps, s.Does())
		}
	}
	return strings.Join(steps, ", then "), response.Reason
}

// limits are those given, or the defaults with what is protected as own prefixes.
func (e *engine) limits(target netip.Prefix) safety.Limits {
	if e.o.Safety != nil {
		return *e.o.Safety
	}
	l := safety.Defaults()
	l.Own = e.o.Targets
	if len(l.Own) == 0 {
		l.Own = []netip.Prefix{target}
	}
	return l
}
