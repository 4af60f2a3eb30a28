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
		"destination 192.0.2.1 source 2001:db8::/32 then discard":                     "different families",
		"destination 192.0.2.1 port 65536 then discard":                               "above 65535",
		"destination 192.0.2.1 length 99971-99985 then discard":                       "above 65535",
		"destination 192.0.2.1 dscp 64 then discard":                                  "above 63",
		"destination 192.0.2.1 protocol 256 then discard":                             "above 255",
		"destination 192.0.2.1 port 90-80 then discard":                               "ends before it begins",
		"destination 192.0.2.1 port  then discard":                                    "without a value",
		"destination 192.0.2.1 port 1 port 2 then discard":                            "stands twice",
		"destination 192.0.2.1 prot 1 then discard":                                   "not a component",
		"destination 192.0.2.1 tcp-flags syn&!syn then discard":                       "set and clear",
		"destination 2001:db8::1 fragment dont-fragment then discard":                 "does not exist in IPv6",
		"destination 192.0.2.1 flow-label 1 then discard":                             "IPv6 only",
		"destination 2001:db8::1 flow-label 1048576 then discard":                     "above 1048575",
		"destination 192.0.2.1/8-32 then discard":                                     "IPv6 prefix only",
		"destination ::1:0:0:0/80-80 then discard":                                    "not below the length",
		"destination 2001:db8::1/0-64 then discard":                                   "from 1 to 127",
		"destination 2001:db8::1/64-128 then discard":                                 "bits before its offset",
		"destination ::1/64-96 then discard":                                          "bits beyond its length",
		"destination ::1/64- then discard":                                            "not a prefix",
		"destination 192.0.2.1 tcp-flags bit12 then discard":                          "is not one of",
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
