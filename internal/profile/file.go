package profile

import (
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/amooglesoft/trafficmonitor/internal/compile"
	"github.com/amooglesoft/trafficmonitor/internal/document"
	"github.com/amooglesoft/trafficmonitor/internal/route"
)

// file is a profile as it is written.
type file struct {
	name, platform string
	families       []compile.Table
	components     []string
	offsets        compile.Offsets
	maxItems       int
	itemsOf, each  []counted
	unmixed        bool
	exclusive      []pair
	portsProtocol  bool
	tcpFlags       []string
	fragment       []string
	actions        []compile.Action
	targets        []compile.Target
	split          int
	model          string
	measured       []measured
	entries        compile.Budget
	rules          int
	rate           int
	overLimit      OverLimit
	setup          []string
	probe          Probe
	facts          []Fact
}

// anyOffset is how compile.AnyOffset is written.
const anyOffset compile.Offsets = "any"

// The models of what a rule costs.
const (
	oneEntry = "one"
	tcam     = "tcam"
)

type (
	counted  struct{ component, n string }
	pair     [2]string
	measured struct {
		match   route.Match
		text    string
		entries int
	}
)

// Parsers are the names of what can read a router's answer to a probe. See package probe.
var Parsers = []string{"arista-eos", "frr", "ios-xr", "junos", "nokia-sros"}

// SNMPTables and GNMIModels are the names of what can be read by SNMP and by gNMI. See package probe.
var (
	SNMPTables = []string{"junos"}
	GNMIModels = []string{"ios-xr", "junos"}
)

var (
	tcpFlagWords  = []string{"fin", "syn", "rst", "psh", "ack", "urg", "ece", "cwr", "ae"}
	fragmentWords = []string{"dont-fragment", "is-fragment", "first-fragment", "last-fragment"}
)

const maxEntries = 10_000_000

// keys are what a fact can be about; those but the last two ask for a fact where they are set.
var keys = []string{
	"families", "match.components", "match.prefix_offset", "match.max_items", "match.max_items_of", "match.separate_ranges", "match.exclusive",
	"match.ports_need_protocol", "match.tcp_flags", "match.fragment", "actions", "redirect_targets", "cost.model", "cost.each", "cost.measured",
	"room.entries", "room.entries_v4", "room.entries_v6", "room.rules", "programming_rate", "over_limit", "setup", "probe.parser", "probe.ipv4", "probe.ipv6", "probe.counters", "probe.snmp", "probe.gnmi",
	"operation", "split",
}

