package store

import (
	"context"
	"encoding/json"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/amooglesoft/trafficmonitor/internal/mitigation"
)

func mustPrefix(s string) netip.Prefix { return netip.MustParsePrefix(s) }

func samples(t testing.TB, n int) []mitigation.Mitigation {
	t.Helper()
	out := make([]mitigation.Mitigation, n)
	for i := range n {
		out[i] = sample(t, i)
	}
	return out
}

func TestCommitRefusesWhatIsInvalid(t *testing.T) {
	s := open(t, Options{DataDir: t.TempDir()})
	l := lead(t, s)
	before, err := l.Commit(t.Context(), Change{})
	if err != nil {
		t.Fatal(err)
	}
	good := sample(t, 1)
	with := func(f func(*mitigation.Mitigation)) Change {
		m := sample(t, 2)
		f(&m)
		return Change{Put: []mitigation.Mitigation{good, m}}
	}
	for name, c := range map[string]struct {
		change Change
		want   string
		is     error
	}{
		"no id":          {with(func(m *mitigation.Mitigation) { m.ID = "" }), "id of 0 octets", ErrInvalid},
		"slash in id":    {with(func(m *mitigation.Mitigation) { m.ID = "../freeze" }), `id "../freeze"`, ErrInvalid},
		"no routes":      {with(func(m *mitigation.Mitigation) { m.Routes = nil }), "no routes", ErrInvalid},
		"zero route":     {with(func(m *mitigation.Mitigation) { m.Routes = append(m.Routes, m.Routes[0]); m.Routes[0].Action.Kind = 0 }), "action", ErrInvalid},
		"no deadline":    {with(func(m *mitigation.Mitigation) { m.Deadline = time.Time{} }), "deadline is missing", ErrInvalid},
		"no target":      {with(func(m *mitigation.Mitigation) { m.Target = netip.Prefix{} }), "target", ErrInvalid},
		"host bits":      {with(func(m *mitigation.Mitigation) { m.Target = mustPrefix("192.0.2.1/24") }), "bits beyond its length", ErrInvalid},
		"state":          {with(func(m *mitigation.Mitigation) { m.State = "paused" }), `state "paused"`, ErrInvalid},
		"vector":         {with(func(m *mitigation.Mitigation) { m.Vectors = append(m.Vectors, 200) }), "vector 200", ErrInvalid},
		"twice":          {Change{Put: []mitigation.Mitigation{good, good}}, "in it twice", ErrInvalid},
		"put and delete": {Change{Put: []mitigation.Mitigation{good}, Delete: []string{good.ID}}, "in it twice", ErrInvalid},
		"hold":           {Change{Holds: []mitigation.Hold{{Target: mustPrefix("192.0.2.0/24")}}}, "until is missing", ErrInvalid},
		"freeze":         {Change{SetFreeze: true, Freeze: &mitigation.Freeze{}}, "since is missing", ErrInvalid},
		"all is a group": {Change{SetFreeze: true, Freeze: &mitigation.Freeze{Group: "dns", Since: epoch}}, `group "dns" stands`, ErrInvalid},
		"no group":       {Change{Freezes: []mitigation.Freeze{{Since: epoch}}}, `group ""`, ErrInvalid},
		"slash in group": {Change{Unfreeze: []string{"a/b"}}, `group "a/b"`, ErrInvalid},
		"delete nothing": {Change{Delete: []string{""}}, "no id", ErrInvalid},
		"too large":      {with(func(m *mitigation.Mitigation) { m.Reason = strings.Repeat("x", 2<<20) }), "m000002 has", ErrTooLarge},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := l.Commit(t.Context(), c.change)
			if !errors.Is(err, c.is) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %.300v, want %v with %q", err, c.is, c.want)
			}
		})
	}
	after, err := l.Commit(t.Context(), Change{})
	if err != nil || after != before {
		t.Errorf("revision %d, was %d, %v: something was written", after, before, err)
	}
	if got := testutil.ToFloat64(s.m.commits.WithLabelValues(resultTooLarge)); got != 1 {
		t.Errorf("too large counted %v times", got)
	}
}

