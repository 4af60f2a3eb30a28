package speaker

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"time"

	"github.com/osrg/gobgp/v3/pkg/server"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/amooglesoft/trafficmonitor/internal/compile"
	"github.com/amooglesoft/trafficmonitor/internal/route"
	"github.com/amooglesoft/trafficmonitor/internal/safety"
)

// OnStop says what becomes of the routes when the speaker is told to stop. A speaker that is killed leaves them to
// graceful restart in any case.
type OnStop string

// The ways to stop.
const (
	Withdraw        OnStop = "withdraw"         // close the sessions with CEASE: the routers drop our routes at once
	GracefulRestart OnStop = "graceful-restart" // close them without: routers that honour it keep our routes for a while
)

// Options is all a speaker is told.
type Options struct {
	Socket  string // unix socket of the SpeakerService
	Journal string // file of the journal
	Version string // of this program

	ASN      uint32
	RouterID netip.Addr // an IPv4 address, unique among all speakers and routers

	// ListenPort is where passive peers connect; -1 for none. ListenAddresses are the addresses of it; all when empty.
	ListenPort      int
	ListenAddresses []netip.Addr

	OnStop          OnStop        // GracefulRestart when empty
	GracefulRestart time.Duration // what we ask routers to keep our routes for; 0 means 120 s, negative turns it off
	LongLived       time.Duration // what we ask them to keep our routes for after that (RFC 9494); 0 means none

	// StoreWait is how long a session that comes up waits at most for the controller to say that the set is that of the store
	// before anything is announced on it; 0 means not at all.
	StoreWait time.Duration

	Peers []Peer

	// What a blackhole carries: its next hop (192.0.2.1 and 100::1 when unset), and communities besides BLACKHOLE and
	// NO_EXPORT.
	NextHop4, NextHop6 netip.Addr
	Communities        []uint32

	// Serving is called once, when the socket takes calls and the journal is announced. May be nil.
	Serving func()

	blameSpan time.Duration                                                                // see suspicion; tests cannot wait
	bgp       func(asn uint32, id netip.Addr, log *slog.Logger) (*server.BgpServer, error) // startBGP; tests start theirs before any of them runs
	made      func(*router)                                                                // called with each router; for tests, may be nil

	Safety     safety.Limits
	Log        *slog.Logger
	Registerer prometheus.Registerer
}

// Peer is one router.
type Peer struct {
	Name         string
	Group        string // of routers in the configuration, shown and nothing else; empty: none
	Address      netip.Addr
	LocalAddress netip.Addr // of our side; chosen by the kernel when unset
	ASN          uint32
	Port         int  // 179 when 0
	Passive      bool // the router connects to us
	MD5          string
	MultihopTTL  int  // for eBGP over more than one hop; 0 means a direct neighbour
	TTLSecurity  bool // RFC 5082: only packets with a hop limit of 255
	// Families to offer; all when empty.
	Families []compile.Table
	// Profile is what kind of router it is; MaxRules, MaxItems and MaxCost, where they are not 0, are what this one takes and
	// holds. Widen names the components that may match more there.
	Profile                     compile.Profile
	MaxRules, MaxItems, MaxCost int
	Widen                       []string
	Probe                       Probe
	ProgramRate                 int // rules a second the router can put into its hardware; 0 means what the profile says
	// NextHop4 and NextHop6 replace those of Options for this router.
	NextHop4, NextHop6 netip.Addr
	HoldTime           time.Duration // 90 s when 0
	ConnectRetry       time.Duration // longest pause between attempts to connect; 5 s when 0

	external bool // eBGP; set by check
}

const (
	defaultGracefulRestart = 120 * time.Second
	maxLongLived           = 24 * time.Hour // a rule that nobody can withdraw any more
	defaultHoldTime        = 90 * time.Second
	defaultConnectRetry    = 5 * time.Second
	defaultProbeInterval   = 30 * time.Second
	defaultProbeTimeout    = 10 * time.Second
	maxMD5                 = 80 // TCP_MD5SIG_MAXKEYLEN

	communityBlackhole uint32 = 65535<<16 | 666 // RFC 7999
	communityNoExport  uint32 = 0xffffff01      // RFC 1997
)

