package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"text/template"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	pb "github.com/amooglesoft/trafficmonitor/api/trafficmonitor/v1"
	"github.com/amooglesoft/trafficmonitor/internal/lab"
)

// patience is how long anything may take that is not what a test measures.
const patience = 30 * time.Second

// settings is what tests change of the controller's configuration.
type settings struct {
	Name          string
	Dir           string
	OnStop        string
	StoreWait     string
	NoSpawn       bool
	Peers         []string
	Policy        string
	SensorAddress string
	Console       string
	TLS           string // directory of the certificates; empty means none
	Safety        string // lines of the section
	Sensors       string // keys of the section, in braces
	Breaker       string // keys of the section, in braces
}

var controllerConfig = template.Must(template.New("controller.yaml").Parse(`name: {{.Name}}
data_dir: data
listen:
  sensors: {{.SensorAddress}}
  console: {{.Console}}
  console_socket: unix://{{.Dir}}/console.sock
  telemetry: 127.0.0.1:7444
{{- if .TLS}}
tls:
  ca: {{.TLS}}/ca.crt
  cert: {{.TLS}}/controller-1.crt
  key: {{.TLS}}/controller-1.key
{{- end}}
network:
  own_prefixes: [203.0.113.0/24, "2001:db8:113::/48"]
  never: [203.0.113.240/28]
policy: {{.Policy}}
{{- if .Sensors}}
sensors: {{.Sensors}}
{{- end}}
{{- if .Breaker}}
breaker: {{.Breaker}}
{{- end}}
{{- if .Safety}}
safety:
  {{.Safety}}
{{- end}}
speaker:
  socket: {{.Dir}}/speaker.sock
  spawn: {{not .NoSpawn}}
  asn: 65000
  router_id: 10.66.0.1
  on_stop: {{or .OnStop "graceful-restart"}}
{{- if .StoreWait}}
  store_wait: {{.StoreWait}}
{{- end}}
  peers:
{{- range .Peers}}
    - name: {{.}}
      address: {{if eq . "bird"}}10.66.1.2{{else}}10.66.2.2{{end}}
      asn: {{if eq . "bird"}}65012{{else}}65011{{end}}
      connect_retry: 1s
{{- end}}
log:
  level: debug
`))

// system is a site with our processes in it.
type system struct {
	t *testing.T
	*lab.Site
	dir        string
	set        settings
	controller *lab.Process
	speaker    *lab.Process // with NoSpawn
	bird, frr  *router
	routers    []*router
}

