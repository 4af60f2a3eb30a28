package e2e

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/durationpb"

	pb "github.com/amooglesoft/trafficmonitor/api/trafficmonitor/v1"
	"github.com/amooglesoft/trafficmonitor/internal/lab"
	"github.com/amooglesoft/trafficmonitor/internal/lab/flood"
	"github.com/amooglesoft/trafficmonitor/internal/lab/tap"
)

// Numbered packets pass a sensor's interface while the sensor is stopped and started, upgraded, killed, and without its
// controller: none is lost on the way, and none to the counters. What reports say is exact, too, and after kill -9 it
// is never too much.
//
// TM_SOAK_PACKETS and TM_SOAK_PPS make it longer and faster: make soak-sensor.
func TestContinuity(t *testing.T) {
	for _, hook := range []string{"tcx", "clsact"} {
		t.Run(hook, func(t *testing.T) { testContinuity(t, hook) })
	}
}

func testContinuity(t *testing.T, hook string) {
	lab.NeedRoot(t)
	packets, pps := fromEnv(t, "TM_SOAK_PACKETS", 200_000), fromEnv(t, "TM_SOAK_PPS", 20_000)
	half := packets / 2
	c := newContinuity(t, hook, packets)
	c.start(program(t, "sensor"))
	c.controller.await("a report that follows the directive", func() bool { return c.controller.followed })

	// Stopped and started, upgraded, and the controller away.
	c.while(0, half, pps, []func(){
		func() { c.end(syscall.SIGTERM); c.start(program(t, "sensor")) },
		func() { c.end(syscall.SIGTERM); c.start(c.upgrade()) },
		func() { c.controller.stop() },
		func() { c.controller.start() },
	})
	c.arrived(half)
	c.counted(half)
	c.controller.await("exact reports", func() bool { return c.controller.packets >= uint64(half) })
	if n := c.controller.sum(); n != uint64(half) {
		t.Errorf("reports say %d packets, %d were sent", n, half)
	}

	// An interface appears. By now the sensor has given up what it needed to load programs.
	if err := c.rack.Netlink().LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "later"}, PeerName: "later-peer"}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the interface that appeared to be watched", func(context.Context) error {
		n, err := c.metric(`trafficmonitor_sensor_interface_attached{interface="later",mode="host"}`)
		if err == nil && n != 1 {
			err = errors.New("not yet")
		}
		return err
	})

	// Killed.
	c.while(half, packets-half, pps, []func(){
		func() { c.end(syscall.SIGKILL); c.start(program(t, "sensor")) },
		func() { c.end(syscall.SIGKILL); c.start(program(t, "sensor")) },
	})
	c.arrived(packets)
	c.counted(packets)
	c.end(syscall.SIGTERM) // sends its last report
	if n := c.controller.sum(); n > uint64(packets) || n < uint64(half) {
		t.Errorf("after kill -9 reports say %d packets, %d were sent", n, packets)
	} else {
		t.Logf("%d packets; reports say %d after two kill -9", packets, n)
	}

	out, err := c.rack.Run(within(t, patience), program(t, "sensor"), "detach", "--config", c.config)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"at ingress of in", "at egress of in", "maps with the counters"} {
		if !strings.Contains(out, want) {
			t.Errorf("detach does not say %q:\n%s", want, out)
		}
	}
	if left, err := os.ReadDir(filepath.Join(c.pins, "tm")); err != nil || len(left) > 0 {
		t.Errorf("detach left %v %v", left, err)
	}
}

