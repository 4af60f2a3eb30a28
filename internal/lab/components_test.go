package lab

import (
	"errors"
	"strings"
	"testing"

	"github.com/amooglesoft/trafficmonitor/internal/render"
	"github.com/amooglesoft/trafficmonitor/internal/route"
	"github.com/amooglesoft/trafficmonitor/internal/route/routetest"
)

// Every component of a rule is written as BIRD reads it, and read as BIRD writes it.
func TestEveryComponentAsBIRDSaysIt(t *testing.T) {
	routetest.Components(t, func(field string, m route.Match) {
		text := render.BIRDMatch(m)
		if got, err := parseBIRDMatch(text, route.IPv6); err != nil || !got.Equal(m) {
			t.Errorf("%s: %q is written %q and read %q, %v", field, m, text, got, err)
		}
	})
}

func TestOffsetAndFlowLabelAsFRRSaysIt(t *testing.T) {
	text := "BGP flowspec entry: (flags 0x418)\n\tDestination Address 2001:db8::/32/off 0\n\tSource Address ::1/128/off 64\n\tPacket Flow Label = 6 , >= 256 , <= 511\n"
	got, err := parseFRRFlow(text, route.IPv6)
	want, err2 := route.Parse("destination 2001:db8::/32 source ::1/64-128 flow-label 6,256-511 then discard")
	if err != nil || err2 != nil || len(got) != 1 || !got[0].Route.Match.Equal(want.Match) {
		t.Errorf("%v, %v, want %q, %v", got, err, want, err2)
	}
}

func TestActionsAsBIRDSaysThem(t *testing.T) {
	for text, want := range map[string]string{
		"(generic, 0x80060000, 0x0)": "discard", "(generic, 0x80060000, 0x47f42400) (generic, 0x80070000, 0x3) (generic, 0x80090000, 0xa)": "rate-limit 1Mbps sample continue mark 10",
		"(generic, 0x8008fbf4, 0x64) (rt, 1, 2)": "redirect 64500:100", "(generic, 0x82080000, 0xfbf40064)": "redirect 64500L:100",
		"(unknown 0x10c, 192.0.2.9, 0)": "redirect 192.0.2.9", "(unknown 0x10c, 192.0.2.9, 1)": "copy 192.0.2.9",
	} {
		ec, err := parseBIRDCommunities(text)
		got, err2 := actionOf(ec, nil)
		if err := errors.Join(err, err2); err != nil || got.String() != want {
			t.Errorf("%s is %q, %v; want %q", text, got, err, want)
		}
	}
	for _, text := range []string{"(generic, 0x80060000, 0x7fc00000)", "(unknown 0x10c, 192.0.2.9, 2)", "(generic, 0x80050000, 0x1)"} {
		ec, err := parseBIRDCommunities(text)
		if got, err2 := actionOf(ec, nil); err == nil && err2 == nil {
			t.Errorf("%s is read as %q", text, got)
		}
	}
}

// Of an action in two attributes, neither hides the other.
func TestActionInTwoAttributesAsBIRDSaysIt(t *testing.T) {
	text := "flow6 { dst 2001:db8::1/128; }  [spk 17:47:54.048 from 10.66.0.1] * (100) [AS65000i]\n" +
		"\tBGP.ext_community: (generic, 0x80060000, 0x47f42400)\n" +
		"\tBGP.19 [t]: 00 0c 3f ff f0 00 00 00 00 00 00 00 00 00 00 00 00 09 00 01\n"
	got, err := parseBIRDFlow(text, route.IPv6)
	if want := "destination 2001:db8::1/128 then rate-limit 1Mbps copy 3fff:f000::9"; err != nil || len(got) != 1 || got[0].Route.String() != want {
		t.Errorf("%v, %v; want %s", got, err, want)
	}
}

// What FRR does not know stands behind what it knows.
func TestUnknownActionAsFRRSaysIt(t *testing.T) {
	head := "BGP flowspec entry: (flags 0x418)\n\tDestination Address 192.0.2.1/32\n\t"
	for line, want := range map[string]string{
		"FS:marking 11 UNK:128, 12": "accept mark 11", "FS:rate 125000.000000 UNK:0, 12": "rate-limit 1Mbps",
		"FS:redirect VRF RT:64500:100 UNK:128, 12": "redirect 64500:100", "NH:192.0.2.9:1 UNK:128, 12": "copy 192.0.2.9",
	} {
		want, err := route.ParseAction(strings.TrimPrefix(want, "accept "))
		got, err2 := parseFRRFlow(head+line+"\n", route.IPv4)
		if err := errors.Join(err, err2); err != nil || len(got) != 1 || got[0].Route.Action != want {
			t.Errorf("%s is %v, %v; want %v", line, got, err, want)
		}
	}
}
