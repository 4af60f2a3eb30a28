package rpc

import (
	"context"
	"path"
	"runtime/debug"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

func (s *Server) unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (resp any, err error) {
	start := time.Now()
	method := path.Base(info.FullMethod)
	defer func() { s.o.Metrics.observe(method, true, time.Since(start), err) }()
	defer s.recover(info.FullMethod, &err)
	ctx, err = s.authorise(ctx, info.FullMethod)
	if err != nil {
		return nil, err
	}
	return handle(ctx, req)
}

func (s *Server) stream(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, handle grpc.StreamHandler) (err error) {
	start := time.Now()
	method := path.Base(info.FullMethod)
	defer func() { s.o.Metrics.observe(method, false, time.Since(start), err) }()
	defer s.recover(info.FullMethod, &err)
	ctx, err := s.authorise(ss.Context(), info.FullMethod)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(s.stopping, cancel)()
	err = handle(srv, stream{ss, ctx})
	if s.stopping.Err() != nil && err != nil && ended(ctx, err) {
		return status.Error(codes.Unavailable, "this server is shutting down: connect again, or to another one")
	}
	return err
}

// stream is a stream whose context also ends with the server.
type stream struct {
	grpc.ServerStream
	ctx context.Context
}

func (s stream) Context() context.Context { return s.ctx }

// recover turns a panic of a handler into an error of this one call.
func (s *Server) recover(method string, err *error) {
	p := recover()
	if p == nil {
		return
	}
	s.o.Metrics.panicked()
	s.o.Log.Error("handler panicked", "method", method, "panic", p, "stack", string(debug.Stack()))
	*err = status.Errorf(codes.Internal, "%s met a programming error: the server's log has the stack under \"handler panicked\"", path.Base(method))
}
