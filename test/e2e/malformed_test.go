package e2e

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	pb "github.com/amooglesoft/trafficmonitor/api/trafficmonitor/v1"
	"github.com/amooglesoft/trafficmonitor/internal/daemon"
	"github.com/amooglesoft/trafficmonitor/internal/lab"
	"github.com/amooglesoft/trafficmonitor/internal/vector"
)

// A configuration that is wrong is refused as a whole, with the line of each problem and what would be right.
func TestConfigurationRefused(t *testing.T) {
	t.Parallel()
	need(t)
	dir := t.TempDir()
	for _, c := range []struct {
		program, name, text string
		args, want          []string
	}{
		{
			"controller", "controller.yaml", "listem:\n  sensors: 127.0.0.1:7442\nnetwork:\n  own_prefixes: [203.0.113.9/24]\nsafety:\n  max_age: 1d\n",
			[]string{"--check"},
			[]string{`controller.yaml:1: listem: is not a key here; did you mean "listen"?`, `controller.yaml:4: network.own_prefixes[0]`, `did you mean "203.0.113.0/24"?`, `controller.yaml:6: safety.max_age`, `did you mean "24h"?`},
		},
		{
			// Without --check too, and the speaker as well.
			"controller", "exposed.yaml", "network:\n  own_prefixes: [203.0.113.0/24]\nlisten:\n  console: 0.0.0.0:7443\n",
			nil,
			[]string{`exposed.yaml:4: listen.console`, "tmctl pki", `did you mean "127.0.0.1:7443"?`},
		},
		{"controller", "speaker.yaml", "network: {own_prefixes: [203.0.113.0/24]}\nspeaker: {asn: 70000000000}\n", []string{"speaker"}, []string{"speaker.yaml:2: speaker.asn"}},
		{"controller", "tab.yaml", "network:\n\town_prefixes: []\n", nil, []string{"tab.yaml:2"}},
		{"controller", "absent.yaml", "", nil, []string{"absent.yaml"}},
		{"sensor", "sensor.yaml", "name: rack 1\ncontrolers:\n  - address: 127.0.0.1:7442\ninterfaces:\n  - name: lo\n    mode: hots\n", []string{"--check"}, []string{`sensor.yaml:2: controlers: is not a key here; did you mean "controllers"?`, `did you mean "host"?`, "sensor.yaml:1: name"}},
		{"sensor", "far.yaml", "controllers:\n  - address: 192.0.2.1:7442\ninterfaces:\n  - name: lo\n", nil, []string{"far.yaml:2: controllers[0].address", "tls"}},
	} {
		path := filepath.Join(dir, c.name)
		if c.text != "" {
			if err := os.WriteFile(path, []byte(c.text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		r := execute(t, append(append([]string{program(t, c.program)}, c.args...), "--config", path)...)
		if r.code != daemon.ExitUsage {
			t.Errorf("want exit code %d: %v", daemon.ExitUsage, r.err())
		}
		for _, want := range c.want {
			if !strings.Contains(r.stderr, want) {
				t.Errorf("no %q: %v", want, r.err())
			}
		}
	}

	// A policy that the configuration names is part of what --check checks.
	policy := filepath.Join(dir, "policy.yaml")
	text := "network: {own_prefixes: [203.0.113.0/24]}\npolicy: policy.yaml\ndata_dir: " + dir + "/data\n"
	if err := errors.Join(os.WriteFile(policy, []byte("version: 1\ntresholds: []\n"), 0o600), os.WriteFile(filepath.Join(dir, "with.yaml"), []byte(text), 0o600)); err != nil {
		t.Fatal(err)
	}
	r := execute(t, program(t, "controller"), "--config", filepath.Join(dir, "with.yaml"))
	if r.code != daemon.ExitUsage || !strings.Contains(r.stderr, "policy.yaml:2") || !strings.Contains(r.stderr, `"thresholds"`) {
		t.Errorf("a policy with a typo: %v", r.err())
	}
	if _, err := os.Stat(filepath.Join(dir, "data")); err == nil {
		t.Error("a controller that cannot run made its data directory")
	}
}

// Whatever is sent to a running system that makes no sense is answered with an error that says so, and costs nothing: no
// process ends, and the router hears nothing.
func TestMalformedInput(t *testing.T) {
	t.Parallel()
	need(t)
	policy, err := os.ReadFile(filepath.Join("..", "..", "policy", "default.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	s := newSite(t, "malformed", lab.SiteOptions{NoFRR: true, NoEnforce: true}, settings{Policy: "policy.yaml"})
	s.write("policy.yaml", string(policy))
	s.start()
	s.ready()
	for _, text := range kinds {
		s.announce(text, 10*time.Minute)
	}
	s.hold(kinds...)
	s.sent(kinds...)
	speaker := s.speakerPID()
	began, begun := time.Now(), s.bird.session()
	keeps := s.bird.keeps(kinds...)
	steady := s.sensor("steady")
	steady.directive()

	s.run("policy", func(t *testing.T) { s.malformedPolicy(string(policy)) })
	s.run("routes", func(t *testing.T) { s.malformedRoutes() })
	s.run("requests", func(t *testing.T) { s.malformedRequests() })
	s.run("connections", func(t *testing.T) { s.malformedConnections() })
	s.run("sensors", func(t *testing.T) { s.malformedSensors() })

	// Everything goes on: the same processes, the same session, the same routes.
	keeps()
	s.bird.quiet(began)
	s.bird.still(begun, 0)
	if !s.controller.Running() || s.speakerPID() != speaker {
		t.Error("a process of ours ended")
	}
	s.leads()
	s.sent(kinds...)
	// The sensor that behaved is still heard.
	steady.attack(attacked, vector.DNS, 1000, 500_000)
	s.hold(append(kinds, automatic)...)
	s.leaveNothing()
}

// malformedPolicy has the controller read policies with errors: the running one stays, and tmctl says why.
func (s *system) malformedPolicy(good string) {
	t := s.t
	path := filepath.Join(s.dir, "policy.yaml")
	before := ask(s, &pb.GetPolicyResponse{}, "policy")
	if before.Source != path || before.Text != good || before.Error != "" {
		t.Errorf("the policy in force: %s %q", before.Source, before.Error)
	}
	for _, c := range []struct{ old, new, want string }{
		{"thresholds:\n", "tresholds:\n", `tresholds: is not a key here; did you mean "thresholds"?`},
		{"pps: 20 kpps", "pps: 20", "20"},
		{"vectors: [syn, syn-ack]", "vectors: [sin, syn-ack]", `"sin"`},
		{"action: rate-limit 1 Mbps", "action: ratelimit 1 Mbps", "ratelimit"},
		{good, "", "policy.yaml"},
		{good, "\x00\xff", "policy.yaml"},
	} {
		text := strings.Replace(good, c.old, c.new, 1)
		if text == good {
			t.Fatalf("the default policy holds no %q", c.old)
		}
		s.write("policy.yaml", text)
		if err := s.controller.Signal(syscall.SIGHUP); err != nil {
			t.Fatal(err)
		}
		eventually(t, fmt.Sprintf("policy with %q to be refused", c.new), func(context.Context) error {
			p := ask(s, &pb.GetPolicyResponse{}, "policy")
			if !strings.Contains(p.Error, "policy.yaml") || !strings.Contains(p.Error, c.want) {
				return fmt.Errorf("it says %q", p.Error)
			}
			if p.Hash != before.Hash || p.Text != good {
				return lab.GiveUp(errors.New("it is in force"))
			}
			return nil
		})
		if st := s.status(); st.PolicyError == "" || st.PolicyHash != before.Hash {
			t.Errorf("status says of the policy: %q %q", st.PolicyHash, st.PolicyError)
		}
		if r := s.tmctl("status"); r.code != 4 || !strings.Contains(r.stdout, "refused") {
			t.Errorf("status with a refused policy: %v", r.err())
		}
	}
	if !strings.Contains(s.must("policy"), "# refused since: ") {
		t.Error("tmctl policy does not show that the newest policy was refused")
	}
	s.write("policy.yaml", good+"\n# changed\n")
	if err := s.controller.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the mended policy to be in force", func(context.Context) error {
		if st := s.status(); st.PolicyError != "" || st.PolicyHash == before.Hash {
			return fmt.Errorf("%q %q", st.PolicyHash, st.PolicyError)
		}
		return nil
	})
}

// malformedRoutes announces what must not be: the parser refuses what is no route (exit code 2), the safety kernel what
// must not leave (exit code 1, with the invariant).
func (s *system) malformedRoutes() {
	t := s.t
	const d = "destination 203.0.113.30/32 "
	long := make([]string, 120) // 80 ports fit into the 238 octets of field.md, 120 do not
	for i := range long {
		long[i] = fmt.Sprint(1000 + 2*i)
	}
	for _, c := range []struct {
		text string
		code int
		want string
	}{
		{"", 2, "ROUTE is missing"},
		{"nonsense", 2, ""},
		{d + "then explode", 2, "explode"},
		{d + "source-port 70000 then discard", 2, "70000"},
		{d + "protocol 256 then discard", 2, "256"},
		{d + "length 65536 then discard", 2, "65536"},
		{d + "tcp-flags sin then discard", 2, "sin"},
		{d + "dscp 64 then discard", 2, "64"},
		{d + "then rate-limit -1Mbps", 2, ""},
		{d + "then rate-limit NaN", 2, ""},
		{d + "protocol udp protocol tcp then discard", 2, ""},
		{"destination 203.0.113.30/33 then discard", 2, "/33"},
		{"destination 203.0.113.1/24 then discard", 2, ""},
		{"destination 203.0.113.30/32 source 2001:db8::1/128 then discard", 2, ""},
		{"destination ::ffff:203.0.113.30/128 then discard", 2, ""},
		{"destination 2001:db8:113::1/128 fragment dont-fragment then discard", 2, ""},
		{"destination 203.0.113.30/32 protocol udp then blackhole", 2, ""},
		{"destination 2001:db8:113::1/129 then discard", 2, ""},
		{d + "destination-port 10-5 then discard", 2, ""},
		{"protocol udp then discard", 2, "no destination and no source"},
		{"destination 0.0.0.0/0 then blackhole", 1, "match_all"},
		{"destination ::/0 then discard", 1, "match_all"},
		{"destination 198.51.100.1/32 then discard", 1, "outside_own_prefixes"},
		{"destination 203.0.112.0/23 then discard", 1, "outside_own_prefixes"},
		// Over the socket root has every right, but not these; what an approver may is tested with certificates.
		{"source 198.51.0.0/16 protocol udp then discard", 1, "source_only"},
		{"destination 203.0.113.241/32 then discard", 1, "bgp"},
		{d + "protocol tcp destination-port 179 then discard", 1, "bgp"},
		{d + "port 1-1000 then discard", 1, "bgp"},
		{"destination 203.0.113.32/27 then blackhole", 1, "blackhole_width"},
		{"destination 2001:db8:113::/64 then blackhole", 1, "blackhole_width"},
		{d + "destination-port " + strings.Join(long, ",") + " then discard", 1, "encoded_size"},
		{"destination 203.0.113.10/32 protocol udp source-port 53 then rate-limit 1Mbps", 1, "conflict"}, // of discard4
		{"destination 203.0.113.128/26 then discard", 1, "quota_own_share"},
	} {
		r := s.tmctl("announce", c.text, "--ttl", "10m", "--reason", "e2e")
		if r.code != c.code || !strings.Contains(r.stderr, c.want) || r.stdout != "" {
			t.Errorf("want exit code %d and %q: %v", c.code, c.want, r.err())
		}
		if c.code == 1 && !strings.Contains(r.stderr, "safety kernel") {
			t.Errorf("who refused it? %v", r.err())
		}
	}
	for _, args := range [][]string{
		{"announce", d + "protocol udp then discard", "--reason", "e2e"},                                         // no --ttl
		{"announce", d + "protocol udp then discard", "--ttl", "10m"},                                            // no --reason
		{"announce", d + "protocol udp then discard", "--ttl", "-1s", "--reason", "e2e"},                         //
		{"announce", d + "protocol udp then discard", "--ttl", "25h", "--reason", "e2e"},                         // above safety.max_age
		{"announce", d + "protocol udp then discard", "--ttl", "100000000h", "--reason", "e2e"},                  // overflows
		{"announce", d + "protocol udp then discard", "--ttl", "10m", "--reason", strings.Repeat("long ", 3000)}, // a novel
		{"withdraw", "--reason", "e2e"},
		{"withdraw", "m-1", "--all", "--reason", "e2e"},
		{"withdraw", "--target", "banana", "--reason", "e2e"},
		{"withdraw", "--all", "--reason", "e2e", "--hold", "-1s"},
		{"mitigations", "--al"},
		{"announse"},
	} {
		if r := s.tmctl(args...); r.code != 2 {
			t.Errorf("want exit code 2: %.500s", r.err())
		}
	}
	var have []string
	for _, m := range s.mitigations() {
		have = append(have, m.Routes...)
	}
	if err := same(have, kinds); err != nil {
		t.Errorf("after all that: %v", err)
	}
}

// rawCodec sends octets as they are.
type rawCodec struct{}

func (rawCodec) Marshal(v any) ([]byte, error)    { return v.([]byte), nil }
func (rawCodec) Unmarshal(b []byte, v any) error  { *v.(*[]byte) = bytes.Clone(b); return nil }
func (rawCodec) Name() string                     { return "proto" }
func (s *system) socket(name string) (out string) { return filepath.Join(s.dir, name+".sock") }

// malformedRequests makes gRPC calls that tmctl would never make.
func (s *system) malformedRequests() {
	t := s.t
	for _, c := range []struct {
		socket, method string
		body           []byte
		want           []codes.Code
	}{
		{"console", "/trafficmonitor.v1.ConsoleService/CreateMitigation", []byte{0xff, 0xff, 0xff}, []codes.Code{codes.Internal, codes.InvalidArgument}},
		{"console", "/trafficmonitor.v1.ConsoleService/CreateMitigation", nil, []codes.Code{codes.InvalidArgument}},
		{"console", "/trafficmonitor.v1.ConsoleService/CreateMitigation", []byte("\x0a\x02\xc3\x28"), []codes.Code{codes.Internal, codes.InvalidArgument}}, // no UTF-8
		{"console", "/trafficmonitor.v1.ConsoleService/CreateMitigation", make([]byte, 32<<20), []codes.Code{codes.ResourceExhausted, codes.Unavailable}},
		{"console", "/trafficmonitor.v1.ConsoleService/WithdrawMitigations", nil, []codes.Code{codes.InvalidArgument}},
		{"console", "/trafficmonitor.v1.ConsoleService/DeleteHold", nil, []codes.Code{codes.InvalidArgument}},
		{"console", "/trafficmonitor.v1.ConsoleService/SetFreeze", nil, []codes.Code{codes.InvalidArgument}},
		{"console", "/trafficmonitor.v1.ConsoleService/NoSuchMethod", nil, []codes.Code{codes.Unimplemented}},
		{"console", "/trafficmonitor.v1.SpeakerService/WithdrawAll", nil, []codes.Code{codes.Unimplemented}},
		{"console", "/trafficmonitor.v1.SensorService/Connect", nil, []codes.Code{codes.Unimplemented}},
		{"sensors", "/trafficmonitor.v1.ConsoleService/SetFreeze", nil, []codes.Code{codes.Unimplemented}},
		{"sensors", "/trafficmonitor.v1.SensorService/Connect", []byte{0xff}, []codes.Code{codes.Internal, codes.InvalidArgument}},
		{"speaker", "/trafficmonitor.v1.SpeakerService/SetRoutes", []byte{0xff}, []codes.Code{codes.Internal, codes.InvalidArgument}},
		{"speaker", "/trafficmonitor.v1.SpeakerService/WithdrawAll", nil, []codes.Code{codes.InvalidArgument}},
		// The empty set of term 0 is older than what the speaker has: an old leader must not withdraw everything.
		{"speaker", "/trafficmonitor.v1.SpeakerService/SetRoutes", nil, []codes.Code{codes.FailedPrecondition, codes.InvalidArgument, codes.Aborted}},
	} {
		conn, err := grpc.NewClient("unix:"+s.socket(c.socket), grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDefaultCallOptions(grpc.ForceCodec(rawCodec{}), grpc.MaxCallSendMsgSize(64<<20)))
		if err != nil {
			t.Fatal(err)
		}
		var answer []byte
		err = conn.Invoke(within(t, patience), c.method, c.body, &answer)
		ok := false
		for _, want := range c.want {
			ok = ok || status.Code(err) == want
		}
		if !ok {
			t.Errorf("%s %s %.8x: %v, want %v", c.socket, c.method, c.body, err, c.want)
		}
		conn.Close()
	}
	// The server checks what tmctl checks too, and names the field.
	conn, err := grpc.NewClient("unix:"+s.socket("console"), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	client := pb.NewConsoleServiceClient(conn)
	good := func() *pb.CreateMitigationRequest {
		return &pb.CreateMitigationRequest{Route: "destination 203.0.113.30/32 protocol udp then discard", Ttl: durationpb.New(time.Minute), Reason: "e2e", Requester: "mallory"}
	}
	for field, spoil := range map[string]func(*pb.CreateMitigationRequest){
		"route":  func(r *pb.CreateMitigationRequest) { r.Route = "destination 203.0.113.30/32 then ruin" },
		"ttl":    func(r *pb.CreateMitigationRequest) { r.Ttl = &durationpb.Duration{Seconds: math.MaxInt64} },
		"reason": func(r *pb.CreateMitigationRequest) { r.Reason = "\n\t" },
	} {
		r := good()
		spoil(r)
		if _, err := client.CreateMitigation(within(t, patience), r); status.Code(err) != codes.InvalidArgument || !strings.Contains(err.Error(), field) {
			t.Errorf("a wrong %s: %v", field, err)
		}
	}
	if _, err := client.ListMitigations(within(t, patience), &pb.ListMitigationsRequest{PageToken: "\x00banana", PageSize: -5}); status.Code(err) != codes.InvalidArgument {
		t.Errorf("a wrong page token: %v", err)
	}
}

// malformedConnections sends everything but gRPC to every listener.
func (s *system) malformedConnections() {
	t := s.t
	noise := make([]byte, 64<<10)
	for i := range noise {
		noise[i] = byte(i*i*31 + i*7 + 3)
	}
	hello, err := hex.DecodeString("16030100310100002d0303" + strings.Repeat("ab", 32) + "000004130113020100000000")
	if err != nil {
		t.Fatal(err)
	}
	const preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
	payloads := [][]byte{
		nil,
		[]byte("GET / HTTP/1.1\r\nHost: controller\r\n\r\n"),
		[]byte("POST /trafficmonitor.v1.ConsoleService/SetFreeze HTTP/1.1\r\nHost: x\r\nContent-Length: 99999\r\n\r\n{"),
		hello,
		noise,
		append([]byte(preface), noise...),
		append([]byte(preface), 0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 0),                                           // a frame of 16 MiB
		append([]byte(preface), 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 4, 1, 5, 0, 0, 0, 1, 0xff, 0xff, 0xff, 0xff), // headers that are none
		bytes.Repeat([]byte{0}, 1<<20),
	}
	dials := map[string]func() (net.Conn, error){}
	for _, name := range []string{"console", "sensors", "speaker"} {
		dials[name] = func() (net.Conn, error) { return net.Dial("unix", s.socket(name)) }
	}
	for _, port := range []string{"7443", "7444", "7446"} { // console, telemetry, the speaker's telemetry
		dials[port] = func() (c net.Conn, err error) {
			err = s.Control.Do(func() (err error) {
				c, err = net.Dial("tcp", "127.0.0.1:"+port)
				return err
			})
			return c, err
		}
	}
	for name, dial := range dials {
		for i, p := range payloads {
			c, err := dial()
			if err != nil {
				t.Errorf("%s, payload %d: %v", name, i, err)
				continue
			}
			_ = c.SetDeadline(time.Now().Add(2 * time.Second))
			_, _ = c.Write(p) // it may hang up in the middle
			if u, ok := c.(interface{ CloseWrite() error }); ok {
				_ = u.CloseWrite()
			}
			if _, err := io.Copy(io.Discard, c); errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("%s, payload %d: the connection stays open", name, i)
			}
			c.Close()
		}
	}
	// Telemetry answers what it is asked, and nothing else.
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(_ context.Context, _, address string) (c net.Conn, err error) {
		err = s.Control.Do(func() (err error) { c, err = net.Dial("tcp", address); return err })
		return c, err
	}}, Timeout: 10 * time.Second}
	for path, want := range map[string]int{"/healthz": 200, "/readyz": 200, "/metrics": 200, "/debug/pprof/": 404, "/../etc/passwd": 404, "/%00": 404} {
		for _, port := range []string{"7444", "7446"} {
			r, err := client.Get("http://127.0.0.1:" + port + path)
			if err != nil {
				t.Errorf("%s: %v", path, err)
				continue
			}
			body, _ := io.ReadAll(io.LimitReader(r.Body, 4096))
			r.Body.Close()
			if r.StatusCode != want {
				t.Errorf("%s at %s: %s: %s", path, port, r.Status, body)
			}
		}
	}
}

// malformedSensors are sensors that say what makes no sense: their streams end and say why.
func (s *system) malformedSensors() {
	t := s.t
	now := timestamppb.Now()
	span := durationpb.New(time.Second)
	victim := []byte{203, 0, 113, 99}
	report := func(spoil func(*pb.Report)) *pb.ConnectRequest {
		r := &pb.Report{
			Sequence: 1, Cause: pb.Report_CAUSE_INTERVAL, StartTime: now, Span: span,
			Aggregates: []*pb.Aggregate{{Target: victim, PrefixLength: 32, Vector: uint32(vector.DNS), Packets: 1e9, Bytes: 1e12}},
		}
		spoil(r)
		return &pb.ConnectRequest{Message: &pb.ConnectRequest_Report{Report: r}}
	}
	for name, m := range map[string]*pb.ConnectRequest{
		"nothing":            {},
		"a second hello":     {Message: &pb.ConnectRequest_Hello{Hello: &pb.Hello{Sensor: "nonsense"}}},
		"no cause":           report(func(r *pb.Report) { r.Cause = 0 }),
		"an unknown cause":   report(func(r *pb.Report) { r.Cause = 99 }),
		"no time":            report(func(r *pb.Report) { r.StartTime = nil }),
		"an impossible time": report(func(r *pb.Report) { r.StartTime = &timestamppb.Timestamp{Seconds: math.MaxInt64} }),
		"no span":            report(func(r *pb.Report) { r.Span = nil }),
		"a negative span":    report(func(r *pb.Report) { r.Span = durationpb.New(-time.Second) }),
		"an endless span":    report(func(r *pb.Report) { r.Span = &durationpb.Duration{Seconds: math.MaxInt64} }),
		"no address":         report(func(r *pb.Report) { r.Aggregates[0].Target = nil }),
		"five octets":        report(func(r *pb.Report) { r.Aggregates[0].Target = []byte{1, 2, 3, 4, 5} }),
		"a mapped address": report(func(r *pb.Report) {
			r.Aggregates[0].Target = net.IPv4(203, 0, 113, 99).To16()
			r.Aggregates[0].PrefixLength = 128
		}),
		"a long prefix":    report(func(r *pb.Report) { r.Aggregates[0].PrefixLength = math.MaxUint32 }),
		"no prefix":        report(func(r *pb.Report) { r.Aggregates[0].PrefixLength = 24 }),
		"a foreign vector": report(func(r *pb.Report) { r.Aggregates[0].Vector = vector.Count }),
	} {
		x := s.sensor("nonsense")
		x.directive()
		x.say(m)
		var err error
		for err == nil {
			_, err = x.stream.Recv()
		}
		if status.Code(err) != codes.InvalidArgument {
			t.Errorf("%s: the stream ended with %v", name, err)
		}
	}
	for name, hello := range map[string]string{"no name": "", "a path": "../../etc/passwd", "a long name": strings.Repeat("x", 129), "a label": "a\",b=\"c"} {
		if _, err := s.sensor(hello).stream.Recv(); status.Code(err) != codes.InvalidArgument {
			t.Errorf("%s: the stream ended with %v", name, err)
		}
	}
	// What is well formed and cannot be believed ends no stream and makes nothing: targets that are not ours.
	x := s.sensor("liar")
	x.directive()
	for _, a := range []string{"198.51.100.1", "2001:db8:51::1", "0.0.0.0", "255.255.255.255", "::", "127.0.0.1"} {
		x.attack(a, vector.DNS, math.MaxUint64, math.MaxUint64)
	}
	eventually(t, "the reports to have been taken", func(context.Context) error {
		for _, e := range ask(s, &pb.ListSensorsResponse{}, "sensors").Sensors {
			if e.Hello.Sensor == "liar" && e.Reports == 6 {
				return nil
			}
		}
		return errors.New("not yet")
	})
	if n := ask(s, &pb.ListIncidentsResponse{}, "incidents", "--all").Incidents; len(n) != 0 {
		t.Errorf("nonsense made incidents: %v", n)
	}
}
