package probe

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/amooglesoft/trafficmonitor/internal/profile"
	"github.com/amooglesoft/trafficmonitor/internal/route"
)

func answer(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func shown(r Reading) (out []string) {
	for _, x := range r.Rules {
		s := fmt.Sprintf("%s: %s", x.Match, x.State)
		if x.HasPackets {
			s += fmt.Sprintf(" %d packets", x.Packets)
		}
		if x.HasOctets {
			s += fmt.Sprintf(" %d octets", x.Octets)
		}
		out = append(out, s)
	}
	return out
}

func TestAnswers(t *testing.T) {
	for _, c := range []struct {
		file, parser string
		family       route.Family
		want         []string
		unread       int
		first        string
	}{
		{"frr-8.4.4-flow4.txt", "frr", route.IPv4, []string{
			"destination 203.0.113.10/32 protocol tcp tcp-flags syn&!ack length 40-60,1500: not installed",
			"destination 203.0.113.10/32 protocol udp source-port 53: not installed",
			"destination 203.0.113.7/32 fragment is-fragment,first-fragment&!last-fragment: not installed",
			"destination 203.0.113.0/24 source 1.2.3.0/24 protocol tcp,udp destination-port 1-65,80 dscp 10: not installed",
			"destination 203.0.113.8/32 protocol icmp icmp-type 8 icmp-code 0-4 tcp-flags !ack,syn: not installed",
		}, 0, ""},
		{"frr-8.4.4-flow6.txt", "frr", route.IPv6, []string{
			"destination 2001:db8:113::11/128 source 2001:db8::/32 protocol udp source-port 53 length 1001-1999 dscp 3 fragment is-fragment: not installed",
			"destination 2001:db8:113::10/128 protocol tcp tcp-flags syn&!ack: not installed",
		}, 0, ""},
		{"frr-installed.txt", "frr", route.IPv4, []string{"destination 198.51.100.7/32 protocol udp destination-port 50-90: installed"}, 0, ""},
		{"frr-sets.txt", "frr", route.IPv4, []string{ // the set of two rules counts for neither
			"destination 192.0.2.1/32 protocol udp source-port 100-200: installed 7 packets 700 octets",
			"destination 192.0.2.1/32 protocol udp source-port 100-200: not installed",
			"destination 192.0.2.1/32 protocol udp source-port 53: installed",
			"destination 192.0.2.2/32 protocol udp source-port 53: installed",
		}, 0, ""},
		{"junos.txt", "junos", route.IPv4, []string{
			"destination 203.0.113.7/32 protocol udp source-port 53: installed 6780 packets 395784 octets",
			"destination 198.51.100.128/25 protocol udp destination-port 1026-65499 source-port 1026-65499: installed 204410643 packets 213018385651 octets",
			"destination 203.0.113.9/32 source 192.0.2.0/24 protocol tcp destination-port 40,50,70-80 length 180: installed 0 packets 0 octets",
			"destination 203.0.113.8/32 protocol tcp port 80: installed",
		}, 1, "tcp-flag:18"},
		{"ios-xr.txt", "ios-xr", route.IPv4, []string{
			"destination 203.0.113.7/32 protocol udp source-port 53,123: installed 1376 packets 63296 octets",
			"destination 203.0.113.8/32 source 198.51.100.0/24 protocol tcp destination-port 442-445 tcp-flags syn: unknown 0 packets 0 octets",
		}, 1, "TCPFlags:~0x18"},
		{"arista-eos.txt", "arista-eos", route.IPv4, []string{
			"destination 203.0.113.7/32 protocol udp destination-port 743: installed 100 packets 230 octets",
			"destination 203.0.113.8/32 source 198.51.100.0/24 protocol tcp: not installed 0 packets 0 octets",
		}, 1, "FRAG:2"},
		{"nokia-sros.txt", "nokia-sros", route.IPv4, []string{
			"destination 203.0.113.0/24 source 198.51.100.31/32 protocol tcp destination-port 3128,8081-8087 source-port 1025-65535: installed 12 packets",
			"destination 203.0.113.7/32 protocol udp source-port 53: unknown 0 packets",
		}, 1, "entry 256"},
	} {
		t.Run(c.file, func(t *testing.T) {
			r, err := Parse(c.parser, c.family, answer(t, c.file))
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(c.want, shown(r)); d != "" {
				t.Error(d)
			}
			if r.Unread != c.unread || !strings.Contains(r.First, c.first) {
				t.Errorf("%d unread, the first %s", r.Unread, r.First)
			}
			for _, x := range r.Rules {
				if x.State != Installed && x.Why == "" {
					t.Errorf("%s is %s without a reason", x.Match, x.State)
				}
			}
		})
	}
}

// No rules is an answer; something else than the command's output is none.
func TestNoAnswer(t *testing.T) {
	for parser, none := range map[string]string{
		"frr":        "No BGP prefixes displayed, 0 exist\n",
		"arista-eos": "Flow specification rules for VRF default\nConfigured on: Ethernet1\n",
		"ios-xr":     "Sat Nov 28 12:00:00.000 UTC\n\nAFI: IPv4\n",
		"junos":      "\nFilter: __flowspec_default_inet__\n",
		"nokia-sros": "IP Filter\nFilter Id           : fSpec-0\n",
	} {
		if r, err := Parse(parser, route.IPv4, []byte(none)); err != nil || len(r.Rules) != 0 || r.Unread != 0 {
			t.Errorf("%s: %+v %v", parser, r, err)
		}
		for _, wrong := range []string{"", "% Unknown command.\n", "\x00\xff", "ssh: connect to host edge-1 port 22: Connection refused\r\n"} {
			if _, err := Parse(parser, route.IPv4, []byte(wrong)); err == nil {
				t.Errorf("%s takes %q for an answer", parser, wrong)
			}
		}
	}
	if _, err := Parse("quagga", route.IPv4, nil); err == nil || !strings.Contains(err.Error(), "there are arista-eos") {
		t.Errorf("got %v", err)
	}
}

// Every parser a profile can name exists, and the other way round.
func TestProfilesNameParsers(t *testing.T) {
	if !slices.Equal(profile.Parsers, Parsers()) {
		t.Errorf("profiles may name %v, there are %v", profile.Parsers, Parsers())
	}
	if !slices.Equal(profile.SNMPTables, Tables()) || !slices.Equal(profile.GNMIModels, Models()) {
		t.Errorf("profiles may name %v and %v, there are %v and %v", profile.SNMPTables, profile.GNMIModels, Tables(), Models())
	}
}

// Whatever a router prints: no panic, every rule valid and canonical, and no more than there are lines.
func FuzzParse(f *testing.F) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		f.Fatal("no answers")
	}
	for i := range parsers {
		for _, file := range files {
			f.Add(uint8(i), false, answer(f, filepath.Base(file)))
		}
	}
	f.Fuzz(func(t *testing.T, which uint8, v6 bool, output []byte) {
		family := route.IPv4
		if v6 {
			family = route.IPv6
		}
		r, err := Parse(parsers[int(which)%len(parsers)].name, family, output)
		if err != nil {
			return
		}
		if n := len(r.Rules) + r.Unread; n > strings.Count(string(output), "\n")+1 {
			t.Errorf("%d rules in %d lines", n, strings.Count(string(output), "\n")+1)
		}
		for _, x := range r.Rules {
			c := route.Route{Match: x.Match, Action: route.Action{Kind: route.Discard}}
			if err := c.Validate(); err != nil || !c.Canonical().Equal(c) || c.Family() != family {
				t.Errorf("%s: %v", c, err)
			}
		}
		if len(r.First) > 4*maxQuoted+200 {
			t.Errorf("%d octets of a router's text are passed on", len(r.First))
		}
	})
}
