package compile

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/amooglesoft/trafficmonitor/internal/route"
	"github.com/amooglesoft/trafficmonitor/internal/signature"
	"github.com/amooglesoft/trafficmonitor/internal/traffic"
)

// Every field of a match is a component the compiler knows: what it does not see it would send to routers that cannot hold it.
func TestEveryComponentIsHandled(t *testing.T) {
	typ := reflect.TypeFor[route.Match]()
	for i := range typ.NumField() {
		f := typ.Field(i)
		var m route.Match
		v := reflect.ValueOf(&m).Elem().Field(i)
		switch f.Type {
		case reflect.TypeFor[netip.Prefix]():
			v.Set(reflect.ValueOf(netip.MustParsePrefix("192.0.2.0/24")))
		case reflect.TypeFor[[]route.Range]():
			v.Set(reflect.ValueOf([]route.Range{{Lo: 1, Hi: 1}}))
		case reflect.TypeFor[[]route.Bits]():
			v.Set(reflect.ValueOf([]route.Bits{{Set: 1}}))
		default:
			v.SetUint(1)
		}
		listed := Profile{Offsets: NoOffsets}
		if !slices.ContainsFunc(Components(), func(w string) bool { return has(&m, w) }) && !listed.unknownOffset(&m) {
			t.Errorf("route.Match.%s is not a component of this package: add it to components, so that profiles can refuse it", f.Name)
		}
	}
}

