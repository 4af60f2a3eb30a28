package compile

import (
	"errors"
	"fmt"
	"slices"

	"github.com/amooglesoft/trafficmonitor/internal/route"
)

// The protocols that have ports, flags, types and codes.
var (
	icmp4 = route.Range{Lo: 1, Hi: 1}
	tcp   = route.Range{Lo: 6, Hi: 6}
	udp   = route.Range{Lo: 17, Hi: 17}
	icmp6 = route.Range{Lo: 58, Hi: 58}
)

// shape is a route as a router can hold it. The zero shape is the route itself.
type shape struct {
	rules   []route.Route // together they match what the route matches, and more only if widened says so
	widened []string      // what they match besides, in words
}

// shaper makes the shape of one route. Each step turns one match into several that together match the same.
type shaper struct {
	*Profile
	family  route.Family
	widened []string
}

// refusal is why a route cannot be had, in words for operators.
type refusal string

func (r refusal) Error() string { return string(r) }

func refuse(format string, args ...any) error { return refusal(fmt.Sprintf(format, args...)) }

// shape says how the router is to hold r, or why it cannot.
func (p *Profile) shape(r route.Route) (shape, error) {
	if t := TableOf(r); len(p.Tables) > 0 && !slices.Contains(p.Tables, t) {
		return shape{}, refuse("the router is not configured for %s: add it to the peer's families if the router carries it", t)
	}
	if t := TableOf(r); len(p.Carries) > 0 && !slices.Contains(p.Carries, t) {
		return shape{}, refuse("the router does not take %s (profile %s)", t, p.Name)
	}
	if len(p.Actions) > 0 {
		for _, a := range ActionsOf(r.Action) {
			if !slices.Contains(p.Actions, a) {
				return shape{}, refuse("the router does not do %s (profile %s): its actions lack %s; choose another action for it", r.Action, p.Name, a)
			}
		}
	}
	if t := r.Action.Redirect.Target; t.Form != 0 && len(p.Targets) > 0 && !slices.Contains(p.Targets, targets[t.Form]) {
		return shape{}, refuse("the router does not take the route target %s (profile %s): its redirect_targets lack %s; let the VRF import a target of another form, or name the profile of a router that takes this one", t, p.Name, targets[t.Form])
	}
	if r.IsBlackhole() || p.fits(&r.Match) {
		return shape{}, nil
	}
	s := &shaper{Profile: p, family: r.Family()}
	matches := []route.Match{r.Match}
	for _, step := range []func(route.Match) ([]route.Match, error){
		s.portsHaveProtocol, s.supported, s.notExclusive, s.unmixed, s.fewItems, s.fewOctets,
	} {
		var next []route.Match
		for _, m := range matches {
			ms, err := step(m)
			if err != nil {
				return shape{}, err
			}
			if next = append(next, ms...); len(next) > max(p.Split, 1) {
				return shape{}, s.tooMany(r.Match)
			}
		}
		if matches = next; len(matches) == 0 {
			return shape{}, refuse("it matches no packet: no protocol it names has the ports it names")
		}
	}
	if len(matches) == 1 && matches[0].Equal(r.Match) {
		return shape{}, nil
	}
	out := shape{widened: s.widened}
	seen := map[string]bool{}
	for _, m := range matches {
		d := route.Route{Match: m, Action: r.Action}.Canonical()
		if len(s.widened) > 0 && !narrowed(d.Match) {
			return shape{}, refuse("the router does not match by what it says beside its prefixes (profile %s): widened it would hit everything there", s.Name)
		}
		if id := d.ID(); !seen[id] {
			seen[id] = true
			out.rules = append(out.rules, d)
		}
	}
	all := out.rules
	out.rules = slices.DeleteFunc(slices.Clone(all), func(r route.Route) bool { // what another part matches anyway costs for nothing
		return slices.ContainsFunc(all, func(o route.Route) bool { return !o.Match.Equal(r.Match) && covers(&o.Match, &r.Match) })
	})
	return out, nil
}

// covers reports whether every packet of a is one of b, for certain; both are canonical parts of one route.
func covers(b, a *route.Match) bool {
	for i := range components {
		c := &components[i]
		switch {
		case c.alternatives(b) == 0:
		case c.alternatives(a) == 0:
			return false
		case c.bits != nil:
			if !slices.Equal(*c.bits(a), *c.bits(b)) {
				return false
			}
		default:
			within := *c.ranges(b)
			for _, r := range *c.ranges(a) {
				if !slices.ContainsFunc(within, func(w route.Range) bool { return w.Lo <= r.Lo && r.Hi <= w.Hi }) {
					return false
				}
			}
		}
	}
	return true
}

