package safety

import (
	"fmt"
	"math"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/amooglesoft/trafficmonitor/internal/route"
)

var now = time.Date(2026, 11, 22, 18, 0, 0, 0, time.UTC)

func prefixes(text string) []netip.Prefix {
	var out []netip.Prefix
	for f := range strings.FieldsSeq(text) {
		out = append(out, netip.MustParsePrefix(f))
	}
	return out
}

// limits of a small network: 192.0.2.1 is a router inside, 198.51.100.1 one outside.
func limits() Limits {
	l := Defaults()
	l.Own = prefixes("192.0.2.0/24 203.0.113.0/24 10.0.0.0/8 2001:db8::/32")
	l.RedirectTargets = []route.RouteTarget{{Form: route.TargetAS2, Global: 64500, Local: 100}, {Form: route.TargetIPv4, Global: 0xc0000209, Local: 7}}
	l.RedirectAddresses = prefixes("203.0.113.9/32 198.51.100.64/26 2001:db8:9::/64")
	l.AllowSourceBlackhole = true
	l.Never = prefixes("192.0.2.1/32 192.0.2.128/28 10.255.0.0/16 198.51.100.1/32 2001:db8:ffff::/48")
	return l
}

// entry of a route in its text form; words in front change it: "approved", "manual", "automatic", "owner=X", "answer=X", "group=X",
// "created=-10s", "deadline=1h" (from now), "nodeadline", "nocreated".
func parseEntry(t testing.TB, text string) Entry {
	t.Helper()
	e := Entry{Owners: []string{"m-1"}, Created: now.Add(-10 * time.Second), Deadline: now.Add(time.Hour)}
	for {
		word, rest, _ := strings.Cut(text, " ")
		key, value, _ := strings.Cut(word, "=")
		switch key {
		case "approved":
			e.Approved, e.Manual = true, true
		case "manual":
			e.Manual = true
		case "automatic": // approved, but by nobody
			e.Approved = true
		case "owner":
			e.Owners = strings.Split(value, ",")
		case "answer":
			e.Answers = strings.Split(value, ",")
		case "group":
			e.Groups = strings.Split(value, ",")
		case "created", "deadline":
			d, err := time.ParseDuration(value)
			if err != nil {
				t.Fatal(err)
			}
			if key == "created" {
				e.Created = now.Add(d)
			} else {
				e.Deadline = now.Add(d)
			}
		case "nodeadline":
			e.Deadline = time.Time{}
		case "nocreated":
			e.Created = time.Time{}
		default:
			if !strings.Contains(text, " then ") {
				text += " then discard"
			}
			r, err := route.Parse(text)
			if err != nil {
				t.Fatal(err)
			}
			e.Route = r
			return e
		}
		text = rest
	}
}

// rule builds what the text form refuses to say.
func rule(m route.Match) Entry {
	return Entry{
		Route:  route.Route{Match: m, Action: route.Action{Kind: route.Discard}},
		Owners: []string{"m-1"}, Created: now.Add(-10 * time.Second), Deadline: now.Add(time.Hour),
	}
}

func host(s string) netip.Prefix { return netip.MustParsePrefix(s) }

