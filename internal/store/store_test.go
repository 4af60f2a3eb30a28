package store

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/amooglesoft/trafficmonitor/internal/mitigation"
	"github.com/amooglesoft/trafficmonitor/internal/route"
	"github.com/amooglesoft/trafficmonitor/internal/vector"
)

// patience bounds every wait of the tests. It is no measurement: a test that needs it has failed.
const patience = 20 * time.Second

// logWriter sends log lines to the test's output.
type logWriter struct {
	t    testing.TB
	mu   sync.Mutex
	done bool
}

func (w *logWriter) Write(b []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.done {
		w.t.Logf("%s", b)
	}
	return len(b), nil
}

func testLog(t testing.TB) *slog.Logger {
	w := &logWriter{t: t}
	t.Cleanup(func() { w.mu.Lock(); w.done = true; w.mu.Unlock() })
	return slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{Level: slog.LevelInfo}))
}

// open opens a store that the test closes at its end at the latest.
func open(t testing.TB, o Options) *Store {
	t.Helper()
	if o.Name == "" {
		o.Name = "one"
	}
	if o.Log == nil {
		o.Log = testLog(t)
	}
	s, err := Open(context.Background(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closeStore(t, s) })
	return s
}

func closeStore(t testing.TB, s *Store) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := s.Close(ctx); err != nil {
		t.Errorf("close: %v", err)
	}
}

// leading is a controller that leads until stop is called.
type leading struct {
	*Term
	ctx  context.Context // of the term
	stop func()          // resigns and waits
}

// lead makes s lead, waits until it does, and keeps it so until stop.
func lead(t testing.TB, s *Store) leading {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	terms := make(chan leading, 1)
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := s.Lead(ctx, func(tctx context.Context, term *Term) error {
			select {
			case terms <- leading{Term: term, ctx: tctx}:
			default:
			}
			<-tctx.Done()
			return nil
		}); err != nil && !errors.Is(err, ErrClosed) {
			t.Errorf("lead: %v", err)
		}
	}()
	stop := sync.OnceFunc(func() { cancel(); <-done })
	t.Cleanup(stop)
	select {
	case l := <-terms:
		l.stop = stop
		return l
	case <-time.After(patience):
		t.Fatalf("%s does not lead; health: %v", s.opts.Name, s.Healthy())
	}
	panic("unreachable")
}

// watched collects what Watch says.
type watched struct {
	t    testing.TB
	news chan struct{}
	mu   sync.Mutex
	all  []Snapshot
}

func watch(t testing.TB, s *Store) *watched {
	t.Helper()
	w := &watched{t: t, news: make(chan struct{}, 1)}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := s.Watch(ctx, func(n Snapshot) {
			w.mu.Lock()
			w.all = append(w.all, n)
			w.mu.Unlock()
			select {
			case w.news <- struct{}{}:
			default:
			}
		}); err != nil && !errors.Is(err, ErrClosed) {
			t.Errorf("watch: %v", err)
		}
	}()
	t.Cleanup(func() { cancel(); <-done })
	return w
}

// until waits for a snapshot that ok likes, and returns it.
func (w *watched) until(what string, ok func(Snapshot) bool) Snapshot {
	w.t.Helper()
	deadline := time.After(patience)
	for {
		w.mu.Lock()
		var last Snapshot
		if n := len(w.all); n > 0 {
			last = w.all[n-1]
		}
		w.mu.Unlock()
		if last.Revision != 0 && ok(last) {
			return last
		}
		select {
		case <-w.news:
		case <-deadline:
			w.t.Fatalf("no snapshot with %s; the last is %+v", what, last)
		}
	}
}

func (w *watched) at(revision int64) Snapshot {
	w.t.Helper()
	return w.until(fmt.Sprintf("revision %d", revision), func(s Snapshot) bool { return s.Revision >= revision })
}

// eventually waits until ok.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(patience); !ok(); <-tick.C {
		if time.Now().After(end) {
			t.Fatalf("not in time: %s", what)
		}
	}
}

var epoch = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

