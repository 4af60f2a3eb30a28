package mitigation

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// TestDrawing holds docs/lifecycle.md against the transitions and phases there are.
func TestDrawing(t *testing.T) {
	b, err := os.ReadFile("../../docs/lifecycle.md")
	if err != nil {
		t.Fatal(err)
	}
	var want, got []string
	for from, to := range Transitions() {
		if from == "" {
			from = "[*]"
		}
		for _, p := range to {
			want = append(want, string(from)+" "+string(p))
		}
	}
	for _, m := range regexp.MustCompile(`(?m)^    (\S+) --> (\S+)$`).FindAllStringSubmatch(string(b), -1) {
		got = append(got, m[1]+" "+m[2])
	}
	slices.Sort(want)
	slices.Sort(got)
	if !slices.Equal(want, got) {
		t.Errorf("docs/lifecycle.md draws\n%s\nand the machine has\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	for _, p := range Phases() {
		if !strings.Contains(string(b), "\n| `"+string(p)+"` |") {
			t.Errorf("docs/lifecycle.md has no row for %s", p)
		}
	}
}
