package tmctl

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	tmv1 "github.com/amooglesoft/trafficmonitor/api/trafficmonitor/v1"
)

func (c *cli) statusCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "status",
		Short: "The state of the whole system; exit code 4 when something is wrong",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			st, err := ask(cmd.Context(), c, "get status", func(ctx context.Context, cl tmv1.ConsoleServiceClient) (*tmv1.GetStatusResponse, error) {
				return cl.GetStatus(ctx, &tmv1.GetStatusRequest{})
			})
			if err != nil {
				return err
			}
			wrong := whatIsWrong(st)
			if err := c.print(st, func() error { return c.write(c.statusTable(st, wrong)) }); err != nil {
				return err
			}
			if len(wrong) > 0 {
				return &exitError{code: ExitDegraded}
			}
			return nil
		},
	}
}

// whatIsWrong lists everything that keeps the system from being whole, each with where to look.
func whatIsWrong(st *tmv1.GetStatusResponse) []string {
	var wrong []string
	add := func(format string, args ...any) { wrong = append(wrong, fmt.Sprintf(format, args...)) }
	for _, reason := range st.NotReady {
		add("not ready: %s", reason)
	}
	if st.Leader == "" {
		add("there is no leader: nothing new is decided; look at the controllers and at etcd")
	}
	if st.Freeze != nil {
		add("automation is frozen: tmctl unfreeze --reason ... resumes it")
	}
	if b := st.Breaker; b.GetState() == tmv1.Breaker_STATE_OPEN {
		add("the circuit breaker stopped automation: tmctl audit --kind breaker_opened says what it found")
	}
	if n := st.Breaker.GetHeldTargets(); n > 0 {
		add("the circuit breaker withdrew what did harm and holds automation off %d targets: tmctl holds", n)
	}
	for _, f := range st.GroupFreezes {
		if f.UnknownGroup {
			add("group %s is frozen, but the policy in force has no such group, so that stops nothing: tmctl unfreeze --group %s --reason ... lifts it", f.Group, f.Group)
			continue
		}
		add("automation is frozen in group %s: tmctl unfreeze --group %s --reason ... resumes it", f.Group, f.Group)
	}
	if st.SensorsStale > 0 {
		add("%d of %d sensors do not report: tmctl sensors", st.SensorsStale, st.SensorsKnown)
	}
	if down := int(st.PeersConfigured) - int(st.PeersEstablished); down > 0 {
		add("%d of %d routers have no session: tmctl peers", down, st.PeersConfigured)
	}
	if st.PeersWaiting > 0 {
		add("%d of %d routers have a session and get nothing yet, for the routes are not confirmed to be those of the store: tmctl peers says until when at most", st.PeersWaiting, st.PeersConfigured)
	}
	if st.UnconfirmedTime != nil {
		add("since %s the speaker of this controller was not told that its routes are those of the store: what was withdrawn since then, here or elsewhere, it still announces, until the deadline; its red button withdraws all it has: tmctl withdraw --all --now on its machine",
			st.UnconfirmedTime.AsTime().Format(time.RFC3339))
	}
	if st.PeersStalled > 0 {
		add("%d of %d routers have a session and take nothing of what they are sent, neither rules nor withdrawals: tmctl peers", st.PeersStalled, st.PeersConfigured)
	}
	for _, held := range st.HeldFamilies {
		router, family, _ := strings.Cut(held, " ")
		add("%s resets its session upon whatever it gets of %s, so nothing of that is sent there: tmctl peers says until when and what to do", clean(router), clean(family))
	}
	if st.PolicyError != "" {
		add("the newest policy was refused, the one before is in force: %s", st.PolicyError)
	}
	if why := st.ShadowPolicy.GetError(); why != "" {
		add("the newest shadow policy was refused, the one before is asked: %s", why)
	}
	return wrong
}

