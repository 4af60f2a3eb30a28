package config

import (
	"slices"
	"strings"
	"time"

	"github.com/amooglesoft/trafficmonitor/internal/compile"
	"github.com/amooglesoft/trafficmonitor/internal/document"
	"github.com/amooglesoft/trafficmonitor/internal/vector"
)

const day = 24 * time.Hour

// schema is controller.yaml: every key, what it may hold and what it means.
func (c *Controller) schema() document.Value {
	return document.Section(
		document.Field{
			Key: "name", Value: document.Scalar(&c.Name, document.Word()),
			Help: "Name of this controller, unlike that of any other replica.",
		},
		document.Field{
			Key: "data_dir", Value: document.Scalar(&c.DataDir, pathCodec()),
			Help:   "Folder for the embedded etcd, the speaker's journal and that of reports; one controller per folder.",
			Danger: "Without it decisions do not survive a restart. Local disk, not a network file system.",
		},
		document.Field{Key: "listen", Help: "Where this controller is reached; an empty text switches a listener off.", Value: c.Listen.schema()},
		document.Field{
			Key: "tls", Value: tlsFields(&c.TLS),
			Help: "Identity of this controller towards sensors and engineers; both must show a certificate too. Without it all listeners stay on loopback and unix sockets.",
		},
		document.Field{Key: "network", Help: "Whose traffic this is about.", Value: c.Network.schema()},
		document.Field{
			Key: "policy", Value: document.Scalar(&c.Policy, document.OrEmpty(pathCodec())),
			Help: "File with the policy, or a directory of its files; empty means the built-in default, policy/default.yaml.",
		},
		document.Field{
			Key: "policy_watch", Value: document.Scalar(&c.PolicyWatch, document.Duration(0, time.Hour)),
			Help:   "How often policy and shadow_policy are looked at for changes, and read again when they changed and then stayed the same for so long; 0s: only on SIGHUP.",
			Danger: "Whoever can write the file changes what is announced, without a further step.",
		},
		document.Field{
			Key: "shadow_policy", Value: document.Scalar(&c.Shadow, document.OrEmpty(pathCodec())),
			Help: "Policy that is asked beside the one in force and never obeyed; where it would have answered an attack otherwise is told. Empty means none.",
		},
		document.Field{Key: "safety", Help: "Limits no policy, role or bug can exceed. They are checked before a decision is stored and again by the speaker.", Value: c.Safety.schema()},
		document.Field{Key: "store", Help: "Where decisions are kept and the leader is elected.", Value: c.Store.schema()},
		document.Field{Key: "speaker", Help: "The BGP speaker, a process of its own, and its routers.", Value: c.Speaker.schema()},
		document.Field{Key: "sensors", Help: "What sensors are told and what is expected of them.", Value: c.Sensors.schema()},
		document.Field{Key: "journal", Help: "What sensors reported, kept on disk below data_dir so that an incident can be replayed. Nothing is decided by it, and nothing waits for it.", Value: c.Journal.schema()},
		document.Field{Key: "baseline", Help: "What targets normally receive and send at each time of the week, learnt and kept in data_dir. The policy's baseline says what it changes.", Value: c.Baseline.schema()},
		document.Field{Key: "breaker", Help: "When automation stops itself because it does harm: see docs/tuning.md. What was withdrawn and why is the event breaker_opened.", Value: c.Breaker.schema()},
		document.Field{Key: "audit", Help: "The record of events that controllers share in etcd, for tmctl audit and tmctl explain. Each one's audit.jsonl in data_dir has 512 MiB of its own events besides.", Value: c.Audit.schema()},
		document.Field{Key: "log", Help: "What is logged, to standard error.", Value: logFields(&c.Log)},
		document.Field{
			Key: "pprof", Value: document.Scalar(&c.Pprof, document.Bool()),
			Help:   "Also serve /debug/pprof on listen.telemetry.",
			Danger: "Who reaches that address can then read memory and slow the process down.",
		},
		document.Field{
			Key: "default_hold", Value: document.Scalar(&c.DefaultHold, document.Duration(0, 30*day)),
			Help: "How long automation keeps its hands off a target after an engineer withdrew its rule without saying how long.",
		},
	)
}

