package tmctl

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	tmv1 "github.com/amooglesoft/trafficmonitor/api/trafficmonitor/v1"
)

// pageSize is what the server gives at most in one answer.
const pageSize = 1000

func (c *cli) incidentsCommand() *cobra.Command {
	var all bool
	cmd := &cobra.Command{
		Use:   "incidents",
		Short: "Attacks going on, newest first",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			whole := &tmv1.ListIncidentsResponse{}
			for {
				r, err := ask(cmd.Context(), c, "list incidents", func(ctx context.Context, cl tmv1.ConsoleServiceClient) (*tmv1.ListIncidentsResponse, error) {
					return cl.ListIncidents(ctx, &tmv1.ListIncidentsRequest{IncludeEnded: all, PageSize: pageSize, PageToken: whole.NextPageToken})
				})
				if err != nil {
					return err
				}
				whole.Incidents = append(whole.Incidents, r.Incidents...)
				if whole.NextPageToken = r.NextPageToken; whole.NextPageToken == "" {
					break
				}
			}
			return c.print(whole, func() error { return c.write(c.incidentsTable(whole.Incidents)) })
		},
	}
	cmd.Flags().BoolVar(&all, "all", false, "also those that ended lately")
	return cmd
}

func (c *cli) incidentsTable(incidents []*tmv1.Incident) string {
	if len(incidents) == 0 {
		return "No incidents.\n"
	}
	var t table
	t.row("INCIDENT", "TARGET", "STATE", "ONSET", "LASTED", "WAY", "TEST", "VECTOR", "NOW", "PEAK", "LIMIT", "SENSORS", "MITIGATIONS")
	for _, i := range incidents {
		state, lasted := "active", c.ago(i.OnsetTime)
		if i.State == tmv1.Incident_STATE_ENDED {
			state = "ended"
			lasted = duration(i.EndTime.AsTime().Sub(i.OnsetTime.AsTime()))
		}
		way := "in"
		if i.Direction == tmv1.Direction_DIRECTION_OUTBOUND {
			way = "out"
		}
		head := []string{i.Id, i.Target, state, c.at(i.OnsetTime, "15:04:05"), lasted, way, dash(i.Test)}
		tail := []string{fmt.Sprint(len(i.Sensors)), dash(strings.Join(i.Mitigations, ","))}
		vectors := i.Vectors
		if len(vectors) == 0 {
			vectors = []*tmv1.Measurement{{Vector: "-"}}
		}
		for _, m := range vectors {
			now := rates(m.PacketsPerSecond, m.BitsPerSecond)
			t.row(slices.Concat(head, []string{
				m.Vector, now, rates(m.PeakPacketsPerSecond, m.PeakBitsPerSecond), rates(m.LimitPacketsPerSecond, m.LimitBitsPerSecond),
			}, tail)...)
			head, tail = make([]string, len(head)), make([]string, len(tail))
		}
	}
	return t.String()
}

// listMitigations returns all pages.
func (c *cli) listMitigations(ctx context.Context, all bool) (*tmv1.ListMitigationsResponse, error) {
	whole := &tmv1.ListMitigationsResponse{}
	for {
		r, err := ask(ctx, c, "list mitigations", func(ctx context.Context, cl tmv1.ConsoleServiceClient) (*tmv1.ListMitigationsResponse, error) {
			return cl.ListMitigations(ctx, &tmv1.ListMitigationsRequest{IncludeEnded: all, PageSize: pageSize, PageToken: whole.NextPageToken})
		})
		if err != nil {
			return nil, err
		}
		whole.Mitigations = append(whole.Mitigations, r.Mitigations...)
		if whole.NextPageToken = r.NextPageToken; whole.NextPageToken == "" {
			return whole, nil
		}
	}
}