// within returns a context of the test that ends after d.
func within(t testing.TB, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

// eventually fails the test when check does not become nil in time.
func eventually(t testing.TB, what string, check func(context.Context) error) {
	t.Helper()
	if err := lab.Until(within(t, patience), what, check); err != nil {
		t.Fatal(err)
	}
}

// newSystem builds a site and starts the controller in it, which starts the speaker, and waits until all is well: it
// leads, and every router has its session in every family.
func newSystem(t *testing.T, name string, o lab.SiteOptions, set settings) *system {
	t.Helper()
	s := newSite(t, name, o, set)
	s.start()
	s.ready()
	return s
}

// newSite is newSystem without our processes.
func newSite(t *testing.T, name string, o lab.SiteOptions, set settings) *system {
	t.Helper()
	need(t)
	program(t, "controller")
	l := lab.New(t, name)
	t.Cleanup(func() {
		if t.Failed() {
			kept.Store(l.Dir(), true)
		}
	})
	site, err := lab.NewSite(within(t, patience), l, o)
	if err != nil {
		t.Fatal(err)
	}
	s := &system{t: t, Site: site, dir: l.Dir(), set: set}
	s.set.Dir = s.dir
	if s.set.Name == "" {
		s.set.Name = "controller-1"
	}
	if s.set.SensorAddress == "" {
		s.set.SensorAddress = "unix://" + s.dir + "/sensors.sock"
	}
	if s.set.Console == "" {
		s.set.Console = "127.0.0.1:7443"
	}
	if s.set.Policy == "" {
		s.set.Policy = `""`
	}
	if site.BIRD != nil {
		s.bird = s.newRouter("bird", site.BIRD, site.BIRDToControl)
	}
	if site.FRR != nil {
		s.frr = s.newRouter("frr", site.FRR, site.FRRToControl)
	}
	for _, r := range s.routers {
		s.set.Peers = append(s.set.Peers, r.name)
	}
	s.configure()
	return s
}

// configure writes the controller's configuration.
func (s *system) configure() {
	s.t.Helper()
	var text bytes.Buffer
	if err := controllerConfig.Execute(&text, s.set); err != nil {
		s.t.Fatal(err)
	}
	s.write("controller.yaml", text.String())
}

// write writes a file of the run directory and returns its path.
func (s *system) write(name, text string) string {
	s.t.Helper()
	path := filepath.Join(s.dir, name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		s.t.Fatal(err)
	}
	return path
}

func (s *system) launch(name string, argv ...string) *lab.Process {
	s.t.Helper()
	p, err := s.Control.Start(lab.Command{Name: name, Argv: append(argv, "--config", filepath.Join(s.dir, "controller.yaml"))})
	if err != nil {
		s.t.Fatal(err)
	}
	return p
}

// start starts a controller; its speaker, where it starts one, writes into the same log.
func (s *system) start() {
	s.t.Helper()
	s.controller = s.launch("controller", program(s.t, "controller"))
}

// startSpeaker starts a speaker that no controller looks after.
func (s *system) startSpeaker() {
	s.t.Helper()
	s.speaker = s.launch("speaker", program(s.t, "controller"), "speaker")
}

// ready waits until the controller says that all is well.
func (s *system) ready() {
	s.t.Helper()
	eventually(s.t, "the controller to be ready", func(context.Context) error {
		if !s.controller.Running() {
			return lab.GiveUp(fmt.Errorf("the controller ended: %v", s.controller.Err()))
		}
		r := s.tmctl("status")
		if r.code != 0 {
			return r.err()
		}
		return nil
	})
	for _, r := range s.routers {
		r.established()
	}
}

// status is what tmctl says of the system; it may be called while the system is not well.
func (s *system) status() *pb.GetStatusResponse {
	s.t.Helper()
	r := s.tmctl("status", "-o", "json")
	out := &pb.GetStatusResponse{}
	if err := protojson.Unmarshal([]byte(r.stdout), out); err != nil {
		s.t.Fatalf("tmctl status: %v\n%v", err, r.err())
	}
	return out
}

// leads waits until the controller leads.
func (s *system) leads() {
	s.t.Helper()
	eventually(s.t, "the controller to lead", func(context.Context) error {
		r := s.tmctl("status", "-o", "json")
		st := &pb.GetStatusResponse{}
		if err := protojson.Unmarshal([]byte(r.stdout), st); err != nil {
			return errors.Join(err, r.err())
		}
		if !st.IsLeader || len(st.NotReady) > 0 {
			return fmt.Errorf("leader %q, not ready: %v", st.Leader, st.NotReady)
		}
		return nil
	})
}

// result is what a program printed and how it ended.
type result struct {
	args           []string
	code           int
	stdout, stderr string
}

func (r result) err() error {
	return fmt.Errorf("%q: exit code %d\n%s%s", strings.Join(r.args, " "), r.code, r.stdout, r.stderr)
}

// execute runs a program to its end outside of the namespaces.
func execute(t testing.TB, argv ...string) result {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	cmd.Env = append(os.Environ(), "TMCTL_REQUESTER=eva")
	// The program's own end is what counts: once a run waited for ever for the output of a tmctl that had ended.
	cmd.WaitDelay = 5 * time.Second
	err := cmd.Run()
	if errors.Is(err, exec.ErrWaitDelay) {
		t.Logf("%v: its output stayed open after its end", argv)
		err = nil
	}
	r := result{args: append([]string{filepath.Base(argv[0])}, argv[1:]...), stdout: stdout.String(), stderr: stderr.String()}
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		r.code = exit.ExitCode()
	} else if err != nil {
		t.Fatal(err)
	}
	return r
}

// tmctl runs tmctl against the console's socket.
func (s *system) tmctl(args ...string) result {
	s.t.Helper()
	return execute(s.t, append([]string{program(s.t, "tmctl"), "--address", "unix://" + s.dir + "/console.sock"}, args...)...)
}

// must runs tmctl and fails the test when it does not succeed.
func (s *system) must(args ...string) string {
	s.t.Helper()
	r := s.tmctl(args...)
	if r.code != 0 {
		s.t.Fatal(r.err())
	}
	return r.stdout
}

// ask runs tmctl and reads its JSON.
func ask[M proto.Message](s *system, m M, args ...string) M {
	s.t.Helper()
	out := s.must(append(args, "-o", "json")...)
	if err := protojson.Unmarshal([]byte(out), m); err != nil {
		s.t.Fatalf("tmctl %v: %v\n%s", args, err, out)
	}
	return m
}

// announce announces a route by hand.
func (s *system) announce(text string, ttl time.Duration) *pb.Mitigation {
	s.t.Helper()
	return ask(s, &pb.CreateMitigationResponse{}, "announce", text, "--ttl", ttl.String(), "--reason", "e2e").Mitigation
}

// mitigations returns the active mitigations.
func (s *system) mitigations() []*pb.Mitigation {
	s.t.Helper()
	return ask(s, &pb.ListMitigationsResponse{}, "mitigations").Mitigations
}

