package engine

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/amooglesoft/trafficmonitor/internal/audit"
	"github.com/amooglesoft/trafficmonitor/internal/breaker"
	"github.com/amooglesoft/trafficmonitor/internal/detect"
	"github.com/amooglesoft/trafficmonitor/internal/mitigation"
	"github.com/amooglesoft/trafficmonitor/internal/route"
	"github.com/amooglesoft/trafficmonitor/internal/vector"
)

// circuit is the breaker with what it does.
type circuit struct {
	*breaker.Breaker
	told map[string][]route.Route // of each active mitigation of automation that it knows, by ID

	trips      *prometheus.CounterVec
	judged     *prometheus.CounterVec
	rolledBack prometheus.Counter
	flows      prometheus.Gauge
}

// newCircuit returns nil where the breaker is off.
func newCircuit(o *breaker.Options, reg prometheus.Registerer) *circuit {
	if o == nil {
		return nil
	}
	c := &circuit{
		Breaker: breaker.New(*o), told: map[string][]route.Route{},
		trips:      prometheus.NewCounterVec(prometheus.CounterOpts{Name: "trafficmonitor_breaker_trips_total", Help: "Times the circuit breaker opened, by why; counted by the leader."}, []string{"reason"}),
		judged:     prometheus.NewCounterVec(prometheus.CounterOpts{Name: "trafficmonitor_breaker_judged_total", Help: "Answers of automation that the circuit breaker judged, by what it found: whether sensors agree, and whether the target still sends; counted by the leader."}, []string{"verdict"}),
		rolledBack: prometheus.NewCounter(prometheus.CounterOpts{Name: "trafficmonitor_breaker_rolled_back_total", Help: "Mitigations that the circuit breaker withdrew; counted by the leader."}),
		flows:      prometheus.NewGauge(prometheus.GaugeOpts{Name: "trafficmonitor_breaker_flows", Help: "Targets whose outbound traffic the circuit breaker keeps in mind."}),
	}
	reg.MustRegister(c.trips, c.judged, c.rolledBack, c.flows)
	for _, r := range breaker.Reasons() {
		c.trips.WithLabelValues(string(r))
	}
	for _, v := range breaker.Verdicts() {
		c.judged.WithLabelValues(string(v))
	}
	return c
}

// watchChange shows the breaker what was stored, and so is announced or withdrawn; on every controller, so that a new leader
// knows how it was before the answers of the one before.
func (e *Engine) watchChange(now time.Time, put []mitigation.Mitigation) {
	if e.breaker == nil {
		return
	}
	for _, m := range put {
		if m.State == mitigation.Active {
			e.tellBreaker(now, m)
		} else if _, known := e.breaker.told[m.ID]; known {
			delete(e.breaker.told, m.ID)
			e.breaker.Ended(m.ID)
		}
	}
}

func (e *Engine) tellBreaker(now time.Time, m mitigation.Mitigation) {
	before, known := e.breaker.told[m.ID]
	if m.Manual() || len(m.Vectors) == 0 || known && slices.EqualFunc(before, m.Routes, route.Route.Equal) {
		return // an engineer's word stands; an extension is no news
	}
	e.breaker.told[m.ID] = m.Routes
	if !known && now.Sub(m.Created) > e.o.Breaker.Settle {
		return // from before this controller began: how it was then is not known
	}
	e.breaker.Announced(breaker.Announcement{
		ID: m.ID, Target: m.Target, Vector: m.Vectors[0], At: now,
		Spares:   !slices.ContainsFunc(m.Routes, takesAll),
		Seen:     e.view.Shares(m.Target, vector.Inbound, m.Vectors[0]),
		Carriers: e.view.Observe(m.Target, vector.Outbound, vector.Total).Sensors,
	})
}

// takesAll tells whether a route is for all traffic of its target, and so not meant to spare any.
func takesAll(r route.Route) bool {
	return r.IsBlackhole() || r.Match.Equal(route.Match{Destination: r.Match.Destination})
}

// judgeAnswers lets the breaker judge what automation did lately. Every controller does, for what it has seen when it comes to
// lead; only the leader acts.
func (e *Engine) judgeAnswers(now time.Time) {
	if e.breaker == nil {
		return
	}
	trips := e.breaker.Tick(now, breaker.Look{Attacked: e.attacked, Misses: e.misses})
	e.breaker.flows.Set(float64(e.breaker.Flows()))
	if e.machine == nil { // the leader decides
		e.breaker.Found()
		return
	}
	for v, n := range e.breaker.Found() {
		e.breaker.judged.WithLabelValues(string(v)).Add(float64(n))
	}
	for _, t := range trips {
		if e.machine == nil { // a commit for an earlier one failed
			return
		}
		e.rollBack(now, t)
	}
}