func (l *Listen) schema() document.Value {
	return document.Section(
		document.Field{
			Key: "sensors", Value: document.Scalar(&l.Sensors, document.OrEmpty(addressCodec(forListening))),
			Help: "For sensors, gRPC.", Danger: "Other than loopback it needs tls.",
		},
		document.Field{
			Key: "console", Value: document.Scalar(&l.Console, document.OrEmpty(addressCodec(forListening))),
			Help: "For tmctl and other clients of the API, gRPC.", Danger: "Other than loopback it needs tls.",
		},
		document.Field{
			Key: "console_socket", Value: document.Scalar(&l.ConsoleSocket, document.OrEmpty(addressCodec(forSocket))),
			Help: "For tmctl on this machine; who may open the socket has every right.",
		},
		document.Field{
			Key: "telemetry", Value: document.Scalar(&l.Telemetry, document.OrEmpty(addressCodec(forMetrics))),
			Help: "For Prometheus and health checks: /metrics, /healthz, /readyz, HTTP.", Danger: "Other than loopback it needs tls to be configured, though it is always plain HTTP; it changes nothing, but names your targets' groups and routers.",
		},
	)
}

func (n *Network) schema() document.Value {
	return document.Section(
		document.Field{
			Key: "own_prefixes", Value: document.Scalars(&n.Own, document.Prefix()), Required: true,
			Help:   "The prefixes we protect, IPv4 and IPv6; no rule is ever announced for a destination outside them.",
			Danger: "What is missing here is not protected; what is here and not yours is a hijack when it is blackholed.",
		},
		document.Field{
			Key: "never", Value: document.Scalars(&n.Never, document.Prefix()),
			Help:   "Prefixes no automatic rule may touch: routers, management, resolvers, time servers.",
			Danger: "Whatever operations need in order to reach the routers belongs here.",
		},
	)
}

func (a *Audit) schema() document.Value {
	return document.Section(
		document.Field{Key: "keep", Value: document.Scalar(&a.Keep, document.Duration(time.Hour, 3650*day)), Help: "How long an event stays in it. The leader's value counts: write the same on all controllers."},
		document.Field{Key: "lines", Value: document.Scalar(&a.Lines, document.Number(100, 200_000)), Help: "How many events at most, the newest. About 500 octets each.", Danger: "It takes room in etcd, of which the embedded one has 512 MiB in all."},
	)
}

func (b *Breaker) schema() document.Value {
	then := document.OneOf(ThenTell, ThenHold, ThenFreeze)
	const follows = "What follows: tell is an event only; hold withdraws the newest answers concerned and holds automation off their targets; freeze also freezes all automation until tmctl unfreeze."
	return document.Section(
		document.Field{Key: "enabled", Value: document.Scalar(&b.Enabled, document.Bool()), Help: "Whether there is one.", Danger: "Without it a lying sensor is stopped by the quotas of safety only."},
		document.Field{Key: "span", Value: document.Scalar(&b.Span, document.Duration(time.Second, time.Hour)), Help: "The answers of so long are looked at together for whether sensors agree on them."},
		document.Field{Key: "settle", Value: document.Scalar(&b.Settle, document.Duration(time.Second, time.Minute)), Help: "After an answer, how long sensors have to report of the attack before it is judged; at least two report intervals.", Danger: "Below two report intervals others have not spoken yet, and all seem to disagree."},
		document.Field{Key: "agreement", Value: document.Scalar(&b.Agreement, document.Percent(0.0001, 1)), Help: "Another sensor agrees when it counts this share of the attack's packets that the one counts that counts most."},
		document.Field{Key: "disputed_targets", Value: document.Scalar(&b.DisputedTargets, document.Number(0, 100_000)), Help: "It opens at so many targets answered within span, at least half of all, whose attack one sensor alone reports while the target's other traffic comes past others; 0: never.", Danger: "Where sensors watch links and not racks, an attack that enters by one link looks the same: raise it, or choose tell."},
		document.Field{Key: "one_sensor_targets", Value: document.Scalar(&b.OneSensorTargets, document.Number(0, 100_000)), Help: "It opens at so many targets answered within span, at least four fifths of all, whose attack one and the same sensor alone reports, if three report; 0: never.", Danger: "A carpet bombed rack looks the same: no lower than the hosts of a rack that may be attacked at once."},
		document.Field{Key: "on_disagreement", Value: document.Scalar(&b.OnDisagreement, then), Help: follows},
		document.Field{Key: "before", Value: document.Scalar(&b.Before, document.Duration(time.Second, 10*time.Minute)), Help: "What a target sends is compared with the lowest rate of so long before the answer, at least."},
		document.Field{Key: "fall_within", Value: document.Scalar(&b.FallWithin, document.Duration(time.Second, 10*time.Minute)), Help: "A fall must begin within so long after an answer."},
		document.Field{Key: "fall_for", Value: document.Scalar(&b.FallFor, document.Duration(time.Second, 10*time.Minute)), Help: "A fall must last so long."},
		document.Field{Key: "target_fall", Value: document.Scalar(&b.TargetFall, document.Percent(0, 0.99)), Help: "It opens for a target when what it sends falls by this share after an answer meant to spare its other traffic, while no attack is seen any more; 0% never.", Danger: "Needs sensors that count what leaves. Low values take the end of a download for harm."},
		document.Field{Key: "on_target_fall", Value: document.Scalar(&b.OnTargetFall, then), Help: follows},
		document.Field{Key: "total_fall", Value: document.Scalar(&b.TotalFall, document.Percent(0, 0.99)), Help: "It opens when what all targets send together falls by this share after any answer; 0%: never."},
		document.Field{Key: "total_targets", Value: document.Scalar(&b.TotalTargets, document.Number(1, 100_000)), Help: "For that, so many targets must have fallen by target_fall each, so that it is not one large sender that ends."},
		document.Field{Key: "on_total_fall", Value: document.Scalar(&b.OnTotalFall, then), Help: follows},
		document.Field{Key: "hold", Value: document.Scalar(&b.Hold, document.Duration(time.Minute, 30*day)), Help: "How long automation keeps its hands off a target whose answer was withdrawn."},
	)
}

