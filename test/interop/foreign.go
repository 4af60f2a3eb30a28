package main

import (
	"bytes"
	"context"
	"fmt"
	"slices"

	"github.com/amooglesoft/trafficmonitor/internal/lab"
	"github.com/amooglesoft/trafficmonitor/internal/lab/tap"
	"github.com/amooglesoft/trafficmonitor/internal/render"
	"github.com/amooglesoft/trafficmonitor/internal/route"
	"github.com/amooglesoft/trafficmonitor/internal/safety"
)

// The other direction: BIRD is told random rules in its own language, by our rendering, and what it puts on the wire is
// read by the decoder our safety kernel judges our own octets with. So BIRD's encoder stands beside ours, and its reading
// of the rendering beside what was meant.

// Foreign is what became of that.
type Foreign struct {
	Seed      uint64   `json:"seed"`
	Rules     int      `json:"rules"`
	Compared  int      `json:"compared"`
	Identical int      `json:"identical"` // in the very same octets as ours
	Found     []string `json:"found"`
}

// foreign has BIRD announce n random rules of a seed to another BIRD, and reads them on the link between.
func foreign(ctx context.Context, l *lab.Lab, seed uint64, n int) (f Foreign, err error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	f = Foreign{Seed: seed, Found: []string{}}
	us, err := l.Namespace("foreign-us")
	if err != nil {
		return f, err
	}
	them, err := l.Namespace("foreign-them")
	if err != nil {
		return f, err
	}
	a, b := addresses(120)
	far, _, err := l.Link(lab.End{In: us, Addresses: []string{a.String() + "/24"}}, lab.End{In: them, Addresses: []string{b.String() + "/24"}})
	if err != nil {
		return f, err
	}
	wire, err := far.BGP()
	if err != nil {
		return f, err
	}
	speaks := []lab.AddressFamily{lab.FlowSpec4, lab.FlowSpec6}
	theirs, err := them.StartBIRD(ctx, lab.RouterConfig{
		RouterID: b, ASN: 65199, Local: b,
		Neighbors: []lab.Neighbor{{Name: "reader", Address: a, ASN: ourASN, Announce: true, Families: speaks}},
	})
	if err != nil {
		return f, err
	}
	_, err = us.StartBIRD(ctx, lab.RouterConfig{
		RouterID: a, ASN: ourASN, Local: a, Neighbors: []lab.Neighbor{{Name: "bird", Address: b, ASN: 65199, Passive: true, Families: speaks}},
	})
	if err == nil {
		err = theirs.WaitEstablished(ctx, "reader")
	}
	if err != nil {
		return f, err
	}
	var rules []route.Route
	for _, c := range randomCells(seed, n) {
		r := route.Route{Match: c.Route.Match, Action: route.Action{Kind: route.Discard}}
		// What the rendering refuses, BIRD would not say as it is meant.
		if _, err := render.BIRDRoute(r); isRule(c.Route) && err == nil {
			rules = append(rules, r)
		}
	}
	f.Rules = len(rules)
	if err := theirs.Announce(ctx, rules...); err != nil {
		return f, err
	}
	var seen []foreignRule
	err = lab.Until(ctx, fmt.Sprintf("BIRD to announce %d rules", len(rules)), func(context.Context) error {
		seen = nil
		for _, u := range wire.Updates() {
			if u.SAFI != tap.SAFIFlowSpec || u.From != b {
				continue
			}
			some, err := foreignRules(u)
			if err != nil {
				return lab.GiveUp(err)
			}
			seen = append(seen, some...)
		}
		if len(seen) < len(rules) {
			return fmt.Errorf("there are %d", len(seen))
		}
		return nil
	})
	if err != nil {
		return f, err
	}
	for _, r := range rules {
		family := r.Family()
		i := slices.IndexFunc(seen, func(s foreignRule) bool { return s.family == family && s.err == nil && s.match.Equal(r.Match) })
		if i < 0 {
			f.Found = append(f.Found, fmt.Sprintf("%s: %s", r, octets(r)))
			continue
		}
		ours, err := route.AppendFlowSpec(nil, r.Match)
		if err != nil {
			return f, err
		}
		f.Compared++
		if bytes.Equal(ours, seen[i].nlri) {
			f.Identical++
		}
		seen = slices.Delete(seen, i, i+1)
	}
	if len(f.Found) > 0 {
		for _, s := range seen {
			f.Found = append(f.Found, fmt.Sprintf("BIRD sent %x, which our decoder reads as %q (%v)", s.nlri, s.match, s.err))
		}
	}
	return f, nil
}

type foreignRule struct {
	family route.Family
	nlri   []byte
	match  route.Match
	err    error // of our decoder
}

// foreignRules are the rules that an UPDATE announces.
func foreignRules(u tap.Update) (out []foreignRule, err error) {
	f := route.IPv4
	if u.AFI == 2 {
		f = route.IPv6
	}
	for b := u.Reach; len(b) > 0; {
		n := 1 + int(b[0])
		if b[0] >= 0xf0 || n > len(b) {
			return nil, fmt.Errorf("the NLRI %x is longer than one of ours may be, or cut", b)
		}
		m, err := safety.DecodeFlowSpec(f, b[:n])
		out = append(out, foreignRule{f, b[:n], m, err})
		b = b[n:]
	}
	return out, nil
}

// wrongForeign says what is wrong.
func wrongForeign(f Foreign) (out []string) {
	for i, text := range f.Found {
		if i < mostFound {
			out = append(out, fmt.Sprintf("BIRD as the announcer, seed %d: %s", f.Seed, text))
		}
	}
	return out
}
