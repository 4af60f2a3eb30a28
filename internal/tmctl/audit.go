package tmctl

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/timestamppb"

	tmv1 "github.com/amooglesoft/trafficmonitor/api/trafficmonitor/v1"
)

// maxEvents bounds how many events one command shows.
const maxEvents = 100_000

func (c *cli) auditCommand() *cobra.Command {
	req := &tmv1.ListEventsRequest{}
	var since, until string
	var limit int
	cmd := &cobra.Command{
		Use:   "audit [ABOUT...]",
		Short: "What was decided, asked for and refused, by whom and why",
		Long: `Show what was recorded, newest last. ABOUT is an incident, a mitigation, a router's name, a route, an address or a prefix;
of several, any. All controllers' records of the last 30 days are shown, at most 10,000, and what the answering controller's own file has
beyond that. What may be missing is said.`,
		Example: `  tmctl audit --since 2h
  tmctl audit 203.0.113.5 --since 2026-03-01T02:00:00Z --until 2026-03-01T04:00:00Z
  tmctl audit m-1f2e3d4c5b --related
  tmctl audit --kind manual_announce,manual_withdraw,freeze_set --by ada`,
		RunE: func(cmd *cobra.Command, args []string) error {
			req.About = args
			var err error
			if req.StartTime, err = c.moment("--since", since); err != nil {
				return err
			}
			if req.EndTime, err = c.moment("--until", until); err != nil {
				return err
			}
			if limit < 1 || limit > maxEvents {
				return usage("--limit %d: must be 1 to %d", limit, maxEvents)
			}
			if req.IncludeRelated && len(args) == 0 {
				return usage("--related needs an ABOUT")
			}
			r, err := c.events(cmd.Context(), req, limit)
			if err != nil {
				return err
			}
			return c.print(r, func() error { return c.write(c.eventsTable(r)) })
		},
	}
	f := cmd.Flags()
	f.StringVar(&since, "since", "24h", "from then on: a time such as 2026-03-01T02:00:00Z, or how long ago, such as 2h")
	f.StringVar(&until, "until", "", "before then; as --since")
	f.StringSliceVar(&req.Kinds, "kind", nil, "only these kinds, such as incident_onset,manual_withdraw")
	f.StringVar(&req.Requester, "by", "", "only what somebody asked for whose name contains this")
	f.BoolVar(&req.IncludeRelated, "related", false, "also what belongs to it: an incident's mitigations, their routes")
	f.IntVar(&limit, "limit", 1000, "at most so many, the newest")
	return cmd
}

// moment reads a time, or how long ago it was; empty is none.
func (c *cli) moment(flag, s string) (*timestamppb.Timestamp, error) {
	if s == "" {
		return nil, nil
	}
	if d, err := time.ParseDuration(s); err == nil && d >= 0 {
		return timestamppb.New(c.Now().Add(-d)), nil
	}
	for _, layout := range []string{time.RFC3339Nano, "2006-01-02T15:04:05", "2006-01-02 15:04:05", "2006-01-02T15:04", "2006-01-02 15:04", "2006-01-02"} {
		if t, err := time.ParseInLocation(layout, s, c.location()); err == nil {
			return timestamppb.New(t), nil
		}
	}
	return nil, usage("%s %q is no time: write 2026-03-01T02:00:00Z, 2026-03-01 02:00 (in the zone that is shown), or how long ago, such as 90m", flag, s)
}

func (c *cli) location() *time.Location {
	if c.utc {
		return time.UTC
	}
	return c.Location
}

// events asks for all pages up to limit. The newest come first.
func (c *cli) events(ctx context.Context, req *tmv1.ListEventsRequest, limit int) (*tmv1.ListEventsResponse, error) {
	whole := &tmv1.ListEventsResponse{}
	for {
		req.PageToken, req.PageSize = whole.NextPageToken, int32(min(pageSize, limit-len(whole.Events)))
		r, err := ask(ctx, c, "list events", func(ctx context.Context, cl tmv1.ConsoleServiceClient) (*tmv1.ListEventsResponse, error) {
			return cl.ListEvents(ctx, req)
		})
		if err != nil {
			return nil, err
		}
		whole.Events = append(whole.Events, r.Events...)
		whole.NextPageToken, whole.Incomplete = r.NextPageToken, r.Incomplete
		if r.NextPageToken == "" || len(whole.Events) >= limit {
			return whole, nil
		}
	}
}

// eventsTable shows events as a story is told, oldest first.
func (c *cli) eventsTable(r *tmv1.ListEventsResponse) string {
	var b strings.Builder
	if len(r.Events) == 0 {
		b.WriteString("No events.\n")
	}
	day := ""
	for _, e := range slices.Backward(r.Events) {
		t := e.Time.AsTime().In(c.location())
		if d := t.Format("2006-01-02 MST"); d != day {
			day = d
			fmt.Fprintf(&b, "%s\n", d)
		}
		fmt.Fprintf(&b, "%s  %-10s  %-20s  %s%s\n", t.Format("15:04:05.000"), clean(dash(e.Controller)), clean(e.Kind), clean(e.Message), attributes(e.Attributes))
	}
	if r.NextPageToken != "" {
		b.WriteString("There are older ones: raise --limit or shorten the time.\n")
	}
	if r.Incomplete != "" {
		fmt.Fprintf(&b, "May be incomplete: %s\n", clean(r.Incomplete))
	}
	return b.String()
}

// attributes writes identifiers and values behind a message.
func attributes(of map[string]string) string {
	var b strings.Builder
	for _, k := range slices.Sorted(maps.Keys(of)) {
		v := clean(of[k])
		if strings.ContainsAny(v, " \"") {
			v = fmt.Sprintf("%q", v)
		}
		fmt.Fprintf(&b, "  %s=%s", clean(k), v)
	}
	return b.String()
}