func (s *Safety) schema() document.Value {
	count := document.Number(1, 100_000)
	return document.Section(
		document.Field{Key: "max_rules", Value: document.Scalar(&s.MaxRules, count), Help: "Rules at any time, all targets together.", Danger: "Routers accept more than their hardware installs: stay below what the smallest one programs."},
		document.Field{Key: "max_new_per_minute", Value: document.Scalar(&s.MaxNewPerMinute, count), Help: "Rules created within any minute.", Danger: "Hardware programs a few hundred rules a second at best."},
		document.Field{Key: "max_rules_per_target", Value: document.Scalar(&s.MaxRulesPerTarget, count), Help: "Rules with the same destination."},
		document.Field{Key: "max_rules_per_owner", Value: document.Scalar(&s.MaxRulesPerOwner, count), Help: "Rules of one mitigation."},
		document.Field{Key: "max_rules_per_response", Value: document.Scalar(&s.MaxRulesPerResponse, count), Help: "Rules that one response of the policy answered with.", Danger: "What one line of the policy can do when its limit is wrong."},
		document.Field{Key: "max_rules_per_group", Value: document.Scalar(&s.MaxRulesPerGroup, count), Help: "Rules for targets in one group of the policy, those of narrower groups inside it included. What no group holds has max_rules only."},
		document.Field{Key: "max_age", Value: document.Scalar(&s.MaxAge, document.Duration(time.Minute, 90*day)), Help: "The age no rule exceeds, whoever asked for it.", Danger: "Above 168h it needs allow_long_age."},
		document.Field{Key: "blackhole_min_length_v4", Value: document.Scalar(&s.BlackholeMinLength4, document.Number(16, 32)), Help: "The shortest IPv4 prefix an approver may blackhole; everyone else blackholes hosts.", Danger: "Below 24 it needs allow_wide_blackhole."},
		document.Field{Key: "blackhole_min_length_v6", Value: document.Scalar(&s.BlackholeMinLength6, document.Number(32, 128)), Help: "The shortest IPv6 prefix an approver may blackhole; everyone else blackholes hosts.", Danger: "Below 48 it needs allow_wide_blackhole."},
		document.Field{Key: "source_min_length_v4", Value: document.Scalar(&s.SourceMinLength4, document.Number(8, 32)), Help: "The shortest IPv4 source an approver may use in a rule without a destination.", Danger: "Below 16 it needs allow_wide_blackhole."},
		document.Field{Key: "source_min_length_v6", Value: document.Scalar(&s.SourceMinLength6, document.Number(16, 128)), Help: "The shortest IPv6 source an approver may use in a rule without a destination.", Danger: "Below 32 it needs allow_wide_blackhole."},
		document.Field{Key: "max_own_share", Value: document.Scalar(&s.MaxOwnShare, document.Percent(0.000001, 1)), Help: "The share of our address space, per family, that may be blackholed or discarded as a whole at one time.", Danger: "Above 25% it needs allow_large_share."},
		document.Field{Key: "automatic_actions", Value: document.Scalars(&s.AutomaticActions, document.OneOf(automaticActions()...)), Help: "What automatic rules may do, in the words of docs/routes.md; engineers may do all of it."},
		document.Field{Key: "redirect_targets", Value: document.Scalars(&s.RedirectTargets, targetCodec()), Help: "Route targets of the VRFs into which rules may redirect traffic; none when empty.", Danger: "What imports a target here can be sent any of our traffic."},
		document.Field{Key: "redirect_addresses", Value: document.Scalars(&s.RedirectAddresses, document.Prefix()), Help: "Addresses to which rules may redirect or copy traffic, and which blackholes may name as their next hop; none when empty. speaker.blackhole needs no entry here.", Danger: "Whoever has an address here can be sent any of our traffic."},
		document.Field{Key: "allow_source_blackhole", Value: document.Scalar(&s.AllowSourceBlackhole, document.Bool()), Help: "Let approvers blackhole single hosts that are not ours as sources (RFC 5635).", Danger: "It works only where routers check sources (uRPF), and takes that host from all of our networks."},
		document.Field{Key: "second_person_above", Value: document.Scalar(&s.SecondPersonAbove, document.Number(0, 1<<30)), Help: "How many of our hosts (IPv4 addresses, or IPv6 /64s) a route announced by hand may reach before a second person, an approver, must approve it; 0 never asks.", Danger: "At 0 one typing error of one approver is enough."},
		document.Field{Key: "allow_wide_blackhole", Value: document.Scalar(&s.AllowWideBlackhole, document.Bool()), Help: "Allow dangerous minimum lengths above.", Danger: "One typing error can then take a whole site off the net."},
		document.Field{Key: "allow_long_age", Value: document.Scalar(&s.AllowLongAge, document.Bool()), Help: "Allow a max_age above 168h.", Danger: "Forgotten rules stay."},
		document.Field{Key: "allow_large_share", Value: document.Scalar(&s.AllowLargeShare, document.Bool()), Help: "Allow a max_own_share above 25%.", Danger: "An error of ours can then take a large part of the network down."},
	)
}