func (f *file) schema() document.Value {
	component := document.OneOf(compile.Components()...)
	table := document.OneOf(compile.Tables()...)
	entries := document.Number(0, maxEntries)
	return document.Section(
		document.Field{Key: "name", Value: document.Scalar(&f.name, document.Word()), Required: true, Help: "Name of the profile, which is that of its file; peers name it."},
		document.Field{Key: "platform", Value: document.Scalar(&f.platform, document.Text(1, 200)), Required: true, Help: "What the router is, in words."},
		document.Field{Key: "families", Value: document.Scalars(&f.families, table), Help: "What it carries; all when left out. The peer's families say what its session carries."},
		document.Field{Key: "match", Help: "What it can match by.", Value: document.Section(
			document.Field{Key: "components", Value: document.Scalars(&f.components, component), Help: "The components it knows; all when left out."},
			document.Field{Key: "prefix_offset", Value: document.Scalar(&f.offsets, document.OneOf(anyOffset, compile.OctetOffsets, compile.NoOffsets)), Help: "Which IPv6 prefixes with an offset it compares right: any, octets (offsets that are a multiple of eight), or none."},
			document.Field{Key: "max_items", Value: document.Scalar(&f.maxItems, document.Number(1, 64)), Help: "Values in one component, a range counting two."},
			document.Field{Key: "max_items_of", Value: document.Scalars(&f.itemsOf, countedCodec(64)), Help: "Where a component takes another number of values."},
			document.Field{Key: "separate_ranges", Value: document.Scalar(&f.unmixed, document.Bool()), Help: "A list holds single values or ranges, never both; a rule with both is split."},
			document.Field{Key: "exclusive", Value: document.Scalars(&f.exclusive, pairCodec()), Help: "Components that do not work in one rule. Port with another port is split, which is exact; other pairs are refused, or widened where the peer allows it."},
			document.Field{Key: "ports_need_protocol", Value: document.Scalar(&f.portsProtocol, document.Bool()), Help: "Ports work beside a protocol of TCP, UDP or both only; it is added, which is exact."},
			document.Field{Key: "tcp_flags", Value: document.Scalars(&f.tcpFlags, document.OneOf(tcpFlagWords...)), Help: "The flags it can test; all when left out."},
			document.Field{Key: "fragment", Value: document.Scalars(&f.fragment, document.OneOf(fragmentWords...)), Help: "The kinds of fragment it can test; all when left out."},
		)},
		document.Field{Key: "actions", Value: document.Scalars(&f.actions, document.OneOf(compile.Actions()...)), Help: "What it does with a packet; everything when left out."},
		document.Field{Key: "redirect_targets", Value: document.Scalars(&f.targets, document.OneOf(compile.Targets()...)), Help: "The route targets it redirects to, by what stands before their colon: as2, an AS below 65536 such as 64500:100; ipv4, an address; as4, another AS or one written 64500L:100. All when left out."},
		document.Field{Key: "split", Value: document.Scalar(&f.split, document.Number(1, 256)), Help: "Rules one route may become where it cannot be said in one; each has the whole rate of a rate limit."},
		document.Field{Key: "cost", Help: "What a rule takes of its hardware.", Value: document.Section(
			document.Field{Key: "model", Value: document.Scalar(&f.model, document.OneOf(oneEntry, tcam)), Help: "one: an entry a rule; tcam: ranges are split into powers of two, alternatives add up, components multiply."},
			document.Field{Key: "each", Value: document.Scalars(&f.each, countedCodec(64)), Help: "Where one alternative of a component takes another number of entries than one."},
			document.Field{Key: "measured", Value: document.Scalars(&f.measured, measuredCodec()), Help: "What rules were seen to take; the model is checked against it."},
		)},
		document.Field{Key: "room", Help: "What it holds; 0 is not known.", Value: document.Section(
			document.Field{Key: "entries", Value: document.Scalar(&f.entries.Shared, entries), Help: "Entries for FlowSpec rules of both families together."},
			document.Field{Key: "entries_v4", Value: document.Scalar(&f.entries.IPv4, entries), Help: "Entries for IPv4 rules."},
			document.Field{Key: "entries_v6", Value: document.Scalar(&f.entries.IPv6, entries), Help: "Entries for IPv6 rules."},
			document.Field{Key: "rules", Value: document.Scalar(&f.rules, document.Number(0, 100_000)), Help: "Routes, blackholes included."},
		)},
		document.Field{Key: "programming_rate", Value: document.Scalar(&f.rate, document.Number(0, 100_000)), Help: "Rules it writes to its hardware in a second; 0 is not known."},
		document.Field{Key: "over_limit", Value: document.Scalar(&f.overLimit, document.OrEmpty(document.OneOf(ClosesSession, Warns))), Help: "What it does beyond its maximum of prefixes."},
		document.Field{Key: "setup", Value: document.Scalars(&f.setup, document.Text(1, 500)), Help: "What must be configured on it so that rules work."},
		document.Field{Key: "probe", Help: "How it is asked what it installed.", Value: document.Section(
			document.Field{Key: "parser", Value: document.Scalar(&f.probe.Parser, document.OrEmpty(document.OneOf(Parsers...))), Help: "What reads its answer."},
			document.Field{Key: "ipv4", Value: document.Scalar(&f.probe.IPv4, document.OrEmpty(document.Text(1, 200))), Help: "The command for IPv4 rules."},
			document.Field{Key: "ipv6", Value: document.Scalar(&f.probe.IPv6, document.OrEmpty(document.Text(1, 200))), Help: "The command for IPv6 rules."},
			document.Field{Key: "counters", Value: document.Scalar(&f.probe.Counters, document.OrEmpty(document.Text(1, 200))), Help: "The command that shows what rules hit, where it is another than those."},
			document.Field{Key: "snmp", Value: document.Scalar(&f.probe.SNMP, document.OrEmpty(document.OneOf(SNMPTables...))), Help: "The vendor's table that is read by SNMP; left out where there is none."},
			document.Field{Key: "gnmi", Value: document.Scalar(&f.probe.GNMI, document.OrEmpty(document.OneOf(GNMIModels...))), Help: "The vendor's model that is read by gNMI; left out where there is none."},
		)},
		document.Field{Key: "facts", Help: "Where each of this comes from.", Value: document.List(&f.facts, nil, func(x *Fact) document.Value {
			return document.Section(
				document.Field{Key: "about", Value: document.OneOrMore(&x.About, document.OneOf(keys...)), Required: true, Help: "The keys it is about; operation for what no key says."},
				document.Field{Key: "says", Value: document.Scalar(&x.Says, document.Text(1, 500)), Required: true, Help: "The fact."},
				document.Field{Key: "source", Value: document.Scalar(&x.Source, document.OneOf(Reproduced, Primary, SecondHand, Model, Own)), Required: true, Help: "reproduced: seen in a test of this project; primary: the vendor, the source or the measurement itself says it; second-hand: unconfirmed; model: reckoned; own: yours."},
				document.Field{Key: "where", Value: document.Scalar(&x.Where, document.Text(1, 300)), Required: true, Help: "What the source is."},
			)
		})},
	)
}

