package route

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"net/netip"
	"strconv"
	"strings"
)

// ParseAction reads an action: what is to be done (discard, rate-limit RATE, accept, blackhole, source-blackhole) and what
// else, each word once and in any order. Accept need not be said where something else is.
func ParseAction(s string) (Action, error) {
	p := actionParser{rest: strings.Fields(s), seen: map[string]bool{}}
	if len(p.rest) == 0 {
		return Action{}, errors.New("no action: use discard, rate-limit with a rate such as 1Mbps or 500pps, accept, blackhole or source-blackhole")
	}
	for len(p.rest) > 0 {
		p.next()
	}
	switch {
	case p.a.Kind != 0:
	case p.a.Sample || p.a.Continue || p.a.Mark > 0 || p.a.Redirect != Redirect{}:
		p.a.Kind = Accept
	case len(p.errs) == 0:
		p.errs = append(p.errs, fmt.Errorf("action %q does not say what is to be done: begin it with discard, rate-limit, accept, blackhole or source-blackhole", strings.TrimSpace(s)))
	}
	if len(p.errs) > 0 {
		return Action{}, errors.Join(p.errs...)
	}
	return p.a, nil
}

type actionParser struct {
	rest []string
	a    Action
	seen map[string]bool
	errs []error
}

// next takes one word with its value.
func (p *actionParser) next() {
	word := p.rest[0]
	p.rest = p.rest[1:]
	var err error
	switch word {
	case "discard":
		err = p.kind(Action{Kind: Discard})
	case "accept":
		err = p.kind(Action{Kind: Accept})
	case "blackhole":
		err = p.kind(Action{Kind: Blackhole})
	case "source-blackhole":
		err = p.kind(Action{Kind: SourceBlackhole})
	case "rate-limit":
		err = p.rate()
	case "sample":
		p.a.Sample = true
	case "continue":
		p.a.Continue = true
	case "mark":
		p.a.Mark, err = p.number(63)
	case "redirect", "copy":
		err = p.redirect(word)
	case "next-hop":
		p.a.NextHop, err = ParseHop(p.value())
	case "communities":
		p.a.Communities, err = ParseCommunities(p.value())
	case "large-communities":
		p.a.Large, err = ParseLargeCommunities(p.value())
	case "local-pref":
		p.a.LocalPref, err = p.number(math.MaxUint32)
	case "med":
		p.a.MED, err = p.number(math.MaxUint32)
	default:
		p.errs = append(p.errs, fmt.Errorf("action %q is not known: use discard, rate-limit with a rate such as 1Mbps or 500pps, accept, blackhole or source-blackhole, and what else is done: %s",
			word, strings.Join(ActionWords()[5:], ", ")))
		return
	}
	if p.seen[word] {
		err = errors.Join(err, errors.New("stands twice"))
	}
	p.seen[word] = true
	if err != nil {
		p.errs = append(p.errs, wrap(word, err))
	}
}

// kind takes what is to be done, which is said once.
func (p *actionParser) kind(a Action) error {
	if p.a.Kind != 0 {
		return fmt.Errorf("the action is %s already: a route has one", p.a.Kind)
	}
	p.a.Kind, p.a.Rate = a.Kind, a.Rate
	return nil
}

func (p *actionParser) value() string {
	if len(p.rest) == 0 {
		return ""
	}
	v := p.rest[0]
	p.rest = p.rest[1:]
	return v
}

func (p *actionParser) number(most uint64) (Optional, error) {
	s := p.value()
	v, err := strconv.ParseUint(s, 10, 64)
	if err != nil || v > most {
		return 0, fmt.Errorf("%q is not a number from 0 to %d", s, most)
	}
	return Some(uint32(v)), nil
}

// rate takes a rate, whose unit may stand apart.
func (p *actionParser) rate() error {
	s := p.value()
	for i := 0; i < 2 && len(p.rest) > 0 && !strings.HasSuffix(s, "ps"); i++ {
		s += p.value()
	}
	a, err := parseRate(s)
	if err != nil {
		return err
	}
	return p.kind(a)
}

