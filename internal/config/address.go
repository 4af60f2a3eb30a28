package config

import (
	"net"
	"net/netip"
	"strconv"
	"strings"

	"github.com/amooglesoft/trafficmonitor/internal/document"
)

// Address is where a service listens or is reached: a unix socket, or a host and a port. The zero Address is none.
type Address struct {
	Path string // of a unix socket; empty for TCP
	Host string // an address or a name, without brackets; empty for all addresses of the machine
	Port uint16
}

// String writes the address as it stands in the file.
func (a Address) String() string {
	switch {
	case a == Address{}:
		return ""
	case a.Path != "":
		return "unix://" + a.Path
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

// maxSocket is the longest path of a unix socket on Linux.
const maxSocket = 107

// use says what an address is for.
type use int

const (
	forListening use = iota // port 0 lets the system choose; no names, for a name may have several addresses
	forMetrics              // as for listening, but TCP only
	forSocket               // a unix socket only
	forDialling
)

// port is the usual port of a use, for a suggestion.
func (u use) port() string {
	switch u {
	case forMetrics:
		return "7444"
	case forDialling:
		return "7442"
	}
	return "7443"
}

func addressCodec(u use) document.Codec[Address] {
	typ := "host:port or unix:///path"
	switch u {
	case forMetrics:
		typ = "host:port"
	case forSocket:
		typ = "unix:///path"
	}
	return document.Codec[Address]{
		Type:   typ,
		Parse:  func(s string) (Address, error) { return parseAddress(s, u) },
		Format: Address.String,
	}
}

func parseAddress(s string, u use) (Address, error) {
	if rest, ok := strings.CutPrefix(s, "unix:"); ok {
		return parseSocket(s, rest, u)
	}
	if strings.HasPrefix(s, "/") && u != forMetrics {
		return Address{}, document.Wrong("unix://"+s, "%q is a path", s)
	}
	if u == forSocket {
		return Address{}, document.Wrong("", "%q is not a unix socket: write unix:///path", s)
	}
	if _, rest, ok := strings.Cut(s, "://"); ok {
		return Address{}, document.Wrong(strings.TrimSuffix(rest, "/"), "%q is a URL, but it must be host:port", s)
	}
	if ip, err := netip.ParseAddr(strings.Trim(s, "[]")); err == nil {
		return Address{}, document.Wrong(net.JoinHostPort(ip.String(), u.port()), "%q has no port", s)
	}
	host, text, err := net.SplitHostPort(s)
	if err != nil || strings.ContainsAny(host, "/ []@") {
		return Address{}, document.Wrong("", "%q is not an address with a port, such as 127.0.0.1:7443 or [::1]:7443", s)
	}
	port, err := strconv.ParseUint(text, 10, 16)
	if err != nil || port == 0 && u == forDialling || strings.HasPrefix(text, "+") {
		return Address{}, document.Wrong("", "%q: %q is not a port", s, text)
	}
	a := Address{Host: host, Port: uint16(port)}
	ip, err := netip.ParseAddr(host)
	switch {
	case err == nil:
		a.Host = ip.String()
	case host == "" && u == forDialling:
		return Address{}, document.Wrong("", "%q has no host", s)
	case host == "" && port == 0:
		return Address{}, document.Wrong("127.0.0.1:0", "%q is any port of any address", s)
	case host == "" || host == "localhost":
	case u != forDialling:
		return Address{}, document.Wrong("", "%q: listen on an address or on localhost, not on a name, which may have several addresses", s)
	case !isHostname(host):
		return Address{}, document.Wrong("", "%q: %q is neither an address nor the name of a host", s, host)
	}
	return a, nil
}

func parseSocket(s, rest string, u use) (Address, error) {
	path := strings.TrimPrefix(rest, "//")
	switch {
	case u == forMetrics:
		return Address{}, document.Wrong("", "%q is a unix socket, but Prometheus reads host:port only", s)
	case !strings.HasPrefix(path, "/"):
		return Address{}, document.Wrong("unix:///"+strings.TrimLeft(path, "./"), "%q: the path of a socket begins with a slash", s)
	case path == "/" || strings.HasSuffix(path, "/"):
		return Address{}, document.Wrong("", "%q names a folder, but it must name the socket", s)
	case len(path) > maxSocket:
		return Address{}, document.Wrong("", "%q: the path of a socket has at most %d octets", s, maxSocket)
	}
	return Address{Path: path}, nil
}

// isHostname follows RFC 1123, section 2.1.
func isHostname(s string) bool {
	if len(s) > 253 {
		return false
	}
	for label := range strings.SplitSeq(strings.TrimSuffix(s, "."), ".") {
		if label == "" || len(label) > 63 || strings.HasPrefix(label, "-") || strings.HasSuffix(label, "-") {
			return false
		}
		for _, c := range label {
			if c != '-' && (c < '0' || c > '9') && (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') {
				return false
			}
		}
	}
	return true
}

// checkListen refuses an address that others could reach without TLS.
func checkListen(r *document.Report, at string, a Address, t TLS) {
	if a == (Address{}) || a.IsLocal() || t.Enabled() {
		return
	}
	loopback := Address{Host: "127.0.0.1", Port: a.Port}
	r.Suggest(at, loopback.String(), "%s is reachable from other machines, and there are no certificates: "+
		"set tls.ca, tls.cert and tls.key (tmctl pki makes them for a start), or listen on loopback or a unix socket", a)
}
