package speaker

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/amooglesoft/trafficmonitor/internal/compile"
	"github.com/amooglesoft/trafficmonitor/internal/probe"
	"github.com/amooglesoft/trafficmonitor/internal/route"
)

const junosHead = "Filter: __flowspec_default_inet__\nCounters:\nName Bytes Packets\n"

// answers are what a router prints by its commands.
type answers map[string]string

func (a answers) Ask(_ context.Context, families []route.Family) (map[route.Family]probe.Reading, error) {
	out := map[route.Family]probe.Reading{}
	var errs []error
	for _, f := range families {
		show := map[route.Family]string{route.IPv4: "show 4", route.IPv6: "show 6"}[f]
		text, ok := a[show]
		if !ok {
			errs = append(errs, errors.New("ask the router "+show+": connection refused"))
			continue
		}
		r, err := probe.Parse("junos", f, []byte(text))
		if err != nil {
			errs = append(errs, fmt.Errorf("%q: %w", show, err))
			continue
		}
		out[f] = r
	}
	return out, errors.Join(errs...)
}

func testProber(a answers) *prober {
	return &prober{peer: "r", p: Probe{Interval: time.Minute, Timeout: time.Second}, by: a}
}

func TestProber(t *testing.T) {
	set := admitted(t, testLimits(), nil, "destination 192.0.2.1/32 protocol udp then discard", "destination 192.0.2.2/32 protocol udp then discard",
		"destination 2001:db8::1/128 protocol udp then discard", "destination 192.0.2.3/32 then blackhole")
	answers := answers{"show 4": junosHead + "192.0.2.1,*,proto=17 700 7\n"}
	b := testProber(answers)
	of := func(now time.Time, n ...int) Found {
		var ids []string
		for _, i := range n {
			ids = append(ids, set[i].id)
		}
		return b.of(now, ids)
	}
	if f := of(placeNow, 0); !f.At.IsZero() {
		t.Errorf("before it was asked: %+v", f)
	}
	err := b.once(t.Context(), placeNow, set)
	if err == nil || !strings.Contains(err.Error(), "show 6: connection refused") || b.all().Error != err.Error() || !b.all().At.IsZero() {
		t.Errorf("got %v, %+v", err, b.all())
	}
	if f := of(placeNow, 0); f.State != probe.Installed || f.Packets != 7 || f.Octets != 700 || !f.At.Equal(placeNow) {
		t.Errorf("%+v", f)
	}
	if f := of(placeNow, 1); f.State != probe.NotInstalled || f.Reason != "the router does not show it" {
		t.Errorf("%+v", f)
	}
	if f := of(placeNow, 2); !f.At.IsZero() {
		t.Errorf("nobody told of it: %+v", f)
	}
	if f := of(placeNow, 3); !f.At.IsZero() {
		t.Errorf("a blackhole is no rule of a filter: %+v", f)
	}
	// A route of two rules is installed when both are.
	if f := of(placeNow, 0, 1); f.State != probe.NotInstalled || f.Packets != 7 {
		t.Errorf("%+v", f)
	}

	// An answer that fails leaves the older one, which gets old.
	answers["show 6"] = "Filter: __flowspec_default_inet6__\nCounters:\nName Bytes Packets\n2001:db8::1,*,proto=17 10 1\n"
	if err := b.once(t.Context(), placeNow, set); err != nil {
		t.Fatal(err)
	}
	if p := b.all(); p != (Probed{Installed: 2, NotInstalled: 1, Packets: 8, At: placeNow}) {
		t.Errorf("%+v", p)
	}
	delete(answers, "show 4")
	later := placeNow.Add(time.Minute)
	if err := b.once(t.Context(), later, set); err == nil {
		t.Error("no error")
	}
	if f := of(later, 0); f.State != probe.Installed || !f.At.Equal(placeNow) {
		t.Errorf("%+v", f)
	}
	if f := of(placeNow.Add(10*time.Minute), 0); f.State != probe.Unknown || !strings.Contains(f.Reason, "too old") {
		t.Errorf("%+v", f)
	}
	answers["show 4"] = "error: syntax error, expecting <command>\n"
	if err := b.once(t.Context(), later, set); err == nil || !strings.Contains(err.Error(), `"show 4": the answer is not one of junos`) {
		t.Errorf("got %v", err)
	}
	b.forget()
	if p := b.all(); p.Installed != 0 || p.Error != "" {
		t.Errorf("%+v", p)
	}
}

