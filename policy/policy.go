// Package policy is the language in which operators say what an attack is and what is done about it: limits per traffic
// class, responses, groups of prefixes that differ, and exceptions that are only observed.
//
// It is pure: the same policy gives the same answers to the same questions, for IPv4 and IPv6 alike, and every answer
// says which line of reasoning led to it. Load is the one function that reads a file.
package policy

import (
	"crypto/sha256"
	_ "embed"
	"encoding/hex"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/amooglesoft/trafficmonitor/internal/document"
	"github.com/amooglesoft/trafficmonitor/internal/route"
	"github.com/amooglesoft/trafficmonitor/internal/vector"
)

//go:embed default.yaml
var defaultText []byte

// DefaultGroup is the group of every target that no named group holds.
const DefaultGroup = "default"

// Limits say when the traffic of one vector at one target is an attack, and when it is over.
type Limits struct {
	// PPS and BPS are the rates, per second and counted from the IP header on, from which on it is an attack; 0 is no
	// limit. Passing either is enough.
	PPS, BPS float64
	// Windows is how many windows' worth of packets, or bits, at the limit must be counted in a row over it.
	Windows int
	// Unanswered is the rate of packets that the target neither asked for nor answers from which on it is an attack, and
	// UnansweredWindows as Windows; Spoofed is the number of different sources a second, each good for hardly more than one
	// packet. 0 is no limit.
	Unanswered        float64
	UnansweredWindows int
	Spoofed           float64
	// Share is the fraction of all packets to the target, 0 to 1, from which on it is an attack, if it is no less than
	// ShareFrom packets per second and nobody asked for it; 0 is no limit.
	Share, ShareFrom float64
	// Hosts is, of a network, in how many hosts at least the packets arrive; fewer are attacked each by itself.
	Hosts int
	// EndBelow is the fraction of a limit below which the traffic must stay for EndAfter before the attack is over.
	EndBelow float64
	EndAfter time.Duration
}

// None reports whether there is no limit at all, so that the vector never makes an incident.
func (l Limits) None() bool {
	return l.PPS == 0 && l.BPS == 0 && l.Unanswered == 0 && l.Spoofed == 0 && l.Share == 0
}

// Baseline says what a learnt normal changes.
type Baseline struct {
	// Above is the multiple of normal up to which traffic is no attack, whatever a static limit says, and Cap the multiple
	// of the static limit up to which that holds: what is learnt cannot blind us.
	Above, Cap float64
	// Factor is the multiple of normal from which on traffic is an attack though it is below the static limit, 0 for
	// never, and Floor the share of the static limit from which on that holds.
	Factor, Floor float64
}

// Response is what the policy wants done about an attack.
type Response struct {
	// Observe means that the first step is not to be announced now: it announces nothing, its time has not come, its cap on
	// collateral does not hold, or it asks for approval or for some routers only. Else Action, TTL, Extend and MaxAge are those
	// of the first step. Who climbs reads Steps.
	Observe             bool
	Action              route.Action
	TTL, Extend, MaxAge time.Duration
	// Steps is the ladder, from the mildest step on; never empty. A response of one action is one step.
	Steps []Step
	// Path is where the response stands in the policy, such as groups.dns.responses[0]; empty where none answers.
	Path string
	// Reason says which response of which group this is.
	Reason string
	// Problems are conditions that could not be computed, each with its path: the response they belong to was passed over,
	// the exception held.
	Problems []string
}

// Announces reports whether any step of the ladder announces something.
func (r Response) Announces() bool { return slices.ContainsFunc(r.Steps, Step.Announces) }

// observed is the answer that announces nothing.
func observed(path, reason string) Response {
	return Response{Observe: true, Path: path, Reason: reason, Steps: []Step{{Name: "observe", Path: path, Observe: true, MaxCollateral: -1}}}
}

// Policy is a policy in force. It does not change.
type Policy struct {
	source, text, hash string
	files              []document.File
	exceptions         []exception
	base               *scope
	scopes             map[netip.Prefix]*scope
	// lengths are the prefix lengths of scopes, longest first, per family.
	lengths4, lengths6 []int
	triggers           [vector.Directions]map[vector.ID]Limits
	baseline           Baseline
	collateral         bool // is asked for
	conditional        bool // a response or exception has a condition
}

// scope is what holds for the targets below one prefix of a group.
type scope struct {
	group     string
	observe   bool     // nothing is announced
	limits    limitSet // with everything inherited already in it
	responses []reply  // its own; then those of parent are tried
	parent    *scope
}

