package speaker

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/amooglesoft/trafficmonitor/internal/compile"
)

const (
	discard4   = "destination 192.0.2.1/32 protocol udp source-port 53 then discard"
	rate6      = "destination 2001:db8::1/128 protocol tcp tcp-flags syn&!ack then rate-limit 8Mbps"
	packets4   = "destination 192.0.2.2/32 protocol udp then rate-limit 1kpps"
	blackhole4 = "destination 192.0.2.3/32 then blackhole"
	blackhole6 = "destination 2001:db8::3/128 then blackhole"
)

var all = []string{discard4, rate6, packets4, blackhole4, blackhole6}

var allAtRouter = map[string]string{
	"destination 192.0.2.1/32 protocol udp source-port 53":        "extended 8006000000000000",
	"destination 2001:db8::1/128 protocol tcp tcp-flags syn&!ack": "extended 8006000049742400",
	"destination 192.0.2.2/32 protocol udp":                       "extended 800c0000447a0000",
	"blackhole 192.0.2.3/32":                                      "next-hop 192.0.2.1 community 65535:65281 community 65535:666",
	"blackhole 2001:db8::3/128":                                   "community 65535:65281 community 65535:666 next-hop 100::1",
}

func TestAnnounceAndWithdraw(t *testing.T) {
	t.Parallel()
	f := newFakeRouter(t).serve()
	s := start(t, testOptions(t, f.peer("edge1")))
	if res := s.set(1, 1, desired(t, all...)); res.Announced != 5 || len(res.Refused) != 0 {
		t.Fatalf("set: %+v", res)
	}
	waitFor(t, "all routes", func() bool { return len(f.routes()) == len(all) })
	if diff := cmp.Diff(normal(allAtRouter), normal(f.routes())); diff != "" {
		t.Errorf("at the router (-want +got):\n%s", diff)
	}

	st := s.status()
	if p := st.Peers[0]; p.State != Established || p.Routes[Sent] != 5 || p.Desired != 5 || len(p.Missing) != 0 || p.Established != 1 {
		t.Errorf("peer: %+v", p)
	}
	for _, r := range st.Routes {
		if r.Peers[0].State != Sent || r.Peers[0].Sent.IsZero() {
			t.Errorf("%s: %+v", r.Route, r.Peers[0])
		}
	}
	if st.Term != 1 || st.Revision != 1 || st.ASN != 65000 || st.PID == 0 {
		t.Errorf("status: %+v", st)
	}

	// Another action under the same match replaces; what is not in the set goes; what stays sends nothing.
	before := 0
	f.get(func() { before = f.updates })
	change := strings.Replace(discard4, "discard", "rate-limit 8Mbps", 1)
	res := s.set(1, 2, desired(t, change, blackhole4))
	if res.Announced != 1 || res.Withdrawn != 3 {
		t.Errorf("second set: %+v", res)
	}
	waitFor(t, "two routes", func() bool { return len(f.routes()) == 2 })
	waitFor(t, "the new action", func() bool {
		return f.routes()["destination 192.0.2.1/32 protocol udp source-port 53"] == "extended 8006000049742400"
	})
	f.get(func() {
		if f.updates-before != 4 {
			t.Errorf("%d UPDATEs for one change and three withdrawals", f.updates-before)
		}
	})

	s.set(1, 3, nil)
	waitFor(t, "no route", func() bool { return len(f.routes()) == 0 })

	problems, err := testutil.GatherAndLint(s.reg)
	if err != nil || len(problems) > 0 {
		t.Errorf("metrics: %v %v", problems, err)
	}
}

// normal sorts the words of each value, whose order is GoBGP's.
func normal(in map[string]string) map[string]string {
	out := map[string]string{}
	for k, v := range in {
		w := strings.Fields(v)
		slices.Sort(w)
		out[k] = strings.Join(w, " ")
	}
	return out
}

