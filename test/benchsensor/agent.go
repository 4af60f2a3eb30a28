package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/protobuf/types/known/durationpb"

	pb "github.com/amooglesoft/trafficmonitor/api/trafficmonitor/v1"
	"github.com/amooglesoft/trafficmonitor/internal/lab"
	"github.com/amooglesoft/trafficmonitor/internal/pki"
	"github.com/amooglesoft/trafficmonitor/internal/vector"
)

// triggerPPS is the controller's default threshold.
const triggerPPS = 20_000

// agent is a real sensor with default sizes in the rack, and what stands in for its controller: the same contract, mutual
// TLS, the controller's default directive, but it keeps nothing. The sensor pins, as everywhere, in a bpf file system of its own.
type agent struct {
	process *lab.Process
	server  *grpc.Server
	in      *lab.Namespace
	bin     string // the sensor
	config  string // its file

	triggers chan arrival

	mu       sync.Mutex
	hello    *pb.Hello          // guarded by mu
	reports  int                // guarded by mu: at the interval
	counters *pb.SensorCounters // guarded by mu: of the last of them
	errs     []string           // guarded by mu: why the directive was refused
}

// arrival is a report that came because a trigger was passed.
type arrival struct {
	at     time.Time
	report *pb.Report
}

const sensorYAML = `
name: rack-1
controllers: [{address: %[1]q, server_name: controller-1}]
tls: {ca: %[2]q, cert: %[3]q, key: %[4]q}
interfaces: [{name: %[5]s, mode: %[6]s}]
state_file: %[7]s/state
checkpoint: %[7]s/checkpoint
pin: %[7]s/bpf
listen: {telemetry: "127.0.0.1:7445"}
`

// startAgent starts a sensor on an interface of the rack; it is ready when it has reported twice.
func startAgent(ctx context.Context, bin string, i lab.Interface, mode string) (a *agent, err error) {
	dir, err := os.MkdirTemp(i.In.Lab().Dir(), "agent")
	if err != nil {
		return nil, err
	}
	certs := filepath.Join(dir, "pki")
	if err := pki.CreateCA(certs); err != nil {
		return nil, err
	}
	server, err := pki.Issue(certs, pki.RoleController, "controller-1", []string{"controller-1"})
	if err != nil {
		return nil, err
	}
	client, err := pki.Issue(certs, pki.RoleSensor, "rack-1", nil)
	if err != nil {
		return nil, err
	}
	tls, err := server.Server()
	if err != nil {
		return nil, err
	}
	var l net.Listener
	if err := i.In.Do(func() (err error) { l, err = net.Listen("tcp", "127.0.0.1:0"); return err }); err != nil {
		return nil, err
	}
	config := filepath.Join(dir, "sensor.yaml")
	a = &agent{in: i.In, bin: bin, config: config, server: grpc.NewServer(grpc.Creds(credentials.NewTLS(tls))), triggers: make(chan arrival, 1024)}
	pb.RegisterSensorServiceServer(a.server, &standIn{a: a})
	go func() { _ = a.server.Serve(l) }()
	i.In.Lab().OnClose(a.server.Stop)

	pins := filepath.Join(dir, "bpf")
	if err := os.Mkdir(pins, 0o700); err != nil {
		return nil, err
	}
	if err := unix.Mount("bpf", pins, "bpf", 0, ""); err != nil {
		return nil, fmt.Errorf("mount a bpf file system on %s: %w", pins, err)
	}
	i.In.Lab().OnClose(func() { _ = unix.Unmount(pins, unix.MNT_DETACH) })
	text := fmt.Sprintf(sensorYAML, l.Addr(), client.CA, client.Cert, client.Key, i.Name, mode, dir)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		return nil, err
	}
	if a.process, err = i.In.Start(lab.Command{Argv: []string{bin, "--config", config}}); err != nil {
		return nil, err
	}
	limit, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	return a, a.reported(limit, 2)
}

// stop ends the sensor as systemd would, and takes its programs away.
func (a *agent) stop(ctx context.Context) error {
	limit, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	err := a.process.Stop(limit)
	a.server.Stop()
	_, detached := a.in.Run(limit, a.bin, "detach", "--config", a.config)
	return errors.Join(err, detached)
}

