// Package safety is the kernel: it says, as a pure function over the whole set, which routes must not be announced. No
// policy, role or configuration key goes around it.
//
// It runs before a set is committed and again in the speaker, there also on the encoded octets, through a decoder that
// shares nothing with the encoder. Every verdict carries the invariant that was broken and what to do about it.
//
// # Exceptions
//
// Manual alone lifts nothing: it only changes the advice. Manual and Approved together (a person of the approver role
// allowed this very entry) lift exactly three things, and none of them entirely. Approved without Manual is nobody's
// approval and lifts nothing.
//
//   - [SourceOnly]: a rule without a destination, as long as its source is no wider than a floor and it cannot match BGP;
//   - [Protected]: a rule that overlaps the never list, as long as it cannot match BGP;
//   - [BlackholeWidth]: a blackhole wider than a host, as long as it is no wider than a floor.
//
// # BGP
//
// Our rules must never cut a BGP session of a router, and routers forward what we send them, also to themselves. Hence:
//
//   - A rule whose port lists include 179 while it may match TCP is refused, whomever it is for.
//   - A rule that reaches protected space (its destination or source overlaps the never list, or it has no destination and
//     so reaches every router) is refused when any packet of a BGP session could match it: TCP, one port 179, the other
//     179 or 1024–65535. So a blackhole of protected space is never possible.
//   - A blackhole of a source is judged by its source alone: it cuts sessions with that host only, so the addresses of all
//     routers we do not wish to lose belong into the never list.
//   - A rule for an own host that is not protected and that names no port may match its port 179 along with all others.
//     That is no session of ours; a host that speaks BGP with us belongs into the never list.
package safety

import (
	"errors"
	"net/netip"
	"slices"
	"time"

	"github.com/amooglesoft/trafficmonitor/internal/route"
)

// Entry is one route of the set with what the kernel must know about it.
type Entry struct {
	Route    route.Route
	Owners   []string // the mitigations that want it
	Answers  []string // paths of the policy's responses that answered with it; a person's route has none
	Groups   []string // the policy's groups its target is in, but for the default one
	Created  time.Time
	Deadline time.Time
	Manual   bool // an engineer asked for it
	Approved bool // an approver allowed what is refused to others; see the exceptions above
	// Made is Make(Route), for who judges the same route again and again; nil, or that of another route, is as good and slower.
	Made *Made
}

// Made is what the kernel derives from a route alone, once. It is never changed.
type Made struct {
	route    route.Route
	text, id string
	nlri     []byte
	nlriErr  error

	judged                bool // the two below are the kernel's word
	malformed, encodedBad string
}

// Make derives from the route what every check of it needs. Blackholes are plain prefixes (RFC 4271), whose length
// Malformed checks, and have no octets here.
func Make(r route.Route) *Made {
	m := &Made{route: r}
	m.text, m.id = r.TextAndID()
	if !r.IsBlackhole() {
		m.nlri, m.nlriErr = route.AppendFlowSpec(nil, r.Match)
	}
	e := &entry{Entry: &Entry{Route: r}, Made: m}
	m.malformed, m.encodedBad = malformed(nil, e), encoding(nil, e)
	m.judged = true
	return m
}

// Of is the route it was made of.
func (m *Made) Of() route.Route { return m.route }

// Text is the text of the route.
func (m *Made) Text() string { return m.text }

// ID is the identity of the route.
func (m *Made) ID() string { return m.id }

// Octets returns the FlowSpec NLRI of the route, which the decoder of this package read back as what the route says. It must
// not be changed. A blackhole has none.
func (m *Made) Octets() ([]byte, error) {
	if m.nlriErr == nil && m.encodedBad != "" {
		return nil, errors.New(m.encodedBad)
	}
	return m.nlri, m.nlriErr
}

// Memo keeps what was made of the routes of a set for the next one. It is not safe for concurrent use.
type Memo struct{ made map[string]*Made }

// Fill sets Made of each entry, and forgets the routes that are not among them.
func (m *Memo) Fill(set []Entry) {
	next := make(map[string]*Made, len(set))
	for i := range set {
		text := set[i].Route.String()
		made := m.made[text]
		if made == nil {
			made = Make(set[i].Route)
		}
		next[text], set[i].Made = made, made
	}
	m.made = next
}

// Invariant is what a violation broke: one of the constants, fit for a metric label.
type Invariant string

