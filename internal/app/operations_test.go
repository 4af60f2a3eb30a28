package app

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/amooglesoft/trafficmonitor/internal/audit"
)

const operations = "../../docs/operations.md"

// Every component a daemon can be not ready for stands in the table of operations.md, and every kind of event that is
// recorded in that of "who did that".
func TestOperationsNamesReasonsAndKinds(t *testing.T) {
	b, err := os.ReadFile(operations)
	if err != nil {
		t.Fatal(err)
	}
	text := string(b)
	known := map[string]bool{}
	for _, k := range audit.Kinds() {
		known[string(k)] = true
	}
	for _, m := range regexp.MustCompile("`((?:incident|mitigation|manual|hold|freeze|route|peer|leader|store|speaker|policy)_[a-z]+)`").FindAllStringSubmatch(text, -1) {
		if !known[m[1]] && m[1] != "store_up" && !strings.HasPrefix(m[1], "speaker_info") {
			t.Errorf("operations.md names %q, which is no kind of event", m[1])
		}
	}
	components := regexp.MustCompile(`(?i)(?:health\.Set|\bready)\("([^"]+)"`)
	recorded := regexp.MustCompile(`audit\.([A-Z][A-Za-z]+)\b`)
	found := 0
	for _, dir := range []string{".", "../sensor", "../engine"} {
		files, err := filepath.Glob(filepath.Join(dir, "*.go"))
		if err != nil || len(files) == 0 {
			t.Fatalf("%s: %v", dir, err)
		}
		for _, f := range files {
			if strings.HasSuffix(f, "_test.go") {
				continue
			}
			source, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			for _, m := range components.FindAllStringSubmatch(string(source), -1) {
				found++
				if !strings.Contains(text, "| `"+m[1]) {
					t.Errorf("%s: the component %q is not in the table of %s", f, m[1], operations)
				}
			}
			for _, m := range recorded.FindAllStringSubmatch(string(source), -1) {
				kind := strings.ToLower(regexp.MustCompile(`([a-z])([A-Z])`).ReplaceAllString(m[1], "${1}_${2}"))
				if known[kind] && !strings.Contains(text, "`"+kind+"`") {
					t.Errorf("%s: the kind %q is not in %s", f, kind, operations)
				}
			}
		}
	}
	if found < 8 {
		t.Errorf("%d components found", found)
	}
}

// Links between our pages lead somewhere.
func TestLinksOfTheOperatorsPages(t *testing.T) {
	pages, err := filepath.Glob("../../docs/runbooks/*.md")
	if err != nil {
		t.Fatal(err)
	}
	heading := regexp.MustCompile(`(?m)^#+ (.*)$`)
	for _, page := range append(pages, operations, metricsDoc) {
		b, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range regexp.MustCompile(`\]\(([^)]+)\)`).FindAllStringSubmatch(string(b), -1) {
			path, anchor, _ := strings.Cut(m[1], "#")
			target := page
			if path != "" {
				target = filepath.Join(filepath.Dir(page), path)
			}
			if _, err := os.Stat(target); err != nil {
				t.Errorf("%s: %v", page, err)
				continue
			}
			if anchor == "" {
				continue
			}
			text, err := os.ReadFile(target)
			if err != nil {
				t.Fatal(err)
			}
			has := false
			for _, h := range heading.FindAllStringSubmatch(string(text), -1) {
				has = has || strings.ReplaceAll(strings.ToLower(h[1]), " ", "-") == anchor
			}
			if !has {
				t.Errorf("%s: %s has no heading %q", page, target, anchor)
			}
		}
	}
}
