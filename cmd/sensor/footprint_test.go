package main

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/protobuf/types/known/durationpb"

	pb "github.com/amooglesoft/trafficmonitor/api/trafficmonitor/v1"
	"github.com/amooglesoft/trafficmonitor/internal/lab"
	"github.com/amooglesoft/trafficmonitor/internal/pki"
)

type quiet struct {
	pb.UnimplementedSensorServiceServer
	reports chan *pb.Report
}

func (q quiet) Connect(s pb.SensorService_ConnectServer) error {
	d := &pb.Directive{
		Version: &pb.DirectiveVersion{Term: 1, Revision: 1}, ProtectedPrefixes: []string{"192.0.2.0/24", "2001:db8::/32"},
		Triggers:       []*pb.Trigger{{PacketsPerSecond: 20_000}},
		ReportInterval: durationpb.New(time.Second), HotInterval: durationpb.New(100 * time.Millisecond),
	}
	if err := s.Send(&pb.ConnectResponse{Message: &pb.ConnectResponse_Directive{Directive: d}}); err != nil {
		return err
	}
	for {
		m, err := s.Recv()
		if err != nil {
			return err
		}
		if r := m.GetReport(); r != nil {
			select {
			case q.reports <- r:
			default:
			}
		}
	}
}

// BenchmarkFootprint measures the real binary with default sizes and mutual TLS while nothing happens: resident memory,
// and CPU time as a share of one core.
func BenchmarkFootprint(b *testing.B) {
	lab.NeedRoot(b)
	dir := b.TempDir()
	binary := filepath.Join(dir, "sensor")
	build := exec.Command("go", "build", "-tags", "grpcnotrace", "-trimpath", "-ldflags", "-s -w", "-o", binary, ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		b.Fatalf("build: %v\n%s", err, out)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // the thread and its namespace end with the goroutine
		ns, err := netns.New()
		if err != nil {
			b.Errorf("new namespace: %v", err)
			return
		}
		defer ns.Close()
		if err := measure(b, dir, binary); err != nil {
			b.Error(err)
		}
	}()
	<-done
}

func measure(b *testing.B, dir, binary string) error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	if err := netlink.LinkSetUp(lo); err != nil {
		return err
	}
	pair := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "out"}, PeerName: "in"}
	if err := netlink.LinkAdd(pair); err != nil {
		return err
	}
	pkiDir := filepath.Join(dir, "pki")
	if err := pki.CreateCA(pkiDir); err != nil {
		return err
	}
	server, err := pki.Issue(pkiDir, pki.RoleController, "c1", []string{"127.0.0.1"})
	if err != nil {
		return err
	}
	client, err := pki.Issue(pkiDir, pki.RoleSensor, "rack1", nil)
	if err != nil {
		return err
	}
	tlsConfig, err := server.Server()
	if err != nil {
		return err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	g := grpc.NewServer(grpc.Creds(credentials.NewTLS(tlsConfig)))
	q := quiet{reports: make(chan *pb.Report)}
	pb.RegisterSensorServiceServer(g, q)
	go func() { _ = g.Serve(l) }()
	defer g.Stop()

	config := filepath.Join(dir, "sensor.yaml")
	text := fmt.Sprintf(`name: rack1
controllers: [{address: "%s"}]
tls: {ca: %q, cert: %q, key: %q}
interfaces: [{name: in}]
state_file: ""
pin: ""
listen: {telemetry: "127.0.0.1:7445"}
`, l.Addr(), client.CA, client.Cert, client.Key)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		return err
	}
	var log bytes.Buffer
	cmd := exec.Command(binary, "--config", config)
	cmd.Stderr = &log
	if err := cmd.Start(); err != nil {
		return err
	}
	defer func() {
		_ = cmd.Process.Signal(os.Interrupt)
		if err := cmd.Wait(); err != nil {
			b.Errorf("sensor: %v\n%s", err, log.String())
		}
	}()
	reported := func() error {
		select {
		case <-q.reports:
			return nil
		case <-time.After(20 * time.Second):
			return fmt.Errorf("the sensor reports nothing\n%s", log.String())
		}
	}
	for range 5 { // settled
		if err := reported(); err != nil {
			return err
		}
	}
	begin, used := time.Now(), cpuTime(b, cmd.Process.Pid)
	for range 10 {
		if err := reported(); err != nil {
			return err
		}
	}
	share := float64(cpuTime(b, cmd.Process.Pid)-used) / float64(time.Since(begin))
	b.ReportMetric(100*share, "%core")
	b.ReportMetric(float64(rss(b, cmd.Process.Pid))/1e6, "MB-RSS")
	b.ReportMetric(0, "ns/op")
	return nil
}

// cpuTime sums the run time of all threads.
func cpuTime(b *testing.B, pid int) time.Duration {
	b.Helper()
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", pid))
	if err != nil || len(tasks) == 0 {
		b.Fatal("no threads", err)
	}
	var sum time.Duration
	for _, t := range tasks {
		text, err := os.ReadFile(t)
		if err != nil {
			continue // a thread that ended
		}
		n, err := strconv.ParseInt(strings.Fields(string(text))[0], 10, 64)
		if err != nil {
			b.Fatal(err)
		}
		sum += time.Duration(n)
	}
	return sum
}

func rss(b *testing.B, pid int) int {
	b.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
	if err != nil {
		b.Fatal(err)
	}
	pages, err := strconv.Atoi(strings.Fields(string(text))[1])
	if err != nil {
		b.Fatal(err)
	}
	return pages * os.Getpagesize()
}
