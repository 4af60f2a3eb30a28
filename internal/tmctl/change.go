package tmctl

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/durationpb"

	tmv1 "github.com/amooglesoft/trafficmonitor/api/trafficmonitor/v1"
	"github.com/amooglesoft/trafficmonitor/internal/compile"
	"github.com/amooglesoft/trafficmonitor/internal/route"
)

func (c *cli) announceCommand() *cobra.Command {
	var (
		ttl       time.Duration
		reason    string
		requestID string
		dryRun    bool
		askFirst  bool
	)
	cmd := &cobra.Command{
		Use:   "announce ROUTE",
		Short: "Announce a route by hand, until --ttl has passed",
		Long: `Announce a route by hand, until --ttl has passed. ROUTE is the text form (docs/routes.md), one argument or several
words, or the JSON form. The safety kernel has the last word. With --dry-run everything is checked, the octets that a
router would get are shown, and nothing is announced. What reaches more of our hosts than safety.second_person_above is
announced when another person, an approver, said yes (tmctl approve).`,
		Example: `  tmctl announce destination 203.0.113.5 protocol udp source-port 53 then discard --ttl 10m --reason "ticket 4711"
  tmctl announce 'destination 2001:db8::5 protocol tcp tcp-flags syn&!ack then rate-limit 1Mbps' --ttl 1h --reason "SYN flood"
  tmctl announce destination 203.0.113.5 then blackhole --ttl 30m --reason "link full" --dry-run`,
		RunE: func(cmd *cobra.Command, args []string) error {
			r, err := readRoute("ROUTE", args)
			if err != nil {
				return err
			}
			if ttl <= 0 {
				return usage("--ttl is missing: say how long the route lasts, for example --ttl 10m")
			}
			if err := needReason(reason); err != nil {
				return err
			}
			c.changes = !dryRun
			if requestID == "" {
				requestID = rand.Text()
			}
			made, err := ask(cmd.Context(), c, "announce \""+r.String()+"\"", func(ctx context.Context, cl tmv1.ConsoleServiceClient) (*tmv1.CreateMitigationResponse, error) {
				return cl.CreateMitigation(ctx, &tmv1.CreateMitigationRequest{
					Route: r.String(), Ttl: durationpb.New(ttl), Reason: reason, RequestId: requestID, ValidateOnly: dryRun, Requester: c.requester, AskApproval: askFirst,
				})
			})
			if err != nil {
				return repeatable(err, requestID)
			}
			nlri, ec, ec6, err := octets(r)
			if err != nil { // the kernel would not have let it pass
				return err
			}
			return c.print(made, func() error {
				head := "Announced. It ends by itself; earlier with: tmctl withdraw " + clean(made.GetMitigation().GetId()) + " --reason ...\n"
				switch asks := made.GetMitigation().GetApproval().GetOpen(); {
				case asks && dryRun:
					head = "It would be asked of an approver; nothing was.\n"
				case asks:
					head = "Nothing is announced yet: it awaits the approval of another person.\n"
				case dryRun:
					head = "It would be announced; nothing was.\n"
					var t table
					octetRows(&t, nlri, ec, ec6)
					if x := t.String(); x != "" {
						head += "A router would get:\n" + x
					}
					head += previewText(made.GetPreview())
				}
				return c.write(head + c.mitigationsTable([]*tmv1.Mitigation{made.GetMitigation()}))
			})
		},
	}
	f := cmd.Flags()
	f.DurationVar(&ttl, "ttl", 0, "how long the route lasts; required")
	f.StringVar(&reason, "reason", "", "why; required")
	f.BoolVar(&dryRun, "dry-run", false, "check only, announce nothing")
	f.BoolVar(&askFirst, "ask-approval", false, "where only an approver may announce it, ask one instead of being refused")
	f.StringVar(&requestID, "request-id", "", "makes a repeated call return the first one's result; random when empty")
	return cmd
}

// repeatable adds how to repeat a call whose result is not known.
func repeatable(err error, requestID string) error {
	var e *exitError
	if errors.As(err, &e) && e.code == ExitUnreachable {
		return &exitError{e.code, fmt.Errorf("%w; to repeat it without announcing twice add --request-id %s", e.err, requestID)}
	}
	return err
}