// reported waits for so many more reports at the interval.
func (a *agent) reported(ctx context.Context, more int) error {
	a.mu.Lock()
	want := a.reports + more
	a.mu.Unlock()
	return lab.Until(ctx, "the sensor's reports", func(context.Context) error {
		a.mu.Lock()
		defer a.mu.Unlock()
		switch {
		case !a.process.Running():
			return lab.GiveUp(errors.New("it ended"))
		case len(a.errs) > 0:
			return lab.GiveUp(fmt.Errorf("it refuses its directive: %s", a.errs[0]))
		case a.reports < want:
			return fmt.Errorf("%d of %d", a.reports, want)
		}
		return nil
	})
}

// counted is how many packets the sensor says it has seen.
func (a *agent) counted(ctx context.Context) (uint64, error) {
	limit, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	if err := a.reported(limit, 2); err != nil {
		return 0, err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.counters.GetPackets(), nil
}

// mapBytes is what the sensor says its maps take.
func (a *agent) mapBytes() uint64 {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.hello.GetMapBytes()
}

type standIn struct {
	pb.UnimplementedSensorServiceServer
	a *agent
}

func (s *standIn) Connect(stream pb.SensorService_ConnectServer) error {
	if err := stream.Send(&pb.ConnectResponse{Message: &pb.ConnectResponse_Directive{Directive: directive()}}); err != nil {
		return err
	}
	for {
		m, err := stream.Recv()
		if err != nil {
			return err
		}
		now := time.Now()
		s.a.mu.Lock()
		switch r := m.GetReport(); {
		case m.GetHello() != nil:
			s.a.hello = m.GetHello()
		case r == nil:
		case r.Cause == pb.Report_CAUSE_INTERVAL:
			s.a.reports++
			s.a.counters = r.Counters
			if r.DirectiveError != "" {
				s.a.errs = append(s.a.errs, r.DirectiveError)
			}
		case r.Cause == pb.Report_CAUSE_TRIGGER:
			select {
			case s.a.triggers <- arrival{now, r}:
			default: // nobody waits for them
			}
		}
		s.a.mu.Unlock()
	}
}

// directive is what a controller with default settings tells its sensors.
func directive() *pb.Directive {
	d := &pb.Directive{
		Version:           &pb.DirectiveVersion{Term: 1, Revision: 1},
		ProtectedPrefixes: []string{own4.String(), own6.String()},
		SampleOneIn:       1024, HotSampleOneIn: 64, Profiles: 64,
		ReportInterval: durationpb.New(time.Second), HotInterval: durationpb.New(100 * time.Millisecond),
	}
	for _, v := range vector.All() {
		d.Triggers = append(d.Triggers, &pb.Trigger{Vector: uint32(v.ID), PacketsPerSecond: triggerPPS})
		for _, port := range v.SourcePorts {
			d.ReflectionPorts = append(d.ReflectionPorts, &pb.ReflectionPort{Port: uint32(port), Vector: uint32(v.ID)})
		}
	}
	return d
}

// cpuTime is the run time of all threads of a process.
func cpuTime(pid int) (time.Duration, error) {
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", pid))
	if err != nil || len(tasks) == 0 {
		return 0, errors.Join(fmt.Errorf("process %d has no threads", pid), err)
	}
	var sum time.Duration
	for _, t := range tasks {
		text, err := os.ReadFile(t)
		if err != nil {
			continue // a thread that ended
		}
		first, _, _ := strings.Cut(string(text), " ")
		n, err := strconv.ParseInt(first, 10, 64)
		if err != nil {
			return 0, err
		}
		sum += time.Duration(n)
	}
	return sum, nil
}

// memory returns a field of /proc/PID/status in bytes.
func memory(pid int, field string) (uint64, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, field+":"); ok {
			kb, err := strconv.ParseUint(strings.Fields(rest)[0], 10, 64)
			return kb << 10, err
		}
	}
	return 0, fmt.Errorf("/proc/%d/status has no %s", pid, field)
}
