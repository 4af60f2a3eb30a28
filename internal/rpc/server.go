// Package rpc makes gRPC servers and connections that all behave alike: mutual TLS wherever others could listen, a role for
// every method, the standard health and reflection services, limits, metrics, and no panic that ends the process.
package rpc

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/reflection"

	"github.com/amooglesoft/trafficmonitor/internal/pki"
)

// Options of a server.
type Options struct {
	// TLS proves who we are and verifies every client that comes over TCP. Without it the server takes callers from
	// loopback and unix sockets only, and gives them every right.
	TLS pki.Files
	// Roles says for each full method name ("/package.Service/Method") which roles may call it. A method that is
	// missing here is an error at Serve.
	Roles map[string][]string
	// NotReady returns why the process is not ready; the health service serves while it returns nothing. Nil means ready.
	NotReady func() []string
	// MaxMessage is the largest request in octets; 0 means 4 MiB.
	MaxMessage int
	// MaxStreams is how many calls one connection may have open; 0 means 100.
	MaxStreams uint32
	// Metrics counts the calls; nil counts nothing.
	Metrics *Metrics
	Log     *slog.Logger
}

// Server is a gRPC server. Register services on it, then Serve.
type Server struct {
	*grpc.Server
	o        Options
	stopping context.Context // ends when Serve's context does; open streams end with it
	stop     context.CancelFunc
}

// How long a connection may be silent before it is probed, and how long the answer may take: a rack that lost power is
// noticed after their sum.
const (
	KeepaliveTime    = 20 * time.Second
	KeepaliveTimeout = 10 * time.Second
)

// stopGrace is how long calls may take to end after the server was told to stop.
const stopGrace = 3 * time.Second

// NewServer returns a server with the health and reflection services. It fails when the TLS files cannot be used.
func NewServer(o Options) (*Server, error) {
	creds := &transport{log: o.Log, metrics: o.Metrics}
	if o.TLS.Enabled() {
		config, err := o.TLS.Server()
		if err != nil {
			return nil, err
		}
		creds.tls = newTLS(config)
	}
	s := &Server{o: o}
	s.stopping, s.stop = context.WithCancel(context.Background())
	s.Server = grpc.NewServer(
		grpc.Creds(creds),
		grpc.MaxRecvMsgSize(cmp.Or(o.MaxMessage, 4<<20)),
		grpc.MaxConcurrentStreams(cmp.Or(o.MaxStreams, 100)),
		grpc.ConnectionTimeout(10*time.Second), // a handshake that does not come along
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: KeepaliveTime, Timeout: KeepaliveTimeout}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: KeepaliveTime / 4, PermitWithoutStream: true}),
		grpc.UnaryInterceptor(s.unary),
		grpc.StreamInterceptor(s.stream),
	)
	grpc_health_v1.RegisterHealthServer(s.Server, &health{notReady: o.NotReady, services: s.GetServiceInfo, stopping: s.stopping})
	reflection.Register(s.Server)
	return s, nil
}

// Serve answers on all listeners until ctx ends, or one of them fails. It closes them all.
func (s *Server) Serve(ctx context.Context, listeners ...net.Listener) error {
	defer s.stop()
	if err := s.checkRoles(); err != nil {
		for _, l := range listeners {
			l.Close()
		}
		return err
	}
	g, gctx := errgroup.WithContext(ctx)
	for _, l := range listeners {
		g.Go(func() error {
			err := s.Server.Serve(l)
			if gctx.Err() != nil || errors.Is(err, grpc.ErrServerStopped) {
				return nil
			}
			return fmt.Errorf("serve %s: %w", l.Addr(), err)
		})
	}
	g.Go(func() error {
		<-gctx.Done()
		s.stop() // open streams end
		late := time.AfterFunc(stopGrace, s.Server.Stop)
		defer late.Stop()
		s.GracefulStop()
		return nil
	})
	return g.Wait()
}

// checkRoles fails when a registered method has no roles: what nobody thought about must not be open to all, nor be
// discovered as closed in an emergency.
func (s *Server) checkRoles() error {
	var missing []string
	for service, info := range s.GetServiceInfo() {
		for _, m := range info.Methods {
			full := "/" + service + "/" + m.Name
			if _, ok := s.o.Roles[full]; !ok && !openToAll(full) {
				missing = append(missing, full)
			}
		}
	}
	if len(missing) == 0 {
		return nil
	}
	slices.Sort(missing)
	return fmt.Errorf("no roles are given for %s", strings.Join(missing, ", "))
}

// openToAll reports whether every caller who got through the handshake may call the method.
func openToAll(method string) bool {
	return strings.HasPrefix(method, "/grpc.health.v1.Health/") || strings.HasPrefix(method, "/grpc.reflection.")
}
