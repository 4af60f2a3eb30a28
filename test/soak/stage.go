package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"

	pb "github.com/amooglesoft/trafficmonitor/api/trafficmonitor/v1"
	"github.com/amooglesoft/trafficmonitor/internal/lab"
	"github.com/amooglesoft/trafficmonitor/internal/pki"
	"github.com/amooglesoft/trafficmonitor/internal/rpc"
)

// stage is the network with everything running in it.
type stage struct {
	site     *lab.Site
	dir, bin string
	replicas [2]*replica
	lone     *lone
	rack     *lab.Process // the sensor that is started again now and then
	daemons  []daemon

	mu     sync.Mutex
	counts map[string]int // guarded by mu: what was done
	errors map[string]int // guarded by mu: lines of level error that nothing of ours provoked
	excuse time.Time      // guarded by mu: until when anybody may complain
	panics []string       // guarded by mu
}

// replica is a controller with its speaker and the one router of that.
type replica struct {
	name    string
	process *lab.Process
	router  *lab.BIRD
	console pb.ConsoleServiceClient
	sensors *grpc.ClientConn
}

// daemon is where a process that is watched tells of itself.
type daemon struct {
	name, url string
	pprof     bool
	http      *http.Client
}

const (
	ownRules  = "10.9.0.0/16" // attacked by the scripted sensors, and by hand
	ownRules6 = "2001:db8:9::/48"
)

const policyYAML = `version: 1
defaults: {windows: 1, unanswered_windows: 6, end_below: 70%%, end_after: 1s, ttl: 10s, extend: 0s, max_age: 1m}
thresholds:
  - {vectors: all-reflection, pps: %d pps}
  - {vectors: all-shared-reflection, pps: %[1]d pps}
responses:
  - {vectors: [all-reflection, all-shared-reflection], action: rate-limit 1 Mbps}
  - {vectors: all, action: observe}
`

// Everything that may grow by design is bounded as low as it goes, so that it is full when the judging begins.
const controllerYAML = `name: %[1]s
data_dir: %[2]s/data-%[1]s
pprof: true
listen:
  sensors: unix://%[2]s/%[1]s-sensors.sock
  console: ""
  console_socket: unix://%[2]s/%[1]s-console.sock
  telemetry: 127.0.0.1:%[3]d
network:
  own_prefixes: [%[4]s]
policy: %[2]s/policy.yaml
safety: {max_rules: 20000, max_new_per_minute: 100000, max_rules_per_response: 20000, max_rules_per_group: 20000}
store: {endpoints: ["` + etcdURL + `"], keep: 1m, lease_ttl: 4s}
sensors: {report_interval: 500ms}
journal: {size: 16MiB}
baseline: {keys: 500}
breaker: {disputed_targets: 0, one_sensor_targets: 0}
audit: {lines: 1000}
speaker:
  socket: %[2]s/%[1]s-speaker.sock
  telemetry: 127.0.0.1:%[5]d
  asn: %[6]d
  router_id: %[7]s
  peers: [{name: edge, address: %[8]s, asn: %[9]d, connect_retry: 1s}]
`

const sensorYAML = `name: %[1]s
pprof: true
controllers: [{address: "unix://%[2]s/one-sensors.sock"}, {address: "unix://%[2]s/two-sensors.sock"}]
interfaces: [{name: %[3]s}]
state_file: %[2]s/%[1]s.state
pin: ""
listen: {telemetry: "127.0.0.1:7445"}
`

// build starts everything and returns when all of it is ready.
func build(ctx context.Context, l *lab.Lab, bin string) (*stage, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	site, err := lab.NewSite(ctx, l, lab.SiteOptions{NoFRR: true, NoEnforce: true})
	if err != nil {
		return nil, err
	}
	s := &stage{site: site, dir: l.Dir(), bin: bin, counts: map[string]int{}, errors: map[string]int{}}
	second, err := site.EdgeTwo.StartBIRD(ctx, lab.RouterConfig{
		Name: "bird-two", RouterID: lab.SiteFRR, ASN: lab.SiteFRRASN, Local: lab.SiteFRR,
		Neighbors: []lab.Neighbor{{Name: "control", Address: lab.SiteControlForFRR, ASN: lab.SiteASN, Passive: true}},
	})
	if err != nil {
		return nil, err
	}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	if _, err := site.Control.Start(lab.Command{Name: "etcd", Argv: []string{self, "etcd", filepath.Join(s.dir, "etcd")}, OnLine: s.listen("etcd")}); err != nil {
		return nil, err
	}
	s.watch("etcd", site.Control, etcdURL, false)
	if err := s.writePolicy(1000); err != nil {
		return nil, err
	}
	for i, r := range []*replica{{name: "one", router: site.BIRD}, {name: "two", router: second}} {
		s.replicas[i] = r
		if err := s.startReplica(r, i); err != nil {
			return nil, err
		}
	}
	for _, r := range s.replicas {
		if err := s.connect(ctx, r); err != nil {
			return nil, err
		}
	}
	if s.lone, err = s.startLone(ctx); err != nil {
		return nil, err
	}
	if s.rack, err = s.startSensor("rack", site.Uplink); err != nil {
		return nil, err
	}
	if _, err := s.startSensor("victim", site.VictimIn); err != nil {
		return nil, err
	}
	s.watch("sensor victim", site.Victim, "http://127.0.0.1:7445", true)
	return s, nil
}

