package app

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/amooglesoft/trafficmonitor/internal/document"
)

type alert struct {
	name, expr, severity          string
	pending                       time.Duration
	summary, description, runbook string
}

type alertGroup struct {
	name   string
	alerts []alert
}

// alerts reads the shipped rules as strictly as a configuration: an unknown key is an error.
func alerts(t *testing.T, path string) []alert {
	t.Helper()
	text, err := document.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var groups []alertGroup
	words := document.Text(1, 500)
	field := func(key string, v document.Value) document.Field {
		return document.Field{Key: key, Value: v, Required: true, Help: "required."}
	}
	schema := document.Section(field("groups", document.List(&groups, nil, func(g *alertGroup) document.Value {
		return document.Section(field("name", document.Scalar(&g.name, words)), field("rules", document.List(&g.alerts, nil, func(a *alert) document.Value {
			return document.Section(
				field("alert", document.Scalar(&a.name, words)),
				field("expr", document.Scalar(&a.expr, words)),
				field("for", document.Scalar(&a.pending, document.Duration(0, 24*time.Hour))),
				field("labels", document.Section(field("severity", document.Scalar(&a.severity, document.OneOf("critical", "warning"))))),
				field("annotations", document.Section(
					field("summary", document.Scalar(&a.summary, words)),
					field("description", document.Scalar(&a.description, words)),
					field("runbook_url", document.Scalar(&a.runbook, words)),
				)),
			)
		})))
	})))
	if err := document.Read(path, text, schema).Err(); err != nil {
		t.Fatal(err)
	}
	var out []alert
	for _, g := range groups {
		out = append(out, g.alerts...)
	}
	return out
}

const (
	rulesFile = "../../deploy/prometheus/trafficmonitor.rules.yaml"
	runbooks  = "../../docs/runbooks"
	sources   = "https://github.com/amooglesoft/trafficmonitor/blob/main/"
)

func TestAlertsWatchWhatThereIs(t *testing.T) {
	doc, err := os.ReadFile(metricsDoc)
	if err != nil {
		t.Fatal(err)
	}
	labels := map[string]string{} // by metric, as the table has them
	for _, m := range regexp.MustCompile("(?m)^\\| `(trafficmonitor_\\w+)` \\| \\w+ \\| ([^|]*) \\|").FindAllStringSubmatch(string(doc), -1) {
		labels[m[1]] = m[2]
	}
	all := alerts(t, rulesFile)
	if len(all) < 12 {
		t.Fatalf("%d alerts", len(all))
	}
	names := map[string]bool{}
	selector := regexp.MustCompile(`(trafficmonitor_\w+)(?:\{([^}]*)\})?`)
	for _, a := range all {
		if names[a.name] {
			t.Errorf("%s stands twice", a.name)
		}
		names[a.name] = true
		found := selector.FindAllStringSubmatch(a.expr, -1)
		if len(found) == 0 {
			t.Errorf("%s: %q watches no metric of ours", a.name, a.expr)
		}
		has := "instance" // added by Prometheus
		for _, f := range found {
			of, ok := labels[f[1]]
			if !ok {
				t.Errorf("%s: there is no metric %s in %s", a.name, f[1], metricsDoc)
			}
			has += " " + of
			for label := range strings.SplitSeq(f[2], ",") {
				if name, _, matches := strings.Cut(label, "="); matches && !strings.Contains(of, "`"+strings.Trim(name, " !~")+"`") {
					t.Errorf("%s: %s has no label %q", a.name, f[1], name)
				}
			}
		}
		for _, l := range regexp.MustCompile(`\$labels\.(\w+)`).FindAllStringSubmatch(a.summary+a.description, -1) {
			if !strings.Contains(has, l[1]) {
				t.Errorf("%s: its text names the label %q, which its metrics do not have", a.name, l[1])
			}
		}
		page, ok := strings.CutPrefix(a.runbook, sources)
		if want := "docs/runbooks/" + a.name + ".md"; !ok || page != want {
			t.Errorf("%s: runbook_url is %q, want %s%s", a.name, a.runbook, sources, want)
		}
	}
	pages, err := filepath.Glob(filepath.Join(runbooks, "*.md"))
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range pages {
		if name := strings.TrimSuffix(filepath.Base(p), ".md"); !names[name] && name != "README" {
			t.Errorf("%s: there is no such alert", p)
		}
	}
	for name := range names {
		b, err := os.ReadFile(filepath.Join(runbooks, name+".md"))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		var heads []string
		for line := range strings.Lines(string(b)) {
			if h, ok := strings.CutPrefix(line, "## "); ok {
				heads = append(heads, strings.TrimSpace(h))
			}
		}
		if want := []string{"What it means", "What still works", "Check", "Do", "Escalate"}; !slices.Equal(heads, want) {
			t.Errorf("%s.md has the sections %q, want %q", name, heads, want)
		}
		for _, m := range selector.FindAllStringSubmatch(string(b), -1) {
			if _, ok := labels[strings.TrimRight(m[1], "_")]; !ok && !strings.HasSuffix(m[1], "_") {
				t.Errorf("%s.md names %s, which is not in %s", name, m[1], metricsDoc)
			}
		}
		if !strings.Contains(string(b), "# "+name+"\n") {
			t.Errorf("%s.md does not begin with its name", name)
		}
	}
	index, err := os.ReadFile(filepath.Join(runbooks, "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	for name := range names {
		if !strings.Contains(string(index), "]("+name+".md)") {
			t.Errorf("runbooks/README.md does not list %s", name)
		}
	}
}