// perRoute has, for each invariant of one route, entries that break it and near misses that break nothing.
var perRoute = []struct {
	invariant Invariant
	bad, good []any // text of parseEntry, or an Entry
}{
	{
		Malformed,
		[]any{
			rule(route.Match{Destination: host("192.0.2.7/32"), Port: []route.Range{{Lo: 9, Hi: 9}, {Lo: 8, Hi: 8}}}), // not canonical
			rule(route.Match{Destination: netip.MustParsePrefix("192.0.2.7/25")}),                                     // not masked
			rule(route.Match{Destination: host("192.0.2.7/32"), Source: host("2001:db8::/48")}),                       // families
			rule(route.Match{Destination: host("192.0.2.7/32"), TCPFlags: []route.Bits{{}}}),
			rule(route.Match{Destination: host("::ffff:192.0.2.7/128")}),
			Entry{},
		},
		[]any{"destination 192.0.2.7 protocol udp port 53,80-90"},
	},
	{
		ValueRange,
		[]any{
			rule(route.Match{Destination: host("192.0.2.7/32"), DSCP: []route.Range{{Lo: 0, Hi: 64}}}),
			rule(route.Match{Destination: host("192.0.2.7/32"), Protocol: []route.Range{{Lo: 256, Hi: 256}}}),
			rule(route.Match{Destination: host("192.0.2.7/32"), ICMPType: []route.Range{{Lo: 300, Hi: 300}}}),
			rule(route.Match{Destination: host("192.0.2.7/32"), ICMPCode: []route.Range{{Lo: 0, Hi: 256}}}),
			rule(route.Match{Destination: host("192.0.2.7/32"), Length: []route.Range{{Lo: 1500, Hi: 64}}}),
			rule(route.Match{Destination: host("192.0.2.7/32"), Fragment: []route.Bits{{Set: 0x10}}}),
			rule(route.Match{Destination: host("192.0.2.7/32"), TCPFlags: []route.Bits{{Clear: 0x1000}}}),
			rule(route.Match{Destination: host("2001:db8::7/128"), FlowLabel: []route.Range{{Lo: 0, Hi: 0x100000}}}),
			rule(route.Match{Destination: host("2001:db8::7/128"), Fragment: []route.Bits{{Clear: route.DontFragment}}}),
		},
		[]any{
			"destination 192.0.2.7 protocol udp dscp 63 length 0-65535 fragment dont-fragment",
			"destination 2001:db8::7 protocol 255 icmp-type 255 icmp-code 255 length 65535 fragment last-fragment",
		},
	},
	{
		MatchAll,
		[]any{
			rule(route.Match{}),
			rule(route.Match{Protocol: []route.Range{{Lo: 17, Hi: 17}}}),
			"approved destination 0.0.0.0/0", "approved destination ::/0", "approved source 0.0.0.0/0 protocol udp",
			"approved destination 0.0.0.0/0 source 0.0.0.0/0", "approved destination 0.0.0.0/0 then blackhole", // FastNetMon #894
		},
		[]any{"destination 192.0.2.7"},
	},
	{
		OutsideOwn,
		[]any{
			"destination 198.51.100.7", "approved manual destination 198.51.100.7", "destination 2001:db9::1",
			"destination 192.0.0.0/16", "destination 203.0.112.0/23", "destination 198.51.100.7 then blackhole", "destination 0.0.0.0/1",
			"destination 198.51.100.7 source 192.0.2.7",
			"approved destination ::7/64-128", "approved destination ::8:0:0:0:7/32-128", // an offset, also with bits of ours
		},
		[]any{"destination 192.0.2.7", "manual destination 192.0.2.64/26 protocol udp source-port 53", "manual destination 2001:db8:1::/48 protocol udp source-port 53"},
	},
	{
		SourceOnly,
		[]any{
			"source 198.51.100.7 protocol udp", "automatic source 198.51.100.7 protocol udp", "manual source 198.51.100.7 protocol udp", "approved source 198.51.0.0/16 protocol udp",
			"approved source 2001:db9::/32 protocol udp", "approved source ::7/64-128 protocol udp",
		},
		[]any{"approved source 198.51.100.7 protocol udp", "approved source 198.51.100.0/24 protocol udp", "approved source 2001:db9::/48 protocol udp"},
	},
	{
		Protected,
		[]any{
			"destination 192.0.2.1 protocol udp", "automatic destination 192.0.2.1 protocol udp", "manual destination 192.0.2.1 protocol udp", "destination 192.0.2.128/28 protocol udp",
			"destination 192.0.2.135 protocol udp", "destination 192.0.2.0/24 protocol udp source-port 53", "destination 2001:db8:ffff::1 protocol udp",
			"destination 192.0.2.7 source 198.51.100.1 protocol udp", "destination 192.0.2.7 source 198.51.100.0/24 protocol udp",
			"destination 192.0.2.1 then blackhole", "manual source 198.51.100.1 then source-blackhole",
			"destination 2001:db8::7 source ::5/64-128 protocol udp", "destination 2001:db8::7 source 0:0:ff:0::/40-64 protocol udp", // what the offset leaves is protected
		},
		[]any{
			"destination 2001:db8::7 source 0:0:fe::/40-64 protocol udp",
			"approved destination 192.0.2.1 protocol udp", "destination 192.0.2.2 protocol udp", "destination 192.0.2.144 protocol udp",
			"approved destination 192.0.2.7 source 198.51.100.1 protocol icmp", "approved destination 192.0.2.1 protocol tcp source-port 80 destination-port 0-178",
		},
	},
	{
		BGP,
		[]any{
			"destination 192.0.2.7 port 179", "destination 192.0.2.7 protocol tcp destination-port 179", "destination 192.0.2.7 protocol tcp source-port 179",
			"destination 192.0.2.7 protocol 0-255 source-port 1-1023", "approved manual destination 192.0.2.7 protocol tcp,udp port 170-180",
			"destination 192.0.2.7 protocol tcp tcp-flags syn port 179 then rate-limit 1Mbps",
			// Protected space: whatever could match a session, approved or not.
			"approved destination 192.0.2.1", "approved destination 192.0.2.1 protocol tcp", "approved destination 192.0.2.1 then blackhole",
			"approved destination 192.0.2.1 protocol tcp source-port 1024-65535", "approved destination 192.0.2.1 protocol tcp destination-port 40000",
			"approved destination 192.0.2.1 protocol tcp port 50000", "approved destination 192.0.2.1 protocol tcp tcp-flags syn",
			"approved destination 192.0.2.7 source 198.51.100.1", "approved destination 2001:db8:ffff::1 protocol 0-10",
			// Without a destination: every router.
			"approved source 203.0.113.7", "approved source 203.0.113.7 protocol tcp", "approved source 203.0.113.7 protocol tcp port 0-178,180-65535",
		},
		[]any{
			"destination 192.0.2.7", "destination 192.0.2.7 protocol tcp", "destination 192.0.2.7 protocol udp port 179",
			"destination 192.0.2.7 protocol tcp port 178,180", "destination 192.0.2.7 then blackhole",
			"destination 192.0.2.7 protocol tcp source-port 1024-65535",
			"approved destination 192.0.2.1 protocol tcp source-port 80", "approved destination 192.0.2.1 protocol tcp destination-port 22 source-port 180-65535",
			"approved destination 192.0.2.1 protocol tcp port 22,80", "approved source 203.0.113.7 protocol 0-5,7-255",
			"approved source 203.0.113.7 protocol tcp source-port 443",
		},
	},
	{
		BlackholeWidth,
		[]any{
			"destination 192.0.2.64/31 then blackhole", "automatic destination 192.0.2.64/31 then blackhole", "manual destination 192.0.2.64/31 then blackhole", "destination 2001:db8:0:1::/64 then blackhole",
			"approved destination 10.1.0.0/23 then blackhole", "approved destination 2001:db8::/47 then blackhole",
		},
		[]any{
			"destination 192.0.2.64 then blackhole", "destination 2001:db8::1 then blackhole", "manual destination 10.1.0.0/23 source-port 53 then discard",
			"approved destination 10.1.0.0/24 then blackhole", "approved destination 2001:db8::/48 then blackhole",
		},
	},
	{
		SourceBlackhole,
		[]any{
			"approved source 192.0.2.7 then source-blackhole", "approved source 198.51.100.8/31 then source-blackhole", "approved source 2001:db8:5::1 then source-blackhole",
			"approved source 2001:db9::/64 then source-blackhole",
		},
		[]any{"approved source 198.51.100.7 then source-blackhole", "approved source 2001:db9::7 then source-blackhole communities 64500:666"},
	},
	{
		RedirectTarget,
		[]any{
			"approved destination 192.0.2.7 protocol udp then redirect 64500:101", "manual destination 192.0.2.7 protocol udp then redirect 64500L:100",
			"manual destination 192.0.2.7 protocol udp then redirect 0.0.251.244:100", "manual destination 192.0.2.7 protocol udp then redirect 192.0.2.9:8",
			"manual destination 192.0.2.7 protocol udp then redirect 203.0.113.8", "manual destination 192.0.2.7 protocol udp then rate-limit 1Mbps copy 203.0.113.10",
			"approved destination 192.0.2.7 then blackhole next-hop 192.0.2.9", "manual destination 2001:db8::7 then redirect 2001:db8:9:1::1",
		},
		[]any{
			"manual destination 192.0.2.7 protocol udp then redirect 64500:100", "manual destination 192.0.2.7 protocol udp then redirect 192.0.2.9:7",
			"manual destination 192.0.2.7 protocol udp then redirect 203.0.113.9", "manual destination 192.0.2.7 then blackhole next-hop 198.51.100.65",
			"manual destination 2001:db8::7 then copy 2001:db8:9::5",
		},
	},
	{
		AutomaticAction,
		[]any{
			"destination 192.0.2.7 protocol udp then discard sample", "automatic destination 192.0.2.7 protocol udp then accept", "destination 192.0.2.7 protocol udp then mark 8",
			"destination 192.0.2.7 protocol udp then rate-limit 1Mbps redirect 64500:100", "destination 192.0.2.7 then blackhole communities 64500:1",
		},
		[]any{
			"destination 192.0.2.7 protocol udp then discard", "destination 192.0.2.7 protocol udp then rate-limit 1Mbps", "destination 192.0.2.7 then blackhole",
			"manual destination 192.0.2.7 protocol udp then mark 8 sample continue",
		},
	},
	{
		AutomaticWidth,
		[]any{
			"destination 192.0.2.64/31 protocol udp source-port 53", "automatic destination 192.0.2.0/28 protocol udp source-port 53",
			"destination 2001:db8:0:1::/64 protocol tcp tcp-flags syn&!ack then rate-limit 1Mbps", "destination 192.0.2.64/31 then blackhole",
		},
		[]any{
			"destination 192.0.2.64 protocol udp source-port 53", "destination 2001:db8::1 protocol udp", "manual destination 192.0.2.64/31 protocol udp source-port 53",
			"manual destination 2001:db8:0:1::/64 protocol udp source-port 53",
		},
	},
	{
		EncodedSize,
		[]any{"destination 192.0.2.7 protocol udp source-port " + list(78)},
		[]any{"destination 192.0.2.7 protocol udp source-port " + list(76), "destination 192.0.2.7 protocol udp source-port 1024-65535"},
	},
	{
		Deadline,
		[]any{"nodeadline destination 192.0.2.7", "deadline=0s destination 192.0.2.7", "approved deadline=-1ns destination 192.0.2.7"},
		[]any{"deadline=1ns destination 192.0.2.7"},
	},
	{
		MaxAge,
		[]any{
			"created=-1s deadline=24h destination 192.0.2.7", "approved created=-1s deadline=24h destination 192.0.2.7", "nocreated destination 192.0.2.7",
			"created=61s destination 192.0.2.7", "created=-24h deadline=1ns destination 192.0.2.7",
		},
		[]any{"created=0s deadline=24h destination 192.0.2.7", "created=-23h deadline=1h destination 192.0.2.7", "created=60s destination 192.0.2.7"},
	},
}

