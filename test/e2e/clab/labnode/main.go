// Command labnode is what the nodes of the containerlab topologies need and no package has: attacks that end by
// themselves, a data plane for routers that have none for FlowSpec, and a router that means harm.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
)

const usage = `usage: labnode COMMAND [FLAGS]; -h after a command shows its flags

  flood     send an attack, bounded in packets and in time, to an address for documentation
  enforce   drop in this node's kernel what the FlowSpec rules of its router say, until interrupted
  hostile   be a BGP router that sends what no router should
`

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		if !errors.Is(err, flag.ErrHelp) {
			fmt.Fprintln(os.Stderr, "labnode:", err)
		}
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	commands := map[string]func(context.Context, []string) error{"flood": attack, "enforce": enforceRules, "hostile": hostile}
	if len(args) > 0 && commands[args[0]] != nil {
		return commands[args[0]](ctx, args[1:])
	}
	fmt.Fprint(os.Stderr, usage)
	return flag.ErrHelp
}