func (s *Store) schema() document.Value {
	return document.Section(
		document.Field{
			Key: "endpoints", Value: document.Scalars(&s.Endpoints, endpointCodec()),
			Help: "URLs of the etcd cluster all replicas share; empty means an etcd of our own in data_dir, for a single controller.",
		},
		document.Field{Key: "tls", Value: tlsFields(&s.TLS), Help: "Identity towards etcd; needed for https."},
		document.Field{
			Key: "lease_ttl", Value: document.Scalar(&s.LeaseTTL, document.Duration(time.Second, time.Minute)),
			Help: "How long a leader that died leads on; nothing new is decided in that time.", Danger: "Shorter than the longest pause of your etcd, leaders change without need.",
		},
		document.Field{Key: "keep", Value: document.Scalar(&s.Keep, document.Duration(time.Minute, 90*day)), Help: "How long ended mitigations stay visible."},
	)
}

func (s *Speaker) schema() document.Value {
	return document.Section(
		document.Field{Key: "socket", Value: document.Scalar(&s.Socket, pathCodec()), Help: "Unix socket between controller and speaker.", Danger: "Who may open it can announce and withdraw."},
		document.Field{Key: "journal", Value: document.Scalar(&s.Journal, document.OrEmpty(pathCodec())), Help: "File in which the speaker keeps its routes and their ends, so that it can announce them after a restart before anyone speaks to it."},
		document.Field{Key: "telemetry", Value: document.Scalar(&s.Telemetry, document.OrEmpty(addressCodec(forMetrics))), Help: "The speaker's own /metrics, /healthz and /readyz, HTTP; empty means none.", Danger: "Other than loopback it needs tls to be configured, though it is always plain HTTP."},
		document.Field{Key: "spawn", Value: document.Scalar(&s.Spawn, document.Bool()), Help: "Start the speaker when none answers on the socket; false where systemd starts it.", Danger: "Under systemd a spawned speaker belongs to the controller's unit and dies with it: use trafficmonitor-speaker.service and false."},
		document.Field{Key: "asn", Value: document.Scalar(&s.ASN, document.Number[uint32](0, 4294967295)), Help: "Our autonomous system number; 0 means none, which is enough without peers."},
		document.Field{Key: "router_id", Value: document.Scalar(&s.RouterID, document.OrEmpty(document.Addr())), Help: "Our BGP identifier, an IPv4 address; needed as soon as there are peers.", Danger: "Two speakers of one router need different ones."},
		document.Field{Key: "listen_port", Value: document.Scalar(&s.ListenPort, document.Number(-1, 65535)), Help: "TCP port on which routers may open the session; -1 means none: we open it.", Danger: "An open port is one more thing to attack; passive peers need it."},
		document.Field{Key: "listen_addresses", Value: document.Scalars(&s.ListenAddresses, document.Addr()), Help: "Our addresses of that port; empty means all."},
		document.Field{Key: "on_stop", Value: document.Scalar(&s.OnStop, document.OneOf(OnStopGraceful, OnStopWithdraw)), Help: "What becomes of the routes when the speaker is told to stop: left to the routers for graceful_restart_time, or withdrawn.", Danger: "Not every router keeps FlowSpec rules through a graceful restart: FRR does not, BIRD does."},
		document.Field{Key: "graceful_restart_time", Value: document.Scalar(&s.GracefulRestartTime, document.Duration(0, 4095*time.Second)), Help: "How long routers may keep our routes after the session is lost (RFC 4724); whole seconds, 0s turns graceful restart off."},
		document.Field{
			Key: "long_lived_time", Value: document.Scalar(&s.LongLivedTime, document.Duration(0, 24*time.Hour)),
			Help:   "How long routers may keep our routes after graceful_restart_time, as a last resort (long-lived graceful restart, RFC 9494); whole seconds, 0s means not at all.",
			Danger: "While no speaker has a session nobody can withdraw: a rule stays past its deadline for up to both times together, which may not exceed safety.max_age.",
		},
		document.Field{
			Key: "store_wait", Value: document.Scalar(&s.StoreWait, document.Duration(0, 30*time.Second)),
			Help:   "How long a session that comes up waits at most for the controller to say that the routes are those of the store, before anything is announced on it; 0s means not at all. With controller and etcd there that takes some 50 ms.",
			Danger: "While no controller or no etcd answers, a router that comes back has nothing of this speaker for so long. With 0s a speaker that was cut off, or off, announces what was withdrawn meanwhile until its controller has read etcd.",
		},
		document.Field{Key: "blackhole", Help: "How blackholes are announced.", Value: document.Section(
			document.Field{Key: "next_hop_v4", Value: document.Scalar(&s.Blackhole.NextHop4, document.Addr()), Help: "Next hop of IPv4 blackholes; the routers must route it to nowhere.", Danger: "If it is routed anywhere else, that place receives the attack."},
			document.Field{Key: "next_hop_v6", Value: document.Scalar(&s.Blackhole.NextHop6, document.Addr()), Help: "Next hop of IPv6 blackholes; the routers must route it to nowhere.", Danger: "If it is routed anywhere else, that place receives the attack."},
			document.Field{Key: "communities", Value: document.Scalars(&s.Blackhole.Communities, communityCodec()), Help: "Communities announced besides BLACKHOLE, 65535:666 (RFC 7999), and NO_EXPORT."},
		)},
		document.Field{Key: "profiles", Value: document.Scalar(&s.Profiles, document.OrEmpty(pathCodec())), Help: "Directory with router profiles of your own, *.yaml, beside those shipped (docs/profiles.md); empty means none."},
		document.Field{
			Key: "peer_groups", Help: "What many routers have in common, said once: a router names its group, and what its own entry says wins over the group's. Groups do not nest.",
			Value: document.List(&s.PeerGroups, defaultPeerGroup, (*PeerGroup).schema),
		},
		document.Field{
			Key: "peers", Help: "The routers.",
			Value: document.List(&s.Peers, defaultPeer, func(p *Peer) document.Value {
				return document.After("group", func(name string) { s.inherit(p, name) }, p.schema())
			}),
		},
	)
}