// The words of limits, each of which lifts what it names and nothing else.
func TestLimitsOfActions(t *testing.T) {
	refused := func(l Limits, text string) (out []Invariant) {
		for _, v := range Check(now, l, []Entry{parseEntry(t, text)}) {
			out = append(out, v.Invariant)
		}
		return out
	}
	l := limits()
	l.AllowSourceBlackhole = false
	if got := refused(l, "approved source 198.51.100.7 then source-blackhole"); !slices.Equal(got, []Invariant{SourceBlackhole}) {
		t.Errorf("a source blackhole where none is allowed: %v", got)
	}
	l = limits()
	l.RedirectTargets, l.RedirectAddresses = nil, nil
	for _, text := range []string{"then redirect 64500:100", "then redirect 203.0.113.9", "then copy 203.0.113.9", "then blackhole next-hop 203.0.113.9"} {
		if got := refused(l, "approved destination 192.0.2.7 "+text); !slices.Equal(got, []Invariant{RedirectTarget}) {
			t.Errorf("%s where nothing is listed: %v", text, got)
		}
	}
	for text, want := range map[string]string{
		"manual destination 192.0.2.7 then redirect 64500:1":  "among the redirect targets (64500:100, 192.0.2.9:7)",
		"manual destination 192.0.2.7 then copy 203.0.113.10": "among the redirect addresses (203.0.113.9/32, 198.51.100.64/26, 2001:db8:9::/64)",
	} {
		if v := Check(now, limits(), []Entry{parseEntry(t, text)}); len(v) != 1 || !strings.Contains(v[0].Reason, want) {
			t.Errorf("%s: %v, want %q", text, v, want)
		}
		if v := Check(now, l, []Entry{parseEntry(t, text)}); len(v) != 1 || !strings.Contains(v[0].Reason, "(none is configured)") {
			t.Errorf("%s where nothing is listed: %v", text, v)
		}
	}
	words := map[string]string{ // one action for each word that automation may be allowed
		"discard": "discard", "rate-limit": "rate-limit 1Mbps", "blackhole": "blackhole", "accept": "accept", "sample": "accept sample",
		"continue": "sample continue", "mark": "mark 0", "redirect": "redirect 64500:100", "copy": "copy 203.0.113.9",
		"next-hop": "blackhole next-hop 203.0.113.9", "communities": "discard communities no-export", "large-communities": "discard large-communities 1:1:1",
		"local-pref": "discard local-pref 0", "med": "blackhole med 0",
	}
	for _, w := range route.ActionWords() {
		if w == "source-blackhole" {
			continue // has no destination: SourceOnly never lets automation
		}
		text := "destination 192.0.2.7 then " + words[w]
		l := limits()
		l.AutomaticActions = slices.DeleteFunc(route.ActionWords(), func(x string) bool { return x == w })
		if got := refused(l, text); !slices.Equal(got, []Invariant{AutomaticAction}) {
			t.Errorf("automation says %q and may not say %s: %v", text, w, got)
		}
		l.AutomaticActions = route.ActionWords()
		if got := refused(l, text); len(got) > 0 {
			t.Errorf("automation says %q and may say all: %v", text, got)
		}
		l.AutomaticActions = nil
		if got := refused(l, "manual "+text); len(got) > 0 {
			t.Errorf("a person says %q: %v", text, got)
		}
	}
	l = limits()
	l.AutomaticActions = route.ActionWords()
	if got := refused(l, "source 198.51.100.7 then source-blackhole"); !slices.Equal(got, []Invariant{SourceOnly}) {
		t.Errorf("automation blackholes a source: %v", got)
	}
	if err := l.Validate(); err == nil || !strings.Contains(err.Error(), "never automatic") {
		t.Errorf("source-blackhole among the automatic actions: %v", err)
	}
	l.AutomaticActions, l.RedirectAddresses = []string{"drop"}, []netip.Prefix{netip.MustParsePrefix("192.0.2.1/24")}
	if err := l.Validate(); err == nil || !strings.Contains(err.Error(), `"drop" is not one of`) || !strings.Contains(err.Error(), "redirect addresses") {
		t.Errorf("wrong limits of actions: %v", err)
	}
}

