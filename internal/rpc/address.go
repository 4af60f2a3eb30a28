package rpc

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
)

// Address is where a server is: a unix socket or a host and port.
type Address struct {
	Path string // of a unix socket; empty for TCP
	Host string // name or IP address, without brackets; may be empty for every address of the machine
	Port uint16
}

// maxSocketPath is what sockaddr_un holds on Linux, without its final zero.
const maxSocketPath = 107

// ParseAddress reads "unix:///run/x.sock", "unix:x.sock", "host:port" or "[::1]:port".
func ParseAddress(s string) (Address, error) {
	if path, ok := strings.CutPrefix(s, "unix:"); ok {
		path = strings.TrimPrefix(path, "//")
		switch {
		case path == "":
			return Address{}, fmt.Errorf("address %q has no path: write it as unix:///run/trafficmonitor/console.sock", s)
		case len(path) > maxSocketPath:
			return Address{}, fmt.Errorf("address %q: a socket's path has at most %d octets", s, maxSocketPath)
		}
		return Address{Path: path}, nil
	}
	host, portText, err := net.SplitHostPort(s)
	if err != nil || strings.ContainsAny(host, "/ ") {
		return Address{}, fmt.Errorf("address %q is neither host:port, such as 127.0.0.1:7443 or [::1]:7443, nor unix:///path", s)
	}
	port, err := strconv.ParseUint(portText, 10, 16)
	if err != nil {
		return Address{}, fmt.Errorf("address %q: port %q is not a number from 0 to 65535", s, portText)
	}
	return Address{Host: host, Port: uint16(port)}, nil
}

// String writes the address as ParseAddress reads it.
func (a Address) String() string {
	if a.Path != "" {
		if strings.HasPrefix(a.Path, "/") {
			return "unix://" + a.Path
		}
		return "unix:" + a.Path
	}
	return net.JoinHostPort(a.Host, strconv.Itoa(int(a.Port)))
}

// IsLocal reports whether nobody outside this machine reaches the address.
func (a Address) IsLocal() bool {
	if a.Path != "" || a.Host == "localhost" {
		return true
	}
	ip, err := netip.ParseAddr(a.Host)
	return err == nil && ip.IsLoopback()
}

// errInsecure is why an address is not used.
func (a Address) errInsecure() error {
	return fmt.Errorf("address %s can be reached from other machines, and without certificates only loopback and unix sockets are used: "+
		"name the CA, certificate and key (tmctl pki makes them)", a)
}

var errInUse = errors.New("another process listens there: stop it, or use another path")