func mustRoute(t testing.TB, s string) route.Route {
	t.Helper()
	r, err := route.Parse(s)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// sample returns mitigation number n.
func sample(t testing.TB, n int) mitigation.Mitigation {
	t.Helper()
	target := netip.PrefixFrom(netip.AddrFrom4([4]byte{192, 0, byte(n >> 8), byte(n)}), 32)
	return mitigation.Mitigation{
		ID: fmt.Sprintf("m%06d", n), Target: target, State: mitigation.Active, Incident: fmt.Sprintf("i%d", n),
		Vectors: []vector.ID{vector.SYN, vector.DNS},
		Routes: []route.Route{
			mustRoute(t, fmt.Sprintf("destination %s protocol udp source-port 53 then rate-limit 1Mbps", target)),
			mustRoute(t, fmt.Sprintf("destination %s protocol tcp tcp-flags syn&!ack then discard", target)),
		},
		Requester: mitigation.Automation, Reason: "dns-amplification 120 kpps, limit 20 kpps",
		Created: epoch, Deadline: epoch.Add(time.Minute), MaxDeadline: epoch.Add(time.Hour), Extend: time.Minute,
	}
}

func commit(t testing.TB, l leading, c Change) int64 {
	t.Helper()
	rev, err := l.Commit(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	return rev
}

var equal = []cmp.Option{cmp.Comparer(func(a, b netip.Prefix) bool { return a == b }), cmpopts.EquateEmpty()}

func TestRoundTrip(t *testing.T) {
	reg := prometheus.NewPedanticRegistry()
	dir := t.TempDir()
	s := open(t, Options{DataDir: dir, Address: "192.0.2.9:7443", Registerer: reg})
	w := watch(t, s)
	l := lead(t, s)

	v6 := sample(t, 2)
	v6.Target = netip.MustParsePrefix("2001:db8::1/128")
	v6.Routes = []route.Route{mustRoute(t, "destination 2001:db8::1/128 then blackhole")}
	v6.State, v6.Ended, v6.EndReason, v6.EndDetail = mitigation.Ended, epoch.Add(time.Second), mitigation.EndWithdrawn, "ann: done"
	v6.Requester, v6.RequestID, v6.Approved, v6.Evidence, v6.Vectors = "ann", "r1", true, "fell to 0.1 %", nil
	// Keep is 7 days: what ended earlier than that would be pruned.
	v6.Ended = time.Now().UTC()
	v6.Phase, v6.Since, v6.Scope, v6.Flaps = mitigation.Withdrawn, epoch.Add(time.Second), []string{"edge1"}, 2
	v6.Rung = mitigation.Rung{Ladder: "responses[0] 01020304", Step: 1, Steps: 3, Name: "discard", Since: epoch, DownAfter: time.Minute, From: 2, Eased: 1}
	v6.Ask = &mitigation.Ask{Step: 2, Needs: 2, Why: "wide", Since: epoch, By: []mitigation.Approval{{Who: "ann", When: epoch, Reason: "seen"}}, Rejected: &mitigation.Approval{Who: "bob", When: epoch, Reason: "no"}}
	v6.Effect = mitigation.Effect{BeforePPS: 1, BeforeBPS: 2, BeforeOther: 3, PPS: 4, BPS: 5, Other: 6, Reduction: 0.5, Measured: epoch, Verified: epoch, Sensors: []string{"rack1"}}
	old := sample(t, 1) // stored before there were phases
	stored := old
	stored.Complete()
	want := mitigation.Records{
		Mitigations: []mitigation.Mitigation{stored, v6},
		Holds: []mitigation.Hold{
			{Target: netip.MustParsePrefix("192.0.2.0/24"), Until: time.Now().Add(time.Hour).UTC(), Requester: "ann", Reason: "ours"},
			{Target: netip.MustParsePrefix("2001:db8::/32"), Until: time.Now().Add(time.Hour).UTC(), Requester: "bob", Reason: "test"},
		},
		Freeze: &mitigation.Freeze{Since: epoch, Requester: "ann", Reason: "maintenance"},
		Frozen: []mitigation.Freeze{
			{Group: "dns", Since: epoch, Requester: "ann", Reason: "resolvers"},
			{Group: "web", Since: epoch, Requester: "bob", Reason: "sale"},
		},
	}
	rev := commit(t, l, Change{
		Put:   []mitigation.Mitigation{v6, old},
		Holds: []mitigation.Hold{want.Holds[1], want.Holds[0]}, SetFreeze: true, Freeze: want.Freeze, Freezes: []mitigation.Freeze{want.Frozen[1], want.Frozen[0]},
	})
	snap := w.at(rev)
	if d := cmp.Diff(want, snap.Records, equal...); d != "" {
		t.Errorf("watched (-want +got):\n%s", d)
	}
	if snap.Term != l.Number() {
		t.Errorf("snapshot of term %d, want %d", snap.Term, l.Number())
	}
	loaded, err := l.Load(t.Context())
	if d := cmp.Diff(want, loaded, equal...); err != nil || d != "" {
		t.Errorf("loaded (-want +got):\n%s %v", d, err)
	}
	if name, addr, term, ok := s.Leader(); name != "one" || addr != "192.0.2.9:7443" || term != l.Number() || !ok {
		t.Errorf("leader %q %q %d %v", name, addr, term, ok)
	}
	if err := s.Healthy(); err != nil {
		t.Errorf("healthy: %v", err)
	}

	rev = commit(t, l, Change{Delete: []string{"m000002"}, DeleteHolds: []netip.Prefix{want.Holds[0].Target}, SetFreeze: true, Unfreeze: []string{"dns"}})
	want.Mitigations, want.Holds, want.Freeze, want.Frozen = want.Mitigations[:1], want.Holds[1:], nil, want.Frozen[1:]
	if d := cmp.Diff(want, w.at(rev).Records, equal...); d != "" {
		t.Errorf("after deletion (-want +got):\n%s", d)
	}
	first := l.Number()

	// A restart keeps it all, and the next term has a higher number at once.
	l.stop()
	if _, _, _, ok := s.Leader(); ok {
		eventually(t, "no leader after resigning", func() bool { _, _, _, ok := s.Leader(); return !ok })
	}
	closeStore(t, s)
	s = open(t, Options{DataDir: dir})
	if d := cmp.Diff(want, watch(t, s).at(1).Records, equal...); d != "" {
		t.Errorf("after restart (-want +got):\n%s", d)
	}
	if l = lead(t, s); l.Number() <= first {
		t.Errorf("term %d after %d", l.Number(), first)
	}

	problems, err := testutil.GatherAndLint(reg)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Errorf("metric %s: %s", p.Metric, p.Text)
	}
}
