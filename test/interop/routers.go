package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/amooglesoft/trafficmonitor/internal/lab"
	"github.com/amooglesoft/trafficmonitor/internal/route"
	"github.com/amooglesoft/trafficmonitor/internal/speaker"
)

// implementation is one router program.
type implementation struct {
	Name    string // in the results
	Package string // of Debian
	Reads   string // how its account is read
	Tools   []string
	// Start starts one.
	Start func(context.Context, *lab.Namespace, lab.RouterConfig) (lab.Receiver, error)
	// Missing are the families it does not negotiate.
	Missing []lab.AddressFamily
}

// start makes a Start of a method.
func start[R lab.Receiver](f func(*lab.Namespace, context.Context, lab.RouterConfig) (R, error)) func(context.Context, *lab.Namespace, lab.RouterConfig) (lab.Receiver, error) {
	return func(ctx context.Context, n *lab.Namespace, c lab.RouterConfig) (lab.Receiver, error) {
		return f(n, ctx, c)
	}
}

// implementations are the routers of the suite.
var implementations = []implementation{
	{"FRR", "frr", "`vtysh -c \"show bgp … flowspec detail\"`, `show bgp … unicast json detail`", []string{"zebra", "vtysh"}, start((*lab.Namespace).StartFRR), nil},
	{"BIRD", "bird2", "`birdc show route table … all`", []string{"bird"}, start((*lab.Namespace).StartBIRD), nil},
	{"gobgpd", "gobgpd", "`gobgp -j global rib`", []string{"gobgpd", "gobgp"}, start((*lab.Namespace).StartGoBGP), nil},
	{"ExaBGP", "exabgp", "its JSON events", []string{"exabgp"}, start((*lab.Namespace).StartExaBGP), nil},
	{
		"OpenBGPD", "openbgpd", "`bgpctl -j show rib detail`",
		[]string{"/usr/sbin/bgpd", "bgpctl"},
		start((*lab.Namespace).StartOpenBGPD),
		[]lab.AddressFamily{lab.FlowSpec4, lab.FlowSpec6},
	},
}

// pair is our speaker, in its own process, and one router.
type pair struct {
	router  lab.Receiver
	version string
	us      *lab.Namespace
	program string
	config  speakerConfig
	client  *speaker.Client
	speaker *lab.Process
	rev     uint64
}

const (
	ourASN = 65000
	ourTag = ourASN<<16 | 666 // a community of ours on each blackhole
)

// ours are the speaker's and the router's end of the n-th link.
func addresses(n int) (ours, theirs netip.Addr) {
	return netip.AddrFrom4([4]byte{10, 66, byte(n), 1}), netip.AddrFrom4([4]byte{10, 66, byte(n), 2})
}

// newPair starts a router of an AS and a speaker, which is the given program, and waits for their session.
func newPair(ctx context.Context, l *lab.Lab, program string, n int, asn uint32, im implementation) (*pair, error) {
	us, err := l.Namespace(fmt.Sprintf("us%d", n))
	if err != nil {
		return nil, err
	}
	them, err := l.Namespace(fmt.Sprintf("them%d", n))
	if err != nil {
		return nil, err
	}
	ours, theirs := addresses(n)
	if _, _, err := l.Link(lab.End{In: us, Addresses: []string{ours.String() + "/24"}}, lab.End{In: them, Addresses: []string{theirs.String() + "/24"}}); err != nil {
		return nil, err
	}
	p := &pair{us: us, program: program}
	p.router, err = im.Start(ctx, them, lab.RouterConfig{
		RouterID: theirs, ASN: asn, Local: theirs, AcceptAll: true,
		Neighbors: []lab.Neighbor{{Name: "speaker", Address: ours, ASN: ourASN, Passive: true}},
	})
	if err != nil {
		return nil, err
	}
	if p.version, err = p.router.Version(ctx); err != nil {
		return nil, err
	}
	p.config = speakerConfig{
		Dir: filepath.Join(l.Dir(), us.Name()), RouterID: ours,
		Peers: []speakerPeer{{im.Name, theirs, asn}},
	}
	if err := p.start(); err != nil {
		return nil, err
	}
	l.OnClose(func() { _ = p.client.Close() })
	return p, p.established(ctx)
}

func (p *pair) start() (err error) {
	p.speaker, p.client, err = p.config.start(p.us, p.program)
	return err
}

// stop ends the router and the speaker in good order.
func (p *pair) stop(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	return errors.Join(p.speaker.Stop(ctx), p.router.Stop(ctx))
}

// restart starts another speaker, which knows nothing of the one before.
func (p *pair) restart(ctx context.Context) error {
	if err := errors.Join(p.client.Close(), p.speaker.Stop(ctx), os.Remove(filepath.Join(p.config.Dir, "speaker.journal"))); err != nil {
		return err
	}
	p.rev = 0
	return p.start()
}

// established waits for the session.
func (p *pair) established(ctx context.Context) error {
	_, err := p.wait(ctx, "the session with "+p.router.Name(), func(s speaker.Status) error {
		if s.Peers[0].State != speaker.Established {
			return fmt.Errorf("it is %s; %s", s.Peers[0].State, s.Peers[0].LastError)
		}
		return nil
	})
	return err
}

