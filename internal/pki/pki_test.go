package pki

import (
	"crypto/tls"
	"crypto/x509"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

// authority makes a CA and one certificate per role, named after the role, and a server named "controller".
func authority(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	if err := CreateCA(dir); err != nil {
		t.Fatal(err)
	}
	for _, role := range Roles() {
		issue(t, dir, role, role)
	}
	return dir
}

func issue(t testing.TB, dir, role, name string) Files {
	t.Helper()
	var hosts []string
	if role == RoleController {
		hosts = []string{"controller.example", "127.0.0.1"}
	}
	f, err := Issue(dir, role, name, hosts)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func files(dir, name string) Files {
	return Files{CA: filepath.Join(dir, "ca.crt"), Cert: filepath.Join(dir, name+".crt"), Key: filepath.Join(dir, name+".key")}
}

// handshake connects two sides and returns the verdict of each and what the server saw.
func handshake(t testing.TB, server, client *tls.Config) (state tls.ConnectionState, serverErr, clientErr error) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	done := make(chan error, 1)
	go func() {
		c, err := l.Accept()
		if err != nil {
			done <- err
			return
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(10 * time.Second))
		s := tls.Server(c, server)
		err = s.Handshake()
		state = s.ConnectionState()
		done <- err
	}()
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(10 * time.Second))
	tc := tls.Client(c, client)
	if clientErr = tc.Handshake(); clientErr == nil {
		_, clientErr = tc.Read(make([]byte, 1)) // a refusal of the client's certificate arrives after its handshake
		if clientErr != nil && strings.Contains(clientErr.Error(), "EOF") {
			clientErr = nil
		}
	}
	c.Close()
	serverErr = <-done
	return state, serverErr, clientErr
}

func TestHandshakeMatrix(t *testing.T) {
	dir, other := authority(t), authority(t)
	expired := func(role string) tls.Certificate {
		a := Authority{Dir: dir, Lifetime: time.Hour, Now: func() time.Time { return time.Now().Add(-2 * time.Hour) }}
		hosts := []string{"controller.example"}
		if role != RoleController {
			hosts = nil
		}
		f, err := a.Issue(role, "expired-"+role, hosts)
		if err != nil {
			t.Fatal(err)
		}
		return pair(t, f)
	}
	bare := func(edit func(*tls.Config)) *tls.Config {
		c, err := files(dir, RoleSensor).Client("controller.example")
		if err != nil {
			t.Fatal(err)
		}
		edit(c)
		return c
	}
	show := func(p tls.Certificate) *tls.Config {
		return bare(func(c *tls.Config) {
			c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &p, nil }
		})
	}
	server := func(f Files) *tls.Config {
		c, err := f.Server()
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	client := func(f Files, name string) *tls.Config {
		c, err := f.Client(name)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	good := server(files(dir, RoleController))
	expiredServer := server(files(dir, RoleController)).Clone()
	expiredServer.GetConfigForClient = nil
	expiredServer.Certificates = []tls.Certificate{expired(RoleController)}
	mixed := files(dir, RoleSensor) // own certificate of one authority, trust in the other
	mixed.CA = filepath.Join(other, "ca.crt")

	for _, tc := range []struct {
		name           string
		server, client *tls.Config
		serverErr      string
		clientErr      string
	}{
		{"sensor to controller", good, client(files(dir, RoleSensor), "controller.example"), "", ""},
		{"by address", good, client(files(dir, RoleViewer), "127.0.0.1"), "", ""},
		{"name left to the dialler", good, func() *tls.Config { c := client(files(dir, RoleViewer), ""); c.ServerName = "127.0.0.1"; return c }(), "", ""},
		{"no certificate", good, bare(func(c *tls.Config) { c.GetClientCertificate = nil }), "didn't provide a certificate", "certificate required"},
		{"client of another CA", good, show(pair(t, files(other, RoleSensor))), "unknown authority", ""},
		{"client expired", good, show(expired(RoleSensor)), "expired", ""},
		{"controller as client", good, client(files(dir, RoleController), "controller.example"), "", ""},
		{"server of another CA", server(files(other, RoleController)), client(files(dir, RoleSensor), "controller.example"), "", "unknown authority"},
		{"client trusts another CA", good, client(mixed, "controller.example"), "", "unknown authority"},
		{"server expired", expiredServer, client(files(dir, RoleSensor), "controller.example"), "", "expired"},
		{"server of another name", good, client(files(dir, RoleSensor), "elsewhere.example"), "", "elsewhere.example"},
		{"server of another address", good, client(files(dir, RoleSensor), "192.0.2.1"), "", "192.0.2.1"},
		{"sensor plays server", server(files(dir, RoleSensor)), client(files(dir, RoleViewer), "controller.example"), "", "controller.example"},
		{"TLS 1.2", good, bare(func(c *tls.Config) { c.MinVersion = tls.VersionTLS12; c.MaxVersion = tls.VersionTLS12 }), "unsupported versions", "protocol version"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			state, serverErr, clientErr := handshake(t, tc.server, tc.client)
			wantError(t, "server", serverErr, tc.serverErr, tc.clientErr)
			wantError(t, "client", clientErr, tc.clientErr, tc.serverErr)
			if serverErr == nil && clientErr == nil && len(state.VerifiedChains) == 0 {
				t.Error("the server let a client in without a verified chain")
			}
		})
	}
}