// From a router's answer to the status, through a program that is really run, for a route that is two rules there.
func TestProbedRoutes(t *testing.T) {
	t.Parallel()
	answer := filepath.Join(t.TempDir(), "answer")
	write := func(rules string) {
		t.Helper()
		if err := os.WriteFile(answer+".new", []byte(junosHead+rules), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(answer+".new", answer); err != nil {
			t.Fatal(err)
		}
	}
	write("192.0.2.1,*,proto=17,srcport=53 100 1\n192.0.2.1,*,proto=17,srcport>=100&<=200 900 3\n")
	f := newFakeRouter(t).serve()
	p := f.peer("r")
	p.Profile = compile.Profile{Name: "x", Split: 4, Unmixed: true}
	p.Probe = Probe{Argv: []string{"/bin/sh", "-c", `[ "$0" = "show 4" ] && exec cat ` + answer}, Parser: "junos", IPv4: "show 4", Interval: time.Second, Timeout: 10 * time.Second}
	s := start(t, testOptions(t, p))
	const both = "destination 192.0.2.1/32 protocol udp source-port 53,100-200 then discard"
	s.set(1, 1, desired(t, both))
	var st PeerRoute
	waitFor(t, "an answer", func() bool {
		st = s.stateAt(t, "r", both)
		return !st.Found.At.IsZero()
	})
	if st.State != Sent || st.Found.State != probe.Installed || st.Found.Packets != 4 || st.Found.Octets != 1000 || !slices.Contains(st.Rules, "destination 192.0.2.1/32 protocol udp source-port 53 then discard") {
		t.Errorf("%+v", st)
	}
	if ps := s.status().Peers[0]; ps.Profile != "x" || ps.Cost != 2 || ps.Probed.Installed != 2 || ps.Probed.Packets != 4 || ps.Probed.At.IsZero() {
		t.Errorf("%+v", ps)
	}

	write("192.0.2.1,*,proto=17,srcport=53 100 1\n")
	waitFor(t, "the missing rule is seen", func() bool {
		st = s.stateAt(t, "r", both)
		return st.Found.State == probe.NotInstalled
	})
	if st.Found.Reason != "the router does not show it" {
		t.Errorf("%+v", st)
	}
	if err := os.Remove(answer); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "the error is told", func() bool { return strings.Contains(s.status().Peers[0].Probed.Error, `ask the router "show 4"`) })
}

// An agent that is silent costs a line in the status and nothing else.
func TestProbesThatFailDisturbNoSession(t *testing.T) {
	t.Parallel()
	silent, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { silent.Close() })
	f := newFakeRouter(t).serve()
	p := f.peer("r")
	at := silent.LocalAddr().(*net.UDPAddr).AddrPort()
	p.Probe = Probe{SNMP: &probe.SNMP{Address: at, Table: "junos", Community: "sesame"}, Interval: time.Second, Timeout: 200 * time.Millisecond}
	s := start(t, testOptions(t, p))
	const one = "destination 192.0.2.1/32 protocol udp then discard"
	s.set(1, 1, desired(t, one))
	waitFor(t, "the error is told", func() bool { return s.status().Peers[0].Probed.Error != "" })
	st := s.status().Peers[0]
	if e := st.Probed.Error; !strings.Contains(e, at.String()) || !strings.Contains(e, "jnxFWCounterPacketCount") || strings.Contains(e, "sesame") {
		t.Errorf("told is %q", e)
	}
	if r := s.stateAt(t, "r", one); r.State != Sent || !r.Found.At.IsZero() || st.Established != 1 || !st.Probed.At.IsZero() {
		t.Errorf("%+v %+v", r, st)
	}
}