func fromEnv(t *testing.T, name string, otherwise int) int {
	t.Helper()
	text := os.Getenv(name)
	if text == "" {
		return otherwise
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 {
		t.Fatalf("%s=%s is not a number", name, text)
	}
	return n
}

// continuity is a source, a rack with a sensor, and a host behind it.
type continuity struct {
	t            *testing.T
	rack         *lab.Namespace
	out, in      lab.Interface // from the source into the rack
	numbers      *tap.Numbers  // at the host
	pins, config string
	sensor       *lab.Process
	controller   *collector
	target       netip.Addr
	sources      netip.Prefix
	newer        string
}

func newContinuity(t *testing.T, hook string, packets int) *continuity {
	t.Helper()
	program(t, "sensor")
	l := lab.New(t, "continuity")
	t.Cleanup(func() {
		if t.Failed() {
			kept.Store(l.Dir(), true)
		}
	})
	c := &continuity{
		t: t, target: netip.MustParseAddr("192.0.2.10"), sources: netip.MustParsePrefix("198.18.0.0/15"),
	}
	spaces := map[string]*lab.Namespace{}
	for _, name := range []string{"source", "rack", "host"} {
		ns, err := l.Namespace(name)
		if err != nil {
			t.Fatal(err)
		}
		spaces[name] = ns
		// What the kernel sends of itself would be counted too.
		if err := spaces[name].Sysctl(map[string]string{"net.ipv6.conf.default.disable_ipv6": "1", "net.ipv6.conf.all.disable_ipv6": "1"}); err != nil {
			t.Fatal(err)
		}
	}
	c.rack = spaces["rack"]
	var err error
	c.out, c.in, err = l.Link(lab.End{In: spaces["source"], Name: "out", Addresses: []string{"10.0.0.1/24"}}, lab.End{In: c.rack, Name: "in", Addresses: []string{"10.0.0.2/24"}})
	if err != nil {
		t.Fatal(err)
	}
	_, host, err := l.Link(lab.End{In: c.rack, Name: "down", Addresses: []string{"192.0.2.1/24"}}, lab.End{In: spaces["host"], Name: "up", Addresses: []string{"192.0.2.10/24"}})
	if err != nil {
		t.Fatal(err)
	}
	c.numbers, err = host.Numbers(tap.Class{Destination: c.target, Protocol: unix.IPPROTO_UDP, SourcePort: 53}, packets)
	if err != nil {
		t.Fatal(err)
	}
	c.pins = t.TempDir()
	if err := unix.Mount("bpf", c.pins, "bpf", 0, ""); err != nil {
		t.Fatalf("mount a bpf file system: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(c.pins, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(strings.Join(c.controller.heard, "\n"))
		}
	})
	c.controller = &collector{t: t, path: filepath.Join(l.Dir(), "c.sock")}
	c.controller.start()
	t.Cleanup(c.controller.stop)
	c.config = filepath.Join(l.Dir(), "sensor.yaml")
	text := fmt.Sprintf("name: rack.1\ncontrollers: [{address: \"unix://%[1]s\"}]\ninterfaces: [{name: in, hook: %[2]s}, {name: later, hook: %[2]s, optional: true}]\nstate_file: sensor.state\n"+
		"checkpoint: sensor.checkpoint\npin: %[3]s/tm\nlisten: {telemetry: \"127.0.0.1:7445\"}\n", c.controller.path, hook, c.pins)
	if err := os.WriteFile(c.config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return c
}

// start starts a sensor, and waits until it watches.
func (c *continuity) start(path string) {
	c.t.Helper()
	var err error
	if c.sensor, err = c.rack.Start(lab.Command{Name: "sensor", Argv: []string{path, "--config", c.config}}); err != nil {
		c.t.Fatal(err)
	}
	eventually(c.t, "the sensor to watch", func(context.Context) error {
		if !c.sensor.Running() {
			return lab.GiveUp(fmt.Errorf("it ended: %w", c.sensor.Err()))
		}
		n, err := c.metric(`trafficmonitor_sensor_interface_attached{interface="in",mode="host"}`)
		if err == nil && n != 1 {
			err = errors.New("not yet")
		}
		return err
	})
}

func (c *continuity) end(sig syscall.Signal) {
	c.t.Helper()
	if err := c.sensor.Signal(sig); err != nil {
		c.t.Fatal(err)
	}
	<-c.sensor.Done()
	if err := c.sensor.Err(); sig == syscall.SIGTERM && err != nil {
		c.t.Fatalf("the sensor ended with %v", err)
	}
}

// upgrade returns a sensor of another version.
func (c *continuity) upgrade() string {
	c.t.Helper()
	if c.newer == "" {
		c.newer = filepath.Join(c.t.TempDir(), "sensor")
		cmd := exec.Command("go", "build", "-trimpath", "-ldflags", "-X main.version=e2e-newer", "-o", c.newer, "./cmd/sensor")
		cmd.Dir, cmd.Env = filepath.Join("..", ".."), append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			c.t.Fatalf("go build: %v\n%s", err, out)
		}
	}
	return c.newer
}

