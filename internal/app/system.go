package app

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/amooglesoft/trafficmonitor/internal/audit"
	"github.com/amooglesoft/trafficmonitor/internal/compile"
	"github.com/amooglesoft/trafficmonitor/internal/config"
	"github.com/amooglesoft/trafficmonitor/internal/console"
	"github.com/amooglesoft/trafficmonitor/internal/detect"
	"github.com/amooglesoft/trafficmonitor/internal/engine"
	"github.com/amooglesoft/trafficmonitor/internal/ingest"
	"github.com/amooglesoft/trafficmonitor/internal/mitigation"
	"github.com/amooglesoft/trafficmonitor/internal/probe"
	"github.com/amooglesoft/trafficmonitor/internal/route"
	"github.com/amooglesoft/trafficmonitor/internal/speaker"
)

// system is the controller as engineers see it.
type system Controller

var _ console.System = (*system)(nil)

func (s *system) Status(ctx context.Context) (console.Status, error) {
	p := s.policy.Load()
	st := console.Status{
		Controller: s.o.Config.Name, Version: s.o.Version, Started: s.started, NotReady: s.health.NotReady(),
		PolicyHash: p.Hash(), PolicySource: p.Source(), PolicyError: p.err,
	}
	if name, _, term, ok := s.store.Leader(); ok {
		st.Leader, st.Term, st.IsLeader = name, term, name == s.o.Config.Name
	}
	for _, x := range s.ingest.Sensors(time.Now()) {
		st.SensorsKnown++
		if x.Stale {
			st.SensorsStale++
		}
	}
	status, _ := s.speaker.get()
	st.PeersConfigured = len(s.o.Config.Speaker.Peers)
	for _, p := range status.Peers {
		st.RoutesSent += p.Routes[speaker.Sent]
		if p.State == speaker.Established {
			st.PeersEstablished++
		}
		if !p.StoreWait.IsZero() {
			st.PeersWaiting++
		}
		if !p.Stalled.IsZero() {
			st.PeersStalled++
		}
		for _, h := range p.Held {
			st.HeldFamilies = append(st.HeldFamilies, p.Name+" "+string(h.Table))
		}
	}
	if st.PeersConfigured > 0 {
		st.Unconfirmed = s.confirm.unconfirmed(time.Now())
	}
	routes, snap, _ := s.announce.Desired(time.Now())
	st.RoutesDesired, st.Freeze = len(routes), snap.Records.Freeze
	if p := s.shadow.Load(); p != nil {
		st.Shadow = &console.Shadow{Source: p.Source(), Hash: p.Hash(), Loaded: p.loaded, Error: p.err}
		var err error
		if st.Shadow.Judged, st.Shadow.Differs, err = s.engine.Shadowed(ctx); err != nil {
			return st, err
		}
	}
	st.Breaker = breakerState(s.o.Config, snap.Records, time.Now())
	groups := s.policy.Load().GroupNames()
	for _, f := range snap.Records.Frozen {
		st.Frozen = append(st.Frozen, console.GroupFreeze{Freeze: f, Unknown: !slices.Contains(groups, f.Group)})
	}
	for _, m := range snap.Records.Mitigations {
		if m.State == mitigation.Active {
			st.MitigationsActive++
		}
	}
	incidents, err := s.engine.Incidents(ctx, false)
	st.IncidentsActive = len(incidents)
	return st, err
}

// breakerState reads the breaker's state from what it stored, so that every controller shows the same.
func breakerState(c config.Controller, r mitigation.Records, now time.Time) console.Breaker {
	b := console.Breaker{Off: !c.Breaker.Enabled}
	if f := r.Freeze; f != nil && f.Requester == mitigation.Breaker {
		b.Opened, b.Reason = f.Since, f.Reason
	}
	for _, h := range r.Holds {
		if h.Requester == mitigation.Breaker && now.Before(h.Until) {
			b.HeldTargets++
		}
	}
	return b
}

func (s *system) Sensors(context.Context) ([]console.Sensor, error) {
	var out []console.Sensor
	for _, x := range s.ingest.Sensors(time.Now()) {
		c := sensor(x)
		c.SampleOneIn = s.o.Config.Sensors.SampleOneIn
		out = append(out, c)
	}
	return out, nil
}

