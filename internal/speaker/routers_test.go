package speaker

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/amooglesoft/trafficmonitor/internal/lab"
	"github.com/amooglesoft/trafficmonitor/internal/probe"
	"github.com/amooglesoft/trafficmonitor/internal/profile"
	"github.com/amooglesoft/trafficmonitor/internal/route"
)

// fabric is a speaker in a namespace of its own with real routers beside it.
type fabric struct {
	t       *testing.T
	lab     *lab.Lab
	speaker *lab.Namespace
	config  processConfig
	process *lab.Process
	client  *Client
	routers map[string]lab.Router
}

func within(t testing.TB, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

// newFabric starts the named routers ("bird", "frr") and a speaker with a session to each.
func newFabric(t *testing.T, change func(*Peer, *lab.Neighbor), names ...string) *fabric {
	t.Helper()
	lab.NeedRoot(t)
	lab.NeedTool(t, "ip")
	l := lab.New(t, "speaker")
	f := &fabric{t: t, lab: l, routers: map[string]lab.Router{}}
	f.speaker = f.namespace("speaker")
	f.config = processConfig{Socket: filepath.Join(l.Dir(), "speaker.sock"), Journal: filepath.Join(l.Dir(), "journal")}
	ctx := within(t, 60*time.Second)
	for i, name := range names {
		n := f.namespace(name)
		us, them := netip.MustParseAddr(fmt.Sprintf("10.66.%d.1", i)), netip.MustParseAddr(fmt.Sprintf("10.66.%d.2", i))
		if _, _, err := l.Link(
			lab.End{In: f.speaker, Addresses: []string{us.String() + "/24"}},
			lab.End{In: n, Addresses: []string{them.String() + "/24"}},
		); err != nil {
			t.Fatal(err)
		}
		p := Peer{Name: name, Address: them, ASN: 65012, HoldTime: 30 * time.Second, ConnectRetry: time.Second}
		nb := lab.Neighbor{Name: "speaker", Address: us, ASN: 65000}
		if change != nil {
			change(&p, &nb)
		}
		if p.Passive {
			f.config.ListenPort = 179
		}
		c := lab.RouterConfig{RouterID: them, ASN: p.ASN, Local: them, Neighbors: []lab.Neighbor{nb}}
		var err error
		switch name {
		case "bird":
			lab.NeedTool(t, "bird")
			f.routers[name], err = n.StartBIRD(ctx, c)
		case "frr":
			lab.NeedTool(t, "bgpd", "zebra", "staticd", "vtysh")
			f.routers[name], err = n.StartFRR(ctx, c)
		}
		if err != nil {
			t.Fatal(err)
		}
		f.config.Peers = append(f.config.Peers, p)
	}
	var err error
	if f.client, err = Dial(f.config.Socket); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.client.Close() })
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(l.Tails(40))
		}
	})
	f.start()
	return f
}

func (f *fabric) namespace(name string) *lab.Namespace {
	n, err := f.lab.Namespace(name)
	if err != nil {
		f.t.Fatal(err)
	}
	return n
}

func (f *fabric) status() Status {
	st, err := f.client.Status(f.t.Context())
	if err != nil {
		f.t.Fatal(err)
	}
	return st
}

func (f *fabric) start() {
	f.t.Helper()
	var err error
	f.process, err = f.speaker.Start(lab.Command{Name: "speaker", Argv: []string{os.Args[0]}, Env: f.config.env(f.t)})
	if err != nil {
		f.t.Fatal(err)
	}
	waitFor(f.t, "the speaker", func() bool {
		st, err := f.client.Status(f.t.Context())
		return err == nil && st.PID == f.process.Pid()
	})
}

func (f *fabric) waitEstablished() {
	f.t.Helper()
	waitFor(f.t, "the sessions", func() bool {
		st, err := f.client.Status(f.t.Context())
		if err != nil {
			return false
		}
		for _, p := range st.Peers {
			if p.State != Established {
				return false
			}
		}
		return true
	})
}

func (f *fabric) set(routes ...string) {
	f.t.Helper()
	st, err := f.client.Status(f.t.Context())
	if err != nil {
		f.t.Fatal(err)
	}
	res, err := f.client.Set(f.t.Context(), 1, st.Revision+1, desired(f.t, routes...))
	if err != nil || len(res.Refused) > 0 {
		f.t.Fatalf("set: %+v, %v", res, err)
	}
}

