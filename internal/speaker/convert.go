package speaker

import (
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	pb "github.com/amooglesoft/trafficmonitor/api/trafficmonitor/v1"
	"github.com/amooglesoft/trafficmonitor/internal/compile"
	"github.com/amooglesoft/trafficmonitor/internal/probe"
	"github.com/amooglesoft/trafficmonitor/internal/route"
)

func toTime(t time.Time) *timestamppb.Timestamp {
	if t.IsZero() {
		return nil
	}
	return timestamppb.New(t)
}

// fromTime returns the zero time for a missing or impossible timestamp.
func fromTime(t *timestamppb.Timestamp) time.Time {
	if t == nil || !t.IsValid() {
		return time.Time{}
	}
	return t.AsTime()
}

func toSpec(d Desired, text string) *pb.RouteSpec {
	return &pb.RouteSpec{
		Route: text, Deadline: toTime(d.Deadline), CreateTime: toTime(d.Created),
		Owners: d.Owners, Answers: d.Answers, Groups: d.Groups, Scope: d.Scope, Approved: d.Approved, Manual: d.Manual,
	}
}

func statusToProto(s Status) *pb.SpeakerStatus {
	out := &pb.SpeakerStatus{
		Version: s.Version, Pid: int64(s.PID), StartTime: toTime(s.Start), Asn: s.ASN, RouterId: s.RouterID,
		Term: s.Term, Revision: s.Revision, WithdrawnAllBy: s.WithdrawnAllBy, Asks: s.Asks,
	}
	for _, p := range s.Peers {
		var held []*pb.HeldFamily
		for _, h := range p.Held {
			held = append(held, &pb.HeldFamily{Family: string(h.Table), UntilTime: toTime(h.Until), Reason: h.Reason})
		}
		out.Peers = append(out.Peers, &pb.Peer{
			HeldFamilies: held, StoreWaitUntilTime: toTime(p.StoreWait), StallTime: toTime(p.Stalled),
			Name: p.Name, Group: p.Group, Address: p.Address, Asn: p.ASN, State: pb.Peer_SessionState(p.State), StateTime: toTime(p.Since),
			Families: fromTables(p.Families), MissingFamilies: fromTables(p.Missing),
			DesiredRoutes: uint32(p.Desired), SentRoutes: uint32(p.Routes[Sent]), PendingRoutes: uint32(p.Routes[Pending]),
			UnsupportedRoutes: uint32(p.Routes[Unsupported]), NotPlacedRoutes: uint32(p.Routes[NotPlaced]),
			QuarantinedRoutes: uint32(p.Routes[Quarantined]), FailedRoutes: uint32(p.Routes[Failed]), EstablishedCount: p.Established,
			LastError: p.LastError, LastErrorTime: toTime(p.LastErrorTime),
			Profile: p.Profile, HardwareEntries: uint32(p.Cost), InstalledRules: uint32(p.Probed.Installed), NotInstalledRules: uint32(p.Probed.NotInstalled),
			HitPackets: p.Probed.Packets, ProbeTime: toTime(p.Probed.At), ProbeError: p.Probed.Error,
		})
	}
	out.Routes = make([]*pb.SpeakerRoute, 0, len(s.Routes))
	for _, r := range s.Routes {
		sr := &pb.SpeakerRoute{Spec: toSpec(r.Desired, r.Route.String())}
		for _, p := range r.Peers {
			pr := &pb.PeerRoute{
				Peer: p.Peer, State: pb.PeerRoute_State(p.State), Reason: p.Reason, SendTime: toTime(p.Sent),
				Rules: p.Rules, Widened: p.Widened,
			}
			if f := p.Found; !f.At.IsZero() {
				pr.Installed, pr.InstalledReason, pr.ProbeTime = installedToProto[f.State], f.Reason, toTime(f.At)
				if f.HasPackets {
					pr.HitPackets = &f.Packets
				}
				if f.HasOctets {
					pr.HitOctets = &f.Octets
				}
			}
			sr.Peers = append(sr.Peers, pr)
		}
		out.Routes = append(out.Routes, sr)
	}
	return out
}