// sent waits until tmctl says that exactly these routes are desired and were sent to every router.
func (s *system) sent(want ...string) {
	s.t.Helper()
	eventually(s.t, fmt.Sprintf("%d routes to be sent to every router", len(want)), func(context.Context) error {
		r := s.tmctl("routes", "-o", "json")
		routes := &pb.ListRoutesResponse{}
		if err := protojson.Unmarshal([]byte(r.stdout), routes); err != nil || r.code != 0 {
			return errors.Join(err, r.err())
		}
		if n := len(routes.UnexpectedRoutes); n > 0 {
			return fmt.Errorf("%d routes are not expected: %s", n, r.stdout)
		}
		var have []string
		for _, x := range routes.Routes {
			have = append(have, x.Spec.Route)
			if len(x.Peers) != len(s.set.Peers) {
				return fmt.Errorf("%s is known at %d routers", x.Spec.Route, len(x.Peers))
			}
			for _, p := range x.Peers {
				if p.State != pb.PeerRoute_STATE_SENT {
					return fmt.Errorf("%s at %s: %s %s", x.Spec.Route, p.Peer, p.State, p.Reason)
				}
			}
		}
		return same(have, want)
	})
}

// speakerStatus asks the speaker itself.
func (s *system) speakerStatus() (*pb.SpeakerStatus, error) {
	conn, err := grpc.NewClient("unix:"+s.dir+"/speaker.sock", grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(s.t.Context(), 5*time.Second)
	defer cancel()
	r, err := pb.NewSpeakerServiceClient(conn).GetSpeakerStatus(ctx, &pb.GetSpeakerStatusRequest{})
	return r.GetStatus(), err
}

// speakerPID waits for a speaker that answers and returns its process id.
func (s *system) speakerPID() (pid int) {
	s.t.Helper()
	eventually(s.t, "the speaker to answer", func(context.Context) error {
		st, err := s.speakerStatus()
		pid = int(st.GetPid())
		return err
	})
	return pid
}

// end sends a signal to a process of ours and waits until it is gone.
func (s *system) end(pid int, sig syscall.Signal) {
	s.t.Helper()
	if pid <= 1 {
		s.t.Fatalf("no process: pid %d", pid)
	}
	if err := syscall.Kill(pid, sig); err != nil {
		s.t.Fatalf("%v to %d: %v", sig, pid, err)
	}
	err := lab.Until(within(s.t, patience), fmt.Sprintf("process %d to end", pid), func(context.Context) error {
		// A speaker whose controller ended is a child of ours, for the lab adopts orphans; others are waited for there.
		if s.controller == nil || pid != s.controller.Pid() && (s.speaker == nil || pid != s.speaker.Pid()) {
			_, _ = syscall.Wait4(pid, nil, syscall.WNOHANG, nil)
		}
		if err := syscall.Kill(pid, 0); !errors.Is(err, syscall.ESRCH) {
			return fmt.Errorf("it is there: %v", err)
		}
		return nil
	})
	if err != nil {
		_ = syscall.Kill(pid, syscall.SIGQUIT) // it writes its stacks to its log
		s.t.Fatal(err)
	}
}

// run runs a part of a test; a part that needs the one before it ends the test when it fails.
func (s *system) run(name string, part func(t *testing.T)) {
	s.t.Helper()
	whole := s.t
	ok := whole.Run(name, func(t *testing.T) {
		s.t = t
		part(t)
	})
	if s.t = whole; !ok {
		whole.FailNow()
	}
}

// read returns a file's text.
func (s *system) read(path string) string {
	s.t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		s.t.Fatal(err)
	}
	return string(b)
}

// leaveNothing ends our processes in good order and checks that they leave no process and no socket.
func (s *system) leaveNothing() {
	s.t.Helper()
	pids := map[string]int{}
	if st, err := s.speakerStatus(); err == nil {
		pids["speaker"] = int(st.Pid)
	}
	if s.controller != nil && s.controller.Running() {
		pids["controller"] = s.controller.Pid()
	}
	for _, name := range []string{"controller", "speaker"} { // a controller would start another speaker
		if pid, ok := pids[name]; ok {
			s.end(pid, syscall.SIGTERM)
		}
	}
	sockets, err := filepath.Glob(filepath.Join(s.dir, "*.sock"))
	if err != nil || len(sockets) > 0 {
		s.t.Errorf("sockets were left behind: %v %v", sockets, err)
	}
	if err := s.Lab.Close(); err != nil {
		s.t.Error(err)
	}
	for _, l := range leftovers() {
		if strings.Contains(l, s.Lab.ID()+"-") {
			s.t.Errorf("left behind: %s", l)
		}
	}
}
