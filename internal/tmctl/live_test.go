package tmctl

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/amooglesoft/trafficmonitor/internal/console"
	"github.com/amooglesoft/trafficmonitor/internal/console/consoletest"
	"github.com/amooglesoft/trafficmonitor/internal/pki"
)

// ca makes certificates for tests, through tmctl itself.
type ca struct{ dir string }

func newCA(t testing.TB) ca {
	t.Helper()
	c := ca{filepath.Join(t.TempDir(), "pki")}
	c.tmctl(t, "pki", "init", "--dir", c.dir)
	return c
}

func (c ca) tmctl(t testing.TB, args ...string) string {
	t.Helper()
	var stdout, stderr bytes.Buffer // with the real clock: the certificates are used
	if code := Run(t.Context(), args, Env{Stdout: &stdout, Stderr: &stderr}); code != ExitOK {
		t.Fatalf("tmctl %v: exit code %d: %s", args, code, &stderr)
	}
	return stdout.String()
}

func (c ca) issue(t testing.TB, role, name string, hosts ...string) pki.Files {
	t.Helper()
	args := []string{"pki", "issue", "--dir", c.dir, "--role", role, "--name", name, "-o", "json"}
	for _, h := range hosts {
		args = append(args, "--host", h)
	}
	var m made
	if err := json.Unmarshal([]byte(c.tmctl(t, args...)), &m); err != nil {
		t.Fatal(err)
	}
	return pki.Files{CA: m.CA, Cert: m.Cert, Key: m.Key}
}

func flags(f pki.Files) []string {
	return []string{"--tls-ca", f.CA, "--tls-cert", f.Cert, "--tls-key", f.Key}
}

func contains(t *testing.T, what, s string, wants ...string) {
	t.Helper()
	for _, want := range wants {
		if !strings.Contains(s, want) {
			t.Errorf("%s lacks %q:\n%s", what, want, s)
		}
	}
}

func TestOverTLS(t *testing.T) {
	c := newCA(t)
	f := consoletest.New()
	address := serveConsole(t, f, "127.0.0.1:0", c.issue(t, "controller", "c1", "127.0.0.1")).Addr().String()
	announce := []string{"announce", aRoute, "--ttl", "1m", "--reason", "r", "--address", address}

	if r := run(t.Context(), nil, append(announce, flags(c.issue(t, "operator", "otto"))...)...); r.code != ExitOK {
		t.Errorf("operator: exit code %d: %s", r.code, r.stderr)
	}
	if calls := f.Calls(); len(calls) != 1 || calls[0].(console.Announce).Requester != "otto" {
		t.Errorf("operator: calls %+v", calls)
	}
	viewer := c.issue(t, "viewer", "vera")
	r := run(t.Context(), nil, append(announce, flags(viewer)...)...)
	if r.code != ExitFailed {
		t.Errorf("viewer: exit code %d", r.code)
	}
	contains(t, "viewer's error", r.stderr, address, `"vera" has the role viewer, and this needs operator or approver`)

	// The same by environment.
	env := map[string]string{"TMCTL_ADDRESS": address, "TMCTL_TLS_CA": viewer.CA, "TMCTL_TLS_CERT": viewer.Cert, "TMCTL_TLS_KEY": viewer.Key}
	if r := run(t.Context(), env, "status"); r.code != ExitDegraded {
		t.Errorf("viewer's status: exit code %d: %s", r.code, r.stderr)
	}

	other := newCA(t)
	mixed := other.issue(t, "viewer", "eve")
	r = run(t.Context(), nil, append([]string{"status", "--address", address}, flags(mixed)...)...)
	if r.code != ExitUnreachable {
		t.Errorf("trusting another CA: exit code %d", r.code)
	}
	contains(t, "the error", r.stderr, "unknown authority", "--tls-ca")
	mixed.CA = viewer.CA
	r = run(t.Context(), nil, append([]string{"status", "--address", address}, flags(mixed)...)...)
	if r.code != ExitUnreachable {
		t.Errorf("certificate of another CA: exit code %d", r.code)
	}
	contains(t, "the error", r.stderr, "--tls-cert")
	r = run(t.Context(), nil, "status", "--address", address)
	if r.code != ExitUnreachable {
		t.Errorf("without a certificate: exit code %d", r.code)
	}
	contains(t, "the error", r.stderr, "--tls-ca")
}