// limitSet is the limits of every vector: of what targets receive, of what they send, and of what networks receive.
type limitSet struct{ inbound, outbound, networks [vector.Count]Limits }

// reply is one response with the vectors it answers.
type reply struct {
	vectors [vector.Count]bool
	when    *predicate
	answer  Response // without its reason
}

// TestSuffix ends the names of files that test a policy; they are no part of it.
const TestSuffix = "_test.yaml"

// Load reads the policy in a file, or in all files of a directory that end in .yaml or .yml, in order of their names. The
// error lists everything that is wrong with it.
func Load(path string) (*Policy, error) {
	files, err := Read(path)
	if err != nil {
		return nil, err
	}
	return ParseFiles(path, files)
}

// Read reads the texts of a policy for ParseFiles.
func Read(path string) ([]document.File, error) {
	files, err := document.ReadPath(path, func(name string) bool { return strings.HasSuffix(name, TestSuffix) })
	if err != nil {
		return nil, fmt.Errorf("policy: %w", err)
	}
	return files, nil
}

// Default returns the policy that is in force when none is configured: policy/default.yaml of the source.
func Default() *Policy {
	p, err := Parse("built-in default", defaultText)
	if err != nil {
		panic(fmt.Sprintf("the built-in policy is not valid: %v", err)) // a test parses it
	}
	return p
}

// Parse reads a policy from its text; name is where it came from. The error is a document.Problems with everything that
// is wrong.
func Parse(name string, text []byte) (*Policy, error) {
	return ParseFiles(name, []document.File{{Name: name, Text: text}})
}

// ParseFiles reads a policy from the texts of several files, in their order.
func ParseFiles(name string, files []document.File) (*Policy, error) {
	f, report := readFiles(name, files)
	if err := report.Err(); err != nil {
		return nil, err
	}
	p := f.compile()
	sum := sha256.New()
	var text strings.Builder
	for _, file := range files {
		if len(files) > 1 {
			fmt.Fprintf(&text, "# %s\n", file.Name)
		}
		text.Write(file.Text)
		sum.Write(file.Text)
	}
	p.source, p.files, p.text, p.hash = name, files, text.String(), hex.EncodeToString(sum.Sum(nil))
	return p, nil
}

// readFiles reads and checks.
func readFiles(name string, files []document.File) (*file, *document.Report) {
	f := newFile()
	report := document.ReadFiles(name, files, f.schema(), "constants")
	f.check(report)
	return f, report
}

// JSONSchema is the JSON Schema of a policy, for editors.
func JSONSchema() ([]byte, error) {
	return document.JSONSchema("TrafficMonitor policy", newFile().schema(), "constants")
}

// CheckScopes reports steps whose scope names a router that there is not. The error is a document.Problems.
func (p *Policy) CheckScopes(routers []string) error {
	f, report := readFiles(p.source, p.files)
	check := func(at string, rs []response) {
		for i, r := range rs {
			for j, g := range r.ladder {
				for _, name := range g.scope {
					if !slices.Contains(routers, name) {
						path := fmt.Sprintf("%s[%d].ladder[%d].scope", at, i, j)
						report.Suggest(path, document.Nearest(name, routers), "%s is no router: speaker.peers has %s", name, strings.Join(routers, ", "))
					}
				}
			}
		}
	}
	check("responses", f.responses)
	for _, g := range f.groups {
		check("groups."+g.name+".responses", g.responses)
	}
	return report.Err()
}

// Place says where the key at a path stands, such as policy.yaml:31 for responses[0].
func (p *Policy) Place(path string) string {
	_, report := readFiles(p.source, p.files)
	return report.Place(path)
}

// Source says where the policy came from.
func (p *Policy) Source() string { return p.source }

// Hash is the SHA-256 of the text in hexadecimal; of several files, that of their texts one after the other.
func (p *Policy) Hash() string { return p.hash }

// Text is the text the policy was read from; of several files, each below a comment with its name.
func (p *Policy) Text() string { return p.text }

// Group names the group of a target: the one with the longest prefix that holds all of it, or DefaultGroup.
func (p *Policy) Group(target netip.Prefix) string { return p.scope(target).group }

// AsksCollateral reports whether any answer depends on the collateral that is predicted.
func (p *Policy) AsksCollateral() bool { return p.collateral }

// Observing names the groups in which nothing is announced, because the policy or the group is in mode observe.
func (p *Policy) Observing() []string {
	groups := map[string]bool{}
	for _, s := range append(slices.Collect(maps.Values(p.scopes)), p.base) {
		if s.observe {
			groups[s.group] = true
		}
	}
	return slices.Sorted(maps.Keys(groups))
}

