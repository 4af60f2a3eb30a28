package config

import (
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/amooglesoft/trafficmonitor/internal/route"
	"github.com/amooglesoft/trafficmonitor/internal/vector"
)

// Controller is the configuration of a controller and of the speaker beside it.
type Controller struct {
	Name        string
	DataDir     string
	Listen      Listen
	TLS         TLS
	Network     Network
	Policy      string // path; empty means the built-in default
	Shadow      string // path; empty means none
	PolicyWatch time.Duration
	Safety      Safety
	Store       Store
	Speaker     Speaker
	Sensors     Sensors
	Journal     Journal
	Baseline    Baseline
	Breaker     Breaker
	Audit       Audit
	Log         Log
	Pprof       bool
	DefaultHold time.Duration
}

// Listen says where a controller is reached; the zero Address is not at all.
type Listen struct {
	Sensors       Address
	Console       Address
	ConsoleSocket Address
	Telemetry     Address
}

// Network says whose traffic it is about.
type Network struct {
	Own   []netip.Prefix // what is protected, and all that rules may be announced for
	Never []netip.Prefix // what no automatic rule may touch
}

// Safety holds the limits of the safety kernel.
type Safety struct {
	MaxRules, MaxNewPerMinute, MaxRulesPerTarget, MaxRulesPerOwner int
	MaxRulesPerResponse, MaxRulesPerGroup                          int
	MaxAge                                                         time.Duration
	BlackholeMinLength4, BlackholeMinLength6                       int
	SourceMinLength4, SourceMinLength6                             int
	MaxOwnShare                                                    float64  // 0 to 1
	AutomaticActions                                               []string // words of the text form
	RedirectTargets                                                []route.RouteTarget
	RedirectAddresses                                              []netip.Prefix
	AllowSourceBlackhole                                           bool
	SecondPersonAbove                                              int // hosts; 0: never
	AllowWideBlackhole, AllowLongAge, AllowLargeShare              bool
}

// Store says where decisions are kept.
type Store struct {
	Endpoints []string // URLs of an etcd cluster; empty means embedded
	TLS       TLS
	LeaseTTL  time.Duration
	Keep      time.Duration
}

// What a speaker does with its routes when it is told to stop.
const (
	OnStopGraceful = "graceful-restart" // leave them to the routers for the graceful restart time
	OnStopWithdraw = "withdraw"         // take them back
)

// Speaker is the configuration of a BGP speaker.
type Speaker struct {
	Socket, Journal     string // paths
	Telemetry           Address
	Spawn               bool
	ASN                 uint32
	RouterID            netip.Addr
	ListenPort          int // -1 means none
	ListenAddresses     []netip.Addr
	OnStop              string
	GracefulRestartTime time.Duration
	LongLivedTime       time.Duration // 0 means none
	StoreWait           time.Duration // 0 means none
	Blackhole           Blackhole
	Profiles            string // path of a directory; empty means none
	PeerGroups          []PeerGroup
	Peers               []Peer
}

// Blackhole says how blackholes are announced.
type Blackhole struct {
	NextHop4, NextHop6 netip.Addr
	Communities        []Community // besides BLACKHOLE (65535:666) and NO_EXPORT
}

// PeerGroup is what routers have in common.
type PeerGroup struct {
	Name string
	// Of is what a router of the group has where its own entry says nothing. Its Name, Address and Group are empty, and its
	// ASN is 0 where each router says its own.
	Of Peer
}

// Group returns the index of the group with this name; a name that is empty is none's.
func (s *Speaker) Group(name string) (index int, ok bool) {
	i := slices.IndexFunc(s.PeerGroups, func(g PeerGroup) bool { return g.Name == name && name != "" })
	return i, i >= 0
}

// Peer is one router, with all that its group says.
type Peer struct {
	Name                 string
	Group                string // empty means none
	Address              netip.Addr
	ASN                  uint32
	Port                 uint16
	LocalAddress         netip.Addr // the zero Addr means that the system chooses
	Passive              bool
	MultihopTTL          int // 0 means directly connected
	TTLSecurity          bool
	MD5File              string // path; empty means no TCP MD5
	HoldTime             time.Duration
	ConnectRetry         time.Duration
	Families             []string
	Profile              string
	Probe                Probe
	Widen                []string   // components
	MaxCost              int        // 0 means what the profile says
	MaxRules             int        // 0 means what the profile says
	ProgramRate          int        // rules a second; 0 means what the profile says
	MaxItemsPerComponent int        // 0 means what the profile says
	NextHop4, NextHop6   netip.Addr // of blackholes at this router; the zero Addr means those of Blackhole
}