func sensor(x ingest.State) console.Sensor {
	c := x.Counters
	out := console.Sensor{
		Name: x.Name, Version: x.Version, Started: x.Started, MapBytes: x.MapBytes, Connected: x.Connected, Stale: x.Stale,
		LastReport: x.LastReport, Address: x.Address, Reports: x.Reports, MissingReports: x.Missing, ClockSkew: x.ClockSkew,
		Directive: console.DirectiveVersion{Term: x.Term, Revision: x.Revision}, DirectiveError: x.DirectiveError,
		Counters: console.SensorCounters{
			Packets: c.Packets, Bytes: c.Bytes, OutboundPackets: c.Outbound, UnprotectedPackets: c.Unprotected, ForeignSourcePackets: c.Foreign,
			MalformedPackets: c.Malformed, NonIPPackets: c.NonIP, SlotExhaustedPackets: c.SlotExhausted, LostTriggers: c.LostTriggers,
			LostSamples: c.LostSamples, DroppedReports: c.DroppedReports, MergedReports: c.MergedReports, SlotsUsed: c.SlotsUsed,
			SlotsTotal: c.SlotsTotal, SampleOneIn: c.SampleOneIn, CPU: c.CPU, ResidentBytes: c.Resident,
		},
		Rates: console.SensorRates(x.Rates), Clock: (*console.SensorClock)(x.Clock),
	}
	for _, m := range c.Maps {
		out.Counters.Maps = append(out.Counters.Maps, console.SensorMap(m))
	}
	for _, p := range x.Problems {
		out.Problems = append(out.Problems, p.Text)
	}
	for _, i := range x.Interfaces {
		out.Interfaces = append(out.Interfaces, console.SensorInterface(i))
	}
	return out
}

var sessionStates = map[speaker.SessionState]console.SessionState{
	speaker.Idle: console.SessionIdle, speaker.Connect: console.SessionConnect, speaker.Active: console.SessionActive,
	speaker.OpenSent: console.SessionOpenSent, speaker.OpenConfirm: console.SessionOpenConfirm, speaker.Established: console.SessionEstablished,
}

func (s *system) Peers(context.Context) ([]console.Peer, string, error) {
	status, why := s.speaker.get()
	var out []console.Peer
	for _, p := range status.Peers {
		x := console.Peer{
			Name: p.Name, Group: p.Group, Address: p.Address, ASN: p.ASN, State: sessionStates[p.State], Since: p.Since, DesiredRoutes: p.Desired,
			SentRoutes: p.Routes[speaker.Sent], PendingRoutes: p.Routes[speaker.Pending], UnsupportedRoutes: p.Routes[speaker.Unsupported],
			Profile: p.Profile, HardwareEntries: p.Cost, InstalledRules: p.Probed.Installed, NotInstalledRules: p.Probed.NotInstalled,
			StoreWait: p.StoreWait, Stalled: p.Stalled,
			HitPackets: p.Probed.Packets, ProbeTime: p.Probed.At, ProbeError: p.Probed.Error,
			NotPlacedRoutes: p.Routes[speaker.NotPlaced], QuarantinedRoutes: p.Routes[speaker.Quarantined], FailedRoutes: p.Routes[speaker.Failed],
			EstablishedCount: p.Established, LastError: p.LastError, LastErrorTime: p.LastErrorTime,
		}
		for _, h := range p.Held {
			x.HeldFamilies = append(x.HeldFamilies, console.HeldFamily{Family: string(h.Table), Until: h.Until, Reason: h.Reason})
		}
		for _, f := range p.Families {
			x.Families = append(x.Families, string(f))
		}
		for _, f := range p.Missing {
			x.MissingFamilies = append(x.MissingFamilies, string(f))
		}
		out = append(out, x)
	}
	return out, why, nil
}

func (s *system) Incidents(ctx context.Context, ended bool) ([]detect.Incident, error) {
	return s.engine.Incidents(ctx, ended)
}

func (s *system) Explain(ctx context.Context, target netip.Prefix) ([]string, error) {
	return s.engine.Explain(ctx, target)
}

func (s *system) Mitigations(_ context.Context, ended bool) ([]mitigation.Mitigation, error) {
	_, snap, ok := s.announce.Desired(time.Now())
	if !ok {
		return nil, console.ErrUnavailable{Reason: "the store has not been read yet"}
	}
	var out []mitigation.Mitigation
	for _, m := range snap.Records.Mitigations {
		if ended || m.State == mitigation.Active || m.State == mitigation.Pending {
			out = append(out, m)
		}
	}
	return out, nil
}

