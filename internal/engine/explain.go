package engine

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/amooglesoft/trafficmonitor/internal/mitigation"
	"github.com/amooglesoft/trafficmonitor/internal/traffic"
	"github.com/amooglesoft/trafficmonitor/internal/vector"
	"github.com/amooglesoft/trafficmonitor/policy"
)

// Explain says in sentences what is seen of a target, and why there is, or is no, incident.
func (e *Engine) Explain(ctx context.Context, target netip.Prefix) (out []string, err error) {
	err = e.do(ctx, func(now time.Time) error {
		out = e.explain(now, target)
		return nil
	})
	return out, err
}

func (e *Engine) explain(now time.Time, target netip.Prefix) (out []string) {
	say := func(format string, args ...any) { out = append(out, fmt.Sprintf(format, args...)) }
	switch {
	case slices.ContainsFunc(e.o.Own, func(p netip.Prefix) bool { return p.Overlaps(target) && p.Bits() <= target.Bits() }):
		say("%s is protected, in group %s of the policy.", target, e.policy.Group(target))
	case slices.ContainsFunc(e.o.Own, target.Overlaps):
		say("A part of %s is protected; ask about a prefix or an address of it.", target)
	default:
		say("%s is not protected: it is in none of network.own, so sensors count nothing for it.", target)
	}
	seen := false
	for _, look := range []func(netip.Prefix, vector.Direction, vector.ID) traffic.Observation{e.view.Observe, e.view.ObserveNetwork} {
		for _, d := range []vector.Direction{vector.Inbound, vector.Outbound} {
			for _, v := range vector.All() {
				if o := look(target, d, v.ID); o.PPS+o.BPS+o.HeldPPS+o.HeldBPS > 0 {
					seen = true
					say("%s.", e.detector.Explain(now, o))
				}
			}
		}
	}
	if !seen {
		if target.IsSingleIP() {
			say("No sensor reports traffic of it now.")
		} else {
			say("No sensor counts it as a network of its own now; ask about its protected prefix, or about an address.")
		}
	}
	if stale := e.view.Stale(); len(stale) > 0 {
		say("Silent sensors, whose last word is held: %s.", strings.Join(stale, ", "))
	}
	about := func(p netip.Prefix) bool { return p.Overlaps(target) }
	active := 0
	for _, inc := range e.detector.Incidents() {
		if about(inc.Target) {
			active++
			say("Incident %s at %s since %s: %s.", inc.ID, inc.Target, inc.Onset.UTC().Format(time.RFC3339), inc.Reason)
			if inc.Previous != "" {
				say("It flaps: incident %s ended shortly before.", inc.Previous)
			}
			if inc.Direction == vector.Outbound {
				say("What leaves is only observed.")
				continue
			}
			for _, m := range inc.Vectors {
				if inc.Network {
					say("About %s the policy says: %s.", m.Vector, e.policy.Answer(policy.Observed(inc, m.Vector, now), now).Reason)
					continue
				}
				say("About %s the policy says: %s.", m.Vector, e.policy.ExplainIncident(policy.Observed(inc, m.Vector, now), now))
			}
		}
	}
	if active == 0 {
		say("There is no incident.")
	}
	for _, inc := range slices.Backward(e.ended) {
		if about(inc.Target) && now.Sub(inc.Ended) < time.Hour {
			say("Incident %s ended at %s: %s.", inc.ID, inc.Ended.UTC().Format(time.RFC3339), inc.Reason)
		}
	}
	return append(out, e.explainAnswers(now, target)...)
}

// explainAnswers says what is done about a target, and what keeps automation from it.
func (e *Engine) explainAnswers(now time.Time, target netip.Prefix) (out []string) {
	if e.machine == nil {
		return []string{"This controller does not lead: the leader knows what is done about it (tmctl mitigations)."}
	}
	rec := e.machine.Records()
	for _, m := range rec.Mitigations {
		if m.State == mitigation.Active && m.Target.Overlaps(target) {
			out = append(out, fmt.Sprintf("Mitigation %s of %s until %s: %s. What it stops cannot be seen from behind the router.", m.ID, m.Requester, m.Deadline.UTC().Format(time.RFC3339), m.Routes[0]))
		}
	}
	if h, ok := e.machine.Held(now, target); ok {
		out = append(out, fmt.Sprintf("Automation keeps its hands off %s until %s: %s by %s.", h.Target, h.Until.UTC().Format(time.RFC3339), h.Reason, h.Requester))
	}
	if f := rec.Freeze; f != nil {
		out = append(out, fmt.Sprintf("All automation is frozen since %s by %s: %s.", f.Since.UTC().Format(time.RFC3339), f.Requester, f.Reason))
	}
	for _, f := range rec.Frozen {
		if slices.Contains(append(e.policy.Groups(target), e.policy.Group(target)), f.Group) {
			out = append(out, fmt.Sprintf("Automation is frozen in group %s since %s by %s: %s.", f.Group, f.Since.UTC().Format(time.RFC3339), f.Requester, f.Reason))
		}
	}
	for k, text := range e.said {
		if k.target.Overlaps(target) {
			out = append(out, fmt.Sprintf("Of %s: %s.", k.vector, text))
		}
	}
	slices.Sort(out)
	return out
}
