package mitigation

import (
	"fmt"
	"math"
	"net/netip"
	"slices"
	"time"

	"github.com/amooglesoft/trafficmonitor/internal/route"
	"github.com/amooglesoft/trafficmonitor/internal/traffic"
	"github.com/amooglesoft/trafficmonitor/internal/vector"
	"github.com/amooglesoft/trafficmonitor/policy"
)

type sight struct {
	target netip.Prefix
	vector vector.ID
}

// look is what sensors said last of one vector at one target.
type look struct {
	known      bool // anything, since this machine decides
	lost       bool // a sensor that saw it went silent, and none has seen it since
	silent     bool // one of sensors is
	sensors    []string
	goesOn     bool // an answered attack goes on
	pps, bps   float64
	usual      Usual
	other      float64   // packets per second of the target's other traffic
	start, end time.Time // of the newest window
	quiet      time.Time // since when it does not go on; zero while it does, or that is not known
}

// Watches tells whether a live mitigation lives on what is seen of a vector at a target.
func (m *Machine) Watches(target netip.Prefix, v vector.ID) bool {
	m.alive()
	_, ok := m.looks[sight{target, v}]
	return ok
}

// watch begins to look at what a mitigation answers.
func (m *Machine) watch(x *Mitigation) {
	for _, v := range x.Vectors {
		if k := (sight{x.Target, v}); m.looks[k] == nil {
			m.looks[k] = &look{sensors: x.Effect.Sensors}
		}
	}
}

// Sensors returns those that saw a vector that a live mitigation answers, when they saw it last.
func (m *Machine) Sensors(target netip.Prefix, v vector.ID) []string {
	if l := m.looks[sight{target, v}]; l != nil {
		return l.sensors
	}
	return nil
}

// Silent takes in whether one of these sensors is silent: then nothing is measured, whatever the others see.
func (m *Machine) Silent(target netip.Prefix, v vector.ID, silent bool) {
	if l := m.looks[sight{target, v}]; l != nil {
		if l.silent = silent; silent {
			l.quiet = time.Time{}
		}
	}
}

// Usual is what a target normally receives of a vector, in packets and bits per second; zero where it is not known.
type Usual struct{ PPS, BPS float64 }

// Observe takes in what the sensors see of a vector that a mitigation answers: its traffic goes on when the trickle that the
// router lets pass is there, beside what is usual. A vector that is not observed keeps its last evidence, and a sensor that
// went silent counts with its last word, for silence is no evidence.
func (m *Machine) Observe(o traffic.Observation, usual Usual) {
	l := m.looks[sight{o.Target, o.Vector}]
	if l == nil {
		return
	}
	switch missing, seen := max(o.MissingCount, len(o.Missing)), max(o.SensorCount, len(o.Sensors)); {
	case missing > 0:
		l.lost, l.quiet = true, time.Time{}
		if seen == 0 {
			return
		}
	case seen > 0:
		l.lost, l.sensors = false, union(l.sensors, o.Sensors)
	case l.lost: // the view forgot the one that was silent
		return
	}
	l.known = true
	l.pps, l.bps, l.usual = o.PPS+o.HeldPPS, o.BPS+o.HeldBPS, usual
	l.other = max(0, o.AllPPS-o.PPS)
	l.start, l.end = o.Start, o.Start.Add(o.Span)
	l.goesOn = m.goesOn(o, usual)
	m.before(o)
	switch {
	case l.goesOn || l.lost || l.silent || !m.tells(o, usual):
		l.quiet = time.Time{}
	case l.quiet.IsZero():
		l.quiet = l.end
	}
}

// union adds names to a sorted list, which it does not change, up to as many as an observation names.
func union(have, more []string) []string {
	out := have
	for _, name := range more {
		if i, found := slices.BinarySearch(out, name); !found && len(out) < traffic.MaxNames {
			out = slices.Insert(slices.Clip(slices.Clone(out)), i, name)
		}
	}
	return out
}

