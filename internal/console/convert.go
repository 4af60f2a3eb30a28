package console

import (
	"cmp"
	"slices"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	tmv1 "github.com/amooglesoft/trafficmonitor/api/trafficmonitor/v1"
	"github.com/amooglesoft/trafficmonitor/internal/detect"
	"github.com/amooglesoft/trafficmonitor/internal/mitigation"
	"github.com/amooglesoft/trafficmonitor/internal/vector"
)

func mapSlice[A, B any](in []A, f func(A) B) []B {
	out := make([]B, len(in))
	for i, a := range in {
		out[i] = f(a)
	}
	return out
}

func timeProto(t time.Time) *timestamppb.Timestamp {
	if t.IsZero() {
		return nil
	}
	return timestamppb.New(t)
}

func statusProto(s Status) *tmv1.GetStatusResponse {
	return &tmv1.GetStatusResponse{
		Controller: s.Controller, Version: s.Version, StartTime: timeProto(s.Started),
		Leader: s.Leader, Term: s.Term, IsLeader: s.IsLeader, NotReady: s.NotReady, Freeze: freezeProto(s.Freeze), GroupFreezes: frozenProto(s.Frozen), Breaker: breakerProto(s.Breaker), ShadowPolicy: shadowProto(s.Shadow),
		SensorsKnown: uint32(s.SensorsKnown), SensorsStale: uint32(s.SensorsStale),
		HeldFamilies: s.HeldFamilies, PeersWaiting: uint32(s.PeersWaiting), PeersStalled: uint32(s.PeersStalled), UnconfirmedTime: timeProto(s.Unconfirmed),
		PeersConfigured: uint32(s.PeersConfigured), PeersEstablished: uint32(s.PeersEstablished),
		IncidentsActive: uint32(s.IncidentsActive), MitigationsActive: uint32(s.MitigationsActive),
		RoutesDesired: uint32(s.RoutesDesired), RoutesSent: uint32(s.RoutesSent),
		PolicyHash: s.PolicyHash, PolicySource: s.PolicySource, PolicyError: s.PolicyError,
	}
}

func freezeProto(f *mitigation.Freeze) *tmv1.Freeze {
	if f == nil {
		return nil
	}
	return &tmv1.Freeze{StartTime: timeProto(f.Since), Requester: f.Requester, Reason: f.Reason, Group: f.Group}
}

func shadowProto(s *Shadow) *tmv1.ShadowPolicy {
	if s == nil {
		return nil
	}
	return &tmv1.ShadowPolicy{Source: s.Source, Hash: s.Hash, LoadTime: timeProto(s.Loaded), Error: s.Error, JudgedVectors: s.Judged, DifferingVectors: s.Differs}
}

func breakerProto(b Breaker) *tmv1.Breaker {
	out := &tmv1.Breaker{State: tmv1.Breaker_STATE_CLOSED, OpenTime: timeProto(b.Opened), Reason: b.Reason, HeldTargets: uint32(b.HeldTargets)}
	switch {
	case !b.Opened.IsZero():
		out.State = tmv1.Breaker_STATE_OPEN
	case b.Off:
		out.State = tmv1.Breaker_STATE_OFF
	}
	return out
}

func frozenProto(fs []GroupFreeze) (out []*tmv1.Freeze) {
	for _, f := range slices.SortedFunc(slices.Values(fs), func(a, b GroupFreeze) int { return cmp.Compare(a.Group, b.Group) }) {
		p := freezeProto(&f.Freeze)
		p.UnknownGroup = f.Unknown
		out = append(out, p)
	}
	return out
}

var attachments = map[string]tmv1.Interface_Attachment{
	"tcx": tmv1.Interface_ATTACHMENT_TCX, "clsact": tmv1.Interface_ATTACHMENT_CLSACT,
	"xdp-native": tmv1.Interface_ATTACHMENT_XDP_NATIVE, "xdp-generic": tmv1.Interface_ATTACHMENT_XDP_GENERIC,
}

