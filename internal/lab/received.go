package lab

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"github.com/amooglesoft/trafficmonitor/internal/route"
)

// Received is one route as a router shows what it received.
type Received struct {
	Family AddressFamily
	// Match is a FlowSpec rule's, or has a unicast route's prefix as its destination.
	Match route.Match
	// Action is that of a FlowSpec rule: without a kind where the router shows none.
	Action route.Action
	// Path is what comes with the route besides; of a FlowSpec rule some routers show nothing of it.
	Path Path
	// Unreachable says that the router holds the route invalid.
	Unreachable bool
	// From is the neighbour it came from, where the router shows it.
	From netip.Addr
	// Raw is what the router printed.
	Raw string
	// Err says what of Raw is not understood; then Match, Action and Path may be incomplete.
	Err error
}

// Path is what a router is told of a route besides what it matches and does.
type Path struct {
	NextHop     netip.Addr
	Communities []uint32       // RFC 1997, sorted
	Large       [][3]uint32    // RFC 8092, sorted
	LocalPref   route.Optional // as shown, so that it may be the router's own
	MED         route.Optional // none where the router shows none, or 0
}

// Receiver is a BGP router of the lab that shows what it received, whatever its make.
type Receiver interface {
	// Name of the router.
	Name() string
	// In is the namespace it runs in.
	In() *Namespace
	// Version is what the program says of itself.
	Version(ctx context.Context) (string, error)
	// Families are those of AllFamilies that the router's own tool shows as negotiated with a neighbour, nil while the
	// session is down.
	Negotiated(ctx context.Context, neighbor string) ([]AddressFamily, error)
	// Received returns every route the router holds, by its own tool's account. An error is that of asking; what cannot
	// be read of a single route is told there.
	Received(ctx context.Context) ([]Received, error)
	// Stop ends the router in good order.
	Stop(ctx context.Context) error
}

// errNotBuilt is what a runner returns where its program is missing.
func errNotInstalled(program string) error {
	return fmt.Errorf("%s is not installed: scripts/deps.sh interop installs it", program)
}

// flowReceived turns what a parser of FlowSpec text says of a part of a router's answer into routes.
func flowReceived(parts []string, f route.Family, parse func(string, route.Family) ([]FlowRoute, error)) []Received {
	family := FlowSpec4
	if f == route.IPv6 {
		family = FlowSpec6
	}
	var out []Received
	for _, part := range parts {
		rules, err := parse(part, f)
		if err == nil && len(rules) == 0 {
			err = errors.New("no rule was found in it")
		}
		if err != nil {
			out = append(out, Received{Family: family, Raw: strings.TrimSpace(part), Err: err})
			continue
		}
		for _, r := range rules {
			out = append(out, Received{Family: family, Match: r.Route.Match, Action: r.Route.Action, Unreachable: r.Unreachable, From: r.From, Raw: r.Raw})
		}
	}
	return out
}

// partsFrom splits text at each line that begins with head; what stands before the first is dropped.
func partsFrom(text, head string) []string {
	var out []string
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, head) {
			out = append(out, line)
		} else if len(out) > 0 {
			out[len(out)-1] += line
		}
	}
	return out
}