// Keys lists every key of a profile with its type and meaning.
func Keys() []document.Key {
	f := fresh()
	return document.Keys(f.schema())
}

func fresh() file {
	return file{maxItems: compile.DefaultMaxItems, split: 1, model: oneEntry, offsets: anyOffset}
}

// Parse reads one profile. The error lists everything that is wrong with it.
func Parse(name string, text []byte) (Profile, error) {
	f := fresh()
	r := document.Read(name, text, f.schema())
	f.check(r, name)
	if err := r.Err(); err != nil {
		return Profile{}, err
	}
	return f.profile(name), nil
}

func (f *file) check(r *document.Report, name string) {
	if base := strings.TrimSuffix(filepath.Base(name), filepath.Ext(name)); f.name != "" && f.name != base {
		r.Suggest("name", base, "%s is not the name of the file, which is %s", f.name, filepath.Base(name))
	}
	p := f.profile(name).Router
	for i, m := range f.measured {
		if got := p.Cost.Of(m.match); m.entries > 0 && got != m.entries {
			r.Add(fmt.Sprintf("cost.measured[%d]", i), "%s takes %d entries, and the model says %d: correct cost.model or cost.each", m.text, m.entries, got)
		}
	}
	for i, x := range f.facts {
		for _, key := range x.About {
			if key != "" && key != "operation" && !r.Has(key) {
				r.Add(fmt.Sprintf("facts[%d].about", i), "names %s, which the file does not set", key)
			}
		}
	}
	for _, key := range keys[:len(keys)-2] {
		if r.Has(key) && !slices.ContainsFunc(f.facts, func(x Fact) bool { return slices.Contains(x.About, key) }) {
			r.Add(key, "is set, and no fact says where that comes from: add one to facts, with about: %s", key)
		}
	}
	for _, err := range p.Check() {
		what, text, _ := strings.Cut(err.Error(), ": ")
		r.Add("match."+what, "%s", text)
	}
	if (f.probe.IPv4 != "" || f.probe.IPv6 != "" || f.probe.Counters != "") != (f.probe.Parser != "") {
		r.Add("probe", "needs a parser and a command")
	}
}