func (c *cli) statusTable(st *tmv1.GetStatusResponse, wrong []string) string {
	var t table
	t.row("controller", fmt.Sprintf("%s %s, up %s", st.Controller, st.Version, c.ago(st.StartTime)))
	leader := "none"
	if st.Leader != "" {
		leader = fmt.Sprintf("%s, term %d", st.Leader, st.Term)
		if st.IsLeader {
			leader += ", the one that answers"
		}
	}
	t.row("leader", leader)
	ready := "yes"
	if len(st.NotReady) > 0 {
		ready = "no"
	}
	t.row("ready", ready)
	frozen := func(f *tmv1.Freeze) string {
		return fmt.Sprintf("frozen since %s by %s: %s", c.at(f.StartTime, "15:04:05"), f.Requester, f.Reason)
	}
	automation := "running"
	if f := st.Freeze; f != nil {
		automation = frozen(f)
	}
	t.row("automation", automation)
	t.row("breaker", c.breaker(st.Breaker))
	for _, f := range st.GroupFreezes {
		t.row("  group "+f.Group, frozen(f))
	}
	t.row("sensors", fmt.Sprintf("%d known, %d stale", st.SensorsKnown, st.SensorsStale))
	t.row("routers", fmt.Sprintf("%d of %d established", st.PeersEstablished, st.PeersConfigured))
	t.row("incidents", fmt.Sprintf("%d active", st.IncidentsActive))
	t.row("mitigations", fmt.Sprintf("%d active", st.MitigationsActive))
	t.row("routes", fmt.Sprintf("%d desired, %d sent (summed over routers)", st.RoutesDesired, st.RoutesSent))
	t.row("policy", fmt.Sprintf("%s, sha256 %s", dash(st.PolicySource), dash(st.PolicyHash[:min(12, len(st.PolicyHash))])))
	if p := st.ShadowPolicy; p != nil {
		t.row("shadow policy", fmt.Sprintf("%s, sha256 %s, loaded %s ago: otherwise at %d of %d vectors that ended", dash(p.Source), dash(p.Hash[:min(12, len(p.Hash))]), c.ago(p.LoadTime), p.DifferingVectors, p.JudgedVectors))
	}
	out := t.String()
	if len(wrong) > 0 {
		out += "\nNot whole:\n"
		for _, w := range wrong {
			out += "  " + clean(w) + "\n"
		}
	}
	return out
}

func (c *cli) breaker(b *tmv1.Breaker) string {
	switch b.GetState() {
	case tmv1.Breaker_STATE_OPEN:
		return fmt.Sprintf("open since %s: %s", c.at(b.OpenTime, "15:04:05"), b.Reason)
	case tmv1.Breaker_STATE_OFF:
		return "off"
	case tmv1.Breaker_STATE_CLOSED:
		if b.HeldTargets > 0 {
			return fmt.Sprintf("closed, %d targets held", b.HeldTargets)
		}
		return "closed"
	}
	return "not known"
}

func joinNotes(table, notes string) string {
	if notes == "" {
		return table
	}
	return table + "\n" + notes
}

func (c *cli) peersCommand() *cobra.Command {
	var group string
	cmd := &cobra.Command{
		Use:     "peers",
		Aliases: []string{"routers"},
		Short:   "The routers and their BGP sessions",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			r, err := ask(cmd.Context(), c, "list peers", func(ctx context.Context, cl tmv1.ConsoleServiceClient) (*tmv1.ListPeersResponse, error) {
				return cl.ListPeers(ctx, &tmv1.ListPeersRequest{})
			})
			if err != nil {
				return err
			}
			if group != "" {
				if r.Peers, err = inGroup(r.Peers, group); err != nil {
					return err
				}
			}
			if err := c.print(r, func() error { return c.write(c.peersTable(r)) }); err != nil {
				return err
			}
			return speakerError(r.SpeakerError)
		},
	}
	cmd.Flags().StringVar(&group, "group", "", "only the routers of this group, a name of speaker.peer_groups")
	return cmd
}

// speakerError says that an answer is old or partial because the speaker did not give its part.
func speakerError(reason string) error {
	if reason == "" {
		return nil
	}
	return &exitError{ExitDegraded, fmt.Errorf("the speaker cannot be asked, so this is what was known last: %s", clean(reason))}
}