func sensorProto(s Sensor) *tmv1.Sensor {
	hello := &tmv1.Hello{Sensor: s.Name, Version: s.Version, StartTime: timeProto(s.Started), MapBytes: s.MapBytes}
	for _, i := range s.Interfaces {
		mode := tmv1.Interface_MODE_HOST
		if i.Mirror {
			mode = tmv1.Interface_MODE_MIRROR
		}
		hello.Interfaces = append(hello.Interfaces, &tmv1.Interface{Name: i.Name, Mode: mode, Attachment: attachments[i.Attachment], Outbound: i.Outbound, Down: i.Down})
	}
	out := &tmv1.Sensor{
		Hello: hello, Connected: s.Connected, Stale: s.Stale, LastReportTime: timeProto(s.LastReport), Address: s.Address,
		Counters: countersProto(s.Counters),
		Reports:  s.Reports, MissingReports: s.MissingReports, ClockSkew: durationpb.New(s.ClockSkew),
		Directive:      &tmv1.DirectiveVersion{Term: s.Directive.Term, Revision: s.Directive.Revision},
		DirectiveError: s.DirectiveError, PacketsPerSecond: s.Rates.Packets, BitsPerSecond: s.Rates.Bits,
		OutboundPacketsPerSecond: s.Rates.Outbound, Cpu: s.Rates.CPU, Problems: s.Problems, SampleOneInAsked: s.SampleOneIn,
	}
	if s.Clock != nil {
		out.ClockOffset, out.ClockDelay = durationpb.New(s.Clock.Offset), durationpb.New(s.Clock.Delay)
	}
	return out
}

func countersProto(c SensorCounters) *tmv1.SensorCounters {
	out := &tmv1.SensorCounters{
		Packets: c.Packets, Bytes: c.Bytes, OutboundPackets: c.OutboundPackets, UnprotectedPackets: c.UnprotectedPackets,
		ForeignSourcePackets: c.ForeignSourcePackets, MalformedPackets: c.MalformedPackets, NonIpPackets: c.NonIPPackets,
		SlotExhaustedPackets: c.SlotExhaustedPackets, LostTriggers: c.LostTriggers, LostSamples: c.LostSamples,
		DroppedReports: c.DroppedReports, MergedReports: c.MergedReports, SlotsUsed: c.SlotsUsed, SlotsTotal: c.SlotsTotal,
		SampleOneIn: c.SampleOneIn, CpuNanoseconds: uint64(c.CPU), ResidentBytes: c.ResidentBytes,
	}
	for _, m := range c.Maps {
		out.Maps = append(out.Maps, &tmv1.MapUse{Name: m.Name, Bytes: m.Bytes, Used: m.Used, Total: m.Total, Lost: m.Lost})
	}
	return out
}

var sessionStates = map[SessionState]tmv1.Peer_SessionState{
	SessionIdle:        tmv1.Peer_SESSION_STATE_IDLE,
	SessionConnect:     tmv1.Peer_SESSION_STATE_CONNECT,
	SessionActive:      tmv1.Peer_SESSION_STATE_ACTIVE,
	SessionOpenSent:    tmv1.Peer_SESSION_STATE_OPEN_SENT,
	SessionOpenConfirm: tmv1.Peer_SESSION_STATE_OPEN_CONFIRM,
	SessionEstablished: tmv1.Peer_SESSION_STATE_ESTABLISHED,
}

func peerProto(p Peer) *tmv1.Peer {
	return &tmv1.Peer{
		Name: p.Name, Group: p.Group, Address: p.Address, Asn: p.ASN, State: sessionStates[p.State], StateTime: timeProto(p.Since),
		Families: p.Families, MissingFamilies: p.MissingFamilies,
		DesiredRoutes: uint32(p.DesiredRoutes), SentRoutes: uint32(p.SentRoutes),
		PendingRoutes: uint32(p.PendingRoutes), UnsupportedRoutes: uint32(p.UnsupportedRoutes), NotPlacedRoutes: uint32(p.NotPlacedRoutes),
		QuarantinedRoutes: uint32(p.QuarantinedRoutes), FailedRoutes: uint32(p.FailedRoutes),
		EstablishedCount: p.EstablishedCount, LastError: p.LastError, LastErrorTime: timeProto(p.LastErrorTime),
		HeldFamilies: mapSlice(p.HeldFamilies, func(h HeldFamily) *tmv1.HeldFamily {
			return &tmv1.HeldFamily{Family: h.Family, UntilTime: timeProto(h.Until), Reason: h.Reason}
		}),
		Profile: p.Profile, HardwareEntries: uint32(p.HardwareEntries), InstalledRules: uint32(p.InstalledRules), NotInstalledRules: uint32(p.NotInstalledRules),
		StoreWaitUntilTime: timeProto(p.StoreWait), StallTime: timeProto(p.Stalled),
		HitPackets: p.HitPackets, ProbeTime: timeProto(p.ProbeTime), ProbeError: p.ProbeError,
	}
}