// attacked tells whether sensors still see so much of a vector at the target that it is an attack.
func (e *Engine) attacked(target netip.Prefix) bool {
	inc, ok := e.detector.Incident(detect.Site{Target: target, Direction: vector.Inbound})
	return ok && slices.ContainsFunc(inc.Vectors, func(m detect.Measurement) bool { return goesOn(inc, m.Vector) })
}

// leastSpoken is how many samples of a target's normal packets, of which a rule hits none, say that it hits hardly any: less
// than one in a hundred, with a certainty of 95 %.
const leastSpoken = 300

// misses tells whether none of a mitigation's routes hits what its target normally receives, by enough samples.
func (e *Engine) misses(id string) bool {
	if e.machine == nil {
		return false
	}
	for _, m := range e.machine.Active() {
		if m.ID != id {
			continue
		}
		normal := e.samples.Normal(m.Target, vector.Inbound, m.Created)
		if len(normal) < leastSpoken {
			return false
		}
		return !slices.ContainsFunc(m.Routes, func(r route.Route) bool {
			hit, _ := matched(r.Match, normal)
			return hit > 0
		})
	}
	return true // gone
}

// namedTargets is how many targets, and mitigations, an event names.
const namedTargets = 20

// rollBack does what follows when the breaker opens.
func (e *Engine) rollBack(now time.Time, t breaker.Trip) {
	e.breaker.trips.WithLabelValues(string(t.Reason)).Inc()
	var c mitigation.Change
	if t.Then != breaker.Tell {
		c = e.machine.RollBack(now, t.Mitigations, e.o.BreakerHold, t.Says)
		if t.Then == breaker.Freeze && e.machine.Records().Freeze == nil {
			f := e.machine.SetFreeze(&mitigation.Freeze{Since: now, Requester: mitigation.Breaker, Reason: t.Says})
			c.SetFreeze, c.Freeze = f.SetFreeze, f.Freeze
		}
	}
	does := fmt.Sprintf("%d of %d answers are withdrawn", len(c.Put), len(t.Mitigations))
	switch {
	case t.Then == breaker.Tell:
		does = "nothing is withdrawn, for it only tells"
	case len(c.Put) == 0:
		does = "nothing is withdrawn, for automation is frozen there or the answers have ended"
	}
	if c.SetFreeze {
		does += ", and automation is frozen until an engineer lifts it"
	}
	e.log.Error("the circuit breaker opened", "reason", t.Reason, "detail", t.Says, "withdrawn", len(c.Put), "frozen", c.SetFreeze)
	about := map[string]string{
		"reason": string(t.Reason), "then": string(t.Then), "withdrawn": fmt.Sprint(len(c.Put)),
		"mitigations": strings.Join(t.Mitigations[:min(len(t.Mitigations), namedTargets)], ","), "targets": namesOf(t.Targets),
	}
	if len(t.Targets) == 1 {
		about["target"] = t.Targets[0].String()
	}
	if t.Sensor != "" {
		about["sensor"] = t.Sensor
	}
	e.o.Emit(audit.BreakerOpened, fmt.Sprintf("%s; %s", t.Says, does), about)
	if c.Empty() {
		return
	}
	if _, err := e.commit(c); err != nil {
		return
	}
	e.breaker.rolledBack.Add(float64(len(c.Put)))
	if c.SetFreeze {
		e.o.Emit(audit.FreezeSet, fmt.Sprintf("%s stops all automation: %s", mitigation.Breaker, t.Says), map[string]string{"requester": mitigation.Breaker, "reason": t.Says})
	}
	for _, m := range c.Put {
		e.announceChange(m)
	}
	for _, h := range c.Holds {
		e.o.Emit(audit.HoldSet, fmt.Sprintf("%s holds automation off %s until %s: %s", h.Requester, h.Target, h.Until.UTC().Format(time.RFC3339), h.Reason),
			map[string]string{"target": h.Target.String(), "requester": h.Requester, "reason": h.Reason})
	}
}

func namesOf(targets []netip.Prefix) string {
	var words []string
	for _, p := range targets[:min(len(targets), namedTargets)] {
		words = append(words, p.String())
	}
	if n := len(targets) - len(words); n > 0 {
		words = append(words, fmt.Sprintf("and %d more", n))
	}
	return strings.Join(words, ",")
}