// inherit makes what the group says what holds for p before its own entry is read. An unknown group is told by check.
func (s *Speaker) inherit(p *Peer, group string) {
	if i, ok := s.Group(group); ok {
		*p = s.PeerGroups[i].Of
	}
}

func (g *PeerGroup) schema() document.Value {
	return document.Section(append([]document.Field{
		{Key: "name", Value: document.Scalar(&g.Name, document.Word()), Required: true, Help: "Name by which routers refer to the group; shown beside them, and a label of a metric."},
		{Key: "asn", Value: document.Scalar(&g.Of.ASN, document.Number[uint32](0, 4294967295)), Help: "As of a peer; 0 means that each router says its own."},
	}, g.Of.common()...)...)
}

func (p *Peer) schema() document.Value {
	return document.Section(append([]document.Field{
		{Key: "name", Value: document.Scalar(&p.Name, document.Word()), Required: true, Help: "Name of the router in everything we show; a label of metrics."},
		{Key: "group", Value: document.Scalar(&p.Group, document.OrEmpty(document.Word())), Help: "Name of its group in speaker.peer_groups; empty means none."},
		{Key: "address", Value: document.Scalar(&p.Address, document.Addr()), Required: true, Help: "Address of the session, IPv4 or IPv6."},
		{Key: "asn", Value: document.Scalar(&p.ASN, document.Number[uint32](1, 4294967295)), Help: "The router's autonomous system number; the same as ours makes the session iBGP; of a router in a BGP confederation see docs/profiles.md. Required, here or in its group."},
	}, p.common()...)...)
}

