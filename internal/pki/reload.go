package pki

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"
)

// follower keeps the newest good content of the files. It looks at the files' times at each handshake, which costs
// three calls of stat and needs no goroutine; a renewal that is half done, or bad, leaves the one before in use.
type follower struct {
	files Files

	mu      sync.Mutex
	seen    [3]os.FileInfo // guarded by mu; what the last attempt looked at
	current *identity      // guarded by mu
}

func follow(f Files) (*follower, error) {
	w := &follower{files: f}
	w.seen, _ = w.stat()
	id, err := f.load(time.Now())
	if err != nil {
		return nil, err
	}
	w.current = id
	return w, nil
}

func (w *follower) stat() (infos [3]os.FileInfo, ok bool) {
	for i, path := range []string{w.files.CA, w.files.Cert, w.files.Key} {
		info, err := os.Stat(path)
		if err != nil {
			return infos, false
		}
		infos[i] = info
	}
	return infos, true
}

// get returns the identity to use for one handshake.
func (w *follower) get() *identity {
	w.mu.Lock()
	defer w.mu.Unlock()
	infos, ok := w.stat()
	if !ok || same(infos, w.seen) {
		return w.current
	}
	w.seen = infos // before the read: what is written meanwhile is seen as a change next time
	if id, err := w.files.load(time.Now()); err == nil {
		w.current = id
	}
	return w.current
}

func same(a, b [3]os.FileInfo) bool {
	for i := range a {
		if a[i] == nil || b[i] == nil || !os.SameFile(a[i], b[i]) ||
			!a[i].ModTime().Equal(b[i].ModTime()) || a[i].Size() != b[i].Size() {
			return false
		}
	}
	return true
}

// Server returns the configuration of a server that proves its identity and demands a verified certificate of every
// client, in TLS 1.3. Renewed files are used from the next handshake on.
func (f Files) Server() (*tls.Config, error) {
	w, err := follow(f)
	if err != nil {
		return nil, err
	}
	config := func() *tls.Config {
		id := w.get()
		return &tls.Config{
			MinVersion:             tls.VersionTLS13,
			Certificates:           []tls.Certificate{id.cert},
			ClientAuth:             tls.RequireAndVerifyClientCert,
			ClientCAs:              id.pool,
			NextProtos:             []string{"h2"},
			SessionTicketsDisabled: true, // a resumed session would outlive a CA that was taken away
		}
	}
	c := config()
	c.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) { return config(), nil }
	return c, nil
}

// Client returns the configuration of a client that verifies the server and proves its own identity, in TLS 1.3.
// serverName is the DNS name or IP address the server's certificate must be for, and its role must be
// [RoleController]: another holder of a certificate of the same authority is neither told anything nor obeyed. Renewed
// files are used from the next handshake on.
//
// With an empty serverName the dialler must set ServerName itself (as etcd's client does for several endpoints), any
// role will do, and a renewed CA file is used only after a restart; the certificate and key are followed all the same.
func (f Files) Client(serverName string) (*tls.Config, error) {
	w, err := follow(f)
	if err != nil {
		return nil, err
	}
	c := &tls.Config{
		MinVersion: tls.VersionTLS13,
		ServerName: serverName,
		RootCAs:    w.get().pool,
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			return &w.get().cert, nil
		},
	}
	if serverName != "" {
		// RootCAs cannot change in a configuration in use, so the same verification is done here with the CAs of now.
		c.InsecureSkipVerify = true
		c.VerifyConnection = func(s tls.ConnectionState) error { return verifyServer(s, serverName, w.get().pool) }
	}
	return c, nil
}

func verifyServer(s tls.ConnectionState, name string, roots *x509.CertPool) error {
	if len(s.PeerCertificates) == 0 {
		return errors.New("the server showed no certificate")
	}
	leaf := s.PeerCertificates[0]
	o := x509.VerifyOptions{
		Roots: roots, DNSName: name, Intermediates: x509.NewCertPool(), CurrentTime: time.Now(),
		KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	for _, c := range s.PeerCertificates[1:] {
		o.Intermediates.AddCert(c)
	}
	if _, err := leaf.Verify(o); err != nil {
		return fmt.Errorf("the server's certificate (%q) does not prove that it is %s: %w", leaf.Subject.CommonName, name, err)
	}
	if cn, role := Identity(leaf); role != RoleController {
		return fmt.Errorf("the server at %s shows the certificate of %q with the role %q: only the role %q (its organisational unit) is trusted there; issue one with tmctl pki issue --role %s",
			name, cn, role, RoleController, RoleController)
	}
	return nil
}
