package policy

import (
	"net/netip"
	"time"

	"github.com/amooglesoft/trafficmonitor/internal/document"
)

// Version of the file format this program reads.
const Version = 1

// file is a policy as it is written.
type file struct {
	version   int
	constants []document.Constant
	mode      mode
	defaults  defaults
	baseline  Baseline
	attacks
	responses  []response
	groups     []group
	exceptions []exception

	// Filled by check, by the path of the step, response or exception.
	languages  map[string]*language // by their first name
	conditions map[string]*Condition
	whens      map[string]*predicate
	collateral bool // a step has a cap; filled by compile
}

// attacks say what an attack is: on a target, on a network, and by a target.
type attacks struct{ thresholds, networks, outbound []threshold }

type defaults struct {
	windows             int
	unansweredWindows   int
	shareFrom           float64
	hosts               int
	endBelow            float64
	endAfter            time.Duration
	ttl, extend, maxAge time.Duration
}

// threshold says what an attack is. What it does not say is taken from the next broader place: a word that includes
// the vector in the same list, the next broader group, the defaults.
type threshold struct {
	vectors  []selector
	pps, bps *float64 // 0 is no limit
	windows  *int

	unanswered, spoofed *float64 // of thresholds; 0 is no limit
	unansweredWindows   *int     // of thresholds
	share, shareFrom    *float64 // of thresholds; a share of 0 is no limit
	hosts               *int     // of networks

	endBelow *float64
	endAfter *time.Duration
}

// response is one action or a ladder of them; what a rung does not say of its span is taken from the response.
type response struct {
	vectors []selector
	when    *string
	action  *action
	ladder  []rung
	span
}

// rung is a step as it is written.
type rung struct {
	name          *string
	action        action
	scope         []string
	after         *time.Duration
	cond          *string
	maxCollateral *float64
	approval      *int
	span
	downAfter *time.Duration
	probe     *float64 // bits per second
}

// span is how long an announcement lives.
type span struct{ ttl, extend, maxAge *time.Duration }

type group struct {
	name     string
	mode     *mode
	prefixes []netip.Prefix
	attacks
	responses []response
}

// mode says whether responses announce anything.
type mode string

// The modes.
const (
	act  mode = "act"
	look mode = "observe"
)

func newFile() *file {
	return &file{mode: act, defaults: defaults{
		windows: 1, unansweredWindows: 6, shareFrom: 2000, hosts: 16, endBelow: 0.7, endAfter: 10 * time.Second,
		ttl: 10 * time.Minute, extend: 5 * time.Minute, maxAge: 24 * time.Hour,
	}, baseline: Baseline{Above: 2, Cap: 4, Floor: 0.5}}
}

// The values that make sense.
var (
	windows  = document.Number(1, 1000)
	hosts    = document.Number(2, 1<<20)
	floor    = document.Percent(0.01, 1)
	endBelow = document.Percent(0.01, 1)
	shares   = document.Percent(0.01, 1)
	endAfter = document.Duration(time.Second, time.Hour)
	ttl      = document.Duration(10*time.Second, 7*24*time.Hour)
	extend   = document.Duration(0, 7*24*time.Hour)
	maxAge   = document.Duration(time.Minute, 7*24*time.Hour)

	after     = document.Duration(0, 24*time.Hour)
	downAfter = document.Duration(time.Second, 24*time.Hour)
	approval  = document.Number(0, 2)
	share     = document.Percent(0, 1)
)