func (f *file) profile(name string) Profile {
	p := compile.Profile{
		Name: f.name, Carries: f.families, Components: f.components, Offsets: f.offsets, Actions: f.actions, Targets: f.targets, MaxItems: f.maxItems, ItemsOf: numbers(f.itemsOf),
		Unmixed: f.unmixed, PortsNeedProtocol: f.portsProtocol, Split: f.split, MaxRules: f.rules, Budget: f.entries,
		Cost: compile.Cost{Expand: f.model == tcam, Each: numbers(f.each)}, ProgrammingRate: f.rate,
	}
	if p.Offsets == anyOffset {
		p.Offsets = compile.AnyOffset
	}
	for _, x := range f.exclusive {
		p.Exclusive = append(p.Exclusive, x)
	}
	p.TCPFlags, p.Fragment = flags("tcp-flags", f.tcpFlags), flags("fragment", f.fragment)
	return Profile{Router: p, Platform: f.platform, File: name, OverLimit: f.overLimit, Setup: f.setup, Probe: f.probe, Facts: f.facts}
}

// flags returns the bits of these words, in the words' own language.
func flags(component string, words []string) uint16 {
	if len(words) == 0 {
		return 0
	}
	r, err := route.Parse("destination 192.0.2.1/32 " + component + " " + strings.Join(words, "&") + " then discard")
	if err != nil {
		return 0
	}
	return append(r.Match.TCPFlags, r.Match.Fragment...)[0].Set
}

func numbers(cs []counted) map[string]int {
	if len(cs) == 0 {
		return nil
	}
	out := map[string]int{}
	for _, c := range cs {
		out[c.component], _ = strconv.Atoi(c.n)
	}
	return out
}

// countedCodec reads a component and a number, such as "fragment 2".
func countedCodec(most int) document.Codec[counted] {
	return document.Codec[counted]{
		Type: "component and number, such as fragment 2",
		Parse: func(s string) (counted, error) {
			word, n, ok := strings.Cut(s, " ")
			if !ok {
				return counted{}, fmt.Errorf("%q is not a component and a number, such as \"fragment 2\"", s)
			}
			if err := isComponent(word); err != nil {
				return counted{}, err
			}
			if v, err := strconv.Atoi(n); err != nil || v < 1 || v > most {
				return counted{}, fmt.Errorf("%q is not a number from 1 to %d", n, most)
			}
			return counted{word, n}, nil
		},
		Format: func(c counted) string { return c.component + " " + c.n },
	}
}

// pairCodec reads two components, such as "port with destination-port".
func pairCodec() document.Codec[pair] {
	return document.Codec[pair]{
		Type: "two components, such as port with destination-port",
		Parse: func(s string) (pair, error) {
			a, b, ok := strings.Cut(s, " with ")
			if !ok {
				return pair{}, fmt.Errorf("%q is not two components, such as \"port with destination-port\"", s)
			}
			for _, w := range []string{a, b} {
				if err := isComponent(w); err != nil {
					return pair{}, err
				}
			}
			return pair{a, b}, nil
		},
		Format: func(p pair) string { return p[0] + " with " + p[1] },
	}
}

// measuredCodec reads a match without its destination and its entries, such as "length 256-65535 = 8".
func measuredCodec() document.Codec[measured] {
	return document.Codec[measured]{
		Type: "components and entries, such as length 256-65535 = 8",
		Parse: func(s string) (measured, error) {
			text, n, ok := strings.Cut(s, " = ")
			v, err := strconv.Atoi(n)
			if !ok || err != nil || v < 1 {
				return measured{}, fmt.Errorf("%q is not components and a number of entries, such as \"length 256-65535 = 8\"", s)
			}
			r, err := route.Parse("destination 192.0.2.1/32 " + text + " then discard")
			if err != nil {
				return measured{}, err
			}
			return measured{r.Match, text, v}, nil
		},
		Format: func(m measured) string { return fmt.Sprintf("%s = %d", m.text, m.entries) },
	}
}

func isComponent(word string) error {
	if known := compile.Components(); !slices.Contains(known, word) {
		return document.Wrong(document.Nearest(word, known), "%q is not a component", word)
	}
	return nil
}