// slowRouter answers late, as often as it is told, and notes when it was asked.
type slowRouter struct {
	late  int
	asked []time.Time
}

func (r *slowRouter) Ask(context.Context, []route.Family) (map[route.Family]probe.Reading, error) {
	r.asked = append(r.asked, time.Now())
	if r.late == 0 {
		return map[route.Family]probe.Reading{}, nil
	}
	r.late--
	return nil, fmt.Errorf("ask the router: %w", probe.ErrLate)
}

// A router whose table is too long for the timeout is not asked for it again at each interval.
func TestLateAnswersGrowThePause(t *testing.T) {
	rules := admitted(t, testLimits(), nil, "destination 192.0.2.1/32 protocol udp then discard")
	m, err := newMetrics(prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		interval, timeout time.Duration
		late              int
		gone              bool // the session and its rules, after the last late answer
		want              []time.Duration
	}{
		"grows to its bound and ends": {30 * time.Second, 10 * time.Second, 5, false, []time.Duration{30, 60, 120, 200, 200, 200, 30, 30}},
		"long interval":               {time.Hour, 10 * time.Second, 2, false, []time.Duration{3600, 3600, 3600}},
		"short timeout":               {30 * time.Second, time.Second, 2, false, []time.Duration{30, 30, 30}},
		"anew in a new session":       {30 * time.Second, 10 * time.Second, 3, true, []time.Duration{30, 60, 120, 230, 30}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := &slowRouter{late: c.late}
				b := &prober{peer: "r", p: Probe{Interval: c.interval, Timeout: c.timeout}, by: r}
				var out bytes.Buffer
				log := slog.New(slog.NewTextHandler(&out, nil))
				ctx, cancel := context.WithCancel(t.Context())
				begun := time.Now()
				rested := false
				go b.run(ctx, m, log, func(time.Time) []*item {
					if c.gone && r.late == 0 && !rested {
						rested = true
						return nil
					}
					return rules
				}, func() {
					if p := b.all(); p.Pause > 0 && !strings.Contains(p.Error, "asked again after "+p.Pause.String()) {
						t.Errorf("%+v", p)
					}
					if len(r.asked) == len(c.want) {
						cancel()
					}
				})
				<-ctx.Done()
				synctest.Wait()
				last := begun
				for i, at := range r.asked {
					if got, want := at.Sub(last), c.want[i]*time.Second; got != want {
						t.Errorf("question %d came after %s, want %s", i, got, want)
					}
					last = at
				}
				if b.all().Pause != 0 {
					t.Errorf("%+v", b.all())
				}
				longer := 0
				if slices.ContainsFunc(c.want, func(d time.Duration) bool { return d*time.Second > c.interval }) {
					longer = 1
				}
				if n := strings.Count(out.String(), "level=WARN"); n != longer {
					t.Errorf("%d warnings:\n%s", n, &out)
				}
				if n := strings.Count(out.String(), "level=INFO"); n != longer {
					t.Errorf("%d times told that it is over:\n%s", n, &out)
				}
			})
		})
	}
}

func TestProbeOptions(t *testing.T) {
	o := testOptions(t, Peer{Name: "r", Address: mustParse("destination 192.0.2.9/32 then blackhole").Match.Destination.Addr(), ASN: 1})
	o.Peers[0].Profile.Name = "bird"
	o.Peers[0].Probe = Probe{Argv: []string{"ssh"}, Interval: time.Millisecond}
	err := o.Check()
	for _, want := range []string{"profile bird does not say how to read the router's answer", "interval 1ms"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("nothing says %q: %v", want, fmt.Sprint(err))
		}
	}
}
