package store

import (
	"context"
	"errors"
	"net"
	"net/url"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.etcd.io/etcd/client/pkg/v3/transport"
	"go.etcd.io/etcd/server/v3/embed"
	"go.uber.org/zap"

	"github.com/amooglesoft/trafficmonitor/internal/mitigation"
)

// cluster is an etcd that stores reach over real sockets on loopback.
type cluster struct {
	t    testing.TB
	dir  string
	addr string
	etcd *embed.Etcd // nil while stopped
	tls  transport.TLSInfo
	door *proxy // what stores dial, so that stopping need not wait for their streams
}

func startCluster(t testing.TB, with ...func(*cluster)) *cluster {
	t.Helper()
	probe, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c := &cluster{t: t, dir: t.TempDir(), addr: probe.Addr().String()}
	probe.Close()
	for _, f := range with {
		f(c)
	}
	c.start()
	t.Cleanup(c.stop)
	c.door = startProxy(t, c.addr)
	return c
}

func (c *cluster) start() {
	c.t.Helper()
	at := url.URL{Scheme: "http", Host: c.addr}
	cfg := embed.NewConfig()
	if !c.tls.Empty() {
		at.Scheme, cfg.ClientTLSInfo = "https", c.tls
	}
	cfg.Name, cfg.Dir = "shared", c.dir
	cfg.ListenPeerUrls, cfg.ListenClientUrls = nil, []url.URL{at}
	cfg.AdvertisePeerUrls, cfg.AdvertiseClientUrls = []url.URL{at}, []url.URL{at}
	cfg.InitialCluster = cfg.InitialClusterFromName(cfg.Name)
	cfg.TickMs, cfg.ElectionMs = 20, 100 // leases of 1 s
	cfg.UnsafeNoFsync = true
	cfg.ZapLoggerBuilder = embed.NewZapLoggerBuilder(zap.NewNop())
	var err error
	if c.etcd, err = embed.StartEtcd(cfg); err != nil {
		c.t.Fatal(err)
	}
	select {
	case <-c.etcd.Server.ReadyNotify():
	case <-time.After(patience):
		c.t.Fatal("etcd is not ready")
	}
	if c.door != nil {
		c.door.mend()
	}
}

func (c *cluster) stop() {
	if c.etcd != nil {
		c.door.cut()
		c.etcd.Close()
		c.etcd = nil
	}
}

// open opens a store that leads on through any stall of a busy machine; short makes it lose its lease soon.
func (c *cluster) open(name string, change ...func(*Options)) *Store {
	c.t.Helper()
	o := Options{
		Name: name, Address: name + ":7443", Endpoints: []string{"http://" + c.door.addr}, LeaseTTL: time.Minute, Timeout: patience / 4,
	}
	for _, f := range change {
		f(&o)
	}
	return open(c.t, o)
}

func short(o *Options) { o.LeaseTTL, o.Timeout = 2*time.Second, 500*time.Millisecond }

// campaign makes s a candidate that leads, when elected, until its term ends; terms tells of each.
func campaign(t testing.TB, s *Store) (terms <-chan leading, stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ch := make(chan leading, 100)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = s.Lead(ctx, func(tctx context.Context, term *Term) error {
			ch <- leading{Term: term, ctx: tctx}
			<-tctx.Done()
			return nil
		})
	}()
	stop = func() { cancel(); <-done }
	t.Cleanup(stop)
	return ch, stop
}

func next(t testing.TB, what string, terms <-chan leading) leading {
	t.Helper()
	select {
	case l := <-terms:
		return l
	case <-time.After(patience):
		t.Fatalf("not in time: %s", what)
	}
	panic("unreachable")
}

