package tmctl

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	tmv1 "github.com/amooglesoft/trafficmonitor/api/trafficmonitor/v1"
	"github.com/amooglesoft/trafficmonitor/internal/document"
	"github.com/amooglesoft/trafficmonitor/internal/route"
	"github.com/amooglesoft/trafficmonitor/internal/vector"
	"github.com/amooglesoft/trafficmonitor/policy"
)

func (c *cli) policyCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "policy",
		Short: "The policy in force, as YAML; its subcommands work on files and ask nobody",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			p, err := ask(cmd.Context(), c, "get policy", func(ctx context.Context, cl tmv1.ConsoleServiceClient) (*tmv1.GetPolicyResponse, error) {
				return cl.GetPolicy(ctx, &tmv1.GetPolicyRequest{})
			})
			if err != nil {
				return err
			}
			return c.print(p, func() error {
				head := fmt.Sprintf("# %s, sha256 %s, loaded %s\n", clean(p.Source), clean(p.Hash), c.at(p.LoadTime, "15:04:05"))
				for line := range strings.Lines(p.Error) {
					head += "# refused since: " + clean(strings.TrimRight(line, "\n")) + "\n"
				}
				var text strings.Builder
				for line := range strings.Lines(p.Text) {
					text.WriteString(clean(strings.TrimRight(line, "\r\n")) + "\n")
				}
				return c.write(head + text.String())
			})
		},
	}
	cmd.AddCommand(c.policyCheckCommand(), c.policyTestCommand(), c.policyExplainCommand(), c.policyDiffCommand(), &cobra.Command{
		Use:   "schema",
		Short: "The JSON Schema of a policy, for editors",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			text, err := policy.JSONSchema()
			if err != nil {
				return failed("%w", err)
			}
			return c.write(string(text))
		},
	})
	return cmd
}

// builtin names the default policy where a file is asked for.
const builtin = "default"

func loadPolicy(path string) (*policy.Policy, error) {
	if _, err := os.Stat(path); path == builtin && errors.Is(err, fs.ErrNotExist) {
		return policy.Default(), nil
	}
	return policy.Load(path)
}

// problem is one thing wrong with a file, as -o json shows it.
type problem struct {
	File       string `json:"file"`
	Line       int    `json:"line"`
	Path       string `json:"path"`
	Problem    string `json:"problem"`
	Suggestion string `json:"suggestion"`
}

func problems(err error) []problem {
	var ps document.Problems
	if !errors.As(err, &ps) {
		return []problem{{Problem: err.Error()}}
	}
	out := make([]problem, len(ps))
	for i, p := range ps {
		out[i] = problem{p.File, p.Line, p.Path, p.What, p.Suggestion}
	}
	return out
}

func (c *cli) policyCheckCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "check POLICY",
		Short:   "Read a policy, a file or a directory, as the controller does, and say all that is wrong",
		Example: "  tmctl policy check /etc/trafficmonitor/policy.d",
		Args:    oneArg("a policy"),
		RunE: func(_ *cobra.Command, args []string) error {
			p, err := loadPolicy(args[0])
			out := struct {
				Policy   string    `json:"policy"`
				Hash     string    `json:"hash"`
				Problems []problem `json:"problems"`
			}{args[0], "", []problem{}}
			if err != nil {
				if !c.json() {
					return failed("%w", err)
				}
				out.Problems = problems(err)
				return errors.Join(c.printValue(out, nil), &exitError{ExitFailed, nil})
			}
			out.Hash = p.Hash()
			return c.printValue(out, func() error {
				return c.write(fmt.Sprintf("%s is good, sha256 %s\n", args[0], p.Hash()))
			})
		},
	}
}

// tested is the result of one test, as -o json shows it.
type tested struct {
	Test     string   `json:"test"`
	Place    string   `json:"place"`
	Passed   bool     `json:"passed"`
	Failures []string `json:"failures"`
}

