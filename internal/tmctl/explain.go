package tmctl

import (
	"context"
	"strings"

	"github.com/spf13/cobra"

	tmv1 "github.com/amooglesoft/trafficmonitor/api/trafficmonitor/v1"
	"github.com/amooglesoft/trafficmonitor/internal/route"
)

func (c *cli) explainCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "explain TARGET",
		Short:   "Why there is, or is no, incident at an address or prefix",
		Example: `  tmctl explain 203.0.113.5`,
		Args:    oneArg("an address or a prefix"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if _, err := route.ParsePrefix(args[0]); err != nil {
				return usage("%v", err)
			}
			r, err := ask(cmd.Context(), c, "explain "+args[0], func(ctx context.Context, cl tmv1.ConsoleServiceClient) (*tmv1.ExplainTargetResponse, error) {
				return cl.ExplainTarget(ctx, &tmv1.ExplainTargetRequest{Target: args[0]})
			})
			if err != nil {
				return err
			}
			return c.print(r, func() error { return c.write(strings.Join(r.Sentences, "\n") + "\n") })
		},
	}
}
