package lab

import (
	"context"
	"math"
	"net/netip"
	"testing"
	"time"

	"github.com/amooglesoft/trafficmonitor/internal/lab/enforce"
	"github.com/amooglesoft/trafficmonitor/internal/lab/flood"
	"github.com/amooglesoft/trafficmonitor/internal/lab/legit"
	"github.com/amooglesoft/trafficmonitor/internal/lab/tap"
	"github.com/amooglesoft/trafficmonitor/internal/route"
)

var (
	classDNS4 = tap.Class{Destination: SiteVictim4, Protocol: 17, SourcePort: 53}
	classSYN6 = tap.Class{Destination: SiteVictim6, Protocol: 6, FlagsSet: 0x02, FlagsClear: 0x10}
)

// attack sends an attack and returns what the sender says of it.
func attack(t *testing.T, ctx context.Context, s *Site, x *flood.Template, err error, pps float64, packets uint64) flood.Result {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	f, err := s.AttackerOut.Flood(s.EdgeIn, flood.Options{Template: x, PPS: pps, Packets: packets, Duration: 20 * time.Second, Pin: true, CPU: 1})
	if err != nil {
		t.Fatal(err)
	}
	r, err := f.Run(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if r.Packets != packets {
		t.Fatalf("sent %d of %d packets", r.Packets, packets)
	}
	return r
}

func counts(t *testing.T, m *tap.Meter) tap.Counts {
	t.Helper()
	c, err := m.Counts()
	return Must(t, c, err)
}

// Packets of an attack cross the site at the rate asked for, rules from a real BGP session stop exactly what they say,
// and everything is seen and timed where it happens.
func TestSite(t *testing.T) {
	NeedRoot(t)
	NeedTool(t, "bird", "nft", "ip")
	ctx := deadline(t, 90*time.Second)
	l := New(t, "site")
	s, err := NewSite(ctx, l, SiteOptions{NoFRR: true})
	if err != nil {
		t.Fatal(err)
	}
	speaker, err := s.Control.StartBIRD(ctx, RouterConfig{
		Name: "speaker", RouterID: SiteControlForBIRD, ASN: SiteASN, Local: SiteControlForBIRD,
		Neighbors: []Neighbor{{Name: "edge", Address: SiteBIRD, ASN: SiteBIRDASN, Announce: true}},
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.BIRD.WaitEstablished(ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Victim.Serve(7007); err != nil {
		t.Fatal(err)
	}
	client, err := s.Client.Client(legit.Options{Servers: []netip.AddrPort{netip.AddrPortFrom(SiteVictim4, 7007), netip.AddrPortFrom(SiteVictim6, 7007)}})
	if err != nil {
		t.Fatal(err)
	}
	bgp, err := s.BIRDToControl.BGP()
	if err != nil {
		t.Fatal(err)
	}
	routes, err := s.Edge.WatchRoutes()
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now()

	// meters returns what came in at the edge and what got through to the rack, of one attack.
	type meters struct{ in, through *tap.Meter }
	open := func(c tap.Class) meters {
		in, err := s.EdgeIn.Meter(c)
		if err != nil {
			t.Fatal(err)
		}
		through, err := s.Uplink.Meter(c)
		return meters{in, Must(t, through, err)}
	}
	enforced := func(want int) time.Time {
		t.Helper()
		at, err := s.Enforce.Wait(ctx, func(r []route.Route) bool { return len(r) == want })
		return Must(t, at, err)
	}

	t.Run("rate", func(t *testing.T) {
		first, err := s.EdgeIn.First(classDNS4)
		if err != nil {
			t.Fatal(err)
		}
		m := open(classDNS4)
		x, err := flood.DNSAnswers(SiteVictim4, SiteSpoofed4, 512)
		r := attack(t, ctx, s, x, err, 100_000, 200_000)
		in, through := counts(t, m.in), counts(t, m.through)
		if in.Packets != 200_000 || through.Packets != in.Packets || in.Bytes != 200_000*540 {
			t.Errorf("sent 200000; %d (%d bytes) came in and %d got through", in.Packets, in.Bytes, through.Packets)
		}
		// Never faster than asked for; slower is the machine's doing, and for the log only.
		seen := float64(in.Packets) / in.Last.Sub(in.First).Seconds()
		if r.PPS() > 101_000 || seen > 101_000 {
			t.Errorf("sent at %.0f and received at %.0f packets per second, asked for 100,000", r.PPS(), seen)
		}
		t.Logf("sent at %.0f, received at %.0f packets per second", r.PPS(), seen)
		at, err := first.Wait(ctx)
		if err != nil {
			t.Fatal(err)
		}
		// The tap and the meter see the same packet by two clocks; the sender knows when it began.
		if d := at.Sub(in.First).Abs(); d > time.Second {
			t.Errorf("the first packet's time differs by %v", d)
		}
		if at.Before(r.Began.Add(-time.Millisecond)) || at.After(r.Ended) {
			t.Errorf("first packet %v after the attack began", at.Sub(r.Began))
		}
		curve, err := m.in.Curve()
		if err != nil {
			t.Fatal(err)
		}
		if got := curve.Between(in.First.Add(-time.Second), in.Last.Add(time.Second)); got != in.Packets {
			t.Errorf("the curve holds %d of %d packets", got, in.Packets)
		}
	})

	t.Run("discard", func(t *testing.T) {
		announced := time.Now()
		if err := speaker.Announce(ctx, mustRoute(t, "destination 203.0.113.10/32 protocol udp source-port 53 then discard")); err != nil {
			t.Fatal(err)
		}
		u, err := bgp.Wait(ctx, announced, func(u tap.Update) bool { return u.SAFI == tap.SAFIFlowSpec && len(u.Reach) > 0 })
		if err != nil {
			t.Fatal(err)
		}
		at := enforced(1)
		t.Logf("UPDATE %v after the command, enforced %v later", u.Time.Sub(announced), at.Sub(u.Time))
		if u.From != SiteControlForBIRD || u.AFI != 1 || at.Before(u.Time) {
			t.Errorf("UPDATE %+v, enforced %v later", u, at.Sub(u.Time))
		}
		want, err := route.AppendFlowSpec(nil, mustRoute(t, "destination 203.0.113.10/32 protocol udp source-port 53 then discard").Match)
		if err != nil || string(u.Reach) != string(want) {
			t.Errorf("NLRI %x, want %x (%v)", u.Reach, want, err)
		}
		dns, ntp := open(classDNS4), open(tap.Class{Destination: SiteVictim4, Protocol: 17, SourcePort: 123})
		x, err := flood.DNSAnswers(SiteVictim4, SiteSpoofed4, 512)
		attack(t, ctx, s, x, err, 50_000, 5000)
		x, err = flood.Reflection("NTP", SiteVictim4, SiteSpoofed4, 123, make([]byte, 440))
		attack(t, ctx, s, x, err, 50_000, 5000)
		if in, out := counts(t, dns.in).Packets, counts(t, dns.through).Packets; in != 5000 || out != 0 {
			t.Errorf("of the attack %d of %d packets got through", out, in)
		}
		if in, out := counts(t, ntp.in).Packets, counts(t, ntp.through).Packets; in != 5000 || out != 5000 {
			t.Errorf("of what no rule matches %d of %d packets got through", out, in)
		}
		rules, _, err := s.Enforce.State()
		if err != nil {
			t.Fatal(err)
		}
		c, err := s.Enforce.Counters(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if got := c[enforce.Key(rules[0])]; got.Matched.Packets != 5000 || got.Dropped.Packets != 5000 || got.Dropped.Bytes != 5000*540 {
			t.Errorf("the rule counted %+v", got)
		}
	})

	t.Run("rate limit", func(t *testing.T) {
		const rate = 540_000 // bytes per second: 1000 packets per second
		if err := speaker.Announce(ctx, mustRoute(t, "destination 203.0.113.10/32 protocol udp source-port 53 then rate-limit 4320kbps")); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Enforce.Wait(ctx, func(r []route.Route) bool { return len(r) == 1 && r[0].Action.Rate == rate }); err != nil {
			t.Fatal(err)
		}
		m := open(classDNS4)
		x, err := flood.DNSAnswers(SiteVictim4, SiteSpoofed4, 512)
		r := attack(t, ctx, s, x, err, 50_000, 100_000)
		got := float64(counts(t, m.through).Bytes)
		// A second's worth goes through at once.
		if want := (r.Ended.Sub(r.Began).Seconds() + 1) * rate; math.Abs(got-want) > 0.25*want {
			t.Errorf("%.0f bytes got through, want %.0f", got, want)
		}
	})

	t.Run("syn over IPv6", func(t *testing.T) {
		if err := speaker.Announce(ctx, mustRoute(t, "destination 2001:db8:113::10/128 protocol tcp tcp-flags syn&!ack then discard")); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Enforce.Wait(ctx, func(r []route.Route) bool { return len(r) == 1 && r[0].Family() == route.IPv6 }); err != nil {
			t.Fatal(err)
		}
		ack := classSYN6
		ack.FlagsSet, ack.FlagsClear = 0x10, 0x02
		syn, other := open(classSYN6), open(ack)
		x, err := flood.SYN(SiteVictim6, SiteSpoofed6, 443)
		attack(t, ctx, s, x, err, 50_000, 5000)
		x, err = flood.TCP(SiteVictim6, SiteSpoofed6, 443, 0x10)
		attack(t, ctx, s, x, err, 50_000, 5000)
		if in, out := counts(t, syn.in).Packets, counts(t, syn.through).Packets; in != 5000 || out != 0 {
			t.Errorf("of the attack %d of %d packets got through", out, in)
		}
		// The client's own TCP matches that class, too.
		if in, out := counts(t, other.in).Packets, counts(t, other.through).Packets; in != 5000 || out < 5000 {
			t.Errorf("of what no rule matches %d of %d packets got through", out, in)
		}
	})

	t.Run("blackhole", func(t *testing.T) {
		announced := time.Now()
		dark := netip.MustParsePrefix("203.0.113.66/32")
		if err := speaker.Announce(ctx, mustRoute(t, "destination 203.0.113.66/32 then blackhole")); err != nil {
			t.Fatal(err)
		}
		if _, err := bgp.Wait(ctx, announced, func(u tap.Update) bool { return u.AFI == 1 && u.SAFI == tap.SAFIUnicast && len(u.Reach) > 0 }); err != nil {
			t.Fatal(err)
		}
		e, err := routes.Wait(ctx, announced, func(e RouteEvent) bool { return e.Prefix == dark && e.Blackhole && !e.Deleted })
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("in the kernel %v after the command", e.Time.Sub(announced))
		m := open(tap.Class{Destination: dark.Addr(), Protocol: 17})
		x, err := flood.UDP(dark.Addr(), SiteSpoofed4, 9, []byte("x"))
		attack(t, ctx, s, x, err, 50_000, 1000)
		if in, out := counts(t, m.in).Packets, counts(t, m.through).Packets; in != 1000 || out != 0 {
			t.Errorf("%d of %d packets got through", out, in)
		}
		if err := speaker.Announce(ctx); err != nil {
			t.Fatal(err)
		}
		if _, err := routes.Wait(ctx, e.Time, func(e RouteEvent) bool { return e.Prefix == dark && e.Deleted }); err != nil {
			t.Fatal(err)
		}
		if rules, _, err := s.Enforce.State(); len(rules) != 0 || err != nil {
			t.Errorf("still in force: %v, %v", rules, err)
		}
	})

	if st := client.Between(began, time.Now()); st.LossPercent() > 20 || st.Asked < 100 {
		t.Errorf("the legitimate client lost %d of %d", st.Lost, st.Asked)
	} else {
		t.Logf("the legitimate client lost %d of %d, median answer %v, slowest %v", st.Lost, st.Asked, st.Median, st.Max)
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
	if left := leftovers(t, l.ID()); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}