func TestTwoControllers(t *testing.T) {
	c := startCluster(t)
	one, two := c.open("one"), c.open("two")
	watchTwo := watch(t, two)
	first := lead(t, one)
	terms, _ := campaign(t, two)
	eventually(t, "two is a candidate", func() bool {
		r, err := two.client.Get(t.Context(), keyLeader, withPrefixCount()...)
		return err == nil && r.Count == 2
	})
	select {
	case l := <-terms:
		t.Fatalf("two leads beside one, term %d", l.Number())
	default:
	}
	// The one that does not lead sees what the other commits, and who it is.
	rev := commit(t, first, Change{Put: samples(t, 3)})
	if got := watchTwo.at(rev); len(got.Records.Mitigations) != 3 || got.Term != first.Number() {
		t.Errorf("%d mitigations in term %d", len(got.Records.Mitigations), got.Term)
	}
	if name, addr, term, ok := two.Leader(); name != "one" || addr != "one:7443" || term != first.Number() || !ok {
		t.Errorf("leader %q %q %d %v", name, addr, term, ok)
	}

	// Resigning hands over at once, not after the lease.
	first.stop()
	second := next(t, "two takes over", terms)
	if second.Number() <= first.Number() {
		t.Errorf("term %d after %d", second.Number(), first.Number())
	}
	if _, err := first.Commit(t.Context(), Change{Put: samples(t, 4)}); !errors.Is(err, ErrDeposed) {
		t.Errorf("the old leader commits: %v", err)
	}
	r, err := second.Load(t.Context())
	if err != nil || len(r.Mitigations) != 3 {
		t.Errorf("the new leader finds %d mitigations, %v", len(r.Mitigations), err)
	}
	eventually(t, "one sees two lead", func() bool { name, _, _, ok := one.Leader(); return ok && name == "two" })
}

// TestLeaderLosesItsConnection cuts the leader off: the other takes over after the lease, and the first is told.
func TestLeaderLosesItsConnection(t *testing.T) {
	c := startCluster(t)
	two := c.open("two")
	proxy := startProxy(t, c.addr)
	one := open(t, Options{Name: "one", Endpoints: []string{"http://" + proxy.addr}, LeaseTTL: time.Second, Timeout: 300 * time.Millisecond})
	oldTerms, _ := campaign(t, one)
	old := next(t, "one leads", oldTerms)
	terms, _ := campaign(t, two)
	proxy.cut()

	// Whether it is told first, or finds out by a commit: never does it write.
	began := time.Now()
	if _, err := old.Commit(t.Context(), Change{Put: samples(t, 1)}); !errors.Is(err, ErrUnavailable) ||
		!strings.Contains(err.Error(), "etcdctl") {
		t.Errorf("error %v: does not say what to do", err)
	} else if d := time.Since(began); d > patience/4 {
		t.Errorf("took %s to fail", d)
	}
	l := next(t, "two takes over", terms)
	select {
	case <-old.ctx.Done():
	case <-time.After(patience):
		t.Fatal("the old leader is not told")
	}
	eventually(t, "one is not healthy", func() bool { return one.Healthy() != nil })
	rev := commit(t, l, Change{Put: samples(t, 2)})

	// It comes back by itself, as the one that does not lead.
	w := watch(t, one)
	proxy.mend()
	w.at(rev)
	eventually(t, "one is healthy again", func() bool { return one.Healthy() == nil })
	if _, err := old.Commit(t.Context(), Change{Put: samples(t, 3)}); !errors.Is(err, ErrDeposed) {
		t.Errorf("error %v, want ErrDeposed", err)
	}
	if name, _, _, ok := one.Leader(); name != "two" || !ok {
		t.Errorf("leader %q %v", name, ok)
	}
}

func TestOutage(t *testing.T) {
	c := startCluster(t)
	s := c.open("one", short)
	w := watch(t, s)
	terms, _ := campaign(t, s)
	l := next(t, "leads", terms)
	rev := commit(t, l, Change{Put: samples(t, 2)})
	w.at(rev)

	c.stop()
	began := time.Now()
	if _, err := l.Commit(t.Context(), Change{Put: samples(t, 3)}); !errors.Is(err, ErrUnavailable) && !errors.Is(err, ErrDeposed) {
		t.Errorf("error %v", err)
	} else if d := time.Since(began); d > patience/4 {
		t.Errorf("took %s to fail", d)
	}
	eventually(t, "not healthy", func() bool { return s.Healthy() != nil })
	if err := s.Healthy(); !strings.Contains(err.Error(), "until their deadline") {
		t.Errorf("health does not say what it means: %v", err)
	}
	select {
	case <-l.ctx.Done():
	case <-time.After(patience):
		t.Fatal("leads without etcd")
	}
	// What was known stays known.
	if p := s.published.Load(); len(p.Records.Mitigations) != 2 {
		t.Errorf("%d mitigations are left in memory", len(p.Records.Mitigations))
	}

	c.start()
	l = next(t, "leads again", terms)
	rev = commit(t, l, Change{Put: samples(t, 4)})
	if got := w.at(rev); len(got.Records.Mitigations) != 4 {
		t.Errorf("%d mitigations", len(got.Records.Mitigations))
	}
	eventually(t, "healthy again", func() bool { return s.Healthy() == nil })
}

