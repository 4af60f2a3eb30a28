package render

import (
	"fmt"
	"strings"

	"github.com/amooglesoft/trafficmonitor/internal/route"
)

func frr(r route.Route) (string, error) {
	if !r.IsBlackhole() {
		script, err := nft(r)
		if err != nil {
			return "", err
		}
		return fmt.Sprintf("# %s\n# FRR has no configuration for FlowSpec rules: it takes them over BGP only. Nearest to it is its host's nftables\n# (nft -f FILE). To end it: nft delete table inet %s\n%s", r, nftName(r), script), nil
	}
	if err := attributes("FRR", r.Action); err != nil {
		return "", err
	}
	family, to := map[route.Family]string{route.IPv4: "ip", route.IPv6: "ipv6"}[r.Family()], "blackhole"
	if r.Action.NextHop.IsValid() {
		to = r.Action.NextHop.String()
	}
	line := fmt.Sprintf("%s route %s %s", family, r.Prefix(), to)
	return fmt.Sprintf("! %s\n%s! On this router only. To end it: no %s\n%s\n", r, uRPF(r, "!"), line, line), nil
}

// uRPF is a remark about blackholes of sources.
func uRPF(r route.Route, comment string) string {
	if r.Action.Kind != route.SourceBlackhole {
		return ""
	}
	return comment + " It drops what comes from there only where sources are checked (loose uRPF).\n"
}

func nftName(r route.Route) string { return strings.ReplaceAll(name(r), "-", "_") }

// nft writes a rule as a table of its own.
func nft(r route.Route) (string, error) {
	a := r.Action
	limit, verdict := "", "drop"
	switch {
	case a.Sample || a.Continue || a.Mark > 0 || a.Redirect != (route.Redirect{}) || a.Attributes != (route.Attributes{}):
		return "", cannot("nftables", a.String())
	case a.Kind == route.RateBytes:
		limit, verdict = fmt.Sprintf("  limit rate_limit { rate over %d bytes/second burst 3000 bytes; }\n", a.Rate), "limit name \"rate_limit\" drop"
	case a.Kind == route.RatePackets:
		limit, verdict = fmt.Sprintf("  limit rate_limit { rate over %d/second burst %d packets; }\n", a.Rate, max(a.Rate/10, 2)), "limit name \"rate_limit\" drop"
	case a.Kind != route.Discard:
		return "", cannot("nftables", a.String())
	}
	conditions, err := NFT(r.Match)
	if err != nil {
		return "", err
	}
	var b strings.Builder
	fmt.Fprintf(&b, "table inet %s {\n%s  chain rules {\n    type filter hook prerouting priority -450; policy accept;\n", nftName(r), limit)
	for _, c := range conditions {
		fmt.Fprintf(&b, "    %s counter %s\n", c, verdict)
	}
	b.WriteString("  }\n}\n")
	return b.String(), nil
}