// Probe says how a router is asked what it installed: by a command, SNMP or gNMI; without any of them it is not asked.
type Probe struct {
	Run      []string   // a program and its arguments
	Address  netip.Addr // for SNMP and gNMI; the zero Addr means that of the session
	SNMP     ProbeSNMP
	GNMI     ProbeGNMI
	Interval time.Duration
	Timeout  time.Duration
}

// ProbeSNMP is how a router's SNMP agent is asked: as User by version 3, or with a community by version 2c.
type ProbeSNMP struct {
	Port                                 uint16
	User, Auth                           string
	AuthFile, PrivacyFile, CommunityFile string // paths
	Cleartext                            bool   // version 2c may be used
}

// On reports whether the router is asked by SNMP.
func (s ProbeSNMP) On() bool { return s.User != "" || s.CommunityFile != "" }

// ProbeGNMI is how a router is asked by gNMI, over TLS.
type ProbeGNMI struct {
	Port                                  uint16
	CAFile, ServerName                    string
	User, PasswordFile, CertFile, KeyFile string
}

// On reports whether the router is asked by gNMI.
func (g ProbeGNMI) On() bool { return g.User != "" || g.CertFile != "" }

// Families of BGP a peer may have.
const (
	IPv4Unicast  = "ipv4-unicast"
	IPv6Unicast  = "ipv6-unicast"
	IPv4FlowSpec = "ipv4-flowspec"
	IPv6FlowSpec = "ipv6-flowspec"
)

// Sensors is what a controller tells and expects of sensors.
type Sensors struct {
	ReportInterval  time.Duration
	HotInterval     time.Duration
	SampleOneIn     uint32 // 0 samples none
	HotSampleOneIn  uint32 // of targets that passed a trigger; 0 samples as SampleOneIn says
	Profiles        int    // targets a sensor describes at the report interval
	ReflectionPorts []ReflectionPort
	StaleAfter      time.Duration
	Allowed         []string // names; empty allows every sensor with a valid certificate
}

// ReflectionPort counts what comes from a UDP source port under a reflection vector, beside the ports of the vector table.
type ReflectionPort struct {
	Port   uint16
	Vector vector.ID
}

// Journal bounds what is kept on disk of the sensors' reports.
type Journal struct {
	Enabled bool
	Size    int64 // octets
	Age     time.Duration
}

// Baseline bounds what is learnt of targets' normal traffic.
type Baseline struct {
	Enabled    bool
	Keys       int
	HalfLife   time.Duration
	ReadyAfter time.Duration
}

// Audit bounds the record of events that controllers share in etcd.
type Audit struct {
	Keep  time.Duration
	Lines int
}

// What follows when the circuit breaker opens.
const (
	ThenTell   = "tell"   // an event
	ThenHold   = "hold"   // the newest answers are withdrawn, and automation held off their targets
	ThenFreeze = "freeze" // that, and all automation is frozen
)

// Breaker says when automation stops itself because it does harm.
type Breaker struct {
	Enabled          bool
	Span             time.Duration
	Settle           time.Duration
	Agreement        float64 // 0 to 1
	DisputedTargets  int
	OneSensorTargets int
	OnDisagreement   string

	Before              time.Duration
	FallWithin, FallFor time.Duration
	TargetFall          float64 // 0 to 1
	OnTargetFall        string
	TotalFall           float64 // 0 to 1
	TotalTargets        int
	OnTotalFall         string
	Hold                time.Duration
}

