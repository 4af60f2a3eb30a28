package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"

	"github.com/amooglesoft/trafficmonitor/internal/lab"
)

// TestSmoke tries a few cells and random rules at one router; "make interop" tries all at all.
func TestSmoke(t *testing.T) {
	lab.NeedRoot(t)
	lab.NeedTool(t, "bird", "ip")
	program := program(t)
	var cells []Cell
	for i, c := range allCells(t) {
		if i%13 == 0 || c.Route.IsBlackhole() {
			cells = append(cells, c)
		}
	}
	l := lab.New(t, "interop")
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	results, _, err := matrix(ctx, l, program, implementations[1:2], cells)
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
	const rules = 300
	random, err := fuzzed(ctx, l, program, implementations[1:2], 1, rules)
	if err != nil {
		t.Fatal(err)
	}
	other, err := foreign(ctx, l, 1, rules)
	if err != nil {
		t.Fatal(err)
	}
	for _, wrong := range append(wrongFuzz(random), wrongForeign(other)...) {
		t.Error(wrong)
	}
}

// program returns the path of the program under test, which is built once where TM_BIN names none.
func program(t *testing.T) string {
	t.Helper()
	dir := os.Getenv("TM_BIN")
	if dir == "" {
		var err error
		if dir, err = built(); err != nil {
			t.Fatal(err)
		}
	}
	path, err := filepath.Abs(filepath.Join(dir, "controller"))
	return lab.Must(t, path, err)
}

var built = sync.OnceValues(func() (string, error) {
	// Named so that the next lab clears it away should this process be killed.
	dir := filepath.Join(os.TempDir(), fmt.Sprintf("tm-%dx0-bin", os.Getpid()))
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags", "-X main.version=e2e", "-o", dir+"/", "./cmd/controller")
	cmd.Dir, cmd.Env = filepath.Join("..", ".."), append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("go build: %w\n%s", err, out)
	}
	return dir, nil
})

func TestMain(m *testing.M) {
	code := m.Run()
	_ = os.RemoveAll(filepath.Join(os.TempDir(), fmt.Sprintf("tm-%dx0-bin", os.Getpid())))
	os.Exit(code)
}
