package route

import (
	"strings"
	"testing"
)

func TestTextRoundTrip(t *testing.T) {
	for _, tc := range []struct{ in, want string }{
		{"destination 192.0.2.1 protocol udp source-port 53 then discard", "destination 192.0.2.1/32 protocol udp source-port 53 then discard"},
		{"source-port 80,53 destination 192.0.2.1/32 then discard", "destination 192.0.2.1/32 source-port 53,80 then discard"},
		{"destination 192.0.2.1/32 source-port 53-60,61,55 then discard", "destination 192.0.2.1/32 source-port 53-61 then discard"},
		{"destination 2001:db8::1 protocol 6 tcp-flags syn&!ack then rate-limit 1000kbps", "destination 2001:db8::1/128 protocol tcp tcp-flags syn&!ack then rate-limit 1Mbps"},
		{"destination 192.0.2.0/24 length 1000-1500 dscp 0 fragment is-fragment,first-fragment then rate-limit 500 pps", "destination 192.0.2.0/24 length 1000-1500 dscp 0 fragment is-fragment,first-fragment then rate-limit 500pps"},
		{"destination 192.0.2.1/32 tcp-flags syn icmp-type 3 length 64 then discard", "destination 192.0.2.1/32 icmp-type 3 tcp-flags syn length 64 then discard"},
		{"source ::1:1234:5678:9800:0/60-104 destination 2001:db8::1 flow-label 5-7,6,1048575 then discard", "destination 2001:db8::1/128 source ::1:1234:5678:9800:0/60-104 flow-label 5-7,1048575 then discard"},
		{"destination 192.0.2.1/32 tcp-flags ae&bit11&!bit9,!bit10 then discard", "destination 192.0.2.1/32 tcp-flags !bit10,ae&!bit9&bit11 then discard"},
		{"destination 192.0.2.1/32 then blackhole", "destination 192.0.2.1/32 then blackhole"},
		{"source 192.0.2.1 then source-blackhole", "source 192.0.2.1/32 then source-blackhole"},
		{"destination 192.0.2.1 then accept", "destination 192.0.2.1/32 then accept"},
		{"destination 192.0.2.1 then accept mark 0 continue", "destination 192.0.2.1/32 then continue mark 0"},
		{"destination 192.0.2.1 then redirect 192.0.2.9 mark 63 sample rate-limit 8 Mbps", "destination 192.0.2.1/32 then rate-limit 8Mbps sample mark 63 redirect 192.0.2.9"},
		{"destination 192.0.2.1 then copy 192.0.2.9 accept", "destination 192.0.2.1/32 then copy 192.0.2.9"},
		{"destination 192.0.2.1 then redirect 64500:4294967295", "destination 192.0.2.1/32 then redirect 64500:4294967295"},
		{"destination 192.0.2.1 then redirect 64500L:1", "destination 192.0.2.1/32 then redirect 64500L:1"},
		{"destination 192.0.2.1 then redirect 65536L:1", "destination 192.0.2.1/32 then redirect 65536:1"},
		{"destination 192.0.2.1 then redirect 192.0.2.9:65535", "destination 192.0.2.1/32 then redirect 192.0.2.9:65535"},
		{"destination 2001:db8::1 then redirect 2001:DB8::9", "destination 2001:db8::1/128 then redirect 2001:db8::9"},
		{"destination 192.0.2.1 then med 0 blackhole local-pref 4294967295 communities no-export,65535:666,64500:1,64500:1 next-hop 192.0.2.9 large-communities 2:0:0,1:2:3", "destination 192.0.2.1/32 then blackhole next-hop 192.0.2.9 communities 64500:1,blackhole,no-export large-communities 1:2:3,2:0:0 local-pref 4294967295 med 0"},
		{"destination 192.0.2.1/32 then rate-limit 8bps", "destination 192.0.2.1/32 then rate-limit 8bps"},
	} {
		r, err := Parse(tc.in)
		if err != nil {
			t.Errorf("Parse(%q): %v", tc.in, err)
			continue
		}
		if got := r.String(); got != tc.want {
			t.Errorf("Parse(%q) = %q, want %q", tc.in, got, tc.want)
		}
		if text, id := r.TextAndID(); text != r.String() || id != r.ID() {
			t.Errorf("%q: text %q and identity %q, apart %q and %q", tc.in, text, id, r.String(), r.ID())
		}
	}
}