// statusFromProto leaves out routes this version cannot read; a newer speaker may hold such.
func statusFromProto(in *pb.SpeakerStatus) Status {
	s := Status{
		Version: in.GetVersion(), PID: int(in.GetPid()), Start: fromTime(in.GetStartTime()), ASN: in.GetAsn(), RouterID: in.GetRouterId(),
		Term: in.GetTerm(), Revision: in.GetRevision(), WithdrawnAllBy: in.GetWithdrawnAllBy(), Asks: in.GetAsks(),
	}
	for _, p := range in.GetPeers() {
		var held []HeldFamily
		for _, h := range p.GetHeldFamilies() {
			held = append(held, HeldFamily{compile.Table(h.GetFamily()), fromTime(h.GetUntilTime()), h.GetReason()})
		}
		s.Peers = append(s.Peers, PeerStatus{
			Held: held, StoreWait: fromTime(p.GetStoreWaitUntilTime()), Stalled: fromTime(p.GetStallTime()),
			Name: p.GetName(), Group: p.GetGroup(), Address: p.GetAddress(), ASN: p.GetAsn(), State: SessionState(p.GetState()), Since: fromTime(p.GetStateTime()),
			Families: toTables(p.GetFamilies()), Missing: toTables(p.GetMissingFamilies()),
			Desired: int(p.GetDesiredRoutes()), Established: p.GetEstablishedCount(),
			Routes: map[RouteState]int{
				Sent: int(p.GetSentRoutes()), Pending: int(p.GetPendingRoutes()), Unsupported: int(p.GetUnsupportedRoutes()),
				NotPlaced: int(p.GetNotPlacedRoutes()), Quarantined: int(p.GetQuarantinedRoutes()), Failed: int(p.GetFailedRoutes()),
			},
			LastError: p.GetLastError(), LastErrorTime: fromTime(p.GetLastErrorTime()),
			Profile: p.GetProfile(), Cost: int(p.GetHardwareEntries()),
			Probed: Probed{
				Installed: int(p.GetInstalledRules()), NotInstalled: int(p.GetNotInstalledRules()), Packets: p.GetHitPackets(),
				At: fromTime(p.GetProbeTime()), Error: p.GetProbeError(),
			},
		})
	}
	for _, r := range in.GetRoutes() {
		spec := r.GetSpec()
		parsed, err := route.Parse(spec.GetRoute())
		if err != nil {
			continue
		}
		rs := RouteStatus{Desired: Desired{
			Route: parsed, Deadline: fromTime(spec.GetDeadline()), Created: fromTime(spec.GetCreateTime()),
			Owners: spec.GetOwners(), Answers: spec.GetAnswers(), Groups: spec.GetGroups(), Scope: spec.GetScope(), Approved: spec.GetApproved(), Manual: spec.GetManual(),
		}}
		for _, p := range r.GetPeers() {
			pr := PeerRoute{
				Peer: p.GetPeer(), State: RouteState(p.GetState()), Reason: p.GetReason(), Sent: fromTime(p.GetSendTime()),
				Rules: p.GetRules(), Widened: p.GetWidened(),
			}
			if at := fromTime(p.GetProbeTime()); !at.IsZero() {
				pr.Found = Found{
					State: installedFromProto(p.GetInstalled()), Reason: p.GetInstalledReason(), At: at,
					Packets: p.GetHitPackets(), Octets: p.GetHitOctets(), HasPackets: p.HitPackets != nil, HasOctets: p.HitOctets != nil,
				}
			}
			rs.Peers = append(rs.Peers, pr)
		}
		s.Routes = append(s.Routes, rs)
	}
	return s
}

var installedToProto = map[probe.State]pb.PeerRoute_Installed{
	probe.Unknown: pb.PeerRoute_INSTALLED_UNKNOWN, probe.Installed: pb.PeerRoute_INSTALLED_YES, probe.NotInstalled: pb.PeerRoute_INSTALLED_NO,
}

func installedFromProto(i pb.PeerRoute_Installed) probe.State {
	switch i {
	case pb.PeerRoute_INSTALLED_YES:
		return probe.Installed
	case pb.PeerRoute_INSTALLED_NO:
		return probe.NotInstalled
	}
	return probe.Unknown
}

func fromTables(ts []compile.Table) []string {
	var out []string
	for _, t := range ts {
		out = append(out, string(t))
	}
	return out
}

func toTables(ts []string) []compile.Table {
	var out []compile.Table
	for _, t := range ts {
		out = append(out, compile.Table(t))
	}
	return out
}