func (s *system) Holds(context.Context) ([]mitigation.Hold, error) {
	_, snap, ok := s.announce.Desired(time.Now())
	if !ok {
		return nil, console.ErrUnavailable{Reason: "the store has not been read yet"}
	}
	return snap.Records.Holds, nil
}

var routeStates = map[speaker.RouteState]console.RouteState{
	speaker.Pending: console.RoutePending, speaker.Sent: console.RouteSent, speaker.Unsupported: console.RouteUnsupported,
	speaker.NotPlaced: console.RouteNotPlaced, speaker.Quarantined: console.RouteQuarantined, speaker.Failed: console.RouteFailed,
}

func (s *system) Routes(context.Context) (console.Routes, error) {
	desired, _, ok := s.announce.Desired(time.Now())
	if !ok {
		return console.Routes{}, console.ErrUnavailable{Reason: "the store has not been read yet"}
	}
	status, why := s.speaker.get()
	at := map[string]speaker.RouteStatus{}
	for _, r := range status.Routes {
		at[r.Route.String()] = r
	}
	out := console.Routes{SpeakerError: why}
	for _, d := range desired {
		text := d.Route.String()
		x := console.Route{Route: d.Route, Deadline: d.Deadline, Created: d.Created, Owners: d.Owners, Approved: d.Approved}
		x.Peers = peerRoutes(at[text])
		delete(at, text)
		out.Desired = append(out.Desired, x)
	}
	for _, r := range status.Routes {
		if _, left := at[r.Route.String()]; left {
			out.Unexpected = append(out.Unexpected, console.Route{
				Route: r.Route, Deadline: r.Deadline, Created: r.Created, Owners: r.Owners, Approved: r.Approved, Peers: peerRoutes(r),
			})
		}
	}
	return out, nil
}

func peerRoutes(r speaker.RouteStatus) (out []console.PeerRoute) {
	for _, p := range r.Peers {
		x := console.PeerRoute{
			Peer: p.Peer, State: routeStates[p.State], Reason: p.Reason, Sent: p.Sent, Rules: p.Rules, Widened: p.Widened,
		}
		if f := p.Found; !f.At.IsZero() {
			x.Probe = &console.RouteProbe{Installed: installed[f.State], Reason: f.Reason, Time: f.At}
			if f.HasPackets {
				x.Probe.Packets = &f.Packets
			}
			if f.HasOctets {
				x.Probe.Octets = &f.Octets
			}
		}
		out = append(out, x)
	}
	return out
}

var installed = map[probe.State]console.Installed{
	probe.Installed: console.InstalledYes, probe.NotInstalled: console.InstalledNo, probe.Unknown: console.InstalledUnknown,
}

func (s *system) Announce(ctx context.Context, a console.Announce) (mitigation.Mitigation, error) {
	if most := s.o.Config.Safety.MaxAge; a.TTL > most {
		return mitigation.Mitigation{}, console.ErrInvalid{Fields: []console.FieldError{{Field: "ttl", Reason: fmt.Sprintf("%s is longer than safety.max_age, %s", a.TTL, most)}}}
	}
	m, err := s.engine.Announce(ctx, mitigation.Request{
		Route: a.Route, TTL: a.TTL, Requester: a.Requester, Reason: a.Reason, RequestID: a.RequestID, Approved: a.Approved, AskApproval: a.AskApproval,
	}, a.ValidateOnly)
	if err == nil && a.RequestID != "" && (len(m.Routes) != 1 || !m.Routes[0].Equal(a.Route)) {
		return m, console.ErrConflict{Reason: fmt.Sprintf("request_id %q was used before for another route: %s", a.RequestID, m.Routes[0])}
	}
	return m, s.translate(err)
}

func (s *system) Preview(ctx context.Context, r route.Route) (console.Preview, error) {
	share, samples, err := s.engine.Collateral(ctx, r)
	if err != nil {
		return console.Preview{}, s.translate(err)
	}
	out := console.Preview{Samples: samples, Collateral: share}
	for _, p := range s.peers {
		d := p.Would(r)
		x := console.PeerPreview{Peer: p.Name, Profile: p.Profile.Name, Cost: d.Cost, Widened: d.Widened, Reason: d.Reason}
		if d.Outcome == compile.Placed {
			if d.Rules == nil {
				d.Rules = []route.Route{r}
			}
			for _, rule := range d.Rules {
				x.Rules = append(x.Rules, rule.String())
			}
		}
		out.Peers = append(out.Peers, x)
	}
	slices.SortFunc(out.Peers, func(a, b console.PeerPreview) int { return strings.Compare(a.Peer, b.Peer) })
	return out, nil
}

