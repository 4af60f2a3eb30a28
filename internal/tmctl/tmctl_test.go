package tmctl

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	tmv1 "github.com/amooglesoft/trafficmonitor/api/trafficmonitor/v1"
	"github.com/amooglesoft/trafficmonitor/internal/console"
	"github.com/amooglesoft/trafficmonitor/internal/console/consoletest"
	"github.com/amooglesoft/trafficmonitor/internal/mitigation"
	"github.com/amooglesoft/trafficmonitor/internal/pki"
	"github.com/amooglesoft/trafficmonitor/internal/rpc"
)

var update = flag.Bool("update", false, "write the golden files")

// bench is a console and a speaker on unix sockets, and what replaces their paths in outputs.
type bench struct {
	fake     *consoletest.Fake
	address  string
	speaker  string
	replacer *strings.Replacer
}

func newBench(t testing.TB) *bench {
	t.Helper()
	dir, err := os.MkdirTemp("", "tm") // t.TempDir's paths may be too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	b := &bench{fake: consoletest.New(), address: "unix://" + dir + "/console.sock", speaker: "unix://" + dir + "/speaker.sock"}
	b.replacer = strings.NewReplacer(dir, "/run/test")
	serveConsole(t, b.fake, b.address, pki.Files{})
	l, err := rpc.Listen(b.speaker, false)
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer()
	tmv1.RegisterSpeakerServiceServer(s, &speaker{})
	go s.Serve(l)
	t.Cleanup(s.Stop)
	return b
}