// The invariants, in the order they are reported.
const (
	// Per route.
	Malformed       Invariant = "malformed"            // meaningless, or not in canonical form
	ValueRange      Invariant = "value_range"          // a value outside the field it is compared with
	MatchAll        Invariant = "match_all"            // neither a destination nor a source
	OutsideOwn      Invariant = "outside_own_prefixes" // a destination that is not ours
	SourceOnly      Invariant = "source_only"          // no destination, and nobody approved that
	Protected       Invariant = "protected_prefix"     // overlaps the never list, and nobody approved that
	BGP             Invariant = "bgp"                  // could cut a BGP session
	BlackholeWidth  Invariant = "blackhole_width"      // a blackhole wider than allowed
	AutomaticWidth  Invariant = "automatic_width"      // a rule of automation for more than a host
	SourceBlackhole Invariant = "source_blackhole"     // a blackhole of a source that is ours, no host, or not allowed
	RedirectTarget  Invariant = "redirect_target"      // traffic sent where the operator allowed none
	AutomaticAction Invariant = "automatic_action"     // automation does what the operator did not list
	EncodedSize     Invariant = "encoded_size"         // does not fit a FlowSpec NLRI that may leave
	Encoding        Invariant = "encoding"             // the octets do not mean the rule
	Deadline        Invariant = "deadline"             // no end, or an end that has passed
	MaxAge          Invariant = "max_age"              // an end too far away
	// Over the set.
	Conflict      Invariant = "conflict"             // same identity as an older route, another action
	QuotaRules    Invariant = "quota_rules"          // too many routes
	QuotaNew      Invariant = "quota_new_per_minute" // too many new routes within a minute
	QuotaTarget   Invariant = "quota_per_target"     // too many routes for one target
	QuotaOwner    Invariant = "quota_per_owner"      // too many routes of one owner
	QuotaAnswer   Invariant = "quota_per_response"   // too many routes of one response of the policy
	QuotaGroup    Invariant = "quota_per_group"      // too many routes for one group of the policy
	QuotaOwnShare Invariant = "quota_own_share"      // too much of our own address space cut off
)

// Invariants returns every invariant in the order they are reported.
func Invariants() []Invariant {
	var all []Invariant
	for _, c := range checks {
		all = append(all, c.invariant)
	}
	for _, q := range setChecks {
		all = append(all, q.invariant)
	}
	return all
}

// Violation says why an entry must not be announced. An entry may have several.
type Violation struct {
	Index     int    // of the entry in the set
	Route     string // its text
	Invariant Invariant
	Reason    string // what is wrong, with the values, and what to do
}

// Check returns every violation in the set, sorted by index and invariant; an entry without one may be announced. It is
// deterministic: the order of the set decides nothing but the indices.
//
// Only entries that break no invariant of their own count towards the quotas and conflicts. These are decided in order of
// age (Created, then text, then the other fields), so that older routes stay, and an entry they refuse counts no further.
func Check(now time.Time, l Limits, set []Entry) []Violation {
	out, _, _ := check(now, l, set)
	return out
}

// check is Check; it returns the count of what may be announced, and the youngest of that.
func check(now time.Time, l Limits, set []Entry) (out []Violation, t *tally, youngest *entry) {
	k := &kernel{now: now, limits: l, own: newPrefixSet(l.Own), never: newPrefixSet(l.Never)}
	sound := make([]*entry, 0, len(set))
	for i := range set {
		e := newEntry(&set[i], i)
		if broken := brokenBy(k, e); len(broken) > 0 {
			out = append(out, broken...)
			continue
		}
		sound = append(sound, e)
	}

	slices.SortStableFunc(sound, byAge)
	t = newTally(k, len(sound))
	for _, e := range sound {
		if broken := brokenIn(t, e); len(broken) > 0 {
			out = append(out, broken...)
			continue
		}
		t.add(e)
		youngest = e
	}
	slices.SortStableFunc(out, func(a, b Violation) int { return a.Index - b.Index })
	return out, t, youngest
}

func newEntry(e *Entry, index int) *entry {
	made := e.Made
	if made == nil || !made.route.Equal(e.Route) {
		made = Make(e.Route)
	}
	return &entry{Entry: e, Made: made, index: index}
}

// brokenBy returns what an entry breaks by itself.
func brokenBy(k *kernel, e *entry) (out []Violation) {
	for _, c := range checks {
		if reason := c.broken(k, e); reason != "" {
			out = append(out, Violation{e.index, e.text, c.invariant, reason})
		}
	}
	return out
}

// brokenIn returns what an entry breaks beside those counted so far.
func brokenIn(t *tally, e *entry) (out []Violation) {
	for _, c := range setChecks {
		if reason := c.broken(t, e); reason != "" {
			out = append(out, Violation{e.index, e.text, c.invariant, reason})
		}
	}
	return out
}

// kernel is what the checks of one route see.
type kernel struct {
	now        time.Time
	limits     Limits
	own, never prefixSet
}

// entry is an Entry with what is derived from it once.
type entry struct {
	*Entry
	*Made
	index int
}

// approved reports whether a person of the approver role allowed the entry. Automation cannot be approved.
func (e *entry) approved() bool { return e.Approved && e.Manual }

func (e *entry) destination() netip.Prefix { return e.Route.Match.Destination }

func (e *entry) source() netip.Prefix { return e.Route.Match.Source }
