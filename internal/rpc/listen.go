package rpc

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"
)

// Listen opens a listener on an address as ParseAddress reads it. tls says whether the server has certificates; without
// them only loopback and unix sockets are opened. A unix socket belongs to this user alone (mode 0600); one that a dead
// process left behind is replaced.
func Listen(address string, tls bool) (net.Listener, error) {
	a, err := ParseAddress(address)
	if err != nil {
		return nil, err
	}
	if !tls && !a.IsLocal() {
		return nil, fmt.Errorf("%w, or listen on %s or a unix socket", a.errInsecure(), Address{Host: "127.0.0.1", Port: a.Port})
	}
	if a.Path != "" {
		l, err := listenUnix(a.Path)
		if err != nil {
			return nil, fmt.Errorf("listen on %s: %w", a, err)
		}
		return l, nil
	}
	l, err := net.Listen("tcp", net.JoinHostPort(a.Host, strconv.Itoa(int(a.Port))))
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", a, err)
	}
	if tcp, ok := l.Addr().(*net.TCPAddr); !tls && (!ok || !tcp.IP.IsLoopback()) {
		l.Close() // "localhost" of a machine with a strange hosts file
		return nil, fmt.Errorf("listen on %s: it resolves to %s, which is not loopback, and there are no certificates", a, l.Addr())
	}
	return l, nil
}

func listenUnix(path string) (net.Listener, error) {
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return nil, err
	case info.Mode().Type() != fs.ModeSocket:
		return nil, fmt.Errorf("%s exists and is not a socket: remove it, or use another path", path)
	default:
		if c, err := net.DialTimeout("unix", path, time.Second); err == nil {
			c.Close()
			return nil, errInUse
		}
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o750); err != nil {
		return nil, err
	}
	// Bound under another name first, so that no moment exists at which others could connect.
	private, err := os.MkdirTemp(filepath.Dir(path), ".s")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(private)
	tmp := filepath.Join(private, "s")
	if len(tmp) > maxSocketPath { // no room for the detour
		os.Remove(path)
		tmp = path
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: tmp, Net: "unix"})
	if err != nil {
		return nil, err
	}
	l.SetUnlinkOnClose(false)
	err = os.Chmod(tmp, 0o600)
	if err == nil && tmp != path {
		err = os.Rename(tmp, path)
	}
	if err == nil {
		info, err = os.Lstat(path)
	}
	if err != nil {
		l.Close()
		return nil, err
	}
	return &unixListener{UnixListener: l, path: path, info: info}, nil
}

// unixListener removes its socket on Close, unless another process has put its own there.
type unixListener struct {
	*net.UnixListener
	path string
	info os.FileInfo
	once sync.Once
}

// Addr returns the path others connect to.
func (l *unixListener) Addr() net.Addr { return &net.UnixAddr{Name: l.path, Net: "unix"} }

// Close closes the listener and removes the socket.
func (l *unixListener) Close() error {
	l.once.Do(func() {
		if now, err := os.Lstat(l.path); err == nil && os.SameFile(now, l.info) {
			os.Remove(l.path)
		}
	})
	return l.UnixListener.Close()
}