func TestFollowsTheLeader(t *testing.T) {
	leader, follower := newBench(t), newBench(t)
	follower.fake.Fail("Announce", console.ErrNotLeader{Leader: "controller-2", Address: leader.address})
	r := follower.run(t, "announce", aRoute, "--ttl", "1m", "--reason", "r")
	if r.code != ExitOK || len(leader.fake.Calls()) != 1 {
		t.Errorf("exit code %d: %s", r.code, r.stderr)
	}
	contains(t, "stderr", r.stderr, follower.address+" does not lead; asking the leader controller-2 at "+leader.address)

	// Two that each take the other for the leader are asked once each.
	leader.fake.Fail("Announce", console.ErrNotLeader{Leader: "controller-1", Address: follower.address})
	r = follower.run(t, "announce", aRoute, "--ttl", "1m", "--reason", "r")
	if r.code != ExitFailed || strings.Count(r.stderr, "asking the leader") != 1 {
		t.Errorf("exit code %d: %s", r.code, r.stderr)
	}
}

// notice is called when a command says that it waits for a leader.
type notice struct {
	syncBuffer
	then func()
}

func (n *notice) Write(p []byte) (int, error) {
	if strings.Contains(string(p), "there is no leader at the moment; asking again") {
		n.then()
	}
	return n.syncBuffer.Write(p)
}

func TestWaitsForALeader(t *testing.T) {
	dead := "unix://" + t.TempDir() + "/s"
	withdraw := []string{"withdraw", "m-3", "--reason", "r"}
	for name, tc := range map[string]struct {
		says  console.ErrNotLeader
		after error // what is said from then on
		args  []string
		code  int
	}{
		"elected":    {console.ErrNotLeader{}, nil, withdraw, ExitOK},
		"ready":      {console.ErrNotLeader{Changing: true}, nil, withdraw, ExitOK},
		"died":       {console.ErrNotLeader{Leader: "controller-2", Address: dead}, nil, withdraw, ExitOK},
		"refused":    {console.ErrNotLeader{}, console.ErrRefused{Refusals: []console.Refusal{{Invariant: "x", Reason: "no"}}}, withdraw, ExitFailed},
		"store away": {console.ErrNotLeader{}, console.ErrUnavailable{Reason: "etcd: dial tcp: refused"}, withdraw, ExitFailed},
		"never":      {console.ErrNotLeader{}, console.ErrNotLeader{}, append([]string{"--timeout", "20ms"}, withdraw...), ExitFailed},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			b.fake.Fail("Withdraw", tc.says)
			waits := 0
			stderr := &notice{then: func() { waits++; b.fake.Fail("Withdraw", tc.after) }}
			code := Run(t.Context(), append(tc.args, "--address", b.address), Env{
				Stdout: &bytes.Buffer{}, Stderr: stderr, Now: func() time.Time { return consoletest.Now },
				Getenv: func(k string) string { return map[string]string{"USER": "eva"}[k] },
			})
			if code != tc.code || waits != 1 || strings.Count(stderr.String(), "does not lead") > 1 {
				t.Errorf("exit code %d, waited %d times: %s", code, waits, stderr.String())
			}
		})
	}
	t.Run("interrupted", func(t *testing.T) {
		b := newBench(t)
		b.fake.Fail("Withdraw", console.ErrNotLeader{})
		ctx, stop := context.WithCancel(t.Context())
		stderr := &notice{then: stop}
		if code := Run(ctx, append(withdraw, "--timeout", "1h", "--address", b.address), Env{
			Stdout: &bytes.Buffer{}, Stderr: stderr, Now: func() time.Time { return consoletest.Now }, Getenv: func(k string) string { return map[string]string{"USER": "eva"}[k] },
		}); code != ExitFailed {
			t.Errorf("exit code %d: %s", code, stderr.String())
		}
	})
}

func TestNeverWaitsForEver(t *testing.T) {
	silent, err := net.Listen("tcp", "127.0.0.1:0") // takes connections and says nothing
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	for _, args := range [][]string{
		{"status"},
		{"watch"},
		{"announce", aRoute, "--ttl", "1m", "--reason", "r"},
	} {
		begin := time.Now()
		r := run(t.Context(), map[string]string{"USER": "eva"}, append(args, "--address", silent.Addr().String(), "--timeout", "50ms")...)
		if r.code != ExitUnreachable {
			t.Errorf("%v: exit code %d: %s", args, r.code, r.stderr)
		}
		if took := time.Since(begin); took > 10*time.Second {
			t.Errorf("%v took %v", args, took)
		}
		contains(t, "stderr", r.stderr, "--timeout")
		if doubt := strings.Contains(r.stderr, "may have happened"); doubt != (args[0] == "announce") {
			t.Errorf("%v: %s", args, r.stderr)
		}
		if args[0] == "announce" {
			contains(t, "stderr", r.stderr, "add --request-id ")
		}
	}
}