func (p Peer) endpoint() netip.AddrPort { return netip.AddrPortFrom(p.Address, uint16(p.Port)) }

func (p Peer) tables() []compile.Table {
	if len(p.Families) == 0 {
		return compile.Tables()
	}
	return p.Families
}

func (p Peer) profile() compile.Profile {
	c := p.Profile
	c.Tables, c.Widen = p.tables(), p.Widen
	c.MaxRules = cmp.Or(p.MaxRules, c.MaxRules)
	if p.MaxItems > 0 {
		c.MaxItems, c.ItemsOf = p.MaxItems, nil
	}
	if p.MaxCost > 0 {
		c.Budget = compile.Budget{Shared: p.MaxCost}
	}
	return c
}

// Would returns what the router would get for a route, were it the only one.
func (p Peer) Would(r route.Route) compile.Decision {
	return compile.Compile([]compile.Entry{{Route: r}}, p.profile()).Decisions[0]
}

// Check reports everything that is wrong with the options. Run calls it too.
func (o Options) Check() error {
	_, err := o.withDefaults()
	return err
}

// withDefaults returns a copy with every default filled in, or everything that is wrong.
func (o Options) withDefaults() (Options, error) {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }

	if o.Socket == "" {
		bad("socket: no path given")
	}
	if len(o.Socket) > 107 {
		bad("socket: %q is longer than the 107 octets a unix socket's path may have", o.Socket)
	}
	if o.Journal == "" {
		bad("journal: no file given")
	}
	if o.ASN == 0 {
		bad("asn: not given")
	}
	if !o.RouterID.Is4() || o.RouterID.IsUnspecified() {
		bad("router_id: %s is not an IPv4 address", o.RouterID)
	}
	if o.ListenPort < -1 || o.ListenPort > 65535 {
		bad("listen_port: %d is outside 1 to 65535 (-1 for none)", o.ListenPort)
	}
	o.OnStop = cmp.Or(o.OnStop, GracefulRestart)
	if o.OnStop != GracefulRestart && o.OnStop != Withdraw {
		bad("on_stop: %q is neither withdraw nor graceful-restart", o.OnStop)
	}
	o.GracefulRestart = max(0, cmp.Or(o.GracefulRestart, defaultGracefulRestart))
	if o.GracefulRestart > 4095*time.Second {
		bad("graceful_restart: %s is above 4095s, which the protocol cannot say", o.GracefulRestart)
	}
	if o.LongLived < 0 || o.LongLived > maxLongLived {
		bad("long_lived_time: %s is outside 0s (none) to %s", o.LongLived, maxLongLived)
	}
	if o.LongLived > 0 && o.GracefulRestart == 0 {
		bad("long_lived_time: %s begins when the graceful restart time ends, and graceful restart is off", o.LongLived)
	}
	if !o.NextHop4.IsValid() {
		o.NextHop4 = netip.AddrFrom4([4]byte{192, 0, 2, 1})
	}
	if !o.NextHop6.IsValid() {
		o.NextHop6 = netip.MustParseAddr("100::1")
	}
	if o.bgp == nil {
		o.bgp = startBGP
	}
	checkHops(bad, "", o.NextHop4, o.NextHop6)
	o.Communities = slices.Concat([]uint32{communityBlackhole, communityNoExport}, o.Communities)
	slices.Sort(o.Communities)
	o.Communities = slices.Compact(o.Communities)
	if len(o.Communities) > 32 {
		bad("communities: %d are more than 32", len(o.Communities))
	}
	if err := o.Safety.Validate(); err != nil {
		errs = append(errs, err)
	}
	if len(o.Peers) == 0 {
		bad("peers: none given: a speaker needs at least one router")
	}
	o.Peers = slices.Clone(o.Peers)
	names, addresses := map[string]bool{}, map[netip.Addr]bool{}
	for i := range o.Peers {
		p := &o.Peers[i]
		at := fmt.Sprintf("peers[%d]", i)
		if p.Name != "" {
			at = "peer " + p.Name
		}
		p.check(o, func(format string, args ...any) { bad(at+": "+format, args...) })
		if names[p.Name] {
			bad("%s: the name stands twice", at)
		}
		if addresses[p.Address] {
			bad("%s: address %s stands twice", at, p.Address)
		}
		names[p.Name], addresses[p.Address] = true, true
	}
	slices.SortFunc(o.Peers, func(a, b Peer) int { return cmp.Compare(a.Name, b.Name) })
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Registerer == nil {
		o.Registerer = prometheus.NewRegistry()
	}
	return o, errors.Join(errs...)
}