// fits reports whether the router can hold m as it is. It is sure of what it affirms only: it is there so that the usual
// rule costs little.
func (p *Profile) fits(m *route.Match) bool {
	if p.PortsNeedProtocol && len(m.Port)+len(m.DestinationPort)+len(m.SourcePort) > 0 && !onlyPorts(m.Protocol) {
		return false
	}
	octets := maxPrefixes
	for i := range components {
		c := &components[i]
		n := c.items(m)
		if n > 0 && (n > p.maxItems(c.word) || !p.takes(c.word)) || c.bits != nil && p.unknownBits(c, *c.bits(m)) {
			return false
		}
		if p.Unmixed && c.ranges != nil && mixed(*c.ranges(m)) {
			return false
		}
		octets += 1 + c.octets()*n
	}
	if octets > route.MaxNLRI || has(m, "source") && !p.takes("source") || p.unknownOffset(m) {
		return false
	}
	return !slices.ContainsFunc(p.Exclusive, func(x [2]string) bool { return has(m, x[0]) && has(m, x[1]) })
}

// onlyPorts reports whether a component names protocols with ports and no other.
func onlyPorts(protocols []route.Range) bool {
	return len(protocols) > 0 && !slices.ContainsFunc(protocols, func(r route.Range) bool { return r != tcp && r != udp })
}

// mixed reports whether a list holds single values and ranges.
func mixed(list []route.Range) bool {
	single := func(r route.Range) bool { return r.Lo == r.Hi }
	return slices.ContainsFunc(list, single) && slices.ContainsFunc(list, func(r route.Range) bool { return !single(r) })
}

// maxPrefixes is the most octets two prefixes take.
const maxPrefixes = 2 * (3 + 16)

// unknownBits reports whether a test asks for a flag the router cannot test.
func (p *Profile) unknownBits(c *component, tests []route.Bits) bool {
	known := p.knownTo(c)
	return known != 0 && slices.ContainsFunc(tests, func(b route.Bits) bool { return (b.Set|b.Clear)&^known != 0 })
}

func (p *Profile) knownTo(c *component) uint16 {
	if c.word == "tcp-flags" {
		return p.TCPFlags
	}
	return p.Fragment
}

// tooMany says why a rule that would have to be split is not.
func (s *shaper) tooMany(m route.Match) error {
	if s.Split > 1 {
		return refuse("the router would need more than %d rules for it, and the profile %s splits into so many at most: use fewer, wider ranges", s.Split, s.Name)
	}
	for i := range components {
		c := &components[i]
		if n := c.items(&m); n > s.maxItems(c.word) {
			return refuse("%s has %d items (a range counts two) and the router takes at most %d in one component: split the rule or use fewer, wider ranges", c.word, n, s.maxItems(c.word))
		}
	}
	return refuse("the router would need several rules for it, and the profile %s splits none", s.Name)
}

// mayWiden reports whether the component may be left out of m. A rule without a destination stays as it is.
func (s *shaper) mayWiden(m route.Match, word string) bool {
	return slices.Contains(s.Widen, word) && m.Destination.IsValid() && m.Destination.Bits() > 0
}

// leaveOut returns m without the component, which the operator allowed, and tells. What the component says about the
// protocol stays said.
func (s *shaper) leaveOut(m route.Match, c *component) route.Match {
	was := text(m, c)
	m = s.implied(m, c.word)
	m = c.without(m)
	s.tell("%s is not matched there: every %s matches", was, c.word)
	return m
}

// tell keeps one line for all parts of a rule.
func (s *shaper) tell(format string, args ...any) {
	if line := fmt.Sprintf(format, args...); !slices.Contains(s.widened, line) {
		s.widened = append(s.widened, line)
	}
}

// implied makes the protocol say what the component implies: only TCP and UDP have ports, only TCP has flags, only ICMP has
// types (RFC 8955, sections 4.2.2.4 to 4.2.2.9).
func (s *shaper) implied(m route.Match, word string) route.Match {
	var of []route.Range
	switch word {
	case "port", "destination-port", "source-port":
		of = []route.Range{tcp, udp}
	case "tcp-flags":
		of = []route.Range{tcp}
	case "icmp-type", "icmp-code":
		of = []route.Range{icmp4}
		if s.family == route.IPv6 {
			of = []route.Range{icmp6}
		}
	}
	if len(of) == 0 || !s.takes("protocol") {
		return m
	}
	var both []route.Range
	for _, v := range of {
		if allows(m.Protocol, v) {
			both = append(both, v)
		}
	}
	if len(both) > 0 {
		m.Protocol = both
	}
	return m
}

