package lab

import (
	"fmt"
	"strings"

	"github.com/amooglesoft/trafficmonitor/internal/render"
	"github.com/amooglesoft/trafficmonitor/internal/route"
)

// birdStatic writes routes as static protocols of a BIRD configuration.
func birdStatic(routes []route.Route) (string, error) {
	text := map[string]*strings.Builder{}
	kinds := []string{"ipv4", "ipv6", "flow4", "flow6"}
	for _, k := range kinds {
		text[k] = &strings.Builder{}
	}
	for _, r := range routes {
		if err := r.Validate(); err != nil {
			return "", fmt.Errorf("announce %q: %w", r, err)
		}
		r = r.Canonical()
		kind := r.Family().String()
		if !r.IsBlackhole() {
			kind = fmt.Sprintf("flow%d", r.Family())
		}
		line, err := render.BIRDRoute(r)
		if err != nil {
			return "", fmt.Errorf("announce %q: %w", r, err)
		}
		fmt.Fprintf(text[kind], "  %s\n", line)
	}
	var out strings.Builder
	for _, k := range kinds {
		channel := k + ";"
		if strings.HasPrefix(k, "flow") {
			channel = fmt.Sprintf("%s { table flowtab%s; };", k, k[4:])
		}
		fmt.Fprintf(&out, "protocol static announce_%s {\n  %s\n%s}\n", k, channel, text[k])
	}
	return out.String(), nil
}