// expect waits until the router holds exactly these routes, by its own account.
func (f *fabric) expect(name string, routes ...string) {
	f.t.Helper()
	ctx := within(f.t, 30*time.Second)
	r := f.routers[name]
	for _, fam := range []route.Family{route.IPv4, route.IPv6} {
		var rules []route.Route
		var holes []netip.Prefix
		for _, text := range routes {
			x := parse(f.t, text)
			switch {
			case x.Family() != fam:
			case x.IsBlackhole():
				holes = append(holes, x.Match.Destination)
			default:
				if name == "frr" && x.Action.Kind == route.RatePackets {
					x.Action = route.Action{} // FRR 8.4 keeps 0x800c and shows nothing of it
				}
				rules = append(rules, x)
			}
		}
		if _, err := lab.WaitFlowSpec(ctx, r, fam, rules...); err != nil {
			text, _ := r.FlowSpecText(ctx, fam)
			f.t.Fatalf("%s: %v\n%s", name, err, text)
		}
		if err := lab.WaitBlackholes(ctx, r, fam, holes...); err != nil {
			f.t.Fatalf("%s: %v", name, err)
		}
	}
}

// Every component and every action we have, in both families, goes into real routers, is read back with their own tools,
// means what was meant, and goes again.
func TestRealRoutersEveryComponent(t *testing.T) {
	t.Parallel()
	f := newFabric(t, nil, "bird", "frr")
	f.waitEstablished()
	const d4, d6 = "destination 192.0.2.1/32 ", "destination 2001:db8::1/128 "
	var every []string
	for _, m := range []string{
		"protocol udp", "protocol tcp,udp", "protocol 100-110", "port 53", "destination-port 80,443", "source-port 1024-65535",
		"destination-port 1-10,20,30-40", "source-port 19,53,123,389,1900", "protocol tcp tcp-flags syn", "protocol tcp tcp-flags syn&!ack",
		"protocol tcp tcp-flags syn&!ack,rst", "protocol tcp tcp-flags !ack", "protocol tcp tcp-flags fin&psh&urg&!syn&!ack",
		"length 1000-1500", "length 64,128", "dscp 46", "dscp 10-20", "fragment is-fragment",
		"fragment first-fragment,last-fragment", "protocol udp destination-port 53 source-port 53 length 512-65535 fragment is-fragment",
	} {
		every = append(every, d4+m, d6+m)
	}
	every = append(every,
		d4+"protocol icmp icmp-type 8 icmp-code 0", d6+"protocol icmpv6 icmp-type 128,129 icmp-code 0-3",
		d4+"source 198.51.100.0/24 protocol udp", d6+"source 2001:db8:ffff::/48 protocol udp",
		d4+"fragment dont-fragment&!is-fragment", "destination 192.0.2.0/25 protocol udp source-port 11211",
		"destination 2001:db8:1::/48 protocol udp source-port 11211",
	)
	actions := []string{" then discard", " then rate-limit 8Mbps", " then rate-limit 1kpps"}
	for i, m := range every {
		text := m + actions[i%3]
		t.Run(strings.ReplaceAll(text, "/", "|"), func(t *testing.T) {
			f.t = t
			f.set(text)
			f.expect("bird", text)
			f.expect("frr", text)
		})
	}
	f.t = t
	f.set(every[0] + " then discard")
	f.set()
	f.expect("bird")
	f.expect("frr")
	for _, p := range f.status().Peers {
		if p.Established != 1 || p.LastError != "" {
			t.Errorf("%s: sessions %d, %s", p.Name, p.Established, p.LastError)
		}
	}
}

