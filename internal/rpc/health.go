package rpc

import (
	"context"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	hv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
)

// health is the standard health service: serving means ready.
type health struct {
	hv1.UnimplementedHealthServer
	notReady func() []string
	services func() map[string]grpc.ServiceInfo
	stopping context.Context
}

// healthPoll is how often a watched health is looked at.
const healthPoll = time.Second

func (h *health) now() hv1.HealthCheckResponse_ServingStatus {
	if h.stopping.Err() != nil || h.notReady != nil && len(h.notReady()) > 0 {
		return hv1.HealthCheckResponse_NOT_SERVING
	}
	return hv1.HealthCheckResponse_SERVING
}

func (h *health) knows(service string) bool {
	_, ok := h.services()[service]
	return ok || service == ""
}

// Check answers for one service; all share one state.
func (h *health) Check(_ context.Context, req *hv1.HealthCheckRequest) (*hv1.HealthCheckResponse, error) {
	if !h.knows(req.GetService()) {
		return nil, status.Errorf(codes.NotFound, "service %q is not served here", req.GetService())
	}
	return &hv1.HealthCheckResponse{Status: h.now()}, nil
}

// List answers for every service.
func (h *health) List(context.Context, *hv1.HealthListRequest) (*hv1.HealthListResponse, error) {
	out := &hv1.HealthListResponse{Statuses: map[string]*hv1.HealthCheckResponse{"": {Status: h.now()}}}
	for name := range h.services() {
		out.Statuses[name] = &hv1.HealthCheckResponse{Status: h.now()}
	}
	return out, nil
}

// Watch sends the state now and after every change.
func (h *health) Watch(req *hv1.HealthCheckRequest, out grpc.ServerStreamingServer[hv1.HealthCheckResponse]) error {
	tick := time.NewTicker(healthPoll)
	defer tick.Stop()
	last := hv1.HealthCheckResponse_UNKNOWN
	for {
		s := hv1.HealthCheckResponse_SERVICE_UNKNOWN // as the protocol wants: not an error, for it may come
		if h.knows(req.GetService()) {
			s = h.now()
		}
		if s != last {
			if err := out.Send(&hv1.HealthCheckResponse{Status: s}); err != nil {
				return err
			}
			last = s
		}
		select {
		case <-out.Context().Done():
			return status.FromContextError(out.Context().Err()).Err()
		case <-tick.C:
		}
	}
}