// common are the keys that a router and a group both have.
func (p *Peer) common() []document.Field {
	return []document.Field{
		{Key: "port", Value: document.Scalar(&p.Port, document.Number[uint16](1, 65535)), Help: "The router's TCP port."},
		{Key: "local_address", Value: document.Scalar(&p.LocalAddress, document.OrEmpty(document.Addr())), Help: "Our address of the session; empty lets the system choose."},
		{Key: "passive", Value: document.Scalar(&p.Passive, document.Bool()), Help: "Wait for the router to open the session; needs speaker.listen_port."},
		{Key: "multihop_ttl", Value: document.Scalar(&p.MultihopTTL, document.Number(0, 255)), Help: "TTL of an eBGP session over several hops; 0 means directly connected."},
		{Key: "ttl_security", Value: document.Scalar(&p.TTLSecurity, document.Bool()), Help: "Take packets of the session from one hop away only (RFC 5082); both sides must set it."},
		{Key: "md5_file", Value: document.Scalar(&p.MD5File, document.OrEmpty(routerPath())), Help: "File whose only line is the TCP MD5 secret (RFC 2385), not readable by everyone; {address} and {name} in its path stand for the router's; empty means none.", Danger: "The secret itself never stands in this file."},
		{Key: "hold_time", Value: document.Scalar(&p.HoldTime, document.Duration(3*time.Second, 65535*time.Second)), Help: "Silence after which the session is given up; whole seconds."},
		{Key: "connect_retry", Value: document.Scalar(&p.ConnectRetry, document.Duration(time.Second, 10*time.Minute)), Help: "The longest pause between two tries to connect; whole seconds."},
		{Key: "families", Value: document.Scalars(&p.Families, document.OneOf(IPv4Unicast, IPv6Unicast, IPv4FlowSpec, IPv6FlowSpec)), Help: "What the session carries: blackholes travel in unicast, all other rules in flowspec."},
		{Key: "profile", Value: document.Scalar(&p.Profile, document.Word()), Help: "What kind of router it is, a name of tmctl profiles: which rules it gets, as what, and for how many it has room (docs/profiles.md)."},
		{Key: "probe", Help: "How the router is asked which rules it installed and what they hit, by one of run, snmp and gnmi; the profile says for what it is asked and how its answer is read.", Value: document.Section(
			document.Field{
				Key: "run", Value: document.Scalars(&p.Probe.Run, document.Text(1, 4096)),
				Help:   "A program and its arguments, to which the router's command is added as the last one, such as [vtysh, -c] or [ssh, -o, BatchMode=yes, \"tm@{address}\"]; {address} and {name} stand for the router's; no shell sees it. Empty: the router is not asked by a command.",
				Danger: "It runs as the speaker's user: give it a login that may show and nothing else.",
			},
			document.Field{Key: "address", Value: document.Scalar(&p.Probe.Address, document.OrEmpty(document.Addr())), Help: "Where SNMP or gNMI is asked; empty means the address of the session. Of one router: a group may not say it."},
			document.Field{Key: "snmp", Value: p.Probe.SNMP.schema(), Help: "Asking its SNMP agent: version 3 with authentication and privacy where a user is set, version 2c where a community is. {address} and {name} in paths stand for the router's."},
			document.Field{Key: "gnmi", Value: p.Probe.GNMI.schema(), Help: "Asking it by gNMI, always over TLS, where a user or a certificate is set. {address} and {name} in paths stand for the router's."},
			document.Field{Key: "interval", Value: document.Scalar(&p.Probe.Interval, document.Duration(time.Second, time.Hour)), Help: "Time between two times it is asked, while there are rules.", Danger: "Long answers cost the router's CPU."},
			document.Field{Key: "timeout", Value: document.Scalar(&p.Probe.Timeout, document.Duration(100*time.Millisecond, 10*time.Minute)), Help: "How long an answer may take, a whole table included; then it is given up, and the program ended."},
		)},
		{Key: "max_cost", Value: document.Scalar(&p.MaxCost, document.Number(0, 10_000_000)), Help: "Entries of hardware this router has for rules of both families, as its profile counts them, the most valuable first; 0 means what the profile says.", Danger: "Above what is free there, rules are accepted and not installed."},
		{Key: "widen", Value: document.Scalars(&p.Widen, document.OneOf(widenable()...)), Help: "Components that may match more at this router than was decided, or everything, where it cannot match them; otherwise such a rule is not sent to it.", Danger: "Traffic that is no attack is then hit as well: tmctl routes says which."},
		{Key: "max_rules", Value: document.Scalar(&p.MaxRules, document.Number(0, 100_000)), Help: "Rules this router gets at most, the most valuable first; 0 means what its profile says.", Danger: "Above the router's max-prefix it resets the session and drops every rule."},
		{Key: "program_rate", Value: document.Scalar(&p.ProgramRate, document.Number(0, 100_000)), Help: "Rules a second this router can put into its hardware: additions are sent no faster, most urgent first, withdrawals at once; 0 means what its profile says, which for most is no pace.", Danger: "Too low, a rule waits; tmctl peers shows how many do."},
		{Key: "max_items_per_component", Value: document.Scalar(&p.MaxItemsPerComponent, document.Number(0, 64)), Help: "Values in one component of a rule, a range counting two; a rule with more is split or not sent to this router; 0 means what its profile says, which is 5 for generic.", Danger: "FRR 8.4 has room for 5 and resets the session above 6."},
		{Key: "next_hop_v4", Value: document.Scalar(&p.NextHop4, document.OrEmpty(document.Addr())), Help: "Next hop of IPv4 blackholes at this router; empty means that of speaker.blackhole."},
		{Key: "next_hop_v6", Value: document.Scalar(&p.NextHop6, document.OrEmpty(document.Addr())), Help: "Next hop of IPv6 blackholes at this router; empty means that of speaker.blackhole."},
	}
}

