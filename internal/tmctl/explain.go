package tmctl

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/timestamppb"

	tmv1 "github.com/amooglesoft/trafficmonitor/api/trafficmonitor/v1"
	"github.com/amooglesoft/trafficmonitor/internal/route"
)

func (c *cli) explainCommand() *cobra.Command {
	var at string
	var around time.Duration
	cmd := &cobra.Command{
		Use:   "explain TARGET|ID",
		Short: "Why there is, or is no, incident at an address or prefix; or how something came about",
		Long: `Of an address or prefix: what is seen of it now, and why that is an incident or none. With --at, or of the ID of an incident or
a mitigation: what had been decided, asked for, refused and sent about it, from the first packets over the limit to the routers, and under
which policy, leader, holds and freeze.`,
		Example: `  tmctl explain 203.0.113.5
  tmctl explain 203.0.113.5 --at 2026-03-01T02:45:00Z
  tmctl explain m-1f2e3d4c5b`,
		Args: oneArg("an address, a prefix or an ID"),
		RunE: func(cmd *cobra.Command, args []string) error {
			_, err := route.ParsePrefix(args[0])
			target := err == nil
			if !target && strings.ContainsAny(args[0], ".:/") {
				return usage("%v", err)
			}
			if around <= 0 {
				return usage("--around %v: must be above 0", around)
			}
			if !target || at != "" {
				return c.history(cmd.Context(), args[0], target, at, around)
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
	cmd.Flags().StringVar(&at, "at", "", "what was then: a time such as 2026-03-01T02:45:00Z, or how long ago, such as 2h")
	cmd.Flags().DurationVar(&around, "around", time.Hour, "how much before and after that is told")
	return cmd
}

// history tells the story of an ID, or of a target around a moment.
func (c *cli) history(ctx context.Context, about string, target bool, at string, around time.Duration) error {
	req := &tmv1.ListEventsRequest{About: []string{about}, IncludeRelated: true}
	when, err := c.moment("--at", at)
	if err != nil {
		return err
	}
	if when != nil {
		req.StartTime, req.EndTime = timestamppb.New(when.AsTime().Add(-around)), timestamppb.New(when.AsTime().Add(around))
	}
	story, err := c.events(ctx, req, maxEvents)
	if err != nil {
		return err
	}
	if when == nil && len(story.Events) == 0 {
		return failed("nothing is recorded about %q: give the ID of an incident or mitigation as %q shows it, or an address; an older one may stand in another controller's audit file", about, "tmctl audit")
	}
	if c.json() {
		return c.print(story, nil)
	}
	from := when
	if from == nil {
		from = story.Events[len(story.Events)-1].Time
	}
	var b strings.Builder
	for _, s := range circumstances {
		if s.ofTarget && !target {
			continue
		}
		e, err := c.latest(ctx, s, from, about)
		if err != nil {
			return err
		}
		fmt.Fprintf(&b, "%s\n", c.circumstance(s, e))
	}
	b.WriteByte('\n')
	if len(story.Events) == 0 {
		fmt.Fprintf(&b, "Nothing was decided, asked for or refused about %s in the %v before and after.\n", clean(about), around)
		if story.Incomplete != "" {
			fmt.Fprintf(&b, "May be incomplete: %s\n", clean(story.Incomplete))
		}
		return c.write(b.String())
	}
	return c.write(b.String() + c.eventsTable(story))
}

// surrounding is what governed decisions: the latest event of these kinds before a moment says which.
type surrounding struct {
	what, none string
	kinds      []string
	ofTarget   bool // of a target only
}

var circumstances = []surrounding{
	{what: "Policy", none: "not recorded", kinds: []string{"policy_loaded"}},
	{what: "Leader", none: "not recorded", kinds: []string{"leader_elected", "leader_lost"}},
	{what: "Freeze", none: "automation ran", kinds: []string{"freeze_set", "freeze_lifted"}},
	{what: "Groups", none: "no group was frozen", kinds: []string{"group_freeze_set", "group_freeze_lifted"}},
	{what: "Breaker", none: "not opened", kinds: []string{"breaker_opened"}},
	{what: "Hold", none: "automation was not held off it", kinds: []string{"hold_set", "hold_lifted"}, ofTarget: true},
	{what: "Red button", none: "not pressed", kinds: []string{"red_button"}},
}

func (c *cli) latest(ctx context.Context, s surrounding, before *timestamppb.Timestamp, about string) (*tmv1.Event, error) {
	req := &tmv1.ListEventsRequest{Kinds: s.kinds, EndTime: timestamppb.New(before.AsTime().Add(time.Nanosecond))}
	if s.ofTarget {
		req.About = []string{about}
	}
	r, err := c.events(ctx, req, 1)
	if err != nil || len(r.Events) == 0 {
		return nil, err
	}
	return r.Events[0], nil
}

func (c *cli) circumstance(s surrounding, e *tmv1.Event) string {
	if e == nil {
		return fmt.Sprintf("%-10s  %s", s.what, s.none)
	}
	text := clean(e.Message)
	if slices.Contains([]string{"freeze_set", "hold_set"}, e.Kind) {
		text = "in force: " + text
	}
	return fmt.Sprintf("%-10s  %s  (%s, %s)", s.what, text, e.Time.AsTime().In(c.location()).Format("2006-01-02 15:04:05 MST"), clean(dash(e.Controller)))
}
