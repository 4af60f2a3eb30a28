package app

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/amooglesoft/trafficmonitor/internal/mitigation"
)

// situation shows what tmctl status shows, from the same sources, so that a dashboard and an engineer see the same.
type situation struct{ c *Controller }

var (
	mitigationsDesc = prometheus.NewDesc("trafficmonitor_mitigations",
		"Mitigations in the records all controllers share, by state. Active ones are to be announced.", []string{"state"}, nil)
	phasesDesc = prometheus.NewDesc("trafficmonitor_mitigation_phases",
		"Mitigations that wait or are announced, by phase of their life (docs/lifecycle.md).", []string{"phase"}, nil)
	awaitedDesc = prometheus.NewDesc("trafficmonitor_approvals_awaited",
		"Mitigations of which persons are asked to approve a step, or the whole.", nil, nil)
	holdsDesc = prometheus.NewDesc("trafficmonitor_holds",
		"Targets a withdraw by hand, or by the circuit breaker, holds automation off now.", nil, nil)
	routesDesc = prometheus.NewDesc("trafficmonitor_routes_desired",
		"Routes that are to be announced, by the records all controllers share. Compare with what speakers say they sent.", nil, nil)
	frozenDesc = prometheus.NewDesc("trafficmonitor_automation_frozen",
		"1 while automation is frozen: nothing is announced, extended or withdrawn by it.", nil, nil)
	frozenGroupsDesc = prometheus.NewDesc("trafficmonitor_automation_frozen_groups",
		"Groups of the policy for which automation is frozen.", nil, nil)
	breakerOpenDesc = prometheus.NewDesc("trafficmonitor_breaker_open",
		"1 while automation is frozen by the circuit breaker.", nil, nil)
	breakerHeldDesc = prometheus.NewDesc("trafficmonitor_breaker_held_targets",
		"Targets the circuit breaker holds automation off now.", nil, nil)
	policyDesc = prometheus.NewDesc("trafficmonitor_policy_info",
		"Always 1; the first 12 digits of the hash of the policy in force, as tmctl status shows it.", []string{"hash"}, nil)
	policyRefusedDesc = prometheus.NewDesc("trafficmonitor_policy_refused",
		"1 while the newest policy file is refused and the one before is in force.", nil, nil)
	observingDesc = prometheus.NewDesc("trafficmonitor_policy_groups_observing",
		"Groups of the policy in force, default being one, in which nothing is announced because of mode observe.", nil, nil)
	policyLoadedDesc = prometheus.NewDesc("trafficmonitor_policy_loaded_timestamp_seconds",
		"When the policy in force was loaded, in seconds since 1970.", nil, nil)
	reachableDesc = prometheus.NewDesc("trafficmonitor_speaker_reachable",
		"1 while this controller's speaker answers. Absent without routers.", nil, nil)
	restartsDesc = prometheus.NewDesc("trafficmonitor_speaker_restarts_total",
		"Times this controller started its speaker again, with speaker.spawn. Absent without routers.", nil, nil)
)

// Describe implements prometheus.Collector.
func (s situation) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		mitigationsDesc, phasesDesc, awaitedDesc, routesDesc, holdsDesc, frozenDesc, frozenGroupsDesc, breakerOpenDesc, breakerHeldDesc, policyDesc, policyRefusedDesc, observingDesc, policyLoadedDesc, reachableDesc, restartsDesc,
	} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (s situation) Collect(ch chan<- prometheus.Metric) {
	show := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	flag := func(d *prometheus.Desc, v bool) {
		if v {
			show(d, 1)
			return
		}
		show(d, 0)
	}
	now := time.Now()
	// Before the store was read there is nothing to say; zeros would say that nothing is announced.
	if routes, snap, ok := s.c.announce.Desired(now); ok {
		show(routesDesc, float64(len(routes)))
		states := map[mitigation.State]int{mitigation.Pending: 0, mitigation.Active: 0, mitigation.Ended: 0, mitigation.Refused: 0}
		phases, awaited := map[mitigation.Phase]int{}, 0
		for _, m := range snap.Records.Mitigations {
			states[m.State]++
			phases[m.Phase]++
			if alive := m.State == mitigation.Pending || m.State == mitigation.Active; alive && m.Ask.Open() {
				awaited++
			}
		}
		for _, p := range mitigation.Phases() {
			if s := p.State(); s == mitigation.Pending || s == mitigation.Active {
				show(phasesDesc, float64(phases[p]), string(p))
			}
		}
		show(awaitedDesc, float64(awaited))
		for state, n := range states {
			show(mitigationsDesc, float64(n), string(state))
		}
		held := 0
		for _, h := range snap.Records.Holds {
			if now.Before(h.Until) {
				held++
			}
		}
		show(holdsDesc, float64(held))
		flag(frozenDesc, snap.Records.Freeze != nil)
		show(frozenGroupsDesc, float64(len(snap.Records.Frozen)))
		b := breakerState(s.c.o.Config, snap.Records, now)
		flag(breakerOpenDesc, !b.Opened.IsZero())
		show(breakerHeldDesc, float64(b.HeldTargets))
	}
	p := s.c.policy.Load()
	show(policyDesc, 1, p.Hash()[:12])
	flag(policyRefusedDesc, p.err != "")
	show(observingDesc, float64(len(p.Observing())))
	show(policyLoadedDesc, float64(p.loaded.UnixMilli())/1000)
	if len(s.c.o.Config.Speaker.Peers) > 0 {
		_, why := s.c.speaker.get()
		flag(reachableDesc, why == "")
		ch <- prometheus.MustNewConstMetric(restartsDesc, prometheus.CounterValue, float64(s.c.restarts.Load()))
	}
}
