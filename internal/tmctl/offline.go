package tmctl

import (
	"encoding/hex"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/amooglesoft/trafficmonitor/internal/pki"
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
		Use:     "parse TEXT",
		Short:   "Check a route and show its canonical form",
		Example: `  tmctl route parse destination 203.0.113.5 source-port 53,123 protocol 17 then rate-limit 1000kbps`,
		RunE: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 {
				return usage("TEXT is missing, such as: destination 203.0.113.5 protocol udp source-port 53 then discard")
			}
			r, err := route.Parse(strings.Join(args, " "))
			if err != nil {
				return &exitError{ExitUsage, err}
			}
			kind := "flowspec"
			if r.IsBlackhole() {
				kind = "blackhole"
			}
			out := struct {
				Route    string `json:"route"`
				Kind     string `json:"kind"`
				Family   string `json:"family"`
				Identity string `json:"identity"`
				NLRI     string `json:"nlri,omitempty"`
			}{r.String(), kind, r.Family().String(), r.ID(), ""}
			if !r.IsBlackhole() {
				nlri, err := route.AppendFlowSpec(nil, r.Match)
				if err != nil {
					return failed("%q cannot be announced: %w", r, err)
				}
				out.NLRI = hex.EncodeToString(nlri)
			}
			return c.printValue(out, func() error {
				var t table
				t.row("route", out.Route)
				t.row("kind", out.Kind)
				t.row("family", out.Family)
				t.row("identity", out.Identity)
				if out.NLRI != "" {
					t.row("nlri", out.NLRI)
				}
				return c.write(t.String())
			})
		},
	})
	return cmd
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
