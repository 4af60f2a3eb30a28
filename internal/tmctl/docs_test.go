package tmctl

import (
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

func TestDocumentationNamesEverything(t *testing.T) {
	b, err := os.ReadFile("../../docs/tmctl.md")
	if err != nil {
		t.Fatal(err)
	}
	text := string(b)
	root := Command(Env{})
	root.InitDefaultCompletionCmd()
	var visit func(*cobra.Command)
	visit = func(c *cobra.Command) {
		if c.Name() == "help" || c.Parent() != nil && c.Parent().Name() == "completion" {
			return
		}
		if !strings.Contains(text, c.CommandPath()) {
			t.Errorf("docs/tmctl.md does not name %q", c.CommandPath())
		}
		c.LocalFlags().VisitAll(func(f *pflag.Flag) {
			if !regexp.MustCompile("--" + regexp.QuoteMeta(f.Name) + `\b`).MatchString(text) {
				t.Errorf("docs/tmctl.md does not name --%s of %q", f.Name, c.CommandPath())
			}
		})
		for _, sub := range c.Commands() {
			visit(sub)
		}
	}
	visit(root)
	for _, name := range []string{"TMCTL_ADDRESS", "TMCTL_TLS_CA", "TMCTL_TLS_CERT", "TMCTL_TLS_KEY", "TMCTL_REQUESTER", "TMCTL_SPEAKER"} {
		if !strings.Contains(text, name) {
			t.Errorf("docs/tmctl.md does not name %s", name)
		}
	}
}

// TestDocumentedCommandsParse runs every "tmctl ..." line of the documentation's examples as far as its command line goes.
func TestDocumentedCommandsParse(t *testing.T) {
	b, err := os.ReadFile("../../docs/tmctl.md")
	if err != nil {
		t.Fatal(err)
	}
	lines := regexp.MustCompile(`(?m)^(?:sudo )?tmctl ([^<|\n]+)(?:\|.*)?$`).FindAllStringSubmatch(string(b), -1)
	if len(lines) < 10 {
		t.Fatalf("%d examples found", len(lines))
	}
	words := regexp.MustCompile(`"[^"]*"|'[^']*'|\S+`)
	for _, l := range lines {
		args := words.FindAllString(l[1], -1)
		for i, a := range args {
			args[i] = strings.Trim(a, `"'`)
		}
		if args[0] == "policy" { // works on files, which are not there
			if r := run(t.Context(), nil, args...); r.code == ExitUsage {
				t.Errorf("%q: %s", l[1], r.stderr)
			}
			continue
		}
		if args[0] == "pki" {
			args = append(args, "--lifetime=-1s") // stops before it makes files
		}
		r := run(t.Context(), map[string]string{"TMCTL_ADDRESS": "unix:///nowhere/c.sock", "TMCTL_SPEAKER": "unix:///nowhere/s.sock", "USER": "eva"}, args...)
		if want := ExitUnreachable; args[0] == "pki" && !strings.Contains(r.stderr, "--lifetime") || args[0] != "pki" && r.code != want {
			t.Errorf("%q: exit code %d: %s", l[1], r.code, r.stderr)
		}
	}
}