func (c *cli) peersTable(r *tmv1.ListPeersResponse) string {
	if len(r.Peers) == 0 {
		return "No router is configured.\n"
	}
	var t table
	var notes strings.Builder
	grouped := slices.ContainsFunc(r.Peers, func(p *tmv1.Peer) bool { return p.Group != "" })
	row := func(name, group string, more ...string) {
		cells := []string{name}
		if grouped {
			cells = append(cells, dash(group))
		}
		t.row(append(cells, more...)...)
	}
	row("ROUTER", "GROUP", "ADDRESS", "ASN", "STATE", "FOR", "SENT/DESIRED", "PENDING", "LACKS", "INSTALLED", "PROFILE", "FAMILIES", "ESTABLISHED")
	for _, p := range r.Peers {
		row(p.Name, p.Group, p.Address, fmt.Sprint(p.Asn), word(p.State.String(), "SESSION_STATE_"), c.ago(p.StateTime),
			fmt.Sprintf("%d/%d", p.SentRoutes, p.DesiredRoutes), fmt.Sprint(p.PendingRoutes), dash(lacks(p)), probed(p), dash(p.Profile), dash(strings.Join(p.Families, ",")), fmt.Sprintf("%d times", p.EstablishedCount))
		if len(p.MissingFamilies) > 0 {
			fmt.Fprintf(&notes, "%s does not take %s: its routes of that kind are not sent\n", clean(p.Name), clean(strings.Join(p.MissingFamilies, ", ")))
		}
		if p.StoreWaitUntilTime != nil {
			fmt.Fprintf(&notes, "%s: nothing is announced yet: the controller has not said that the routes are those of the store; they are sent then, or at %s at the latest (speaker.store_wait)\n",
				clean(p.Name), p.StoreWaitUntilTime.AsTime().Format(time.RFC3339))
		}
		if p.StallTime != nil {
			fmt.Fprintf(&notes, "%s: the session is up and the router has taken nothing of what it is sent for %s: rules and withdrawals wait on the way; look at its load and at the path to it\n",
				clean(p.Name), c.ago(p.StallTime))
		}
		for _, h := range p.HeldFamilies {
			fmt.Fprintf(&notes, "%s: %s\n", clean(p.Name), clean(h.Reason))
		}
		if p.ProbeError != "" {
			fmt.Fprintf(&notes, "%s: the last probe had no answer: %s\n", clean(p.Name), clean(p.ProbeError))
		}
		if p.LastError != "" {
			fmt.Fprintf(&notes, "%s: last error, %s ago: %s\n", clean(p.Name), c.ago(p.LastErrorTime), clean(p.LastError))
		}
	}
	return joinNotes(t.String(), notes.String())
}

// inGroup returns the routers of a group. That there are none is an error, which names the groups there are.
func inGroup(peers []*tmv1.Peer, group string) (in []*tmv1.Peer, err error) {
	var groups []string
	for _, p := range peers {
		if p.Group == group {
			in = append(in, p)
		}
		if p.Group != "" && !slices.Contains(groups, p.Group) {
			groups = append(groups, p.Group)
		}
	}
	switch {
	case len(in) > 0:
		return in, nil
	case len(groups) == 0:
		return nil, fmt.Errorf("no router is in group %q: the configuration has no groups that routers are in", group)
	}
	slices.Sort(groups)
	return nil, fmt.Errorf("no router is in group %q; there are %s", group, clean(strings.Join(groups, ", ")))
}

// probed says of how many rules the router told that they are installed.
func probed(p *tmv1.Peer) string {
	if p.ProbeTime == nil {
		return "-"
	}
	s := fmt.Sprint(p.InstalledRules)
	if p.NotInstalledRules > 0 {
		s += fmt.Sprintf(", NOT %d", p.NotInstalledRules)
	}
	return s
}

// lacks says what a router does not get of the desired routes, and why.
func lacks(p *tmv1.Peer) string {
	var out []string
	for _, x := range []struct {
		n    uint32
		what string
	}{{p.UnsupportedRoutes, "unsupported"}, {p.NotPlacedRoutes, "not placed"}, {p.QuarantinedRoutes, "quarantined"}, {p.FailedRoutes, "failed"}} {
		if x.n > 0 {
			out = append(out, fmt.Sprintf("%d %s", x.n, x.what))
		}
	}
	return strings.Join(out, ", ")
}

// word writes a value of an enumeration for people: SESSION_STATE_OPEN_SENT becomes open-sent.
func word(value, prefix string) string {
	return strings.ReplaceAll(strings.ToLower(strings.TrimPrefix(value, prefix)), "_", "-")
}