func TestStaleAndRefused(t *testing.T) {
	t.Parallel()
	f := newFakeRouter(t).serve()
	s := start(t, testOptions(t, f.peer("edge1")))
	ctx := context.Background()
	s.set(3, 10, desired(t, discard4))
	for _, c := range []struct{ term, revision uint64 }{{3, 9}, {2, 100}} {
		if _, err := s.client.Set(ctx, c.term, c.revision, nil); !errors.Is(err, ErrStale) {
			t.Errorf("term %d revision %d: %v", c.term, c.revision, err)
		}
	}
	s.set(3, 10, desired(t, discard4)) // the same again
	s.set(4, 1, desired(t, discard4))  // a new term

	bad := desired(t, discard4, "destination 203.0.113.1/32 protocol udp then discard", "destination 192.0.2.9/32 protocol tcp destination-port 179 then discard")
	expired := desired(t, packets4)[0]
	expired.Deadline = time.Now().Add(-2 * justEnded)
	none := desired(t, blackhole4)[0]
	none.Deadline = time.Time{}
	twice := desired(t, strings.Replace(discard4, "discard", "rate-limit 8Mbps", 1))[0]
	res := s.set(4, 2, append(bad, expired, none, twice))
	got := map[string]string{}
	for _, r := range res.Refused {
		got[r.Route] = r.Invariant
		if r.Reason == "" {
			t.Errorf("%s refused without a reason", r.Route)
		}
	}
	want := map[string]string{
		"destination 203.0.113.1/32 protocol udp then discard":                    "outside_own_prefixes",
		"destination 192.0.2.9/32 protocol tcp destination-port 179 then discard": "bgp",
		packets4: RefusedDeadline, blackhole4: RefusedDeadline,
		twice.Route.String(): RefusedDuplicate,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("refused (-want +got):\n%s", diff)
	}
	waitFor(t, "the one good route", func() bool { return len(f.routes()) == 1 })

	// GoBGP would take these two for one.
	alike := desired(t, "destination 192.0.2.9/32 protocol udp tcp-flags syn then discard", "destination 192.0.2.9/32 protocol udp tcp-flags syn&ae then discard")
	if res := s.set(4, 3, alike); len(res.Refused) != 0 {
		t.Errorf("refused %+v", res.Refused)
	}
	waitFor(t, "both", func() bool { return len(f.routes()) == 2 })
}

func TestDeadlineWithNobodyAlive(t *testing.T) {
	t.Parallel()
	f := newFakeRouter(t).serve()
	o := testOptions(t, f.peer("edge1"))
	s := start(t, o)
	waitFor(t, "the session", func() bool { return f.sessions() == 1 })
	short := desired(t, discard4)
	long := desired(t, blackhole6)
	short[0].Deadline = time.Now().Add(1500 * time.Millisecond)
	s.set(1, 1, append(short, long...))
	waitFor(t, "both routes", func() bool { return len(f.routes()) == 2 })
	s.client.Close() // nobody asks any more
	waitFor(t, "the end of the short one", func() bool { return len(f.routes()) == 1 })
	if late := time.Since(short[0].Deadline); late < 0 || late > 2*time.Second {
		t.Errorf("withdrawn %s after its deadline", late)
	}
	s.stop()
	s = start(t, o) // the journal still holds it, and its deadline
	if st := s.status(); len(st.Routes) != 1 || st.Routes[0].Route.String() != blackhole6 {
		t.Errorf("routes after a restart: %+v", st.Routes)
	}
}

func TestRedButton(t *testing.T) {
	t.Parallel()
	f := newFakeRouter(t).serve()
	o := testOptions(t, f.peer("edge1"))
	s := start(t, o)
	ctx := context.Background()
	s.set(1, 1, desired(t, all...))
	waitFor(t, "all routes", func() bool { return len(f.routes()) == len(all) })
	if _, err := s.client.WithdrawAll(ctx, "ann", ""); err == nil || !strings.Contains(err.Error(), "reason") {
		t.Errorf("without a reason: %v", err)
	}
	n, err := s.client.WithdrawAll(ctx, "ann", "fabric upgrade")
	if err != nil || n != 5 {
		t.Fatalf("withdraw all: %d, %v", n, err)
	}
	waitFor(t, "no route", func() bool { return len(f.routes()) == 0 })
	if _, err := s.client.Set(ctx, 1, 2, desired(t, discard4)); !errors.Is(err, ErrWithdrawnAll) || !strings.Contains(err.Error(), "ann") {
		t.Errorf("set while pressed: %v", err)
	}

	s.stop() // remembered over a restart
	s = start(t, o)
	if st := s.status(); st.WithdrawnAllBy != "ann: fabric upgrade" || len(st.Routes) != 0 {
		t.Errorf("after a restart: %+v", st)
	}
	if _, err := s.client.Set(ctx, 1, 2, desired(t, discard4)); !errors.Is(err, ErrWithdrawnAll) {
		t.Errorf("set after a restart: %v", err)
	}
	if err := s.client.Release(ctx, "bob", "done"); err != nil {
		t.Fatal(err)
	}
	s.set(1, 2, desired(t, discard4))
	waitFor(t, "the route", func() bool { return len(f.routes()) == 1 })
}

