package tmctl

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/amooglesoft/trafficmonitor/internal/journal"
	"github.com/amooglesoft/trafficmonitor/internal/replay"
)

// policyDiff is what differs between two policies over the same records, as --json shows it.
type policyDiff struct {
	Old          string         `json:"old"`
	New          string         `json:"new"`
	Of           string         `json:"of"`
	OldIncidents int            `json:"old_incidents"`
	NewIncidents int            `json:"new_incidents"`
	Same         int            `json:"same"`
	Changes      []policyChange `json:"changes"`
	// Damaged says where records are broken; what can be read is judged.
	Damaged []string `json:"damaged"`
}

// policyChange is one incident. Old or New is null where only the other policy makes one of it.
type policyChange struct {
	Target    string        `json:"target"`
	Direction string        `json:"direction"`
	Differs   []string      `json:"differs"`
	Old       *policyAnswer `json:"old"`
	New       *policyAnswer `json:"new"`
}

type policyAnswer struct {
	Onset   time.Time  `json:"onset"`
	Decided time.Time  `json:"decided"`
	Ended   *time.Time `json:"ended"` // null while it goes on
	Vectors []string   `json:"vectors"`
	Group   string     `json:"group"`
	Reason  string     `json:"reason"`
	Action  string     `json:"action"`
	Why     string     `json:"why"`
	Routes  []string   `json:"routes"`
}

func (c *cli) policyDiffCommand() *cobra.Command {
	var dir, capture, targets, from, to string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "diff OLD NEW",
		Short: "What a recorded journal, or a capture, would have been answered with under two policies",
		Long: `Says what differs between two policies over what a controller's sensors reported, or over a capture: incidents that only one
of them makes, and of those both make the vectors, the time of decision, the action and the routes. default is the built-in
policy. What would have been done is said as of the incident's signature; the steps of a ladder are named, not climbed, for the
journal holds what was measured under what was announced then.`,
		Example: `  tmctl policy diff /etc/trafficmonitor/policy.yaml new.yaml --journal /var/lib/trafficmonitor/journal --from 2026-11-21T00:00:00Z
  tmctl policy diff default policy.d --capture attack.pcap --json`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) != 2 {
				return usage("%d arguments: give the old and the new policy", len(args))
			}
			if (dir == "") == (capture == "") {
				return usage("give either --journal or --capture")
			}
			if capture != "" && from+to != "" {
				return usage("--from and --to are for --journal: a capture is played whole")
			}
			span, err := timeSpan(from, to)
			if err != nil {
				return err
			}
			own, err := prefixes(targets)
			if err != nil {
				return usage("--targets: %v", err)
			}
			c.wantJSON(asJSON)
			out := policyDiff{Old: args[0], New: args[1], Of: dir + capture, Changes: []policyChange{}, Damaged: []string{}}
			var results [2]*replay.Result
			for i, path := range args {
				p, err := loadPolicy(path)
				if err != nil {
					return failed("%w", err)
				}
				o := replay.Options{Policy: p, Targets: own}
				damaged, r, err := c.replayOnce(cmd.Context(), o, dir, capture, span)
				if err != nil {
					return failed("%s under %s: %w", out.Of, path, err)
				}
				if results[i] = r; i == 0 {
					for _, d := range damaged {
						out.Damaged = append(out.Damaged, d.Error())
					}
				}
			}
			if results[0].Reports+results[0].Packets == 0 {
				return failed("%s: it holds nothing%s", out.Of, map[bool]string{true: " of that time"}[from+to != ""])
			}
			out.OldIncidents, out.NewIncidents = len(results[0].Incidents), len(results[1].Incidents)
			changes, same := replay.Compare(results[0], results[1])
			out.Same = same
			for _, ch := range changes {
				out.Changes = append(out.Changes, changeOf(ch))
			}
			return c.showDiff(out)
		},
	}
	f := cmd.Flags()
	f.StringVar(&dir, "journal", "", "a controller's journal, data_dir/journal or a copy of it")
	f.StringVar(&capture, "capture", "", "a capture instead")
	f.StringVar(&targets, "targets", "", "protected prefixes, with commas between them; none means every address")
	f.StringVar(&from, "from", "", "of a journal: from this time on, such as 2026-11-28T02:00:00Z")
	f.StringVar(&to, "to", "", "of a journal: up to this time")
	f.BoolVar(&asJSON, "json", false, "as JSON")
	_ = cmd.MarkFlagDirname("journal")
	_ = cmd.MarkFlagFilename("capture")
	return cmd
}

