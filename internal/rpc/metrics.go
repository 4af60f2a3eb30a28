package rpc

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Metrics are what a server counts. Each owner of a server names and registers its own; every field may be nil.
type Metrics struct {
	Requests        *prometheus.CounterVec   // labels method and code
	Seconds         *prometheus.HistogramVec // label method; unary calls only
	Panics          prometheus.Counter
	HandshakeErrors prometheus.Counter
}

func (m *Metrics) observe(method string, unary bool, took time.Duration, err error) {
	if m == nil {
		return
	}
	if m.Requests != nil {
		m.Requests.WithLabelValues(method, code(err).String()).Inc()
	}
	if m.Seconds != nil && unary {
		m.Seconds.WithLabelValues(method).Observe(took.Seconds())
	}
}

func (m *Metrics) panicked() {
	if m != nil && m.Panics != nil {
		m.Panics.Inc()
	}
}

func (m *Metrics) handshakeFailed() {
	if m != nil && m.HandshakeErrors != nil {
		m.HandshakeErrors.Inc()
	}
}

// code is the code the client sees for err, out of gRPC's closed set.
func code(err error) codes.Code {
	if s, ok := status.FromError(err); ok {
		if s.Code() > codes.Unauthenticated {
			return codes.Unknown
		}
		return s.Code()
	}
	return status.FromContextError(err).Code() // context errors have theirs, others are unknown
}

// ended reports whether err says only that the caller went away or that time was up.
func ended(ctx context.Context, err error) bool {
	return ctx.Err() != nil && code(err) != codes.Internal
}