func TestOnStop(t *testing.T) {
	t.Parallel()
	for _, mode := range []OnStop{Withdraw, GracefulRestart} {
		t.Run(string(mode), func(t *testing.T) {
			t.Parallel()
			f := newFakeRouter(t)
			f.keep = true // a router that honours graceful restart
			f.serve()
			o := testOptions(t, f.peer("edge1"))
			o.OnStop, o.LongLived = mode, time.Hour
			s := start(t, o)
			s.set(1, 1, desired(t, all...))
			waitFor(t, "all routes", func() bool { return len(f.routes()) == len(all) })
			s.stop()
			waitFor(t, "the end of the session", func() bool { var gone bool; f.get(func() { gone = f.conn == nil }); return gone })
			f.get(func() {
				if mode == Withdraw && (f.notif == nil || f.notif[0] != 6 || len(f.rib) != 0) {
					t.Errorf("NOTIFICATION %v, %d routes left", f.notif, len(f.rib))
				}
				if mode == GracefulRestart && (f.notif != nil || len(f.rib) != len(all)) {
					t.Errorf("NOTIFICATION %v, %d routes left", f.notif, len(f.rib))
				}
			})

			// What the journal holds is announced at the start, once each, with nobody asking, and marked as kept.
			before := 0
			f.get(func() { before, f.eor = f.updates, 0 })
			s = start(t, o)
			waitFor(t, "End-of-RIB of four tables", func() bool { var n int; f.get(func() { n = f.eor }); return n == 4 })
			f.get(func() {
				if n := f.updates - before; n != len(all) || len(f.rib) != len(all) {
					t.Errorf("%d UPDATEs for %d routes", n, len(f.rib))
				}
				if f.open.restartFlags&0x8000 == 0 || len(f.open.gracefulOf) != 4 || f.open.gracefulOf[0].flags&0x80 == 0 {
					t.Errorf("graceful restart in OPEN: %+v", f.open)
				}
				if f.open.longLived != 3600 {
					t.Errorf("long-lived graceful restart in OPEN: %d s", f.open.longLived)
				}
			})
			before += len(all)
			s.set(1, 1, desired(t, all...))
			waitFor(t, "nothing new", func() bool { return s.status().Peers[0].Routes[Sent] == len(all) })
			f.get(func() {
				if f.updates != before {
					t.Errorf("%d UPDATEs for the same set", f.updates-before)
				}
			})
		})
	}
}

func TestReconnect(t *testing.T) {
	t.Parallel()
	f := newFakeRouter(t).serve()
	s := start(t, testOptions(t, f.peer("edge1")))
	s.set(1, 1, desired(t, all...))
	for i := range 3 {
		waitFor(t, "all routes", func() bool { return len(f.routes()) == len(all) })
		if n := f.sessions(); n != i+1 {
			t.Fatalf("session %d of %d", n, i+1)
		}
		begin := time.Now()
		f.drop()
		waitFor(t, "the next session", func() bool { return f.sessions() == i+2 })
		t.Logf("back after %s", time.Since(begin).Round(time.Millisecond))
	}
	waitFor(t, "all routes", func() bool { return len(f.routes()) == len(all) })
	p := s.status().Peers[0]
	if p.Established < 4 || !strings.Contains(p.LastError, "without a NOTIFICATION") || p.LastErrorTime.IsZero() {
		t.Errorf("peer: %+v", p)
	}
}

func TestTwoRoutersOfDifferentKind(t *testing.T) {
	t.Parallel()
	full, small := newFakeRouter(t).serve(), newFakeRouter(t)
	small.tables = []compile.Table{compile.IPv4Unicast, compile.IPv4FlowSpec}
	small.asn = 65000 // iBGP
	small.serve()
	sp := small.peer("small")
	sp.MaxRules = 2
	s := start(t, testOptions(t, sp, full.peer("full")))
	s.set(1, 1, desired(t, all...))
	waitFor(t, "all routes", func() bool { return len(full.routes()) == len(all) })
	waitFor(t, "two routes", func() bool { return len(small.routes()) == 2 })
	st := s.status()
	states := map[string]RouteState{}
	for _, r := range st.Routes {
		if r.Peers[0].Peer != "full" || r.Peers[0].State != Sent {
			t.Errorf("%s: %+v", r.Route, r.Peers[0])
		}
		states[r.Route.String()] = r.Peers[1].State
		if r.Peers[1].State != Sent && r.Peers[1].Reason == "" {
			t.Errorf("%s: no reason", r.Route)
		}
	}
	// What the router does not offer takes no room.
	want := map[string]RouteState{discard4: Sent, rate6: Unsupported, packets4: NotPlaced, blackhole4: Sent, blackhole6: Unsupported}
	if diff := cmp.Diff(want, states); diff != "" {
		t.Errorf("states (-want +got):\n%s", diff)
	}
	if p := st.Peers[1]; !slices.Equal(p.Missing, []compile.Table{compile.IPv6Unicast, compile.IPv6FlowSpec}) {
		t.Errorf("missing: %v", p.Missing)
	}
}