func (s *system) Approve(ctx context.Context, a console.Answer) (mitigation.Mitigation, error) {
	m, err := s.engine.Approve(ctx, engineAnswer(a))
	return m, s.word(a, err)
}

func (s *system) Reject(ctx context.Context, a console.Answer) (mitigation.Mitigation, error) {
	m, err := s.engine.Reject(ctx, engineAnswer(a))
	return m, s.word(a, err)
}

func (s *system) Extend(ctx context.Context, a console.Answer, by time.Duration) (mitigation.Mitigation, error) {
	m, err := s.engine.Extend(ctx, engineAnswer(a), by)
	return m, s.word(a, err)
}

func engineAnswer(a console.Answer) engine.Answer {
	return engine.Answer{ID: a.ID, Requester: a.Requester, Reason: a.Reason}
}

// word translates what the machine has against a person's word.
func (s *system) word(a console.Answer, err error) error {
	switch {
	case errors.Is(err, mitigation.ErrNotFound):
		return console.ErrNotFound{What: fmt.Sprintf("live mitigation %q", a.ID)}
	case errors.Is(err, mitigation.ErrNotAsked), errors.Is(err, mitigation.ErrSamePerson), errors.Is(err, mitigation.ErrTooLong):
		return console.ErrConflict{Reason: err.Error()}
	}
	return s.translate(err)
}

func (s *system) Withdraw(ctx context.Context, w console.Withdraw) (console.Withdrawn, error) {
	what := "active mitigation"
	pick := func(m mitigation.Mitigation) bool { return true }
	switch {
	case w.ID != "":
		what = fmt.Sprintf("active mitigation %q", w.ID)
		pick = func(m mitigation.Mitigation) bool { return m.ID == w.ID }
	case w.Target.IsValid():
		what = fmt.Sprintf("active mitigation with a target inside %s", w.Target)
		pick = func(m mitigation.Mitigation) bool { return inside(w.Target, m.Target) }
	}
	c, err := s.engine.Withdraw(ctx, engine.Withdrawal{Pick: pick, Hold: w.Hold, Requester: w.Requester, Reason: w.Reason})
	switch {
	case errors.Is(err, mitigation.ErrNotFound) && w.All:
		return console.Withdrawn{}, nil
	case errors.Is(err, mitigation.ErrNotFound):
		return console.Withdrawn{}, console.ErrNotFound{What: what}
	}
	return console.Withdrawn{Mitigations: c.Put, Holds: c.Holds}, s.translate(err)
}

func inside(outer, inner netip.Prefix) bool {
	return outer.Bits() <= inner.Bits() && outer.Contains(inner.Addr())
}

func (s *system) DeleteHold(ctx context.Context, d console.DeleteHold) error {
	err := s.engine.DeleteHold(ctx, d.Target, d.Requester, d.Reason)
	if errors.Is(err, mitigation.ErrNotFound) {
		return console.ErrNotFound{What: "hold on " + d.Target.String()}
	}
	return s.translate(err)
}

func (s *system) ReleaseQuarantine(ctx context.Context, q console.ReleaseQuarantine) ([]string, error) {
	if status, _ := s.speaker.get(); !slices.ContainsFunc(status.Peers, func(p speaker.PeerStatus) bool { return p.Name == q.Peer }) {
		return nil, console.ErrNotFound{What: fmt.Sprintf("router %q at this controller's speaker", q.Peer)}
	}
	text := q.Family
	if q.Route != nil {
		text = q.Route.String()
	}
	released, err := s.speaker.client.ReleaseQuarantine(ctx, q.Peer, text, q.Requester, q.Reason)
	switch {
	case errors.Is(err, speaker.ErrNoSpeaker):
		return nil, console.ErrUnavailable{Reason: err.Error()}
	case err == nil && len(released) == 0:
		return nil, console.ErrNotFound{What: fmt.Sprintf("route in quarantine for %s at this controller's speaker", q.Peer)}
	case err == nil:
		s.speaker.c.emit(audit.QuarantineLifted, fmt.Sprintf("%s lifted the quarantine of %d routes for %s: %s", q.Requester, len(released), q.Peer, q.Reason),
			map[string]string{"peer": q.Peer, "requester": q.Requester, "reason": q.Reason})
	}
	return released, err
}

