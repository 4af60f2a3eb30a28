package lab

import (
	"bufio"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/amooglesoft/trafficmonitor/internal/route"
)

func recorded(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile("testdata/" + name)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// The same seven rules, announced by BIRD, as each router showed them.
var (
	shown4 = []string{
		"destination 203.0.113.0/24 source 1.2.3.0/24 protocol tcp,udp destination-port 1-65,80 dscp 10 then action-0",
		"destination 203.0.113.10/32 protocol tcp tcp-flags syn&!ack length 40-60,1500 then rate-limit 4Mbps",
		"destination 203.0.113.10/32 protocol udp source-port 53 then discard",
		"destination 203.0.113.7/32 fragment is-fragment,first-fragment&!last-fragment then discard",
		"destination 203.0.113.8/32 protocol icmp icmp-type 8 icmp-code 0-4 tcp-flags !ack,syn then action-0",
	}
	shown6 = []string{
		"destination 2001:db8:113::10/128 protocol tcp tcp-flags syn&!ack then discard",
		"destination 2001:db8:113::11/128 source 2001:db8::/32 protocol udp source-port 53 length 1001-1999 dscp 3 fragment is-fragment then action-0",
	}
)

func texts(routes []FlowRoute) []string {
	out := make([]string, len(routes))
	for i, r := range routes {
		out[i] = r.Route.String()
	}
	slices.Sort(out)
	return out
}

func TestReadRouters(t *testing.T) {
	for _, c := range []struct {
		file        string
		family      route.Family
		parse       func(string, route.Family) ([]FlowRoute, error)
		want        []string
		unreachable bool
	}{
		{"bird-2.0.12-flow4.txt", route.IPv4, parseBIRDAnswer, shown4, false},
		{"bird-2.0.12-flow6.txt", route.IPv6, parseBIRDAnswer, shown6, false},
		{"bird-2.0.12-flow4-unreachable.txt", route.IPv4, parseBIRDAnswer, shown4, true},
		{"frr-8.4.4-flow4.txt", route.IPv4, parseFRRFlow, shown4, false},
		{"frr-8.4.4-flow6.txt", route.IPv6, parseFRRFlow, shown6, false},
	} {
		t.Run(c.file, func(t *testing.T) {
			got, err := c.parse(recorded(t, c.file), c.family)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(c.want, texts(got)); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
			for _, r := range got {
				if r.Unreachable != c.unreachable || !r.Best || r.Raw == "" {
					t.Errorf("%q: unreachable %v, best %v, raw %q", r.Route, r.Unreachable, r.Best, r.Raw)
				}
			}
		})
	}
}

// parseBIRDAnswer takes the recorded bytes of the control socket.
func parseBIRDAnswer(raw string, f route.Family) ([]FlowRoute, error) {
	r := bufio.NewReader(strings.NewReader(raw))
	if _, err := readBIRD(r); err != nil { // the greeting
		return nil, err
	}
	text, err := readBIRD(r)
	if err != nil {
		return nil, err
	}
	return parseBIRDFlow(text, f)
}

func TestReadTwoPaths(t *testing.T) {
	const text = "Table flowtab4:\n" +
		"flow4 { dst 203.0.113.10/32; }  [a 17:52:30.192 from 10.66.0.1] * (100) [AS65000i]\n" +
		"\tType: BGP univ\n\tBGP.ext_community: (rt, 1, 2) (generic, 0x800c0000, 0x447a0000)\n" +
		"                                [b 2026-11-22 17:52:30 from 10.66.0.2] (100) [AS65000i]\n" +
		"\tType: BGP univ\n"
	got, err := parseBIRDFlow(text, route.IPv4)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"destination 203.0.113.10/32 then action-0", "destination 203.0.113.10/32 then rate-limit 1kpps"}
	if diff := cmp.Diff(want, texts(got)); diff != "" || !got[0].Best || got[1].Best || got[1].From != netip.MustParseAddr("10.66.0.2") {
		t.Errorf("(-want +got)\n%s\n%+v", diff, got)
	}
}

