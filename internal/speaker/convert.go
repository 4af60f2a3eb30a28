package speaker

import (
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	pb "github.com/amooglesoft/trafficmonitor/api/trafficmonitor/v1"
	"github.com/amooglesoft/trafficmonitor/internal/compile"
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
		Owners: d.Owners, Answers: d.Answers, Groups: d.Groups, Approved: d.Approved, Manual: d.Manual,
	}
}

func statusToProto(s Status) *pb.SpeakerStatus {
	out := &pb.SpeakerStatus{
		Version: s.Version, Pid: int64(s.PID), StartTime: toTime(s.Start), Asn: s.ASN, RouterId: s.RouterID,
		Term: s.Term, Revision: s.Revision, WithdrawnAllBy: s.WithdrawnAllBy,
	}
	for _, p := range s.Peers {
		out.Peers = append(out.Peers, &pb.Peer{
			Name: p.Name, Address: p.Address, Asn: p.ASN, State: pb.Peer_SessionState(p.State), StateTime: toTime(p.Since),
			Families: fromTables(p.Families), MissingFamilies: fromTables(p.Missing),
			DesiredRoutes: uint32(p.Desired), SentRoutes: uint32(p.Routes[Sent]), PendingRoutes: uint32(p.Routes[Pending]),
			UnsupportedRoutes: uint32(p.Routes[Unsupported]), NotPlacedRoutes: uint32(p.Routes[NotPlaced]),
			QuarantinedRoutes: uint32(p.Routes[Quarantined]), FailedRoutes: uint32(p.Routes[Failed]), EstablishedCount: p.Established,
			LastError: p.LastError, LastErrorTime: toTime(p.LastErrorTime),
		})
	}
	out.Routes = make([]*pb.SpeakerRoute, 0, len(s.Routes))
	for _, r := range s.Routes {
		sr := &pb.SpeakerRoute{Spec: toSpec(r.Desired, r.Route.String())}
		for _, p := range r.Peers {
			sr.Peers = append(sr.Peers, &pb.PeerRoute{
				Peer: p.Peer, State: pb.PeerRoute_State(p.State), Reason: p.Reason, SendTime: toTime(p.Sent),
			})
		}
		out.Routes = append(out.Routes, sr)
	}
	return out
}

// statusFromProto leaves out routes this version cannot read; a newer speaker may hold such.
func statusFromProto(in *pb.SpeakerStatus) Status {
	s := Status{
		Version: in.GetVersion(), PID: int(in.GetPid()), Start: fromTime(in.GetStartTime()), ASN: in.GetAsn(), RouterID: in.GetRouterId(),
		Term: in.GetTerm(), Revision: in.GetRevision(), WithdrawnAllBy: in.GetWithdrawnAllBy(),
	}
	for _, p := range in.GetPeers() {
		s.Peers = append(s.Peers, PeerStatus{
			Name: p.GetName(), Address: p.GetAddress(), ASN: p.GetAsn(), State: SessionState(p.GetState()), Since: fromTime(p.GetStateTime()),
			Families: toTables(p.GetFamilies()), Missing: toTables(p.GetMissingFamilies()),
			Desired: int(p.GetDesiredRoutes()), Established: p.GetEstablishedCount(),
			Routes: map[RouteState]int{
				Sent: int(p.GetSentRoutes()), Pending: int(p.GetPendingRoutes()), Unsupported: int(p.GetUnsupportedRoutes()),
				NotPlaced: int(p.GetNotPlacedRoutes()), Quarantined: int(p.GetQuarantinedRoutes()), Failed: int(p.GetFailedRoutes()),
			},
			LastError: p.GetLastError(), LastErrorTime: fromTime(p.GetLastErrorTime()),
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
			Owners: spec.GetOwners(), Answers: spec.GetAnswers(), Groups: spec.GetGroups(), Approved: spec.GetApproved(), Manual: spec.GetManual(),
		}}
		for _, p := range r.GetPeers() {
			rs.Peers = append(rs.Peers, PeerRoute{
				Peer: p.GetPeer(), State: RouteState(p.GetState()), Reason: p.GetReason(), Sent: fromTime(p.GetSendTime()),
			})
		}
		s.Routes = append(s.Routes, rs)
	}
	return s
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