// A source blackhole and a blackhole of one prefix are one route to a router.
func TestSourceAndDestinationBlackholesConflict(t *testing.T) {
	d, s := parseEntry(t, "destination 192.0.2.7 then blackhole").Route, parseEntry(t, "source 192.0.2.7 then source-blackhole").Route
	if d.ID() != s.ID() || d.Action == s.Action {
		t.Errorf("%q and %q are one unicast route: %q, %q", d, s, d.ID(), s.ID())
	}
	// Two attributes for one prefix are a conflict, too.
	set := []Entry{parseEntry(t, "created=-9s destination 192.0.2.7 then blackhole"), parseEntry(t, "manual created=-8s destination 192.0.2.7 then blackhole med 5")}
	if v := Check(now, limits(), set); len(v) != 1 || v[0].Index != 1 || v[0].Invariant != Conflict {
		t.Errorf("got %v", v)
	}
}

// list returns n ports that do not merge and take two octets each.
func list(n int) string {
	var ports []string
	for i := range n {
		ports = append(ports, fmt.Sprint(1000+2*i))
	}
	return strings.Join(ports, ",")
}

func toEntry(t testing.TB, x any) Entry {
	t.Helper()
	if e, ok := x.(Entry); ok {
		return e
	}
	return parseEntry(t, x.(string))
}