// Limits returns the limits of a vector that a target receives.
func (p *Policy) Limits(target netip.Prefix, v vector.ID) Limits {
	if int(v) >= vector.Count {
		return Limits{}
	}
	return p.scope(target).limits.inbound[v]
}

// Outbound returns the limits of a vector that a target sends.
func (p *Policy) Outbound(target netip.Prefix, v vector.ID) Limits {
	if int(v) >= vector.Count {
		return Limits{}
	}
	return p.scope(target).limits.outbound[v]
}

// Networks returns the limits of a vector that all hosts of a network receive together.
func (p *Policy) Networks(network netip.Prefix, v vector.ID) Limits {
	if int(v) >= vector.Count {
		return Limits{}
	}
	return p.scope(network).limits.networks[v]
}

// LowestNetwork returns the lowest limits that any network has for a vector.
func (p *Policy) LowestNetwork(v vector.ID) (l Limits) {
	if int(v) >= vector.Count {
		return l
	}
	l = p.base.limits.networks[v]
	for _, s := range p.scopes {
		l = lowest(l, s.limits.networks[v])
	}
	return l
}

// Conditional reports whether any response or exception depends on a condition, so that of an incident of which little is
// known nothing follows for certain.
func (p *Policy) Conditional() bool { return p.conditional }

// Baseline says what a learnt normal changes.
func (p *Policy) Baseline() Baseline { return p.baseline }

// Triggers returns, for each vector that has a limit anywhere in a direction, the lowest of every value over all groups,
// PPS being the lowest of pps, unanswered and share_from: what sensors are told, so that none of them stays silent about what is
// an attack somewhere.
func (p *Policy) Triggers(d vector.Direction) map[vector.ID]Limits {
	out := map[vector.ID]Limits{}
	if d < vector.Directions {
		maps.Copy(out, p.triggers[d])
	}
	return out
}

// Answer chooses what is done about a vector of an incident: nothing where an exception touches the target, else the first
// response that names the vector and whose condition holds, those of the narrowest group first.
func (p *Policy) Answer(inc Incident, now time.Time) Response {
	if inc.Direction == vector.Outbound {
		return observed("", fmt.Sprintf("%s sent by %s is only observed: no response is for what leaves", inc.Vector, inc.Target))
	}
	s := p.scope(inc.Target)
	observe := s.observe
	q := &question{inc, s.group, now}
	var problems []string
	problem := func(path string, err error) {
		if err != nil {
			problems = append(problems, fmt.Sprintf("%s.when: %v", path, err))
		}
	}
	for _, e := range p.exceptions {
		if !e.touches(inc.Target, now) {
			continue
		}
		holds, known, err := q.holds(e.holdsWhen)
		problem(e.path, err)
		if holds || !known {
			r := observed(e.path, e.says(inc.Target))
			r.Problems = problems
			return r
		}
	}
	for ; s != nil; s = s.parent {
		for _, reply := range s.responses {
			if int(inc.Vector) >= vector.Count || !reply.vectors[inc.Vector] {
				continue
			}
			holds, _, err := q.holds(reply.when)
			problem(reply.answer.Path, err)
			if holds {
				r := reply.respond(inc.Target, inc.Vector).first(inc)
				if observe && r.Announces() {
					r = observed(r.Path, fmt.Sprintf("%s; the group %s is in mode observe: only observed", r.Reason, q.group))
				}
				r.Problems = problems
				return r
			}
		}
	}
	r := observed("", fmt.Sprintf("no response names %s: only observed", inc.Vector))
	r.Problems = problems
	return r
}

func (p reply) respond(target netip.Prefix, v vector.ID) Response {
	r := p.answer
	at := r.Path
	if p.when != nil {
		at += ", as " + p.when.text
	}
	switch {
	case len(r.Steps) == 1 && r.Steps[0].Observe:
		r.Reason = fmt.Sprintf("%s: %s is only observed", at, v)
	case r.Announces() && !target.IsSingleIP(): // what a network receives may be the sum of hosts of which none is attacked
		return observed(r.Path, fmt.Sprintf("%s: %s is answered with %s, but %s is a network and a policy answers for hosts only: only observed", at, v, r.does(), target))
	default:
		r.Reason = fmt.Sprintf("%s: %s is answered with %s", at, v, r.does())
	}
	return r
}

