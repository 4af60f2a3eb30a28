// Package probe asks routers which rules they installed and how much these hit, and reads what the routers answer.
package probe

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/amooglesoft/trafficmonitor/internal/route"
)

// State says what a router's own tool says of a rule.
type State uint8

// The states.
const (
	Unknown      State = iota // it does not tell, or what it tells could not be read
	Installed                 // it says that packets meet the rule
	NotInstalled              // it says that they do not
)

func (s State) String() string {
	switch s {
	case Installed:
		return "installed"
	case NotInstalled:
		return "not installed"
	}
	return "unknown"
}

// Rule is one rule as a router shows it.
type Rule struct {
	Match route.Match // canonical
	State State
	Why   string // in words, where State alone does not say it
	// Packets and Octets are what the rule hit since it was installed, as far as the router counts them.
	Packets, Octets       uint64
	HasPackets, HasOctets bool
}

// Reading is one answer of a router.
type Reading struct {
	Rules []Rule
	// Unread counts rules that could not be read for certain, of which First is one. A rule of ours that is not among Rules
	// may be one of them.
	Unread int
	First  string
	// hides reports whether the answer cannot hold a rule for the form it has; nil means none.
	hides func(route.Match) bool
}

const (
	maxRules  = 200_000
	maxLine   = 64 << 10
	maxQuoted = 160 // characters of a router's line that are passed on
)

// parsers read the answers of routers, by the name profiles use.
var parsers = []struct {
	name string
	read func(*reader, route.Family)
}{
	{"arista-eos", readEOS},
	{"frr", readFRR},
	{"ios-xr", readXR},
	{"junos", readJunos},
	{"nokia-sros", readSROS},
}

// Parsers returns the names of all parsers.
func Parsers() []string {
	names := make([]string, len(parsers))
	for i, p := range parsers {
		names[i] = p.name
	}
	return names
}

// Parse reads what a router printed about the rules of one family. An error says that it is no such answer at all: a
// router that refuses the command has installed nothing less than it had before.
func Parse(parser string, f route.Family, output []byte) (Reading, error) {
	i := slices.IndexFunc(parsers, func(p struct {
		name string
		read func(*reader, route.Family)
	},
	) bool {
		return p.name == parser
	})
	if i < 0 {
		return Reading{}, fmt.Errorf("no parser %q: there are %s", parser, strings.Join(Parsers(), ", "))
	}
	r := &reader{}
	for line := range strings.Lines(string(output)) {
		if line = strings.TrimRight(line, "\r\n \t"); len(line) > maxLine {
			line = line[:maxLine]
		}
		r.lines = append(r.lines, line)
	}
	parsers[i].read(r, f)
	if !r.known {
		return Reading{}, fmt.Errorf("the answer is not one of %s: %s", parser, quote(firstLine(r.lines)))
	}
	if len(r.out.Rules) == maxRules {
		return Reading{}, fmt.Errorf("the answer has more than %d rules", maxRules)
	}
	return r.out, nil
}

// reader gathers rules from lines.
type reader struct {
	lines []string
	known bool // something showed that this is an answer to the command
	out   Reading
}

// add takes a rule that was read, or notes that it was not.
func (r *reader) add(rule Rule, raw string, err error) {
	r.known = true
	if err == nil {
		c := route.Route{Match: rule.Match, Action: route.Action{Kind: route.Discard}}
		if err = c.Validate(); err == nil {
			rule.Match = c.Canonical().Match
		}
	}
	if err != nil {
		r.out.Unread++
		if r.out.First == "" {
			r.out.First = fmt.Sprintf("%s (%v)", quote(raw), err)
		}
		return
	}
	if len(r.out.Rules) < maxRules {
		r.out.Rules = append(r.out.Rules, rule)
	}
}

func quote(s string) string {
	if rs := []rune(s); len(rs) > maxQuoted {
		s = string(rs[:maxQuoted]) + "…"
	}
	return fmt.Sprintf("%q", s)
}

func firstLine(lines []string) string {
	for _, l := range lines {
		if l != "" {
			return l
		}
	}
	return ""
}

// errUnread is for what a router may show and this package cannot read for certain.
var errUnread = errors.New("not understood")

// prefix reads a prefix of the family; a bare address is a host. Every address is the zero Prefix.
func prefix(s string, f route.Family) (netip.Prefix, error) {
	if s == "*" || s == "0/0" || s == "0.0.0.0/0" || s == "::/0" {
		return netip.Prefix{}, nil
	}
	if !strings.Contains(s, "/") {
		a, err := netip.ParseAddr(s)
		if err != nil {
			return netip.Prefix{}, errUnread
		}
		s += fmt.Sprintf("/%d", a.BitLen())
	}
	p, err := netip.ParsePrefix(s)
	if err != nil || p.Addr().Is4() != (f == route.IPv4) {
		return netip.Prefix{}, errUnread
	}
	return p.Masked(), nil
}
