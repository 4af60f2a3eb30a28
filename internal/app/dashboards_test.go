package app

import (
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestDashboardsShowWhatThereIs: every metric of a shipped dashboard is in docs/metrics.md.
func TestDashboardsShowWhatThereIs(t *testing.T) {
	doc, err := os.ReadFile(metricsDoc)
	if err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob("../../deploy/grafana/*.json")
	if err != nil || len(files) == 0 {
		t.Fatalf("no dashboards: %v", err)
	}
	for _, path := range files {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		var board struct {
			Title  string `json:"title"`
			Panels []struct {
				Type    string `json:"type"`
				Targets []struct {
					Expr string `json:"expr"`
				} `json:"targets"`
			} `json:"panels"`
		}
		if err := json.Unmarshal(text, &board); err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		if board.Title == "" || len(board.Panels) == 0 {
			t.Errorf("%s shows nothing", path)
		}
		for i, p := range board.Panels {
			if p.Type != "row" && len(p.Targets) == 0 {
				t.Errorf("%s: panel %d asks for nothing", path, i)
			}
		}
		for _, name := range regexp.MustCompile(`trafficmonitor_\w+`).FindAllString(string(text), -1) {
			if !strings.Contains(string(doc), "| `"+strings.TrimSuffix(name, "_bucket")+"` |") {
				t.Errorf("%s: there is no metric %s in %s", path, name, metricsDoc)
			}
		}
	}
}