func TestShape(t *testing.T) {
	const to = "destination 192.0.2.1/32 "
	all := slices.DeleteFunc(Components(), func(w string) bool { return w == "port" })
	for _, c := range []struct {
		name    string
		p       Profile
		route   string
		want    []string // without the destination
		refused string
		widened string
	}{
		{
			"nothing to do",
			Profile{Split: 8},
			"protocol udp source-port 53 then discard",
			[]string{"protocol udp source-port 53 then discard"},
			"", "",
		},
		{
			"exclusive ports are split where both say something",
			Profile{Split: 4, Exclusive: [][2]string{{"port", "destination-port"}}},
			"protocol udp port 53,123 destination-port 50-60 then discard",
			[]string{"protocol udp destination-port 50-60 source-port 53,123 then discard", "protocol udp destination-port 53 then discard"},
			"", "",
		},
		{
			"a part that another one covers is left out",
			Profile{Split: 4, Exclusive: [][2]string{{"port", "destination-port"}}},
			"protocol udp port 53 destination-port 53 then discard",
			[]string{"protocol udp destination-port 53 then discard"},
			"", "",
		},
		{
			"exclusive ports that share none leave one rule",
			Profile{Split: 4, Exclusive: [][2]string{{"destination-port", "port"}}},
			"protocol udp port 53 destination-port 80 then discard",
			[]string{"protocol udp destination-port 80 source-port 53 then discard"},
			"", "",
		},
		{
			"a router without port",
			Profile{Name: "x", Split: 2, Components: all},
			"protocol tcp port 80 then discard",
			[]string{"protocol tcp destination-port 80 then discard", "protocol tcp source-port 80 then discard"},
			"", "",
		},
		{
			"but it may not be split",
			Profile{Name: "x", Components: all},
			"protocol tcp port 80 then discard",
			nil, "would need several rules for it, and the profile x splits none", "",
		},
		{
			"no exact split",
			Profile{Name: "x", Split: 8, Exclusive: [][2]string{{"source-port", "destination-port"}}},
			"protocol udp destination-port 80 source-port 53 then discard", nil, "does not take source-port together with destination-port (profile x)", "",
		},
		{
			"widened as allowed",
			Profile{Name: "x", Exclusive: [][2]string{{"source-port", "destination-port"}}, Widen: []string{"destination-port"}},
			"destination-port 80 source-port 53 then discard",
			[]string{"protocol tcp,udp source-port 53 then discard"},
			"",
			"destination-port 80 is not matched there: every destination-port matches",
		},
		{
			"ports are given their protocols",
			Profile{PortsNeedProtocol: true},
			"source-port 53 then discard",
			[]string{"protocol tcp,udp source-port 53 then discard"},
			"", "",
		},
		{
			"and no others",
			Profile{PortsNeedProtocol: true},
			"protocol 0-16 source-port 53 then discard",
			[]string{"protocol tcp source-port 53 then discard"},
			"", "",
		},
		{
			"ports of ICMP", Profile{PortsNeedProtocol: true}, "protocol icmp source-port 53 then discard", nil, "matches no packet", "",
		},
		{
			"values apart from ranges",
			Profile{Split: 4, Unmixed: true},
			"protocol udp source-port 53,100-200 length 1000-1500,40 then discard",
			[]string{
				"protocol udp source-port 100-200 length 1000-1500 then discard", "protocol udp source-port 100-200 length 40 then discard",
				"protocol udp source-port 53 length 1000-1500 then discard", "protocol udp source-port 53 length 40 then discard",
			},
			"", "",
		},
		{
			"too many values",
			Profile{Split: 2, MaxItems: 3},
			"source-port 1,3,5-6,8 then discard",
			[]string{"source-port 1,3 then discard", "source-port 5-6,8 then discard"},
			"", "",
		},
		{
			"far too many values",
			Profile{Name: "x", Split: 2, MaxItems: 1},
			"source-port 1,3,5 then discard",
			nil, "more than 2 rules", "",
		},
		{
			"a single range that is too long",
			Profile{Name: "x", Split: 2, MaxItems: 1},
			"source-port 1-3 then discard",
			nil, "source-port 1-3 takes 2 items in one component and the router takes at most 1", "",
		},
		{
			"an unknown component",
			Profile{Name: "x", Split: 8, Components: all[:2]},
			"dscp 10 then discard", nil,
			"does not match by dscp (profile x)", "",
		},
		{
			"nothing would be left",
			Profile{Name: "x", Components: all[:3], Widen: []string{"dscp"}},
			"dscp 10 then discard", nil,
			"widened it would hit everything", "",
		},
		{
			"flags still mean TCP",
			Profile{Name: "x", Components: all[:3], Widen: []string{"tcp-flags"}},
			"tcp-flags syn&!ack then discard",
			[]string{"protocol tcp then discard"},
			"", "tcp-flags syn&!ack is not matched there",
		},
		{
			"flags it cannot test",
			Profile{Name: "x", TCPFlags: 0x3f, Widen: []string{"tcp-flags"}},
			"protocol tcp tcp-flags syn&!ece then discard",
			[]string{"protocol tcp tcp-flags syn then discard"},
			"", "tcp-flags syn&!ece is matched there as tcp-flags syn",
		},
		{
			"flags it cannot test, refused",
			Profile{Name: "x", TCPFlags: 0x3f},
			"protocol tcp tcp-flags syn&!ece then discard",
			nil, "does not test all the flags", "",
		},
		{
			"an action it does not do",
			Profile{Name: "x", Actions: []Action{Discard}},
			"protocol udp then rate-limit 8Mbps", nil,
			"does not do rate-limit 8Mbps (profile x)", "",
		},
		{
			"a target it does not take",
			Profile{Name: "x", Targets: []Target{AS4Target}},
			"protocol udp then redirect 192.0.2.9:9", nil,
			"does not take the route target 192.0.2.9:9 (profile x): its redirect_targets lack ipv4", "",
		},
		{
			"a target it takes",
			Profile{Name: "x", Targets: []Target{AS4Target}},
			"protocol udp then redirect 64500L:9",
			[]string{"protocol udp then redirect 64500L:9"},
			"", "",
		},
		{
			"no source",
			Profile{Name: "x", Components: []string{"destination", "protocol"}, Widen: Components()[2:]},
			"source 198.51.100.0/24 protocol udp then discard", nil,
			"does not match by source (profile x)", "",
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, err := c.p.shape(parse(t, to+c.route))
			if c.refused != "" {
				if err == nil || !strings.Contains(err.Error(), c.refused) {
					t.Fatalf("got %v, %v; want it refused with %q", s.rules, err, c.refused)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if s.rules == nil {
				s.rules = []route.Route{parse(t, to+c.route)}
			}
			var got []string
			for _, r := range s.rules {
				got = append(got, strings.TrimPrefix(r.String(), to))
			}
			slices.Sort(got)
			if !slices.Equal(got, c.want) {
				t.Errorf("got  %q\nwant %q", got, c.want)
			}
			if w := strings.Join(s.widened, "; "); !strings.Contains(w, c.widened) || c.widened == "" && w != "" {
				t.Errorf("told %q, want %q", w, c.widened)
			}
		})
	}
}

// A rule that is too long for an NLRI becomes several that are not.
func TestShapeFitsAnNLRI(t *testing.T) {
	m := "destination 192.0.2.1/32 destination-port 1001"
	for i := range 299 {
		m += fmt.Sprintf(",%d", 1003+2*i)
	}
	r := parse(t, m+" then discard")
	p := Profile{Split: 8, MaxItems: 1000}
	s, err := p.shape(r)
	if err != nil {
		t.Fatal(err)
	}
	ports := 0
	for _, x := range s.rules {
		if _, err := route.AppendFlowSpec(nil, x.Match); err != nil {
			t.Error(err)
		}
		ports += len(x.Match.DestinationPort)
	}
	if len(s.rules) < 4 || ports != 300 {
		t.Errorf("%d rules with %d ports", len(s.rules), ports)
	}
	p.Split = 2
	if _, err := p.shape(r); err == nil {
		t.Error("split into more than allowed")
	}
}

// randomRoute draws from few values, so that rules and packets meet.
func randomRoute(rnd *rand.Rand) route.Route {
	ports := func() []route.Range {
		if rnd.IntN(3) > 0 {
			return nil
		}
		var rs []route.Range
		for range 1 + rnd.IntN(7) {
			lo := 2 * rnd.IntN(12)
			r := route.Range{}
			r.Lo, r.Hi = num(r.Lo, lo), num(r.Lo, lo+rnd.IntN(2)*rnd.IntN(6))
			rs = append(rs, r)
		}
		return rs
	}
	bits := func(most int) []route.Bits {
		if rnd.IntN(4) > 0 {
			return nil
		}
		var bs []route.Bits
		for range 1 + rnd.IntN(3) {
			b := route.Bits{}
			set := rnd.IntN(most)
			b.Set = num(b.Set, set)
			b.Clear = num(b.Set, rnd.IntN(most)&^set)
			if b != (route.Bits{}) {
				bs = append(bs, b)
			}
		}
		return bs
	}
	m := route.Match{Destination: netip.MustParsePrefix("192.0.2.1/32"), Protocol: ports()}
	if rnd.IntN(4) == 0 {
		m.Source = netip.MustParsePrefix("198.51.100.0/25")
	}
	m.Port, m.DestinationPort, m.SourcePort = ports(), ports(), ports()
	m.ICMPType, m.ICMPCode, m.Length, m.DSCP = ports(), ports(), ports(), ports()
	m.TCPFlags, m.Fragment = bits(1<<8), bits(1<<4)
	r := route.Route{Match: m, Action: route.Action{Kind: route.Discard}}
	if rnd.IntN(3) == 0 {
		r.Action = route.Action{Kind: route.RateBytes, Rate: 1000}
	}
	return r.Canonical()
}

func num[T ~uint8 | ~uint16 | ~uint32](_ T, n int) T { return T(n) }

func randomProfile(rnd *rand.Rand) Profile {
	p := Profile{Name: "p", MaxItems: 1 + rnd.IntN(8), Unmixed: rnd.IntN(2) == 0, PortsNeedProtocol: rnd.IntN(2) == 0, Split: 1 + rnd.IntN(60)}
	words := Components()
	if rnd.IntN(2) == 0 {
		p.Components = slices.DeleteFunc(slices.Clone(words), func(w string) bool { return w != "destination" && rnd.IntN(5) == 0 })
	}
	for range rnd.IntN(3) {
		a, b := words[2+rnd.IntN(len(words)-2)], words[3+rnd.IntN(3)]
		if a != b {
			p.Exclusive = append(p.Exclusive, [2]string{a, b})
		}
	}
	if rnd.IntN(2) == 0 {
		p.Widen = slices.DeleteFunc(slices.Clone(words[2:]), func(string) bool { return rnd.IntN(2) == 0 })
	}
	if rnd.IntN(3) == 0 {
		p.TCPFlags, p.Fragment = 0x3f, 0x6
	}
	if rnd.IntN(2) == 0 {
		p.Cost = Cost{Expand: true, Each: map[string]int{"fragment": 2, "port": 2}}
		p.Budget = Budget{Shared: rnd.IntN(300), IPv4: rnd.IntN(300)}
	}
	p.MaxRules = rnd.IntN(60)
	return p
}

func randomPacket(rnd *rand.Rand) traffic.Sample {
	s := traffic.Sample{
		Destination: netip.MustParseAddr("192.0.2.1"), Source: netip.AddrFrom4([4]byte{198, 51, 100, byte(rnd.IntN(256))}),
		Protocol: []uint8{1, 6, 17, uint8(rnd.IntN(30))}[rnd.IntN(4)], Length: uint16(rnd.IntN(30)), DSCP: uint8(rnd.IntN(30)), Fragment: uint8(rnd.IntN(16)),
	}
	later := s.Fragment&traffic.IsFragment != 0
	if (s.Protocol == 6 || s.Protocol == 17) && !later {
		s.HasPorts = true
		s.SourcePort, s.DestinationPort = uint16(rnd.IntN(30)), uint16(rnd.IntN(30))
		if s.Protocol == 6 {
			s.TCPFlags = uint8(rnd.IntN(256))
		}
	}
	if s.Protocol == 1 && !later {
		s.HasICMP, s.ICMPType, s.ICMPCode = true, uint8(rnd.IntN(30)), uint8(rnd.IntN(30))
	}
	return s
}

// What a router gets for a route matches at least what the route matches and, unless it says so, nothing else. It keeps
// the destination and the action, fits the router and an NLRI. What is not placed says why.
func TestCompileKeepsTheMeaning(t *testing.T) {
	rnd := rand.New(rand.NewPCG(3, 4))
	var split, widened, refused, full, hits int
	for range 1500 {
		p := randomProfile(rnd)
		if errs := p.Check(); len(errs) > 0 {
			t.Fatal(errs)
		}
		set := make([]Entry, 1+rnd.IntN(6))
		for i := range set {
			set[i] = Entry{Route: randomRoute(rnd), Manual: rnd.IntN(3) == 0, Created: t0}
		}
		slices.SortFunc(set, func(a, b Entry) int { return strings.Compare(a.Route.ID(), b.Route.ID()) })
		set = slices.CompactFunc(set, func(a, b Entry) bool { return a.Route.ID() == b.Route.ID() })
		res := Compile(set, p)
		cost := 0
		ids := map[string]route.Route{}
		for i, d := range res.Decisions {
			if d.Outcome != Placed {
				if d.Reason == "" || d.Rules != nil || d.Widened != nil {
					t.Fatalf("%+v says nothing of use", d)
				}
				if d.Outcome == NotPlaced {
					full++
				} else {
					refused++
				}
				continue
			}
			if d.Rules == nil {
				d.Rules = []route.Route{set[i].Route}
			}
			if len(d.Rules) == 0 || len(d.Rules) > max(p.Split, 1) {
				t.Fatalf("%d rules, split %d", len(d.Rules), p.Split)
			}
			for _, r := range d.Rules {
				checkRule(t, &p, set[i].Route, r)
				if _, known := ids[r.ID()]; !known {
					cost += p.Cost.Of(r.Match)
				} else if ids[r.ID()].Action != r.Action {
					t.Fatalf("two actions for %s", r.Match)
				}
				ids[r.ID()] = r
			}
			if len(d.Rules) > 1 {
				split++
			}
			if d.Widened != nil {
				widened++
			}
			for range 60 {
				s := randomPacket(rnd)
				want := signature.Matches(set[i].Route.Match, &s)
				got := slices.ContainsFunc(d.Rules, func(r route.Route) bool { return signature.Matches(r.Match, &s) })
				if want {
					hits++
				}
				if want && !got || got && !want && d.Widened == nil {
					t.Fatalf("packet %+v: the route matches: %v, its rules: %v\nroute %s\nrules %v\nprofile %+v", s, want, got, set[i].Route, d.Rules, p)
				}
			}
		}
		if len(ids) != res.Rules || cost != res.IPv4Cost+res.IPv6Cost {
			t.Fatalf("%d rules and %d entries, told are %d and %d", len(ids), cost, res.Rules, res.IPv4Cost+res.IPv6Cost)
		}
		if p.MaxRules > 0 && res.Rules > p.MaxRules || p.Budget.Shared > 0 && cost > p.Budget.Shared || p.Budget.IPv4 > 0 && cost > p.Budget.IPv4 {
			t.Fatalf("%d rules and %d entries do not fit %+v", res.Rules, cost, p)
		}
		again := slices.Clone(set)
		rnd.Shuffle(len(again), func(i, j int) { again[i], again[j] = again[j], again[i] })
		if a, b := said(set, res), said(again, Compile(again, p)); !slices.Equal(a, b) {
			t.Fatalf("the order of the set decides:\n%s\n%s", strings.Join(a, "\n"), strings.Join(b, "\n"))
		}
	}
	t.Logf("%d split, %d widened, %d refused, %d without room, %d packets matched", split, widened, refused, full, hits)
	if split < 100 || widened < 100 || refused < 100 || full < 100 || hits < 100 {
		t.Error("the test draws too few of some kind to show anything")
	}
}

func checkRule(t *testing.T, p *Profile, wanted, r route.Route) {
	t.Helper()
	if err := r.Validate(); err != nil {
		t.Fatalf("%s: %v", r, err)
	}
	if !r.Canonical().Equal(r) || r.Action != wanted.Action || r.Match.Destination != wanted.Match.Destination || r.Match.Source != wanted.Match.Source {
		t.Fatalf("%q is not how to say %q", r, wanted)
	}
	if b, err := route.AppendFlowSpec(nil, r.Match); err != nil || len(b) > 1+route.MaxNLRI {
		t.Fatalf("%d octets, %v", len(b), err)
	}
	for i := range components {
		c := &components[i]
		if n := c.items(&r.Match); n > p.maxItems(c.word) || n > 0 && !p.takes(c.word) {
			t.Fatalf("%q does not fit %+v", r, p)
		}
	}
	for _, x := range p.Exclusive {
		if has(&r.Match, x[0]) && has(&r.Match, x[1]) {
			t.Fatalf("%q holds %v", r, x)
		}
	}
	if p.PortsNeedProtocol && len(r.Match.Port)+len(r.Match.DestinationPort)+len(r.Match.SourcePort) > 0 && p.takes("protocol") {
		for _, x := range r.Match.Protocol {
			if x.Lo != x.Hi || x.Lo != 6 && x.Lo != 17 {
				t.Fatalf("%q has ports of other protocols", r)
			}
		}
	}
}

// said is what became of each entry, in an order of its own.
func said(set []Entry, res Result) []string {
	var out []string
	for i, d := range res.Decisions {
		out = append(out, fmt.Sprint(set[i].Route, set[i].Manual, d))
	}
	slices.Sort(out)
	return out
}

// Room for 100 entries and 500 wanted rules: the 100 most valuable get it, the others say why not.
func TestCompileRoom(t *testing.T) {
	var set []Entry
	for i := range 500 {
		action := []string{"discard", "rate-limit 8Mbps"}[i%2]
		e := Entry{Route: parse(t, fmt.Sprintf("destination 192.0.2.%d/32 protocol udp source-port %d then %s", i%250, 1000+i, action)), Created: t0.Add(-hours(i))}
		e.Manual = i%25 == 0
		set = append(set, e)
	}
	p := Profile{Name: "small", Cost: Cost{Expand: true}, Budget: Budget{Shared: 100}}
	res := Compile(set, p)
	if len(res.Accepted) != 100 || res.IPv4Cost != 100 {
		t.Fatalf("%d placed in %d entries", len(res.Accepted), res.IPv4Cost)
	}
	// All 20 of engineers, then the 80 oldest discards: the newest of these was made before each that is not placed.
	manual, newest := 0, t0.Add(-hours(1000))
	for _, i := range res.Accepted {
		switch e := set[i]; {
		case e.Manual:
			manual++
		case e.Route.Action.Kind != route.Discard:
			t.Errorf("%s is placed before discards", e.Route)
		case e.Created.After(newest):
			newest = e.Created
		}
	}
	if manual != 20 {
		t.Errorf("%d of 20 routes of engineers are placed", manual)
	}
	for i, d := range res.Decisions {
		if d.Outcome == Placed {
			continue
		}
		if d.Outcome != NotPlaced || !strings.Contains(d.Reason, "the router has 100 entries for rules (max_cost), 100 are taken by more valuable ones, and this one needs 1") {
			t.Errorf("%+v", d)
		}
		if set[i].Route.Action.Kind == route.Discard && set[i].Created.Before(newest) {
			t.Errorf("%s is older than one that is placed", set[i].Route)
		}
	}
}

func TestCompileFamiliesHaveTheirOwnRoom(t *testing.T) {
	set := []Entry{
		{Route: parse(t, "destination 192.0.2.1/32 protocol udp length 257-65535 then discard"), Created: t0},
		{Route: parse(t, "destination 2001:db8::1/128 protocol udp length 257-65535 then discard"), Created: t0},
		{Route: parse(t, "destination 192.0.2.2/32 then blackhole"), Created: t0},
	}
	for _, c := range []struct {
		b    Budget
		want string
	}{
		{Budget{}, "PPP"},
		{Budget{IPv4: 15, IPv6: 14}, "P-P"},
		{Budget{Shared: 29}, "P-P"},
		{Budget{Shared: 30}, "PPP"},
		{Budget{IPv4: 14}, "-PP"}, // a blackhole takes no entry
	} {
		res := Compile(set, Profile{Cost: Cost{Expand: true}, Budget: c.b})
		got := ""
		for _, d := range res.Decisions {
			got += map[Outcome]string{Placed: "P", NotPlaced: "-"}[d.Outcome]
		}
		if got != c.want {
			t.Errorf("%+v: %s, want %s", c.b, got, c.want)
		}
	}
}

// Two routes that a router would hold as one rule: with one action they share it, with two the more valuable has it.
func TestCompileSharesRules(t *testing.T) {
	p := Profile{Name: "x", Split: 2, Exclusive: [][2]string{{"port", "source-port"}}, MaxRules: 2}
	both := parse(t, "destination 192.0.2.1/32 protocol udp port 53,80 source-port 53-60 then discard") // a part of it: source 53, any destination
	same := parse(t, "destination 192.0.2.1/32 protocol udp source-port 53 then discard")
	other := parse(t, "destination 192.0.2.1/32 protocol udp source-port 53 then rate-limit 8Mbps")
	res := Compile([]Entry{{Route: both}, {Route: same}}, p)
	if len(res.Refused) != 0 || res.Rules != 2 {
		t.Errorf("%+v", res)
	}
	res = Compile([]Entry{{Route: both}, {Route: other}}, p)
	if d := res.Decisions[1]; d.Outcome != Refused || !strings.Contains(d.Reason, "takes one action for a match") {
		t.Errorf("%+v", res)
	}
}