func TestParseRefuses(t *testing.T) {
	for in, want := range map[string]string{
		"":                                          "no action",
		"destination 192.0.2.1/32":                  "no action",
		"then discard":                              "at least one prefix",
		"destination banana then discard":           "not a prefix",
		"destination 192.0.2.1/24 then discard":     "bits beyond its length",
		"destination 192.0.2.1/33 then discard":     "not a prefix",
		"destination ::ffff:192.0.2.1 then discard": "IPv4-mapped",
		"destination fe80::1%eth0 then discard":     "zone",
		"destination 192.0.2.1 source 2001:db8::/32 then discard":        "different families",
		"destination 192.0.2.1 port 65536 then discard":                  "above 65535",
		"destination 192.0.2.1 length 99971-99985 then discard":          "above 65535",
		"destination 192.0.2.1 dscp 64 then discard":                     "above 63",
		"destination 192.0.2.1 protocol 256 then discard":                "above 255",
		"destination 192.0.2.1 port 90-80 then discard":                  "ends before it begins",
		"destination 192.0.2.1 port  then discard":                       "without a value",
		"destination 192.0.2.1 port 1 port 2 then discard":               "stands twice",
		"destination 192.0.2.1 prot 1 then discard":                      "not a component",
		"destination 192.0.2.1 tcp-flags syn&!syn then discard":          "set and clear",
		"destination 2001:db8::1 fragment dont-fragment then discard":    "does not exist in IPv6",
		"destination 192.0.2.1 flow-label 1 then discard":                "IPv6 only",
		"destination 2001:db8::1 flow-label 1048576 then discard":        "above 1048575",
		"destination 192.0.2.1/8-32 then discard":                        "IPv6 prefix only",
		"destination ::1:0:0:0/80-80 then discard":                       "not below the length",
		"destination 2001:db8::1/0-64 then discard":                      "from 1 to 127",
		"destination 2001:db8::1/64-128 then discard":                    "bits before its offset",
		"destination ::1/64-96 then discard":                             "bits beyond its length",
		"destination ::1/64- then discard":                               "not a prefix",
		"destination 192.0.2.1 tcp-flags bit12 then discard":             "is not one of",
		"destination 192.0.2.1 then sample communities":                  "not a community",
		"destination 192.0.2.1 then communities no-export":               "does not say what is to be done",
		"destination 192.0.2.1 then ":                                    "no action",
		"destination 192.0.2.1 then discard accept":                      "has one",
		"destination 192.0.2.1 then discard discard":                     "stands twice",
		"destination 192.0.2.1 then discard mark 1":                      "nothing is left",
		"destination 192.0.2.1 then discard copy 192.0.2.9":              "nothing is left",
		"destination 192.0.2.1 then discard continue":                    "nothing is left",
		"destination 192.0.2.1 then continue":                            "do nothing",
		"destination 192.0.2.1 then mark 64":                             "from 0 to 63",
		"destination 192.0.2.1 then mark":                                "from 0 to 63",
		"destination 192.0.2.1 then redirect 192.0.2.9 copy 192.0.2.9":   "one way",
		"destination 192.0.2.1 then copy 64500:1":                        "is not an address",
		"destination 192.0.2.1 then redirect 2001:db8::9":                "the rule is ipv4",
		"destination 192.0.2.1 then redirect 127.0.0.1":                  "no address of a host",
		"destination 192.0.2.1 then redirect 64500":                      "neither an address nor",
		"destination 192.0.2.1 then redirect 4200000000:65536":           "above 65535",
		"destination 192.0.2.1 then redirect 192.0.2.9:65536":            "above 65535",
		"destination 192.0.2.1 then redirect 4294967296:1":               "neither an address nor",
		"destination 192.0.2.1 then discard next-hop 192.0.2.9":          "a FlowSpec rule has none",
		"destination 192.0.2.1 then blackhole next-hop 2001:db8::9":      "the rule is ipv4",
		"destination 192.0.2.1 then blackhole next-hop ::ffff:192.0.2.9": "IPv4-mapped",
		"destination 192.0.2.1 then blackhole sample":                    "is a route, not a rule",
		"destination 192.0.2.1 then blackhole communities 1:65536":       "not a community",
		"destination 192.0.2.1 then blackhole large-communities 1:2":     "not a large community",
		"destination 192.0.2.1 then blackhole med 4294967296":            "from 0 to",
		"destination 192.0.2.1 then source-blackhole":                    "needs a source",
		"source 192.0.2.1 protocol udp then source-blackhole":            "source only",
		"destination 192.0.2.1 then blackhole communities 1:1,1:2,1:3,1:4,1:5,1:6,1:7,1:8,1:9,1:10,1:11,1:12,1:13,1:14,1:15,1:16,1:17": "more than 16",
		"destination 192.0.2.1 then drop":                                             "not known",
		"destination 192.0.2.1 then rate-limit 100":                                   "no unit",
		"destination 192.0.2.1 then rate-limit 0bps":                                  "use discard",
		"destination 192.0.2.1 then rate-limit 1bps":                                  "whole number of octets",
		"destination 192.0.2.1 then rate-limit 99999999999999999999Gbps":              "not a whole number",
		"destination 192.0.2.1 then rate-limit 18446744073709551615Gbps":              "above",
		"destination 192.0.2.1 protocol udp then blackhole":                           "destination only",
		"source 192.0.2.1 then blackhole":                                             "needs a destination",
		"destination 192.0.2.1 port " + strings.Repeat("1,", 4096) + "1 then discard": "at most 4096",
	} {
		if r, err := Parse(in); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Parse(%q) = %v, %v; want an error with %q", in, r, err, want)
		}
	}
}

