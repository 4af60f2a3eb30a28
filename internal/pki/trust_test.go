package pki

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"strings"
	"testing"
	"time"
)

// A company's own authority may sign for servers what we would not: what counts is the role.
func TestOnlyAControllerIsTrustedAsServer(t *testing.T) {
	dir := authority(t)
	ca, caKey, err := Authority{Dir: dir}.open()
	if err != nil {
		t.Fatal(err)
	}
	client, err := files(dir, RoleSensor).Client("controller.example")
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		units []string
		host  string
		want  string
	}{
		{[]string{RoleController}, "controller.example", ""},
		{[]string{"Network", RoleController}, "controller.example", ""},
		{[]string{RoleSensor}, "controller.example", `role "sensor"`},
		{[]string{RoleSensor, RoleController}, "controller.example", `role ""`},
		{[]string{RoleApprover}, "controller.example", `role "approver"`},
		{nil, "controller.example", `role ""`},
		{[]string{RoleController}, "other.example", "does not prove that it is controller.example"},
	} {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
			SerialNumber: big.NewInt(7), Subject: pkix.Name{CommonName: "x", OrganizationalUnit: tc.units},
			NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageDigitalSignature,
			ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}, DNSNames: []string{tc.host},
		}, ca, key.Public(), caKey)
		if err != nil {
			t.Fatal(err)
		}
		server := &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}
		_, _, got := handshake(t, server, client)
		if tc.want == "" && got != nil || tc.want != "" && (got == nil || !strings.Contains(got.Error(), tc.want)) {
			t.Errorf("server of %v at %s: %v, want %q", tc.units, tc.host, got, tc.want)
		}
	}
}
