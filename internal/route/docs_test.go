package route

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
)

// TestDocs holds docs/routes.md against the parser.
func TestDocs(t *testing.T) {
	raw, err := os.ReadFile("../../docs/routes.md")
	if err != nil {
		t.Fatal(err)
	}
	page := string(raw)

	examples := 0
	for line := range strings.Lines(page) {
		example, indented := strings.CutPrefix(strings.TrimRight(line, "\n"), "    ")
		if !indented {
			continue
		}
		examples++
		if got := mustParse(t, example).String(); got != example {
			t.Errorf("the example %q is printed as %q", example, got)
		}
	}
	if examples == 0 {
		t.Error("no example found")
	}

	lines := 0
	_, block, _ := strings.Cut(page, "```json\n")
	block, _, _ = strings.Cut(block, "```")
	for line := range strings.Lines(block) {
		lines++
		if r, err := ParseJSON([]byte(line)); err != nil || string(r.JSON())+"\n" != line {
			t.Errorf("the JSON %s is read as %q, %v", line, r, err)
		}
	}
	if lines == 0 {
		t.Error("no JSON found")
	}

	var m Match
	for _, c := range m.numeric() {
		if row := fmt.Sprintf("| `%s` | %d | 0 to %d", c.word, c.kind, c.max); !strings.Contains(page, row) {
			t.Errorf("no row that begins %q", row)
		}
	}
	words := append(append([]string{}, tcpFlagWords...), fragmentWords...)
	for w := range protocolWords {
		words = append(words, w)
	}
	for _, w := range words {
		if !strings.Contains(page, "`"+w+"`") {
			t.Errorf("the word %q is missing", w)
		}
	}
	for _, n := range []int{MaxNLRI, MaxText} {
		if !strings.Contains(page, fmt.Sprint(" at most ", n)) {
			t.Errorf("the limit %d is missing", n)
		}
	}
	for _, w := range ActionWords() {
		if !strings.Contains(page, "\n| `"+w+"` |") && !strings.Contains(page, "\n| `"+w+" ") {
			t.Errorf("no row for the word %q", w)
		}
	}
	for w := range communityWords {
		if !strings.Contains(page, "`"+w+"`") {
			t.Errorf("the community %q is missing", w)
		}
	}
	// Each row of an action is one: it is said of a rule, or of a blackhole.
	for line := range strings.Lines(page) {
		word, _, ok := strings.Cut(strings.TrimPrefix(line, "| `"), "`")
		if !strings.HasPrefix(line, "| `") || !ok || !slices.Contains(ActionWords(), strings.Fields(word)[0]) {
			continue
		}
		said := 0
		for _, text := range []string{"destination 192.0.2.1 then " + word, "destination 192.0.2.1 then blackhole " + word, "destination 192.0.2.1 then sample " + word, "source 192.0.2.1 then " + word} {
			if _, err := Parse(text); err == nil {
				said++
			}
		}
		if said == 0 {
			t.Errorf("%q is no action", word)
		}
	}
	for _, refused := range []string{"destination 2001:db8::1 then redirect [2001:db8::9]:100"} {
		if r, err := Parse(refused); err == nil {
			t.Errorf("the page says %q is refused; it reads as %q", refused, r)
		}
	}
}
