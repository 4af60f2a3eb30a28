package console

import (
	"cmp"
	"context"
	"slices"

	tmv1 "github.com/amooglesoft/trafficmonitor/api/trafficmonitor/v1"
	"github.com/amooglesoft/trafficmonitor/internal/detect"
	"github.com/amooglesoft/trafficmonitor/internal/mitigation"
	"github.com/amooglesoft/trafficmonitor/internal/route"
)

// GetStatus returns the state of the whole system.
func (s *service) GetStatus(ctx context.Context, _ *tmv1.GetStatusRequest) (*tmv1.GetStatusResponse, error) {
	st, err := s.system.Status(ctx)
	if err != nil {
		return nil, s.toStatus(ctx, "GetStatus", err)
	}
	return statusProto(st), nil
}

// ListSensors returns the sensors by name.
func (s *service) ListSensors(ctx context.Context, _ *tmv1.ListSensorsRequest) (*tmv1.ListSensorsResponse, error) {
	sensors, err := s.system.Sensors(ctx)
	if err != nil {
		return nil, s.toStatus(ctx, "ListSensors", err)
	}
	sensors = slices.SortedFunc(slices.Values(sensors), func(a, b Sensor) int { return cmp.Compare(a.Name, b.Name) })
	return &tmv1.ListSensorsResponse{Sensors: mapSlice(sensors, sensorProto)}, nil
}

// ListPeers returns the routers by name.
func (s *service) ListPeers(ctx context.Context, _ *tmv1.ListPeersRequest) (*tmv1.ListPeersResponse, error) {
	peers, speakerError, err := s.system.Peers(ctx)
	if err != nil {
		return nil, s.toStatus(ctx, "ListPeers", err)
	}
	peers = slices.SortedFunc(slices.Values(peers), func(a, b Peer) int { return cmp.Compare(a.Name, b.Name) })
	return &tmv1.ListPeersResponse{Peers: mapSlice(peers, peerProto), SpeakerError: speakerError}, nil
}

// ListIncidents returns a page of incidents, newest first, each with its mitigations.
func (s *service) ListIncidents(ctx context.Context, req *tmv1.ListIncidentsRequest) (*tmv1.ListIncidentsResponse, error) {
	all, err := s.system.Incidents(ctx, req.GetIncludeEnded())
	if err != nil {
		return nil, s.toStatus(ctx, "ListIncidents", err)
	}
	at := func(i detect.Incident) position { return position{i.Decided, i.ID} }
	incidents, next, err := page(all, at, req.GetPageSize(), req.GetPageToken())
	if err != nil {
		return nil, s.toStatus(ctx, "ListIncidents", err)
	}
	mitigations, err := s.system.Mitigations(ctx, true) // an active incident may have ended mitigations
	if err != nil {
		return nil, s.toStatus(ctx, "ListIncidents", err)
	}
	byIncident := map[string][]string{}
	for _, m := range mitigations {
		if m.Incident != "" {
			byIncident[m.Incident] = append(byIncident[m.Incident], m.ID)
		}
	}
	out := &tmv1.ListIncidentsResponse{NextPageToken: next}
	for _, i := range incidents {
		ids := byIncident[i.ID]
		slices.Sort(ids)
		out.Incidents = append(out.Incidents, incidentProto(i, ids))
	}
	return out, nil
}

// ListMitigations returns a page of mitigations, newest first.
func (s *service) ListMitigations(ctx context.Context, req *tmv1.ListMitigationsRequest) (*tmv1.ListMitigationsResponse, error) {
	all, err := s.system.Mitigations(ctx, req.GetIncludeEnded())
	if err != nil {
		return nil, s.toStatus(ctx, "ListMitigations", err)
	}
	at := func(m mitigation.Mitigation) position { return position{m.Created, m.ID} }
	mitigations, next, err := page(all, at, req.GetPageSize(), req.GetPageToken())
	if err != nil {
		return nil, s.toStatus(ctx, "ListMitigations", err)
	}
	return &tmv1.ListMitigationsResponse{Mitigations: mapSlice(mitigations, mitigationProto), NextPageToken: next}, nil
}

// ListRoutes returns the routes, desired and unexpected, by their text.
func (s *service) ListRoutes(ctx context.Context, _ *tmv1.ListRoutesRequest) (*tmv1.ListRoutesResponse, error) {
	r, err := s.system.Routes(ctx)
	if err != nil {
		return nil, s.toStatus(ctx, "ListRoutes", err)
	}
	sorted := func(rs []Route) []*tmv1.SpeakerRoute {
		rs = slices.SortedFunc(slices.Values(rs), func(a, b Route) int { return route.Compare(a.Route, b.Route) })
		return mapSlice(rs, routeProto)
	}
	return &tmv1.ListRoutesResponse{Routes: sorted(r.Desired), UnexpectedRoutes: sorted(r.Unexpected), SpeakerError: r.SpeakerError}, nil
}

// ListHolds returns the holds by target.
func (s *service) ListHolds(ctx context.Context, _ *tmv1.ListHoldsRequest) (*tmv1.ListHoldsResponse, error) {
	holds, err := s.system.Holds(ctx)
	if err != nil {
		return nil, s.toStatus(ctx, "ListHolds", err)
	}
	holds = slices.SortedFunc(slices.Values(holds), func(a, b mitigation.Hold) int {
		return cmp.Or(a.Target.Addr().Compare(b.Target.Addr()), cmp.Compare(a.Target.Bits(), b.Target.Bits()))
	})
	return &tmv1.ListHoldsResponse{Holds: mapSlice(holds, holdProto)}, nil
}

// GetPolicy returns the policy in force.
func (s *service) GetPolicy(ctx context.Context, _ *tmv1.GetPolicyRequest) (*tmv1.GetPolicyResponse, error) {
	p, err := s.system.Policy(ctx)
	if err != nil {
		return nil, s.toStatus(ctx, "GetPolicy", err)
	}
	return &tmv1.GetPolicyResponse{Source: p.Source, Hash: p.Hash, LoadTime: timeProto(p.Loaded), Text: p.Text, Error: p.Error}, nil
}

// ExplainTarget says in sentences what is known of a target.
func (s *service) ExplainTarget(ctx context.Context, req *tmv1.ExplainTargetRequest) (*tmv1.ExplainTargetResponse, error) {
	var c check
	target := c.prefix("target", req.GetTarget())
	if err := c.err(); err != nil {
		return nil, s.toStatus(ctx, "ExplainTarget", err)
	}
	sentences, err := s.system.Explain(ctx, target)
	if err != nil {
		return nil, s.toStatus(ctx, "ExplainTarget", err)
	}
	return &tmv1.ExplainTargetResponse{Target: target.String(), Sentences: sentences}, nil
}
