package rpc

import (
	"context"
	"fmt"
	"net"
	"path"
	"slices"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/amooglesoft/trafficmonitor/internal/pki"
)

// Caller is who makes a call.
type Caller struct {
	// Name and Role are what the verified certificate says; empty for a local caller.
	Name, Role string
	// Local says by which way a caller without certificate came, such as "unix uid 1000" or "loopback"; empty with one.
	// A local caller has every right.
	Local string
}

// IsLocal reports whether the caller came over loopback or a unix socket and showed no certificate.
func (c Caller) IsLocal() bool { return c.Local != "" }

type callerKey struct{}

// CallerFrom returns who makes the call that ctx belongs to.
func CallerFrom(ctx context.Context) Caller {
	c, _ := ctx.Value(callerKey{}).(Caller)
	return c
}

// WithCaller returns a context of a call by c. The server does this; tests may.
func WithCaller(ctx context.Context, c Caller) context.Context {
	return context.WithValue(ctx, callerKey{}, c)
}

// authorise finds out who calls and whether the role may.
func (s *Server) authorise(ctx context.Context, method string) (context.Context, error) {
	c, err := identify(ctx)
	if err != nil {
		return nil, err
	}
	if !c.IsLocal() && !openToAll(method) {
		if err := allowed(c, method, s.o.Roles[method]); err != nil {
			s.o.Log.Warn("call denied", "method", method, "requester", c.Name, "role", c.Role)
			return nil, err
		}
	}
	return WithCaller(ctx, c), nil
}

func identify(ctx context.Context) (Caller, error) {
	if name, role, ok := pki.PeerIdentity(ctx); ok {
		return Caller{Name: name, Role: role}, nil
	}
	p, ok := peer.FromContext(ctx)
	if !ok {
		return Caller{}, status.Error(codes.Unauthenticated, "it is not known where this call comes from")
	}
	if info, ok := p.AuthInfo.(localInfo); ok {
		return Caller{Local: info.way}, nil
	}
	return Caller{}, status.Error(codes.Unauthenticated, "this call needs a client certificate")
}

func allowed(c Caller, method string, roles []string) error {
	if slices.Contains(roles, c.Role) {
		return nil
	}
	if c.Role == "" {
		return status.Errorf(codes.PermissionDenied, "the certificate of %q names no role (exactly one organisational unit out of %s): issue one with tmctl pki issue --role",
			c.Name, strings.Join(pki.Roles(), ", "))
	}
	return status.Errorf(codes.PermissionDenied, "%s: %q has the role %s, and this needs %s",
		path.Base(method), c.Name, c.Role, strings.Join(roles, " or "))
}

// localWay says how a connection without TLS came, and whether it may.
func localWay(c net.Conn) (way string, err error) {
	switch a := c.RemoteAddr().(type) {
	case *net.UnixAddr:
		if uid, ok := peerUID(c); ok {
			return fmt.Sprintf("unix uid %d", uid), nil
		}
		return "unix", nil
	case *net.TCPAddr:
		if a.IP.IsLoopback() {
			return "loopback", nil
		}
		return "", fmt.Errorf("a connection from %s without TLS: only loopback and unix sockets are served without certificates", a)
	default:
		return a.Network(), nil // in process
	}
}
