package tmctl

import (
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/amooglesoft/trafficmonitor/internal/pki"
	"github.com/amooglesoft/trafficmonitor/internal/render"
	"github.com/amooglesoft/trafficmonitor/internal/route"
)

func (c *cli) routeCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "route",
		Short: "Work with the text form of routes; asks nobody",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(&cobra.Command{
		Use:   "parse TEXT",
		Short: "Check a route and show its canonical form and its octets",
		Long: `Check a route, in its text or its JSON form, and show its canonical form and what a router gets: the octets of a
FlowSpec rule's NLRI, and those of the extended communities that say what is done.`,
		Example: `  tmctl route parse destination 203.0.113.5 source-port 53,123 protocol 17 then rate-limit 1000kbps
  tmctl route parse '{"match":{"destination":"203.0.113.5/32"},"action":{"do":"discard"}}'`,
		RunE: func(_ *cobra.Command, args []string) error {
			r, err := readRoute("TEXT", args)
			if err != nil {
				return err
			}
			kind := "flowspec"
			if r.IsBlackhole() {
				kind = r.Action.Kind.String()
			}
			out := struct {
				Route       string          `json:"route"`
				JSON        json.RawMessage `json:"json"`
				Kind        string          `json:"kind"`
				Family      string          `json:"family"`
				Identity    string          `json:"identity"`
				NLRI        string          `json:"nlri,omitempty"`
				Extended    string          `json:"extended_communities,omitempty"`
				ExtendedIP6 string          `json:"ipv6_extended_communities,omitempty"`
			}{Route: r.String(), JSON: r.JSON(), Kind: kind, Family: r.Family().String(), Identity: r.ID()}
			if out.NLRI, out.Extended, out.ExtendedIP6, err = octets(r); err != nil {
				return err
			}
			return c.printValue(out, func() error {
				var t table
				t.row("route", out.Route)
				t.row("kind", out.Kind)
				t.row("family", out.Family)
				t.row("identity", out.Identity)
				octetRows(&t, out.NLRI, out.Extended, out.ExtendedIP6)
				return c.write(t.String())
			})
		},
	})
	var as string
	renderCmd := &cobra.Command{
		Use:   "render TEXT --as FORMAT",
		Short: "Write a route in another form, also as configuration of a router",
		Long: `Write a route in another form. Configuration is for the day on which BGP is not to be had: it says just what the route says,
or the command fails and names what the platform cannot say. It has no end of its own: remove it by hand. Read it before
you type it in.

` + render.Describe(),
		Example: `  tmctl route render destination 203.0.113.5 protocol udp source-port 53 then discard --as junos
  tmctl route render 'destination 203.0.113.5 then blackhole' --as frr`,
		RunE: func(_ *cobra.Command, args []string) error {
			if !slices.Contains(render.Formats(), as) {
				return usage("--as %q: use one of %s", as, strings.Join(render.Formats(), ", "))
			}
			r, err := readRoute("TEXT", args)
			if err != nil {
				return err
			}
			out, err := render.As(as, r)
			if err != nil {
				return failed("render %w", err)
			}
			return c.printValue(struct {
				Route    string `json:"route"`
				As       string `json:"as"`
				Rendered string `json:"rendered"`
			}{r.String(), as, out}, func() error { return c.write(out) })
		},
	}
	renderCmd.Flags().StringVar(&as, "as", "", "the form: "+strings.Join(render.Formats(), ", ")+"; required")
	_ = renderCmd.RegisterFlagCompletionFunc("as", cobra.FixedCompletions(render.Formats(), cobra.ShellCompDirectiveNoFileComp))
	cmd.AddCommand(renderCmd)
	return cmd
}

// readRoute reads the words of a route in its text form, or its JSON form.
func readRoute(what string, args []string) (route.Route, error) {
	text := strings.TrimSpace(strings.Join(args, " "))
	if text == "" {
		return route.Route{}, usage("%s is missing, such as: destination 203.0.113.5 protocol udp source-port 53 then discard", what)
	}
	read := route.Parse
	if strings.HasPrefix(text, "{") {
		read = func(s string) (route.Route, error) { return route.ParseJSON([]byte(s)) }
	}
	r, err := read(text)
	if err != nil {
		return route.Route{}, &exitError{ExitUsage, err}
	}
	return r, nil
}

// octets returns in hexadecimal what a router gets of a FlowSpec rule; nothing for a blackhole.
func octets(r route.Route) (nlri, ec, ec6 string, err error) {
	if r.IsBlackhole() {
		return "", "", "", nil
	}
	b, err := route.AppendFlowSpec(nil, r.Match)
	if err != nil {
		return "", "", "", failed("%q cannot be announced: %w", r, err)
	}
	x, x6 := r.Action.ExtendedCommunities()
	return hex.EncodeToString(b), hex.EncodeToString(x), hex.EncodeToString(x6), nil
}