// Together with blackholes, and over the ways of the speaker to die: what BIRD keeps, what FRR keeps, nothing orphaned,
// nothing twice.
func TestRealRoutersRestart(t *testing.T) {
	t.Parallel()
	f := newFabric(t, nil, "bird", "frr")
	f.waitEstablished()
	f.set(all...)
	f.expect("bird", all...)
	f.expect("frr", all...)

	// kill -9. BIRD keeps all by graceful restart. FRR keeps the blackholes and drops the rules, whatever was agreed.
	if err := f.process.Kill(); err != nil {
		t.Fatal(err)
	}
	<-f.process.Done()
	waitFor(t, "FRR to notice", func() bool {
		rules, err := f.routers["frr"].FlowSpecRoutes(t.Context(), route.IPv4)
		return err == nil && len(rules) == 0
	})
	f.expect("bird", all...)
	f.expect("frr", blackhole4, blackhole6)

	// The next one announces its journal by itself; FRR has the rules back, BIRD never lost them.
	f.start()
	f.expect("frr", all...)
	f.expect("bird", all...)
	f.waitEstablished()
	f.set(all...)

	// A route that is not wanted any more when the speaker is away is gone when it is back.
	if err := f.process.Kill(); err != nil {
		t.Fatal(err)
	}
	<-f.process.Done()
	j := &journal{path: f.config.Journal}
	st, _, err := j.load(time.Now())
	if err != nil || len(st.items) != len(all) {
		t.Fatalf("journal: %d routes, %v", len(st.items), err)
	}
	for i := range st.items {
		if st.items[i].text != blackhole4 && st.items[i].text != discard4 {
			st.items[i].Deadline = time.Now()
		}
	}
	if err := j.save(st); err != nil {
		t.Fatal(err)
	}
	f.start()
	f.expect("bird", blackhole4, discard4)
	f.expect("frr", blackhole4, discard4)

	// Stopped in good order it leaves everything to graceful restart, and with on_stop: withdraw nothing.
	stop := func() {
		t.Helper()
		if err := f.process.Stop(within(t, 10*time.Second)); err != nil {
			t.Logf("stop: %v", err)
		}
		<-f.process.Done()
	}
	stop()
	f.expect("bird", blackhole4, discard4)
	f.config.OnStop = Withdraw
	f.start()
	f.expect("frr", blackhole4, discard4)
	f.waitEstablished()
	stop()
	f.expect("bird")
	f.expect("frr")
}

// iBGP, MD5 and TTL security, dialled and with the router connecting to us; a wrong password gives no session and a reason.
func TestRealRoutersSecurity(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name    string
		router  string
		change  func(*Peer, *lab.Neighbor)
		refused bool
	}{
		{"iBGP to BIRD", "bird", func(p *Peer, _ *lab.Neighbor) { p.ASN = 65000 }, false},
		{"iBGP to FRR", "frr", func(p *Peer, _ *lab.Neighbor) { p.ASN = 65000 }, false},
		{"MD5 to BIRD", "bird", func(p *Peer, n *lab.Neighbor) { p.MD5, n.Password = "s3cret", "s3cret"; n.Passive = true }, false},
		{"MD5 to FRR", "frr", func(p *Peer, n *lab.Neighbor) { p.MD5, n.Password = "s3cret", "s3cret"; n.Passive = true }, false},
		{"wrong MD5", "bird", func(p *Peer, n *lab.Neighbor) { p.MD5, n.Password = "s3cret", "other"; n.Passive = true }, true},
		{"TTL security to BIRD", "bird", func(p *Peer, n *lab.Neighbor) { p.TTLSecurity, n.TTLSecurity = true, true; n.Passive = true }, false},
		{"TTL security to FRR", "frr", func(p *Peer, n *lab.Neighbor) { p.TTLSecurity, n.TTLSecurity = true, true; n.Passive = true }, false},
		{"passive, MD5 from BIRD", "bird", func(p *Peer, n *lab.Neighbor) { p.Passive, p.MD5, n.Password = true, "s3cret", "s3cret" }, false},
		{"passive, wrong MD5", "bird", func(p *Peer, n *lab.Neighbor) { p.Passive, p.MD5, n.Password = true, "s3cret", "other" }, true},
		{"passive, TTL security from FRR", "frr", func(p *Peer, n *lab.Neighbor) { p.Passive, p.TTLSecurity, n.TTLSecurity = true, true, true }, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			f := newFabric(t, c.change, c.router)
			if c.refused {
				waitFor(t, "the kernel to drop wrongly signed segments", func() bool {
					return f.md5Failures(f.speaker)+f.md5Failures(f.namespace(c.router)) >= 3
				})
				if p := f.status().Peers[0]; p.Established != 0 {
					t.Errorf("established with the wrong password: %+v", p)
				}
				return
			}
			f.waitEstablished()
			f.set(discard4, rate6) // no blackhole: BIRD takes none with a next hop that is not direct
			f.expect(c.router, discard4, rate6)
		})
	}
}

// md5Failures is how many TCP segments with a wrong signature the kernel dropped in n.
func (f *fabric) md5Failures(n *lab.Namespace) int {
	f.t.Helper()
	out, err := n.Run(f.t.Context(), "nstat", "-asz", "TcpExtTCPMD5Failure")
	if err != nil {
		f.t.Fatal(err)
	}
	for line := range strings.Lines(out) {
		if w := strings.Fields(line); len(w) > 1 && w[0] == "TcpExtTCPMD5Failure" {
			v, err := strconv.Atoi(w[1])
			if err != nil {
				f.t.Fatal(err)
			}
			return v
		}
	}
	f.t.Fatalf("nstat printed %q", out)
	return 0
}