func TestOpenDuringAnOutage(t *testing.T) {
	c := startCluster(t)
	c.stop()
	s := c.open("one", short)
	if err := s.Healthy(); err == nil {
		t.Error("healthy without etcd")
	}
	terms, _ := campaign(t, s)
	w := watch(t, s)
	c.start()
	l := next(t, "leads", terms)
	w.at(commit(t, l, Change{Put: samples(t, 1)}))
}

// TestResync cuts a follower off while etcd compacts what it has not seen.
func TestResync(t *testing.T) {
	c := startCluster(t)
	l := lead(t, c.open("one"))
	proxy := startProxy(t, c.addr)
	s := open(t, Options{Name: "two", Endpoints: []string{"http://" + proxy.addr}, Timeout: 300 * time.Millisecond})
	w := watch(t, s)
	w.at(commit(t, l, Change{Put: samples(t, 3)}))
	proxy.cut()
	for range 5 {
		commit(t, l, Change{Put: samples(t, 2)})
	}
	rev := commit(t, l, Change{Delete: []string{"m000000"}})
	if _, err := l.s.client.Compact(t.Context(), rev); err != nil {
		t.Fatal(err)
	}
	proxy.mend()
	got := w.at(rev)
	if len(got.Records.Mitigations) != 2 {
		t.Errorf("%d mitigations: a deletion in the compacted history is lost", len(got.Records.Mitigations))
	}
	resyncs := 0.0
	for _, r := range []string{"compacted", "unavailable", "watch_ended"} {
		resyncs += testutil.ToFloat64(s.m.resyncs.WithLabelValues(r))
	}
	if resyncs == 0 {
		t.Error("no resync is counted")
	}
	w.at(commit(t, l, Change{Put: samples(t, 1)})) // and events flow again
}

// TestOtherData replaces the data behind the address: a store must not take an older world for the newest.
func TestOtherData(t *testing.T) {
	c := startCluster(t)
	s := c.open("one", short)
	w := watch(t, s)
	terms, _ := campaign(t, s)
	l := next(t, "leads", terms)
	rev := int64(0)
	for range 5 {
		rev = commit(t, l, Change{Put: samples(t, 2)})
	}
	w.at(rev)
	c.stop()
	if err := os.RemoveAll(c.dir); err != nil {
		t.Fatal(err)
	}
	c.start()
	eventually(t, "it says that the data was replaced", func() bool {
		err := s.Healthy()
		return err != nil && strings.Contains(err.Error(), "every controller is restarted")
	})
	if p := s.published.Load(); p.Revision != rev || len(p.Records.Mitigations) != 2 {
		t.Errorf("shows %d mitigations at %d", len(p.Records.Mitigations), p.Revision)
	}
	select {
	case <-l.ctx.Done():
	case <-time.After(patience):
		t.Fatal("leads on other data")
	}
	// A restarted controller accepts it, in a term above all earlier ones.
	again := lead(t, c.open("two"))
	if again.Number() <= l.Number() {
		t.Errorf("term %d after %d", again.Number(), l.Number())
	}
}

