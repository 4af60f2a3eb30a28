// Package tmctl is the command line for engineers: it shows the system and steers it through the ConsoleService, presses the
// red button at a speaker, and makes certificates.
package tmctl

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/user"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/amooglesoft/trafficmonitor/internal/pki"
)

// Exit codes.
const (
	ExitOK          = 0
	ExitFailed      = 1 // it failed or was refused
	ExitUsage       = 2 // the command line, or what it asks for, makes no sense; nothing was done
	ExitUnreachable = 3 // nobody answers, or not in time
	ExitDegraded    = 4 // the system answers, but is not ready or not whole
)

// Where the daemons listen unless they are told otherwise.
const (
	DefaultAddress = "unix:///run/trafficmonitor/console.sock"
	DefaultSpeaker = "unix:///run/trafficmonitor/speaker.sock"
)

// Env is everything tmctl takes from its surroundings.
type Env struct {
	Stdout, Stderr io.Writer
	Getenv         func(string) string
	Now            func() time.Time // nil means time.Now
	Location       *time.Location   // of times shown; nil means time.Local
	Version        string
}

// exitError ends the command with a code. A nil err says nothing more than was printed already.
type exitError struct {
	code int
	err  error
}

func (e *exitError) Error() string {
	if e.err == nil {
		return fmt.Sprintf("exit code %d", e.code)
	}
	return e.err.Error()
}

func (e *exitError) Unwrap() error { return e.err }

func failed(format string, args ...any) error {
	return &exitError{ExitFailed, fmt.Errorf(format, args...)}
}

func usage(format string, args ...any) error {
	return &exitError{ExitUsage, fmt.Errorf(format, args...)}
}

// Run runs one command line, without the program's name, and returns the exit code.
func Run(ctx context.Context, args []string, env Env) int {
	if env.Now == nil {
		env.Now = time.Now
	}
	env.Location = cmp.Or(env.Location, time.Local)
	if env.Getenv == nil {
		env.Getenv = func(string) string { return "" }
	}
	root := Command(env)
	root.SetArgs(args)
	root.SetOut(env.Stdout)
	root.SetErr(env.Stderr)
	cmd, err := root.ExecuteContextC(ctx)
	if err == nil {
		return ExitOK
	}
	var e *exitError
	if !errors.As(err, &e) { // cobra's own errors are about the command line
		e = &exitError{ExitUsage, err}
	}
	if e.err != nil {
		fmt.Fprintf(env.Stderr, "tmctl: %v\n", e.err)
		if e.code == ExitUsage {
			fmt.Fprintf(env.Stderr, "See '%s --help'.\n", cmd.CommandPath())
		}
	}
	return e.code
}

// cli is what all commands share.
type cli struct {
	Env
	address   string
	tls       pki.Files
	timeout   time.Duration
	output    string
	utc       bool
	requester string
	changes   bool // the command changes something, so a missing answer leaves a doubt
}

func (c *cli) json() bool { return c.output == "json" }

// Command returns the tree of all commands.
func Command(env Env) *cobra.Command {
	c := &cli{Env: env}
	root := &cobra.Command{
		Use:   "tmctl",
		Short: "Watch and steer TrafficMonitor",
		Long: `Watch and steer TrafficMonitor.

Exit codes: 0 done; 1 failed or refused; 2 the command line or the request makes no sense, nothing was done;
3 nobody answers; 4 the system answers, but is not ready or not whole.`,
		SilenceUsage:  true,
		SilenceErrors: true,
		Args:          cobra.NoArgs,
		PersistentPreRunE: func(*cobra.Command, []string) error {
			if c.output != "table" && c.output != "json" {
				return usage("--output %q is not known: use table or json", c.output)
			}
			if c.timeout <= 0 {
				return usage("--timeout %v: must be above 0", c.timeout)
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	getenv := env.Getenv
	if getenv == nil {
		getenv = func(string) string { return "" }
	}
	f := root.PersistentFlags()
	f.StringVar(&c.address, "address", cmp.Or(getenv("TMCTL_ADDRESS"), DefaultAddress), "the controller's console: unix:///path or host:port (TMCTL_ADDRESS)")
	f.StringVar(&c.tls.CA, "tls-ca", getenv("TMCTL_TLS_CA"), "file with the CA that vouches for controllers (TMCTL_TLS_CA)")
	f.StringVar(&c.tls.Cert, "tls-cert", getenv("TMCTL_TLS_CERT"), "file with your certificate (TMCTL_TLS_CERT)")
	f.StringVar(&c.tls.Key, "tls-key", getenv("TMCTL_TLS_KEY"), "file with its key (TMCTL_TLS_KEY)")
	f.DurationVar(&c.timeout, "timeout", 10*time.Second, "how long to wait for an answer")
	f.StringVarP(&c.output, "output", "o", "table", "table or json")
	f.BoolVar(&c.utc, "utc", false, "show times in UTC instead of the local zone")
	f.StringVar(&c.requester, "requester", cmp.Or(getenv("TMCTL_REQUESTER"), getenv("SUDO_USER"), getenv("USER"), getenv("LOGNAME"), systemUser()),
		"who asks, where no certificate says it (TMCTL_REQUESTER; else the user's name)")
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return &exitError{ExitUsage, err} })
	root.AddCommand(
		c.statusCommand(), c.sensorsCommand(), c.peersCommand(), c.incidentsCommand(), c.explainCommand(), c.mitigationsCommand(), c.routesCommand(),
		c.announceCommand(), c.withdrawCommand(), c.approveCommand(), c.rejectCommand(), c.extendCommand(), c.holdsCommand(), c.releaseHoldCommand(), c.releaseQuarantineCommand(), c.freezeCommand(true), c.freezeCommand(false),
		c.watchCommand(), c.auditCommand(), c.policyCommand(), c.replayCommand(), c.routeCommand(), c.profilesCommand(), c.pkiCommand(), c.versionCommand(),
	)
	root.CompletionOptions.SetDefaultShellCompDirective(cobra.ShellCompDirectiveNoFileComp)
	_ = root.RegisterFlagCompletionFunc("output", cobra.FixedCompletions([]string{"table", "json"}, cobra.ShellCompDirectiveNoFileComp))
	for _, name := range []string{"tls-ca", "tls-cert", "tls-key"} {
		_ = root.MarkPersistentFlagFilename(name)
	}
	return root
}

// systemUser names the user where the environment does not, as in a unit of systemd. It is never empty: the red button
// must not fail for want of a name.
func systemUser() string {
	if u, err := user.Current(); err == nil && u.Username != "" {
		return u.Username
	}
	return fmt.Sprintf("uid %d", os.Getuid())
}

// needReason refuses an empty reason before anybody is asked.
func needReason(reason string) error {
	if strings.TrimSpace(reason) == "" {
		return usage("--reason is missing: say why, for the colleague who reads this later")
	}
	return nil
}

// oneArg is for commands that take exactly one argument, said in words.
func oneArg(what string) cobra.PositionalArgs {
	return func(_ *cobra.Command, args []string) error {
		if len(args) != 1 {
			return usage("%d arguments: give exactly one, %s", len(args), what)
		}
		return nil
	}
}
