package safety

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/amooglesoft/trafficmonitor/internal/route"
)

// redirectTarget keeps traffic from being sent anywhere but where the operator wrote down that it may go. The next hop of a
// blackhole sends it just as a redirect does.
func redirectTarget(k *kernel, e *entry) string {
	a := e.Route.Action
	if t := a.Redirect.Target; t.Form != 0 && !slices.Contains(k.limits.RedirectTargets, t) {
		return fmt.Sprintf("redirect to %s, which is not among the redirect targets (%s): correct it, or add it to the configuration if traffic may go there",
			t, written(k.limits.RedirectTargets))
	}
	for _, hop := range []struct {
		what    string
		address netip.Addr
	}{{"redirect to", a.Redirect.Address}, {"next-hop", a.NextHop}} {
		allowed := func(p netip.Prefix) bool { return p.Contains(hop.address) }
		if hop.address.IsValid() && !slices.ContainsFunc(k.limits.RedirectAddresses, allowed) {
			return fmt.Sprintf("%s %s, which is not among the redirect addresses (%s): correct it, or add it to the configuration if traffic may go there",
				hop.what, hop.address, written(k.limits.RedirectAddresses))
		}
	}
	return ""
}

func written[T fmt.Stringer](all []T) string {
	if len(all) == 0 {
		return "none is configured"
	}
	var parts []string
	for _, x := range all {
		parts = append(parts, x.String())
	}
	return strings.Join(parts, ", ")
}

// automaticAction lets automation do only what the operator listed.
func automaticAction(k *kernel, e *entry) string {
	if e.Manual {
		return ""
	}
	for _, word := range e.Route.Action.Words() {
		if !slices.Contains(k.limits.AutomaticActions, word) {
			return fmt.Sprintf("automation may not say %s: it may say %s; announce it by hand, or add the word to the configuration if it is meant",
				word, strings.Join(k.limits.AutomaticActions, ", "))
		}
	}
	return ""
}

// sourceBlackhole holds blackholes of sources, which take a host's traffic to all of our networks, to what they are for.
// That a person of the approver role asked for it is for SourceOnly to judge.
func sourceBlackhole(k *kernel, e *entry) string {
	s := e.source()
	if e.Route.Action.Kind != route.SourceBlackhole || !s.IsValid() {
		return ""
	}
	if !k.limits.AllowSourceBlackhole {
		return "blackholes of sources are not allowed: use a rule with a destination, or set \"allow source blackhole\" if the routers check sources (uRPF)"
	}
	if !s.IsSingleIP() {
		return fmt.Sprintf("blackhole of the source %s, not of a host: blackhole /%d, also as an approver", s, s.Addr().BitLen())
	}
	if p, ok := k.own.overlapping(s); ok {
		return fmt.Sprintf("blackhole of the source %s, which is in our own prefix %s: it would cut the host off; use a rule", s, p)
	}
	return ""
}
