package config

import (
	"slices"

	"github.com/amooglesoft/trafficmonitor/internal/document"
	"github.com/amooglesoft/trafficmonitor/internal/route"
)

// automaticActions are the words automation may be allowed. A blackhole of a source is none: an approver asks for each.
func automaticActions() []string {
	return slices.DeleteFunc(route.ActionWords(), func(w string) bool { return w == route.SourceBlackhole.String() })
}

func targetCodec() document.Codec[route.RouteTarget] {
	return document.Codec[route.RouteTarget]{Type: "route target such as 64500:100", Parse: route.ParseRouteTarget, Format: route.RouteTarget.String}
}