func TestInvariants(t *testing.T) {
	for _, tc := range perRoute {
		t.Run(string(tc.invariant), func(t *testing.T) {
			for _, x := range tc.bad {
				e := toEntry(t, x)
				got := Check(now, limits(), []Entry{e})
				if !slices.ContainsFunc(got, func(v Violation) bool { return v.Invariant == tc.invariant }) {
					t.Errorf("%v: got %v, want %s", x, got, tc.invariant)
				}
				for _, v := range got {
					if v.Index != 0 || v.Route != e.Route.String() || v.Reason == "" {
						t.Errorf("%v: incomplete violation %+v", x, v)
					}
				}
			}
			for _, x := range tc.good {
				if got := Check(now, limits(), []Entry{toEntry(t, x)}); len(got) > 0 {
					t.Errorf("%v: got %v, want nothing", x, got)
				}
			}
		})
	}
	// The encoder cannot be made to lie from outside, so the check is handed what a lying one would write.
	t.Run(string(Encoding), func(t *testing.T) {
		for _, nlri := range [][]byte{nil, {0}, {0, 0}, octets(t, "01 20c0000208"), octets(t, "01 18c00002")} {
			e := parseEntry(t, "destination 192.0.2.7")
			if reason := checkOne(Encoding, &entry{Entry: &e, Made: &Made{nlri: nlri}}); reason == "" {
				t.Errorf("%x for %s was let out", nlri, e.Route)
			}
		}
	})
	for _, tc := range perSet {
		t.Run(string(tc.invariant), func(t *testing.T) {
			l := limits()
			if tc.limit != nil {
				tc.limit(&l)
			}
			var set []Entry
			var want []string
			for _, text := range tc.set {
				text, refused := strings.CutPrefix(text, "! ")
				e := parseEntry(t, text)
				if d := e.Route.Match.Destination; tc.invariant != AutomaticWidth && d.IsValid() && !d.IsSingleIP() {
					e.Manual = true // what only a person may ask for
				}
				set = append(set, e)
				if refused {
					want = append(want, set[len(set)-1].Route.String())
				}
			}
			slices.Sort(want)
			for turn := range 7 { // the order of the set must not matter
				if turn == 1 {
					slices.Reverse(set)
				} else if turn > 1 {
					i, j := turn%len(set), turn*5%len(set)
					set[i], set[j] = set[j], set[i]
				}
				var got []string
				for _, v := range Check(now, l, set) {
					if v.Invariant != tc.invariant {
						t.Errorf("%s broke %s: %s", v.Route, v.Invariant, v.Reason)
					}
					got = append(got, v.Route)
				}
				slices.Sort(got)
				if !slices.Equal(got, want) {
					t.Errorf("refused:\n %s\nwant:\n %s", strings.Join(got, "\n "), strings.Join(want, "\n "))
				}
			}
		})
	}
}

func checkOne(i Invariant, e *entry) string {
	for _, c := range checks {
		if c.invariant == i {
			return c.broken(&kernel{now: now, limits: limits()}, e)
		}
	}
	return ""
}

