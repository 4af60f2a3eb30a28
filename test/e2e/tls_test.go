package e2e

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"

	pb "github.com/amooglesoft/trafficmonitor/api/trafficmonitor/v1"
	"github.com/amooglesoft/trafficmonitor/internal/lab"
	"github.com/amooglesoft/trafficmonitor/internal/pki"
)

// authority is a CA that tmctl made.
type authority struct {
	t   *testing.T
	dir string
}

func newAuthority(t *testing.T, dir string) authority {
	t.Helper()
	if r := execute(t, program(t, "tmctl"), "pki", "init", "--dir", dir); r.code != 0 {
		t.Fatal(r.err())
	}
	return authority{t, dir}
}

func (a authority) issue(role, name string, hosts ...string) pki.Files {
	a.t.Helper()
	args := []string{program(a.t, "tmctl"), "pki", "issue", "--dir", a.dir, "--role", role, "--name", name}
	for _, h := range hosts {
		args = append(args, "--host", h)
	}
	if r := execute(a.t, args...); r.code != 0 {
		a.t.Fatal(r.err())
	}
	return pki.Files{CA: filepath.Join(a.dir, "ca.crt"), Cert: filepath.Join(a.dir, name+".crt"), Key: filepath.Join(a.dir, name+".key")}
}

// in runs a program inside a namespace to its end. What it prints to either output is in stdout.
func (s *system) in(n *lab.Namespace, argv ...string) result {
	s.t.Helper()
	out, err := n.Run(within(s.t, patience), argv...)
	r := result{args: argv, stdout: out}
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		r.code = exit.ExitCode()
	} else if err != nil {
		s.t.Fatal(err)
	}
	return r
}

// dial makes a connection out of a namespace.
func dial(n *lab.Namespace, creds credentials.TransportCredentials, address string) (*grpc.ClientConn, error) {
	return grpc.NewClient("passthrough:///"+address, grpc.WithTransportCredentials(creds), grpc.WithContextDialer(func(ctx context.Context, address string) (c net.Conn, err error) {
		err = n.Do(func() (err error) {
			var d net.Dialer
			c, err = d.DialContext(ctx, "tcp", address)
			return err
		})
		return c, err
	}))
}

// With certificates the controller may be reached from other machines, by those who have one of the right role.
func TestMutualTLS(t *testing.T) {
	t.Parallel()
	const sensors, console = "10.66.3.1:7442", "10.66.3.1:7443"
	dir := t.TempDir()
	need(t)
	ours, theirs := newAuthority(t, filepath.Join(dir, "ours")), newAuthority(t, filepath.Join(dir, "theirs"))
	ours.issue("controller", "controller-1", "10.66.3.1")
	s := newSystem(t, "tls", lab.SiteOptions{NoFRR: true, NoEnforce: true}, settings{TLS: ours.dir, SensorAddress: sensors, Console: console})
	address := func(f pki.Files, args ...string) []string {
		out := append([]string{program(t, "tmctl"), "--address", console}, args...)
		if f.Enabled() {
			out = append(out, "--tls-ca", f.CA, "--tls-cert", f.Cert, "--tls-key", f.Key)
		}
		return out
	}

	s.run("sensor", func(t *testing.T) {
		rack := ours.issue("sensor", "rack-1")
		s.startSensor("rack-1", rack, sensors)
		s.reports("rack-1")

		for name, c := range map[string]struct {
			files pki.Files
			as    string
			code  codes.Code
			says  string
		}{
			"another's name":   {rack, "rack-2", codes.PermissionDenied, "rack-1"},
			"a viewer's":       {ours.issue("viewer", "vera-at-a-rack"), "vera-at-a-rack", codes.PermissionDenied, "viewer"},
			"a controller's":   {ours.issue("controller", "controller-2", "10.66.3.2"), "controller-2", codes.PermissionDenied, "controller"},
			"of another CA":    {pki.Files{CA: rack.CA, Cert: theirs.issue("sensor", "rack-3").Cert, Key: filepath.Join(theirs.dir, "rack-3.key")}, "rack-3", codes.Unavailable, ""},
			"none, and no TLS": {pki.Files{}, "rack-1", codes.Unavailable, ""},
		} {
			creds := insecure.NewCredentials()
			if c.files.Enabled() {
				config, err := c.files.Client("10.66.3.1")
				if err != nil {
					t.Fatal(err)
				}
				creds = credentials.NewTLS(config)
			}
			if err := s.tryAsSensor(creds, sensors, c.as); status.Code(err) != c.code || !strings.Contains(err.Error(), c.says) {
				t.Errorf("a sensor with the certificate %s: %v", name, err)
			}
		}
		config, err := rack.Client("10.66.3.1")
		if err != nil {
			t.Fatal(err)
		}
		// Trusting the controller is not enough to be trusted, and TLS 1.2 is not spoken.
		bare := &tls.Config{RootCAs: config.RootCAs, ServerName: "10.66.3.1", InsecureSkipVerify: true, NextProtos: []string{"h2"}} //nolint:gosec // an attacker's
		if err := s.tryAsSensor(credentials.NewTLS(bare), sensors, "rack-1"); status.Code(err) != codes.Unavailable {
			t.Errorf("a sensor without a certificate: %v", err)
		}
		old := bare.Clone()
		old.MaxVersion = tls.VersionTLS12
		if err := s.tryAsSensor(credentials.NewTLS(old), sensors, "rack-1"); status.Code(err) != codes.Unavailable {
			t.Errorf("a sensor with TLS 1.2: %v", err)
		}
		var names []string
		for _, x := range ask(s, &pb.ListSensorsResponse{}, "sensors").Sensors {
			names = append(names, x.Hello.Sensor)
		}
		if err := same(names, []string{"rack-1"}); err != nil {
			t.Errorf("sensors: %v", err)
		}
		s.reports("rack-1")
	})

	s.run("tmctl", func(t *testing.T) {
		announce := []string{"announce", rate4, "--ttl", "10m", "--reason", "e2e"}
		never := []string{"announce", "destination 203.0.113.241/32 protocol udp then discard", "--ttl", "10m", "--reason", "e2e"}
		viewer, operator, approver := ours.issue("viewer", "vera"), ours.issue("operator", "otto"), ours.issue("approver", "anna")
		rack := pki.Files{CA: viewer.CA, Cert: filepath.Join(ours.dir, "rack-1.crt"), Key: filepath.Join(ours.dir, "rack-1.key")}
		foreign := theirs.issue("operator", "eve")
		for _, c := range []struct {
			who  string
			args []string
			code int
			says string
		}{
			{"viewer reads", address(viewer, "status"), 0, "controller-1"},
			{"viewer reads policy", address(viewer, "policy"), 0, "version: 1"},
			{"viewer announces", address(viewer, announce...), 1, "viewer"},
			{"viewer withdraws", address(viewer, "withdraw", "--all", "--reason", "e2e"), 1, "viewer"},
			{"viewer freezes", address(viewer, "freeze", "--reason", "e2e"), 1, "viewer"},
			{"sensor reads", address(rack, "status"), 1, "sensor"},
			{"nobody reads", address(pki.Files{}, "status"), 2, "tmctl pki"},
			{"another CA's operator", address(foreign, "status"), 3, "--tls-ca"},
			{"another CA's operator, who trusts ours", address(pki.Files{CA: viewer.CA, Cert: foreign.Cert, Key: foreign.Key}, announce...), 3, "--tls-cert"},
			{"operator announces", address(operator, announce...), 0, "otto"},
			{"operator announces for the never list", address(operator, never...), 1, "protected_prefix"},
			{"operator cannot be another", address(operator, append(announce, "--requester", "anna")...), 0, "otto"},
			{"approver announces for the never list", address(approver, never...), 0, "anna"},
		} {
			if r := s.in(s.Rack, c.args...); r.code != c.code || !strings.Contains(r.stdout, c.says) {
				t.Errorf("%s: want exit code %d and %q: %v", c.who, c.code, c.says, r.err())
			}
		}
		s.hold(rate4, "destination 203.0.113.241/32 protocol udp then discard")
		for _, m := range s.mitigations() {
			if m.Requester != "otto" && m.Requester != "anna" {
				t.Errorf("%s was asked for by %q", m.Routes, m.Requester)
			}
		}
		if r := s.in(s.Rack, address(operator, "withdraw", "--all", "--reason", "e2e")...); r.code != 0 {
			t.Error(r.err())
		}
		s.hold()
	})
	s.leaveNothing()
}

