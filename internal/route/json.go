package route

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"
)

// The JSON form of a route says the same as the text form, for programs. It is not what a Route is marshalled as, which is
// the text form in a string.

type jsonRoute struct {
	Match  jsonMatch  `json:"match"`
	Action jsonAction `json:"action"`
}

type jsonMatch struct {
	Destination       string      `json:"destination,omitempty"`
	DestinationOffset uint8       `json:"destination_offset,omitempty"`
	Source            string      `json:"source,omitempty"`
	SourceOffset      uint8       `json:"source_offset,omitempty"`
	Protocol          []jsonRange `json:"protocol,omitempty"`
	Port              []jsonRange `json:"port,omitempty"`
	DestinationPort   []jsonRange `json:"destination_port,omitempty"`
	SourcePort        []jsonRange `json:"source_port,omitempty"`
	ICMPType          []jsonRange `json:"icmp_type,omitempty"`
	ICMPCode          []jsonRange `json:"icmp_code,omitempty"`
	TCPFlags          []jsonBits  `json:"tcp_flags,omitempty"`
	Length            []jsonRange `json:"length,omitempty"`
	DSCP              []jsonRange `json:"dscp,omitempty"`
	Fragment          []jsonBits  `json:"fragment,omitempty"`
	FlowLabel         []jsonRange `json:"flow_label,omitempty"`
}

type jsonRange struct {
	From uint32 `json:"from"`
	To   uint32 `json:"to"`
}

type jsonBits struct {
	Set   []string `json:"set,omitempty"`
	Clear []string `json:"clear,omitempty"`
}

type jsonAction struct {
	Do               string   `json:"do"`
	BytesPerSecond   uint64   `json:"bytes_per_second,omitempty"`
	PacketsPerSecond uint64   `json:"packets_per_second,omitempty"`
	Sample           bool     `json:"sample,omitempty"`
	Continue         bool     `json:"continue,omitempty"`
	Mark             *uint32  `json:"mark,omitempty"`
	RedirectTarget   string   `json:"redirect_target,omitempty"`
	RedirectAddress  string   `json:"redirect_address,omitempty"`
	CopyAddress      string   `json:"copy_address,omitempty"`
	NextHop          string   `json:"next_hop,omitempty"`
	Communities      []string `json:"communities,omitempty"`
	Large            []string `json:"large_communities,omitempty"`
	LocalPref        *uint32  `json:"local_pref,omitempty"`
	MED              *uint32  `json:"med,omitempty"`
}

// numeric pairs each numeric component with its JSON.
func (j *jsonMatch) numeric(m *Match) []struct {
	json   *[]jsonRange
	ranges *[]Range
} {
	return []struct {
		json   *[]jsonRange
		ranges *[]Range
	}{
		{&j.Protocol, &m.Protocol},
		{&j.Port, &m.Port},
		{&j.DestinationPort, &m.DestinationPort},
		{&j.SourcePort, &m.SourcePort},
		{&j.ICMPType, &m.ICMPType},
		{&j.ICMPCode, &m.ICMPCode},
		{&j.Length, &m.Length},
		{&j.DSCP, &m.DSCP},
		{&j.FlowLabel, &m.FlowLabel},
	}
}

// JSON returns the JSON form of a valid route, on one line; ParseJSON reads it back.
func (r Route) JSON() []byte {
	m, a := r.Match, r.Action
	var j jsonRoute
	if m.Destination.IsValid() {
		j.Match.Destination = m.Destination.String()
	}
	if m.Source.IsValid() {
		j.Match.Source = m.Source.String()
	}
	j.Match.DestinationOffset, j.Match.SourceOffset = m.DestinationOffset, m.SourceOffset
	for _, c := range j.Match.numeric(&m) {
		for _, x := range *c.ranges {
			*c.json = append(*c.json, jsonRange{From: x.Lo, To: x.Hi})
		}
	}
	for i, f := range m.flagged() {
		to := []*[]jsonBits{&j.Match.TCPFlags, &j.Match.Fragment}[i]
		for _, b := range *f.bits {
			*to = append(*to, jsonBits{bitWords(b.Set, f.words), bitWords(b.Clear, f.words)})
		}
	}

	j.Action = jsonAction{Do: a.Kind.String(), Sample: a.Sample, Continue: a.Continue}
	switch a.Kind {
	case RateBytes:
		j.Action.BytesPerSecond = a.Rate
	case RatePackets:
		j.Action.PacketsPerSecond = a.Rate
	}
	number := func(o Optional) *uint32 {
		if v, ok := o.Get(); ok {
			return &v
		}
		return nil
	}
	j.Action.Mark, j.Action.LocalPref, j.Action.MED = number(a.Mark), number(a.LocalPref), number(a.MED)
	switch {
	case a.Redirect.Copy:
		j.Action.CopyAddress = a.Redirect.Address.String()
	case a.Redirect.Address.IsValid():
		j.Action.RedirectAddress = a.Redirect.Address.String()
	case a.Redirect.Target.Form != 0:
		j.Action.RedirectTarget = a.Redirect.Target.String()
	}
	if a.NextHop.IsValid() {
		j.Action.NextHop = a.NextHop.String()
	}
	if a.Communities != "" {
		j.Action.Communities = strings.Split(a.Communities.String(), ",")
	}
	if a.Large != "" {
		j.Action.Large = strings.Split(a.Large.String(), ",")
	}
	b, err := json.Marshal(j)
	if err != nil {
		panic(err) // strings and numbers only
	}
	return b
}