// TestBigCommit writes more than one transaction can take, in records and in octets; no watcher may see a part of it.
func TestBigCommit(t *testing.T) {
	s := open(t, Options{DataDir: t.TempDir()})
	w := watch(t, s)
	l := lead(t, s)
	all := samples(t, 300)
	for i := range 40 {
		all[i].Reason = strings.Repeat("long ", 10_000) // 2 MB in all
	}
	hold := mitigation.Hold{Target: mustPrefix("2001:db8::/32"), Until: time.Now().Add(time.Hour), Requester: "ann"}
	rev := commit(t, l, Change{Put: all, Holds: []mitigation.Hold{hold}, SetFreeze: true, Freeze: &mitigation.Freeze{Since: epoch}})
	got := w.at(rev)
	if len(got.Records.Mitigations) != len(all) || len(got.Records.Holds) != 1 || got.Records.Freeze == nil || got.Revision != rev {
		t.Errorf("%d mitigations, %d holds at %d, want all at %d", len(got.Records.Mitigations), len(got.Records.Holds), got.Revision, rev)
	}
	var ids []string
	for _, m := range all {
		ids = append(ids, m.ID)
	}
	w.at(commit(t, l, Change{Delete: ids}))
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, n := range w.all {
		if k := len(n.Records.Mitigations); k != 0 && k != len(all) {
			t.Errorf("a watcher saw %d of %d", k, len(all))
		}
	}
	if got := testutil.ToFloat64(s.m.split); got != 2 {
		t.Errorf("%v commits counted as split, want 2", got)
	}
}

// TestHalfCommit lets the fence go in the middle of a commit of several parts: nobody is shown the half, until the
// next leader has taken what is there as the truth.
func TestHalfCommit(t *testing.T) {
	s := open(t, Options{DataDir: t.TempDir()})
	w := watch(t, s)
	l := lead(t, s)
	whole := commit(t, l, Change{Put: samples(t, 1)})
	w.at(whole)

	// The first part goes through as Commit writes it, the second meets a deposed leader.
	parts, err := Change{Put: samples(t, 200)}.ops()
	if err != nil {
		t.Fatal(err)
	}
	batches := split(parts)
	if len(batches) != 2 {
		t.Fatalf("%d parts", len(batches))
	}
	rev, err := l.txn(t.Context(), nil, append(batches[0], mark(commitRecord{Term: l.Number(), Part: 1, Parts: 2})))
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "the mark is seen", func() bool { p := s.published.Load(); return p.open != nil })
	if p := s.published.Load(); p.Revision != whole || len(p.Records.Mitigations) != 1 {
		t.Errorf("half a change is shown: %d mitigations at %d", len(p.Records.Mitigations), p.Revision)
	}
	// A controller that starts now is shown nothing, rather than half.
	v := newView()
	all, err := s.client.Get(t.Context(), keyRoot, clientv3.WithPrefix())
	if err != nil {
		t.Fatal(err)
	}
	for _, kv := range all.Kvs {
		v.put(kv)
	}
	if p := v.publish(time.Now()); p.whole || p.Revision != 0 {
		t.Errorf("a new controller is shown half a change")
	}

	l.stop()
	next := lead(t, s)
	got := w.until("the part that was written", func(n Snapshot) bool { return n.Revision > rev })
	if len(got.Records.Mitigations) != maxOps || got.Term != next.Number() {
		t.Errorf("%d mitigations in term %d, want the %d that were written in %d", len(got.Records.Mitigations), got.Term, maxOps, next.Number())
	}
}

// TestBrokenCommitEndsTheTerm deposes the leader between two parts of a commit.
func TestBrokenCommitEndsTheTerm(t *testing.T) {
	s := open(t, Options{DataDir: t.TempDir()})
	l := lead(t, s)
	ctx, cancel := context.WithCancel(t.Context())
	eventsCtx, stop := context.WithCancel(t.Context())
	defer stop()
	events := s.client.Watch(eventsCtx, keyCommit)
	go func() { <-events; cancel() }() // after the first part
	_, err := l.Commit(ctx, Change{Put: samples(t, 5000)})
	if !errors.Is(err, ErrUnavailable) || !strings.Contains(err.Error(), "part ") {
		t.Fatalf("error %v", err)
	}
	select {
	case <-l.ctx.Done():
	case <-time.After(patience):
		t.Fatal("the term goes on with half a change written")
	}
}

