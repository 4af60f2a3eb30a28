package config

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/amooglesoft/trafficmonitor/internal/document"
)

const reference = "../../docs/configuration.md"

// TestReferenceDocumentation keeps docs/configuration.md in step with the schema: its tables are written from it.
func TestReferenceDocumentation(t *testing.T) {
	b, err := os.ReadFile(reference)
	if err != nil {
		t.Fatal(err)
	}
	doc := string(b)
	for name, keys := range map[string][]document.Key{"controller": DescribeController(), "sensor": DescribeSensor()} {
		for _, k := range keys {
			if k.Help == "" {
				t.Errorf("%s: %s has no explanation", name, k.Path)
			}
		}
		doc = replaceBetween(t, doc, name, tables(keys))
	}
	if *update {
		if err := os.WriteFile(reference, []byte(doc), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if d := cmp.Diff(string(b), doc); d != "" {
		t.Errorf("docs/configuration.md and the schema differ (go test -update writes it):\n%s", d)
	}
}

func replaceBetween(t *testing.T, doc, name, text string) string {
	t.Helper()
	begin, end := "<!-- begin "+name+" keys -->\n", "<!-- end "+name+" keys -->\n"
	before, rest, ok := strings.Cut(doc, begin)
	_, after, ok2 := strings.Cut(rest, end)
	if !ok || !ok2 {
		t.Fatalf("docs/configuration.md lacks the marks of the %s keys", name)
	}
	return before + begin + text + end + after
}

const head = "\n| key | type | default | meaning | danger |\n|---|---|---|---|---|\n"

// tables writes one table per group of keys, those of the top first.
func tables(keys []document.Key) string {
	var top, groups strings.Builder
	var open string // the group whose table is being written
	for _, k := range keys {
		depth := strings.Count(k.Path, ".")
		switch {
		case k.Group && depth == 0:
			open = k.Path
			fmt.Fprintf(&groups, "\n### %s\n\n%s\n%s", k.Path, k.Help, head)
		case k.Group:
			fmt.Fprintf(&groups, "| `%s` | | | %s | |\n", k.Path, k.Help)
		case depth == 0 && k.Type == "list":
			open = k.Path
			fmt.Fprintf(&groups, "\n### %s\n\n%s%s\n%s", k.Path, k.Help, required(k), head)
		case open != "" && (strings.HasPrefix(k.Path, open+".") || strings.HasPrefix(k.Path, open+"[]")):
			row(&groups, k)
		default:
			row(&top, k)
		}
	}
	return head + top.String() + groups.String() + "\n"
}

func required(k document.Key) string {
	if k.Required {
		return " Required."
	}
	return ""
}

func row(b *strings.Builder, k document.Key) {
	value := ""
	switch {
	case k.Required:
		value = "required"
	case k.Default == "" && k.Type != "list":
		value = "empty"
	case strings.HasPrefix(k.Default, "the ") || strings.HasPrefix(k.Default, "DATA_DIR"):
		value = k.Default
	default:
		value = "`" + k.Default + "`"
	}
	fmt.Fprintf(b, "| `%s` | %s | %s | %s | %s |\n", k.Path, k.Type, value, k.Help, k.Danger)
}

// The files shown in the documentation are read.
func TestSnippetsOfTheDocumentation(t *testing.T) {
	b, err := os.ReadFile(reference)
	if err != nil {
		t.Fatal(err)
	}
	parts := strings.Split(string(b), "```yaml\n")
	if len(parts) != 4 {
		t.Fatalf("%d snippets, want two of a controller and one of a sensor", len(parts)-1)
	}
	controller, _, _ := strings.Cut(parts[1], "```")
	if c, err := ParseController("docs/controller.yaml", []byte(controller)); err != nil || len(c.Network.Own) != 2 || len(c.Speaker.Peers) != 1 {
		t.Errorf("%v, %+v", err, c)
	}
	grouped, _, _ := strings.Cut(parts[2], "```")
	if c, err := ParseController("docs/controller.yaml", []byte(grouped)); err != nil || len(c.Speaker.Peers) != 3 {
		t.Errorf("%v, %+v", err, c)
	} else if a, b := c.Speaker.Peers[0], c.Speaker.Peers[2]; a.Profile != "junos-mx" || a.MD5File == "" || b.Profile != "frr" || b.MD5File != "" || b.Probe.Run == nil {
		t.Errorf("%+v, %+v", a, b)
	}
	sensor, _, _ := strings.Cut(parts[3], "```")
	if s, err := ParseSensor("docs/sensor.yaml", []byte(sensor)); err != nil || len(s.Interfaces) != 1 {
		t.Errorf("%v, %+v", err, s)
	}
	golden, err := os.ReadFile("testdata/controller-typos.golden")
	if err != nil {
		t.Fatal(err)
	}
	shown := 0
	for line := range strings.Lines(string(b)) {
		if rest, ok := strings.CutPrefix(line, "controller.yaml:"); ok {
			shown++
			if !strings.Contains(string(golden), "controller-typos.yaml:"+rest) {
				t.Errorf("shown but not told: %s", line)
			}
		}
	}
	if shown == 0 {
		t.Error("no example of a problem is shown")
	}
}