func bitWords(v uint16, words []string) []string {
	var out []string
	for i, w := range words {
		if v&(1<<i) != 0 {
			out = append(out, w)
		}
	}
	return out
}

// MaxJSON is the longest JSON ParseJSON reads, in octets.
const MaxJSON = 64 << 10

// ParseJSON reads a route from its JSON form, in canonical form and valid. Keys it does not know are errors.
func ParseJSON(b []byte) (Route, error) {
	if len(b) > MaxJSON {
		return Route{}, fmt.Errorf("route in JSON of %d octets: at most %d are read", len(b), MaxJSON)
	}
	var j jsonRoute
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(&j); err != nil {
		return Route{}, fmt.Errorf("route in JSON: %w", err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return Route{}, errors.New("route in JSON: something follows it")
	}
	p := jsonParser{}
	r := Route{Match: p.match(j.Match), Action: p.action(j.Action)}
	if len(p.errs) == 0 {
		r = r.Canonical()
		if err := r.Validate(); err != nil {
			p.errs = append(p.errs, err)
		}
	}
	if len(p.errs) > 0 {
		return Route{}, fmt.Errorf("route in JSON: %w", errors.Join(p.errs...))
	}
	return r, nil
}

type jsonParser struct{ errs []error }

// part reads one string with a parser of the text form, unless it is empty.
func part[T any](p *jsonParser, key, s string, parse func(string) (T, error)) (v T) {
	if s == "" {
		return v
	}
	v, err := parse(s)
	if err != nil {
		p.errs = append(p.errs, wrap(key, err))
	}
	return v
}

func (p *jsonParser) match(j jsonMatch) (m Match) {
	m.Destination = part(p, "destination", j.Destination, ParsePrefix)
	m.Source = part(p, "source", j.Source, ParsePrefix)
	m.DestinationOffset, m.SourceOffset = j.DestinationOffset, j.SourceOffset
	for _, x := range []struct {
		key    string
		prefix netip.Prefix
		offset uint8
	}{{"destination", m.Destination, m.DestinationOffset}, {"source", m.Source, m.SourceOffset}} {
		if skip(x.prefix, x.offset) != x.prefix {
			p.errs = append(p.errs, fmt.Errorf("%s: %s has bits before its offset %d, which are not compared", x.key, x.prefix, x.offset))
		}
	}
	for _, c := range j.numeric(&m) {
		for _, x := range *c.json {
			*c.ranges = append(*c.ranges, Range{Lo: x.From, Hi: x.To})
		}
	}
	for i, f := range m.flagged() {
		for _, b := range [][]jsonBits{j.TCPFlags, j.Fragment}[i] {
			*f.bits = append(*f.bits, Bits{Set: p.bits(b.Set, f), Clear: p.bits(b.Clear, f)})
		}
	}
	return m
}

func (p *jsonParser) bits(words []string, f flags) (v uint16) {
	for _, w := range words {
		i := slices.Index(f.words, w)
		if i < 0 {
			p.errs = append(p.errs, fmt.Errorf("%s: %q is not one of %s", f.word, w, strings.Join(f.words, ", ")))
			continue
		}
		v |= 1 << i
	}
	return v
}

func (p *jsonParser) action(j jsonAction) (a Action) {
	a.Sample, a.Continue = j.Sample, j.Continue
	bad := func(format string, args ...any) { p.errs = append(p.errs, fmt.Errorf(format, args...)) }
	switch {
	case j.Do == "rate-limit" && (j.BytesPerSecond > 0) != (j.PacketsPerSecond > 0):
		a.Kind, a.Rate = RateBytes, j.BytesPerSecond
		if j.PacketsPerSecond > 0 {
			a.Kind, a.Rate = RatePackets, j.PacketsPerSecond
		}
	case j.Do == "rate-limit":
		bad("action: rate-limit needs bytes_per_second or packets_per_second, and not both")
	case j.BytesPerSecond > 0 || j.PacketsPerSecond > 0:
		bad("action: %s takes no rate", j.Do)
	default:
		for _, k := range []ActionKind{Discard, Accept, Blackhole, SourceBlackhole} {
			if k.String() == j.Do {
				a.Kind = k
			}
		}
		if a.Kind == 0 {
			bad("action: %q is not one of discard, rate-limit, accept, blackhole, source-blackhole", j.Do)
		}
	}
	some := func(v *uint32) Optional {
		if v == nil {
			return 0
		}
		return Some(*v)
	}
	a.Mark, a.LocalPref, a.MED = some(j.Mark), some(j.LocalPref), some(j.MED)
	said := 0
	for _, s := range []string{j.RedirectTarget, j.RedirectAddress, j.CopyAddress} {
		if s != "" {
			said++
		}
	}
	if said > 1 {
		bad("action: packets go one way: one of redirect_target, redirect_address and copy_address")
	}
	a.Redirect.Target = part(p, "redirect_target", j.RedirectTarget, ParseRouteTarget)
	a.Redirect.Address = part(p, "redirect_address", j.RedirectAddress, ParseHop)
	if j.CopyAddress != "" {
		a.Redirect.Address, a.Redirect.Copy = part(p, "copy_address", j.CopyAddress, ParseHop), true
	}
	a.NextHop = part(p, "next_hop", j.NextHop, ParseHop)
	a.Communities = part(p, "communities", strings.Join(j.Communities, ","), ParseCommunities)
	a.Large = part(p, "large_communities", strings.Join(j.Large, ","), ParseLargeCommunities)
	return a
}