// first says whether the first step is to be announced now.
func (r Response) first(inc Incident) Response {
	s := r.Steps[0]
	not := ""
	switch {
	case !s.Announces():
		r.Observe = true
		return r
	case s.After > 0 && !(inc.Measured && inc.Duration >= s.After):
		not = "not before " + document.FormatDuration(s.After)
	case s.MaxCollateral >= 0 && !(inc.Measured && inc.Collateral >= 0 && inc.Collateral <= s.MaxCollateral):
		not = fmt.Sprintf("not while the collateral is above %s, or not known", share.Format(s.MaxCollateral))
	case s.Approvals > 0:
		not = fmt.Sprintf("not without the approval of %d", s.Approvals)
	default:
		r.Action, r.TTL, r.Extend, r.MaxAge = s.Action, s.TTL, s.Extend, s.MaxAge
		return r
	}
	r.Observe = true
	r.Reason += "; " + not
	return r
}

// does says what the steps do, one after the other.
func (r Response) does() string {
	words := make([]string, len(r.Steps))
	for i, s := range r.Steps {
		words[i] = s.String()
	}
	return strings.Join(words, "; then ")
}

// scope finds what holds for a target.
func (p *Policy) scope(target netip.Prefix) *scope {
	addr := target.Addr()
	lengths := p.lengths4
	if addr.Is6() {
		lengths = p.lengths6
	}
	for _, bits := range lengths {
		if bits > target.Bits() {
			continue
		}
		if s, ok := p.scopes[netip.PrefixFrom(addr, bits).Masked()]; ok {
			return s
		}
	}
	return p.base
}

// Explain says in one line what the policy makes of a vector at a target of which nothing else is known.
func (p *Policy) Explain(target netip.Prefix, v vector.ID, now time.Time) string {
	return p.ExplainIncident(Incident{Target: target, Vector: v}, now)
}

// ExplainIncident says in one line what the policy makes of a vector of an incident: the group, the limits and the response.
func (p *Policy) ExplainIncident(inc Incident, now time.Time) string {
	r := p.Answer(inc, now)
	says := r.Reason
	if len(r.Steps) == 1 && r.Announces() {
		says += fmt.Sprintf(", for %s, extended by %s, at most %s", document.FormatDuration(r.Steps[0].TTL), document.FormatDuration(r.Steps[0].Extend), document.FormatDuration(r.Steps[0].MaxAge))
	}
	for _, problem := range r.Problems {
		says += "; " + problem
	}
	return fmt.Sprintf("group %s, %s; %s", p.Group(inc.Target), p.Limits(inc.Target, inc.Vector), says)
}

// String writes the limits for people.
func (l Limits) String() string {
	if l.None() {
		return "no limit"
	}
	says := fmt.Sprintf("over after %s below %s", document.FormatDuration(l.EndAfter), document.Percent(0, 1).Format(l.EndBelow))
	if l.Spoofed != 0 {
		says = spoofed().Format(l.Spoofed) + " spoofed, " + says
	}
	if l.Share != 0 {
		says = fmt.Sprintf("%s of all from %s, %s", shares.Format(l.Share), document.PPS().Format(l.ShareFrom), says)
	}
	if l.Unanswered != 0 {
		says = fmt.Sprintf("%s unanswered for %s, %s", document.PPS().Format(l.Unanswered), formatWindows(l.UnansweredWindows), says)
	}
	if l.Hosts != 0 {
		says = fmt.Sprintf("at %d hosts, %s", l.Hosts, says)
	}
	var parts []string
	if l.PPS != 0 {
		parts = append(parts, document.PPS().Format(l.PPS))
	}
	if l.BPS != 0 {
		parts = append(parts, document.BPS().Format(l.BPS))
	}
	if len(parts) == 0 {
		return says
	}
	return fmt.Sprintf("%s for %s, %s", strings.Join(parts, " or "), formatWindows(l.Windows), says)
}

func formatWindows(n int) string {
	if n == 1 {
		return "1 window"
	}
	return fmt.Sprintf("%d windows", n)
}

type exception struct {
	prefixes []netip.Prefix
	reason   string
	when     *string
	until    *time.Time

	path      string
	holdsWhen *predicate
}

// touches reports whether the exception touches the target, be it only in part, for a rule for a network hits each host.
func (e exception) touches(target netip.Prefix, now time.Time) bool {
	return (e.until == nil || now.Before(*e.until)) && slices.ContainsFunc(e.prefixes, target.Overlaps)
}

func (e exception) says(target netip.Prefix) string {
	i := slices.IndexFunc(e.prefixes, target.Overlaps)
	s := fmt.Sprintf("exception %s: %s: only observed", e.prefixes[i], e.reason)
	if e.holdsWhen != nil {
		s += " while " + e.holdsWhen.text
	}
	if e.until != nil {
		s += " until " + e.until.UTC().Format(time.RFC3339)
	}
	return s
}
