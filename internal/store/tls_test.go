package store

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.etcd.io/etcd/client/pkg/v3/transport"
)

// authority signs certificates for one test.
type authority struct {
	t    testing.TB
	dir  string
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pool *x509.CertPool
}

func newAuthority(t testing.TB) *authority {
	t.Helper()
	a := &authority{t: t, dir: t.TempDir(), pool: x509.NewCertPool()}
	a.cert, a.key = a.sign("ca", true)
	a.pool.AddCert(a.cert)
	return a
}

func (a *authority) path(name string) string { return filepath.Join(a.dir, name) }

// sign makes a certificate for loopback in NAME.pem with its key in NAME.key.
func (a *authority) sign(name string, isCA bool) (*x509.Certificate, *ecdsa.PrivateKey) {
	a.t.Helper()
	must := func(err error) {
		if err != nil {
			a.t.Helper()
			a.t.Fatal(err)
		}
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(err)
	c := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: isCA, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	parent, signer := a.cert, a.key
	if isCA {
		c.KeyUsage |= x509.KeyUsageCertSign
		parent, signer = c, key
	}
	der, err := x509.CreateCertificate(rand.Reader, c, parent, &key.PublicKey, signer)
	must(err)
	raw, err := x509.MarshalECPrivateKey(key)
	must(err)
	must(os.WriteFile(a.path(name+".pem"), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600))
	must(os.WriteFile(a.path(name+".key"), pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: raw}), 0o600))
	cert, err := x509.ParseCertificate(der)
	must(err)
	return cert, key
}

func TestMutualTLS(t *testing.T) {
	a := newAuthority(t)
	a.sign("etcd", false)
	a.sign("controller", false)
	c := startCluster(t, func(c *cluster) {
		c.tls = transport.TLSInfo{CertFile: a.path("etcd.pem"), KeyFile: a.path("etcd.key"), TrustedCAFile: a.path("ca.pem"), ClientCertAuth: true}
	})
	pair, err := tls.LoadX509KeyPair(a.path("controller.pem"), a.path("controller.key"))
	if err != nil {
		t.Fatal(err)
	}
	with := func(certs ...tls.Certificate) *Store {
		return open(t, Options{
			Name: "one", Endpoints: []string{"https://" + c.door.addr}, Timeout: 500 * time.Millisecond,
			TLS: &tls.Config{RootCAs: a.pool, Certificates: certs, MinVersion: tls.VersionTLS13},
		})
	}
	s := with(pair)
	l := lead(t, s)
	watch(t, s).at(commit(t, l, Change{Put: samples(t, 1)}))

	// Without a certificate etcd lets nobody in.
	nobody := with()
	nobody.probeOnce()
	if err := nobody.Healthy(); err == nil || nobody.published.Load() != nil || !strings.Contains(err.Error(), "certificate required") {
		t.Errorf("without a certificate: %v", err)
	}
}