func (p *actionParser) redirect(word string) (err error) {
	if p.a.Redirect != (Redirect{}) {
		return errors.New("packets go one way: redirect or copy, once")
	}
	s := p.value()
	r := Redirect{Copy: word == "copy"}
	if a, perr := netip.ParseAddr(s); perr == nil {
		r.Address = a
		p.a.Redirect = r
		return nil
	}
	if r.Copy {
		return fmt.Errorf("%q is not an address", s)
	}
	if r.Target, err = ParseRouteTarget(s); err == nil {
		p.a.Redirect = r
	}
	return err
}

// ParseHop reads the address of a next hop.
func ParseHop(s string) (netip.Addr, error) {
	a, err := netip.ParseAddr(s)
	if err != nil {
		return netip.Addr{}, fmt.Errorf("%q is not an address", s)
	}
	return a, nil
}

// ParseRouteTarget reads a route target; see RouteTarget.String.
func ParseRouteTarget(s string) (RouteTarget, error) {
	fail := func() (RouteTarget, error) {
		return RouteTarget{}, fmt.Errorf("%q is neither an address nor a route target such as 64500:100, 192.0.2.1:100 or 4200000000:100", s)
	}
	global, local, ok := strings.Cut(s, ":")
	if !ok {
		return fail()
	}
	v, err := strconv.ParseUint(local, 10, 32)
	if err != nil {
		return fail()
	}
	t := RouteTarget{Form: TargetAS2, Local: uint32(v)}
	if a, err := netip.ParseAddr(global); err == nil && a.Is4() {
		b := a.As4()
		t.Form, t.Global = TargetIPv4, binary.BigEndian.Uint32(b[:])
	} else {
		number, long := strings.CutSuffix(global, "L")
		as, err := strconv.ParseUint(number, 10, 32)
		if err != nil {
			return fail()
		}
		if t.Global = uint32(as); long || as > 0xffff {
			t.Form = TargetAS4
		}
	}
	if t.Form != TargetAS2 && t.Local > 0xffff {
		return RouteTarget{}, fmt.Errorf("%q: %d behind a 4-octet AS or an address is above 65535", s, t.Local)
	}
	return t, nil
}

// ParseCommunities reads communities, separated by commas: 64500:666, or the word of a well-known one.
func ParseCommunities(s string) (Communities, error) {
	var cs []uint32
	for item := range strings.SplitSeq(s, ",") {
		if c, ok := communityWords[item]; ok {
			cs = append(cs, c)
			continue
		}
		v, err := parseNumbers(item, 2, 16)
		if err != nil {
			return "", fmt.Errorf("%q is not a community such as 64500:666 or no-export", item)
		}
		cs = append(cs, v[0]<<16|v[1])
	}
	c := CommunitiesOf(cs...)
	if len(c)/4 > MaxCommunities {
		return "", fmt.Errorf("%d are more than %d", len(c)/4, MaxCommunities)
	}
	return c, nil
}

// ParseLargeCommunities reads large communities, separated by commas: 64500:1:2.
func ParseLargeCommunities(s string) (LargeCommunities, error) {
	var cs [][3]uint32
	for item := range strings.SplitSeq(s, ",") {
		v, err := parseNumbers(item, 3, 32)
		if err != nil {
			return "", fmt.Errorf("%q is not a large community such as 64500:1:2", item)
		}
		cs = append(cs, [3]uint32(v))
	}
	c := LargeCommunitiesOf(cs...)
	if len(c)/12 > MaxCommunities {
		return "", fmt.Errorf("%d are more than %d", len(c)/12, MaxCommunities)
	}
	return c, nil
}

// parseNumbers reads n numbers of at most bits, with colons between them.
func parseNumbers(s string, n, bits int) ([]uint32, error) {
	var out []uint32
	for part := range strings.SplitSeq(s, ":") {
		v, err := strconv.ParseUint(part, 10, bits)
		if err != nil {
			return nil, err
		}
		out = append(out, uint32(v))
	}
	if len(out) != n {
		return nil, errors.New("a number too many or too few")
	}
	return out, nil
}
