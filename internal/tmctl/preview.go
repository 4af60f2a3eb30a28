package tmctl

import (
	"fmt"
	"strings"

	tmv1 "github.com/amooglesoft/trafficmonitor/api/trafficmonitor/v1"
)

// previewText says what a route would hit, and what each router would get for it.
func previewText(p *tmv1.Preview) string {
	if p == nil {
		return ""
	}
	var b strings.Builder
	if p.GetSamples() == 0 {
		b.WriteString("What it hits of the destination's normal traffic is not known: there are no samples of that.\n")
	} else {
		fmt.Fprintf(&b, "It hits at most %.2f %% of the destination's normal traffic, by %d samples.\n", 100*p.GetCollateral(), p.GetSamples())
	}
	if len(p.GetPeers()) == 0 {
		return b.String() + "\n"
	}
	var t table
	t.row("PEER", "PROFILE", "ENTRIES", "GETS")
	for _, x := range p.GetPeers() {
		name, kind, cost := x.GetPeer(), x.GetProfile(), fmt.Sprint(x.GetCost())
		if x.GetReason() != "" {
			t.row(name, kind, "-", "nothing: "+x.GetReason())
			continue
		}
		for _, rule := range x.GetRules() {
			t.row(name, kind, cost, rule)
			name, kind, cost = "", "", ""
		}
		for _, w := range x.GetWidened() {
			t.row("", "", "", "hits more than was asked for: "+w)
		}
	}
	return b.String() + t.String() + "\n"
}
