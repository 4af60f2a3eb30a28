package tmctl

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/amooglesoft/trafficmonitor/internal/document"
	"github.com/amooglesoft/trafficmonitor/internal/profile"
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
	cmd := &cobra.Command{
		Use:   "profiles [NAME]",
		Short: "What is known of each kind of router, and from where; asks nobody",
		Args:  cobra.MaximumNArgs(1),
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
			return c.printValue(showProfile(p), func() error { return c.write(profileText(p)) })
		},
	}
	cmd.Flags().StringVar(&dir, "dir", "", "also the profiles of this directory, as the controller's speaker.profiles")
	return cmd
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
