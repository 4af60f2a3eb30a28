package lab

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/amooglesoft/trafficmonitor/internal/route"
)

// AddressFamily is one of the BGP address families our routes travel in.
type AddressFamily string

// The address families.
const (
	Unicast4  AddressFamily = "ipv4-unicast"
	Unicast6  AddressFamily = "ipv6-unicast"
	FlowSpec4 AddressFamily = "ipv4-flowspec"
	FlowSpec6 AddressFamily = "ipv6-flowspec"
)

// AllFamilies returns every family.
func AllFamilies() []AddressFamily {
	return []AddressFamily{Unicast4, Unicast6, FlowSpec4, FlowSpec6}
}

// Neighbor is one BGP neighbour of a router.
type Neighbor struct {
	// Name of the neighbour: small letters and digits.
	Name string
	// Address and Port (0 means 179) the session goes to.
	Address netip.Addr
	Port    uint16
	ASN     uint32
	// Password for TCP MD5 (RFC 2385); empty means none.
	Password string
	// TTLSecurity demands a TTL of 255 (RFC 5082).
	TTLSecurity bool
	// Passive waits for the neighbour to connect.
	Passive bool
	// Families to speak; empty means all.
	Families []AddressFamily
	// Announce makes a router of the lab play the speaker: it exports to this neighbour what Announce was called with.
	Announce bool
}

func (n Neighbor) speaks(f AddressFamily) bool {
	return len(n.Families) == 0 || slices.Contains(n.Families, f)
}

// RouterConfig describes a BGP router. Received FlowSpec rules are accepted as they are; of unicast routes only those
// with the BLACKHOLE community (RFC 7999) are, and become blackhole routes of the kernel, unless AcceptAll is set.
type RouterConfig struct {
	// Name of the router's processes and logs; empty means the program's.
	Name string
	// RouterID is the BGP identifier.
	RouterID netip.Addr
	ASN      uint32
	// Local is the address sessions come from.
	Local     netip.Addr
	Neighbors []Neighbor
	// BlackholeMin4 and BlackholeMin6 are the shortest prefixes accepted as blackholes; 0 means 32 and 128.
	BlackholeMin4, BlackholeMin6 int
	// AcceptAll takes unicast routes as they come and changes nothing of them, so that the router shows what it was sent.
	AcceptAll bool
	// Validate turns FlowSpec validation (RFC 8955, section 6) on; off is what a router does for its own controller.
	Validate bool
	// Extra is added to the generated configuration as it is.
	Extra string
}

func (c RouterConfig) withDefaults(name string) RouterConfig {
	if c.Name == "" {
		c.Name = name
	}
	if c.BlackholeMin4 == 0 {
		c.BlackholeMin4 = 32
	}
	if c.BlackholeMin6 == 0 {
		c.BlackholeMin6 = 128
	}
	return c
}

// FlowRoute is a FlowSpec rule as a router shows it.
type FlowRoute struct {
	// Route is the rule. Its action has no kind when the router shows none: then what matches is let through.
	Route route.Route
	// Unreachable says that the router holds the rule invalid and does not apply it.
	Unreachable bool
	// Best says that the router prefers this path over the others of the same rule.
	Best bool
	// From is the neighbour it came from, where the router shows it.
	From netip.Addr
	// Raw is what the router printed.
	Raw string
}

// Router is a BGP router of the lab, whatever its make.
type Router interface {
	// Name of the router.
	Name() string
	// In is the namespace it runs in.
	In() *Namespace
	// WaitEstablished waits until the sessions to the named neighbours, or all, are up in every family they speak.
	WaitEstablished(ctx context.Context, neighbors ...string) error
	// FlowSpecRoutes returns the FlowSpec rules the router holds, by its own tool's account.
	FlowSpecRoutes(ctx context.Context, f route.Family) ([]FlowRoute, error)
	// FlowSpecText returns what the router's own tool prints about its FlowSpec rules.
	FlowSpecText(ctx context.Context, f route.Family) (string, error)
	// Blackholes returns the blackholes in the namespace's kernel that the router put there.
	Blackholes(ctx context.Context, f route.Family) ([]netip.Prefix, error)
	// Command passes a command to the router's own tool.
	Command(ctx context.Context, command string) (string, error)
	// Stop ends the router in good order: it tells its neighbours.
	Stop(ctx context.Context) error
	// Kill ends it as a crash does.
	Kill() error
	// Start starts it again after Stop or Kill, and waits until it answers.
	Start(ctx context.Context) error
}