func (s *ProbeSNMP) schema() document.Value {
	return document.Section(
		document.Field{Key: "port", Value: document.Scalar(&s.Port, document.Number[uint16](1, 65535)), Help: "The agent's UDP port."},
		document.Field{Key: "user", Value: document.Scalar(&s.User, document.OrEmpty(document.Text(1, 32))), Help: "The user of version 3, with level authPriv at the router; empty means none."},
		document.Field{Key: "auth", Value: document.Scalar(&s.Auth, document.OneOf("sha1", "sha256", "sha512")), Help: "How the user authenticates; the cipher of privacy is AES-128."},
		document.Field{Key: "auth_file", Value: document.Scalar(&s.AuthFile, document.OrEmpty(routerPath())), Help: "File whose only line is the authentication passphrase, 8 octets or more, not readable by everyone."},
		document.Field{Key: "privacy_file", Value: document.Scalar(&s.PrivacyFile, document.OrEmpty(routerPath())), Help: "File whose only line is the privacy passphrase, 8 octets or more, not readable by everyone."},
		document.Field{Key: "community_file", Value: document.Scalar(&s.CommunityFile, document.OrEmpty(routerPath())), Help: "File whose only line is the community of version 2c; needs cleartext.", Danger: "Whoever sees a packet has the community, and may forge answers."},
		document.Field{Key: "cleartext", Value: document.Scalar(&s.Cleartext, document.Bool()), Help: "Use version 2c, which sends the community in the clear.", Danger: "Give that community a read-only view of 1.3.6.1.4.1.2636.3.5 and nothing else."},
	)
}

func (g *ProbeGNMI) schema() document.Value {
	return document.Section(
		document.Field{Key: "port", Value: document.Scalar(&g.Port, document.Number[uint16](1, 65535)), Help: "The router's TCP port of gNMI."},
		document.Field{Key: "ca_file", Value: document.Scalar(&g.CAFile, document.OrEmpty(routerPath())), Help: "PEM file of the authorities that sign routers' certificates; required."},
		document.Field{Key: "server_name", Value: document.Scalar(&g.ServerName, document.OrEmpty(document.Text(1, 253))), Help: "Name in the router's certificate, where {address} and {name} stand for the router's; empty means its address."},
		document.Field{Key: "user", Value: document.Scalar(&g.User, document.OrEmpty(document.Text(1, 256))), Help: "The user we are there, with password_file; empty where a certificate says it."},
		document.Field{Key: "password_file", Value: document.Scalar(&g.PasswordFile, document.OrEmpty(routerPath())), Help: "File whose only line is the user's password, not readable by everyone.", Danger: "Let the user read telemetry and nothing else."},
		document.Field{Key: "cert_file", Value: document.Scalar(&g.CertFile, document.OrEmpty(routerPath())), Help: "PEM file of our certificate, with key_file."},
		document.Field{Key: "key_file", Value: document.Scalar(&g.KeyFile, document.OrEmpty(routerPath())), Help: "PEM file of its key."},
	)
}

// widenable are the components that may be widened: all but the prefixes.
func widenable() []string {
	return slices.DeleteFunc(compile.Components(), func(w string) bool { return w == "destination" || w == "source" })
}

