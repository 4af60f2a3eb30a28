package policy

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/amooglesoft/trafficmonitor/internal/document"
	"github.com/amooglesoft/trafficmonitor/internal/vector"
)

const reference = "../docs/policy.md"

// TestReferenceDocumentation keeps the tables of docs/policy.md in step with the schema and the vectors: they are
// written from them.
func TestReferenceDocumentation(t *testing.T) {
	b, err := os.ReadFile(reference)
	if err != nil {
		t.Fatal(err)
	}
	var vectors, keys strings.Builder
	for _, v := range vector.All() {
		fmt.Fprintf(&vectors, "| `%s` | %s |\n", v.Name, v.Says)
	}
	keys.WriteString("| key | type | default | meaning | danger |\n|---|---|---|---|---|\n")
	for _, k := range document.Keys(newFile().schema()) {
		if k.Help == "" {
			t.Errorf("%s has no explanation", k.Path)
		}
		value := ""
		switch {
		case k.Required:
			value = "required"
		case k.Default != "":
			value = "`" + k.Default + "`"
		case !k.Group:
			value = "inherited"
		}
		switch key := k.Path[strings.LastIndex(k.Path, ".")+1:]; {
		case sameKeys(k.Path):
			continue
		case k.Path == "exceptions[].until":
			value = "never"
		case slices.Contains([]string{"action", "when", "name", "after", "if", "max_collateral", "approval", "down_after", "probe"}, key) && !k.Required:
			value = "none"
		}
		fmt.Fprintf(&keys, "| `%s` | %s | %s | %s | %s |\n", k.Path, k.Type, value, k.Help, k.Danger)
	}
	doc := between(t, string(b), "vectors", vectors.String())
	doc = between(t, doc, "keys", keys.String())
	var suite strings.Builder
	suite.WriteString("| key | type | default | meaning |\n|---|---|---|---|\n")
	version := 0
	for _, k := range document.Keys(suiteSchema(&version, new([]test))) {
		value := ""
		switch {
		case k.Required:
			value = "required"
		case k.Default != "":
			value = "`" + k.Default + "`"
		}
		fmt.Fprintf(&suite, "| `%s` | %s | %s | %s |\n", k.Path, k.Type, value, k.Help)
	}
	doc = between(t, doc, "suite", suite.String())
	for _, x := range []struct {
		name string
		of   []name
	}{{"evidence", evidenceNames}, {"incident", incidentNames}} {
		var names strings.Builder
		names.WriteString("| name | type | is |\n|---|---|---|\n")
		for _, n := range x.of {
			fmt.Fprintf(&names, "| `%s` | %s | %s |\n", n.name, typeName(n.typ.String()), n.says)
		}
		doc = between(t, doc, x.name, names.String())
	}
	if *update {
		if err := os.WriteFile(reference, []byte(doc), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if d := cmp.Diff(string(b), doc); d != "" {
		t.Errorf("docs/policy.md and the schema differ (go test -update writes it):\n%s", d)
	}
}

// sameKeys reports whether a key of a group is told at the top of the file.
func sameKeys(path string) bool {
	rest, ok := strings.CutPrefix(path, "groups.NAME.")
	return ok && strings.Contains(rest, "[].")
}

func between(t *testing.T, doc, name, text string) string {
	t.Helper()
	begin, end := "<!-- begin "+name+" -->\n", "<!-- end "+name+" -->\n"
	before, rest, ok := strings.Cut(doc, begin)
	_, after, ok2 := strings.Cut(rest, end)
	if !ok || !ok2 {
		t.Fatalf("docs/policy.md lacks the marks of %s", name)
	}
	return before + begin + text + end + after
}

// TestWorkedExamples reads every policy of docs/policy.md and asks it what stands under it.
func TestWorkedExamples(t *testing.T) {
	b, err := os.ReadFile(reference)
	if err != nil {
		t.Fatal(err)
	}
	examples := strings.Split(string(b), "```yaml\n")[1:]
	if len(examples) < 4 {
		t.Fatalf("%d examples", len(examples))
	}
	for i, example := range examples {
		text, rest, _ := strings.Cut(example, "```\n")
		p, err := Parse(fmt.Sprintf("docs/policy.md, example %d", i+1), []byte(text))
		if err != nil {
			t.Error(err)
			continue
		}
		_, rest, ok := strings.Cut(rest, "```answers\n")
		answers, _, _ := strings.Cut(rest, "```\n")
		if !ok || answers == "" {
			t.Errorf("example %d has no answers under it", i+1)
		}
		for line := range strings.Lines(answers) {
			question, want, _ := strings.Cut(strings.TrimSuffix(line, "\n"), ": ")
			target, name, _ := strings.Cut(question, " ")
			v, err := vector.Parse(name)
			if err != nil {
				t.Fatalf("example %d: %q: %v", i+1, line, err)
			}
			if got := p.Explain(pfx(target), v, now); got != want {
				t.Errorf("example %d: %s\n got %s\nwant %s", i+1, question, got, want)
			}
		}
	}
}

// The problems shown in the documentation are told in these words.
func TestShownProblemsAreTold(t *testing.T) {
	b, err := os.ReadFile(reference)
	if err != nil {
		t.Fatal(err)
	}
	golden, err := os.ReadFile("testdata/typos.golden")
	if err != nil {
		t.Fatal(err)
	}
	shown := 0
	for line := range strings.Lines(string(b)) {
		if rest, ok := strings.CutPrefix(line, "policy.yaml:"); ok {
			shown++
			if !strings.Contains(string(golden), "typos.yaml:"+rest) {
				t.Errorf("shown but not told: %s", line)
			}
		}
	}
	if shown == 0 {
		t.Error("no example of a problem is shown")
	}
}
