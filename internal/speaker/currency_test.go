package speaker

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/amooglesoft/trafficmonitor/internal/compile"
)

// never is a wait that no test outlasts.
const never = time.Hour

func confirm(t testing.TB, r *running, revision, session uint64) error {
	t.Helper()
	return r.client.Confirm(context.Background(), 1, revision, session)
}

// awaitAsk returns the number of the newest session that waits, once that is another one than last.
func awaitAsk(t testing.TB, r *running, last uint64) (number uint64) {
	t.Helper()
	waitFor(t, "a session that asks", func() bool {
		number = r.status().Asks
		return number != 0 && number != last
	})
	return number
}

// storeWaits compares how the waits of the only router ended.
func storeWaits(t testing.TB, r *running, current, unanswered int) {
	t.Helper()
	const name = "trafficmonitor_speaker_store_waits_total"
	want := fmt.Sprintf(`# HELP %[1]s Sessions that waited for the controller before anything was announced on them, by how that ended: current, the routes are the store's; or unanswered, they were announced all the same.
# TYPE %[1]s counter
%[1]s{peer="r1",result="current"} %[2]d
%[1]s{peer="r1",result="unanswered"} %[3]d
`, name, current, unanswered)
	if err := testutil.GatherAndCompare(r.reg, strings.NewReader(want), name); err != nil {
		t.Error(err)
	}
}

// TestCutOffAndBack: what was withdrawn while the session was away is not announced when it is back, and what the router kept
// stays until the set is known.
func TestCutOffAndBack(t *testing.T) {
	t.Parallel()
	f := newFakeRouter(t)
	f.keep = true
	f.serve()
	o := testOptions(t, f.peer("r1"))
	o.StoreWait = never
	r := start(t, o)
	stays, goes, comes := "destination 192.0.2.1/32 then discard", "destination 192.0.2.2/32 then discard", "destination 192.0.2.3/32 then discard"
	match := func(text string) string { return strings.TrimSuffix(text, " then discard") }
	r.set(1, 1, desired(t, stays, goes))
	first := awaitAsk(t, r, 0)
	if err := confirm(t, r, 1, first); err != nil {
		t.Fatal(err)
	}
	f.await(t, 2)
	waitFor(t, "End-of-RIB", func() (ok bool) { f.get(func() { ok = f.eor > 0 }); return ok })

	f.drop()
	second := awaitAsk(t, r, first)
	f.get(func() { clear(f.ever); f.eor = 0 })
	st := r.status()
	if p := st.Peers[0]; p.State != Established || p.StoreWait.Sub(p.Since) < never-time.Minute || p.Routes[Pending] != 2 {
		t.Errorf("state %s, waits until %v, %d routes pending", p.State, p.StoreWait, p.Routes[Pending])
	}
	if p := st.Routes[0].Peers[0]; p.State != Pending || !strings.Contains(p.Reason, "speaker.store_wait") {
		t.Errorf("state %v, reason %q", p.State, p.Reason)
	}
	// The answer to the session before, and one about a set that was not handed over yet, are none.
	if err := confirm(t, r, 1, first); err != nil {
		t.Fatal(err)
	}
	if err := confirm(t, r, 2, second); !errors.Is(err, ErrBehind) {
		t.Fatalf("error %v, want ErrBehind", err)
	}
	for _, other := range []uint64{second + 1, first - 1} {
		if err := confirm(t, r, 1, other); !errors.Is(err, errNoSession) {
			t.Errorf("session %d: error %v, want errNoSession", other, err)
		}
	}
	if err := confirm(t, r, 1, 0); err != nil { // to no session
		t.Error(err)
	}
	// A set alone is no answer either: the controller may be about to read of more.
	r.set(1, 2, desired(t, stays, comes))
	if st := r.status(); st.Asks != second {
		t.Fatalf("%d asks, want %d", st.Asks, second)
	}
	f.get(func() {
		if f.eor > 0 {
			t.Error("End-of-RIB before anything is announced: the router drops what it kept")
		}
		if len(f.ever) > 0 {
			t.Errorf("announced before the set is known: %v", f.ever)
		}
	})
	if err := confirm(t, r, 2, second); err != nil {
		t.Fatal(err)
	}
	f.awaitMatch(t, match(comes))
	waitFor(t, "End-of-RIB", func() (ok bool) { f.get(func() { ok = f.eor > 0 }); return ok })
	f.get(func() {
		if f.ever[match(goes)] {
			t.Errorf("%q was announced again", goes)
		}
		if !f.ever[match(stays)] || f.rib[match(goes)] != "" {
			t.Errorf("the router was told %v and has %v", f.ever, f.rib)
		}
	})
	if st := r.status(); st.Asks != 0 || !st.Peers[0].StoreWait.IsZero() {
		t.Errorf("still waits: %d until %v", st.Asks, st.Peers[0].StoreWait)
	}
	storeWaits(t, r, 2, 0)
}

// TestNobodyAnswers: a speaker with its journal and no controller announces it after the wait.
func TestNobodyAnswers(t *testing.T) {
	t.Parallel()
	f := newFakeRouter(t).serve()
	o := testOptions(t, f.peer("r1"))
	r := start(t, o)
	r.set(1, 1, desired(t, "destination 192.0.2.1/32 then discard"))
	f.await(t, 1)
	r.stop()
	waitFor(t, "the router without routes", func() bool { return f.count() == 0 })
	o.StoreWait = time.Second
	o.Socket += "2"
	began := time.Now()
	r = start(t, o)
	f.await(t, 1)
	if waited := time.Since(began); waited < o.StoreWait {
		t.Errorf("announced after %s", waited)
	}
	waitFor(t, "the route is sent", func() bool { return r.status().Routes[0].Peers[0].State == Sent })
	storeWaits(t, r, 0, 1)
}

