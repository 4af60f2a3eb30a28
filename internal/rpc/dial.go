package rpc

import (
	"fmt"
	"net"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"

	"github.com/amooglesoft/trafficmonitor/internal/pki"
)

// maxAnswer is the largest answer taken, in octets: ten thousand routes with their state at several routers.
const maxAnswer = 64 << 20

// Dial returns a connection to a server. It connects with the first call. Without certificates only loopback and unix
// sockets are dialled; a unix socket is always used without TLS.
func Dial(address string, files pki.Files, more ...grpc.DialOption) (*grpc.ClientConn, error) {
	a, err := ParseAddress(address)
	if err != nil {
		return nil, err
	}
	creds := insecure.NewCredentials()
	target := "unix:" + a.Path
	if a.Path == "" {
		if !files.Enabled() && !a.IsLocal() {
			return nil, a.errInsecure()
		}
		if a.Host == "" || a.Port == 0 {
			return nil, fmt.Errorf("address %s has no host or no port to connect to", a)
		}
		target = "dns:///" + a.String()
		if net.ParseIP(a.Host) != nil {
			target = "passthrough:///" + a.String()
		}
		if files.Enabled() {
			config, err := files.Client(a.Host)
			if err != nil {
				return nil, err
			}
			creds = credentials.NewTLS(config)
		}
	}
	o := []grpc.DialOption{
		grpc.WithTransportCredentials(creds),
		grpc.WithNoProxy(),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxAnswer)),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: KeepaliveTime, Timeout: KeepaliveTimeout}),
	}
	return grpc.NewClient(target, append(o, more...)...)
}