// blackholes lists the kernel's blackhole routes of one of the given routing protocols, but not the ones in except.
func (n *Namespace) blackholes(ctx context.Context, f route.Family, protos []string, except ...netip.Prefix) ([]netip.Prefix, error) {
	flag := "-4"
	if f == route.IPv6 {
		flag = "-6"
	}
	text, err := n.Run(ctx, "ip", flag, "route", "show", "table", "main", "type", "blackhole")
	if err != nil {
		return nil, err
	}
	return parseBlackholes(text, protos, except)
}

// parseBlackholes reads lines such as "blackhole 203.0.113.9 proto bird metric 32".
func parseBlackholes(text string, protos []string, except []netip.Prefix) ([]netip.Prefix, error) {
	var out []netip.Prefix
	for line := range strings.Lines(text) {
		w := strings.Fields(line)
		if len(w) == 0 {
			continue
		}
		i := slices.Index(w, "proto")
		if len(w) < 2 || w[0] != "blackhole" || i < 0 || i+1 >= len(w) {
			return nil, fmt.Errorf("ip route printed %q, which is not understood", line)
		}
		if !slices.Contains(protos, w[i+1]) {
			continue
		}
		p, err := parsePrefixOrHost(w[1])
		if err != nil {
			return nil, fmt.Errorf("ip route printed %q: %w", line, err)
		}
		if !slices.Contains(except, p) {
			out = append(out, p)
		}
	}
	slices.SortFunc(out, func(a, b netip.Prefix) int { return a.Addr().Compare(b.Addr()) })
	return out, nil
}

func parsePrefixOrHost(s string) (netip.Prefix, error) {
	if strings.Contains(s, "/") {
		return netip.ParsePrefix(s)
	}
	a, err := netip.ParseAddr(s)
	if err != nil {
		return netip.Prefix{}, err
	}
	return a.Prefix(a.BitLen())
}

// WaitFlowSpec waits until the router holds exactly the given rules in a family, in any order, and returns them.
func WaitFlowSpec(ctx context.Context, r Router, f route.Family, want ...route.Route) ([]FlowRoute, error) {
	var have []FlowRoute
	err := Until(ctx, fmt.Sprintf("%d %s FlowSpec rules at %s", len(want), f, r.Name()), func(ctx context.Context) error {
		var err error
		if have, err = r.FlowSpecRoutes(ctx, f); err != nil {
			return err
		}
		return sameRoutes(have, want)
	})
	return have, err
}

func sameRoutes(have []FlowRoute, want []route.Route) error {
	texts := map[string]bool{}
	for _, h := range have {
		texts[h.Route.String()] = true
	}
	for _, w := range want {
		if !texts[w.Canonical().String()] {
			return fmt.Errorf("%q is missing; there are %d: %v", w, len(texts), texts)
		}
		delete(texts, w.Canonical().String())
	}
	if len(texts) > 0 {
		return fmt.Errorf("not expected: %v", texts)
	}
	return nil
}

// WaitBlackholes waits until the router holds exactly the given blackholes of a family.
func WaitBlackholes(ctx context.Context, r Router, f route.Family, want ...netip.Prefix) error {
	slices.SortFunc(want, func(a, b netip.Prefix) int { return a.Addr().Compare(b.Addr()) })
	return Until(ctx, fmt.Sprintf("%s blackholes %v at %s", f, want, r.Name()), func(ctx context.Context) error {
		have, err := r.Blackholes(ctx, f)
		if err != nil {
			return err
		}
		if !slices.Equal(have, want) {
			return fmt.Errorf("there are %v", have)
		}
		return nil
	})
}
