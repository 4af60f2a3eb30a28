package tmctl

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestCommandsForTheNightParse runs every "tmctl ..." line of the operations page and the runbooks as far as its command
// line goes: nobody wants to learn at three in the morning that a flag has another name.
func TestCommandsForTheNightParse(t *testing.T) {
	pages, err := filepath.Glob("../../docs/runbooks/*.md")
	if err != nil || len(pages) == 0 {
		t.Fatalf("no runbooks: %v", err)
	}
	line := regexp.MustCompile(`(?m)^\s*(?:sudo )?tmctl ([^|\n]+)`)
	comment := regexp.MustCompile(`\s+#.*`)
	words := regexp.MustCompile(`"[^"]*"|'[^']*'|\S+`)
	found := 0
	for _, page := range append(pages, "../../docs/operations.md") {
		b, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		blocks := strings.Split(string(b), "```")
		for i := 1; i < len(blocks); i += 2 { // every second one is code
			for _, l := range line.FindAllStringSubmatch(blocks[i], -1) {
				found++
				args := words.FindAllString(comment.ReplaceAllString(l[1], ""), -1)
				for i, a := range args {
					args[i] = strings.Trim(a, `"'`)
				}
				r := run(t.Context(), map[string]string{"TMCTL_ADDRESS": "unix:///nowhere/c.sock", "TMCTL_SPEAKER": "unix:///nowhere/s.sock", "USER": "eva"}, args...)
				if r.code != ExitUnreachable {
					t.Errorf("%s: %q: exit code %d: %s", filepath.Base(page), l[1], r.code, r.stderr)
				}
			}
		}
	}
	if found < 30 {
		t.Errorf("%d commands found", found)
	}
}