func (s *system) SetFreeze(ctx context.Context, f console.SetFreeze) (*mitigation.Freeze, error) {
	var unknown *engine.NoGroupError
	switch {
	case f.Group == "":
		now, err := s.engine.SetFreeze(ctx, f.Frozen, f.Requester, f.Reason)
		return now, s.translate(err)
	case f.Frozen:
		now, err := s.engine.FreezeGroup(ctx, f.Group, f.Requester, f.Reason)
		if errors.As(err, &unknown) {
			return nil, console.ErrInvalid{Fields: []console.FieldError{{Field: "group", Reason: unknown.Error()}}}
		}
		return &now, s.translate(err)
	}
	err := s.engine.UnfreezeGroup(ctx, f.Group, f.Requester, f.Reason)
	if errors.Is(err, mitigation.ErrNotFound) {
		return nil, console.ErrNotFound{What: "freeze of group " + f.Group}
	}
	return nil, s.translate(err)
}

func (s *system) Policy(context.Context) (console.Policy, error) {
	p := s.policy.Load()
	return console.Policy{Source: p.Source(), Hash: p.Hash(), Text: p.Text(), Loaded: p.loaded, Error: p.err}, nil
}

// subscriberQueue is how many events wait for one reader.
const subscriberQueue = 1024

func (s *system) Subscribe(fn func(console.Event)) (cancel func()) {
	events, cancel := s.audit.Subscribe(subscriberQueue)
	go func() { // ends when cancel, or the end of the audit record, closes the channel
		for d := range events {
			fn(event(d.Event))
		}
	}()
	return cancel
}

func event(e audit.Event) console.Event {
	return console.Event{Controller: e.Controller, Time: e.Time, Kind: string(e.Kind), Message: e.Message, Attributes: e.Attributes}
}

// maxRelated bounds how much else belongs to a story.
const maxRelated = 64

func (s *system) Events(ctx context.Context, q console.EventQuery) (console.Events, error) {
	a := audit.Query{Since: q.Since, Until: q.Until, About: q.About, Requester: q.Requester, Limit: q.Limit}
	for _, k := range q.Kinds {
		if !audit.Kind(k).Known() {
			return console.Events{}, console.ErrInvalid{Fields: []console.FieldError{{Field: "kinds", Reason: fmt.Sprintf("%q is not known: the kinds are %v", k, audit.Kinds())}}}
		}
		a.Kinds = append(a.Kinds, audit.Kind(k))
	}
	if q.Related { // an incident's mitigations, and the routes of those
		all := a
		all.Kinds, all.Requester = nil, ""
		for range 2 {
			found, err := s.audit.Find(ctx, all, s.store)
			if err != nil {
				return console.Events{}, console.ErrUnavailable{Reason: err.Error()}
			}
			more := audit.Related(found.Events, all.About)
			if len(more) == 0 {
				break
			}
			all.About = slices.Concat(all.About, more[:min(len(more), maxRelated)])
		}
		a.About = all.About
	}
	found, err := s.audit.Find(ctx, a, s.store)
	if err != nil {
		return console.Events{}, console.ErrUnavailable{Reason: err.Error()}
	}
	out := console.Events{Incomplete: found.Incomplete}
	for _, e := range found.Events {
		out.Events = append(out.Events, event(e))
	}
	return out, nil
}

// translate turns the engine's errors into the console's.
func (s *system) translate(err error) error {
	var refused *engine.RefusedError
	var notStored *engine.StoreError
	switch {
	case err == nil:
		return nil
	case errors.Is(err, engine.ErrNotLeading):
		name, address, _, _ := s.store.Leader()
		if name == s.o.Config.Name { // elected and still reading the records, or deposed and that not seen yet
			return console.ErrNotLeader{Changing: true}
		}
		return console.ErrNotLeader{Leader: name, Address: address}
	case errors.As(err, &refused):
		var out console.ErrRefused
		for _, v := range refused.Violations {
			out.Refusals = append(out.Refusals, console.Refusal{Route: v.Route, Invariant: string(v.Invariant), Reason: v.Reason})
		}
		return out
	case errors.As(err, &notStored):
		return console.ErrUnavailable{Reason: notStored.Error()}
	}
	return err
}