func serveConsole(t testing.TB, f console.System, address string, files pki.Files) net.Listener {
	t.Helper()
	s, err := console.New(console.Options{System: f, TLS: files, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	l, err := rpc.Listen(address, files.Enabled())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	return l
}

// speaker is one with three routes and a red button that remembers.
type speaker struct {
	tmv1.UnimplementedSpeakerServiceServer
}

func (s *speaker) WithdrawAll(_ context.Context, r *tmv1.WithdrawAllRequest) (*tmv1.WithdrawAllResponse, error) {
	if r.Reason == "" || r.Requester == "" {
		return nil, status.Error(codes.InvalidArgument, "reason: must not be empty")
	}
	return &tmv1.WithdrawAllResponse{Withdrawn: 3}, nil
}

func (s *speaker) ReleaseWithdrawAll(_ context.Context, r *tmv1.ReleaseWithdrawAllRequest) (*tmv1.ReleaseWithdrawAllResponse, error) {
	if r.Reason == "forbidden" {
		return nil, status.Error(codes.FailedPrecondition, "the button is not pressed")
	}
	return &tmv1.ReleaseWithdrawAllResponse{}, nil
}

// result is what one command did.
type result struct {
	code           int
	stdout, stderr string
}

func run(ctx context.Context, env map[string]string, args ...string) result {
	var stdout, stderr bytes.Buffer
	code := Run(ctx, args, Env{
		Stdout: &stdout, Stderr: &stderr, Now: func() time.Time { return consoletest.Now }, Version: "v1.2.3",
		Getenv: func(k string) string { return env[k] }, Location: time.FixedZone("CET", 3600),
	})
	return result{code, stdout.String(), stderr.String()}
}

func (b *bench) run(t testing.TB, args ...string) result {
	return run(t.Context(), map[string]string{"TMCTL_ADDRESS": b.address, "TMCTL_SPEAKER": b.speaker, "USER": "eva"}, args...)
}

// golden compares a result with testdata/NAME.golden.
func (b *bench) golden(t *testing.T, name string, args []string, r result) {
	t.Helper()
	got := fmt.Sprintf("$ tmctl %s\n# exit code %d\n%s", strings.Join(args, " "), r.code, r.stdout)
	if r.stderr != "" {
		got += "# stderr\n" + r.stderr
	}
	got = b.replacer.Replace(got)
	path := filepath.Join("testdata", name+".golden")
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatalf("%v: write it with -update and read it", err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s (-want +got):\n%s", path, diff)
	}
}

const aRoute = "destination 203.0.113.5 protocol udp source-port 53 then discard"

var goldens = []struct {
	name  string
	code  int
	args  []string
	setup func(*consoletest.Fake)
}{
	{"status-degraded", ExitDegraded, []string{"status"}, nil},
	{"status-whole", ExitOK, []string{"status"}, func(f *consoletest.Fake) {
		f.StatusNow.SensorsStale, f.StatusNow.PeersEstablished = 0, 2
		f.StatusNow.Shadow = &console.Shadow{Source: "/etc/trafficmonitor/next.yaml", Hash: "ba9876543210fedc", Loaded: consoletest.Now.Add(-26 * time.Hour), Judged: 40, Differs: 3}
	}},
	{"status-bad", ExitDegraded, []string{"status", "--utc"}, func(f *consoletest.Fake) {
		s := &f.StatusNow
		s.NotReady, s.Leader, s.IsLeader = []string{"store: etcd does not answer since 12s"}, "", false
		s.Freeze = &mitigation.Freeze{Since: consoletest.Now.Add(-30 * time.Hour), Requester: "eva", Reason: "maintenance"}
		s.Frozen = []console.GroupFreeze{
			{Freeze: mitigation.Freeze{Group: "gone", Since: consoletest.Now.Add(-2 * time.Hour), Requester: "eva", Reason: "typo"}, Unknown: true},
			{Freeze: mitigation.Freeze{Group: "dns", Since: consoletest.Now.Add(-time.Hour), Requester: "ann", Reason: "new resolvers"}},
		}
		s.Shadow = &console.Shadow{Source: "next.yaml", Hash: "ba98", Loaded: consoletest.Now, Error: "next.yaml:3: groups: unknown key"}
		s.PolicyError = "policy.yaml:7: groups[0].limits: unknown key"
	}},
	{"status-held", ExitDegraded, []string{"status"}, func(f *consoletest.Fake) {
		f.StatusNow.SensorsStale, f.StatusNow.PeersEstablished = 0, 2
		f.StatusNow.PeersWaiting, f.StatusNow.PeersStalled = 1, 1
		f.StatusNow.Unconfirmed = consoletest.Now.Add(-5 * time.Minute)
		f.StatusNow.HeldFamilies = []string{"edge1 ipv6-flowspec"}
	}},
	{"status-breaker", ExitDegraded, []string{"status", "--utc"}, func(f *consoletest.Fake) {
		s := &f.StatusNow
		s.SensorsStale, s.PeersEstablished = 0, 2
		s.Freeze = &mitigation.Freeze{Since: consoletest.Now.Add(-time.Hour), Requester: mitigation.Breaker, Reason: "of 12 targets answered within 1m0s ..."}
		s.Breaker = console.Breaker{Opened: s.Freeze.Since, Reason: s.Freeze.Reason, HeldTargets: 12}
	}},
	{"status-json", ExitDegraded, []string{"status", "-o", "json"}, nil},
	{"sensors", ExitOK, []string{"sensors"}, nil},
	{"sensors-one", ExitOK, []string{"sensors", "rack1"}, nil},
	{"sensors-gone", ExitOK, []string{"sensors", "rack2"}, nil},
	{"sensors-unknown", ExitFailed, []string{"sensors", "rack3"}, nil},
	{"sensors-none", ExitOK, []string{"sensors"}, func(f *consoletest.Fake) { f.SensorList = nil }},
	{"sensors-json", ExitOK, []string{"sensors", "-o", "json"}, nil},
	{"peers", ExitOK, []string{"peers"}, nil},
	{"peers-speaker-away", ExitDegraded, []string{"peers"}, func(f *consoletest.Fake) { f.SpeakerError = "no such file or directory" }},
	{"peers-group", ExitOK, []string{"routers", "--group", "transit"}, nil},
	{"peers-group-unknown", ExitUsage, []string{"peers", "--group", "edge"}, nil},
	{"peers-held", ExitOK, []string{"peers"}, func(f *consoletest.Fake) {
		f.PeerList[0].StoreWait = time.Date(2026, 7, 26, 15, 4, 5, 0, time.UTC)
		f.PeerList[0].Stalled = consoletest.Now.Add(-72 * time.Second)
		f.PeerList[0].HeldFamilies = []console.HeldFamily{{Family: "ipv6-flowspec", Reason: "all ipv6-flowspec routes are kept from this router"}}
	}},
	{"quarantine-of-a-family", ExitOK, []string{"release-quarantine", "edge1", "ipv6-flowspec", "--reason", "upgraded"}, nil},
	{"quarantine-of-nothing", ExitUsage, []string{"release-quarantine", "edge1", "ipv6", "--reason", "upgraded"}, nil},
	{"peers-json", ExitOK, []string{"peers", "-o", "json"}, nil},
	{"incidents", ExitOK, []string{"incidents"}, nil},
	{"incidents-all", ExitOK, []string{"incidents", "--all", "--utc"}, nil},
	{"explain", ExitOK, []string{"explain", "203.0.113.10"}, nil},
	{"explain-typo", ExitUsage, []string{"explain", "203.0.113"}, nil},
	{"explain-down", ExitFailed, []string{"explain", "203.0.113.10"}, func(f *consoletest.Fake) { f.Fail("Explain", console.ErrUnavailable{Reason: "the engine has stopped"}) }},
	{"explain-at", ExitOK, []string{"explain", "203.0.113.10", "--at", "5m"}, nil},
	{"explain-at-quiet", ExitOK, []string{"explain", "203.0.113.11", "--at", "2026-03-01 01:00"}, nil},
	{"explain-id", ExitOK, []string{"explain", "m-1", "--utc"}, func(f *consoletest.Fake) { f.EventsIncomplete = "the record that controllers share cannot be read" }},
	{"explain-id-unknown", ExitFailed, []string{"explain", "m-77"}, nil},
	{"audit", ExitOK, []string{"audit", "--since", "48h"}, nil},
	{"audit-limit", ExitOK, []string{"audit", "--limit", "1"}, nil},
	{"audit-kind", ExitOK, []string{"audit", "--kind", "manual_withdraw,policy_loaded", "--since", "48h", "-o", "json"}, nil},
	{"audit-none", ExitOK, []string{"audit", "192.0.2.1"}, nil},
	{"audit-when", ExitUsage, []string{"audit", "--since", "yesterday"}, nil},
	{"incidents-json", ExitOK, []string{"incidents", "-o", "json"}, nil},
	{"incidents-none", ExitOK, []string{"incidents"}, func(f *consoletest.Fake) { f.IncidentList = nil }},
	{"mitigations", ExitOK, []string{"mitigations"}, nil},
	{"mitigations-all", ExitOK, []string{"mitigations", "--all"}, nil},
	{"mitigations-json", ExitOK, []string{"mitigations", "-o", "json"}, nil},
	{"routes", ExitOK, []string{"routes"}, nil},
	{"routes-json", ExitOK, []string{"routes", "-o", "json"}, nil},
	{"routes-speaker-away", ExitDegraded, []string{"routes"}, func(f *consoletest.Fake) {
		f.RoutesNow.SpeakerError, f.RoutesNow.Unexpected = "no such file or directory", nil
		for i := range f.RoutesNow.Desired {
			f.RoutesNow.Desired[i].Peers = nil
		}
	}},
	{"holds", ExitOK, []string{"holds"}, nil},
	{"holds-json", ExitOK, []string{"holds", "-o", "json"}, nil},
	{"policy", ExitOK, []string{"policy"}, func(f *consoletest.Fake) { f.PolicyNow.Error = "policy.yaml:7: x\npolicy.yaml:9: y" }},
	{"policy-json", ExitOK, []string{"policy", "-o", "json"}, nil},

	{"announce", ExitOK, []string{"announce", aRoute, "--ttl", "10m", "--reason", "ticket 4711"}, nil},
	{"announce-words", ExitOK, append(strings.Fields("announce "+aRoute), "--ttl", "10m", "--reason", "ticket 4711"), nil},
	{"announce-dry-run", ExitOK, []string{"announce", aRoute, "--ttl", "10m", "--reason", "ticket 4711", "--dry-run"}, nil},
	{"announce-json", ExitOK, []string{"announce", aRoute, "--ttl", "10m", "--reason", "ticket 4711", "-o", "json"}, nil},
	{"announce-refused", ExitFailed, []string{"announce", aRoute, "--ttl", "10m", "--reason", "ticket 4711"}, func(f *consoletest.Fake) {
		f.Fail("Announce", console.ErrRefused{Refusals: []console.Refusal{{Route: aRoute, Invariant: "protected", Reason: "203.0.113.5/32 is on the list of what no rule may touch"}}})
	}},
	{"announce-invalid", ExitUsage, []string{"announce", aRoute, "--ttl", "99h", "--reason", "ticket 4711"}, func(f *consoletest.Fake) {
		f.Fail("Announce", console.ErrInvalid{Fields: []console.FieldError{{Field: "ttl", Reason: "99h0m0s is above 24h0m0s"}}})
	}},
	{"announce-bad-route", ExitUsage, []string{"announce", "destination banana then drop", "--ttl", "1m", "--reason", "r"}, nil},
	{"announce-no-route", ExitUsage, []string{"announce", "--ttl", "1m", "--reason", "r"}, nil},
	{"announce-no-ttl", ExitUsage, []string{"announce", aRoute, "--reason", "r"}, nil},
	{"announce-no-reason", ExitUsage, []string{"announce", aRoute, "--ttl", "1m", "--reason", " "}, nil},
	{"announce-store-away", ExitFailed, []string{"announce", aRoute, "--ttl", "1m", "--reason", "r"}, func(f *consoletest.Fake) {
		f.Fail("Announce", console.ErrUnavailable{Reason: "etcd does not answer"})
	}},
	{"announce-no-leader", ExitFailed, []string{"announce", aRoute, "--ttl", "1m", "--reason", "r", "--timeout", "300ms"}, func(f *consoletest.Fake) {
		f.Fail("Announce", console.ErrNotLeader{})
	}},
	{"announce-leader-out-of-reach", ExitFailed, []string{"announce", aRoute, "--ttl", "1m", "--reason", "r"}, func(f *consoletest.Fake) {
		f.Fail("Announce", console.ErrNotLeader{Leader: "controller-2", Address: "192.0.2.12:7443"})
	}},
	{"announce-internal", ExitFailed, []string{"announce", aRoute, "--ttl", "1m", "--reason", "r"}, func(f *consoletest.Fake) { f.Panic("Announce") }},

	{"withdraw-id", ExitOK, []string{"withdraw", "m-3", "--reason", "done", "--hold", "2h"}, nil},
	{"withdraw-target", ExitOK, []string{"withdraw", "--target", "203.0.113.0/24", "--reason", "mistake", "--hold", "0"}, nil},
	{"withdraw-all", ExitOK, []string{"withdraw", "--all", "--reason", "mistake"}, nil},
	{"withdraw-nothing", ExitOK, []string{"withdraw", "--target", "198.51.100.0/24", "--reason", "mistake"}, nil},
	{"withdraw-json", ExitOK, []string{"withdraw", "m-3", "--reason", "done", "-o", "json"}, nil},
	{"withdraw-unknown", ExitFailed, []string{"withdraw", "m-99", "--reason", "r"}, nil},
	{"withdraw-no-selector", ExitUsage, []string{"withdraw", "--reason", "r"}, nil},
	{"withdraw-two-selectors", ExitUsage, []string{"withdraw", "m-1", "--all", "--reason", "r"}, nil},
	{"withdraw-two-ids", ExitUsage, []string{"withdraw", "m-1", "m-2", "--reason", "r"}, nil},
	{"withdraw-bad-target", ExitUsage, []string{"withdraw", "--target", "203.0.113.1/24", "--reason", "r"}, nil},
	{"withdraw-bad-hold", ExitUsage, []string{"withdraw", "--all", "--hold", "-1m", "--reason", "r"}, nil},

	{"red-button", ExitOK, []string{"withdraw", "--all", "--now", "--reason", "emergency"}, nil},
	{"red-button-json", ExitOK, []string{"withdraw", "--all", "--now", "--reason", "emergency", "-o", "json"}, nil},
	{"red-button-release", ExitOK, []string{"withdraw", "--release", "--reason", "over"}, nil},
	{"red-button-release-refused", ExitFailed, []string{"withdraw", "--release", "--reason", "forbidden"}, nil},
	{"red-button-no-reason", ExitUsage, []string{"withdraw", "--all", "--now"}, nil},
	{"red-button-not-all", ExitUsage, []string{"withdraw", "--now", "--reason", "r"}, nil},
	{"red-button-both", ExitUsage, []string{"withdraw", "--all", "--now", "--release", "--reason", "r"}, nil},
	{"red-button-mixed", ExitUsage, []string{"withdraw", "m-1", "--all", "--now", "--reason", "r"}, nil},
	{"red-button-tcp", ExitUsage, []string{"withdraw", "--all", "--now", "--speaker", "192.0.2.1:1", "--reason", "r"}, nil},
	{"red-button-away", ExitUnreachable, []string{"withdraw", "--all", "--now", "--speaker", "/nowhere/speaker.sock", "--reason", "r"}, nil},
	{"red-button-stray-speaker", ExitUsage, []string{"withdraw", "--all", "--speaker", "/run/x.sock", "--reason", "r"}, nil},

	{"release-hold", ExitOK, []string{"release-hold", "203.0.113.0/28", "--reason", "over"}, nil},
	{"release-hold-json", ExitOK, []string{"release-hold", "203.0.113.0/28", "--reason", "over", "-o", "json"}, nil},
	{"release-hold-unknown", ExitFailed, []string{"release-hold", "203.0.113.1", "--reason", "over"}, nil},
	{"release-quarantine", ExitOK, []string{"release-quarantine", "edge1", "--reason", "router upgraded"}, nil},
	{"release-quarantine-unknown", ExitFailed, []string{"release-quarantine", "edge9", "--reason", "router upgraded"}, nil},
	{"release-quarantine-no-route", ExitUsage, []string{"release-quarantine", "edge1", "not a route", "--reason", "router upgraded"}, nil},
	{"release-hold-no-target", ExitUsage, []string{"release-hold", "--reason", "over"}, nil},
	{"freeze", ExitOK, []string{"freeze", "--reason", "maintenance"}, nil},
	{"freeze-json", ExitOK, []string{"freeze", "--reason", "maintenance", "-o", "json"}, nil},
	{"freeze-group", ExitOK, []string{"freeze", "--group", "dns", "--reason", "new resolvers"}, nil},
	{"freeze-no-group", ExitUsage, []string{"freeze", "--group", "", "--reason", "x"}, nil},
	{"unfreeze-group", ExitOK, []string{"unfreeze", "--group", "dns", "--reason", "done"}, nil},
	{"freeze-no-reason", ExitUsage, []string{"freeze"}, nil},
	{"unfreeze", ExitOK, []string{"unfreeze", "--reason", "done"}, nil},

	{"route-parse", ExitOK, []string{"route", "parse", "destination 203.0.113.5 source-port 80,53,54 protocol 17 then rate-limit 1000kbps"}, nil},
	{"route-parse-json", ExitOK, []string{"route", "parse", "destination 2001:db8::5 then blackhole", "-o", "json"}, nil},
	{"route-parse-of-json", ExitOK, []string{"route", "parse", `{"match":{"destination":"203.0.113.5/32"},"action":{"do":"accept","redirect_target":"64500:100","sample":true}}`}, nil},
	{"route-parse-bad-json", ExitUsage, []string{"route", "parse", `{"match":{"destination":"203.0.113.5/32"},"action":{"do":"drop"}}`}, nil},
	{"route-render-junos", ExitOK, []string{"route", "render", "destination 203.0.113.5 protocol udp source-port 53 then discard", "--as", "junos"}, nil},
	{"route-render-json", ExitOK, []string{"route", "render", "destination 203.0.113.5 then blackhole", "--as", "frr", "-o", "json"}, nil},
	{"route-render-cannot", ExitFailed, []string{"route", "render", "destination 203.0.113.5 protocol tcp tcp-flags syn then discard", "--as", "eos"}, nil},
	{"route-render-as-what", ExitUsage, []string{"route", "render", "destination 203.0.113.5 then discard"}, nil},
	{"route-parse-bad", ExitUsage, []string{"route", "parse", "destination 203.0.113.5 prot udp then drop"}, nil},
	{"route-parse-too-long", ExitFailed, []string{"route", "parse", "destination 203.0.113.5 source-port " + oddPorts(78) + " then discard"}, nil},
	{"version", ExitOK, []string{"version"}, nil},
	{"version-json", ExitOK, []string{"version", "-o", "json"}, nil},

	{"unknown-command", ExitUsage, []string{"statsu"}, nil},
	{"unknown-flag", ExitUsage, []string{"status", "--bogus"}, nil},
	{"unknown-output", ExitUsage, []string{"status", "-o", "xml"}, nil},
	{"stray-argument", ExitUsage, []string{"status", "now"}, nil},
	{"bad-timeout", ExitUsage, []string{"status", "--timeout", "0s"}, nil},
	{"unreachable", ExitUnreachable, []string{"status", "--address", "unix:///nowhere/console.sock"}, nil},
	{"insecure-address", ExitUsage, []string{"status", "--address", "192.0.2.1:7443"}, nil},
	{"bad-address", ExitUsage, []string{"status", "--address", "console"}, nil},
	{"no-certificate", ExitUsage, []string{"status", "--address", "192.0.2.1:7443", "--tls-ca", "/nowhere/ca.crt"}, nil},
	{"internal-error", ExitFailed, []string{"status"}, func(f *consoletest.Fake) { f.Panic("Status") }},
}

func TestGolden(t *testing.T) {
	known := map[string]bool{}
	for _, tc := range goldens {
		known[tc.name+".golden"] = true
		t.Run(tc.name, func(t *testing.T) {
			b := newBench(t)
			if tc.setup != nil {
				tc.setup(b.fake)
			}
			r := b.run(t, tc.args...)
			if r.code != tc.code {
				t.Errorf("exit code %d, want %d\n%s%s", r.code, tc.code, r.stdout, r.stderr)
			}
			if strings.Contains(strings.Join(tc.args, " "), "-o json") && r.code != ExitUsage {
				if !json.Valid([]byte(r.stdout)) {
					t.Errorf("not JSON: %s", r.stdout)
				}
			}
			b.golden(t, tc.name, tc.args, r)
		})
	}
	files, err := filepath.Glob("testdata/*.golden")
	if err != nil || len(files) == 0 {
		t.Fatalf("no golden files: %v", err)
	}
	for _, f := range files {
		if !known[filepath.Base(f)] {
			t.Errorf("%s belongs to no test", f)
		}
	}
}

func TestNothingHappensOnUsageErrors(t *testing.T) {
	b := newBench(t)
	for _, tc := range goldens {
		if tc.code == ExitUsage && tc.setup == nil {
			b.run(t, tc.args...)
		}
	}
	if calls := b.fake.Calls(); len(calls) != 0 {
		t.Errorf("the system was asked for %+v", calls)
	}
}

func TestRequesterAndRequestID(t *testing.T) {
	b := newBench(t)
	ids := map[string]bool{}
	for range 2 {
		if r := b.run(t, "announce", aRoute, "--ttl", "1m", "--reason", "r"); r.code != ExitOK {
			t.Fatal(r.stderr)
		}
	}
	b.run(t, "announce", aRoute, "--ttl", "1m", "--reason", "r", "--request-id", "mine", "--requester", "otto")
	calls := b.fake.Calls()
	if len(calls) != 3 {
		t.Fatalf("calls %+v", calls)
	}
	for i, call := range calls {
		a := call.(console.Announce)
		ids[a.RequestID] = true
		want := "eva (unix"
		if i == 2 {
			want = "otto (unix"
		}
		if !strings.HasPrefix(a.Requester, want) || a.RequestID == "" {
			t.Errorf("call %d: requester %q, request id %q", i, a.Requester, a.RequestID)
		}
	}
	if len(ids) != 3 || !ids["mine"] {
		t.Errorf("request ids %v", ids)
	}
}

// oddPorts lists n ports of two octets each that no range joins.
func oddPorts(n int) string {
	ports := make([]string, n)
	for i := range ports {
		ports[i] = strconv.Itoa(1001 + 2*i)
	}
	return strings.Join(ports, ",")
}
