package safety

import (
	"reflect"
	"testing"

	"github.com/amooglesoft/trafficmonitor/internal/route"
	"github.com/amooglesoft/trafficmonitor/internal/route/routetest"
)

// A rule that names more than prefixes and protocol does not cut a host off, whichever component it names.
func TestEveryComponentKeepsARuleFromCuttingOff(t *testing.T) {
	routetest.Components(t, func(field string, m route.Match) {
		e := &entry{Entry: &Entry{Route: route.Route{Match: m, Action: route.Action{Kind: route.Discard}}}}
		want := reflect.ValueOf(m).FieldByName(field).Kind() != reflect.Slice || field == "Protocol"
		if got := cutsOff(e); got != want {
			t.Errorf("%s: %q cuts its destination off: %v", field, m, got)
		}
	})
}

// Every component survives the wire.
func TestEveryComponentIsDecoded(t *testing.T) {
	routetest.Components(t, func(field string, m route.Match) {
		nlri, err := route.AppendFlowSpec(nil, m)
		if err == nil {
			err = CheckWire(route.IPv6, m, nlri)
		}
		if err != nil {
			t.Errorf("%s: %v", field, err)
		}
	})
}