func (c *cli) policyTestCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "test POLICY [TESTS]...",
		Short: "Ask a policy what its tests ask, and say where it answers something else",
		Long: `Asks a policy what its tests ask, and says where it answers something else: exit code 1. Without TESTS they are the files
that end in _test.yaml in the directory of the policy, or for policy.yaml the file policy_test.yaml beside it.`,
		Example: "  tmctl policy test /etc/trafficmonitor/policy.d",
		RunE: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 {
				return usage("POLICY is missing: a file or a directory")
			}
			p, err := loadPolicy(args[0])
			if err != nil {
				return failed("%w", err)
			}
			files := args[1:]
			if len(files) == 0 {
				if files, err = testsOf(args[0]); err != nil {
					return failed("%w", err)
				}
			}
			var wrong []error
			var suites []*policy.Suite
			for _, file := range files {
				text, err := document.ReadFile(file)
				if err == nil {
					var s *policy.Suite
					s, err = policy.ParseSuite(file, text)
					suites = append(suites, s)
				}
				wrong = append(wrong, err)
			}
			if err := errors.Join(wrong...); err != nil {
				return failed("%w", err)
			}
			return c.showTests(p, suites)
		},
	}
}

func (c *cli) showTests(p *policy.Policy, suites []*policy.Suite) error {
	out := []tested{}
	bad := 0
	var text strings.Builder
	for _, s := range suites {
		for _, r := range s.Run(p) {
			out = append(out, tested{r.Name, r.Place, len(r.Failures) == 0, append([]string{}, r.Failures...)})
			if len(r.Failures) == 0 {
				continue
			}
			bad++
			fmt.Fprintf(&text, "%s: %s\n", r.Place, r.Name)
			for _, f := range r.Failures {
				fmt.Fprintf(&text, "    %s\n", f)
			}
		}
	}
	err := c.printValue(out, func() error {
		return c.write(text.String() + fmt.Sprintf("%s, %d failed\n", plural(len(out), "test"), bad))
	})
	if bad > 0 {
		return errors.Join(err, &exitError{ExitFailed, nil})
	}
	return err
}

// testsOf finds the tests that belong to a policy.
func testsOf(path string) ([]string, error) {
	pattern := strings.TrimSuffix(path, filepath.Ext(path)) + policy.TestSuffix
	if info, err := os.Stat(path); err == nil && info.IsDir() {
		pattern = filepath.Join(path, "*"+policy.TestSuffix)
	}
	files, err := filepath.Glob(pattern)
	if err == nil && len(files) == 0 {
		err = fmt.Errorf("%s: there is no such file; name the tests after the policy", pattern)
	}
	return files, err
}

// explained is what a policy makes of an incident, as -o json shows it.
type explained struct {
	Target   string           `json:"target"`
	Vector   string           `json:"vector"`
	Group    string           `json:"group"`
	Limits   []explainedLimit `json:"limits"`
	Response string           `json:"response"`
	Place    string           `json:"place"`
	Steps    []explainedStep  `json:"steps"`
	Reason   string           `json:"reason"`
	Problems []string         `json:"problems"`
}

type explainedLimit struct {
	Key   string `json:"key"`
	Value string `json:"value"`
	Path  string `json:"path"`
	Place string `json:"place"`
}

type explainedStep struct {
	Name      string `json:"name"`
	Action    string `json:"action"`
	Says      string `json:"says"`
	Approvals int    `json:"approvals"`
	TTL       string `json:"ttl"`
	Extend    string `json:"extend"`
	MaxAge    string `json:"max_age"`
}