// perSet has a set for each invariant over the set; "!" marks what must be refused.
var perSet = []struct {
	invariant Invariant
	limit     func(*Limits)
	set       []string
}{
	{Conflict, nil, []string{
		"created=-3s destination 192.0.2.7 protocol udp then rate-limit 1Mbps",
		"! created=-2s destination 192.0.2.7 protocol udp then discard",
		"created=-1s owner=m-2 destination 192.0.2.7 protocol udp then rate-limit 1Mbps", // the same route, wanted twice
		"created=-1s destination 192.0.2.7 protocol udp source-port 53 then discard",
		"created=-1s destination 192.0.2.7 then blackhole", // another table
		"created=-1s destination 192.0.2.7 then discard",
	}},
	{QuotaRules, func(l *Limits) { l.MaxRules = 3 }, []string{
		"created=-4s destination 192.0.2.7", "created=-3s destination 192.0.2.8", "created=-1s owner=m-2 destination 192.0.2.8",
		"created=-2s destination 192.0.2.10", "! created=-2s destination 192.0.2.9", // alike in age: by text, "…10" before "…9"
		"! manual created=-1s destination 192.0.2.11", "! approved created=-1s destination 192.0.2.12 then blackhole",
	}},
	{QuotaNew, func(l *Limits) { l.MaxNewPerMinute = 2 }, []string{
		"created=-200s destination 192.0.2.7", "created=-190s destination 192.0.2.8", "! created=-180s destination 192.0.2.9",
		"created=-140s destination 192.0.2.10", // a minute after the first
		"created=-130s destination 192.0.2.11", "! created=-130s destination 192.0.2.12",
		"created=-1s destination 192.0.2.13", "created=-1s owner=m-2 destination 192.0.2.13",
	}},
	{QuotaTarget, func(l *Limits) { l.MaxRulesPerTarget = 2 }, []string{
		"created=-3s destination 192.0.2.7 protocol udp source-port 53", "created=-2s destination 192.0.2.7 protocol udp source-port 123",
		"! created=-1s destination 192.0.2.7 then blackhole", "created=-1s destination 192.0.2.8",
		"created=-1s owner=m-2 destination 192.0.2.7 protocol udp source-port 53",
		"approved created=-3s source 203.0.113.7 protocol udp", "approved created=-2s source 203.0.113.7 protocol icmp",
		"! approved created=-1s source 203.0.113.7 protocol gre",
	}},
	{QuotaOwner, func(l *Limits) { l.MaxRulesPerOwner = 2 }, []string{
		"owner=m-1 created=-5s destination 192.0.2.7", "owner=m-1,m-2,m-1 created=-4s destination 192.0.2.8", "! owner=m-1 created=-3s destination 192.0.2.9",
		"owner=m-2 created=-3s destination 192.0.2.10", "! owner=m-3,m-2 created=-2s destination 192.0.2.11", "owner=m-3 created=-1s destination 192.0.2.12",
		"owner= created=-3s destination 192.0.2.13", "owner= created=-2s destination 192.0.2.14", "! owner= created=-1s destination 192.0.2.15",
	}},
	{QuotaAnswer, func(l *Limits) { l.MaxRulesPerResponse = 2 }, []string{
		"answer=a created=-9s destination 192.0.2.7", "answer=a,b,a created=-8s destination 192.0.2.8", "! answer=a created=-7s destination 192.0.2.9",
		"answer=a owner=m-2 created=-6s destination 192.0.2.8", // the same route, wanted twice
		"answer=b created=-6s destination 192.0.2.10", "! answer=c,b created=-5s destination 192.0.2.11", "answer=c created=-4s destination 192.0.2.12",
		"created=-6s destination 192.0.2.13", "created=-5s destination 192.0.2.14", "! created=-4s destination 192.0.2.15", // of automation, which does not say
		"manual created=-3s destination 192.0.2.16", "manual created=-2s destination 192.0.2.17", "manual created=-1s destination 192.0.2.18",
	}},
	{QuotaGroup, func(l *Limits) { l.MaxRulesPerGroup = 2 }, []string{
		"group=dns,all created=-9s destination 192.0.2.7", "group=all created=-8s destination 192.0.2.8", "! group=all created=-7s destination 192.0.2.9",
		"! manual group=dns,all created=-6s destination 192.0.2.10", "group=dns,dns created=-5s destination 192.0.2.11", "! group=dns created=-4s destination 192.0.2.12",
		"group=all owner=m-2 created=-3s destination 192.0.2.8", // the same route, wanted twice
		"created=-3s destination 192.0.2.13", "created=-2s destination 192.0.2.14", "created=-1s destination 192.0.2.15",
	}},
	{QuotaOwnShare, func(l *Limits) {
		l.Own = prefixes("192.0.2.0/24 192.0.2.0/24 192.0.2.128/25 203.0.113.0/24 2001:db8::/46")
		l.Never, l.MaxOwnShare, l.AllowLargeShare = nil, 0.5, true
	}, []string{
		"created=-9s destination 192.0.2.0/25",                                        // 128 of 512
		"created=-8s destination 192.0.2.7 then blackhole",                            // inside it: nothing more
		"created=-7s destination 192.0.2.0/24 source-port 53",                         // ports: not cut off
		"created=-7s destination 203.0.113.0/24 then rate-limit 10Mbps",               // something remains
		"! created=-5s destination 192.0.2.128/25 protocol udp then rate-limit 9Mbps", // a trickle: 320
		"! created=-5s destination 192.0.2.128/25 protocol tcp then rate-limit 999pps",
		"created=-5s destination 192.0.2.128/25 protocol icmp then rate-limit 1kpps",
		"created=-6s destination 203.0.113.0/26 protocol udp",    // 192
		"! created=-5s destination 192.0.2.0/24",                 // 320
		"created=-4s destination 203.0.113.64/26",                // 256: exactly half
		"! created=-3s destination 203.0.113.200 then blackhole", // 257
		"created=-2s destination 203.0.113.0/25",                 // covers two quarters: nothing more
		"created=-1s destination 192.0.2.9 source 198.51.100.9",  // inside
		"created=-3s destination 2001:db8::/47 protocol udp",     // the other family counts apart
		"! created=-2s destination 2001:db8:2::/48",
	}},
}

func TestEveryInvariantHasATest(t *testing.T) {
	tested := []Invariant{Encoding}
	for _, tc := range perRoute {
		tested = append(tested, tc.invariant)
	}
	for _, tc := range perSet {
		tested = append(tested, tc.invariant)
	}
	all := Invariants()
	slices.Sort(tested)
	slices.Sort(all)
	if !slices.Equal(tested, all) {
		t.Errorf("tested: %v\nexist: %v", tested, all)
	}
	for _, i := range all {
		if strings.Trim(string(i), "abcdefghijklmnopqrstuvwxyz_") != "" {
			t.Errorf("%q does not make a metric label", i)
		}
	}
}