// wait waits for a condition of what the speaker says.
func (p *pair) wait(ctx context.Context, what string, ok func(speaker.Status) error) (st speaker.Status, err error) {
	err = lab.Until(ctx, what, func(ctx context.Context) error {
		if !p.speaker.Running() {
			return lab.GiveUp(fmt.Errorf("the speaker ended: %v", p.speaker.Err()))
		}
		if st, err = p.client.Status(ctx); err != nil {
			return err
		}
		return ok(st)
	})
	return st, err
}

// set makes the routes of cells the only ones, and returns what the speaker refused, by text.
func (p *pair) set(ctx context.Context, cells []Cell, more ...route.Route) (map[string]string, error) {
	now := time.Now()
	var all []speaker.Desired
	add := func(owner string, r route.Route) {
		all = append(all, speaker.Desired{
			Route: r, Deadline: now.Add(time.Hour), Created: now, Owners: []string{owner}, Manual: true, Approved: true,
		})
	}
	for _, c := range cells {
		add(fmt.Sprintf("cell-%d", c.number), c.Route)
	}
	for i, r := range more {
		add(fmt.Sprintf("more-%d", i), r)
	}
	p.rev++
	result, err := p.client.Set(ctx, 1, p.rev, all)
	if err != nil {
		return nil, err
	}
	refused := map[string]string{}
	for _, r := range result.Refused {
		refused[r.Route] = r.Invariant + ": " + r.Reason
	}
	return refused, nil
}

// speakerConfig is what a speaker is told.
type speakerConfig struct {
	Dir      string
	RouterID netip.Addr
	// Restart is how long routers may keep our routes when the session is lost; 0 means the default.
	Restart time.Duration
	// LongLived is how long they may keep them after that.
	LongLived time.Duration
	OnStop    string
	Peers     []speakerPeer
}

type speakerPeer struct {
	Name    string
	Address netip.Addr
	ASN     uint32
}

// everything is the profile of a router that gets each rule as it is: what a router makes of it is what we want to know.
const everything = `name: everything
platform: A router of the lab
match: {max_items: 64, prefix_offset: any}
facts:
  - about: [match.max_items, match.prefix_offset]
    says: Nothing is kept from it, for the suite is to see what it makes of everything.
    source: own
    where: test/interop
`

// start starts the speaker process in a namespace.
func (c speakerConfig) start(in *lab.Namespace, program string) (*lab.Process, *speaker.Client, error) {
	profiles := filepath.Join(c.Dir, "profiles")
	if err := os.MkdirAll(profiles, 0o755); err != nil {
		return nil, nil, err
	}
	text := fmt.Sprintf(`name: interop
data_dir: %[1]s
listen: {sensors: "", console: "", console_socket: "", telemetry: ""}
network: {own_prefixes: [%[2]s, "%[3]s"]}
safety: {max_rules: 100000, max_new_per_minute: 100000, max_rules_per_target: 1000, blackhole_min_length_v4: 24, blackhole_min_length_v6: 48, max_age: 24h,
  redirect_targets: ["64500:100", "192.0.2.9:9", "4200000000:9"], redirect_addresses: [%[7]s/32, "%[8]s/128"], allow_source_blackhole: true}
speaker:
  socket: %[1]s/s.sock
  spawn: false
  asn: %[4]d
  router_id: %[5]s
  on_stop: %[6]s
  store_wait: 0s
  graceful_restart_time: %[9]v
  long_lived_time: %[10]v
  blackhole: {communities: ["%[4]d:666"]}
  profiles: %[1]s/profiles
  peers:
`, c.Dir, own4, own6, ourASN, c.RouterID, cmp.Or(c.OnStop, string(speaker.GracefulRestart)), hop4, hop6, cmp.Or(c.Restart, 2*time.Minute), c.LongLived)
	for _, p := range c.Peers {
		text += fmt.Sprintf("    - {name: %q, address: %s, asn: %d, connect_retry: 1s, profile: everything}\n", p.Name, p.Address, p.ASN)
	}
	if err := os.WriteFile(filepath.Join(profiles, "everything.yaml"), []byte(everything), 0o600); err != nil {
		return nil, nil, err
	}
	file := filepath.Join(c.Dir, "controller.yaml")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		return nil, nil, err
	}
	process, err := in.Start(lab.Command{Name: "speaker", Argv: []string{program, "speaker", "--config", file}})
	if err != nil {
		return nil, nil, err
	}
	client, err := speaker.Dial(filepath.Join(c.Dir, "s.sock"))
	return process, client, err
}

// wantedPath is what a router is to be told with a route.
func wantedPath(c Cell) lab.Path {
	a := c.Route.Action
	p := lab.Path{Communities: a.Communities.All(), Large: a.Large.All(), MED: a.MED, LocalPref: a.LocalPref}
	if c.Route.IsBlackhole() {
		p.Communities = append(p.Communities, ourTag, 0xffff029a, 0xffffff01)
		p.NextHop = netip.MustParseAddr("192.0.2.1")
		if c.Family == route.IPv6 {
			p.NextHop = netip.MustParseAddr("100::1")
		}
		if a.NextHop.IsValid() {
			p.NextHop = a.NextHop
		}
	}
	slices.Sort(p.Communities)
	return p
}