// while sends packets, and does one step after the other while they pass.
func (c *continuity) while(first, n, pps int, steps []func()) {
	c.t.Helper()
	c.upgrade() // built before, for it would take all the time there is
	template, err := flood.DNSAnswers(c.target, c.sources, 64)
	if err == nil {
		template, err = template.Numbered(uint32(first))
	}
	if err != nil {
		c.t.Fatal(err)
	}
	f, err := c.out.Flood(c.in, flood.Options{
		Template: template, PPS: float64(pps), Packets: uint64(n), Duration: time.Duration(n/pps)*time.Second*10 + time.Minute, Pin: true, CPU: 1,
	})
	if err != nil {
		c.t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() {
		r, err := f.Run(c.t.Context())
		if err == nil && r.Packets != uint64(n) {
			err = fmt.Errorf("only %d of %d packets were sent", r.Packets, n)
		}
		done <- err
	}()
	for i, step := range steps {
		due := uint64(n * (i + 1) / (len(steps) + 2))
		err := lab.Until(within(c.t, 5*time.Minute), "packets to be sent", func(context.Context) error {
			if f.Sent() < due {
				return fmt.Errorf("%d of %d", f.Sent(), due)
			}
			return nil
		})
		if err != nil {
			c.t.Fatal(err)
		}
		step()
		c.t.Logf("step %d of %d: from packet %d to %d", i+1, len(steps), uint64(first)+due, uint64(first)+f.Sent())
	}
	if err := <-done; err != nil {
		c.t.Fatal(err)
	}
}

// arrived fails the test unless every one of the first n numbers came to the host once.
func (c *continuity) arrived(n int) {
	c.t.Helper()
	missing, lowest, twice, err := c.numbers.Missing(n)
	if err != nil || missing > 0 || twice > 0 {
		c.t.Errorf("of %d packets %d did not arrive, the first of them %d, and %d did twice: %v", n, missing, lowest, twice, err)
	}
}

// counted waits until the sensor's counters say n packets, and fails the test when they say more.
func (c *continuity) counted(n int) {
	c.t.Helper()
	eventually(c.t, "the counters", func(context.Context) error {
		got, err := c.metric("trafficmonitor_sensor_packets_total")
		switch {
		case err != nil:
			return err
		case got > float64(n):
			return lab.GiveUp(fmt.Errorf("they say %v of %d packets", got, n))
		case got < float64(n):
			return fmt.Errorf("they say %v of %d packets", got, n)
		}
		return nil
	})
}

func (c *continuity) metric(series string) (float64, error) { return metric(c.rack, series) }

// metric reads one series of the sensor in a namespace.
func metric(in *lab.Namespace, series string) (float64, error) {
	client := http.Client{Timeout: patience, Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(_ context.Context, network, address string) (conn net.Conn, err error) {
		err = in.Do(func() error {
			conn, err = net.Dial(network, address)
			return err
		})
		return conn, err
	}}}
	r, err := client.Get("http://127.0.0.1:7445/metrics")
	if err != nil {
		return 0, err
	}
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	if err != nil {
		return 0, err
	}
	for lines := bufio.NewScanner(bytes.NewReader(b)); lines.Scan(); {
		if value, ok := strings.CutPrefix(lines.Text(), series+" "); ok {
			return strconv.ParseFloat(value, 64)
		}
	}
	return 0, fmt.Errorf("no series %s", series)
}

// collector is a controller that adds up what a sensor reports.
type collector struct {
	pb.UnimplementedSensorServiceServer
	t      *testing.T
	path   string
	server *grpc.Server

	mu       sync.Mutex
	packets  uint64   // guarded by mu
	followed bool     // guarded by mu
	heard    []string // guarded by mu; for a test that fails
	leaving  bool     // guarded by mu; ends each stream behind its next report
}

func (c *collector) start() {
	l, err := net.Listen("unix", c.path)
	if err != nil {
		c.t.Fatal(err)
	}
	c.mu.Lock()
	c.leaving = false
	c.mu.Unlock()
	c.server = grpc.NewServer()
	pb.RegisterSensorServiceServer(c.server, c)
	go func(s *grpc.Server) { _ = s.Serve(l) }(c.server)
}

// stop ends the controller between two reports: one that is on its way to a controller that dies is lost.
func (c *collector) stop() {
	c.mu.Lock()
	c.leaving = true
	c.mu.Unlock()
	c.server.GracefulStop()
}

// Connect adds up the reports of one stream.
func (c *collector) Connect(s pb.SensorService_ConnectServer) error {
	err := s.Send(&pb.ConnectResponse{Message: &pb.ConnectResponse_Directive{Directive: &pb.Directive{
		Version: &pb.DirectiveVersion{Term: 1, Revision: 1}, ProtectedPrefixes: []string{"192.0.2.0/24"},
		ReportInterval: durationpb.New(200 * time.Millisecond), HotInterval: durationpb.New(100 * time.Millisecond),
	}}})
	if err != nil {
		return err
	}
	for {
		m, err := s.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		r := m.GetReport()
		if r.GetCause() != pb.Report_CAUSE_INTERVAL {
			continue
		}
		c.mu.Lock()
		c.followed = c.followed || r.GetDirective().GetRevision() == 1
		for _, a := range r.Aggregates {
			if a.Vector == 0 && a.Direction != pb.Direction_DIRECTION_OUTBOUND {
				c.packets += a.Packets
				c.heard = append(c.heard, fmt.Sprintf("report %d from %s for %s, %d merged: %d packets to a /%d", r.Sequence,
					r.StartTime.AsTime().Format(time.StampMilli), r.Span.AsDuration().Round(time.Millisecond), r.Merged, a.Packets, a.PrefixLength))
			}
		}
		leaving := c.leaving
		c.mu.Unlock()
		if leaving {
			return nil
		}
	}
}

func (c *collector) sum() uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.packets
}

// await waits for a condition on what came, which is checked with the lock held.
func (c *collector) await(what string, ok func() bool) {
	c.t.Helper()
	eventually(c.t, what, func(context.Context) error {
		c.mu.Lock()
		defer c.mu.Unlock()
		if !ok() {
			return fmt.Errorf("%d packets are reported", c.packets)
		}
		return nil
	})
}
