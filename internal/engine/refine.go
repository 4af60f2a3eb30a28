package engine

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/amooglesoft/trafficmonitor/internal/audit"
	"github.com/amooglesoft/trafficmonitor/internal/detect"
	"github.com/amooglesoft/trafficmonitor/internal/mitigation"
	"github.com/amooglesoft/trafficmonitor/internal/route"
	"github.com/amooglesoft/trafficmonitor/internal/signature"
	"github.com/amooglesoft/trafficmonitor/internal/traffic"
	"github.com/amooglesoft/trafficmonitor/internal/vector"
)

// What is announced at an onset is the vector's own mark, for of the first milliseconds there are hardly samples. A rule
// is held against the samples a while later, and again from time to time.
const (
	refineAfter = 2 * time.Second
	refineEvery = 10 * time.Second
	// A synthesis may take some milliseconds of the loop, so not more than so many are made at a look.
	maxRefined = 2
	// A rule that misses more than a twentieth of at least so many new samples is made anew.
	fewestSlips = 50
	mostSlips   = 0.05
	// A narrower rule must spare at least this share of the target's normal packets, with this confidence.
	leastSpared  = 0.001
	leastTrusted = 0.9
	whyNarrower  = "narrower"
	whyFollows   = "follows"
)

// refine gives mitigations of automation better rules: a narrower one where the target's normal traffic is known and the
// present rule hits it, another one where the attack has changed and slips past.
func (e *Engine) refine(now time.Time) {
	if e.machine == nil {
		return
	}
	var due []mitigation.Mitigation
	active := map[string]bool{}
	for _, m := range e.machine.Active() {
		active[m.ID] = true
		if _, known := e.attack(m); !known || m.Manual() || len(m.Vectors) != 1 || m.Routes[0].IsBlackhole() {
			continue
		}
		if now.Sub(m.Created) >= refineAfter && now.Sub(e.looked[m.ID]) >= refineEvery {
			due = append(due, m)
		}
	}
	for id := range e.looked {
		if !active[id] {
			delete(e.looked, id)
		}
	}
	slices.SortFunc(due, func(a, b mitigation.Mitigation) int {
		return cmp.Or(e.looked[a.ID].Compare(e.looked[b.ID]), cmp.Compare(a.ID, b.ID))
	})
	for _, m := range due[:min(len(due), maxRefined)] {
		since := e.looked[m.ID]
		e.looked[m.ID] = now
		inc, _ := e.attack(m)
		match, kind, why := e.better(inc, m, since)
		if kind == "" {
			continue
		}
		if !e.replace(now, m, match, kind, why) {
			return
		}
	}
}

// better looks for a match that serves better than the mitigation's; kind is empty when there is none.
func (e *Engine) better(inc detect.Incident, m mitigation.Mitigation, since time.Time) (match route.Match, kind, why string) {
	v, present := m.Vectors[0], m.Routes[0].Match
	attack := e.samples.Attack(inc.Target, inc.Direction, v, inc.Onset)
	normal := e.samples.Normal(inc.Target, inc.Direction, inc.Onset)
	p := signature.Synthesize(signature.Options{MaxRules: 1, Ports: e.ports()}, inc.Target, inc.Direction, v, attack, normal)
	i := slices.IndexFunc(p.Candidates, func(c signature.Candidate) bool { return len(c.More) == 0 })
	if i < 0 || p.Candidates[i].Match.Equal(present) {
		return route.Match{}, "", ""
	}
	best := p.Candidates[i]
	fresh := e.samples.Attack(inc.Target, inc.Direction, v, laterOf(since, m.Created))
	if hit, samples := matched(present, fresh); samples >= fewestSlips && hit < 1-mostSlips && goesOn(inc, v) {
		if again, _ := matched(best.Match, fresh); again <= hit {
			return route.Match{}, "", ""
		}
		return best.Match, whyFollows, fmt.Sprintf("the rule matched %.1f %% of the newest %d samples: %s", 100*hit, samples, best.Says)
	}
	hits, _ := matched(present, normal)
	if !p.Separable || best.Confidence == 0 || hits-best.CollateralMost < leastSpared {
		return route.Match{}, "", ""
	}
	return best.Match, whyNarrower, fmt.Sprintf("the rule matched %.2f %% of the target's normal packets: %s", 100*hits, best.Says)
}