// syncBuffer is a buffer that may be read while a command writes to it.
type syncBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

func TestWatch(t *testing.T) {
	event := console.Event{
		Time: consoletest.Now.Add(123 * time.Millisecond), Kind: "incident_onset", Message: "203.0.113.10/32: dns-amplification\x1b[2J",
		Attributes: map[string]string{"incident": "i-1", "reason": "100000 pps is above 20000 pps"},
	}
	for _, tc := range []struct {
		name, want string
		args       []string
	}{
		{"table", "13:00:00.123  incident_onset          203.0.113.10/32: dns-amplification?[2J  incident=i-1  reason=\"100000 pps is above 20000 pps\"\n", nil},
		{"utc", "12:00:00.123  incident_onset", []string{"--utc"}},
		{"json", `{"time":"2026-03-01T12:00:00.123Z","kind":"incident_onset","message":"203.0.113.10/32: dns-amplification\u001b[2J","attributes":{"incident":"i-1","reason":"100000 pps is above 20000 pps"},"lost":"0","controller":""}` + "\n", []string{"-o", "json"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			b := newBench(t)
			done := make(chan result, 1)
			go func() { done <- b.run(t, append([]string{"watch", "--count", "2"}, tc.args...)...) }()
			<-b.fake.Subscribed()
			b.fake.Emit(event)
			b.fake.Emit(event)
			r := <-done
			if r.code != ExitOK {
				t.Errorf("exit code %d: %s", r.code, r.stderr)
			}
			contains(t, "stdout", r.stdout, tc.want)
			if n := strings.Count(r.stdout, "\n"); n != 2 {
				t.Errorf("%d lines, want 2:\n%s", n, r.stdout)
			}
		})
	}
}

func TestWatchEnds(t *testing.T) {
	t.Run("interrupt", func(t *testing.T) {
		b := newBench(t)
		ctx, interrupt := context.WithCancel(t.Context())
		done := make(chan result, 1)
		go func() { done <- run(ctx, map[string]string{"TMCTL_ADDRESS": b.address}, "watch", "--timeout", "1h") }()
		<-b.fake.Subscribed()
		interrupt()
		// Interrupted before or after the start: both are fine ways to end, an error that blames the system is not.
		if r := <-done; r.code != ExitOK && !strings.Contains(r.stderr, "interrupted") {
			t.Errorf("exit code %d: %s", r.code, r.stderr)
		}
	})
	t.Run("time", func(t *testing.T) {
		if r := newBench(t).run(t, "watch", "--for", "1ms"); r.code != ExitOK {
			t.Errorf("exit code %d: %s", r.code, r.stderr)
		}
	})
	t.Run("denied", func(t *testing.T) {
		c := newCA(t)
		address := serveConsole(t, consoletest.New(), "127.0.0.1:0", c.issue(t, "controller", "c1", "127.0.0.1")).Addr().String()
		r := run(t.Context(), nil, append([]string{"watch", "--address", address}, flags(c.issue(t, "sensor", "rack1"))...)...)
		if r.code != ExitFailed {
			t.Errorf("exit code %d", r.code)
		}
		contains(t, "stderr", r.stderr, "has the role sensor")
	})
}

func TestEventsLostAreSaid(t *testing.T) {
	b := newBench(t)
	var stdout syncBuffer
	done := make(chan int, 1)
	started := make(chan struct{})
	go func() {
		done <- Run(t.Context(), []string{"watch", "--address", b.address}, Env{
			Stdout: &slowWriter{w: &stdout, wait: started}, Stderr: &bytes.Buffer{}, Now: func() time.Time { return consoletest.Now },
		})
	}()
	<-b.fake.Subscribed()
	for i := range 20_000 {
		b.fake.Emit(console.Event{Time: consoletest.Now, Kind: "route_sent", Message: fmt.Sprint(i) + strings.Repeat("x", 500)})
	}
	close(started)
	// A message of the server says it: "N events were not sent because this reader was too slow".
	for !strings.Contains(stdout.String(), "events_lost") {
		select {
		case <-t.Context().Done():
			t.Fatal("nothing was said of lost events")
		case code := <-done:
			t.Fatalf("watch ended with %d", code)
		default:
			b.fake.Emit(console.Event{Time: consoletest.Now, Kind: "tick", Message: "tick"})
		}
	}
}