func (c *cli) mitigationsCommand() *cobra.Command {
	var all bool
	cmd := &cobra.Command{
		Use:   "mitigations",
		Short: "What is announced, for whom and until when, newest first",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			r, err := c.listMitigations(cmd.Context(), all)
			if err != nil {
				return err
			}
			return c.print(r, func() error {
				if len(r.Mitigations) == 0 {
					return c.write("No mitigations.\n")
				}
				return c.write(c.mitigationsTable(r.Mitigations))
			})
		},
	}
	cmd.Flags().BoolVar(&all, "all", false, "also those that ended lately or were refused")
	return cmd
}

func (c *cli) mitigationsTable(mitigations []*tmv1.Mitigation) string {
	var t table
	var notes strings.Builder
	t.row("MITIGATION", "TARGET", "PHASE", "FOR", "AGE", "ENDS", "REQUESTER", "ROUTE")
	for _, m := range mitigations {
		ends := c.until(m.Deadline)
		if m.EndTime != nil {
			ends = c.until(m.EndTime)
		}
		phase := word(m.Phase.String(), "PHASE_")
		if m.Phase == tmv1.Mitigation_PHASE_UNSPECIFIED { // an older controller
			phase = word(m.State.String(), "STATE_")
		}
		head := []string{m.Id, m.Target, phase, dash(m.Incident), c.ago(m.CreateTime), ends, m.Requester}
		routes := m.Routes
		if len(routes) == 0 {
			routes = []string{"-"}
		}
		for _, r := range routes {
			t.row(append(head, r)...)
			head = make([]string, len(head))
		}
		if m.EndReason != "" {
			fmt.Fprintf(&notes, "%s %s: %s\n", clean(m.Id), word(m.State.String(), "STATE_"), clean(m.EndReason))
		} else if m.Reason != "" {
			fmt.Fprintf(&notes, "%s because: %s\n", clean(m.Id), clean(m.Reason))
		}
		if m.Steps > 0 {
			fmt.Fprintf(&notes, "%s step %d of %d: %s\n", clean(m.Id), m.Step, m.Steps, dash(clean(m.StepName)))
		}
		if len(m.Scope) > 0 {
			fmt.Fprintf(&notes, "%s at: %s\n", clean(m.Id), clean(strings.Join(m.Scope, ", ")))
		}
		if f := m.Effect; f.GetMeasureTime() != nil {
			fmt.Fprintf(&notes, "%s measured: %s packets a second before, %s now (%s ago)\n", clean(m.Id), dash(trim(f.BeforePps)), trim(f.Pps), c.ago(f.MeasureTime))
		}
		if asks := c.asks(m); asks != "" {
			fmt.Fprintf(&notes, "%s %s\n", clean(m.Id), asks)
		}
		if m.Evidence != "" {
			fmt.Fprintf(&notes, "%s effect: %s\n", clean(m.Id), clean(m.Evidence))
		}
	}
	return joinNotes(t.String(), notes.String())
}

func (c *cli) routesCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "routes",
		Short: "The desired routes, what each router was sent, and what should not be there",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			r, err := ask(cmd.Context(), c, "list routes", func(ctx context.Context, cl tmv1.ConsoleServiceClient) (*tmv1.ListRoutesResponse, error) {
				return cl.ListRoutes(ctx, &tmv1.ListRoutesRequest{})
			})
			if err != nil {
				return err
			}
			if err := c.print(r, func() error { return c.write(c.routesTable(r)) }); err != nil {
				return err
			}
			return speakerError(r.SpeakerError)
		},
	}
}