func (p *Peer) check(o Options, bad func(format string, args ...any)) {
	if p.Name == "" {
		bad("name: not given")
	}
	if !p.Address.IsValid() || p.Address.Is4In6() || p.Address.IsUnspecified() || p.Address.IsMulticast() {
		bad("address: %s is not the address of a router", p.Address)
	}
	if p.LocalAddress.IsValid() && p.LocalAddress.Is4() != p.Address.Is4() {
		bad("local_address: %s and address %s are of different families", p.LocalAddress, p.Address)
	}
	if p.ASN == 0 {
		bad("asn: not given")
	}
	p.external = p.ASN != o.ASN
	p.Port = cmp.Or(p.Port, 179)
	if p.Port < 1 || p.Port > 65535 {
		bad("port: %d is outside 1 to 65535", p.Port)
	}
	if p.Passive && o.ListenPort <= 0 {
		bad("passive: the router is to connect to us, but listen_port says there is no listener: set it to 179")
	}
	if len(p.MD5) > maxMD5 {
		bad("md5: the password has %d octets, %d are possible", len(p.MD5), maxMD5)
	}
	if p.MultihopTTL < 0 || p.MultihopTTL > 255 {
		bad("multihop_ttl: %d is outside 1 to 255", p.MultihopTTL)
	}
	if p.MultihopTTL > 0 && p.TTLSecurity {
		bad("multihop_ttl and ttl_security exclude each other: TTL security is for direct neighbours")
	}
	for _, t := range p.Families {
		if _, err := compile.ParseTable(string(t)); err != nil {
			bad("families: %w", err)
		}
	}
	if p.MaxRules < 0 || p.MaxItems < 0 || p.MaxCost < 0 {
		bad("max_rules, max_items and max_cost are 0 (the profile's) or more")
	}
	c := p.profile()
	for _, err := range c.Check() {
		bad("profile %s: %w", c.Name, err)
	}
	p.MaxRules = cmp.Or(p.MaxRules, p.Profile.MaxRules)
	p.ProgramRate = cmp.Or(p.ProgramRate, p.Profile.ProgrammingRate)
	if p.ProgramRate < 0 || p.ProgramRate > 100_000 {
		bad("program_rate: %d rules a second is outside 0 (no pace) to 100000", p.ProgramRate)
	}
	if p.Probe.asker() != nil {
		p.Probe.Interval, p.Probe.Timeout = cmp.Or(p.Probe.Interval, defaultProbeInterval), cmp.Or(p.Probe.Timeout, defaultProbeTimeout)
		if err := p.Probe.check(c.Name); err != nil {
			bad("probe: %w", err)
		}
	}
	p.HoldTime = cmp.Or(p.HoldTime, defaultHoldTime)
	if p.HoldTime < minHoldTime*time.Second || p.HoldTime > 65535*time.Second || p.HoldTime%time.Second != 0 {
		bad("hold_time: %s is not a whole number of seconds from 3s to 65535s", p.HoldTime)
	}
	p.ConnectRetry = cmp.Or(p.ConnectRetry, defaultConnectRetry)
	if p.ConnectRetry < time.Second {
		bad("connect_retry: %s is below 1s", p.ConnectRetry)
	}
	checkHops(bad, "", p.NextHop4, p.NextHop6)
}

func checkHops(bad func(string, ...any), at string, v4, v6 netip.Addr) {
	if v4.IsValid() && (!v4.Is4() || v4.IsUnspecified()) {
		bad("%snext_hop4: %s is not an IPv4 address to send packets to", at, v4)
	}
	if v6.IsValid() && (!v6.Is6() || v6.Is4In6() || v6.IsUnspecified() || v6.Zone() != "") {
		bad("%snext_hop6: %s is not an IPv6 address to send packets to", at, v6)
	}
}
