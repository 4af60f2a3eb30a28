package probe

import (
	"context"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/amooglesoft/trafficmonitor/internal/route"
)

func shell(script string) Command {
	return Command{Argv: []string{"/bin/sh", "-c", script}, Timeout: time.Minute} // the command becomes $0
}

func TestRun(t *testing.T) {
	out, err := shell(`printf %s "$0"`).Run(t.Context(), `show "x"; rm -rf / $(id) | cat`)
	if err != nil || string(out) != `show "x"; rm -rf / $(id) | cat` {
		t.Errorf("the router's command arrived as %q, %v", out, err)
	}
	_, err = shell(`echo not allowed >&2; exit 3`).Run(t.Context(), "show x")
	if err == nil || !strings.Contains(err.Error(), `ask the router "show x": exit status 3: "not allowed"`) {
		t.Errorf("got %v", err)
	}
	_, err = shell(`yes | head -c 1000000 >&2; exit 1`).Run(t.Context(), "show x")
	if err == nil || len(err.Error()) > 1000 {
		t.Errorf("an error of %d octets", len(err.Error()))
	}
	if _, err := (Command{}).Run(t.Context(), "x"); err == nil {
		t.Error("nothing was run, and that is fine")
	}
	if _, err := (Command{Argv: []string{"/nonexistent/ssh"}, Timeout: time.Minute}).Run(t.Context(), "x"); err == nil || !strings.Contains(err.Error(), "/nonexistent/ssh") {
		t.Errorf("got %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := shell("sleep 1000").Run(ctx, "x"); err == nil {
		t.Error("asked although all ends")
	}
}

func TestRunIsBounded(t *testing.T) {
	_, err := shell(`yes`).Run(t.Context(), "show x")
	if err == nil || !strings.Contains(err.Error(), "longer than 32 MiB") {
		t.Errorf("got %v", err)
	}

	c := shell(`sleep 1000`)
	c.Timeout = 50 * time.Millisecond
	if _, err = c.Run(t.Context(), "show x"); err == nil || !strings.Contains(err.Error(), "no answer within 50ms") {
		t.Errorf("got %v", err)
	}
}

// What the program started ends with it.
func TestRunEndsWhatItStarted(t *testing.T) {
	pids := filepath.Join(t.TempDir(), "pid")
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		_, err := shell(`sleep 1000 & echo $! > `+pids+`.new; mv `+pids+`.new `+pids+`; wait`).Run(ctx, "x")
		ended <- err
	}()
	var text []byte
	until(t, "the program has started another", func() (ok bool) {
		var err error
		text, err = os.ReadFile(pids)
		return err == nil
	})
	cancel()
	if err := <-ended; err == nil {
		t.Error("no error")
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		t.Fatal(err)
	}
	until(t, "the other has ended", func() bool { return syscall.Kill(pid, 0) != nil || zombie(pid) })
}

// until waits for a condition; the test's own limit ends it.
func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	limit := time.After(time.Minute)
	for !ok() {
		select {
		case <-limit:
			t.Fatalf("never: %s", what)
		case <-time.After(time.Millisecond):
		}
	}
}

func zombie(pid int) bool {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	return err != nil || strings.Contains(string(b), ") Z ")
}

func TestFind(t *testing.T) {
	r, err := Parse("junos", route.IPv4, []byte("Filter: __flowspec_default_inet__\nCounters:\nName Bytes Packets\n203.0.113.7,*,proto=17 12 3\n"))
	if err != nil {
		t.Fatal(err)
	}
	match := func(s string) route.Match {
		x, err := route.Parse(s + " then discard")
		if err != nil {
			t.Fatal(err)
		}
		return x.Match
	}
	if f := r.Index().Find(match("destination 203.0.113.7/32 protocol udp")); f.State != Installed || f.Packets != 3 {
		t.Errorf("%+v", f)
	}
	if f := r.Index().Find(match("destination 203.0.113.8/32")); f.State != NotInstalled || f.Why != "the router does not show it" {
		t.Errorf("%+v", f)
	}
	// FRR shows the rule of two neighbours twice, and installs the better one.
	twice := Reading{Rules: []Rule{{Match: match("destination 203.0.113.9/32"), State: NotInstalled}, {Match: match("destination 203.0.113.9/32"), State: Installed, Packets: 4}, {Match: match("destination 203.0.113.9/32"), State: NotInstalled}}}
	if f := twice.Index().Find(match("destination 203.0.113.9/32")); f.State != Installed || f.Packets != 4 {
		t.Errorf("%+v", f)
	}
	r.Unread, r.First = 1, "203.0.113.8,*,frag:01"
	if f := r.Index().Find(match("destination 203.0.113.8/32")); f.State != Unknown || !strings.Contains(f.Why, "frag:01") {
		t.Errorf("%+v", f)
	}
}

// A second command has the counters; without its answer the first still says what is installed.
func TestShellAsksForCounters(t *testing.T) {
	s := Shell{Command: shell(`case "$0" in rules) printf 'BGP flowspec entry:\n Destination Address 203.0.113.7/32\n installed in PBR (match0x1)\nDisplayed 1 entries\n';; hits) printf 'IPset match0x1 type net family IPv4\n to 203.0.113.7 (1)\n pkts 5, bytes 500\n';; *) exit 1;; esac`), Parser: "frr", IPv4: "rules", Counters: "hits"}
	got, err := s.Ask(t.Context(), both)
	if _, v6 := got[route.IPv6]; err != nil || v6 || len(got[route.IPv4].Rules) != 1 || got[route.IPv4].Rules[0].Packets != 5 || got[route.IPv4].Rules[0].Octets != 500 {
		t.Errorf("%+v %v", got, err)
	}
	s.Counters = "nothing"
	got, err = s.Ask(t.Context(), both)
	if err == nil || !strings.Contains(err.Error(), `"nothing"`) || len(got[route.IPv4].Rules) != 1 || got[route.IPv4].Rules[0].State != Installed || got[route.IPv4].Rules[0].HasPackets {
		t.Errorf("%+v %v", got, err)
	}
}