func (c *cli) withdrawCommand() *cobra.Command {
	var (
		target, reason string
		all            bool
		hold           time.Duration
		red            redButton
	)
	cmd := &cobra.Command{
		Use:   "withdraw [MITIGATION]",
		Short: "Withdraw one mitigation, those of a target, or all, and hold automation off",
		Long: `Withdraw mitigations: one by its identifier, those whose target lies inside a prefix, or all. Automation keeps its hands
off their targets for the configured time, or for --hold (0 for not at all).

The red button, --all --now, goes straight to a speaker's socket and needs no controller, no leader and no etcd: the
speaker withdraws everything at once and takes no routes until it is released with --release. Press it at every speaker.`,
		Example: `  tmctl withdraw m-17 --reason "false alarm"
  tmctl withdraw --target 203.0.113.0/24 --reason "customer asked" --hold 2h
  tmctl withdraw --all --reason "wrong policy"
  tmctl withdraw --all --now --speaker unix:///run/trafficmonitor/speaker.sock --reason "emergency"
  tmctl withdraw --release --speaker unix:///run/trafficmonitor/speaker.sock --reason "emergency over"`,
		ValidArgsFunction: func(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
			if len(args) > 0 {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			return c.completeMitigations(cmd.Context())
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			set := cmd.Flags().Changed
			if red.now || red.release {
				return c.pressRedButton(cmd.Context(), red, all, reason, len(args) > 0 || set("target") || set("hold"))
			}
			if set("speaker") {
				return usage("--speaker is for the red button: add --now (with --all) or --release")
			}
			req := &tmv1.WithdrawMitigationsRequest{Reason: reason, Requester: c.requester}
			selectors := 0
			what := ""
			if len(args) > 0 {
				req.Selector, what = &tmv1.WithdrawMitigationsRequest_Id{Id: args[0]}, "withdraw "+args[0]
				selectors += len(args)
			}
			if set("target") {
				p, err := route.ParsePrefix(target)
				if err != nil {
					return usage("--target: %w", err)
				}
				req.Selector, what = &tmv1.WithdrawMitigationsRequest_Target{Target: p.String()}, "withdraw mitigations inside "+p.String()
				selectors++
			}
			if all {
				req.Selector, what = &tmv1.WithdrawMitigationsRequest_All{All: true}, "withdraw all mitigations"
				selectors++
			}
			if selectors != 1 {
				return usage("give exactly one of a mitigation's identifier, --target and --all (tmctl mitigations lists them)")
			}
			if set("hold") {
				if hold < 0 {
					return usage("--hold %v: must not be negative; 0 means no hold", hold)
				}
				req.Hold = durationpb.New(hold)
			}
			if err := needReason(reason); err != nil {
				return err
			}
			c.changes = true
			r, err := ask(cmd.Context(), c, what, func(ctx context.Context, cl tmv1.ConsoleServiceClient) (*tmv1.WithdrawMitigationsResponse, error) {
				return cl.WithdrawMitigations(ctx, req)
			})
			if err != nil {
				return err
			}
			return c.print(r, func() error { return c.write(c.withdrawnText(r)) })
		},
	}
	f := cmd.Flags()
	f.StringVar(&target, "target", "", "withdraw all whose target lies inside this prefix")
	f.BoolVar(&all, "all", false, "withdraw all there are")
	f.StringVar(&reason, "reason", "", "why; required")
	f.DurationVar(&hold, "hold", 0, "how long automation keeps its hands off the targets; 0 not at all; the configured time when not given")
	f.BoolVar(&red.now, "now", false, "the red button, with --all: straight to the speaker, which then takes no routes until --release")
	f.BoolVar(&red.release, "release", false, "release the red button")
	f.StringArrayVar(&red.speakers, "speaker", []string{envOr(c.Getenv, "TMCTL_SPEAKER", DefaultSpeaker)}, "a speaker's unix socket, for --now and --release; may be repeated (TMCTL_SPEAKER)")
	return cmd
}

func envOr(getenv func(string) string, name, otherwise string) string {
	if getenv != nil {
		if v := getenv(name); v != "" {
			return v
		}
	}
	return otherwise
}

func (c *cli) withdrawnText(r *tmv1.WithdrawMitigationsResponse) string {
	if len(r.Mitigations) == 0 {
		return "There was nothing to withdraw.\n"
	}
	out := fmt.Sprintf("Withdrawn: %d.\n", len(r.Mitigations)) + c.mitigationsTable(r.Mitigations)
	if len(r.Holds) == 0 {
		return out + "\nNo holds: automation may act on these targets at once.\n"
	}
	return out + "\nAutomation keeps its hands off (tmctl release-hold TARGET ends that):\n" + c.holdsTable(r.Holds)
}

func (c *cli) completeMitigations(ctx context.Context) ([]string, cobra.ShellCompDirective) {
	c.timeout = min(c.timeout, 2*time.Second)
	r, err := c.listMitigations(ctx, false)
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	var out []string
	for _, m := range r.Mitigations {
		out = append(out, clean(m.Id)+"\t"+clean(m.Target))
	}
	return out, cobra.ShellCompDirectiveNoFileComp
}

func (c *cli) releaseHoldCommand() *cobra.Command {
	var reason string
	cmd := &cobra.Command{
		Use:     "release-hold TARGET",
		Short:   "Let automation act on a target again",
		Example: `  tmctl release-hold 203.0.113.5/32 --reason "tests are over"`,
		Args:    oneArg("the target of a hold (tmctl holds lists them)"),
		ValidArgsFunction: func(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
			c.timeout = min(c.timeout, 2*time.Second)
			r, err := c.listHolds(cmd.Context())
			if err != nil || len(args) > 0 {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			var out []string
			for _, h := range r.Holds {
				out = append(out, clean(h.Target)+"\t"+clean(h.Reason))
			}
			return out, cobra.ShellCompDirectiveNoFileComp
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			p, err := route.ParsePrefix(args[0])
			if err != nil {
				return &exitError{ExitUsage, err}
			}
			if err := needReason(reason); err != nil {
				return err
			}
			c.changes = true
			r, err := ask(cmd.Context(), c, "release hold on "+p.String(), func(ctx context.Context, cl tmv1.ConsoleServiceClient) (*tmv1.DeleteHoldResponse, error) {
				return cl.DeleteHold(ctx, &tmv1.DeleteHoldRequest{Target: p.String(), Reason: reason, Requester: c.requester})
			})
			if err != nil {
				return err
			}
			return c.print(r, func() error { return c.write("Released: automation may act on " + p.String() + " again.\n") })
		},
	}
	cmd.Flags().StringVar(&reason, "reason", "", "why; required")
	return cmd
}

func (c *cli) releaseQuarantineCommand() *cobra.Command {
	var reason string
	cmd := &cobra.Command{
		Use:   "release-quarantine ROUTER [ROUTE|FAMILY]",
		Short: "Try routes again that are kept from a router because it reset the session upon them",
		Long: `Try routes again that are kept from a router because it reset the session upon them. They go out after all others, a few at a
time, of a family that was kept as a whole, such as ipv6-flowspec, one alone first; a router that resets again puts them back. Each controller's speaker has a session and a quarantine of its own: this
asks the controller it talks to, whoever leads.`,
		Args: cobra.RangeArgs(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := needReason(reason); err != nil {
				return err
			}
			req := &tmv1.ConsoleServiceReleaseQuarantineRequest{Peer: args[0], Reason: reason, Requester: c.requester}
			if len(args) == 2 {
				req.Route = args[1]
			}
			if _, err := compile.ParseTable(req.Route); err != nil && req.Route != "" {
				r, err := route.Parse(args[1])
				if err != nil {
					return &exitError{ExitUsage, err}
				}
				req.Route = r.String()
			}
			c.changes = true
			r, err := ask(cmd.Context(), c, "release quarantine of "+args[0], func(ctx context.Context, cl tmv1.ConsoleServiceClient) (*tmv1.ConsoleServiceReleaseQuarantineResponse, error) {
				return cl.ReleaseQuarantine(ctx, req)
			})
			if err != nil {
				return err
			}
			return c.print(r, func() error {
				var out strings.Builder
				for _, text := range r.Routes {
					fmt.Fprintf(&out, "Tried again at %s: %s\n", clean(args[0]), clean(text))
				}
				return c.write(out.String())
			})
		},
	}
	cmd.Flags().StringVar(&reason, "reason", "", "why; required")
	return cmd
}

func (c *cli) freezeCommand(frozen bool) *cobra.Command {
	use, short, long, help := "freeze", "Stop all automation, or that of a group",
		"Stop all automation, or with --group that for the targets of a group of the policy. What is announced stays until its deadline; nothing is\nannounced, extended or withdrawn automatically. Engineers may still announce and withdraw.",
		"only for the targets of this group of the policy, also those in narrower groups inside it"
	if !frozen {
		use, short, long, help = "unfreeze", "Resume automation, or that of a group",
			"Resume automation after a freeze. Without --group the freezes of groups stay, with it that of all automation does.", "lift the freeze of this group"
	}
	var reason, group string
	cmd := &cobra.Command{
		Use: use, Short: short, Long: long, Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := needReason(reason); err != nil {
				return err
			}
			if cmd.Flags().Changed("group") && group == "" { // an empty variable of a script must not freeze all
				return &exitError{ExitUsage, errors.New("--group needs the name of a group; without --group it is for all")}
			}
			what, in, which := use, "", ""
			if group != "" {
				what, in, which = use+" group "+group, " in group "+group, " --group "+group
			}
			c.changes = true
			r, err := ask(cmd.Context(), c, what, func(ctx context.Context, cl tmv1.ConsoleServiceClient) (*tmv1.SetFreezeResponse, error) {
				return cl.SetFreeze(ctx, &tmv1.SetFreezeRequest{Frozen: frozen, Group: group, Reason: reason, Requester: c.requester})
			})
			if err != nil {
				return err
			}
			return c.print(r, func() error {
				if f := r.Freeze; f != nil {
					return c.write(fmt.Sprintf("Frozen%s since %s by %s: %s\nWhat is announced ends at its deadline. Resume with: tmctl unfreeze%s --reason ...\n",
						clean(in), c.at(f.StartTime, "15:04:05"), clean(f.Requester), clean(f.Reason), clean(which)))
				}
				return c.write("Automation is running" + clean(in) + ".\n")
			})
		},
	}
	cmd.Flags().StringVar(&reason, "reason", "", "why; required")
	cmd.Flags().StringVar(&group, "group", "", help)
	return cmd
}