// goesOn tells whether sensors see so much of a vector that it is an attack still, or again. Below that it may all be the
// target's own traffic, which a narrow rule is there to let pass: none of it slips.
func goesOn(inc detect.Incident, v vector.ID) bool {
	i := slices.IndexFunc(inc.Vectors, func(m detect.Measurement) bool { return m.Vector == v })
	if i < 0 {
		return false
	}
	m := inc.Vectors[i]
	if m.Test == detect.Spoofed { // its limit is one of sources
		return false
	}
	return m.LimitPPS > 0 && m.PPS >= m.LimitPPS || m.LimitBPS > 0 && m.BPS >= m.LimitBPS
}

// matched returns the share of samples, by weight, that a match takes, and how many samples there are.
func matched(m route.Match, samples []traffic.Sample) (share float64, n int) {
	var all, hit uint64
	for i := range samples {
		w := uint64(samples[i].Weight)
		all += w
		if signature.Matches(m, &samples[i]) {
			hit += w
		}
	}
	if all == 0 {
		return 0, 0
	}
	return float64(hit) / float64(all), len(samples)
}

// margin is by how many samples more than were hit may be hit: of n of which none was, the share is below 3/n with a
// certainty of 95 %.
const margin = 3

// collateral is the share of the target's normal traffic that the mark of a vector hits at most, by its samples; negative
// when there are none.
func (e *Engine) collateral(inc detect.Incident, v vector.ID) float64 {
	hit, n := matched(e.ports().For(inc.Target, v).Match, e.samples.Normal(inc.Target, inc.Direction, inc.Onset))
	if n == 0 {
		return -1
	}
	return min(1, hit+margin/float64(n))
}

// Collateral is the share, 0 to 1, of a route's destination's normal traffic that it matches at most, with a certainty of 95 %, and
// how many samples of that are known; of none nothing is said.
func (e *Engine) Collateral(ctx context.Context, r route.Route) (share float64, samples int, err error) {
	if !r.Match.Destination.IsValid() {
		return 0, 0, nil
	}
	err = e.do(ctx, func(now time.Time) error {
		hit, n := matched(r.Match, e.samples.Normal(r.Match.Destination, vector.Inbound, now))
		if samples = n; n > 0 {
			share = min(1, hit+margin/float64(n))
		}
		return nil
	})
	return share, samples, err
}

// replace stores the mitigation with another rule; false says that the term was given up.
func (e *Engine) replace(now time.Time, m mitigation.Mitigation, match route.Match, kind, why string) bool {
	r := route.Route{Match: match, Action: m.Routes[0].Action}
	known := e.known(now)
	before, after, ok := e.machine.Refine(now, m.ID, r, why)
	if !ok {
		return true
	}
	if refusals := e.judgeChange(now, known, before, after); len(refusals) > 0 {
		e.machine.Unrefine(before)
		e.unchanged()
		e.metrics.refused.WithLabelValues(string(refusals[0].Invariant)).Inc()
		e.log.Warn("a better rule is refused by the safety kernel; the one before stays", "mitigation", m.ID, "rule", r, "reason", refusals[0].Reason)
		return true
	}
	if _, err := e.commit(mitigation.Change{Put: []mitigation.Mitigation{after}}); err != nil {
		return false
	}
	e.metrics.refined.WithLabelValues(kind).Inc()
	e.log.Info("mitigation has another rule", "mitigation", m.ID, "rule", r, "before", before.Routes[0], "reason", why)
	e.o.Emit(audit.MitigationChanged, fmt.Sprintf("%s instead of %s: %s", r, before.Routes[0], why), map[string]string{
		"mitigation": m.ID, "incident": m.Incident, "target": m.Target.String(), "route": r.String(), "before": before.Routes[0].String(),
	})
	return true
}

func laterOf(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