func TestDeposedLeaderCannotCommit(t *testing.T) {
	s := open(t, Options{DataDir: t.TempDir()})
	l := lead(t, s)
	rev := commit(t, l, Change{Put: samples(t, 1)})
	// Somebody takes the key away; the leader does not know yet, as after a long pause of its process.
	stale := &Term{s: s, number: l.number, key: l.key, rev: l.rev, end: func(error) {}}
	if _, err := s.client.Delete(t.Context(), l.key); err != nil {
		t.Fatal(err)
	}
	_, err := stale.Commit(t.Context(), Change{Put: samples(t, 2)})
	if !errors.Is(err, ErrDeposed) {
		t.Errorf("error %v, want ErrDeposed", err)
	}
	// A key of the same name made anew is not ours either.
	if _, err := s.client.Put(t.Context(), l.key, "{}"); err != nil {
		t.Fatal(err)
	}
	if _, err := stale.Commit(t.Context(), Change{}); !errors.Is(err, ErrDeposed) {
		t.Errorf("error %v, want ErrDeposed", err)
	}
	if _, err := s.client.Delete(t.Context(), l.key); err != nil {
		t.Fatal(err)
	}
	select {
	case <-l.ctx.Done():
		if cause := context.Cause(l.ctx); !errors.Is(cause, ErrDeposed) {
			t.Errorf("cause %v", cause)
		}
	case <-time.After(patience):
		t.Fatal("the term goes on without its key")
	}
	got := watch(t, s).until("the old record", func(n Snapshot) bool { return n.Revision >= rev })
	if len(got.Records.Mitigations) != 1 {
		t.Errorf("a deposed leader wrote: %d mitigations", len(got.Records.Mitigations))
	}
}

func TestLeadAgainAfterAnError(t *testing.T) {
	s := open(t, Options{DataDir: t.TempDir()})
	ctx, cancel := context.WithCancel(t.Context())
	var terms []uint64
	err := s.Lead(ctx, func(_ context.Context, l *Term) error {
		terms = append(terms, l.Number())
		switch len(terms) {
		case 1:
			return nil // resigns
		case 2:
			return errors.New("the engine gave up")
		}
		cancel()
		return nil
	})
	if err != nil || len(terms) != 3 || !slices.IsSorted(terms) || terms[0] == terms[1] || terms[1] == terms[2] {
		t.Errorf("terms %v, %v", terms, err)
	}
}

func TestTermNumber(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	for name, c := range map[string]struct{ last, want uint64 }{
		"first":              {0, 1_800_000_000},
		"later":              {1_700_000_000, 1_800_000_000},
		"same second":        {1_800_000_000, 1_800_000_001},
		"clock went back":    {1_900_000_000, 1_900_000_001},
		"clock was far off ": {1 << 62, 1<<62 + 1},
	} {
		if got := nextTerm(c.last, now); got != c.want {
			t.Errorf("%s: %d, want %d", name, got, c.want)
		}
	}
	if got := nextTerm(0, time.Unix(-5, 0)); got != 1 {
		t.Errorf("before 1970: %d, want 1", got)
	}
}

func TestPrune(t *testing.T) {
	s := open(t, Options{DataDir: t.TempDir(), Keep: time.Second})
	w := watch(t, s)
	now := time.Now()
	active, ended, fresh, refused := sample(t, 1), sample(t, 2), sample(t, 3), sample(t, 4)
	active.Created = now.Add(-time.Hour)
	ended.State, ended.Ended = mitigation.Ended, now.Add(-time.Minute)
	fresh.State, fresh.Ended = mitigation.Ended, now.Add(time.Hour)
	refused.State, refused.Created = mitigation.Refused, now.Add(-time.Minute)
	holds := []mitigation.Hold{
		{Target: mustPrefix("192.0.2.0/24"), Until: now.Add(-time.Minute), Requester: "ann"},
		{Target: mustPrefix("198.51.100.0/24"), Until: now.Add(time.Hour), Requester: "ann"},
	}
	commit(t, lead(t, s), Change{Put: []mitigation.Mitigation{active, ended, fresh, refused}, Holds: holds})
	got := w.until("only what is due to stay", func(n Snapshot) bool { return len(n.Records.Mitigations) == 2 && len(n.Records.Holds) == 1 })
	if m := got.Records.Mitigations; m[0].ID != active.ID || m[1].ID != fresh.ID || got.Records.Holds[0].Target != holds[1].Target {
		t.Errorf("left: %+v", got.Records)
	}
	eventually(t, "pruned is counted", func() bool { return testutil.ToFloat64(s.m.pruned) == 3 })
}