func (f *file) schema() document.Value {
	return document.Section(
		document.Field{
			Key: "version", Value: document.Scalar(&f.version, version()), Required: true, Each: true,
			Help: "The version of this file format, which is 1. Each file of a directory says it.",
		},
		document.Field{
			Key: "constants", Value: document.Constants(&f.constants),
			Help: "Values with names: $NAME stands for one wherever a value does, and in conditions.",
		},
		document.Field{
			Key: "mode", Value: document.Scalar(&f.mode, document.OneOf(act, look)),
			Help: "act, or observe: nothing is announced, and what would have been is told.",
		},
		document.Field{
			Key: "defaults", Help: "What thresholds and responses say when they do not say it themselves.",
			Value: document.Section(
				document.Field{
					Key: "windows", Value: document.Scalar(&f.defaults.windows, windows),
					Help:   "How many windows of 32 ms must pass a limit before it is an attack: as many packets, or bits, as they hold at the limit, in a row over it.",
					Danger: "More windows are slower: 30 windows are about a second at the limit, and a tenth of it at ten times the limit.",
				},
				document.Field{
					Key: "unanswered_windows", Value: document.Scalar(&f.defaults.unansweredWindows, windows),
					Help: "The same for unanswered.", Danger: "Below 4, one burst that was not answered yet is an attack.",
				},
				document.Field{
					Key: "share_from", Value: document.Scalar(&f.defaults.shareFrom, document.PPS()),
					Help: "Packets per second below which share says nothing.", Danger: "Low, a host that is at rest is attacked by its first visitor.",
				},
				document.Field{
					Key: "hosts", Value: document.Scalar(&f.defaults.hosts, hosts),
					Help: "In how many hosts of a network the packets must arrive for the network to be what is attacked.",
				},
				document.Field{
					Key: "end_below", Value: document.Scalar(&f.defaults.endBelow, endBelow),
					Help: "The share of the limit below which traffic must stay for the attack to be over.",
				},
				document.Field{
					Key: "end_after", Value: document.Scalar(&f.defaults.endAfter, endAfter),
					Help: "How long it must stay there.",
				},
				document.Field{
					Key: "ttl", Value: document.Scalar(&f.defaults.ttl, ttl),
					Help: "How long an announcement lives unless it is extended.",
				},
				document.Field{
					Key: "extend", Value: document.Scalar(&f.defaults.extend, extend),
					Help: "What one extension adds while the attack goes on; 0s never extends.",
				},
				document.Field{
					Key: "max_age", Value: document.Scalar(&f.defaults.maxAge, maxAge),
					Help:   "The age at which an announcement ends whatever the evidence.",
					Danger: "safety.max_age of the controller caps it.",
				},
			),
		},
		document.Field{
			Key: "thresholds", Value: thresholds(&f.thresholds), Required: true,
			Help: "What an attack is, for every target.",
		},
		document.Field{
			Key: "networks", Value: networks(&f.networks),
			Help: "What an attack on a network is that is spread over its hosts: carpet bombing. Of every protected prefix, and every IPv6 /64 of one.",
		},
		document.Field{
			Key: "outbound", Value: leaving(&f.outbound),
			Help: "What an attack is that one of our hosts takes part in. Such attacks are only observed.",
		},
		document.Field{
			Key: "baseline", Help: "What the learnt normal traffic of a target changes.",
			Value: document.Section(
				document.Field{
					Key: "above", Value: document.Scalar(&f.baseline.Above, multiple(1, 100)),
					Help: "The multiple of a target's normal traffic up to which it is no attack, though it passes pps, bps or unanswered.",
				},
				document.Field{
					Key: "cap", Value: document.Scalar(&f.baseline.Cap, multiple(1, 100)),
					Help:   "The multiple of a limit up to which that holds; 1x: never.",
					Danger: "Who attacks slowly for weeks is learnt as normal: up to this multiple it stays unseen.",
				},
				document.Field{
					Key: "factor", Value: document.Scalar(&f.baseline.Factor, offOr(multiple(1.5, 1000))),
					Help:   "The multiple of normal from which on traffic is an attack though it passes no limit; none: never.",
					Danger: "A target that becomes popular looks the same.",
				},
				document.Field{
					Key: "floor", Value: document.Scalar(&f.baseline.Floor, floor),
					Help: "The share of the limit below which factor does not hold.",
				},
			),
		},
		document.Field{
			Key: "responses", Value: responses(&f.responses), Required: true,
			Help: "What is done about it, for every target: the first that names a vector of the attack is taken.",
		},
		document.Field{
			Key: "groups", Help: "Prefixes that differ, by name. The longest prefix that holds a target decides its group.",
			Value: document.Named(&f.groups, document.Word(), func(g *group) *string { return &g.name }, (*group).schema),
		},
		document.Field{
			Key: "exceptions", Help: "Prefixes at which automation only observes, whatever their group says.",
			Value: document.List(&f.exceptions, nil, (*exception).schema),
		},
	)
}