func (c *cli) replayOnce(ctx context.Context, o replay.Options, dir, capture string, span [2]time.Time) (damaged []error, r *replay.Result, err error) {
	if capture != "" {
		r, err = replay.Run(ctx, o, func() (replay.Source, error) { return replay.Capture(capture) })
		return nil, r, err
	}
	r, damaged, err = replay.Journal(ctx, o, func() (*journal.Reader, error) {
		j, err := journal.Open(dir)
		if err == nil {
			j.Between(span[0], span[1])
		}
		return j, err
	})
	return damaged, r, err
}

func changeOf(ch replay.Change) policyChange {
	out := policyChange{Differs: append([]string{}, ch.Differs...), Old: answerOf(ch.Old), New: answerOf(ch.New)}
	of := ch.Old
	if of == nil {
		of = ch.New
	}
	out.Target, out.Direction = of.Target.String(), of.Direction.String()
	return out
}

func answerOf(inc *replay.Incident) *policyAnswer {
	if inc == nil {
		return nil
	}
	a := &policyAnswer{Onset: inc.Onset.UTC(), Decided: inc.Decided.UTC(), Vectors: []string{}, Group: inc.Group, Reason: inc.Reason, Action: inc.Action, Why: inc.Why, Routes: []string{}}
	if !inc.Ended.IsZero() {
		at := inc.Ended.UTC()
		a.Ended = &at
	}
	for _, m := range inc.Vectors {
		a.Vectors = append(a.Vectors, m.Vector.String())
	}
	for _, r := range inc.Routes {
		a.Routes = append(a.Routes, r.String())
	}
	return a
}

func (c *cli) showDiff(d policyDiff) error {
	return c.printValue(d, func() error {
		var b strings.Builder
		for _, ch := range d.Changes {
			switch {
			case ch.New == nil:
				fmt.Fprintf(&b, "- %s %s: only under the old policy\n", ch.Direction, ch.Target)
			case ch.Old == nil:
				fmt.Fprintf(&b, "+ %s %s: only under the new policy\n", ch.Direction, ch.Target)
			default:
				fmt.Fprintf(&b, "~ %s %s: %s\n", ch.Direction, ch.Target, strings.Join(ch.Differs, ", "))
			}
			for _, side := range []struct {
				mark string
				a    *policyAnswer
			}{{"-", ch.Old}, {"+", ch.New}} {
				if side.a == nil {
					continue
				}
				fmt.Fprintf(&b, "  %s %s %s at %s: %s\n", side.mark, strings.Join(side.a.Vectors, "+"), side.a.Action, side.a.Decided.Format(time.RFC3339Nano), side.a.Reason)
				for _, r := range side.a.Routes {
					fmt.Fprintf(&b, "  %s   %s\n", side.mark, r)
				}
				if side.a.Why != "" {
					fmt.Fprintf(&b, "  %s   %s\n", side.mark, side.a.Why)
				}
			}
		}
		for _, damaged := range d.Damaged {
			fmt.Fprintf(&b, "broken: %s; what can be read is judged\n", damaged)
		}
		fmt.Fprintf(&b, "%s under the old policy, %d under the new one; %d the same, %d that differ\n", plural(d.OldIncidents, "incident"), d.NewIncidents, d.Same, len(d.Changes))
		return c.write(b.String())
	})
}