// What an entry of its own refuses takes no room: a storm of unsafe rules starves no safe one.
func TestRefusedEntriesCountForNothing(t *testing.T) {
	l := limits()
	l.MaxRules, l.MaxNewPerMinute, l.MaxRulesPerOwner = 1, 1, 1
	set := []Entry{parseEntry(t, "created=-9s destination 198.51.100.7"), parseEntry(t, "created=-1s destination 192.0.2.7")}
	got := Check(now, l, set)
	if len(got) != 1 || got[0].Index != 0 || got[0].Invariant != OutsideOwn {
		t.Errorf("got %v", got)
	}
}

// Asking again later must not let the rest of a storm through.
func TestStormStaysRefused(t *testing.T) {
	l := limits()
	l.MaxNewPerMinute = 10
	var set []Entry
	for i := range 100 {
		set = append(set, parseEntry(t, fmt.Sprintf("owner=m-%d created=-%dms destination 10.0.0.%d source-port 53", i, 10*i, i)))
	}
	for later := time.Duration(0); later < 3*time.Minute; later += 10 * time.Second {
		if n := len(Check(now.Add(later), l, set)); n != 90 {
			t.Fatalf("after %s %d of 100 are refused, want 90", later, n)
		}
	}
}

func TestZeroLimitsRefuseEverything(t *testing.T) {
	for _, x := range []string{"destination 192.0.2.7", "approved destination 192.0.2.7 then blackhole", "approved source 203.0.113.7 protocol udp"} {
		if got := Check(now, Limits{}, []Entry{parseEntry(t, x)}); len(got) == 0 {
			t.Errorf("%s passes without limits", x)
		}
	}
	// A floor nobody validated counts as a host.
	l := limits()
	l.BlackholeMinLength4, l.SourceMinLength6 = 0, 0
	for _, x := range []string{"approved destination 10.1.1.0/24 then blackhole", "approved source 2001:db9::/127 protocol udp"} {
		if got := Check(now, l, []Entry{parseEntry(t, x)}); len(got) == 0 {
			t.Errorf("%s passes with a floor of 0", x)
		}
	}
}

func TestAdvice(t *testing.T) {
	for _, tc := range []struct{ entry, want string }{
		{"destination 192.0.2.64/30 then blackhole", "automation may not do this"},
		{"manual destination 192.0.2.64/30 then blackhole", "have an approver announce it"},
		{"destination 203.0.112.0/23", "wider than our prefix 203.0.113.0/24"},
		{"destination 192.0.2.1 protocol udp", "never list"},
		{"destination 192.0.2.7 protocol tcp port 1-1000", "1-178,180-65535"},
	} {
		got := Check(now, limits(), []Entry{parseEntry(t, tc.entry)})
		if len(got) == 0 || !strings.Contains(got[0].Reason, tc.want) {
			t.Errorf("%s: got %v, want advice with %q", tc.entry, got, tc.want)
		}
	}
}

func TestLimitsValidate(t *testing.T) {
	if err := limits().Validate(); err != nil {
		t.Fatalf("the defaults with own prefixes: %v", err)
	}
	for _, tc := range []struct {
		name string
		set  func(*Limits)
		want string
	}{
		{"zero", func(l *Limits) { *l = Limits{} }, "own prefixes: none given"},
		{"own: invalid", func(l *Limits) { l.Own = append(l.Own, netip.Prefix{}) }, "not a prefix"},
		{"own: unmasked", func(l *Limits) { l.Own = prefixes("192.0.2.7/24") }, "beyond its length"},
		{"own: mapped", func(l *Limits) { l.Own = prefixes("::ffff:192.0.2.0/120") }, "IPv4-mapped"},
		{"own: everything", func(l *Limits) { l.Own = prefixes("0.0.0.0/0") }, "shorter than /8"},
		{"own: all of IPv6", func(l *Limits) { l.Own = prefixes("2000::/3") }, "shorter than /16"},
		{"never: unmasked", func(l *Limits) { l.Never = prefixes("192.0.2.7/24") }, "never prefixes"},
		{"rules: 0", func(l *Limits) { l.MaxRules = 0 }, "max rules: 0"},
		{"rules: too many", func(l *Limits) { l.MaxRules = 1e6 }, "max rules"},
		{"new: 0", func(l *Limits) { l.MaxNewPerMinute = 0 }, "max new rules per minute"},
		{"target: -1", func(l *Limits) { l.MaxRulesPerTarget = -1 }, "max rules per target"},
		{"owner: 0", func(l *Limits) { l.MaxRulesPerOwner = 0 }, "max rules per owner"},
		{"response: 0", func(l *Limits) { l.MaxRulesPerResponse = 0 }, "max rules per response: 0"},
		{"group: 0", func(l *Limits) { l.MaxRulesPerGroup = 0 }, "max rules per group: 0"},
		{"age: 0", func(l *Limits) { l.MaxAge = 0 }, "max age"},
		{"age: a year, allowed", func(l *Limits) { l.MaxAge, l.AllowLongAge = 365*24*time.Hour, true }, "max age"},
		{"age: ten days", func(l *Limits) { l.MaxAge = 240 * time.Hour }, "allow long age"},
		{"blackhole: /20", func(l *Limits) { l.BlackholeMinLength4 = 20 }, "allow wide blackhole"},
		{"blackhole: /8, allowed", func(l *Limits) { l.BlackholeMinLength4, l.AllowWideBlackhole = 8, true }, "outside 16 to 32"},
		{"blackhole: /33", func(l *Limits) { l.BlackholeMinLength4 = 33 }, "outside 16 to 32"},
		{"blackhole: /40 of IPv6", func(l *Limits) { l.BlackholeMinLength6 = 40 }, "allow wide blackhole"},
		{"source: /12", func(l *Limits) { l.SourceMinLength4 = 12 }, "allow wide blackhole"},
		{"source: 0", func(l *Limits) { l.SourceMinLength6 = 0 }, "source min length (IPv6)"},
		{"share: 0", func(l *Limits) { l.MaxOwnShare = 0 }, "max own share"},
		{"share: NaN", func(l *Limits) { l.MaxOwnShare = math.NaN() }, "max own share"},
		{"share: half", func(l *Limits) { l.MaxOwnShare = 0.5 }, "allow large share"},
	} {
		l := limits()
		tc.set(&l)
		if err := l.Validate(); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v, want an error with %q", tc.name, err, tc.want)
		}
	}
	l := limits()
	l.BlackholeMinLength4, l.SourceMinLength4, l.AllowWideBlackhole = 16, 8, true
	l.MaxAge, l.AllowLongAge = 30*24*time.Hour, true
	l.MaxOwnShare, l.AllowLargeShare = 1, true
	if err := l.Validate(); err != nil {
		t.Errorf("dangerous and said so: %v", err)
	}
}

