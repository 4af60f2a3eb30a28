package route

import (
	"fmt"
	"os"
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
	for _, refused := range []string{
		"destination 192.0.2.1 then redirect 64500:100",
		"destination 192.0.2.1 then mark 10", "destination 192.0.2.1 then sample", "source 192.0.2.1 then blackhole",
		"destination 192.0.2.1 then blackhole next-hop 192.0.2.9",
	} {
		if r, err := Parse(refused); err == nil {
			t.Errorf("the page says %q is refused; it reads as %q", refused, r)
		}
	}
}
