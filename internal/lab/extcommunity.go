package lab

import (
	"github.com/amooglesoft/trafficmonitor/internal/route"
	"github.com/amooglesoft/trafficmonitor/internal/safety"
)

// actionOf reads an action from the values of the attributes extended communities and IPv6 address specific extended
// communities; without any it has no kind.
func actionOf(ec, ec6 []byte) (route.Action, error) {
	if len(ec) == 0 && len(ec6) == 0 {
		return route.Action{}, nil
	}
	return safety.DecodeAction(ec, ec6)
}