// TestRedButtonWhileItWaits: what the router keeps from before goes at once.
func TestRedButtonWhileItWaits(t *testing.T) {
	t.Parallel()
	f := newFakeRouter(t)
	f.keep = true
	f.serve()
	o := testOptions(t, f.peer("r1"))
	o.StoreWait = never
	r := start(t, o)
	r.set(1, 1, desired(t, "destination 192.0.2.1/32 then discard"))
	first := awaitAsk(t, r, 0)
	if err := confirm(t, r, 1, first); err != nil {
		t.Fatal(err)
	}
	f.await(t, 1)
	f.drop()
	second := awaitAsk(t, r, first)
	f.get(func() { f.eor = 0 })
	if _, err := r.client.WithdrawAll(context.Background(), "eve", "a wrong rule"); err != nil {
		t.Fatal(err)
	}
	f.await(t, 0)
	waitFor(t, "End-of-RIB", func() (ok bool) { f.get(func() { ok = f.eor > 0 }); return ok })
	if st := r.status(); st.Asks != 0 {
		t.Errorf("session %d waits (it was %d)", st.Asks, second)
	}
	up := f.sessions()
	f.drop()
	waitFor(t, "the next session", func() bool { return f.sessions() > up && r.status().Peers[0].Established > uint64(up) })
	if st := r.status(); st.Asks != 0 || !st.Peers[0].StoreWait.IsZero() {
		t.Error("a session waits while the button is pressed")
	}
}

// The wait holds additions and completeness back, and nothing else.
func TestOutboxWaits(t *testing.T) {
	items := encodedItems(t, 3)
	o := newOutbox(0, 0, newSuspicion(blameSpan, nil, nil))
	now := outboxNow
	o.begin(now, compile.Tables(), true)
	o.stale[routeKey(items[2].enc.table, items[2].enc.nlri)] = *items[2].enc
	o.until = now.Add(5 * time.Second)
	if gone := o.set(now, items[:2]); len(gone) != 1 {
		t.Errorf("%d of what the router kept and is not to have are withdrawn, want 1", len(gone))
	}
	o.write(now, items[2])
	now = now.Add(4 * time.Second)
	if _, _, ok := o.nextAdd(now); ok {
		t.Error("something is announced")
	}
	if o.justComplete(now.Add(never), time.Second) {
		t.Error("complete without a route")
	}
	o.release(now)
	for range 2 {
		it, _, ok := o.nextAdd(now)
		if !ok {
			t.Fatal("nothing is announced")
		}
		o.added(now, it, nil)
		if o.justComplete(now, time.Second) {
			t.Error("complete before all is written")
		}
		o.write(now, it)
	}
	if !o.justComplete(now, time.Second) {
		t.Error("not complete")
	}
	o.until = now.Add(time.Second)
	o.end()
	if !o.until.IsZero() {
		t.Error("the wait outlasts the session")
	}
}

// A speaker says how old is what it knows: whoever is cut off, the controller, etcd or the watch between them.
func TestUnconfirmed(t *testing.T) {
	s, _ := bareSpeaker(t)
	var log bytes.Buffer
	s.log = slog.New(slog.NewTextHandler(&log, nil))
	s.state.term, s.state.revision = 1, 5
	s.publish()
	now := s.start
	if d := s.unconfirmed(now.Add(time.Minute)); d != time.Minute {
		t.Errorf("%s after a minute without a word", d)
	}
	told := false
	look := func(want int, after time.Duration) {
		t.Helper()
		told = s.tellUnconfirmed(now.Add(after), told)
		if n := strings.Count(log.String(), "no controller says"); n != want {
			t.Errorf("told %d times, want %d:\n%s", n, want, &log)
		}
	}
	look(0, unconfirmedTold-time.Second)
	look(1, unconfirmedTold)
	look(1, time.Hour)

	if err := s.confirm(1, 6, 0); !errors.Is(err, ErrBehind) {
		t.Errorf("a set that is not applied: %v", err)
	}
	if d := s.unconfirmed(now.Add(time.Hour)); d != time.Hour {
		t.Errorf("%s: a set that is not applied was confirmed", d)
	}
	if err := s.confirm(1, 5, 0); err != nil {
		t.Fatal(err)
	}
	if d := s.unconfirmed(time.Now()); d > time.Minute {
		t.Errorf("%s after it was confirmed", d)
	}
	now = time.Now()
	look(1, 0)
	if told || !strings.Contains(log.String(), "known to be those of the store again") {
		t.Errorf("nobody is told that it is over:\n%s", &log)
	}
	look(2, time.Hour)

	families := gathered(t, s)
	if v, ok := families["trafficmonitor_speaker_unconfirmed_seconds"]; !ok || v < 0 || v > 60 {
		t.Errorf("the metric says %v", families)
	}
	s.state.button = &Button{By: "eve", Reason: "test", At: now}
	s.publish()
	if d := s.unconfirmed(now.Add(time.Hour)); d != 0 {
		t.Errorf("%s while nothing is announced", d)
	}
}

// gathered returns the gauges without labels of a speaker whose routers are complete.
func gathered(t *testing.T, s *speaker) map[string]float64 {
	t.Helper()
	s.ready.Store(true)
	reg := prometheus.NewRegistry()
	reg.MustRegister(&routeCollector{s})
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]float64{}
	for _, f := range families {
		if m := f.GetMetric(); len(m) == 1 && len(m[0].GetLabel()) == 0 {
			out[f.GetName()] = m[0].GetGauge().GetValue()
		}
	}
	return out
}
