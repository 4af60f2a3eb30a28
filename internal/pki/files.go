package pki

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"
)

// Files names the files of one identity: PEM, the certificate first and then its intermediates.
type Files struct {
	CA   string // certificates that vouch for the peers
	Cert string // own certificate
	Key  string // its private key
}

// Enabled reports whether any file is named, that is: whether TLS is meant to be used.
func (f Files) Enabled() bool { return f != Files{} }

// identity is what the files held when they were last read and found good.
type identity struct {
	cert  tls.Certificate
	pool  *x509.CertPool
	caEnd time.Time // earliest end of a certificate in the CA file
}

// load reads all three files and checks that they can be used now.
func (f Files) load(now time.Time) (*identity, error) {
	id, err := f.read()
	if err != nil {
		return nil, err
	}
	leaf := id.cert.Leaf
	switch {
	case now.After(leaf.NotAfter):
		return nil, fmt.Errorf("certificate %s of %q expired at %s: issue a new one (tmctl pki issue --force) and put it there",
			f.Cert, leaf.Subject.CommonName, leaf.NotAfter.UTC().Format(time.RFC3339))
	case now.Before(leaf.NotBefore):
		return nil, fmt.Errorf("certificate %s of %q is valid only from %s: check this machine's clock, which says %s",
			f.Cert, leaf.Subject.CommonName, leaf.NotBefore.UTC().Format(time.RFC3339), now.UTC().Format(time.RFC3339))
	}
	return id, nil
}

// read reads and parses all three files, valid in time or not.
func (f Files) read() (*identity, error) {
	var missing []error
	for _, m := range []struct{ path, what string }{{f.CA, "CA"}, {f.Cert, "certificate"}, {f.Key, "key"}} {
		if m.path == "" {
			missing = append(missing, fmt.Errorf("no %s file is named: TLS needs all three of CA, certificate and key", m.what))
		}
	}
	if len(missing) > 0 {
		return nil, errors.Join(missing...)
	}
	caPEM, err := readFile("CA file", f.CA)
	if err != nil {
		return nil, err
	}
	cas, err := parseCertificates(caPEM)
	if err != nil {
		return nil, fmt.Errorf("CA file %s: %w", f.CA, err)
	}
	certPEM, err := readFile("certificate", f.Cert)
	if err != nil {
		return nil, err
	}
	if _, err := parseCertificates(certPEM); err != nil {
		return nil, fmt.Errorf("certificate %s: %w", f.Cert, err)
	}
	keyPEM, err := readFile("key", f.Key)
	if err != nil {
		return nil, err
	}
	pair, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		return nil, fmt.Errorf("certificate %s with key %s: %w: both must be of the same pair, in PEM", f.Cert, f.Key, err)
	}
	id := &identity{cert: pair, pool: x509.NewCertPool()}
	for _, ca := range cas {
		if !ca.IsCA {
			return nil, fmt.Errorf("CA file %s: certificate of %q is not one of a certificate authority", f.CA, ca.Subject.CommonName)
		}
		id.pool.AddCert(ca)
		if id.caEnd.IsZero() || ca.NotAfter.Before(id.caEnd) {
			id.caEnd = ca.NotAfter
		}
	}
	return id, nil
}

func readFile(what, path string) ([]byte, error) {
	b, err := os.ReadFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("%s %s does not exist: correct the path, or make it with tmctl pki", what, path)
	case errors.Is(err, fs.ErrPermission):
		return nil, fmt.Errorf("%s %s: this process (uid %d) may not read it: change the file's owner", what, path, os.Getuid())
	case err != nil:
		return nil, fmt.Errorf("%s: %w", what, err)
	}
	return b, nil
}

func parseCertificates(text []byte) ([]*x509.Certificate, error) {
	var out []*x509.Certificate
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" {
			continue
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, err
		}
		out = append(out, c)
	}
	if len(out) == 0 {
		return nil, errors.New("holds no certificate in PEM (-----BEGIN CERTIFICATE-----)")
	}
	return out, nil
}

// Expiry returns when the certificate ends, and when the first of the certificates in the CA file does, as the files
// are now: what a renewal has to beat.
func (f Files) Expiry() (cert, ca time.Time, err error) {
	id, err := f.read()
	if err != nil {
		return time.Time{}, time.Time{}, err
	}
	return id.cert.Leaf.NotAfter, id.caEnd, nil
}

// Identity returns the name and role of the own certificate.
func (f Files) Identity() (name, role string, err error) {
	id, err := f.read()
	if err != nil {
		return "", "", err
	}
	name, role = Identity(id.cert.Leaf)
	return name, role, nil
}