// The bounds themselves are allowed.
func TestLimitsBounds(t *testing.T) {
	for name, set := range map[string]func(*Limits){
		"least": func(l *Limits) {
			l.MaxRules, l.MaxNewPerMinute, l.MaxRulesPerTarget, l.MaxRulesPerOwner = 1, 1, 1, 1
			l.MaxRulesPerResponse, l.MaxRulesPerGroup = 1, 1
			l.MaxAge = time.Second
			l.BlackholeMinLength4, l.BlackholeMinLength6, l.SourceMinLength4, l.SourceMinLength6 = 24, 48, 16, 32
		},
		"most without a key": func(l *Limits) {
			l.MaxRules, l.MaxNewPerMinute, l.MaxRulesPerTarget, l.MaxRulesPerOwner = maxRules, maxRules, maxRules, maxRules
			l.MaxRulesPerResponse, l.MaxRulesPerGroup = maxRules, maxRules
			l.MaxAge = 7 * 24 * time.Hour
			l.BlackholeMinLength4, l.BlackholeMinLength6, l.SourceMinLength4, l.SourceMinLength6 = 32, 128, 32, 128
			l.MaxOwnShare = 0.25
		},
		"most with every key": func(l *Limits) {
			l.AllowLongAge, l.AllowWideBlackhole, l.AllowLargeShare = true, true, true
			l.MaxAge = 90 * 24 * time.Hour
			l.BlackholeMinLength4, l.BlackholeMinLength6, l.SourceMinLength4, l.SourceMinLength6 = 16, 32, 8, 16
			l.MaxOwnShare = 1
			l.Own = prefixes("10.0.0.0/8 2001::/16")
		},
	} {
		l := limits()
		set(&l)
		if err := l.Validate(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}

	l := limits()
	l.MaxOwnShare, l.BlackholeMinLength4, l.BlackholeMinLength6 = 1, 16, 128
	for text, refused := range map[string]bool{
		"approved destination 10.1.0.0/16 then blackhole":     false,
		"approved destination 10.2.0.0/15 then blackhole":     true,
		"approved destination 2001:db8::1 then blackhole":     false,
		"approved destination 2001:db8::2/127 then blackhole": true,
	} {
		if got := Check(now, l, []Entry{parseEntry(t, text)}); (len(got) > 0) != refused {
			t.Errorf("%s: got %v, refused should be %v", text, got, refused)
		}
	}
}

func BenchmarkCheck(b *testing.B) {
	for _, c := range []struct {
		n    int
		made bool
	}{{100, false}, {10_000, false}, {10_000, true}} {
		n := c.n
		b.Run(fmt.Sprintf("routes=%d/made=%v", n, c.made), func(b *testing.B) {
			l := limits()
			l.MaxRules, l.MaxNewPerMinute, l.MaxRulesPerResponse, l.MaxRulesPerGroup = n, n, n, n
			for i := range 1000 {
				l.Own = append(l.Own, netip.PrefixFrom(netip.AddrFrom4([4]byte{100, byte(i >> 8), byte(i), 0}), 24))
			}
			set := make([]Entry, n)
			for i := range set {
				text := fmt.Sprintf("owner=m-%d destination 10.%d.%d.7 protocol udp source-port 53", i, i>>8, i&255)
				if i%4 == 0 {
					text = fmt.Sprintf("owner=m-%d destination 10.%d.%d.7 then blackhole", i, i>>8, i&255)
				}
				set[i] = parseEntry(b, "answer=responses[0] group=customers "+text)
				if c.made {
					set[i].Made = Make(set[i].Route)
				}
			}
			for b.Loop() {
				if v := Check(now, l, set); len(v) > 0 {
					b.Fatal(v[0])
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*n), "ns/route")
		})
	}
}