func TestUnreadableRecords(t *testing.T) {
	c := startCluster(t)
	s := c.open("one")
	w := watch(t, s)
	l := lead(t, s)
	commit(t, l, Change{
		Put:       samples(t, 3),
		Holds:     []mitigation.Hold{{Target: mustPrefix("192.0.2.0/24"), Until: epoch.AddDate(100, 0, 0), Requester: "ann"}},
		SetFreeze: true, Freeze: &mitigation.Freeze{Since: epoch, Requester: "ann"},
		Freezes: []mitigation.Freeze{{Group: "dns", Since: epoch, Requester: "ann"}},
	})
	raw, err := encodeMitigation(sample(t, 1))
	if err != nil {
		t.Fatal(err)
	}
	for name, put := range map[string]struct{ key, value, want string }{
		"not JSON":        {mitigationKey("m000001"), "{", "unexpected EOF"},
		"empty":           {mitigationKey("m000001"), "", "EOF"},
		"future member":   {mitigationKey("m000001"), strings.Replace(string(raw), "{", `{"quantum":true,`, 1), "quantum"},
		"other record":    {mitigationKey("m000002"), string(raw), `stands under the key of "m000002"`},
		"trailing":        {mitigationKey("m000001"), string(raw) + "{}", "after the JSON value"},
		"wrong type":      {mitigationKey("m000001"), `{"id":7}`, "id: a number cannot stand there"},
		"bad route":       {mitigationKey("m000001"), strings.Replace(string(raw), "protocol tcp", "protocol beer", 1), "beer"},
		"unknown vector":  {mitigationKey("m000001"), strings.Replace(string(raw), `"vectors":[1,13]`, `"vectors":[99]`, 1), "vector 99"},
		"null":            {mitigationKey("m000001"), "null", "id of 0 octets"},
		"unknown key":     {keyRoot + "plans/1", "{}", "not a key of this version"},
		"hold":            {holdKey(mustPrefix("192.0.2.0/24")), "garbage", "invalid character"},
		"hold for no one": {keyHolds + "everybody", "{}", "target"},
		"freeze":          {keyFreeze, "garbage", "invalid character"},
		"group's freeze":  {freezeKey("dns"), "garbage", "invalid character"},
		"other group":     {freezeKey("dns"), `{"group":"web","since":"2026-01-02T03:04:05Z"}`, `group "web" stands under the key of "dns"`},
		"commit":          {keyCommit, "garbage", "invalid character"},
	} {
		t.Run(name, func(t *testing.T) {
			old, err := s.client.Get(t.Context(), put.key)
			if err != nil {
				t.Fatal(err)
			}
			r, err := s.client.Put(t.Context(), put.key, put.value)
			if err != nil {
				t.Fatal(err)
			}
			got := w.at(r.Header.Revision)
			if len(got.Unreadable) != 1 || got.Unreadable[0].Key != put.key || !strings.Contains(got.Unreadable[0].String(), put.want) {
				t.Fatalf("unreadable %v, want %q at %s", got.Unreadable, put.want, put.key)
			}
			want := 3
			if id, ok := strings.CutPrefix(put.key, keyMitigations); ok {
				want = 2
				if got.Unreadable[0].ID != id {
					t.Errorf("id %q", got.Unreadable[0].ID)
				}
			}
			if len(got.Records.Mitigations) != want {
				t.Errorf("%d mitigations, want the %d others", len(got.Records.Mitigations), want)
			}
			// Nothing damaged releases automation.
			if len(got.Records.Holds) != 1 || got.Records.Freeze == nil || len(got.Records.Frozen) != 1 || got.Records.Frozen[0].Group != "dns" {
				t.Errorf("holds %v, freeze %v, of groups %v", got.Records.Holds, got.Records.Freeze, got.Records.Frozen)
			}
			if loaded, err := l.Load(t.Context()); err != nil || cmp.Diff(got.Records, loaded, equal...) != "" {
				t.Errorf("load and watch differ: %v %s", err, cmp.Diff(got.Records, loaded, equal...))
			}
			if err := s.Healthy(); err != nil {
				t.Errorf("one damaged record makes the store unhealthy: %v", err)
			}
			// Put right again, it is read again; a mitigation is put right by deleting its ID.
			var rev int64
			switch {
			case got.Unreadable[0].ID != "":
				rev = commit(t, l, Change{Delete: []string{got.Unreadable[0].ID}})
				if n := w.at(rev); len(n.Unreadable) != 0 {
					t.Errorf("still unreadable: %v", n.Unreadable)
				}
				rev = commit(t, l, Change{Put: samples(t, 3)})
			case len(old.Kvs) == 1:
				r, err := s.client.Put(t.Context(), put.key, string(old.Kvs[0].Value))
				if err != nil {
					t.Fatal(err)
				}
				rev = r.Header.Revision
			default:
				r, err := s.client.Delete(t.Context(), put.key)
				if err != nil {
					t.Fatal(err)
				}
				rev = r.Header.Revision
			}
			if n := w.at(rev); len(n.Unreadable) != 0 || len(n.Records.Mitigations) != 3 {
				t.Errorf("after repair: %d mitigations, unreadable %v", len(n.Records.Mitigations), n.Unreadable)
			}
		})
	}
}

// TestUnreadableTerm: the clock numbers the next term when the record of the last one is damaged.
func TestUnreadableTerm(t *testing.T) {
	c := startCluster(t)
	s := c.open("one")
	l := lead(t, s)
	l.stop()
	if _, err := s.client.Put(t.Context(), keyTerm, "garbage"); err != nil {
		t.Fatal(err)
	}
	again := lead(t, s)
	if again.Number() < l.Number() {
		t.Errorf("term %d after %d", again.Number(), l.Number())
	}
}