// tells reports whether it could be seen that the attack goes on: where what is usual fills a limit alone it could not.
func (m *Machine) tells(o traffic.Observation, usual Usual) bool {
	for _, x := range m.activeAt(o.Target) {
		if !slices.Contains(x.Vectors, o.Vector) {
			continue
		}
		full := func(limit, usual float64) bool {
			passes := limit
			if x.Refined {
				passes += usual
			}
			return fills(passes, limit, usual, x.Refined)
		}
		for _, r := range x.Routes {
			switch rate := float64(r.Action.Rate); r.Action.Kind {
			case route.RateBytes:
				if !full(rate*8, usual.BPS) {
					return false
				}
			case route.RatePackets:
				if !full(rate, usual.PPS) {
					return false
				}
			}
		}
	}
	return true
}

// before takes a window that began before an answer took effect for what was before, if it says more: at the moment of the
// decision hardly more is known of an attack than that it passed its limit.
func (m *Machine) before(o traffic.Observation) {
	for _, x := range m.activeAt(o.Target) {
		if !slices.Contains(x.Vectors, o.Vector) || x.Phase == Easing || !o.Start.Before(x.tookEffect()) {
			continue
		}
		f := &x.Effect
		f.BeforePPS, f.BeforeBPS = max(f.BeforePPS, o.PPS), max(f.BeforeBPS, o.BPS)
	}
}

// trickle is the share of a rate limit that must come through to count as evidence, and unsteady the share by which what is
// usual may be exceeded without being any.
const (
	trickle  = 0.5
	unsteady = 0.1
)

// fills tells whether what comes through fills so much of a limit as an attack does, beside what is usual. A rule that was
// refined lets what is usual pass beside its limit, any other one holds it to the limit, too. Where what is usual hides the
// trickle, that is no evidence: the rule ends in time, and if the attack goes on it is recognised again within moments.
func fills(passes, limit, usual float64, refined bool) bool {
	if !refined {
		limit -= usual
	}
	return passes-usual*(1+unsteady) >= trickle*max(limit, 0)
}

func (m *Machine) goesOn(o traffic.Observation, usual Usual) bool {
	for _, x := range m.activeAt(o.Target) {
		if !slices.Contains(x.Vectors, o.Vector) {
			continue
		}
		for _, r := range x.Routes {
			switch r.Action.Kind {
			case route.RateBytes:
				if fills(o.BPS+o.HeldBPS, float64(r.Action.Rate)*8, usual.BPS, x.Refined) {
					return true
				}
			case route.RatePackets:
				if fills(o.PPS+o.HeldPPS, float64(r.Action.Rate), usual.PPS, x.Refined) {
					return true
				}
			case route.Accept: // what is only marked goes on as it did
				if !x.diverts() && x.Effect.BeforePPS > 0 && fills(o.PPS+o.HeldPPS, x.Effect.BeforePPS, usual.PPS, true) {
					return true
				}
			}
		}
	}
	return false
}

// What an effect is judged by.
const (
	works  = 0.9             // a fall of the attack's packets by so much shows it
	settle = 3 * time.Second // for so long an answer must have been seen not to work, or to work no more
)

// measure brings the effect of an active mitigation up to date; false says that nothing new can be said: sensors have not
// seen a whole window since its step took effect, or one of them went silent.
func (m *Machine) measure(x *Mitigation) bool {
	var pps, bps, other float64
	var end time.Time
	for _, v := range x.Vectors {
		l := m.looks[sight{x.Target, v}]
		if l == nil || !l.known || l.lost || l.silent || l.start.Before(x.tookEffect()) {
			return false
		}
		pps += max(0, l.pps-l.usual.PPS*(1+unsteady))
		bps += max(0, l.bps-l.usual.BPS*(1+unsteady))
		other = l.other
		if l.end.After(end) {
			end = l.end
		}
	}
	if len(x.Vectors) == 0 {
		return false
	}
	f := &x.Effect
	f.PPS, f.BPS, f.Other, f.Measured = pps, bps, other, end
	f.Reduction = 0
	if f.BeforePPS > 0 {
		f.Reduction = min(1, max(0, 1-pps/f.BeforePPS))
	}
	return true
}

// tookEffect is when the present step was taken.
func (m *Mitigation) tookEffect() time.Time {
	if m.Rung.Since.IsZero() {
		return m.Created
	}
	return m.Rung.Since
}