// DefaultController returns what is in force where the file says nothing.
func DefaultController() Controller {
	return Controller{
		Name:    hostname(),
		DataDir: "/var/lib/trafficmonitor",
		Listen: Listen{
			Sensors:       Address{Host: "127.0.0.1", Port: 7442},
			Console:       Address{Host: "127.0.0.1", Port: 7443},
			ConsoleSocket: Address{Path: "/run/trafficmonitor/console.sock"},
			Telemetry:     Address{Host: "127.0.0.1", Port: 7444},
		},
		Safety: Safety{
			MaxRules: 1000, MaxNewPerMinute: 60, MaxRulesPerTarget: 8, MaxRulesPerOwner: 32,
			MaxRulesPerResponse: 500, MaxRulesPerGroup: 500,
			MaxAge:              24 * time.Hour,
			BlackholeMinLength4: 32, BlackholeMinLength6: 128,
			SourceMinLength4: 24, SourceMinLength6: 48,
			MaxOwnShare: 0.05, SecondPersonAbove: 256, AutomaticActions: []string{"rate-limit", "discard", "blackhole"},
		},
		Store: Store{LeaseTTL: 2 * time.Second, Keep: 24 * time.Hour},
		Speaker: Speaker{
			Socket:              "/run/trafficmonitor/speaker.sock",
			Telemetry:           Address{Host: "127.0.0.1", Port: 7446},
			Spawn:               true,
			ListenPort:          -1,
			OnStop:              OnStopGraceful,
			GracefulRestartTime: 120 * time.Second, StoreWait: 5 * time.Second,
			Blackhole: Blackhole{NextHop4: netip.MustParseAddr("192.0.2.1"), NextHop6: netip.MustParseAddr("100::1")},
		},
		Sensors: Sensors{
			ReportInterval: time.Second, HotInterval: 100 * time.Millisecond,
			SampleOneIn: 1024, HotSampleOneIn: 64, Profiles: 64, StaleAfter: 3 * time.Second,
		},
		Journal:  Journal{Enabled: true, Size: 1 << 30, Age: 7 * day},
		Baseline: Baseline{Enabled: true, Keys: 10_000, HalfLife: 14 * day, ReadyAfter: day},
		Breaker: Breaker{
			Enabled: true, Span: time.Minute, Settle: 3 * time.Second, Agreement: 0.05, DisputedTargets: 10, OneSensorTargets: 30, OnDisagreement: ThenFreeze,
			Before: 30 * time.Second, FallWithin: 30 * time.Second, FallFor: 10 * time.Second, TargetFall: 0.6, OnTargetFall: ThenHold,
			TotalFall: 0.4, TotalTargets: 10, OnTotalFall: ThenFreeze, Hold: 30 * time.Minute,
		},
		Audit:       Audit{Keep: 30 * day, Lines: 10_000},
		Log:         Log{Level: "info", Format: "text"},
		DefaultHold: 30 * time.Minute,
	}
}

// defaultPeerGroup is a group that says nothing.
func defaultPeerGroup() PeerGroup { return PeerGroup{Of: defaultPeer()} }

// defaultPeer returns what is in force for a router where neither its entry nor its group says anything.
func defaultPeer() Peer {
	return Peer{
		Port: 179, HoldTime: 90 * time.Second, ConnectRetry: 5 * time.Second,
		Families: []string{IPv4Unicast, IPv6Unicast, IPv4FlowSpec, IPv6FlowSpec},
		Profile:  "generic",
		Probe:    Probe{SNMP: ProbeSNMP{Port: 161, Auth: "sha256"}, GNMI: ProbeGNMI{Port: 9339}, Interval: 30 * time.Second, Timeout: 10 * time.Second},
	}
}

// resolve makes paths absolute and derives what follows from other keys.
func (c *Controller) resolve(dir string) {
	if c.Speaker.Journal == "" && c.DataDir != "" {
		c.Speaker.Journal = filepath.Join(c.DataDir, "speaker.journal")
	}
	absolute(dir, &c.DataDir, &c.Policy, &c.Shadow, &c.Speaker.Profiles, &c.Speaker.Socket, &c.Speaker.Journal,
		&c.TLS.CA, &c.TLS.Cert, &c.TLS.Key, &c.Store.TLS.CA, &c.Store.TLS.Cert, &c.Store.TLS.Key)
	for i := range c.Speaker.PeerGroups {
		absolute(dir, c.Speaker.PeerGroups[i].Of.files()...)
	}
	for i := range c.Speaker.Peers {
		absolute(dir, c.Speaker.Peers[i].files()...)
	}
}

// files are the paths in a router's entry.
func (p *Peer) files() []*string { return append([]*string{&p.MD5File}, p.Probe.files()...) }

// ForRouter returns the entry with the router's name and address where {name} and {address} stand for them: in paths, in
// probe.run and in probe.gnmi.server_name.
func (p Peer) ForRouter() Peer {
	r := strings.NewReplacer("{name}", p.Name, "{address}", p.Address.String())
	p.Probe.Run = slices.Clone(p.Probe.Run)
	texts := append(p.files(), &p.Probe.GNMI.ServerName)
	for i := range p.Probe.Run {
		texts = append(texts, &p.Probe.Run[i])
	}
	for _, x := range texts {
		*x = r.Replace(*x)
	}
	return p
}

func (p *Probe) files() []*string {
	s, g := &p.SNMP, &p.GNMI
	return []*string{&s.AuthFile, &s.PrivacyFile, &s.CommunityFile, &g.CAFile, &g.PasswordFile, &g.CertFile, &g.KeyFile}
}

// Files returns the paths of what is read to ask a router.
func (p Probe) Files() (paths []string) {
	for _, f := range p.files() {
		if *f != "" {
			paths = append(paths, *f)
		}
	}
	return paths
}
