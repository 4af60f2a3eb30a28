package main

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/amooglesoft/trafficmonitor/internal/lab"
)

// TestSmoke tries a few cells at one router; "make interop" tries all at all.
func TestSmoke(t *testing.T) {
	lab.NeedRoot(t)
	lab.NeedTool(t, "bird", "ip")
	program := os.Getenv("TM_BIN")
	if program == "" {
		program = t.TempDir()
		cmd := exec.Command("go", "build", "-trimpath", "-ldflags", "-X main.version=e2e", "-o", program+"/", "./cmd/controller")
		cmd.Dir, cmd.Env = filepath.Join("..", ".."), append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("go build: %v\n%s", err, out)
		}
	}
	var cells []Cell
	for i, c := range allCells(t) {
		if i%13 == 0 || c.Route.IsBlackhole() {
			cells = append(cells, c)
		}
	}
	l := lab.New(t, "interop")
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	results, _, err := matrix(ctx, l, filepath.Join(program, "controller"), implementations[1:2], cells)
	if err != nil {
		t.Fatal(err)
	}
	if len(results) != len(cells) {
		t.Errorf("%d results for %d cells", len(results), len(cells))
	}
	for i := range results {
		if wrong := mark(&results[i]); wrong != "" {
			t.Errorf("%s: %s\n%s", results[i].cell.Name(), wrong, results[i].Note)
		}
	}
}