// portsHaveProtocol names TCP and UDP beside ports where the router wants them named.
func (s *shaper) portsHaveProtocol(m route.Match) ([]route.Match, error) {
	if !s.PortsNeedProtocol || len(m.Port)+len(m.DestinationPort)+len(m.SourcePort) == 0 {
		return []route.Match{m}, nil
	}
	if !allows(m.Protocol, tcp) && !allows(m.Protocol, udp) {
		return nil, nil
	}
	return []route.Match{s.implied(m, "port")}, nil
}

// supported takes out what the router does not match by.
func (s *shaper) supported(m route.Match) ([]route.Match, error) {
	if s.unknownOffset(&m) {
		return nil, refuse("the router does not match by a prefix with this offset (profile %s): name the whole prefix, or the profile of a router that does", s.Name)
	}
	for _, word := range []string{"destination", "source"} {
		if has(&m, word) && !s.takes(word) {
			return nil, refuse("the router does not match by %s (profile %s), and without it the rule would hit others", word, s.Name)
		}
	}
	for i := range components {
		c := &components[i]
		if c.alternatives(&m) == 0 {
			continue
		}
		if !s.takes(c.word) {
			if c.word == "port" && s.takes("destination-port") && s.takes("source-port") {
				var out []route.Match
				for _, x := range eitherPort(m) {
					rest, err := s.supported(x)
					if err != nil {
						return nil, err
					}
					out = append(out, rest...)
				}
				return out, nil
			}
			if !s.mayWiden(m, c.word) {
				return nil, refuse("the router does not match by %s (profile %s): leave it out of the rule, or name it in the peer's widen if the rule may match more there", c.word, s.Name)
			}
			m = s.leaveOut(m, c)
			continue
		}
		if c.bits == nil {
			continue
		}
		var err error
		if m, err = s.knownBits(m, c); err != nil {
			return nil, err
		}
	}
	return []route.Match{m}, nil
}

// knownBits takes out of tests for flags those the router cannot test.
func (s *shaper) knownBits(m route.Match, c *component) (route.Match, error) {
	tests, known := *c.bits(&m), s.knownTo(c)
	if !s.unknownBits(c, tests) {
		return m, nil
	}
	if !s.mayWiden(m, c.word) {
		return m, refuse("the router does not test all the flags of \"%s\" (profile %s): leave them out of the rule, or name %s in the peer's widen if the rule may match more there", text(m, c), s.Name, c.word)
	}
	was, rest := text(m, c), make([]route.Bits, 0, len(tests))
	for _, b := range tests {
		b.Set &= known
		b.Clear &= known
		if b == (route.Bits{}) { // one alternative that matches all makes the others idle
			return s.leaveOut(m, c), nil
		}
		rest = append(rest, b)
	}
	*c.bits(&m) = rest
	s.tell("%s is matched there as %s", was, text(m, c))
	return m, nil
}

// eitherPort says "source or destination port" in rules that do not use the component port; together they match the same.
func eitherPort(m route.Match) []route.Match {
	var out []route.Match
	either := m.Port
	m.Port = nil
	if d := common(either, m.DestinationPort); len(d) > 0 {
		x := m
		x.DestinationPort = d
		out = append(out, x)
	}
	if f := common(either, m.SourcePort); len(f) > 0 {
		x := m
		x.SourcePort = f
		out = append(out, x)
	}
	return out
}

// notExclusive parts components that do not work together.
func (s *shaper) notExclusive(m route.Match) ([]route.Match, error) {
	for _, pair := range s.Exclusive {
		if !has(&m, pair[0]) || !has(&m, pair[1]) {
			continue
		}
		if slices.Contains(pair[:], "port") && (slices.Contains(pair[:], "destination-port") || slices.Contains(pair[:], "source-port")) {
			var out []route.Match
			for _, x := range eitherPort(m) {
				rest, err := s.notExclusive(x)
				if err != nil {
					return nil, err
				}
				out = append(out, rest...)
			}
			return out, nil
		}
		word := ""
		for _, w := range s.Widen {
			if slices.Contains(pair[:], w) && s.mayWiden(m, w) {
				word = w
				break
			}
		}
		if word == "" {
			return nil, refuse("the router does not take %s together with %s (profile %s): leave one out of the rule, or name it in the peer's widen if the rule may match more there", pair[0], pair[1], s.Name)
		}
		i := slices.IndexFunc(components, func(c component) bool { return c.word == word })
		return s.notExclusive(s.leaveOut(m, &components[i])) // once more: what is left out may leave a protocol behind
	}
	return []route.Match{m}, nil
}

