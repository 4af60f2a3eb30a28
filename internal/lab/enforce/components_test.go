package enforce

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/amooglesoft/trafficmonitor/internal/render"
	"github.com/amooglesoft/trafficmonitor/internal/route"
	"github.com/amooglesoft/trafficmonitor/internal/route/routetest"
)

// No component is left out of what the kernel is told.
func TestEveryComponentIsACondition(t *testing.T) {
	routetest.Components(t, func(field string, m route.Match) {
		plain := route.Match{Destination: m.Destination}
		switch field {
		case "Destination":
			plain.Destination = netip.MustParsePrefix("2001:db8::1/128")
		case "SourceOffset", "DestinationOffset":
			plain.Source = m.Source
		}
		a, err := render.NFT(m)
		b, err2 := render.NFT(plain)
		if err != nil || err2 != nil || slices.Equal(a, b) {
			t.Errorf("%s: %q is enforced like %q: %v (%v, %v)", field, m, plain, a, err, err2)
		}
	})
}
