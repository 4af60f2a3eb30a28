package tmctl

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/durationpb"

	tmv1 "github.com/amooglesoft/trafficmonitor/api/trafficmonitor/v1"
)

// wordCommand is a command by which a person says something about one mitigation.
func (c *cli) wordCommand(use, short, long, example string, say func(ctx context.Context, cl tmv1.ConsoleServiceClient, id, reason string) (*tmv1.Mitigation, error), head string) *cobra.Command {
	var reason string
	cmd := &cobra.Command{
		Use: use + " MITIGATION", Short: short, Long: long, Example: example,
		Args: oneArg("the identifier of a mitigation (tmctl mitigations lists them)"),
		ValidArgsFunction: func(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
			if len(args) > 0 {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			return c.completeMitigations(cmd.Context())
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := needReason(reason); err != nil {
				return err
			}
			c.changes = true
			m, err := ask(cmd.Context(), c, use+" "+args[0], func(ctx context.Context, cl tmv1.ConsoleServiceClient) (*tmv1.Mitigation, error) {
				return say(ctx, cl, args[0], reason)
			})
			if err != nil {
				return err
			}
			return c.print(m, func() error { return c.write(head + "\n" + c.mitigationsTable([]*tmv1.Mitigation{m})) })
		},
	}
	cmd.Flags().StringVar(&reason, "reason", "", "why; required")
	return cmd
}

func (c *cli) approveCommand() *cobra.Command {
	return c.wordCommand("approve", "Say yes to what awaits approval",
		`Say yes to what awaits approval: a step of a policy's ladder, or a route that an engineer asked for and that needs a second
person. Who asked for it may not approve it, and nobody twice. With the last approval that is needed it is done at once.`,
		`  tmctl approve m-17 --reason "the customer agreed"`,
		func(ctx context.Context, cl tmv1.ConsoleServiceClient, id, reason string) (*tmv1.Mitigation, error) {
			r, err := cl.ApproveMitigation(ctx, &tmv1.ApproveMitigationRequest{Id: id, Reason: reason, Requester: c.requester})
			return r.GetMitigation(), err
		}, "Approved.")
}

func (c *cli) rejectCommand() *cobra.Command {
	return c.wordCommand("reject", "Say no to what awaits approval",
		`Say no to what awaits approval. What was never announced is over; a step of a ladder that was asked for is not asked for
again, and what is announced stays as it is.`,
		`  tmctl reject m-17 --reason "the customer's own test"`,
		func(ctx context.Context, cl tmv1.ConsoleServiceClient, id, reason string) (*tmv1.Mitigation, error) {
			r, err := cl.RejectMitigation(ctx, &tmv1.RejectMitigationRequest{Id: id, Reason: reason, Requester: c.requester})
			return r.GetMitigation(), err
		}, "Rejected.")
}

func (c *cli) extendCommand() *cobra.Command {
	var by time.Duration
	cmd := c.wordCommand("extend", "Keep what is announced longer, by --by",
		`Keep an announced mitigation longer: its deadline moves by --by. No announcement exceeds safety.max_age of the controller.`,
		`  tmctl extend m-17 --by 30m --reason "the provider still sees it"`,
		func(ctx context.Context, cl tmv1.ConsoleServiceClient, id, reason string) (*tmv1.Mitigation, error) {
			r, err := cl.ExtendMitigation(ctx, &tmv1.ExtendMitigationRequest{Id: id, Reason: reason, Requester: c.requester, By: durationpb.New(by)})
			return r.GetMitigation(), err
		}, "Extended.")
	run := cmd.RunE
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if by <= 0 {
			return usage("--by is missing: say by how much, for example --by 30m")
		}
		return run(cmd, args)
	}
	cmd.Flags().DurationVar(&by, "by", 0, "by how much its deadline moves; required")
	return cmd
}

// asks says what persons were asked and what they said; empty where nobody was.
func (c *cli) asks(m *tmv1.Mitigation) string {
	a := m.GetApproval()
	if a == nil {
		return ""
	}
	var names []string
	for _, x := range a.GetApprovals() {
		names = append(names, fmt.Sprintf("%s (%s)", clean(x.GetRequester()), clean(x.GetReason())))
	}
	says := fmt.Sprintf("asks for the approval of %d: %s", a.GetNeeded(), clean(a.GetReason()))
	if len(names) > 0 {
		says += "; approved by " + strings.Join(names, ", ")
	}
	if r := a.GetRejection(); r != nil {
		says += fmt.Sprintf("; rejected by %s (%s)", clean(r.GetRequester()), clean(r.GetReason()))
	}
	if a.GetOpen() {
		says += "; tmctl approve " + clean(m.GetId()) + " --reason ..., or reject"
	}
	return says
}