func (s *stage) startReplica(r *replica, i int) (err error) {
	config := filepath.Join(s.dir, r.name+".yaml")
	router, asn := lab.SiteBIRD, lab.SiteBIRDASN
	if i == 1 {
		router, asn = lab.SiteFRR, lab.SiteFRRASN
	}
	telemetry, speaker := 7444+100*i, 7446+100*i
	own := fmt.Sprintf("%s, %q, %s, %q", lab.SiteOwn4, lab.SiteOwn6, ownRules, ownRules6)
	text := fmt.Sprintf(controllerYAML, r.name, s.dir, telemetry, own, speaker, lab.SiteASN, fmt.Sprintf("10.66.0.%d", i+1), router, asn)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		return err
	}
	name := "controller " + r.name
	r.process, err = s.site.Control.Start(lab.Command{Name: "controller-" + r.name, Argv: []string{filepath.Join(s.bin, "controller"), "--config", config}, OnLine: s.listen(name)})
	s.watch(name, s.site.Control, fmt.Sprintf("http://127.0.0.1:%d", telemetry), true)
	s.watch("speaker "+r.name, s.site.Control, fmt.Sprintf("http://127.0.0.1:%d", speaker), true)
	return err
}

func (s *stage) startSensor(name string, i lab.Interface) (*lab.Process, error) {
	config := filepath.Join(s.dir, name+".yaml")
	if err := os.WriteFile(config, []byte(fmt.Sprintf(sensorYAML, name, s.dir, i.Name)), 0o600); err != nil {
		return nil, err
	}
	return i.In.Start(lab.Command{Argv: []string{filepath.Join(s.bin, "sensor"), "--config", config}, OnLine: s.listen("sensor " + name)})
}

// writePolicy writes the policy with its limit, in packets a second.
func (s *stage) writePolicy(pps int) error {
	return os.WriteFile(filepath.Join(s.dir, "policy.yaml"), fmt.Appendf(nil, policyYAML, pps), 0o600)
}

// connect waits until the replica is ready and its router has its session.
func (s *stage) connect(ctx context.Context, r *replica) error {
	conn, err := rpc.Dial("unix://"+filepath.Join(s.dir, r.name+"-console.sock"), pki.Files{})
	if err != nil {
		return err
	}
	s.site.Lab.OnClose(func() { conn.Close() })
	r.console = pb.NewConsoleServiceClient(conn)
	if r.sensors, err = rpc.Dial("unix://"+filepath.Join(s.dir, r.name+"-sensors.sock"), pki.Files{}); err != nil {
		return err
	}
	s.site.Lab.OnClose(func() { r.sensors.Close() })
	err = lab.Until(ctx, "controller "+r.name+" to be ready", func(ctx context.Context) error {
		if !r.process.Running() {
			return lab.GiveUp(fmt.Errorf("it ended: %v", r.process.Err()))
		}
		st, err := r.console.GetStatus(ctx, &pb.GetStatusRequest{})
		switch {
		case err != nil:
			return err
		case len(st.NotReady) > 0:
			return fmt.Errorf("not ready: %v", st.NotReady)
		case st.Leader == "":
			return errors.New("nobody leads")
		}
		return nil
	})
	if err != nil {
		return err
	}
	return r.router.WaitEstablished(ctx)
}

// leader is the replica that leads.
func (s *stage) leader(ctx context.Context) *replica {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	for _, r := range s.replicas {
		if st, err := r.console.GetStatus(ctx, &pb.GetStatusRequest{}); err == nil && st.IsLeader {
			return r
		}
	}
	return nil
}

// watch adds a daemon whose telemetry is at url inside of a namespace.
func (s *stage) watch(name string, in *lab.Namespace, url string, pprof bool) {
	dial := func(_ context.Context, network, address string) (c net.Conn, err error) {
		err = in.Do(func() error {
			c, err = net.DialTimeout(network, address, 2*time.Second)
			return err
		})
		return c, err
	}
	s.daemons = append(s.daemons, daemon{name, url, pprof, &http.Client{Timeout: 8 * time.Second, Transport: &http.Transport{DisableKeepAlives: true, DialContext: dial}}})
}

var message = regexp.MustCompile(`msg=("[^"]*"|\S+)`)

// listen reads a process's log: errors that nothing of ours provoked are counted by their message, panics always.
func (s *stage) listen(name string) func(string) {
	return func(line string) {
		panicked := strings.HasPrefix(line, "panic:") || strings.HasPrefix(line, "fatal error:") || strings.Contains(line, "panicked")
		if !panicked && !strings.Contains(line, "level=ERROR") {
			return
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		switch {
		case panicked:
			s.panics = append(s.panics, name+": "+line)
		case time.Now().After(s.excuse):
			s.errors[name+": "+message.FindString(line)]++
		default:
			s.counts["errors provoked"]++
		}
	}
}

func (s *stage) count(what string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.counts[what]++
}
