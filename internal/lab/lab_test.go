package lab

import (
	"context"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/amooglesoft/trafficmonitor/internal/route"
)

func deadline(t *testing.T, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

func mustRoute(t *testing.T, text string) route.Route {
	t.Helper()
	r, err := route.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// leftovers lists what of the lab is still on the machine.
func leftovers(t *testing.T, id string) []string {
	t.Helper()
	var out []string
	for _, pattern := range []string{netnsDir + "/" + id + "-*", os.TempDir() + "/" + id + "-*"} {
		m, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, m...)
	}
	pids, err := marked()
	if err != nil {
		t.Fatal(err)
	}
	for pid, of := range pids {
		if of == id {
			cmdline, _ := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/cmdline")
			out = append(out, strings.ReplaceAll(string(cmdline), "\x00", " "))
		}
	}
	return out
}

func TestTopology(t *testing.T) {
	l := New(t, "topology")
	ctx := deadline(t, 20*time.Second)
	a, b, c := namespace(t, l, "a"), namespace(t, l, "b"), namespace(t, l, "c")
	_, _, err := l.Link(End{In: a, Addresses: []string{"10.1.0.1/24", "2001:db8:1::1/64"}}, End{In: b, Addresses: []string{"10.1.0.2/24", "2001:db8:1::2/64"}})
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := l.Link(End{In: b, Addresses: []string{"10.2.0.1/24", "2001:db8:2::1/64"}}, End{In: c, Addresses: []string{"10.2.0.2/24", "2001:db8:2::2/64"}}); err != nil {
		t.Fatal(err)
	}
	for _, r := range []struct {
		in       *Namespace
		dst, via string
	}{
		{a, "10.2.0.0/24", "10.1.0.2"},
		{a, "2001:db8:2::/64", "2001:db8:1::2"},
		{c, "0.0.0.0/0", "10.2.0.1"},
		{c, "::/0", "2001:db8:2::1"},
	} {
		if err := r.in.AddRoute(r.dst, netip.MustParseAddr(r.via)); err != nil {
			t.Fatal(err)
		}
	}
	for _, to := range []string{"10.2.0.2", "2001:db8:2::2"} {
		// On a busy machine the kernel drops the first IPv6 packets of a new link.
		if err := Until(ctx, to+" to answer", func(ctx context.Context) error {
			_, err := a.Run(ctx, "ping", "-c", "1", "-W", "1", to)
			return err
		}); err != nil {
			t.Error(err)
		}
	}
	// A descendant that wants to outlive its parent must not outlive the lab.
	p, err := b.Start(Command{Name: "runaway", Argv: []string{"sh", "-c", "setsid sleep 1000 & echo away; exit 3"}})
	if err != nil {
		t.Fatal(err)
	}
	<-p.Done()
	if p.Err() == nil || !strings.Contains(l.Tails(5), "away") {
		t.Errorf("exit %v, logs %s", p.Err(), l.Tails(5))
	}
	if len(leftovers(t, l.ID())) < 5 {
		t.Errorf("nothing there: %v", leftovers(t, l.ID()))
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	if left := leftovers(t, l.ID()); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

// namespace makes a namespace.
func namespace(t *testing.T, l *Lab, name string) *Namespace {
	t.Helper()
	n, err := l.Namespace(name)
	return Must(t, n, err)
}

// The child test runs in a process of its own, is ended in several ways, and must leave nothing.
func TestCleanUpAfterDeath(t *testing.T) {
	NeedRoot(t)
	for name, how := range map[string]os.Signal{"interrupt": os.Interrupt, "kill": os.Kill, "panic": nil} {
		t.Run(name, func(t *testing.T) {
			cmd := exec.CommandContext(deadline(t, 30*time.Second), os.Args[0], "-test.run=^TestChild$", "-test.v")
			cmd.Env = append(os.Environ(), "LAB_CHILD="+name)
			out, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			id := ""
			buf := make([]byte, 4096)
			var text strings.Builder
			for {
				n, err := out.Read(buf)
				text.Write(buf[:n])
				if _, rest, ok := strings.Cut(text.String(), "LAB="); ok && id == "" && strings.Contains(rest, "\n") {
					id, _, _ = strings.Cut(rest, "\n")
					if len(leftovers(t, id)) == 0 {
						t.Error("the child has no lab")
					}
					if how != nil {
						if err := cmd.Process.Signal(how); err != nil {
							t.Fatal(err)
						}
					}
				}
				if err != nil {
					break
				}
			}
			if err := cmd.Wait(); err == nil || id == "" {
				t.Fatalf("the child was not ended: %v\n%s", err, text.String())
			}
			if name == "kill" { // nobody was there to clean up: the next lab does it
				if len(leftovers(t, id)) == 0 {
					t.Error("a killed process left nothing: the test tests nothing")
				}
				New(t, "next")
			}
			if left := leftovers(t, id); len(left) > 0 {
				t.Errorf("left behind: %v", left)
			}
		})
	}
}

func TestChild(t *testing.T) {
	how := os.Getenv("LAB_CHILD")
	if how == "" {
		return // only as a child of TestCleanUpAfterDeath
	}
	l := New(t, "child")
	n := namespace(t, l, "x")
	if _, err := n.Start(Command{Argv: []string{"sh", "-c", "setsid sleep 1000 & sleep 1000"}}); err != nil {
		t.Fatal(err)
	}
	os.Stdout.WriteString("LAB=" + l.ID() + "\n")
	if how == "panic" {
		panic("on purpose")
	}
	<-deadline(t, 20*time.Second).Done()
}