// unmixed parts lists of values and ranges.
func (s *shaper) unmixed(m route.Match) ([]route.Match, error) {
	out := []route.Match{m}
	if !s.Unmixed {
		return out, nil
	}
	for i := range components {
		c := &components[i]
		if c.ranges == nil {
			continue
		}
		var values, ranges []route.Range
		for _, r := range *c.ranges(&m) {
			if r.Lo == r.Hi {
				values = append(values, r)
			} else {
				ranges = append(ranges, r)
			}
		}
		if len(values) == 0 || len(ranges) == 0 {
			continue
		}
		var next []route.Match
		for _, x := range out {
			a, b := x, x
			*c.ranges(&a), *c.ranges(&b) = values, ranges
			next = append(next, a, b)
		}
		if out = next; len(out) > max(s.Split, 1) {
			return nil, s.tooMany(m)
		}
	}
	return out, nil
}

// fewItems parts lists that are longer than the router takes.
func (s *shaper) fewItems(m route.Match) ([]route.Match, error) {
	out := []route.Match{m}
	for i := range components {
		c := &components[i]
		most := s.maxItems(c.word)
		if c.items(&m) <= most {
			continue
		}
		var cuts []int // where each part ends
		room := most
		for a := range c.alternatives(&m) {
			n := c.itemsOf(&m, a)
			if n > most {
				return nil, refuse("%s takes %d items in one component and the router takes at most %d (profile %s)", text(c.part(m, a, a+1), c), n, most, s.Name)
			}
			if n > room {
				cuts, room = append(cuts, a), most
			}
			room -= n
		}
		cuts = append(cuts, c.alternatives(&m))
		if len(out)*len(cuts) > max(s.Split, 1) {
			return nil, s.tooMany(m)
		}
		var next []route.Match
		for _, x := range out {
			lo := 0
			for _, hi := range cuts {
				next = append(next, c.part(x, lo, hi))
				lo = hi
			}
		}
		out = next
	}
	return out, nil
}

// fewOctets halves the longest list until the rule fits an NLRI.
func (s *shaper) fewOctets(m route.Match) ([]route.Match, error) {
	octets := maxPrefixes
	for i := range components {
		octets += 1 + components[i].octets()*components[i].items(&m)
	}
	if octets <= route.MaxNLRI { // at most: the usual rule need not be encoded
		return []route.Match{m}, nil
	}
	_, err := route.AppendFlowSpec(nil, m)
	if err == nil {
		return []route.Match{m}, nil
	}
	if !errors.Is(err, route.ErrTooLong) {
		return nil, refuse("%v", err)
	}
	longest := &components[0]
	for i := range components {
		if c := &components[i]; c.alternatives(&m) > longest.alternatives(&m) {
			longest = c
		}
	}
	n := longest.alternatives(&m)
	if n < 2 {
		return nil, refuse("%v", err)
	}
	var out []route.Match
	for _, half := range []route.Match{longest.part(m, 0, n/2), longest.part(m, n/2, n)} {
		ms, err := s.fewOctets(half)
		if err != nil {
			return nil, err
		}
		if out = append(out, ms...); len(out) > max(s.Split, 1) {
			return nil, s.tooMany(m)
		}
	}
	return out, nil
}

// narrowed reports whether m says more than prefixes.
func narrowed(m route.Match) bool {
	return !m.Equal(route.Match{
		Destination: m.Destination, DestinationOffset: m.DestinationOffset, Source: m.Source, SourceOffset: m.SourceOffset,
	})
}

// text is one component of m in words.
func text(m route.Match, c *component) string {
	var only route.Match
	if c.bits != nil {
		*c.bits(&only) = *c.bits(&m)
	} else {
		*c.ranges(&only) = *c.ranges(&m)
	}
	return only.String()
}

// allows reports whether a component lets a value match; an empty one lets everything.
func allows(rs []route.Range, v route.Range) bool {
	return len(common([]route.Range{v}, rs)) > 0
}

// common returns the values of a that a component lets match; an empty component lets everything.
func common(a, with []route.Range) []route.Range {
	if len(with) == 0 {
		return slices.Clone(a)
	}
	var out []route.Range
	for _, x := range a {
		for _, y := range with {
			if r := (route.Range{Lo: max(x.Lo, y.Lo), Hi: min(x.Hi, y.Hi)}); r.Lo <= r.Hi {
				out = append(out, r)
			}
		}
	}
	return out
}