// The NLRI that kills GoBGP, from a router of a real fabric: nobody dies, no route of the other router moves.
func TestHostileRouterBesideRealOne(t *testing.T) {
	t.Parallel()
	f := newFabric(t, nil, "bird")
	hostile := newFakeRouter(t)
	f.waitEstablished()
	f.set(all...)
	f.expect("bird", all...)
	// The hostile one is reached over another link, into a namespace of its own.
	n := f.namespace("hostile")
	if _, _, err := f.lab.Link(
		lab.End{In: f.speaker, Addresses: []string{"10.66.9.1/24"}}, lab.End{In: n, Addresses: []string{"10.66.9.2/24"}},
	); err != nil {
		t.Fatal(err)
	}
	hostile.ln.Close()
	if err := n.Do(func() (err error) { hostile.ln, err = net.Listen("tcp4", "10.66.9.2:179"); return err }); err != nil {
		t.Fatal(err)
	}
	hostile.onUp = func(c net.Conn) {
		for range 10 {
			_, _ = c.Write(g2())
		}
	}
	hostile.serve()
	if err := f.process.Kill(); err != nil {
		t.Fatal(err)
	}
	<-f.process.Done()
	f.config.Peers = append(f.config.Peers, Peer{Name: "hostile", Address: netip.MustParseAddr("10.66.9.2"), ASN: 65001, ConnectRetry: time.Second})
	f.start()
	f.waitEstablished()
	waitFor(t, "all routes at the hostile one", func() bool { return len(hostile.routes()) == len(all) })
	for range 10 {
		f.set(discard4)
		f.expect("bird", discard4)
		f.set(all...)
		f.expect("bird", all...)
	}
	if !f.process.Running() {
		t.Error("the speaker died")
	}
	for _, p := range f.status().Peers {
		if p.Established != 1 {
			t.Errorf("%s: %d sessions", p.Name, p.Established)
		}
	}
}

// FRR gets rules in the shapes its profile says it can enforce, and is asked with its own tool what it made of them and what
// they hit: nothing, for no module of Debian's package fills ipset and iptables.
func TestRealRouterTellsWhatItInstalled(t *testing.T) {
	t.Parallel()
	f := newFabric(t, nil, "frr")
	set, err := profile.Load("")
	if err != nil {
		t.Fatal(err)
	}
	frr, ok := set.Get("frr")
	if !ok {
		t.Fatal("no profile frr")
	}
	if err := f.process.Stop(within(t, 10*time.Second)); err != nil {
		t.Fatal(err)
	}
	p := &f.config.Peers[0]
	p.Profile = frr.Router
	p.Probe = Probe{
		Argv: f.routers["frr"].(*lab.FRR).Shell(), Parser: frr.Probe.Parser, IPv4: frr.Probe.IPv4, IPv6: frr.Probe.IPv6, Counters: frr.Probe.Counters,
		Interval: time.Second, Timeout: 20 * time.Second,
	}
	f.start()
	f.waitEstablished()
	const two, one6, limit = "destination 192.0.2.1/32 protocol udp source-port 53,100-200 then discard",
		"destination 2001:db8::1/128 protocol tcp tcp-flags syn&!ack length 40-60 then discard", "destination 192.0.2.2/32 protocol udp then rate-limit 8Mbps"
	f.set(two, one6, limit)
	f.expect("frr", "destination 192.0.2.1/32 protocol udp source-port 53 then discard", "destination 192.0.2.1/32 protocol udp source-port 100-200 then discard", one6)

	var at map[string]PeerRoute
	waitFor(t, "FRR's answer", func() bool {
		at = map[string]PeerRoute{}
		for _, r := range f.status().Routes {
			at[r.Route.String()] = r.Peers[0]
		}
		return !at[two].Found.At.IsZero() && !at[one6].Found.At.IsZero()
	})
	for _, text := range []string{two, one6} {
		if p := at[text]; p.State != Sent || p.Found.State != probe.NotInstalled || p.Found.HasPackets || !strings.Contains(p.Found.Reason, "not installed in PBR") {
			t.Errorf("%s: %+v", text, p)
		}
	}
	if p := at[limit]; p.State != Unsupported || !strings.Contains(p.Reason, "does not do rate-limit 8Mbps (profile frr)") || !p.Found.At.IsZero() {
		t.Errorf("%+v", p)
	}
	if s := f.status().Peers[0]; s.Probed.NotInstalled != 3 || s.Probed.Installed != 0 || s.Probed.Error != "" || s.Probed.At.IsZero() || s.Established != 1 {
		t.Errorf("%+v", s)
	}
	f.set()
	f.expect("frr")
}