func TestPruneKeepsTheLatest(t *testing.T) {
	s := open(t, Options{DataDir: t.TempDir(), Keep: time.Second * 3600, KeepMost: 2})
	all := samples(t, 70) // more than a batch
	for i := range all {
		if i > 0 {
			all[i].State, all[i].Ended = mitigation.Ended, time.Now().Add(time.Duration(i)*time.Second)
		}
	}
	l := lead(t, s)
	rev := commit(t, l, Change{Put: all})
	w := watch(t, s)
	n := w.at(rev)
	if err := l.pruneOnce(t.Context(), old(n.Records, time.Now(), 2)); err != nil {
		t.Fatal(err)
	}
	got := w.until("three", func(n Snapshot) bool { return len(n.Records.Mitigations) == 3 })
	for i, id := range []string{all[0].ID, all[68].ID, all[69].ID} {
		if got.Records.Mitigations[i].ID != id {
			t.Errorf("left %s, want %s", got.Records.Mitigations[i].ID, id)
		}
	}
}

// TestPruneLeavesWhatChanged: what was ended when the leader looked, and is active when it deletes, stays.
func TestPruneLeavesWhatChanged(t *testing.T) {
	s := open(t, Options{DataDir: t.TempDir()})
	l := lead(t, s)
	commit(t, l, Change{Put: samples(t, 1)})
	if n, err := l.pruneBatch(t.Context(), []string{mitigationKey("m000000"), mitigationKey("gone")}); n != 0 || err != nil {
		t.Errorf("pruned %d, %v", n, err)
	}
	if r, err := l.Load(t.Context()); err != nil || len(r.Mitigations) != 1 {
		t.Errorf("left %d, %v", len(r.Mitigations), err)
	}
}

func TestConcurrentUse(t *testing.T) {
	s := open(t, Options{DataDir: t.TempDir()})
	w := watch(t, s)
	l := lead(t, s)
	var wg sync.WaitGroup
	var mu sync.Mutex
	var last int64
	for g := range 4 {
		wg.Go(func() {
			for i := range 25 {
				rev, err := l.Commit(t.Context(), Change{Put: []mitigation.Mitigation{sample(t, g*100+i)}})
				if err != nil {
					t.Error(err)
				}
				mu.Lock()
				last = max(last, rev)
				mu.Unlock()
				s.Leader()
				_ = s.Healthy()
			}
		})
		wg.Go(func() {
			ctx, cancel := context.WithCancel(t.Context())
			_ = s.Watch(ctx, func(n Snapshot) {
				if len(n.Records.Mitigations) > 50 {
					cancel()
				}
			})
		})
	}
	wg.Wait()
	if n := len(w.at(last).Records.Mitigations); n != 100 {
		t.Errorf("%d mitigations, want 100", n)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for i := 1; i < len(w.all); i++ {
		if w.all[i].Revision <= w.all[i-1].Revision {
			t.Errorf("revision %d after %d", w.all[i].Revision, w.all[i-1].Revision)
		}
		if !slices.IsSortedFunc(w.all[i].Records.Mitigations, func(a, b mitigation.Mitigation) int { return strings.Compare(a.ID, b.ID) }) {
			t.Error("not sorted")
		}
	}
}

func TestRecordsAreReadable(t *testing.T) {
	b, err := encodeMitigation(sample(t, 1))
	if err != nil {
		t.Fatal(err)
	}
	var got map[string]any
	if err := json.Unmarshal(b, &got); err != nil {
		t.Fatal(err)
	}
	if v, ok := got["vectors"].([]any); !ok || len(v) != 2 || v[0] != 1.0 {
		t.Errorf("vectors stand as %v", got["vectors"])
	}
	if r, ok := got["routes"].([]any); !ok || r[0] != "destination 192.0.0.1/32 protocol udp source-port 53 then rate-limit 1Mbps" {
		t.Errorf("routes stand as %v", got["routes"])
	}
}
