package tmctl

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc/metadata"

	tmv1 "github.com/amooglesoft/trafficmonitor/api/trafficmonitor/v1"
)

func (c *cli) watchCommand() *cobra.Command {
	var span time.Duration
	var count int
	cmd := &cobra.Command{
		Use:   "watch",
		Short: "Events as they happen, until interrupted",
		Long: `Show events as they happen, until interrupted (exit code 0). With -o json each event is one line. What was missed because
the terminal was too slow is said.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if span < 0 || count < 0 {
				return usage("--for and --count must not be negative")
			}
			return c.watch(cmd.Context(), span, count)
		},
	}
	cmd.Flags().DurationVar(&span, "for", 0, "stop after this time; 0 means never")
	cmd.Flags().IntVar(&count, "count", 0, "stop after so many events; 0 means never")
	return cmd
}

func (c *cli) watch(parent context.Context, span time.Duration, count int) error {
	conn, err := c.dial(c.address)
	if err != nil {
		return err
	}
	defer conn.Close()
	ctx, cancel := context.WithCancelCause(parent)
	defer cancel(nil)
	late := time.AfterFunc(c.timeout, func() { cancel(context.DeadlineExceeded) }) // for the start only
	defer late.Stop()
	w, err := tmv1.NewConsoleServiceClient(conn).WatchEvents(ctx, &tmv1.WatchEventsRequest{})
	var header metadata.MD
	if err == nil {
		header, err = w.Header() // nil without an error: it was refused, and Recv says why
	}
	if err == nil && !late.Stop() {
		err = context.Cause(ctx)
	}
	if err != nil {
		if errors.Is(context.Cause(ctx), context.DeadlineExceeded) {
			return &exitError{ExitUnreachable, fmt.Errorf("watch events: no answer from %s within %v (--timeout)", c.address, c.timeout)}
		}
		return c.explain("watch events", c.address, err)
	}
	if !c.json() && header != nil {
		fmt.Fprintf(c.Stderr, "Watching %s; interrupt to stop.\n", clean(c.address))
	}
	if span > 0 {
		enough := time.AfterFunc(span, func() { cancel(errEnough) })
		defer enough.Stop()
	}
	for n := 0; count == 0 || n < count; n++ {
		e, err := w.Recv()
		switch {
		case err == nil:
		case parent.Err() != nil || errors.Is(context.Cause(ctx), errEnough):
			return nil
		case errors.Is(err, io.EOF):
			return &exitError{ExitUnreachable, fmt.Errorf("watch events: %s ended the stream", c.address)}
		default:
			return c.explain("watch events", c.address, err)
		}
		if err := c.writeEvent(e); err != nil {
			return err
		}
	}
	return nil
}

var errEnough = errors.New("long enough")

func (c *cli) writeEvent(e *tmv1.WatchEventsResponse) error {
	if c.json() {
		b, err := protoJSON(e, "")
		if err != nil {
			return failed("write JSON: %w", err)
		}
		return c.write(string(b) + "\n")
	}
	return c.write(fmt.Sprintf("%s  %-22s  %s%s\n", c.at(e.Time, "15:04:05.000"), clean(e.Kind), clean(e.Message), attributes(e.Attributes)))
}