// shown tells whether what was measured shows that a mitigation works: the attack fell by nine tenths, or no more comes
// through than its limit lets pass.
func (m *Mitigation) shown(routers int) bool {
	f, each := m.Effect, float64(max(routers, 1))
	if f.BeforePPS > 0 && f.Reduction >= works {
		return true
	}
	a := m.Routes[0].Action
	switch a.Kind {
	case route.RateBytes:
		return f.BPS <= each*float64(a.Rate)*8*(1+unsteady)
	case route.RatePackets:
		return f.PPS <= each*float64(a.Rate)*(1+unsteady)
	}
	return f.BeforePPS == 0 && f.PPS == 0
}

// Evidence is what a ladder is asked with.
func (m *Machine) evidence(now time.Time, x *Mitigation, installed, routers int) policy.Evidence {
	e := policy.Evidence{Age: now.Sub(x.tookEffect()), Installed: installed, Routers: routers}
	if x.State == Pending { // what no answer holds down is what it is
		e.Measured = true
		for _, v := range x.Vectors {
			l := m.looks[sight{x.Target, v}]
			if l == nil || !l.known || l.lost || l.silent {
				e.Measured = false
				return e
			}
			e.PPS, e.BPS = e.PPS+l.pps, e.BPS+l.bps
		}
		e.Before, e.After = e.PPS, e.PPS
		return e
	}
	f := x.Effect
	if !m.measure(x) || f.BeforePPS == 0 {
		return e
	}
	f = x.Effect
	e.Measured = true
	e.Before, e.After, e.Reduction = f.BeforePPS, f.PPS, f.Reduction
	e.PPS, e.BPS = f.PPS, f.BPS
	if f.BeforeOther > 0 {
		e.LegitimateDrop = min(1, max(0, 1-f.Other/f.BeforeOther))
	}
	return e
}

// judge moves an active mitigation of automation to the phase that what was measured, a hold or a freeze put it into, and
// returns why; empty when it stays.
func (m *Machine) judge(now time.Time, x *Mitigation) string {
	if x.State != Active || x.Manual() || x.Phase == Easing {
		return ""
	}
	if why := m.handsOff(now, x.Target); why != "" {
		if x.Phase == OnHold {
			return ""
		}
		x.enter(now, OnHold)
		return why
	}
	if x.Phase == OnHold {
		x.enter(now, Announced)
		delete(m.doubts, x.ID)
		return "automation may act on it again"
	}
	if !m.measure(x) || x.Routes[0].Action.Kind == route.Accept && !x.diverts() { // a mark is not there to stop anything
		return ""
	}
	routers := 1
	if m.reach != nil {
		routers = m.reach(*x)
	}
	if x.shown(routers) {
		delete(m.doubts, x.ID)
		if x.Phase == Verified {
			return ""
		}
		x.drop() // it helps: a further step is asked for anew, should it be needed
		if x.Effect.Verified.IsZero() {
			x.Effect.Verified = x.Effect.Measured
		}
		x.enter(now, Verified)
		return x.says()
	}
	if x.Phase == Ineffective {
		return ""
	}
	since, doubted := m.doubts[x.ID]
	if !doubted {
		m.doubts[x.ID] = x.Effect.Measured
		return ""
	}
	if x.Effect.Measured.Sub(since) < settle {
		return ""
	}
	x.enter(now, Ineffective)
	return x.says()
}

// says puts into words what was measured.
func (m *Mitigation) says() string {
	f := m.Effect
	if f.BeforePPS == 0 {
		return fmt.Sprintf("%.0f packets and %.0f bits per second come through", f.PPS, f.BPS)
	}
	return fmt.Sprintf("%.0f packets per second before, %.0f now: %.0f %% less", f.BeforePPS, f.PPS, math.Floor(100*f.Reduction))
}

// handsOff says why automation may not touch a target; empty when it may.
func (m *Machine) handsOff(now time.Time, target netip.Prefix) string {
	if f, ok := m.FrozenFor(target); ok {
		return fmt.Sprintf("automation is frozen%s since %s by %s: %s", f.where(), f.Since.UTC().Format(time.RFC3339), f.Requester, f.Reason)
	}
	if h, ok := m.Held(now, target); ok {
		return fmt.Sprintf("automation is held off %s until %s by %s: %s", h.Target, h.Until.UTC().Format(time.RFC3339), h.Requester, h.Reason)
	}
	return ""
}