func (j *Journal) schema() document.Value {
	return document.Section(
		document.Field{Key: "enabled", Value: document.Scalar(&j.Enabled, document.Bool()), Help: "Keep it.", Danger: "Without it no incident can be replayed, and no policy tried on last week."},
		document.Field{
			Key: "size", Value: document.Scalar(&j.Size, document.Size(16<<20, 1<<40)),
			Help:   "Its size on disk; the oldest goes first. 256MiB of the file system stay free for others in any case.",
			Danger: "Too small, last night is gone: trafficmonitor_journal_oldest_timestamp_seconds says how far back it reaches.",
		},
		document.Field{Key: "age", Value: document.Scalar(&j.Age, document.Duration(time.Hour, 365*day)), Help: "How old it gets, if size allows."},
	)
}

func (b *Baseline) schema() document.Value {
	return document.Section(
		document.Field{Key: "enabled", Value: document.Scalar(&b.Enabled, document.Bool()), Help: "Learn it. What was learnt before stays on disk."},
		document.Field{
			Key: "keys", Value: document.Scalar(&b.Keys, document.Number(100, 50_000)),
			Help:   "Of how many targets, directions and vectors it is kept; the least and longest silent give way. Up to 2.7 kB each.",
			Danger: "Every ten minutes the controller pauses to copy it, about 4 µs for each.",
		},
		document.Field{Key: "half_life", Value: document.Scalar(&b.HalfLife, document.Duration(day, 365*day)), Help: "The time in which what was learnt loses half of its weight."},
		document.Field{Key: "ready_after", Value: document.Scalar(&b.ReadyAfter, document.Duration(time.Hour, 60*day)), Help: "How long a target must have been observed before its normal counts."},
	)
}

func (s *Sensors) schema() document.Value {
	return document.Section(
		document.Field{Key: "report_interval", Value: document.Scalar(&s.ReportInterval, document.Duration(100*time.Millisecond, time.Minute)), Help: "Time between two reports of a sensor at which nothing is triggered."},
		document.Field{Key: "hot_interval", Value: document.Scalar(&s.HotInterval, document.Duration(20*time.Millisecond, 10*time.Second)), Help: "Time between two reports of a target that passed a trigger."},
		document.Field{Key: "sample_one_in", Value: document.Scalar(&s.SampleOneIn, document.Number[uint32](0, 1<<24)), Help: "One packet in so many is sampled; 0 samples none.", Danger: "Small numbers cost CPU on every rack."},
		document.Field{
			Key: "hot_sample_one_in", Value: document.Scalar(&s.HotSampleOneIn, document.Number[uint32](0, 1<<24)),
			Help: "One packet in so many is sampled of targets that passed a trigger, unless sample_one_in samples more; 0 samples them like all others.", Danger: "Small numbers cost CPU on racks under attack.",
		},
		document.Field{
			Key: "profiles", Value: document.Scalar(&s.Profiles, document.Number(0, 1024)),
			Help: "How many of its busiest targets each sensor describes (sizes, ports, sources, flags) at the report interval; targets that passed a trigger it always does.",
		},
		document.Field{
			Key: "reflection_ports", Help: "UDP source ports of reflection beside those that vectors name; a port named here counts under this vector instead, and rules against the vector match it; at most 64 for one vector.",
			Danger: "What customers use such a port for is limited with an attack from it.",
			Value: document.List(&s.ReflectionPorts, func() ReflectionPort { return ReflectionPort{Vector: vector.OtherReflection} }, func(p *ReflectionPort) document.Value {
				return document.Section(
					document.Field{Key: "port", Value: document.Scalar(&p.Port, document.Number[uint16](1, 65535)), Required: true, Help: "The port."},
					document.Field{Key: "vector", Value: document.Scalar(&p.Vector, reflectionCodec()), Help: "The vector its packets count under."},
				)
			}),
		},
		document.Field{Key: "stale_after", Value: document.Scalar(&s.StaleAfter, document.Duration(100*time.Millisecond, 10*time.Minute)), Help: "Silence after which a sensor counts as lost; its last evidence is then held, not read as the end of an attack."},
		document.Field{Key: "allowed", Value: document.Scalars(&s.Allowed, document.Word()), Help: "Names of the sensors that may connect; empty allows every sensor with a valid certificate."},
	)
}

// reflectionCodec reads the name of a reflection vector.
func reflectionCodec() document.Codec[vector.ID] {
	var names []string
	for _, v := range vector.Reflections() {
		names = append(names, v.Name)
	}
	return document.Codec[vector.ID]{
		Type: "name of a reflection vector, such as " + vector.DNS.String() + " or " + vector.OtherReflection.String(),
		Parse: func(s string) (vector.ID, error) {
			if !slices.Contains(names, s) {
				return 0, document.Wrong(document.Nearest(s, names), "%q is not the name of a reflection vector; there are %s", s, strings.Join(names, ", "))
			}
			return vector.Parse(s)
		},
		Format: vector.ID.String,
	}
}