// tryAsSensor connects as a sensor and returns how its stream ends; a stream that is taken returns nil.
func (s *system) tryAsSensor(creds credentials.TransportCredentials, address, name string) error {
	s.t.Helper()
	conn, err := dial(s.Rack, creds, address)
	if err != nil {
		s.t.Fatal(err)
	}
	defer conn.Close()
	stream, err := pb.NewSensorServiceClient(conn).Connect(within(s.t, patience))
	if err != nil {
		return err
	}
	_ = stream.Send(&pb.ConnectRequest{Message: &pb.ConnectRequest_Hello{Hello: &pb.Hello{Sensor: name}}})
	_, err = stream.Recv()
	return err
}

// startSensor starts a sensor at the rack's uplink.
func (s *system) startSensor(name string, files pki.Files, controller string) *lab.Process {
	s.t.Helper()
	var text bytes.Buffer
	fmt.Fprintf(&text, "name: %s\ncontrollers:\n  - address: %s\n", name, controller)
	if files.Enabled() {
		fmt.Fprintf(&text, "tls:\n  ca: %s\n  cert: %s\n  key: %s\n", files.CA, files.Cert, files.Key)
	}
	fmt.Fprintf(&text, "interfaces:\n  - name: %s\nstate_file: %s.state\npin: \"\"\n", s.Uplink.Name, name)
	path := s.write(name+".yaml", text.String())
	p, err := s.Rack.Start(lab.Command{Name: name, Argv: []string{program(s.t, "sensor"), "--config", path}})
	if err != nil {
		s.t.Fatal(err)
	}
	return p
}

// reports waits until the controller has heard of a sensor that is connected, follows a directive, and reports.
func (s *system) reports(name string) {
	s.t.Helper()
	since := time.Now()
	eventually(s.t, "sensor "+name+" to report", func(context.Context) error {
		r := s.tmctl("sensors", "-o", "json")
		list := &pb.ListSensorsResponse{}
		if err := protojson.Unmarshal([]byte(r.stdout), list); err != nil {
			return errors.Join(err, r.err())
		}
		for _, x := range list.Sensors {
			if x.Hello.Sensor != name {
				continue
			}
			if !x.Connected || x.Stale || x.Directive.GetRevision() == 0 || x.DirectiveError != "" || x.LastReportTime.AsTime().Before(since) {
				return fmt.Errorf("it is %v", x)
			}
			return nil
		}
		return fmt.Errorf("it is not known: %s", r.stdout)
	})
}
