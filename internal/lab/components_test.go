package lab

import (
	"testing"

	"github.com/amooglesoft/trafficmonitor/internal/route"
	"github.com/amooglesoft/trafficmonitor/internal/route/routetest"
)

// Every component of a rule is written as BIRD reads it, and read as BIRD writes it.
func TestEveryComponentAsBIRDSaysIt(t *testing.T) {
	routetest.Components(t, func(field string, m route.Match) {
		text := birdMatch(m, route.IPv6)
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
