package pki

import (
	"cmp"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"
)

// Lifetimes where none is asked for.
const (
	DefaultCALifetime = 5 * 365 * 24 * time.Hour
	DefaultLifetime   = 365 * 24 * time.Hour
)

// backdate lets a certificate work at once on machines whose clock is a little behind.
const backdate = 5 * time.Minute

// Authority makes certificates in one directory: ca.crt and ca.key, and NAME.crt and NAME.key for each name.
type Authority struct {
	Dir      string
	Force    bool             // replace files that exist
	Lifetime time.Duration    // of what is made; 0 means the default
	Now      func() time.Time // nil means time.Now
}

// CreateCA makes a certificate authority in dir.
func CreateCA(dir string) error {
	_, err := Authority{Dir: dir}.Create()
	return err
}

// Issue makes a certificate and key for name in role, signed by the authority in dir. hosts are the DNS names and
// addresses a controller is reached at; other roles take none.
func Issue(dir, role, name string, hosts []string) (Files, error) {
	return Authority{Dir: dir}.Issue(role, name, hosts)
}

func (a Authority) now() time.Time {
	if a.Now != nil {
		return a.Now()
	}
	return time.Now()
}

// Create makes the authority itself and returns the end of its certificate.
func (a Authority) Create() (end time.Time, err error) {
	if err := os.MkdirAll(a.Dir, 0o700); err != nil {
		return time.Time{}, fmt.Errorf("make directory for the certificate authority: %w", err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return time.Time{}, err
	}
	serial, err := serialNumber()
	if err != nil {
		return time.Time{}, err
	}
	now := a.now()
	end = now.Add(cmp.Or(a.Lifetime, DefaultCALifetime))
	c := &x509.Certificate{
		SerialNumber:          serial,
		Subject:               pkix.Name{Organization: []string{"TrafficMonitor"}, CommonName: "TrafficMonitor CA"},
		NotBefore:             now.Add(-backdate),
		NotAfter:              end,
		IsCA:                  true,
		MaxPathLenZero:        true, // signs holders, not other authorities
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, c, c, key.Public(), key)
	if err != nil {
		return time.Time{}, fmt.Errorf("sign the authority's certificate: %w", err)
	}
	return end, a.write("ca", der, key)
}

var nameForm = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$`)

// Issue makes a certificate and key for name in role. It returns where they are.
func (a Authority) Issue(role, name string, hosts []string) (Files, error) {
	var errs []error
	if !slices.Contains(Roles(), role) {
		errs = append(errs, fmt.Errorf("role %q is not known: use %s", role, strings.Join(Roles(), ", ")))
	}
	switch {
	case !nameForm.MatchString(name):
		errs = append(errs, fmt.Errorf("name %q: use 1 to 64 of the characters A-Z a-z 0-9 . _ -, beginning with a letter or digit", name))
	case name == "ca" || name == "automation":
		errs = append(errs, fmt.Errorf("name %q is taken: it stands for something else", name))
	}
	if role == RoleController && len(hosts) == 0 {
		errs = append(errs, errors.New("a controller's certificate needs at least one host: the names and addresses it is reached at"))
	}
	if role != RoleController && len(hosts) > 0 {
		errs = append(errs, fmt.Errorf("a certificate of role %q takes no hosts: nobody connects to its holder", role))
	}
	dns, ips, err := splitHosts(hosts)
	if err := errors.Join(append(errs, err)...); err != nil {
		return Files{}, err
	}
	ca, caKey, err := a.open()
	if err != nil {
		return Files{}, err
	}
	now := a.now()
	if now.After(ca.NotAfter) {
		return Files{}, fmt.Errorf("the authority %s expired at %s: make a new one with tmctl pki init --force, and issue every certificate again",
			a.path("ca.crt"), ca.NotAfter.UTC().Format(time.RFC3339))
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return Files{}, err
	}
	serial, err := serialNumber()
	if err != nil {
		return Files{}, err
	}
	end := now.Add(cmp.Or(a.Lifetime, DefaultLifetime))
	if end.After(ca.NotAfter) {
		end = ca.NotAfter // what outlives its issuer only looks valid
	}
	usage := []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	if role == RoleController { // only a controller may serve, so a sensor's stolen key cannot play one
		usage = append(usage, x509.ExtKeyUsageServerAuth)
	}
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: serial,
		Subject:      pkix.Name{Organization: []string{"TrafficMonitor"}, OrganizationalUnit: []string{role}, CommonName: name},
		NotBefore:    now.Add(-backdate), NotAfter: end,
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           usage,
		DNSNames:              dns, IPAddresses: ips,
	}, ca, key.Public(), caKey)
	if err != nil {
		return Files{}, fmt.Errorf("sign certificate of %q: %w", name, err)
	}
	f := Files{CA: a.path("ca.crt"), Cert: a.path(name + ".crt"), Key: a.path(name + ".key")}
	return f, a.write(name, der, key)
}

var hostForm = regexp.MustCompile(`^(\*\.)?[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?)*$`)

func splitHosts(hosts []string) (dns []string, ips []net.IP, err error) {
	var errs []error
	for _, h := range hosts {
		if ip, err := netip.ParseAddr(h); err == nil {
			ips = append(ips, net.IP(ip.Unmap().AsSlice()))
		} else if len(h) <= 253 && hostForm.MatchString(h) {
			dns = append(dns, h)
		} else {
			errs = append(errs, fmt.Errorf("host %q is neither an address nor a DNS name: write it without port and scheme", h))
		}
	}
	return dns, ips, errors.Join(errs...)
}

func (a Authority) path(file string) string { return filepath.Join(a.Dir, file) }

// open reads the authority's own certificate and key.
func (a Authority) open() (*x509.Certificate, *ecdsa.PrivateKey, error) {
	if _, err := os.Stat(a.path("ca.crt")); errors.Is(err, fs.ErrNotExist) {
		return nil, nil, fmt.Errorf("there is no certificate authority in %s (no ca.crt): make one with tmctl pki init --dir %s", a.Dir, a.Dir)
	}
	f := Files{CA: a.path("ca.crt"), Cert: a.path("ca.crt"), Key: a.path("ca.key")}
	id, err := f.read()
	if err != nil {
		return nil, nil, err
	}
	key, ok := id.cert.PrivateKey.(*ecdsa.PrivateKey)
	if !ok {
		return nil, nil, fmt.Errorf("key %s is not an ECDSA key: use the authority that tmctl pki init made", f.Key)
	}
	return id.cert.Leaf, key, nil
}

// write stores a certificate and its key as NAME.crt and NAME.key, readable by the owner only, each whole or not at all.
func (a Authority) write(name string, der []byte, key *ecdsa.PrivateKey) error {
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	files := []struct {
		path, kind string
		der        []byte
	}{
		{a.path(name + ".key"), "PRIVATE KEY", keyDER},
		{a.path(name + ".crt"), "CERTIFICATE", der},
	}
	if !a.Force {
		for _, f := range files {
			if _, err := os.Lstat(f.path); err == nil {
				return fmt.Errorf("%s exists: nothing was changed; use --force to replace it", f.path)
			}
		}
	}
	for _, f := range files {
		text := pem.EncodeToMemory(&pem.Block{Type: f.kind, Bytes: f.der})
		if err := writeFile(f.path, text, a.Force); err != nil {
			return err
		}
	}
	return nil
}

// writeFile writes beside path and moves into place, so that a reader sees the old file or the new one.
func writeFile(path string, text []byte, replace bool) error {
	tmp, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*") // made with mode 0600
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	defer os.Remove(tmp.Name())
	_, err = tmp.Write(text)
	if err := errors.Join(err, tmp.Sync(), tmp.Close()); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	if replace {
		err = os.Rename(tmp.Name(), path)
	} else {
		err = os.Link(tmp.Name(), path) // fails where a file has come into being meanwhile
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}

func serialNumber() (*big.Int, error) {
	return rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
}