// wantError checks for a part of the error; where only the other side has to object, any error or none will do.
func wantError(t *testing.T, side string, err error, want, other string) {
	t.Helper()
	switch {
	case want == "" && other == "" && err != nil:
		t.Errorf("%s: %v", side, err)
	case want != "" && (err == nil || !strings.Contains(err.Error(), want)):
		t.Errorf("%s: error %v, want one with %q", side, err, want)
	}
}

func pair(t testing.TB, f Files) tls.Certificate {
	t.Helper()
	p, err := tls.LoadX509KeyPair(f.Cert, f.Key)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestRenewalIsUsedWithoutRestart(t *testing.T) {
	dir := authority(t)
	server, err := files(dir, RoleController).Server()
	if err != nil {
		t.Fatal(err)
	}
	client, err := files(dir, RoleSensor).Client("controller.example")
	if err != nil {
		t.Fatal(err)
	}
	serial := func() string {
		t.Helper()
		state, serverErr, clientErr := handshake(t, server, client)
		if serverErr != nil || clientErr != nil {
			t.Fatalf("server %v, client %v", serverErr, clientErr)
		}
		return state.PeerCertificates[0].SerialNumber.String()
	}
	first := serial()
	force := Authority{Dir: dir, Force: true}
	if _, err := force.Issue(RoleSensor, RoleSensor, nil); err != nil {
		t.Fatal(err)
	}
	second := serial()
	if second == first {
		t.Error("the client still shows the certificate from before its renewal")
	}

	// A bad renewal leaves the good one in use.
	if err := os.WriteFile(files(dir, RoleSensor).Cert, []byte("half a certif"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := serial(); got != second {
		t.Errorf("after a bad renewal serial %s, want %s", got, second)
	}

	// Another authority on both sides: the old one is trusted no more.
	old := pair(t, files(dir, RoleViewer))
	if _, err := force.Create(); err != nil {
		t.Fatal(err)
	}
	if _, err := force.Issue(RoleController, RoleController, []string{"controller.example"}); err != nil {
		t.Fatal(err)
	}
	if _, err := force.Issue(RoleSensor, RoleSensor, nil); err != nil {
		t.Fatal(err)
	}
	if got := serial(); got == second {
		t.Error("the client still shows the certificate of the authority that was replaced")
	}
	stale := client.Clone()
	stale.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &old, nil }
	if _, serverErr, _ := handshake(t, server, stale); serverErr == nil {
		t.Error("the server accepts a certificate of the authority that was replaced")
	}
}

func TestErrorsSayWhichFileAndWhatToDo(t *testing.T) {
	dir := authority(t)
	put := func(name, text string) string {
		p := filepath.Join(dir, name)
		if err := os.WriteFile(p, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return p
	}
	good := files(dir, RoleSensor)
	with := func(edit func(*Files)) Files { f := good; edit(&f); return f }
	old := Authority{Dir: dir, Lifetime: time.Hour, Now: func() time.Time { return time.Now().Add(-2 * time.Hour) }}
	expired, err := old.Issue(RoleViewer, "expired", nil)
	if err != nil {
		t.Fatal(err)
	}
	future := Authority{Dir: dir, Now: func() time.Time { return time.Now().Add(time.Hour) }}
	early, err := future.Issue(RoleViewer, "early", nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name  string
		files Files
		want  []string
	}{
		{"only a CA", Files{CA: good.CA}, []string{"no certificate file is named", "no key file is named", "all three"}},
		{"missing", with(func(f *Files) { f.Key = dir + "/none.key" }), []string{"key " + dir + "/none.key does not exist", "tmctl pki"}},
		{"not PEM", with(func(f *Files) { f.CA = put("text.crt", "hello") }), []string{"CA file " + dir + "/text.crt", "no certificate in PEM"}},
		{"key of another", with(func(f *Files) { f.Key = files(dir, RoleViewer).Key }), []string{"sensor.crt", "viewer.key", "same pair"}},
		{"a holder as CA", with(func(f *Files) { f.CA = good.Cert }), []string{"CA file", `"sensor" is not one of a certificate authority`}},
		{"expired", expired, []string{"expired.crt", "expired at", "issue a new one"}},
		{"not yet valid", early, []string{"early.crt", "valid only from", "clock"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, serr := tc.files.Server()
			_, cerr := tc.files.Client("x.example")
			for _, err := range []error{serr, cerr} {
				for _, want := range tc.want {
					if err == nil || !strings.Contains(err.Error(), want) {
						t.Errorf("error %v, want one with %q", err, want)
					}
				}
			}
		})
	}
}

func TestIssueRefuses(t *testing.T) {
	dir := authority(t)
	for _, tc := range []struct {
		role, name string
		hosts      []string
		want       string
	}{
		{"root", "a", nil, "use sensor, controller, viewer, operator, approver"},
		{RoleSensor, "../x", nil, "characters"},
		{RoleSensor, "", nil, "characters"},
		{RoleSensor, strings.Repeat("a", 65), nil, "1 to 64"},
		{RoleViewer, "ca", nil, "taken"},
		{RoleOperator, "automation", nil, "taken"},
		{RoleController, "c", nil, "at least one host"},
		{RoleController, "c", []string{"https://c:1"}, "without port and scheme"},
		{RoleSensor, "s", []string{"s.example"}, "takes no hosts"},
		{RoleSensor, RoleSensor, nil, "--force"},
	} {
		if _, err := Issue(dir, tc.role, tc.name, tc.hosts); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("Issue(%s, %q, %v): %v; want an error with %q", tc.role, tc.name, tc.hosts, err, tc.want)
		}
	}
	before, err := os.ReadFile(filepath.Join(dir, "ca.key"))
	if err != nil {
		t.Fatal(err)
	}
	if err := CreateCA(dir); err == nil || !strings.Contains(err.Error(), "--force") {
		t.Errorf("a second CreateCA: %v; want an error that names --force", err)
	}
	if after, _ := os.ReadFile(filepath.Join(dir, "ca.key")); string(after) != string(before) {
		t.Error("a refused CreateCA changed the key")
	}
	if _, err := Issue(t.TempDir(), RoleSensor, "s", nil); err == nil || !strings.Contains(err.Error(), "tmctl pki init") {
		t.Errorf("Issue without an authority: %v", err)
	}
}

func TestWhatIsMade(t *testing.T) {
	dir := authority(t)
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	if len(entries) != 2*(1+len(Roles())) {
		t.Errorf("%d files, want a certificate and key for the CA and each role", len(entries))
	}
	for _, e := range entries {
		info, err := e.Info()
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %v, want 0600", e.Name(), info.Mode())
		}
	}
	for _, role := range Roles() {
		leaf := pair(t, files(dir, role)).Leaf
		if name, got := Identity(leaf); name != role || got != role {
			t.Errorf("certificate of %s says name %q, role %q", role, name, got)
		}
		serves := false
		for _, u := range leaf.ExtKeyUsage {
			serves = serves || u == x509.ExtKeyUsageServerAuth
		}
		if serves != (role == RoleController) {
			t.Errorf("role %s may serve: %v", role, serves)
		}
	}
	long := Authority{Dir: dir, Lifetime: 10 * DefaultCALifetime}
	f, err := long.Issue(RoleViewer, "long", nil)
	if err != nil {
		t.Fatal(err)
	}
	cert, ca, err := f.Expiry()
	if err != nil || cert.After(ca) {
		t.Errorf("certificate until %v outlives its CA until %v (%v)", cert, ca, err)
	}
}

func TestIdentityNeedsOneRole(t *testing.T) {
	for _, tc := range []struct {
		units []string
		role  string
	}{
		{nil, ""},
		{[]string{"Network"}, ""},
		{[]string{"Network", "operator"}, "operator"},
		{[]string{"viewer", "approver"}, ""},
		{[]string{"Operator"}, ""},
	} {
		c := &x509.Certificate{}
		c.Subject.CommonName, c.Subject.OrganizationalUnit = "n", tc.units
		if name, role := Identity(c); name != "n" || role != tc.role {
			t.Errorf("units %v: name %q role %q, want role %q", tc.units, name, role, tc.role)
		}
	}
}

func TestMetrics(t *testing.T) {
	dir := authority(t)
	f := files(dir, RoleController)
	reg := prometheus.NewPedanticRegistry()
	if err := f.Register(reg); err != nil {
		t.Fatal(err)
	}
	if err := (Files{}).Register(reg); err != nil {
		t.Errorf("no TLS: %v", err)
	}
	if problems, err := testutil.GatherAndLint(reg); err != nil || len(problems) > 0 {
		t.Errorf("lint: %v %v", problems, err)
	}
	want := "# HELP trafficmonitor_certificate_usable 1 when the certificate files on disk can be used now; 0 when not, and the ones read before stay in use.\n# TYPE trafficmonitor_certificate_usable gauge\ntrafficmonitor_certificate_usable "
	if err := testutil.GatherAndCompare(reg, strings.NewReader(want+"1\n"), "trafficmonitor_certificate_usable"); err != nil {
		t.Error(err)
	}
	if err := os.Remove(f.Key); err != nil {
		t.Fatal(err)
	}
	if err := testutil.GatherAndCompare(reg, strings.NewReader(want+"0\n"), "trafficmonitor_certificate_usable"); err != nil {
		t.Error(err)
	}
}