var routeStates = map[RouteState]tmv1.PeerRoute_State{
	RoutePending:     tmv1.PeerRoute_STATE_PENDING,
	RouteSent:        tmv1.PeerRoute_STATE_SENT,
	RouteUnsupported: tmv1.PeerRoute_STATE_UNSUPPORTED,
	RouteNotPlaced:   tmv1.PeerRoute_STATE_NOT_PLACED,
	RouteQuarantined: tmv1.PeerRoute_STATE_QUARANTINED,
	RouteFailed:      tmv1.PeerRoute_STATE_FAILED,
}

var installed = map[Installed]tmv1.PeerRoute_Installed{
	InstalledYes:     tmv1.PeerRoute_INSTALLED_YES,
	InstalledNo:      tmv1.PeerRoute_INSTALLED_NO,
	InstalledUnknown: tmv1.PeerRoute_INSTALLED_UNKNOWN,
}

func routeProto(r Route) *tmv1.SpeakerRoute {
	return &tmv1.SpeakerRoute{
		Spec: &tmv1.RouteSpec{
			Route: r.Route.String(), Deadline: timeProto(r.Deadline), CreateTime: timeProto(r.Created), Owners: r.Owners, Approved: r.Approved,
		},
		Peers: mapSlice(r.Peers, func(p PeerRoute) *tmv1.PeerRoute {
			out := &tmv1.PeerRoute{
				Peer: p.Peer, State: routeStates[p.State], Reason: p.Reason, SendTime: timeProto(p.Sent), Rules: p.Rules, Widened: p.Widened,
			}
			if f := p.Probe; f != nil {
				out.Installed, out.InstalledReason, out.ProbeTime = installed[f.Installed], f.Reason, timeProto(f.Time)
				out.HitPackets, out.HitOctets = f.Packets, f.Octets
			}
			return out
		}),
	}
}

func incidentProto(i detect.Incident, mitigations []string) *tmv1.Incident {
	state := tmv1.Incident_STATE_ENDED
	if i.Active() {
		state = tmv1.Incident_STATE_ACTIVE
	}
	return &tmv1.Incident{
		Id: i.ID, Target: i.Target.String(), Group: i.Group, State: state,
		Vectors: mapSlice(i.Vectors, func(m detect.Measurement) *tmv1.Measurement {
			return &tmv1.Measurement{
				Vector: m.Vector.String(), PacketsPerSecond: m.PPS, BitsPerSecond: m.BPS,
				PeakPacketsPerSecond: m.PeakPPS, PeakBitsPerSecond: m.PeakBPS,
				LimitPacketsPerSecond: m.LimitPPS, LimitBitsPerSecond: m.LimitBPS,
			}
		}),
		OnsetTime: timeProto(i.Onset), DecideTime: timeProto(i.Decided), EndTime: timeProto(i.Ended),
		Reason: i.Reason, Sensors: i.Sensors, Mitigations: mitigations,
		Direction: directionProto(i.Direction), Network: i.Network, ActiveHosts: int32(i.ActiveHosts), Previous: i.Previous, Test: testName(i.Test),
	}
}

func directionProto(d vector.Direction) tmv1.Direction {
	if d == vector.Outbound {
		return tmv1.Direction_DIRECTION_OUTBOUND
	}
	return tmv1.Direction_DIRECTION_INBOUND
}

func testName(t detect.Test) string {
	if t == 0 {
		return ""
	}
	return t.String()
}

var mitigationStates = map[mitigation.State]tmv1.Mitigation_State{
	mitigation.Pending: tmv1.Mitigation_STATE_PENDING,
	mitigation.Active:  tmv1.Mitigation_STATE_ACTIVE,
	mitigation.Ended:   tmv1.Mitigation_STATE_ENDED,
	mitigation.Refused: tmv1.Mitigation_STATE_REFUSED,
}