func (g *group) schema() document.Value {
	return document.Section(
		document.Field{
			Key: "prefixes", Value: document.OneOrMore(&g.prefixes, document.Prefix()), Required: true,
			Help: "The prefixes of the group, IPv4 and IPv6.",
		},
		document.Field{
			Key: "mode", Value: document.Optional(&g.mode, document.OneOf(act, look)),
			Help: "As at the top; absent: that of the next broader group.",
		},
		document.Field{
			Key: "thresholds", Value: thresholds(&g.thresholds),
			Help: "What is different for this group; the rest is inherited.",
		},
		document.Field{Key: "networks", Value: networks(&g.networks), Help: "As thresholds, for networks that the group holds."},
		document.Field{Key: "outbound", Value: leaving(&g.outbound), Help: "As thresholds, for what targets of the group send."},
		document.Field{
			Key: "responses", Value: responses(&g.responses),
			Help: "Tried before the responses of broader groups and of the whole file.",
		},
	)
}

func thresholds(dst *[]threshold) document.Value {
	return document.List(dst, nil, func(t *threshold) document.Value {
		return document.Section(append(t.rates("to one target"),
			document.Field{
				Key: "unanswered", Value: document.Optional(&t.unanswered, orNone(document.PPS())),
				Help:   "A lower limit for packets that the target did not ask for, or does not answer; it holds where sensors watch both directions, and for UDP that is not reflected where packets are 512 octets or less on average. none takes an inherited one away.",
				Danger: "Small UDP packets that go one way by design, such as telemetry, look the same: give their targets a group.",
			},
			document.Field{Key: "unanswered_windows", Value: document.Optional(&t.unansweredWindows, windows), Help: "As in defaults."},
			document.Field{
				Key: "spoofed", Value: document.Optional(&t.spoofed, offOr(spoofed())),
				Help:   "Different sources a second from which on it is an attack, at any rate of packets: when nearly every packet comes from a source of its own and nothing comes of it. none takes an inherited one away.",
				Danger: "A retired server whose clients still call looks the same.",
			},
			document.Field{
				Key: "share", Value: document.Optional(&t.share, offOr(shares)),
				Help:   "The share of all packets to the target from which on it is an attack, if it is at least share_from and the target did not ask for it. none takes an inherited one away.",
				Danger: "A host that does one thing only receives nothing else: a share is for what is never the most of its traffic.",
			},
			document.Field{Key: "share_from", Value: document.Optional(&t.shareFrom, document.PPS()), Help: "As in defaults."},
		)...)
	})
}

func networks(dst *[]threshold) document.Value {
	return document.List(dst, nil, func(t *threshold) document.Value {
		return document.Section(append(t.rates("to all hosts of a network together"),
			document.Field{Key: "hosts", Value: document.Optional(&t.hosts, hosts), Help: "As in defaults."})...)
	})
}

func leaving(dst *[]threshold) document.Value {
	return document.List(dst, nil, func(t *threshold) document.Value { return document.Section(t.rates("from one target")...) })
}

// rates are the keys that all thresholds have.
func (t *threshold) rates(of string) []document.Field {
	return []document.Field{
		{
			Key: "vectors", Value: document.OneOrMore(&t.vectors, selectors()), Required: true,
			Help: "The vectors it is for, by name or by all-reflection, all-shared-reflection, all-tcp, all-icmp or all.",
		},
		{
			Key: "pps", Value: document.Optional(&t.pps, orNone(document.PPS())),
			Help:   "Packets per second " + of + " from which on it is an attack; none takes an inherited limit away.",
			Danger: "Below what is healthy, it makes a target's own traffic an attack.",
		},
		{
			Key: "bps", Value: document.Optional(&t.bps, orNone(document.BPS())),
			Help:   "Bits per second " + of + ", counted from the IP header on, from which on it is an attack; none takes an inherited limit away.",
			Danger: "As with pps.",
		},
		{Key: "windows", Value: document.Optional(&t.windows, windows), Help: "As in defaults."},
		{Key: "end_below", Value: document.Optional(&t.endBelow, endBelow), Help: "As in defaults."},
		{Key: "end_after", Value: document.Optional(&t.endAfter, endAfter), Help: "As in defaults."},
	}
}