// What is not understood must not be taken for "no rule", or for a wider rule than it is.
func TestReadRefusesWhatItDoesNotUnderstand(t *testing.T) {
	const tail = "  [spk 17:52:30.192 from 10.66.0.1] * (100) [AS65000i]\n"
	for _, text := range []string{
		"flow4 { dst 203.0.113.10/32; label 0x3/0x3; }" + tail,
		"flow4 { dst 203.0.113.10/32; sport 99999; }" + tail,
		"flow4 { dst 203.0.113.10/32; sport 53-54; }" + tail,
		"flow4 { dst 203.0.113.10/32; sport > 10 && < 5; }" + tail,
		"flow4 { dst 2001:db8::/32; }" + tail,
		"flow4 { dst 203.0.113.10/32; tcp flags 0x2; }" + tail,
		"flow4 { dst 203.0.113.10/32; tcp flags !0x12/0x12; }" + tail,
		"flow4 { dst 203.0.113.10/32; tcp flags 0x2/0x2 && !0x2/0x2; }" + tail,
		"flow4 { dst 203.0.113.10/32; fragment tiny; }" + tail,
		"flow4 { dst 203.0.113.10/32;" + tail,
		"flow4 { dst 203.0.113.10/32; } something new\n",
		"flow4 { dst 203.0.113.10/32; }" + tail + "\tBGP.ext_community: (generic, 0x80060000, 0x7fc00000)\n",
		"10.0.0.0/8 unicast\n",
		"\tType: BGP univ\n",
	} {
		if got, err := parseBIRDFlow(text, route.IPv4); err == nil {
			t.Errorf("BIRD's %q was read as %v", text, texts(got))
		}
	}
	const head = "BGP flowspec entry: (flags 0x418)\n"
	for _, text := range []string{
		"\tIP Protocol = 6 \n",
		head + "\tFlow Label = 6 \n",
		head + "\tIP Protocol ~ 6 \n",
		head + "\tIP Protocol = 6 = 7\n",
		head + "\tTCP Flags = 2,&x\n",
		head + "\tFS:rate nan\n",
		"% Unknown command\n",
	} {
		if got, err := parseFRRFlow(text, route.IPv6); err == nil {
			t.Errorf("FRR's %q was read as %v", text, texts(got))
		}
	}
	if got, err := parseBlackholes("unreachable default\n", []string{"bird"}, nil); err == nil {
		t.Errorf("read as %v", got)
	}
}

func TestReadEmpty(t *testing.T) {
	if got, err := parseBIRDFlow("Table flowtab4:\n", route.IPv4); err != nil || len(got) != 0 {
		t.Error(got, err)
	}
	if got, err := parseFRRFlow("No BGP prefixes displayed, 0 exist\n", route.IPv4); err != nil || len(got) != 0 {
		t.Error(got, err)
	}
}

func TestReadSessions(t *testing.T) {
	peer := Neighbor{Name: "spk", Address: netip.MustParseAddr("10.66.0.1")}
	summary := recorded(t, "frr-8.4.4-summary.json")
	if err := frrEstablished(summary, []Neighbor{peer}, nil); err != nil {
		t.Error(err)
	}
	other := Neighbor{Name: "other", Address: netip.MustParseAddr("10.66.0.9")}
	if err := frrEstablished(summary, []Neighbor{peer, other}, nil); err == nil || !strings.Contains(err.Error(), "other") {
		t.Errorf("a neighbour that is not there is established: %v", err)
	}
	if err := frrEstablished(summary, []Neighbor{peer, other}, []string{"spk"}); err != nil {
		t.Error(err)
	}
	const up = "  BGP state:          Established\n  Channel ipv4\n    State:          UP\n"
	if err := birdEstablished(up); err != nil {
		t.Error(err)
	}
	for _, down := range []string{"", "  BGP state:          Active\n", up + "  Channel flow4\n    State:          DOWN\n"} {
		if birdEstablished(down) == nil {
			t.Errorf("%q is established", down)
		}
	}
}

func TestBlackholes(t *testing.T) {
	got, err := parseBlackholes("blackhole 192.0.2.1 proto static metric 20 \nblackhole 203.0.113.99 proto bgp metric 20 \n"+
		"blackhole 2001:db8::/48 dev lo proto bgp metric 32 pref medium\n", []string{"bgp"}, nil)
	want := []netip.Prefix{netip.MustParsePrefix("203.0.113.99/32"), netip.MustParsePrefix("2001:db8::/48")}
	if err != nil || !cmp.Equal(got, want, cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })) {
		t.Errorf("got %v, %v", got, err)
	}
}

func TestNames(t *testing.T) {
	for name, dead := range map[string]bool{
		"tm-1-victim": false, "tm-victim": false, "tm-99999999-victim": true, "tm-99999999x2-victim": true,
		"xtm-99999999-victim": false, "tm-99999999": false, "tm-0-x": false, "tm-99999999-../x": false,
	} {
		if _, got := deadLab(name); got != dead {
			t.Errorf("%s: dead is %v", name, got)
		}
	}
	if id, _ := deadLab(labID(99999999, 3) + "-" + clean("My Router.1")); id != "tm-99999999x3" {
		t.Errorf("lab %q", id)
	}
}

func TestParseBIRDFlowSpecGreeting(t *testing.T) {
	const answer = "Table flowtab4:\nflow4 { dst 203.0.113.10/32; proto 17; sport 53; }  [ctl1 09:05:37.250 from 10.3.11.1] * (100) [i]\n" +
		"\tType: BGP univ\n\tBGP.as_path: \n\tBGP.ext_community: (generic, 0x80060000, 0x47f42400)\n"
	for _, greeting := range []string{"", "BIRD 2.0.12 ready.\n", "BIRD 2.0.12 ready.\nAccess restricted\n"} {
		got, err := ParseBIRDFlowSpec(greeting+answer, route.IPv4)
		want := []string{"destination 203.0.113.10/32 protocol udp source-port 53 then rate-limit 1Mbps"}
		if diff := cmp.Diff(want, texts(got)); err != nil || diff != "" {
			t.Errorf("after %q: %v\n%s", greeting, err, diff)
		}
	}
}