func octetRows(t *table, nlri, ec, ec6 string) {
	for _, x := range []struct{ name, value string }{{"nlri", nlri}, {"extended communities", ec}, {"ipv6 extended communities", ec6}} {
		if x.value != "" {
			t.row(x.name, x.value)
		}
	}
}

func (c *cli) versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "The version of tmctl; tmctl status shows the controller's",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			return c.printValue(map[string]string{"version": c.Version}, func() error { return c.write("tmctl " + c.Version + "\n") })
		},
	}
}

// made is what a pki command made, as -o json shows it.
type made struct {
	CA   string    `json:"ca"`
	Cert string    `json:"cert"`
	Key  string    `json:"key"`
	End  time.Time `json:"end"`
}

func (c *cli) pkiCommand() *cobra.Command {
	var a pki.Authority
	cmd := &cobra.Command{
		Use:   "pki",
		Short: "Make a certificate authority and certificates, for those who have none",
		Long: `Make a certificate authority and certificates (ECDSA P-256), for those who have none. Private keys are readable by their
owner only; keep ca.key away from the network, for whoever has it can announce routes.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	f := cmd.PersistentFlags()
	f.StringVar(&a.Dir, "dir", "pki", "directory of the authority's files")
	f.BoolVar(&a.Force, "force", false, "replace files that exist")
	f.DurationVar(&a.Lifetime, "lifetime", 0, "how long it is valid; 5 years for the authority, 1 year for a certificate when not given")
	check := func() error {
		if a.Lifetime < 0 {
			return usage("--lifetime %v: must not be negative", a.Lifetime)
		}
		a.Now = c.Now
		return nil
	}
	initCmd := &cobra.Command{
		Use:     "init",
		Short:   "Make a certificate authority",
		Example: `  tmctl pki init --dir /etc/trafficmonitor/pki`,
		Args:    cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			if err := check(); err != nil {
				return err
			}
			if _, err := os.Stat(a.Dir); err == nil && a.Force {
				fmt.Fprintln(c.Stderr, "tmctl: every certificate of the authority before this one is worth nothing now: issue them again")
			}
			end, err := a.Create()
			if err != nil {
				return failed("make a certificate authority: %w", err)
			}
			out := made{CA: a.Dir + "/ca.crt", Cert: a.Dir + "/ca.crt", Key: a.Dir + "/ca.key", End: end.UTC()}
			return c.printValue(out, func() error {
				return c.write(fmt.Sprintf("Made %s and %s, valid until %s.\nNext: tmctl pki issue --dir %s --role controller --name controller-1 --host NAME-OR-ADDRESS\n",
					out.Cert, out.Key, end.UTC().Format(time.DateOnly), a.Dir))
			})
		},
	}
	var role, name string
	var hosts []string
	issueCmd := &cobra.Command{
		Use:   "issue",
		Short: "Make a certificate for a controller, a sensor or a person",
		Example: `  tmctl pki issue --role controller --name controller-1 --host controller-1.example --host 192.0.2.10
  tmctl pki issue --role sensor --name rack17
  tmctl pki issue --role operator --name eva --lifetime 2160h`,
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			if err := check(); err != nil {
				return err
			}
			if role == "" || name == "" {
				return usage("--role and --name are required: which role has the holder (%s), and who is it?", strings.Join(pki.Roles(), ", "))
			}
			files, err := a.Issue(role, name, hosts)
			if err != nil {
				return failed("issue a certificate for %s %q: %w", role, name, err)
			}
			end, _, err := files.Expiry()
			if err != nil {
				return failed("read back what was issued: %w", err)
			}
			out := made{CA: files.CA, Cert: files.Cert, Key: files.Key, End: end.UTC()}
			return c.printValue(out, func() error {
				return c.write(fmt.Sprintf("Made %s and %s for %s %q, valid until %s. Its holder also needs %s.\n",
					out.Cert, out.Key, role, name, end.UTC().Format(time.DateOnly), out.CA))
			})
		},
	}
	issueCmd.Flags().StringVar(&role, "role", "", "sensor, controller, viewer, operator or approver; required")
	issueCmd.Flags().StringVar(&name, "name", "", "the holder's name, such as a sensor's or a person's; required")
	issueCmd.Flags().StringArrayVar(&hosts, "host", nil, "DNS name or address a controller is reached at; may be repeated")
	_ = issueCmd.RegisterFlagCompletionFunc("role", cobra.FixedCompletions(pki.Roles(), cobra.ShellCompDirectiveNoFileComp))
	cmd.AddCommand(initCmd, issueCmd)
	return cmd
}