var mitigationPhases = map[mitigation.Phase]tmv1.Mitigation_Phase{
	mitigation.Proposed: tmv1.Mitigation_PHASE_PROPOSED, mitigation.AwaitingApproval: tmv1.Mitigation_PHASE_AWAITING_APPROVAL,
	mitigation.Announced: tmv1.Mitigation_PHASE_ANNOUNCED, mitigation.Verified: tmv1.Mitigation_PHASE_VERIFIED,
	mitigation.Ineffective: tmv1.Mitigation_PHASE_INEFFECTIVE, mitigation.Escalated: tmv1.Mitigation_PHASE_ESCALATED,
	mitigation.Easing: tmv1.Mitigation_PHASE_EASING, mitigation.OnHold: tmv1.Mitigation_PHASE_HELD,
	mitigation.Withdrawn: tmv1.Mitigation_PHASE_WITHDRAWN, mitigation.Expired: tmv1.Mitigation_PHASE_EXPIRED,
	mitigation.Failed: tmv1.Mitigation_PHASE_FAILED, mitigation.Rejected: tmv1.Mitigation_PHASE_REJECTED,
}

func effectProto(f mitigation.Effect) *tmv1.Effect {
	if f.BeforePPS == 0 && f.Measured.IsZero() {
		return nil
	}
	return &tmv1.Effect{
		BeforePps: f.BeforePPS, BeforeBps: f.BeforeBPS, Pps: f.PPS, Bps: f.BPS, Reduction: f.Reduction,
		MeasureTime: timeProto(f.Measured), VerifyTime: timeProto(f.Verified), Sensors: f.Sensors,
	}
}

func askProto(a *mitigation.Ask) *tmv1.ApprovalRequest {
	if a == nil {
		return nil
	}
	out := &tmv1.ApprovalRequest{Needed: uint32(a.Needs), Reason: a.Why, CreateTime: timeProto(a.Since), Open: a.Open()}
	for _, x := range a.By {
		out.Approvals = append(out.Approvals, approvalProto(x))
	}
	if a.Rejected != nil {
		out.Rejection = approvalProto(*a.Rejected)
	}
	return out
}

func approvalProto(a mitigation.Approval) *tmv1.Approval {
	return &tmv1.Approval{Requester: a.Who, Time: timeProto(a.When), Reason: a.Reason}
}

func mitigationProto(m mitigation.Mitigation) *tmv1.Mitigation {
	end := m.EndReason
	if m.EndDetail != "" {
		end += ": " + m.EndDetail
	}
	out := &tmv1.Mitigation{
		Id: m.ID, Target: m.Target.String(), State: mitigationStates[m.State], Incident: m.Incident,
		Requester: m.Requester, Reason: m.Reason,
		CreateTime: timeProto(m.Created), Deadline: timeProto(m.Deadline), MaxDeadline: timeProto(m.MaxDeadline),
		Extensions: m.Extensions, EndTime: timeProto(m.Ended), EndReason: end, Evidence: m.Evidence,
		Phase: mitigationPhases[m.Phase], PhaseTime: timeProto(m.Since), Steps: uint32(m.Rung.Steps), StepName: m.Rung.Name, Scope: m.Scope,
		Effect: effectProto(m.Effect), Approval: askProto(m.Ask), Flaps: m.Flaps,
	}
	if m.Rung.Steps > 0 {
		out.Step = uint32(m.Rung.Step + 1)
	}
	for _, v := range m.Vectors {
		out.Vectors = append(out.Vectors, v.String())
	}
	for _, r := range m.Routes {
		out.Routes = append(out.Routes, r.String())
	}
	return out
}

func previewProto(p Preview) *tmv1.Preview {
	out := &tmv1.Preview{Samples: uint32(p.Samples), Collateral: p.Collateral}
	for _, x := range p.Peers {
		out.Peers = append(out.Peers, &tmv1.PeerPreview{
			Peer: x.Peer, Profile: x.Profile, Rules: x.Rules, Cost: uint32(x.Cost), Widened: x.Widened, Reason: x.Reason,
		})
	}
	return out
}

func holdProto(h mitigation.Hold) *tmv1.Hold {
	return &tmv1.Hold{Target: h.Target.String(), EndTime: timeProto(h.Until), Requester: h.Requester, Reason: h.Reason}
}

func eventProto(e Event) *tmv1.WatchEventsResponse {
	return &tmv1.WatchEventsResponse{Time: timeProto(e.Time), Kind: e.Kind, Message: e.Message, Attributes: e.Attributes, Controller: e.Controller}
}