// slowWriter is a terminal that takes nothing for a while.
type slowWriter struct {
	w    *syncBuffer
	wait chan struct{}
}

func (s *slowWriter) Write(p []byte) (int, error) {
	<-s.wait
	return s.w.Write(p)
}

func TestPKI(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "pki")
	tmctl := func(args ...string) result { return run(t.Context(), nil, append(args, "--dir", dir)...) }
	r := tmctl("pki", "issue", "--role", "sensor", "--name", "rack1")
	if r.code != ExitFailed {
		t.Errorf("issue without an authority: exit code %d", r.code)
	}
	contains(t, "stderr", r.stderr, "tmctl pki init --dir "+dir)
	if r = tmctl("pki", "init"); r.code != ExitOK {
		t.Fatal(r.stderr)
	}
	contains(t, "stdout", r.stdout, dir+"/ca.crt", "valid until 2031-02-28", "tmctl pki issue")
	if r = tmctl("pki", "init"); r.code != ExitFailed {
		t.Errorf("second init: exit code %d", r.code)
	}
	contains(t, "stderr", r.stderr, "--force")
	if r = tmctl("pki", "init", "--force"); r.code != ExitOK {
		t.Error(r.stderr)
	}
	contains(t, "stderr", r.stderr, "issue them again")
	r = tmctl("pki", "issue", "--role", "controller", "--name", "c1", "--host", "c1.example", "--host", "192.0.2.1", "--lifetime", "24h", "-o", "json")
	contains(t, "stdout", r.stdout, `"cert": "`+dir+`/c1.crt"`, `"end": "2026-03-02T12:00:00Z"`)
	for _, args := range [][]string{
		{"pki", "issue"},
		{"pki", "issue", "--role", "sensor"},
		{"pki", "init", "--lifetime", "-1h"},
	} {
		if r := tmctl(args...); r.code != ExitUsage {
			t.Errorf("%v: exit code %d: %s", args, r.code, r.stderr)
		}
	}
	if r = tmctl("pki", "issue", "--role", "king", "--name", "x"); r.code != ExitFailed {
		t.Errorf("unknown role: exit code %d", r.code)
	}
	contains(t, "stderr", r.stderr, "use sensor, controller, viewer, operator, approver")
	if info, err := os.Stat(dir + "/c1.key"); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("key %v %v", info, err)
	}
}

// The red button is pressed from units and scripts too, where no variable names the user.
func TestRequesterIsNeverEmpty(t *testing.T) {
	b := newBench(t)
	if r := run(t.Context(), nil, "withdraw", "--all", "--now", "--speaker", b.speaker, "--reason", "emergency"); r.code != ExitOK {
		t.Errorf("exit code %d: %s", r.code, r.stderr)
	}
}

func TestCompletion(t *testing.T) {
	b := newBench(t)
	for _, shell := range []string{"bash", "zsh", "fish", "powershell"} {
		if r := b.run(t, "completion", shell); r.code != ExitOK || !strings.Contains(r.stdout, "tmctl") {
			t.Errorf("%s: exit code %d", shell, r.code)
		}
	}
	r := b.run(t, "__complete", "withdraw", "")
	contains(t, "completion of withdraw", r.stdout, "m-1\t203.0.113.10/32", "m-3")
	r = b.run(t, "__complete", "release-hold", "")
	contains(t, "completion of release-hold", r.stdout, "203.0.113.0/28\tcustomer tests")
	r = b.run(t, "__complete", "pki", "issue", "--role", "")
	contains(t, "completion of role", r.stdout, "approver")
}

func TestNumbersForPeople(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0: "0s", 3: "3ns", 1500 * time.Nanosecond: "1.5us", 400 * time.Millisecond: "400ms", time.Second: "1s", 95 * time.Second: "1m35s",
		time.Hour: "1h", 26 * time.Hour: "1d2h", 24*time.Hour + time.Minute: "1d", -1500 * time.Microsecond: "-1.5ms", 1000 * 24 * time.Hour: "1000d",
	} {
		if got := duration(d); got != want {
			t.Errorf("duration(%v) = %q, want %q", d, got, want)
		}
	}
	for v, want := range map[float64]string{
		0: "-", 1: "1pps", 999: "999pps", 999.9: "1kpps", 104000: "104kpps", 1.25e6: "1.25Mpps", 1.2e9: "1.2Gpps", 3.4e13: "34Tpps", 0.5: "0.5pps",
	} {
		if got := scaled(v, "pps"); got != want {
			t.Errorf("scaled(%v) = %q, want %q", v, got, want)
		}
	}
}
