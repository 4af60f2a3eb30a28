package lab

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/amooglesoft/trafficmonitor/internal/lab/enforce"
	"github.com/amooglesoft/trafficmonitor/internal/route"
)

// Enforce makes the kernel of the router's namespace drop what BIRD's FlowSpec rules say, from now until the lab is
// closed: BIRD itself has no data plane for them.
func (b *BIRD) Enforce() *enforce.Shim {
	shim := enforce.New(enforce.Options{
		Rules:   b.rulesInForce,
		Changed: b.changed,
		NFT:     b.in.nft,
		Log:     b.in.lab.log.With("component", "enforce", "router", b.Name()),
	})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		shim.Run(ctx)
	}()
	b.in.lab.OnClose(func() { cancel(); <-done })
	return shim
}

// rulesInForce returns the rules the router would apply: the best path of each, and none that is unreachable.
func (b *BIRD) rulesInForce(ctx context.Context) ([]route.Route, error) {
	var out []route.Route
	for _, f := range []route.Family{route.IPv4, route.IPv6} {
		rules, err := b.FlowSpecRoutes(ctx, f)
		if err != nil {
			return nil, err
		}
		for _, r := range rules {
			if r.Best && !r.Unreachable {
				out = append(out, r.Route)
			}
		}
	}
	return out, nil
}

// nft runs nft in the namespace.
func (n *Namespace) nft(ctx context.Context, stdin string, args ...string) (string, error) {
	var out output
	p, err := n.start(Command{Argv: append([]string{"nft"}, args...), stdin: strings.NewReader(stdin)}, &out)
	if err != nil {
		return "", err
	}
	select {
	case <-p.Done():
	case <-ctx.Done():
		err := errors.Join(ctx.Err(), p.Kill())
		<-p.Done()
		return out.String(), err
	}
	if p.err != nil {
		return out.String(), fmt.Errorf("nft %s in %s: %w", strings.Join(args, " "), n.name, p.err)
	}
	return out.String(), nil
}