func TestIdentityIsTheMatch(t *testing.T) {
	a := mustParse(t, "destination 192.0.2.1 source-port 80,53 then discard")
	b := mustParse(t, "destination 192.0.2.1 source-port 53,80 then rate-limit 1Mbps")
	c := mustParse(t, "destination 192.0.2.1 then discard")
	d := mustParse(t, "destination 192.0.2.1 then blackhole")
	if a.ID() != b.ID() {
		t.Errorf("%q and %q differ only in the action, but not in identity", a.ID(), b.ID())
	}
	if c.ID() == d.ID() {
		t.Errorf("a rule and a blackhole share the identity %q", c.ID())
	}
	if a.Equal(b) {
		t.Error("routes with different actions are equal")
	}
}

func FuzzParse(f *testing.F) {
	f.Add("destination 192.0.2.1/32 protocol udp source-port 53,80-90 then rate-limit 1Mbps")
	f.Add("destination 2001:db8::/48 source 2001:db8:1::/64 tcp-flags syn&!ack,rst fragment is-fragment then discard")
	f.Add("destination 192.0.2.1 then blackhole")
	f.Add("destination 192.0.2.1 then rate-limit 500pps sample continue mark 8 redirect 64500L:100")
	f.Add("destination 2001:db8::1 then copy 2001:db8::9 communities 64500:1,no-export large-communities 1:2:3 local-pref 5 med 6")
	f.Add("source 192.0.2.1 then source-blackhole next-hop 192.0.2.9")
	f.Add("source ::1:1234:5678:9800:0/60-104 flow-label 1-1048575 tcp-flags ae&!bit9 then discard")
	f.Fuzz(func(t *testing.T, s string) {
		r, err := Parse(s)
		if err != nil {
			return
		}
		if err := r.Validate(); err != nil {
			t.Fatalf("Parse(%q) is not valid: %v", s, err)
		}
		again, err := Parse(r.String())
		if err != nil {
			t.Fatalf("Parse(%q) reads %q, which does not parse: %v", s, r, err)
		}
		if !again.Equal(r) || again.String() != r.String() {
			t.Fatalf("%q became %q", r, again)
		}
	})
}

func mustParse(t testing.TB, s string) Route {
	t.Helper()
	r, err := Parse(s)
	if err != nil {
		t.Fatal(err)
	}
	return r
}