func (c *cli) routesTable(r *tmv1.ListRoutesResponse) string {
	all := slices.Concat(r.Routes, r.UnexpectedRoutes)
	if len(all) == 0 {
		return "No routes.\n"
	}
	var peers []string // one column each
	for _, x := range all {
		for _, p := range x.Peers {
			if !slices.Contains(peers, p.Peer) {
				peers = append(peers, p.Peer)
			}
		}
	}
	slices.Sort(peers)
	var t table
	var notes strings.Builder
	t.row(slices.Concat([]string{"", "ENDS", "OWNERS"}, peers, []string{"ROUTE"})...)
	for i, x := range all {
		flag := " "
		if i >= len(r.Routes) {
			flag = "!"
		}
		cells := []string{flag, c.until(x.GetSpec().GetDeadline()), dash(strings.Join(x.GetSpec().GetOwners(), ","))}
		for _, name := range peers {
			state := "-"
			for _, p := range x.Peers {
				if p.Peer != name {
					continue
				}
				state = word(p.State.String(), "STATE_") + installedWords(p)
				routeNotes(&notes, name, x.GetSpec().GetRoute(), p)
				switch p.State {
				case tmv1.PeerRoute_STATE_UNSUPPORTED, tmv1.PeerRoute_STATE_NOT_PLACED, tmv1.PeerRoute_STATE_QUARANTINED, tmv1.PeerRoute_STATE_FAILED:
					fmt.Fprintf(&notes, "%s does not have \"%s\": %s\n", clean(name), clean(x.GetSpec().GetRoute()), clean(p.Reason))
				}
			}
			cells = append(cells, state)
		}
		t.row(append(cells, x.GetSpec().GetRoute())...)
	}
	if n := len(r.UnexpectedRoutes); n > 0 {
		fmt.Fprintf(&notes, "! %d announced though not desired: the speaker withdraws them with its next set, at the latest at their deadline\n", n)
	}
	return joinNotes(t.String(), notes.String())
}

// installedWords says what the router said of a route that was sent, and what it hit there.
func installedWords(p *tmv1.PeerRoute) string {
	var s string
	switch p.Installed {
	case tmv1.PeerRoute_INSTALLED_YES:
		s = ", installed"
	case tmv1.PeerRoute_INSTALLED_NO:
		s = ", NOT installed"
	case tmv1.PeerRoute_INSTALLED_UNKNOWN:
		s = ", installed?"
	default:
		return ""
	}
	if p.HitPackets != nil {
		s += fmt.Sprintf(", hit %d packets", *p.HitPackets)
	}
	return s
}

// routeNotes tells how a route differs at a router from what was asked for.
func routeNotes(w *strings.Builder, peer, route string, p *tmv1.PeerRoute) {
	peer, route = clean(peer), clean(route)
	if len(p.Rules) > 0 {
		fmt.Fprintf(w, "%s has \"%s\" as: %s\n", peer, route, clean(strings.Join(p.Rules, "; ")))
	}
	if p.Widened != "" {
		fmt.Fprintf(w, "%s hits more than \"%s\": %s\n", peer, route, clean(p.Widened))
	}
	switch p.Installed {
	case tmv1.PeerRoute_INSTALLED_NO:
		fmt.Fprintf(w, "%s did not install \"%s\": %s\n", peer, route, clean(p.InstalledReason))
	case tmv1.PeerRoute_INSTALLED_UNKNOWN:
		fmt.Fprintf(w, "whether %s installed \"%s\" is not known: %s\n", peer, route, clean(p.InstalledReason))
	}
}

func (c *cli) holdsCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "holds",
		Short: "The targets automation keeps its hands off",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			r, err := c.listHolds(cmd.Context())
			if err != nil {
				return err
			}
			return c.print(r, func() error {
				if len(r.Holds) == 0 {
					return c.write("No holds.\n")
				}
				return c.write(c.holdsTable(r.Holds))
			})
		},
	}
}

func (c *cli) listHolds(ctx context.Context) (*tmv1.ListHoldsResponse, error) {
	return ask(ctx, c, "list holds", func(ctx context.Context, cl tmv1.ConsoleServiceClient) (*tmv1.ListHoldsResponse, error) {
		return cl.ListHolds(ctx, &tmv1.ListHoldsRequest{})
	})
}

func (c *cli) holdsTable(holds []*tmv1.Hold) string {
	var t table
	t.row("TARGET", "ENDS", "REQUESTER", "REASON")
	for _, h := range holds {
		t.row(h.Target, c.until(h.EndTime), h.Requester, h.Reason)
	}
	return t.String()
}
