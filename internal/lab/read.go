package lab

import (
	"strings"

	"github.com/amooglesoft/trafficmonitor/internal/route"
)

// ParseFRRFlowSpec reads what FRR's vtysh prints for "show bgp ipv4 flowspec detail", or ipv6. What cannot be said in the
// terms of package route is an error.
func ParseFRRFlowSpec(text string, f route.Family) ([]FlowRoute, error) { return parseFRRFlow(text, f) }

// ParseBIRDFlowSpec reads what birdc prints for "show route table TABLE all" of a flow4 or flow6 table, its greeting
// included. What cannot be said in the terms of package route is an error.
func ParseBIRDFlowSpec(text string, f route.Family) ([]FlowRoute, error) {
	if line, rest, _ := strings.Cut(text, "\n"); strings.HasPrefix(line, "BIRD ") && strings.HasSuffix(line, " ready.") {
		text = strings.TrimPrefix(rest, "Access restricted\n")
	}
	return parseBIRDFlow(text, f)
}