func responses(dst *[]response) document.Value {
	return document.List(dst, nil, func(r *response) document.Value {
		return document.Section(append([]document.Field{
			{
				Key: "vectors", Value: document.OneOrMore(&r.vectors, selectors()), Required: true,
				Help: "The vectors it answers, by name or by all-reflection, all-shared-reflection, all-tcp, all-icmp or all.",
			},
			{
				Key: "when", Value: document.Optional(&r.when, expression("condition over the incident")),
				Help:   "What must hold for the response to be the one, such as incident.pps > 1e6 && target.group == \"games\"; absent: always.",
				Danger: "What is not known does not hold: the next response that names the vector is taken.",
			},
			{
				Key: "action", Value: document.Optional(&r.action, actions()),
				Help:   "What is done: observe, notify, rate-limit RATE, discard, blackhole, mark DSCP or redirect TO. It, or a ladder, is required.",
				Danger: "A blackhole finishes the attack and the target. A discard leaves no evidence of whether the attack goes on.",
			},
			{Key: "ladder", Value: document.OmitEmpty(&r.ladder, document.List(&r.ladder, nil, (*rung).schema)), Help: "Steps instead of one action, the mildest first."},
		}, r.span.schema()...)...)
	})
}

func (g *rung) schema() document.Value {
	return document.Section(append([]document.Field{
		{Key: "name", Value: document.Optional(&g.name, document.Word()), Help: "What the step is called in reasons; absent: what it does."},
		{
			Key: "action", Value: document.Scalar(&g.action, actions()), Required: true,
			Help:   "What is done: observe, notify, rate-limit RATE, discard, blackhole, mark DSCP or redirect TO. It takes the place of what the step before did.",
			Danger: "As with the action of a response.",
		},
		{
			Key: "scope", Value: document.OmitEmpty(&g.scope, document.OneOrMore(&g.scope, document.Word())),
			Help:   "The routers that are told, by their names in controller.yaml, speaker.peers; absent: all.",
			Danger: "Traffic that enters elsewhere is not hit.",
		},
		{
			Key: "after", Value: document.Optional(&g.after, after),
			Help: "How long the step before must have been in effect; of the first step, how long the incident must have lasted.",
		},
		{
			Key: "if", Value: document.Optional(&g.cond, expression("condition over evidence")),
			Help:   "What must have been measured of the step before, such as evidence.reduction < 0.9. Required after a step that announces something.",
			Danger: "What was not measured makes no step.",
		},
		{
			Key: "max_collateral", Value: document.Optional(&g.maxCollateral, share),
			Help: "The share of the target's normal traffic that the match may be predicted to hit; above it the step is not taken.",
		},
		{Key: "approval", Value: document.Optional(&g.approval, approval), Help: "How many persons must approve before the step is taken."},
	}, append(g.span.schema(), document.Field{
		Key: "down_after", Value: document.Optional(&g.downAfter, downAfter),
		Help: "How long the attack must be measured to be over before the ladder steps down, from the first step to nothing; absent: the announcement ends with its ttl.",
	}, document.Field{
		Key: "probe", Value: document.Optional(&g.probe, document.BPS()),
		Help:   "How much of what a discard or a blackhole takes is let through after down_after, where no milder step is before it, to see whether the attack is over; absent: 1 Mbps.",
		Danger: "It reaches the target.",
	})...)...)
}

func (s *span) schema() []document.Field {
	return []document.Field{
		{Key: "ttl", Value: document.Optional(&s.ttl, ttl), Help: "As in defaults."},
		{Key: "extend", Value: document.Optional(&s.extend, extend), Help: "As in defaults."},
		{Key: "max_age", Value: document.Optional(&s.maxAge, maxAge), Help: "As in defaults."},
	}
}

func (e *exception) schema() document.Value {
	return document.Section(
		document.Field{
			Key: "prefixes", Value: document.OneOrMore(&e.prefixes, document.Prefix()), Required: true,
			Help: "The prefixes; a target that overlaps one of them is only observed.",
		},
		document.Field{
			Key: "reason", Value: document.Scalar(&e.reason, document.Text(1, 200)), Required: true,
			Help: "Why, for the colleague who reads it at night.",
		},
		document.Field{
			Key: "when", Value: document.Optional(&e.when, expression("condition over the incident")),
			Help:   "What must hold besides, such as now.hour < 6; absent: nothing.",
			Danger: "An exception holds, too, where that is not known or cannot be computed: in doubt automation keeps its hands off.",
		},
		document.Field{
			Key: "until", Value: document.Optional(&e.until, moment()),
			Help: "When the exception ends; absent means never.",
		},
	)
}
