package tmctl

import (
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/amooglesoft/trafficmonitor/internal/compile"
	"github.com/amooglesoft/trafficmonitor/internal/document"
	"github.com/amooglesoft/trafficmonitor/internal/profile"
	"github.com/amooglesoft/trafficmonitor/internal/route"
)

// profileOut is a profile as -o json shows it.
type profileOut struct {
	Name     string            `json:"name"`
	Platform string            `json:"platform"`
	File     string            `json:"file"`
	Keys     map[string]string `json:"keys"`
	Setup    []string          `json:"setup"`
	Facts    []factOut         `json:"facts"`
}

type factOut struct {
	About  []string `json:"about"`
	Says   string   `json:"says"`
	Source string   `json:"source"`
	Where  string   `json:"where"`
}

func (c *cli) profilesCommand() *cobra.Command {
	var dir string
	var widen []string
	cmd := &cobra.Command{
		Use:   "profiles [NAME [ROUTE]]",
		Short: "What is known of each kind of router, from where, and what a route becomes there; asks nobody",
		Example: `  tmctl profiles junos-mx
  tmctl profiles junos-mx destination 203.0.113.5 protocol udp port 53,123 destination-port 50-60 then discard`,
		RunE: func(_ *cobra.Command, args []string) error {
			set, err := profile.Load(dir)
			if err != nil {
				return failed("%w", err)
			}
			if len(args) == 0 {
				out := make([]profileOut, len(set))
				for i, p := range set {
					out[i] = showProfile(p)
				}
				return c.printValue(out, func() error { return c.write(profilesTable(set)) })
			}
			p, ok := set.Get(args[0])
			if !ok {
				if near := document.Nearest(args[0], set.Names()); near != "" {
					return usage("%q is not a profile; did you mean %q?", args[0], near)
				}
				return usage("%q is not a profile; there are %s", args[0], strings.Join(set.Names(), ", "))
			}
			if len(args) > 1 {
				return c.routeAt(p, widen, strings.Join(args[1:], " "))
			}
			return c.printValue(showProfile(p), func() error { return c.write(profileText(p)) })
		},
	}
	cmd.Flags().StringVar(&dir, "dir", "", "also the profiles of this directory, as the controller's speaker.profiles")
	cmd.Flags().StringSliceVar(&widen, "widen", nil, "components that may match more there, as a peer's widen")
	return cmd
}

// routeAt shows what a route becomes at a router of this kind that has room.
func (c *cli) routeAt(p profile.Profile, widen []string, text string) error {
	r, err := route.Parse(text)
	if err != nil {
		return &exitError{ExitUsage, err}
	}
	p.Router.Widen = widen
	if errs := p.Router.Check(); len(errs) > 0 {
		return usage("%w", errors.Join(errs...))
	}
	d := compile.Compile([]compile.Entry{{Route: r}}, p.Router).Decisions[0]
	out := struct {
		Profile string   `json:"profile"`
		Route   string   `json:"route"`
		Rules   []string `json:"rules"`
		Entries int      `json:"entries"`
		Widened []string `json:"widened"`
		Reason  string   `json:"reason"`
	}{p.Router.Name, r.String(), []string{}, d.Cost, d.Widened, d.Reason}
	if d.Outcome == compile.Placed && d.Rules == nil {
		d.Rules = []route.Route{r}
	}
	for _, rule := range d.Rules {
		out.Rules = append(out.Rules, rule.String())
	}
	shown := c.printValue(out, func() error {
		var b strings.Builder
		for _, rule := range out.Rules {
			b.WriteString(rule + "\n")
		}
		if len(out.Rules) > 0 && !r.IsBlackhole() {
			fmt.Fprintf(&b, "\nentries of hardware, as the profile counts: %d\n", out.Entries)
		}
		for _, w := range out.Widened {
			fmt.Fprintf(&b, "hits more than was asked for: %s\n", w)
		}
		return c.write(b.String())
	})
	if shown == nil && d.Outcome != compile.Placed {
		return failed("%s would not get it: %s", p.Router.Name, d.Reason)
	}
	return shown
}

func showProfile(p profile.Profile) profileOut {
	out := profileOut{Name: p.Router.Name, Platform: p.Platform, File: p.File, Keys: map[string]string{}, Setup: p.Setup}
	for _, l := range p.Describe() {
		out.Keys[l.Key] = l.Value
	}
	for _, f := range p.Facts {
		out.Facts = append(out.Facts, factOut{f.About, f.Says, string(f.Source), f.Where})
	}
	return out
}

func profilesTable(set profile.Set) string {
	var t table
	t.row("PROFILE", "PLATFORM", "ROOM", "PROBE", "UNCONFIRMED")
	for _, p := range set {
		unconfirmed := 0
		for _, f := range p.Facts {
			if f.Source == profile.SecondHand {
				unconfirmed++
			}
		}
		room := "-"
		switch b := p.Router.Budget; {
		case b.Shared > 0:
			room = fmt.Sprintf("%d entries", b.Shared)
		case b.IPv4 > 0 || b.IPv6 > 0:
			room = fmt.Sprintf("%d entries IPv4, %d IPv6", b.IPv4, b.IPv6)
		case p.Router.MaxRules > 0:
			room = fmt.Sprintf("%d routes", p.Router.MaxRules)
		}
		t.row(p.Router.Name, p.Platform, room, dash(p.Probe.Parser), fmt.Sprintf("%d of %d facts", unconfirmed, len(p.Facts)))
	}
	return t.String()
}

func profileText(p profile.Profile) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s: %s (%s)\n\n", p.Router.Name, p.Platform, p.File)
	var t table
	for _, l := range p.Describe() {
		t.row(l.Key, l.Value)
	}
	b.WriteString(t.String())
	if len(p.Setup) > 0 {
		b.WriteString("\nOn the router:\n")
		for _, s := range p.Setup {
			fmt.Fprintf(&b, "- %s\n", s)
		}
	}
	b.WriteString("\nFrom where:\n")
	for _, f := range p.Facts {
		source := string(f.Source)
		if f.Source == profile.SecondHand {
			source = "UNCONFIRMED"
		}
		fmt.Fprintf(&b, "- %s: %s [%s: %s]\n", strings.Join(f.About, ", "), f.Says, source, f.Where)
	}
	return b.String()
}
