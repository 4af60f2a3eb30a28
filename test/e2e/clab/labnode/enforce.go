package main

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"strings"

	"github.com/amooglesoft/trafficmonitor/internal/lab"
	"github.com/amooglesoft/trafficmonitor/internal/lab/enforce"
	"github.com/amooglesoft/trafficmonitor/internal/route"
)

// tool asks a router for its FlowSpec rules: the command of a family, and who reads the answer.
type tool struct {
	argv func(route.Family) []string
	read func(string, route.Family) ([]lab.FlowRoute, error)
}

var tools = map[string]tool{
	"frr": {
		func(f route.Family) []string {
			return []string{"vtysh", "-c", fmt.Sprintf("show bgp %s flowspec detail", f)}
		},
		lab.ParseFRRFlowSpec,
	},
	"bird": {
		func(f route.Family) []string {
			return []string{"birdc", "-r", fmt.Sprintf("show route table flowtab%d all", f)}
		},
		lab.ParseBIRDFlowSpec,
	},
}

func enforceRules(ctx context.Context, args []string) error {
	f := flag.NewFlagSet("enforce", flag.ContinueOnError)
	router := f.String("router", "frr", "whose rules: frr or bird")
	if err := f.Parse(args); err != nil {
		return err
	}
	t, ok := tools[*router]
	if !ok {
		return fmt.Errorf("enforce: --router %q: use frr or bird", *router)
	}
	enforce.New(enforce.Options{
		Rules: t.rules,
		NFT:   nft,
		Log:   slog.New(slog.NewTextHandler(os.Stderr, nil)),
	}).Run(ctx)
	return nil
}

// rules are those the router would apply.
func (t tool) rules(ctx context.Context) ([]route.Route, error) {
	var out []route.Route
	for _, f := range []route.Family{route.IPv4, route.IPv6} {
		argv := t.argv(f)
		text, err := exec.CommandContext(ctx, argv[0], argv[1:]...).CombinedOutput()
		if err != nil {
			return nil, fmt.Errorf("%s: %w: %s", strings.Join(argv, " "), err, bytes.TrimSpace(text))
		}
		rules, err := t.read(string(text), f)
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

func nft(ctx context.Context, stdin string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, "nft", args...)
	cmd.Stdin = strings.NewReader(stdin)
	out, err := cmd.CombinedOutput()
	return string(out), err
}