func (c *cli) policyExplainCommand() *cobra.Command {
	var pps, bps, at, test, collateral string
	var duration time.Duration
	var sensors, hosts int
	var outbound, flaps bool
	cmd := &cobra.Command{
		Use:   "explain POLICY TARGET VECTOR",
		Short: "Which limits, exception and response of a policy hold for a target and a vector, and in which line they stand",
		Long: `Says which limits, exception and response of a policy hold for a target and a vector, and in which line each stands. What
conditions ask about is said by flags; without --pps and --bps nothing is known of the incident, and conditions on it do not hold.
POLICY is a file or a directory; default is the built-in one.`,
		Example: "  tmctl policy explain policy.yaml 203.0.113.5 syn --pps \"300 kpps\" --at 2026-11-28T03:00:00Z",
		RunE: func(_ *cobra.Command, args []string) error {
			if len(args) != 3 {
				return usage("%d arguments: give a policy, a target and a vector", len(args))
			}
			p, err := loadPolicy(args[0])
			if err != nil {
				return failed("%w", err)
			}
			inc := policy.Incident{Test: test, Duration: duration, Sensors: sensors, Hosts: hosts, Flaps: flaps, Collateral: -1, Measured: pps+bps != ""}
			if outbound {
				inc.Direction = vector.Outbound
			}
			now := c.Now()
			var wrong []error
			read := func(what string, err error) {
				if err != nil {
					wrong = append(wrong, fmt.Errorf("%s: %w", what, err))
				}
			}
			inc.Target, err = route.ParsePrefix(args[1])
			read("TARGET", err)
			inc.Vector, err = vector.Parse(args[2])
			read("VECTOR", err)
			if pps != "" {
				inc.PPS, err = document.PPS().Parse(pps)
				read("--pps", err)
			}
			if bps != "" {
				inc.BPS, err = document.BPS().Parse(bps)
				read("--bps", err)
			}
			if collateral != "" {
				inc.Collateral, err = document.Percent(0, 1).Parse(collateral)
				read("--collateral", err)
			}
			if at != "" {
				now, err = time.Parse(time.RFC3339, at)
				read("--at", err)
			}
			if !slices.Contains([]string{"limit", "unanswered", "spoofed", "unusual", "share"}, test) {
				read("--test", fmt.Errorf("%q is not known: limit, unanswered, spoofed, unusual or share", test))
			}
			if err := errors.Join(wrong...); err != nil {
				return usage("%w", err)
			}
			inc.PeakPPS, inc.PeakBPS = inc.PPS, inc.BPS
			return c.showExplanation(inc, p.Why(inc, now))
		},
	}
	f := cmd.Flags()
	f.StringVar(&pps, "pps", "", "packets per second of the vector, such as \"300 kpps\"")
	f.StringVar(&bps, "bps", "", "bits per second of the vector, such as \"2 Gbps\"")
	f.DurationVar(&duration, "duration", 0, "how long the incident lasts")
	f.StringVar(&test, "test", "limit", "what was passed: limit, unanswered, spoofed, unusual or share")
	f.IntVar(&sensors, "sensors", 1, "how many sensors see it")
	f.IntVar(&hosts, "hosts", 1, "in how many hosts of a network it arrives")
	f.BoolVar(&flaps, "flaps", false, "another incident ended shortly before")
	f.StringVar(&collateral, "collateral", "", "the share of normal traffic that the match is predicted to hit, such as 3%")
	f.StringVar(&at, "at", "", "when, such as 2026-11-28T03:00:00Z; now when not given")
	f.BoolVar(&outbound, "outbound", false, "the target sends it")
	return cmd
}

func (c *cli) showExplanation(inc policy.Incident, x policy.Explanation) error {
	out := explained{
		Target: inc.Target.String(), Vector: inc.Vector.String(), Group: x.Group, Limits: []explainedLimit{}, Response: x.Path, Place: x.Place,
		Steps: []explainedStep{}, Reason: x.Reason, Problems: append([]string{}, x.Problems...),
	}
	for _, l := range x.Limits {
		out.Limits = append(out.Limits, explainedLimit{l.Key, l.Value, l.Path, l.Place})
	}
	for _, s := range x.Steps {
		step := explainedStep{Name: s.Name, Action: s.Does(), Says: s.String(), Approvals: s.Approvals}
		if s.Announces() {
			step.TTL, step.Extend, step.MaxAge = document.FormatDuration(s.TTL), document.FormatDuration(s.Extend), document.FormatDuration(s.MaxAge)
		}
		out.Steps = append(out.Steps, step)
	}
	return c.printValue(out, func() error {
		var b strings.Builder
		fmt.Fprintf(&b, "%s of %s belongs to the group %s.\n\n", out.Vector, out.Target, out.Group)
		var t table
		t.row("LIMIT", "VALUE", "FROM", "LINE")
		for _, l := range out.Limits {
			t.row(l.Key, l.Value, l.Path, dash(l.Place))
		}
		if len(out.Limits) == 0 {
			b.WriteString("No limit: it never makes an incident.\n")
		} else {
			b.WriteString(t.String())
		}
		fmt.Fprintf(&b, "\n%s\n", out.Reason)
		if out.Place != "" {
			fmt.Fprintf(&b, "%s stands at %s\n", out.Response, out.Place)
		}
		for i, s := range out.Steps {
			fmt.Fprintf(&b, "  %d. %s", i+1, s.Says)
			if s.TTL != "" {
				fmt.Fprintf(&b, "; for %s, extended by %s, at most %s", s.TTL, s.Extend, s.MaxAge)
			}
			b.WriteString("\n")
		}
		for _, p := range out.Problems {
			fmt.Fprintf(&b, "cannot be computed: %s\n", p)
		}
		return c.write(b.String())
	})
}
