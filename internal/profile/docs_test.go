package profile

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "write the generated parts of docs/profiles.md")

const reference = "../../docs/profiles.md"

// docs/profiles.md says of every platform what its profile says, and of every key what it means.
func TestReferenceDocumentation(t *testing.T) {
	b, err := os.ReadFile(reference)
	if err != nil {
		t.Fatal(err)
	}
	doc := replaceBetween(t, string(b), "keys", keyTable())
	doc = replaceBetween(t, doc, "profiles", platforms(shippedSet(t)))
	if *update {
		if err := os.WriteFile(reference, []byte(doc), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if d := cmp.Diff(string(b), doc); d != "" {
		t.Errorf("docs/profiles.md and the profiles differ (go test -update writes it):\n%s", d)
	}
}

func keyTable() string {
	var b strings.Builder
	b.WriteString("\n| key | type | meaning |\n|---|---|---|\n")
	for _, k := range Keys() {
		typ := k.Type
		if k.Required {
			typ += "; required"
		}
		if k.Group {
			typ = ""
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s |\n", k.Path, typ, k.Help)
	}
	return b.String() + "\n"
}

func platforms(set Set) string {
	var b strings.Builder
	for _, p := range set {
		fmt.Fprintf(&b, "\n### %s\n\n%s.\n\n", p.Router.Name, p.Platform)
		if lines := p.Describe(); len(lines) > 0 {
			b.WriteString("| key | value |\n|---|---|\n")
			for _, l := range lines {
				fmt.Fprintf(&b, "| `%s` | %s |\n", l.Key, l.Value)
			}
			b.WriteString("\n")
		}
		if len(p.Setup) > 0 {
			b.WriteString("On the router:\n\n")
			for _, s := range p.Setup {
				fmt.Fprintf(&b, "- %s\n", s)
			}
			b.WriteString("\n")
		}
		b.WriteString("| about | fact | source |\n|---|---|---|\n")
		for _, f := range p.Facts {
			source := string(f.Source)
			if f.Source == SecondHand {
				source = "**unconfirmed**"
			}
			fmt.Fprintf(&b, "| %s | %s | %s: %s |\n", strings.Join(f.About, ", "), f.Says, source, f.Where)
		}
	}
	return b.String() + "\n"
}

func replaceBetween(t *testing.T, doc, name, text string) string {
	t.Helper()
	begin, end := "<!-- begin "+name+" -->\n", "<!-- end "+name+" -->\n"
	before, rest, ok := strings.Cut(doc, begin)
	_, after, ok2 := strings.Cut(rest, end)
	if !ok || !ok2 {
		t.Fatalf("docs/profiles.md lacks the marks of %s", name)
	}
	return before + begin + text + end + after
}
