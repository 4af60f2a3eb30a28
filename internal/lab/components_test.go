package lab

import (
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
		if got, err := parseBIRDAction("BGP.ext_community", text); err != nil || got.String() != want {
			t.Errorf("%s is %q, %v; want %q", text, got, err, want)
		}
	}
	for _, text := range []string{"(generic, 0x80060000, 0x7fc00000)", "(unknown 0x10c, 192.0.2.9, 2)", "(generic, 0x80050000, 0x1)"} {
		if got, err := parseBIRDAction("BGP.ext_community", text); err == nil {
			t.Errorf("%s is read as %q", text, got)
		}
	}
}
