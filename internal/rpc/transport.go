package rpc

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"net"
	"sync"
	"time"

	"google.golang.org/grpc/credentials"
)

// transport demands TLS of callers over TCP where it is configured, and takes callers of a unix socket as they are: the
// socket's file mode has let them in, and the kernel says who they are.
type transport struct {
	tls     credentials.TransportCredentials // nil without TLS
	log     *slog.Logger
	metrics *Metrics

	mu         sync.Mutex
	lastLog    time.Time // guarded by mu
	suppressed int       // guarded by mu
}

func newTLS(c *tls.Config) credentials.TransportCredentials { return credentials.NewTLS(c) }

// localInfo marks a connection without TLS.
type localInfo struct {
	credentials.CommonAuthInfo
	way string
}

// AuthType names the kind for gRPC.
func (localInfo) AuthType() string { return "local" }

func (t *transport) ServerHandshake(c net.Conn) (net.Conn, credentials.AuthInfo, error) {
	_, isUnix := c.(*net.UnixConn)
	if t.tls != nil && !isUnix {
		conn, info, err := t.tls.ServerHandshake(c)
		if err != nil {
			t.failed(c, err)
		}
		return conn, info, err
	}
	way, err := localWay(c)
	if err != nil {
		c.Close()
		t.failed(c, err)
		return nil, nil, err
	}
	return c, localInfo{credentials.CommonAuthInfo{SecurityLevel: credentials.PrivacyAndIntegrity}, way}, nil
}

// failed counts a refused connection and logs it, at most once a second, for anybody who reaches the port can cause it.
func (t *transport) failed(c net.Conn, err error) {
	t.metrics.handshakeFailed()
	if errors.Is(err, io.EOF) {
		return // a port check of some load balancer
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if now := time.Now(); now.Sub(t.lastLog) >= time.Second {
		t.log.Warn("connection refused", "address", c.RemoteAddr().String(), "err", err, "suppressed", t.suppressed)
		t.lastLog, t.suppressed = now, 0
		return
	}
	t.suppressed++
}

// ClientHandshake is not for servers.
func (t *transport) ClientHandshake(context.Context, string, net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return nil, nil, errors.New("these credentials are for servers")
}

// Info describes the credentials to gRPC.
func (t *transport) Info() credentials.ProtocolInfo {
	if t.tls != nil {
		return t.tls.Info()
	}
	return credentials.ProtocolInfo{SecurityProtocol: "local"}
}

// Clone returns t itself: it holds nothing that belongs to one connection.
func (t *transport) Clone() credentials.TransportCredentials { return t }

// OverrideServerName is not for servers.
func (t *transport) OverrideServerName(string) error { return nil }
